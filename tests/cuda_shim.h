// SPDX-License-Identifier: MIT
/* convt1d/cuda/kernels.cu on the CPU: its logic, not its speed.

    g++ -x c++ -std=c++17 -shared -fPIC -DCONVT1D_TYPE=0 -DKERNELS='"kernels.cu"' cuda_shim.h -o logic.so

Blocks run one after the other, in any order. The threads of a block are fibres: each runs until it waits at
__syncthreads or ends, then the next, in an order that a seed permutes anew each time. What depends on that order is a
race. Shared memory is poisoned at the start of each block.
*/
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(n)
#define __restrict__ __restrict

namespace shim {
struct Index {
    unsigned x, y, z;
};
constexpr int FIBRES = 256, STACK = 64 * 1024;

Index block, grid, thread;
int current;
long long serial;  // of the block that runs
void (*body)(const long long *);
const long long *arguments;
jmp_buf scheduler, places[FIBRES];
ucontext_t contexts[FIBRES], origin;
bool done[FIBRES], alive[FIBRES];
long long waits[FIBRES];
char stacks[FIBRES][STACK] __attribute__((aligned(64)));

// ucontext makes a fibre, and _longjmp resumes it: swapcontext would ask the system for a signal mask each time
void yield() {
    int self = current;
    if (!_setjmp(places[self])) _longjmp(scheduler, 1);
    current = self;
    thread.x = self;
}

void fibre() {
    for (;;) {
        body(arguments);
        done[current] = true;
        yield();
    }
}

void resume(int index) {
    if (_setjmp(scheduler)) return;
    current = index;
    thread.x = index;
    if (alive[index]) _longjmp(places[index], 1);
    alive[index] = true;
    getcontext(&contexts[index]);
    contexts[index].uc_stack.ss_sp = stacks[index];
    contexts[index].uc_stack.ss_size = STACK;
    contexts[index].uc_link = nullptr;
    makecontext(&contexts[index], fibre, 0);
    setcontext(&contexts[index]);
}

void wait() {
    waits[current]++;
    yield();
}

inline long long gcd(long long a, long long b) { return b ? gcd(b, a % b) : a; }

// the i-th of n: in order for seed 0, backwards for 1, else i * step + start with a step that has no factor of n
struct Order {
    long long n, step, start;
    Order(long long n, unsigned long long seed) : n(n), step(seed == 1 ? n - 1 : 1), start(seed == 1 ? n - 1 : 0) {
        if (seed < 2 || n < 2) return;
        start = seed * 0x9E3779B97F4A7C15ull >> 33;
        step = 1 + (seed * 0xD1B54A32D192ED03ull >> 33) % n;
        while (gcd(step, n) != 1) step++;
    }
    long long operator[](long long i) const { return (i * step + start) % n; }
};

// 0, or -3 if some threads of a block wait at a barrier that others have left out
int run(long long blocks, int threads, unsigned long long seed) {
    Order of_blocks(blocks, seed);
    grid.x = blocks;
    for (long long b = 0; b < blocks; b++) {
        block.x = of_blocks[b];
        serial++;
        std::memset(done, 0, sizeof(done));
        std::memset(waits, 0, sizeof(waits));
        for (bool left = true; left;) {
            Order order(threads, seed > 1 ? seed + serial + waits[0] : seed);
            for (int t = 0; t < threads; t++)
                if (!done[order[t]]) resume(order[t]);
            left = !done[0];
            for (int t = 1; t < threads; t++)
                if (done[t] != done[0] || waits[t] != waits[0]) return -3;
        }
    }
    return 0;
}
}  // namespace shim

#define threadIdx shim::thread
#define blockIdx shim::block
#define gridDim shim::grid
#define __syncthreads shim::wait
#define SHARED(type, name, size)                             \
    alignas(16) static type name[size];                      \
    static long long name##_serial = -1;                     \
    if (name##_serial != shim::serial) {                     \
        std::memset((void *)name, 0xff, sizeof(name));       \
        name##_serial = shim::serial;                        \
    }

inline float __fmaf_ieee_rn(float a, float b, float c) { return std::fma(a, b, c); }
using std::fma;
inline unsigned __float_as_uint(float f) {
    unsigned bits;
    std::memcpy(&bits, &f, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline float half_to_float(unsigned short h) {
    unsigned sign = (unsigned)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    float f = exponent ? std::ldexp(1024.0f + fraction, (int)exponent - 25) : std::ldexp((float)fraction, -24);
    return sign ? -f : f;
}
inline unsigned short float_to_half(float f) {
    unsigned short sign = __float_as_uint(f) >> 31 << 15;
    if (std::isnan(f)) return sign | 0x7fff;
    float a = std::fabs(f);
    if (a >= 65520.0f) return sign | 0x7c00;
    if (a == 0) return sign;
    int exponent;
    std::frexp(a, &exponent);  // a = fraction * 2**exponent, 0.5 <= fraction < 1
    int unit = std::max(exponent - 11, -24);
    unsigned steps = (unsigned)std::nearbyint(std::ldexp(a, -unit));  // to nearest, ties to even; may be 2048
    return sign | (unsigned short)(unit == -24 ? steps : ((unsigned)(unit + 24) << 10) + steps);
}

#include KERNELS

namespace shim {
template <auto kernel> struct Call;
template <class... P, void (*kernel)(P...)> struct Call<kernel> {
    static constexpr int count = sizeof...(P);
    template <size_t... I> static void unpacked(const long long *args, std::index_sequence<I...>) {
        kernel((P)args[I]...);
    }
    static void call(const long long *args) { unpacked(args, std::index_sequence_for<P...>()); }
};
}  // namespace shim

extern "C" int shim_launch(const char *name, long long blocks, const long long *args, int count,
                           unsigned long long seed) {
    shim::arguments = args;
#define TRY(kernel)                                        \
    if (std::strcmp(name, #kernel) == 0) {                 \
        shim::body = shim::Call<kernel>::call;             \
        if (count != shim::Call<kernel>::count) return -2; \
        return shim::run(blocks, THREADS, seed);           \
    }
    TRY(direct)
    TRY(direct4)
    TRY(direct8)
    TRY(direct16)
    TRY(extend)
    TRY(gather)
    TRY(pack)
    TRY(unpack)
    return -1;
}

// an overflow: the tests make sure that they would see one
extern "C" int shim_overflow(int n) { return n + 1; }
