# SPDX-License-Identifier: MIT
"""The parameter structs that several kernels share, as common.cuh has them."""

from __future__ import annotations

from typing import NamedTuple

from ...geometry import PADDING_MODES
from ..problem import Call, Problem

#: `Mode` of common.cuh: nothing but zeros outside the signal.
ZEROS = PADDING_MODES.index("zeros")


class Signal(NamedTuple):
    length: int
    mode: int  # how it continues outside [0, length): its place in PADDING_MODES


class Branches(NamedTuple):
    kernel: int
    stride: int
    dilation: int
    divisor: int  # gcd(stride, dilation)
    inverse: int  # of `step` modulo `period`
    period: int
    step: int
    taps: int
    long_count: int  # the first so many branches have `taps` taps, the others one less


class Output(NamedTuple):
    channels: int
    start: int
    positions: int


def signal(call: Call) -> Signal:
    return Signal(call.length, PADDING_MODES.index(call.problem.geometry.padding_mode))


def branches(problem: Problem) -> Branches:
    """Which taps reach which phase."""
    g, found = problem.geometry, problem.branches
    inverse = pow(found.step, -1, found.period) if found.period > 1 else 0
    return Branches(
        *(g.kernel_size, g.stride, g.dilation, g.stride // found.period, inverse),
        *(found.period, found.step, found.taps, found.long),
    )


def output(call: Call) -> Output:
    return Output(call.problem.geometry.out_channels, call.start, call.positions)
