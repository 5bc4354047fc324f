/* SPDX-License-Identifier: MIT */
/* The microkernels, built for each instruction set, and the choice of one at run time. Only _runtime.pyx includes this.
 *
 * An instruction set is one block below: its name, the functions' target attribute, the bytes of a vector, the largest
 * register block (ROWS x VECS accumulators; VECS + 1 more registers hold factors), the list of register blocks, and
 * what it has besides. No -march flag: a wheel must run anywhere, so each function carries its own target attribute
 * (`#pragma GCC target` is ignored by Clang; target_clones needs ifunc, which musl lacks).
 *
 *   name       vectors    built by                        largest register block
 *   baseline   16 bytes   GCC, Clang: SSE2, NEON, ...     4 x 2
 *              1 number   other compilers, and -DCONVT1D_SCALAR with any, to test it
 *   avx2       32 bytes   GCC, Clang on x86-64            4 x 3
 *   avx512     64 bytes   GCC, Clang on x86-64            8 x 3
 */
#ifndef CONVT1D_INSTRUCTION_SETS_H
#define CONVT1D_INSTRUCTION_SETS_H
#include "microkernels.h"
#include <math.h>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(CONVT1D_SCALAR)
  #define NOINLINE __attribute__((noinline))
  #define RESTRICT __restrict__
  /* Loops over registers must vanish: GCC gives up on long bodies, and the accumulators would live in memory. */
  #if defined(__clang__)
    #define UNROLL _Pragma("clang loop unroll(full)")
  #else
    #define UNROLL _Pragma("GCC unroll 8")
  #endif
  /* A value stays in its register from one step to the next: GCC 12 wrote many a multiply-add over one of its factors
   * instead and moved it back, with up to 8 moves to 24 multiply-adds. */
  #ifdef __x86_64__
    #define PIN(v) __asm__ ("" : "+v"(v))
  #else
    #define PIN(v)
  #endif
  #define SCALAR 0
  /* GCC's generic tuning spills integers to vector registers; they come back through the pipes that should multiply
   * (4 to 9 %). */
  #if defined(__clang__)
    #define TUNE
  #else
    #define TUNE ",tune=haswell"
  #endif
  #if defined(__x86_64__)
    #define X86_64 1
    #include <immintrin.h>
  #endif
#else
  #define NOINLINE
  #define RESTRICT __restrict
  #define UNROLL
  #define PIN(v)
  #define SCALAR 1
#endif
#ifndef X86_64
  #define X86_64 0
#endif
#ifdef __has_builtin
  #if __has_builtin(__builtin_shufflevector)
    #define HAVE_SHUFFLE 1
  #endif
#endif
#ifndef HAVE_SHUFFLE
  #define HAVE_SHUFFLE 0
#endif

/* Register blocks by the largest one: of `direct` (rows, vectors, columns summed along the rows), and of `fused`
 * (outputs, stride, and the vectors: most, half of them and one; B2: most and one). A set with 32 registers takes 8x3, one with 16 takes 4x3, or 4x2 where a factor needs its own. */
#define DIRECT_BLOCKS_8x3(B) \
    B(8, 3, 0) B(8, 2, 0) B(8, 1, 0) B(4, 5, 0) B(4, 3, 0) B(4, 2, 0) B(4, 1, 0) \
    B(2, 8, 0) B(2, 3, 0) B(2, 2, 0) B(2, 1, 0) B(1, 8, 0) B(1, 3, 0) B(1, 2, 0) B(1, 1, 0)
#define DIRECT_BLOCKS_4x3(B) \
    B(4, 3, 0) B(4, 2, 0) B(4, 1, 0) B(2, 5, 0) B(2, 3, 0) B(2, 2, 0) B(2, 1, 0) \
    B(1, 6, 0) B(1, 3, 0) B(1, 2, 0) B(1, 1, 0)
#define DIRECT_BLOCKS_4x2(B) \
    B(4, 2, 0) B(4, 1, 0) B(2, 3, 0) B(2, 2, 0) B(2, 1, 0) B(1, 4, 0) B(1, 3, 0) B(1, 2, 0) B(1, 1, 0)
