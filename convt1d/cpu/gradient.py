# SPDX-License-Identifier: MIT
"""How the weights' gradient is cut; `_correlate.pyx` draws it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import leading_dimension
from ..geometry import Geometry, branches, ceil_div
from .machine import Machine
from .plan import COLUMN_BYTES, WORKSPACE, equal_parts
from .tuning import GradientTuning

# Time steps outside x that are copied at a time: HALO_STEPS of _correlate.pyx.
HALO_STEPS = 16


@dataclass(frozen=True, slots=True, eq=False)
class GradientPlan:
    """Blocks and runs of the weights' gradient in one compute type."""

    parts: int
    along: str  # what the vectors run over: "x", the input channels; "g", (output channel, tap) pairs; or "time"
    tile: int  # time steps
    rows: int  # of a block: real numbers
    columns: int
    period: int  # taps of one branch are this far apart in the kernel
    step: int  # ... and in time
    branches: int  # real rows of an output channel split into its branches
    offsets: np.ndarray  # of the branches, in g


def gradient_plan(geometry: Geometry, dtype: np.dtype, machine: Machine) -> GradientPlan:
    """The plan of a geometry in a compute type."""
    tuning = machine.tuning.gradient
    parts = 2 if dtype.kind == "c" else 1
    lanes = machine.lanes(dtype.itemsize // parts)
    inputs = geometry.in_channels // geometry.groups * parts
    pairs = geometry.out_channels // geometry.groups * geometry.kernel_size * parts
    along = cheapest(tuning, inputs, pairs, lanes, geometry.dilation)
    plan = plan_along(along, geometry, dtype, machine)
    if along == "time":
        split = vector_rows(plan, geometry) * (dtype.itemsize // parts)
        fits = split <= COLUMN_BYTES and workspace_bytes(plan, geometry, dtype) <= WORKSPACE
        if inputs * pairs > tuning.rows or not fits:
            plan = plan_along("x", geometry, dtype, machine)
    return plan


def plan_along(along: str, geometry: Geometry, dtype: np.dtype, machine: Machine) -> GradientPlan:
    """The plan whose vectors run along x, g or time."""
    tuning, found = machine.tuning.gradient, branches(geometry)
    parts = 2 if dtype.kind == "c" else 1
    size = dtype.itemsize // parts
    lanes = machine.lanes(size)
    inputs = geometry.in_channels // geometry.groups * parts
    pairs = geometry.out_channels // geometry.groups * geometry.kernel_size * parts
    if along == "time":
        tile, rows, columns = tuning.steps, inputs * pairs, lanes
    else:
        rows, columns = (pairs, inputs) if along == "x" else (inputs, pairs)
        tile = tuning.column_bytes // size
        rows = equal_parts(rows, tuning.rows, 16)
        columns = equal_parts(columns, tuning.column_bytes // size, lanes * parts)
    return GradientPlan(
        parts=parts,
        along=along,
        tile=tile,
        rows=rows,
        columns=columns,
        period=found.period,
        step=found.step,
        branches=found.count * parts,
        offsets=geometry.dilation * np.arange(found.count, dtype=np.int64) - geometry.padding[0],
    )


def vector_rows(plan: GradientPlan, geometry: Geometry) -> int:
    """Numbers in the vectors of a run: rows of time steps, or, along time, the branches of g."""
    if plan.along != "time":
        return plan.tile * leading_dimension(plan.columns)
    width = leading_dimension(plan.tile + (geometry.kernel_size - 1) // plan.period * plan.step)
    return geometry.out_channels // geometry.groups * plan.branches * width


def workspace_bytes(plan: GradientPlan, geometry: Geometry, dtype: np.dtype) -> int:
    """What `run_item` in _correlate.pyx lays into a thread's workspace."""
    ldc, inputs = leading_dimension(plan.columns), geometry.in_channels // geometry.groups * plan.parts
    room = {"time": inputs * plan.tile, "x": plan.columns * plan.tile, "g": plan.rows * HALO_STEPS}[plan.along]
    zeros = leading_dimension(max(plan.rows, ldc))
    numbers = plan.rows * ldc + vector_rows(plan, geometry) + room + zeros
    return numbers * (dtype.itemsize // plan.parts) + 8 * (plan.rows + inputs + ldc)


def cheapest(tuning: GradientTuning, inputs: int, pairs: int, lanes: int, dilation: int) -> str:
    """Over what the vectors run: the cheapest of the three by cycles of a time step.

    The cycles count multiplying whole vectors, and making them once for each block of rows. A sum in a single
    register waits 4 cycles for itself.
    """
    unfold = tuning.unfold if dilation == 1 else tuning.unfold_dilated
    cycles = {
        "x": ceil_div(inputs, lanes) * pairs + tuning.transpose * inputs * ceil_div(pairs, tuning.rows),
        "g": ceil_div(pairs, lanes) * max(inputs, 4) + unfold * pairs * ceil_div(inputs, tuning.rows),
        "time": tuning.along_time * inputs * pairs / lanes + tuning.transpose * pairs,
    }
    return min(cycles, key=cycles.__getitem__)
