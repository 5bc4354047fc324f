# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
"""What all calls share: the processor's SIMD level, OpenMP and forks, the threads' workspaces."""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from convt1d.cpu._simd cimport simd_bytes, simd_level, simd_rows

import os

import numpy as np

from convt1d import dispatch

cdef extern from "_openmp.h" nogil:
    const int BUILT_WITH_OPENMP
    int omp_get_max_threads()
    int PAUSE_OPENMP()

cdef int _level() except -1:
    """The processor's SIMD level, or the lower one that CONVT1D_SIMD asks for."""
    wanted = os.environ.get("CONVT1D_SIMD", "")
    if wanted not in ("", "0", "1", "2"):
        raise ValueError(f"CONVT1D_SIMD must be 0, 1 or 2, got {wanted!r}")
    return min(simd_level(), int(wanted)) if wanted else simd_level()


LEVEL = _level()


def machine():
    """The `dispatch.Machine` this process runs on."""
    return dispatch.Machine(LEVEL, simd_rows(LEVEL), simd_bytes(LEVEL))


# ---- OpenMP -----------------------------------------------------------------------------------------------

def openmp_threads():
    """What OpenMP would use now: OMP_NUM_THREADS, affinity and omp_set_num_threads are in it. 1 without OpenMP."""
    return omp_get_max_threads()


def built_with_openmp():
    return bool(BUILT_WITH_OPENMP)


cdef bint _parallel = False      # whether OpenMP has threads waiting


cdef void going_parallel() noexcept:
    """To be called before a parallel region."""
    global _parallel
    _parallel = True


def _before_fork():
    """A child of a process with waiting libgomp threads would wait for them forever: send them home first.

    https://gcc.gnu.org/bugzilla/show_bug.cgi?id=58378; the next parallel call starts them again, about 0.1 ms.
    """
    global _parallel
    if _parallel:
        _parallel = False       # first: without a GIL another thread may go parallel meanwhile
        PAUSE_OPENMP()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)


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


cdef give_workspace(void *workspace):
    _free_workspaces.append(<uintptr_t>workspace)


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
