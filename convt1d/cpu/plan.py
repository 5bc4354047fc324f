# SPDX-License-Identifier: MIT
"""What a kernel decides: blocks of packed weights, the tile, and how one call is cut into tiles.

    problem.py + machine.py  ->  kernels.choose  ->  Plan = Packing + Columns + Tile       once per layer and type
    Plan + batch and length  ->  cut             ->  Tiling                                once per shape

Everything here is a pure function, but for two variables that force a choice: CONVT1D_KERNEL names a kernel, or is
"plain", and CONVT1D_TILE sets the columns of a tile. Only this file reads them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..arrays import leading_dimension
from ..geometry import ceil_div
from .machine import Machine
from .problem import Problem
from .tuning import BatchTuning

# Workspace of one thread, in bytes; of it, the tile of x and its columns. What else it holds is small, see `Workspace`.
WORKSPACE = 2 * 1024 * 1024
X_BYTES = 1024 * 1024
COLUMN_BYTES = 768 * 1024
SMALL_BYTES = 128 * 1024
BEYOND = 32  # numbers beyond a row's end that a microkernel may read: two vectors

PLAIN = "plain"  # the value of CONVT1D_KERNEL for any kernel that adds up neither taps nor samples

#: `Tile.in_place`: which tiles of x are read where they lie.
NEVER, WHOLE_TILES, PARTS = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Where the columns of each branch belong in the output: an entry for each branch and step of a column."""

    branch: np.ndarray
    step: np.ndarray  # input step of the column: 0 .. alignment - 1
    position: np.ndarray  # of column 0, in real numbers
    chunk: int  # branches of one weight block at most
    runs: int  # runs of entries of a block
    consecutive: bool = False  # the entries of each block, or of each run of it, lie side by side in the output


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """How weights are packed. Equal packings may share the packed weights."""

    compiled: str  # the compiled kernel that packs, loads and multiplies
    blocks: np.ndarray  # per block: first output, outputs, first entry, past entry, first branch, past branch, offset
    group_size: int  # packed numbers of one group
    piece_channels: int  # the tile of x is loaded in pieces of so many channels at most
    piece_taps: int  # ... and so many taps
    taps: int  # of a long branch, as the tile loop counts them
    planes: int  # rows of the tile for each row of x
    rows: int  # rows of columns that a block needs
    own: tuple[int, ...] = ()  # numbers that only this kernel reads, as its .pxd lists them
    apart: int = 0  # more rows, of what is kept apart, see kernels/winograd.pxd
    calls_blas: bool = False  # SciPy's BLAS is loaded with the first kernel that does
    ratio: float = 0.0  # of the sizes of taps that the kernel adds up, at most; 0: it adds none

    def same(self, other: Packing) -> bool:
        """Whether weights packed for one serve the other."""
        return np.array_equal(self.blocks, other.blocks) and all(
            getattr(self, name) == getattr(other, name) for name in ("compiled", "piece_channels", "piece_taps", "own")
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """Columns of a tile, and how it is read and written."""

    target: int  # columns that a tile aims at
    widest: int  # ... and has at most
    unit: int  # columns of a register block
    vector: int  # numbers in a vector
    in_place: int = NEVER
    edge: int | None = None  # columns that the edge buffer holds; None: all of a tile
    nontemporal: bool = False  # large outputs may be stored past the caches


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Kernel, weight blocks and tile of a layer: all that does not depend on the input's length."""

    kernel: str
    problem: Problem
    packing: Packing
    columns: Columns
    tile: Tile
    alignment: int = 1  # input steps of a column
    residues: int = 1  # residue classes of samples within which pairs are taken; columns come in sets of so many
    consistent: bool = True  # the bits do not depend on the batch and on how a signal is cut into calls
    multiplications: float = 1.0  # made, as a part of those that the definition has
    refused: Mapping[str, str] = field(default_factory=dict)  # kernels preferred to this one, and why each refused

    @property
    def repeat(self) -> int:
        """Input steps of a set of columns: a window should begin with a multiple of it."""
        return self.alignment * self.residues

    def left(self, start: int, origin: int = 0) -> int:
        """The output position, as `cut` counts them, of output sample `start` of a window that begins `origin` input
        steps after a set of columns."""
        return start + self.problem.reach + origin * self.problem.stride // self.problem.parts


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a kernel does not take a problem."""

    reason: str


class Kernel(Protocol):
    """A module of kernels/: what Python knows of one kernel."""

    name: str
    consistent: bool

    def plan(self, problem: Problem, machine: Machine, forced: str = "") -> Plan | Refusal:
        """The plan, or why there is none. `forced` names a kernel that is to be used whether it pays or not."""


# ---- parts of a plan ----------------------------------------------------------------------------------------------


def columns_of(problem: Problem, machine: Machine, alignment: int = 1, residues: int = 1) -> Columns:
    """One entry for each branch and step, in the order in which they stand in the output if a block holds them all."""
    count, stride = problem.count, problem.stride * alignment * residues
    chunk = min(count, machine.tuning.tile.block_rows)
    branch = np.tile(np.arange(count, dtype=np.int64), alignment)
    step = np.repeat(np.arange(alignment, dtype=np.int64), count)
    position = problem.dilation * (branch // problem.parts) + branch % problem.parts
    position += step * problem.stride * residues
    runs = 1
    if chunk == count:
        order = np.argsort(position % stride, kind="stable")
    else:  # block by block, the entries of step 0, then those of step 1
        order, runs = np.lexsort((np.arange(branch.size), branch // chunk)), alignment
    return Columns(branch[order], step[order], position[order], chunk, runs)


def are_consecutive(columns: Columns, blocks: np.ndarray, stride: int) -> bool:
    """Whether the entries of each block, or of each run of it, lie side by side in the output."""
    phases = columns.position % stride
    return all(
        bool((np.diff(run) == 1).all())
        for first, past in {(first, past) for _, _, first, past, *_ in blocks.tolist()}
        for run in np.split(phases[first:past], columns.runs)
    )


def cut_blocks(
    problem: Problem,
    machine: Machine,
    columns: Columns,
    most: int,
    limit: int,
    packed: Callable[[int, int], int],
    alignment: int = 1,
) -> tuple[np.ndarray, int, int]:
    """Weight blocks: several outputs with all their branches, or one output with some of them.

    Both kinds of rows, of long branches and of the others, should fill register blocks.

    Parameters
    ----------
    most, limit : int
        Rows of a block: about so many, and at most.
    packed : callable
        Packed numbers of so many long branches and so many others of one output.

    Returns
    -------
    blocks : ndarray
        As `Packing.blocks`.
    group_size : int
    rows : int
        Of the largest block.
    """
    chunk = columns.chunk
    even = machine.rows // math.gcd(machine.rows, chunk, problem.long)
    together = min(max(1, most // chunk // even) * even, max(1, limit // chunk), problem.outputs)
    blocks, offset = [], 0
    for first in range(0, problem.outputs, together):
        width = min(together, problem.outputs - first)
        for branch in range(0, problem.count, chunk):
            past = min(branch + chunk, problem.count)
            long = min(max(problem.long - branch, 0), past - branch)
            blocks.append((first, width, alignment * branch, alignment * past, branch, past, offset))
            offset += width * packed(long, past - branch - long)
    return np.array(blocks, dtype=np.int64), offset, together * chunk


def block_rows(problem: Problem, machine: Machine, usual: int, planes: int = 1) -> tuple[int, int]:
    """`most` and `limit` of `cut_blocks`: the usual number, or more where x does not fit and every block loads it."""
    tile = machine.tuning.tile
    narrowest = leading_dimension(3 * machine.lanes(problem.size))
    if problem.channels * planes * narrowest * problem.size > X_BYTES:
        return tile.pieces_rows, tile.pieces_rows
    return usual, tile.block_rows


def target(run: int, rows: int, size: int, unit: int, machine: Machine, longest: int | None = None) -> tuple[int, int]:
    """Columns that a tile aims at and has at most, with `rows` rows of columns in the workspace.

    At most `run` and `longest`, its columns within an L1, at least a register block.
    """
    tile = machine.tuning.tile
    limit = COLUMN_BYTES // (rows * size) - 64
    forced = os.environ.get("CONVT1D_TILE", "")
    if forced:
        if not forced.isdecimal() or not forced.isascii() or int(forced) < 1:
            raise ValueError(f"CONVT1D_TILE must be a positive int, got {forced!r}")
        return (min(int(forced), limit, 4096),) * 2
    width = min(run, tile.column_bytes // (rows * size), longest or tile.most_columns)
    width = min(max(width // unit, 1) * unit, limit)
    return width, min(width + width // 4, limit)


def usual_run(problem: Problem, machine: Machine) -> int:
    """Columns for which the tile of x has its usual size."""
    tile, column = machine.tuning.tile, problem.channels * problem.size
    return max(tile.x_bytes // column, min(tile.x_columns, tile.x_most_bytes // column))


def lay_out(
    name: str,
    problem: Problem,
    machine: Machine,
    *,
    rows: tuple[int, int],
    run: int,
    unit: int,
    packed: Callable[[int, int], int] | None = None,
    alignment: int = 1,
    residues: int = 1,
    planes: int = 1,
    apart: int = 0,
    taps: int | None = None,
    stored: int | None = None,
    beside: int = 0,
    longest: int | None = None,
    most: int | None = None,
    piece: int | None = None,
    own: tuple[int, ...] = (),
    ratio: float = 0.0,
    **tile: Any,
) -> Plan:
    """The plan of a kernel that has made its choices.

    Parameters
    ----------
    rows : (int, int)
        Rows of a weight block, as `most` and `limit` of `cut_blocks`.
    run, longest : int
        Columns that x allows in a tile, and at most; see `target`.
    unit : int
        Columns of a register block.
    packed : callable, optional
        As in `cut_blocks`; by default each weight is packed once.
    alignment, residues, planes, apart : int
        As in `Plan` and in `Packing`.
    taps : int, optional
        As in `Packing`; by default the problem's.
    stored : int, optional
        Rows of columns that a tile holds; by default a block's, of every step, and `beside`.
    beside : int
        Rows of columns beside those of the outputs.
    most : int, optional
        Columns of a tile at most, whatever else allows more.
    piece : int, optional
        Channels that are loaded at a time at most.
    own : tuple of int
    ratio : float
        See `Packing`.
    **tile
        Further fields of `Tile`.
    """
    columns = columns_of(problem, machine, alignment, residues)
    packed = packed or (lambda long, others: problem.depth * long + (problem.depth - problem.channels) * others)
    blocks, group_size, held = cut_blocks(problem, machine, columns, *rows, packed, alignment)
    columns = replace(columns, consecutive=are_consecutive(columns, blocks, problem.stride * alignment * residues))
    held = alignment * held + beside
    aim, widest = target(run, stored or held, problem.size, unit, machine, longest)
    if most is not None:
        aim, widest = min(aim, most), min(widest, most)
    aim, widest = (max(width // residues, 1) * residues for width in (aim, widest))
    taps = taps or problem.taps
    piece_taps = min(taps, 1 + aim // problem.step) if alignment == 1 else taps
    width = leading_dimension(widest + (piece_taps - 1) * problem.step)
    channels = min(piece or problem.channels, X_BYTES // (width * problem.size * planes))
    if alignment > 1:
        # more planes, of what is kept apart, beside the columns and what else is small
        room = WORKSPACE - SMALL_BYTES - held * leading_dimension(widest) * problem.size
        channels = min(channels, room // (width * problem.size * (planes + apart)))
        channels = equal_parts(problem.channels, channels, 1)
    packing = Packing(name, blocks, group_size, channels, piece_taps, taps, planes, held, own, apart, ratio=ratio)
    found = Tile(aim, widest, unit, machine.lanes(problem.size), **tile)
    return Plan(name, problem, packing, columns, found, alignment, residues)


def in_place(problem: Problem, machine: Machine) -> int:
    """Which tiles of x are read where they lie: copying is cheap where each sample is used often."""
    load, uses = machine.tuning.load, problem.uses
    if uses is None or uses > load.copy_above:
        return NEVER
    return WHOLE_TILES if uses > load.split_below else PARTS


def is_narrow(problem: Problem, machine: Machine) -> bool:
    """Whether memory binds, so that x is best read a few channels at a time in long runs.

    Not for a few samples, which are in L1.
    """
    load, uses = machine.tuning.load, problem.uses
    few = uses is not None and uses <= load.split_below
    return few and problem.channels > load.narrow_above and not problem.channels_last and not problem.short


def equal_parts(n: int, most: int, unit: int) -> int:
    """The size of equal parts of `n`, at most `most`, in multiples of `unit`."""
    return ceil_div(ceil_div(n, ceil_div(n, most)), unit) * unit


def forced_choices() -> tuple[str, str]:
    """What CONVT1D_KERNEL and CONVT1D_TILE hold, unchecked."""
    return os.environ.get("CONVT1D_KERNEL", ""), os.environ.get("CONVT1D_TILE", "")


def forced_kernel(names: tuple[str, ...]) -> str:
    """The kernel that CONVT1D_KERNEL names, or an empty string."""
    forced = os.environ.get("CONVT1D_KERNEL", "")
    if forced and forced not in (*names, PLAIN):
        raise ValueError(f"CONVT1D_KERNEL must be one of {', '.join((*names, PLAIN))}, got {forced!r}")
    return "" if forced == PLAIN else forced


# ---- one call -----------------------------------------------------------------------------------------------------


def is_short(tuning: BatchTuning, batch: int, steps: int) -> bool:
    """Whether a call has too few samples for kernels with larger packed weights.

    Only signals whose last bits may depend on the batch are short.
    """
    return steps <= tuning.merge_length and batch * steps < tuning.short_samples


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the parts of a thread's workspace begin, in bytes; the tile of x is at 0."""

    columns: int  # columns of a block, or the edge buffer
    sources: int  # a pointer for each row of columns
    bias: int  # a number for each row of columns
    row: int  # a row of x on its way into planes
    size: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """How one input length and batch size is cut; i counts columns' input steps, f columns of the merged batch.

    f      | history | columns of sample 0 | history | columns of sample 1 | ...       the history has no output
    """

    first: int  # i of the first column, in columns
    columns: int  # columns per sample, the history included
    history: int  # columns before the first whose inputs it needs
    merged: bool  # a batch as one signal
    nontemporal: bool  # the output is stored past the caches
    tile: int
    tiles: int  # per sample, or of the merged batch
    edge: int  # columns of the edge buffer, or of a tile
    ldx: int  # leading dimensions of the tile of x and of the columns
    ldc: int
    workspace: Workspace


def cut(
    plan: Plan, machine: Machine, left: int, batch: int, length: int, output_length: int, large: bool = False
) -> Tiling:
    """Cut the output positions from `left` on, for one input length.

    `large`: the output does not stay in caches, and lies in memory that was used before (`memory.is_kept`).
    """
    problem, packing, tuning = plan.problem, plan.packing, machine.tuning.batch
    step = problem.stride // problem.parts
    stride = step * plan.repeat  # of a set of columns
    last_position = int(plan.columns.position.max()) // problem.parts + (plan.residues - 1) * step
    first = ceil_div(left - last_position, stride) * plan.residues
    history = (packing.taps - 1) * problem.step
    columns = ((left + output_length - 1) // stride + 1) * plan.residues - first + history
    merged = False
    if batch > 1 and history < columns <= 4 * tuning.merge_length:
        merged = (output_length if problem.correlates else length) <= tuning.merge_length
        if plan.consistent:
            whole = ceil_div(columns - history, plan.tile.vector) * plan.tile.vector
            merged = merged or whole >= tuning.merge_gain * columns
    total = batch * columns - history if merged else columns - history
    tile = tile_for(plan, machine, total)
    edge = min(tile, plan.tile.edge or tile)
    ldx = leading_dimension(tile + (packing.piece_taps - 1) * problem.step)
    ldc = leading_dimension(edge)
    return Tiling(
        first=first,
        columns=columns,
        history=history,
        merged=merged,
        nontemporal=large and plan.tile.nontemporal and not merged,
        tile=tile,
        tiles=max(1, ceil_div(total, tile)),
        edge=edge,
        ldx=ldx,
        ldc=ldc,
        workspace=workspace(plan, ldx, ldc),
    )


def tile_for(plan: Plan, machine: Machine, total: int) -> int:
    """Columns of each tile of so many: equal tiles, of whole register blocks if there are several."""
    tile, widest, unit, residues = plan.tile.target, plan.tile.widest, plan.tile.unit, plan.residues
    if os.environ.get("CONVT1D_TILE"):
        return tile
    if plan.packing.piece_channels < plan.problem.channels and plan.tile.in_place == PARTS:
        tile = widest = max(unit, min(tile, ceil_div(total, machine.tuning.load.narrow_tiles)))
    if total > widest:
        widest = widest // unit * unit or widest
    tiles = max(1, ceil_div(total, widest), round(total / tile))
    if residues > 1:
        return ceil_div(ceil_div(total, tiles), residues) * residues
    unit = unit if tiles > 1 else plan.tile.vector
    return max(1, min(widest, ceil_div(total, tiles * unit) * unit))


def workspace(plan: Plan, ldx: int, ldc: int) -> Workspace:
    """The layout of a thread's workspace."""
    packing, size = plan.packing, plan.problem.size
    columns = packing.planes * packing.piece_channels * ldx * size
    if packing.apart:  # what is kept apart, and where
        columns += (packing.apart * packing.piece_channels + 2) * ldx * size
    sources = columns + packing.rows * ldc * size
    bias = sources + packing.rows * 8
    row = bias + packing.rows * size
    end = row + ((2 * (ldx + plan.residues) + BEYOND) * size if packing.planes > 1 else 0)
    return Workspace(columns=columns, sources=sources, bias=bias, row=row, size=end)
