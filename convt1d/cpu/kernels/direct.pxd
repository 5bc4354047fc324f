# SPDX-License-Identifier: MIT
"""direct.py's compiled part.

Packed weights of a block:

    [piece of taps] [piece of channels] [long rows | others, one tap less] [register block] [c] [m] [row]
"""

from convt1d.cpu._columns cimport begin_block, end_block
from convt1d.cpu._rows cimport load_rows
from convt1d.cpu._microkernels cimport ADD, Sum, direct_block, real
from convt1d.cpu._pack cimport gather, pairs, sum_of
from convt1d.cpu._tile cimport (
    Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)


cdef inline void pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                      Py_ssize_t c1, real *out, real *sizes) noexcept nogil:
    cdef Py_ssize_t channels = layer.shape.channels, taps = layer.shape.taps, others = block.rows - block.long_rows
    cdef Py_ssize_t m0 = 0, m1, short, first, past, lo, hi
    cdef real *to
    while m0 < taps:
        m1 = min(m0 + layer.piece_taps, taps)
        short = min(m1, taps - 1)
        first = c0 // layer.piece_channels * layer.piece_channels
        while first < c1:
            past = min(first + layer.piece_channels, channels)
            lo, hi = max(c0, first), min(c1, past)
            to = out + block.long_rows * pairs(layer, 0, first, m0, m1) + others * first * (short - m0)
            pack_rows[real](layer, weights, row, block.long_rows, first, past, lo, hi, m0, m1, to)
            to += block.long_rows * pairs(layer, first, past, m0, m1)
            pack_rows[real](layer, weights, row + block.long_rows, others, first, past, lo, hi, m0, short, to)
            first = past
        out += block.long_rows * pairs(layer, 0, channels, m0, m1) + others * channels * (short - m0)
        m0 = m1


cdef inline void pack_rows(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t rows,
                           Py_ssize_t first, Py_ssize_t past, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t m0,
                           Py_ssize_t m1, real *out) noexcept nogil:
    """Channels c0 .. c1-1 of a piece of the channels first .. past-1."""
    cdef Py_ssize_t r = 0, width, depth = pairs(layer, first, past, m0, m1), before = pairs(layer, first, c0, m0, m1)
    while r < rows and m0 < m1:
        width = direct_block(layer.microkernels.sizes.rows, rows - r)
        gather[real](layer, weights, row + r, width, c0, c1, m0, m1, layer.shape.taps, out + r * depth + width * before,
                     width * depth)
        r += width


cdef inline void multiply(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                          const real *w) noexcept nogil:
    """columns[row, i] (+)= the piece's sums; the long rows first, then those that lack the last tap."""
    cdef Py_ssize_t c0 = tile.piece.c0, c1 = tile.piece.c1, m0 = tile.piece.m0, m1 = tile.piece.m1
    cdef Py_ssize_t rows = block.rows - block.long_rows, n = tile.f1 - tile.f0
    cdef Py_ssize_t short_taps = min(m1, layer.shape.taps - 1) - m0
    cdef const real *x = <const real *>tile.x
    cdef real *columns = <real *>tile.columns
    cdef int add = 0 if tile.piece.first else ADD
    cdef Sum sum = sum_of(layer, c0, c1, m0, m1)
    w += block.weights + block.rows * pairs(layer, 0, layer.shape.channels, 0, m0)
    w += block.long_rows * pairs(layer, 0, c0, m0, m1) + rows * c0 * short_taps
    layer.microkernels.direct(x, tile.ldx, w, columns, call.cut.ldc, &sum, block.long_rows, n, NULL, NULL, add,
                              &tile.prefetch)
    if short_taps > 0 and rows > 0:
        w += block.long_rows * sum.depth
        x += (m1 - m0 - short_taps) * layer.shape.step
        columns += block.long_rows * call.cut.ldc
        sum = sum_of(layer, c0, c1, m0, m0 + short_taps)
        layer.microkernels.direct(x, tile.ldx, w, columns, call.cut.ldc, &sum, rows, n, NULL, NULL, add,
                                  &tile.prefetch)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    begin_block[real](layer, call, block, tile, 0)
    multiply[real](layer, call, block, tile, w)
    if tile.piece.last:
        end_block[real](layer, call, block, tile, 0)


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>load_rows[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>load_rows[double], <run_function>run[double])
