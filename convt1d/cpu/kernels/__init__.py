# SPDX-License-Identifier: MIT
"""The kernels: one room each.

``<name>.py``   what Python knows of a kernel: what it takes, when it pays, its blocks, pieces and tile
``<name>.pxd``  its compiled part: packing the weights, loading a tile of x, multiplying it

A kernel that loads or multiplies as another one does names that one's compiled part in its `Packing`.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from ...geometry import ConvGeometry, Geometry
from ..machine import Machine
from ..plan import PLAIN, Kernel, Plan, Refusal, forced_choices, forced_kernel
from ..problem import Problem, problem_of
from . import direct, fused, fused_winograd, gemm, winograd

#: In order of preference; `CONVT1D_KERNEL` forces one by name.
KERNELS: tuple[Kernel, ...] = (fused_winograd, winograd, fused, gemm, direct)


def names() -> tuple[str, ...]:
    return tuple(kernel.name for kernel in KERNELS)


def choose(problem: Problem, machine: Machine) -> Plan:
    """The plan of the first kernel that takes the problem; the forced one comes before all."""
    forced = forced_kernel(names())
    refused: dict[str, str] = {}
    for kernel in sorted(KERNELS, key=lambda kernel: kernel.name != forced):
        found = kernel.plan(problem, machine, forced)
        if not isinstance(found, Refusal):
            return replace(found, refused=refused)
        refused[kernel.name] = found.reason
    raise AssertionError(f"no kernel takes {problem}")  # "direct" takes every problem


def plan_for(
    geometry: Geometry | ConvGeometry,
    dtype: np.dtype,
    machine: Machine,
    channels_last: bool = False,
    short: bool = False,
    plain: bool = False,
) -> Plan:
    """The plan of a geometry in a compute type; see `problem.problem_of`. The last 256 plans are remembered."""
    forced, tile = forced_choices()
    return _plan(geometry, dtype, machine, channels_last, short, plain or forced == PLAIN, KERNELS, forced, tile)


@functools.lru_cache(256)
def _plan(geometry, dtype, machine, channels_last, short, plain, *_):  # type: ignore[no-untyped-def]
    return choose(problem_of(geometry, dtype, channels_last, short, plain), machine)
