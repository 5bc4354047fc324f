// SPDX-License-Identifier: MIT
/* columns: cuBLAS multiplies each tap with each sample, `interleave` sums (col2im). */

struct Extend {
    Signal signal;
    Int first, width;        // positions of the stretch: from `first` on
    Int leading_dimension;   // elements from one row of the stretch to the next
    Int pieces;              // blocks to a row
    Int blocks;
};

/* The signal at positions first ... first + width - 1, as its mode continues it: a stretch for the product to read
where none such lies in x. Rows are samples x channels. */
ENTRY(extend, (THREADS), (const T *__restrict__ x, T *__restrict__ stretch, const Extend p)) {
    EACH_BLOCK(b, p.blocks) {
        Pair of_row = divide(b, p.pieces);
        Int j = of_row.rest * THREADS + threadIdx.x;
        if (j >= p.leading_dimension) continue;
        Int at = j < p.width ? source(p.first + j, p.signal) : -1;
        T value;
        if (at >= 0) value = x[of_row.quotient * p.signal.length + at];
        else store(&value, A(0));
        stretch[of_row.quotient * p.leading_dimension + j] = value;
    }
}

// The part of the output that a launch makes.
struct Part {
    Int groups, outputs;  // how many, of each group
    Int group0, output0;  // the first
    Int u0, u1;           // positions
};

struct Interleave {
    Signal signal;           // as the columns hold it, and how it continues beyond them
    Int first;               // the position of column 0
    Int leading_dimension;   // elements from one row of the columns to the next
    Branches branches;
    Part part;
    Int outputs;             // all of a group
    Output output;
    Int q_first;             // the first step
    Int q_blocks, r_blocks;  // blocks to a row of steps, of phases
    Int log_steps, log_phases;
    Int blocks;
};

#define TILE 2048  // outputs of one block
#define PADDED(e) ((e) + ((e) >> 5))  // lanes a power of two apart meet different banks

/* columns (samples, groups, outputs, kernel, leading dimension), columns `first` to `first + length` of them: of the
whole signal where a mode continues it, and for zeros of a stretch of any positions. A block sums 2**log_steps x
2**log_phases outputs with lanes along the columns, and writes them with lanes along the output. */
ENTRY(interleave, (THREADS),
      (const A *__restrict__ columns, const A *__restrict__ bias, T *__restrict__ y, const Interleave p)) {
    SHARED(A, tile, PADDED(TILE));
    int log_steps = (int)p.log_steps, log_phases = (int)p.log_phases;
    int steps = 1 << log_steps, phases = 1 << log_phases;
    EACH_BLOCK(b, p.blocks) {
        Pair of_q = divide(b, p.q_blocks), of_r = divide(of_q.quotient, p.r_blocks);
        Int row = of_r.quotient;
        Pair of_output = divide(row, p.part.outputs), of_group = divide(of_output.quotient, p.part.groups);
        Int channel = (p.part.group0 + of_group.rest) * p.outputs + p.part.output0 + of_output.rest;
        Int q0 = p.q_first + of_q.rest * steps, r0 = of_r.rest * phases;
        const A *taps_of_row = columns + row * p.branches.kernel * p.leading_dimension;
        for (int e = threadIdx.x; e < steps * phases; e += THREADS) {
            int qi = e & (steps - 1), ri = e >> log_steps;
            Phase phase = phase_of(r0 + ri, p.branches);
            Int i = q0 + qi - phase.delay;
            A sum = A(0);
#pragma unroll 2
            for (Int j = 0; j < phase.taps; j++, i -= p.branches.step) {
                Int at = source(i - p.first, p.signal);
                if (at >= 0)
                    sum = plus(sum, taps_of_row[(phase.tap + j * p.branches.period) * p.leading_dimension + at]);
            }
            tile[PADDED(qi * phases + ri)] = sum;
        }
        __syncthreads();
        A initial = bias ? bias[channel] : A(0);
        T *out = y + (of_group.quotient * p.output.channels + channel) * p.output.positions - p.output.start;
        for (int e = threadIdx.x; e < steps * phases; e += THREADS) {
            int ri = e & (phases - 1), qi = e >> log_phases;
            Int u = (q0 + qi) * p.branches.stride + r0 + ri;
            if (r0 + ri < p.branches.stride && u >= p.part.u0 && u < p.part.u1)
                store(out + u, plus(tile[PADDED(e)], initial));
        }
        __syncthreads();
    }
}
