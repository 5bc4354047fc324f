# SPDX-License-Identifier: MIT
import numpy as np
from numpy.typing import NDArray

def activate(
    kind: int,
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    threads: int,
) -> None: ...
