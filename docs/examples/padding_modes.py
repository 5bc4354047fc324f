# SPDX-License-Identifier: MIT
"""Draw what each padding mode does at the edges of a signal.

    python docs/examples/padding_modes.py [FILE]      docs/padding-modes.svg by default

Needs matplotlib (pip install 'convt1d[plot]'). Nothing is drawn by hand: the samples outside the input are those
that `convt1d.padding` names, as many as `convt1d.geometry` says can reach the output, and the curve is the output.
"""

import sys
from pathlib import Path

import numpy as np

from convt1d import conv_transpose1d
from convt1d.geometry import PADDING_MODES, check
from convt1d.padding import source_index

STRIDE = 6
SIGNAL = np.array([3.0, 3.6, 2.7, 2.2, 2.9, 3.1, 2.0, 1.6])
WHERE = {
    "zeros": "nothing outside",
    "reflect": "mirrored at the first and last sample",
    "replicate": "first and last sample held",
    "circular": "the signal again and again",
}


def kernel(stride, reach=3):
    """A windowed sinc that reaches `reach` input samples to either side; the taps of each output phase sum to one."""
    at = (np.arange(2 * reach * stride) - (2 * reach * stride - 1) / 2) / stride
    phases = (np.sinc(at) * np.cos(np.pi * at / (2 * reach)) ** 2).reshape(-1, stride)
    return (phases / phases.sum(axis=0)).ravel()


def case(mode):
    """Positions, counted in input samples, and values: of the samples outside, and of the output."""
    taps, length = kernel(STRIDE), SIGNAL.size
    settings = {"stride": STRIDE, "padding": (taps.size - STRIDE) // 2, "padding_mode": mode}
    left, right = check(1, 1, taps.size, **settings).halo(0)
    outside = np.r_[-left:0, length : length + right]
    source = source_index(outside, length, mode)
    y = conv_transpose1d(SIGNAL[None], taps[None, None], **settings)[0]
    # output sample t reads the input where the centre of the kernel is
    at = (np.arange(y.size) + settings["padding"] - (taps.size - 1) / 2) / STRIDE
    return outside, np.where(source < 0, 0, SIGNAL[source]), at, y


def draw(path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 9, "svg.hashsalt": "convt1d", "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, grid = plt.subplots(2, 2, figsize=(8, 4.8), sharex=True, sharey=True, layout="constrained")
        inside = np.arange(SIGNAL.size)
        for axes, mode in zip(grid.flat, PADDING_MODES, strict=True):
            outside, values, at, y = case(mode)
            axes.axvspan(-0.5, SIGNAL.size - 0.5, color="0.94", linewidth=0)
            axes.plot(at, y, color="C3", linewidth=1.6, label="output, stride 6")
            axes.plot(inside, SIGNAL, "o", color="black", markersize=5, label="input")
            axes.plot(outside, values, "o", color="C0", markerfacecolor="white", markersize=5, label="its continuation")
            axes.set_title(f'"{mode}": {WHERE[mode]}', fontsize=9)
            axes.set_xlim(outside[0] - 0.5, outside[-1] + 0.5)
            axes.set_ylim(-0.3, 4.3)
        for axes in grid[-1]:
            axes.set_xlabel("position, in input samples")
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, ncols=3, loc="outside upper center", frameon=False)
        figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith(".svg") else None)
        plt.close(figure)


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "padding-modes.svg")
