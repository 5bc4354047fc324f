// SPDX-License-Identifier: MIT
/* fused: the whole operator in one kernel, an implicit matrix product (dilation 1; float32 and the half types).

With dilation 1 phase r is polyphase branch r, which has no taps if r >= kernel. With its taps k = r + stride * j,

    y~[o, stride * q + r] = sum over j, c of  weight[c, o, r + stride * j] * x~[c, q - j]

is a product of rows (o, r) by times q, whose inner size runs over channels c and taps j. A block makes a tile of it:

    times     each = steps + taps - 1 columns a sample, one sample after the other: column f = n * each + a stands for
              step q = q_first + a - (taps - 1) of sample n. The first taps - 1 of a sample are no outputs: they are
              there for its taps to reach back to
    inner     steps of STEP_CHANNELS channels and one tap, the taps of the same channels one after the other
    slab      those channels of all the tile's columns, read once; a tap is a shift of where it is read:

                  slab column p   0   1   2 ...                holds column f0 - (taps - 1) + p
                  tap j           time f0 + t reads p = t + (taps - 1) - j

    rows      first those with `taps` taps, filled up to 16s, then those with one less, which leave out the last tap
              (zeros in its place would turn a NaN or inf of x into more NaN than the definition has)

Slabs and the weights of each step go through rings in shared memory, copied `stages` - 1 steps ahead. fused.py arranges
the weights as lanes hold them: of 16 rows and 8 channels (half types 16), lane 4 * g + k has

    rows        g, g + 8, g, g + 8           one word each, 16 bytes together
    channels    k, k, k + 4, k + 4           half types, two to a word: 4k and 4k + 1, same, 4k + 2 and 4k + 3, same

which is operand A of mma.m16n8k8 (m16n8k16, its channels renumbered). Each row of the result is staged in shared
memory in the order of the output, and leaves in pieces of 16 bytes.

With `splits` > 1, blocks share the channels of a tile; their sums go to the workspace, and `reduce` adds them up.
*/

// ---- parameters, see fused.py --------------------------------------------------------------------------------------

// The rows of a launch's tiles, pairs of output channel and branch.
struct FusedRows {
    Int taps;                // of a long branch
    Int branch0, branches;   // the launch's: the first, how many
    Int chunk;               // branches of an output in one tile
    Int long_count;          // the first so many of them are long, the others have one tap less
    Int per_long, per_rest;  // row * per_long >> 16 is row / long_count, and the same of the others
    Int most;                // outputs of a tile
};

// The shared memory of a block.
struct FusedRings {
    Int width;   // columns of a slab
    Int pitch;   // elements from one of its rows to the next
    Int stages;  // of the ring of weights
    Int slabs;   // of the ring of slabs
    Int staged;  // columns that are staged on their way out at a time
};

struct Fused {
    Signal signal;
    Int channels, outputs;        // of a group
    Int groups, samples, stride;
    FusedRows rows;
    FusedRings rings;
    Int each, q_first;            // columns of a sample; the first step
    Output output;
    Int row_tiles, column_tiles;
    Int splits;                   // of the inner size
    Int by_rows;                  // whether tiles of the same columns follow one another
    Int blocks;
};

// Of `reduce`.
struct Reduce {
    Int splits, rows;  // rows: samples x channels
    Output output;
    Int pieces;        // blocks to a row
    Int blocks;
};

// ---- instructions -------------------------------------------------------------------------------------------------

#define STEP_CHANNELS 16
#define COLUMNS 128     // of a tile
#define MOST_REACH 32   // taps that a column reaches back, at most
#define FUSED_WARPS 4
#define FUSED_THREADS 128

#ifdef __CUDACC__  // tests/cuda/cuda_shim.h has these for the CPU
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define COPIES_LATER (__CUDA_ARCH__ >= 800)

__device__ __forceinline__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// Copy 4 or 16 bytes to shared memory; zeros if not `valid`. They are there once copies_wait has returned. `from` is
// aligned as much, and may be read even if not `valid`.
__device__ __forceinline__ void copy_word(void *to, const void *from, bool valid) {
#if COPIES_LATER
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 4 : 0) : "memory");
#else
    *(unsigned *)to = valid ? *(const unsigned *)from : 0u;
#endif
}
__device__ __forceinline__ void copy_piece(void *to, const void *from, bool valid) {
#if COPIES_LATER
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0) : "memory");
#else
    *(uint4 *)to = valid ? *(const uint4 *)from : make_uint4(0u, 0u, 0u, 0u);
