# SPDX-License-Identifier: MIT
"""winograd.py's compiled part: F(2, 2), three products for two columns of two taps.

A row of x becomes three rows of the tile, or four where branches have an odd tap:

    x[2j] (channels)  |  x[2j-1] - x[2j] (channels)  |  x[2j+1] - x[2j] (channels)  |  x[2j+1] (channels)

First the sums that both columns have in common, then each column's on top of them:

    columns     even (rows)  |  odd (rows)  |  common, room for a register block

Packed weights of a block:

    [piece of channels] [long rows | others] [register block] [a + b | b | a] [c] [pair] [row], [c] [row] of an odd tap

The form PLAIN, of weights or of a tile, stands for numbers that are infinite, NaN or too large to be squared: x is
loaded without differences, and the four products are made from the same packed weights.

own: the taps of a long branch.
"""

from libc.string cimport memset

from convt1d.cpu._columns cimport begin_block, end_block
from convt1d.cpu._rows cimport load_samples
from convt1d.cpu._microkernels cimport Prefetch, Sum, direct_block, real
from convt1d.cpu._pack cimport gather, sum_of
from convt1d.cpu._tile cimport (
    Activation, Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)

cdef enum:
    PLAIN = 1
    BEYOND = 32     # plan.BEYOND
    ROOM = 4096     # taps that are paired at a time: 16 or 32 KiB


cdef inline Py_ssize_t packed(Py_ssize_t taps) noexcept nogil:
    """winograd.weights"""
    return 3 * (taps // 2) + taps % 2


cdef inline int pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                     Py_ssize_t c1, real *out) noexcept nogil:
    cdef Py_ssize_t piece = layer.piece_channels, first = c0 // piece * piece, past, half, r, rows, taps, width
    cdef bint ordinary = True
    out += first * (block.long_rows * packed(layer.own[0]) + (block.rows - block.long_rows) * packed(layer.own[0] - 1))
    while first < c1:
        past = min(first + piece, layer.shape.channels)
        for half in range(2):
            taps = layer.own[0] - half
            r = 0 if half == 0 else block.long_rows
            rows = block.long_rows if half == 0 else block.rows
            while r < rows:
                width = direct_block(layer.microkernels.sizes.rows, rows - r)
                ordinary &= pack_register_block[real](layer, weights, row + r, width, first, past, max(c0, first),
                                                      min(c1, past), taps, out)
                out += (past - first) * packed(taps) * width
                r += width
        first = past
    return 0 if ordinary else PLAIN


cdef inline bint pack_register_block(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t width,
                                     Py_ssize_t first, Py_ssize_t past, Py_ssize_t c0, Py_ssize_t c1,
                                     Py_ssize_t taps, real *out) noexcept nogil:
    """Channels c0 .. c1-1 of a piece of the channels first .. past-1; returns whether no weight asks for PLAIN."""
    cdef Py_ssize_t each = taps // 2 * width, kind = (past - first) * each, all = (past - first) * packed(taps) * width
    cdef bint ordinary = pack_pairs[real](layer, weights, row, width, c0, c1, 0, taps // 2, width, kind,
                                          out + (c0 - first) * each, all)
    if taps % 2:
        out += 3 * kind + (c0 - first) * width
        gather[real](layer, weights, row, width, c0, c1, taps - 1, taps, layer.own[0], out, all)
        ordinary &= are_ordinary[real](layer, out, (c1 - c0) * width)
    return ordinary


