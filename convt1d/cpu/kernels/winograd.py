# SPDX-License-Identifier: MIT
"""winograd: three products for two columns and two taps, four for three taps, stored as columns, then interleaved.

F(2, 2), also known as a fast FIR filter. Per channel and row, with the taps a and b::

    column 2j     =  a x[2j]   + b x[2j-1]   =  (a + b) x[2j] + b (x[2j-1] - x[2j])
    column 2j+1   =  a x[2j+1] + b x[2j]     =  (a + b) x[2j] + a (x[2j+1] - x[2j])

F(2, 3), with the taps a, b and c::

    column 2j     =  s + t + c (x[2j-2] - x[2j])      s = (x[2j-1] + x[2j]) (a + b + c) / 2
    column 2j+1   =  s - t + a (x[2j+1] - x[2j-1])    t = (x[2j-1] - x[2j]) (b - a - c) / 2

A branch's taps are taken in pairs. The last three of an odd number are a triple where all branches have as many, else
the last one is taken as it is. Where taps lie d samples apart, so do the samples of a pair: the columns of 2d samples,
one of each residue class, are a set and stand side by side::

    samples   0 1 2 3 4 5 | 6 7 8 9 10 11 |        d = 3: column 0 is made of samples 0 and 3, column 1 of 1 and 4
    columns   0 1 2 0 1 2 | 3 4 5 3 4  5  |

It is up to 1.28 x faster than `direct` where sums are long and samples are used often (a Zen 4, 2026-11), with triples
1.1 to 1.26 x from 96 channels on (a Sapphire Rapids, 2026-11).
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
PAIRS, SINGLES, TRIPLES, ONLY_TRIPLES = range(4)  # the planes that `pair` of load.inc makes
PLANES = 3, 4, 6, 4
NARROW = 64  # columns of a narrow tile and their history
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
    kind = kind_of(problem)
    planes, triples = PLANES[kind], kind in (TRIPLES, ONLY_TRIPLES)
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
        taps=pair_columns(problem),
        beside=(1 + triples) * machine.rows,
        own=(problem.taps, kind),
        ratio=ratio(forced),
        apart=1 + triples,
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


def kind_of(problem: Problem) -> int:
    """The planes that a tile has for each row of x.

    Three taps at once only where all branches have the same odd number, so that both columns' outputs sum over the
    x[2j-1] and x[2j] of each pair; and, beside pairs, where the planes of all channels fit into the workspace.
    """
    if problem.long == problem.count and problem.taps % 2:
        kind = ONLY_TRIPLES if problem.taps == 3 else TRIPLES
        if problem.channels * PLANES[kind] * NARROW * problem.size <= parts.X_BYTES or kind == ONLY_TRIPLES:
            return kind
    return SINGLES if problem.taps % 2 or problem.long < problem.count else PAIRS


def taps_of(kind: int, taps: int) -> tuple[int, int, int]:
    """Pairs, triples and single taps of a branch."""
    triples = int(kind in (TRIPLES, ONLY_TRIPLES))
    return taps // 2 - triples, triples, 0 if triples else taps % 2


def ratio(forced: str) -> float:
    """`Packing.ratio`: any for kernels that are asked for by name."""
    return math.inf if "winograd" in forced else RATIO


def products(kind: int, taps: int) -> int:
    """Multiplications for a sample, a branch with so many taps and two columns."""
    pairs, triples, singles = taps_of(kind, taps)
    return 3 * pairs + 4 * triples + 2 * singles


def weights(kind: int, taps: int) -> int:
    """Packed weights for a channel and a branch with so many taps: three of each pair, five of a triple."""
    pairs, triples, singles = taps_of(kind, taps)
    return 3 * pairs + 5 * triples + singles


def packed(problem: Problem) -> Callable[[int, int], int]:
    """`packed` of `plan.cut_blocks`."""
    kind, taps = kind_of(problem), problem.taps
    long, others = problem.channels * weights(kind, taps), problem.channels * weights(kind, taps - 1)
    return lambda n, m: n * long + m * others


def pair_columns(problem: Problem) -> int:
    """Columns that a branch's taps reach over."""
    return ceil_div(problem.taps, 2) if kind_of(problem) == SINGLES else problem.taps // 2


def run(problem: Problem, machine: Machine) -> int:
    """Columns for which the tile of x has its usual size: x is never read in place, so more of it may be in L2."""
    tuning, column = machine.tuning, problem.channels * PLANES[kind_of(problem)] * problem.size
    most = min(tuning.tile.x_columns // 2, tuning.tile.x_most_bytes // column)
    return int(max(tuning.winograd.x_bytes // column, most))


def whole_columns(problem: Problem, planes: int) -> int | None:
    """Columns of a tile that holds all channels; None if not even a set of them fits beside its history."""
    history = (pair_columns(problem) - 1) * problem.step
    columns = widest_row(parts.X_BYTES // (problem.channels * planes * problem.size)) - history
    return columns if columns >= problem.step else None


def multiplications(problem: Problem) -> float:
    """Multiplications made, as a part of those that the definition has."""
    others, taps, kind = problem.count - problem.long, problem.taps, kind_of(problem)
    made = problem.long * products(kind, taps) + others * products(kind, taps - 1)
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
    channels, taps, kind = problem.channels, problem.taps, kind_of(problem)
    if channels * ceil_div(taps, 2) < costs.depth or channels < FEWEST_CHANNELS:
        return 0.5
    long, others = problem.outputs * problem.long, problem.outputs * (problem.count - problem.long)
    odd = long if taps % 2 else others  # rows with a triple or a single tap
    made: float = long * products(kind, taps) + others * products(kind, taps - 1)
    plain = channels * (long * taps + others * (taps - 1))
    if fused_rows:
        beside = costs.per_channel * channels
        if costs.load_bound:  # each sample's load is for `fused_rows` multiply-adds, each weight's for one
            made *= (1 + 1 / fused_rows) / (1 + 1 / 8)
    else:
        beside = costs.per_channel * channels + costs.per_row * (long + others)
        beside += costs.per_odd_row * (0, odd + channels, 2 * odd + channels, odd)[kind]
    if problem.step > 1:
        beside += costs.per_run * (channels + long) * (3 if kind == TRIPLES else 1)
    return float(plain / (channels * made / 2 + beside))
