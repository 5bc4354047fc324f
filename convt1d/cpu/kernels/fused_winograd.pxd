# SPDX-License-Identifier: MIT
"""fused_winograd.py's compiled part.

Packed weights of a block:

    [register block of outputs] [pair] [c] [a + b | b | a] [output] [branch]

own: as winograd.pxd has it.
"""

from convt1d.cpu._microkernels cimport Sum, fused_block, real
from convt1d.cpu._pack cimport sum_of
from convt1d.cpu._tile cimport (
    Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)
from convt1d.cpu.kernels cimport winograd
from convt1d.cpu.kernels.fused cimport store_function, store_tile


cdef inline void pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                      Py_ssize_t c1, real *out, real *sizes) noexcept nogil:
    cdef Py_ssize_t channels = layer.shape.channels, r = 0, width, p
    while r < block.rows:
        width = block.branches * fused_block(layer.microkernels.sizes.rows, <int>block.branches,
                                             (block.rows - r) // block.branches, channels)
        for p in range(layer.shape.taps):
            winograd.pack_pairs[real](layer, weights, row + r, width, c0, c1, p, p + 1, 3 * width, width,
                                      out + 3 * width * c0, 3 * width * channels * layer.shape.taps,
                                      sizes + r * layer.own[0])
            out += 3 * width * channels
        r += width


cdef inline void store(const Layer *layer, const Block *block, const Sum *sum, Tile *tile, const real *w, real *y,
                       Py_ssize_t ldy, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    cdef const real *x = <const real *>tile.x
    cdef const real *next = NULL if tile.prefetch.next_tile == 0 else x + tile.prefetch.next_tile + 2 * at
    layer.microkernels.fused_winograd(x + at, tile.ldx, layer.shape.channels * tile.ldx, w, y, ldy, sum, n, tile.bias,
                                      next, &tile.prefetch, block.outputs, <int>block.branches,
                                      tile.form == winograd.APART)


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
