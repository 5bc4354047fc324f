# SPDX-License-Identifier: MIT
"""direct: each output reads its own inputs. For groups of one input channel (depthwise).

It moves X + Y bytes, X and Y being those of input and output. It needs no workspace, so it also takes what would not
fit into one.
"""

from __future__ import annotations

from typing import Any

from ...geometry import ceil_div
from .. import tuning
from ..problem import Call, Problem
from ..program import THREADS, Pointer, Steps, struct
from .common import NESTED, branches, output, signal

NAME = "direct"
#: Taps of a branch whose weights wait in registers, one kernel for each number.
CAPACITIES = (4, 8, 16)

Direct = struct(
    "Direct",
    "signal channels outputs branches output q_first q_past span spans lanes lane_blocks reach blocks",
    **NESTED,
)


def unusable(problem: Problem) -> str:
    return ""


def unprofitable(problem: Problem) -> str:
    if problem.channels > 1:
        return f"a group has {problem.channels} input channels, which each output channel would read again"
    return ""


def form(problem: Problem) -> str:
    return ""


def arranged(xp: Any, weight: Any, problem: Problem) -> dict[str, Any]:
    return {"weight": xp.ascontiguousarray(weight)}


def write(call: Call, steps: Steps) -> None:
    problem, g = call.problem, call.problem.geometry
    lanes = min(g.stride, THREADS)
    lane_blocks = ceil_div(g.stride, lanes)
    rows = call.batch * g.out_channels * lane_blocks
    span = span_of(rows, len(call.steps), THREADS // lanes)
    spans = ceil_div(len(call.steps), span)
    fits = [capacity for capacity in CAPACITIES if capacity >= problem.branches.taps]
    steps.launch(
        f"direct{fits[0]}" if fits and problem.channels == 1 else "direct",
        (Pointer("x"), Pointer("weight"), Pointer("bias"), Pointer("y")),
        Direct(
            signal=signal(call),
            channels=problem.channels,
            outputs=problem.outputs,
            branches=branches(problem),
            output=output(call),
            q_first=call.steps.start,
            q_past=call.steps.stop,
            span=span,
            spans=spans,
            lanes=lanes,
            lane_blocks=lane_blocks,
            reach=g.dilation * (g.kernel_size - 1) // g.stride,
            blocks=rows * spans,
        ),
    )


def span_of(rows: int, steps: int, along: int) -> int:
    """Steps that a block takes in turn, `along` at a time: many, as the indices cost as much as several outputs, while
    blocks are enough."""
    for turns in (32, 16, 8, 4, 2):
        if rows * ceil_div(steps, along * turns) >= tuning.DIRECT_BLOCKS:
            return along * turns
    return along
