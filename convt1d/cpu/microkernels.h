/* SPDX-License-Identifier: MIT */
/* What callers of the microkernels see: their arguments, the rules of register blocks, and the table of functions.
 *
 * instruction_sets.h builds the functions (microkernels/), once for each instruction set and type. Data pointers are
 * void, so that one table serves float and double; `sizes` count numbers of the table's type, not bytes, unless they
 * say so. The head of each function in microkernels/ is its formula, and says exactly what it reads and writes.
 */
#ifndef CONVT1D_MICROKERNELS_H
#define CONVT1D_MICROKERNELS_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(CONVT1D_SCALAR)
  #define ALWAYS_INLINE inline __attribute__((always_inline))
  #define PREFETCH(p) __builtin_prefetch(p)
  #define PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
#else
  #ifdef _MSC_VER
    #define ALWAYS_INLINE __forceinline
  #else
    #define ALWAYS_INLINE inline
  #endif
  #define PREFETCH(p) ((void)(p))
  #define PREFETCH_L2(p) ((void)(p))
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* ---- register blocks: rows x vectors of accumulators ---------------------------------------------------------- */

/* Rows of the next register block of `direct` when `rows` are left; the largest block has `most`. */
static ALWAYS_INLINE int direct_block(int most, ptrdiff_t rows)
{
    return most >= 8 && rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
}

/* Vectors of columns in a register block of so many rows, where the largest one is `most` x `vectors`. */
static ALWAYS_INLINE int block_vectors(int most, int vectors, int rows)
{
    if (most == 8)
        return rows >= 7 ? 3 : rows == 6 ? 4 : rows >= 4 ? 5 : 8;
    return rows == 4 ? vectors : rows == 3 ? vectors + 1 : rows == 2 ? 2 * vectors - 1 : 2 * vectors;
}

/* Outputs of the next register block of `fused`: a power of two, all branches of each; of a single channel one. */
static ALWAYS_INLINE int fused_block(int most, int stride, ptrdiff_t outputs, ptrdiff_t channels)
{
    int block = channels == 1 ? 1 : most >= 8 && stride == 1 ? 8 : most >= 4 * stride ? 4 : most >= 2 * stride ? 2 : 1;
    while (block > outputs)
        block /= 2;
    return block;
}

/* ---- arguments ------------------------------------------------------------------------------------------------ */

/* What a product sums over: channels x taps, `depth` pairs in all. An input channel has `input_rows` rows; the first
 * channel is its row number `first`. Rows from number `long_rows` on lack the newest tap. */
typedef struct {
    ptrdiff_t channels, taps, step, input_rows, long_rows, first, depth;
} Sum;

/* Channels up to `end` that have the same number of taps. */
typedef struct {
    ptrdiff_t end, taps;
} Span;

/* The span that begins with a channel. Asked for once a span: once a channel, which with two taps is 48 multiply-adds,
 * it cost up to 8 % (a Zen 4 with a busy sibling thread, 2026-11). */
static ALWAYS_INLINE Span span_at(const Sum *sum, ptrdiff_t channel)
{
    Span span = {sum->channels, sum->taps};
    if (sum->long_rows < sum->input_rows) {
        const ptrdiff_t row = (sum->first + channel) % sum->input_rows;
        const ptrdiff_t end = channel - row + (row < sum->long_rows ? sum->long_rows : sum->input_rows);
        span.taps -= row >= sum->long_rows;
        span.end = MIN(span.end, end);
    }
    return span;
}

/* Rows of y that an interleave will write: the current row, and `at`, its first byte not yet prefetched. */
typedef struct {
    const char *row;
    ptrdiff_t row_stride, bytes, rows, at;
} OutputLines;

static ALWAYS_INLINE void prefetch_lines(OutputLines *lines, ptrdiff_t n)
{
    for (; n > 0 && lines->rows > 0; n--) {
        PREFETCH_L2(lines->row + lines->at);
        lines->at += 64;
        if (lines->at >= lines->bytes) {
            lines->at = 0;
            lines->row += lines->row_stride;
            lines->rows--;
        }
    }
}

/* What a product prefetches while it multiplies; docs/tuning.md has what each distance gains. */
typedef struct {
    ptrdiff_t next_tile;        /* the first register block: from x to the next tile of x; 0: nothing */
    ptrdiff_t next_ldx;         /* ... whose rows are so far apart */
    ptrdiff_t x_ahead;          /* the other register blocks: from x to its own later rows; 0: nothing */
    ptrdiff_t y_ahead;          /* short sums: from y to where a later register block will store; 0: nothing */
    ptrdiff_t weights_ahead;    /* bytes of packed weights */
    OutputLines y_lines;        /* as many lines of these as a register block computes */
    int x_two_channels;         /* `fused`, where there is nothing else to prefetch: x two channels on, into L1 */
    int nontemporal;            /* `fused` of a single channel stores y past the caches */
} Prefetch;

