# SPDX-License-Identifier: MIT
"""A layer explained: which input samples and taps make which output sample, as a table, as text and in numbers.

The words, on ``stride=2, kernel_size=3``; a number is the tap that carries a row's sample into a column's::

               output   0 1 2 3 4 5 6
        input  x[0]     0 1 2
               x[1]         0 1 2
               x[2]             0 1 2
               taps     1 1 2 1 2 1 1
               phase    0 1 0 1 0 1 0     output sample t has phase t mod stride

The taps that meet in the output samples of one phase are those of one polyphase branch (`convt1d.geometry` draws
them). Their sum is the phase's gain: what a constant 1 becomes there, away from the edges. Phases of different gain
turn a constant into a pattern that repeats every `stride` samples: a checkerboard in pictures, a tone in sound.

Nothing here needs matplotlib; `convt1d.plot` draws the same.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import geometry as geometry_module
from . import padding
from .geometry import Geometry
from .layer import ConvTranspose1d

# Products that a table may list, half a gigabyte of them; a report may hold ten times as many gains.
MOST = 10_000_000

# Rows of a text drawing, and phases in the text of a report, beyond which the middle is left out.
_ROWS = 40
_PHASES = 16

# A ripple of a thousandth, in dB: what a report calls none.
_NO_TONES = -60


@dataclass(frozen=True, slots=True, eq=False)
class Arithmetic:
    """Every product in the output of one channel, ordered by output sample, then by position.

    Product j is ``y[output[j]] += weight[..., tap[j]] * x[..., source[j]]``.
    """

    length: int  # L
    output_length: int  # L_out
    output: np.ndarray  # t, the output sample
    position: np.ndarray  # i, where the input sample stands; outside [0, L) the padding mode continues the input
    source: np.ndarray  # the index into the input that this position takes its value from
    tap: np.ndarray  # k


def arithmetic(layer: ConvTranspose1d, L: int) -> Arithmetic:
    """Which input samples and taps make which output sample.

    Parameters
    ----------
    layer : ConvTranspose1d
        Only its geometry counts.
    L : int
        Length of the input, in samples.

    Returns
    -------
    Arithmetic
        With arrays `output`, `position`, `source` and `tap`, an entry for each product: output sample ``output[j]``
        has tap ``tap[j]`` times the input sample ``source[j]``. That sample stands at ``position[j]``, which differs
        from ``source[j]`` where the padding mode continues the input. `length` and `output_length` are L and L_out.

    Raises
    ------
    ValueError
        The output would be empty, or there are more than ten million products.
    TypeError
        `layer` is no ConvTranspose1d, or L no int.

    Examples
    --------
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.explain import arithmetic
    >>> table = arithmetic(ConvTranspose1d(1, 1, 3, stride=2, padding_mode="circular"), 3)
    >>> for t, k, i in zip(table.output[:3], table.tap, table.source):
    ...     print(f"y[{t}] has w[{k}] * x[{i}]")
    y[0] has w[2] * x[2]
    y[0] has w[0] * x[0]
    y[1] has w[1] * x[0]
    """
    geometry = geometry_of(layer)
    table = meetings(geometry, L)
    kept = (table.output >= 0) & (table.output < table.output_length)
    columns = (column[kept] for column in (table.output, table.position, table.source, table.tap))
    return Arithmetic(table.length, table.output_length, *columns)


def geometry_of(layer) -> Geometry:
    """The geometry of a layer, or a TypeError."""
    if not isinstance(layer, ConvTranspose1d):
        raise TypeError(
            f"layer must be a convt1d.ConvTranspose1d, got {type(layer).__name__} "
            "(from_torch, from_keras, from_file and others make one)"
        )
    return layer._operator.geometry


def meetings(geometry: Geometry, L: int) -> Arithmetic:
    """As `arithmetic`, with what padding crops: outputs below 0, and from L_out on."""
    length = geometry_module.as_int("L", L, 1)
    window, before, after = check_small(geometry, length)
    grid = np.meshgrid(np.arange(-before, length + after), np.arange(geometry.kernel_size), indexing="ij")
    position, tap = (axis.ravel() for axis in grid)
    output = geometry.meeting(position, tap)
    order = np.argsort(output, kind="stable")  # positions rise within an output sample
    output, position, tap = output[order], position[order], tap[order]
    source = padding.source_index(position, length, geometry.padding_mode)
    return Arithmetic(length, window.length, output, position, source, tap)


def check_small(geometry: Geometry, length: int):
    """The window of the output and the samples that continue the input, or a ValueError if they are many."""
    window = geometry.window(length)
    before, after = (0, 0) if geometry.padding_mode == "zeros" else window.halo
    count = (before + length + after) * geometry.kernel_size
    for what, number in (("products", count), ("output samples", window.length)):
        if number > MOST:
            raise ValueError(
                f"to be listed, there must be at most {MOST} {what}, got {number} with L={length}, "
                f"kernel_size={geometry.kernel_size}, stride={geometry.stride}, dilation={geometry.dilation}"
            )
    return window, before, after


def labels(positions, length: int, mode: str) -> list[str]:
    """The names of input samples, in drawings: where they stand, and which they are if outside [0, L)."""
    sources = padding.source_index(positions, length, mode).tolist()
    return [f"x[{i}]" if i == j else f"x[{i}] = x[{j}]" for i, j in zip(positions, sources, strict=True)]


def some_length(geometry: Geometry) -> int:
    """An input length that shows both edges and something between them, if the kernel is not too long for that."""
    reach = geometry.dilation * (geometry.kernel_size - 1) // geometry.stride + 1
    least = 1 + geometry_module.ceil_div(max(0, 1 - geometry.output_length(1)), geometry.stride)  # for an output of 1
    return max(4, least, min(2 * reach + 1, 10_000 // geometry.kernel_size))


# In text ----------------------------------------------------------------------------------------------------


def drawing(layer: ConvTranspose1d, L: int, width: int = 80) -> str:
    """The arithmetic as text: input samples as rows, output samples as columns, the tap where they meet.

    Parameters
    ----------
    layer : ConvTranspose1d
        Only its geometry counts.
    L : int
        Length of the input, in samples.
    width : int, default 80
        Characters in a line, at least; where they do not suffice the middle of the output is left out.

    Returns
    -------
    str
        Lines of ASCII; the last row counts the taps of each output sample.

    Raises
    ------
    ValueError, TypeError
        As `arithmetic`.

    Examples
    --------
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.explain import drawing
    >>> print(drawing(ConvTranspose1d(1, 1, 3, stride=2, padding=1, output_padding=1, padding_mode="reflect"), 3))
    output       0 1 2 3 4 5
    x[0]         1 2
    x[1]           0 1 2
    x[2]               0 1 2
    x[3] = x[1]            0
    taps         1 2 1 2 1 2
    """
    table = arithmetic(layer, L)
    width = geometry_module.as_int("width", width, 1)
    rows: Sequence[int] = range(
        min(0, table.position.min(initial=0)), max(table.length - 1, table.position.max(initial=0)) + 1
    )
    longest = f" = x[{table.length - 1}]" if len(rows) > table.length else ""
    margin = 1 + max(len(name) for name in ("output", f"x[{rows[0]}]{longest}", f"x[{rows[-1]}]{longest}"))
    cell = 1 + len(str(max(table.output_length, layer.kernel_size) - 1))
    columns = _ends(range(table.output_length), max(5, (width - margin) // cell - 1))

    shown = np.isin(table.output, columns)
    products = zip(*(values[shown].tolist() for values in (table.position, table.output, table.tap)), strict=True)
    taps = {(i, t): k for i, t, k in products}
    if len(columns) < table.output_length:
        rows = sorted({i for i, _ in taps})
    rows = _ends(rows, _ROWS)
    names = dict(zip(rows, labels(rows, table.length, layer.padding_mode), strict=True))
    counts = np.bincount(table.output, minlength=table.output_length)

    def line(name, of_column):
        cells = (".." if t is None else of_column(t) for t in _with_gaps(columns))
        return f"{name:<{margin}}{''.join(f'{text:>{cell}}' for text in cells)}".rstrip()

    lines = [line("output", lambda t: t)]
    for i in _with_gaps(rows):
        lines.append(".." if i is None else line(names[i], lambda t, i=i: taps.get((i, t), "")))
    lines.append(line("taps", lambda t: counts[t]))
    return "\n".join(lines)


def _ends(values, most):
    """All of `values`, or the first and last `most` of them."""
    if len(values) <= most:
        return list(values)
    last = most // 2
    return [*values[: most - last], *values[len(values) - last :]]


def _with_gaps(values):
    """`values`, rising, with None where one is left out."""
    for before, value in zip([None, *values], values, strict=False):
        if before is not None and value != before + 1:
            yield None
        yield value


# In numbers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class OverlapReport:
    """How evenly the kernels of neighbouring input samples overlap, away from the edges; ``print`` it for the text.

    Attributes
    ----------
    taps : tuple of range, one per phase
        The taps that meet in the output samples ``t`` with ``t % stride == phase``.
    gains : ndarray, shape (in_channels, out_channels / groups, stride)
        What a constant 1 in an input channel adds to an output channel, by phase: the sum of the phase's taps.
    levels : ndarray, shape (stride,)
        Root mean square of the gains over all pairs of channels; of a single pair, the gain without its sign.
    imbalance_db : float
        The strongest phase's level over the weakest's, in dB; inf if only the weakest is 0.
    tones_db : float
        What a constant input becomes, in dB: the power at multiples of the input's rate over that of the constant,
        all pairs of channels together; -inf if all phases have the same gain. Both are NaN if a gain is not finite.
    suggestion : str
        What would make it even.
    """

    taps: tuple[range, ...]
    gains: np.ndarray
    levels: np.ndarray
    imbalance_db: float
    tones_db: float
    suggestion: str

    def __str__(self):
        pairs = self.gains.shape[0] * self.gains.shape[1]
        told = "gain" if pairs == 1 else f"level (rms gain of {pairs} pairs of channels)"
        values = self.gains[0, 0] if pairs == 1 else self.levels
        lines = [f"phase  taps  {told}"]
        for r in _with_gaps(_ends(range(len(self.taps)), _PHASES)):
            if r is None:
                lines.append("   ..")
            else:
                lines.append(f"{r:5}  {len(self.taps[r]):4}  {values[r]:.4g}")
        tones = "none" if self.tones_db <= _NO_TONES else f"{self.tones_db:.1f} dB"
        lines.append(f"strongest over weakest phase: {self.imbalance_db:.1f} dB")
        lines.append(f"tones at multiples of the input's rate, relative to a constant input: {tones}")
        lines += textwrap.wrap(f"suggestion: {self.suggestion}", 80, subsequent_indent="  ")
        return "\n".join(lines)


def overlap_report(layer: ConvTranspose1d) -> OverlapReport:
    """How many taps meet in each output phase, with what gain, and what to do about uneven ones.

    Output sample t has the phase ``t % stride``. Where the taps of some phases add up to more than those of others, a
    constant input comes out as a pattern of period `stride`: "checkerboard artefacts" in pictures, tones at multiples
    of the input's rate in sound.

    Parameters
    ----------
    layer : ConvTranspose1d
        Its bias plays no part.

    Returns
    -------
    OverlapReport
        With `taps`, `gains`, `levels`, `imbalance_db`, `tones_db` and `suggestion`; as a str, the text that
        ``convt1d explain`` prints.

    Raises
    ------
    ValueError
        There would be more than a hundred million gains.
    TypeError
        `layer` is no ConvTranspose1d.

    Notes
    -----
    `imbalance_db` compares the sizes of gains, `tones_db` also their signs: gains 1 and -1 are balanced, but make of a
    constant a tone without a constant.

    Even counts do not make even gains: weights that were drawn or learned rarely have phases of equal sum. Uneven
    counts can be made up for by the weights, but start uneven.

    References
    ----------
    .. [1] A. Odena, V. Dumoulin and C. Olah, "Deconvolution and checkerboard artifacts", Distill, 2016,
       https://distill.pub/2016/deconv-checkerboard/
    .. [2] J. Pons, S. Pascual, G. Cengarle and J. Serra, "Upsampling artifacts in neural audio synthesis",
       ICASSP 2021, arXiv:2010.14356

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.explain import overlap_report
    >>> layer = ConvTranspose1d(1, 1, 3, stride=2, padding=1)
    >>> layer.weight = np.ones((1, 1, 3))
    >>> print(overlap_report(layer))
    phase  taps  gain
        0     1  1
        1     2  2
    strongest over weakest phase: 6.0 dB
    tones at multiples of the input's rate, relative to a constant input: -9.5 dB
    suggestion: a kernel_size that is a multiple of the stride: 2, with padding=0
      for L * stride outputs; or 4, with padding=1
    """
    geometry = geometry_of(layer)
    count = layer.weight[..., 0].size * geometry.stride
    if count > 10 * MOST:
        raise ValueError(
            f"in_channels * out_channels / groups * stride must be at most {10 * MOST}, got {count} with "
            f"stride={geometry.stride}"
        )
    taps = phases(geometry)
    weight = layer.weight.astype(np.complex128 if layer.dtype.kind == "c" else np.float64)
    with np.errstate(all="ignore"):  # what is not finite is told in the result
        gains = np.zeros((*weight.shape[:2], geometry.stride), weight.dtype)
        for r, of_phase in enumerate(taps):
            if of_phase:
                own = weight[..., slice(of_phase.start, of_phase.stop, of_phase.step)]
                gains[..., r] = own.sum(axis=-1)
                # what is left of taps that cancel is the rounding of a float32
                cancelled = np.abs(gains[..., r]) < 1e-6 * np.abs(own).sum(axis=-1)
                gains[cancelled, r] = 0
        largest = np.abs(gains).max() or 1.0
        relative = gains / largest  # so that squares stay in range
        levels = np.sqrt(np.square(np.abs(relative)).mean(axis=(0, 1)))
        constant = relative.mean(axis=-1, keepdims=True)
        tones = np.square(np.abs(relative - constant)).mean()
        tones_db = _ratio_db(tones, np.square(np.abs(constant)).mean())
        imbalance_db = _ratio_db(np.square(levels.max()), np.square(levels.min())) if levels.any() else 0.0
        if not np.isfinite(levels).all():
            imbalance_db = tones_db = math.nan
        levels *= largest
    return OverlapReport(taps, gains, levels, imbalance_db, tones_db, _suggestion(geometry, imbalance_db, tones_db))


def phases(geometry: Geometry) -> tuple[range, ...]:
    """The taps that meet in the output samples of each phase."""
    layout = geometry_module.branches(geometry)
    taps = [range(0)] * geometry.stride
    for rho in range(layout.count):
        taps[geometry.meeting(0, rho) % geometry.stride] = range(rho, geometry.kernel_size, layout.period)
    return tuple(taps)


def _ratio_db(over: float, under: float) -> float:
    """A ratio of powers in dB; -inf for nothing over nothing."""
    if over == 0:
        return -math.inf
    return math.inf if under == 0 else 10 * math.log10(over / under)


def _suggestion(geometry: Geometry, imbalance_db: float, tones_db: float) -> str:
    stride, kernel_size, dilation = geometry.stride, geometry.kernel_size, geometry.dilation
    shared = math.gcd(stride, dilation)
    if math.isnan(imbalance_db):
        return "the weights, or their sums, are not finite"
    if shared > 1:
        return (
            f"a dilation that has no factor in common with the stride: with {dilation} and {stride} only one "
            f"output sample in {shared} meets a tap"
        )
    if kernel_size % stride and tones_db <= _NO_TONES:
        return "none, the weights make up for uneven counts"
    if kernel_size % stride:
        below = kernel_size // stride * stride
        sizes: list[str] = []
        for size in (below, below + stride):
            if size:
                crop = dilation * (size - 1) + 1 - stride
                padding = crop // 2 if crop % 2 == 0 else (crop // 2, crop - crop // 2)
                sizes.append(f"{size}, with padding={padding}{'' if sizes else ' for L * stride outputs'}")
        return f"a kernel_size that is a multiple of the stride: {'; or '.join(sizes)}"
    if tones_db > _NO_TONES:
        return (
            "the counts are even, the weights are not: where a constant should stay constant, scale the taps of each "
            "phase to the same sum"
        )
    return "none, the taps of all phases have the same sum"
