# SPDX-License-Identifier: MIT
"""Numbers: precision, and how far NaN, inf and large values reach."""

import json
import pathlib

import ml_dtypes
import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from operands import GEOMETRY, operands
from random_problems import DTYPES, EXTENDED, SEEDS, SETTINGS, oracle

import convt1d


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("k", "stride", "dilation"),
    [(4, 2, 1), (16, 8, 1), (7, 1, 1), (11, 4, 1), (3, 1, 1), (7, 1, 3), (4, 1, 9), (3, 1, 40)],
)
def test_winograds_products_are_about_as_precise(k, stride, dilation, dtype, monkeypatch):
    """Of the root mean square, and of the largest, against sums in a higher precision."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 64, 200)), rng.standard_normal((64, 16, k))
    x, w = x.astype(dtype), w.astype(dtype)
    exact = naive.conv_transpose1d(x.astype(np.longdouble), w.astype(np.longdouble), None, stride, d=dilation)
    errors = {}
    for kernel in ("direct", "winograd", "fused_winograd"):
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        error = np.abs(convt1d.conv_transpose1d(x, w, stride=stride, dilation=dilation) - exact)
        errors[kernel] = np.array([np.sqrt((error**2).mean()), error.max()])
    for kernel in ("winograd", "fused_winograd"):
        assert (errors[kernel] > 0).all()
        assert (errors[kernel] < 2.5 * errors["direct"]).all(), errors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_differences_do_not_overflow_where_samples_do_not(dtype, monkeypatch):
    """A tile whose numbers are too large to be squared is multiplied tap by tap, as are all with such weights."""
    huge = np.finfo(dtype).max
    results = {}
    for kernel in ("direct", "winograd", "fused_winograd"):
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        x = np.ones((1, 8, 300), dtype)
        w = np.full((8, 3, 4), 0.01, dtype)
        x[0, 2, 100], x[0, 2, 101], x[0, 3, 131] = huge, -huge, np.inf
        results[kernel] = [convt1d.conv_transpose1d(x, w, stride=2)]
        x[0, 2:4, 100:132], w[1, 1, 0], w[1, 2, 2] = 0.01, huge, -huge
        results[kernel].append(convt1d.conv_transpose1d(x, w, stride=2))
        results[kernel].append(convt1d.conv_transpose1d(x, w, dilation=5))
    for direct, winograd in zip(2 * results["direct"], results["winograd"] + results["fused_winograd"], strict=True):
        np.testing.assert_array_equal(np.isfinite(winograd), np.isfinite(direct))
        np.testing.assert_allclose(winograd, direct, rtol=1e-5)
        assert np.abs(winograd[np.isfinite(winograd)]).max() > huge / 200


@given(problem=naive.problems(modes=EXTENDED, kinds="f"), setting=SETTINGS)
def test_a_constant_stays_constant(force, problem, setting):
    """Where each phase's weights sum to one: up to both edges, as the extension comes before the strides."""
    geometry, (c_in, _, kernel_size) = problem.geometry, problem.w.shape
    phase = geometry["dilation"] * np.arange(kernel_size) % geometry["stride"]
    assume(np.unique(phase).size == geometry["stride"])  # each output sample meets a tap
    for tap in (np.flatnonzero(phase == r) for r in range(geometry["stride"])):
        problem.w[..., tap[-1]] += 1 - problem.w[..., tap].sum(-1)
    level = problem.x[..., :1]
    with force(*setting):
        y = convt1d.conv_transpose1d(np.broadcast_to(level, problem.x.shape), problem.w, **geometry)
    in_groups = level.reshape(*level.shape[:-2], geometry["groups"], c_in // geometry["groups"]).sum(-1)
    expected = in_groups.repeat(problem.w.shape[1], axis=-1)[..., None]
    np.testing.assert_array_equal(y, np.broadcast_to(expected, y.shape))


@settings(max_examples=300)
@given(problem=naive.problems(), setting=SETTINGS, double=st.booleans(), seed=SEEDS)
def test_nan_and_inf_reach_what_the_definition_says(force, problem, setting, double, seed):
    """No more and no less: through zero weights too, and through the extension of the signal."""
    rng, dtype = np.random.default_rng(seed), DTYPES[problem.x.dtype.kind][double]
    x, w = problem.x.astype(dtype), (problem.w * rng.integers(0, 2, problem.w.shape)).astype(dtype)
    x.flat[rng.integers(0, x.size, rng.integers(1, 4))] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(invalid="ignore"):
        expected = oracle(x, w, None, problem.geometry)
    with force(*setting):
        y = convt1d.conv_transpose1d(x, w, **problem.geometry)
    if x.dtype.kind == "c":  # which part of a complex product is NaN depends on how it is written out
        y, expected = (np.where(np.isfinite(values), values, np.nan) for values in (y, expected))
    np.testing.assert_array_equal(y, expected)


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_half_types_compute_in_float32(operator, dtype):
    """One rounding, at the end."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(a.shape).astype(dtype) for a in operands())
    y = operator(x, w, b, **GEOMETRY)
    in_single = operator(*(a.astype(np.float32) for a in (x, w, b)), **GEOMETRY)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, in_single.astype(dtype))
    out = np.empty_like(y)
    assert operator(x, w, b, **GEOMETRY, out=out) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_half_types_keep_nan_and_inf(operator, dtype):
    x = np.array([[np.nan, 1, np.inf, 2, -np.inf]], dtype)
    y = operator(x, np.ones((1, 1, 1), dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(float), x.astype(float))  # numpy's isnan knows no bfloat16


def test_float64_is_not_computed_in_float32(operator):
    tiny = 2.0**-40
    y = operator(np.array([[1 + tiny]]), np.ones((1, 1, 1)))
    assert y[0, 0] == 1 + tiny


@pytest.mark.parametrize(("dtype", "tap", "sample"), [(np.float32, 1.25e19, 1.8e19), (np.float64, 0.9e154, 1.3e154)])
@pytest.mark.parametrize("geometry", [(64, 32, 4, 2), (512, 256, 16, 8), (128, 64, 3, 1)])
def test_no_finite_sum_becomes_infinite(dtype, tap, sample, geometry):
    """Each number can be squared, but the sum of two taps times a sample is out of range."""
    c_in, c_out, K, stride = geometry
    w, x = np.zeros((c_in, c_out, K), dtype), np.zeros((1, c_in, 40), dtype)
    w[0, 0, 0] = w[0, 0, stride] = tap
    x[0, 0, 20] = sample
    for y, largest in (
        (convt1d.conv_transpose1d(x, w, stride=stride), tap * sample),
        (convt1d.conv1d(x, np.ascontiguousarray(w.swapaxes(0, 1))), tap * sample),
    ):
        assert np.isfinite(y).all()
        assert np.abs(y).max() >= 0.999 * largest


# Layers that use Winograd's products where their taps allow it, and the same for convolutions
PAIRED = [(64, 32, 4, 2), (512, 256, 16, 8), (128, 64, 3, 1), (256, 128, 10, 5), (128, 1, 256, 64)]


def errors(x, w, stride, bias=None):
    """Of the default kernel: errors, and what they may be, as docs/reliability.md has it; sums of |products|."""
    w64, x64 = w.astype(float), x.astype(float)
    exact, size = (plain_sums(a, b, stride) for a, b in ((x64, w64), (abs(x64), abs(w64))))
    offset = 0 if bias is None else bias.astype(float)[:, None]
    y = convt1d.conv_transpose1d(x, w, bias, stride=stride)
    terms = w.shape[0] * -(-w.shape[2] // stride) + 1
    return abs(y - exact - offset), 4 * np.sqrt(terms) * np.finfo(x.dtype).eps * (size + abs(offset)), size


def plain_sums(x, w, stride, dilation=1):
    """The definition, one tap at a time."""
    last = (x.shape[-1] - 1) * stride
    y = np.zeros((*x.shape[:-2], w.shape[1], last + dilation * (w.shape[2] - 1) + 1))
    for k in range(w.shape[2]):
        y[..., dilation * k : dilation * k + last + 1 : stride] += w[..., k].T @ x
    return y


def silence(rng, x, w, stride):
    x[..., : rng.integers(90, 100)] = 0


def silence_and_zero_taps(rng, x, w, stride):
    silence(rng, x, w, stride)
    w[..., slice(stride) if rng.integers(2) else slice(-stride, None)] = 0


def window(rng, x, w, stride):
    silence(rng, x, w, stride)
    w *= np.hanning(w.shape[2] + 1)[:-1]


def ramp(rng, x, w, stride):
    w[..., stride:] *= 1e4


def scales_of_taps(rng, x, w, stride):
    w *= 10.0 ** rng.uniform(-15, 15, w.shape[2])


def scales_of_samples(rng, x, w, stride):
    x *= 10.0 ** rng.uniform(-15, 15, x.shape[2])


def one_large_sample(rng, x, w, stride):
    w[rng.random(w.shape) < 0.7] = 0
    x[0, rng.integers(x.shape[1]), 50 + rng.integers(2)] = 10.0 ** rng.uniform(3, 19)


def one_large_weight(rng, x, w, stride):
    silence(rng, x, w, stride)
    w[rng.integers(len(w)), 0, rng.integers(w.shape[2])] = 1.8e19


def impulse(rng, x, w, stride):
    x[...] = 0
    x[0, rng.integers(x.shape[1]), 50 + rng.integers(2)] = rng.standard_normal()


@pytest.mark.parametrize("geometry", PAIRED)
@pytest.mark.parametrize(
    "spoil",
    [
        silence,
        silence_and_zero_taps,
        window,
        ramp,
        scales_of_taps,
        scales_of_samples,
        one_large_sample,
        one_large_weight,
        impulse,
    ],
)
def test_a_sample_leaves_no_error_where_it_is_not_needed(spoil, geometry):
    """Element by element: what the definition keeps apart stays apart, and silence is silent."""
    c_in, c_out, K, stride = geometry
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, w = rng.standard_normal((1, c_in, 120)), rng.standard_normal((c_in, c_out, K))
        spoil(rng, x, w, stride)
        bias = rng.standard_normal(c_out).astype("f4") if seed % 2 else None
        found, allowed, size = errors(x.astype("f4"), w.astype("f4"), stride, bias)
        assert (found <= allowed).all(), (found / np.maximum(allowed, 1e-300)).max()
        if spoil is not one_large_weight:
            assert (found[size == 0] == 0).all()


@pytest.mark.parametrize("geometry", [(64, 64, 4, 1), (256, 256, 3, 1), (512, 256, 16, 8)])
@pytest.mark.parametrize("taps", ["first", "last"])
def test_gradients_of_silence_are_silent(geometry, taps):
    """grad_x and conv1d, which are one computation."""
    c_in, c_out, K, stride = geometry
    rng = np.random.default_rng(0)
    w = rng.standard_normal((c_in, c_out, K)).astype("f4")
    w[..., slice(stride) if taps == "first" else slice(-stride, None)] = 0
    for silent in (100, 101):
        g = rng.standard_normal((1, c_out, 200 * stride + K - stride)).astype("f4")
        g[..., : silent * stride] = 0
        for grad in (g, np.ascontiguousarray(g[..., ::-1])):
            x = np.ones((1, c_in, 200), "f4")
            grad_x, *_ = convt1d.conv_transpose1d_backward(grad, x, w, stride=stride, needs=["x"])
            np.testing.assert_array_equal(grad_x, convt1d.conv1d(grad, w, stride=stride))
            size = convt1d.conv1d(abs(grad).astype(float), abs(w).astype(float), stride=stride)
            exact = convt1d.conv1d(grad.astype(float), w.astype(float), stride=stride)
            assert (grad_x[size == 0] == 0).all()
            assert (abs(grad_x - exact) <= 4 * np.sqrt(c_out * K) * np.finfo("f4").eps * size).all()


@pytest.mark.parametrize("geometry", PAIRED)
def test_an_impulse_returns_the_kernel(geometry):
    """To the last bit."""
    c_in, c_out, K, stride = geometry
    layer = convt1d.ConvTranspose1d(c_in, c_out, K, stride=stride, bias=False, rng=0)
    for at in (40, 41):
        x = np.zeros((1, c_in, 70), "f4")
        x[0, 7, at] = 1
        np.testing.assert_array_equal(layer(x)[0, :, at * stride : at * stride + K], layer.weight[7])


def test_plain_products_are_a_setting(monkeypatch):
    monkeypatch.setenv("CONVT1D_KERNEL", "plain")
    layer = convt1d.ConvTranspose1d(64, 32, 4, stride=2, rng=0)
    layer(np.zeros((64, 100), "f4"))
    ((kernel, _),) = layer._operator._kernels.values()
    assert "winograd" not in kernel.plan.kernel
    monkeypatch.setenv("CONVT1D_KERNEL", "other")
    with pytest.raises(ValueError, match="gemm, direct, plain, got 'other'"):
        convt1d.conv1d(np.zeros((1, 4)), np.zeros((1, 1, 2)))


LAYERS = json.loads((pathlib.Path(__file__).parents[2] / "bench" / "layers.json").read_text())["layers"]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [scales_of_taps, window, silence])
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case[0])
def test_real_layers_keep_the_bound(case, spoil):
    """All layers of bench/layers.json, with up to 512 channels in and out, as the package chooses their kernels."""
    _, _, c_in, c_out, K, stride, _, _, dilation, groups, _ = case
    c_in, c_out = min(c_in, 512), min(c_out, 512)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, c_in, 120)), rng.standard_normal((c_in, c_out // groups, K))
    spoil(rng, x, w, stride)
    x, w = x.astype("f4"), w.astype("f4")
    y = convt1d.conv_transpose1d(x, w, stride=stride, dilation=dilation, groups=groups)
    parts = list(zip(np.split(x.astype(float), groups, 1), np.split(w.astype(float), groups), strict=True))
    exact = np.concatenate([plain_sums(*part, stride, dilation) for part in parts], 1)
    size = np.concatenate([plain_sums(*map(abs, part), stride, dilation) for part in parts], 1)
    terms = c_in // groups * -(-K // stride) + 1
    assert (abs(y - exact) <= 4 * np.sqrt(terms) * np.finfo("f4").eps * size).all()
