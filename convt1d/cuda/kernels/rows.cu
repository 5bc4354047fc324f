// SPDX-License-Identifier: MIT
/* rows: cuBLAS multiplies overlapping rows of a time-major signal (dilation 1); `pack` makes it, `unpack` stores. */

#define SIDE 32   // channels of one block
#define TIMES 64  // and times

struct Pack {
    Signal signal;
    Int first, samples;
    Int each;                         // rows of a sample
    Int rows;                         // of a group
    Int channels, in_channels;        // of a group, and all
    Int row_blocks, channel_blocks;
    Int blocks;
};

/* packed (groups, rows, channels): sample n's positions first ... first + each - 1 are rows n * each ...; what is left
of `rows` beyond the last sample is zero. */
ENTRY(pack, (THREADS), (const T *__restrict__ x, T *__restrict__ packed, const Pack p)) {
    SHARED(T, tile, SIDE * (TIMES + 1));
    EACH_BLOCK(b, p.blocks) {
        Pair of_channel = divide(b, p.channel_blocks), of_row = divide(of_channel.quotient, p.row_blocks);
        Int group = of_row.quotient, c0 = of_channel.rest * SIDE, row0 = of_row.rest * TIMES;
        int ti = threadIdx.x % TIMES;
        Pair of_sample = divide(row0 + ti, p.each);
        Int at = of_sample.quotient < p.samples ? source(p.first + of_sample.rest, p.signal) : -1;
        const T *signal =
            x + (of_sample.quotient * p.in_channels + group * p.channels + c0) * p.signal.length + at;
        for (int ci = threadIdx.x / TIMES; ci < SIDE; ci += THREADS / TIMES) {
            T value;
            if (at >= 0 && c0 + ci < p.channels) value = signal[ci * p.signal.length];
            else store(&value, A(0));
            tile[ci * (TIMES + 1) + ti] = value;
        }
        __syncthreads();
        int ci = threadIdx.x % SIDE;
        for (int t = threadIdx.x / SIDE; t < TIMES; t += THREADS / SIDE)
            if (c0 + ci < p.channels && row0 + t < p.rows)
                packed[(group * p.rows + row0 + t) * p.channels + c0 + ci] = tile[ci * (TIMES + 1) + t];
        __syncthreads();
    }
}

struct Unpack {
    Int each, all_rows;            // rows of a sample, and of a group
    Int branches, outputs, groups;
    Int stride, q_first;
    Output output;
    Int u0, u1;                    // positions that this launch makes
    Int u_blocks, output_blocks;
    Int blocks;
};

/* sums (groups, all_rows, branches, outputs): row n * each + q - q_first holds the outputs of sample n's step q. */
ENTRY(unpack, (THREADS),
      (const A *__restrict__ sums, const A *__restrict__ bias, T *__restrict__ y, const Unpack p)) {
    SHARED(A, tile, SIDE * (TIMES + 1));
    EACH_BLOCK(b, p.blocks) {
        Pair of_output = divide(b, p.output_blocks), of_u = divide(of_output.quotient, p.u_blocks);
        Pair of_group = divide(of_u.quotient, p.groups);
        Int o0 = of_output.rest * SIDE, from = p.u0 + of_u.rest * TIMES;
        Pair step = divide(from, p.stride);
        Int row = of_group.rest * p.all_rows + of_group.quotient * p.each + step.quotient - p.q_first;
        const A *rows = sums + row * p.branches * p.outputs;
        int oi = threadIdx.x % SIDE;
        for (int ti = threadIdx.x / SIDE; ti < TIMES; ti += THREADS / SIDE) {
            Pair phase = divide(step.rest + ti, p.stride);
            A value = A(0);
            if (phase.rest < p.branches && from + ti < p.u1 && o0 + oi < p.outputs)
                value = rows[(phase.quotient * p.branches + phase.rest) * p.outputs + o0 + oi];
            tile[oi * (TIMES + 1) + ti] = value;
        }
        __syncthreads();
        int ti = threadIdx.x % TIMES;
        Int u = from + ti;
        for (int o = threadIdx.x / TIMES; o < SIDE; o += THREADS / TIMES)
            if (u < p.u1 && o0 + o < p.outputs) {
                Int channel = of_group.rest * p.outputs + o0 + o;
                A initial = bias ? bias[channel] : A(0);
                T *out = y + (of_group.quotient * p.output.channels + channel) * p.output.positions;
                store(out + (u - p.output.start), plus(tile[o * (TIMES + 1) + ti], initial));
            }
        __syncthreads();
    }
}
