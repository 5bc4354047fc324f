# SPDX-License-Identifier: MIT
"""winograd.py's compiled part: F(2, 2), three products for two columns of two taps.

A row of x becomes three rows of the tile, or four where branches have an odd tap:

    x[2j] (channels)  |  x[2j-1] - x[2j] (channels)  |  x[2j+1] - x[2j] (channels)  |  x[2j+1] (channels)

First the sums that both columns have in common, then each column's on top of them:

    columns     even (rows)  |  odd (rows)  |  common, room for a register block

Packed weights of a block:

    [piece of channels] [long rows | others] [register block] [a + b | b | a] [c] [pair] [row], [c] [row] of an odd tap

The products' rounding errors are those of (|a| + |b|) |x[2j]| in both columns, though a column may need little of it.

- Where the taps of a pair differ too much in size, or are too large, weights are packed for another kernel.
- A tile of the form APART has pivots x[2j] in which one channel outweighs all others, or that are large, infinite or
  NaN. They count as 0 in the rows above, and take two products of their own with the same packed weights. Their
  row of the tile comes behind the others, and behind that which columns they are, one number each:

    x[2j] of these (channels), 0 elsewhere  |  which they are (1 row)  |  room to find them (1 row)

Both are judged by numbers that every output in question sums over, at places that do not depend on tiles or calls.

own: the taps of a long branch.
"""

from libc.string cimport memset

from convt1d.cpu._columns cimport begin_block, end_block
from convt1d.cpu._rows cimport load_samples
from convt1d.cpu._microkernels cimport Prefetch, Sum, direct_block, real
from convt1d.cpu._pack cimport gather, sum_of
from convt1d.cpu._tile cimport (
    Activation, Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)

cdef enum:
    APART = 1
    BEYOND = 32     # plan.BEYOND
    ROOM = 4096     # taps that are paired at a time: 16 or 32 KiB
    ROW_TAPS = 512  # of 8 rows, winograd.MOST_TAPS each


cdef inline Py_ssize_t packed(Py_ssize_t taps) noexcept nogil:
    """winograd.weights"""
    return 3 * (taps // 2) + taps % 2


cdef inline void pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                      Py_ssize_t c1, real *out, real *sizes) noexcept nogil:
    cdef Py_ssize_t piece = layer.piece_channels, first = c0 // piece * piece, past, half, r, rows, taps, width
    out += first * (block.long_rows * packed(layer.own[0]) + (block.rows - block.long_rows) * packed(layer.own[0] - 1))
    while first < c1:
        past = min(first + piece, layer.shape.channels)
        for half in range(2):
            taps = layer.own[0] - half
            r = 0 if half == 0 else block.long_rows
            rows = block.long_rows if half == 0 else block.rows
            while r < rows:
                width = direct_block(layer.microkernels.sizes.rows, rows - r)
                pack_register_block[real](layer, weights, row + r, width, first, past, max(c0, first), min(c1, past),
                                          taps, out, sizes + r * layer.own[0])
                out += (past - first) * packed(taps) * width
                r += width
        first = past


cdef inline void pack_register_block(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t width,
                                     Py_ssize_t first, Py_ssize_t past, Py_ssize_t c0, Py_ssize_t c1,
                                     Py_ssize_t taps, real *out, real *sizes) noexcept nogil:
    """Channels c0 .. c1-1 of a piece of the channels first .. past-1."""
    cdef Py_ssize_t each = taps // 2 * width, kind = (past - first) * each, all = (past - first) * packed(taps) * width
    pack_pairs[real](layer, weights, row, width, c0, c1, 0, taps // 2, width, kind, out + (c0 - first) * each, all,
                     sizes)
    if taps % 2:
        out += 3 * kind + (c0 - first) * width
        gather[real](layer, weights, row, width, c0, c1, taps - 1, taps, layer.own[0], out, all)
        add_sizes[real](layer, out, c1 - c0, 1, width, sizes + taps - 1)


