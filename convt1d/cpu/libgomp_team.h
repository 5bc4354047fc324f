/* SPDX-License-Identifier: MIT */
/* What libgomp_team.c gives to the modules that have parallel regions, in a capsule. */
#ifndef CONVT1D_LIBGOMP_TEAM_H
#define CONVT1D_LIBGOMP_TEAM_H

#include <time.h>

/* Threads of one call at most. */
#define MOST_THREADS 256
#define TEAM_MODULE "convt1d.cpu.libgomp_team"
#define TEAM_CAPSULE TEAM_MODULE ".functions"

/* What thread `number` of `size` does in a region. */
typedef void (*Part)(void *argument, int number, int size);

typedef struct {
    void (*run)(Part part, void *argument, int threads);    /* a region, to its end */
    int (*startable)(int threads);      /* how many of so many threads the next region can have; to be asked before each */
    int (*max_threads)(void);           /* those that OpenMP would use now */
    const char *(*library)(void);       /* the runtime's path; "own" */
} Team;

#ifndef _WIN32
/* Seconds since some time. */
static inline double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}
#endif
#endif
