# SPDX-License-Identifier: MIT
"""The pictures of docs/pictures.md: four layers, each with its arithmetic, its overlap and its frequency response.

    python docs/examples/pictures.py [FOLDER]      docs/ by default

Needs matplotlib (pip install 'convt1d[plot]'). All taps are equal, so that what shows is the geometry's doing.
"""

import sys
from pathlib import Path

import numpy as np
import scipy.signal

from convt1d import ConvTranspose1d
from convt1d.plot import plot_arithmetic, plot_overlap, plot_response

# file: kernel_size, the layer's other arguments, samples of input
LAYERS = {
    "picture-k4-s2": (4, {"stride": 2, "padding": 1}, 6),
    "picture-k3-s2": (3, {"stride": 2, "padding": 1, "output_padding": 1, "padding_mode": "reflect"}, 6),
    "picture-k16-s8": (16, {"stride": 8, "padding": 4, "padding_mode": "replicate"}, 4),
    "picture-k5-s3-d2": (5, {"stride": 3, "padding": 3, "dilation": 2, "padding_mode": "circular"}, 6),
}


def layer(kernel_size, options):
    """A layer of one channel whose phases have a gain of 1 on average."""
    made = ConvTranspose1d(1, 1, kernel_size, bias=False, dtype=float, **options)
    made.weight = np.full((1, 1, kernel_size), made.stride / kernel_size)
    return made


def draw(shown, length, path):
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(10, 7.5), dpi=90, layout="constrained")
    axes = figure.subplot_mosaic([["arithmetic", "arithmetic"], ["overlap", "response"]], width_ratios=(2, 3))
    plot_arithmetic(shown, length, ax=axes["arithmetic"])
    plot_overlap(shown, ax=axes["overlap"])
    plot_response(shown, ax=axes["response"])
    figure.savefig(path)


def draw_filters(path):
    """The response of equal taps beside that of a filter made for interpolation."""
    from matplotlib.figure import Figure

    equal, sinc = layer(8, {"stride": 4}), layer(64, {"stride": 4})
    sinc.weight = 4 * scipy.signal.firwin(64, 1 / 4, window=("kaiser", 6)).reshape(1, 1, -1)
    figure = Figure(figsize=(10, 4), dpi=90, layout="constrained")
    for ax, shown, name in zip(
        figure.subplots(1, 2), (equal, sinc), ("8 equal taps", "64 taps, windowed sinc"), strict=True
    ):
        plot_response(shown, ax=ax)
        ax.set_title(f"{name}, stride 4", loc="left")
    figure.savefig(path)


def main(folder):
    for name, (kernel_size, options, length) in LAYERS.items():
        draw(layer(kernel_size, options), length, folder / f"{name}.png")
    draw_filters(folder / "picture-filters.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parent.parent))
