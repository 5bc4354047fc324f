# SPDX-License-Identifier: MIT
cdef extern from "_openmp.h" nogil:
    int omp_get_thread_num()

cdef enum:
    MOST_THREADS = 256

cdef int LEVEL
cdef void *take_workspace() except NULL
cdef give_workspace(void *workspace)
cdef void going_parallel() noexcept
