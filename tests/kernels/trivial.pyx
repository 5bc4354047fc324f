# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A kernel that test_new_kernel.py adds: one product after the other, no vectors.

Packed weights of a block:

    [row] [c] [m]
"""

from libc.stdint cimport uintptr_t

from convt1d.cpu._columns cimport begin_block, end_block
from convt1d.cpu._microkernels cimport real
from convt1d.cpu._pack cimport gather, pairs
from convt1d.cpu._rows cimport load_rows
from convt1d.cpu._tile cimport (
    Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)


cdef inline Py_ssize_t taps_of(const Layer *layer, const Block *block, Py_ssize_t row) noexcept nogil:
    return layer.shape.taps if row < block.long_rows else layer.shape.taps - 1


cdef inline void pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                      Py_ssize_t c1, real *out, real *sizes) noexcept nogil:
    cdef Py_ssize_t r, c, m, taps = layer.shape.taps
    for r in range(block.rows):
        for c in range(c0, c1):
            for m in range(taps_of(layer, block, r)):
                gather[real](layer, weights, row + r, 1, c, c + 1, m, m + 1, taps,
                             out + (r * layer.shape.channels + c) * taps + m, 0)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    cdef Py_ssize_t row, c, m, i, taps = layer.shape.taps
    cdef const real *x
    cdef const real *weights
    cdef real *column
    begin_block[real](layer, call, block, tile, 0)
    for row in range(block.rows):
        column = <real *>tile.columns + row * call.cut.ldc
        for i in range(tile.f1 - tile.f0 if tile.piece.first else 0):
            column[i] = 0
        for c in range(tile.piece.c0, tile.piece.c1):
            weights = w + block.weights + (row * layer.shape.channels + c) * taps
            x = <const real *>tile.x + (c - tile.piece.c0) * tile.ldx
            for m in range(tile.piece.m0, min(tile.piece.m1, taps_of(layer, block, row))):
                if pairs(layer, c, c + 1, m, m + 1):
                    for i in range(tile.f1 - tile.f0):
                        column[i] += weights[m] * x[i + (tile.piece.m1 - 1 - m) * layer.shape.step]
    if tile.piece.last:
        end_block[real](layer, call, block, tile, 0)


cdef Ops OPS[2]
OPS[0] = Ops(<pack_function>pack[float], <load_function>load_rows[float], <run_function>run[float])
OPS[1] = Ops(<pack_function>pack[double], <load_function>load_rows[double], <run_function>run[double])


def address():
    """For `_tiles.COMPILED`."""
    return <uintptr_t>OPS
