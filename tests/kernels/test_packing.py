# SPDX-License-Identifier: MIT
"""Packed weights: more channels than are packed at a time, several threads, any strides, every kernel."""

from dataclasses import replace

import naive
import numpy as np
import pytest

import convt1d
from convt1d.cpu import _runtime, kernels

TRANSPOSED = ((70, 11, 9, 4), (33, 20, 4, 2), (100, 9, 7, 1), (65, 3, 6, 3), (40, 1, 33, 16), (2, 5, 20, 40))
CONVOLUTIONS = ((70, 11, 9, 4), (34, 20, 4, 2), (100, 9, 7, 1), (3, 8, 65, 16), (40, 4, 5, 7))


@pytest.fixture
def threaded():
    """No weights are too few for a second thread."""
    row = _runtime.machine().tuning
    _runtime.use(replace(row, memory=replace(row.memory, pack_serial=0)))
    yield
    _runtime.use(row)


def integers(rng, dtype, *shape):
    values = rng.integers(-8, 9, shape) + (1j * rng.integers(-8, 9, shape) if dtype == "complex64" else 0)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("kernel", kernels.names())
def test_every_weight_has_its_place(kernel, dtype, force, threaded):
    """Sums of integers are exact; a weight in the place of another shows."""
    rng = np.random.default_rng(3)
    with force(kernel):
        for channels, outputs, k, stride in TRANSPOSED:
            x, w = integers(rng, dtype, 2, channels, 9), integers(rng, dtype, channels, outputs, k)
            expected = naive.conv_transpose1d(x, w, s=stride)
            for weight in (w, np.asfortranarray(w), w[:, ::-1].copy()[:, ::-1], np.repeat(w, 2, axis=2)[..., ::2]):
                for workers in (1, 3):
                    found = convt1d.conv_transpose1d(x, weight, stride=stride, workers=workers)
                    np.testing.assert_array_equal(found, expected)
        for channels, outputs, k, stride in CONVOLUTIONS:
            x, w = integers(rng, dtype, 2, channels, k + 5 * stride), integers(rng, dtype, outputs, channels, k)
            expected = naive.conv1d(x, w, s=stride)
            for weight in (w, np.asfortranarray(w)):
                for workers in (1, 3):
                    found = convt1d.conv1d(x, weight, stride=stride, workers=workers)
                    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernel", ["winograd", "fused_winograd"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("k", [4, 6, 7])
def test_an_unusual_weight_is_found_anywhere(kernel, value, k, force, threaded):
    """Winograd's sums of one such weight reach outputs that the definition keeps from it."""
    rng = np.random.default_rng(4)
    x = np.zeros((1, 70, 20), np.float32)
    x[..., 10] = 1
    with force(kernel):
        for _ in range(20):
            w = rng.standard_normal((70, 12, k)).astype("float32")
            w[rng.integers(70), rng.integers(12), rng.integers(k)] = value
            with force("direct"):
                expected = convt1d.conv_transpose1d(x, w, stride=2)
            found = convt1d.conv_transpose1d(x, w, stride=2, workers=3)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