#endif
}
// Close a group of copies.
__device__ __forceinline__ void copies_commit() {
#if COPIES_LATER
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Wait for this thread's copies but those of the last N groups.
template <int N> __device__ __forceinline__ void copies_wait() {
#if COPIES_LATER
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// To TF32, to nearest.
__device__ __forceinline__ unsigned tf32(float value) {
#if __CUDA_ARCH__ >= 800
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#else
    return __float_as_uint(value);
#endif
}

// d += a * b over a warp: 16 x 8 (x 16) by 8 (x 16) x 8
__device__ __forceinline__ void mma(float, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap();  // never chosen there, see fused.py
#endif
}
__device__ __forceinline__ void mma(Half, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    for (int i = 0; i < 2; i++)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(i ? b1 : b0));
#endif
}
__device__ __forceinline__ void mma(BFloat16, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap();
#endif
}
#endif  // __CUDACC__

// Sums of split tiles (splits, rows, positions), added in the order of the splits.
ENTRY(reduce, (THREADS),
      (const A *__restrict__ sums, const A *__restrict__ bias, T *__restrict__ y, const Reduce p)) {
    EACH_BLOCK(b, p.blocks) {
        Pair of_row = divide(b, p.pieces);
        Int row = of_row.quotient, positions = p.output.positions, j = of_row.rest * THREADS + threadIdx.x;
        if (j >= positions) continue;
        A sum = A(0);
        for (Int s = 0; s < p.splits; s++) sum = plus(sum, sums[(s * p.rows + row) * positions + j]);
        store(y + row * positions + j, plus(sum, bias ? bias[divide(row, p.output.channels).rest] : A(0)));
    }
}

#if CONVT1D_TYPE == 0 || CONVT1D_TYPE == 2 || CONVT1D_TYPE == 3

struct __align__(16) Piece { unsigned words[4]; };
struct __align__(8) Pair32 { unsigned words[2]; };

// ---- the slab: from the signal to shared memory -------------------------------------------------------------------

// What all columns have in common.
struct Columns {
    const T *x;  // the group's first channel of sample 0
    Signal signal;
    Int each, samples, sample_step, first;

    // The sample at column f of channel 0; null for zeros.
    __device__ __forceinline__ const T *at(Int f) const {
        if (f < 0) return nullptr;
        Pair p = divide(f, each);
        if (p.quotient >= samples) return nullptr;
        Int i = source(first + p.rest, signal);
        return i < 0 ? nullptr : x + (p.quotient * sample_step + i);
    }
    // The same where `width` columns from f on lie side by side in one sample, with `margin` more on both sides; else
    // null.
    __device__ __forceinline__ const T *run(Int f, int width, int margin) const {
        if (f < 0) return nullptr;
        Pair p = divide(f, each);
        Int i = first + p.rest;
        bool one_sample = p.quotient < samples && p.rest + width <= each;
        bool inside = one_sample && i >= margin && i + width + margin <= signal.length;
        return inside ? x + (p.quotient * sample_step + i) : nullptr;
    }
};

/* Most tiles lie inside a sample: their slab is read 16 bytes at a time, from the boundary before its first column on,
so that a row begins up to 16 bytes behind where it would; `skew` says how many elements. The others are read sample by
sample. (A copy of 4 bytes takes 5 instructions: an H200, 2026-11.) */
#if CONVT1D_TYPE == 0
/* Channels as rows of `pitch` words, 8 more than a multiple of 32: the eight columns and four channels that a warp
reads at once lie in different banks at any shift, if all channels have the same skew. */
struct Slab {
    static const int MARGIN = 6;             // of pieces, beyond a row's columns
    static const int TURNS = (COLUMNS + MOST_REACH + FUSED_THREADS - 1) / FUSED_THREADS;
    const T *at[TURNS];           // of this thread's columns; or, `together`, of the first
    bool together;
    int phase, step;              // where rows begin, in elements behind a boundary; the same of the next channel

    __device__ __forceinline__ void aim(const Columns &columns, Int f, int width) {
        at[0] = columns.run(f, width, MARGIN);
        together = at[0] != nullptr;
        phase = (int)((unsigned long long)at[0] / sizeof(T) & 3);
        step = together ? (int)(columns.signal.length & 3) : 0;
        if (together) return;
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            int column = i * FUSED_THREADS + threadIdx.x;
            at[i] = column < width ? columns.at(f + column) : nullptr;
        }
    }
    // Of all channels c, c + 4, c + 8, ...
    __device__ __forceinline__ int skew(int c) const { return (phase + c * step) & 3; }

    __device__ __forceinline__ void begin(unsigned *slab, const Columns &columns, int width, int pitch, int channel,
                                          int channels) {
        int left = channels - channel;
        if (together) {  // some threads to a row; zeros for channels that are none, which aim at the first
            const int side = FUSED_THREADS / STEP_CHANNELS;
            int row = threadIdx.x / side, piece = threadIdx.x % side, pieces = (width + MARGIN) / 4;
            bool valid = row < left;
            int c = valid ? row : 0;
            const T *from = at[0] + (channel + c) * columns.signal.length + (4 * piece - skew(c));
            unsigned *to = slab + row * pitch + 4 * piece;
#pragma unroll
            for (int i = 0; i < COLUMNS / 4; i += side) copy_piece(to + 4 * i, from + 4 * i, valid);
            for (int i = COLUMNS / 4; i + piece < pieces; i += side) copy_piece(to + 4 * i, from + 4 * i, valid);
            return;
        }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            if (i * FUSED_THREADS + (int)threadIdx.x >= width) break;
            const T *from = at[i] ? at[i] + channel * columns.signal.length : columns.x;
            Int step = at[i] ? columns.signal.length : 0;
            unsigned *to = slab + i * FUSED_THREADS + threadIdx.x;
#pragma unroll 1
            for (int c = 0; c < STEP_CHANNELS; c++) {
                copy_word(to + c * pitch, from, at[i] && c < left);
                if (c + 1 < left) from += step;
            }
        }
    }
    __device__ __forceinline__ void finish(const Columns &, int, int) {}
};
#else
/* Columns as rows of STEP_CHANNELS halves, 8 words, whose halves of 4 change places in every other four rows. Through
registers, as nothing else transposes. */
__device__ __forceinline__ int flip(int column) { return column & 4; }  // word 4 of 8, in words
struct Slab {
    static const int MARGIN = 14;            // of octets, beyond a row's columns
    static const int OCTET = 8;
    // Sample by sample, a thread takes up to so many half rows, of eight channels; else so many octets of two.
    static const int TURNS = (2 * (COLUMNS + MOST_REACH) + FUSED_THREADS - 1) / FUSED_THREADS;
    static const int PASSES = (COLUMNS + MOST_REACH + MARGIN + FUSED_THREADS - 1) / FUSED_THREADS;
    const T *at[TURNS];  // of this thread's columns; or, `together`, of the boundary before the first
    bool together;
    unsigned held[PASSES][2][4];             // ... which are loaded before a step's products, and stored after them
    unsigned *target;
    int target_channel, phase;

