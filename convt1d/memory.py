# SPDX-License-Identifier: MIT
"""Memory of large new outputs and packed weights, kept for the next ones.

The C library gives blocks above some size back to the system at once, and the system clears the pages of the next:
64 MiB took 13 ms, twice as long as a depthwise layer takes to fill them (a Zen 4 under a hypervisor, 2026-11). So the
memory of such an output is kept when the last array that uses it is gone:

    allocator(shape) -> room -> lease -> output and its views      with the last of these the lease ends, and the
                         ^                        |                room is kept, or freed, where too much is kept
                         +-------- kept <---------+

A request that no kept room fits frees all of them first, so that it never raises the peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

# Bytes of an output above which its memory is kept: glibc's malloc keeps smaller blocks itself (mallopt(3),
# DEFAULT_MMAP_THRESHOLD_MAX).
LARGE = 32 * 1024 * 1024
# Most bytes kept; a larger output never is.
MOST = 256 * 1024 * 1024
# The first sample stands on a cache line: vectors that cross lines take twice as long to store.
_LINE = 64

# Rooms by identity. Single operations of a dict are atomic, in free-threaded Python too.
_kept: dict[int, np.ndarray] = {}


class _Lease:
    """What owns a room while arrays use it."""

    def __init__(self, room: np.ndarray):
        self._room = room
        self.__array_interface__ = room.__array_interface__

    def __del__(self, kept: dict[int, np.ndarray] = _kept) -> None:
        if self._room.nbytes + sum(room.nbytes for room in kept.copy().values()) <= MOST:
            kept[id(self._room)] = self._room


def allocator(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]:
    """What to call, as `numpy.empty`, for a new output of this shape: chosen once, not in each call of microseconds."""
    return _empty if is_kept(math.prod(shape) * dtype.itemsize) else np.empty


def is_kept(size: int) -> bool:
    """Whether a new output of so many bytes usually lives in memory that an earlier one has used."""
    return LARGE < size <= MOST - _LINE


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    room = np.asarray(_Lease(_take(size + _LINE)))
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(dtype).reshape(shape)


def _take(size: int) -> np.ndarray:
    for key, room in _kept.copy().items():
        if size <= room.nbytes <= 2 * size and _kept.pop(key, None) is not None:
            return room
    release()
    return np.empty(size, np.uint8)


def release() -> None:
    """Give what is kept back to the system."""
    _kept.clear()
