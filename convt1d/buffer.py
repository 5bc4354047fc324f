# SPDX-License-Identifier: MIT
"""Samples of a signal in the order of their arrival, along the last axis: what streams remember."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import arrays

# Samples that a new buffer has room for beyond those it must hold, at least.
_ROOM = 64


class Buffer:
    """A queue of samples: they come in at the end and are dropped at the start.

    They are moved to the start of the memory only when its end is reached; that is as large as what is kept, or more,
    so that each sample moves about once.
    """

    def __init__(self, lead: tuple[int, ...], dtype: np.dtype[Any]):
        self.lead = lead
        self.dtype = dtype
        self._array = np.empty((*lead, 0), dtype)
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def append(self, n: int) -> np.ndarray:
        """Room for n samples at the end, which the caller fills."""
        if self._end + n > self._array.shape[-1]:
            kept = len(self)
            array = self._array
            if kept + n > array.shape[-1] or kept > array.shape[-1] // 2:
                shape = (*self.lead, arrays.leading_dimension(kept + max(n, kept, _ROOM)))
                arrays.check_size("the stream's buffer", shape, self.dtype)
                array = np.empty(shape, self.dtype)
            array[..., :kept] = self.samples(0, kept)
            self._array, self._start, self._end = array, 0, kept
        self._end += n
        return self._array[..., self._end - n : self._end]

    def unappend(self, n: int) -> None:
        """Take back the last n samples."""
        self._end -= n

    def samples(self, first: int, past: int) -> np.ndarray:
        """A view of the samples first .. past-1, counted from the oldest."""
        return self._array[..., self._start + first : self._start + past]

    def drop(self, n: int) -> None:
        """Forget the n oldest samples."""
        self._start += n
