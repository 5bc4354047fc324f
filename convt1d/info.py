# SPDX-License-Identifier: MIT
"""What runs here, in words: `convt1d info`."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import scipy

from . import dispatch, threads


def describe() -> dict[str, str]:
    """Versions, BLAS and its core, SIMD level, threads and kernel policy, in the order to print them."""
    from . import __version__
    from .cpu import _runtime

    machine = _runtime.machine()
    float32 = np.dtype(np.float32)
    return {
        "convt1d": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": _blas(),
        "simd": f"level {machine.level}, {machine.vector_bytes}-byte vectors ({float32.name}: "
        f"{max(1, machine.vector_bytes // float32.itemsize)} lanes)",
        "openmp": "yes" if _runtime.built_with_openmp() else "no (serial build)",
        "threads": str(threads.count(None)),
        "policy": dispatch.policy(machine),
    }


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
