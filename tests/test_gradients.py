# SPDX-License-Identifier: MIT
"""Gradients: the stored cases, the definition through random probes, finite differences, torch."""

import contextlib
import functools

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import MACHINES

import convt1d
from convt1d import conv_transpose1d, conv_transpose1d_backward
from convt1d.cpu import gradient as gradient_plans
from convt1d.cpu import kernels, tuning
from convt1d.cpu.plan import WORKSPACE

SETTINGS = st.tuples(
    st.sampled_from([None, *kernels.names()]),
    st.sampled_from([None, 1, 2, 5, 16, 40]),
)
ALONG = st.sampled_from([None, "x", "g", "time"])
DTYPES = {"f": (np.float32, np.float64), "c": (np.complex64, np.complex128)}
SINGLE, DOUBLE = {"f": np.float32, "c": np.complex64}, {"f": np.float64, "c": np.complex128}


def through_layer(grad_output, x, weight, *, groups=1, needs=("x", "weight", "bias"), workers=None, **geometry):
    """The same by a layer that holds the weight."""
    layer = convt1d.ConvTranspose1d(
        weight.shape[0], weight.shape[1] * groups, weight.shape[2], groups=groups, dtype=weight.dtype, **geometry
    )
    layer.weight = weight
    return layer.backward(grad_output, x, needs=needs, workers=workers)


@contextlib.contextmanager
def vectors(along):
    """Force what the vectors of the weights' gradient run over ("time" only where it has room)."""
    with pytest.MonkeyPatch.context() as patch:
        if along is not None:
            patch.setattr("convt1d.cpu.gradient.cheapest", lambda *_: along)
        yield


@pytest.fixture(scope="module", params=[conv_transpose1d_backward, through_layer], ids=["function", "layer"])
def backward(request):
    return request.param


@pytest.mark.parametrize(
    ("kernel", "tile", "along"), [(None, None, None), ("direct", 16, "x"), ("gemm", 1, "g"), ("fused", 40, "time")]
)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("precision", [SINGLE, DOUBLE], ids=["single", "double"])
def test_stored_cases(backward, cases, force, precision, workers, kernel, tile, along):
    stored, wrong = 0, []
    with force(kernel, tile, threads=True), vectors(along):
        for case in cases:
            if case.gx is None:
                continue
            stored += 1
            dtype = precision[case.y.dtype.kind]
            gy, x, w = (a.astype(dtype) for a in (case.gy, case.x, case.w))
            gx, gw, gb = backward(gy, x, w, **case.geometry, workers=workers)
            assert gx.dtype == gw.dtype == gb.dtype == dtype
            if not (np.array_equal(gx, case.gx) and np.array_equal(gw, case.gw)):
                wrong.append(case.id)
            if case.gb is not None and not np.array_equal(gb, case.gb):
                wrong.append(case.id)
    assert stored == 460
    assert wrong == []


@settings(max_examples=200)
@given(problem=naive.problems(), setting=SETTINGS, along=ALONG, double=st.booleans(), seed=st.integers(0, 2**32))
def test_definition_by_probes(backward, force, problem, setting, along, double, seed):
    """The operator is linear in x and in w: Re<gy, f(u, w)> == Re<grad_x, u>, exactly for integers; likewise w, b."""
    rng = np.random.default_rng(seed)
    s, p, op, g, d, mode = problem.geometry.values()
    cplx = problem.x.dtype.kind == "c"
    y = naive.conv_transpose1d(problem.x, problem.w, None, s, p, op, g, d, mode)

    def integers(shape):
        return rng.integers(-8, 9, shape) + (1j * rng.integers(-8, 9, shape) if cplx else 0.0)

    gy = integers(y.shape)
    dtype = DTYPES[problem.x.dtype.kind][double]
    with force(*setting, threads=True), vectors(along):
        arrays = (a.astype(dtype) for a in (gy, problem.x, problem.w))
        gx, gw, gb = backward(*arrays, **problem.geometry, workers=int(rng.integers(1, 4)))
    for _ in range(3):
        u, v = integers(problem.x.shape), integers(problem.w.shape)
        by_x = naive.conv_transpose1d(u, problem.w, None, s, p, op, g, d, mode)
        by_w = naive.conv_transpose1d(problem.x, v, None, s, p, op, g, d, mode)
        assert (gy.conj() * by_x).sum().real == (gx.conj() * u).sum().real
        assert (gy.conj() * by_w).sum().real == (gw.conj() * v).sum().real
    np.testing.assert_array_equal(gb, gy.sum(-1) if gy.ndim == 2 else gy.sum((0, 2)))


