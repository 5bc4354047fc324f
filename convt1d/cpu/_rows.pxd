# SPDX-License-Identifier: MIT
"""Loading a tile of x: the samples of one signal or of a merged batch, as rows of `cut.ldx` numbers.

The activation that comes before the layer is applied to the rows while they are in L1: the numbers 0 around a signal
stay 0, and the other padding modes copy samples.
"""

from libc.string cimport memset

from convt1d.cpu._load cimport load_branches, load_run
from convt1d.cpu._microkernels cimport real
from convt1d.cpu._tile cimport Activation, Call, Layer, Tile


cdef inline void load_samples(const Layer *layer, const Call *call, const Activation *before, const real *x,
                              Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t i, Py_ssize_t n, real *dst) noexcept nogil:
    """Samples i .. i+n-1 of the channels c0 .. c1-1, or of a convolution's input rows."""
    cdef Py_ssize_t c, at
    if layer.shape.correlates:
        load_branches[real](&call.x, layer.microkernels, &layer.input_rows, x, layer.shape.parts, c0, c1, i, n, dst,
                            call.cut.ldx)
    else:
        load_run[real](&call.x, layer.microkernels, x, layer.shape.parts, c0, c1, i, n, dst, call.cut.ldx)
    for c in range(c0, c1 if before.kind else c0):
        at = c // layer.input_rows.count * before.next
        layer.microkernels.activate(before.kind, dst, NULL, dst, n, before.a[at], before.b[at])
        dst += call.cut.ldx


cdef inline int load_rows(const Layer *layer, const Call *call, const Activation *before, const real *x, Py_ssize_t c0,
                          Py_ssize_t c1, Py_ssize_t i, Py_ssize_t n, real *dst, real *row, int form) noexcept nogil:
    """The usual `load_function`: one row of the tile for each row of x."""
    load_samples[real](layer, call, before, x, c0, c1, i, n, dst)
    return form


cdef inline int load_tile(const Layer *layer, const Call *call, const Tile *tile, Py_ssize_t f, Py_ssize_t width,
                          real *dst, real *row) noexcept nogil:
    """Columns f .. f+width-1 of the piece's channels, a vector of zeros behind them; returns their form.

    A tile whose numbers turn out to need another form is loaded again in that one.
    """
    cdef int form
    if (call.cut.merged and call.x.length < layer.memory.few_samples and call.x.hl == 0 and call.x.hr == 0
            and not layer.shape.correlates and layer.planes == 1 and call.before.kind == 0):
        load_merged[real](layer, call, tile, f, width, dst)
        return 0
    form = load_columns[real](layer, call, tile, f, width, dst, row, 0)
    if form != 0:
        load_columns[real](layer, call, tile, f, width, dst, row, form)
    return form


cdef inline int load_columns(const Layer *layer, const Call *call, const Tile *tile, Py_ssize_t f, Py_ssize_t width,
                             real *dst, real *row, int asked) noexcept nogil:
    cdef Py_ssize_t n = tile.sample, within, length, i, c, done = 0, c0 = tile.piece.c0, c1 = tile.piece.c1
    cdef Py_ssize_t channel = tile.group * (layer.shape.channels // layer.input_rows.count)
    cdef const real *x = <const real *>call.x.x + channel * call.x.sc
    cdef Activation before = call.before
    cdef int form = asked
    before.a += channel * before.next
    before.b += channel * before.next
    while done < width:
        within, length = f + done, width - done
        if call.cut.merged:
            n = (f + done) // call.cut.columns
            within = (f + done) % call.cut.columns
            length = min(length, call.cut.columns - within)
            if n >= call.cut.batch:
                break
        i = call.cut.first - call.cut.history + within
        form = max(form, layer.ops.load(layer, call, &before, x + n * call.x.sn, c0, c1, i, length, dst + done, row,
                                        asked))
        done += length
    if done < call.cut.ldx:
        for c in range(layer.planes * (c1 - c0)):
            memset(dst + c * call.cut.ldx + done, 0, min(call.cut.ldx - done, width - done + 16) * sizeof(real))
    return form


cdef inline void load_merged(const Layer *layer, const Call *call, const Tile *tile, Py_ssize_t f, Py_ssize_t width,
                             real *dst) noexcept nogil:
    """A merged batch of short signals with zeros around them, sample by sample: a call for each piece of two numbers
    takes longer (10 signals of 2 samples, 32 channels: 9.8 us with calls, 8.6 us without; a Zen 4, 2026-11)."""
    cdef Py_ssize_t c, n, j, at, lo, hi, columns = call.cut.columns, shift = layer.shape.parts - 1
    cdef const real *x = <const real *>call.x.x + tile.group * (layer.shape.channels // layer.shape.parts) * call.x.sc
    cdef const real *row
    cdef real *to
    memset(dst, 0, (tile.piece.c1 - tile.piece.c0) * call.cut.ldx * sizeof(real))
    for n in range(f // columns, min(call.cut.batch, (f + width - 1) // columns + 1)):
        at = n * columns - f - (call.cut.first - call.cut.history)      # where sample 0 belongs
        lo = max(max(n * columns - f, 0), at)
        hi = min(min((n + 1) * columns - f, width), at + call.x.length)
        to, row = dst, x + n * call.x.sn - at * call.x.sl
        for c in range(tile.piece.c0, tile.piece.c1):
            for j in range(lo, hi):
                to[j] = row[(c >> shift) * call.x.sc + (c & shift) * call.x.sp + j * call.x.sl]
            to += call.cut.ldx
