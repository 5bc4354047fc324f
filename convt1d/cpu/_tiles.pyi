# SPDX-License-Identifier: MIT
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convt1d.activations import Activation
from convt1d.cpu.machine import Machine
from convt1d.cpu.plan import Plan, Tiling

COMPILED: dict[str, int]

class Kernel:
    plan: Plan
    machine: Machine
    even: bool
    def __init__(
        self,
        plan: Plan,
        machine: Machine,
        weight: NDArray[np.inexact],
        groups: int,
        threads: int,
        other: Kernel | None = None,
    ) -> None: ...

class Run:
    nbytes: int
    can_activate: bool
    can_finish: bool
    channels_last: bool
    def __init__(
        self,
        plan: Plan,
        groups: int,
        tiling: Tiling,
        left: int,
        batch: int,
        length: int,
        out_length: int,
        origin: int,
        sources: Sequence[NDArray[np.int64]],
    ) -> None: ...
    def __call__(
        self,
        kernel: Kernel,
        x: NDArray[np.inexact],
        y: NDArray[np.inexact],
        bias: NDArray[np.inexact] | None,
        threads: int,
        before: Activation | None = None,
        after: Activation | None = None,
        add: NDArray[np.inexact] | None = None,
    ) -> None: ...

def activate(
    kind: int,
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    threads: int,
) -> None: ...