#define FUSED_BLOCKS_8x3(B, B2) \
    B(8, 1, 3, 2) B(4, 2, 3, 2) B(2, 4, 3, 2) B(1, 8, 3, 2) B(1, 7, 3, 2) \
    B(2, 3, 4, 2) B(1, 6, 4, 2) B(1, 5, 5, 3) B(4, 1, 5, 3) B(2, 2, 5, 3) B(1, 4, 5, 3) \
    B(1, 3, 8, 4) B(2, 1, 8, 4) B(1, 2, 8, 4) B(1, 1, 8, 4)
#define FUSED_BLOCKS_4x3(B, B2) \
    B(4, 1, 3, 2) B(2, 2, 3, 2) B(1, 4, 3, 2) B(1, 3, 4, 2) B(2, 1, 5, 3) B(1, 2, 5, 3) B(1, 1, 6, 3)
#define FUSED_BLOCKS_4x2(B, B2) \
    B2(4, 1, 2) B2(2, 2, 2) B2(1, 4, 2) B(1, 3, 3, 2) B(2, 1, 3, 2) B(1, 2, 3, 2) B(1, 1, 4, 2)

/* baseline */
#define NAME baseline
#define ATTR
#define VECTOR_BYTES (SCALAR ? 0 : 16)
#define ROWS 4
#define VECS 2
#define BLOCKS(kind) kind##_4x2
#define FUSED_WINOGRAD 0
#define NONTEMPORAL 0
#include "microkernels/build.inc"

#if X86_64
  /* avx2 */
  #define NAME avx2
  #define ATTR __attribute__((target("avx2,fma" TUNE)))
  #define VECTOR_BYTES 32
  #define ROWS 4
  #define VECS 3
  #define BLOCKS(kind) kind##_4x3
  #define FUSED_WINOGRAD 0
  #define NONTEMPORAL 0
  #include "microkernels/build.inc"

  /* avx512 */
  #define NAME avx512
  #define ATTR __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma" TUNE)))
  #define VECTOR_BYTES 64
  #define ROWS 8
  #define VECS 3
  #define BLOCKS(kind) kind##_8x3
  #define FUSED_WINOGRAD 1
  #define NONTEMPORAL 1
  #include "microkernels/build.inc"
#endif

/* ---- detection ------------------------------------------------------------------------------------------------- */

static int supports_baseline(void)
{
    return 1;
}

#if X86_64
static int supports_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int supports_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
#endif

/* Who made the processor: tuning.py has rows of numbers that differ by it. */
static int made_by_intel(void)
{
#if X86_64
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") ? 1 : 0;
#else
    return 0;
#endif
}

/* What a set's block above and its supports_ function make; the best set comes last. */
#define SET(name) {#name, supports_##name, {&float_##name, &double_##name}}
static const struct {
    const char *name;
    int (*supported)(void);
    const Microkernels *tables[2];
} INSTRUCTION_SETS[] = {
    SET(baseline),
#if X86_64
    SET(avx2),
    SET(avx512),
#endif
};
#undef SET
enum { INSTRUCTION_SET_COUNT = sizeof(INSTRUCTION_SETS) / sizeof(INSTRUCTION_SETS[0]) };

static const char *instruction_set_name(int set)
{
    return INSTRUCTION_SETS[set].name;
}

static int instruction_set_supported(int set)
{
    return INSTRUCTION_SETS[set].supported();
}

/* The table of a set for a type; transposes come from a set of their own, which may be faster at them. */
static void fill_microkernels(Microkernels *table, int set, int is_double, int transposes)
{
    const Microkernels *other = INSTRUCTION_SETS[transposes].tables[is_double];
    *table = *INSTRUCTION_SETS[set].tables[is_double];
    table->interleave = other->interleave;
    table->deinterleave = other->deinterleave;
    table->unfold = other->unfold;
}
#endif
