# SPDX-License-Identifier: MIT
"""Floating point at its edges: rounding errors, NaN and inf, denormals, the FPU's state, arrays as they come.

The bounds of the rounding errors are long and marked `reliability`; `-rP` shows what was found.
"""

import ctypes
import json
import pathlib
import shutil
import subprocess

import ml_dtypes
import naive
import numpy as np
import pytest
from bounded import size
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d
from convt1d.cpu import kernels

KERNELS = kernels.names()
LAYERS = {
    name: numbers
    for name, *numbers in json.loads((pathlib.Path(__file__).parents[2] / "bench/layers.json").read_text())["layers"]
}
SETTINGS = st.tuples(st.sampled_from([None, *KERNELS]), st.sampled_from([None, 1, 2, 5, 16, 40]))


# --- rounding errors ----------------------------------------------------------------------------------------


class Problem:
    """A layer of bench/layers.json with random data, and sums of its terms in a higher precision."""

    def __init__(self, name, dtype, mode="zeros", longest=None, outputs=None):
        N, c_in, c_out, K, s, p, op, d, groups, L = LAYERS[name]
        N, L = min(N, size(2, N)), min(L, longest or size(33, L))
        c_out = min(c_out, (outputs or size(16, c_out)) * groups)
        self.exact = np.dtype(np.longdouble if np.dtype(dtype).char == "d" else np.float64)
        if np.dtype(dtype).kind == "c":
            self.exact = np.dtype(np.complex128)
        self.geometry = {"stride": s, "padding": p, "output_padding": op, "dilation": d, "groups": groups}
        self.geometry["padding_mode"] = mode
        self.taps = -(-K // (s // np.gcd(s, d)))
        self.per_group = c_in // groups, c_out // groups
        rng = np.random.default_rng(0)

        def normal(*shape):
            values = rng.standard_normal(shape)
            return (values + 1j * rng.standard_normal(shape) if self.exact.kind == "c" else values).astype(dtype)

        self.x, self.b = normal(N, c_in, L), normal(c_out)
        self.w = (normal(c_in, c_out // groups, K) / np.sqrt(c_in * self.taps / groups)).astype(dtype)
        self.g = normal(N, c_out, convt1d.output_length(L, K, s, p, op, d))

    def places(self, L, length, shift):
        """For each tap: the input samples that meet it inside [0, length), and where."""
        s, d = self.geometry["stride"], self.geometry["dilation"]
        for k in range(self.w.shape[2]):
            t = np.arange(L) * s + d * k - self.geometry["padding"] - shift * s
            inside = (t >= 0) & (t < length)
            yield k, np.flatnonzero(inside), t[inside]

    def forward(self, absolute=False):
        of = np.abs if absolute else np.asarray
        groups, mode, (N, _, L) = self.geometry["groups"], self.geometry["padding_mode"], self.x.shape
        x, w, b = (of(a.astype(self.exact)) for a in (self.x, self.w, self.b))
        halo = 0
        if mode != "zeros":
            halo = self.geometry["dilation"] * self.w.shape[2] // self.geometry["stride"] + 1
            modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
            x = np.pad(x, ((0, 0), (0, 0), (halo, halo)), modes[mode])
        x = x.reshape(N, groups, -1, x.shape[-1])
        w = w.reshape(groups, x.shape[2], -1, w.shape[2]).transpose(3, 0, 2, 1).copy()
        y = np.zeros((N, groups, w.shape[2], self.g.shape[2]), x.dtype)
        for k, i, t in self.places(L + 2 * halo, y.shape[-1], halo):
            y[..., t] += w[k] @ x[..., i]
        return y.reshape(self.g.shape) + b[:, None]

    def backward(self, absolute=False):
        """Gradients for x and weight, of the mode zeros; the first is also the convolution of g, if all is real."""
        of = np.abs if absolute else np.conj
        groups, (N, _, L) = self.geometry["groups"], self.x.shape
        x, w = (of(a.astype(self.exact)) for a in (self.x, self.w))
        g = (np.abs if absolute else np.asarray)(self.g.astype(self.exact))
        x, g = x.reshape(N, groups, -1, L), g.reshape(N, groups, -1, g.shape[-1])
        w = w.reshape(groups, x.shape[2], g.shape[2], -1).transpose(3, 0, 1, 2).copy()
        gx, gw = np.zeros_like(x), np.zeros_like(w)
        for k, i, t in self.places(L, g.shape[-1], 0):
            gx[..., i] += w[k] @ g[..., t]
            gw[k] = (x[..., i] @ g[..., t].swapaxes(-1, -2)).sum(0)
        return gx.reshape(self.x.shape), gw.transpose(1, 2, 3, 0).reshape(self.w.shape)


def check(what, found, exact, terms, count, dtype):
    """|error| <= 4 sqrt(count) eps sum|terms|, element by element."""
    unit = np.sqrt(count) * np.finfo(dtype).eps * terms
    error = np.abs(found.astype(exact.dtype) - exact)
    with np.errstate(invalid="ignore"):
        ratio = np.nanmax(error / unit)
    print(f"{what}: at most {ratio:.3f} sqrt(terms) eps sum|terms|")
    assert (error <= 4 * unit).all()


LONGDOUBLE = pytest.mark.skipif(
    np.finfo(np.longdouble).eps == np.finfo(float).eps, reason="no type more precise than float64"
)
PRECISIONS = [np.float32, np.complex64, pytest.param(np.float64, marks=LONGDOUBLE)]


@pytest.mark.reliability
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_rounding_of_the_output(force, name, dtype):
    mode = naive.MODES[list(LAYERS).index(name) % 4]
    # a longdouble takes 50 times as long as a float64: a few output channels of each group
    few = {"longest": 40, "outputs": 4} if dtype is np.float64 else {}
    problem = Problem(name, dtype, mode, **few)
    exact, terms = problem.forward(), problem.forward(absolute=True)
    for kernel in KERNELS:
        with force(kernel):
            y = convt1d.conv_transpose1d(problem.x, problem.w, problem.b, **problem.geometry)
        assert y.dtype == dtype
        check(f"{name} {kernel}", y, exact, terms, problem.per_group[0] * problem.taps, dtype)


@pytest.mark.reliability
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_half_types_are_rounded_once(force, name, dtype):
    """The result is what some float32 within float32's bound rounds to."""
    problem = Problem(name, dtype, longest=33)
    exact, terms = problem.forward(), problem.forward(absolute=True)
    bound = 4 * np.sqrt(problem.per_group[0] * problem.taps) * np.finfo(np.float32).eps * terms
    least, most = ((exact + part).astype(np.float32).astype(dtype) for part in (-bound, bound))
    for kernel in KERNELS:
        with force(kernel):
            y = convt1d.conv_transpose1d(problem.x, problem.w, problem.b, **problem.geometry)
        assert y.dtype == dtype
        assert (least <= y).all()
        assert (y <= most).all()


@pytest.mark.reliability
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_rounding_of_gradients_and_convolution(force, name, dtype):
    few = {"longest": 40, "outputs": 4} if dtype is np.float64 else {}
    problem = Problem(name, dtype, **few)
    x, w, g, geometry = problem.x, problem.w, problem.g, problem.geometry
    (exact_x, exact_w), (terms_x, terms_w) = problem.backward(), problem.backward(absolute=True)
    terms_of_x = problem.per_group[1] * w.shape[2]
    convolution = {key: geometry[key] for key in ("stride", "padding", "dilation", "groups")}
    for kernel in KERNELS:
        with force(kernel):
            grad_x, grad_weight, grad_bias = convt1d.conv_transpose1d_backward(g, x, w, **geometry)
            y = convt1d.conv1d(g, w.conj(), **convolution)
        assert grad_x.dtype == grad_weight.dtype == grad_bias.dtype == y.dtype == dtype
        check(f"{name} {kernel} grad_x", grad_x, exact_x, terms_x, terms_of_x, dtype)
        check(f"{name} {kernel} conv1d", y[..., : x.shape[2]], exact_x, terms_x, terms_of_x, dtype)
    check(f"{name} grad_weight", grad_weight, exact_w, terms_w, x.shape[0] * x.shape[2], dtype)
    wide = g.astype(problem.exact)
    check(f"{name} grad_bias", grad_bias, wide.sum((0, 2)), abs(wide).sum((0, 2)), g.shape[0] * g.shape[2], dtype)


# --- NaN and inf: of the forward operator in tests/test_properties.py ----------------------------------------


@settings(max_examples=200)
@given(problem=naive.convolutions(), setting=SETTINGS, double=st.booleans(), seed=st.integers(0, 2**32))
def test_nan_and_inf_in_a_convolution(force, problem, setting, double, seed):
    rng, cplx = np.random.default_rng(seed), problem.x.dtype.kind == "c"
    dtype = ((np.float32, np.complex64), (np.float64, np.complex128))[double][cplx]
    x, w = problem.x.astype(dtype), (problem.w * rng.integers(0, 2, problem.w.shape)).astype(dtype)
    for a in (x, w)[: rng.integers(1, 3)]:
        a.flat[rng.integers(0, a.size, rng.integers(1, 4))] = rng.choice([np.nan, np.inf, -np.inf])
    geometry = problem.geometry
    s, p, d, g, mode = (geometry[key] for key in ("stride", "padding", "dilation", "groups", "padding_mode"))
    with np.errstate(invalid="ignore"):
        if mode == "zeros":  # as the definition has it: a zero there meets a NaN in the weight
            zeros = np.pad(x, [(0, 0)] * (x.ndim - 1) + [tuple(np.broadcast_to(p, 2))])
            expected = naive.conv1d(zeros, w, None, s, 0, d, g)
        else:
            expected = naive.conv1d(x, w, None, s, p, d, g, mode)
    with force(*setting):
        y = convt1d.conv1d(x, w, **geometry)
    same(y, expected)


def same(y, expected):
    if y.dtype.kind == "c":  # which part of a complex product is NaN depends on how it is written out
        y, expected = (np.where(np.isfinite(values), values, np.nan) for values in (y, expected))
    np.testing.assert_array_equal(y, expected)


@settings(max_examples=300)
@given(
    problem=naive.problems(),
    setting=SETTINGS,
    along=st.sampled_from([None, "x", "g", "time"]),
    double=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_nan_and_inf_in_the_gradients(force, problem, setting, along, double, seed):
    """What the definition says, and no more than the Notes of `conv_transpose1d_backward` add to it."""
    rng, cplx = np.random.default_rng(seed), problem.x.dtype.kind == "c"
    dtype = ((np.float32, np.complex64), (np.float64, np.complex128))[double][cplx]
    x, w = problem.x.astype(dtype), (problem.w * rng.integers(0, 2, problem.w.shape)).astype(dtype)
    s, p, op, g, d, mode = problem.geometry.values()
    gy = naive.conv_transpose1d(problem.x, problem.w, None, s, p, op, g, d, mode).astype(dtype)
    for a in (x, w, gy):
        if rng.integers(0, 2):
            a.flat[rng.integers(0, a.size, rng.integers(1, 4))] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(invalid="ignore"):
        expected = naive.conv_transpose1d_backward(gy, x, w, s, p, op, g, d, mode)
    with force(*setting), pytest.MonkeyPatch.context() as patch:
        if along:
            patch.setattr("convt1d.cpu.gradient.cheapest", lambda *_: along)
        found = convt1d.conv_transpose1d_backward(gy, x, w, **problem.geometry)
    # "one in x also makes those taps' gradients NaN that a crop keeps from meeting it, and likewise one in the weight"
    in_w = ~np.isfinite(w).all((1, 2))[:, None]
    in_x = ~np.isfinite(x.reshape(-1, *x.shape[-2:])).all((0, 2))[:, None, None]
    for values, wanted, excused in zip(found, expected, (in_w, in_x, False), strict=True):
        values = values.reshape(wanted.shape)
        same(np.where(np.isnan(values) & excused, wanted, values), wanted)


# --- denormals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("tiny", ["x", "weight"])
def test_denormals_are_kept(force, kernel, dtype, tiny):
    """Small multiples of the smallest number: sums of products with integers are exact, and all denormal."""
    rng, geometry = np.random.default_rng(0), {"stride": 2, "padding": 1, "padding_mode": "circular"}

    def integers(*shape):
        values = rng.integers(-9, 10, shape)
        return (values + 1j * rng.integers(-9, 10, shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)

    x, w, g = integers(2, 5, 150), integers(5, 6, 4), integers(2, 6, 300)
    scale = np.finfo(dtype).smallest_subnormal
    convolution = {key: geometry[key] for key in ("stride", "padding")}
    with force(kernel, threads=True):
        y = convt1d.conv_transpose1d(x, w, **geometry)
        gx, gw, gb = convt1d.conv_transpose1d_backward(g, x, w, **geometry)
        z = convt1d.conv1d(g, w, **convolution)
        assert y.any()
        for workers in (1, 2):
            small_x, small_w = (x * scale, w) if tiny == "x" else (x, w * scale)
            if tiny == "x":
                assert (np.abs(small_x) < np.finfo(dtype).smallest_normal).all()
            found = convt1d.conv_transpose1d(small_x, small_w, **geometry, workers=workers)
            np.testing.assert_array_equal(found, y * scale)
            of_x, of_w, of_b = convt1d.conv_transpose1d_backward(g * scale, x, w, **geometry, workers=workers)
            for small, whole in ((of_x, gx), (of_w, gw), (of_b, gb)):
                np.testing.assert_array_equal(small, whole * scale)
            small_g = g * scale if tiny == "x" else g
            np.testing.assert_array_equal(convt1d.conv1d(small_g, small_w, **convolution, workers=workers), z * scale)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_underflow_is_gradual(force, kernel, dtype):
    """One product each: the one rounding is IEEE's, into the denormals and to zero."""
    rng, limits = np.random.default_rng(0), np.finfo(dtype)
    x = (rng.uniform(1, 2, (1, 200)) * 2.0 ** rng.integers(-limits.nmant, 2, 200)).astype(dtype)
    w = np.array([[[limits.smallest_normal, limits.smallest_subnormal]]], dtype)
    with force(kernel):
        y = convt1d.conv_transpose1d(x, w, stride=2)
    np.testing.assert_array_equal(y.reshape(-1, 2), x.T * w[0])
    assert (y != 0).any()
    assert (y == 0).any()


# --- the FPU's state ----------------------------------------------------------------------------------------

# Rounding, flush to zero, denormals as zero and the exceptions' masks, without the flags of past exceptions.
FPU = r"""
#include <fenv.h>
#include <omp.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
static unsigned control(void)
{
    unsigned short x87;
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    return (_mm_getcsr() & ~0x3fu) | (unsigned)x87 << 16;
}
void flush(int on) { _mm_setcsr(on ? _mm_getcsr() | 0x8040 : _mm_getcsr() & ~0x8040u); }
#else
static unsigned control(void) { return (unsigned)fegetround(); }
void flush(int on) { (void)on; }
#endif
void turn(int direction)
{
    const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    fesetround(modes[direction]);
}
void read_state(int threads, unsigned *states)
{
    states[0] = control();
    #pragma omp parallel num_threads(threads)
    states[omp_get_thread_num() + 1] = control();
}
"""


@pytest.fixture(scope="module")
def fpu(tmp_path_factory):
    """Functions to read and set the state, in C; its OpenMP threads are those of the package built from source."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("fpu")
    (folder / "fpu.c").write_text(FPU)
    subprocess.run([compiler, "-shared", "-fPIC", "-fopenmp", "-o", "fpu.so", "fpu.c"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "fpu.so"))


def state(fpu):
    """Of this thread, and of two of OpenMP's."""
    states = (ctypes.c_uint * 3)()
    fpu.read_state(2, states)
    return list(states)


def everything(force, dtype):
    """Every way into the compiled code, on two threads; the results."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 6, 300), (6, 4, 5), (2, 4, 601)))
    done = []
    with force(threads=True):
        for kernel in KERNELS:
            with force(kernel, threads=True):
                layer = convt1d.ConvTranspose1d(6, 4, 5, stride=2, padding=1, dtype=dtype)
                layer.load_state_dict({"weight": w, "bias": w[0, :, 0]})
                done += [layer(x, workers=2), *layer.backward(g, x, workers=2)]
                done.append(convt1d.conv1d(g, w, stride=2, padding=1, workers=2))
                stream = convt1d.ConvTranspose1dStream(layer, workers=2)
                done += [stream.process(x[..., :250]), stream.process(x[..., 250:]), stream.flush()]
        if np.dtype(dtype).kind == "f":
            done.append(layer.fit(x, g).weight)
    return done


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.float16])
def test_the_state_is_left_as_it_was(fpu, force, dtype):
    before = state(fpu)
    everything(force, dtype)
    assert state(fpu) == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("direction", [1, 2, 3])
def test_under_another_rounding(fpu, force, dtype, direction):
    """The caller's rounding stays, and is at work (how the threads of OpenMP round is their affair)."""
    expected = everything(force, dtype)
    usual = state(fpu)
    try:
        fpu.turn(direction)
        before = state(fpu)
        found = everything(force, dtype)
        after = state(fpu)
    finally:
        fpu.turn(0)
    assert after == before
    assert after[0] != usual[0]
    assert state(fpu) == usual
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1000 * np.finfo(dtype).eps * np.abs(b).max(initial=1))


def test_under_flush_to_zero(fpu, force):
    """A caller may want no denormals: that stays, too."""
    expected = everything(force, np.float32)
    try:
        fpu.flush(1)
        before = state(fpu)
        found = everything(force, np.float32)
        after = state(fpu)
    finally:
        fpu.flush(0)
    assert after == before
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# --- arrays as they come: of the forward operator in tests/test_arrays.py ------------------------------------


def misaligned(a):
    shifted = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    shifted[...] = a
    return shifted


def between_others(a):
    """Elements 12 or 20 bytes apart, no multiple of their size."""
    record = np.zeros(a.shape, np.dtype([("pad", np.int32), ("a", a.dtype)]))
    record["a"] = a
    return record["a"]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


PRESENTATIONS = {
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "misaligned": misaligned,
    "between-others": between_others,
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "all-reversed": lambda a: np.flip(np.flip(a).copy()),
    "every-third": lambda a: a.repeat(3, axis=-1)[..., 1::3],
    "Fortran": np.asfortranarray,
    "read-only": read_only,
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("present", PRESENTATIONS.values(), ids=PRESENTATIONS)
def test_presentation(force, present, dtype):
    """Gradients, convolution and stream give the bits of plain arrays; fit, which NumPy and LAPACK do, nearly so."""
    rng, geometry = np.random.default_rng(0), {"stride": 2, "padding": 1, "padding_mode": "reflect"}
    x, w, b, g = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 4, 90), (4, 6, 5), (6,), (2, 6, 181)))

    def results(x, w, b, g):
        yield from convt1d.conv_transpose1d_backward(g, x, w, **geometry)
        yield convt1d.conv1d(g, w, b[:4], **geometry)
        layer = convt1d.ConvTranspose1d(4, 6, 5, **geometry, dtype=dtype)
        layer.load_state_dict({"weight": w, "bias": b})
        yield from layer.backward(g, x)
        stream = convt1d.ConvTranspose1dStream(layer)
        for chunk in (x[..., :3], x[..., 3:40], x[..., 40:]):
            yield stream.process(chunk)
        yield stream.flush()

    given = [present(a) for a in (x, w, b, g)]
    for found, expected in zip(results(*given), results(x, w, b, g), strict=True):
        assert found.dtype == expected.dtype
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, expected)
    learned, expected = (
        convt1d.ConvTranspose1d(4, 6, 5, **geometry, dtype=dtype).fit(*xy).weight for xy in (given[::3], (x, g))
    )
    np.testing.assert_allclose(learned, expected, rtol=0, atol=np.finfo(dtype).eps)
    for a, plain in zip(given, (x, w, b, g), strict=True):
        np.testing.assert_array_equal(a, plain)
