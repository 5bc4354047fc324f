// SPDX-License-Identifier: MIT
/* The kernels' source (backend.source()) on the CPU: its logic, not its speed.

    g++ -x c++ -std=c++17 -shared -fPIC -DCONVT1D_TYPE=0 -DKERNELS='"source.cu"' cuda_shim.h -o logic.so

Each kernel that ENTRY declares is found by its name, with its number of pointers and the size of its parameters.

Blocks run one after the other, in any order. The threads of a block are fibres: each runs until it waits at
__syncthreads, for its warp in a matrix product, or ends, then the next, in an order that a seed permutes anew each
time. What depends on that order is a race. Shared memory is poisoned at the start of each block.

Asynchronous copies arrive as late as they may, when their group is waited for, or, where the seed is odd, at once: the
first finds a wait that is missing, the second memory that is overwritten while it is read.
*/
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __restrict__ __restrict

namespace shim {
struct Index {
    unsigned x, y, z;
};
constexpr int FIBRES = 256, STACK = 64 * 1024, WARP = 32, SHARED_BYTES = 256 * 1024;

Index block, grid, thread;
int current;
long long serial;  // of the block that runs
struct Arguments {
    const long long *pointers;
    const void *params;
};
void (*body)(const Arguments &);
Arguments arguments;
jmp_buf scheduler, places[FIBRES];
ucontext_t contexts[FIBRES], origin;
enum State { READY, AT_BARRIER, AT_PRODUCT, DONE } states[FIBRES];
bool alive[FIBRES];
char stacks[FIBRES][STACK] __attribute__((aligned(64)));
unsigned char shared[SHARED_BYTES] __attribute__((aligned(128)));  // what a launch asks for

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
        states[current] = DONE;
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
    states[current] = AT_BARRIER;
    yield();
}

// ---- asynchronous copies ----

struct Copy {
    void *to;
    const void *from;  // null: zeros
    int bytes;
    void run() const {
        if (from) std::memcpy(to, from, bytes);
        else std::memset(to, 0, bytes);
    }
};
bool at_once;
std::vector<Copy> open_copies[FIBRES];              // of the group that is not closed yet
std::deque<std::vector<Copy>> closed_copies[FIBRES];  // groups

void copy(void *to, const void *from, int bytes) {
    if (((unsigned long long)to | (unsigned long long)from) % bytes) std::abort();  // as a GPU does
    Copy made = {to, from, bytes};
    if (at_once) made.run();
    else open_copies[current].push_back(made);
}
void commit() {
    closed_copies[current].push_back(std::move(open_copies[current]));
    open_copies[current].clear();
}
void wait_for_copies(size_t but) {
    auto &groups = closed_copies[current];
    for (; groups.size() > but; groups.pop_front())
        for (const Copy &made : groups.front()) made.run();
}

// ---- products of a warp ----

struct Product {
    unsigned a[WARP][4], b[WARP][2];
    float d[WARP][4];
    int arrived;
} products[FIBRES / WARP];

/* What a tensor core makes of c + the sum of n products (Fasi et al., "Numerical behavior of NVIDIA tensor cores",
2021, on the A100): the products are exact, all summands are cut off 24 bits below the largest one's exponent, and so is
the sum: nothing is rounded. */
float accumulate(float c, const float *a, const float *b, int n) {
    double terms[17], largest = 0, plain = c;
    for (int i = 0; i < n; i++) plain += terms[i] = (double)a[i] * b[i];
    terms[n] = c;
    for (int i = 0; i <= n; i++) largest = std::max(largest, std::fabs(terms[i]));
    if (!std::isfinite(plain)) return (float)plain;
    if (largest == 0) return 0;
    int exponent;
    std::frexp(largest, &exponent);
    double unit = std::ldexp(1.0, exponent - 25);
    long long sum = 0;
    for (int i = 0; i <= n; i++) sum += (long long)(terms[i] / unit);
    double exact = sum * unit;
    if (std::fabs(exact) < 1e-36) return (float)exact;
    unsigned long long bits;
    std::memcpy(&bits, &exact, 8);
    bits &= ~((1ull << 29) - 1);
    std::memcpy(&exact, &bits, 8);
    return (float)exact;
}

