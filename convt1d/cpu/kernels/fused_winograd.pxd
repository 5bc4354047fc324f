# SPDX-License-Identifier: MIT
"""fused_winograd.py's compiled part.

Packed weights of a block:

    [register block of outputs] [pair] [c] [a + b | b | a] [output] [branch]

own: the taps of a branch.
"""

from convt1d.cpu._microkernels cimport Sum, fused_block, real
from convt1d.cpu._pack cimport Row, pack_rows, row_at, sum_of
from convt1d.cpu._tile cimport (
    Block, Call, Layer, Ops, Strides, Tile, load_function, pack_function, run_function,
)
from convt1d.cpu.kernels cimport winograd
from convt1d.cpu.kernels.fused cimport store_function, store_tile


cdef inline int pack(const Layer *layer, const Block *block, const real *w, const Strides *strides,
                     real *out) noexcept nogil:
    cdef Py_ssize_t channels = layer.shape.channels, first = 0, width, c, r, p
    cdef Row row[8]
    cdef real a[8]
    cdef real b[8]
    cdef real squares = 0
    while first < block.rows:
        width = block.branches * fused_block(layer.microkernels.sizes.rows, <int>block.branches,
                                             (block.rows - first) // block.branches, channels)
        for r in range(width):
            row[r] = row_at(layer, block, first + r, strides)
        for p in range(layer.shape.taps):
            for c in range(channels):
                pack_rows[real](layer, w, c, 2 * p, layer.own[0], strides, row, width, a)
                pack_rows[real](layer, w, c, 2 * p + 1, layer.own[0], strides, row, width, b)
                squares += winograd.pack_pair[real](a, b, width, width, out)
                out += 3 * width
        first += width
    return 0 if squares - squares == 0 else winograd.PLAIN


cdef inline void store(const Layer *layer, const Block *block, const Sum *sum, Tile *tile, const real *w, real *y,
                       Py_ssize_t ldy, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    cdef const real *x = <const real *>tile.x
    cdef const real *next = NULL if tile.prefetch.next_tile == 0 else x + tile.prefetch.next_tile + 2 * at
    layer.microkernels.fused_winograd(x + at, tile.ldx, layer.shape.channels * tile.ldx, w, y, ldy, sum, n, tile.bias,
                                      next, &tile.prefetch, block.outputs, <int>block.branches,
                                      tile.form == winograd.PLAIN)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    cdef Sum sum = sum_of(layer, 0, layer.shape.channels, 0, layer.own[0])
    if (layer.memory.x_two_channels or not tile.first_block
            or tile.prefetch.next_tile == tile.prefetch.x_ahead):
        tile.prefetch.next_tile = 0     # nearly each product loads a number, so prefetches cost
    store_tile[real](layer, call, block, &sum, tile, w, <store_function>store[real])


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>winograd.load[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>winograd.load[double], <run_function>run[double])
