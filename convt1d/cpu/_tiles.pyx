# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The tile loop: weights packed once, then for each tile, weight block and piece of x

    load      x[c, i - step*m]  ->  tile of x      only edge tiles see the padding mode's sources; a convolution's
                                                   strided input is split into its residue classes, one row each
    run       weights^T x tile  ->  y              as the kernel does it (kernels/*.pxd)
    finish    after(y) + add    ->  y              an activation and a residual, where a call has them

Tiles, weight blocks, groups and samples are independent: any order, any number of threads, the same bits.
The loop knows no kernel: it calls the three functions of `Ops`. Everything here assumes checked arguments.
"""

from cpython.buffer cimport (
    PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc

from convt1d.cpu._blas cimport bind_blas
from convt1d.cpu._finish cimport finish_block
from convt1d.cpu._load cimport floor_div
from convt1d.cpu._microkernels cimport TRIPLES, Microkernels, Prefetch, end_nontemporal_stores, real
from convt1d.cpu._pack cimport even_taps, find_rows
from convt1d.cpu._rows cimport load_tile
from convt1d.cpu._runtime cimport (
    MOST_THREADS, RegionTimer, Shares, add_items, begin_region, finish_region, give_workspace, join_team,
    microkernels_for, next_items, share_out, take_workspace, team,
)
from convt1d.cpu._tile cimport Activation, Block, Call, Entry, Layer, Ops, Row, Tile, Weights
from convt1d.cpu.kernels cimport direct, fused, fused_winograd, gemm, winograd

import numpy as np

from convt1d import memory
from convt1d.cpu import _runtime

join_team()

cdef Ops _ops[5][2]
direct.fill(_ops[0])
gemm.fill(_ops[1])
fused.fill(_ops[2])
winograd.fill(_ops[3])
fused_winograd.fill(_ops[4])
#: The compiled kernels, by name: the address of two `Ops`, for float and double.
COMPILED = dict(zip(("direct", "gemm", "fused", "winograd", "fused_winograd"), [<uintptr_t>_ops[i] for i in range(5)]))

# plan.py's in_place: which tiles are read where they lie
cdef enum:
    NEVER = 0
    WHOLE_TILES = 1     # those wholly inside the signal
    PARTS = 2           # the inside of every tile; only its edges are copied

cdef enum:
    ACTIVATED = 8192    # numbers of a row that `activate` takes at a time

cdef enum:
    PACKED_CHANNELS = 32    # that are packed at a time: of each block a run of some KiB

# Which tile of x a thread's workspace holds: consecutive work items of the same tile load it once.
cdef struct LoadedTile:
    Py_ssize_t tile, f0     # a work item's place but for its blocks; -1: none
    int form


# ---- one work item ----------------------------------------------------------------------------------------

cdef void run_item(const Layer *layer, const Call *call, Py_ssize_t item, LoadedTile *loaded,
                   real *workspace) noexcept nogil:
    """One tile of one sample (or of the merged batch) and one group, for some of its weight blocks."""
    cdef Py_ssize_t part = item % call.block_groups
    cdef Py_ssize_t t = item // call.block_groups % call.cut.tiles
    cdef Py_ssize_t i = call.cut.first - call.cut.history            # column f belongs to input step i + f
    cdef Py_ssize_t f0 = call.cut.history + t * call.cut.tile
    cdef Py_ssize_t all = call.cut.batch * call.cut.columns if call.cut.merged else call.cut.columns
    cdef Py_ssize_t end = min(f0 + call.cut.tile, all)
    # [lo, hi): columns whose inputs, a vector to spare, lie inside the signal and can be read where they are
    cdef Py_ssize_t lo = (layer.shape.taps - 1) * layer.shape.step - i - layer.input_rows.offsets[0]
    cdef Py_ssize_t hi = call.x.length - 16 - i - layer.input_rows.offsets[0]
    cdef bint inside
    cdef Tile tile
    tile.group = item // (call.block_groups * call.cut.tiles) % layer.shape.groups
    tile.sample = item // (call.block_groups * call.cut.tiles * layer.shape.groups)
    tile.columns = <char *>workspace + call.room.columns
    tile.sources = <const void **>(<char *>workspace + call.room.sources)
    tile.bias = <char *>workspace + call.room.bias
    if call.in_place == NEVER or (call.in_place == WHOLE_TILES and not (lo <= f0 and end <= hi)):
        lo, hi = end, end
    if loaded.tile != item // call.block_groups:
        loaded.tile, loaded.f0, loaded.form = item // call.block_groups, -1, 0
    while f0 < end:
        inside = lo <= f0 < hi
        tile.f0 = f0
        tile.f1 = min(end, hi) if inside else min(end, lo) if f0 < lo < hi else end
        run_tile[real](layer, call, &tile, part, inside, loaded, workspace)
        f0 = tile.f1


cdef inline Prefetch prefetch_for(const Layer *layer, const Call *call, const Tile *tile, bint inside, bint single,
                                  const real *origin, const real *workspace) noexcept nogil:
    """What the first weight block of a tile prefetches, and what the others do.

    `origin`: where column 0 of x lies. `single`: all of x is loaded in one piece.
    """
    cdef Prefetch prefetch
    cdef Py_ssize_t ldx = call.x.sc if inside else call.cut.ldx, rows = layer.microkernels.sizes.rows_ahead
    cdef Py_ssize_t outputs = call.cut.batch * layer.shape.groups * layer.shape.outputs
    prefetch.y_lines.rows = prefetch.x_ahead = prefetch.y_ahead = 0
    if outputs * call.output.length * <Py_ssize_t>sizeof(real) > layer.memory.y_stays:
        prefetch.y_ahead = layer.memory.y_ahead // <Py_ssize_t>sizeof(real)
    prefetch.weights_ahead = layer.microkernels.sizes.weights_ahead
    prefetch.nontemporal = call.cut.nontemporal
    prefetch.x_two_channels = layer.memory.x_two_channels
    if call.in_place == PARTS:
        # the rows of a piece while the one before is summed
        prefetch.x_ahead = (rows if single else max(rows, layer.piece_channels)) * ldx
    elif (not layer.memory.x_two_channels and layer.planes * layer.shape.channels * (tile.f1 - tile.f0)
            * <Py_ssize_t>sizeof(real) > layer.memory.x_stays):
        prefetch.x_ahead = rows * ldx
    prefetch.next_tile, prefetch.next_ldx = prefetch.x_ahead, ldx
    if (single and call.x.sl == 1 and call.in_place != PARTS and not call.cut.merged
            and not layer.shape.correlates):
        # the next tile, or the first one of the next group or sample
        prefetch.next_ldx = call.x.sc
        if tile.f1 < call.cut.columns:
            prefetch.next_tile = layer.shape.alignment * (tile.f1 - call.cut.history)
        else:
            prefetch.next_tile = layer.shape.channels * call.x.sc
        if inside:
            prefetch.next_tile -= tile.f0 - call.cut.history
        else:
            prefetch.next_tile += (<Py_ssize_t>origin - <Py_ssize_t>workspace) // <Py_ssize_t>sizeof(real)
    return prefetch


cdef void run_tile(const Layer *layer, const Call *call, Tile *tile, Py_ssize_t part, bint inside, LoadedTile *loaded,
                   real *workspace) noexcept nogil:
    """Columns f0 .. f1-1 of a tile: for each weight block and piece of x, load the piece and run the kernel."""
    cdef Py_ssize_t channels = layer.shape.channels, taps = layer.shape.taps, step = layer.shape.step
    cdef Py_ssize_t b, f, b0 = part * call.blocks_per_item, b1 = min(b0 + call.blocks_per_item, layer.nblocks)
    cdef real *row = <real *>(<char *>workspace + call.room.row)
    cdef const real *weights = <const real *>call.weights + tile.group * layer.group_size
    cdef const real *origin = (<const real *>call.x.x + tile.sample * call.x.sn + tile.group * channels * call.x.sc
                               + layer.shape.alignment * (call.cut.first - call.cut.history)
                               + layer.input_rows.offsets[0])
    cdef bint single = layer.piece_taps >= taps and layer.piece_channels >= channels
    cdef bint is_loaded = not inside and loaded.f0 == tile.f0
    cdef bint finishes = call.output.after.kind != 0 or call.output.add != NULL
    tile.prefetch = prefetch_for[real](layer, call, tile, inside, single, origin, workspace)
    tile.x, tile.ldx, tile.form = workspace, call.x.sc if inside else call.cut.ldx, loaded.form
    for b in range(b0, b1):
        tile.first_block = b == b0
        tile.piece.m0 = 0
        while tile.piece.m0 < taps:
            tile.piece.m1 = min(tile.piece.m0 + layer.piece_taps, taps)
            f = tile.f0 - (tile.piece.m1 - 1) * step
            tile.piece.c0 = 0
            while tile.piece.c0 < channels:
                tile.piece.c1 = min(tile.piece.c0 + layer.piece_channels, channels)
                tile.piece.first = tile.piece.m0 == 0 and tile.piece.c0 == 0
                tile.piece.last = tile.piece.m1 == taps and tile.piece.c1 == channels
                if inside:
                    tile.x = origin + tile.piece.c0 * call.x.sc + f
                elif not is_loaded:
                    tile.form = load_tile[real](layer, call, tile, f,
                                                tile.f1 - tile.f0 + (tile.piece.m1 - 1 - tile.piece.m0) * step,
                                                workspace, row)
                    is_loaded = single      # a single piece serves all blocks
                if call.in_place == PARTS and inside and not single:
                    tile.prefetch.next_tile = tile.prefetch.x_ahead
                    if tile.piece.c1 == channels:       # the next tile
                        tile.prefetch.next_tile = call.cut.tile - tile.piece.c0 * tile.ldx
                layer.ops.run(layer, call, &layer.blocks[b], tile, weights)
                if finishes and tile.piece.last:
                    finish_block[real](layer, call, &layer.blocks[b], tile, 0)
                tile.piece.c0 = tile.piece.c1
            tile.piece.m0 = tile.piece.m1
    if not inside:
        loaded.f0, loaded.form = tile.f0 if is_loaded else -1, tile.form


# ---- all work items ---------------------------------------------------------------------------------------

cdef void run_items(const Layer *layer, const Call *call, Py_ssize_t items, int threads, void **workspaces,
                    RegionTimer *timer, real unused) noexcept nogil:
    cdef Py_ssize_t item
    cdef int thread
    cdef Shares shares
    cdef LoadedTile loaded
    if threads == 1:            # no parallel region at all
        loaded.tile = -1
        for item in range(items):
            run_item[real](layer, call, item, &loaded, <real *>workspaces[0])
        if call.cut.nontemporal:
            end_nontemporal_stores()
        return
    share_out(&shares, items, threads)
    begin_region(timer)
    for thread in prange(threads, schedule="static", chunksize=1, num_threads=threads):
        run_share[real](layer, call, &shares, thread, <real *>workspaces[thread], timer)


cdef void run_share(const Layer *layer, const Call *call, Shares *shares, int thread, real *workspace,
                    RegionTimer *timer) noexcept nogil:
    cdef Py_ssize_t item, first, past
    cdef LoadedTile loaded
    loaded.tile = -1
    while next_items(shares, thread, &first, &past):
        for item in range(first, past):
            run_item[real](layer, call, item, &loaded, workspace)
        add_items(timer, past - first)
    if call.cut.nontemporal:
        end_nontemporal_stores()


cdef int in_place(const Layer *layer, const Call *call, Py_ssize_t size) noexcept:
    """Whether tiles of this x can be read where they lie: contiguous in time, and in cache sets of their own.

    Rows a large power of two apart share sets: of the 128 KiB that one way of a typical L2 covers, a tile then
    uses only its row's length in every so many bytes.
    """
    cdef Py_ssize_t distance = call.x.sc * size, row = call.cut.tile * size
    if call.x.sl != 1 or call.cut.merged or layer.in_place == NEVER or call.before.kind:
        return NEVER
    if layer.in_place == PARTS:
        return PARTS        # each sample is read about once
    distance = min(distance & -distance, 128 * 1024)
    if layer.shape.channels * row > 512 * 1024 or layer.shape.channels * distance > 512 * 1024 and row < distance:
        return NEVER
    return layer.in_place


cdef Activation activation_of(activation, const double *identity):
    """An `activations.Activation`, or None, whose parameters the caller holds."""
    cdef Activation found
    cdef const double[::1] a
    cdef const double[::1] b
    found.kind, found.next, found.a, found.b = 0, 0, identity, identity
    if activation is not None:
        a, b = activation.a, activation.b
        found.kind, found.next, found.a, found.b = activation.kind, a.shape[0] > 1, &a[0], &b[0]
    return found


# ---- packed weights ---------------------------------------------------------------------------------------

# How the packing of a layer is cut into work items, each some channels of a group, of some blocks: the weights are read
# about in the order in which they lie.
cdef struct Packing:
    Weights weights
    const Row *rows
    Py_ssize_t group_size           # weights of a group, as they came
    Py_ssize_t parts, step, steps   # of the blocks; channels, and how many times so many a group has
    Py_ssize_t count, taps          # rows, and taps of each whose sizes are wanted, or 0


cdef void pack_share(const Layer *layer, const Packing *packing, Shares *shares, int thread, real *packed,
                     real *sizes) noexcept nogil:
    cdef Py_ssize_t item, first, past
    while next_items(shares, thread, &first, &past):
        for item in range(first, past):
            pack_item[real](layer, packing, item, packed, sizes + item // packing.parts * packing.count * packing.taps)


cdef void pack_item(const Layer *layer, const Packing *packing, Py_ssize_t item, real *packed,
                    real *sizes) noexcept nogil:
    cdef Py_ssize_t part = item % packing.parts, c = item // packing.parts % packing.steps * packing.step
    cdef Py_ssize_t group = item // packing.parts // packing.steps, b
    cdef Py_ssize_t first = layer.nblocks * part // packing.parts, past = layer.nblocks * (part + 1) // packing.parts
    cdef Weights weights = packing.weights
    cdef const Row *rows = packing.rows
    cdef const Block *block
    weights.w = <const real *>weights.w + group * packing.group_size
    packed += group * layer.group_size
    for b in range(past):
        block = &layer.blocks[b]
        if b >= first:
            layer.ops.pack(layer, block, &weights, rows, c, min(c + packing.step, layer.shape.channels),
                           packed + block.weights, sizes)
        rows += block.rows
        sizes += block.rows * packing.taps


cdef bint are_even(const Layer *layer, real *sizes, Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t taps) noexcept nogil:
    """Whether all rows of all groups have even taps: `sizes` of some channels each, which are added up here."""
    cdef Py_ssize_t step, b, r, i
    for _ in range(layer.shape.groups):
        for step in range(1, steps):
            for i in range(rows * taps):
                sizes[i] += sizes[step * rows * taps + i]
        r = 0
        for b in range(layer.nblocks):
            for i in range(layer.blocks[b].rows):
                if not even_taps[real](sizes + r * taps, taps - (i >= layer.blocks[b].long_rows),
                                       layer.own[1] >= TRIPLES, layer.ratio, layer.most):
                    return False
                r += 1
        sizes += steps * rows * taps
    return True


# ---- what Python sees -------------------------------------------------------------------------------------

cdef class Kernel:
    """A layer's packed weights for one compute type.

    Parameters
    ----------
    plan : plan.Plan
    machine : machine.Machine
    weight : ndarray (C_in, C_out / groups, K) of the compute type
    groups : int
    threads : int
        Most threads to pack with.
    other : Kernel, optional
        One with the same weights whose packing is the same: its packed weights are shared.
    """

    cdef Layer layer
    cdef readonly object plan, machine
    cdef readonly bint even         # the taps that the kernel adds up are of similar size
    cdef object packed, keep        # keep: arrays that pointers in `layer` point into
    cdef const void *weights        # of `packed`
    cdef bint double_precision

    def __cinit__(self):
        self.layer.blocks = NULL

    def __dealloc__(self):
        free(self.layer.blocks)

    def __init__(self, plan, machine, weight, Py_ssize_t groups, int threads, Kernel other=None):
        cdef Layer *layer = &self.layer
        cdef const int64_t[::1] own = np.array((*plan.packing.own, 0), np.int64)
        cdef const int64_t[::1] offsets = plan.problem.input_rows.offsets
        if plan.packing.calls_blas:
            bind_blas()
        self.plan, self.machine, self.keep = plan, machine, (own, offsets)
        self.double_precision = weight.dtype.char in "dD"
        layer.own = &own[0]
        layer.ops = (<Ops *><uintptr_t>COMPILED[plan.packing.compiled])[self.double_precision]
        layer.microkernels = microkernels_for(self.double_precision)
        layer.planes, layer.runs, layer.in_place = plan.packing.planes, plan.columns.runs, plan.tile.in_place
        layer.piece_channels, layer.piece_taps = plan.packing.piece_channels, plan.packing.piece_taps
        layer.group_size = plan.packing.group_size
        self._shape(groups)
        self._input_rows(&offsets[0])
        self._blocks()
        layer.memory.y_ahead, layer.memory.x_stays = machine.tuning.memory.y_ahead, machine.tuning.memory.x_stays
        layer.memory.y_stays = machine.tuning.memory.y_stays
        layer.memory.few_samples = machine.tuning.load.few_samples
        layer.memory.x_two_channels = machine.tuning.memory.x_two_channels
        # neither the sum of two taps of this size overflows, nor their products with the samples of 32 columns,
        # each a sixteenth as large
        layer.ratio, layer.most = plan.packing.ratio, 2.0**511 if self.double_precision else 2.0**63
        if other is not None:
            self.packed, self.weights, self.even = other.packed, other.weights, other.even
            return
        shape = (groups * layer.group_size,)
        dtype = np.dtype(np.float64 if self.double_precision else np.float32)
        kept = memory.is_kept(shape[0] * dtype.itemsize)
        self.packed = memory.allocator(shape, dtype)(shape, dtype) if kept else _runtime.aligned(shape[0], dtype)
        if self.double_precision:
            self._pack[double](weight, threads, 0)
        else:
            self._pack[float](weight, threads, 0)

    cdef _shape(self, Py_ssize_t groups):
        problem, layer = self.plan.problem, &self.layer
        layer.shape.parts, layer.shape.channels = problem.parts, problem.channels
        layer.shape.outputs, layer.shape.groups = problem.outputs, groups
        layer.shape.alignment, layer.shape.residues = self.plan.alignment, self.plan.residues
        layer.shape.stride = problem.stride * self.plan.alignment
        layer.shape.taps, layer.shape.step, layer.shape.period = self.plan.packing.taps, problem.step, problem.period
        layer.shape.correlates, layer.shape.channels_last = problem.correlates, problem.channels_last
        layer.shape.consecutive = self.plan.columns.consecutive

    cdef _input_rows(self, const int64_t *offsets):
        rows, layer = self.plan.problem.input_rows, &self.layer
        layer.input_rows.stride, layer.input_rows.count, layer.input_rows.long = rows.stride, rows.count, rows.long
        layer.input_rows.offsets, layer.input_rows.consecutive = offsets, rows.consecutive

    cdef _blocks(self):
        cdef const int64_t[:, ::1] table = self.plan.packing.blocks
        cdef Py_ssize_t b, long_branches = self.plan.problem.long
        cdef Block *block
        self.layer.nblocks = table.shape[0]
        self.layer.blocks = <Block *>malloc(self.layer.nblocks * sizeof(Block))
        if self.layer.blocks == NULL:
            raise MemoryError("no memory for the table of weight blocks")
        for b in range(self.layer.nblocks):
            block = &self.layer.blocks[b]
            block.output0, block.outputs = table[b, 0], table[b, 1]
            block.entry0, block.entry1 = table[b, 2], table[b, 3]
            block.branch0, block.branches, block.weights = table[b, 4], table[b, 5] - table[b, 4], table[b, 6]
            block.rows = block.outputs * block.branches
            block.long_branches = min(max(long_branches - block.branch0, 0), block.branches)
            block.long_rows = block.outputs * block.long_branches

    cdef _pack(self, weight, int threads, real unused):
        cdef real[::1] packed = self.packed
        cdef Layer *layer = &self.layer
        cdef Packing packing
        cdef Weights *weights = &packing.weights
        cdef Row *rows
        cdef real[::1] sizes
        cdef Shares shares
        cdef int thread
        cdef Py_ssize_t b, items, size = sizeof(real), count = 0
        cdef Py_buffer buffer
        serial = packed.shape[0] <= <Py_ssize_t>self.machine.tuning.memory.pack_serial
        threads = team(1 if serial else min(threads, MOST_THREADS))
        packing.step = PACKED_CHANNELS * layer.input_rows.count
        packing.steps = (layer.shape.channels + packing.step - 1) // packing.step
        packing.parts, items = 1, layer.shape.groups * packing.steps
        if threads > 1:
            packing.parts = min(layer.nblocks, (4 * threads + items - 1) // items)
        for b in range(layer.nblocks):
            count += layer.blocks[b].rows
        packing.count, packing.taps = count, self.plan.problem.taps if layer.ratio else 0
        sizes = np.zeros(max(1, items * count * packing.taps), self.packed.dtype)
        packing.rows = rows = <Row *>malloc(count * sizeof(Row))
        if rows == NULL:
            raise MemoryError("no memory for the table of rows")
        PyObject_GetBuffer(weight, &buffer, PyBUF_STRIDED_RO)
        try:
            weights.w = buffer.buf
            weights.channel = buffer.strides[1 if layer.shape.correlates else 0] // size
            weights.output = buffer.strides[0 if layer.shape.correlates else 1] // size
            weights.tap = buffer.strides[2] // size
            # groups divide the first axis
            packing.group_size = weight.shape[0] // layer.shape.groups * (buffer.strides[0] // size)
            count = 0
            for b in range(layer.nblocks):
                find_rows(layer, &layer.blocks[b], weights, rows + count)
                count += layer.blocks[b].rows
            share_out(&shares, items * packing.parts, threads)
            with nogil:
                for thread in prange(threads, schedule="static", chunksize=1, num_threads=threads):
                    pack_share[real](layer, &packing, &shares, thread, &packed[0], &sizes[0])
                self.even = not layer.ratio or are_even[real](layer, &sizes[0], packing.steps, count, packing.taps)
            self.weights = &packed[0]
        finally:
            PyBuffer_Release(&buffer)
            free(rows)


cdef class Run:
    """A plan bound to one input length and batch size; call it with packed weights and arrays.

    Parameters
    ----------
    plan : plan.Plan
    groups : int
    tiling : plan.Tiling
    left : int
        Output position of the first sample to compute.
    batch, length, out_length : int
    origin : int
        Input steps of the first column, or set of them, that lie before x; less than the plan's `repeat`.
    sources : tuple of ndarray
        As from `padding.halo_sources`.
    """

    cdef object plan
    cdef Call call
    cdef object keep        # arrays that pointers in `call` point into
    cdef Py_ssize_t items
    cdef bint leaves_gaps       # some output positions belong to no tap
    cdef readonly Py_ssize_t nbytes     # of its tables
    cdef readonly bint can_activate     # x by `before`: it is loaded in one piece
    cdef readonly bint channels_last    # y is (N, L_out, C_out)
    cdef readonly bint can_finish       # y by `after` and `add`: a block's y in a tile is one stretch of each row

    def __cinit__(self):
        self.call.output.entries = NULL

    def __dealloc__(self):
        free(self.call.output.entries)

    def __init__(self, plan, Py_ssize_t groups, tiling, Py_ssize_t left, Py_ssize_t batch, Py_ssize_t length,
                 Py_ssize_t out_length, Py_ssize_t origin, sources):
        cdef Call *call = &self.call
        cdef const int64_t[::1] before = sources[0]
        cdef const int64_t[::1] after = sources[1]
        self.plan = plan
        self.keep = sources
        self.leaves_gaps = not plan.problem.filled
        call.origin = origin
        call.x.length, call.x.hl, call.x.hr = length, before.shape[0], after.shape[0]
        call.x.before = &before[0] if call.x.hl else NULL
        call.x.after = &after[0] if call.x.hr else NULL
        call.cut.batch, call.cut.first, call.cut.columns = batch, tiling.first, tiling.columns
        call.cut.history, call.cut.tile, call.cut.tiles = tiling.history, tiling.tile, tiling.tiles
        call.cut.edge, call.cut.ldx, call.cut.ldc = tiling.edge, tiling.ldx, tiling.ldc
        call.cut.unit, call.cut.merged = plan.tile.unit, tiling.merged
        call.cut.nontemporal = tiling.nontemporal
        call.room.columns, call.room.sources = tiling.workspace.columns, tiling.workspace.sources
        call.room.bias, call.room.row = tiling.workspace.bias, tiling.workspace.row
        call.output.length = out_length * <Py_ssize_t>plan.problem.parts
        call.output.left = left * <Py_ssize_t>plan.problem.parts
        self._entries()
        packing, columns = plan.packing, plan.columns
        self.nbytes = call.output.nentries * sizeof(Entry) + sources[0].nbytes + sources[1].nbytes
        self.can_activate = packing.piece_channels >= plan.problem.channels and packing.piece_taps >= packing.taps
        self.channels_last = plan.problem.channels_last
        stretches = call.output.aligned or plan.residues > 1
        self.can_finish = (stretches and not self.leaves_gaps and not self.channels_last
                           and columns.chunk == plan.problem.count)
        self.items = (1 if call.cut.merged else batch) * groups * call.cut.tiles

    cdef _entries(self):
        """Where each entry's columns lie in the output, and for which columns all of them lie inside it."""
        columns, output = self.plan.columns, &self.call.output
        cdef const int64_t[::1] positions = columns.position
        cdef const int64_t[::1] branches = columns.branch
        cdef const int64_t[::1] steps = columns.step
        cdef Py_ssize_t width = self.plan.residues, S = self.plan.problem.stride * self.plan.alignment * width, e
        cdef Entry *entry
        output.nentries = positions.shape[0]
        output.aligned = columns.consecutive
        output.entries = <Entry *>malloc(positions.shape[0] * sizeof(Entry))
        if output.entries == NULL:
            raise MemoryError("no memory for the table of entries")
        for e in range(positions.shape[0]):
            entry = &output.entries[e]
            entry.branch, entry.step = branches[e], steps[e]
            entry.phase, entry.shift = positions[e] % S, positions[e] // S
            entry.first = -floor_div(entry.phase + width - 1 - output.left, S)
            entry.last = floor_div(output.left + output.length - 1 - entry.phase, S) + 1
            output.aligned = output.aligned and entry.shift == 0
            output.first_inside = max(output.first_inside, entry.first) if e else entry.first
            output.last_inside = min(output.last_inside, entry.last) if e else entry.last

    def __call__(self, Kernel kernel, x, y, bias, int threads, before=None, after=None, add=None):
        """Fill y, C-contiguous in the plan's layout, from x (N, C_in, L), any strides; both of the compute type.

        kernel: packed with the same plan. bias: C-contiguous or None. before: an Activation of x, only if
        `can_activate`; after and add: an Activation of y, and what is added to it, laid out as y, only if `can_finish`.
        """
        cdef Call call = self.call          # one copy a caller: calls may run side by side
        cdef Layer *layer = &kernel.layer
        cdef Py_buffer xb, yb, bb
        cdef double identity = 0
        cdef Py_ssize_t size = 8 if kernel.double_precision else 4
        cdef Py_ssize_t items = self.items
        cdef void *workspaces[MOST_THREADS]
        cdef int i, taken = 0
        cdef bint double_precision = kernel.double_precision
        cdef RegionTimer timer
        call.before, call.output.after = activation_of(before, &identity), activation_of(after, &identity)
        call.output.add = NULL
        if after is not None or add is not None:
            call.cut.nontemporal = False        # y is read again
        threads = max(1, min(threads, MOST_THREADS))
        call.weights = kernel.weights
        call.blocks_per_item, call.block_groups = layer.nblocks, 1
        if threads > 1:
            # several work items a thread, so that a disturbed core does not hold up the call
            call.block_groups = min(layer.nblocks, (8 * threads + items - 1) // max(items, 1))
            call.blocks_per_item = layer.nblocks // call.block_groups
            call.block_groups = (layer.nblocks + call.blocks_per_item - 1) // call.blocks_per_item
            items *= call.block_groups
            threads = <int>min(threads, items)
        PyObject_GetBuffer(x, &xb, PyBUF_STRIDED_RO)
        try:
            PyObject_GetBuffer(y, &yb, PyBUF_STRIDED_RO | PyBUF_WRITABLE)
            try:
                i = xb.ndim
                call.x.x, call.output.y, call.output.bias = xb.buf, yb.buf, NULL
                call.x.sl, call.x.sc, call.x.sp = xb.strides[i - 1] // size, xb.strides[i - 2] // size, 1
                call.x.sn = xb.strides[0] // size if i == 3 else 0
                call.in_place = in_place(layer, &call, size)
                if bias is not None:
                    PyObject_GetBuffer(bias, &bb, PyBUF_STRIDED_RO)
                    call.output.bias = bb.buf
                    PyBuffer_Release(&bb)       # the caller holds it
                if add is not None:
                    PyObject_GetBuffer(add, &bb, PyBUF_STRIDED_RO)
                    call.output.add = bb.buf
                    PyBuffer_Release(&bb)
                threads = team(threads)
                try:
                    while taken < threads:
                        workspaces[taken] = take_workspace()
                        taken += 1
                    # from here on nothing can fail: y is written wholly or not at all
                    if self.leaves_gaps:
                        y[...] = 0 if bias is None else bias if layer.shape.channels_last else bias[:, None]
                    with nogil:
                        if double_precision:
                            run_items[double](layer, &call, items, threads, workspaces, &timer, 0)
                        else:
                            run_items[float](layer, &call, items, threads, workspaces, &timer, 0)
                    if threads > 1:
                        finish_region(&timer, items)
                finally:
                    for i in range(taken):
                        give_workspace(workspaces[i])
            finally:
                PyBuffer_Release(&yb)
        finally:
            PyBuffer_Release(&xb)


def activate(int kind, const double[::1] a, const double[::1] b, const real[:, :, :] x, real[:, :, :] y, int threads):
    """y = f(x), both (N, C, L) of consecutive samples; a, b: one number, or one for each channel. y may be x."""
    cdef const Microkernels *microkernels = microkernels_for(real is double)
    cdef Py_ssize_t channels = x.shape[1], length = x.shape[2], parts = (length + ACTIVATED - 1) // ACTIVATED
    cdef Py_ssize_t item, n, c, at, next = a.shape[0] > 1
    if y.size == 0:
        return
    threads = team(max(1, min(threads, MOST_THREADS)))
    with nogil:
        for item in prange(x.shape[0] * channels * parts, num_threads=threads, schedule="static", chunksize=1):
            n, c, at = item // parts // channels, item // parts % channels, item % parts * ACTIVATED
            microkernels.activate(kind, &x[n, c, at], NULL, &y[n, c, at], min(ACTIVATED, length - at), a[c * next],
                                  b[c * next])
