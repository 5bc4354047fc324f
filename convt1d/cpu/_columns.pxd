# SPDX-License-Identifier: MIT
"""Columns and their interleave (col2im): for kernels that store the columns of a tile before they make y of them.

    begin_block     where each row of columns lies, and its bias
    end_block       columns + bias -> y; a merged batch's columns belong to several samples

Each position of y that a branch reaches is written once.
"""

from convt1d.cpu._microkernels cimport OutputLines, real
from convt1d.cpu._tile cimport Block, Call, Entry, Layer, Tile

cdef enum:
    SHORT_RUN = 4           # columns: to call a microkernel for fewer takes longer than to copy them
    DEEP = 32               # products of the last piece from which there is time to prefetch the output


cdef inline Py_ssize_t row_of(const Block *block, Py_ssize_t output, Py_ssize_t branch) noexcept nogil:
    """Row of the columns that holds a branch of an output: long branches of all outputs first."""
    branch -= block.branch0
    if branch < block.long_branches:
        return output * block.long_branches + branch
    return block.long_rows + output * (block.branches - block.long_branches) + branch - block.long_branches


cdef inline void begin_block(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                             real unused) noexcept nogil:
    """To be called for each piece before it is multiplied: `sources` and `bias` per output and entry of the block.

    A source is counted in q of the output. Channels last: per branch, output and part.
    """
    cdef Py_ssize_t o, e, part, k = 0, row, parts = layer.shape.parts
    cdef const real *columns = <const real *>tile.columns
    cdef real *bias = <real *>tile.bias
    cdef const Entry *entry
    if tile.piece.last and (tile.piece.c1 - tile.piece.c0) * (tile.piece.m1 - tile.piece.m0) >= DEEP:
        prefetch_output[real](layer, call, block, tile, 0)
    if not tile.piece.first:
        return
    for o in range(block.outputs):
        row = tile.group * layer.shape.outputs + block.output0 + o
        for e in range(block.entry0, block.entry1):
            entry = &call.output.entries[e]
            if layer.shape.channels_last:
                part = (e - block.entry0) % parts
                k = (e - block.entry0 - part) * block.outputs + o * parts + part
            tile.sources[k] = (columns + (row_of(block, o, entry.branch) + entry.step * block.rows) * call.cut.ldc
                               - entry.shift)
            bias[k] = 0
            if call.output.bias != NULL:
                bias[k] = (<const real *>call.output.bias)[row * parts + entry.branch % parts]
            k += 1


cdef inline void prefetch_output(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                                 real unused) noexcept nogil:
    """The product prefetches the lines of y that `end_block` is going to write.

    Whole steps only, and not of a merged batch, whose output is small.
    """
    cdef OutputLines *lines = &tile.prefetch.y_lines
    cdef Py_ssize_t i = call.cut.first - call.cut.history + tile.f0
    lines.rows = lines.at = 0
    if call.cut.merged or layer.shape.channels_last or block.entry1 - block.entry0 < layer.shape.stride:
        return
    lines.row = <const char *>(<real *>call.output.y - call.output.left + i * layer.shape.stride
                               + ((tile.sample * layer.shape.groups + tile.group) * layer.shape.outputs
                                  + block.output0) * call.output.length)
    lines.rows, lines.row_stride = block.outputs, call.output.length * sizeof(real)
    lines.bytes = (tile.f1 - tile.f0) * layer.shape.stride * sizeof(real)


cdef inline void interleave_run(const Layer *layer, const Call *call, const Block *block, const Tile *tile,
                                Py_ssize_t sample, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t at, Py_ssize_t run,
                                real unused) noexcept nogil:
    """Columns of i0 .. i1-1, the first of them at `at`, into y: of one run of a block's entries. An entry's column i
    belongs at q = i + shift, in strides of the output, and all entries share an inner stretch of q's:

        q:          q0                     q1
        entry 0     |######################|##
        entry 1    #|######################|#      (offset >= stride: shifted)
                    |- one interleave -----|       what is left at both ends is written one by one
    """
    cdef Py_ssize_t e, _o, q, hi, S = layer.shape.stride, all = block.entry1 - block.entry0, n = all // layer.runs
    cdef Py_ssize_t q0 = i0, q1 = i1
    cdef const Entry *entries = call.output.entries + block.entry0 + run * n
    cdef const Entry *entry
    cdef real *y = (<real *>call.output.y - call.output.left
                    + ((sample * layer.shape.groups + tile.group) * layer.shape.outputs + block.output0)
                    * call.output.length)
    cdef bint whole = call.output.aligned and i0 >= call.output.first_inside and i1 <= call.output.last_inside
    cdef const real **sources = <const real **>tile.sources + run * n
    cdef const real *bias = <const real *>tile.bias + run * n
    if not whole:
        for e in range(n):
            q0 = max(q0, max(i0 + entries[e].shift, entries[e].first))
            hi = min(i1 + entries[e].shift, entries[e].last)
            q1 = min(q1, hi) if e else hi
        q1 = max(q0, q1) if layer.shape.consecutive else q0
    if q1 - q0 < SHORT_RUN:
        q1, whole = q0, False
    for _o in range(block.outputs):
        if q1 > q0:
            layer.microkernels.interleave(y + q0 * S + entries[0].phase, S, <const void **>sources, at + q0 - i0, n,
                                          q1 - q0, bias)
        if not whole:
            for e in range(n):
                entry = &entries[e]
                q = max(i0 + entry.shift, entry.first)
                while q < min(i1 + entry.shift, entry.last):
                    if q == q0 and q1 > q0:
                        q = q1
                        continue
                    y[q * S + entry.phase] = sources[e][at + q - i0] + bias[e]
                    q += 1
        y += call.output.length
        sources += all
        bias += all


