# SPDX-License-Identifier: MIT
"""`channels_last=True`: the same numbers as for the transposed arrays, read and written as they lie."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d
from convt1d.cpu import kernels

KERNELS = [None, *kernels.names()]
DTYPES = {"f": (np.float32, np.float64), "c": (np.complex64, np.complex128)}


def turned(a):
    """The other layout, in an array of its own."""
    return np.ascontiguousarray(a.swapaxes(-1, -2))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tile", [None, 1, 16])
def test_vectors(cases, force, kernel, tile):
    with force(kernel, tile):
        for case in cases:
            y = convt1d.conv_transpose1d(turned(case.x), case.w, case.b, **case.geometry, channels_last=True)
            np.testing.assert_array_equal(y, turned(case.y), err_msg=f"case {case.id}")


@settings(max_examples=150)
@given(
    problem=naive.problems(longest=150),
    kernel=st.sampled_from(KERNELS),
    tile=st.sampled_from([None, 1, 5, 40]),
    double=st.booleans(),
    workers=st.integers(1, 3),
)
def test_naive_oracle(force, problem, kernel, tile, double, workers):
    dtype = DTYPES[problem.x.dtype.kind][double]
    x, w, b = (None if a is None else a.astype(dtype) for a in (problem.x, problem.w, problem.b))
    s, p, op, g, d, mode = problem.geometry.values()
    expected = turned(naive.conv_transpose1d(problem.x, problem.w, problem.b, s, p, op, g, d, mode))
    out = np.full(expected.shape, np.nan, dtype)
    with force(kernel, tile, threads=True):
        y = convt1d.conv_transpose1d(turned(x), w, b, **problem.geometry, channels_last=True, out=out, workers=workers)
        # the layouts of x and of the result do not depend on how x lies in memory
        backwards = turned(x)[..., ::-1, ::-1].copy()[..., ::-1, ::-1]
        strided = convt1d.conv_transpose1d(backwards, w, b, **problem.geometry, channels_last=True)
        view = convt1d.conv_transpose1d(x.swapaxes(-1, -2), w, b, **problem.geometry, channels_last=True)
    assert y is out
    for result in (y, strided, view):
        assert result.flags.c_contiguous
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)


# What is large in each is what some blocking inside a kernel has to cut.
@pytest.mark.parametrize(
    ("sizes", "geometry"),
    [
        ((2, 3, 150, 9), {"stride": 67, "padding": 33}),
        ((2, 3, 70, 12), {"stride": 90, "padding": (3, 0), "output_padding": 89}),
        ((3, 200, 5, 300), {"stride": 3, "dilation": 2}),
        ((4000, 3, 4, 9), {"stride": 2}),
        ((3, 1100, 4, 70), {"stride": 2, "padding": 1}),
        ((270, 130, 3, 40), {"groups": 10, "dilation": 2, "padding": 2}),
        ((300, 300, 2, 700), {"stride": 2, "groups": 300}),
        ((1, 1, 4, 5000), {"stride": 2, "padding": 1}),
        ((2, 2, 4, 5000), {"stride": 4, "padding": 1}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_large(force, sizes, geometry, dtype):
    c_in, c_out, kernel_size, length = sizes
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (2, c_in, length)).astype(dtype)
    w = rng.integers(-4, 5, (c_in, c_out // geometry.get("groups", 1), kernel_size)).astype(dtype)
    expected = turned(convt1d.conv_transpose1d(x, w, **geometry))
    for kernel in KERNELS:
        with force(kernel, threads=True):
            y = convt1d.conv_transpose1d(turned(x), w, **geometry, channels_last=True, workers=2)
        np.testing.assert_array_equal(y, expected, err_msg=f"kernel {kernel}")


@pytest.mark.parametrize("dtype", ["float16", "int16", "float32"])
def test_a_layer_both_ways(dtype):
    layer = convt1d.ConvTranspose1d(6, 4, 5, stride=3, padding=1, dtype=np.float32, rng=0)
    x = np.random.default_rng(0).integers(-9, 10, (2, 6, 70)).astype(dtype)
    for _ in range(2):
        y = layer(x)
        np.testing.assert_allclose(layer(turned(x), channels_last=True), turned(y), rtol=1e-6, atol=1e-6)
    assert layer(turned(x)[0], channels_last=True).shape == (y.shape[-1], 4)


def test_empty_batch():
    layer = convt1d.ConvTranspose1d(6, 4, 5)
    assert layer(np.ones((0, 7, 6), np.float32), channels_last=True).shape == (0, 11, 4)


def test_output_size():
    layer = convt1d.ConvTranspose1d(3, 2, 4, stride=2, rng=0)
    x = np.random.default_rng(0).standard_normal((1, 9, 3)).astype(np.float32)
    for size in (21, (21,), (1, 21, 2)):
        y = layer(x, size, channels_last=True)
        np.testing.assert_allclose(y, turned(layer(turned(x), 21)), atol=1e-6, err_msg=f"output_size {size}")
    with pytest.raises(ValueError, match=r"output_size must be \(1, 'L_out', 2\) in full, got \(1, 2, 21\)"):
        layer(x, (1, 2, 21), channels_last=True)
    with pytest.raises(ValueError, match=r"output_size must be \(1, 2, 'L_out'\) in full, got \(1, 21, 2\)"):
        layer(turned(x), (1, 21, 2))


@pytest.mark.parametrize("flag", [1, 0, None, "last", np.array([True])])
def test_flag_of_other_kinds(flag):
    layer = convt1d.ConvTranspose1d(3, 2, 4)
    for call in (lambda: layer(np.ones((1, 9, 3)), channels_last=flag),
                 lambda: convt1d.conv_transpose1d(np.ones((1, 9, 3)), layer.weight, channels_last=flag)):  # fmt: skip
        with pytest.raises(TypeError, match="channels_last must be True or False, got"):
            call()


def test_numpy_bool_is_a_flag():
    layer = convt1d.ConvTranspose1d(3, 2, 4)
    assert layer(np.ones((1, 9, 3)), channels_last=np.True_).shape == (1, 12, 2)


@pytest.mark.parametrize("shape", [(1, 3, 9), (3, 9), (2, 2, 9, 3), (9,)])
def test_shape_of_x(shape):
    layer = convt1d.ConvTranspose1d(3, 2, 4)
    with pytest.raises(ValueError, match=r"x must .*got (shape )?\(" + str(shape[0])):
        layer(np.ones(shape), channels_last=True)
    if len(shape) in (2, 3):
        with pytest.raises(ValueError, match=r"\(N, L, 3\) or \(L, 3\)"):
            layer(np.ones(shape), channels_last=True)


def test_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr("convt1d.arrays.is_device_array", lambda value: True)
    with pytest.raises(ValueError, match="channels_last must be False for arrays on a GPU, got True"):
        convt1d.ConvTranspose1d(3, 2, 4)(object(), channels_last=True)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("layer_type", [convt1d.ConvTranspose1d, convt1d.Conv1d])
def test_streams(layer_type, mode):
    """Chunks of (n, C) or (N, n, C) what the layer gives for the whole signal; so do `out` and states."""
    layer = layer_type(3, 2, 5, stride=2, padding=(2, 1), padding_mode=mode, dtype=np.float64, rng=0)
    rng = np.random.default_rng(0)
    for shape in ((60, 3), (2, 60, 3)):
        x = rng.standard_normal(shape)
        expected = layer(x, channels_last=True)
        stream, plain, twin = layer.stream(channels_last=True), layer.stream(), layer.stream(channels_last=True)
        pieces = []
        for chunk in np.split(x, [1, 2, 9, 9, 40], axis=-2):
            size = plain.process(turned(chunk)).shape[-1]
            out = np.empty((*shape[:-2], size, 2))
            assert stream.process(chunk, out) is out
            pieces.append(out)
        twin.restore(stream.state())
        pieces.append(stream.flush())
        np.testing.assert_array_equal(twin.flush(), pieces[-1])
        assert pieces[-1].flags.c_contiguous
        np.testing.assert_allclose(np.concatenate(pieces, axis=-2), expected, rtol=1e-13, atol=1e-13)
    assert layer.stream(channels_last=True).flush().shape == (0, 2)
    with pytest.raises(ValueError, match=r"chunk must have shape \(N, L, 3\) .* got \(3, 8\): channels_last=False\?"):
        layer.stream(channels_last=True).process(np.ones((3, 8)))
