# SPDX-License-Identifier: MIT
"""The epilogue: y of a weight block, just stored and still in cache, becomes after(y) + add.

It serves every kernel. The y of a tile is one stretch of each output's row, from its first column's first position to
that of the next tile's first column; `Run.can_finish` says for which plans this holds.
"""

from convt1d.cpu._microkernels cimport real
from convt1d.cpu._tile cimport Block, Call, Layer, Tile


cdef inline void finish_block(const Layer *layer, const Call *call, const Block *block, const Tile *tile,
                              real unused) noexcept nogil:
    """To be called once all pieces of a block are summed; a merged batch's columns belong to several samples."""
    cdef Py_ssize_t S = layer.shape.stride, i = call.cut.first - call.cut.history, n = tile.f1 - tile.f0
    cdef Py_ssize_t within, length, start, stop, o, row, at, done = 0, sample = tile.sample
    while done < n:
        within, length = tile.f0 + done, n - done
        if call.cut.merged:
            sample = (tile.f0 + done) // call.cut.columns
            within = (tile.f0 + done) % call.cut.columns
            length = min(length, call.cut.columns - within)
        start = max((i + max(within, call.cut.history)) * S - call.output.left, 0)
        stop = min((i + within + length) * S - call.output.left, call.output.length)
        for o in range(block.outputs if start < stop else 0):
            row = tile.group * layer.shape.outputs + block.output0 + o
            at = (sample * layer.shape.groups * layer.shape.outputs + row) * call.output.length + start
            layer.microkernels.activate(
                call.output.after.kind, <real *>call.output.y + at,
                <const real *>call.output.add + at if call.output.add != NULL else NULL,
                <real *>call.output.y + at, stop - start,
                call.output.after.a[row * call.output.after.next], call.output.after.b[row * call.output.after.next])
        done += length
