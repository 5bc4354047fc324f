# SPDX-License-Identifier: MIT
"""The table of products computes what the operator computes; text and report say what is in the table."""

import math
import re

import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convt1d
from convt1d import explain
from convt1d.explain import arithmetic, drawing, overlap_report

SIZES = st.integers(1, 12)


def layer_of(w, groups=1, **geometry):
    layer = convt1d.ConvTranspose1d(
        w.shape[0], w.shape[1] * groups, w.shape[2], groups=groups, bias=False, dtype=w.dtype, **geometry
    )
    layer.weight = w
    return layer


def layer_with(*taps, **geometry):
    return layer_of(np.array([[taps]]), **geometry)


# The table ------------------------------------------------------------------------------


@settings(max_examples=300)
@given(problem=naive.problems())
def test_table_is_the_operator(problem):
    """Sum of w[tap] * x[source] into y[output], nothing else: exactly the function, groups and all modes included."""
    x, w, geometry = problem.x, problem.w, problem.geometry
    groups, per_group = geometry["groups"], w.shape[0] // geometry["groups"]
    table = arithmetic(layer_of(w, **geometry), x.shape[-1])
    split = x.reshape(*x.shape[:-2], groups, per_group, x.shape[-1])
    products = np.einsum(
        "...gcj,gcmj->...gmj", split[..., table.source], w.reshape(groups, per_group, -1, w.shape[2])[..., table.tap]
    )
    y = np.zeros((*products.shape[:-1], table.output_length), products.dtype)
    np.add.at(y, (..., table.output), products)
    y = y.reshape(*x.shape[:-2], -1, table.output_length)
    np.testing.assert_array_equal(y, convt1d.conv_transpose1d(x, w, **geometry))


