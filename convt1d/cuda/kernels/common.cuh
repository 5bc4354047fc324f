// SPDX-License-Identifier: MIT
/* What all kernels of the GPU path share: element types, parameter structs, index maps.

The sources are one module for each element type, chosen by CONVT1D_TYPE: this file first, then each kernel's. No header
is needed. Beside each kernel's source its Python says how it is launched; ../policy.py chooses.

Positions count output samples before the crop, u = t + start, cut into steps and phases: u = stride * q + r with
0 <= r < stride. Phase r is reached by one polyphase branch or by none. With g = gcd(stride, dilation), that branch has
the taps k = tap + (stride / g) * j, and tap k meets input sample i = q - delay - (dilation / g) * j:

    stride 2, kernel 5:    q   0     1     2          r = 0: taps 0 2 4 (tap 0, delay 0)
                           u   0  1  2  3  4  5       r = 1: taps 1 3   (tap 1, delay 0)

Outside [0, length) the padding mode says which sample stands there, see ../../padding.py. The stride spreads the signal
after that.

All integers are 64 bits wide. Blocks are counted along x, and a block takes every gridDim.x-th: no size is bound by a
grid's. Each output is written by one thread, which sums in a fixed order: no atomics, the same bits in every run.

A kernel takes its arrays as pointers, which nothing else aliases, and all numbers in one struct by value.
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

#ifdef __CUDACC__  // tests/cuda/cuda_shim.h has these two for the CPU
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

// ---- parameters that several kernels share, see common.py -----------------------------------------------------------

struct Signal {
    Int length;
    Int mode;  // how it continues outside [0, length)
};

// As geometry.Branches has them, and what finds a phase's branch.
struct Branches {
    Int kernel, stride, dilation;
    Int divisor;     // g
    Int inverse;     // of `step` modulo `period`
    Int period;      // taps of one branch are this far apart in the kernel ...
    Int step;        // ... and in the input
    Int taps;
    Int long_count;  // the first so many branches have `taps` taps, the others one less
};

// y (samples, channels, positions), the first of which is position `start` before the crop.
struct Output { Int channels, start, positions; };

// ---- indices ------------------------------------------------------------------------------------------------------

#define THREADS 256  // of a block
#ifndef ENTRY  // tests/cuda/cuda_shim.h has its own, and poisons shared memory
#define ENTRY(name, bounds, parameters) extern "C" __global__ void __launch_bounds__ bounds name parameters
#define SHARED(type, name, size) __shared__ type name[size]
#endif
#define EACH_BLOCK(b, blocks) for (Int b = blockIdx.x; b < (blocks); b += gridDim.x)

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

enum Mode { ZEROS, REFLECT, REPLICATE, CIRCULAR };  // in the order of geometry.PADDING_MODES

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

__device__ __forceinline__ Int source(Int i, const Signal &signal) { return source(i, signal.length, signal.mode); }

struct Phase { Int tap, taps, delay; };

// The taps that reach phase r.
__device__ __forceinline__ Phase phase_of(Int r, const Branches &b) {
    Phase phase = {r, 0, 0};
    if (r >= b.stride) return phase;
    if (b.dilation != 1) {
        Pair p = divide(r, b.divisor);
        if (p.rest) return phase;
        phase.tap = p.quotient * b.inverse % b.period;
        phase.delay = (b.dilation * phase.tap - r) / b.stride;
    }
    if (phase.tap < b.kernel) phase.taps = phase.tap < b.long_count ? b.taps : b.taps - 1;
    return phase;
}
