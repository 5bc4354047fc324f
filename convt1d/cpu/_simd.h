/* SPDX-License-Identifier: MIT */
/* The SIMD leaves (_leaves.inc) for each instruction set, and their choice at run time.
 *
 * No -march flag: a wheel must run anywhere. Each function carries its own target attribute, chosen with
 * __builtin_cpu_supports (`#pragma GCC target` is ignored by Clang; target_clones needs ifunc, which musl lacks).
 *
 *   level   vectors    built by                        accumulators (rows x vectors), of registers
 *   2       64 bytes   GCC, Clang on x86-64: AVX-512   8 x 3 of 32
 *   1       32 bytes   GCC, Clang on x86-64: AVX2+FMA  4 x 3 of 16
 *   0       16 bytes   GCC, Clang: SSE2, NEON, ...     4 x 2 of 16
 *   0       1 element  other compilers (MSVC)          4 x 2           CONVT1D_SCALAR: with any compiler, to test it
 */
#ifndef CONVT1D_SIMD_H
#define CONVT1D_SIMD_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(CONVT1D_SCALAR)
  #define ALWAYS_INLINE inline __attribute__((always_inline))
  #define NOINLINE __attribute__((noinline))
  #define RESTRICT __restrict__
  /* Loops over registers must vanish: GCC gives up on long bodies, and the accumulators would live in memory. */
  #if defined(__clang__)
    #define UNROLL _Pragma("clang loop unroll(full)")
  #else
    #define UNROLL _Pragma("GCC unroll 8")
  #endif
  /* A sum stays in its register from one step to the next: GCC 12 wrote many an FMA over one of its factors instead, and
   * moved it back, up to 8 moves to 24 FMAs. */
  #ifdef __x86_64__
    #define PIN(v) __asm__ ("" : "+v"(v))
  #else
    #define PIN(v)
  #endif
  #define PREFETCH(p) __builtin_prefetch(p)
  #define PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
  #define SCALAR_LEAVES 0
  /* GCC's generic tuning spills integers to vector registers; they come back by the pipes that are to multiply (4..9 %). */
  #if defined(__clang__)
    #define TUNE
  #else
    #define TUNE ",tune=haswell"
  #endif
  #if defined(__x86_64__)
    #define X86_LEVELS 1
  #endif
#else
  #define NOINLINE
  #ifdef _MSC_VER
    #define ALWAYS_INLINE __forceinline
  #else
    #define ALWAYS_INLINE inline
  #endif
  #define RESTRICT __restrict
  #define UNROLL
  #define PIN(v)
  #define PREFETCH(p) ((void)(p))
  #define PREFETCH_L2(p) ((void)(p))
  #define SCALAR_LEAVES 1
#endif
#ifndef X86_LEVELS
  #define X86_LEVELS 0
#endif
#if X86_LEVELS
  #include <immintrin.h>
#endif
#ifdef __has_builtin
  #if __has_builtin(__builtin_shufflevector)
    #define HAVE_SHUFFLE 1
  #endif
#endif
#ifndef HAVE_SHUFFLE
  #define HAVE_SHUFFLE 0
#endif

/* Channels (rows of x) between a prefetch and its use. */
#define AHEAD 8
/* Bytes of packed weights between a prefetch and its use: large layers stream them from memory, and the hardware's
 * own prefetch stops at every page. */
#define WEIGHTS_AHEAD 2048
/* Bytes of y between a prefetch and its use where sums are short and storing them binds, unless all of y fits into L2:
 * depthwise 1.15 .. 1.5 x faster, 2048 1.0 .. 1.4 x, 8192 the same; 0.9 x from L2 (a Sapphire Rapids, 2026-11). */
#define Y_AHEAD 4096

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* Rows of the next register block of the direct product when `rows` are left: its packed weights come in these. */
static ALWAYS_INLINE int direct_block(int most, ptrdiff_t rows)
{
    return most >= 8 && rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
}

