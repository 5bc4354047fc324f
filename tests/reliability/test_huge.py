# SPDX-License-Identifier: MIT
"""Sizes that 32 bits do not hold. What needs gigabytes is marked `huge`; what needs none runs with the others."""

import pathlib

import naive
import numpy as np
import pytest

import convt1d
from convt1d.cpu import kernels

KERNELS = kernels.names()
BORDER = 2**31


# --- more than 2**31 samples: 12 GiB at most -----------------------------------------------------------------


def need(gibibytes):
    """Skip where they are not free."""
    lines = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) / 2**20
    if available < gibibytes:
        pytest.skip(f"needs {gibibytes} GiB of free memory, there are {available:.1f}")


def pieces(length, step=2**24):
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def total(a):
    """The sum of all numbers of an array, exact for small integers; NaN if one is."""
    flat = a.reshape(-1)
    return sum(float(flat[piece].sum(dtype=float)) for piece in pieces(flat.size))


def around(a, start, stop):
    """A stretch of a periodic signal, of its one channel."""
    return a[0].take(np.arange(start, stop), mode="wrap")[None].astype(float)


@pytest.mark.huge
def test_a_signal_of_more_than_2_31_samples(force):
    """Upsampled, circular so that the sum of the output is known; then the convolution and the gradients."""
    need(13)
    stride, padding, L, mode = 8, 4, 2**28 + 3, "circular"
    rng = np.random.default_rng(0)
    w = rng.integers(-3, 4, (1, 1, 16)).astype(np.float32)
    x = np.resize(rng.integers(-8, 9, 1_000_003).astype(np.float32), (1, L))
    geometry = {"stride": stride, "padding": padding, "padding_mode": mode}
    y = np.empty((1, L * stride), np.float32)
    assert y.size > BORDER
    spots = [0, BORDER // 4, BORDER // 2, BORDER - 976, *rng.integers(0, y.size - 1000, 60)]
    for kernel in KERNELS:
        y.fill(np.nan)
        with force(kernel):
            convt1d.conv_transpose1d(x, w, **geometry, out=y)
        assert total(y) == total(x) * w.sum()
        for spot in spots:
            first, steps = spot // stride - 2, 130
            uncropped = naive.conv_transpose1d(around(x, first, first + steps), w.astype(float), s=stride)
            start = spot + padding - first * stride
            np.testing.assert_array_equal(y[0, spot : spot + 1000], uncropped[0, start : start + 1000])

    z = convt1d.conv1d(y, w, **geometry)
    for spot in [*range(0, L - 200, L // 40), L - 200]:
        stretch = around(y, spot * stride - padding, (spot + 200) * stride + 16)
        np.testing.assert_array_equal(z[0, spot : spot + 200], naive.conv1d(stretch, w, s=stride)[0, :200])
    assert total(z) == sum(
        total(y[:, k::stride]) * w[0, 0, (k + padding) % stride :: stride].sum() for k in range(stride)
    )

    grad_x, grad_weight, grad_bias = convt1d.conv_transpose1d_backward(y, x, w, **geometry)
    assert all((grad_x[:, piece] == z[:, piece]).all() for piece in pieces(L))
    np.testing.assert_allclose(grad_bias, total(y), rtol=1e-6, atol=1e-6 * total(np.abs(x)))
    exact, size = np.zeros(16), 0.0
    for piece in pieces(L, 2**22):
        block = x[0, piece].astype(float)
        stretch = around(y, piece.start * stride - padding, piece.stop * stride + 16)[0]
        exact += block @ np.lib.stride_tricks.sliding_window_view(stretch, 16)[: block.size * stride : stride]
        size += np.abs(block).sum() * np.abs(stretch).mean()
    np.testing.assert_allclose(grad_weight[0, 0], exact, rtol=0, atol=5e-5 * size)  # 2**28 float32 products


@pytest.mark.huge
def test_a_batch_of_more_than_2_31_samples(force):
    """Short signals, many of them, of many channels: a merged batch, whose result is exact, and its gradients."""
    need(10)
    N, outputs, L, stride = 2**16 + 1, 4096, 4, 2
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (N, 1, L)).astype(np.float32)
    w = rng.integers(-1, 2, (1, outputs, 4)).astype(np.float32)
    geometry = {"stride": stride, "padding": 1, "padding_mode": "circular"}
    y = np.empty((N, outputs, L * stride), np.float32)
    assert y.size > BORDER
    some = [0, 1, 2**15, N // 2, N - 2, N - 1, *rng.integers(0, N, 10)]
    for kernel in KERNELS:
        y.fill(np.nan)
        with force(kernel):
            convt1d.conv_transpose1d(x, w, **geometry, out=y)
        assert total(y) == total(x) * w.sum(dtype=float)
        for n in some:
            np.testing.assert_array_equal(y[n], naive.conv_transpose1d(x[n], w, s=stride, p=1, pad="circular"))
    grad_x, grad_weight, _ = convt1d.conv_transpose1d_backward(y, x, w, **geometry, needs=["x", "weight"])
    for n in some:
        of_x, *_ = naive.conv_transpose1d_backward(y[n], x[n], w, stride, 1, pad="circular")
        np.testing.assert_array_equal(grad_x[n], of_x[0])
    for o in (0, 1, 2047, outputs - 1):
        _, of_w, _ = convt1d.conv_transpose1d_backward(y[:, o : o + 1], x, w[:, o : o + 1], **geometry)
        np.testing.assert_array_equal(grad_weight[:, o], of_w[:, 0])


@pytest.mark.huge
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_merged_batch_of_more_than_2_31_columns(force, kernel):
    need(10)
    N = BORDER + 64
    x = np.broadcast_to(np.float32(3), (N, 1, 1))
    y = np.full((N, 1, 1), np.nan, np.float32)
    with force(kernel):
        convt1d.conv_transpose1d(x, np.full((1, 1, 1), 2, np.float32), np.ones(1), out=y)
    assert all((y[piece] == 7).all() for piece in pieces(N))


# --- beyond any index or memory: refused ---------------------------------------------------------------------


def ones(*shape):
    """Of any size, in four bytes."""
    return np.broadcast_to(np.float32(1), shape)


LARGEST = 2**31 - 1
BEYOND = {
    "output": lambda: convt1d.conv_transpose1d(ones(2**20, 1, 2), ones(1, 2**20, 1), stride=LARGEST),
    "the output of nothing": lambda: convt1d.conv_transpose1d(ones(0, 1, 2**40), ones(1, 1, 1), stride=LARGEST),
    "output of a long signal": lambda: convt1d.conv_transpose1d(ones(1, 2**58), ones(1, 1, 1), stride=LARGEST),
    "output of a convolution": lambda: convt1d.conv1d(ones(2**30, 1, 9), ones(1, 1, 9), padding=LARGEST),
    "weight": lambda: convt1d.ConvTranspose1d(LARGEST, LARGEST, LARGEST),
    "normal equations": lambda: convt1d.ConvTranspose1d(2**20, 1, 16).fit(ones(2**20, 30), ones(1, 45)),
}


@pytest.mark.parametrize("name", BEYOND)
def test_refused(name):
    with pytest.raises((ValueError, MemoryError), match=name.split(" of ")[0]):
        BEYOND[name]()


def test_a_stream_that_would_hold_too_much():
    layer = convt1d.ConvTranspose1d(1, 1, 2, dilation=LARGEST)
    with pytest.raises((ValueError, MemoryError), match=r"the stream's buffer|allocate"):
        convt1d.ConvTranspose1dStream(layer).process(ones(2**31, 1, 1))


@pytest.mark.parametrize("L", [2**31, 2**40, 2**62])
def test_lengths_beyond_32_bits(L):
    layer = convt1d.ConvTranspose1d(1, 1, 16, stride=8, padding=4)
    assert layer.output_length(L) == convt1d.output_length(L, 16, 8, 4) == 8 * L
    with pytest.raises(ValueError, match=rf"L must be at most {2**62}, got {2**62 + 1}"):
        layer.output_length(2**62 + 1)
    if L < 2**40:
        x = ones(0, 1, L)
        assert layer(x, output_size=8 * L + 3).shape == (0, 1, 8 * L + 3)


# --- counters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("position", [2**31 - 3, 2**31, 2**32 + 5, 2**53 + 1, 2**62 - 120])
def test_a_stream_far_on(mode, position):
    """Its position does not show in what it returns; 2**31 samples are twelve hours of audio."""
    layer = convt1d.ConvTranspose1d(3, 2, 7, stride=2, padding=(1, 9), dilation=2, padding_mode=mode, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 3, 120), dtype=np.float32)
    near, far = convt1d.ConvTranspose1dStream(layer), convt1d.ConvTranspose1dStream(layer)
    near.process(x[..., :50])
    far.restore(near.state() | {"received": position})
    for chunk in (x[..., 50:51], x[..., 51:90], x[..., 90:]):
        np.testing.assert_array_equal(far.process(chunk), near.process(chunk))
    assert far.state()["received"] == position + 70
    copied = convt1d.ConvTranspose1dStream(layer)
    copied.restore(far.state())
    np.testing.assert_array_equal(copied.flush(), near.flush())
