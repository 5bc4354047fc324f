/* SPDX-License-Identifier: MIT */
/* To be preloaded: makes the k-th allocation from now on fail, or all from the k-th on, or every start of a thread.
 *
 * Allocations of `least` bytes count, in the package itself all. OpenMP's own are spared: libgomp ends the process when
 * it gets no memory for its tables, and no caller can do anything about that. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static long countdown, failed;      /* allocations until one fails; 0: none does */
static size_t smallest;
static int all, no_threads;

void fail_at(long k, int all_from_there, size_t least)
{
    failed = 0, all = all_from_there, smallest = least, countdown = k;
}
long stop_failing(void) { countdown = 0; return failed; }
void forbid_threads(int forbidden) { no_threads = forbidden; }

static int fails(size_t n, void *caller)
{
    Dl_info info;
    if (__atomic_load_n(&countdown, __ATOMIC_RELAXED) <= 0)
        return 0;
    if (!dladdr(caller, &info) || !info.dli_fname || strstr(info.dli_fname, "libgomp"))
        return 0;
    if (n < smallest && !strstr(info.dli_fname, "convt1d/cpu/"))
        return 0;
    if (__atomic_sub_fetch(&countdown, 1, __ATOMIC_RELAXED) > 0)
        return 0;
    countdown = all;        /* 1: the next one fails as well */
    failed++;
    errno = ENOMEM;
    return 1;
}

#define CALLER __builtin_extract_return_addr(__builtin_return_address(0))
void *malloc(size_t n) { return fails(n, CALLER) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return fails(n * size, CALLER) ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return fails(n, CALLER) ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t align, size_t n) { return fails(n, CALLER) ? NULL : __libc_memalign(align, n); }
void *memalign(size_t align, size_t n) { return fails(n, CALLER) ? NULL : __libc_memalign(align, n); }
int posix_memalign(void **p, size_t align, size_t n)
{
    if (fails(n, CALLER))
        return ENOMEM;
    *p = __libc_memalign(align, n);
    return *p ? 0 : ENOMEM;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (no_threads)
        return EAGAIN;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attr, run, arg);
}
