# SPDX-License-Identifier: MIT
"""Learn upsamplers from examples with `ConvTranspose1d.fit`, and compare them on held-out signals.

    python docs/examples/learned_upsampling.py [FILE]      the picture; docs/learned-upsampling.png by default

Needs matplotlib (pip install 'convt1d[plot]'). docs/learning.md says what to make of the figures it prints.
"""

import importlib.resources
import sys
from pathlib import Path

import numpy as np
import scipy.signal

from convt1d import ConvTranspose1d

METHODS = {"linear": "C7", "resample_poly": "C1", "learned": "C0"}  # and their colours
PARTS = ("interior", "edges")
FOLDS = 4  # the ECG is cut into four signals; each is held out once, and learned on the other three


def upsampler(factor):
    """A layer with as many taps as resample_poly's own filter, and L * factor outputs."""
    half = 10 * factor
    options = {"stride": factor, "padding": half, "output_padding": factor - 1, "padding_mode": "replicate"}
    return ConvTranspose1d(1, 1, 2 * half + 1, dtype=float, **options)


def linear(x, factor):
    """Linear interpolation of all signals, constant after the last sample."""
    at = np.arange(x.shape[-1] * factor) / factor
    return np.apply_along_axis(lambda signal: np.interp(at, np.arange(signal.size), signal), -1, x)


def compare(name, x, y, held_out):
    """What three methods make of x, signals (N, 1, L), and how far that is from y, (N, 1, L * factor).

    For each index array in `held_out` a layer learns on all other signals.
    """
    factor = y.shape[-1] // x.shape[-1]
    learned = np.full_like(y, np.nan)
    for test in held_out:
        train = np.setdiff1d(np.arange(len(x)), test)
        learned[test] = upsampler(factor).fit(x[train], y[train])(x[test])
    tested = np.concatenate(held_out)
    results = {
        "linear": linear(x, factor)[tested],
        "resample_poly": scipy.signal.resample_poly(x, factor, 1, axis=-1, padtype="line")[tested],
        "learned": learned[tested],
    }
    interior = slice(10 * factor, -10 * factor)  # the rest lies within half a filter of an end
    edges = np.ones(y.shape[-1], bool)
    edges[interior] = False
    mse = {
        part: {method: np.square((result - y[tested])[..., where]).mean() for method, result in results.items()}
        for part, where in zip(PARTS, (interior, edges), strict=True)
    }
    return {"name": name, "x": x[tested], "y": y[tested], "results": results, "mse": mse}


def electrocardiogram(factor, filtered):
    """The ECG from every `factor`-th of its samples, taken plainly or after a low-pass filter."""
    with importlib.resources.files("convt1d").joinpath("data/ecg.npy").open("rb") as file:
        y = np.load(file, allow_pickle=False).astype(float)
    x = scipy.signal.decimate(y, factor, ftype="fir", zero_phase=True) if filtered else y[::factor]
    name = f"ECG {factor}x, {'low-pass' if filtered else 'plain'}"
    return compare(name, x.reshape(FOLDS, 1, -1), y.reshape(FOLDS, 1, -1), np.arange(FOLDS)[:, None])


def synthetic(count=8, length=1024, width=5, band=0.15, noise=0.01):
    """Band-limited noise from every second sample of a slow sensor, whose samples are means of five.

    The sensor weakens the band, 60 % of what the low rate can carry, down to 31 % at its end, but loses nothing of
    it. A layer learns on half of the signals.
    """
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal((count, 1, 8 * length)))
    spectrum[..., np.fft.rfftfreq(8 * length) > band] = 0
    signal = np.fft.irfft(spectrum)[..., : length + width - 1]
    signal /= signal.std()
    x = np.lib.stride_tricks.sliding_window_view(signal, width, axis=-1).mean(axis=-1)[..., ::2]
    x = x + noise * rng.standard_normal(x.shape)
    y = signal[..., width // 2 : width // 2 + length]
    return compare("synthetic 2x, slow sensor", x, y, [np.arange(count // 2, count)])


def report(cases):
    """The mean squared errors, as docs/learning.md shows them."""
    lines = [f"{'held-out mean squared error':36}" + "".join(f"{method:>15}" for method in METHODS)]
    for case in cases:
        for part in PARTS:
            values = "".join(f"{case['mse'][part][method]:>15.3g}" for method in METHODS)
            lines.append(f"{case['name'] + ', ' + part:36}{values}")
    return "\n".join(lines)


def draw(cases, path):
    """Held-out signals and errors on the left, all mean squared errors on the right."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(13, 8), dpi=110, layout="constrained")
    axes = figure.subplot_mosaic(
        [["ecg", "mse"], ["error", "mse"], ["sensor", "mse"]], width_ratios=(3, 2), height_ratios=(3, 2, 3)
    )
    seen = {"linestyle": "none", "marker": "o", "markersize": 3.5, "color": "black", "label": "what the methods see"}

    case = cases[0]
    time = np.arange(case["y"].shape[-1])
    axes["ecg"].plot(time, case["y"][0, 0], color="black", linewidth=1, label="signal")
    axes["ecg"].plot(time[::2], case["x"][0, 0], **seen)
    axes["ecg"].set(title=f"{case['name']}: first quarter, learned on the other three", ylabel="int16 units")
    for method, color in METHODS.items():
        error = case["results"][method][0, 0] - case["y"][0, 0]
        axes["error"].plot(time, error, color=color, linewidth=1.5, label=method)
    axes["error"].set(ylabel="error", xlabel="time (samples)", ylim=(-20, 26))
    for name in ("ecg", "error"):
        axes[name].set_xlim(time[-1] - 110, time[-1] + 1)

    case = cases[-1]
    stretch = slice(200, 261)
    time = np.arange(case["y"].shape[-1])
    axes["sensor"].plot(time[stretch], case["y"][0, 0, stretch], color="black", linewidth=4, label="signal")
    for method in ("resample_poly", "learned"):
        axes["sensor"].plot(time[stretch], case["results"][method][0, 0, stretch], color=METHODS[method], label=method)
    axes["sensor"].plot(time[stretch][::2], case["x"][0, 0, 100:131], **seen)
    axes["sensor"].set(title=f"{case['name']}: a stretch of a held-out signal", xlabel="time (samples)", ylim=(-2.4, 3))

    rows = [(case, part) for case in cases for part in PARTS]
    for method, color in METHODS.items():
        values = [case["mse"][part][method] / case["mse"][part]["resample_poly"] for case, part in rows]
        axes["mse"].plot(values, np.arange(len(rows)), "o", color=color, markersize=9, label=method)
        if method == "learned":
            for row, value in enumerate(values):
                axes["mse"].annotate(f"{value:.2g}", (value, row), (0, 8), textcoords="offset points", ha="center")
    axes["mse"].set_yticks(np.arange(len(rows)), [f"{case['name']}\n{part}" for case, part in rows])
    axes["mse"].set(xscale="log", xlim=(1e-3, 8), ylim=(len(rows) - 0.5, -0.7), title="held-out mean squared error")
    axes["mse"].set_xlabel("share of resample_poly's (left is better)")
    for name, axis in axes.items():
        axis.legend(loc="center left" if name == "mse" else "upper right", ncols=1 if name == "mse" else 4)
        axis.grid(alpha=0.3)
    figure.savefig(path)


def all_cases():
    ecg = (electrocardiogram(2, False), electrocardiogram(2, True), electrocardiogram(4, False))
    return (*ecg, synthetic())


if __name__ == "__main__":
    target = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parent.parent / "learned-upsampling.png")
    done = all_cases()
    print(report(done))
    draw(done, target)
    print(f"wrote {target}")
