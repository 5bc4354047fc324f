# SPDX-License-Identifier: MIT
"""Activations: against float64 and NumPy, alone, in place, and in a layer's pass by every kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convt1d import Conv1d, ConvTranspose1d, activations
from convt1d.activations import ELU, LeakyReLU, ReLU, Snake, SnakeBeta, Tanh
from convt1d.cpu import kernels

EXACT = {
    "relu": (ReLU(), lambda x: np.maximum(x, 0)),
    "leaky": (LeakyReLU(0.25), lambda x: np.where(x > 0, x, 0.25 * x)),
    "elu": (ELU(1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(np.minimum(x, 0)))),
    "tanh": (Tanh(), np.tanh),
    "snake": (Snake(1.25), lambda x: x + np.sin(1.25 * x) ** 2 / 1.25),
    "snake, steep": (Snake(-300.0), lambda x: x - np.sin(300.0 * x) ** 2 / 300),
    "snakebeta": (SnakeBeta(0.5, 2.0), lambda x: x + np.sin(0.5 * x) ** 2 / 2),
}


@pytest.fixture(scope="module")
def numbers():
    """Of all magnitudes, dense where functions bend."""
    rng = np.random.default_rng(0)
    wide = rng.choice([-1, 1], 50_000) * np.exp(rng.uniform(-60, 5, 50_000))
    return np.concatenate([wide, rng.uniform(-40, 40, 50_000), rng.uniform(-2, 2, 50_000), [0.0, -0.0]])


@pytest.mark.parametrize("name", EXACT)
def test_at_most_two_units_in_the_last_place(name, numbers):
    activation, exact = EXACT[name]
    x = numbers.astype(np.float32)
    expected = exact(x.astype(np.float64))
    error = np.abs(activation(x).astype(np.float64) - expected)
    assert (error / np.spacing(np.abs(expected).astype(np.float32))).max() <= 2


@pytest.mark.parametrize("name", EXACT)
def test_float64(name, numbers):
    activation, exact = EXACT[name]
    np.testing.assert_allclose(activation(numbers), exact(numbers), rtol=4e-16 * 8, atol=1e-18)


@pytest.mark.parametrize("scale", [1e3, 1e5, 1e7, 1e20])
def test_sine_of_large_numbers(scale):
    x = (np.random.default_rng(0).uniform(-1, 1, 1000) * scale).astype(np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(Snake(1.0)(x), wide + np.sin(wide) ** 2, rtol=2.4e-7)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_inf_as_numpy_has_them(name, dtype):
    activation, exact = EXACT[name]
    x = np.array([np.nan, np.inf, -np.inf, 1.0], dtype)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(activation(x), exact(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_result_does_not_depend_on_its_place(name, dtype, numbers):
    activation, _ = EXACT[name]
    x = numbers[-1001:].astype(dtype)
    y = activation(x)
    for start, stop in ((1, 1001), (7, 8), (500, 519), (990, 1001)):
        assert activation(x[start:stop]).tobytes() == y[start:stop].tobytes()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_arrays_of_any_layout(workers):
    x = np.random.default_rng(0).standard_normal((3, 4, 20_001)).astype(np.float32)
    activation = Snake([0.5, 1.0, 2.0, 4.0])
    expected = x + np.sin(np.array([[0.5], [1], [2], [4]]) * x) ** 2 / np.array([[0.5], [1], [2], [4]])
    for given_ in (x, np.asfortranarray(x), x.swapaxes(1, 2).copy().swapaxes(1, 2), np.repeat(x, 2, -1)[..., ::2]):
        np.testing.assert_allclose(activation(given_, workers=workers), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(activation(x[0], workers=workers), expected[0], rtol=1e-6, atol=1e-6)
    assert activation(x, out=x) is x
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6)
    assert activation(x[:0]).shape == (0, 4, 20_001)


@pytest.mark.parametrize("name", EXACT)
def test_backward_is_the_derivative(name):
    activation, exact = EXACT[name]
    x = np.random.default_rng(0).uniform(-2, 2, (2, 3, 50)) + 1e-3
    step = 1e-6
    slope = (exact(x + step) - exact(x - step)) / (2 * step)
    gradient = np.random.default_rng(1).standard_normal(x.shape)
    np.testing.assert_allclose(activation.backward(gradient, x), gradient * slope, rtol=1e-4, atol=1e-7)


GEOMETRY = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 9),
        "stride": st.integers(1, 5),
        "dilation": st.integers(1, 4),
        "padding_mode": st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    }
)
CHOICE = st.sampled_from([None, "leaky", "elu", "snake"])


@settings(max_examples=300)
@given(
    geometry=GEOMETRY,
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 1, 2])),
    length=st.integers(1, 70),
    batch=st.integers(1, 5),
    transposed=st.booleans(),
    names=st.tuples(CHOICE, CHOICE, st.booleans()),
    kernel=st.sampled_from([None, *kernels.names()]),
    tile=st.sampled_from([None, 1, 5, 40]),
    dtype=st.sampled_from([np.float32, np.float64]),
    channels_last=st.booleans(),
    workers=st.sampled_from([1, 3]),
)
def test_in_a_layers_pass_as_before_and_behind_it(
    force, geometry, channels, length, batch, transposed, names, kernel, tile, dtype, channels_last, workers
):
    """The same bits as three passes, by every kernel."""
    c_in, c_out, groups = (c * channels[2] for c in channels[:2]), None, channels[2]
    c_in, c_out = c_in
    rng = np.random.default_rng(length)
    x = rng.standard_normal((batch, c_in, length)).astype(dtype)
    layer = (ConvTranspose1d if transposed else Conv1d)(c_in, c_out, groups=groups, dtype=dtype, rng=0, **geometry)
    chosen = [EXACT[name][0] if name else None for name in names[:2]]
    if names[0] == "snake":
        chosen[0] = Snake(rng.uniform(0.5, 2, c_in))
    if names[1] == "snake":
        chosen[1] = Snake(rng.uniform(0.5, 2, c_out))
    if channels_last:
        x = np.ascontiguousarray(x.swapaxes(1, 2))

    def over_channels(activation, a):
        a = a.swapaxes(1, 2) if channels_last else a
        a = activation(a) if activation else a
        return a.swapaxes(1, 2) if channels_last else a

    with force(kernel, tile, threads=True):
        try:
            expected = layer(over_channels(chosen[0], x), channels_last=channels_last)
        except ValueError:  # shorter than the kernel
            return
        expected = over_channels(chosen[1], expected)
        add = rng.standard_normal(expected.shape).astype(dtype) if names[2] else None
        expected = expected if add is None else expected + add
        y = layer(x, before=chosen[0], after=chosen[1], add=add, channels_last=channels_last, workers=workers)
    np.testing.assert_array_equal(y, expected)


def test_layers_too_deep_to_be_loaded_at_once():
    rng = np.random.default_rng(0)
    for layer in (Conv1d(2048, 64, 3, padding=1, rng=0), ConvTranspose1d(2048, 16, 16, stride=8, padding=4, rng=0)):
        x = rng.standard_normal((1, 2048, 200)).astype(np.float32)
        before, after = Snake(rng.uniform(0.5, 2, 2048)), Snake(rng.uniform(0.5, 2, layer.out_channels))
        np.testing.assert_array_equal(layer(x, before=before, after=after), after(layer(before(x))))


def test_large_outputs_stored_past_the_caches():
    layer = ConvTranspose1d(64, 64, 8, stride=4, groups=64, padding=2, rng=0)
    x = np.random.default_rng(0).standard_normal((1, 64, 60_000)).astype(np.float32)
    first = layer(x)
    del first  # the next output's memory was used before
    np.testing.assert_array_equal(layer(x, after=Tanh()), Tanh()(layer(x)))


WRONG = {
    "no activation": (
        lambda: Conv1d(2, 2, 1)(np.ones((2, 3)), before=np.tanh),
        TypeError,
        "before must be an activation",
    ),
    "channels before": (
        lambda: Conv1d(2, 3, 1)(np.ones((2, 3)), before=Snake([1.0] * 3)),
        ValueError,
        "before .* 2 chan",
    ),
    "channels after": (lambda: Conv1d(2, 3, 1)(np.ones((2, 3)), after=Snake([1.0] * 2)), ValueError, "after .* 3 chan"),
    "add's shape": (
        lambda: Conv1d(2, 3, 1)(np.ones((2, 3)), add=np.ones((3, 2))),
        ValueError,
        r"add must have shape \(3, 3\)",
    ),
    "add's type": (lambda: Conv1d(2, 3, 1)(np.ones((2, 3)), add=np.ones((3, 3), complex)), TypeError, "add .* complex"),
    "complex": (lambda: Conv1d(2, 3, 1, dtype=complex)(np.ones((2, 3)), after=Tanh()), TypeError, "after .* complex"),
    "beta 0": (lambda: SnakeBeta(1.0, 0.0), ValueError, "beta must not be 0"),
    "alpha's shape": (lambda: Snake(np.ones((2, 3))), ValueError, "alpha must be a number or one for each"),
    "alpha NaN": (lambda: Snake([1.0, np.nan]), ValueError, "alpha must hold finite"),
    "slope": (lambda: LeakyReLU("a"), TypeError, "slope must be a number"),
    "array's channels": (lambda: Snake([1.0, 2.0])(np.ones((3, 4))), ValueError, r"x must have shape \(N, 2, L\)"),
    "complex array": (lambda: Tanh()(np.ones(3, complex)), TypeError, "x must be real"),
    "out": (lambda: Tanh()(np.ones(3), out=np.ones(4)), ValueError, "out must have shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        call()


def test_out_must_not_be_the_residual():
    x = np.ones((2, 5), np.float32)
    with pytest.raises(ValueError, match="out must not overlap add"):
        Conv1d(2, 2, 1)(x, add=(y := np.ones((2, 5), np.float32)), out=y)


def test_repr_and_equality():
    assert repr(Snake([1.0, 2.0])) == "Snake(<2 channels>)"
    assert repr(LeakyReLU(0.1)) == "LeakyReLU(0.1)"
    assert ELU(2.0) == ELU(2) != ELU(1.0)
    assert activations.ReLU() != Tanh()