cdef inline void interleave_channels(const Layer *layer, const Call *call, const Block *block, const Tile *tile,
                                     Py_ssize_t sample, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t at,
                                     real unused) noexcept nogil:
    """The same into y[n, t, o]: what is interleaved are the outputs of a block, one branch after the other.

        t = stride*q + phase    |o0 o1 o2 ...|              the block's outputs; complex: (re, im) of each
        t + stride              |o0 o1 o2 ...|
    """
    cdef Py_ssize_t e = block.entry0, lo, hi, parts = layer.shape.parts, S = layer.shape.stride // parts
    cdef Py_ssize_t lanes = block.outputs * parts
    cdef Py_ssize_t width = layer.shape.groups * layer.shape.outputs * parts       # real numbers in a time step
    cdef const Entry *entry
    cdef real *y = (<real *>call.output.y + (sample * call.output.length - call.output.left) // parts * width
                    + (tile.group * layer.shape.outputs + block.output0) * parts)
    cdef const real **sources = <const real **>tile.sources
    cdef const real *bias = <const real *>tile.bias
    while e < block.entry1:
        entry = &call.output.entries[e]
        lo, hi = max(i0 + entry.shift, entry.first), min(i1 + entry.shift, entry.last)
        if hi > lo:
            layer.microkernels.interleave(y + (lo * S + entry.phase // parts) * width, S * width,
                                          <const void **>sources, at + lo - i0, lanes, hi - lo, bias)
        sources += lanes
        bias += lanes
        e += parts


cdef inline void weave_run(const Layer *layer, const Call *call, const Block *block, const Tile *tile,
                           Py_ssize_t sample, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t at,
                           real unused) noexcept nogil:
    """The same for columns in sets of d: their runs of d numbers, even ones and odd ones, take turns in y.

        even  e0 e1 e2 | e3 ...
        odd   o0 o1 o2 | o3 ...     ->     y:  e0 e1 e2 o0 o1 o2 | e3 ...       whole sets by a microkernel
    """
    cdef Py_ssize_t _o, p, d = layer.shape.residues, left = call.output.left, column
    cdef Py_ssize_t start = max(2 * i0, left), stop = min(2 * i1, left + call.output.length)
    # whole sets lie at positions lo .. hi-1
    cdef Py_ssize_t lo = min((start + 2 * d - 1) // (2 * d) * 2 * d, stop), hi = max(stop // (2 * d) * 2 * d, lo)
    cdef const real **sources = <const real **>tile.sources
    cdef const real *bias = <const real *>tile.bias
    cdef real *y = (<real *>call.output.y - left
                    + ((sample * layer.shape.groups + tile.group) * layer.shape.outputs + block.output0)
                    * call.output.length)
    for _o in range(block.outputs):
        if hi > lo:
            column = at + lo // 2 - i0
            layer.microkernels.weave(y + lo, sources[0] + column, sources[1] + column, d, (hi - lo) // 2, bias)
        p = start
        while p < stop:
            if p == lo and hi > lo:
                p = hi
                continue
            column = at - i0 + p // (2 * d) * d + p % d
            y[p] = sources[p // d % 2][column] + bias[0]
            p += 1
        y += call.output.length
        sources += 2
        bias += 2


cdef inline void end_block(const Layer *layer, const Call *call, const Block *block, const Tile *tile,
                           real unused) noexcept nogil:
    """Interleave the tile's columns; in a merged batch some may lie in the history between two samples.

        f      | history | columns of sample 0 | history | columns of sample 1 | ...
    """
    cdef Py_ssize_t within, length, skip, run, done = 0, i = call.cut.first - call.cut.history
    cdef Py_ssize_t sample = tile.sample, n = tile.f1 - tile.f0
    while done < n:
        within, length = tile.f0 + done, n - done
        if call.cut.merged:
            sample = (tile.f0 + done) // call.cut.columns
            within = (tile.f0 + done) % call.cut.columns
            length = min(length, call.cut.columns - within)
            skip = min(length, max(0, call.cut.history - within))
            done, within, length = done + skip, within + skip, length - skip
        if length > 0 and layer.shape.residues > 1:
            weave_run[real](layer, call, block, tile, sample, i + within, i + within + length, done, 0)
        elif length > 0 and layer.shape.channels_last:
            interleave_channels[real](layer, call, block, tile, sample, i + within, i + within + length, done, 0)
        elif length > 0:
            for run in range(layer.runs):
                interleave_run[real](layer, call, block, tile, sample, i + within, i + within + length, done, run, 0)
        done += length
