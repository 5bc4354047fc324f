# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The tile loop: weights packed once, then for each tile

    load      x[c, i - step*m]  ->  tile of x      only edge tiles see the padding mode's sources; a convolution's
                                                   strided input is split into its phases, one row each
    product   weights^T x tile  ->  columns        direct (SIMD) or BLAS, accumulated over taps and channels
    gather    columns + bias    ->  y              each output sample written once

or, in the fused kernel, product and gather in one; or, in Winograd's, three products for two columns (`winograd`); or
both.
Tiles x weight blocks x groups x batch are independent: any order, any number of threads, the same bits.
Everything here assumes checked arguments (geometry.py, arrays.py, dispatch.py).
"""

from cpython.buffer cimport (
    PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from convt1d.cpu._blas cimport gemm_nt
from convt1d.cpu._load cimport Phases, Signal, floor_div, leading, load_phases, load_run
from convt1d.cpu._runtime cimport (
    LEVEL, MOST_THREADS, SHARE_PARTS, Shares, Watch, begin_watch, did, give_workspace, next_part, settle, share_out,
    take_workspace, team,
)
from convt1d.cpu._simd cimport (
    AHEAD, Y_AHEAD, Ahead, Lines, Sum, copy_leaf, direct_block, direct_leaf, end_streams, fused_block, fused_leaf,
    gather_leaf, pair_leaf, real, simd_rows, simd_whole, winograd_leaf,
)

import numpy as np

from convt1d import dispatch
from convt1d.cpu import _runtime

cdef enum:
    PACK_SERIAL = 500_000      # weights, about half a millisecond: fewer are packed on one thread
    FEW = 16                   # samples of a merged signal: fewer are copied one by one, as in load_run
    STAYS = 256 * 1024         # bytes of x that stay in L2 from one register block to the next
    IN_CACHE = 1024 * 1024     # bytes of y that are thought to be in L2 from the last call on


# ---- what the nogil code knows ----------------------------------------------------------------------------

cdef struct Block:
    Py_ssize_t o0, outputs, entry0, entry1, slot0, slot1, weights
    Py_ssize_t rows        # outputs * slots
    Py_ssize_t slots
    Py_ssize_t full_slots  # slots with all taps: their rows come first
    Py_ssize_t full_rows
    Py_ssize_t channel_weights      # of `winograd`: packed for one channel

cdef struct Entry:
    Py_ssize_t phase, shift    # its column i stands at stride*(i + shift) + phase - left of the output
    Py_ssize_t slot, half
    Py_ssize_t first, last     # the q = i + shift whose position is inside the output: first <= q < last

cdef struct Layer:
    bint direct, fused, winograd, consecutive
    bint plain             # `winograd`, with weights too large for sums
    bint soon              # see `Ahead` in _simd.h
    bint channels_last     # of y
    int level, in_place
    Py_ssize_t parts, channels, outputs, groups, stride, taps, step, period
    Py_ssize_t streams     # rows of the tile of x for a channel: 1, of `winograd` 3 or 4
    Py_ssize_t slot_taps   # `taps`; of `winograd`, which counts pairs of them, the taps themselves
    Py_ssize_t halves      # runs of entries in a block, see `gather`
    Py_ssize_t piece_channels, piece_taps, group_size, nblocks, most_rows
    Py_ssize_t unit        # columns of a register block
    Block *blocks
    bint correlates        # a convolution: taps count from the last, rows of x are phases
    Phases phases
    Py_ssize_t in_full     # slots of an input channel with all taps: they come first

cdef struct Call:
    Signal x
    void *y
    const void *bias       # or NULL
    const void *weights
    Py_ssize_t batch, out_length                  # out_length and left in real numbers
    Py_ssize_t left
    Py_ssize_t first, columns, margin, tile, tiles, gemm_channels
    bint merged
    bint streams                                  # y past the caches
    int in_place
    Entry *entries
    Py_ssize_t odd                          # 1: x begins with an odd sample of the whole signal (`winograd`)
    bint even_steps, odd_steps              # columns of which belong to the output
    bint even                               # no entry is shifted, and all stand side by side ...
    Py_ssize_t first_inside, last_inside    # ... inside the output for these i
    Py_ssize_t ldx, ldc
    Py_ssize_t most_aside                   # columns that `fused` computes aside at a time
    Py_ssize_t blocks_per_item, block_groups


# The tile of x that a thread's workspace holds, for items that are of the same one: it is loaded once for all of these.
cdef struct Held:
    Py_ssize_t tile, f0     # item's place but for its blocks; -1: none
    bint plain


# Layer.in_place, Call.in_place: which tiles are read where they lie
cdef enum:
    NEVER = 0
    WHOLE_TILES = 1     # those wholly inside the signal
    PARTS = 2           # the inside of every tile; only its edges are copied


# ---- load -------------------------------------------------------------------------------------------------

cdef bint load(const Layer *layer, const Call *call, Py_ssize_t sample, Py_ssize_t group, Py_ssize_t f,
               Py_ssize_t width, Py_ssize_t c0, Py_ssize_t c1, real *dst, real *row, bint plain) noexcept nogil:
    """Columns f .. f+width-1 of one sample or of the merged batch, as rows of ldx; a vector of zeros behind them.

    For `winograd`, its three or four rows of a channel, `plain` or differences (`pair` in _leaves.inc), by way of a
    `row`; returns whether all numbers are such that there may be differences.
    """
    cdef Py_ssize_t n, within, run, i, done = 0, c
    cdef bint ordinary = True
    cdef const real *x = <const real *>call.x.x + group * (layer.channels // layer.phases.slots) * call.x.sc
    if (call.merged and call.x.length < FEW and call.x.hl == 0 and call.x.hr == 0 and not layer.correlates
            and not layer.winograd):
        load_merged[real](layer, call, x, f, width, c0, c1, dst)
        return ordinary
    while done < width:
        n, within = sample, f + done
        run = width - done
        if call.merged:
            n = (f + done) // call.columns
            within = (f + done) % call.columns
            run = min(run, call.columns - within)
            if n >= call.batch:
                break
        i = call.first - call.margin + within
        if layer.winograd:
            ordinary &= load_pairs[real](layer, call, x + n * call.x.sn, c0, c1, i, run, dst + done, row, plain)
        else:
            load_samples[real](layer, call, x + n * call.x.sn, c0, c1, i, run, dst + done)
        done += run
    if done < call.ldx:
        for c in range(layer.streams * (c1 - c0)):
            memset(dst + c * call.ldx + done, 0, min(call.ldx - done, width - done + 16) * sizeof(real))
    return ordinary


cdef bint load_tile(const Layer *layer, const Call *call, Py_ssize_t sample, Py_ssize_t group, Py_ssize_t f,
                    Py_ssize_t width, Py_ssize_t c0, Py_ssize_t c1, real *dst, real *row) noexcept nogil:
    """`load`; returns whether that was done `plain`, as it is where there may be no differences."""
    if load[real](layer, call, sample, group, f, width, c0, c1, dst, row, layer.plain) or layer.plain:
        return layer.plain
    load[real](layer, call, sample, group, f, width, c0, c1, dst, row, True)
    return True


cdef inline void load_samples(const Layer *layer, const Call *call, const real *x, Py_ssize_t c0, Py_ssize_t c1,
                              Py_ssize_t i, Py_ssize_t n, real *dst) noexcept nogil:
    if layer.correlates:
        load_phases[real](&call.x, layer.level, &layer.phases, x, layer.parts, c0, c1, i, n, dst, call.ldx)
    else:
        load_run[real](&call.x, layer.level, x, layer.parts, c0, c1, i, n, dst, call.ldx)


cdef bint load_pairs(const Layer *layer, const Call *call, const real *x, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t i,
                     Py_ssize_t n, real *dst, real *row, bint plain) noexcept nogil:
    """Pairs i .. i+n-1, of samples 2i and 2i+1 of the whole signal: read where they lie, or else by way of `row`.

        rows of dst     both (c0 .. c1-1)  |  before (c0 .. c1-1)  |  after (c0 .. c1-1)  |  odd
    """
    cdef Py_ssize_t c, first = 2 * i - call.odd, apart = (c1 - c0) * call.ldx
    cdef bint ordinary = True, singles = layer.streams > 3
    if (not layer.correlates and layer.parts == call.x.sl == 1 and first > 0 and first + 2 * n <= call.x.length):
        return pair_leaf[real](layer.level, dst, call.ldx, apart, x + c0 * call.x.sc + first, call.x.sc, c1 - c0, n,
                               plain, singles)
    for c in range(c0, c1):
        load_samples[real](layer, call, x, c, c + 1, first - 1, 2 * n + 1, row)
        ordinary &= pair_leaf[real](layer.level, dst, call.ldx, apart, row + 1, 0, 1, n, plain, singles)
        dst += call.ldx
    return ordinary


cdef void load_merged(const Layer *layer, const Call *call, const real *x, Py_ssize_t f, Py_ssize_t width,
                      Py_ssize_t c0, Py_ssize_t c1, real *dst) noexcept nogil:
    """The same for a merged batch of short signals with zeros around them: to call for pieces of two numbers takes
    longer than to copy them (10 signals of 2 samples, 32 channels: 9.8 us a layer's call, then 8.6)."""
    cdef Py_ssize_t c, n, j, at, lo, hi, shift = layer.parts - 1        # to divide takes longer than to copy
    cdef const real *row
    cdef real *to
    memset(dst, 0, (c1 - c0) * call.ldx * sizeof(real))
    for n in range(f // call.columns, min(call.batch, (f + width - 1) // call.columns + 1)):
        at = n * call.columns - f - (call.first - call.margin)      # where sample 0 belongs
        lo = max(max(n * call.columns - f, 0), at)
        hi = min(min((n + 1) * call.columns - f, width), at + call.x.length)
        to, row = dst, x + n * call.x.sn - at * call.x.sl
        for c in range(c0, c1):
            for j in range(lo, hi):
                to[j] = row[(c >> shift) * call.x.sc + (c & shift) * call.x.sp + j * call.x.sl]
            to += call.ldx


# ---- product ----------------------------------------------------------------------------------------------

cdef inline Py_ssize_t pairs(const Layer *layer, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t m0,
                             Py_ssize_t m1) noexcept nogil:
    """How many (channel, tap) pairs of a sum lie in c0 .. c1-1, m0 .. m1-1: short input slots have no tap 0."""
    cdef Py_ssize_t n = (c1 - c0) * (m1 - m0), slots = layer.phases.slots, short = slots - layer.in_full
    if m0 > 0 or m1 == 0 or short == 0:
        return n
    return n - ((c1 // slots - c0 // slots) * short + max(c1 % slots - layer.in_full, 0)
                - max(c0 % slots - layer.in_full, 0))


cdef inline Sum sum_of(const Layer *layer, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t m0, Py_ssize_t m1) noexcept nogil:
    cdef Sum sum
    sum.channels, sum.taps, sum.step = c1 - c0, m1 - m0, layer.step
    sum.slots, sum.first = layer.phases.slots, c0 % layer.phases.slots
    sum.full = layer.in_full if m0 == 0 else sum.slots
    sum.depth = pairs(layer, c0, c1, m0, m1)
    return sum


cdef void product(const Layer *layer, const Call *call, const Block *block, const real *w, const real *x,
                  Py_ssize_t ldx, Ahead *ahead, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t m0, Py_ssize_t m1,
                  Py_ssize_t n, real *columns, bint plain) noexcept nogil:
    """columns[row, i] (+)= sum over channels c0..c1-1, taps m0..m1-1; x points at the oldest sample, tap m1-1's.

    Rows: the full slots of all outputs, then those that lack the last tap. What lies `ahead` is prefetched.
    """
    cdef Py_ssize_t c, m, rows, k, short_taps
    cdef bint add = m0 > 0 or c0 > 0
    cdef const real *p
    cdef Sum sum
    if layer.winograd:
        winograd[real](layer, call, block, w, x, ldx, ahead, c0, c1, n, columns, plain)
        return
    if layer.direct:
        # packed by piece: [full rows: register blocks [c][m][row]] [other rows: the same, one tap less]
        short_taps = min(m1, layer.taps - 1) - m0
        p = w + block.weights + block.rows * pairs(layer, 0, layer.channels, 0, m0)
        p += block.full_rows * pairs(layer, 0, c0, m0, m1) + (block.rows - block.full_rows) * c0 * short_taps
        sum = sum_of(layer, c0, c1, m0, m1)
        direct_leaf[real](layer.level, x, ldx, p, columns, call.ldc, &sum, block.full_rows, n, NULL, add, ahead)
        if short_taps > 0 and block.rows > block.full_rows:
            p += block.full_rows * sum.depth
            x += (m1 - m0 - short_taps) * layer.step
            columns += block.full_rows * call.ldc
            sum = sum_of(layer, c0, c1, m0, m0 + short_taps)
            direct_leaf[real](layer.level, x, ldx, p, columns, call.ldc, &sum, block.rows - block.full_rows, n, NULL,
                              add, ahead)
        return
    # packed [m][c][row]
    for m in range(m0, m1):
        rows = block.rows if m < layer.taps - 1 else block.full_rows
        if rows == 0:
            continue
        c = c0
        while c < c1:
            k = min(call.gemm_channels, c1 - c)
            gemm_nt[real](<int>n, <int>rows, <int>k, x + (c - c0) * ldx + (m1 - 1 - m) * layer.step, <int>ldx,
                          w + block.weights + m * block.rows * layer.channels + c * rows, <int>rows,
                          m > 0 or c > 0, columns, <int>call.ldc)
            c += k


cdef void winograd(const Layer *layer, const Call *call, const Block *block, const real *w, const real *x,
                   Py_ssize_t ldx, Ahead *ahead, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t n, real *columns,
                   bint plain) noexcept nogil:
    """Winograd's F(2, 2): three products for two columns, 2j and 2j+1, of two taps a and b. Per channel and row,

        column 2j     =  a x[2j]   + b x[2j-1]   =  (a + b) x[2j] + b (x[2j-1] - x[2j])       both, before
        column 2j+1   =  a x[2j+1] + b x[2j]     =  (a + b) x[2j] + a (x[2j+1] - x[2j])       both, after

    A slot's taps in such pairs, an odd one at the end as it is. First the sums of `both`, then each column's on top of
    them: the columns of even steps, those of odd ones, and room for both of a register block:

        columns     even (rows)  |  odd (rows)  |  both

    `plain`: the four products, from the same packed weights. A column that no output needs is left out.
    """
    cdef Py_ssize_t taps, rows, width, half, apart = (c1 - c0) * ldx, ldc = call.ldc
    cdef Py_ssize_t distance = ahead.distance, ldx_ahead = ahead.ldx
    cdef int level = layer.level
    cdef bint more, add = c0 > 0
    cdef real *even = columns
    cdef real *odd = columns + block.rows * ldc
    cdef real *both = odd + block.rows * ldc
    cdef const real *at
    cdef const real *w_before
    cdef const real *w_after
    cdef Sum sum, last
    w += block.weights + c0 * block.channel_weights
    for half in range(2):
        taps = layer.slot_taps - half
        rows = block.full_rows if half == 0 else block.rows - block.full_rows
        sum = sum_of(layer, 0, c1 - c0, 0, taps // 2)
        last = sum_of(layer, 0, c1 - c0, 0, taps % 2)
        at = x + (layer.taps - sum.taps) * layer.step
        while rows > 0:
            width = direct_block(simd_rows(layer.level), rows)
            w_before = w + width * sum.depth
            w_after = w_before + width * sum.depth
            if sum.taps > 0 and plain:
                direct_leaf[real](level, at, ldx, w_after, even, ldc, &sum, width, n, NULL, add, ahead)
                direct_leaf[real](level, at + apart, ldx, w_before, even, ldc, &sum, width, n, NULL, True, ahead)
                direct_leaf[real](level, at + 2 * apart, ldx, w_after, odd, ldc, &sum, width, n, NULL, add, ahead)
                direct_leaf[real](level, at, ldx, w_before, odd, ldc, &sum, width, n, NULL, True, ahead)
            elif sum.taps > 0:
                direct_leaf[real](level, at, ldx, w, both, ldc, &sum, width, n, NULL, False, ahead)
                if call.even_steps:
                    direct_leaf[real](level, at + apart, ldx, w_before, even, ldc, &sum, width, n, both, add, ahead)
                if distance != ahead.near:
                    # the second half of the tile that is next, whose first half was prefetched with `both`
                    ahead.distance, ahead.ldx = distance + n - 2 * apart, ldx_ahead
                    distance = ahead.near
                if call.odd_steps:
                    direct_leaf[real](level, at + 2 * apart, ldx, w_after, odd, ldc, &sum, width, n, both, add, ahead)
            w = w_after + width * sum.depth
            if last.taps > 0:
                more = add or sum.taps > 0
                direct_leaf[real](level, at - layer.step, ldx, w, even, ldc, &last, width, n, NULL, more, ahead)
                direct_leaf[real](level, at - layer.step + 3 * apart, ldx, w, odd, ldc, &last, width, n, NULL, more,
                                  ahead)
                w += width * last.depth
            even += width * ldc
            odd += width * ldc
            rows -= width


# ---- gather -----------------------------------------------------------------------------------------------

cdef inline Py_ssize_t row_of(const Block *block, Py_ssize_t output, Py_ssize_t slot) noexcept nogil:
    """Row of the columns that holds a slot of an output: full slots of all outputs first."""
    slot -= block.slot0
    if slot < block.full_slots:
        return output * block.full_slots + slot
    return block.full_rows + output * (block.slots - block.full_slots) + slot - block.full_slots


cdef void aim(const Layer *layer, const Call *call, const Block *block, Py_ssize_t group, const real *columns,
              const real **sources, real *bias) noexcept nogil:
    """Per output and entry of a block: where its columns are, counted in q of the output, and its bias.

    Channels last: per slot, output and part.
    """
    cdef Py_ssize_t o, e, part, k = 0, row, parts = layer.parts
    cdef const Entry *entry
    for o in range(block.outputs):
        row = group * layer.outputs + block.o0 + o
        for e in range(block.entry0, block.entry1):
            entry = &call.entries[e]
            if layer.channels_last:
                part = (e - block.entry0) % parts
                k = (e - block.entry0 - part) * block.outputs + o * parts + part
            sources[k] = columns + (row_of(block, o, entry.slot) + entry.half * block.rows) * call.ldc - entry.shift
            bias[k] = (<const real *>call.bias)[row * parts + entry.slot % parts] if call.bias != NULL else 0
            k += 1


cdef inline Lines target(const Layer *layer, const Call *call, const Block *block, Py_ssize_t sample, Py_ssize_t group,
                         Py_ssize_t i0, Py_ssize_t n, real unused) noexcept nogil:
    """Where `gather` is going to write these columns, for the product to prefetch (1.1 x faster for 64 channels, stride
    3). Only whole steps: some phases of each made no difference. Not of a merged batch, whose output is small."""
    cdef Lines lines
    lines.stretch, lines.apart, lines.bytes, lines.stretches, lines.at = NULL, 0, 0, 0, 0
    if call.merged or layer.channels_last or block.entry1 - block.entry0 < layer.stride:
        return lines
    lines.stretch = <const char *>(<real *>call.y - call.left + i0 * layer.stride
                                   + ((sample * layer.groups + group) * layer.outputs + block.o0) * call.out_length)
    lines.stretches, lines.apart = block.outputs, call.out_length * sizeof(real)
    lines.bytes = n * layer.stride * sizeof(real)
    return lines


cdef void gather(const Layer *layer, const Call *call, const Block *block, Py_ssize_t sample, Py_ssize_t group,
                 Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t at, Py_ssize_t half, const real **sources,
                 const real *bias) noexcept nogil:
    """Columns of i0 .. i1-1, the first of them at `at`, into y: of all entries, or of one half of them. An entry's
    column i belongs at q = i + shift, in strides of the output, and all entries share an inner run of q's:

        q:          q0                     q1
        entry 0     |######################|##
        entry 1    #|######################|#      (offset >= stride: shifted)
                    |- one interleave -----|       what is left at both ends is written one by one
    """
    cdef Py_ssize_t e, _o, q, hi, S = layer.stride, all = block.entry1 - block.entry0, n = all // layer.halves
    cdef Py_ssize_t q0 = i0, q1 = i1
    cdef const Entry *entries = call.entries + block.entry0 + half * n
    cdef const Entry *entry
    cdef real *y = (<real *>call.y - call.left
                    + ((sample * layer.groups + group) * layer.outputs + block.o0) * call.out_length)
    cdef bint plain = call.even and i0 >= call.first_inside and i1 <= call.last_inside
    sources += half * n
    bias += half * n
    if not plain:
        for e in range(n):
            q0 = max(q0, max(i0 + entries[e].shift, entries[e].first))
            hi = min(i1 + entries[e].shift, entries[e].last)
            q1 = min(q1, hi) if e else hi
        q1 = max(q0, q1) if layer.consecutive else q0
    if q1 - q0 < 4:     # to call for so few takes longer
        q1, plain = q0, False
    for _o in range(block.outputs):
        if q1 > q0:
            gather_leaf[real](layer.level, y + q0 * S + entries[0].phase, S, sources, at + q0 - i0, n, q1 - q0, bias)
        if not plain:
            for e in range(n):
                entry = &entries[e]
                q = max(i0 + entry.shift, entry.first)
                while q < min(i1 + entry.shift, entry.last):
                    if q == q0 and q1 > q0:
                        q = q1
                        continue
                    y[q * S + entry.phase] = sources[e][at + q - i0] + bias[e]
                    q += 1
        y += call.out_length
        sources += all
        bias += all


cdef void gather_channels_last(const Layer *layer, const Call *call, const Block *block, Py_ssize_t sample,
                               Py_ssize_t group, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t at, const real **sources,
                               const real *bias) noexcept nogil:
    """The same into y[n, t, o]: what is interleaved are the outputs of a block, one slot after the other.

        t = stride*q + phase    |o0 o1 o2 ...|              the block's outputs; complex: (re, im) of each
        t + stride              |o0 o1 o2 ...|
    """
    cdef Py_ssize_t e = block.entry0, lo, hi, parts = layer.parts, S = layer.stride // parts
    cdef Py_ssize_t lanes = block.outputs * parts
    cdef Py_ssize_t width = layer.groups * layer.outputs * parts       # real numbers in a time step
    cdef const Entry *entry
    cdef real *y = (<real *>call.y + (sample * call.out_length - call.left) // parts * width
                    + (group * layer.outputs + block.o0) * parts)
    while e < block.entry1:
        entry = &call.entries[e]
        lo, hi = max(i0 + entry.shift, entry.first), min(i1 + entry.shift, entry.last)
        if hi > lo:
            gather_leaf[real](layer.level, y + (lo * S + entry.phase // parts) * width, S * width, sources,
                              at + lo - i0, lanes, hi - lo, bias)
        sources += lanes
        bias += lanes
        e += parts


# ---- fused ------------------------------------------------------------------------------------------------

cdef void fused(const Layer *layer, const Call *call, const Block *block, Py_ssize_t sample, Py_ssize_t group,
                Py_ssize_t f0, Py_ssize_t f1, const real *w, const real *x, Py_ssize_t ldx,
                Ahead *ahead, real *aside, real *bias, bint plain) noexcept nogil:
    """Product and gather in one, of columns f0 .. f1-1, in register blocks from f0 on.

        f0 | aside |    straight into y    | aside | ..        a merged batch: so in every sample

    Blocks with columns whose phases do not all lie inside the output are computed aside, and what belongs to the
    output is copied: its lines are not prefetched meanwhile, so the fewer the better.
    """
    cdef Py_ssize_t S = layer.stride, i = call.first - call.margin, row = group * layer.outputs + block.o0
    cdef Py_ssize_t f = f0, n, o, k, inside, part, within, run, start, stop
    cdef real *y
    cdef Sum sum = sum_of(layer, 0, layer.channels, 0, layer.slot_taps)
    w += block.weights
    for o in range(block.outputs):
        for k in range(block.slots):
            bias[o * block.slots + k] = 0
            if call.bias != NULL:
                bias[o * block.slots + k] = (<const real *>call.bias)[(row + o) * layer.parts + k % layer.parts]
    while f < f1:
        n = 0
        inside = columns_inside(call, f)
        while f + n < f1 and inside < min(layer.unit, f1 - f - n):
            n += layer.unit
            inside = columns_inside(call, f + n)
        if n == 0:
            n = f1 - f if inside >= f1 - f else inside // layer.unit * layer.unit
            if call.merged:
                sample = f // call.columns
            y = <real *>call.y + (sample * layer.groups * layer.outputs + row) * call.out_length - call.left
            y += (i + (f % call.columns if call.merged else f)) * S
            fused_run[real](layer, call, block, &sum, x, ldx, w, y, call.out_length, f - f0, n, bias, ahead, plain)
            f += n
            continue
        n = min(n, f1 - f, call.most_aside)
        fused_run[real](layer, call, block, &sum, x, ldx, w, aside, call.ldc * S, f - f0, n, bias, ahead, plain)
        part = 0
        while part < n:
            within, run = f + part, n - part
            if call.merged:
                sample, within = (f + part) // call.columns, (f + part) % call.columns
                run = min(run, call.columns - within)
            y = <real *>call.y + (sample * layer.groups * layer.outputs + row) * call.out_length - call.left
            # the sample's margin holds no columns of its own
            start = max((i + max(within, call.margin)) * S, call.left)
            stop = min((i + within + run) * S, call.left + call.out_length)
            if start < stop:
                copy_leaf[real](layer.level, y + start, call.out_length, aside + part * S + start - (i + within) * S,
                                call.ldc * S, block.outputs, stop - start)
            part += run
        f += n


cdef inline void fused_run(const Layer *layer, const Call *call, const Block *block, const Sum *sum, const real *x,
                           Py_ssize_t ldx, const real *w, real *y, Py_ssize_t ldy, Py_ssize_t at, Py_ssize_t n,
                           const real *bias, Ahead *ahead, bint plain) noexcept nogil:
    """Columns at .. at+n-1 of a tile, into y."""
    if layer.winograd:
        winograd_leaf[real](x + at, ldx, layer.channels * ldx, w, y, ldy, sum, n, bias,
                            NULL if ahead.distance == 0 else x + ahead.distance + 2 * at, ahead.ldx, ahead.later > 0,
                            block.outputs, <int>block.slots, plain)
    else:
        fused_leaf[real](layer.level, x + at, ldx, w, y, ldy, sum, block.full_slots, n, bias, ahead, block.outputs,
                         <int>layer.stride)


cdef inline Py_ssize_t columns_inside(const Call *call, Py_ssize_t f) noexcept nogil:
    """How many columns from f on, of the same sample, have all their phases inside the output."""
    cdef Py_ssize_t i
    if call.merged:
        f %= call.columns
    i = call.first - call.margin + f
    if f < call.margin or i < call.first_inside:
        return 0
    return call.last_inside - i


# ---- one item of work -------------------------------------------------------------------------------------

cdef void gather_run(const Layer *layer, const Call *call, const Block *block, Py_ssize_t sample, Py_ssize_t group,
                     Py_ssize_t f, Py_ssize_t n, const real **sources, const real *bias) noexcept nogil:
    """Gather columns f .. f+n-1; in a merged batch they may belong to several samples, or to the margin between them.

        f      | margin | columns of sample 0 | margin | columns of sample 1 | ...
    """
    cdef Py_ssize_t within, run, skip, half, done = 0, i = call.first - call.margin
    while done < n:
        within, run = f + done, n - done
        if call.merged:
            sample = (f + done) // call.columns
            within = (f + done) % call.columns
            run = min(run, call.columns - within)
            skip = min(run, max(0, call.margin - within))
            done, within, run = done + skip, within + skip, run - skip
        if run > 0 and layer.channels_last:
            gather_channels_last[real](layer, call, block, sample, group, i + within, i + within + run, done, sources,
                                       bias)
        elif run > 0:
            for half in range(layer.halves):
                gather[real](layer, call, block, sample, group, i + within, i + within + run, done, half, sources, bias)
        done += run


cdef void run_item(const Layer *layer, const Call *call, Py_ssize_t item, Held *held, real *workspace) noexcept nogil:
    """One tile of one sample (or of the merged batch) and one group, for some of its weight blocks."""
    cdef Py_ssize_t part = item % call.block_groups
    cdef Py_ssize_t t = item // call.block_groups % call.tiles
    cdef Py_ssize_t group = item // (call.block_groups * call.tiles) % layer.groups
    cdef Py_ssize_t sample = item // (call.block_groups * call.tiles * layer.groups)
    cdef Py_ssize_t i = call.first - call.margin            # column f belongs to input step i + f
    cdef Py_ssize_t f0 = call.margin + t * call.tile
    cdef Py_ssize_t end = min(f0 + call.tile, call.batch * call.columns if call.merged else call.columns)
    # [lo, hi): columns whose inputs, a vector to spare, lie inside the signal and can be read where they are
    cdef Py_ssize_t lo = (layer.taps - 1) * layer.step - i - layer.phases.offsets[0]
    cdef Py_ssize_t hi = call.x.length - 16 - i - layer.phases.offsets[0]
    cdef bint inside
    if call.in_place == NEVER or (call.in_place == WHOLE_TILES and not (lo <= f0 and end <= hi)):
        lo, hi = end, end
    if held.tile != item // call.block_groups:
        held.tile, held.f0, held.plain = item // call.block_groups, -1, False
    while f0 < end:
        inside = lo <= f0 < hi
        f1 = min(end, hi) if inside else min(end, lo) if f0 < lo < hi else end
        run_tile[real](layer, call, sample, group, part, f0, f1, inside, held, workspace)
        f0 = f1


cdef void run_tile(const Layer *layer, const Call *call, Py_ssize_t sample, Py_ssize_t group, Py_ssize_t part,
                   Py_ssize_t f0, Py_ssize_t f1, bint inside, Held *held, real *workspace) noexcept nogil:
    """Columns f0 .. f1-1 of a tile: load, then for each weight block and run of columns, product and gather."""
    cdef real *columns = workspace + layer.streams * layer.piece_channels * call.ldx
    cdef const real **sources = <const real **>(columns + call.ldc * layer.most_rows)
    cdef real *bias = <real *>(sources + layer.most_rows)
    cdef real *row = bias + layer.most_rows
    cdef const real *w = <const real *>call.weights + group * layer.group_size
    # the first sample that tap 0 of column 0 meets, where x lies
    cdef const real *origin = (<const real *>call.x.x + sample * call.x.sn + group * layer.channels * call.x.sc
                               + call.first - call.margin + layer.phases.offsets[0])
    cdef const real *x = workspace
    cdef Py_ssize_t ldx = call.ldx, b, c0, c1, m0, m1, f
    cdef Py_ssize_t b0 = part * call.blocks_per_item, b1 = min(b0 + call.blocks_per_item, layer.nblocks)
    cdef bint single = layer.piece_taps >= layer.taps and layer.piece_channels >= layer.channels
    cdef bint loaded = not inside and held.f0 == f0, plain = held.plain
    cdef const Block *block
    cdef Ahead ahead
    ahead.y.stretches = ahead.near = ahead.later = 0
    if call.batch * layer.groups * layer.outputs * call.out_length * sizeof(real) > IN_CACHE:
        ahead.later = Y_AHEAD // sizeof(real)
    ahead.streams = call.streams
    ahead.soon = layer.soon
    if call.in_place == PARTS:
        # a piece's rows while the one before is summed: 8 rows ahead took 1.1 x longer (512 -> 1 channel, a Zen 4,
        # 2026-11)
        ahead.near = (AHEAD if single else max(AHEAD, layer.piece_channels)) * (call.x.sc if inside else ldx)
    elif layer.streams * layer.channels * (f1 - f0) * sizeof(real) > STAYS:
        ahead.near = AHEAD * (call.x.sc if inside else ldx)
    ahead.distance, ahead.ldx = ahead.near, call.x.sc if inside else ldx
    if single and call.x.sl == 1 and call.in_place != PARTS and not call.merged and not layer.correlates:
        # the next tile, or the first of the next group or sample
        ahead.distance = f1 - call.margin if f1 < call.columns else layer.channels * call.x.sc
        ahead.ldx = call.x.sc
        if layer.winograd:      # two samples to a column
            ahead.distance += f1 - call.margin if f1 < call.columns else 0
            origin += call.first - call.margin
        if inside:
            ahead.distance -= f0 - call.margin
        else:
            ahead.distance += (<Py_ssize_t>origin - <Py_ssize_t>x) // <Py_ssize_t>sizeof(real)
    for b in range(b0, b1):
        block = &layer.blocks[b]
        if layer.fused:
            f = f0 - call.margin
            if inside:
                x, ldx = origin + f, call.x.sc
            elif not loaded:
                plain = load_tile[real](layer, call, sample, group, f, f1 - f, 0, layer.channels, workspace, row)
                loaded = True
            if layer.winograd and (layer.soon or b > b0 or ahead.distance == ahead.near):
                ahead.distance = 0
            fused[real](layer, call, block, sample, group, f0, f1, w, x, ldx, &ahead, columns, bias, plain)
            continue
        aim[real](layer, call, block, group, columns, sources, bias)
        m0 = 0
        while m0 < layer.taps:
            m1 = min(m0 + layer.piece_taps, layer.taps)
            f = f0 - (m1 - 1) * layer.step
            c0 = 0
            while c0 < layer.channels:
                c1 = min(c0 + layer.piece_channels, layer.channels)
                if inside:
                    x, ldx = origin + c0 * call.x.sc + f, call.x.sc
                elif not loaded:
                    plain = load_tile[real](layer, call, sample, group, f, f1 - f0 + (m1 - 1 - m0) * layer.step, c0, c1,
                                            workspace, row)
                    loaded = single     # a single piece serves all blocks
                if call.in_place == PARTS and inside and not single:
                    ahead.distance = ahead.near if c1 < layer.channels else call.tile - c0 * ldx     # the next tile
                if c1 == layer.channels and m1 == layer.taps and (c1 - c0) * (m1 - m0) >= 32:
                    ahead.y = target[real](layer, call, block, sample, group, call.first - call.margin + f0, f1 - f0, 0)
                product[real](layer, call, block, w, x, ldx, &ahead, c0, c1, m0, m1, f1 - f0, columns, plain)
                c0 = c1
            m0 = m1
        gather_run[real](layer, call, block, sample, group, f0, f1 - f0, sources, bias)
    if not inside:
        held.f0, held.plain = f0 if loaded else -1, plain


cdef void run_items(const Layer *layer, const Call *call, Py_ssize_t items, int threads, void **workspaces,
                    Watch *watch, real unused) noexcept nogil:
    cdef Py_ssize_t item
    cdef int thread, parts
    cdef Shares shares
    cdef Held held
    if threads == 1:            # no parallel region at all
        held.tile = -1
        for item in range(items):
            run_item[real](layer, call, item, &held, <real *>workspaces[0])
        if call.streams:
            end_streams()
        return
    parts = <int>min(items, <Py_ssize_t>threads * SHARE_PARTS)
    share_out(&shares, parts, threads)
    begin_watch(watch)
    for thread in prange(threads, schedule="static", chunksize=1, num_threads=threads):
        run_share[real](layer, call, items, &shares, parts, thread, <real *>workspaces[thread], watch)


cdef void run_share(const Layer *layer, const Call *call, Py_ssize_t items, Shares *shares, int parts, int thread,
                    real *workspace, Watch *watch) noexcept nogil:
    cdef Py_ssize_t item, end
    cdef Held held
    cdef int part = next_part(shares, thread)
    held.tile = -1
    while part >= 0:
        end = items * (part + 1) // parts
        for item in range(items * part // parts, end):
            run_item[real](layer, call, item, &held, workspace)
        did(watch, end - items * part // parts)
        part = next_part(shares, thread)
    if call.streams:
        end_streams()


# ---- pack -------------------------------------------------------------------------------------------------

cdef bint pack_block(const Layer *layer, const Block *block, const real *w, Py_ssize_t sc, Py_ssize_t so,
                     Py_ssize_t sk, real *out) noexcept nogil:
    """One block of one group; w[c, o, k] in strides of real numbers, complex as (re, im) pairs.

    direct   [piece of taps] [piece of channels] [full rows | others] [register block] [c] [m] [row]
    gemm     [m] [c] [row]                        full rows first
    fused    [register block of outputs] [whole taps | a last one of full slots only] [c] [m] [output] [slot]
    winograd [piece of channels] [full rows | others] [register block] [a + b | b | a] [c] [pair] [row], [c] [row]
             and fused [register block of outputs] [pair] [c] [a + b | b | a] [output] [slot]

    Returns whether the weights are such that `winograd` may add them.
    """
    cdef Py_ssize_t m, c, r, o, m0, m1, c0, c1, half, first, rows, taps, whole, width
    cdef Row row[8]
    cdef Row one
    if layer.winograd:
        return pack_pairs[real](layer, block, w, sc, so, sk, out)
    if layer.fused:
        o = 0
        whole = layer.taps if block.full_slots == block.slots else layer.taps - 1
        while o < block.outputs:
            width = fused_block(simd_rows(layer.level), <int>layer.stride, block.outputs - o, layer.channels)
            for half in range(2):
                rows = block.slots if half == 0 else block.full_slots
                m0 = 0 if half == 0 else whole
                m1 = whole if half == 0 else layer.taps
                for r in range(width * rows):
                    row[r] = row_at(layer, block, row_of(block, o + r // rows, r % rows), so, sk)
                for c in range(layer.channels):
                    for m in range(max(m0, layer.taps - pairs(layer, c, c + 1, 0, layer.taps)), m1):
                        out += pack_rows[real](layer, w, c, m, sc, sk, row, width * rows, out)
            o += width
        return True
    if not layer.direct:
        for m in range(layer.taps):
            rows = block.rows if m < layer.taps - 1 else block.full_rows
            for c in range(layer.channels):
                for r in range(rows):
                    one = row_at(layer, block, r, so, sk)
                    out += pack_rows[real](layer, w, c, m, sc, sk, &one, 1, out)
        return True
    m0 = 0
    while m0 < layer.taps:
        m1 = min(m0 + layer.piece_taps, layer.taps)
        c0 = 0
        while c0 < layer.channels:
            c1 = min(c0 + layer.piece_channels, layer.channels)
            for half in range(2):
                first = 0 if half == 0 else block.full_rows
                rows = block.full_rows if half == 0 else block.rows - block.full_rows
                taps = m1 if half == 0 else min(m1, layer.taps - 1)
                while rows > 0 and taps > m0:
                    width = direct_block(simd_rows(layer.level), rows)
                    for r in range(width):
                        row[r] = row_at(layer, block, first + r, so, sk)
                    for c in range(c0, c1):
                        for m in range(m1 - pairs(layer, c, c + 1, m0, m1), taps):
                            out += pack_rows[real](layer, w, c, m, sc, sk, row, width, out)
                    first += width
                    rows -= width
            c0 = c1
        m0 = m1
    return True


cdef bint pack_pairs(const Layer *layer, const Block *block, const real *w, Py_ssize_t sc, Py_ssize_t so,
                     Py_ssize_t sk, real *out) noexcept nogil:
    cdef Py_ssize_t c, r, p, k, c0 = 0, c1, half, first, rows, taps, width, apart
    cdef Row row[8]
    cdef real a[8]
    cdef real b[8]
    cdef real squares = 0
    while c0 < layer.channels:
        c1 = min(c0 + layer.piece_channels, layer.channels)
        for half in range(2):
            taps = layer.slot_taps - half
            first = 0 if half == 0 else block.full_rows
            rows = block.full_rows if half == 0 else block.rows - block.full_rows
            while rows > 0:
                width = direct_block(simd_rows(layer.level), rows)
                apart = (c1 - c0) * (taps // 2) * width
                if layer.fused:
                    apart = width = block.slots * fused_block(simd_rows(layer.level), <int>block.slots,
                                                              rows // block.slots, layer.channels)
                for r in range(width):
                    row[r] = row_at(layer, block, first + r, so, sk)
                for k in range((c1 - c0) * (taps // 2)):
                    c, p = c0 + k // (taps // 2), k % (taps // 2)
                    if layer.fused:
                        c, p = k % layer.channels, k // layer.channels
                    pack_rows[real](layer, w, c, 2 * p, sc, sk, row, width, a)
                    pack_rows[real](layer, w, c, 2 * p + 1, sc, sk, row, width, b)
                    for r in range(width):
                        out[r], out[apart + r], out[2 * apart + r] = a[r] + b[r], b[r], a[r]
                        squares += a[r] * a[r] + b[r] * b[r]
                    out += 3 * width if layer.fused else width
                out += 0 if layer.fused else 2 * apart
                for c in range(c0, c1 if taps % 2 else c0):
                    pack_rows[real](layer, w, c, taps - 1, sc, sk, row, width, out)
                    for r in range(width):
                        squares += out[r] * out[r]
                    out += width
                first += width
                rows -= width
        c0 = c1
    return squares - squares == 0


# What a row of the columns adds to the place of its weights.
cdef struct Row:
    Py_ssize_t place
    Py_ssize_t tap          # kernel position, for channel slot 0 and tap 0
    Py_ssize_t part         # of the output: 0 re, 1 im


cdef inline Row row_at(const Layer *layer, const Block *block, Py_ssize_t row, Py_ssize_t so,
                       Py_ssize_t sk) noexcept nogil:
    cdef Row found
    cdef Py_ssize_t output, slot
    if row < block.full_rows:
        output, slot = row // block.full_slots, row % block.full_slots
    else:
        row -= block.full_rows
        output = row // (block.slots - block.full_slots)
        slot = row % (block.slots - block.full_slots) + block.full_slots
    slot += block.slot0
    found.tap, found.part = slot // layer.parts, slot % layer.parts
    found.place = (block.o0 + output) * so + found.tap * sk
    return found


cdef inline Py_ssize_t pack_rows(const Layer *layer, const real *w, Py_ssize_t c, Py_ssize_t m, Py_ssize_t sc,
                                 Py_ssize_t sk, const Row *row, Py_ssize_t n, real *out) noexcept nogil:
    """The weights that n rows, channel and tap of the real problem meet; returns n.

    Complex (re, im):   y_re = w_re x_re - w_im x_im
                        y_im = w_im x_re + w_re x_im
    """
    cdef Py_ssize_t r, slot = c % layer.phases.slots, parts = layer.parts, tap
    tap = slot // parts + layer.period * (layer.slot_taps - 1 - m if layer.correlates else m)
    w += (c // layer.phases.slots) * sc + tap * sk
    if parts == 1:
        for r in range(n):
            out[r] = w[row[r].place]
    elif c % 2 == 0:
        for r in range(n):
            out[r] = w[row[r].place + row[r].part]
    else:
        for r in range(n):
            out[r] = w[row[r].place] if row[r].part else -w[row[r].place + 1]
    return n


cdef int in_place(const Layer *layer, const Call *call, Py_ssize_t size) noexcept:
    """Whether tiles of this x can be read where they lie: contiguous in time, and in cache sets of their own.

    Rows a large power of two apart share sets: of the 128 KiB that one way of a typical L2 covers, a tile then
    uses only its row's length in every so many bytes.
    """
    cdef Py_ssize_t apart = call.x.sc * size, row = call.tile * size
    if call.x.sl != 1 or call.merged or layer.in_place == NEVER:
        return NEVER
    if layer.in_place == PARTS:
        return PARTS        # each sample is read about once
    apart = min(apart & -apart, 128 * 1024)
    if layer.channels * row > 512 * 1024 or layer.channels * apart > 512 * 1024 and row < apart:
        return NEVER
    return layer.in_place


# ---- what Python sees -------------------------------------------------------------------------------------

cdef class Kernel:
    """A layer's packed weights for one compute type.

    Parameters
    ----------
    plan : dispatch.Plan
    weight : ndarray (C_in, C_out / groups, K) of the compute type
    groups : int
    threads : int
        Most threads to pack with.
    """

    cdef Layer layer
    cdef readonly object plan
    cdef object packed, keep        # keep: an array that a pointer in `layer` points into
    cdef bint double_precision

    def __cinit__(self):
        self.layer.blocks = NULL

    def __dealloc__(self):
        free(self.layer.blocks)

    def __init__(self, plan, weight, Py_ssize_t groups, int threads):
        cdef const int64_t[:, ::1] table = plan.blocks
        cdef const int64_t[::1] offsets = plan.in_offsets
        cdef Py_ssize_t b
        cdef Block *block
        cdef Layer *layer = &self.layer
        self.plan = plan
        layer.direct, layer.fused, layer.winograd = plan.kernel == "direct", plan.fused, plan.winograd
        layer.plain = False
        layer.streams, layer.slot_taps, layer.halves = plan.streams, plan.slot_taps, plan.halves
        layer.consecutive, layer.channels_last = plan.consecutive, plan.channels_last
        layer.in_place = plan.in_place
        layer.level = LEVEL
        layer.soon = simd_whole(LEVEL)
        layer.parts, layer.channels, layer.groups = plan.parts, plan.channels, groups
        layer.correlates = plan.correlates
        layer.outputs = weight.shape[0] // groups if layer.correlates else weight.shape[1]
        layer.stride, layer.taps, layer.step, layer.period = plan.stride, plan.taps, plan.step, plan.period
        self.keep = plan.in_offsets
        layer.phases.stride, layer.phases.slots, layer.phases.offsets = plan.in_stride, plan.in_slots, &offsets[0]
        layer.phases.consecutive = plan.in_consecutive
        layer.in_full = plan.in_full
        layer.piece_channels, layer.piece_taps = plan.piece_channels, plan.piece_taps
        layer.unit = plan.unit
        layer.group_size, layer.nblocks = plan.group_size, table.shape[0]
        layer.most_rows = plan.column_rows
        layer.blocks = <Block *>malloc(layer.nblocks * sizeof(Block))
        if layer.blocks == NULL:
            raise MemoryError("no memory for the table of weight blocks")
        for b in range(layer.nblocks):
            block = &layer.blocks[b]
            block.o0, block.outputs = table[b, 0], table[b, 1]
            block.entry0, block.entry1 = table[b, 2], table[b, 3]
            block.slot0, block.slot1, block.weights = table[b, 4], table[b, 5], table[b, 6]
            block.slots = block.slot1 - block.slot0
            block.rows = block.outputs * block.slots
            block.full_slots = min(max(<Py_ssize_t>plan.full - block.slot0, 0), block.slots)
            block.full_rows = block.outputs * block.full_slots
            block.channel_weights = (
                block.full_rows * dispatch.winograd_weights(plan.slot_taps)
                + (block.rows - block.full_rows) * dispatch.winograd_weights(plan.slot_taps - 1)
            )
        self.double_precision = weight.dtype.char in "dD"
        self.packed = _runtime.aligned(groups * layer.group_size, np.float64 if self.double_precision else np.float32)
        if self.double_precision:
            self._pack[double](weight, threads, 0)
        else:
            self._pack[float](weight, threads, 0)

    cdef _pack(self, weight, int threads, real unused):
        cdef real[::1] packed = self.packed
        cdef Layer *layer = &self.layer
        cdef const real *w
        cdef real *out = &packed[0]
        cdef Py_ssize_t item, sc, so, sk, apart, size = sizeof(real), ordinary = 0
        cdef Py_buffer buffer
        threads = team(min(threads, MOST_THREADS) if packed.shape[0] > PACK_SERIAL else 1)
        PyObject_GetBuffer(weight, &buffer, PyBUF_STRIDED_RO)
        try:
            w = <const real *>buffer.buf
            sc = buffer.strides[1 if layer.correlates else 0] // size
            so = buffer.strides[0 if layer.correlates else 1] // size
            sk = buffer.strides[2] // size
            apart = weight.shape[0] // layer.groups * (buffer.strides[0] // size)     # groups divide the first axis
            with nogil:
                for item in prange(layer.groups * layer.nblocks, num_threads=threads, schedule="dynamic"):
                    ordinary += pack_block[real](layer, &layer.blocks[item % layer.nblocks],
                                                 w + (item // layer.nblocks) * apart, sc, so, sk,
                                                 out + (item // layer.nblocks) * layer.group_size
                                                 + layer.blocks[item % layer.nblocks].weights)
            layer.plain = ordinary < layer.groups * layer.nblocks
        finally:
            PyBuffer_Release(&buffer)


cdef class Run:
    """A kernel bound to one input length and batch size; call it with arrays.

    Parameters
    ----------
    kernel : Kernel
    tiling : dispatch.Tiling
    left : int
        Output position of the first sample to compute.
    batch, length, out_length : int
    odd : int
        1 if x[0] is an odd sample of the whole signal, and the kernel cares: see `geometry.Window`.
    sources : tuple of ndarray
        As from `padding.halo_sources`.
    """

    cdef Kernel kernel
    cdef Call call
    cdef object keep        # arrays that pointers in `call` point into
    cdef Py_ssize_t items
    cdef bint leaves_gaps       # some output positions belong to no tap

    def __cinit__(self):
        self.call.entries = NULL

    def __dealloc__(self):
        free(self.call.entries)

    def __init__(self, Kernel kernel, tiling, Py_ssize_t left, Py_ssize_t batch, Py_ssize_t length,
                 Py_ssize_t out_length, Py_ssize_t odd, sources):
        cdef Call *call = &self.call
        cdef const int64_t[::1] before = sources[0]
        cdef const int64_t[::1] after = sources[1]
        cdef const unsigned char[::1] raw = kernel.packed.view(np.uint8)
        cdef const int64_t[::1] offsets = kernel.plan.offsets
        cdef const int64_t[::1] slots = kernel.plan.slots
        cdef Py_ssize_t S = kernel.layer.stride, e
        cdef Entry *entry
        left *= kernel.layer.parts
        self.kernel = kernel
        self.keep = sources
        self.leaves_gaps = not kernel.plan.filled
        call.weights = &raw[0]
        call.batch, call.x.length, call.left = batch, length, left
        call.out_length = out_length * kernel.layer.parts
        call.first, call.columns, call.margin = tiling.first, tiling.columns, tiling.margin
        call.merged, call.tile, call.tiles = tiling.merged, tiling.tile, tiling.tiles
        call.streams, call.gemm_channels, call.odd = tiling.streams, tiling.gemm_channels, odd
        call.even_steps = call.odd_steps = False
        call.x.hl, call.x.hr = before.shape[0], after.shape[0]
        call.x.before = &before[0] if call.x.hl else NULL
        call.x.after = &after[0] if call.x.hr else NULL
        call.ldx = leading(call.tile + (kernel.layer.piece_taps - 1) * kernel.layer.step)
        call.most_aside = min(call.tile, dispatch.ASIDE) if kernel.layer.fused and kernel.layer.winograd else call.tile
        call.ldc = leading(call.most_aside)
        call.even = kernel.layer.consecutive
        call.entries = <Entry *>malloc(offsets.shape[0] * sizeof(Entry))
        if call.entries == NULL:
            raise MemoryError("no memory for the table of entries")
        for e in range(offsets.shape[0]):
            entry = &call.entries[e]
            entry.half, entry.slot = slots[e] // kernel.plan.slot_count, slots[e] % kernel.plan.slot_count
            entry.phase, entry.shift = offsets[e] % S, offsets[e] // S
            entry.first = -floor_div(entry.phase - left, S)
            entry.last = floor_div(left + call.out_length - 1 - entry.phase, S) + 1
            if entry.first < entry.last and entry.half:
                call.odd_steps = True
            elif entry.first < entry.last:
                call.even_steps = True
            call.even = call.even and entry.shift == 0
            call.first_inside = max(call.first_inside, entry.first) if e else entry.first
            call.last_inside = min(call.last_inside, entry.last) if e else entry.last
        self.items = (1 if call.merged else batch) * kernel.layer.groups * call.tiles

    def __call__(self, x, y, bias, int threads):
        """Fill y, C-contiguous in the plan's layout, from x (N, C_in, L), any strides; both of the compute type.

        bias: C-contiguous or None.
        """
        cdef Call call = self.call          # one copy a caller: calls may run side by side
        cdef Layer *layer = &self.kernel.layer
        cdef Py_buffer xb, yb, bb
        cdef Py_ssize_t size = 8 if self.kernel.double_precision else 4
        cdef Py_ssize_t items = self.items
        cdef void *workspaces[MOST_THREADS]
        cdef int i, taken = 0
        cdef bint double_precision = self.kernel.double_precision
        cdef Watch watch
        threads = max(1, min(threads, MOST_THREADS))
        call.blocks_per_item, call.block_groups = layer.nblocks, 1
        if threads > 1:
            # several items a thread, so that a disturbed core does not hold up the call
            call.block_groups = min(layer.nblocks, (8 * threads + items - 1) // max(items, 1))
            call.blocks_per_item = layer.nblocks // call.block_groups
            call.block_groups = (layer.nblocks + call.blocks_per_item - 1) // call.blocks_per_item
            items *= call.block_groups
            threads = <int>min(threads, items)
        PyObject_GetBuffer(x, &xb, PyBUF_STRIDED_RO)
        try:
            PyObject_GetBuffer(y, &yb, PyBUF_STRIDED_RO | PyBUF_WRITABLE)
            try:
                i = xb.ndim
                call.x.x, call.y, call.bias = xb.buf, yb.buf, NULL
                call.x.sl, call.x.sc, call.x.sp = xb.strides[i - 1] // size, xb.strides[i - 2] // size, 1
                call.x.sn = xb.strides[0] // size if i == 3 else 0
                call.in_place = in_place(layer, &call, size)
                if bias is not None:
                    PyObject_GetBuffer(bias, &bb, PyBUF_STRIDED_RO)
                    call.bias = bb.buf
                    PyBuffer_Release(&bb)       # the caller holds it
                threads = team(threads)
                try:
                    while taken < threads:
                        workspaces[taken] = take_workspace()
                        taken += 1
                    # from here on nothing can fail: y is written wholly or not at all
                    if self.leaves_gaps:
                        y[...] = 0 if bias is None else bias if layer.channels_last else bias[:, None]
                    with nogil:
                        if double_precision:
                            run_items[double](layer, &call, items, threads, workspaces, &watch, 0)
                        else:
                            run_items[float](layer, &call, items, threads, workspaces, &watch, 0)
                    if threads > 1:
                        settle(&watch, items)
                finally:
                    for i in range(taken):
                        give_workspace(workspaces[i])
            finally:
                PyBuffer_Release(&yb)
        finally:
            PyBuffer_Release(&xb)
