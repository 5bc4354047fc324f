# SPDX-License-Identifier: MIT
"""What runs here, in words: `convt1d info`."""

from __future__ import annotations

import ctypes
import os
import platform

import numpy as np
import scipy

from . import geometry, threads
from .cpu import kernels
from .cpu.machine import Machine
from .cpu.plan import Plan
from .geometry import ConvGeometry, Geometry


def describe() -> dict[str, str]:
    """Versions, BLAS and its core, instruction set, threads and kernels, in the order to print them."""
    from . import __version__
    from .cpu import _runtime

    machine = _runtime.machine()
    return {
        "convt1d": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": _blas(),
        "simd": f"{machine.instruction_set}, {machine.vector_bytes}-byte vectors (float32: {machine.lanes(4)} lanes), "
        f"tuned as {machine.tuning.name}",
        "openmp": _runtime.openmp_runtime(),
        "threads": str(threads.count(None)),
        "kernels": _kernels(machine),
    }


#: Kinds of layers, and one of each.
KINDS = {
    "deep layers": (512, 256, 16, 8),
    "128 channels": (128, 64, 4, 2),
    "few channels": (16, 8, 4, 2),
    "depthwise": (64, 64, 12, 2, 0, 0, 64),
    "large strides": (64, 2, 100, 50),
    "dilated": (64, 32, 5, 3, 0, 0, 1, 2),
}


def _kernels(machine: Machine) -> str:
    """The kernels of a few kinds of layers."""
    forced = [f"{name}={os.environ[name]}" for name in ("CONVT1D_KERNEL", "CONVT1D_TILE") if os.environ.get(name)]
    chosen = (f"{what}: {plan_of(geometry.check(*args), machine).kernel}" for what, args in KINDS.items())
    return ", ".join(chosen) + (f" (forced: {', '.join(forced)})" if forced else "")


def plan_of(checked: Geometry | ConvGeometry, machine: Machine, dtype: str = "float32") -> Plan:
    """The plan of a geometry for long signals."""
    return kernels.plan_for(checked, np.dtype(dtype), machine)


def describe_plan(checked: Geometry | ConvGeometry, dtype: str = "float32") -> dict[str, str]:
    """Which kernel a geometry gets on this machine, with what tile, and why the kernels preferred to it refused."""
    from .cpu import _runtime

    plan = plan_of(checked, _runtime.machine(), dtype)
    packing, tile, problem = plan.packing, plan.tile, plan.problem
    pieces = ""
    if packing.piece_channels < problem.channels or packing.piece_taps < packing.taps:
        pieces = f", x in pieces of {packing.piece_channels} channels and {packing.piece_taps} taps"
    size = packing.group_size * checked.groups * problem.size
    described = {
        "kernel": plan.kernel,
        "tile": f"{tile.target} columns, register blocks of {tile.unit}{pieces}",
        "branches": f"{problem.count} of {problem.taps} taps, {problem.long} of them with all",
        "weights": f"{size} bytes packed, in {len(packing.blocks) * checked.groups} blocks",
        "products": f"{plan.multiplications:.2f} of the definition's",
        "same bits": "in any batch and any chunks" if plan.consistent else "not in every batch and chunking",
    }
    return described | {f"not {name}": reason for name, reason in plan.refused.items()}


def _blas() -> str:
    """Name of the BLAS behind SciPy, and of its core where OpenBLAS tells."""
    from scipy.linalg import cython_blas

    try:
        found = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        text = f"{found['name']} {found['version']}"
    except (KeyError, TypeError):
        text = "unknown"
    # the module's own handle also finds the symbols of the BLAS it is linked to
    handle = ctypes.CDLL(cython_blas.__file__)
    for symbol in ("scipy_openblas_get_corename", "openblas_get_corename", "openblas_get_corename64_"):
        corename = getattr(handle, symbol, None)
        if corename is not None:
            corename.restype = ctypes.c_char_p
            return f"{text}, core {corename().decode()}"
    return text
