# SPDX-License-Identifier: MIT
"""Small operands of one geometry, and ways in which an array may be presented."""

import numpy as np

GEOMETRY = {
    "stride": 2,
    "padding": 1,
    "output_padding": 1,
    "groups": 2,
    "dilation": 3,
    "padding_mode": "reflect",
}


def integers(*shape, dtype=float, seed=0):
    values = np.random.default_rng(seed).integers(-4, 5, shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * np.random.default_rng(seed + 1).integers(-4, 5, shape)
    return values.astype(dtype)


def operands(dtype=float):
    """x, weight and bias for GEOMETRY; more than 64 samples, so that the batch is not merged."""
    shapes = (3, 4, 70), (4, 3, 5), (6,)
    return [integers(*shape, dtype=dtype, seed=2 * i) for i, shape in enumerate(shapes)]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def strided(a):
    """Every second element along each axis of something larger; what lies between must not be read."""
    wide = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    part = wide[tuple(slice(1, None, 2) for _ in a.shape)]
    part[...] = a
    return part


def misaligned(a):
    """One byte off: no element lies where its type wants it."""
    buffer = np.empty(a.nbytes + 1, np.uint8)[1:]
    b = buffer.view(a.dtype).reshape(a.shape)
    b[...] = a
    assert not b.flags.aligned
    return b
