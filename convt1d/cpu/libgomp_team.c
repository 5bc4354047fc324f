/* SPDX-License-Identifier: MIT */
/* The threads of parallel regions: those of the OpenMP runtime that the process has loaded, or else our own.
 *
 *     prange -> entry (_openmp.h) -> run -> another's GOMP_parallel     torch's, scikit-learn's, any libgomp, libomp, libiomp5
 *                                        -> run_own                     where there is none
 *
 * Two runtimes in turns run against each other, as the threads of each spin for milliseconds after a region. One that is
 * loaded later is found before the next region. Our own threads spin for SPIN_SECONDS only.
 *
 * This file's module has a name and two functions by which threadpoolctl recognises an OpenMP runtime, so that its limits
 * hold for our threads, too.
 */
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
  #include <mach-o/dyld.h>
#else
  #include <link.h>
  #include <sched.h>
#endif
#include "libgomp_team.h"

#if defined(__x86_64__) || defined(__i386__)
  #define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
  #define RELAX() __asm__ volatile("isb")
#else
  #define RELAX() ((void)0)
#endif

/* Consecutive calls find threads that are still awake: waking one takes 5 to 50 us. */
#define SPIN_SECONDS 50e-6
#define STACK_BYTES (1 << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;    /* of what is static here, but for thread-locals */
static int asked_for, most;         /* OMP_NUM_THREADS or omp_set_num_threads, 0: neither; OMP_THREAD_LIMIT */

