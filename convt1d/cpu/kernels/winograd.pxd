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
from convt1d.cpu._pack cimport Row, pack_rows, row_at, sum_of
from convt1d.cpu._tile cimport (
    Activation, Block, Call, Layer, Ops, Strides, Tile, load_function, pack_function, run_function,
)

cdef enum:
    PLAIN = 1
    BEYOND = 32     # plan.BEYOND


cdef inline Py_ssize_t packed(Py_ssize_t taps) noexcept nogil:
    """winograd.weights"""
    return 3 * (taps // 2) + taps % 2


cdef inline int pack(const Layer *layer, const Block *block, const real *w, const Strides *strides,
                     real *out) noexcept nogil:
    cdef Py_ssize_t c0 = 0, c1, half, first, rows, taps, width
    cdef real squares = 0
    while c0 < layer.shape.channels:
        c1 = min(c0 + layer.piece_channels, layer.shape.channels)
        for half in range(2):
            taps = layer.own[0] - half
            first = 0 if half == 0 else block.long_rows
            rows = block.long_rows if half == 0 else block.rows - block.long_rows
            while rows > 0:
                width = direct_block(layer.microkernels.sizes.rows, rows)
                squares += pack_register_block[real](layer, block, w, strides, c0, c1, taps, first, width, out)
                out += (c1 - c0) * packed(taps) * width
                first += width
                rows -= width
        c0 = c1
    return 0 if squares - squares == 0 else PLAIN


cdef inline real pack_register_block(const Layer *layer, const Block *block, const real *w, const Strides *strides,
                                     Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t taps, Py_ssize_t first,
                                     Py_ssize_t width, real *out) noexcept nogil:
    """Rows first .. first+width-1; returns the sum of the weights' squares."""
    cdef Py_ssize_t c, r, p, kind = (c1 - c0) * (taps // 2) * width
    cdef Row row[8]
    cdef real a[8]
    cdef real b[8]
    cdef real squares = 0
    for r in range(width):
        row[r] = row_at(layer, block, first + r, strides)
    for c in range(c0, c1):
        for p in range(taps // 2):
            pack_rows[real](layer, w, c, 2 * p, layer.own[0], strides, row, width, a)
            pack_rows[real](layer, w, c, 2 * p + 1, layer.own[0], strides, row, width, b)
            squares += pack_pair[real](a, b, width, kind, out)
            out += width
    out += 2 * kind
    for c in range(c0, c1 if taps % 2 else c0):
        pack_rows[real](layer, w, c, taps - 1, layer.own[0], strides, row, width, out)
        for r in range(width):
            squares += out[r] * out[r]
        out += width
    return squares


cdef inline real pack_pair(const real *a, const real *b, Py_ssize_t width, Py_ssize_t kind, real *out) noexcept nogil:
    """a + b, b and a, `kind` numbers from each other; returns the sum of their squares."""
    cdef Py_ssize_t r
    cdef real squares = 0
    for r in range(width):
        out[r], out[kind + r], out[2 * kind + r] = a[r] + b[r], b[r], a[r]
        squares += a[r] * a[r] + b[r] * b[r]
    return squares


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
