# SPDX-License-Identifier: MIT
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convt1d import dispatch

class Kernel:
    plan: dispatch.Plan
    def __init__(self, plan: dispatch.Plan, weight: NDArray[np.inexact], groups: int, threads: int) -> None: ...

class Run:
    def __init__(
        self,
        kernel: Kernel,
        tiling: dispatch.Tiling,
        left: int,
        batch: int,
        length: int,
        out_length: int,
        sources: Sequence[NDArray[np.int64]],
    ) -> None: ...
    def __call__(
        self, x: NDArray[np.inexact], y: NDArray[np.inexact], bias: NDArray[np.inexact] | None, threads: int
    ) -> None: ...
