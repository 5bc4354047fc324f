# SPDX-License-Identifier: MIT
"""fused.py's compiled part, and what it shares with every kernel whose microkernel stores y.

Packed weights of a block:

    [register block of outputs] [taps of all branches | a last one of long branches] [c] [m] [output] [branch]
"""

from convt1d.cpu._columns cimport row_of
from convt1d.cpu._rows cimport load_rows
from convt1d.cpu._microkernels cimport Sum, fused_block, real
from convt1d.cpu._pack cimport gather, pairs, sum_of
from convt1d.cpu._tile cimport (
    Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)

# Computes n columns of a tile from column `at` on, into rows of y that are ldy apart.
ctypedef void (*store_function)(const Layer *layer, const Block *block, const Sum *sum, Tile *tile, const void *w,
                                void *y, Py_ssize_t ldy, Py_ssize_t at, Py_ssize_t n) noexcept nogil


cdef inline void pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                      Py_ssize_t c1, real *out, real *sizes) noexcept nogil:
    cdef Py_ssize_t taps = layer.shape.taps, channels = layer.shape.channels, o = 0, r, width, half, rows, m0, m1
    cdef Py_ssize_t common = taps if block.long_branches == block.branches else taps - 1
    cdef Row some[8]
    while o < block.outputs:
        width = fused_block(layer.microkernels.sizes.rows, <int>layer.shape.stride, block.outputs - o, channels)
        for half in range(2):
            rows = block.branches if half == 0 else block.long_branches
            m0 = 0 if half == 0 else common
            m1 = common if half == 0 else taps
            if m0 == m1:
                continue
            for r in range(width * rows):
                some[r] = row[row_of(block, o + r // rows, block.branch0 + r % rows)]
            gather[real](layer, weights, some, width * rows, c0, c1, m0, m1, taps,
                         out + width * rows * pairs(layer, 0, c0, m0, m1), width * rows * channels * common)
            out += width * rows * pairs(layer, 0, channels, m0, m1)
        o += width


cdef inline void store_tile(const Layer *layer, const Call *call, const Block *block, const Sum *sum, Tile *tile,
                            const real *w, store_function store) noexcept nogil:
    """A tile's columns in register blocks from its first column on, straight into y or by way of the edge buffer.

        f0 | edge |    straight into y    | edge | ..        a merged batch: so in every sample

    Register blocks with columns whose branches do not all lie inside the output go to the edge buffer, and what
    belongs to the output is copied. Their lines of y are not prefetched meanwhile, so the fewer the better.
    """
    cdef Py_ssize_t S = layer.shape.stride, i = call.cut.first - call.cut.history, sample = tile.sample
    cdef Py_ssize_t row = tile.group * layer.shape.outputs + block.output0, edge_row = call.cut.ldc * S
    cdef Py_ssize_t f = tile.f0, n, part, within, length, start, stop, inside, unit = call.cut.unit
    cdef real *y
    cdef real *edge = <real *>tile.columns
    fill_bias[real](layer, call, block, tile, 0)
    w += block.weights
    while f < tile.f1:
        n = 0
        inside = columns_inside(call, f)
        while f + n < tile.f1 and inside < min(unit, tile.f1 - f - n):
            n += unit
            inside = columns_inside(call, f + n)
        if n == 0:
            n = tile.f1 - f if inside >= tile.f1 - f else inside // unit * unit
            if call.cut.merged:
                sample = f // call.cut.columns
            y = <real *>call.output.y + (sample * layer.shape.groups * layer.shape.outputs + row) * call.output.length
            y += (i + (f % call.cut.columns if call.cut.merged else f)) * S - call.output.left
            store(layer, block, sum, tile, w, y, call.output.length, f - tile.f0, n)
            f += n
            continue
        n = min(n, tile.f1 - f, call.cut.edge)
        store(layer, block, sum, tile, w, edge, edge_row, f - tile.f0, n)
        part = 0
        while part < n:
            within, length = f + part, n - part
            if call.cut.merged:
                sample, within = (f + part) // call.cut.columns, (f + part) % call.cut.columns
                length = min(length, call.cut.columns - within)
            y = <real *>call.output.y + (sample * layer.shape.groups * layer.shape.outputs + row) * call.output.length
            # a sample's history has no output of its own
            start = max((i + max(within, call.cut.history)) * S, call.output.left)
            stop = min((i + within + length) * S, call.output.left + call.output.length)
            if start < stop:
                layer.microkernels.copy(y + start - call.output.left, call.output.length,
                                        edge + part * S + start - (i + within) * S, edge_row, block.outputs,
                                        stop - start, layer.microkernels.sizes.rows_ahead)
            part += length
        f += n


cdef inline void fill_bias(const Layer *layer, const Call *call, const Block *block, const Tile *tile,
                           real unused) noexcept nogil:
    """The bias of each output and branch of a block."""
    cdef Py_ssize_t o, k, row = tile.group * layer.shape.outputs + block.output0
    cdef real *bias = <real *>tile.bias
    for o in range(block.outputs):
        for k in range(block.branches):
            bias[o * block.branches + k] = 0
            if call.output.bias != NULL:
                bias[o * block.branches + k] = (<const real *>call.output.bias)[(row + o) * layer.shape.parts
                                                                                + k % layer.shape.parts]


cdef inline Py_ssize_t columns_inside(const Call *call, Py_ssize_t f) noexcept nogil:
    """How many columns from f on, of the same sample, have all their branches inside the output."""
    cdef Py_ssize_t i
    if call.cut.merged:
        f %= call.cut.columns
    i = call.cut.first - call.cut.history + f
    if f < call.cut.history or i < call.output.first_inside:
        return 0
    return call.output.last_inside - i


cdef inline void store(const Layer *layer, const Block *block, const Sum *sum, Tile *tile, const real *w, real *y,
                       Py_ssize_t ldy, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    layer.microkernels.fused(<const real *>tile.x + at, tile.ldx, w, y, ldy, sum, block.long_branches, n, tile.bias,
                             &tile.prefetch, block.outputs, <int>layer.shape.stride)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    cdef Sum sum = sum_of(layer, 0, layer.shape.channels, 0, layer.shape.taps)
    store_tile[real](layer, call, block, &sum, tile, w, <store_function>store[real])


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>load_rows[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>load_rows[double], <run_function>run[double])
