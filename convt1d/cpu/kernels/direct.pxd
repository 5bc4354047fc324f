# SPDX-License-Identifier: MIT
"""direct.py's compiled part.

Packed weights of a block:

    [piece of taps] [piece of channels] [long rows | others, one tap less] [register block] [c] [m] [row]
"""

from convt1d.cpu._columns cimport begin_block, end_block
from convt1d.cpu._rows cimport load_rows
from convt1d.cpu._microkernels cimport Sum, direct_block, real
from convt1d.cpu._pack cimport Row, pack_rows, pairs, row_at, sum_of
from convt1d.cpu._tile cimport (
    Block, Call, Layer, Ops, Strides, Tile, load_function, pack_function, run_function,
)


cdef inline int pack(const Layer *layer, const Block *block, const real *w, const Strides *strides,
                     real *out) noexcept nogil:
    cdef Py_ssize_t taps = layer.shape.taps, m, c, r, m0 = 0, m1, c0, c1, half, first, rows, past, width
    cdef Row row[8]
    while m0 < taps:
        m1 = min(m0 + layer.piece_taps, taps)
        c0 = 0
        while c0 < layer.shape.channels:
            c1 = min(c0 + layer.piece_channels, layer.shape.channels)
            for half in range(2):
                first = 0 if half == 0 else block.long_rows
                rows = block.long_rows if half == 0 else block.rows - block.long_rows
                past = m1 if half == 0 else min(m1, taps - 1)
                while rows > 0 and past > m0:
                    width = direct_block(layer.microkernels.sizes.rows, rows)
                    for r in range(width):
                        row[r] = row_at(layer, block, first + r, strides)
                    for c in range(c0, c1):
                        for m in range(m1 - pairs(layer, c, c + 1, m0, m1), past):
                            out += pack_rows[real](layer, w, c, m, taps, strides, row, width, out)
                    first += width
                    rows -= width
            c0 = c1
        m0 = m1
    return 0


cdef inline void multiply(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                          const real *w) noexcept nogil:
    """columns[row, i] (+)= the piece's sums; the long rows first, then those that lack the last tap."""
    cdef Py_ssize_t c0 = tile.piece.c0, c1 = tile.piece.c1, m0 = tile.piece.m0, m1 = tile.piece.m1
    cdef Py_ssize_t rows = block.rows - block.long_rows, n = tile.f1 - tile.f0
    cdef Py_ssize_t short_taps = min(m1, layer.shape.taps - 1) - m0
    cdef const real *x = <const real *>tile.x
    cdef real *columns = <real *>tile.columns
    cdef bint add = not tile.piece.first
    cdef Sum sum = sum_of(layer, c0, c1, m0, m1)
    w += block.weights + block.rows * pairs(layer, 0, layer.shape.channels, 0, m0)
    w += block.long_rows * pairs(layer, 0, c0, m0, m1) + rows * c0 * short_taps
    layer.microkernels.direct(x, tile.ldx, w, columns, call.cut.ldc, &sum, block.long_rows, n, NULL, add,
                              &tile.prefetch)
    if short_taps > 0 and rows > 0:
        w += block.long_rows * sum.depth
        x += (m1 - m0 - short_taps) * layer.shape.step
        columns += block.long_rows * call.cut.ldc
        sum = sum_of(layer, c0, c1, m0, m0 + short_taps)
        layer.microkernels.direct(x, tile.ldx, w, columns, call.cut.ldc, &sum, rows, n, NULL, add, &tile.prefetch)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    begin_block[real](layer, call, block, tile, 0)
    multiply[real](layer, call, block, tile, w)
    if tile.piece.last:
        end_block[real](layer, call, block, tile, 0)


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>load_rows[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>load_rows[double], <run_function>run[double])
