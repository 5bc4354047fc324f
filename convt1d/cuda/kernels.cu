// SPDX-License-Identifier: MIT
/* The kernels of the GPU path; fused.cu has one more.

One module for each element type, chosen by CONVT1D_TYPE, of both files; no header is needed. launch.py says which
kernels follow one another; ../dispatch.py chooses.

Positions count output samples before the crop, u = t + left, cut into steps and phases: u = stride * q + r with
0 <= r < stride. With g = gcd(stride, dilation), the taps that reach phase r are k = tap + (stride / g) * j, and tap k
meets input sample i = q - delay - (dilation / g) * j there:

    stride 2, kernel 5:    q   0     1     2          r = 0: taps 0 2 4 (tap 0, delay 0)
                           u   0  1  2  3  4  5       r = 1: taps 1 3   (tap 1, delay 0)

Outside [0, length) the padding mode says which sample stands there, see ../padding.py. The stride spreads the signal
after that.

All integers are 64 bits wide. Blocks are counted along x, and a block takes every gridDim.x-th: no size is bound by a
grid's. Each output is written by one thread, which sums in a fixed order: no atomics, the same bits in every run.
*/

typedef long long Int;

// ---- element types: T is what arrays hold, A what sums are kept in ------------------------------------------------

// __fmaf_ieee_rn, as the compiler is told to flush subnormal numbers (CuPy always passes -ftz=true)
__device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_ieee_rn(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return fma(a, b, c); }
__device__ __forceinline__ float plus(float a, float b) { return __fmaf_ieee_rn(a, 1.0f, b); }
__device__ __forceinline__ double plus(double a, double b) { return a + b; }

template <class R> struct __align__(2 * sizeof(R)) Complex {
    R re, im;
    Complex() = default;
    __device__ __forceinline__ Complex(R real) : re(real), im(0) {}
    __device__ __forceinline__ Complex(R real, R imaginary) : re(real), im(imaginary) {}
};
template <class R> __device__ __forceinline__ Complex<R> fused(Complex<R> a, Complex<R> b, Complex<R> c) {
    return Complex<R>(fused(-a.im, b.im, fused(a.re, b.re, c.re)), fused(a.im, b.re, fused(a.re, b.im, c.im)));
}
template <class R> __device__ __forceinline__ Complex<R> plus(Complex<R> a, Complex<R> b) {
    return Complex<R>(plus(a.re, b.re), plus(a.im, b.im));
}

struct Half { unsigned short bits; };
struct BFloat16 { unsigned short bits; };

