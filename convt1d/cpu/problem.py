# SPDX-License-Identifier: MIT
"""A layer as the kernels see it: one group, in real numbers.

A complex layer is a real one with twice the channels (re, im) in and twice the branches out, `parts` = 2: the output
position then counts real numbers, ``2 * stride`` to an input step, and one set of real kernels serves all four types.

A convolution (`ConvGeometry`, the adjoint) runs the polyphase branches of geometry.py backwards: its *input* is split
into residue classes, one row of the tile each, and the taps of a branch count from the last::

    row[o, rho, j] = x[o, stride * j + dilation * rho - left]
    y[c, i]        = sum over o, rho, m of  w[c, o, rho + period * m] * row[o, rho, i + step * m]  + b[c]

In the tile loop it is a transposed convolution of stride 1 over more channels, whose output lies `reach`, the span of
the taps, further to the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import ConvGeometry, Geometry, branches


@dataclass(frozen=True, slots=True, eq=False)
class InputRows:
    """The rows of the tile of x that one input channel becomes: 1, a complex one 2, a convolution's its branches."""

    count: int
    long: int  # the first `long` rows meet `taps` taps, the others one less
    stride: int  # input samples from one column to the next
    offsets: np.ndarray  # of every parts-th row: the input sample at column 0
    consecutive: bool  # offsets rise by one


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What any kernel asks of a layer; sizes are those of one group, in real numbers."""

    parts: int  # 1 real, 2 complex
    size: int  # bytes of a real number
    channels: int  # rows of the tile of x
    outputs: int  # output channels
    input_rows: InputRows
    count: int  # branches of an output channel
    long: int  # the first `long` branches have `taps` taps, the others one less
    taps: int
    period: int  # taps of one branch are this far apart in the kernel
    step: int  # ... and in the columns of x
    stride: int  # output positions per input step
    dilation: int  # output positions from one branch to the next
    correlates: bool  # a convolution
    channels_last: bool  # the output's layout
    short: bool  # calls have few samples, see `plan.is_short`
    plain: bool  # the weights allow plain products only, see `_tiles.Kernel.even`

    @property
    def lacking(self) -> int:
        """Pairs of channel and tap that short input rows lack."""
        rows = self.input_rows
        return self.channels // rows.count * (rows.count - rows.long)

    @property
    def depth(self) -> int:
        """Products in one column of a long branch."""
        return self.channels * self.taps - self.lacking

    @property
    def filled(self) -> bool:
        """Whether every output position belongs to a branch."""
        return self.count == self.stride

    @property
    def in_order(self) -> bool:
        """Whether the branches of an output lie side by side and fill it, so that a register block can store them."""
        return self.filled and (self.dilation == self.parts or self.stride == self.parts) and not self.channels_last

    @property
    def reach(self) -> int:
        """Output samples that a convolution's taps lie further to the right."""
        return (self.taps - 1) * self.step if self.correlates else 0

    @property
    def uses(self) -> int | None:
        """Multiply-adds for each sample of x; None where x cannot be read in place."""
        rows = self.input_rows
        return self.outputs * self.count * self.taps if rows.stride == rows.count == self.parts == 1 else None


def problem_of(
    geometry: Geometry | ConvGeometry,
    dtype: np.dtype,
    channels_last: bool = False,
    short: bool = False,
    plain: bool = False,
) -> Problem:
    """The problem of a geometry in a compute type (float32/64, complex64/128).

    Parameters
    ----------
    channels_last : bool
        Of the output, which is then interleaved across channels.
    short : bool
        For calls that `plan.is_short` says are.
    plain : bool
        For weights that allow plain products only.
    """
    parts = 2 if dtype.kind == "c" else 1
    found = branches(geometry)
    channels = geometry.in_channels // geometry.groups * parts
    correlates = isinstance(geometry, ConvGeometry)
    if correlates:  # the branches are rows of the input, and the output has stride 1
        offsets = geometry.dilation * np.arange(found.count, dtype=np.int64) - geometry.padding[0]
        consecutive = geometry.dilation == 1 or offsets.size == 1
        rows = InputRows(found.count * parts, found.long * parts, geometry.stride, offsets, consecutive)
        channels *= found.count
        stride, count, long, dilation = parts, parts, parts, parts
    else:
        rows = InputRows(parts, parts, 1, np.zeros(1, np.int64), True)
        stride, dilation = geometry.stride * parts, geometry.dilation * parts
        count, long = found.count * parts, found.long * parts
    return Problem(
        parts=parts,
        size=dtype.itemsize // parts,
        channels=channels,
        outputs=geometry.out_channels // geometry.groups,
        input_rows=rows,
        count=count,
        long=long,
        taps=found.taps,
        period=found.period,
        step=found.step,
        stride=stride,
        dilation=dilation,
        correlates=correlates,
        channels_last=channels_last and geometry.out_channels > 1,  # the layouts of a single channel are the same
        short=short,
        plain=plain,
    )
