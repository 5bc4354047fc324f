# SPDX-License-Identifier: MIT
"""Initial weights."""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np

from .geometry import Geometry


def as_generator(rng) -> np.random.Generator:
    """`rng` (None, an int or a Generator) as a Generator."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None or (isinstance(rng, Integral) and not isinstance(rng, bool)):
        if rng is not None and rng < 0:
            raise ValueError(f"rng must be a non-negative int, got {rng}")
        return np.random.default_rng(rng)  # type: ignore[arg-type]
    raise TypeError(f"rng must be None, an int or a numpy.random.Generator, got {rng!r}")


def uniform(geometry: Geometry, dtype: np.dtype, rng: np.random.Generator, bias: bool):
    """Weight and bias uniform in ±1/√((C_out / groups) · kernel_size); the reference's rule.

    Complex values draw real and imaginary parts each from that range.
    """
    per_group = geometry.out_channels // geometry.groups
    bound = 1 / math.sqrt(per_group * geometry.kernel_size)

    def draw(shape):
        values = rng.uniform(-bound, bound, shape)
        if dtype.kind == "c":
            values = values + 1j * rng.uniform(-bound, bound, shape)
        return values.astype(dtype)

    weight = draw((geometry.in_channels, per_group, geometry.kernel_size))
    return weight, draw((geometry.out_channels,)) if bias else None
