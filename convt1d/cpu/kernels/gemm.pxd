# SPDX-License-Identifier: MIT
"""gemm.py's compiled part.

Packed weights of a block, long rows first:

    [m] [c] [row]

own: the most multiply-adds of one product; the rows of the largest block.
"""

from convt1d.cpu._blas cimport gemm_nt
from convt1d.cpu._columns cimport begin_block, end_block
from convt1d.cpu._rows cimport load_rows
from convt1d.cpu._microkernels cimport real
from convt1d.cpu._pack cimport gather
from convt1d.cpu._tile cimport (
    Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)


cdef inline void pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                      Py_ssize_t c1, real *out, real *sizes) noexcept nogil:
    cdef Py_ssize_t taps = layer.shape.taps, m, rows
    for m in range(taps):
        rows = block.rows if m < taps - 1 else block.long_rows
        gather[real](layer, weights, row, rows, c0, c1, m, m + 1, taps, out + c0 * rows, 0)
        out += layer.shape.channels * rows


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    cdef Py_ssize_t m, c, k, rows, channels = layer.shape.channels, m1 = tile.piece.m1, n = tile.f1 - tile.f0
    cdef Py_ssize_t most = max(layer.own[0] // (call.cut.tile * layer.own[1]), 1)
    begin_block[real](layer, call, block, tile, 0)
    w += block.weights
    for m in range(tile.piece.m0, m1):
        rows = block.rows if m < layer.shape.taps - 1 else block.long_rows
        c = tile.piece.c0
        while c < tile.piece.c1 and rows > 0:
            k = min(most, tile.piece.c1 - c)
            gemm_nt[real](<int>n, <int>rows, <int>k,
                          <const real *>tile.x + (c - tile.piece.c0) * tile.ldx + (m1 - 1 - m) * layer.shape.step,
                          <int>tile.ldx, w + m * block.rows * channels + c * rows, <int>rows, m > 0 or c > 0,
                          <real *>tile.columns, <int>call.cut.ldc)
            c += k
    if tile.piece.last:
        end_block[real](layer, call, block, tile, 0)


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>load_rows[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>load_rows[double], <run_function>run[double])