# C_in, C_out, K, L: what is large in each is what some blocking has to cut.
LARGE = {
    "steps": ((2, 3, 4, 3000), {"stride": 2, "padding": 1}),
    "inputs": ((600, 2, 3, 20), {"stride": 2}),
    "outputs": ((3, 700, 4, 30), {"stride": 3, "padding": 1}),
    "taps": ((3, 2, 1500, 40), {"stride": 5, "padding": 700}),
    "dilated": ((20, 9, 5, 200), {"stride": 3, "dilation": 7, "padding": 4}),
    "dilation": ((2, 2, 9, 50), {"stride": 6, "dilation": 1000, "padding": 3500}),
    "groups": ((90, 60, 3, 70), {"stride": 2, "groups": 30}),
    "short": ((40, 30, 16, 3), {"stride": 8, "padding": 4}),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("along", ["x", "g", "time"])
def test_large(name, mode, dtype, along):
    (c_in, c_out, K, L), geometry = LARGE[name]
    rng = np.random.default_rng(0)
    groups = geometry.get("groups", 1)

    def integers(*shape):
        return (rng.integers(-2, 3, shape) + (1j * rng.integers(-2, 3, shape) if dtype[0] == "c" else 0)).astype(dtype)

    x, w = integers(3, c_in, L), integers(c_in, c_out // groups, K)
    y = conv_transpose1d(x, w, padding_mode=mode, **geometry)
    gy = integers(*y.shape)
    with vectors(along):
        gx, gw, _ = conv_transpose1d_backward(gy, x, w, padding_mode=mode, **geometry)
    for _ in range(2):
        u, v = integers(*x.shape), integers(*w.shape)
        by_x = conv_transpose1d(u, w, padding_mode=mode, **geometry).astype(complex)
        by_w = conv_transpose1d(x, v, padding_mode=mode, **geometry).astype(complex)
        assert (gy.conj() * by_x).sum().real == (gx.conj().astype(complex) * u).sum().real
        assert (gy.conj() * by_w).sum().real == (gw.conj().astype(complex) * v).sum().real


@pytest.mark.parametrize("mode", naive.MODES)
def test_finite_differences(mode):
    """A loss that is not linear: half the squared output."""
    rng = np.random.default_rng(5)
    x, w, b = rng.standard_normal((2, 4, 9)), rng.standard_normal((4, 3, 5)), rng.standard_normal(6)
    geometry = {"stride": 3, "padding": (2, 1), "output_padding": 1, "groups": 2, "dilation": 2, "padding_mode": mode}

    def loss(x, w, b):
        return 0.5 * (conv_transpose1d(x, w, b, **geometry) ** 2).sum()

    y = conv_transpose1d(x, w, b, **geometry)
    gradients = conv_transpose1d_backward(y, x, w, **geometry)
    for i, gradient in enumerate(gradients):
        for _ in range(20):
            arrays = [x.copy(), w.copy(), b.copy()]
            at = tuple(rng.integers(0, n) for n in arrays[i].shape)
            h, values = 1e-5, []
            for sign in (1, -1):
                arrays[i][at] += sign * h
                values.append(loss(*arrays))
                arrays[i][at] -= sign * h
            assert (values[0] - values[1]) / (2 * h) == pytest.approx(gradient[at], rel=1e-7, abs=1e-6)


def test_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)

    def normal(*shape, cplx):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if cplx else 0)

    for cplx in (False, True):
        for s, p, op, g, d in ((1, 0, 0, 1, 1), (3, 2, 1, 2, 2), (2, 1, 1, 4, 1), (5, 3, 4, 1, 3)):
            x, w, b = (normal(*shape, cplx=cplx) for shape in ((3, 8, 70), (8, 12 // g, 6), (12,)))
            tensors = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
            y = torch.nn.functional.conv_transpose1d(*tensors, s, p, op, g, d)
            gy = normal(*y.shape, cplx=cplx)
            expected = torch.autograd.grad(y, tensors, torch.from_numpy(gy))
            for ours, theirs in zip(conv_transpose1d_backward(gy, x, w, s, p, op, g, d), expected, strict=True):
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("along", [None, "x", "g", "time"])
def test_same_bits_for_any_number_of_workers(force, dtype, mode, along):
    rng = np.random.default_rng(7)
    for c_in, c_out, K, s, g, L in ((48, 40, 8, 4, 1, 300), (33, 6, 7, 2, 3, 90), (1, 1, 12, 2, 1, 5000)):
        x, w = rng.standard_normal((3, c_in, L)).astype(dtype), rng.standard_normal((c_in, c_out // g, K)).astype(dtype)
        gy = rng.standard_normal(conv_transpose1d(x, w, stride=s, groups=g, padding_mode=mode).shape).astype(dtype)
        with force(threads=True), vectors(along):
            results = [
                conv_transpose1d_backward(gy, x, w, s, groups=g, padding_mode=mode, workers=n) for n in (1, 2, 3, 4)
            ]
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("along", ["x", "g", "time"])
def test_accuracy_of_a_long_sum(along):
    """A sum over 100,000 samples in float32 is made of short ones: it must not drift as one long sum would."""
    rng = np.random.default_rng(8)
    x, gy = (1 + rng.random((1, 1, 100_000))).astype(np.float32), (1 + rng.random((1, 1, 100_003))).astype(np.float32)
    w = np.ones((1, 1, 4), np.float32)
    with vectors(along):
        _, gw, _ = conv_transpose1d_backward(gy, x, w)
    _, exact, _ = conv_transpose1d_backward(gy.astype(float), x.astype(float), w)
    np.testing.assert_allclose(gw, exact, rtol=2e-5)


def test_accuracy_of_grad_bias():
    """Whatever lies next to what in memory: here channels, as other libraries have it."""
    gy = np.full((1, 2**20, 2), 0.1, np.float32).transpose(0, 2, 1)
    for grad_output in (gy, gy[0], gy[..., ::-1], np.ascontiguousarray(gy)):
        x = np.broadcast_to(np.float32(0), (*gy.shape[:-1], gy.shape[-1])[-grad_output.ndim :])
        _, _, gb = conv_transpose1d_backward(grad_output, x, np.ones((2, 2, 1), np.float32), needs=["bias"])
        np.testing.assert_allclose(gb, 2**20 * 0.1, rtol=1e-6)


@pytest.mark.parametrize("mode", naive.MODES)
def test_inf_minus_inf_is_no_warning(mode):
    """As it is none in the output, neither in the samples that a padding mode copies nor in the bias."""
    gy = np.full((2, 1, 9), np.inf)
    gy[..., ::2] = -np.inf
    gradients = conv_transpose1d_backward(gy, np.ones((2, 1, 7)), np.ones((1, 1, 3)), padding_mode=mode)
    for gradient in gradients:
        assert np.isnan(gradient).all()


@pytest.mark.parametrize("mode", naive.MODES)
def test_a_kernel_that_reaches_far(mode):
    """Of the millions of samples that such a kernel spans only those that meet the output cost time."""
    rng, d = np.random.default_rng(0), 2**26
    x, w = rng.integers(-4, 5, (2, 2, 4)).astype(float), rng.integers(-4, 5, (2, 3, 3)).astype(float)
    gy = rng.integers(-4, 5, (2, 3, 10)).astype(float)
    gradients = conv_transpose1d_backward(gy, x, w, 3, d, dilation=d, padding_mode=mode, needs=["x", "bias"])
    expected = naive.conv_transpose1d_backward(gy, x, w, 3, d, d=d, pad=mode)
    for k in (0, 2):
        np.testing.assert_array_equal(gradients[k], expected[k])


def test_needs():
    x, w = np.ones((2, 4, 5)), np.ones((4, 6, 3))
    gy = np.ones((2, 6, 7))
    everything = conv_transpose1d_backward(gy, x, w)
    for needs in ((), ("x",), ["weight"], {"bias"}, ("x", "bias"), iter(["weight", "x"])):
        needs = list(needs)
        found = conv_transpose1d_backward(gy, x, w, needs=iter(needs))
        for name, gradient, full in zip(("x", "weight", "bias"), found, everything, strict=True):
            if name in needs:
                np.testing.assert_array_equal(gradient, full)
            else:
                assert gradient is None
    layer = convt1d.ConvTranspose1d(4, 6, 3, bias=False)
    assert layer.backward(gy, x)[2] is None
    assert layer.backward(gy, x)[1] is not None


def test_output_size():
    layer = convt1d.ConvTranspose1d(2, 3, 3, stride=4, dtype=float, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 2, 5))
    for size in (19, 20, 22):
        gy = np.ones(layer(x, size).shape)
        gx, _, gb = layer.backward(gy, x, size)
        assert gx.shape == x.shape
        np.testing.assert_array_equal(gb, 2.0 * size)
    with pytest.raises(ValueError, match=r"grad_output must have the shape of the output, \(2, 3, 19\)"):
        layer.backward(gy, x)


def test_changed_weight_is_used():
    layer = convt1d.ConvTranspose1d(1, 1, 1, bias=False)
    x = np.ones((1, 3), np.float32)
    layer.weight = [[[2.0]]]
    np.testing.assert_array_equal(layer.backward(x, x)[0], 2 * x)
    layer.weight = [[[3.0]]]
    np.testing.assert_array_equal(layer.backward(x, x)[0], 3 * x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int16"])
def test_types(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(9)
    gy, x, w = (rng.integers(-2, 3, shape).astype(dtype) for shape in ((2, 2, 9), (2, 3, 4), (3, 2, 3)))
    results = conv_transpose1d_backward(gy, x, w, 2)
    expected = conv_transpose1d_backward(gy.astype(float), x.astype(float), w.astype(float), 2)
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == (float if np.dtype(dtype).kind == "i" else dtype)
        np.testing.assert_array_equal(a.astype(float), b)


def test_gradient_of_a_real_argument_is_real():
    rng = np.random.default_rng(10)
    x, w = rng.integers(-4, 5, (2, 3, 8)) * (1 + 2j), rng.integers(-4, 5, (3, 2, 4)).astype(float)
    gy = rng.integers(-4, 5, (2, 2, 11)) * (2 - 1j)
    gx, gw, gb = conv_transpose1d_backward(gy, x, w)
    assert (gx.dtype, gw.dtype, gb.dtype) == (complex, float, complex)
    np.testing.assert_array_equal(gw, conv_transpose1d_backward(gy, x, w.astype(complex))[1].real)


def test_views_and_read_only():
    rng = np.random.default_rng(11)
    x, w = rng.standard_normal((2, 60, 4)).transpose(0, 2, 1)[..., ::2], rng.standard_normal((4, 3, 5))[..., ::-1]
    gy = rng.standard_normal((2, 63, 3)).transpose(0, 2, 1)[..., ::1]
    gy.flags.writeable = x.flags.writeable = False
    results = conv_transpose1d_backward(gy, x, w, 2)
    copies = conv_transpose1d_backward(gy.copy("C"), x.copy("C"), w.copy("C"), 2)
    for a, b in zip(results, copies, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_empty_batch():
    gx, gw, gb = conv_transpose1d_backward(np.ones((0, 6, 7)), np.ones((0, 4, 5)), np.ones((4, 6, 3)))
    assert gx.shape == (0, 4, 5)
    assert gw.shape == (4, 6, 3)
    assert not gw.any()
    assert not gb.any()


def test_choice_of_vectors_is_readable():
    choose = functools.partial(gradient_plans.cheapest, tuning.GradientTuning())
    assert choose(inputs=512, pairs=4096, lanes=16, dilation=1) == "x"
    assert choose(inputs=512, pairs=16, lanes=16, dilation=1) == "g"
    assert choose(inputs=1, pairs=12, lanes=16, dilation=1) == "time"
    assert choose(inputs=32, pairs=80, lanes=16, dilation=2) == "x"


def test_workspace_stays_under_its_promise():
    for args in (
        (512, 256, 16, 8),
        (2048, 1024, 20, 10),
        (1026, 1, 1024, 256),
        (1, 1, 12, 2),
        (1, 1, 512, 1),
        (4, 4, 3),
        (512, 1, 1),  # the rows of x along time
        (256, 1, 1),
        (128, 1, 2),
    ):
        checked = convt1d.geometry.check(*args)
        for dtype in map(np.dtype, ("float32", "float64", "complex64", "complex128")):
            for machine in MACHINES:
                plan = gradient_plans.gradient_plan(checked, dtype, machine)
                assert gradient_plans.workspace_bytes(plan, checked, dtype) <= WORKSPACE, (args, dtype, machine, plan)


def test_many_channels_of_one_tap():
    """Their rows along time did not fit into the workspace."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 10, (1, 512, 3000)).astype(float), np.ones((512, 1, 1))
    gy = rng.integers(-9, 10, (1, 1, 3000)).astype(float)
    _, grad_weight, _ = conv_transpose1d_backward(gy, x, w)
    np.testing.assert_array_equal(grad_weight[:, 0, 0], x[0] @ gy[0, 0])


X, W = np.ones((2, 4, 5)), np.ones((4, 6, 3))


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 6, 8), (2, 5, 7), (1, 6, 7), (6, 7), (2, 6, 0)])
def test_shape_of_grad_output(shape):
    with pytest.raises(ValueError, match=r"grad_output must have the shape of the output, \(2, 6, 7\)") as caught:
        conv_transpose1d_backward(np.ones(shape), X, W)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"needs": "x"}, TypeError, "needs must be a collection of the names x, weight, bias, got 'x'"),
        ({"needs": None}, TypeError, "needs must be a collection"),
        ({"needs": ("x", "w")}, ValueError, "needs must hold names out of x, weight, bias, got 'w'"),
        ({"needs": (1,)}, ValueError, "needs must hold names.*got 1"),
        ({"x": np.ones((2, 3, 5))}, ValueError, r"x must have shape \(N, 4, L\).*\(2, 3, 5\)"),
        ({"x": np.ones((3, 4, 5))}, ValueError, r"grad_output must have the shape of the output, \(3, 6, 7\)"),
        ({"x": np.ones((2, 4, 0))}, ValueError, "at least 1"),
        ({"x": np.ones(5)}, ValueError, "x must be 2-D or 3-D"),
        ({"grad_output": np.ones(7)}, ValueError, "grad_output must be 2-D or 3-D"),
        ({"grad_output": np.ma.ones((2, 6, 7))}, TypeError, "grad_output must be a plain array"),
        ({"grad_output": np.ones((2, 6, 7), object)}, TypeError, "grad_output must hold numbers"),
        ({"weight": np.ones((4, 0, 3))}, ValueError, "weight must have no empty dimension"),
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"workers": 0}, ValueError, "workers must be"),
        ({"padding_mode": "wrap"}, ValueError, "padding_mode must be one of"),
    ],
)
def test_refused(given, error, words):
    with pytest.raises(error, match=words):
        conv_transpose1d_backward(**({"grad_output": np.ones((2, 6, 7)), "x": X, "weight": W} | given))
