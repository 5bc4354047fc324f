# SPDX-License-Identifier: MIT
"""rows: a time-major copy of the signal, and one product over its overlapping rows, through cuBLAS.

It moves 3X + 3Y bytes. For dilation 1, real types, few groups and some output channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...geometry import ceil_div
from .. import tuning
from ..problem import Call, Problem
from ..program import BATCH, Pointer, Steps, struct
from . import as_words, columns
from .common import NESTED, Output, output, signal

NAME = "rows"
#: Channels and times of one block of `pack` and `unpack`: SIDE and TIMES of rows.cu.
SIDE, TIMES = 32, 64

Pack = struct("Pack", "signal first samples each rows channels in_channels row_blocks channel_blocks blocks", **NESTED)
Unpack = struct(
    "Unpack",
    "each all_rows branches outputs groups stride q_first output u0 u1 u_blocks output_blocks blocks",
    output=Output,
)


class Matrices(NamedTuple):
    """The operands of one piece's products, in the workspace."""

    rows: int  # of the packed signal
    sums: int  # rows of sums
    products: int  # rows of each of the matrices that overlap
    packed: int  # where the packed signal begins


def unusable(problem: Problem) -> str:
    geometry, taps = problem.geometry, problem.branches.taps
    if geometry.dilation != 1:
        return f"the dilation is {geometry.dilation}, not 1"
    if problem.dtype.kind == "c":
        # CUBLAS_STATUS_NOT_SUPPORTED for some overlapping matrices in complex64 (cuBLAS 13, an H200, 2026-11)
        return "cuBLAS refuses some overlapping matrices of complex numbers"
    if geometry.groups > tuning.ROWS_GROUPS:
        return f"{geometry.groups} groups are more than {tuning.ROWS_GROUPS}"
    if taps > tuning.ROWS_TAPS:
        return f"{taps} taps of a branch are more than {tuning.ROWS_TAPS}"
    least = _row(problem) * (8 * taps + 64)
    if least > problem.workspace:
        return f"the rows need a workspace of at least {least} bytes, more than {problem.workspace}"
    return ""


def unprofitable(problem: Problem) -> str:
    if problem.channels == 1:
        return "a group has one input channel, so no sample is read twice"
    if columns.unusable(problem):
        return ""
    if problem.arithmetic not in ("float32", "3xtf32", "float16", "bfloat16"):
        return f"cuBLAS is slow at overlapping matrices in {problem.arithmetic}"
    if problem.outputs < tuning.ROWS_OUTPUTS:
        return f"{problem.outputs} output channels of a group are fewer than {tuning.ROWS_OUTPUTS}"
    moved, of_columns = _moved(problem), columns.moved(problem)
    if moved >= of_columns:
        return f"{moved} bytes are moved for an input sample, by columns {of_columns}"
    return ""


def form(problem: Problem) -> str:
    return "overlapping"


def arranged(xp: Any, weight: Any, problem: Problem) -> dict[str, Any]:
    """A row of the signal runs forward in time: its last sample meets tap 0."""
    branches, words = problem.branches, as_words(weight)
    words = words.reshape(problem.geometry.groups, problem.channels, problem.outputs, problem.geometry.kernel_size)
    found = {}
    for name, taps, branch0, branch1 in _halves(problem):
        k = np.arange(branch0, branch1) + branches.period * np.arange(taps - 1, -1, -1)[:, None]
        # (group, channel, output, tap, branch) -> (group, tap, channel, branch, output)
        picked = xp.ascontiguousarray(words[..., xp.asarray(k)].transpose(0, 3, 1, 4, 2))
        found[name] = picked.view(weight.dtype)
    return found