/* Vectors of columns in a register block of so many rows, of leaves whose largest one is `most` x `vecs`. */
static ALWAYS_INLINE int block_vectors(int most, int vecs, int rows)
{
    if (most == 8)
        return rows >= 7 ? 3 : rows == 6 ? 4 : rows >= 4 ? 5 : 8;
    return rows == 4 ? vecs : rows == 3 ? vecs + 1 : rows == 2 ? 2 * vecs - 1 : 2 * vecs;
}

/* Outputs of the next register block of the fused product: a power of two, all phases of each; of a single channel one. */
static ALWAYS_INLINE int fused_block(int most, int stride, ptrdiff_t outputs, ptrdiff_t channels)
{
    int block = channels == 1 ? 1 : most >= 8 && stride == 1 ? 8 : most >= 4 * stride ? 4 : most >= 2 * stride ? 2 : 1;
    while (block > outputs)
        block /= 2;
    return block;
}

/* What a product sums over: channels x taps, `depth` pairs in all. The channels are `slots` to an input signal,
 * the first of them slot number `first`; slots from `full` on lack the newest tap. */
typedef struct {
    ptrdiff_t channels, taps, step, slots, full, first, depth;
} Sum;

/* Channels from one on, up to `end`, that have as many `taps`. What is decided here is not decided for each channel, which
 * with two taps is just 48 FMAs: with a busy sibling thread that cost up to 8 % (a Zen 4, 2026-11). */
typedef struct {
    ptrdiff_t end, taps;
} Span;

static ALWAYS_INLINE Span span_at(const Sum *sum, ptrdiff_t channel)
{
    Span span = {sum->channels, sum->taps};
    if (sum->full < sum->slots) {
        const ptrdiff_t slot = (sum->first + channel) % sum->slots;
        const ptrdiff_t end = channel - slot + (slot < sum->full ? sum->full : sum->slots);
        span.taps -= slot >= sum->full;
        span.end = MIN(span.end, end);
    }
    return span;
}

/* Stretches of y that a gather will write, `apart` bytes from one to the next; the first byte not yet prefetched. */
typedef struct {
    const char *stretch;
    ptrdiff_t apart, bytes, stretches, at;
} Lines;

static ALWAYS_INLINE void prefetch_lines(Lines *lines, ptrdiff_t n)
{
    for (; n > 0 && lines->stretches > 0; n--) {
        PREFETCH_L2(lines->stretch + lines->at);
        lines->at += 64;
        if (lines->at >= lines->bytes) {
            lines->at = 0;
            lines->stretch += lines->apart;
            lines->stretches--;
        }
    }
}

/* What a tile's first register block prefetches on its way: the next tile, `distance` numbers from x and with rows `ldx`
 * apart. And what the others do: x itself, `near` numbers further on, where it is too large to stay in L2. 0: nothing.
 * And each, as many lines of y as it computes; of short sums, those `later` numbers further on; or none, where y `streams`
 * past the caches, which only sums of a single channel do. And `soon`: register blocks of `fused` that prefetch nothing else
 * do so two channels on, into L1. Intel's processors guess no strides above 2 KiB, and gain by it with others, too (12 layers
 * 1.03 .. 1.15 x faster, but Winograd's products 0.98 x; a Sapphire Rapids with a busy sibling, 2026-11). */
typedef struct {
    ptrdiff_t distance, ldx, near, later;
    Lines y;
    int streams, soon;
} Ahead;

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)

/* level 0 */
#define ATTR
#define ROWS 4
#define VECS 2
#define T float
#define T_SIZE 4
#define LEAF(name) PASTE(name, f0)
#if SCALAR_LEAVES
  #define VB 4
#else
  #define VB 16
#endif
#include "_leaves.inc"
#undef T
#undef T_SIZE
#undef LEAF
#undef VB
#define T double
#define T_SIZE 8
#define LEAF(name) PASTE(name, d0)
#if SCALAR_LEAVES
  #define VB 8
#else
  #define VB 16
#endif
#include "_leaves.inc"
#undef T
#undef T_SIZE
#undef LEAF
#undef VB
#undef ATTR
#undef ROWS
#undef VECS