    __device__ __forceinline__ void aim(const Columns &columns, Int f, int width) {
        target = nullptr;
        bool alike = columns.signal.length % OCTET == 0 && (unsigned long long)columns.x % 16 == 0;  // all rows begin
        at[0] = alike ? columns.run(f, width, MARGIN) : nullptr;
        together = at[0] != nullptr;
        phase = (int)((unsigned long long)at[0] / sizeof(T) % OCTET);
        at[0] -= phase;
        if (together) return;
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            int item = i * FUSED_THREADS + threadIdx.x, column = item < width ? item : item - width;
            at[i] = item < 2 * width ? columns.at(f + column) : nullptr;
        }
    }
    __device__ __forceinline__ int skew(int) const { return phase; }

    __device__ __forceinline__ void begin(unsigned *slab, const Columns &columns, int width, int, int channel,
                                          int channels) {
        target = slab;
        target_channel = channel;
        if (together) {  // thread: channels 2 (t % 8) and the next, octets t / 8 and 16 more
            int octets = (width + MARGIN) / OCTET, c0 = channel + 2 * (threadIdx.x % 8);
#pragma unroll
            for (int i = 0; i < PASSES; i++) {
                int octet = threadIdx.x / 8 + i * (FUSED_THREADS / 8);
                const T *from = at[0] + c0 * columns.signal.length + octet * OCTET;
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    Piece piece = {{0u, 0u, 0u, 0u}};
                    if (octet < octets && c0 + c < channels) piece = *(const Piece *)(from + c * columns.signal.length);
#pragma unroll
                    for (int e = 0; e < 4; e++) held[i][c][e] = piece.words[e];
                }
            }
        }
    }
    __device__ __forceinline__ void finish(const Columns &columns, int width, int channels) {
        if (!target) return;
        if (together) {
            /* Word (column, pair of channels) for each column of an octet. Of the four octets that a warp has, each
            begins with another of four columns, or all would be written to the same eight banks:

                store    0  1  2  3  4  5  6  7
                octet 0  0  1  2  3  4  5  6  7
                octet 1  1  0  3  2  5  4  7  6
                octet 2  2  3  0  1  6  7  4  5
                octet 3  3  2  1  0  7  6  5  4     column */
            int octets = (width + MARGIN) / OCTET;
#pragma unroll
            for (int i = 0; i < PASSES; i++) {
                int octet = threadIdx.x / 8 + i * (FUSED_THREADS / 8), turn = octet & 3, pair = threadIdx.x % 8;
                if (octet >= octets) break;
#pragma unroll
                for (int e = 0; e < 4; e++) {  // columns 2 e and the next, or those two further or before
                    unsigned first = turn & 2 ? held[i][0][e ^ 1] : held[i][0][e];
                    unsigned second = turn & 2 ? held[i][1][e ^ 1] : held[i][1][e];
                    unsigned low = (first & 0xffffu) | second << 16, high = first >> 16 | (second & 0xffff0000u);
#pragma unroll
                    for (int k = 0; k < 2; k++) {
                        int column = (2 * e + k) ^ turn;
                        target[(octet * OCTET + column) * 8 + (pair ^ flip(column))] = (turn & 1) == k ? low : high;
                    }
                }
            }
            target = nullptr;
            return;
        }
#pragma unroll 1
        for (int i = 0; i < TURNS; i++) {
            int item = i * FUSED_THREADS + threadIdx.x, column = item < width ? item : item - width;
            if (item >= 2 * width) break;
            const T *from = at[0];
#pragma unroll
            for (int turn = 1; turn < TURNS; turn++)  // registers have no index
                if (turn == i) from = at[turn];
            int c0 = target_channel + (item < width ? 0 : OCTET);
            int left = !from || channels <= c0 ? 0 : channels - c0 < OCTET ? channels - c0 : OCTET;
            from = left ? from + c0 * columns.signal.length : columns.x;
            unsigned halves[OCTET];
#pragma unroll
            for (int c = 0; c < OCTET; c++) {
                halves[c] = c < left ? from->bits : 0u;
                if (c + 1 < left) from += columns.signal.length;
            }
            Piece piece;
#pragma unroll
            for (int c = 0; c < 4; c++) piece.words[c] = halves[2 * c] | halves[2 * c + 1] << 16;
            *(Piece *)(target + column * 8 + ((item < width ? 0 : 4) ^ flip(column))) = piece;
        }
        target = nullptr;
    }
};
#endif

