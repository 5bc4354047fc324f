# SPDX-License-Identifier: MIT
"""The GPU path, through CuPy: what runs where x is on a device.

__init__.py      is it an array on a device? (imports nothing)
interchange.py   CuPy's arrays and torch's tensors: one device, one stream, the same kind back
launch.py        a call as a program of launches and products, and the backend that runs it
kernels.cu       the kernels, compiled on first use ...
fused.cu         ... and the one that does it all in one go
"""

from __future__ import annotations

import sys
from typing import Any

#: The precisions of float32 products, see `convt1d.conv_transpose1d`.
PRECISIONS = ("float32", "tf32", "3xtf32")


def is_device_array(value: Any) -> bool:
    """Whether `value` is a CuPy array or a torch tensor on a CUDA device; imports neither package."""
    return is_cupy(value) or is_torch(value)


def is_cupy(value: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, getattr(cupy, "ndarray", ()))


def is_torch(value: Any) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ())) and value.is_cuda  # type: ignore[union-attr]


def check_precision(precision: Any) -> None:
    if not isinstance(precision, str):
        raise TypeError(f"precision must be a string, got {precision!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