def write(call: Call, steps: Steps) -> None:
    problem, m, stride = call.problem, call.problem.branches.taps, call.problem.geometry.stride
    most = problem.workspace // _row(problem) - 3 * m  # the product's rows are rounded up
    whole = len(call.steps) + m - 1
    if whole <= most:
        samples, positions = min(call.batch, most // whole), call.positions
    else:
        samples, positions = 1, (most - m) * stride
    for piece in call.pieces(samples, positions):
        _write_piece(call, steps, *piece)


def _row(problem: Problem) -> int:
    """Bytes of workspace for a row of the packed signal and its sums."""
    geometry = problem.geometry
    return geometry.in_channels * problem.element + problem.branches.count * geometry.out_channels * problem.summand


def _moved(problem: Problem) -> int:
    """Bytes that are moved for an input sample, beside those of the output."""
    geometry = problem.geometry
    sums = problem.branches.count * geometry.out_channels * problem.summand
    return 3 * geometry.in_channels * problem.element + 2 * sums


def _halves(problem: Problem) -> list[tuple[str, int, int, int]]:
    """The long branches and the others: the buffer of their weights, taps, and the first and past-last branch.

    The others have a product of their own, a row further on. With zeros in the place of their last tap, a NaN or inf of
    x would turn into more NaN than the definition has.
    """
    branches = problem.branches
    found = [("weight", branches.taps, 0, branches.long)]
    if branches.long < branches.count:
        found.append(("rest", branches.taps - 1, branches.long, branches.count))
    return found


def _write_piece(call: Call, steps: Steps, samples: range, positions: range) -> None:
    """One piece.

    With m taps of a branch, row a of sample n holds x~ at q - (m - 1) for the piece's step q = a; the sums of step q
    multiply rows a ... a + m - 1, which lie side by side. Every m-th such stretch is a row of one matrix, and m
    matrices, each a row further on, hold them all.
    """
    problem, g, m = call.problem, call.problem.geometry, call.problem.branches.taps
    q_first, q_last = positions.start // g.stride, (positions.stop - 1) // g.stride
    each = q_last - q_first + m  # rows of a sample
    products = ceil_div(len(samples) * each - (m - 1), m)
    rows, sums = m * products + m - 1, m * products
    packed = steps.reserve(0, g.groups * sums * problem.branches.count * problem.outputs * problem.summand)
    steps.reserve(packed, g.groups * rows * problem.channels * problem.element)
    row_blocks, channel_blocks = ceil_div(rows, TIMES), ceil_div(problem.channels, SIDE)
    steps.launch(
        "pack",
        (Pointer("x", samples.start * g.in_channels * call.length * problem.element), Pointer("work", packed)),
        Pack(
            signal=signal(call),
            first=q_first - (m - 1),
            samples=len(samples),
            each=each,
            rows=rows,
            channels=problem.channels,
            in_channels=g.in_channels,
            row_blocks=row_blocks,
            channel_blocks=channel_blocks,
            blocks=g.groups * row_blocks * channel_blocks,
        ),
    )
    _write_products(problem, steps, Matrices(rows, sums, products, packed))
    u_blocks, output_blocks = ceil_div(len(positions), TIMES), ceil_div(problem.outputs, SIDE)
    y = Pointer("y", samples.start * g.out_channels * call.positions * problem.element)
    steps.launch(
        "unpack",
        (Pointer("work"), Pointer("bias"), y),
        Unpack(
            each=each,
            all_rows=sums,
            branches=problem.branches.count,
            outputs=problem.outputs,
            groups=g.groups,
            stride=g.stride,
            q_first=q_first,
            output=output(call),
            u0=positions.start,
            u1=positions.stop,
            u_blocks=u_blocks,
            output_blocks=output_blocks,
            blocks=len(samples) * g.groups * u_blocks * output_blocks,
        ),
    )


def _write_products(problem: Problem, steps: Steps, matrices: Matrices) -> None:
    rows, sums, products, packed = matrices
    m, count = problem.branches.taps, problem.branches.count
    for buffer, taps, branch0, branch1 in _halves(problem):
        for group in range(problem.geometry.groups):
            n, k = (branch1 - branch0) * problem.outputs, taps * problem.channels
            at = (group * rows + m - taps) * problem.channels
            out = (group * sums * count + branch0) * problem.outputs
            for r in range(0, m, BATCH):
                steps.product(
                    *(n, products, k, False),
                    *(Pointer(buffer, group * n * k * problem.element), n, 0),
                    Pointer("work", packed + (at + r * problem.channels) * problem.element),
                    *(m * problem.channels, problem.channels),
                    Pointer("work", (out + r * count * problem.outputs) * problem.summand),
                    *(m * count * problem.outputs, count * problem.outputs),
                    min(BATCH, m - r),
                )