#if X86_LEVELS
  /* level 1 */
  #define ATTR __attribute__((target("avx2,fma" TUNE)))
  #define ROWS 4
  #define VECS 3
  #define VB 32
  #define T float
  #define T_SIZE 4
  #define LEAF(name) PASTE(name, f1)
  #include "_leaves.inc"
  #undef T
  #undef T_SIZE
  #undef LEAF
  #define T double
  #define T_SIZE 8
  #define LEAF(name) PASTE(name, d1)
  #include "_leaves.inc"
  #undef T
  #undef T_SIZE
  #undef LEAF
  #undef VB
  #undef ATTR
  #undef ROWS
  #undef VECS

  /* level 2 */
  #define ATTR __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma" TUNE)))
  #define ROWS 8
  #define VECS 3
  #define VB 64
  #define T float
  #define T_SIZE 4
  #define LEAF(name) PASTE(name, f2)
  #include "_leaves.inc"
  #undef T
  #undef T_SIZE
  #undef LEAF
  #define T double
  #define T_SIZE 8
  #define LEAF(name) PASTE(name, d2)
  #include "_leaves.inc"
  #undef T
  #undef T_SIZE
  #undef LEAF
  #undef VB
  #undef ATTR
  #undef ROWS
  #undef VECS
#endif

/* The highest level this processor runs. */
static inline int simd_level(void)
{
#if X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 1;
#endif
    return 0;
}

/* Whether a level's 64-byte vectors are computed whole, two multiply-adds a cycle, as by Intel's server processors; or in
 * halves, as by a Zen 4, where all but multiply-adds then takes half as long beside them. Others are taken for such. */
static inline int simd_whole(int level)
{
#if X86_LEVELS
    static int whole = -1;
    if (whole < 0) {
        __builtin_cpu_init();
        whole = __builtin_cpu_is("intel") ? 1 : 0;
    }
    return level == 2 && whole;
#else
    (void)level;
    return 0;
#endif
}

/* What is to come after a thread's last store past the caches, for other threads to see them all. */
static inline void end_streams(void)
{
#if X86_LEVELS
    __builtin_ia32_sfence();
#endif
}

typedef void (*direct_float)(const float *, ptrdiff_t, const float *, float *, ptrdiff_t, const Sum *, ptrdiff_t, ptrdiff_t,
                             const float *, int, Ahead *);
typedef void (*correlate_float)(const float *const *, ptrdiff_t, ptrdiff_t, const float *, ptrdiff_t, float *, ptrdiff_t,
                                ptrdiff_t, ptrdiff_t);
typedef void (*dot_float)(const float *, const float *const *, ptrdiff_t, float *, ptrdiff_t, ptrdiff_t);
typedef void (*fused_float)(const float *, ptrdiff_t, const float *, float *, ptrdiff_t, const Sum *, ptrdiff_t, ptrdiff_t,
                            const float *, Ahead *, ptrdiff_t, int);
typedef void (*winograd_float)(const float *, ptrdiff_t, ptrdiff_t, const float *, float *, ptrdiff_t, const Sum *, ptrdiff_t,
                             const float *, const float *, ptrdiff_t, int, ptrdiff_t, int, int);
typedef void (*gather_float)(float *, ptrdiff_t, const float *const *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const float *);
typedef void (*copy_float)(float *, ptrdiff_t, const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t);
typedef int (*pair_float)(float *, ptrdiff_t, ptrdiff_t, const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                        int, int);
typedef void (*split_float)(float *, ptrdiff_t, const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t);
typedef void (*unfold_float)(float *, ptrdiff_t, const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t);
typedef void (*direct_double)(const double *, ptrdiff_t, const double *, double *, ptrdiff_t, const Sum *, ptrdiff_t, ptrdiff_t,
                             const double *, int, Ahead *);
typedef void (*correlate_double)(const double *const *, ptrdiff_t, ptrdiff_t, const double *, ptrdiff_t, double *, ptrdiff_t,
                                ptrdiff_t, ptrdiff_t);
typedef void (*dot_double)(const double *, const double *const *, ptrdiff_t, double *, ptrdiff_t, ptrdiff_t);
typedef void (*fused_double)(const double *, ptrdiff_t, const double *, double *, ptrdiff_t, const Sum *, ptrdiff_t, ptrdiff_t,
                            const double *, Ahead *, ptrdiff_t, int);