// ---- the product of one step --------------------------------------------------------------------------------------

/* `weights`: the step's, from this warp's rows on; `fragments`: of 16 rows each, all that the tile has. `row`: the
first channel's, from the column on that the warp's time 0 reads, which is the `column`-th of the slab. Of the warp's MI
fragments, those below `limit` have this tap; `WHOLE` if all have, as in most steps. */

#if CONVT1D_TYPE == 0
struct Tensor {  // TF32
    template <bool WHOLE, int MI, int NI>
    static __device__ __forceinline__ void multiply(float (&sums)[MI][NI][4], const Piece *weights, int fragments,
                                                    const unsigned *row, const Slab &slab, int pitch, int, int limit) {
        int lane = threadIdx.x % 32;
        row += lane % 4 * pitch + lane / 4 + slab.skew(lane % 4);
#pragma unroll
        for (int k = 0; k < STEP_CHANNELS / 8; k++, row += 8 * pitch) {
            unsigned a[MI][4];
#pragma unroll
            for (int i = 0; i < MI; i++) {
                Piece piece = weights[(k * fragments + i) * 32 + lane];
#pragma unroll
                for (int e = 0; e < 4; e++) a[i][e] = piece.words[e];  // rounded already, see fused.py
            }
#pragma unroll
            for (int j = 0; j < NI; j++) {
                unsigned b0 = tf32(__uint_as_float(row[8 * j]));
                unsigned b1 = tf32(__uint_as_float(row[8 * j + 4 * pitch]));
#pragma unroll
                for (int i = 0; i < MI; i++)
                    if (WHOLE || i < limit) mma(T(), sums[i][j], a[i], b0, b1);
            }
        }
    }
};

/* 3xTF32: a factor is the sum of two of TF32, and the product of the two small ones is left out. Tensor cores cut what
they add off instead of rounding it: so they add no more than three times eight products, and the sum of those is
added here. */
struct Tensor3 {
    template <bool WHOLE, int MI, int NI>
    static __device__ __forceinline__ void multiply(float (&sums)[MI][NI][4], const Piece *weights, int fragments,
                                                    const unsigned *row, const Slab &slab, int pitch, int, int limit) {
        const int AT_ONCE = 2;  // fragments whose parts are held: b is taken apart once more for the others
        int lane = threadIdx.x % 32;
        row += lane % 4 * pitch + lane / 4 + slab.skew(lane % 4);
#pragma unroll 1
        for (int k = 0; k < STEP_CHANNELS / 8; k++, row += 8 * pitch)
#pragma unroll
            for (int i0 = 0; i0 < MI; i0 += AT_ONCE) {
                if (!WHOLE && i0 >= limit) break;
                unsigned large[AT_ONCE][4], small[AT_ONCE][4];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    Piece piece = weights[(k * fragments + i0 + i) * 32 + lane];
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        large[i][e] = tf32(__uint_as_float(piece.words[e]));
                        small[i][e] = rest(piece.words[e], large[i][e]);
                    }
                }
                __syncwarp();  // or the compiler fetches the next fragments early, into registers that it has not
#pragma unroll
                for (int j = 0; j < NI; j++) {
                    unsigned b[2], b_rest[2], factor[2];  // factor: of the weights' rests, where infinity is none
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        unsigned x = row[8 * j + 4 * e * pitch];
                        b[e] = tf32(__uint_as_float(x));
                        b_rest[e] = rest(x, b[e]);
                        factor[e] = finite(b[e]) ? b[e] : 0u;
                    }
#pragma unroll
                    for (int i = 0; i < AT_ONCE; i++)
                        if (WHOLE || i0 + i < limit) {
                            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                            mma(T(), sum, small[i], factor[0], factor[1]);
                            mma(T(), sum, large[i], b_rest[0], b_rest[1]);
                            mma(T(), sum, large[i], b[0], b[1]);
#pragma unroll
                            for (int e = 0; e < 4; e++) sums[i0 + i][j][e] = plus(sum[e], sums[i0 + i][j][e]);
                        }
                }
            }
    }
    // What `large` leaves of a factor: nothing of infinity, which a product with zero would turn into NaN.
    static __device__ __forceinline__ unsigned rest(unsigned factor, unsigned large) {
        return finite(large) ? tf32(__uint_as_float(factor) - __uint_as_float(large)) : 0u;
    }
    static __device__ __forceinline__ bool finite(unsigned bits) { return (bits & 0x7f800000u) != 0x7f800000u; }
};

