# SPDX-License-Identifier: MIT
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convt1d import geometry
from convt1d.cpu.gradient import GradientPlan

def weight_gradient(
    plan: GradientPlan,
    geometry: geometry.Geometry,
    sources: Sequence[NDArray[np.int64]],
    halo: tuple[int, int],
    x: NDArray[np.inexact],
    g: NDArray[np.inexact],
    out: NDArray[np.inexact],
    threads: int,
) -> None: ...
