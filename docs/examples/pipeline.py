# SPDX-License-Identifier: MIT
"""Restore an ECG from every second of its samples in scikit-learn pipelines, and compare them on held-out stretches.

    python docs/examples/pipeline.py [FILE]      the picture; docs/pipelines.png by default

Needs scikit-learn and matplotlib (pip install 'convt1d[sklearn,plot]'). docs/pipelines.md says what to make of the
figures it prints.
"""

import importlib.resources
import itertools
import sys
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from convt1d import ConvTranspose1d
from convt1d.sklearn import ConvTranspose1dTransformer

STRETCHES = 8  # of 128 samples; KFold holds out two neighbours at a time
EDGE = 20  # half of the longer filters, in output samples


def electrocardiogram():
    """Stretches, one a row."""
    with importlib.resources.files("convt1d").joinpath("data/ecg.npy").open("rb") as file:
        return np.load(file, allow_pickle=False).astype(float).reshape(STRETCHES, -1)


def every_second(fine):
    return fine[:, ::2]


def low_pass(fine):
    """Every second sample after a filter that takes away what they cannot carry."""
    return resample_poly(fine, 1, 2, axis=1, padtype="line")


def scipy_resample(coarse):
    return resample_poly(coarse, 2, 1, axis=1, padtype="line")


COARSE = {"plain": every_second, "low-pass": low_pass}
MODES = ("reflect", "replicate")
METHODS = ("linear", "resample_poly", "sinc", "learned", "learned, pairs")
COLORS = dict(zip(METHODS, ("C7", "C1", "C2", "C0", "C3"), strict=True))


def pipeline(method, coarse, padding_mode):
    """Fine stretches -> coarse ones -> fine ones again."""
    if method == "resample_poly":
        return make_pipeline(FunctionTransformer(coarse), FunctionTransformer(scipy_resample))
    weights = method.split(",")[0]
    return make_pipeline(
        FunctionTransformer(coarse), ConvTranspose1dTransformer(weights=weights, padding_mode=padding_mode)
    )


def held_out(model, fine, pairs):
    """What the pipeline, fitted to the other stretches, makes of each.

    With `pairs` it learns how the coarse stretches lead to the fine ones; else it sees the coarse ones only.
    """
    restored = np.empty_like(fine)
    for train, test in KFold(4).split(fine):
        fitted = clone(model).fit(fine[train], fine[train] if pairs else None)
        restored[test] = fitted.transform(fine[test])
    return restored


def compare():
    """Mean squared errors by (coarse, padding_mode, part) and method, and the stretches that the first came from."""
    fine, errors, shown = electrocardiogram(), {}, {}
    for (name, coarse), mode, method in itertools.product(COARSE.items(), MODES, METHODS):
        restored = held_out(pipeline(method, coarse, mode), fine, method == "learned, pairs")
        shown.setdefault(method, restored)
        add_errors(errors, (name, mode), method, restored - fine)
    return {"fine": fine, "restored": shown, "mse": errors}


def compare_decimations():
    """Mean squared errors by (coarse, padding_mode, part) of the ways in which `fit(X)` could make pairs of X alone."""
    fine, errors = electrocardiogram(), {}
    for name, coarse in COARSE.items():
        x = coarse(fine)
        starts = x, x[:, 1:-1]
        pairs = {
            "plain, first": [(every_second(x), x)],
            "plain, both": [(every_second(part), part) for part in starts],  # what fit does
            "low-pass, both": [(low_pass(part), part) for part in starts],
        }
        for mode, (way, examples) in itertools.product(MODES, pairs.items()):
            restored = np.empty_like(fine)
            for train, test in KFold(4).split(x):
                layer = ConvTranspose1d(1, 1, 41, 2, 20, 1, padding_mode=mode, dtype=float)
                for inputs, wanted in examples:
                    layer.partial_fit(inputs[train, None], wanted[train, None])
                restored[test] = layer(x[test, None])[:, 0]
            add_errors(errors, (name, mode), way, restored - fine)
    return errors


def add_errors(errors, row, column, error):
    edges = np.ones(error.shape[1], bool)
    edges[EDGE:-EDGE] = False
    for part, where in (("interior", ~edges), ("edges", edges)):
        errors.setdefault((*row, part), {})[column] = np.square(error[:, where]).mean()


def table(errors):
    """The mean squared errors, as docs/pipelines.md shows them."""
    columns = list(next(iter(errors.values())))
    lines = [f"{'held-out mean squared error':30}" + "".join(f"{column:>16}" for column in columns)]
    for row, values in errors.items():
        lines.append(f"{', '.join(row):30}" + "".join(f"{values[column]:>16.3g}" for column in columns))
    return "\n".join(lines)


def draw(found, path):
    """The beginning of a held-out stretch and its errors on the left, all mean squared errors on the right."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(13, 7.5), dpi=110, layout="constrained")
    axes = figure.subplot_mosaic([["signal", "mse"], ["error", "mse"]], width_ratios=(3, 2))
    fine, number = found["fine"], 4  # the one with a heartbeat at its edge
    time = np.arange(fine.shape[1])
    axes["signal"].plot(time, fine[number], color="black", linewidth=1, label="ECG")
    axes["signal"].plot(time[::2], fine[number, ::2], "o", color="black", markersize=3, label="what the methods see")
    axes["signal"].set(title="plain, reflect: the beginning of the fifth stretch", ylabel="int16 units")
    for method, color in COLORS.items():
        error = found["restored"][method][number] - fine[number]
        axes["error"].plot(time, error, color=color, linewidth=1.5, label=method)
    axes["error"].set(ylabel="error", xlabel="time (samples)")
    for name in ("signal", "error"):
        axes[name].axvspan(-1, EDGE - 0.5, color="black", alpha=0.06)
        axes[name].set_xlim(-1, 50)
    axes["signal"].text(EDGE - 1, -80, "edge", ha="right")

    rows = list(found["mse"])
    for number, (method, color) in enumerate(COLORS.items()):
        values = [found["mse"][row][method] / found["mse"][row]["resample_poly"] for row in rows]
        at = np.arange(len(rows)) + 0.1 * (number - 2)  # apart, where errors are nearly the same
        axes["mse"].plot(values, at, "o", color=color, markersize=7, label=method)
    axes["mse"].set_yticks(np.arange(len(rows)), ["\n".join((", ".join(row[:2]), row[2])) for row in rows])
    axes["mse"].set(xscale="log", ylim=(len(rows) - 0.5, -0.5), title="held-out mean squared error")
    axes["mse"].set_xticks([0.7, 1, 1.5, 2, 3, 4], ["0.7", "1", "1.5", "2", "3", "4"])
    axes["mse"].minorticks_off()
    axes["mse"].set_xlabel("share of resample_poly's (left is better)")
    for name, axis in axes.items():
        axis.legend(loc={"signal": "upper right", "error": "lower right", "mse": (0.63, 0.48)}[name])
        axis.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    target = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parent.parent / "pipelines.png")
    done = compare()
    print(table(done["mse"]), "", table(compare_decimations()), "", sep="\n")
    draw(done, target)
    print(f"wrote {target}")