template <int DEPTH, class Value> void multiply(Product &p, Value value) {
    static float a[16][DEPTH], b[8][DEPTH];
    bool none[16];
    bool finite = true;
    constexpr int PACK = DEPTH / 8;  // values to a word; see the fragments' layouts in the PTX manual
    for (int lane = 0; lane < WARP; lane++)
        for (int e = 0; e < PACK; e++) {
            for (int i = 0; i < 4; i++)
                a[lane / 4 + 8 * (i % 2)][PACK * (lane % 4) + DEPTH / 2 * (i / 2) + e] = value(p.a[lane][i], e);
            for (int i = 0; i < 2; i++) {
                float each = value(p.b[lane][i], e);
                b[lane / 4][PACK * (lane % 4) + DEPTH / 2 * i + e] = each;
                finite = finite && std::isfinite(each);
            }
        }
    for (int i = 0; i < 16; i++) {
        none[i] = finite;
        for (int k = 0; k < DEPTH; k++) none[i] = none[i] && a[i][k] == 0;
    }
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            if (!none[row]) p.d[lane][i] = accumulate(p.d[lane][i], a[row], b[column], DEPTH);
        }
}

// All lanes bring their parts, the last one computes.
template <int DEPTH, class Value>
void product(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Value value) {
    Product &p = products[current / WARP];
    int lane = current % WARP;
    std::memcpy(p.a[lane], a, sizeof(a));
    std::memcpy(p.d[lane], d, sizeof(d));
    p.b[lane][0] = b0;
    p.b[lane][1] = b1;
    if (++p.arrived < WARP) {
        states[current] = AT_PRODUCT;
        yield();
    } else {
        multiply<DEPTH>(p, value);
        p.arrived = 0;
        int first = current - lane;
        for (int i = first; i < first + WARP; i++) states[i] = READY;
    }
    std::memcpy(d, p.d[lane], sizeof(d));
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

// 0; -3 if some threads of a block wait at a barrier, or for their warp, and others have left it out; -4 for a write
// past the shared memory that was asked for; -5 if copies were not waited for
int run(long long blocks, int threads, long long shared_bytes, unsigned long long seed) {
    Order of_blocks(blocks, seed);
    grid.x = blocks;
    at_once = seed % 2;
    if (shared_bytes + 1024 > SHARED_BYTES) return -4;
    for (long long b = 0; b < blocks; b++) {
        block.x = of_blocks[b];
        serial++;
        std::memset(shared, 0xff, shared_bytes + 1024);
        for (Product &p : products) p.arrived = 0;
        for (int t = 0; t < threads; t++) {
            states[t] = READY;
            open_copies[t].clear();
            closed_copies[t].clear();
        }
        for (unsigned long long turn = 0;; turn++) {
            Order order(threads, seed > 1 ? seed + serial + turn : seed);
            bool moved = false;
            for (int t = 0; t < threads; t++)
                if (states[order[t]] == READY) {
                    moved = true;
                    resume(order[t]);
                }
            if (moved) continue;
            State common = states[0];
            for (int t = 1; t < threads; t++)
                if (states[t] != common) return -3;
            if (common == DONE) break;
            if (common == AT_PRODUCT) return -3;
            for (int t = 0; t < threads; t++) states[t] = READY;
        }
        for (int i = 0; i < 1024; i++)
            if (shared[shared_bytes + i] != 0xff) return -4;
        for (int t = 0; t < threads; t++) {
            if (!open_copies[t].empty()) return -5;
            for (const auto &group : closed_copies[t])
                if (!group.empty()) return -5;
        }
    }
    return 0;
}
}  // namespace shim

