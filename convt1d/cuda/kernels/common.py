# SPDX-License-Identifier: MIT
"""The parameter structs that several kernels share, as common.cuh has them."""

from __future__ import annotations

from typing import Any

from ...geometry import PADDING_MODES
from ..problem import Call, Problem
from ..program import struct

#: `Mode` of common.cuh: zeros outside the signal. A mode's number is its place in PADDING_MODES.
ZEROS = PADDING_MODES.index("zeros")

Signal = struct("Signal", "length mode")
Branches = struct("Branches", "kernel stride dilation divisor inverse period step taps long_count")
Output = struct("Output", "channels start positions")

#: The same by the names of the fields that hold them.
NESTED = {"signal": Signal, "branches": Branches, "output": Output}


def signal(call: Call) -> Any:
    return Signal(call.length, PADDING_MODES.index(call.problem.geometry.padding_mode))


def branches(problem: Problem) -> Any:
    """Which taps reach which phase."""
    g, found = problem.geometry, problem.branches
    inverse = pow(found.step, -1, found.period) if found.period > 1 else 0
    return Branches(
        *(g.kernel_size, g.stride, g.dilation, g.stride // found.period, inverse),
        *(found.period, found.step, found.taps, found.long),
    )


def output(call: Call) -> Any:
    return Output(call.problem.geometry.out_channels, call.start, call.positions)
