# SPDX-License-Identifier: MIT
"""What a GPU kernel is asked: a layer with an element type on an architecture, and one call of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .. import arrays
from .. import geometry as geometry_module
from ..geometry import Branches, Geometry, Window
from . import tuning


def workspace_bound() -> int:
    """Bytes that a call may use besides its output."""
    forced = os.environ.get("CONVT1D_CUDA_WORKSPACE", "")
    if not forced:
        return tuning.WORKSPACE
    if not forced.isdigit() or int(forced) < 1:
        raise ValueError(f"CONVT1D_CUDA_WORKSPACE must be a number of bytes, got {forced!r}")
    return int(forced)


@dataclass(frozen=True)
class Problem:
    """All that the choice of a kernel depends on."""

    geometry: Geometry
    dtype: np.dtype
    precision: str = "float32"  # the least precise arithmetic allowed for float32 and complex64
    length: int | None = None  # of the input; None stands for a long one
    capability: int = 90  # the architecture: 90 for sm_90
    workspace: int = field(default_factory=workspace_bound)

    @cached_property
    def branches(self) -> Branches:
        return geometry_module.branches(self.geometry)

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.geometry.in_channels // self.geometry.groups

    @property
    def outputs(self) -> int:
        """Output channels of a group."""
        return self.geometry.out_channels // self.geometry.groups

    @property
    def element(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def summand(self) -> int:
        """Bytes of a sum: the half types are summed in float32."""
        return arrays.compute_dtype(self.dtype).itemsize

    @property
    def arithmetic(self) -> str:
        """The element type, or what the permission for float32 is used for.

        Tensor cores before sm_80 have no TF32, and three products of it pay on few architectures.
        """
        if self.dtype.name != "float32":
            return self.dtype.name
        if self.precision == "3xtf32":
            return self.precision if self.capability in tuning.THREE_TF32 else "float32"
        return self.precision if self.capability >= 80 else "float32"


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a batch of signals, and the window of the output that it computes."""

    problem: Problem
    batch: int
    length: int
    window: Window

    @property
    def start(self) -> int:
        """The first output position, counted from before the crop."""
        return self.window.start

    @property
    def positions(self) -> int:
        """How many output positions."""
        return self.window.length

    @property
    def steps(self) -> range:
        """The steps q that the output positions u = stride * q + r lie in."""
        stride = self.problem.geometry.stride
        return range(self.start // stride, (self.start + self.positions - 1) // stride + 1)

    def pieces(self, samples: int, positions: int) -> Iterator[tuple[range, range]]:
        """The batch and the output positions, so many of each at a time."""
        past = self.start + self.positions
        for n in range(0, self.batch, samples):
            for u in range(self.start, past, positions):
                yield range(n, min(n + samples, self.batch)), range(u, min(u + positions, past))
