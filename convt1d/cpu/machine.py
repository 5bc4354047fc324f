# SPDX-License-Identifier: MIT
"""The machine that plans are made for."""

from __future__ import annotations

from dataclasses import dataclass

from .tuning import Tuning


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """The instruction set in use, its register blocks, and the tuned numbers of its class of processors."""

    instruction_set: str
    rows: int  # of the largest register block
    vector_bytes: int
    vectors: tuple[int, ...]  # of columns, in a register block of 1, 2, ... rows
    tuning: Tuning

    def lanes(self, size: int) -> int:
        """Numbers of `size` bytes in a vector."""
        return max(1, self.vector_bytes // size)

    def unit(self, size: int) -> int:
        """Columns of the largest register block."""
        return self.lanes(size) * self.vectors[self.rows - 1]

    def fused_rows(self, stride: int, outputs: int) -> int:
        """Rows of the usual register block that holds all `stride` branches of its outputs."""
        most = min(self.rows // stride, outputs)
        return int(stride * (1 << (most.bit_length() - 1)))
