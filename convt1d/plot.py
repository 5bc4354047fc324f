# SPDX-License-Identifier: MIT
"""Pictures of a layer: its arithmetic, how its kernels overlap, and what it does to frequencies.

`convt1d.explain` knows, this module draws. It needs matplotlib, but not to be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import explain
from .geometry import as_int
from .layer import ConvTranspose1d

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that the colour-blind tell apart: M. Okabe and K. Ito, https://jfly.uni-koeln.de/color/
SIGNAL, CONTINUED, WEIGHTS = "#56B4E9", "#E69F00", "#D55E00"
_PHASES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

# Cells, and boxes side by side, up to which each is labelled; cells and phases up to which they are drawn.
_LABELLED = 400
_BOXES = 16
_MOST_CELLS = 100_000
_MOST_PHASES = 64

# What is drawn below the peak of a frequency response, in dB.
_RANGE_DB = 60


def _axes(ax, width, height):
    """`ax`, or that of a new figure, made by pyplot so that notebooks show it."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"convt1d.plot needs matplotlib ({error}): pip install 'convt1d[plot]'") from error
    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def plot_arithmetic(layer: ConvTranspose1d, L: int, *, ax: Axes | None = None) -> Axes:
    """Draw which input samples and taps make which output sample.

    Each row is an input sample and lays down the kernel, `stride` columns after the row above; each column is an output
    sample, the sum of what stands in it. A cell's number is the tap. Cells of samples that the padding mode continues
    the input with have another colour, cells that `padding` crops are pale. Below stands the number of taps that meet.

    Parameters
    ----------
    layer : ConvTranspose1d
        Only its geometry counts.
    L : int
        Length of the input, in samples; a handful is readable.
    ax : matplotlib.axes.Axes, optional
        Where to draw; on a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Those given, or new ones.

    Raises
    ------
    ValueError
        The output would be empty, or there would be more than 100 000 cells.
    TypeError
        `layer` is no ConvTranspose1d, or L no int.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.plot import plot_arithmetic
    >>> ax = plot_arithmetic(ConvTranspose1d(1, 1, 3, stride=2, padding=1, padding_mode="reflect"), 4)
    """
    geometry = explain.geometry_of(layer)
    table = explain.meetings(geometry, L)
    kept = (table.output >= 0) & (table.output < table.output_length)
    inside = table.position == table.source
    drawn = kept | inside  # what padding crops of the continued samples would only confuse
    cells = int(np.count_nonzero(drawn))
    if cells > _MOST_CELLS:
        raise ValueError(f"L and kernel_size must give at most {_MOST_CELLS} cells, got {cells} with L={table.length}")
    ax = _axes(ax, 10, 4)
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    labelled = max(cells, table.output_length) <= _LABELLED
    border = 1 if labelled else 0
    styles = {
        "cropped by padding": (
            drawn & ~kept,
            {"facecolor": "none" if labelled else "0.9", "edgecolor": "0.75", "linestyle": ":"},
        ),
        "input sample": (kept & inside, {"facecolor": SIGNAL, "edgecolor": "white"}),
        f"continued by {geometry.padding_mode!r}": (kept & ~inside, {"facecolor": CONTINUED, "edgecolor": "white"}),
    }
    legend = []
    for name, (which, style) in styles.items():
        if which.any():
            corners = zip(table.output[which] - 0.5, table.position[which] - 0.5, strict=True)
            boxes = [Rectangle(corner, 1, 1) for corner in corners]
            ax.add_collection(PatchCollection(boxes, linewidth=border, **style))
            legend.append(Patch(label=name, linewidth=border, **style))

    first, last = table.position[drawn].min(), table.position[drawn].max()
    left, right = table.output[drawn].min(), max(table.output[drawn].max(), table.output_length - 1)
    counts = np.bincount(table.output[kept], minlength=table.output_length)
    size = float(np.clip(260 / (right - left + 1), 4, 9))
    below = last + 1.6 if labelled else last  # the row of counts
    if labelled:
        for t, i, k, whole in zip(*(c[drawn] for c in (table.output, table.position, table.tap, kept)), strict=True):
            ax.text(t, i, str(k), ha="center", va="center", fontsize=size, color="black" if whole else "0.6")
        for t, count in enumerate(counts):
            color = "black" if count == counts.max() else WEIGHTS
            ax.text(t, below, str(count), ha="center", va="center", fontsize=size, weight="bold", color=color)
    for edge in (-0.5, table.output_length - 0.5):
        ax.plot([edge, edge], [first - 0.5, below + 0.5], color="0.3", linewidth=1)

    rows = range(first, last + 1, 1 + (last - first) // 12)
    names = explain.labels(rows, table.length, geometry.padding_mode)
    ax.set_yticks([*rows, below][: len(rows) + labelled], [*names, "taps that meet"][: len(rows) + labelled])
    _whole_numbers(ax.xaxis, 20)
    ax.set(
        xlim=(left - 0.7, right + 0.7), ylim=(below + 0.7, first - 0.7), xlabel="output sample", ylabel="input sample"
    )
    ax.set_title(
        f"{_short(layer)}\nrow: what an input sample adds, by tap; column: what an output sample sums", loc="left"
    )
    _legend_below(ax, handles=legend)
    return ax


def _checked_stride(layer):
    stride = explain.geometry_of(layer).stride
    if stride > _MOST_CELLS:
        raise ValueError(f"stride must be at most {_MOST_CELLS} to be drawn, got {stride}")
    return stride


def _short(layer):
    """The geometry in a title."""
    text = f"kernel_size={layer.kernel_size}, stride={layer.stride}"
    usual = {"padding": 0, "dilation": 1, "output_padding": 0, "padding_mode": "zeros"}
    return text + "".join(f", {key}={value}" for key, plain in usual.items() if (value := getattr(layer, key)) != plain)


def plot_overlap(layer: ConvTranspose1d, *, ax: Axes | None = None) -> Axes:
    """Draw how many taps meet in each output phase, and the gain that the weights give it.

    Output sample t has the phase ``t % stride``. Stacks of unequal height make a constant come out with a pattern of
    period `stride`, unless the weights make up for it; `convt1d.explain.overlap_report` has the numbers.

    Parameters
    ----------
    layer : ConvTranspose1d
        Diamonds show its weights' gain in each phase (over all channels, root mean square), scaled to the mean count.
    ax : matplotlib.axes.Axes, optional
        Where to draw; on a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Those given, or new ones.

    Raises
    ------
    ValueError
        The stride is more than 100 000.
    TypeError
        `layer` is no ConvTranspose1d.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.plot import plot_overlap
    >>> ax = plot_overlap(ConvTranspose1d(1, 1, 3, stride=2))
    """
    stride = _checked_stride(layer)
    report = explain.overlap_report(layer)
    ax = _axes(ax, 5, 4)
    counts = np.array([len(taps) for taps in report.taps])
    phases, most = np.arange(stride), counts.max()
    boxed = max(most, stride) <= _BOXES
    if boxed:
        size = float(np.clip(90 / stride, 5, 9))
        prefix = "tap " if stride <= 4 else ""
        for r, taps in enumerate(report.taps):
            for height in range(most):
                if height < len(taps):
                    style, text, color = {"facecolor": SIGNAL, "edgecolor": "white"}, f"{prefix}{taps[height]}", "black"
                else:
                    style, text, color = {"facecolor": "none", "edgecolor": WEIGHTS, "linestyle": "--"}, "none", WEIGHTS
                ax.bar(r, 0.96, bottom=height + 0.02, width=0.9, **style)
                ax.text(r - 0.15, height + 0.5, text, ha="center", va="center", fontsize=size, color=color)
    else:
        ax.fill_between(np.append(phases, stride) - 0.5, np.append(counts, counts[-1]), step="post", color=SIGNAL)
    top = most
    if report.levels.any() and np.isfinite(report.levels).all():
        scaled = report.levels * counts.mean() / report.levels.mean()
        name = "gain of the weights (scaled)"
        if stride <= _BOXES:  # beside the numbers
            style = {"marker": "D", "color": WEIGHTS, "markeredgecolor": "white", "linestyle": "none"}
            ax.plot(phases + 0.25, scaled, **style, label=name)
        else:
            ax.plot(phases, scaled, color=WEIGHTS, label=name)
        _legend_below(ax)
        top = max(top, scaled.max())
    ax.set(xlim=(-0.6, stride - 0.4), ylim=(0, 1.08 * top), ylabel="taps that meet")
    ax.set_xlabel(f"phase of the output sample (its index mod {stride})")
    ax.set_title(f"strongest over weakest phase: {report.imbalance_db:.1f} dB", loc="left")
    _whole_numbers(ax.xaxis, 10)
    _whole_numbers(ax.yaxis, 10)
    return ax


def plot_response(layer: ConvTranspose1d, *, channels: tuple[int, int] | None = None, ax: Axes | None = None) -> Axes:
    """Draw what the kernel does to frequencies: to the input's own, and to their images.

    Putting zeros between the input samples repeats its spectrum around every multiple of the input's rate; the kernel
    is the filter that keeps the original, up to half that rate, and should suppress these images. The black curve is
    its response, divided by `stride`. Dots mark multiples of the input's rate: the tones that a constant input becomes.
    The coloured curves, up to stride 64, are the phases by themselves: each is a filter from the input to every
    `stride`-th output sample, and the better they agree the weaker are the images.

    Parameters
    ----------
    layer : ConvTranspose1d
        Its weights count, its bias does not.
    channels : (int, int), optional
        Input and output channel to draw; by default the root mean square over all pairs that are connected.
    ax : matplotlib.axes.Axes, optional
        Where to draw; on a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        Frequencies in multiples of the input's sample rate, up to half the output's; gains in dB, 0 dB for a phase
        that returns a constant unchanged.

    Raises
    ------
    ValueError
        The channels are not in the layer, or in different groups; the weights are not finite, or all zero; or the
        stride is more than 100 000.
    TypeError
        `layer` is no ConvTranspose1d, or `channels` no pair of int.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.plot import plot_response
    >>> ax = plot_response(ConvTranspose1d(8, 4, 16, stride=8, padding=4), channels=(7, 0))
    """
    stride = _checked_stride(layer)
    geometry = explain.geometry_of(layer)
    rows = _rows(layer, channels)
    ax = _axes(ax, 7, 4)

    # `span` / stride lobes between two multiples of the input's rate, 16 points in each
    span = geometry.dilation * (geometry.kernel_size - 1) + 1
    points = int(np.clip(8 * span, 1024, 16384))
    low = -1 if rows.dtype.kind == "c" else 0  # real weights treat negative frequencies as positive ones
    frequency = np.linspace(low * stride / 2, stride / 2, points + 1)
    whole = _gain_db(rows, range(geometry.kernel_size), geometry, frequency) - 20 * np.log10(stride)
    top = whole.max()

    if stride <= _MOST_PHASES:
        band = np.linspace(low / 2, 1 / 2, points // stride + 65)
        for r, taps in enumerate(explain.phases(geometry)):
            gain = _gain_db(rows, taps, geometry, band)
            top = max(top, gain.max())
            # the later the thinner: phases that agree stay visible
            color, width = (_PHASES[r], 4 - 3 * r / stride) if stride <= len(_PHASES) else (SIGNAL, 3)
            name = f"phase {r}" if stride <= len(_PHASES) else f"the {stride} phases" if r == 0 else None
            if stride > 1:
                ax.plot(band, gain, color=color, linewidth=width, label=name, solid_capstyle="butt")
        for m in range(low * (stride // 2), stride // 2 + 1):
            if m:
                shade = 0.1 if m % 2 else 0.2
                ax.axvspan(
                    max(m - 0.5, low * stride / 2), min(m + 0.5, stride / 2), color="0.5", alpha=shade, linewidth=0
                )
    ax.plot(frequency, whole, color="black", linewidth=1.5, label="all taps")

    tones = np.arange(low * (stride // 2), stride // 2 + 1)
    level = _gain_db(rows, range(geometry.kernel_size), geometry, tones) - 20 * np.log10(stride)
    heard = (tones != 0) & (level > top - _RANGE_DB)
    if heard.any():
        style = {"marker": "o", "color": WEIGHTS, "markersize": 7, "linestyle": "none", "clip_on": False}
        ax.plot(tones[heard], level[heard], **style, label="tones that a constant becomes")
    ax.set(xlim=(frequency[0], frequency[-1]), ylim=(top - _RANGE_DB, top + 3), ylabel="gain (dB)")
    ax.set_xlabel("frequency (multiples of the input's sample rate)")
    ax.set_title("up to 1/2: the signal; beyond: its images", loc="left")
    ax.grid(alpha=0.3)
    _legend_below(ax)
    return ax


def _rows(layer, channels):
    """Kernels (rows, K), float64 or complex128, the sum of whose squared responses is what is to be drawn."""
    weight = layer.weight
    if channels is not None:
        if not isinstance(channels, (tuple, list)) or len(channels) != 2:
            raise TypeError(f"channels must be a pair (input channel, output channel), got {channels!r}")
        c, o = (as_int("channels", value, 0) for value in channels)
        if c >= layer.in_channels or o >= layer.out_channels:
            raise ValueError(f"channels must be below ({layer.in_channels}, {layer.out_channels}), got {(c, o)}")
        group, o_in_group = divmod(o, weight.shape[1])
        if c // (layer.in_channels // layer.groups) != group:
            raise ValueError(f"channels must be of one group of {layer.groups}, got {(c, o)}")
        weight = weight[c, o_in_group]
    rows = weight.reshape(-1, layer.kernel_size)
    rows = rows.astype(np.complex128 if layer.dtype.kind == "c" else np.float64)
    if not np.isfinite(rows).all() or not rows.any():
        raise ValueError(f"weight must be finite and not all zero, got {'zeros' if not rows.any() else 'NaN or inf'}")
    rows /= np.sqrt(len(rows))
    # sums of squares stay as they are when the rows are turned, and the triangle has few rows
    return np.linalg.qr(rows, mode="r") if len(rows) > layer.kernel_size else rows


def _gain_db(rows, taps, geometry, frequency):
    """Gain of some taps of all rows at evenly spaced multiples of the input's rate."""
    from scipy.signal import czt

    power = np.zeros(len(frequency))
    if taps:
        period = -2j * np.pi * geometry.dilation * taps.step / geometry.stride  # between two taps
        apart = frequency[1] - frequency[0] if len(frequency) > 1 else 0
        w, a = np.exp(period * apart), np.exp(-period * frequency[0])
        for row in rows:
            power += np.square(np.abs(czt(row[taps.start :: taps.step], len(frequency), w, a)))
    return 10 * np.log10(np.maximum(power, 1e-300))


def _whole_numbers(axis, most):
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1, steps=[1, 2, 4, 5, 8, 10]))


def _legend_below(ax, **more):
    """Under the axis' label, where nothing is drawn."""
    from matplotlib.transforms import offset_copy

    below = offset_copy(ax.transAxes, ax.figure, y=-34, units="points")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=3, frameon=False, **more)
