# SPDX-License-Identifier: MIT
"""Which kernel computes a problem on a GPU."""

from __future__ import annotations

import os

from .kernels import Kernel, columns, direct, fused, rows
from .problem import Problem

#: The kernels in order of preference; `CONVT1D_CUDA_KERNEL` forces one where it can be used.
KERNELS: tuple[Kernel, ...] = (fused, rows, columns, direct)


def choose(problem: Problem) -> Kernel:
    """The first kernel that can compute the problem and pays; where none pays, the first that can."""
    forced = os.environ.get("CONVT1D_CUDA_KERNEL", "")
    names = [kernel.NAME for kernel in reversed(KERNELS)]
    if forced and forced not in names:
        raise ValueError(f"CONVT1D_CUDA_KERNEL must be one of {', '.join(names)}, got {forced!r}")
    usable = [kernel for kernel in KERNELS if not kernel.unusable(problem)]
    wanted = [kernel for kernel in usable if forced == kernel.NAME]
    paying = [kernel for kernel in usable if not kernel.unprofitable(problem)]
    return (wanted or paying or usable)[0]


def refusals(problem: Problem) -> dict[str, str]:
    """Why the kernels before the chosen one are not chosen, in words, by name."""
    chosen, found = choose(problem), {}
    for kernel in KERNELS:
        if kernel is chosen:
            break
        found[kernel.NAME] = kernel.unusable(problem) or kernel.unprofitable(problem) or "another one is forced"
    return found
