# SPDX-License-Identifier: MIT
"""The same bits: for any number of workers, alone and in a batch, in a longer signal."""

import machines
import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import DTYPES, SEEDS, SETTINGS, WORKERS, normal

import convt1d
from convt1d import geometry, threads
from convt1d.cpu import kernels, plan
from convt1d.cpu.problem import problem_of


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize(
    ("batch", "c_in", "groups", "c_out", "k", "stride", "length"),
    [
        (70, 12, 12, 12, 8, 2, 90),  # far more items than parts of a share
        (1, 40, 1, 100, 10, 5, 70),  # one tile, whose weight blocks are shared out
        (2, 40, 1, 30, 8, 4, 1500),  # tiles read in place, but for both ends, and their blocks
        (3, 8, 1, 1, 3, 1, 65),  # fewer items than threads
    ],
)
def test_every_item_is_done_once(batch, c_in, groups, c_out, k, stride, length, kernel, monkeypatch):
    """However the threads share them out."""
    monkeypatch.setenv("CONVT1D_KERNEL", kernel)
    monkeypatch.setattr(threads, "SERIAL_SECONDS", 1e-12)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, c_in, length)).astype("float32")
    layer = convt1d.ConvTranspose1d(c_in, c_out, k, stride=stride, groups=groups, dtype="float32", rng=1)
    alone = layer(x, workers=1)
    for workers in (2, 3, 7, 40):
        np.testing.assert_array_equal(layer(x, out=np.full_like(alone, np.nan), workers=workers), alone)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize(("c_out", "k", "stride"), [(16, 5, 2), (24, 3, 1), (5, 16, 8)])
@pytest.mark.parametrize("kernel", ["direct", "fused", "winograd", "fused_winograd"])
def test_sums_are_the_same_in_every_column(c_out, k, stride, dtype, kernel, monkeypatch):
    """A last vector may be whole, half, or a few columns along the rows: what precedes it says what it must hold."""
    monkeypatch.setenv("CONVT1D_KERNEL", kernel)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((1, 11, 120)).astype(dtype)
    layer = convt1d.ConvTranspose1d(11, c_out, k, stride=stride, dtype=dtype, rng=1)
    whole = layer(x)
    for length in range(1, 70):
        within = slice(stride * length)  # met by no later sample
        np.testing.assert_array_equal(layer(x[..., :length])[..., within], whole[..., within])


@pytest.mark.parametrize("kernel", ["", "direct", "gemm", "winograd", "fused_winograd"])
@pytest.mark.parametrize(
    ("c_in", "c_out", "k", "stride", "dilation"), [(8, 4, 4, 2, 1), (5, 3, 3, 1, 2), (16, 2, 7, 3, 1), (1, 1, 16, 8, 1)]
)
def test_signals_side_by_side_have_the_bits_of_one_alone(c_in, c_out, k, stride, dilation, kernel, monkeypatch):
    """A batch is one long signal where that saves parts of vectors: lengths around their multiples."""
    monkeypatch.setenv("CONVT1D_KERNEL", kernel)
    given = geometry.check(c_in, c_out, k, stride, 1, 0, 1, dilation)
    chosen = kernels.choose(problem_of(given, np.dtype("float32")), machines.ZEN4)
    rng = np.random.default_rng(0)
    layer = convt1d.ConvTranspose1d(c_in, c_out, k, stride=stride, padding=1, dilation=dilation, rng=0)
    merged = 0
    for length in (65, 79, 80, 96, 97, 128, 129, 255, 256):
        x = rng.standard_normal((5, c_in, length)).astype("float32")
        x[2, 0, -1] = np.inf  # and nothing crosses over
        merged += plan.cut(chosen, machines.ZEN4, 1, 5, length, layer.output_length(length)).merged
        np.testing.assert_array_equal(layer(x), [layer(one) for one in x])
    assert (merged > 0) == chosen.consistent


