# SPDX-License-Identifier: MIT
"""columns: one product of every tap with every sample, through cuBLAS, then an interleave (col2im). Any geometry.

It moves X + (2m + 1) Y bytes, m being the taps of a branch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...geometry import Geometry, ceil_div
from ..problem import Call, Problem
from ..program import BATCH, LARGEST, THREADS, Pointer, Steps, struct
from .common import NESTED, ZEROS, Signal, branches, output, signal

NAME = "columns"
#: Outputs of one block of the interleave: TILE of columns.cu.
TILE = 2048

Extend = struct("Extend", "signal first width leading_dimension pieces blocks", **NESTED)
Part = struct("Part", "groups outputs group0 output0 u0 u1")
Interleave = struct(
    "Interleave",
    "signal first leading_dimension branches part outputs output q_first q_blocks r_blocks log_steps log_phases blocks",
    part=Part,
    **NESTED,
)


class Cut(NamedTuple):
    """The largest piece of a call whose columns are held at a time."""

    samples: int
    groups: int
    outputs: int  # of each group
    positions: int  # output samples


class Piece(NamedTuple):
    samples: range
    positions: range
    groups: range
    outputs: range  # of each group

    @property
    def signals(self) -> int:
        """Pairs of sample and group."""
        return len(self.samples) * len(self.groups)


class Source(NamedTuple):
    """Where a piece's columns read the signal."""

    pointer: Pointer
    stride: int  # elements from one channel to the next


def unusable(problem: Problem) -> str:
    geometry = problem.geometry
    column = geometry.kernel_size * problem.summand + geometry.in_channels * problem.element
    least = column * (2 * halo(geometry) + 64)
    if least > problem.workspace:
        return f"the columns need a workspace of at least {least} bytes, more than {problem.workspace}"
    return ""


def unprofitable(problem: Problem) -> str:
    if problem.channels == 1:
        return "a group has one input channel, so no sample is read twice"
    return ""


def form(problem: Problem) -> str:
    return ""


def arranged(xp: Any, weight: Any, problem: Problem) -> dict[str, Any]:
    return {"weight": xp.ascontiguousarray(weight)}


def moved(problem: Problem) -> int:
    """Bytes that are moved for an input sample, beside those of the output."""
    geometry = problem.geometry
    return geometry.in_channels * problem.element + 2 * geometry.kernel_size * geometry.out_channels * problem.summand


def halo(geometry: Geometry) -> int:
    """Columns that a stretch of the output needs beyond its own steps."""
    return geometry.dilation * (geometry.kernel_size - 1) // geometry.stride + 1


