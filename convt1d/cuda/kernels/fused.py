# SPDX-License-Identifier: MIT
"""fused: the whole operator in one kernel, an implicit matrix product on tensor cores or in plain float32.

It moves X + Y bytes. For dilation 1, float32 and the half types, and up to TAPS taps of a branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...geometry import Geometry, ceil_div
from ...geometry import branches as branches_of
from .. import tuning
from ..problem import Call, Problem
from ..program import THREADS, Pointer, Steps, struct
from . import as_words
from .common import NESTED, output, signal

NAME = "fused"
TYPES = ("float32", "float16", "bfloat16")
#: The most taps of a branch. A tile reads so many columns more than it has, less one: MOST_REACH of fused.cu.
TAPS = 33
#: Columns (times) of a tile, input channels of a step, and threads of a block, as fused.cu has them.
COLUMNS, STEP_CHANNELS, FUSED_THREADS = 128, 16, 128
#: Columns that a slab read 16 bytes at a time has more: MARGIN of fused.cu, for each size of elements.
MARGINS = {4: 6, 2: 14}
#: Architectures with 164 KiB of shared memory or more to a multiprocessor: four stages of two blocks fit. Others have
#: 100 KiB, sm_75 has 64 KiB: three stages.
LARGE_SHARED = (80, 87, 90, 100, 103)

FusedRows = struct("FusedRows", "taps branch0 branches chunk long_count per_long per_rest most")
FusedRings = struct("FusedRings", "width pitch stages slabs staged")
Fused = struct(
    "Fused",
    "signal channels outputs groups samples stride rows rings each q_first output row_tiles column_tiles "
    "splits by_rows blocks",
    rows=FusedRows,
    rings=FusedRings,
    **NESTED,
)

Reduce = struct("Reduce", "splits rows output pieces blocks", **NESTED)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows, pairs of output channel and branch, of one launch, and of its tiles."""

    branch0: int  # the first branch
    branches: int  # of the launch; those without taps count, too
    chunk: int  # branches of an output in one tile
    long: int  # the first so many of them have `taps` taps, the others one less
    taps: int
    outputs: int  # output channels of a tile
    tile: int  # rows of a tile, 64 or 128


class Tiles(NamedTuple):
    """The tiles of one launch."""

    weights: str  # their buffer
    rows: Rows
    each: int  # columns of a sample
    row_tiles: int
    column_tiles: int


def unusable(problem: Problem) -> str:
    geometry, taps = problem.geometry, problem.branches.taps
    if geometry.dilation != 1:
        return f"the dilation is {geometry.dilation}, not 1"
    if problem.dtype.name not in TYPES:
        return f"there is none for {problem.dtype.name}"
    if problem.dtype.name == "bfloat16" and problem.capability < 80:
        return f"sm_{problem.capability} has no products of bfloat16"
    if taps > TAPS:
        return f"{taps} taps of a branch are more than {TAPS}"
    if geometry.stride >= 2**31:
        return "the stride is 2**31 or more"
    return ""


def unprofitable(problem: Problem) -> str:
    geometry = problem.geometry
    sizes = {
        "input channels of a group": problem.channels,
        "rows": problem.outputs * geometry.stride,
        "samples": problem.length,
    }
    for name, size in sizes.items():
        if size is not None and size < tuning.FUSED_LEAST[name]:
            return f"{size} {name} fill too little of a tile, which needs {tuning.FUSED_LEAST[name]}"
    if problem.outputs < tuning.ROWS_OUTPUTS and problem.element == 2:
        return ""  # faster than `rows` with so few output channels, see tuning.py
    flops = 2 * problem.channels * geometry.out_channels * geometry.kernel_size
    intensity = flops / ((geometry.in_channels + geometry.stride * geometry.out_channels) * problem.element)
    most = tuning.FUSED_INTENSITY[problem.arithmetic]
    if intensity > most:
        return f"{intensity:.0f} flops per byte of x and y are more than {most}: cuBLAS multiplies faster"
    return ""


def form(problem: Problem) -> str:
    return "fragments of TF32" if problem.arithmetic == "tf32" else "fragments"


