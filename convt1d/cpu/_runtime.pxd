# SPDX-License-Identifier: MIT
from convt1d.cpu._microkernels cimport Microkernels

cdef extern from "_openmp.h" nogil:
    enum:
        MOST_THREADS
    int omp_get_thread_num()
    double clock_seconds()
    int join_team() except -1           # to be called once by each module that has parallel regions

cdef extern from "_shares.h" nogil:
    ctypedef struct Shares:
        pass
    void share_out(Shares *, Py_ssize_t items, int threads)
    bint next_items(Shares *, int thread, Py_ssize_t *first, Py_ssize_t *past)

# How a parallel region goes for the thread that began it.
cdef struct RegionTimer:
    double begin, done      # when the region began, when the thread's own last work was done
    Py_ssize_t items        # the thread's own work items

cdef inline void begin_region(RegionTimer *timer) noexcept nogil:
    timer.begin = timer.done = clock_seconds()
    timer.items = 0

cdef inline void add_items(RegionTimer *timer, Py_ssize_t items) noexcept nogil:
    """To be called by each thread of the region after some work items."""
    if omp_get_thread_num() == 0:
        timer.done = clock_seconds()
        timer.items += items

cdef const Microkernels *microkernels_for(bint is_double) noexcept
cdef void *take_workspace() except NULL
cdef void give_workspace(void *workspace) noexcept
cdef int team(int wanted) noexcept
cdef finish_region(RegionTimer *timer, Py_ssize_t items)
