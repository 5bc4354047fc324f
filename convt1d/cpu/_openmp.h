/* SPDX-License-Identifier: MIT */
/* What a module with prange needs of OpenMP: the entries that the compiler calls, and the little we ask ourselves.
 *
 *     no OpenMP       one thread
 *     Windows         the compiler's own runtime
 *     elsewhere       the functions below, which call libgomp_team.c; the modules link to no runtime
 *
 * The entries serve loops `prange(n, schedule="static", chunksize=1, num_threads=...)`. Another loop may need others, and
 * its module then cannot be imported (undefined symbol).
 */
#ifndef CONVT1D_OPENMP_H
#define CONVT1D_OPENMP_H
#include "libgomp_team.h"

#ifdef _OPENMP
  #define BUILT_WITH_OPENMP 1
#else
  #define BUILT_WITH_OPENMP 0
#endif

#if defined(_OPENMP) && !defined(_WIN32)
#include <stdarg.h>
#include <stddef.h>

static const Team *team_functions;

static int join_team(void)
{
    PyObject *module = PyImport_ImportModule(TEAM_MODULE);
    if (module == NULL)
        return -1;
    Py_DECREF(module);
    team_functions = (const Team *)PyCapsule_Import(TEAM_CAPSULE, 0);
    return team_functions == NULL ? -1 : 0;
}
static inline int startable_threads(int threads) { return team_functions->startable(threads); }
static inline const char *openmp_library(void) { return team_functions->library(); }

#define ENTRY __attribute__((visibility("hidden"), used))

/* Place in the innermost region. A thread may take the parts of others one after the other. */
static __thread struct { int number, size; } place = {0, 1};

ENTRY int omp_get_thread_num(void) { return place.number; }
ENTRY int omp_get_num_threads(void) { return place.size; }
ENTRY int omp_get_max_threads(void) { return team_functions->max_threads(); }
static inline int openmp_max_threads(void) { return omp_get_max_threads(); }

#ifdef __clang__

/* The first two arguments of a region's body are numbers of the thread, the others pointers to its variables; bodies read
 * as many as they have. */
typedef void (*RegionBody)(int *, int *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *,
                           void *, void *, void *, void *, void *, void *);
typedef struct {
    RegionBody body;
    void *v[16];
} Region;
static __thread int threads_asked_for = 1;

static void run_part(void *argument, int number, int size)
{
    Region *region = (Region *)argument;
    void **v = region->v;
    int thread = number, outer = place.number, outer_size = place.size;
    place.number = number, place.size = size;
    region->body(&thread, &thread, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13],
                 v[14], v[15]);
    place.number = outer, place.size = outer_size;
}

ENTRY int __kmpc_global_thread_num(void *source) { (void)source; return place.number; }
ENTRY void __kmpc_push_num_threads(void *source, int thread, int threads)
{
    (void)source, (void)thread;
    threads_asked_for = threads;
}

ENTRY void __kmpc_fork_call(void *source, int count, RegionBody body, ...)
{
    Region region = {body, {NULL}};
    va_list variables;
    (void)source;
    va_start(variables, body);
    for (int i = 0; i < count && i < 16; i++)
        region.v[i] = va_arg(variables, void *);
    va_end(variables);
    team_functions->run(run_part, &region, threads_asked_for);
}

/* Iterations of one thread, in chunks: the first chunk's bounds, and from chunk to chunk. */
#define STATIC_LOOP(name, type)                                                                                        \
    ENTRY void name(void *source, int thread, int schedule, int *last, type *from, type *to, type *stride, type step,  \
                    type chunk)                                                                                        \
    {                                                                                                                  \
        (void)source, (void)thread, (void)schedule;                                                                    \
        *last = (*to - *from) / step / chunk % place.size == place.number;                                             \
        *stride = chunk * step * place.size;                                                                           \
        *from += chunk * step * place.number;                                                                          \
        *to = *from + chunk * step - step;                                                                             \
    }
STATIC_LOOP(__kmpc_for_static_init_4, int)
STATIC_LOOP(__kmpc_for_static_init_8, long long)
ENTRY void __kmpc_for_static_fini(void *source, int thread) { (void)source, (void)thread; }
ENTRY void __kmpc_barrier(void *source, int thread) { (void)source, (void)thread; }

#else

typedef struct {
    void (*body)(void *);
    void *variables;
} Region;

static void run_part(void *argument, int number, int size)
{
    Region *region = (Region *)argument;
    int outer = place.number, outer_size = place.size;
    place.number = number, place.size = size;
    region->body(region->variables);
    place.number = outer, place.size = outer_size;
}

ENTRY void GOMP_parallel(void (*body)(void *), void *variables, unsigned threads, unsigned flags)
{
    Region region = {body, variables};
    (void)flags;
    team_functions->run(run_part, &region, (int)threads);
}

/* Compilers ask for a barrier between the copies that threads make of a loop's variable, which each sets at once, and the
 * last iteration, which sets the original: nothing to wait for. */
ENTRY void GOMP_barrier(void) {}

#endif

#else

#ifdef _OPENMP
  #include <omp.h>
  static inline int openmp_max_threads(void)
  {
      int threads = omp_get_max_threads(), processors = omp_get_num_procs();
      return threads < processors ? threads : processors;
  }
  static inline const char *openmp_library(void) { return "the compiler's"; }
#else
  static inline int omp_get_thread_num(void) { return 0; }
  static inline double omp_get_wtime(void) { return 0; }
  static inline int openmp_max_threads(void) { return 1; }
  static inline const char *openmp_library(void) { return "no (serial build)"; }
#endif
static int join_team(void) { return 0; }
static inline int startable_threads(int threads) { return BUILT_WITH_OPENMP ? threads : 1; }

#endif

#ifdef _WIN32
static inline double clock_seconds(void) { return BUILT_WITH_OPENMP ? omp_get_wtime() : 0; }
#endif
#endif