static int processors(void)
{
#ifndef __APPLE__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* ---- another's runtime ---------------------------------------------------------------------------------------------- */

typedef struct {
    const char *path;
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    int (*thread_num)(void), (*num_threads)(void), (*max_threads)(void), (*pause)(int);
    void (*set_num_threads)(int);
} Runtime;

#define MOST_RUNTIMES 8
static Runtime runtimes[MOST_RUNTIMES];             /* all that were found; never unloaded */
static int runtime_count;
static const Runtime *shared;                       /* in use */
static unsigned long long seen;                     /* `loaded` when runtimes were looked for */

static void dismiss_workers(void);

/* A loaded library whose name is that of an OpenMP runtime becomes the next of `runtimes`, yet to be opened. */
static void note(const char *path)
{
    static const char *const names[] = {"libgomp", "libiomp", "libomp"};
    const char *name = path ? strrchr(path, '/') : NULL;
    int i, known = 0;
    for (i = 0; name && i < 3; i++)
        known |= strncmp(name + 1, names[i], strlen(names[i])) == 0;
    for (i = 0; known && i < runtime_count; i++)
        known = strcmp(path, runtimes[i].path) != 0;
    if (known && runtime_count < MOST_RUNTIMES && (path = strdup(path)))
        runtimes[runtime_count++].path = path;
}

#ifdef __APPLE__
static unsigned long long loaded(void) { return _dyld_image_count(); }
static void note_all(void)
{
    for (uint32_t i = 0; i < _dyld_image_count(); i++)
        note(_dyld_get_image_name(i));
}
#else
static int count_loaded(struct dl_phdr_info *library, size_t size, void *count)
{
    (void)size;
    *(unsigned long long *)count = library->dlpi_adds;
    return 1;
}
static unsigned long long loaded(void)
{
    unsigned long long count = 0;
    dl_iterate_phdr(count_loaded, &count);
    return count;
}
static int note_library(struct dl_phdr_info *library, size_t size, void *unused)
{
    (void)size, (void)unused;
    note(library->dlpi_name);
    return 0;
}
static void note_all(void) { dl_iterate_phdr(note_library, NULL); }
#endif

/* Whether the library has what is needed. Some libraries are only called like a runtime: this file's is. */
static int opened(Runtime *runtime)
{
    void *library = runtime->parallel ? NULL : dlopen(runtime->path, RTLD_LAZY | RTLD_NOLOAD);
    if (library) {
        *(void **)&runtime->thread_num = dlsym(library, "omp_get_thread_num");
        *(void **)&runtime->num_threads = dlsym(library, "omp_get_num_threads");
        *(void **)&runtime->max_threads = dlsym(library, "omp_get_max_threads");
        *(void **)&runtime->set_num_threads = dlsym(library, "omp_set_num_threads");
        *(void **)&runtime->pause = dlsym(library, "omp_pause_resource_all");       /* OpenMP 5.0 */
        if (runtime->thread_num && runtime->num_threads && runtime->max_threads && runtime->set_num_threads &&
            runtime->pause)
            *(void **)&runtime->parallel = dlsym(library, "GOMP_parallel");
    }
    return runtime->parallel != NULL;
}

/* The runtime to share, or NULL. Of several, torch's, whose layers run between ours; or the first. */
static const Runtime *find_runtime(void)
{
    unsigned long long now = loaded();
    if (now != __atomic_load_n(&seen, __ATOMIC_ACQUIRE)) {
        const Runtime *found = NULL;
        pthread_mutex_lock(&lock);
        note_all();
        for (int i = runtime_count - 1; i >= 0; i--)
            if (opened(&runtimes[i]) && !(found && strstr(found->path, "/torch/")))
                found = &runtimes[i];
        if (found)
            dismiss_workers();
        __atomic_store_n(&shared, found, __ATOMIC_RELEASE);
        __atomic_store_n(&seen, now, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&lock);
    }
    return __atomic_load_n(&shared, __ATOMIC_ACQUIRE);
}

typedef struct {
    const Runtime *runtime;
    Part part;
    void *argument;
} Shared;

static void run_shared(void *argument)
{
    Shared *region = (Shared *)argument;
    region->part(region->argument, region->runtime->thread_num(), region->runtime->num_threads());
}

/* Threads of the calling thread's last region: all but itself wait for the next one. */
static __thread int team = 1;

static void *wait_at_gate(void *gate)
{
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* libgomp ends the process when it cannot start a thread, at a limit on processes or memory. So the missing threads
 * are started here first, side by side; that takes some 30 us each, for a larger team than the last. */
static int try_threads(int threads)
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

/* ---- our own threads ------------------------------------------------------------------------------------------------ */

typedef struct {
    Part part;
    void *argument;
    int size;
} Work;

/* A worker's work is NULL, then a region's that it is offered, then UNDER_WAY, then NULL. Who offers may take it back. */
typedef struct Worker {
    const Work *volatile work;
    int number;                 /* in the region */
    pthread_mutex_t mutex;
    pthread_cond_t changed;     /* work became NULL or was offered */
    struct Worker *next;
} Worker;

static const Work UNDER_WAY, DISMISSED;
static Worker *idle;            /* the one that worked last comes first */
static int workers;

static void put(Worker *worker, const Work *work)
{
    pthread_mutex_lock(&worker->mutex);
    __atomic_store_n(&worker->work, work, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
}

static int replace(Worker *worker, const Work *before, const Work *after)
{
    return __atomic_compare_exchange_n(&worker->work, &before, after, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Wait until the worker has work, or has none. */
static const Work *await(Worker *worker, int has_work)
{
    double end = clock_seconds() + SPIN_SECONDS;
    const Work *work;
    do
        for (int i = 0; i < 16; i++) {
            work = __atomic_load_n(&worker->work, __ATOMIC_SEQ_CST);
            if ((work != NULL) == has_work)
                return work;
            RELAX();
        }
    while (clock_seconds() < end);
    pthread_mutex_lock(&worker->mutex);
    while (((work = worker->work) != NULL) != has_work)
        pthread_cond_wait(&worker->changed, &worker->mutex);
    pthread_mutex_unlock(&worker->mutex);
    return work;
}

static void *work_on(void *argument)
{
    Worker *worker = (Worker *)argument;
    const Work *work;
    while ((work = await(worker, 1)) != &DISMISSED)
        if (replace(worker, work, &UNDER_WAY)) {
            work->part(work->argument, worker->number, work->size);
            put(worker, NULL);
        }
    pthread_mutex_lock(&worker->mutex);     /* who dismissed it has let go */
    pthread_mutex_unlock(&worker->mutex);
    pthread_mutex_destroy(&worker->mutex);
    pthread_cond_destroy(&worker->changed);
    free(worker);
    return NULL;
}

static Worker *start_worker(void)
{
    Worker *worker = (Worker *)calloc(1, sizeof *worker);
    pthread_attr_t attributes;
    pthread_t thread;
    int failed;
    if (!worker || pthread_attr_init(&attributes) != 0) {
        free(worker);
        return NULL;
    }
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_cond_init(&worker->changed, NULL);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    failed = pthread_create(&thread, &attributes, work_on, worker);
    pthread_attr_destroy(&attributes);
    if (failed) {
        free(worker);
        return NULL;
    }
    workers++;
    return worker;
}

/* Regions of several callers share the workers: as many as one of them asks for, or as there are processors. */
static int take_workers(Worker **taken, int wanted)
{
    int n = 0;
    pthread_mutex_lock(&lock);
    for (; n < wanted && idle; n++) {
        taken[n] = idle;
        idle = idle->next;
    }
    while (n < wanted && (workers < wanted || workers < processors() - 1) && (taken[n] = start_worker()))
        n++;
    pthread_mutex_unlock(&lock);
    return n;
}

static void dismiss_workers(void)
{
    for (; idle; workers--) {
        Worker *worker = idle;
        idle = worker->next;
        put(worker, &DISMISSED);
    }
}

/* The caller does not wait for threads that have not begun, as on processors that others keep busy: it does their parts,
 * of which little is left where threads share the work out (_shares.h). */
static void run_own(Part part, void *argument, int threads)
{
    Work work = {part, argument, threads};
    Worker *taken[MOST_THREADS];
    int i, n = take_workers(taken, threads - 1);
    for (i = 0; i < n; i++) {
        taken[i]->number = i + 1;
        put(taken[i], &work);
    }
    part(argument, 0, threads);
    for (i = 0; i < threads - 1; i++)
        if (i >= n || replace(taken[i], &work, NULL))
            part(argument, i + 1, threads);
    for (i = 0; i < n; i++)
        await(taken[i], 0);
    pthread_mutex_lock(&lock);
    while (n > 0) {
        taken[--n]->next = idle;
        idle = taken[n];
    }
    if (shared)
        dismiss_workers();
    pthread_mutex_unlock(&lock);
}

/* ---- forks ---------------------------------------------------------------------------------------------------------- */

/* A child of a process with waiting libgomp threads would wait for them forever, so the pool stops before a fork
 * (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=58378). The next region starts it again, which takes some 0.1 ms. Each
 * Python thread has a team of its own; the child lacks only that of the forking thread. Our own workers stay; the child
 * starts new ones. os.register_at_fork would miss servers in C that fork. */
static void before_fork(void)
{
    if (shared) {
        shared->pause(1);       /* omp_pause_soft */
        team = 1;
    }
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    idle = NULL;
    workers = 0;
}

/* ---- what others call ----------------------------------------------------------------------------------------------- */

static void run(Part part, void *argument, int threads)
{
    const Runtime *runtime = __atomic_load_n(&shared, __ATOMIC_ACQUIRE);
    Shared region = {runtime, part, argument};
    if (threads <= 1)
        part(argument, 0, 1);
    else if (runtime)
        runtime->parallel(run_shared, &region, (unsigned)threads, 0);
    else
        run_own(part, argument, threads);
}

static int startable(int threads)
{
    return find_runtime() ? try_threads(threads) : threads < most ? threads : most;
}

__attribute__((visibility("default"))) int omp_get_max_threads(void)
{
    const Runtime *runtime = find_runtime();
    int threads = runtime ? runtime->max_threads() : asked_for, all = processors();
    if (threads <= 0 || threads > all)
        threads = all;
    return threads < most ? threads : most;
}

__attribute__((visibility("default"))) void omp_set_num_threads(int threads)
{
    const Runtime *runtime = find_runtime();
    if (runtime)
        runtime->set_num_threads(threads);
    asked_for = threads;
}

static const char *library(void)
{
    const Runtime *runtime = find_runtime();
    return runtime ? runtime->path : "own threads";
}

static const Team functions = {run, startable, omp_get_max_threads, library};

static int number_in(const char *variable)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : 0;
}

static int fill(PyObject *module)
{
    static int filled;
    PyObject *capsule;
    asked_for = number_in("OMP_NUM_THREADS");
    most = number_in("OMP_THREAD_LIMIT");
    most = most > 0 && most < MOST_THREADS ? most : MOST_THREADS;
    if (!filled && pthread_atfork(before_fork, after_fork, after_fork_in_child) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    filled = 1;
    capsule = PyCapsule_New((void *)&functions, TEAM_CAPSULE, NULL);
    if (!capsule || PyModule_AddObjectRef(module, "functions", capsule) < 0)
        return -1;
    Py_DECREF(capsule);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)fill},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "libgomp_team", NULL, 0, NULL, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_libgomp_team(void)
{
    return PyModuleDef_Init(&definition);
}
