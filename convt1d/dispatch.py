# SPDX-License-Identifier: MIT
"""From geometry, element type and machine to kernel, weight blocks and tiles: pure functions.

(Pure but for the variables that force a choice: CONVT1D_KERNEL and CONVT1D_TILE.)

A kernel computes columns and gathers them. With ``g = gcd(stride, dilation)`` and ``period = stride / g``, the
taps ``k = rho + period * m`` of one ``rho`` all land in the same output phase ``dilation * rho mod stride``, one
step of ``dilation / g`` input samples apart. So each ``rho`` is one *slot*, a small convolution of its own::

    column[rho, o, i] = sum over m, c of  w[c, o, rho + period * m] * x[c, i - step * m]
    y[o, u - left]    = column[rho, o, i] + b[o]      at u = stride * i + dilation * rho

      stride 2, kernel 5:      x   .   a   b   c   .          slot 0: taps 0 2 4, slot 1: taps 1 3
                               u   0 1 2 3 4 5 6 7 8          position u = 2i + rho takes slot rho's column i

A convolution (`ConvGeometry`, the adjoint) runs the same way backwards: its *input* is split into such slots, one
row of the tile each, and the taps of a slot count from the last::

    row[o, rho, j] = x[o, stride * j + dilation * rho - left]
    y[c, i]        = sum over o, rho, m of  w[c, o, rho + period * m] * row[o, rho, i + step * m]  + b[c]

so in the tile loop it is a transposed convolution of stride 1 over more channels, whose output lies `margin`, the
reach of the taps, further to the right.

A complex layer is a real one with twice the channels (re, im) in and twice the slots out, `parts` = 2: the
output position then counts real numbers, ``2 * stride`` to an input step, and one set of real kernels serves all
four types.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from . import geometry as geometry_module
from .geometry import ConvGeometry, Geometry, branches, ceil_div

#: Kernels by name; `CONVT1D_KERNEL` forces one.
KERNELS = ("direct", "gemm", "fused", "winograd", "fused_winograd")

# Workspace of one thread, in bytes (the promise is 2 MiB): the tile of x, its columns, and a few pointers.
INPUT_BYTES = 1024 * 1024
COLUMN_BYTES = 768 * 1024
# What a tile aims at: an input that leaves most of a core's L2 (1 MiB and more on today's cores) to the next tile's,
# to y and to weights: with 640 KiB 64 to 192 channels ran 1.05..1.15 x slower (a Zen 4, 2026-11). But so many columns,
# if they fit into L2, since all weights are read for each tile. And the columns of a block within an L1.
X_BYTES = 96 * 1024
X_COLUMNS = 192
X_MOST_BYTES = 640 * 1024
C_BYTES = 64 * 1024
# Nor more columns than this; of a single channel, where nothing waits for its tile to be done, 1.04 .. 1.07 x faster
# than with 2048 (a Sapphire Rapids, 2026-11).
MOST_COLUMNS = 2048
SINGLE_COLUMNS = 8192

# Rows (slots x output channels) of one weight block: enough that copying a tile of x is under 2 % of the
# arithmetic it feeds, few enough that the block's columns stay near the core.
BLOCK_ROWS = 64
# The direct product needs no such number: with few rows the columns stay in L1 until they are gathered.
DIRECT_ROWS = 16
# ... unless the input of even a narrow tile does not fit: then each block loads it again, piece by piece.
PIECES_ROWS = 512

# Rows x taps per group, the multiply-adds a sample of x is used for: above the first number copying a tile of x is
# under 3 % of the work and spares the product all doubt; up to the second, not even the edges' tiles are copied whole.
COPY_ABOVE = 1024
SPLIT_BELOW = 32
# With so few, memory decides. Long runs of some channels are streams that the hardware prefetches, 48 columns of all
# channels are not: 1.1..1.8 x faster from memory, up to 1.15 x slower from L2. More channels at a time where there is
# more to multiply, since all sums are read and written in between: so many for each multiply-add, 8 at least, and at
# most, where vectors are computed in halves and where whole. 32 instead of 16 are 1.01..1.1 x faster, of 8 1.3 x (a
# Zen 4, 2026-11).
NARROW_ABOVE = 16
NARROW_CHANNELS = {False: (4, 32), True: (1, 16)}
NARROW_BYTES = 8192
NARROW_TILES = 4  # at least, for the threads: the runs of short signals need not be long

# Multiply-adds in one BLAS product. OpenBLAS runs a product on one thread by itself up to 2**19 on every
# core type (64 x 64 x 128; measured 2026-11, onset 80**3..83**3), so BLAS's own threads never need limiting; and up
# to 1e6 its AVX-512 core multiplies without packing, at 95..100 % of the FMA peak.
GEMM_LIMIT = 500_000

# The largest sum (real channels x taps) that the fused kernel is chosen for, and where there is a single phase: 1.02 to
# 1.04 x faster than `direct` with 768 and 896, equal with 1536, 1.05 x slower with 3584 (a Zen 4, 2026-11).
FUSED_DEPTH = 512
FUSED_DEPTH_OF_ONE = 1024

# Winograd's kernel: what it should gain, its shortest sums, and the most taps of a slot (a tile is so much wider).
# With AVX2's smaller register blocks sums are kept and taken up twice as often.
WINOGRAD_GAIN = {1: 1.1, 2: 1.03}
WINOGRAD_DEPTH = 32
WINOGRAD_TAPS = 64
# What it takes beside its products, in multiply-adds of a vector, for a channel and a row of a vector of samples: the
# differences; the sums, which are kept and taken up again in between; more of both for a tap alone. Where
# vectors are computed in halves (30 layers on a Zen 4, 2026-11: from 1.03 on, never slower), and where whole, so that
# multiply-adds take half as long (22 layers on a Sapphire Rapids, 2026-11: foretold within 0.05, but two within 0.1).
WINOGRAD_COSTS = {False: (10, 8, 0), True: (20, 20, 25)}
# What it should gain where it is fused, over other sums in registers, where vectors are computed in halves and where
# whole (a Zen 4, 72 layers of 16 to 64 channels: 1.04..1.3 x; less is lost on signals of some hundred samples, whose
# last vector is nearly empty); and how deep these are at most, with whole register blocks and one pair of taps, and
# else: up to there 1.05..1.3 x faster than with the gather apart, beyond 0.87..1.05 x, since x and weights leave L1 (a
# Sapphire Rapids; 1.02..1.2 x and 0.95..1.05 x on a Zen 4; both 2026-11).
WINOGRAD_FUSED_GAIN = {False: 1.12, True: 1.07}
WINOGRAD_FUSED_DEPTH = 512, 256
# Packed weights of a block that is fused: x of 16 columns is read from L1, and all of the block's weights from L2.
WINOGRAD_BLOCK_BYTES = 192 * 1024
# Its columns in a tile, and those at a signal's ends that are computed aside at a time.
WINOGRAD_COLUMNS = 128
ASIDE = 64
# What its tile of x aims at: x is never read in place, so none of it is to stay in L2, and longer rows are copied and
# gathered faster: 64 to 128 channels 1.03..1.08 x, with 640 KiB and more slower again (a Zen 4, 2026-11).
WINOGRAD_BYTES = 448 * 1024
# Beside layers read a few channels at a time: 10 to 16 rows 1.07..1.22 x, 8 rows 0.9 x; 512 channels 0.8..1.0 x.
WINOGRAD_NARROW = 1.25
# Samples of a batch of short signals from which it pays, see `is_short`.
WINOGRAD_SAMPLES = 32

# The weights' gradient: a block has at most so many rows, and columns of so many bytes; a run as many time steps as
# columns. Sums (512 KiB) and vectors (256 KiB) stay in a core's L2.
GRADIENT_ROWS = 512
GRADIENT_BYTES = 1024
# ... along time, a run has more.
GRADIENT_STEPS = 1024

# Signals up to this length are laid side by side, a batch as one signal. Their last bits may then depend on the batch
# they come in, by BLAS; longer ones' never do, since BLAS does not get those that are merged up to four times the
# length, where that saves as much of the vectors at each one's end (1.04..1.25 x faster, a Zen 4, 2026-11).
MERGE_LENGTH = 64
MERGE_GAIN = 1.05


@dataclass(frozen=True, slots=True)
class Machine:
    """What the choice depends on."""

    level: int  # SIMD level of the leaves, see cpu/_simd.h
    rows: int  # of the direct product's largest register block
    vector_bytes: int
    vectors: tuple[int, ...]  # of columns, in a register block of 1, 2, ... rows
    whole: bool = False  # 64-byte vectors are not computed in halves, see cpu/_simd.h


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Kernel and weight blocks of a layer: all that does not depend on the input's length."""

    kernel: str
    fused: bool  # product and gather in one
    winograd: bool  # columns of two input steps
    parts: int  # 1 real, 2 complex
    correlates: bool  # a convolution
    channels: int  # rows of a group's input: real input channels, of a convolution times their slots
    in_stride: int  # input positions per column: 1, or a convolution's stride
    in_slots: int  # rows per input channel
    in_full: int  # slots below this have `taps` taps, the others one less
    in_offsets: np.ndarray  # of every parts-th row of an input channel: its position at column 0
    in_consecutive: bool  # ... which rise by one
    depth: int  # summands of one column
    stride: int  # real output positions per input step
    taps: int  # M, of a full slot
    full: int  # slots below this have `taps` taps, the others one less
    period: int  # taps of one slot are this far apart in the kernel (in kernel positions)
    step: int  # ... and in the input
    reach: int  # output samples that a convolution's taps lie further to the right, see above
    offsets: np.ndarray  # per entry: its output position, in real numbers, for i = 0
    slots: np.ndarray  # per entry: its slot
    blocks: np.ndarray  # per block: o0, outputs, entry0, entry1, slot0, slot1, offset of its weights
    consecutive: bool  # entries lie side by side in the output
    streams: int  # rows of the tile of x for a channel: of `winograd` 3 or 4, with two samples to a column
    slot_taps: int  # `taps`; of `winograd` the taps in so many pairs
    slot_count: int  # slots of an output, in real numbers
    halves: int  # of a block's entries, each side by side in the output, or 1
    column_rows: int  # rows of a block's columns
    channels_last: bool  # the output's layout
    filled: bool  # every output position belongs to a slot
    in_place: int  # tiles of x read where they lie: 0 never, 1 those inside it, 2 the inside of every tile
    piece_channels: int  # the tile of x is loaded in pieces of at most
    piece_taps: int  # so many channels and taps
    group_size: int  # packed weights of one group
    tile: int  # columns that a tile aims at
    widest: int  # ... and has at most
    vector: int  # elements in a vector
    unit: int  # columns of a register block


