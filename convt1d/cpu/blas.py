# SPDX-License-Identifier: MIT
"""SciPy's BLAS, loaded when the first kernel that calls it is made."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any


def functions() -> dict[str, Any]:
    """The capsules of scipy.linalg.cython_blas.

    It is loaded without scipy.linalg, whose import takes a quarter of a second.
    """
    import scipy

    name = "scipy.linalg.cython_blas"
    spec = PathFinder.find_spec(name, [f"{place}/linalg" for place in scipy.__path__])
    if name not in sys.modules and spec is not None and spec.loader is not None:
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    found: dict[str, Any] = sys.modules[name].__pyx_capi__
    return found


def check_signature(signature: bytes) -> None:
    """Refuse, in words, a BLAS of other integers.

    Raises
    ------
    ImportError
        SciPy's products do not take a C int for a size.
    """
    if not signature.startswith(b"void (char *, char *, int *, int *, int *, "):
        import scipy

        raise ImportError(
            "convt1d calls BLAS through scipy.linalg.cython_blas and needs its usual interface of 32-bit integers "
            f"(LP64), but SciPy {scipy.__version__} here has another, as one built with 64-bit integers (ILP64) has; "
            "install SciPy's wheel: pip install --force-reinstall --only-binary scipy scipy "
            f"(wrong signature: {signature.decode(errors='replace')})"
        )