struct Scalar {  // float32, each product rounded once with its sum
    template <bool WHOLE, int MI, int NI>
    static __device__ __forceinline__ void multiply(float (&sums)[MI][NI][4], const Piece *weights, int fragments,
                                                    const unsigned *row0, const Slab &slab, int pitch, int, int limit) {
        int lane = threadIdx.x % 32;
#pragma unroll 1
        for (int k = 0; k < STEP_CHANNELS / 8; k++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {  // channels c and c + 4
                const unsigned *row = row0 + (8 * k + c) * pitch + slab.skew(c) + 2 * (lane % 4);
                float b[2][NI][2];
#pragma unroll
                for (int h = 0; h < 2; h++)
#pragma unroll
                    for (int j = 0; j < NI; j++)
#pragma unroll
                        for (int e = 0; e < 2; e++) b[h][j][e] = __uint_as_float(row[4 * h * pitch + 8 * j + e]);
#pragma unroll
                for (int i = 0; i < MI; i++)
                    if (WHOLE || i < limit) {
                        Piece piece = weights[(k * fragments + i) * 32 + lane / 4 * 4 + c];
#pragma unroll
                        for (int h = 0; h < 2; h++)
#pragma unroll
                            for (int e = 0; e < 4; e++) {
                                float a = __uint_as_float(piece.words[2 * h + e / 2]);
#pragma unroll
                                for (int j = 0; j < NI; j++) sums[i][j][e] = fused(a, b[h][j][e % 2], sums[i][j][e]);
                            }
                    }
            }
        }
    }
};

#else
struct Tensor {
    template <bool WHOLE, int MI, int NI>
    static __device__ __forceinline__ void multiply(float (&sums)[MI][NI][4], const Piece *weights, int,
                                                    const unsigned *row, const Slab &slab, int, int column, int limit) {
        int lane = threadIdx.x % 32, skew = slab.skew(0) + lane / 4;
        unsigned a[MI][4];
#pragma unroll
        for (int i = 0; i < MI; i++) {
            Piece piece = weights[i * 32 + lane];
#pragma unroll
            for (int e = 0; e < 4; e++) a[i][e] = piece.words[e];
        }
        row += skew * 8 + (2 * (lane % 4) ^ flip(column + skew));
#pragma unroll
        for (int j = 0; j < NI; j++) {
            Pair32 b = *(const Pair32 *)(row + 64 * j);
#pragma unroll
            for (int i = 0; i < MI; i++)
                if (WHOLE || i < limit) mma(T(), sums[i][j], a[i], b.words[0], b.words[1]);
        }
    }
};
#endif

// ---- the tile's way out -------------------------------------------------------------------------------------------

// A warp copies `count` elements; in 16s of bytes if both lie alike.
template <class O> __device__ __forceinline__ void copy_run(O *__restrict__ out, const O *staged, int count) {
    const int each = 16 / sizeof(O);
    int lane = threadIdx.x % 32, ahead = -(int)((unsigned long long)out / sizeof(O)) & (each - 1);  // of a boundary
    if (((unsigned long long)out ^ (unsigned long long)staged) % 16 || ahead >= count) ahead = count;
    int past = ahead + ((count - ahead) & -each);
#pragma unroll 2
    for (int e = ahead + lane * each; e < past; e += 32 * each) *(Piece *)(out + e) = *(const Piece *)(staged + e);
    for (int e = lane; e < ahead; e += 32) out[e] = staged[e];
    if (past + lane < count) out[past + lane] = staged[past + lane];
}

// Where a tile lies. In shared memory, as registers are for sums until it is needed.
struct Place {
    Int f;                 // first column
    int channel, branch;   // first output channel, first branch
    int outputs, branches; // that it has
    int split;
};

// Rows are filled up to fragments of 16: how many have all taps, and how many there are.
__device__ __forceinline__ int whole_fragments(const FusedRows &rows) {
    return ((int)rows.most * (int)rows.long_count + 15) / 16;
}
__device__ __forceinline__ int all_fragments(const FusedRows &rows) {
    return whole_fragments(rows) + ((int)rows.most * (int)(rows.chunk - rows.long_count) + 15) / 16;
}

// The steps that a column reaches back.
__device__ __forceinline__ int reach_of(const FusedRows &rows) { return rows.taps ? (int)rows.taps - 1 : 0; }