cdef inline bint pack_pairs(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t width,
                            Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t apart,
                            Py_ssize_t kind, real *out, Py_ssize_t ahead) noexcept nogil:
    """a + b, b and a, `kind` numbers from each other: of each channel and pair, which are `apart`. Returns whether none
    asks for PLAIN. The taps lie in an L1 cache meanwhile. `ahead`: from `out` to where the next rows go.
    """
    cdef Py_ssize_t c = c0, past, n, pairs = p1 - p0
    cdef real taps[ROOM]
    cdef bint ordinary = True
    while c < c1 and pairs > 0:
        past = min(c + ROOM // (2 * pairs * width), c1)
        n = (past - c) * pairs
        gather[real](layer, weights, row, width, c, past, 2 * p0, 2 * p1, layer.own[0], taps, 0)
        ordinary &= layer.microkernels.pair_taps(out, apart, kind, taps, n, width, ahead)
        out += n * apart
        c = past
    return ordinary


cdef inline bint are_ordinary(const Layer *layer, const real *w, Py_ssize_t n) noexcept nogil:
    """Whether the sum of the squares is finite: a sum for each lane of a vector."""
    cdef real sums[16]
    cdef real all = 0
    cdef Py_ssize_t i
    memset(sums, 0, sizeof(sums))
    layer.microkernels.dot(w, <const void **>&w, 1, sums, 16, n)
    for i in range(16):
        all += sums[i]
    return all - all == 0


cdef inline int load(const Layer *layer, const Call *call, const Activation *before, const real *x, Py_ssize_t c0,
                     Py_ssize_t c1, Py_ssize_t i, Py_ssize_t n, real *dst, real *row, int form) noexcept nogil:
    """Columns i .. i+n-1, whole sets of d: of the samples 2i .. 2i+2n-1 of the whole signal, from where they lie or by
    way of `row`."""
    cdef Py_ssize_t c, d = layer.shape.residues, first = 2 * i - call.origin
    cdef Py_ssize_t ldx = call.cut.ldx, plane = (c1 - c0) * ldx, at = first + layer.input_rows.offsets[0]
    cdef bint ordinary = True, odd_taps = layer.planes > 3
    if (layer.input_rows.count == layer.input_rows.stride == layer.shape.parts == call.x.sl == 1
            and before.kind == 0 and at >= d and at + 2 * n + BEYOND <= call.x.length):
        ordinary = layer.microkernels.pair(dst, ldx, plane, x + c0 * call.x.sc + at, call.x.sc, c1 - c0, n,
                                           form == PLAIN, odd_taps, d)
        return form if ordinary else PLAIN
    memset(row + d + 2 * n, 0, BEYOND * sizeof(real))
    for c in range(c0, c1):
        load_samples[real](layer, call, before, x, c, c + 1, first - d, 2 * n + d, row)
        ordinary &= layer.microkernels.pair(dst, ldx, plane, row + d, 0, 1, n, form == PLAIN, odd_taps, d)
        dst += ldx
    return form if ordinary else PLAIN


cdef inline bint needed(const Call *call, Py_ssize_t step) noexcept nogil:
    """Whether the output needs any column of an even (0) or an odd (1) step."""
    cdef Py_ssize_t e
    for e in range(call.output.nentries):
        if call.output.entries[e].step == step and call.output.entries[e].first < call.output.entries[e].last:
            return True
    return False


cdef inline void multiply(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                          const real *w) noexcept nogil:
    cdef Py_ssize_t channels = tile.piece.c1 - tile.piece.c0, others = block.rows - block.long_rows, taps, rows, half
    cdef Py_ssize_t width
    cdef const real *x
    cdef real *columns = <real *>tile.columns
    cdef Sum sum, last
    cdef bint even = needed(call, 0), odd = needed(call, 1)
    w += block.weights + tile.piece.c0 * (block.long_rows * packed(layer.own[0]) + others * packed(layer.own[0] - 1))
    for half in range(2):
        taps = layer.own[0] - half
        rows = block.long_rows if half == 0 else others
        sum = sum_of(layer, 0, channels, 0, taps // 2)
        last = sum_of(layer, 0, channels, 0, taps % 2)
        x = <const real *>tile.x + (layer.shape.taps - sum.taps) * layer.shape.step
        while rows > 0:
            width = direct_block(layer.microkernels.sizes.rows, rows)
            multiply_rows[real](layer, call, block, tile, w, x, columns, &sum, &last, width, even, odd)
            w += width * channels * packed(taps)
            columns += width * call.cut.ldc
            rows -= width


cdef inline void multiply_rows(const Layer *layer, const Call *call, const Block *block, Tile *tile, const real *w,
                               const real *x, real *even, const Sum *sum, const Sum *last, Py_ssize_t width,
                               bint even_needed, bint odd_needed) noexcept nogil:
    """One register block of rows; `last` sums an odd tap. A column that no output needs is left out."""
    cdef Py_ssize_t ldc = call.cut.ldc, ldx = tile.ldx, n = tile.f1 - tile.f0
    cdef Py_ssize_t plane = (tile.piece.c1 - tile.piece.c0) * ldx
    cdef Prefetch *prefetch = &tile.prefetch
    cdef Py_ssize_t next_tile = prefetch.next_tile, next_ldx = prefetch.next_ldx
    cdef bint add = tile.piece.c0 > 0, more = add or sum.taps > 0
    cdef real *odd = even + block.rows * ldc
    cdef real *common = <real *>tile.columns + 2 * block.rows * ldc
    cdef const real *w_before = w + width * sum.depth
    cdef const real *w_after = w_before + width * sum.depth
    if sum.taps > 0 and tile.form == PLAIN:
        layer.microkernels.direct(x, ldx, w_after, even, ldc, sum, width, n, NULL, add, prefetch)
        layer.microkernels.direct(x + plane, ldx, w_before, even, ldc, sum, width, n, NULL, True, prefetch)
        layer.microkernels.direct(x + 2 * plane, ldx, w_after, odd, ldc, sum, width, n, NULL, add, prefetch)
        layer.microkernels.direct(x, ldx, w_before, odd, ldc, sum, width, n, NULL, True, prefetch)
    elif sum.taps > 0:
        layer.microkernels.direct(x, ldx, w, common, ldc, sum, width, n, NULL, False, prefetch)
        if even_needed:
            layer.microkernels.direct(x + plane, ldx, w_before, even, ldc, sum, width, n, common, add, prefetch)
        if odd_needed:
            if next_tile != prefetch.x_ahead:
                # the second half of the next tile, whose first half was prefetched with `common`
                prefetch.next_tile, prefetch.next_ldx = next_tile + n - 2 * plane, next_ldx
            layer.microkernels.direct(x + 2 * plane, ldx, w_after, odd, ldc, sum, width, n, common, add, prefetch)
    if last.taps > 0:
        w = w_after + width * sum.depth
        x -= layer.shape.step
        layer.microkernels.direct(x, ldx, w, even, ldc, last, width, n, NULL, more, prefetch)
        layer.microkernels.direct(x + 3 * plane, ldx, w, odd, ldc, last, width, n, NULL, more, prefetch)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    begin_block[real](layer, call, block, tile, 0)
    multiply[real](layer, call, block, tile, w)
    if tile.piece.last:
        end_block[real](layer, call, block, tile, 0)


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>load[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>load[double], <run_function>run[double])
