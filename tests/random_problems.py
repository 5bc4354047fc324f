# SPDX-License-Identifier: MIT
"""What tests of random problems share: settings of the kernels, layers, types and the oracle."""

import naive
import numpy as np
from hypothesis import strategies as st

from convt1d.cpu import kernels

SETTINGS = st.tuples(
    st.sampled_from([None, *kernels.names()]),
    st.sampled_from([None, 1, 2, 5, 16, 40]),
)
WORKERS = (1, 2, 3, 4, None)
SEEDS = st.integers(0, 2**32)
DTYPES = {"f": (np.float32, np.float64), "c": (np.complex64, np.complex128)}
EXTENDED = naive.MODES[1:]
LARGE = {
    "stride": ((2, 3, 150, 9), {"stride": 67, "padding": 33}),
    "stride-beyond-K": ((2, 3, 70, 12), {"stride": 90, "padding": (3, 0), "output_padding": 89}),
    "taps": ((3, 2, 700, 90), {"padding": 350}),
    "dilation": ((2, 2, 40, 600), {"dilation": 130, "padding": (2400, 2200)}),
    "dilation-beyond-L": ((2, 2, 9, 50), {"stride": 6, "dilation": 1000, "padding": 3500}),
    "inputs": ((4000, 3, 4, 9), {"stride": 2}),
    "outputs": ((3, 1100, 4, 70), {"stride": 2, "padding": 1}),
    "groups": ((300, 300, 2, 4), {"stride": 2, "groups": 300}),
    "grouped": ((270, 130, 3, 40), {"groups": 10, "dilation": 2, "padding": 2}),
    "length": ((1, 1, 4, 5000), {"stride": 2, "padding": 1}),
    "length-and-channels": ((40, 24, 3, 2000), {"stride": 3, "output_padding": 1}),
}


def oracle(x, w, b, geometry):
    s, p, op, g, d, mode = geometry.values()
    return naive.conv_transpose1d(x, w, b, s, p, op, g, d, mode)


def normal(rng, shape, dtype=float):
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)
