# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
"""What all calls share: the instruction set and its microkernels, OpenMP and forks, the threads' workspaces."""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from convt1d.cpu._microkernels cimport Microkernels, block_vectors

import os

import numpy as np

from convt1d import threads
from convt1d.cpu import plan, tuning
from convt1d.cpu.machine import Machine

cdef extern from "instruction_sets.h" nogil:
    enum:
        INSTRUCTION_SET_COUNT
    const char *instruction_set_name(int)
    bint instruction_set_supported(int)
    bint made_by_intel()
    void fill_microkernels(Microkernels *table, int set, bint is_double, int transposes)

cdef extern from "_openmp.h" nogil:
    const int BUILT_WITH_OPENMP
    int openmp_max_threads()
    const char *openmp_library()
    int startable_threads(int)

join_team()

#: Names of the instruction sets that this build has; the best comes last.
INSTRUCTION_SETS = tuple(instruction_set_name(i).decode() for i in range(INSTRUCTION_SET_COUNT))


def _instruction_set():
    """The best set that the processor supports, or a lower one that CONVT1D_SIMD names (or numbers)."""
    best = max(i for i in range(INSTRUCTION_SET_COUNT) if instruction_set_supported(i))
    wanted = os.environ.get("CONVT1D_SIMD", "")
    known = ("baseline", "avx2", "avx512")
    numbers = {name: i for i, name in enumerate(known)} | {str(i): i for i in range(len(known))}
    if wanted and wanted not in numbers:
        raise ValueError(f"CONVT1D_SIMD must be one of {', '.join(known)} (or 0, 1, 2), got {wanted!r}")
    return min(best, numbers[wanted]) if wanted else best


cdef int _SET = _instruction_set()
cdef Microkernels _tables[2]
_machine = None


cdef const Microkernels *microkernels_for(bint is_double) noexcept:
    return &_tables[is_double]


def machine():
    """The `Machine` this process runs on."""
    return _machine


def use(row):
    """Plan and run with another row of tuned numbers from now on; layers that have packed their weights keep theirs."""
    global _machine
    cdef int is_double
    cdef int transposes = INSTRUCTION_SETS.index(row.transposes) if row.transposes in INSTRUCTION_SETS else _SET
    for is_double in range(2):
        fill_microkernels(&_tables[is_double], _SET, is_double, min(transposes, _SET))
        _tables[is_double].sizes.rows_ahead = row.memory.rows_ahead
        _tables[is_double].sizes.weights_ahead = row.memory.weights_ahead
    rows = _tables[0].sizes.rows
    vectors = tuple(block_vectors(rows, _tables[0].sizes.vectors, n) for n in range(1, rows + 1))
    _machine = Machine(INSTRUCTION_SETS[_SET], rows, _tables[0].sizes.bytes, vectors, row)


use(tuning.row_for(INSTRUCTION_SETS[_SET], made_by_intel()))


# ---- OpenMP -----------------------------------------------------------------------------------------------

def openmp_threads():
    """What OpenMP would use now: OMP_NUM_THREADS, omp_set_num_threads and affinity are in it. 1 without OpenMP."""
    return openmp_max_threads()


def built_with_openmp():
    return bool(BUILT_WITH_OPENMP)


def openmp_runtime():
    """Whose threads the next parallel call uses: the path of the runtime that the process has loaded, or words."""
    return openmp_library().decode(errors="replace")


def most_threads():
    """Threads of one call at most."""
    return MOST_THREADS


cdef int team(int wanted) noexcept:
    """How many of so many threads, at most MOST_THREADS, a parallel region can have; to be asked before each."""
    return startable_threads(wanted) if wanted > 1 else 1


cdef finish_region(RegionTimer *timer, Py_ssize_t items):
    """Tell threads.report_wait how a parallel region went."""
    waited = clock_seconds() - timer.done
    threads.report_wait(timer.done - timer.begin, waited, timer.items / <double>items)


# ---- memory -----------------------------------------------------------------------------------------------

cdef Py_ssize_t WORKSPACE = plan.WORKSPACE
# Free workspaces of finished calls, as integers (addresses): list.pop and list.append are atomic in CPython.
_free_workspaces = []


cdef void *take_workspace() except NULL:
    """plan.WORKSPACE bytes for one thread of one call."""
    cdef void *p
    cdef void **aligned
    try:
        return <void *><uintptr_t>_free_workspaces.pop()
    except IndexError:
        # On a cache line, and what free() wants just before it: malloc's large blocks lie 16 bytes behind one, and
        # then every vector of a tile would cross two.
        p = malloc(WORKSPACE + 128)
        if p == NULL:
            raise MemoryError(f"no memory for a thread's workspace of {WORKSPACE} bytes")
        aligned = <void **>((<uintptr_t>p + 127) // 64 * 64)
        aligned[-1] = p
        return aligned


cdef void give_workspace(void *workspace) noexcept:
    try:
        _free_workspaces.append(<uintptr_t>workspace)
    except MemoryError:
        free((<void **>workspace)[-1])


def release_workspaces():
    """See threads.release_workspaces."""
    cdef int n = 0
    while True:
        try:
            p = _free_workspaces.pop()
        except IndexError:
            return n
        free((<void **><uintptr_t>p)[-1])
        n += 1


def aligned(size, dtype):
    """An uninitialised array whose data start on a cache line."""
    room = np.empty(size * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size * np.dtype(dtype).itemsize].view(dtype)
