# SPDX-License-Identifier: MIT
"""Initial weights that mean something: lines stay lines, SciPy's filters come out, phases are equal.

The default, uniform ones are tested with the layer.
"""

import re

import naive
import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from convt1d import ConvTranspose1d, conv_transpose1d, initialize

# kernel_size and stride: odd and even, a multiple of the stride and not, the shortest that linear takes, no stride
KERNELS = [(1, 1), (3, 2), (4, 2), (5, 2), (16, 8), (15, 8), (7, 4), (10, 5), (5, 3), (6, 3), (41, 2), (30, 7)]
# in_channels, out_channels, groups
CHANNELS = [(1, 1, 1), (3, 3, 3), (3, 3, 1), (2, 6, 2), (1, 4, 1), (6, 2, 1), (5, 2, 1), (4, 4, 2), (2, 5, 1)]


def layer_with(weight, stride, groups=1, **given):
    in_channels, per_group, kernel_size = weight.shape
    layer = ConvTranspose1d(
        in_channels, per_group * groups, kernel_size, stride, groups=groups, bias=False, dtype=float, **given
    )
    layer.weight = weight
    return layer


def positions(length, kernel_size, stride):
    """Where the outputs of a layer without padding lie, in input samples."""
    return (np.arange(length) - (kernel_size - 1) / 2) / stride


def phases(weight, stride):
    """The taps (phase, m) of a kernel, with zeros for those that a shorter phase lacks."""
    taps = weight.ravel()
    return np.pad(taps, (0, -taps.size % stride)).reshape(-1, stride).T


# --- interpolation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_linear_keeps_straight_lines(kernel_size, stride):
    line = 3 - 0.5 * np.arange(30)
    y = layer_with(initialize.linear(1, 1, kernel_size, stride), stride)(line[None])[0]
    at = positions(y.size, kernel_size, stride)
    inside = (at >= 0) & (at <= 29)
    np.testing.assert_allclose(y[inside], 3 - 0.5 * at[inside], rtol=0, atol=1e-13)
    assert inside.sum() > 29 * stride - 1


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_linear_is_interp(kernel_size, stride):
    x = np.random.default_rng(0).standard_normal(40)
    y = layer_with(initialize.linear(1, 1, kernel_size, stride), stride, padding_mode="replicate")(x[None])[0]
    expected = np.interp(positions(y.size, kernel_size, stride), np.arange(x.size), x)  # constant beyond the ends
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)


