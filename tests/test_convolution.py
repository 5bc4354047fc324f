# SPDX-License-Identifier: MIT
"""The convolution: against its definition, against torch where it is installed, and as the adjoint of the other."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d
from convt1d import conv1d
from convt1d.cpu import kernels

SETTINGS = st.tuples(
    st.sampled_from([None, *kernels.names()]),
    st.sampled_from([None, 1, 2, 5, 16, 40]),
)
DTYPES = {"f": (np.float32, np.float64), "c": (np.complex64, np.complex128)}


@settings(max_examples=1000)
@given(problem=naive.convolutions(), setting=SETTINGS, double=st.booleans(), workers=st.sampled_from([1, 2, 3]))
def test_naive_oracle(force, problem, setting, double, workers):
    dtype = DTYPES[problem.x.dtype.kind][double]
    x, w, b = (None if a is None else a.astype(dtype) for a in (problem.x, problem.w, problem.b))
    with force(*setting, threads=True):
        y = conv1d(x, w, b, **problem.geometry, workers=workers)
    s, p, d, g, mode = problem.geometry.values()
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, naive.conv1d(problem.x, problem.w, problem.b, s, p, d, g, mode))


# C_in, C_out, K, L: what is large in each is what some blocking inside a kernel has to cut.
LARGE = {
    "stride": ((2, 3, 150, 900), {"stride": 67, "padding": 33}),
    "stride-beyond-K": ((2, 3, 70, 1200), {"stride": 90, "padding": (3, 0)}),
    "stride-and-dilation": ((3, 2, 40, 900), {"stride": 6, "dilation": 4, "padding": 9}),
    "taps": ((3, 2, 700, 900), {"padding": 350}),
    "dilation": ((2, 2, 40, 6000), {"dilation": 130, "padding": (2400, 2200)}),
    "dilation-beyond-L": ((2, 2, 9, 50), {"stride": 6, "dilation": 1000, "padding": 8500}),
    "inputs": ((4000, 3, 7, 19), {"stride": 4}),
    "outputs": ((3, 1100, 4, 70), {"stride": 2, "padding": 1}),
    "inputs-and-outputs": ((6000, 600, 3, 11), {"stride": 2, "padding": 1}),
    "groups": ((300, 300, 2, 4), {"stride": 2, "groups": 300}),
    "length": ((1, 1, 4, 5000), {"stride": 2, "padding": 1}),
    "length-and-channels": ((40, 24, 5, 2000), {"stride": 3}),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_large(name, mode):
    (c_in, c_out, K, L), geometry = LARGE[name]
    rng = np.random.default_rng(0)
    groups = geometry.get("groups", 1)
    x = rng.integers(-4, 5, (2, c_in, L)).astype(np.float32)
    w = rng.integers(-4, 5, (c_out, c_in // groups, K)).astype(np.float32)
    s, p, d = (geometry.get(key, default) for key, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
    expected = naive.conv1d(x.astype(float), w.astype(float), None, s, p, d, groups, mode)
    np.testing.assert_array_equal(conv1d(x, w, padding_mode=mode, **geometry), expected)


@settings(max_examples=300)
@given(problem=naive.problems(modes=["zeros"]), workers=st.sampled_from([1, 2]))
def test_adjoint_to_the_last_bit(force, problem, workers):
    """<conv_transpose1d(x), y> == <x, conv1d(y)>, with the conjugate where numbers are complex."""
    x, w, geometry = problem.x, problem.w, dict(problem.geometry)
    rng = np.random.default_rng(x.size)
    with force(threads=True):
        up = convt1d.conv_transpose1d(x, w, **geometry, workers=workers)
        y = rng.integers(-8, 9, up.shape) * (1 if x.dtype.kind == "f" else 1 + 2j)
        left, right = np.broadcast_to(geometry["padding"], 2)
        if geometry.pop("output_padding") >= geometry["stride"] or up.shape[-1] + left + right < w.shape[2]:
            return
        spare = geometry["dilation"] * (w.shape[2] - 1) + 1
        if up.shape[-1] + left + right < spare:
            return
        down = conv1d(y, w.conj(), **geometry, workers=workers)
    assert down.shape == x.shape
    assert (up * y.conj()).sum() == (x * down.conj()).sum()


def test_same_and_valid():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 20)), rng.standard_normal((4, 3, 6))
    np.testing.assert_array_equal(conv1d(x, w, padding="valid"), conv1d(x, w))
    for dilation in (1, 2, 3):
        same = conv1d(x, w, padding="same", dilation=dilation)
        assert same.shape == (2, 4, 20)
        total = dilation * 5
        np.testing.assert_array_equal(same, conv1d(x, w, padding=(total // 2, total - total // 2), dilation=dilation))


def test_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x, w, b = rng.standard_normal((2, 6, 50)), rng.standard_normal((4, 3, 5)), rng.standard_normal(4)
    tensors = [torch.from_numpy(a) for a in (x, w, b)]
    for stride, padding, dilation in ((1, 0, 1), (2, 3, 2), (3, (2,), 1), (1, "same", 2), (1, "valid", 1)):
        expected = torch.nn.functional.conv1d(*tensors, stride, padding, dilation, 2).numpy()
        np.testing.assert_allclose(conv1d(x, w, b, stride, padding, dilation, 2), expected, rtol=1e-12, atol=1e-12)


def test_padding_modes_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 30))
    for mode in naive.MODES:
        module = torch.nn.Conv1d(3, 4, 5, 2, 3, padding_mode=mode, dtype=torch.float64)
        weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
        expected = module(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(conv1d(x, weight, bias, 2, 3, padding_mode=mode), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32", "complex64"])
def test_types(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(2)
    x, w = (rng.integers(-4, 5, shape).astype(dtype) for shape in ((2, 3, 20), (4, 3, 5)))
    y = conv1d(x, w, stride=2)
    assert y.dtype == (np.float64 if np.dtype(dtype).kind == "i" else dtype)
    np.testing.assert_array_equal(y.astype(complex), naive.conv1d(x.astype(complex), w.astype(complex), s=2))


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_nan_beyond_the_kernel_does_not_show(force, kernel, stride):
    """Also where the kernel is no multiple of the stride, so that some of its phases have a tap less than others."""
    for kernel_size in range(1, 8):
        x, w = np.ones((8, 40)), np.ones((8, 8, kernel_size))
        x[:, 20] = np.nan
        with force(kernel):
            y = conv1d(x, w, stride=stride)
        np.testing.assert_array_equal(y, naive.conv1d(x, w, s=stride))


def test_views_and_out():
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 60, 4)).transpose(0, 2, 1)[..., ::2], rng.standard_normal((3, 4, 5)).T
    expected = naive.conv1d(x, w, s=2, p=1)
    np.testing.assert_allclose(conv1d(x, w, stride=2, padding=1), expected, rtol=1e-12, atol=1e-12)
    out = np.empty_like(expected)
    assert conv1d(x, w, stride=2, padding=1, out=out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="out must have shape"):
        conv1d(x, w, stride=2, padding=1, out=out[:1])
    assert conv1d(x[:0], w).shape == (0, 5, 28)


@pytest.mark.parametrize("kernel", ["winograd", "fused_winograd"])
@pytest.mark.parametrize("dilation", [*range(1, 10), 15, 16, 17, 31, 40, 128, 300])
def test_pairs_within_residue_classes(kernel, dilation, monkeypatch):
    """Lengths around whole sets of columns, exact on integers; both operators."""
    monkeypatch.setenv("CONVT1D_KERNEL", kernel)
    rng = np.random.default_rng(dilation)
    shapes = ((2, 9, 70, 1), (3, 8, 4 * dilation, 2), (4, 3, 901, 1), (7, 17, 6 * dilation + 1, 3))
    for k, c_out, length, batch in shapes:
        span = dilation * (k - 1)
        x = rng.integers(-4, 5, (batch, 5, length))
        w, b = rng.integers(-4, 5, (c_out, 5, k)), rng.integers(-4, 5, c_out)
        left = int(rng.integers(0, span + 1))
        expected = naive.conv1d(x, w, b, 1, (left, span - left), dilation)
        transposed = naive.conv_transpose1d(x, w.transpose(1, 0, 2), b, 1, (left, span - left), 0, 1, dilation)
        for dtype in (np.float32, np.float64):
            arrays = x.astype(dtype), w.astype(dtype), b.astype(dtype)
            found = conv1d(*arrays, padding=(left, span - left), dilation=dilation, workers=2)
            np.testing.assert_array_equal(found, expected)
            found = convt1d.conv_transpose1d(
                arrays[0], arrays[1].transpose(1, 0, 2), arrays[2], padding=(left, span - left), dilation=dilation
            )
            np.testing.assert_array_equal(found, transposed)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"padding": "full"}, ValueError, "padding must be.*'same' or 'valid'.*'full'"),
        ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride 1.*2"),
        ({"dilation": 3}, ValueError, "kernel must not be longer.*length 5.*5 samples.*spans 7"),
        ({"groups": 3}, ValueError, "out_channels must be divisible by groups.*4.*3"),
    ],
)
def test_refused(given, error, words):
    x, w = np.ones((2, 3, 5)), np.ones((4, 3 // given.get("groups", 1), 3))
    with pytest.raises(error, match=words):
        conv1d(x, w, **given)


def test_channels_of_x():
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3, L\).*\(2, 4, 5\)"):
        conv1d(np.ones((2, 4, 5)), np.ones((4, 3, 3)))
