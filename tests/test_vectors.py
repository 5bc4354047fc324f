# SPDX-License-Identifier: MIT
"""The stored cases, whose expected outputs torch and flax computed (data/generate.py).

Inputs are small integers, so every result is an exact integer: whatever the kernel, the tile, the number of
threads or the precision, it must match to the last bit.
"""

import itertools

import naive
import numpy as np
import pytest

from convt1d.cpu import kernels

SINGLE = {"f": np.float32, "c": np.complex64}
DOUBLE = {"f": np.float64, "c": np.complex128}


def mismatches(cases, compute):
    """The ids of the cases for which `compute(case)` is not the expected output, with what came instead."""
    found = {}
    for case in cases:
        y = compute(case)
        if y.shape != case.y.shape:
            found[case.id] = f"shape {y.shape} instead of {case.y.shape}"
        elif not np.array_equal(y, case.y):
            found[case.id] = f"{np.count_nonzero(y != case.y)} of {y.size} samples differ"
    return found


def test_all_cases_are_here(cases):
    assert [case.id for case in cases] == list(range(524))
    assert {case.geometry["padding_mode"] for case in cases} == set(naive.MODES)


def test_naive_oracle(cases):
    def compute(case):
        s, p, op, g, d, mode = case.geometry.values()
        return naive.conv_transpose1d(case.x, case.w, case.b, s, p, op, g, d, mode)

    assert mismatches(cases, compute) == {}


@pytest.mark.parametrize(
    ("kernel", "tile"),
    [(None, None), *itertools.product(kernels.names(), [None, 1, 16, 40])],
)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("precision", [SINGLE, DOUBLE], ids=["single", "double"])
def test_exact(operator, cases, force, precision, workers, kernel, tile):
    def compute(case):
        dtype = precision[case.y.dtype.kind]
        x, w, b = (None if a is None else a.astype(dtype) for a in (case.x, case.w, case.b))
        y = operator(x, w, b, workers=workers, **case.geometry)
        assert y.dtype == dtype
        return y

    with force(kernel, tile, threads=True):
        assert mismatches(cases, compute) == {}
