# SPDX-License-Identifier: MIT
"""Which weight a row of columns meets: what every kernel packs from."""

from convt1d.cpu._microkernels cimport Sum, real
from convt1d.cpu._tile cimport Block, Layer, Strides


# What a row of the columns adds to the place of its weights.
cdef struct Row:
    Py_ssize_t place
    Py_ssize_t part         # of the output: 0 re, 1 im


cdef inline Row row_at(const Layer *layer, const Block *block, Py_ssize_t row, const Strides *strides) noexcept nogil:
    cdef Row found
    cdef Py_ssize_t output, branch
    if row < block.long_rows:
        output, branch = row // block.long_branches, row % block.long_branches
    else:
        row -= block.long_rows
        output = row // (block.branches - block.long_branches)
        branch = row % (block.branches - block.long_branches) + block.long_branches
    branch += block.branch0
    found.part = branch % layer.shape.parts
    found.place = (block.output0 + output) * strides.output + branch // layer.shape.parts * strides.tap
    return found


cdef inline Py_ssize_t pack_rows(const Layer *layer, const real *w, Py_ssize_t c, Py_ssize_t m, Py_ssize_t taps,
                                 const Strides *strides, const Row *row, Py_ssize_t n, real *out) noexcept nogil:
    """The weights that n rows, channel and tap of the real problem meet; returns n. A branch has `taps` taps.

    Complex (re, im):   y_re = w_re x_re - w_im x_im
                        y_im = w_im x_re + w_re x_im
    """
    cdef Py_ssize_t r, branch = c % layer.input_rows.count, parts = layer.shape.parts, tap
    tap = branch // parts + layer.shape.period * (taps - 1 - m if layer.shape.correlates else m)
    w += (c // layer.input_rows.count) * strides.channel + tap * strides.tap
    if parts == 1:
        for r in range(n):
            out[r] = w[row[r].place]
    elif c % 2 == 0:
        for r in range(n):
            out[r] = w[row[r].place + row[r].part]
    else:
        for r in range(n):
            out[r] = w[row[r].place] if row[r].part else -w[row[r].place + 1]
    return n


cdef inline Py_ssize_t pairs(const Layer *layer, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t m0,
                             Py_ssize_t m1) noexcept nogil:
    """How many (channel, tap) pairs of a sum lie in c0 .. c1-1, m0 .. m1-1: short input rows have no tap 0."""
    cdef Py_ssize_t n = (c1 - c0) * (m1 - m0), rows = layer.input_rows.count, short = rows - layer.input_rows.long
    if m0 > 0 or m1 == 0 or short == 0:
        return n
    return n - ((c1 // rows - c0 // rows) * short + max(c1 % rows - layer.input_rows.long, 0)
                - max(c0 % rows - layer.input_rows.long, 0))


cdef inline Sum sum_of(const Layer *layer, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t m0, Py_ssize_t m1) noexcept nogil:
    """What a microkernel sums over: channels c0 .. c1-1 and taps m0 .. m1-1."""
    cdef Sum sum
    sum.channels, sum.taps, sum.step = c1 - c0, m1 - m0, layer.shape.step
    sum.input_rows, sum.first = layer.input_rows.count, c0 % layer.input_rows.count
    sum.long_rows = layer.input_rows.long if m0 == 0 else sum.input_rows
    sum.depth = pairs(layer, c0, c1, m0, m1)
    return sum