@dataclass(frozen=True, slots=True)
class Tiling:
    """How one input length and batch size is cut; i counts input steps, f columns of the merged batch."""

    first: int  # the first column's i
    columns: int  # columns per sample, the `margin` included
    margin: int  # columns before the first whose inputs it needs
    merged: bool
    streams: bool  # the output goes past the caches
    tile: int
    tiles: int  # per sample, or of the merged batch
    gemm_channels: int


@dataclass(frozen=True, slots=True, eq=False)
class GradientPlan:
    """How the weights' gradient is cut, see cpu/_correlate.pyx."""

    parts: int
    along: str  # what the vectors run over: "x", the input channels; "g", (output channel, tap) pairs; or "time"
    tile: int  # time steps
    rows: int  # of a block: real numbers
    columns: int
    period: int  # taps of one slot are this far apart in the kernel
    step: int  # ... and in time
    slots: int  # real rows of an output channel split into its slots
    offsets: np.ndarray  # of the slots, in g


def choose_kernel(
    channels: int,
    taps: int,
    rows: int,
    level: int,
    fusible: bool,
    narrow: bool = False,
    deepest: int = FUSED_DEPTH,
    gain: float = 0,
    fused_gain: float = 0,
    whole: bool = False,
) -> str:
    """`channels`, `taps` and `rows`: real input channels, taps of a slot and output rows, per group. `narrow`: x is to
    be read a few channels at a time, where `direct` does, since its sums go on from piece to piece. `deepest`: the
    largest sum that is to be fused. `gain`: of Winograd's products, 0 where taps are not neighbours or too many.
    `fused_gain`: the same, fused, 0 where that cannot be. `whole`: as `Machine` has it.

    direct   SIMD sums in registers over all channels and taps, 97..100 % of the FMA peak with AVX2 or AVX-512
    fused    the same with the gather in registers: 1.05..1.8 x faster where sums are short, never behind by more
             than timing noise up to a depth of 512 (1024 of one phase); where all phases of an output fit into a
             register block
    winograd 3 multiplications instead of 4 for two taps and two columns: up to 1.28 x faster where sums are long and
             samples used often, `winograd_gain`
    fused_winograd
             the same with the gather in registers: 1.05..1.3 x faster than `winograd` for 64 to 512 channels, and
             than `fused` for as few as 32; where all phases have the same, even number of taps, with AVX-512
    gemm     BLAS: 80..97 % on tiles this small on its AVX-512 core, 35..65 % on its AVX2 core; the better code
             where our leaves have neither instruction set (level 0), once there is enough to multiply
    (one core of a Zen 4, 2026-11)
    """
    forced = os.environ.get("CONVT1D_KERNEL", "")
    if forced and forced not in KERNELS:
        raise ValueError(f"CONVT1D_KERNEL must be one of {', '.join(KERNELS)}, got {forced!r}")
    possible = {"fused": fusible, "winograd": gain, "fused_winograd": fused_gain}
    if forced and possible.get(forced, True):
        return forced
    if fused_gain >= max(gain, WINOGRAD_FUSED_GAIN[whole]):
        return "fused_winograd"
    if level > 0 and gain >= WINOGRAD_GAIN[level]:
        return "winograd"
    if fusible and channels * taps <= deepest and level > 0 and not narrow:
        return "fused"
    if level > 0 or channels < 8 or rows < 8:
        return "direct"
    return "gemm"