// How a tile's columns are staged: so many at a time, each output's in rows that lie as the output does.
template <class O> struct Staging {
    static const int EACH = 16 / sizeof(O);  // elements to a piece
    O *memory;
    int columns, chunk, pitch;  // pitch: of an output; two outputs' banks are 8 words apart
    int base, lacking;          // elements behind a boundary of 16 bytes: of the first output, more of each next one

    __device__ __forceinline__ O *row(int o) const { return memory + o * pitch + ((base + o * lacking) & (EACH - 1)); }
};

// A warp puts its sums of the columns from c0 on in their place.
template <class O, int MI, int NI, int WM>
__device__ __forceinline__ void stage_sums(const float (&sums)[MI][NI][4], const A *__restrict__ bias,
                                           const Staging<O> &staging, int c0, const Place &place, const Fused &p) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp % WM, wn = warp / WM;
    if (wn * 8 * NI < c0 || wn * 8 * NI >= c0 + staging.columns) return;
    int whole = whole_fragments(p.rows), all = all_fragments(p.rows);
    int long_count = (int)p.rows.long_count, rest = staging.chunk - long_count;
    int column = wn * 8 * NI - c0 + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int fragment = wm * MI + i, row = 16 * fragment + lane / 4 + 8 * h, o, r;
            if (fragment < whole) {
                o = row * (int)p.rows.per_long >> 16;
                r = row - o * long_count;
            } else {
                row -= 16 * whole;
                o = row * (int)p.rows.per_rest >> 16;
                r = long_count + row - o * rest;
            }
            if (fragment >= all || o >= place.outputs) continue;
            float initial = bias ? bias[place.channel + o] : 0.0f;
            O *to = staging.row(o) + column * staging.chunk + r;
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    store(to + (8 * j + e) * staging.chunk, plus(sums[i][j][2 * h + e], initial));
        }
}

// What is staged leaves. A tile of whole steps: a sample's columns make one run of each output.
template <class O>
__device__ __forceinline__ void store_steps(O *__restrict__ out, const Staging<O> &staging, Pair at,
                                            const Place &place, const Fused &p) {
    int warp = threadIdx.x / 32, reach = reach_of(p.rows);
    Int positions = p.output.positions, n = at.quotient, a = at.rest;
#pragma unroll 1
    for (int c = 0; c < staging.columns && n < p.samples;) {
        int count = p.each - a < staging.columns - c ? (int)(p.each - a) : staging.columns - c;
        Int u = (p.q_first + a - reach) * p.stride - p.output.start, end = count * p.stride;
        if (end > positions - u) end = positions - u;
        int begin = u < 0 ? (int)-u : 0, length = (int)end - begin;
        O *to = out + (n * p.output.channels + place.channel + warp) * positions + u + begin;
        const O *from = staging.memory + warp * staging.pitch + c * staging.chunk + begin;
        int shift = staging.base + warp * staging.lacking;
#pragma unroll 1
        for (int o = warp; length > 0 && o < place.outputs; o += FUSED_WARPS) {
            copy_run(to, from + (shift & (Staging<O>::EACH - 1)), length);
            to += FUSED_WARPS * positions;
            from += FUSED_WARPS * staging.pitch;
            shift += FUSED_WARPS * staging.lacking;
        }
        c += count;
        a = 0;
        n++;
    }
}

// What is staged leaves. A tile of some of one output's branches: each column from f on is a run of its own.
template <class O>
__device__ __forceinline__ void store_columns(O *__restrict__ out, const Staging<O> &staging, Int f,
                                              const Place &place, const Fused &p) {
    int reach = reach_of(p.rows);
    Int positions = p.output.positions;
    for (int c = threadIdx.x / 32; c < staging.columns; c += FUSED_WARPS) {
        Pair at = divide(f + c, p.each);
        if (at.quotient >= p.samples) break;
        Int u = (p.q_first + at.rest - reach) * p.stride + place.branch - p.output.start;
        Int begin = u < 0 ? -u : 0, end = place.branches;
        if (end > positions - u) end = positions - u;
        if (begin < end)
            copy_run(out + ((at.quotient * p.output.channels + place.channel) * positions + u + begin),
                     staging.memory + (staging.base + c * staging.chunk + (int)begin), (int)(end - begin));
    }
}

template <class O, int MI, int NI, int WM>
__device__ __forceinline__ void store_tile(const float (&sums)[MI][NI][4], O *__restrict__ out,
                                           const A *__restrict__ bias, O *memory, const Place &place,
                                           const Fused &p) {
    const int EACH = Staging<O>::EACH;
    int columns = (int)p.rings.staged, chunk = (int)p.rows.chunk;
    Staging<O> staging = {memory, columns, chunk, columns * chunk + 32 / (int)sizeof(O), 0,
                          (int)p.output.positions & (EACH - 1)};
#pragma unroll 1
    for (int c0 = 0; c0 < COLUMNS; c0 += columns) {
        Pair at = divide(place.f + c0, p.each);
        Int u0 = (p.q_first + at.rest - reach_of(p.rows)) * p.stride + place.branch - p.output.start;
        Int row0 = (at.quotient * p.output.channels + place.channel) * p.output.positions + u0;
        // Staged as far behind a boundary of 16 bytes as the output is.
        staging.base = (int)(((unsigned long long)out / sizeof(O) + row0) & (EACH - 1));
        stage_sums<O, MI, NI, WM>(sums, bias, staging, c0, place, p);
        __syncthreads();
        if (chunk == p.stride) store_steps(out, staging, at, place, p);
        else store_columns(out, staging, place.f + c0, place, p);
        __syncthreads();
    }
}

