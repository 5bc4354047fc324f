# SPDX-License-Identifier: MIT
"""The GPU path, through CuPy: what runs where x is on a device.

    geometry, type, shape  ->  policy.choose  ->  kernels/<name>.py: write  ->  program  ->  backend.launch, .product

__init__.py      the precisions of float32 products (imports nothing; arrays.py knows whose arrays are on a device)
interchange.py   CuPy's arrays and torch's tensors: one device, one stream, a result of x's kind
operator.py      a layer's weights on devices, and its calls there as programs
policy.py        KERNELS in order of preference; the choice, and the reasons of those that refuse
tuning.py        the measured numbers that the choice goes by
problem.py       what a kernel is asked: a layer, a type and an architecture, and one call of it
program.py       a call as launches and products; how a parameter struct is passed
backend.py       a device: memory, kernels compiled on first use, cuBLAS
kernels/         each kernel: <name>.py what Python knows of it, <name>.cu its source; common.py, common.cuh

A *program* knows no addresses. The tests run the same kernels and programs on the CPU with a backend of their own.
docs/gpu.md says what each kernel does, and where another one goes.
"""

from __future__ import annotations

from typing import Any

#: The precisions of float32 products, see `convt1d.conv_transpose1d`.
PRECISIONS = ("float32", "tf32", "3xtf32")


def check_precision(precision: Any) -> None:
    if not isinstance(precision, str):
        raise TypeError(f"precision must be a string, got {precision!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
