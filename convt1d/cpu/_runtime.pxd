# SPDX-License-Identifier: MIT
cdef extern from "_openmp.h" nogil:
    int omp_get_thread_num()
    double omp_get_wtime()

cdef extern from "_shares.h" nogil:
    const int SHARE_PARTS
    ctypedef struct Shares:
        pass
    void share_out(Shares *, int, int)
    int next_part(Shares *, int)

cdef enum:
    MOST_THREADS = 256

# How a parallel region went for the thread that began it.
cdef struct Watch:
    double begin, done      # when it began, when its own last work was done
    Py_ssize_t items        # its own share of the work

cdef inline void begin_watch(Watch *watch) noexcept nogil:
    watch.begin = watch.done = omp_get_wtime()
    watch.items = 0

cdef inline void did(Watch *watch, Py_ssize_t items) noexcept nogil:
    """To be called by each thread of the region after some items."""
    if omp_get_thread_num() == 0:
        watch.done = omp_get_wtime()
        watch.items += items

cdef int LEVEL
cdef void *take_workspace() except NULL
cdef void give_workspace(void *workspace) noexcept
cdef int team(int wanted) noexcept
cdef settle(Watch *watch, Py_ssize_t items)