// ---- the kernels --------------------------------------------------------------------------------------------------

// Which part of the output a block makes.
struct Block {
    Int row, column;   // tiles
    Int group, split;
};

__device__ __forceinline__ Block block_of(Int b, const Fused &p) {
    Pair inner = divide(b, p.by_rows ? p.row_tiles : p.column_tiles);
    Pair outer = divide(inner.quotient, p.by_rows ? p.column_tiles : p.row_tiles);
    Pair of_group = divide(outer.quotient, p.groups);
    Block block = {p.by_rows ? inner.rest : outer.rest, p.by_rows ? outer.rest : inner.rest, of_group.rest,
                   of_group.quotient};
    return block;
}

__device__ __forceinline__ Place place_of(const Block &block, Int f, const Fused &p) {
    const FusedRows &rows = p.rows;
    Int chunks = rows.branches == rows.chunk ? 1 : (rows.branches + rows.chunk - 1) / rows.chunk;
    Pair of_chunk = divide(block.row, chunks);
    Int o0 = of_chunk.quotient * rows.most, r0 = of_chunk.rest * rows.chunk;
    Place place;
    place.f = f;
    place.channel = (int)(block.group * p.outputs + o0);
    place.branch = (int)(rows.branch0 + r0);
    place.outputs = (int)(p.outputs - o0 < rows.most ? p.outputs - o0 : rows.most);
    place.branches = (int)(rows.branches - r0 < rows.chunk ? rows.branches - r0 : rows.chunk);
    place.split = (int)block.split;
    return place;
}

/* The two rings, which copies fill ahead of the products: of weights, a stage of PIECES to a step, and of slabs, one to
the steps of the same channels. */
template <int PIECES> struct Rings {
    Piece *weights;
    unsigned *slabs;
    int slab_words;
    const Piece *from;                // this thread's first piece of the next step's weights
    int channel, tap, stage, slab_at; // what is copied next: channels and tap, and the places in the two rings

    __device__ __forceinline__ Rings(unsigned char *shared, const Fused &p) {
        weights = (Piece *)shared;
        slabs = (unsigned *)(weights + (int)p.rings.stages * PIECES);
        slab_words = STEP_CHANNELS * (int)p.rings.pitch * (int)sizeof(T) / 4;
    }
    // A tile begins at a block of channels, whose weights are `first`.
    __device__ __forceinline__ void aim(const Piece *first, int channel_block) {
        from = first + threadIdx.x;
        channel = channel_block * STEP_CHANNELS;
        tap = stage = slab_at = 0;
    }
    // Begin to copy what the next step needs, if there is one.
    __device__ __forceinline__ void begin(bool is_step, Slab &slab, const Columns &columns, const Fused &p) {
        if (is_step) {
#pragma unroll
            for (int i = 0; i < PIECES / FUSED_THREADS; i++)
                copy_piece(weights + stage * PIECES + i * FUSED_THREADS + threadIdx.x, from + i * FUSED_THREADS, true);
            from += PIECES;
            if (tap == 0)
                slab.begin(slabs + slab_at * slab_words, columns, (int)p.rings.width, (int)p.rings.pitch, channel,
                           (int)p.channels);
            if (++stage == (int)p.rings.stages) stage = 0;
            if (++tap == (int)p.rows.taps) {
                tap = 0;
                channel += STEP_CHANNELS;
                if (++slab_at == (int)p.rings.slabs) slab_at = 0;
            }
        }
        copies_commit();  // of nothing, at the end: groups count as steps do
    }
};

