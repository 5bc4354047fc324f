# SPDX-License-Identifier: MIT
"""fused_winograd: Winograd's three products and the interleave in registers.

It is 1.05 to 1.3 x faster than `winograd` for 64 to 512 channels, and than `fused` from 32 channels on (a Zen 4 and a
Sapphire Rapids, 2026-11). All branches of an output need the same, even number of taps, and a register block 32
registers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...arrays import leading_dimension
from .. import plan as parts
from ..machine import Machine
from ..plan import Plan, Refusal
from ..problem import Problem
from . import fused, winograd

name = "fused_winograd"
consistent = winograd.consistent


def plan(problem: Problem, machine: Machine, forced: str = "") -> Plan | Refusal:
    tuning = machine.tuning
    cannot = unfit(problem, machine)
    if cannot:
        return Refusal(cannot)
    if forced != name:
        if problem.short and "winograd" not in forced:
            return Refusal("calls of few samples do not make up for its larger weights")
        estimated, least = gain(problem, machine), max(winograd.gain(problem, machine), tuning.winograd.fused_gain)
        if estimated < least:
            return Refusal(f"the estimated gain is {estimated:.2f}, less than {least:.2f}")
    # x of a vector of columns is read from L1, and all of a block's weights from L2
    each, unit = (
        problem.channels * winograd.weights(winograd.PAIRS, problem.taps) * problem.size,
        machine.lanes(problem.size),
    )
    rows = int(np.clip(tuning.winograd.fused_block_bytes // each, machine.rows, tuning.tile.block_rows))
    found = parts.lay_out(
        name,
        problem,
        machine,
        rows=(rows, rows),
        run=min(tuning.winograd.fused_columns, winograd.run(problem, machine)),
        unit=unit,
        packed=winograd.packed(problem),
        alignment=2,
        planes=3,
        taps=problem.taps // 2,
        stored=1,
        beside=machine.rows,
        # sums do not go on from piece to piece: no wider than needs none
        most=max(unit, parts.X_BYTES // (problem.channels * 3 * problem.size) - leading_dimension(problem.taps // 2)),
        own=(problem.taps, winograd.PAIRS),
        ratio=winograd.ratio(forced),
        apart=1,
        edge=tuning.winograd.edge_columns,
    )
    return replace(found, consistent=False, multiplications=winograd.multiplications(problem))


def unfit(problem: Problem, machine: Machine) -> str:
    """Why register blocks cannot hold these products; empty if they can."""
    cannot = winograd.unfit(problem, machine) or fused.unfit(problem, machine)
    if cannot:
        return cannot
    if machine.rows < 8:
        return "the instruction set has no 32 registers"
    if problem.step > 1:
        return f"the taps of a branch are {problem.step} input samples apart, not 1"
    if problem.long < problem.count or problem.taps % 2:
        return "not all branches have the same, even number of taps"
    narrowest = machine.lanes(problem.size) + leading_dimension(problem.taps)
    if problem.channels * 3 * narrowest * problem.size > parts.X_BYTES:
        return "x does not fit into the workspace at once"
    return ""


def gain(problem: Problem, machine: Machine) -> float:
    """The estimated gain over other sums in registers; 0.5 where x and weights would leave L1."""
    tuning = machine.tuning.winograd
    rows = machine.fused_rows(problem.stride, problem.outputs)
    whole = problem.taps == 2 and rows == machine.rows
    deepest = tuning.fused_depth_of_whole if whole else tuning.fused_depth
    found = winograd.estimate(problem, machine, rows)
    return min(found, 0.5) if problem.channels * problem.taps // 2 > deepest else found
