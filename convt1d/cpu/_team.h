/* SPDX-License-Identifier: MIT */
/* The calling thread's team of OpenMP threads: how large it can be, and what becomes of it at a fork. */
#ifndef CONVT1D_TEAM_H
#define CONVT1D_TEAM_H
#include "_openmp.h"
#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>

/* OpenMP 5.0; GCC has the call since 9 while still announcing 4.5. */
#if _OPENMP >= 201811 || (defined(__GNUC__) && __GNUC__ >= 9)
  #define PAUSE_OPENMP() omp_pause_resource_all(omp_pause_soft)
#else
  #define PAUSE_OPENMP() 0
#endif

/* Threads of the calling thread's last region: all but itself wait for the next one. */
static __thread int team = 1;

static void *wait_at_gate(void *gate)
{
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* How many of so many threads (MOST_THREADS at most) the next region can have; to be asked before each region.
 * libgomp ends the process when it cannot start a thread, at a limit on processes or memory. So the missing threads
 * are started here first, side by side; that takes some 30 us each, for a larger team than the last. */
static int ensure_startable(int threads)
{
    pthread_t started[MOST_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int n = 0;
    if (threads > team) {
        pthread_mutex_lock(&gate);
        while (n < threads - team && pthread_create(&started[n], NULL, wait_at_gate, &gate) == 0)
            n++;
        pthread_mutex_unlock(&gate);
        threads = team + n;
        while (n > 0)
            pthread_join(started[--n], NULL);
    }
    return team = threads;
}

/* A child of a process with waiting libgomp threads would wait for them forever, so the pool stops before a fork
 * (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=58378). The next region starts it again, which takes some 0.1 ms. Each
 * Python thread has a team of its own; the child lacks only that of the forking thread, which may be another library's
 * where the two share a libgomp. os.register_at_fork would miss servers in C that fork. */
static void stop_openmp_pool(void)
{
    PAUSE_OPENMP();
    team = 1;
}

static void prepare_forks(void)
{
    pthread_atfork(stop_openmp_pool, NULL, NULL);
}

#else
static int ensure_startable(int threads) { return threads; }
static void prepare_forks(void) {}
#endif
#endif
