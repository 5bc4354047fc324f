// SPDX-License-Identifier: MIT
/* direct: each thread sums its outputs, with nothing between input and output.

A block computes `span` steps q of `lanes` phases of one output channel of one sample. Lanes are consecutive phases, so
that stores are, too.
*/

#define DIRECT_STEPS 1024  // whose inputs wait in shared memory

struct Direct {
    Signal signal;
    Int channels;           // input channels of a group
    Int outputs;            // output channels of a group
    Branches branches;
    Output output;
    Int q_first, q_past;    // steps of the output
    Int span, spans;        // steps of a block, blocks to a row of steps
    Int lanes, lane_blocks; // phases of a block, blocks to a row of phases
    Int reach;              // samples that a step reads back, at most
    Int blocks;
};

/* The sums of steps i, i + turn ... below `end`, stored `to_step` elements apart. NEXT: taps lie side by side, so that
their addresses are one address and constants. */
template <int CAPACITY, bool NEXT>
__device__ __forceinline__ void sums_of_taps(const A *at, T *__restrict__ to, const A (&held)[CAPACITY], A initial,
                                             int taps, int back, int i, int end, int turn, Int to_step) {
    const int AT_ONCE = CAPACITY * sizeof(A) <= 32 ? 4 : 2;
#pragma unroll AT_ONCE
    for (; i < end; i += turn, at += turn, to += to_step) {
        A sum = A(0);
#pragma unroll
        for (int j = 0; j < CAPACITY; j++)
            if (j < taps) sum = fused(held[j], at[-j * (NEXT ? 1 : back)], sum);
        store(to, plus(sum, initial));
    }
}

// The sum of step q, wherever it reads: tap by tap and channel by channel.
__device__ __forceinline__ A sum_at(Int q, const Phase &phase, const T *__restrict__ signal,
                                    const T *__restrict__ weights, const Direct &p) {
    A sum = A(0);
#pragma unroll 1
    for (Int j = 0; j < phase.taps; j++) {
        Int at = source(q - phase.delay - j * p.branches.step, p.signal);
        if (at < 0) continue;
#pragma unroll 1
        for (Int c = 0; c < p.channels; c++)
            sum = fused(load(weights + c * p.outputs * p.branches.kernel + j * p.branches.period),
                        load(signal + c * p.signal.length + at), sum);
    }
    return sum;
}

/* One input channel for each group and at most CAPACITY taps to a phase: the weights stay in registers. CAPACITY 0:
any geometry. Where all that a step reads lies inside the signal, it waits in shared memory, which the whole block reads
at once. Threads that read as they go wait for memory two thirds of their time (an H200, 2026-11). */
template <int CAPACITY>
__device__ __forceinline__ void direct_sum(const T *__restrict__ x, const T *__restrict__ w,
                                           const A *__restrict__ bias, T *__restrict__ y, const Direct &p) {
    SHARED(A, inputs, CAPACITY ? 2 * DIRECT_STEPS : 1);
    Int lanes = p.lanes, stride = p.branches.stride, reach = p.reach, length = p.signal.length, channels = p.channels;
    Int lane = threadIdx.x % (unsigned)lanes, along = threadIdx.x / (unsigned)lanes, rows = THREADS / (unsigned)lanes;
    EACH_BLOCK(b, p.blocks) {
        Pair of_span = divide(b, p.spans), of_lanes = divide(of_span.quotient, p.lane_blocks);
        Pair of_channel = divide(of_lanes.quotient, p.output.channels);
        Int channel = of_channel.rest, group = p.outputs == 1 ? channel : divide(channel, p.outputs).quotient;
        Int r = of_lanes.rest * lanes + lane;
        Phase phase = phase_of(r, p.branches);
        bool idle = r >= stride || along >= rows;
        if (!CAPACITY && idle) continue;
        Int groups = divide(p.output.channels, p.outputs).quotient;
        const T *signal = x + (of_channel.quotient * groups + group) * channels * length;
        // weight (in channels, outputs, kernel): the group's first channel, this output
        Int of_output = group * channels * p.outputs + (channel - group * p.outputs);
        const T *weights = w + of_output * p.branches.kernel + phase.tap;
        A initial = bias ? bias[channel] : A(0);
        T *out = y + of_lanes.quotient * p.output.positions;
        Int q0 = p.q_first + of_span.rest * p.span, q1 = q0 + p.span < p.q_past ? q0 + p.span : p.q_past;
        // Steps whose output lies within the crop, from this thread's first on.
        Int low = q0, high = q1, offset = r - p.output.start;
        if (low * stride + r < p.output.start) low++;
        if (high > low && (high - 1) * stride + offset >= p.output.positions) high--;
        if (idle) low = high = q0;  // no steps of their own, but they read for the others
        Int inner = high, past = high;  // of these, the steps that read inside the signal only
        if (CAPACITY && reach <= DIRECT_STEPS) {
            Int all0 = q0 > reach ? q0 : reach, all1 = q1 < length ? q1 : length;  // of the whole block
            inner = all0 < low ? low : all0 > high ? high : all0;
            past = all1 < inner ? inner : all1 > high ? high : all1;  // of an idle thread both are q0
            const int HELD = CAPACITY ? CAPACITY : 1;
            A held[HELD];
#pragma unroll
            for (int j = 0; j < CAPACITY; j++)
                held[j] = j < phase.taps ? load(weights + j * p.branches.period) : A(0);
            int count = (int)phase.taps, back = (int)p.branches.step, turn = (int)rows;
            int shift = (int)(reach - phase.delay);
            for (Int base = all0; base < all1; base += DIRECT_STEPS) {
                int steps = all1 - base < DIRECT_STEPS ? (int)(all1 - base) : DIRECT_STEPS;
                const T *from = signal + (base - reach);
                __syncthreads();  // what was there has been read
                for (int e = threadIdx.x; e < steps + (int)reach; e += THREADS) inputs[e] = load(from + e);
                __syncthreads();
                int i = (int)along, end = past - base < steps ? (int)(past - base) : steps;
                if (base + i < inner) i += turn;  // the crop begins a step later for some phases
                T *to = out + ((base + i) * stride + offset);
                const A *at = inputs + (shift + i);
                if (back == 1) sums_of_taps<HELD, true>(at, to, held, initial, count, 1, i, end, turn, rows * stride);
                else sums_of_taps<HELD, false>(at, to, held, initial, count, back, i, end, turn, rows * stride);
            }
        }
#pragma unroll 1
        for (int edge = 0; edge < 2; edge++) {
            Int q = (edge ? past : low) + along, end = edge ? high : inner;
#pragma unroll 1
            for (; q < end; q += rows)
                store(out + (q * stride + offset), plus(sum_at(q, phase, signal, weights, p), initial));
        }
    }
}

// Three blocks to a multiprocessor, or two where sums are wider.
#define DIRECT(name, capacity)                                                                          \
    ENTRY(name, (THREADS, sizeof(A) == 4 ? 3 : 2),                                                      \
          (const T *x, const T *w, const A *bias, T *y, const Direct p)) {                              \
        direct_sum<capacity>(x, w, bias, y, p);                                                         \
    }
DIRECT(direct, 0)
DIRECT(direct4, 4)
DIRECT(direct8, 8)
DIRECT(direct16, 16)