@given(problem=naive.problems(longest=200), setting=SETTINGS, double=st.booleans(), seed=SEEDS)
def test_alone_as_in_the_batch(force, problem, setting, double, seed):
    """To the last bit for more than 64 samples; shorter signals may be merged into one product."""
    rng, dtype = np.random.default_rng(seed), DTYPES[problem.x.dtype.kind][double]
    x, w = normal(rng, (3, *problem.x.shape[-2:]), dtype), normal(rng, problem.w.shape, dtype)
    with force(*setting):
        batch = convt1d.conv_transpose1d(x, w, **problem.geometry)
        alone = [convt1d.conv_transpose1d(sample, w, **problem.geometry) for sample in x]
        of_two = convt1d.conv_transpose1d(x[:2], w, **problem.geometry)
    if x.shape[-1] > 64:
        np.testing.assert_array_equal(batch, alone)
        np.testing.assert_array_equal(batch[:2], of_two)
    else:
        rounding = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(batch, alone, rtol=rounding, atol=rounding)
        np.testing.assert_allclose(batch[:2], of_two, rtol=rounding, atol=rounding)


@given(problem=naive.problems(longest=200), setting=SETTINGS, double=st.booleans(), seed=SEEDS)
def test_workers_give_the_same_bits(force, problem, setting, double, seed):
    rng, dtype = np.random.default_rng(seed), DTYPES[problem.x.dtype.kind][double]
    x, w = normal(rng, problem.x.shape, dtype), normal(rng, problem.w.shape, dtype)
    with force(*setting, threads=True):
        one, *more = (convt1d.conv_transpose1d(x, w, **problem.geometry, workers=n) for n in WORKERS)
    for other in more:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_workers_give_the_same_bits_on_long_signals(dtype):
    """Tiles and blocks as the package chooses them, enough for four threads."""
    rng = np.random.default_rng(0)
    x, w = normal(rng, (2, 32, 3000), dtype), normal(rng, (32, 48, 16), dtype)
    one, *more = (convt1d.conv_transpose1d(x, w, stride=8, workers=n) for n in WORKERS)
    for other in more:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kernel", ["direct", "fused", "winograd", "fused_winograd"])
@pytest.mark.parametrize("stride", range(1, 10))
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_a_sample_has_the_same_bits_in_a_longer_signal(force, kernel, stride, dtype):
    """However the signal is cut into tiles and registers; whatever part of a kernel's taps the last phases lack."""
    rng = np.random.default_rng(0)
    for kernel_size in range(1, 2 * stride + 3):
        x, w = normal(rng, (3, 400), dtype), normal(rng, (3, 5, kernel_size), dtype)
        with force(kernel):
            whole = convt1d.conv_transpose1d(x, w, stride=stride)
            for length in (5, 17, 33, 100, 201):
                done = (length - 1) * stride + 1 - stride * (kernel_size // stride)
                if done > 0:
                    part = convt1d.conv_transpose1d(x[:, :length], w, stride=stride)
                    np.testing.assert_array_equal(part[:, :done], whole[:, :done])


@pytest.mark.parametrize("sample", [1e25, -1e4, np.inf, np.nan])
@pytest.mark.parametrize(
    ("geometry", "more"),
    [
        ((128, 64, 4, 2), {}),
        ((512, 64, 16, 8), {}),
        ((256, 256, 7, 1), {}),
        ((256, 256, 7, 1), {"dilation": 3}),
        ((64, 64, 4, 1), {}),
    ],
)
def test_one_sample_changes_no_bits_out_of_its_reach(geometry, more, sample):
    """However a signal is cut, and whatever the sample: the whole signal, a stream and a batch agree."""
    c_in, c_out, K, stride = geometry
    layer = convt1d.ConvTranspose1d(c_in, c_out, K, stride=stride, rng=0, **more)
    reach = more.get("dilation", 1) * (K - 1) + 1
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, c_in, 700)).astype("f4")
    without = layer(x)
    for at in (398, 399):
        other = x.copy()
        other[0, 3, at] = sample
        y = layer(other)
        for beyond in (slice(at * stride), slice(at * stride + reach, None)):
            np.testing.assert_array_equal(y[..., beyond], without[..., beyond])
        np.testing.assert_array_equal(y[0], layer(other[0], workers=2))
        for chunk in (100, 133):
            stream = convt1d.ConvTranspose1dStream(layer)
            pieces = [stream.process(other[..., i : i + chunk]) for i in range(0, 700, chunk)]
            found = np.concatenate(pieces, axis=-1)
            np.testing.assert_array_equal(found, y[..., : found.shape[-1]])
