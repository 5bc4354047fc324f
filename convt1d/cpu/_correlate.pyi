# SPDX-License-Identifier: MIT
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convt1d import dispatch, geometry

def weight_gradient(
    plan: dispatch.GradientPlan,
    geometry: geometry.Geometry,
    first: int,
    steps: int,
    sources: Sequence[NDArray[np.int64]],
    x: NDArray[np.inexact],
    g: NDArray[np.inexact],
    out: NDArray[np.inexact],
    threads: int,
) -> None: ...