#ifdef __CUDACC__  // tests/cuda_shim.h has these two for the CPU
__device__ __forceinline__ float half_to_float(unsigned short h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
__device__ __forceinline__ unsigned short float_to_half(float f) {
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
#endif

// sums are kept in the element type, of the half types in float
template <class T> struct Sum { typedef T type; };
template <> struct Sum<Half> { typedef float type; };
template <> struct Sum<BFloat16> { typedef float type; };

template <class T> __device__ __forceinline__ T load(const T *p) { return *p; }
__device__ __forceinline__ float load(const Half *p) { return half_to_float(p->bits); }
__device__ __forceinline__ float load(const BFloat16 *p) { return __uint_as_float((unsigned)p->bits << 16); }

template <class T> __device__ __forceinline__ void store(T *p, T value) { *p = value; }
__device__ __forceinline__ void store(Half *p, float value) { p->bits = float_to_half(value); }
__device__ __forceinline__ void store(BFloat16 *p, float value) {
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)  // NaN: rounding could carry it into infinity
        bits |= 0x400000u;
    else
        bits += 0x7fffu + (bits >> 16 & 1u);  // to nearest, ties to even
    p->bits = (unsigned short)(bits >> 16);
}

#if CONVT1D_TYPE == 0
typedef float T;
#elif CONVT1D_TYPE == 1
typedef double T;
#elif CONVT1D_TYPE == 2
typedef Half T;
#elif CONVT1D_TYPE == 3
typedef BFloat16 T;
#elif CONVT1D_TYPE == 4
typedef Complex<float> T;
#elif CONVT1D_TYPE == 5
typedef Complex<double> T;
#else
#error "CONVT1D_TYPE must be 0 (float32), 1 (float64), 2 (float16), 3 (bfloat16), 4 (complex64) or 5 (complex128)"
#endif
typedef Sum<T>::type A;

// ---- indices ------------------------------------------------------------------------------------------------------

#define THREADS 256  // of every block
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define EACH_BLOCK(b, blocks) for (Int b = blockIdx.x; b < (blocks); b += gridDim.x)
#ifndef SHARED  // the shim poisons it
#define SHARED(type, name, size) __shared__ type name[size]
#endif

struct Pair { Int quotient, rest; };

// Of numbers that are not negative. A 64-bit division takes some 70 instructions, one of 32 bits 20, and most numbers
// are small; many divisors are one.
__device__ __forceinline__ Pair divide(Int a, Int b) {
    Pair p;
    if (b == 1) {
        p.quotient = a;
        p.rest = 0;
    } else if ((a | b) >> 32 == 0) {
        p.quotient = (unsigned)a / (unsigned)b;
        p.rest = (unsigned)a - (unsigned)p.quotient * (unsigned)b;
    } else {
        p.quotient = a / b;
        p.rest = a - p.quotient * b;
    }
    return p;
}

enum Mode { ZEROS, REFLECT, REPLICATE, CIRCULAR };

// The sample that stands at position i; -1 for zero. The index maps of padding.source_index.
__device__ __forceinline__ Int source(Int i, Int length, Int mode) {
    if (i >= 0 && i < length) return i;
    if (mode == ZEROS) return -1;
    if (mode == REPLICATE) return i < 0 ? 0 : length - 1;
    if (mode == REFLECT && length == 1) return 0;
    Int period = mode == CIRCULAR ? length : 2 * (length - 1);
    Int m = i % period;
    if (m < 0) m += period;
    return mode == REFLECT && m > length - 1 ? period - m : m;
}

struct Phase { Int tap, taps, delay; };

// The taps that reach phase r. `taps` and `full` as in dispatch.SlotLayout: slots below `full` have `taps` taps, the
// others one less; `divisor` is g, `inverse` that of dilation / g modulo period.
__device__ __forceinline__ Phase phase_of(Int r, Int kernel, Int stride, Int dilation, Int divisor, Int inverse,
                                          Int period, Int taps, Int full) {
    Phase phase = {r, 0, 0};
    if (r >= stride) return phase;
    if (dilation != 1) {
        Pair p = divide(r, divisor);
        if (p.rest) return phase;
        phase.tap = p.quotient * inverse % period;
        phase.delay = (dilation * phase.tap - r) / stride;
    }
    if (phase.tap < kernel) phase.taps = phase.tap < full ? taps : taps - 1;
    return phase;
}

// ---- direct: each thread sums its outputs, nothing between input and output ---------------------------------------

#define DIRECT_STEPS 1024  // whose inputs wait in shared memory

/* The sums of steps i, i + turn ... below `end`, stored `apart` from one another. NEXT: taps lie side by side, so that
their addresses are one address and constants. */
template <int CAPACITY, bool NEXT>
__device__ __forceinline__ void sums_of_taps(const A *at, T *__restrict__ to, const A (&held)[CAPACITY], A initial,
                                             int taps, int back, int i, int end, int turn, Int apart) {
    const int AT_ONCE = CAPACITY * sizeof(A) <= 32 ? 4 : 2;
#pragma unroll AT_ONCE
    for (; i < end; i += turn, at += turn, to += apart) {
        A sum = A(0);
#pragma unroll
        for (int j = 0; j < CAPACITY; j++)
            if (j < taps) sum = fused(held[j], at[-j * (NEXT ? 1 : back)], sum);
        store(to, plus(sum, initial));
    }
}

/* One input channel for each group and at most CAPACITY taps to a phase: the weights stay in registers. CAPACITY 0:
any geometry. A block computes `span` steps q of `lanes` phases of one output channel of one sample; lanes are
consecutive phases, so that stores are, too. Where all that a step reads, `reach` samples back, lies inside the signal,
it waits in shared memory: read by the whole block at once, and not by each thread as it goes, which waited for memory
two thirds of its time (an H200, 2026-11). */
template <int CAPACITY>
__device__ __forceinline__ void direct_sum(
    const T *__restrict__ x, const T *__restrict__ w, const A *__restrict__ bias, T *__restrict__ y, Int length,
    Int channels, Int out_channels, Int outputs, Int kernel, Int stride, Int dilation, Int divisor, Int inverse,
    Int period, Int step, Int taps, Int full, Int mode, Int start, Int positions, Int first, Int last, Int span,
    Int spans, Int lanes, Int lane_blocks, Int reach, Int blocks) {
    SHARED(A, inputs, CAPACITY ? 2 * DIRECT_STEPS : 1);
    Int lane = threadIdx.x % (unsigned)lanes, along = threadIdx.x / (unsigned)lanes, rows = THREADS / (unsigned)lanes;
    EACH_BLOCK(b, blocks) {
        Pair of_span = divide(b, spans), of_lanes = divide(of_span.quotient, lane_blocks);
        Pair of_channel = divide(of_lanes.quotient, out_channels);
        Int channel = of_channel.rest, group = outputs == 1 ? channel : divide(channel, outputs).quotient;
        Int r = of_lanes.rest * lanes + lane;
        Phase phase = phase_of(r, kernel, stride, dilation, divisor, inverse, period, taps, full);
        bool idle = r >= stride || along >= rows;
        if (!CAPACITY && idle) continue;
        Int groups = divide(out_channels, outputs).quotient;
        const T *signal = x + (of_channel.quotient * groups + group) * channels * length;
        // weight (in channels, outputs, kernel): the group's first channel, this output
        const T *weights = w + (group * channels * outputs + (channel - group * outputs)) * kernel + phase.tap;
        A initial = bias ? bias[channel] : A(0);
        T *out = y + of_lanes.quotient * positions;
        Int q0 = first + of_span.rest * span, q1 = q0 + span < last ? q0 + span : last;
        // Steps whose output lies within the crop, from this thread's first on.
        Int low = q0, high = q1;
        if (low * stride + r < start) low++;
        if (high > low && (high - 1) * stride + r - start >= positions) high--;
        if (idle) low = high = q0;  // no steps of their own, but they read for the others
        Int inner = high, past = high;  // of these, the steps that read inside the signal only
        if (CAPACITY && reach <= DIRECT_STEPS) {
            Int all0 = q0 > reach ? q0 : reach, all1 = q1 < length ? q1 : length;  // of the whole block
            inner = all0 < low ? low : all0 > high ? high : all0;
            past = all1 < inner ? inner : all1 > high ? high : all1;  // of an idle thread both are q0
            const int HELD = CAPACITY ? CAPACITY : 1;
            A held[HELD];
#pragma unroll
            for (int j = 0; j < CAPACITY; j++) held[j] = j < phase.taps ? load(weights + j * period) : A(0);
            int count = (int)phase.taps, back = (int)step, turn = (int)rows, shift = (int)(reach - phase.delay);
            for (Int base = all0; base < all1; base += DIRECT_STEPS) {
                int steps = all1 - base < DIRECT_STEPS ? (int)(all1 - base) : DIRECT_STEPS;
                const T *from = signal + (base - reach);
                __syncthreads();  // what was there has been read
                for (int e = threadIdx.x; e < steps + (int)reach; e += THREADS) inputs[e] = load(from + e);
                __syncthreads();
                int i = (int)along, end = past - base < steps ? (int)(past - base) : steps;
                if (base + i < inner) i += turn;  // the crop begins a step later for some phases
                T *to = out + ((base + i) * stride + r - start);
                const A *at = inputs + (shift + i);
                if (back == 1) sums_of_taps<HELD, true>(at, to, held, initial, count, 1, i, end, turn, rows * stride);
                else sums_of_taps<HELD, false>(at, to, held, initial, count, back, i, end, turn, rows * stride);
            }
        }
#pragma unroll 1
        for (int edge = 0; edge < 2; edge++) {
            Int q = (edge ? past : low) + along, end = edge ? high : inner;
#pragma unroll 1
            for (; q < end; q += rows) {
                A sum = A(0);
#pragma unroll 1
                for (Int j = 0; j < phase.taps; j++) {
                    Int at = source(q - phase.delay - j * step, length, mode);
                    if (at < 0) continue;
#pragma unroll 1
                    for (Int c = 0; c < channels; c++)
                        sum = fused(load(weights + c * outputs * kernel + j * period), load(signal + c * length + at),
                                    sum);
                }
                store(out + (q * stride + r - start), plus(sum, initial));
            }
        }
    }
}

#define DIRECT(name, capacity)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, sizeof(A) == 4 ? 3 : 2)                                    \
           name(const T *x, const T *w, const A *bias, T *y, Int length, Int channels, Int out_channels,             \
                Int outputs, Int kernel, Int stride, Int dilation, Int divisor, Int inverse, Int period, Int step,   \
                Int taps, Int full, Int mode, Int start, Int positions, Int first, Int last, Int span, Int spans,    \
                Int lanes, Int lane_blocks, Int reach, Int blocks) {                                                 \
        direct_sum<capacity>(x, w, bias, y, length, channels, out_channels, outputs, kernel, stride, dilation,       \
                             divisor, inverse, period, step, taps, full, mode, start, positions, first, last, span,  \
                             spans, lanes, lane_blocks, reach, blocks);                                              \
    }
DIRECT(direct, 0)
DIRECT(direct4, 4)
DIRECT(direct8, 8)
DIRECT(direct16, 16)

// ---- columns: cuBLAS multiplies each tap with each sample, gather sums ---------------------------------------------

/* The signal at positions first ... first + count - 1, as its mode continues it: a stretch for the product to read
where none such lies in x. rows: samples x channels. */
KERNEL extend(const T *__restrict__ x, T *__restrict__ stretch, Int length, Int mode, Int first, Int count, Int leading,
              Int pieces, Int blocks) {
    EACH_BLOCK(b, blocks) {
        Pair p = divide(b, pieces);
        Int j = p.rest * THREADS + threadIdx.x;
        if (j >= leading) continue;
        Int at = j < count ? source(first + j, length, mode) : -1;
        T value;
        if (at >= 0) value = x[p.quotient * length + at];
        else store(&value, A(0));
        stretch[p.quotient * leading + j] = value;
    }
}

#define TILE 2048  // outputs of one block
#define PADDED(e) ((e) + ((e) >> 5))  // lanes a power of two apart meet different banks

/* columns (samples, groups, outputs, kernel, leading), columns `first` to `first + count` of them: of the `length`
samples where a mode continues them, and for zeros of a stretch of any positions (length = count, mode ZEROS).
A block sums 2**log_steps x 2**log_phases outputs with lanes along the columns, and writes them with lanes along the
output. */
KERNEL gather(const A *__restrict__ columns, const A *__restrict__ bias, T *__restrict__ y, Int leading, Int first,
              Int count, Int mode, Int kernel, Int stride, Int dilation, Int divisor, Int inverse, Int period,
              Int step, Int taps, Int full, Int groups, Int outputs, Int group0, Int output0, Int all_outputs,
              Int out_channels, Int start, Int positions, Int u0, Int u1, Int q_first, Int q_blocks, Int r_blocks,
              Int log_steps, Int log_phases, Int blocks) {
    SHARED(A, tile, PADDED(TILE));
    int steps = 1 << log_steps, phases = 1 << log_phases;
    EACH_BLOCK(b, blocks) {
        Pair of_q = divide(b, q_blocks), of_r = divide(of_q.quotient, r_blocks);
        Int row = of_r.quotient;
        Pair of_output = divide(row, outputs), of_group = divide(of_output.quotient, groups);
        Int channel = (group0 + of_group.rest) * all_outputs + output0 + of_output.rest;
        Int q0 = q_first + of_q.rest * steps, r0 = of_r.rest * phases;
        const A *taps_of_row = columns + row * kernel * leading;
        for (int e = threadIdx.x; e < steps * phases; e += THREADS) {
            int qi = e & (steps - 1), ri = e >> log_steps;
            Phase phase = phase_of(r0 + ri, kernel, stride, dilation, divisor, inverse, period, taps, full);
            Int i = q0 + qi - phase.delay;
            A sum = A(0);
#pragma unroll 2
            for (Int j = 0; j < phase.taps; j++, i -= step) {
                Int at = source(i - first, count, mode);
                if (at >= 0) sum = plus(sum, taps_of_row[(phase.tap + j * period) * leading + at]);
            }
            tile[PADDED(qi * phases + ri)] = sum;
        }
        __syncthreads();
        A initial = bias ? bias[channel] : A(0);
        T *out = y + (of_group.quotient * out_channels + channel) * positions - start;
        for (int e = threadIdx.x; e < steps * phases; e += THREADS) {
            int ri = e & (phases - 1), qi = e >> log_phases;
            Int u = (q0 + qi) * stride + r0 + ri;
            if (r0 + ri < stride && u >= u0 && u < u1)
                store(out + u, plus(tile[PADDED(e)], initial));
        }
        __syncthreads();
    }
}

// ---- rows: one product over overlapping rows of a time-major signal (dilation 1) -----------------------------------

#define SIDE 32   // channels of one block
#define TIMES 64  // and times

/* packed (groups, rows, channels): sample n's positions first ... first + each - 1 are rows n * each ...; what is left
of `rows` beyond the last sample is zero. */
KERNEL pack(const T *__restrict__ x, T *__restrict__ packed, Int length, Int mode, Int first, Int samples, Int each,
            Int rows, Int channels, Int in_channels, Int row_blocks, Int channel_blocks, Int blocks) {
    SHARED(T, tile, SIDE * (TIMES + 1));
    EACH_BLOCK(b, blocks) {
        Pair of_channel = divide(b, channel_blocks), of_row = divide(of_channel.quotient, row_blocks);
        Int group = of_row.quotient, c0 = of_channel.rest * SIDE, row0 = of_row.rest * TIMES;
        int ti = threadIdx.x % TIMES;
        Pair of_sample = divide(row0 + ti, each);
        Int at = of_sample.quotient < samples ? source(first + of_sample.rest, length, mode) : -1;
        const T *signal = x + (of_sample.quotient * in_channels + group * channels + c0) * length + at;
        for (int ci = threadIdx.x / TIMES; ci < SIDE; ci += THREADS / TIMES) {
            T value;
            if (at >= 0 && c0 + ci < channels) value = signal[ci * length];
            else store(&value, A(0));
            tile[ci * (TIMES + 1) + ti] = value;
        }
        __syncthreads();
        int ci = threadIdx.x % SIDE;
        for (int t = threadIdx.x / SIDE; t < TIMES; t += THREADS / SIDE)
            if (c0 + ci < channels && row0 + t < rows)
                packed[(group * rows + row0 + t) * channels + c0 + ci] = tile[ci * (TIMES + 1) + t];
        __syncthreads();
    }
}

/* sums (groups, all_rows, slots, outputs): row n * each + q - q_first holds the outputs of sample n's step q. */
KERNEL unpack(const A *__restrict__ sums, const A *__restrict__ bias, T *__restrict__ y, Int each, Int all_rows,
              Int slots, Int outputs, Int groups, Int stride, Int q_first, Int out_channels, Int start, Int positions,
              Int u0, Int u1, Int u_blocks, Int output_blocks, Int blocks) {
    SHARED(A, tile, SIDE * (TIMES + 1));
    EACH_BLOCK(b, blocks) {
        Pair of_output = divide(b, output_blocks), of_u = divide(of_output.quotient, u_blocks);
        Pair of_group = divide(of_u.quotient, groups);
        Int o0 = of_output.rest * SIDE, from = u0 + of_u.rest * TIMES;
        Pair step = divide(from, stride);
        const A *rows =
            sums + (of_group.rest * all_rows + of_group.quotient * each + step.quotient - q_first) * slots * outputs;
        int oi = threadIdx.x % SIDE;
        for (int ti = threadIdx.x / SIDE; ti < TIMES; ti += THREADS / SIDE) {
            Pair p = divide(step.rest + ti, stride);
            A value = A(0);
            if (p.rest < slots && from + ti < u1 && o0 + oi < outputs)
                value = rows[(p.quotient * slots + p.rest) * outputs + o0 + oi];
            tile[oi * (TIMES + 1) + ti] = value;
        }
        __syncthreads();
        int ti = threadIdx.x % TIMES;
        Int u = from + ti;
        for (int o = threadIdx.x / TIMES; o < SIDE; o += THREADS / TIMES)
            if (u < u1 && o0 + o < outputs) {
                Int channel = of_group.rest * outputs + o0 + o;
                A initial = bias ? bias[channel] : A(0);
                store(y + (of_group.quotient * out_channels + channel) * positions + u - start,
                      plus(tile[o * (TIMES + 1) + ti], initial));
            }
        __syncthreads();
    }
}