// The sums of a tile, over `steps` steps.
template <class Arithmetic, int MI, int NI, int WM, int PIECES>
__device__ __forceinline__ void sum_steps(float (&sums)[MI][NI][4], Rings<PIECES> &rings, Slab &slab, int steps,
                                          const Columns &columns, const Fused &p) {
    int warp = threadIdx.x / 32, wm = warp % WM, wn = warp / WM;
    int all_taps = (int)p.rows.taps, ring = (int)p.rings.stages, width = (int)p.rings.width;
    int pitch = (int)p.rings.pitch, channels = (int)p.channels;
    int whole = whole_fragments(p.rows), all = all_fragments(p.rows);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;

    for (int i = 0; i < ring - 1; i++) {
        rings.begin(i < steps, slab, columns, p);
        slab.finish(columns, width, channels);
    }
    int stage = 0, at = 0, tap = 0;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        if (ring == 4) copies_wait<2>();
        else copies_wait<1>();  // of three
        __syncthreads();  // this step's weights and slab are there, and the stage before it has been read
        rings.begin(step + ring - 1 < steps, slab, columns, p);
        int time = wn * 8 * NI + reach_of(p.rows) - tap, limit = (tap < all_taps - 1 ? all : whole) - wm * MI;
        const unsigned *read = rings.slabs + at * rings.slab_words + (sizeof(T) == 4 ? time : 8 * time);
        const Piece *of_warp = rings.weights + stage * PIECES + wm * MI * 32;
        // asked once: before each product of a warp, an instruction would bring the warp together
        if (limit >= MI)
            Arithmetic::template multiply<true>(sums, of_warp, MI * WM, read, slab, pitch, time, MI);
        else
            Arithmetic::template multiply<false>(sums, of_warp, MI * WM, read, slab, pitch, time, limit);
        slab.finish(columns, width, channels);
        if (++stage == ring) stage = 0;
        if (++tap == all_taps) {
            tap = 0;
            if (++at == (int)p.rings.slabs) at = 0;
        }
    }
    __syncthreads();  // the rings, whose copies each step has waited for, are staging space from here on
}

/* A warp's tile is 16 MI rows by 8 NI columns, a block's WM of those by 4 / WM. x (samples, groups, channels, length),
weights (groups, row tiles, channel blocks, taps, a step's), y (samples, groups, outputs, positions). */
template <class Arithmetic, int MI, int NI, int WM>
__device__ __forceinline__ void fused_tiles(const T *__restrict__ x, const Piece *__restrict__ w,
                                            const A *__restrict__ bias, T *__restrict__ y, A *__restrict__ work,
                                            const Fused &p) {
    DYNAMIC_SHARED(shared);
    const int PIECES = MI * WM * STEP_CHANNELS * (int)sizeof(T);  // of a step's weights
    static_assert(PIECES % FUSED_THREADS == 0, "threads copy as many pieces each");
    static_assert(8 * NI * FUSED_WARPS / WM == COLUMNS, "warps share the tile");
    SHARED(Place, place, 1);
    int reach = reach_of(p.rows);
    Int channel_blocks = (p.channels + STEP_CHANNELS - 1) / STEP_CHANNELS;
    Rings<PIECES> rings(shared, p);
    Columns columns = {x, p.signal, p.each, p.samples, p.groups * p.channels * p.signal.length, p.q_first - reach};

    EACH_BLOCK(b, p.blocks) {
        Block block = block_of(b, p);
        Int f = block.column * COLUMNS;
        if (threadIdx.x == 0) *place = place_of(block, f, p);
        columns.x = x + block.group * p.channels * p.signal.length;
        Slab slab;
        slab.aim(columns, f - reach, (int)p.rings.width);

        int block0 = 0, block1 = (int)channel_blocks;
        if (p.splits > 1) {
            block0 = (int)(block.split * channel_blocks / p.splits);
            block1 = (int)((block.split + 1) * channel_blocks / p.splits);
        }
        Int of_channels = (block.group * p.row_tiles + block.row) * channel_blocks + block0;
        rings.aim(w + of_channels * p.rows.taps * PIECES, block0);

        float sums[MI][NI][4];
        sum_steps<Arithmetic, MI, NI, WM, PIECES>(sums, rings, slab, (block1 - block0) * (int)p.rows.taps, columns, p);
        Place here = *place;
        if (p.splits > 1)
            store_tile<A, MI, NI, WM>(sums, work + here.split * p.samples * p.output.channels * p.output.positions,
                                      nullptr, (A *)shared, here, p);
        else
            store_tile<T, MI, NI, WM>(sums, y, bias, (T *)shared, here, p);
    }
}

#define FUSED(name, arithmetic, mi, ni, wm, at_once)                                                    \
    ENTRY(name, (FUSED_THREADS, at_once),                                                               \
          (const T *x, const Piece *w, const A *bias, T *y, A *work, const Fused p)) {                  \
        fused_tiles<arithmetic, mi, ni, wm>(x, w, bias, y, work, p);                                    \
    }
/* Of 128 rows, two blocks to a multiprocessor; of 64 rows, three. Eight warps to 128 rows, each with half of a warp's
sums, were 1.1 x slower (an H200, 2026-11). */
#if CONVT1D_TYPE == 0
FUSED(fused128_float32, Scalar, 8, 4, 1, 2)
FUSED(fused64_float32, Scalar, 4, 4, 1, 3)
FUSED(fused128_tf32, Tensor, 4, 8, 2, 2)
FUSED(fused64_tf32, Tensor, 4, 4, 1, 3)
FUSED(fused128_3xtf32, Tensor3, 4, 8, 2, 2)
FUSED(fused64_3xtf32, Tensor3, 4, 4, 1, 3)
#else
FUSED(fused128, Tensor, 4, 8, 2, 2)
FUSED(fused64, Tensor, 4, 4, 1, 3)
#endif
#endif
