# SPDX-License-Identifier: MIT
"""The compiled kernels.

``_tiles.pyx``      packs weights and runs the tile loop: load a tile of x, multiply, gather into y
``_correlate.pyx``  the weights' gradient
``_runtime.pyx``    what calls share: SIMD level, OpenMP and forks, the threads' workspaces
``_load.pxd``       reading a signal into rows of a tile: continued by its padding mode, split into phases
``_leaves.inc``     SIMD leaves: the direct product, the gather, the fused kernel that does both, and copies
``_simd.h``         builds the leaves for each instruction set and element type, and chooses at run time; ``_simd.pxd``
``_blas.pxd``       the product by BLAS; the only file that touches it
``_openmp.h``       OpenMP, or its absence; ``_team.h``: its threads, and forks; ``_shares.h``: what falls to each
"""

from __future__ import annotations

import importlib


def __getattr__(name: str) -> object:
    """`_tiles`, imported on first use: what an incompatible SciPy makes of that, in words."""
    if name != "_tiles":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module("._tiles", __name__)
    except TypeError as error:  # Cython compares the signatures of BLAS' functions when it binds them
        import scipy

        raise ImportError(
            "convt1d calls BLAS through scipy.linalg.cython_blas and needs its usual interface of 32-bit integers "
            f"(LP64), but SciPy {scipy.__version__} here has another, as one built with 64-bit integers (ILP64) has; "
            f"install SciPy's wheel: pip install --force-reinstall --only-binary scipy scipy ({error})"
        ) from error
