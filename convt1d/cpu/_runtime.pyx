# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
"""What all calls share: the processor's SIMD level, OpenMP and forks, the threads' workspaces."""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from convt1d.cpu._simd cimport simd_bytes, simd_level, simd_rows, simd_vectors, simd_whole

import os

import numpy as np

from convt1d import dispatch, threads

cdef extern from "_openmp.h" nogil:
    const int BUILT_WITH_OPENMP
    int omp_get_max_threads()
    int omp_get_num_procs()

cdef extern from "_team.h" nogil:
    int startable(int)
    void prepare_forks()

cdef int _level() except -1:
    """The processor's SIMD level, or the lower one that CONVT1D_SIMD asks for."""
    wanted = os.environ.get("CONVT1D_SIMD", "")
    if wanted not in ("", "0", "1", "2"):
        raise ValueError(f"CONVT1D_SIMD must be 0, 1 or 2, got {wanted!r}")
    return min(simd_level(), int(wanted)) if wanted else simd_level()


LEVEL = _level()


def machine():
    """The `dispatch.Machine` this process runs on."""
    rows = simd_rows(LEVEL)
    vectors = tuple(simd_vectors(LEVEL, n) for n in range(1, rows + 1))
    return dispatch.Machine(LEVEL, rows, simd_bytes(LEVEL), vectors, simd_whole(LEVEL))


# ---- OpenMP -----------------------------------------------------------------------------------------------

def openmp_threads():
    """What OpenMP would use now: OMP_NUM_THREADS and omp_set_num_threads are in it. 1 without OpenMP.

    Affinity, too, but as it was when OpenMP was loaded: asked for again, as it may have been narrowed since.
    """
    cdef int most = omp_get_max_threads()
    return most if most == 1 else min(most, omp_get_num_procs())


def built_with_openmp():
    return bool(BUILT_WITH_OPENMP)


cdef int team(int wanted) noexcept:
    """How many of so many threads, at most MOST_THREADS, a parallel region can have; to be asked before each."""
    return startable(wanted) if wanted > 1 else 1


cdef settle(Watch *watch, Py_ssize_t items):
    """After a parallel region."""
    waited = omp_get_wtime() - watch.done
    threads.learn(watch.done - watch.begin, waited, watch.items / <double>items)


prepare_forks()     # see _team.h


# ---- memory -----------------------------------------------------------------------------------------------

cdef Py_ssize_t WORKSPACE = 2 * 1024 * 1024
# Free workspaces of finished calls, as integers (addresses): list.pop and list.append are atomic in CPython.
_free_workspaces = []


cdef void *take_workspace() except NULL:
    """2 MiB for one thread of one call."""
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