def cut(call: Call) -> Cut:
    """Pieces that keep to the workspace: whole samples, or a stretch of one, or of some of its channels."""
    problem, g = call.problem, call.problem.geometry
    workspace, groups, outputs = problem.workspace, g.groups, problem.outputs
    column, sample = g.kernel_size * problem.summand, g.in_channels * problem.element
    reach = halo(g)
    margin = reach + 16  # what a piece needs beyond its steps; rows of columns are rounded up
    whole = len(call.steps) + margin
    each = whole * (column * g.out_channels + sample)
    if each <= workspace:
        return Cut(min(call.batch, workspace // each, BATCH), groups, outputs, call.positions)
    # a stretch so long that computing its halo again costs little, for as many channels as fit
    channels = max(1, (workspace // min(whole, 8 * reach + 1024) - sample) // column)
    if channels < outputs:
        groups, outputs = 1, channels
    else:
        groups = min(groups, channels // outputs, BATCH)
    count = min(whole, workspace // (column * groups * outputs + sample))
    return Cut(1, groups, outputs, min(call.positions, (count - margin) * g.stride))


def write(call: Call, steps: Steps) -> None:
    most, groups, outputs = cut(call), call.problem.geometry.groups, call.problem.outputs
    for samples, positions in call.pieces(most.samples, most.positions):
        for g0 in range(0, groups, most.groups):
            for o0 in range(0, outputs, most.outputs):
                piece = Piece(
                    *(samples, positions, range(g0, min(g0 + most.groups, groups))),
                    range(o0, min(o0 + most.outputs, outputs)),
                )
                _write_piece(call, steps, piece)


def _write_piece(call: Call, steps: Steps, piece: Piece) -> None:
    """Columns of some input positions, and the output samples that they make."""
    problem, needed = call.problem, _needed(call, piece)
    leading_dimension = ceil_div(len(needed), 8) * 8
    rows = piece.signals * len(piece.outputs) * problem.geometry.kernel_size
    used = steps.reserve(0, rows * leading_dimension * problem.summand)
    source = _source(call, steps, piece, needed, leading_dimension, used)
    mode = signal(call).mode
    if (needed.start, needed.stop, source.stride) != (0, call.length, call.length):
        mode = ZEROS  # all that is needed is in the columns
    if needed:
        _write_products(call, steps, piece, len(needed), leading_dimension, source)
    _write_interleave(call, steps, piece, Signal(len(needed), mode), needed.start, leading_dimension)


def _needed(call: Call, piece: Piece) -> range:
    """The input positions whose columns a piece needs."""
    g, length, (u0, past) = call.problem.geometry, call.length, (piece.positions.start, piece.positions.stop)
    first = -((g.dilation * (g.kernel_size - 1) - u0) // g.stride)  # the first input that reaches u0, rounded up
    stop = (past - 1) // g.stride + 1
    if g.padding_mode == "zeros":
        first, stop = min(max(first, 0), length), min(max(stop, 0), length)
        return range(first, max(first, stop))
    if (first < 0 or stop > length) and length <= min(stop - first, LARGEST) and past - u0 == call.positions:
        return range(length)  # the columns of the whole signal, which the interleave continues
    return range(first, stop)


def _source(call: Call, steps: Steps, piece: Piece, needed: range, leading_dimension: int, used: int) -> Source:
    """The signal itself where it holds all that is needed; else a stretch in the workspace, from `used` on."""
    problem, channels = call.problem, call.problem.geometry.in_channels
    start = piece.samples.start * channels * call.length * problem.element
    if needed.start >= 0 and needed.stop <= call.length and call.length <= LARGEST:
        return Source(Pointer("x", start + needed.start * problem.element), call.length)
    pieces = ceil_div(leading_dimension, THREADS)
    steps.launch(
        "extend",
        (Pointer("x", start), Pointer("work", used)),
        Extend(
            signal=signal(call),
            first=needed.start,
            width=len(needed),
            leading_dimension=leading_dimension,
            pieces=pieces,
            blocks=len(piece.samples) * channels * pieces,
        ),
    )
    steps.reserve(used, len(piece.samples) * channels * leading_dimension * problem.element)
    return Source(Pointer("work", used), leading_dimension)


def _write_products(call: Call, steps: Steps, piece: Piece, count: int, leading_dimension: int, source: Source) -> None:
    """columns (n, group, o, k, i) = sum over c of weight (group, c, o, k) * source (n, group, c, i)"""
    problem, kernel = call.problem, call.problem.geometry.kernel_size
    rows = len(piece.outputs) * kernel
    of_sample, of_group = problem.geometry.in_channels * source.stride, problem.channels * source.stride
    weights = problem.channels * problem.outputs * kernel  # of a group
    along_samples = of_sample, 0, len(piece.groups) * rows * leading_dimension
    along_groups = of_group, weights, rows * leading_dimension
    # the batch of a product runs over samples or over groups, whichever are more; the loop over the others
    if len(piece.groups) >= len(piece.samples) > 0 and len(piece.groups) > 1:
        outer, inner, outer_step, inner_step = len(piece.samples), len(piece.groups), along_samples, along_groups
    else:
        outer, inner, outer_step, inner_step = len(piece.groups), len(piece.samples), along_groups, along_samples
    of_source = source.pointer.offset + piece.groups.start * of_group * problem.element
    of_weights = (piece.groups.start * weights + piece.outputs.start * kernel) * problem.element
    for j in range(outer):
        for i in range(0, inner, BATCH):
            at = [j * a + i * b for a, b in zip(outer_step, inner_step, strict=True)]
            steps.product(
                *(count, rows, problem.channels, True),
                Pointer(source.pointer.buffer, of_source + at[0] * problem.element),
                *(source.stride, inner_step[0]),
                Pointer("weight", of_weights + at[1] * problem.element),
                *(problem.outputs * kernel, inner_step[1]),
                Pointer("work", at[2] * problem.summand),
                *(leading_dimension, inner_step[2]),
                min(BATCH, inner - i),
            )


def _write_interleave(
    call: Call, steps: Steps, piece: Piece, continued: Any, first: int, leading_dimension: int
) -> None:
    problem, g = call.problem, call.problem.geometry
    u0, u1 = piece.positions.start, piece.positions.stop
    log_phases = min(5, (g.stride - 1).bit_length())
    log_steps = TILE.bit_length() - 1 - log_phases
    q_first, q_last = u0 // g.stride, (u1 - 1) // g.stride
    q_blocks, r_blocks = ceil_div(q_last - q_first + 1, 1 << log_steps), ceil_div(g.stride, 1 << log_phases)
    y = Pointer("y", piece.samples.start * g.out_channels * call.positions * problem.element)
    steps.launch(
        "interleave",
        (Pointer("work"), Pointer("bias"), y),
        Interleave(
            signal=continued,
            first=first,
            leading_dimension=leading_dimension,
            branches=branches(problem),
            part=Part(len(piece.groups), len(piece.outputs), piece.groups.start, piece.outputs.start, u0, u1),
            outputs=problem.outputs,
            output=output(call),
            q_first=q_first,
            q_blocks=q_blocks,
            r_blocks=r_blocks,
            log_steps=log_steps,
            log_phases=log_phases,
            blocks=piece.signals * len(piece.outputs) * r_blocks * q_blocks,
        ),
    )