typedef void (*winograd_double)(const double *, ptrdiff_t, ptrdiff_t, const double *, double *, ptrdiff_t, const Sum *, ptrdiff_t,
                             const double *, const double *, ptrdiff_t, int, ptrdiff_t, int, int);
typedef void (*gather_double)(double *, ptrdiff_t, const double *const *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const double *);
typedef void (*copy_double)(double *, ptrdiff_t, const double *, ptrdiff_t, ptrdiff_t, ptrdiff_t);
typedef int (*pair_double)(double *, ptrdiff_t, ptrdiff_t, const double *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                        int, int);
typedef void (*split_double)(double *, ptrdiff_t, const double *, ptrdiff_t, ptrdiff_t, ptrdiff_t);
typedef void (*unfold_double)(double *, ptrdiff_t, const double *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t);

#if X86_LEVELS
  #define BY_LEVEL(name, t) (level == 2 ? name##_##t##2 : level == 1 ? name##_##t##1 : name##_##t##0)
#else
  #define BY_LEVEL(name, t) ((void)level, name##_##t##0)
#endif
static inline direct_float direct_leaf_float(int level) { return BY_LEVEL(direct, f); }
static inline direct_double direct_leaf_double(int level) { return BY_LEVEL(direct, d); }
static inline correlate_float correlate_leaf_float(int level) { return BY_LEVEL(correlate, f); }
static inline correlate_double correlate_leaf_double(int level) { return BY_LEVEL(correlate, d); }
static inline dot_float dot_leaf_float(int level) { return BY_LEVEL(dot, f); }
static inline dot_double dot_leaf_double(int level) { return BY_LEVEL(dot, d); }
static inline fused_float fused_leaf_float(int level) { return BY_LEVEL(fused, f); }
static inline fused_double fused_leaf_double(int level) { return BY_LEVEL(fused, d); }
/* Of level 2 only. */
#if X86_LEVELS
  #define WINOGRAD_LEAF(t) winograd_##t##2
#else
  #define WINOGRAD_LEAF(t) NULL
#endif
static inline winograd_float winograd_leaf_float(void) { return WINOGRAD_LEAF(f); }
static inline winograd_double winograd_leaf_double(void) { return WINOGRAD_LEAF(d); }
static inline copy_float copy_leaf_float(int level) { return BY_LEVEL(copy, f); }
static inline pair_float pair_leaf_float(int level) { return BY_LEVEL(pair, f); }
static inline copy_double copy_leaf_double(int level) { return BY_LEVEL(copy, d); }
static inline pair_double pair_leaf_double(int level) { return BY_LEVEL(pair, d); }
/* Vectors for transposing: 64 bytes where these are computed whole (16 samples of strides 1 .. 6: 1.1 .. 1.9 ns against
 * 2.1 .. 5.0, a Sapphire Rapids, 2026-11), else 32 (stride 2: 0.05 against 0.17 ns a sample, a Zen 4). */
#define NARROW(level) ((level) > 1 && !simd_whole(level) ? 1 : (level))
static inline gather_float gather_leaf_float(int level) { level = NARROW(level); return BY_LEVEL(gather, f); }
static inline gather_double gather_leaf_double(int level) { level = NARROW(level); return BY_LEVEL(gather, d); }
static inline split_float split_leaf_float(int level) { level = NARROW(level); return BY_LEVEL(split, f); }
static inline split_double split_leaf_double(int level) { level = NARROW(level); return BY_LEVEL(split, d); }
static inline unfold_float unfold_leaf_float(int level) { level = NARROW(level); return BY_LEVEL(unfold, f); }
static inline unfold_double unfold_leaf_double(int level) { level = NARROW(level); return BY_LEVEL(unfold, d); }

/* The largest register block's rows, one's vectors by its rows, and a vector's bytes. */
static inline int simd_rows(int level) { return level == 2 ? 8 : 4; }
static inline int simd_vectors(int level, int rows) { return block_vectors(simd_rows(level), level == 0 ? 2 : 3, rows); }
static inline int simd_bytes(int level) { return SCALAR_LEAVES ? 1 : 16 << level; }

#endif