def arranged(xp: Any, weight: Any, problem: Problem) -> dict[str, Any]:
    """In the order in which the lanes of a warp hold them; in TF32 rounded to it."""
    geometry, words = problem.geometry, as_words(weight)
    words = words.reshape(geometry.groups, problem.channels, problem.outputs, geometry.kernel_size)
    if problem.arithmetic == "tf32":
        words = rounded_to_tf32(words.view(np.uint32))
    return {
        name: _in_fragments(xp, words, rows, geometry.stride).view(weight.dtype)
        for name, rows in zip(("weight", "rest"), rows_of(geometry), strict=False)
        if rows.taps
    }


def write(call: Call, steps: Steps) -> None:
    """One launch, seldom two; and one more that adds up, where the inner size is split."""
    problem, g = call.problem, call.problem.geometry
    launches = [_tiles(call, name, rows) for name, rows in zip(("weight", "rest"), rows_of(g), strict=False)]
    tiles = sum(g.groups * launch.row_tiles * launch.column_tiles for launch in launches)
    sums = call.batch * g.out_channels * call.positions * problem.summand
    splits = splits_of(problem, tiles, sums)
    if splits > 1:
        steps.reserve(0, splits * sums)
    for launch in launches:
        _write_tiles(call, steps, launch, splits)
    if splits > 1:
        pieces, count = ceil_div(call.positions, THREADS), call.batch * g.out_channels
        steps.launch(
            "reduce",
            (Pointer("work"), Pointer("bias"), Pointer("y")),
            Reduce(splits=splits, rows=count, output=output(call), pieces=pieces, blocks=count * pieces),
        )