def winograd_products(taps: int) -> int:
    """Winograd's multiplications for a sample, a slot with so many taps and two columns."""
    return 3 * (taps // 2) + 2 * (taps % 2)


def winograd_weights(taps: int) -> int:
    """Its packed weights for a channel and a slot with so many taps: a + b, b and a of each pair, and an odd one."""
    return 3 * (taps // 2) + taps % 2


def winograd_gain(channels: int, taps: int, full: int, others: int, whole: bool = False, fused_rows: int = 0) -> float:
    """How much faster Winograd's products are thought to be, for so many rows with all taps and with one less; where
    vectors are computed `whole` or not; with a gather apart, or (not 0) fused in register blocks of so many rows. Sums
    of fewer than 32 are another matter."""
    if channels * ceil_div(taps, 2) < WINOGRAD_DEPTH:
        return 0.5
    each_channel, each_row, each_alone = WINOGRAD_COSTS[whole]
    alone = full if taps % 2 else others  # rows with a tap alone
    products: float = full * winograd_products(taps) + others * winograd_products(taps - 1)
    direct = channels * (full * taps + others * (taps - 1))
    beside = each_channel * channels + each_row * (full + others) + each_alone * (alone + channels * (alone > 0))
    if fused_rows:
        beside = each_channel * channels
        if whole:  # loads take as long as multiply-adds: each sample's is for so many of these, each weight's for one
            products *= (1 + 1 / fused_rows) / (1 + 1 / 8)
    return direct / (channels * products / 2 + beside)


def is_short(batch: int, steps: int) -> bool:
    """Whether Winograd's kernel has too few columns to make up for its larger weights: 1024 -> 512 channels ran 1.8 x
    slower with up to 5 samples, 1.1 x with 20, 1.05 x faster with 24, 1.2 x with 40 (a Zen 4, 2026-11). Only of signals
    whose last bits may depend on the batch."""
    return steps <= MERGE_LENGTH and batch * steps < WINOGRAD_SAMPLES


def multiplied(plan: Plan) -> float:
    """The multiplications that a plan's kernel makes, as a part of those that the definition has."""
    if not plan.winograd:
        return 1.0
    others, taps = plan.slot_count - plan.full, plan.slot_taps
    made = plan.full * winograd_products(taps) + others * winograd_products(taps - 1)
    return made / (2 * (plan.full * taps + others * (taps - 1)))


def plan(
    geometry: Geometry | ConvGeometry,
    dtype: np.dtype,
    machine: Machine,
    channels_last: bool = False,
    short: bool = False,
) -> Plan:
    """Choose the kernel and lay out the weight blocks for a compute type (float32/64, complex64/128).

    `channels_last`: of the output, which is then gathered across channels, not phases; no fused kernel does that.
    `short`: for calls that `is_short` says are.
    """
    parts = 2 if dtype.kind == "c" else 1
    size = dtype.itemsize // parts
    vector = max(1, machine.vector_bytes // size)
    s, d = geometry.stride, geometry.dilation
    layout = branches(geometry)
    hit, period, step, taps, full = layout.count, layout.period, layout.step, layout.taps, layout.long
    channels = geometry.in_channels // geometry.groups * parts
    outputs = geometry.out_channels // geometry.groups
    correlates = isinstance(geometry, ConvGeometry)
    if correlates:  # the slots are rows of the input, and the output has stride 1
        in_stride, in_slots, in_full = s, hit * parts, full * parts
        in_offsets = d * np.arange(hit, dtype=np.int64) - geometry.padding[0]
        channels *= hit
        lacking = channels // in_slots * (in_slots - in_full)
        stride, hit, full, d = parts, 1, 1, 1
    else:
        in_stride, in_slots, in_full, in_offsets = 1, parts, parts, np.zeros(1, np.int64)
        lacking, stride = 0, s * parts
    fusible = stride <= machine.rows and hit * parts == stride and (d == 1 or s == 1)
    channels_last = channels_last and geometry.out_channels > 1  # the layouts of a single channel are the same
    fusible = fusible and not channels_last
    # Multiply-adds for each sample of x, if these can be read where they lie.
    uses = outputs * hit * taps if in_stride == in_slots == parts == 1 else COPY_ABOVE + 1
    # Not of a few samples, which are in L1 (10 x 2 of 32 channels, a Zen 4, 2026-11: 5.3 -> 4.3 us a call).
    narrow = uses <= SPLIT_BELOW and channels > NARROW_ABOVE and not channels_last and not short
    deepest = FUSED_DEPTH_OF_ONE if stride == 1 else FUSED_DEPTH
    gain = 0.0
    if step == 1 and 2 <= taps <= WINOGRAD_TAPS and lacking == 0:
        gain = winograd_gain(channels, taps, outputs * full * parts, outputs * (hit - full) * parts, machine.whole)
        if narrow and not machine.whole:  # what it is compared with is slower; but its tile should fit
            gain *= WINOGRAD_NARROW if channels * 3 * X_COLUMNS // 2 * size <= WINOGRAD_BYTES else 0.5
    fused_gain = 0.0
    if gain and fusible and full == hit and taps % 2 == 0 and machine.level == 2:
        block = _fused_rows(machine, stride, outputs)
        whole = machine.whole and taps == 2 and block == machine.rows
        if channels * 3 * (vector + leading(taps)) * size <= INPUT_BYTES:
            fused_gain = winograd_gain(channels, taps, outputs * full * parts, 0, machine.whole, block)
        if channels * taps // 2 > WINOGRAD_FUSED_DEPTH[0 if whole else 1]:
            fused_gain = min(fused_gain, 0.5)
    if short and "winograd" not in os.environ.get("CONVT1D_KERNEL", ""):
        gain = fused_gain = 0.0
    gains = gain, fused_gain, machine.whole
    kernel = choose_kernel(channels, taps, outputs * hit * parts, machine.level, fusible, narrow, deepest, *gains)
    if kernel == "gemm" and lacking:
        kernel = "direct"  # BLAS would multiply the taps that are missing as zeros: what is NaN there would show
    winograd, fused = kernel in ("winograd", "fused_winograd"), kernel in ("fused", "fused_winograd")

    slot_taps, streams = taps, 1
    if winograd:  # columns of two steps, taps in pairs
        taps, streams = ceil_div(taps, 2), 3 if taps % 2 == 0 and full == hit else 4

    # Entries: one per slot, in the order in which their phases stand in the output if one block holds them all.
    slots = np.arange(hit * parts, dtype=np.int64)
    offsets = d * parts * (slots // parts) + slots % parts
    count, chunk, halves = slots.size, min(slots.size, BLOCK_ROWS), 1
    if winograd:  # every slot twice: of even steps and of odd ones
        slots, offsets = np.concatenate([slots, slots + count]), np.concatenate([offsets, offsets + stride])
        stride *= 2
    if count <= BLOCK_ROWS:
        order = np.argsort(offsets % stride, kind="stable")
    elif winograd:  # block by block, the even steps of each, then the odd ones
        order, halves = np.lexsort((np.arange(2 * count), slots % count // chunk)), 2
    else:
        order = np.arange(count)
    slots, offsets = slots[order], offsets[order]
    phases = offsets % stride

    # Blocks: several outputs with all their slots, or one output with some of them. Both kinds of rows (with all
    # taps, with one less) should fill the direct product's register blocks.
    even = machine.rows // math.gcd(machine.rows, chunk, full * parts)
    most, limit = (BLOCK_ROWS if kernel == "gemm" else DIRECT_ROWS), BLOCK_ROWS
    if channels * streams * leading(3 * vector) * size > INPUT_BYTES:
        most = limit = PIECES_ROWS
    if kernel == "fused_winograd":
        each = channels * winograd_weights(slot_taps) * size
        most = limit = int(np.clip(WINOGRAD_BLOCK_BYTES // each, machine.rows, BLOCK_ROWS))
    together = min(max(1, most // chunk // even) * even, max(1, limit // chunk), outputs)
    depth = channels * slot_taps - lacking
    blocks, weights = [], 0
    for o0 in range(0, outputs, together):
        width = min(together, outputs - o0)
        for e0 in range(0, count, chunk):
            e1 = min(e0 + chunk, count)
            long = min(max(full * parts - e0, 0), e1 - e0)
            if winograd:
                blocks.append((o0, width, 2 * e0, 2 * e1, e0, e1, weights))
                packed = long * winograd_weights(slot_taps) + (e1 - e0 - long) * winograd_weights(slot_taps - 1)
                weights += width * channels * packed
            else:
                blocks.append((o0, width, e0, e1, e0, e1, weights))
                weights += width * ((depth - channels) * (e1 - e0) + channels * long)
    rows = together * chunk
    if winograd:
        rows = 2 * rows + machine.rows

    piece = channels
    column = channels * streams * size
    if kernel == "fused_winograd":
        run = min(WINOGRAD_COLUMNS, max(WINOGRAD_BYTES // column, min(X_COLUMNS // 2, X_MOST_BYTES // column)))
    elif winograd:
        run = max(WINOGRAD_BYTES // column, min(X_COLUMNS // 2, X_MOST_BYTES // column))
    else:
        run = max(X_BYTES // column, min(X_COLUMNS, X_MOST_BYTES // column))
    if narrow and kernel == "direct":
        each, at_most = NARROW_CHANNELS[machine.whole]
        # two pieces at least, or there would be nothing to read ahead
        piece = int(np.clip(each * uses, 8, min(at_most, max(8, channels // 2))))
        run = NARROW_BYTES // size
    unit = vector * _register_vectors(machine, kernel, channels, stride, outputs)
    longest = SINGLE_COLUMNS if kernel == "fused" and channels == 1 else MOST_COLUMNS
    stored = 1 if kernel == "fused_winograd" else rows  # rows of a tile's columns that are held
    tile = _widest_tile(run, stored, size, unit, longest)
    piece_taps = taps if winograd else int(min(taps, 1 + tile // step))
    forced = bool(os.environ.get("CONVT1D_TILE"))
    widest = tile if forced else min(tile + tile // 4, COLUMN_BYTES // (stored * size) - 64)
    if kernel == "fused_winograd":  # whose sums do not go on from piece to piece: no wider than needs none
        most = max(vector, INPUT_BYTES // column - leading(taps))
        tile, widest = min(tile, most), min(widest, most)
    width = leading(widest + (piece_taps - 1) * step)
    piece_channels = min(piece, INPUT_BYTES // (width * size * streams))
    if winograd:
        piece_channels = _equal_parts(channels, piece_channels, 1)
    if kernel == "fused" and (piece_taps < taps or piece_channels < channels):
        kernel, fused = "direct", False  # whose sums go on from piece to piece
    in_place = 0 if kernel == "gemm" or winograd or uses > COPY_ABOVE else 1 if uses > SPLIT_BELOW else 2
    return Plan(
        kernel=kernel,
        fused=fused,
        winograd=winograd,
        parts=parts,
        correlates=correlates,
        channels=channels,
        in_stride=in_stride,
        in_slots=in_slots,
        in_full=in_full,
        in_offsets=in_offsets,
        in_consecutive=geometry.dilation == 1 or in_offsets.size == 1,
        depth=depth,
        stride=stride,
        taps=taps,
        full=full * parts,
        period=period,
        step=step,
        reach=(slot_taps - 1) * step if correlates else 0,
        offsets=offsets,
        slots=slots,
        streams=streams,
        slot_taps=slot_taps,
        slot_count=count,
        halves=halves,
        column_rows=rows,
        blocks=np.array(blocks, dtype=np.int64),
        consecutive=all(
            bool((np.diff(run) == 1).all()) for _, _, e0, e1, *_ in blocks for run in np.split(phases[e0:e1], halves)
        ),
        channels_last=channels_last,
        filled=slots.size == stride,
        in_place=in_place,
        piece_channels=piece_channels,
        piece_taps=piece_taps,
        group_size=weights,
        tile=tile,
        widest=widest,
        vector=vector,
        unit=unit,
    )


def gradient_plan(geometry: Geometry, dtype: np.dtype, machine: Machine) -> GradientPlan:
    """Blocks and tiles of the weights' gradient in a compute type."""
    parts = 2 if dtype.kind == "c" else 1
    size = dtype.itemsize // parts
    lanes = max(1, machine.vector_bytes // size)
    layout = branches(geometry)
    outputs = geometry.out_channels // geometry.groups
    inputs = geometry.in_channels // geometry.groups * parts
    pairs = outputs * geometry.kernel_size * parts
    along = gradient_along(inputs, pairs, lanes, geometry.dilation)
    split = outputs * layout.count * parts * leading(GRADIENT_STEPS + (layout.taps - 1) * layout.step) * size
    if along == "time" and (inputs * pairs > GRADIENT_ROWS or split > COLUMN_BYTES):
        along = "x"
    if along == "time":
        tile, rows, columns = GRADIENT_STEPS, inputs * pairs, lanes
    else:
        rows, columns = (pairs, inputs) if along == "x" else (inputs, pairs)
        tile = GRADIENT_BYTES // size
        rows = _equal_parts(rows, GRADIENT_ROWS, 16)
        columns = _equal_parts(columns, GRADIENT_BYTES // size, lanes * parts)
    return GradientPlan(
        parts=parts,
        along=along,
        tile=tile,
        rows=rows,
        columns=columns,
        period=layout.period,
        step=layout.step,
        slots=layout.count * parts,
        offsets=geometry.dilation * np.arange(layout.count, dtype=np.int64) - geometry.padding[0],
    )


def gradient_along(inputs: int, pairs: int, lanes: int, dilation: int) -> str:
    """Over what the vectors of the weights' gradient run: the cheapest of the three by cycles of a time step.

    Multiplying whole vectors, and making them once for each block of rows: 0.6 cycles a number for transposing x, 1.2
    for unfolding g, some 10 where taps are apart; a sum in a single register waits 4 cycles for itself; along
    time each product loads a vector that is not aligned (one core of a Zen 4, 2026-11).
    """
    each = 1.2 if dilation == 1 else 10
    cycles = {
        "x": ceil_div(inputs, lanes) * pairs + 0.6 * inputs * ceil_div(pairs, GRADIENT_ROWS),
        "g": ceil_div(pairs, lanes) * max(inputs, 4) + each * pairs * ceil_div(inputs, GRADIENT_ROWS),
        "time": 2.5 * inputs * pairs / lanes + 0.6 * pairs,
    }
    return min(cycles, key=cycles.__getitem__)


def _equal_parts(n: int, most: int, unit: int) -> int:
    """The size of equal parts of `n`, at most `most`, in multiples of `unit`."""
    return ceil_div(ceil_div(n, ceil_div(n, most)), unit) * unit


def leading(width: int) -> int:
    """Row length that holds `width` and a vector more, an odd multiple of 16: rows fall into different cache sets."""
    return ((width + 31) // 16 | 1) * 16


def _register_vectors(machine: Machine, kernel: str, channels: int, stride: int, outputs: int) -> int:
    """Vectors of columns in the usual register block of `fused` (`fused_block` in cpu/_simd.h, `SINGLES` in
    cpu/_leaves.inc), or of `direct`, as if its stride were 1: with few rows its widths matter less."""
    if kernel == "fused" and channels == 1:
        return 8 // stride
    if kernel == "fused_winograd":
        return 1
    rows = _fused_rows(machine, stride, outputs) if kernel == "fused" and stride > 1 else machine.rows
    return machine.vectors[rows - 1]


def _fused_rows(machine: Machine, stride: int, outputs: int) -> int:
    """Rows of the usual register block where all phases of an output are in it."""
    return stride * (1 << (min(machine.rows // stride, outputs).bit_length() - 1))


def _widest_tile(run: int, rows: int, size: int, unit: int, longest: int) -> int:
    """Columns of a tile: at most `run` and `longest`, its columns within an L1, at least one register block's."""
    forced = os.environ.get("CONVT1D_TILE", "")
    limit = COLUMN_BYTES // (rows * size) - 64
    if forced:
        if not forced.isdigit() or int(forced) < 1:
            raise ValueError(f"CONVT1D_TILE must be a positive int, got {forced!r}")
        return min(int(forced), limit, 4096)
    width = min(run, C_BYTES // (rows * size), longest)
    return min(max(width // unit, 1) * unit, limit)


def tiling(plan: Plan, left: int, batch: int, length: int, output_length: int, large: bool = False) -> Tiling:
    """Cut the output positions from `left` on, for one input length. `large`: the output does not stay in caches, and
    lies in memory that was used before (`memory.is_kept`)."""
    s = plan.stride // plan.parts
    furthest = int(plan.offsets.max()) // plan.parts
    first = ceil_div(left - furthest, s)
    last = (left + output_length - 1) // s
    margin = (plan.taps - 1) * plan.step
    columns = last - first + 1 + margin
    steps = output_length if plan.correlates else length
    merged = batch > 1 and steps <= MERGE_LENGTH and margin < columns <= 4 * MERGE_LENGTH
    if batch > 1 and not (plan.kernel == "gemm" or plan.winograd) and margin < columns <= 4 * MERGE_LENGTH:
        merged = merged or ceil_div(columns - margin, plan.vector) * plan.vector >= MERGE_GAIN * columns
    total = batch * columns - margin if merged else columns - margin
    forced = bool(os.environ.get("CONVT1D_TILE"))
    tile, widest = plan.tile, plan.widest
    if plan.piece_channels < plan.channels and plan.in_place == 2 and not forced:
        tile = widest = max(plan.unit, min(tile, ceil_div(total, NARROW_TILES)))
    if not forced:
        # equal tiles, of whole register blocks if there are several
        if total > widest:
            widest = widest // plan.unit * plan.unit or widest
        tiles = max(1, ceil_div(total, widest), round(total / tile))
        unit = plan.unit if tiles > 1 else plan.vector
        tile = max(1, min(widest, ceil_div(total, tiles * unit) * unit))
    return Tiling(
        first=first,
        columns=columns,
        margin=margin,
        merged=merged,
        streams=large and plan.kernel == "fused" and plan.channels == 1 and not merged,
        tile=tile,
        tiles=max(1, ceil_div(total, tile)),
        gemm_channels=max(1, GEMM_LIMIT // (tile * plan.column_rows)),
    )


def policy(machine: Machine) -> str:
    """The kernel policy in force, in words."""
    forced = [f"{name}={os.environ[name]}" for name in ("CONVT1D_KERNEL", "CONVT1D_TILE") if os.environ.get(name)]
    kinds = {
        "deep layers": geometry_module.check(512, 256, 16, 8),
        "128 channels": geometry_module.check(128, 64, 4, 2),
        "few channels": geometry_module.check(16, 8, 4, 2),
        "depthwise": geometry_module.check(64, 64, 12, 2, groups=64),
        "large strides": geometry_module.check(64, 2, 100, 50),
        "dilated": geometry_module.check(64, 32, 5, 3, dilation=2),
    }
    plans = {what: plan(checked, np.dtype(np.float32), machine) for what, checked in kinds.items()}
    chosen = ", ".join(f"{what}: {found.kernel}" for what, found in plans.items())
    return chosen + (f" (forced: {', '.join(forced)})" if forced else "")
