# SPDX-License-Identifier: MIT
"""The kernels of the GPU path: <name>.py is what Python knows of a kernel, <name>.cu its source.

common.py and common.cuh have what all of them use. The sources are one module of CUDA for each element type.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..problem import Call, Problem
from ..program import Steps


class Kernel(Protocol):
    """What each module here has. cuda/policy.py chooses by it."""

    NAME: str

    def unusable(self, problem: Problem) -> str:
        """Why the kernel cannot compute a problem, in words; "" if it can."""

    def unprofitable(self, problem: Problem) -> str:
        """Why another kernel is thought to be faster, in words; "" if none is."""

    def form(self, problem: Problem) -> str:
        """The form of the weights that the kernel reads; "" if as they are given."""

    def arranged(self, xp: Any, weight: Any, problem: Problem) -> dict[str, Any]:
        """The weights in that form, by the name of their buffer. `xp` is NumPy or CuPy."""

    def write(self, call: Call, steps: Steps) -> None:
        """The launches and products of one call."""


def as_words(weight: Any) -> Any:
    """Half types as integers: not every version of CuPy indexes bfloat16."""
    return weight.view(np.uint16) if weight.dtype.itemsize == 2 else weight