def rows_of(geometry: Geometry) -> tuple[Rows, ...]:
    """One launch whose tiles hold whole steps, so that what they store lies side by side; or, where not even one output
    channel's fits, one for the long branches and one for the others. Both kinds fill rows up to 16s."""
    branches, stride = branches_of(geometry), geometry.stride
    outputs = geometry.out_channels // geometry.groups
    long, rest = branches.long, stride - branches.long

    def rows(count: int) -> int:
        return 16 * (ceil_div(count * long, 16) + ceil_div(count * rest, 16))

    tile = 64 if rows(outputs) <= 64 else 128
    most = next((count for count in range(min(outputs, tile // stride), 0, -1) if rows(count) <= tile), 0)
    if most:
        return (Rows(0, stride, stride, long, branches.taps, ceil_div(outputs, ceil_div(outputs, most)), tile),)
    found = []
    for branch0, count, taps in ((0, long, branches.taps), (long, rest, branches.taps - 1)):
        if count:
            tile = 64 if count <= 64 else 128
            chunk = ceil_div(count, ceil_div(count, tile))
            found.append(Rows(branch0, count, chunk, chunk, taps, 1, tile))
    return tuple(found)


def splits_of(problem: Problem, tiles: int, size: int) -> int:
    """Into how many parts the inner size of `tiles` tiles is split: as many as fill a GPU, where tiles alone fill less
    than half of it. `size`: bytes of one part's sums, which the workspace has to hold."""
    if 2 * tiles > tuning.FUSED_BLOCKS:
        return 1
    channel_blocks = ceil_div(problem.channels, STEP_CHANNELS)
    steps = channel_blocks * problem.branches.taps // tuning.FUSED_SPLIT_STEPS
    return max(1, min(tuning.FUSED_BLOCKS // tiles, steps, channel_blocks, problem.workspace // size))


def rings_of(problem: Problem, rows: Rows) -> tuple[Any, int]:
    """The rings of a block, and its bytes of shared memory."""
    width = COLUMNS + max(rows.taps - 1, 0)
    piece = 16 // problem.element
    pitch = (width + MARGINS[problem.element]) // piece * piece
    if problem.element == 4:
        pitch = ceil_div(pitch - 8, 32) * 32 + 8
    large = problem.capability in LARGE_SHARED
    stages, staged = (4, COLUMNS) if large else (3, COLUMNS // 2)
    slabs = ceil_div(stages - 1, max(rows.taps, 1)) + 1
    rings = (stages * rows.tile + slabs * pitch) * STEP_CHANNELS * problem.element
    stage = rows.outputs * (staged * rows.chunk * problem.summand + 32)
    return FusedRings(width, pitch, stages, slabs, staged), max(rings, stage)


def rounded_to_tf32(bits: Any) -> Any:
    """float32 to TF32, to nearest, ties away from zero, as words; NaN stays NaN."""
    finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    bits = bits + np.uint32(0x1000) * finite.astype(np.uint32) | np.uint32(0x400000) * nan.astype(np.uint32)
    return bits & np.uint32(0xFFFFE000)


def _tiles(call: Call, weights: str, rows: Rows) -> Tiles:
    each = len(call.steps) - 1 + max(rows.taps, 1)
    row_tiles = ceil_div(call.problem.outputs, rows.outputs) * ceil_div(rows.branches, rows.chunk)
    return Tiles(weights if rows.taps else "weight", rows, each, row_tiles, ceil_div(call.batch * each, COLUMNS))


def _write_tiles(call: Call, steps: Steps, tiles: Tiles, splits: int) -> None:
    problem, g, rows = call.problem, call.problem.geometry, tiles.rows
    rings, shared = rings_of(problem, rows)
    weights = problem.channels * problem.outputs * g.kernel_size  # of a group
    suffix = f"_{problem.arithmetic}" if problem.element == 4 else ""
    steps.launch(
        f"fused{rows.tile}{suffix}",
        (Pointer("x"), Pointer(tiles.weights), Pointer("bias"), Pointer("y"), Pointer("work")),
        Fused(
            signal=signal(call),
            channels=problem.channels,
            outputs=problem.outputs,
            groups=g.groups,
            samples=call.batch,
            stride=g.stride,
            rows=FusedRows(
                taps=rows.taps,
                branch0=rows.branch0,
                branches=rows.branches,
                chunk=rows.chunk,
                long_count=rows.long,
                per_long=_reciprocal(rows.long),
                per_rest=_reciprocal(rows.chunk - rows.long),
                most=rows.outputs,
            ),
            rings=rings,
            each=tiles.each,
            q_first=call.steps.start,
            output=output(call),
            row_tiles=tiles.row_tiles,
            column_tiles=tiles.column_tiles,
            splits=splits,
            by_rows=int(call.batch * problem.channels * call.length >= weights),  # the larger operand is read once
            blocks=splits * g.groups * tiles.row_tiles * tiles.column_tiles,
        ),
        threads=FUSED_THREADS,
        shared=shared,
    )


def _reciprocal(n: int) -> int:
    """What a row's number, at most 128, times this, is cut by 16 bits to be divided by n, at most 128."""
    return 65536 // max(n, 1) + 1


def _in_fragments(xp: Any, words: Any, rows: Rows, stride: int) -> Any:
    """Weights in the order in which the lanes of a warp hold them, as fused.cu says; zeros where there are none."""
    groups, channels, outputs, kernel_size = words.shape
    blocks, chunks = ceil_div(channels, STEP_CHANNELS), ceil_div(rows.branches, rows.chunk)
    tiles, most, taps = ceil_div(outputs, rows.outputs), rows.outputs, rows.taps
    # (group, channel, output, tap, branch)
    k = min(kernel_size, taps * stride)
    spread = xp.zeros((groups, channels, outputs, taps * stride), words.dtype)
    spread[..., :k] = words[..., :k]
    spread = spread.reshape(groups, channels, outputs, taps, stride)[..., rows.branch0 : rows.branch0 + rows.branches]
    padded = xp.zeros((groups, blocks * STEP_CHANNELS, tiles * most, taps, chunks * rows.chunk), words.dtype)
    padded[:, :channels, :outputs, :, : rows.branches] = spread
    # -> (group, channel, tile of outputs, chunk, tap, output, branch) -> (..., row)
    padded = padded.reshape(groups, -1, tiles, most, taps, chunks, rows.chunk).transpose(0, 1, 2, 5, 4, 3, 6)
    matrix = xp.zeros((*padded.shape[:5], rows.tile), words.dtype)
    row = 0
    for part in (padded[..., : rows.long], padded[..., rows.long :]):
        count = most * part.shape[-1]
        matrix[..., row : row + count] = part.reshape(*padded.shape[:5], count)
        row += ceil_div(count, 16) * 16
    split = groups, blocks, *((2, 2, 4) if words.itemsize == 4 else (4, 2, 2)), tiles, chunks, taps, -1, 2, 8
    order = (0, 5, 6, 1, 7, 2, 8, 10, 4, 3, 9) if words.itemsize == 4 else (0, 5, 6, 1, 7, 8, 10, 2, 3, 9, 4)
    return xp.ascontiguousarray(matrix.reshape(split).transpose(order))
