# SPDX-License-Identifier: MIT
"""The pictures hold what the operator does: their cells, bars and curves are read back and compared."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

import convt1d
from convt1d.explain import arithmetic, overlap_report
from convt1d.plot import plot_arithmetic, plot_overlap, plot_response

ROOT = Path(__file__).parent.parent
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
Figure = pytest.importorskip("matplotlib.figure").Figure

GEOMETRIES = [
    {"kernel_size": 4, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 16, "stride": 8, "padding": 4, "padding_mode": "replicate"},
    {"kernel_size": 5, "stride": 3, "padding": (3, 1), "dilation": 2, "padding_mode": "circular"},
    {"kernel_size": 2, "stride": 5},
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 4, "padding_mode": "reflect"},  # the first input samples are cropped altogether
    {"kernel_size": 90, "stride": 2, "padding": 30, "padding_mode": "circular"},  # too much for numbers
]


@pytest.fixture
def ax():
    return Figure().subplots()


def made(channels=(1, 1), dtype=float, **geometry):
    return convt1d.ConvTranspose1d(*channels, **geometry, dtype=dtype, rng=0)


def drawn(ax):
    """Render, as saving does: what cannot be drawn fails here, and warnings are errors."""
    ax.figure.canvas.draw()
    return ax


def colour(name):
    return matplotlib.colors.to_rgba(name)


# Arithmetic -----------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_cells_are_the_table(ax, geometry):
    layer, L = made(**geometry), 9
    assert drawn(plot_arithmetic(layer, L, ax=ax)) is ax
    table = arithmetic(layer, L)
    cells = {}
    for collection in ax.collections:
        for path in collection.get_paths():
            t, i = path.vertices[:4].mean(axis=0)
            cells[(round(t), round(i))] = tuple(np.ravel(collection.get_facecolor()))  # empty for an empty box
    from convt1d import plot

    names = {colour(plot.SIGNAL): "signal", colour(plot.CONTINUED): "continued"}
    shown = {cell: names[face] for cell, face in cells.items() if face in names}
    products = zip(table.output, table.position, table.source, strict=True)
    assert shown == {(t, i): "signal" if i == source else "continued" for t, i, source in products}
    # the rest is cropped: outside the output, and of the signal itself
    for t, i in set(cells) - set(shown):
        assert not 0 <= t < table.output_length
        assert 0 <= i < L
    assert sum(0 <= i < L for _, i in cells) == L * layer.kernel_size


@pytest.mark.parametrize("geometry", GEOMETRIES[:-1])
def test_numbers_are_taps_and_counts(ax, geometry):
    layer, L = made(**geometry), 9
    plot_arithmetic(layer, L, ax=ax)
    table = arithmetic(layer, L)
    written = {text.get_position(): int(text.get_text()) for text in ax.texts}
    for t, i, k in zip(table.output, table.position, table.tap, strict=True):
        assert written[(t, i)] == k
    counts = dict(enumerate(np.bincount(table.output, minlength=table.output_length)))
    last = max(y for _, y in written)
    assert {t: count for (t, y), count in written.items() if y == last} == counts
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    assert rows[-1] == "taps that meet"
    assert set(rows) >= {"x[0]", f"x[{L - 1}]"}


# Overlap --------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES[:-1])
def test_boxes_are_taps(ax, geometry):
    layer = made(**geometry)
    assert drawn(plot_overlap(layer, ax=ax)) is ax
    report = overlap_report(layer)
    stacks = [[] for _ in report.taps]
    for text in ax.texts:
        if text.get_text() != "none":
            stacks[round(text.get_position()[0])].append(int(text.get_text().removeprefix("tap ")))
    assert stacks == [list(taps) for taps in report.taps]
    scaled = ax.lines[0].get_ydata()
    assert scaled.mean() == pytest.approx(np.mean([len(taps) for taps in report.taps]))
    np.testing.assert_allclose(scaled / scaled.max(), report.levels / report.levels.max())


@pytest.mark.parametrize(("kernel_size", "stride"), [(7, 300), (400, 3), (1024, 256), (50, 1)])
def test_overlap_of_much(ax, kernel_size, stride):
    layer = made(kernel_size=kernel_size, stride=stride)
    drawn(plot_overlap(layer, ax=ax))
    counts = [len(taps) for taps in overlap_report(layer).taps]
    (outline,) = ax.collections[0].get_paths()
    for r, count in enumerate(counts):
        assert outline.contains_points([(r, count - 0.1), (r, count + 0.1)]).tolist() == [count > 0, False]


# Response -------------------------------------------------------------------------------


def curves(ax):
    return {line.get_label(): line for line in ax.lines}


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_response_is_that_of_freqz(ax, geometry, dtype):
    layer = made(dtype=dtype, **geometry)
    assert drawn(plot_response(layer, ax=ax)) is ax
    stride, dilation = layer.stride, layer.dilation
    taps = np.zeros(dilation * (layer.kernel_size - 1) + 1, layer.dtype)
    taps[::dilation] = layer.weight[0, 0]

    def close(line, filter, scale):
        frequency, gain = line.get_data()
        _, expected = scipy.signal.freqz(filter, worN=2 * np.pi * np.asarray(frequency) / stride)
        np.testing.assert_allclose(10 ** (gain / 20), np.abs(expected) / scale, rtol=1e-6, atol=1e-9)

    found = curves(ax)
    close(found["all taps"], taps, stride)
    limits = found["all taps"].get_xdata()[[0, -1]].tolist()
    assert limits == [-stride / 2 if dtype is complex else 0, stride / 2]
    # a phase is what is left of the kernel in the output samples of that phase, wherever they begin
    of_phase = overlap_report(layer).taps
    for label, line in found.items():
        if label.startswith("phase"):
            alone = np.zeros_like(taps)
            for k in of_phase[int(label.split()[1])]:
                alone[dilation * k] = layer.weight[0, 0, k]
            close(line, alone, 1)
    assert sum(label.startswith("phase") for label in found) == (stride if 1 < stride <= 6 else 0)


def test_tones_are_those_of_the_report(ax):
    layer = made(kernel_size=7, stride=5)
    found = curves(plot_response(layer, ax=ax))
    at, gain = found["tones that a constant becomes"].get_data()
    assert at.tolist() == [1, 2]
    constant = found["all taps"].get_ydata()[0]
    # each stands for its mirror image, too
    assert 10 * np.log10(2 * (10 ** ((gain - constant) / 10)).sum()) == pytest.approx(overlap_report(layer).tones_db)


def test_response_of_channels():
    """All pairs together are the root mean square of each; a pair must be connected."""
    layer = made((4, 4), kernel_size=3, stride=2, groups=2)  # more pairs than taps
    power = []
    for c in range(4):
        for o in range(c // 2 * 2, c // 2 * 2 + 2):
            line = curves(plot_response(layer, channels=(c, o), ax=Figure().subplots()))["all taps"]
            power.append(10 ** (line.get_ydata() / 10))
            alone = made(kernel_size=3, stride=2)
            alone.weight = layer.weight[c : c + 1, o % 2 : o % 2 + 1]
            other = curves(plot_response(alone, ax=Figure().subplots()))["all taps"]
            np.testing.assert_allclose(line.get_ydata(), other.get_ydata())
    line = curves(plot_response(layer, ax=Figure().subplots()))["all taps"]
    np.testing.assert_allclose(10 ** (line.get_ydata() / 10), np.mean(power, axis=0))


# Figures and bad input ------------------------------------------------------------------


def test_figures_of_their_own():
    from matplotlib import pyplot

    layer = made(kernel_size=3, stride=2)
    for ax in (plot_arithmetic(layer, 4), plot_overlap(layer), plot_response(layer)):
        drawn(ax)
        assert ax.figure.number in pyplot.get_fignums()
        pyplot.close(ax.figure)


def test_bad_input(ax):
    layer = made((4, 6), kernel_size=3, stride=2, groups=2)
    for plot in (lambda value: plot_arithmetic(value, 3, ax=ax), plot_overlap, plot_response):
        with pytest.raises(TypeError, match=r"layer must be a convt1d\.ConvTranspose1d, got NoneType"):
            plot(None)
    with pytest.raises(ValueError, match="at most 100000 cells, got 300003 with L=100001"):
        plot_arithmetic(layer, 100_001, ax=ax)
    for plot in (plot_overlap, plot_response):
        with pytest.raises(ValueError, match="stride must be at most 100000 to be drawn, got 100001"):
            plot(made(kernel_size=1, stride=100_001), ax=ax)
    for channels in (1, "01", (1, 2, 3), (1.5, 2)):
        with pytest.raises(TypeError, match=r"channels must be"):
            plot_response(layer, channels=channels, ax=ax)
    with pytest.raises(ValueError, match=r"channels must be below \(4, 6\), got \(4, 0\)"):
        plot_response(layer, channels=(4, 0), ax=ax)
    with pytest.raises(ValueError, match="channels must be at least 0, got -1"):
        plot_response(layer, channels=(0, -1), ax=ax)
    with pytest.raises(ValueError, match=r"channels must be of one group of 2, got \(1, 3\)"):
        plot_response(layer, channels=(1, 3), ax=ax)
    for value in (0, np.nan, np.inf):
        layer.weight = np.full(layer.weight.shape, value)
        with pytest.raises(ValueError, match="weight must be finite and not all zero"):
            plot_response(layer, ax=ax)
        drawn(plot_overlap(layer, ax=Figure().subplots()))  # counts need no weights
    assert not ax.lines
    assert not ax.collections


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    layer = made(kernel_size=3, stride=2)
    for plot in (lambda: plot_arithmetic(layer, 3), lambda: plot_overlap(layer), lambda: plot_response(layer)):
        with pytest.raises(ImportError, match=r"needs matplotlib.*pip install 'convt1d\[plot\]'"):
            plot()


def test_pictures_of_the_docs(tmp_path):
    """Those in docs/ have the names that the script gives them, and the page shows each."""
    runpy.run_path(str(ROOT / "docs" / "examples" / "pictures.py"))["main"](tmp_path)
    page = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (ROOT / "docs").glob("picture-*.png"))
    for name in names:
        assert f"]({name})" in page
        assert (tmp_path / name).stat().st_size > 10_000
