# SPDX-License-Identifier: MIT
"""winograd: three products for two columns and two taps, stored as columns, then interleaved.

F(2, 2), also known as a fast FIR filter. Per channel and row, with the taps a and b::

    column 2j     =  a x[2j]   + b x[2j-1]   =  (a + b) x[2j] + b (x[2j-1] - x[2j])
    column 2j+1   =  a x[2j+1] + b x[2j]     =  (a + b) x[2j] + a (x[2j+1] - x[2j])

A branch's taps are taken in such pairs, an odd one at the end as it is. Where taps lie d samples apart, so do the
samples of a pair: the columns of 2d samples, one of each residue class, are a set and stand side by side::

    samples   0 1 2 3 4 5 | 6 7 8 9 10 11 |        d = 3: column 0 is made of samples 0 and 3, column 1 of 1 and 4
    columns   0 1 2 0 1 2 | 3 4 5 3 4  5  |

It is up to 1.28 x faster than `direct` where
sums are long and samples are used often (a Zen 4, 2026-11).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ...arrays import widest_row
from ...geometry import MOST_RESIDUES, ceil_div
from .. import plan as parts
from ..machine import Machine
from ..plan import Plan, Refusal
from ..problem import Problem

name = "winograd"
MOST_TAPS = 64  # of a branch
FEWEST_CHANNELS = 4
RATIO = 4.0  # of the sizes of two taps of a pair, at most
consistent = False  # chunks of less than `short_samples` samples are multiplied as they are


def plan(problem: Problem, machine: Machine, forced: str = "") -> Plan | Refusal:
    tuning = machine.tuning
    cannot = unfit(problem, machine)
    if cannot:
        return Refusal(cannot)
    if forced != name:
        if problem.short and "winograd" not in forced:
            return Refusal("calls of few samples do not make up for its larger weights")
        estimated = gain(problem, machine)
        if estimated < tuning.winograd.gain:
            return Refusal(f"the estimated gain is {estimated:.2f}, less than {tuning.winograd.gain}")
    planes = planes_of(problem)
    found = parts.lay_out(
        name,
        problem,
        machine,
        rows=parts.block_rows(problem, machine, tuning.tile.direct_rows, planes),
        run=run(problem, machine),
        unit=machine.unit(problem.size),
        packed=packed(problem),
        alignment=2,
        residues=problem.step,
        planes=planes,
        own=(problem.taps,),
        ratio=ratio(forced),
        # a piece loads its long history again for each block: no wider than needs none, where that is wide enough
        most=whole_columns(problem, planes) if problem.step > 1 else None,
    )
    if (found.tile.widest + 64) * found.packing.rows * problem.size > parts.COLUMN_BYTES:
        return Refusal(f"the columns of {problem.step} residue classes do not fit into the workspace")
    return replace(found, consistent=False, multiplications=multiplications(problem))


def unfit(problem: Problem, machine: Machine) -> str:
    """Why there are no pairs of taps to multiply; empty if there are."""
    most = min(machine.tuning.winograd.taps, MOST_TAPS)
    if problem.plain:
        return "products are to be plain"
    if problem.step > MOST_RESIDUES:
        return f"the taps of a branch are {problem.step} input samples apart, more than {MOST_RESIDUES}"
    if problem.step > 1 and (problem.stride > 1 or problem.channels_last):
        return f"taps {problem.step} samples apart are taken in pairs for real outputs of stride 1, channels first"
    if not 2 <= problem.taps <= most:
        return f"a branch has {problem.taps} taps, not 2 to {most}"
    if problem.lacking:
        return "some rows of x lack a tap"
    return ""


def ratio(forced: str) -> float:
    """`Packing.ratio`: any for kernels that are asked for by name."""
    return math.inf if "winograd" in forced else RATIO


def products(taps: int) -> int:
    """Multiplications for a sample, a branch with so many taps and two columns."""
    return 3 * (taps // 2) + 2 * (taps % 2)


def weights(taps: int) -> int:
    """Packed weights for a channel and a branch with so many taps: a + b, b and a of each pair, and an odd one."""
    return 3 * (taps // 2) + taps % 2


def packed(problem: Problem) -> Callable[[int, int], int]:
    """`packed` of `plan.cut_blocks`."""
    long, others = problem.channels * weights(problem.taps), problem.channels * weights(problem.taps - 1)
    return lambda n, m: n * long + m * others


def planes_of(problem: Problem) -> int:
    """Rows of the tile for each row of x: x[2j], x[2j-1] - x[2j], x[2j+1] - x[2j]; x[2j+1] only for odd taps."""
    return 3 if problem.taps % 2 == 0 and problem.long == problem.count else 4


def run(problem: Problem, machine: Machine) -> int:
    """Columns for which the tile of x has its usual size: x is never read in place, so more of it may be in L2."""
    tuning, column = machine.tuning, problem.channels * planes_of(problem) * problem.size
    most = min(tuning.tile.x_columns // 2, tuning.tile.x_most_bytes // column)
    return int(max(tuning.winograd.x_bytes // column, most))


def whole_columns(problem: Problem, planes: int) -> int | None:
    """Columns of a tile that holds all channels; None if not even a set of them fits beside its history."""
    history = (ceil_div(problem.taps, 2) - 1) * problem.step
    columns = widest_row(parts.X_BYTES // (problem.channels * planes * problem.size)) - history
    return columns if columns >= problem.step else None


def multiplications(problem: Problem) -> float:
    """Multiplications made, as a part of those that the definition has."""
    others, taps = problem.count - problem.long, problem.taps
    made = problem.long * products(taps) + others * products(taps - 1)
    return made / (2 * (problem.long * taps + others * (taps - 1)))


def gain(problem: Problem, machine: Machine) -> float:
    """How much faster than plain products these are estimated to be.

    Where memory binds the alternative is slower; but the tile has to fit.
    """
    tuning = machine.tuning
    found = estimate(problem, machine)
    if parts.is_narrow(problem, machine) and tuning.winograd.narrow_gain is not None:
        size = problem.channels * 3 * tuning.tile.x_columns // 2 * problem.size
        found *= tuning.winograd.narrow_gain if size <= tuning.winograd.x_bytes else 0.5
    return found


def estimate(problem: Problem, machine: Machine, fused_rows: int = 0) -> float:
    """The gain from counting multiply-adds, with the interleave apart or (not 0) fused in register blocks of so many
    rows. 0.5 for sums so short that other costs decide, and for so few channels that one often outweighs the others.
    """
    costs = machine.tuning.winograd
    channels, taps = problem.channels, problem.taps
    if channels * ceil_div(taps, 2) < costs.depth or channels < FEWEST_CHANNELS:
        return 0.5
    long, others = problem.outputs * problem.long, problem.outputs * (problem.count - problem.long)
    odd = long if taps % 2 else others  # rows with an odd tap
    made: float = long * products(taps) + others * products(taps - 1)
    plain = channels * (long * taps + others * (taps - 1))
    if fused_rows:
        beside = costs.per_channel * channels
        if costs.load_bound:  # each sample's load is for `fused_rows` multiply-adds, each weight's for one
            made *= (1 + 1 / fused_rows) / (1 + 1 / 8)
    else:
        beside = costs.per_channel * channels + costs.per_row * (long + others)
        beside += costs.per_odd_row * (odd + channels * (odd > 0))
    if problem.step > 1:
        beside += costs.per_run * (channels + long)
    return float(plain / (channels * made / 2 + beside))
