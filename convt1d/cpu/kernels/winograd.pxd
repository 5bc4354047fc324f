# SPDX-License-Identifier: MIT
"""winograd.py's compiled part: F(2, 2), three products for two columns of two taps, and F(2, 3), four for three taps.

A row of x becomes 3, 4 or 6 rows of the tile, the planes of `pair` in load.inc, each with all channels of a piece:

    both | before | after           of pairs: x[2j] | x[2j-1] - x[2j] | x[2j+1] - x[2j]
    before | outer | sum | across   of triples: ... | x[2j-2] - x[2j] | x[2j-1] + x[2j] | x[2j+1] - x[2j-1]

First the sums that both columns have in common, and those that one adds and the other subtracts, then each column's on
top of them:

    columns     even (rows)  |  odd (rows)  |  common, opposite: room for a register block each

Packed weights of a block:

    [piece of channels] [long rows | others] [register block] [a + b | b | a] [c] [pair] [row],
                        of a triple [(a + b + c) / 2 | (b - a - c) / 2 | c | a | b] [c] [row], of a single tap [c] [row]

The products' rounding errors are those of (|a| + |b|) |x[2j]| in both columns, though a column may need little of it.

- Where the taps of a pair or triple differ too much in size, or are too large, weights are packed for another kernel.
- A tile of the form APART has columns of which one channel of the pivots outweighs all others, or that are large,
  infinite or NaN. Pivots are what both columns need: x[2j], and x[2j-1] too where there are triples. They count as 0 in
  the rows above, and take products of their own with the same packed weights. Their rows of the tile come behind the
  others, and behind them which columns they are, one number each:

    x[2j] of these, 0 elsewhere  |  x[2j-1], with triples  |  which they are (1 row)  |  room to find them (1 row)

Both are judged by numbers that every output in question sums over, at places that do not depend on tiles or calls.

own: the taps of a long branch, and the planes that it needs (`PAIRS` and so on).
"""

from libc.string cimport memset

from convt1d.cpu._columns cimport begin_block, end_block
from convt1d.cpu._rows cimport load_samples
from convt1d.cpu._microkernels cimport (
    ADD, ONLY_TRIPLES, SUBTRACT, TRIPLES, Sum, direct_block, real,
)
from convt1d.cpu._pack cimport gather, sum_of
from convt1d.cpu._tile cimport (
    Activation, Block, Call, Layer, Ops, Row, Tile, Weights, load_function, pack_function, run_function,
)

cdef enum:
    APART = 1
    BEYOND = 32     # plan.BEYOND
    ROOM = 4096     # taps that are paired at a time: 16 or 32 KiB
    ROW_TAPS = 512  # of 8 rows, winograd.MOST_TAPS each


cdef struct Taps:              # how those of a branch are taken
    Py_ssize_t pairs, triples, singles


cdef inline Taps taps_of(const Layer *layer, Py_ssize_t taps) noexcept nogil:
    """winograd.taps_of"""
    cdef Taps found
    found.triples = layer.own[1] >= TRIPLES
    found.singles = taps % 2 and not found.triples
    found.pairs = taps // 2 - found.triples
    return found


cdef inline Py_ssize_t packed(const Layer *layer, Py_ssize_t taps) noexcept nogil:
    """winograd.weights"""
    cdef Taps found = taps_of(layer, taps)
    return 3 * found.pairs + 5 * found.triples + found.singles


cdef inline void pack(const Layer *layer, const Block *block, const Weights *weights, const Row *row, Py_ssize_t c0,
                      Py_ssize_t c1, real *out, real *sizes) noexcept nogil:
    cdef Py_ssize_t piece = layer.piece_channels, first = c0 // piece * piece, past, half, r, rows, taps, width
    out += first * (block.long_rows * packed(layer, layer.own[0])
                    + (block.rows - block.long_rows) * packed(layer, layer.own[0] - 1))
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
                out += (past - first) * packed(layer, taps) * width
                r += width
        first = past