def test_linear_is_the_layer_of_fully_convolutional_networks():
    """Bilinear initial weights as Long et al. (2015) publish them, of one dimension."""
    for size in (2, 3, 4, 7, 8, 16):
        factor = (size + 1) // 2
        center = factor - 1 if size % 2 == 1 else factor - 0.5
        published = 1 - abs(np.arange(size) - center) / factor
        np.testing.assert_allclose(initialize.linear(1, 1, size, factor)[0, 0], published, rtol=1e-15)


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_both_keep_constants_and_are_symmetric(kernel_size, stride):
    for weight in (initialize.linear(1, 1, kernel_size, stride), initialize.windowed_sinc(1, 1, kernel_size, stride)):
        assert (weight.shape, weight.dtype) == ((1, 1, kernel_size), np.float64)
        np.testing.assert_allclose(phases(weight, stride).sum(axis=1), 1, rtol=1e-14)
        np.testing.assert_allclose(weight, weight[..., ::-1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
def test_windowed_sinc_is_the_filter_of_resample_poly(stride):
    """But for the sum of each phase, which firwin leaves a few parts in 10^4 off."""
    K = 20 * stride + 1
    taps = initialize.windowed_sinc(1, 1, K, stride).ravel()
    # firwin knows no cutoff at half the sampling rate: a sinc at whole numbers
    designed = scipy.signal.firwin(K, 1 / stride, window=("kaiser", 5.0)) * stride if stride > 1 else np.eye(1, K, 10)
    np.testing.assert_allclose(taps, designed.ravel(), rtol=0, atol=1e-3)
    normalised = phases(designed, stride) / phases(designed, stride).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(phases(taps, stride), normalised, rtol=0, atol=1e-14)

    x = np.random.default_rng(0).standard_normal((2, 300))
    expected = scipy.signal.resample_poly(x, stride, 1, axis=-1)
    y = conv_transpose1d(x[:, None], taps[None, None], None, stride, 10 * stride, stride - 1)[:, 0]
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-3)
    np.testing.assert_allclose(y[:, ::stride], x, rtol=0, atol=1e-14)  # the inputs themselves


@pytest.mark.parametrize("window", ["hann", ("kaiser", 8.0), ("gaussian", 20), 6.0])
@pytest.mark.parametrize(("kernel_size", "stride"), [(80, 4), (81, 4), (83, 4), (61, 3)])
def test_windows(kernel_size, stride, window):
    taps = initialize.windowed_sinc(1, 1, kernel_size, stride, window=window).ravel()
    designed = phases(scipy.signal.firwin(kernel_size, 1 / stride, window=window), stride)
    designed /= designed.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(phases(taps, stride), designed, rtol=0, atol=1e-14)


@pytest.mark.parametrize("stride", [2, 3, 8])
@pytest.mark.parametrize("even", [0, 1])
def test_images_are_suppressed(stride, even):
    """The images of DC are gone, those of a band-limited signal below -50 dB; linear interpolation leaves -20 dB."""
    K, size = 20 * stride + 1 + even, 64 * stride
    frequencies = np.fft.rfftfreq(size) * stride  # in units of the input's sampling rate
    sinc, line = (
        np.abs(np.fft.rfft(make(1, 1, K, stride).ravel(), size)) / stride
        for make in (initialize.windowed_sinc, initialize.linear)
    )
    np.testing.assert_allclose(sinc[0], 1, rtol=1e-13)
    np.testing.assert_allclose(sinc[64::64], 0, atol=1e-13)
    passes, stops = frequencies < 0.4, frequencies > 0.6
    np.testing.assert_allclose(sinc[passes], 1, atol=4e-3)
    assert sinc[stops].max() < 10 ** (-50 / 20)
    assert line[stops].max() > 10 ** (-20 / 20)  # so the test can tell


# --- channels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs", "groups"), CHANNELS)
@pytest.mark.parametrize("make", [initialize.linear, initialize.windowed_sinc])
def test_channels(make, inputs, outputs, groups):
    """Each output channel is one input channel, or the mean of several, interpolated."""
    x = np.random.default_rng(0).standard_normal((inputs, 20))
    weight, one = make(inputs, outputs, 7, 3, groups), make(1, 1, 7, 3)
    assert weight.shape == (inputs, outputs // groups, 7)
    I, O = inputs // groups, outputs // groups  # noqa: E741
    mixed = []
    for g in range(groups):
        for o in range(O):
            sources = [o % I] if I <= O else [i for i in range(I) if i % O == o]
            mixed.append(x[[g * I + i for i in sources]].mean(axis=0))
    expected = naive.conv_transpose1d(np.array(mixed)[:, None], one, s=3)[:, 0]
    np.testing.assert_allclose(layer_with(weight, 3, groups)(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.complex64])
@pytest.mark.parametrize("make", [initialize.linear, initialize.windowed_sinc, initialize.subpixel])
def test_assigned_to_a_layer_of_any_type(make, dtype):
    layer = ConvTranspose1d(4, 2, 8, stride=4, groups=2, dtype=dtype)
    layer.weight = make(4, 2, 8, 4, 2)
    assert (layer.weight.dtype, abs(layer.weight).max() > 0) == (dtype, True)


# --- sub-pixel ----------------------------------------------------------------------------------------------


@given(
    kernel_size=st.integers(1, 20),
    stride=st.integers(1, 8),
    channels=st.sampled_from(CHANNELS),
    seed=st.integers(0, 2**32),
)
def test_subpixel_repeats_what_stride_1_gives(kernel_size, stride, channels, seed):
    inputs, outputs, groups = channels
    kernel_size = max(kernel_size, stride)
    weight = initialize.subpixel(inputs, outputs, kernel_size, stride, groups, rng=seed)
    whole = kernel_size // stride * stride
    assert (weight[..., :whole].reshape(-1, stride) == weight[..., :whole:stride].reshape(-1, 1)).all()
    assert not weight[..., whole:].any()
    assert weight[..., :whole].all()  # drawn, all of them

    x = np.random.default_rng(seed).standard_normal((inputs, 9))
    expected = naive.conv_transpose1d(x, weight[..., :whole:stride], g=groups).repeat(stride, axis=-1)
    y = layer_with(weight, stride, groups)(x)
    np.testing.assert_allclose(y[..., : expected.shape[-1]], expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(y[..., expected.shape[-1] :], 0)


def test_subpixel_is_drawn_as_the_default_is():
    weight = initialize.subpixel(40, 60, 17, 4, 2, rng=0)
    bound = 1 / np.sqrt(30 * 17)
    drawn = weight[..., :16:4]
    assert np.abs(drawn).max() <= bound
    assert abs(drawn.mean()) < 5 * bound / np.sqrt(3 * drawn.size)
    assert abs(drawn.std() * np.sqrt(3) / bound - 1) < 2.5 / np.sqrt(drawn.size)
    np.testing.assert_array_equal(weight, initialize.subpixel(40, 60, 17, 4, 2, rng=np.random.default_rng(0)))
    assert not np.array_equal(weight, initialize.subpixel(40, 60, 17, 4, 2, rng=1))
    assert not np.array_equal(*(initialize.subpixel(1, 1, 4, 2) for _ in range(2)))


# --- bad input ----------------------------------------------------------------------------------------------

ALL = (initialize.linear, initialize.windowed_sinc, initialize.subpixel)


def refuse(error, words, make, *args, **kwargs):
    with pytest.raises(error) as caught:
        make(*args, **kwargs)
    assert caught.type is error
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} not in {caught.value}"


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("name", ["in_channels", "out_channels", "kernel_size", "stride", "groups"])
def test_parameters(make, name):
    fine = {"in_channels": 2, "out_channels": 4, "kernel_size": 6, "stride": 2}
    for value, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)):
        refuse(error, [name, re.escape(str(value))], make, **fine | {name: value})
    np.testing.assert_array_equal(
        make(2, 4, (6,), [2], **{"rng": 0} if make is ALL[2] else {}),
        make(2, 4, 6, 2, **{"rng": 0} if make is ALL[2] else {}),
    )
    refuse(ValueError, ["in_channels must be divisible by groups", "2", "3"], make, **fine, groups=3)


def test_kernels_too_short():
    refuse(ValueError, ["kernel_size", r"2 \* stride - 1", "kernel_size=6", "stride=4"], initialize.linear, 1, 1, 6, 4)
    for make in ALL[1:]:
        refuse(ValueError, ["kernel_size", "at least stride", "kernel_size=3", "stride=4"], make, 1, 1, 3, 4)


def test_windows_that_cannot_be():
    refuse(ValueError, ["every phase", "'hann'", "kernel_size=4"], initialize.windowed_sinc, 1, 1, 4, 4, window="hann")
    with pytest.raises(ValueError, match=r"(?i)window"):
        initialize.windowed_sinc(1, 1, 9, 2, window="no such window")


@pytest.mark.parametrize(("rng", "error"), [(-1, ValueError), ("1", TypeError), (1.5, TypeError), (True, TypeError)])
def test_rng(rng, error):
    refuse(error, ["rng", re.escape(str(rng))], initialize.subpixel, 1, 1, 4, 2, rng=rng)
