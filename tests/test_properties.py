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

import convt1d
from convt1d import dispatch

SETTINGS = st.tuples(
    st.sampled_from([None, *dispatch.KERNELS]),
    st.sampled_from([None, 1, 2, 5, 16, 40]),
)
WORKERS = (1, 2, 3, 4, None)
SEEDS = st.integers(0, 2**32)
DTYPES = {"f": (np.float32, np.float64), "c": (np.complex64, np.complex128)}
EXTENDED = naive.MODES[1:]


def oracle(x, w, b, geometry):
    s, p, op, g, d, mode = geometry.values()
    return naive.conv_transpose1d(x, w, b, s, p, op, g, d, mode)


def normal(rng, shape, dtype=float):
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


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
    for kernel in (None, *dispatch.KERNELS):
        with force(kernel):
            y = convt1d.conv_transpose1d(x, w, **geometry, padding_mode=mode)
        np.testing.assert_array_equal(y, expected, err_msg=f"kernel {kernel}")


@given(problem=naive.problems(longest=200), setting=SETTINGS, double=st.booleans(), seed=SEEDS)
def test_alone_as_in_the_batch(force, problem, setting, double, seed):
    """To the last bit for more than 64 samples; shorter signals may be merged into one product."""
    rng, dtype = np.random.default_rng(seed), DTYPES[problem.x.dtype.kind][double]
    x, w = normal(rng, (3, *problem.x.shape[-2:]), dtype), normal(rng, problem.w.shape, dtype)
    with force(*setting):
        batch = convt1d.conv_transpose1d(x, w, **problem.geometry)
        alone = [convt1d.conv_transpose1d(sample, w, **problem.geometry) for sample in x]
        of_two = convt1d.conv_transpose1d(x[:2], w, **problem.geometry)
    if x.shape[-1] > 64:
        np.testing.assert_array_equal(batch, alone)
        np.testing.assert_array_equal(batch[:2], of_two)
    else:
        rounding = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(batch, alone, rtol=rounding, atol=rounding)
        np.testing.assert_allclose(batch[:2], of_two, rtol=rounding, atol=rounding)


@given(problem=naive.problems(longest=200), setting=SETTINGS, double=st.booleans(), seed=SEEDS)
def test_workers_give_the_same_bits(force, problem, setting, double, seed):
    rng, dtype = np.random.default_rng(seed), DTYPES[problem.x.dtype.kind][double]
    x, w = normal(rng, problem.x.shape, dtype), normal(rng, problem.w.shape, dtype)
    with force(*setting, threads=True):
        one, *more = (convt1d.conv_transpose1d(x, w, **problem.geometry, workers=n) for n in WORKERS)
    for other in more:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_workers_give_the_same_bits_on_long_signals(dtype):
    """Tiles and blocks as the package chooses them, enough for four threads."""
    rng = np.random.default_rng(0)
    x, w = normal(rng, (2, 32, 3000), dtype), normal(rng, (32, 48, 16), dtype)
    one, *more = (convt1d.conv_transpose1d(x, w, stride=8, workers=n) for n in WORKERS)
    for other in more:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kernel", ["direct", "fused", "winograd", "fused_winograd"])
@pytest.mark.parametrize("stride", range(1, 10))
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_a_sample_has_the_same_bits_in_a_longer_signal(force, kernel, stride, dtype):
    """However the signal is cut into tiles and registers; whatever part of a kernel's taps the last phases lack."""
    rng = np.random.default_rng(0)
    for kernel_size in range(1, 2 * stride + 3):
        x, w = normal(rng, (3, 400), dtype), normal(rng, (3, 5, kernel_size), dtype)
        with force(kernel):
            whole = convt1d.conv_transpose1d(x, w, stride=stride)
            for length in (5, 17, 33, 100, 201):
                done = (length - 1) * stride + 1 - stride * (kernel_size // stride)
                if done > 0:
                    part = convt1d.conv_transpose1d(x[:, :length], w, stride=stride)
                    np.testing.assert_array_equal(part[:, :done], whole[:, :done])


@given(problem=naive.problems(modes=EXTENDED, kinds="f"), setting=SETTINGS)
def test_a_constant_stays_constant(force, problem, setting):
    """Where each phase's weights sum to one: up to both edges, as the extension comes before the strides."""
    geometry, (c_in, _, kernel_size) = problem.geometry, problem.w.shape
    phase = geometry["dilation"] * np.arange(kernel_size) % geometry["stride"]
    assume(np.unique(phase).size == geometry["stride"])  # each output sample meets a tap
    for tap in (np.flatnonzero(phase == r) for r in range(geometry["stride"])):
        problem.w[..., tap[-1]] += 1 - problem.w[..., tap].sum(-1)
    level = problem.x[..., :1]
    with force(*setting):
        y = convt1d.conv_transpose1d(np.broadcast_to(level, problem.x.shape), problem.w, **geometry)
    in_groups = level.reshape(*level.shape[:-2], geometry["groups"], c_in // geometry["groups"]).sum(-1)
    expected = in_groups.repeat(problem.w.shape[1], axis=-1)[..., None]
    np.testing.assert_array_equal(y, np.broadcast_to(expected, y.shape))


@settings(max_examples=300)
@given(problem=naive.problems(), setting=SETTINGS, double=st.booleans(), seed=SEEDS)
def test_nan_and_inf_reach_what_the_definition_says(force, problem, setting, double, seed):
    """No more and no less: through zero weights too, and through the extension of the signal."""
    rng, dtype = np.random.default_rng(seed), DTYPES[problem.x.dtype.kind][double]
    x, w = problem.x.astype(dtype), (problem.w * rng.integers(0, 2, problem.w.shape)).astype(dtype)
    x.flat[rng.integers(0, x.size, rng.integers(1, 4))] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(invalid="ignore"):
        expected = oracle(x, w, None, problem.geometry)
    with force(*setting):
        y = convt1d.conv_transpose1d(x, w, **problem.geometry)
    if x.dtype.kind == "c":  # which part of a complex product is NaN depends on how it is written out
        y, expected = (np.where(np.isfinite(values), values, np.nan) for values in (y, expected))
    np.testing.assert_array_equal(y, expected)


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