cdef inline void pack_register_block(const Layer *layer, const Weights *weights, const Row *row, Py_ssize_t width,
                                     Py_ssize_t first, Py_ssize_t past, Py_ssize_t c0, Py_ssize_t c1,
                                     Py_ssize_t taps, real *out, real *sizes) noexcept nogil:
    """Channels c0 .. c1-1 of a piece of the channels first .. past-1."""
    cdef Taps found = taps_of(layer, taps)
    cdef Py_ssize_t each = found.pairs * width, kind = (past - first) * each, m, at
    cdef Py_ssize_t all = (past - first) * packed(layer, taps) * width
    pack_pairs[real](layer, weights, row, width, c0, c1, 0, found.pairs, width, kind, out + (c0 - first) * each, all,
                     sizes)
    out += 3 * kind + (c0 - first) * width
    kind = (past - first) * width
    for m in range(2 * found.pairs, taps):
        at = 0 if found.singles else kind * (2 if m == taps - 1 else 3 + m - 2 * found.pairs)
        gather[real](layer, weights, row, width, c0, c1, m, m + 1, layer.own[0], out + at, all)
        add_sizes[real](layer, out + at, c1 - c0, 1, width, sizes + m)
    if found.triples:
        combine_taps[real](out, kind, (c1 - c0) * width)


cdef inline void combine_taps(real *out, Py_ssize_t kind, Py_ssize_t n) noexcept nogil:
    """(a + b + c) / 2 and (b - a - c) / 2 of n triples, of which c, a and b are packed."""
    cdef Py_ssize_t i
    cdef real ends
    for i in range(n):
        ends = out[3 * kind + i] + out[2 * kind + i]
        out[i] = (ends + out[4 * kind + i]) * <real>0.5
        out[kind + i] = (out[4 * kind + i] - ends) * <real>0.5


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
    cdef int kind = <int>layer.own[1]
    cdef real *which = dst + (layer.planes + (2 if kind >= TRIPLES else 1)) * plane
    cdef const void *apart = which if form == APART else NULL
    if (layer.input_rows.count == layer.input_rows.stride == layer.shape.parts == call.x.sl == 1
            and before.kind == 0 and at >= 2 * d and at + 2 * n + BEYOND <= call.x.length):
        layer.microkernels.pair(dst, ldx, plane, x + c0 * call.x.sc + at, call.x.sc, c1 - c0, n, apart, kind, d)
    else:
        memset(row + 2 * d + 2 * n, 0, BEYOND * sizeof(real))
        for c in range(c0, c1):
            load_samples[real](layer, call, before, x, c, c + 1, first - 2 * d, 2 * n + 2 * d, row)
            layer.microkernels.pair(dst + (c - c0) * ldx, ldx, plane, row + 2 * d, 0, 1, n, apart, kind, d)
    return APART if form == APART or find_apart[real](layer, dst, ldx, c1 - c0, n, which) else 0