/* To be called after a thread's last nontemporal store, for other threads to see them all. */
static ALWAYS_INLINE void end_nontemporal_stores(void)
{
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_ia32_sfence();
#endif
}

/* What `activate` computes; activations.py has the same numbers. */
enum { IDENTITY, RELU, LEAKY_RELU, ELU, TANH, SNAKE };

/* What `direct` begins with, besides `start` and `other`; and the planes that `pair` makes. */
enum { ADD = 1, SUBTRACT = 2 };
enum { PAIRS, SINGLES, TRIPLES, ONLY_TRIPLES };

/* ---- the table ------------------------------------------------------------------------------------------------ */

typedef struct {
    int rows, vectors;          /* of the largest register block */
    int bytes;                  /* in a vector; 1: scalar code */
    ptrdiff_t rows_ahead;       /* rows of x between a prefetch and its use, see Prefetch.x_ahead */
    ptrdiff_t weights_ahead;
} Sizes;

/* The microkernels of one instruction set and type. */
typedef struct {
    Sizes sizes;
    void (*direct)(const void *x, ptrdiff_t ldx, const void *w, void *c, ptrdiff_t ldc, const Sum *sum, ptrdiff_t rows,
                   ptrdiff_t n, const void *start, const void *other, int add, Prefetch *prefetch);
    void (*fused)(const void *x, ptrdiff_t ldx, const void *w, void *y, ptrdiff_t ldy, const Sum *sum,
                  ptrdiff_t long_branches, ptrdiff_t n, const void *bias, Prefetch *prefetch, ptrdiff_t outputs,
                  int stride);
    void (*fused_winograd)(const void *x, ptrdiff_t ldx, ptrdiff_t plane, const void *w, void *y, ptrdiff_t ldy,
                           const Sum *sum, ptrdiff_t n, const void *bias, const void *next, const Prefetch *prefetch,
                           ptrdiff_t outputs, int stride, int apart);
    void (*interleave)(void *y, ptrdiff_t stride, const void *const *src, ptrdiff_t at, ptrdiff_t phases, ptrdiff_t n,
                       const void *bias);
    void (*deinterleave)(void *dst, ptrdiff_t ldd, const void *x, ptrdiff_t stride, ptrdiff_t phases, ptrdiff_t n);
    void (*unfold)(void *dst, ptrdiff_t ldd, const void *x, ptrdiff_t ldx, ptrdiff_t outputs, ptrdiff_t stride,
                   ptrdiff_t width, ptrdiff_t n);
    void (*copy)(void *dst, ptrdiff_t ldd, const void *x, ptrdiff_t ldx, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ahead);
    void (*pair)(void *both, ptrdiff_t ldd, ptrdiff_t plane, const void *x, ptrdiff_t ldx, ptrdiff_t rows, ptrdiff_t n,
                 const void *apart, int kind, ptrdiff_t d);
    void (*weave)(void *y, const void *even, const void *odd, ptrdiff_t d, ptrdiff_t n, const void *bias);
    void (*gather)(void *out, ptrdiff_t ldo, const void *w, ptrdiff_t channel, ptrdiff_t tap, const ptrdiff_t *places,
                   ptrdiff_t rows, ptrdiff_t taps, ptrdiff_t channels, ptrdiff_t ahead);
    void (*pair_taps)(void *out, ptrdiff_t ldo, ptrdiff_t plane, const void *taps, ptrdiff_t n, ptrdiff_t rows,
                      ptrdiff_t ahead);
    void (*add_sizes)(void *sums, void *largest, const void *x, ptrdiff_t ldx, ptrdiff_t rows, ptrdiff_t n);
    void (*correlate)(const void *const *rows, ptrdiff_t stride, ptrdiff_t nrows, const void *x, ptrdiff_t ldx,
                      void *c, ptrdiff_t ldc, ptrdiff_t steps, ptrdiff_t n, ptrdiff_t ahead);
    void (*dot)(const void *x, const void *const *rows, ptrdiff_t nrows, void *sums, ptrdiff_t lds, ptrdiff_t n);
    void (*activate)(int kind, const void *x, const void *add, void *y, ptrdiff_t n, double a, double b);
} Microkernels;
#endif