@given(problem=naive.problems(kinds="f"))
def test_table_in_order(problem):
    """By output sample, then by position, each pair once; positions continue the input as numpy.pad does."""
    L, mode = problem.x.shape[-1], problem.geometry["padding_mode"]
    table = arithmetic(layer_of(problem.w, **problem.geometry), L)
    pairs = list(zip(table.output.tolist(), table.position.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    beyond = max(0, -table.position.min(initial=0), table.position.max(initial=0) - L + 1)
    if mode == "zeros":
        assert beyond == 0
    named = {"zeros": "edge", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}[mode]
    continued = np.pad(np.arange(L), beyond, named if L > 1 else "edge")
    np.testing.assert_array_equal(table.source, continued[table.position + beyond])


@given(problem=naive.problems(kinds="f"))
def test_some_length_is_legal(problem):
    layer = layer_of(problem.w, **problem.geometry)
    geometry = explain.geometry_of(layer)
    assert layer.output_length(explain.some_length(geometry)) >= 1
    huge = convt1d.geometry.check(1, 1, 2**31 - 1, padding=2**31 - 1, output_padding=0)
    assert huge.output_length(explain.some_length(huge)) >= 1


# The drawing ----------------------------------------------------------------------------


def read(text):
    """(output, position, source, tap) of each number in a drawing, and the counts below it."""
    head, *lines, last = text.split("\n")
    assert head.startswith("output ")
    ends = {match.end(): int(match[0]) for match in re.finditer(r"\d+", head)}
    products = set()
    for line in lines:
        name = re.match(r"x\[(-?\d+)\](?: = x\[(\d+)\])?", line)
        if name is None:
            assert line == ".."
            continue
        position = int(name[1])
        for match in re.finditer(r"(?<= )\d+", line[name.end() :]):
            products.add((ends[name.end() + match.end()], position, int(name[2] or position), int(match[0])))
    assert last.startswith("taps ")
    counts = {ends[match.end()]: int(match[0]) for match in re.finditer(r"\d+", last)}
    return products, counts


@given(problem=naive.problems(kinds="f", longest=20))
def test_drawing_is_the_table(problem):
    layer, L = layer_of(problem.w, **problem.geometry), problem.x.shape[-1]
    table = arithmetic(layer, L)
    columns = (table.output, table.position, table.source, table.tap)
    everything = set(zip(*(column.tolist() for column in columns), strict=True))
    counts = dict(enumerate(np.bincount(table.output, minlength=table.output_length).tolist()))
    assume(len({i for _, i, _, _ in everything}) <= 40)
    assert read(drawing(layer, L, width=10_000)) == (everything, counts)

    text = drawing(layer, L, width=80)  # the middle may be missing, but nothing else
    assert text.isascii()
    products, shown = read(text)
    assert max(map(len, text.split("\n"))) <= 80
    assert products == {product for product in everything if product[0] in shown}
    assert shown == {t: counts[t] for t in shown}
    assert {0, table.output_length - 1} <= set(shown)


def test_drawing():
    layer = convt1d.ConvTranspose1d(4, 2, 4, stride=2, padding=(1, 3), groups=2, padding_mode="replicate")
    assert drawing(layer, 3).split("\n") == [
        "output        0 1 2 3",
        "x[-1] = x[0]  3",
        "x[0]          1 2 3",
        "x[1]            0 1 2",
        "x[2]                0",
        "taps          2 2 2 2",
    ]


@pytest.mark.parametrize("width", [1, 20, 40, 100])
def test_drawing_of_much(width):
    """Not more lines than a screen or two, and not wider than asked, but for the least that shows anything."""
    for layer in (
        convt1d.ConvTranspose1d(1, 1, 500, stride=1, padding_mode="circular"),
        convt1d.ConvTranspose1d(1, 1, 3, stride=1, padding=500),
        convt1d.ConvTranspose1d(1, 1, 2, stride=9000),
    ):
        lines = drawing(layer, 1002, width).split("\n")
        assert len(lines) < 50
        assert max(map(len, lines)) <= max(width, 60)


# The report -----------------------------------------------------------------------------


@given(kernel_size=SIZES, stride=SIZES, dilation=SIZES, left=SIZES, right=SIZES)
def test_taps_are_those_of_the_table(kernel_size, stride, dilation, left, right):
    layer = layer_with(*np.ones(kernel_size), stride=stride, dilation=dilation, padding=(left, right))
    reach = dilation * (kernel_size - 1) + 1
    table = arithmetic(layer, reach // stride + 2 * stride + 30)
    report = overlap_report(layer)
    for t in range(reach, table.output_length - reach - right):
        assert table.tap[table.output == t][::-1].tolist() == list(report.taps[t % stride])
    assert report.levels.tolist() == [len(taps) for taps in report.taps]


@given(problem=naive.problems(kinds="fc"))
def test_gains_are_what_a_constant_becomes(problem):
    """In the modes that continue a constant as a constant, everywhere."""
    w, groups = problem.w, problem.geometry["groups"]
    layer = layer_of(w, **problem.geometry | {"padding_mode": "replicate"})
    stride, length = layer.stride, problem.x.shape[-1]
    report = overlap_report(layer)
    assert report.gains.shape == (*w.shape[:2], stride)
    for c in range(w.shape[0]):
        x = np.zeros((w.shape[0], length))
        x[c] = 1
        group = c // (w.shape[0] // groups)
        y = layer(x)[group * w.shape[1] : (group + 1) * w.shape[1]]
        np.testing.assert_array_equal(y, report.gains[c][:, np.arange(y.shape[-1]) % stride])
    np.testing.assert_allclose(report.levels, np.sqrt((abs(report.gains) ** 2).mean(axis=(0, 1))))


@given(weights=st.lists(st.integers(-9, 9), min_size=1, max_size=20), stride=SIZES)
def test_tones_are_those_of_the_spectrum(weights, stride):
    """Against the discrete spectrum of a constant that went through the layer."""
    layer = layer_with(*map(float, weights), stride=stride, padding_mode="circular")
    power = abs(np.fft.fft(layer(np.ones((1, 40)))[0, : 30 * stride])) ** 2
    report = overlap_report(layer)
    assume(power[0] > 0.1)
    assert 10 ** (report.tones_db / 10) == pytest.approx(power[30::30].sum() / power[0], abs=1e-9)
    gains = abs(report.gains)
    expected = 20 * math.log10(gains.max() / gains.min()) if gains.min() else math.inf
    assert report.imbalance_db == pytest.approx(expected)


@pytest.mark.parametrize(
    ("taps", "stride", "imbalance", "tones"),
    [
        ([1, 1, 1, 1], 2, 0, -math.inf),
        ([1, 1, 1], 2, 20 * math.log10(2), 20 * math.log10(1 / 3)),
        ([1, -1], 2, 0, math.inf),  # sizes balance, signs do not
        ([1, 0.5, -1, 0.5], 2, math.inf, 0),
        ([0.1, 0.2, 0.3, -0.1, -0.2, -0.3], 3, 0, -math.inf),  # nothing passes; 0.3 - 0.3 is rounding for some orders
        ([0, 0], 2, 0, -math.inf),
        ([1.0], 3, math.inf, 10 * math.log10(2)),
    ],
)
def test_report_of_known(taps, stride, imbalance, tones):
    report = overlap_report(layer_with(*map(float, taps), stride=stride))
    assert report.imbalance_db == pytest.approx(imbalance)
    assert report.tones_db == pytest.approx(tones)


def test_rounding_is_no_gain():
    """float32 taps that cancel up to rounding: no imbalance between two roundings."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((1, 1, 8)).astype(np.float32)
    w[..., 6:] = -w[..., :6].reshape(1, 1, 3, 2).sum(axis=2)
    report = overlap_report(layer_of(w, stride=2))
    assert (report.imbalance_db, report.tones_db) == (0, -math.inf)


@given(kernel_size=SIZES, stride=SIZES, dilation=SIZES)
def test_suggestion_is_right(kernel_size, stride, dilation):
    """The kernels it names have even counts and the output length it promises; it is silent where all is well."""
    options = {"stride": stride, "dilation": dilation}
    report = overlap_report(layer_with(*np.ones(kernel_size), **options))
    even = len(set(map(len, report.taps))) == 1
    found = re.findall(r"(\d+), with padding=(\d+|\(\d+, \d+\))", report.suggestion)
    assert report.suggestion.startswith("none") == even
    assert bool(found) == (math.gcd(stride, dilation) == 1 and not even)
    for size, padding in found:
        other = layer_with(*np.ones(int(size)), **options, padding=eval(padding))
        assert overlap_report(other).suggestion.startswith("none")
        assert other.output_length(77) == 77 * stride
    if not even and math.gcd(stride, dilation) > 1:
        assert "dilation" in report.suggestion


def test_suggestion_for_weights():
    report = overlap_report(layer_with(0.5, 1.0, 0.5, stride=2))
    assert report.suggestion == "none, the weights make up for uneven counts"
    report = overlap_report(layer_with(1.0, 2.0, 3.0, 5.0, stride=2))
    assert "weights" in report.suggestion
    assert str(report).isascii()
    assert "phase  taps  gain\n    0     2  4\n    1     2  7\n" in str(report)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_report_of_extreme_sizes(size):
    report = overlap_report(layer_with(size, size, size, stride=2))
    assert report.imbalance_db == pytest.approx(20 * math.log10(2))
    np.testing.assert_allclose(report.levels, [2 * size, size])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_report_of_what_is_not_finite(value):
    report = overlap_report(layer_with(1.0, value, 1.0, stride=2))
    assert math.isnan(report.imbalance_db)
    assert "not finite" in report.suggestion
    assert "nan" in str(report)


def test_report_of_many_phases_and_channels():
    report = overlap_report(convt1d.ConvTranspose1d(6, 4, 1000, stride=300, groups=2, rng=0))
    text = str(report)
    assert "rms gain of 12 pairs" in text
    assert len(text.split("\n")) < 24
    assert "\n  299     3  " in text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_report_of_types(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    layer = convt1d.ConvTranspose1d(1, 1, 4, stride=2, dtype=dtype)
    layer.weight = np.array([[[1, 2, 3, 4]]]).astype(dtype)
    assert overlap_report(layer).gains.tolist() == [[[4, 6]]]


# Bad input ------------------------------------------------------------------------------


def test_bad_input():
    layer = convt1d.ConvTranspose1d(1, 1, 3, stride=2, padding=1)
    for function in (overlap_report, lambda value: arithmetic(value, 3), lambda value: drawing(value, 3)):
        with pytest.raises(TypeError, match=r"layer must be a convt1d\.ConvTranspose1d, got ndarray"):
            function(layer.weight)
    for function in (arithmetic, drawing):
        with pytest.raises(ValueError, match="L must be at least 1, got 0"):
            function(layer, 0)
        with pytest.raises(TypeError, match=r"L must be an int, got 2.5"):
            function(layer, 2.5)
        with pytest.raises(ValueError, match=r"10000000 products, got 6000000003 with L=2000000001, kernel_size=3"):
            function(layer, 2_000_000_001)
    with pytest.raises(ValueError, match="output length must be at least 1"):
        arithmetic(convt1d.ConvTranspose1d(1, 1, 1, padding=3), 4)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        drawing(layer, 3, 0)
    with pytest.raises(ValueError, match="stride must be at most 100000000, got 120000000 with stride=20000000"):
        overlap_report(convt1d.ConvTranspose1d(2, 3, 1, stride=20_000_000))
    with pytest.raises(ValueError, match="10000000 output samples, got 20000003"):
        arithmetic(convt1d.ConvTranspose1d(1, 1, 3, stride=10_000_000), 3)