cdef inline bint find_apart(const Layer *layer, const real *x, Py_ssize_t ldx, Py_ssize_t rows, Py_ssize_t n,
                            real *apart) noexcept nogil:
    """In which columns a pivot outweighs: one row is more than 8 times as large as all others together, or all are
    large, infinite or NaN. Returns whether there are any. A column is judged by its own numbers, wherever it stands."""
    cdef Py_ssize_t q
    cdef Py_ssize_t lanes = max(1, layer.microkernels.sizes.bytes // <int>sizeof(real)), plane = rows * ldx
    cdef Py_ssize_t room = (n + lanes - 1) // lanes * lanes     # whole vectors: rows are longer by one
    cdef real *largest = apart + ldx
    cdef real most = <real>(layer.most / 16)
    cdef bint found = False
    memset(apart, 0, room * sizeof(real))
    memset(largest, 0, room * sizeof(real))
    if layer.own[1] < TRIPLES:
        layer.microkernels.add_sizes(apart, largest, x, ldx, rows, room)
        for q in range(n):
            apart[q] = not (largest[q] <= 8 * (apart[q] - largest[q]) and apart[q] <= most)
            found |= apart[q] != 0
        return found
    # of x[2j-1] - x[2j] and x[2j-1] + x[2j] the larger is the sum of both sizes, and all twice the larger of the two
    layer.microkernels.add_sizes(apart, largest, x if layer.own[1] == ONLY_TRIPLES else x + plane, ldx, rows, room)
    layer.microkernels.add_sizes(apart, largest, x + (2 if layer.own[1] == ONLY_TRIPLES else 4) * plane, ldx, rows,
                                 room)
    for q in range(n):
        apart[q] = not (largest[q] <= 4 * (apart[q] - 2 * largest[q]) and apart[q] <= most)
        found |= apart[q] != 0
    return found


cdef inline bint needed(const Call *call, Py_ssize_t step) noexcept nogil:
    """Whether the output needs any column of an even (0) or an odd (1) step."""
    cdef Py_ssize_t e
    for e in range(call.output.nentries):
        if call.output.entries[e].step == step and call.output.entries[e].first < call.output.entries[e].last:
            return True
    return False


cdef struct Rows:              # a register block of rows, whose branches have equally many taps
    const Layer *layer
    Tile *tile
    const void *w
    Py_ssize_t width, ldc
    Py_ssize_t next_tile, next_ldx     # from the tile to samples of the next one, which the next sums prefetch
    int nexts                  # sums that still do: each has as many columns, half as many as samples


cdef inline void multiply(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                          const real *w) noexcept nogil:
    cdef Py_ssize_t channels = tile.piece.c1 - tile.piece.c0, others = block.rows - block.long_rows
    cdef Py_ssize_t half, taps, row = 0, end
    cdef Rows rows
    rows.layer, rows.tile, rows.ldc = layer, tile, call.cut.ldc
    rows.next_tile, rows.next_ldx = tile.prefetch.next_tile, tile.prefetch.next_ldx
    rows.nexts = 2 if tile.prefetch.next_tile != tile.prefetch.x_ahead else 0
    w += block.weights + tile.piece.c0 * (block.long_rows * packed(layer, layer.own[0])
                                          + others * packed(layer, layer.own[0] - 1))
    for half in range(2):
        taps = layer.own[0] - half
        end = block.long_rows if half == 0 else block.rows
        while row < end:
            rows.w, rows.width = w, direct_block(layer.microkernels.sizes.rows, end - row)
            multiply_rows[real](call, &rows, taps, <real *>tile.columns + row * rows.ldc, block.rows * rows.ldc)
            w += rows.width * channels * packed(layer, taps)
            row += rows.width


cdef inline void multiply_rows(const Call *call, Rows *rows, Py_ssize_t taps, real *even,
                               Py_ssize_t apart) noexcept nogil:
    """Columns of even steps, and those of odd ones `apart` from them. A column that no output needs is left out."""
    cdef const Layer *layer = rows.layer
    cdef Taps kinds = taps_of(layer, taps)
    cdef Tile *tile = rows.tile
    cdef Py_ssize_t pairs = kinds.pairs, triple = 3 * pairs, plane = (tile.piece.c1 - tile.piece.c0) * tile.ldx
    cdef int more = ADD if tile.piece.c0 > 0 else 0
    cdef real *odd = even + apart
    cdef real *common = <real *>tile.columns + 2 * apart
    cdef real *opposite = common + layer.microkernels.sizes.rows * rows.ldc if kinds.triples else NULL
    # where column 0 meets the oldest pair, and where it meets the triple or the single tap behind all pairs
    cdef const real *x = <const real *>tile.x + (layer.shape.taps - pairs) * layer.shape.step
    cdef const real *last = x - layer.shape.step
    # the planes of triples: x[2j-1] - x[2j], and the first of the others
    cdef const real *before = last if layer.own[1] == ONLY_TRIPLES else last + plane
    cdef const real *outer = last + (1 if layer.own[1] == ONLY_TRIPLES else 3) * plane
    if pairs:
        sums[real](rows, x, 0, pairs, common, NULL, NULL, 0)
    if kinds.triples:
        sums[real](rows, outer + plane, triple, 1, common, NULL, NULL, ADD if pairs else 0)
        sums[real](rows, before, triple + 1, 1, opposite, NULL, NULL, 0)
    if needed(call, 0):
        if kinds.triples:
            sums[real](rows, outer, triple + 2, 1, even, common, opposite, more)
        if pairs:
            sums[real](rows, x + plane, pairs, pairs, even, NULL if kinds.triples else common, NULL,
                       ADD if kinds.triples else more)
    if needed(call, 1):
        if kinds.triples:
            sums[real](rows, outer + 2 * plane, triple + 3, 1, odd, common, opposite, SUBTRACT | more)
        if pairs:
            sums[real](rows, x + 2 * plane, 2 * pairs, pairs, odd, NULL if kinds.triples else common, NULL,
                       ADD if kinds.triples else more)
    if kinds.singles:
        sums[real](rows, last, triple, 1, even, NULL, NULL, ADD if pairs else more)
        sums[real](rows, last + 3 * plane, triple, 1, odd, NULL, NULL, ADD if pairs else more)
    if tile.form == APART:
        add_apart[real](rows, x + layer.planes * plane, last + layer.planes * plane, plane, &kinds, even, odd)


cdef inline void add_apart(Rows *rows, const real *x, const real *last, Py_ssize_t plane, const Taps *kinds, real *even,
                           real *odd) noexcept nogil:
    """The products of pivots that are kept apart."""
    cdef Py_ssize_t pairs = kinds.pairs, a = 3 * pairs + 3, b = a + 1, c = a - 1
    if pairs:
        sums[real](rows, x, 2 * pairs, pairs, even, NULL, NULL, ADD)
        sums[real](rows, x, pairs, pairs, odd, NULL, NULL, ADD)
        if rows.layer.own[1] == TRIPLES:
            sums[real](rows, x + plane, pairs, pairs, even, NULL, NULL, ADD)
    if kinds.singles:
        sums[real](rows, last, 3 * pairs, 1, even, NULL, NULL, ADD)
    if kinds.triples:
        sums[real](rows, last, a, 1, even, NULL, NULL, ADD)
        sums[real](rows, last + plane, b, 1, even, NULL, NULL, ADD)
        sums[real](rows, last, b, 1, odd, NULL, NULL, ADD)
        sums[real](rows, last + plane, c, 1, odd, NULL, NULL, ADD)


cdef inline void sums(Rows *rows, const real *x, Py_ssize_t kind, Py_ssize_t taps, real *to, const real *start,
                      const real *other, int add) noexcept nogil:
    """to = sums of one plane (+ start +- other), whose weights begin at `kind`, in weights of a channel and row."""
    cdef Tile *tile = rows.tile
    cdef Py_ssize_t channels = tile.piece.c1 - tile.piece.c0, n = tile.f1 - tile.f0
    cdef const real *w = <const real *>rows.w + kind * channels * rows.width
    cdef Sum sum = sum_of(rows.layer, 0, channels, 0, taps)
    if rows.nexts:
        tile.prefetch.next_tile, tile.prefetch.next_ldx = rows.next_tile + (<const real *>tile.x - x), rows.next_ldx
        rows.next_tile += n
        rows.nexts -= 1
    rows.layer.microkernels.direct(x, tile.ldx, w, to, rows.ldc, &sum, rows.width, n, start, other, add,
                                   &tile.prefetch)


cdef inline void run(const Layer *layer, const Call *call, const Block *block, Tile *tile,
                     const real *w) noexcept nogil:
    begin_block[real](layer, call, block, tile, 0)
    multiply[real](layer, call, block, tile, w)
    if tile.piece.last:
        end_block[real](layer, call, block, tile, 0)


cdef inline void fill(Ops *ops) noexcept:
    ops[0] = Ops(<pack_function>pack[float], <load_function>load[float], <run_function>run[float])
    ops[1] = Ops(<pack_function>pack[double], <load_function>load[double], <run_function>run[double])
