# SPDX-License-Identifier: MIT
"""Where the samples outside the input come from: one index map per padding mode.

For an input ``a b c d`` (L = 4), continued to both sides::

    zeros       0 0 0 0 0 | a b c d | 0 0 0 0 0
    reflect     b c d c b | a b c d | c b a b c     numpy.pad "reflect", as often as needed
    replicate   a a a a a | a b c d | d d d d d     numpy.pad "edge"
    circular    d a b c d | a b c d | a b c d a     numpy.pad "wrap"

The input is extended *before* the strides spread it: a constant signal stays constant at the edges.
Only `Geometry.halo` samples on each side can reach the output; the kernels get their sources as two small index
arrays and know nothing of modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Mode:
    """How one padding mode continues the input."""

    source: Callable[[np.ndarray, int], np.ndarray]  # positions and L to indices of the input, -1 for zero
    period: Callable[[int], int]  # L to the number of sources outside the input after which they repeat
    needs: Callable[[int], int] | None  # samples that those so many before the first one depend on; None: on the last


def _zeros(i: np.ndarray, length: int) -> np.ndarray:
    return np.where((i >= 0) & (i < length), i, -1)


def _reflect(i: np.ndarray, length: int) -> np.ndarray:
    turn = max(1, 2 * (length - 1))
    m = i % turn
    return np.minimum(m, turn - m) if length > 1 else np.zeros_like(i)


def _replicate(i: np.ndarray, length: int) -> np.ndarray:
    return np.clip(i, 0, length - 1)


def _circular(i: np.ndarray, length: int) -> np.ndarray:
    return i % length


#: The padding modes by name. On a GPU they are numbered in this order (`source` in cuda/kernels/common.cuh).
MODES = {
    "zeros": Mode(_zeros, lambda length: 0, lambda before: 1),
    "reflect": Mode(_reflect, lambda length: max(1, 2 * (length - 1)), lambda before: before + 1),
    "replicate": Mode(_replicate, lambda length: 1, lambda before: 1),
    "circular": Mode(_circular, lambda length: length, None),
}


def source_index(i: ArrayLike, length: int, mode: str) -> np.ndarray:
    """Index into the input of the extended signal at integer positions `i`; -1 stands for zero.

    Parameters
    ----------
    i : array_like of int
        Positions; ``0 <= i < length`` is the input itself.
    length : int
        L, at least 1.
    mode : str
        A key of `MODES`.

    Returns
    -------
    ndarray of int64

    Examples
    --------
    >>> source_index([-2, -1, 0, 1, 2, 3, 4], 3, "reflect").tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    return MODES[mode].source(np.asarray(i, dtype=np.int64), length)


def halo_sources(halo: tuple[int, int], length: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Sources of the samples left and right of the input, as far as `halo` reaches or until they repeat.

    Returns
    -------
    before, after : ndarray of int64
        ``x[before[-1]]`` stands at position -1, ``x[after[0]]`` at position `length`; further out both repeat.
        Empty for zeros, and where nothing outside can reach the output.
    """
    period = MODES[mode].period(length)
    before, after = min(halo[0], period), min(halo[1], period)
    return (
        source_index(np.arange(-before, 0), length, mode),
        source_index(np.arange(length, length + after), length, mode),
    )
