# SPDX-License-Identifier: MIT
"""Which weight a row of columns meets: what every kernel packs from."""

from convt1d.cpu._microkernels cimport Sum, real
from convt1d.cpu._tile cimport Block, Layer, Row, Weights


cdef inline void find_rows(const Layer *layer, const Block *block, const Weights *weights, Row *row) noexcept nogil:
    """The rows of a block: of long branches, then of the others.

    Complex (re, im):   y_re = w_re x_re - w_im x_im
                        y_im = w_im x_re + w_re x_im
    """
    cdef Py_ssize_t half, output, branch, part, place, parts = layer.shape.parts
    for half in range(2):
        for output in range(block.output0, block.output0 + block.outputs):
            for branch in range(block.branch0 + (block.long_branches if half else 0),
                                block.branch0 + (block.branches if half else block.long_branches)):
                part = branch % parts
                place = output * weights.output + branch // parts * weights.tap
                row.re, row.im = place + part, place + parts - 1 - part
                row += 1


cdef inline void gather(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t n, Py_ssize_t c0,
                        Py_ssize_t c1, Py_ssize_t m0, Py_ssize_t m1, Py_ssize_t taps, real *out,
                        Py_ssize_t ahead) noexcept nogil:
    """The weights that n rows meet, out[c, m, row]: channels c0 .. c1-1 of the real problem, and of the taps
    m0 .. m1-1 those that a channel has. A branch has `taps` taps. `ahead`: from `out` to where the next rows go.

    Each call of the microkernel takes many channels with few of their input rows, or many input rows of a channel.
    """
    cdef Py_ssize_t count = layer.input_rows.count, long = layer.input_rows.long, parts = layer.shape.parts
    cdef Py_ssize_t c, past, r, r0, r1, m
    if c1 - c0 >= count * (count // parts):
        for c in range(c0, c0 + count):
            m = max(m0, 1) if c % count >= long else m0
            gather_channels[real](layer, weights, row, n, c, (c1 - c - 1) // count + 1, count, m, m1, taps,
                                  pairs(layer, 0, count, m0, m1), out + n * pairs(layer, c0, c, m0, m1), ahead)
        return
    c = c0
    while c < c1:
        r0 = c % count
        r1 = long if r0 < long else count
        past = min(c - r0 + r1, c1)
        m = m0 if r0 < long else max(m0, 1)
        for r in range(min(parts, past - c)):
            gather_channels[real](layer, weights, row, n, c + r, (past - c - r - 1) // parts + 1, parts, m, m1, taps,
                                  parts * (m1 - m), out + r * n * (m1 - m), ahead)
        out += (past - c) * n * (m1 - m)
        c = past


cdef inline bint even_taps(const real *sizes, Py_ssize_t taps, bint triples, double ratio,
                           double most) noexcept nogil:
    """Whether the taps of a row that Winograd's products add up, pairs and the last three, are of similar size.

    Of their sizes, sums of absolute values over all channels, none is more than `ratio` times another of its pair or
    triple, and none of all above `most`.
    """
    cdef Py_ssize_t m
    cdef real a, b, c
    if triples:
        a, b, c = sizes[taps - 3], sizes[taps - 2], sizes[taps - 1]
        if max(a, max(b, c)) > ratio * min(a, min(b, c)):
            return False
    for m in range(taps):
        if not sizes[m] <= most:        # or it is NaN
            return False
        if m % 2 and max(sizes[m - 1], sizes[m]) > ratio * min(sizes[m - 1], sizes[m]):
            return False
    return True


cdef inline void gather_channels(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t n,
                                 Py_ssize_t c, Py_ssize_t channels, Py_ssize_t apart, Py_ssize_t m0, Py_ssize_t m1,
                                 Py_ssize_t taps, Py_ssize_t pairs_apart, real *out, Py_ssize_t ahead) noexcept nogil:
    """Channels that are `apart` from each other, `c` the first: all input channels' same row, or one's branches."""
    cdef Py_ssize_t count = layer.input_rows.count, parts = layer.shape.parts, i, m, r
    cdef Py_ssize_t step = layer.shape.period * (-weights.tap if layer.shape.correlates else weights.tap)
    cdef Py_ssize_t first = c // count * weights.channel + c % count // parts * weights.tap
    cdef bint imaginary = c % parts
    first += layer.shape.period * weights.tap * (taps - 1 - m0 if layer.shape.correlates else m0)
    if m1 <= m0:
        return
    layer.microkernels.gather(out, n * pairs_apart, <const real *>weights.w + first,
                              weights.channel if apart == count else weights.tap, step,
                              &row.im if imaginary else &row.re, n, m1 - m0, channels, ahead)
    if imaginary:
        for i in range(channels):
            for m in range(m1 - m0):
                for r in range(n):
                    if row[r].im > row[r].re:
                        out[i * n * pairs_apart + m * n + r] *= -1


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
