# SPDX-License-Identifier: MIT
"""Random problems against the naive oracle, and what must hold of every result.

Small integers make results exact, so equality is to the last bit unless a test says otherwise. Kernels and
narrow tiles are forced, so that short signals meet the tile borders of long ones.
"""

import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_problems import DTYPES, LARGE, SETTINGS, normal, oracle

import convt1d
from convt1d.cpu import kernels


@settings(max_examples=1000)
@given(problem=naive.problems(), setting=SETTINGS, double=st.booleans())
def test_naive_oracle(operator, force, problem, setting, double):
    dtype = DTYPES[problem.x.dtype.kind][double]
    x, w, b = (None if a is None else a.astype(dtype) for a in (problem.x, problem.w, problem.b))
    with force(*setting):
        y = operator(x, w, b, **problem.geometry)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, oracle(problem.x, problem.w, problem.b, problem.geometry))
    sliding = {name: problem.geometry[name] for name in ("stride", "padding", "output_padding", "dilation")}
    assert y.shape[-1] == convt1d.output_length(x.shape[-1], w.shape[2], **sliding)


# C_in, C_out, K, L: what is large in each is what some blocking inside a kernel has to cut.


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("name", LARGE)
def test_large(force, name, mode):
    dtype = np.complex64 if mode == "reflect" else np.float32  # one mode is enough for the other type
    (c_in, c_out, kernel_size, length), given = LARGE[name]
    geometry = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1} | given
    rng = np.random.default_rng(0)
    x = np.rint(2 * normal(rng, (2, c_in, length), dtype))
    w = np.rint(2 * normal(rng, (c_in, c_out // geometry["groups"], kernel_size), dtype))
    expected = oracle(x, w, None, geometry | {"padding_mode": mode})
    for kernel in (None, *kernels.names()):
        with force(kernel):
            y = convt1d.conv_transpose1d(x, w, **geometry, padding_mode=mode)
        np.testing.assert_array_equal(y, expected, err_msg=f"kernel {kernel}")


@given(problem=naive.problems(kinds="f"), setting=SETTINGS, share=st.floats(0, 1))
def test_circular_is_the_adjoint_of_circular_conv1d(force, problem, setting, share):
    """<T x, v> = <x, C v> where the output has exactly L * stride samples."""
    x, w, geometry = problem.x.reshape(-1, *problem.x.shape[-2:]), problem.w, problem.geometry
    s, d, op = geometry["stride"], geometry["dilation"], geometry["output_padding"]
    (_, c_out, K), L = w.shape, x.shape[-1]
    crop = d * (K - 1) + 1 + op - s
    assume(crop >= 0)
    left = round(share * crop)
    geometry |= {"padding": (left, crop - left), "padding_mode": "circular", "groups": 1}
    v = np.random.default_rng(0).integers(-8, 9, (len(x), c_out, L * s))
    at = (s * np.arange(L)[:, None] + d * np.arange(K) - left) % (L * s)  # where sample i and tap k of C meet
    with force(*setting):
        y = convt1d.conv_transpose1d(x, w, **geometry)
    back = np.einsum("cok,noik->nci", w, v[..., at])
    assert y.shape == v.shape
    assert np.vdot(y, v) == np.vdot(x, back)