cdef inline void add_sizes(const Layer *layer, const real *taps, Py_ssize_t channels, Py_ssize_t n, Py_ssize_t width,
                           real *sizes) noexcept nogil:
    """Adds the absolute values of taps[c, tap, row], n taps of each row, to the sizes of each row's taps."""
    cdef real sums[ROW_TAPS]
    cdef Py_ssize_t r, m
    memset(sums, 0, n * width * sizeof(real))
    layer.microkernels.add_sizes(sums, NULL, taps, n * width, channels, n * width)
    for r in range(width):
        for m in range(n):
            sizes[r * layer.own[0] + m] += sums[m * width + r]


cdef inline void pack_pairs(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t width,
                            Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t apart,
                            Py_ssize_t kind, real *out, Py_ssize_t ahead, real *sizes) noexcept nogil:
    """a + b, b and a, `kind` numbers from each other: of each channel and pair, which are `apart`. The taps lie in an
    L1 cache meanwhile. `ahead`: from `out` to where the next rows go.
    """
    cdef Py_ssize_t c = c0, past, n, pairs = p1 - p0
    cdef real taps[ROOM]
    while c < c1 and pairs > 0:
        past = min(c + ROOM // (2 * pairs * width), c1)
        n = (past - c) * pairs
        gather[real](layer, weights, row, width, c, past, 2 * p0, 2 * p1, layer.own[0], taps, 0)
        layer.microkernels.pair_taps(out, apart, kind, taps, n, width, ahead)
        add_sizes[real](layer, taps, past - c, 2 * pairs, width, sizes + 2 * p0)
        out += n * apart
        c = past


cdef inline int load(const Layer *layer, const Call *call, const Activation *before, const real *x, Py_ssize_t c0,
                     Py_ssize_t c1, Py_ssize_t i, Py_ssize_t n, real *dst, real *row, int form) noexcept nogil:
    """Columns i .. i+n-1, whole sets of d: of the samples 2i .. 2i+2n-1 of the whole signal, from where they lie or by
    way of `row`. A tile that is not asked for as APART is when this returns it."""
    cdef Py_ssize_t c, d = layer.shape.residues, first = 2 * i - call.origin
    cdef Py_ssize_t ldx = call.cut.ldx, plane = (c1 - c0) * ldx, at = first + layer.input_rows.offsets[0]
    cdef bint odd_taps = layer.planes > 3
    cdef real *which = dst + (layer.planes + 1) * plane
    cdef const void *apart = which if form == APART else NULL
    if (layer.input_rows.count == layer.input_rows.stride == layer.shape.parts == call.x.sl == 1
            and before.kind == 0 and at >= d and at + 2 * n + BEYOND <= call.x.length):
        layer.microkernels.pair(dst, ldx, plane, x + c0 * call.x.sc + at, call.x.sc, c1 - c0, n, apart, odd_taps, d)
    else:
        memset(row + d + 2 * n, 0, BEYOND * sizeof(real))
        for c in range(c0, c1):
            load_samples[real](layer, call, before, x, c, c + 1, first - d, 2 * n + d, row)
            layer.microkernels.pair(dst + (c - c0) * ldx, ldx, plane, row + d, 0, 1, n, apart, odd_taps, d)
    return APART if form == APART or find_apart[real](layer, dst, ldx, c1 - c0, n, which) else 0


cdef inline bint find_apart(const Layer *layer, const real *x, Py_ssize_t ldx, Py_ssize_t rows, Py_ssize_t n,
                            real *apart) noexcept nogil:
    """Which pivots outweigh: of which one row is more than 8 times as large as all others together, or that are large,
    infinite or NaN. Returns whether there are any. A pivot is judged by its own numbers, wherever it stands."""
    cdef Py_ssize_t q, lanes = max(1, layer.microkernels.sizes.bytes // <int>sizeof(real))
    cdef real *largest = apart + ldx
    cdef real most = <real>(layer.most / 16)
    cdef bint found = False
    cdef Py_ssize_t room = (n + lanes - 1) // lanes * lanes     # whole vectors: rows are longer by one
    memset(apart, 0, room * sizeof(real))
    memset(largest, 0, room * sizeof(real))
    layer.microkernels.add_sizes(apart, largest, x, ldx, rows, room)
    for q in range(n):
        apart[q] = not (largest[q] <= 8 * (apart[q] - largest[q]) and apart[q] <= most)
        found |= apart[q] != 0
    return found


cdef inline bint needed(const Call *call, Py_ssize_t step) noexcept nogil:
    """Whether the output needs any column of an even (0) or an odd (1) step."""
    cdef Py_ssize_t e
    for e in range(call.output.nentries):
        if call.output.entries[e].step == step and call.output.entries[e].first < call.output.entries[e].last:
            return True
    return False


cdef inline void multiply(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                          const real *w) noexcept nogil:
    cdef Py_ssize_t channels = tile.piece.c1 - tile.piece.c0, others = block.rows - block.long_rows, taps, rows, half
    cdef Py_ssize_t width
    cdef const real *x
    cdef real *columns = <real *>tile.columns
    cdef Sum sum, last
    cdef bint even = needed(call, 0), odd = needed(call, 1)
    w += block.weights + tile.piece.c0 * (block.long_rows * packed(layer.own[0]) + others * packed(layer.own[0] - 1))
    for half in range(2):
        taps = layer.own[0] - half
        rows = block.long_rows if half == 0 else others
        sum = sum_of(layer, 0, channels, 0, taps // 2)
        last = sum_of(layer, 0, channels, 0, taps % 2)
        x = <const real *>tile.x + (layer.shape.taps - sum.taps) * layer.shape.step
        while rows > 0:
            width = direct_block(layer.microkernels.sizes.rows, rows)
            multiply_rows[real](layer, call, block, tile, w, x, columns, &sum, &last, width, even, odd)
            w += width * channels * packed(taps)
            columns += width * call.cut.ldc
            rows -= width


cdef inline void multiply_rows(const Layer *layer, const Call *call, const Block *block, Tile *tile, const real *w,
                               const real *x, real *even, const Sum *sum, const Sum *last, Py_ssize_t width,
                               bint even_needed, bint odd_needed) noexcept nogil:
    """One register block of rows; `last` sums an odd tap. A column that no output needs is left out."""
    cdef Py_ssize_t ldc = call.cut.ldc, ldx = tile.ldx, n = tile.f1 - tile.f0
    cdef Py_ssize_t plane = (tile.piece.c1 - tile.piece.c0) * ldx
    cdef Prefetch *prefetch = &tile.prefetch
    cdef Py_ssize_t next_tile = prefetch.next_tile, next_ldx = prefetch.next_ldx
    cdef bint add = tile.piece.c0 > 0, more = add or sum.taps > 0
    cdef real *odd = even + block.rows * ldc
    cdef real *common = <real *>tile.columns + 2 * block.rows * ldc
    cdef const real *w_before = w + width * sum.depth
    cdef const real *w_after = w_before + width * sum.depth
    cdef const real *apart = x + layer.planes * plane
    if sum.taps > 0:
        layer.microkernels.direct(x, ldx, w, common, ldc, sum, width, n, NULL, False, prefetch)
        if even_needed:
            layer.microkernels.direct(x + plane, ldx, w_before, even, ldc, sum, width, n, common, add, prefetch)
        if odd_needed:
            if next_tile != prefetch.x_ahead:
                # the second half of the next tile, whose first half was prefetched with `common`
                prefetch.next_tile, prefetch.next_ldx = next_tile + n - 2 * plane, next_ldx
            layer.microkernels.direct(x + 2 * plane, ldx, w_after, odd, ldc, sum, width, n, common, add, prefetch)
    if sum.taps > 0 and tile.form == APART:
        layer.microkernels.direct(apart, ldx, w_after, even, ldc, sum, width, n, NULL, True, prefetch)
        layer.microkernels.direct(apart, ldx, w_before, odd, ldc, sum, width, n, NULL, True, prefetch)
    if last.taps > 0:
        w = w_after + width * sum.depth
        x -= layer.shape.step
        layer.microkernels.direct(x, ldx, w, even, ldc, last, width, n, NULL, more, prefetch)
        layer.microkernels.direct(x + 3 * plane, ldx, w, odd, ldc, last, width, n, NULL, more, prefetch)
        if tile.form == APART:
            layer.microkernels.direct(apart - layer.shape.step, ldx, w, even, ldc, last, width, n, NULL, True, prefetch)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    begin_block[real](layer, call, block, tile, 0)
    multiply[real](layer, call, block, tile, w)
    if tile.piece.last:
        end_block[real](layer, call, block, tile, 0)


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>load[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>load[double], <run_function>run[double])