#define threadIdx shim::thread
#define blockIdx shim::block
#define gridDim shim::grid
#define __syncthreads shim::wait
#define __syncwarp()  // only ever where nothing depends on it
#define SHARED(type, name, size)                             \
    alignas(16) static type name[size];                      \
    static long long name##_serial = -1;                     \
    if (name##_serial != shim::serial) {                     \
        std::memset((void *)name, 0xff, sizeof(name));       \
        name##_serial = shim::serial;                        \
    }

#define DYNAMIC_SHARED(name) unsigned char *name = shim::shared

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

inline void copy_word(void *to, const void *from, bool valid) { shim::copy(to, valid ? from : nullptr, 4); }
inline void copy_piece(void *to, const void *from, bool valid) { shim::copy(to, valid ? from : nullptr, 16); }
inline void copies_commit() { shim::commit(); }
template <int N> void copies_wait() { shim::wait_for_copies(N); }

inline unsigned tf32(float value) {
    if (std::isnan(value)) return 0x7fffffff;
    unsigned bits = __float_as_uint(value);
    return std::isinf(value) ? bits : (bits + 0x1000) & ~0x1fffu;  // to nearest, ties away
}
struct Half;
struct BFloat16;
// what a tensor core takes of a TF32 factor, rounded or not: the upper 19 bits
inline void mma(float, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    shim::product<8>(d, a, b0, b1, [](unsigned word, int) { return __uint_as_float(word & ~0x1fffu); });
}
inline void mma(const Half &, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    shim::product<16>(d, a, b0, b1, [](unsigned word, int e) { return half_to_float(word >> 16 * e & 0xffff); });
}
inline void mma(const BFloat16 &, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    shim::product<16>(d, a, b0, b1, [](unsigned word, int e) { return __uint_as_float(word >> 16 * e << 16); });
}

// ---- kernels by name ----

namespace shim {
struct Entry {
    void (*call)(const Arguments &);
    int threads, pointers;
    long long size;  // bytes of the parameters
};
std::map<std::string, Entry> &entries() {
    static std::map<std::string, Entry> all;
    return all;
}

template <auto kernel> struct Call;
template <class... P, void (*kernel)(P...)> struct Call<kernel> {
    template <class Q> static Q argument(const Arguments &given, size_t i) {
        if constexpr (std::is_pointer_v<Q>) return (Q)given.pointers[i];
        else return *(const Q *)given.params;
    }
    template <size_t... I> static void unpacked(const Arguments &given, std::index_sequence<I...>) {
        kernel(argument<P>(given, I)...);
    }
    static void call(const Arguments &given) { unpacked(given, std::index_sequence_for<P...>()); }
    static constexpr int pointers = (std::is_pointer_v<P> + ...);
    static constexpr long long size = ((std::is_pointer_v<P> ? 0 : (long long)sizeof(P)) + ...);
};

template <auto kernel> struct Registered {
    Registered(const char *name, int threads) {
        entries()[name] = {Call<kernel>::call, threads, Call<kernel>::pointers, Call<kernel>::size};
    }
};
constexpr int first(int threads, int = 0) { return threads; }
}  // namespace shim

#define ENTRY(name, bounds, parameters)                                         \
    extern "C" void name parameters;                                            \
    static shim::Registered<name> name##_registered(#name, shim::first bounds); \
    extern "C" void name parameters

#include KERNELS
#ifdef LAYOUT  // assertions about the parameter structs
#include LAYOUT
#endif

// -1: no such kernel; -2: launched with other arguments than it takes; else as shim::run
extern "C" int shim_launch(const char *name, long long blocks, int threads, long long shared_bytes,
                           const long long *pointers, int count, const void *params, long long size,
                           unsigned long long seed) {
    auto found = shim::entries().find(name);
    if (found == shim::entries().end()) return -1;
    const shim::Entry &entry = found->second;
    if (count != entry.pointers || size != entry.size || threads != entry.threads) return -2;
    shim::body = entry.call;
    shim::arguments = {pointers, params};
    return shim::run(blocks, threads, shared_bytes, seed);
}

// an overflow: the tests make sure that they would see one
extern "C" int shim_overflow(int n) { return n + 1; }
