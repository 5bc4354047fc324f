# SPDX-License-Identifier: MIT
"""Each framework as the oracle of its own convention, over random geometry; those that are installed."""

import os
import sys
import warnings

import naive
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convt1d import ConvTranspose1d

few = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
many = settings(max_examples=1000, database=None, suppress_health_check=[HealthCheck.too_slow])


def float32(problem):
    """x as a batch, weight and bias, all in float32: small integers, so that every sum is exact."""
    arrays = (problem.x.reshape(-1, *problem.x.shape[-2:]), problem.w, problem.b)
    return (None if a is None else a.astype(np.float32) for a in arrays)


# --- torch --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


TORCH = naive.problems(modes=["zeros"], pairs=False, kinds="f")


def module_of(torch, problem):
    x, w, b = float32(problem)
    g = problem.geometry
    arguments = {name: g[name] for name in ("stride", "padding", "output_padding", "groups", "dilation")}
    module = torch.nn.ConvTranspose1d(w.shape[0], w.shape[1] * g["groups"], w.shape[2], bias=b is not None, **arguments)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(w))
        if b is not None:
            module.bias.copy_(torch.from_numpy(b))
    return module, x, arguments


def by_torch(torch, module, x):
    with torch.no_grad():
        return module(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def check_torch(torch, problem):
    module, x, arguments = module_of(torch, problem)
    expected = by_torch(torch, module, x)
    state = {f"net.3.up.{name}": tensor for name, tensor in module.state_dict().items()}
    state["net.3.weight"] = torch.ones(3)
    groups = {} if problem.b is not None else {"groups": arguments["groups"]}
    sliding = {name: value for name, value in arguments.items() if name != "groups"} | groups
    for prefix in ("net.3.up", "net.3.up."):
        layer = ConvTranspose1d.from_state_dict(state, prefix, **sliding)
        np.testing.assert_array_equal(layer(x), expected)
    layer = ConvTranspose1d.from_torch(module)
    assert repr(layer) == repr(module)
    np.testing.assert_array_equal(layer(x), expected)
    other = torch.nn.ConvTranspose1d(layer.in_channels, layer.out_channels, layer.kernel_size, **arguments)
    if layer.bias is None:
        other.bias = None
    other.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    np.testing.assert_array_equal(by_torch(torch, other, x), expected)


@few
@given(problem=TORCH)
def test_torch(torch, problem):
    check_torch(torch, problem)


@pytest.mark.slow
@many
@given(problem=TORCH)
def test_torch_long(torch, problem):
    check_torch(torch, problem)


@pytest.mark.parametrize("dim", [0, 1, 2, None, -1])
@pytest.mark.parametrize("form", ["old", "new"])
@few
@given(problem=TORCH, seed=st.integers(0, 2**32))
def test_weight_norm(torch, problem, seed, form, dim):
    """Folded as torch does it, where every axis but one, or none, has its own length."""
    module, x, _ = module_of(torch, problem)
    torch.manual_seed(seed)
    torch.nn.init.normal_(module.weight)
    utils = torch.nn.utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old one is deprecated
        module = {"old": utils.weight_norm, "new": utils.parametrizations.weight_norm}[form](module, dim=dim)
    state = module.state_dict()
    assert len(state) == 2 + (module.bias is not None)
    (g,) = (name for name in state if name.endswith(("weight_g", "original0")))
    with torch.no_grad():
        state[g].mul_(torch.randn_like(state[g]))  # in place: the module's own
    expected = by_torch(torch, module, x)
    y = ConvTranspose1d.from_torch(module)(x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * max(1, abs(expected).max()))


@pytest.mark.parametrize("form", ["old", "new"])
def test_spectral_norm(torch, form):
    utils = torch.nn.utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        norm = {"old": utils.spectral_norm, "new": utils.parametrizations.spectral_norm}[form]
        module = norm(torch.nn.ConvTranspose1d(4, 2, 3))
    with pytest.raises(ValueError, match=r"'weight' is under spectral_norm.*remove_spectral_norm"):
        ConvTranspose1d.from_torch(module)


def test_other_parametrizations(torch):
    from torch.nn.utils import prune

    pruned = prune.l1_unstructured(torch.nn.ConvTranspose1d(4, 2, 3), "weight", 0.5)
    orthogonal = torch.nn.utils.parametrizations.orthogonal(torch.nn.ConvTranspose1d(4, 2, 3))
    both = torch.nn.utils.parametrizations.weight_norm(torch.nn.ConvTranspose1d(4, 2, 3))
    both = torch.nn.utils.parametrizations.spectral_norm(both)
    for module, what in ((pruned, "not known here"), (orthogonal, "not known here"), (both, "spectral_norm")):
        with pytest.raises(ValueError, match=what):
            ConvTranspose1d.from_torch(module)


def test_gradients_devices_and_types_of_torch(torch):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64):
        module = torch.nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, dtype=dtype)
        layer = ConvTranspose1d.from_torch(module)
        assert layer.dtype.name == str(dtype).removeprefix("torch.")
        wide = torch.complex128 if dtype.is_complex else torch.float64
        expected = module.weight.detach().to(wide).numpy()
        np.testing.assert_array_equal(layer.weight.astype(expected.dtype), expected)
        np.testing.assert_array_equal(layer.bias.astype(expected.dtype), module.bias.detach().to(wide).numpy())
    conjugate = {"weight": torch.randn(4, 6, 3, dtype=torch.complex64).conj()}
    expected = conjugate["weight"].resolve_conj().numpy()
    np.testing.assert_array_equal(ConvTranspose1d.from_state_dict(conjugate, stride=1).weight, expected)
    with pytest.raises(TypeError, match="'weight' must be a dense tensor"):
        ConvTranspose1d.from_torch(torch.nn.ConvTranspose1d(4, 6, 3, device="meta"))
    with pytest.raises(TypeError, match="'weight' must be a dense tensor"):
        ConvTranspose1d.from_state_dict({"weight": torch.ones(4, 6, 3).to_sparse()}, stride=1)


def test_bfloat16_without_ml_dtypes(torch, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match=r"'weight' is bfloat16.*pip install ml_dtypes"):
        ConvTranspose1d.from_torch(torch.nn.ConvTranspose1d(4, 6, 3, dtype=torch.bfloat16))


def test_no_module(torch):
    for other in (torch.nn.Conv1d(1, 1, 1), torch.nn.ConvTranspose2d(1, 1, 3), torch.nn.ReLU(), None, np.ones(3)):
        with pytest.raises(TypeError, match=rf"must be a torch\.nn\.ConvTranspose1d, got {type(other).__name__}"):
            ConvTranspose1d.from_torch(other)


# --- Keras --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")  # or jax; what is set wins
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras")


@st.composite
def keras_layers(draw):
    """A problem of batched x, kernel (K, C_out, C_in), bias; arguments of the layer."""
    problem = draw(naive.problems(modes=["zeros"], kinds="f", longest=20))
    x, w, b = float32(problem)
    stride, dilation = problem.geometry["stride"], problem.geometry["dilation"]
    if stride > 1:
        dilation = 1  # Keras takes one of them
    arguments = {"strides": stride, "dilation_rate": dilation, "padding": draw(st.sampled_from(["same", "valid"]))}
    if draw(st.booleans()):
        arguments["output_padding"] = draw(st.integers(0, stride - 1))
    b = b if b is None else b[: w.shape[1]]
    return x, w.transpose(2, 1, 0), b, arguments


def check_keras(keras, case):
    x, kernel, bias, arguments = case
    layer = keras.layers.Conv1DTranspose(kernel.shape[1], kernel.shape[0], use_bias=bias is not None, **arguments)
    layer.build((None, None, kernel.shape[2]))
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Keras' own use of NumPy
        expected = keras.ops.convert_to_numpy(layer(x.transpose(0, 2, 1))).transpose(0, 2, 1)
    given = {"stride": "strides", "dilation": "dilation_rate"}
    given = {name: arguments[keras_name] for name, keras_name in given.items()}
    given |= {name: arguments[name] for name in ("padding", "output_padding") if name in arguments}
    for ours in (
        ConvTranspose1d.from_keras(layer),
        ConvTranspose1d.from_keras(layer.kernel, layer.bias, **given),
        ConvTranspose1d.from_keras(kernel, bias, **given),
    ):
        if expected.size == 0:
            with pytest.raises(ValueError, match="output length must be at least 1"):
                ours(x)
        else:
            np.testing.assert_array_equal(ours(x), expected)
    return expected.size > 0


@settings(few, max_examples=50)
@given(case=keras_layers())
def test_keras(keras, case):
    check_keras(keras, case)


@pytest.mark.slow
def test_keras_long(keras):
    counts = [0, 0]

    @many
    @given(case=keras_layers())
    def count(case):
        counts[check_keras(keras, case)] += 1

    count()
    print(f"{keras.backend.backend()}: {counts[1]} equal, {counts[0]} without output")


def test_keras_refusals(keras):
    layer = keras.layers.Conv1DTranspose(2, 3, activation="relu")
    with pytest.raises(ValueError, match="layer must be built"):
        ConvTranspose1d.from_keras(layer)
    layer.build((None, None, 4))
    with pytest.raises(ValueError, match="no activation, got 'relu'"):
        ConvTranspose1d.from_keras(layer)
    plain = keras.layers.Conv1DTranspose(2, 3)
    plain.build((None, None, 4))
    for given_ in ({"stride": 1}, {"padding": "same"}, {"bias": np.ones(2)}, {"dilation": 2}):
        with pytest.raises(TypeError, match="a Keras layer holds its bias and geometry itself"):
            ConvTranspose1d.from_keras(plain, **given_)
    with pytest.raises(TypeError, match=r"must be a keras\.layers\.Conv1DTranspose, got Conv1D$"):
        ConvTranspose1d.from_keras(keras.layers.Conv1D(2, 3))


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({}, TypeError, "stride and padding must be given with a kernel"),
        ({"stride": 2, "padding": "causal"}, ValueError, "padding must be 'same' or 'valid'.*got 'causal'"),
        ({"stride": 2, "padding": 1}, ValueError, "padding must be 'same' or 'valid'.*got 1"),
        ({"stride": 0, "padding": "same"}, ValueError, "stride must be at least 1"),
        ({"stride": 2, "padding": "valid", "output_padding": 2}, ValueError, "zeros around.* got 0 before and 2 after"),
        ({"stride": 2, "padding": "valid", "output_padding": -1}, ValueError, "output_padding must be at least 0"),
        ({"stride": 2, "padding": "valid", "bias": np.ones(4)}, ValueError, r"bias must have shape \(3,\), got \(4,\)"),
    ],
)
def test_kernels_of_keras(given, error, match):
    with pytest.raises(error, match=match):
        ConvTranspose1d.from_keras(np.ones((5, 3, 4)), **given)


# --- JAX and Flax -------------------------------------------------------------------------------------------


@st.composite
def jax_calls(draw):
    """A problem of batched x, weight, bias; and transpose_kernel, stride, dilation, padding of the call."""
    problem = draw(naive.problems(modes=["zeros"], kinds="f", longest=13))
    x, w, b = float32(problem)
    stride, dilation = problem.geometry["stride"], problem.geometry["dilation"]
    reach = dilation * (w.shape[2] - 1) + 1
    # not below 0: there XLA (JAX 0.10.2, CPU) now and then adds what it finds in memory, 1 in 674 against NumPy
    numbers = st.tuples(st.integers(0, reach - 1), st.integers(0, reach - 1 + max(stride, dilation) - 1))
    padding = draw(st.sampled_from(["SAME", "VALID", "CIRCULAR"]) | numbers)
    b = b if b is None else b[: w.shape[1]]
    return x, w, b, draw(st.booleans()), stride, dilation, padding


def kernel_of(w, transpose_kernel):
    return w.transpose(2, 1, 0) if transpose_kernel else w.transpose(2, 0, 1)[::-1]


def by_jax(function, x):
    """What a function of channels-last arrays gives; None where nothing is left."""
    y = np.asarray(function(x.transpose(0, 2, 1))).transpose(0, 2, 1)
    return y if y.size else None


def check_lax(jax, case, consistent):
    x, w, b, transpose_kernel, stride, dilation, padding = case
    if padding == "CIRCULAR":
        padding = "SAME"
    kernel = kernel_of(w, transpose_kernel)
    if consistent:
        reach = dilation * (w.shape[2] - 1) + 1
        padding = padding if isinstance(padding, str) else tuple(reach - 1 - p for p in padding)
    options = {"transpose_kernel": transpose_kernel} | ({"use_consistent_padding": True} if consistent else {})

    def by_lax(x):
        pairs = padding if isinstance(padding, str) else [padding]
        y = jax.lax.conv_transpose(x, kernel, [stride], pairs, rhs_dilation=[dilation], **options)
        return y if b is None else y + b

    expected = by_jax(by_lax, x)
    layer = ConvTranspose1d.from_jax(
        jax.numpy.asarray(kernel), b, stride=stride, padding=padding, dilation=dilation, **options
    )
    if expected is None:
        with pytest.raises(ValueError, match="output length must be at least 1"):
            layer(x)
        return False
    np.testing.assert_array_equal(layer(x), expected)
    return True


@few
@given(case=jax_calls(), consistent=st.booleans())
def test_lax(case, consistent):
    check_lax(pytest.importorskip("jax"), case, consistent)


@pytest.mark.slow
def test_lax_long():
    jax, counts = pytest.importorskip("jax"), [0, 0]

    @many
    @given(case=jax_calls(), consistent=st.booleans())
    def count(case, consistent):
        counts[check_lax(jax, case, consistent)] += 1

    count()
    print(f"{counts[1]} equal, {counts[0]} without output")


@pytest.fixture(scope="session")
def linen():
    pytest.importorskip("jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("flax.linen")


def check_flax(linen, case):
    x, w, b, transpose_kernel, stride, dilation, padding = case
    module = linen.ConvTranspose(
        w.shape[1],
        (w.shape[2],),
        (stride,),
        padding if isinstance(padding, str) else [padding],
        kernel_dilation=(dilation,),
        use_bias=b is not None,
        transpose_kernel=transpose_kernel,
    )
    parameters = {"kernel": kernel_of(w, transpose_kernel)} | ({} if b is None else {"bias": b})
    expected = by_jax(lambda x: module.apply({"params": parameters}, x), x)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "transpose_kernel": transpose_kernel}
    layer = ConvTranspose1d.from_jax(parameters["kernel"], parameters.get("bias"), **options)
    if expected is None:
        with pytest.raises(ValueError, match="output length must be at least 1"):
            layer(x)
        return False
    np.testing.assert_array_equal(layer(x), expected)
    return True


@few
@given(case=jax_calls())
def test_flax(linen, case):
    check_flax(linen, case)


@pytest.mark.slow
def test_flax_long(linen):
    counts = {}

    @many
    @given(case=jax_calls())
    def count(case):
        key = case[-1] if isinstance(case[-1], str) else "numbers", check_flax(linen, case)
        counts[key] = counts.get(key, 0) + 1

    count()
    print(counts)


def test_flax_nnx():
    """Its parameters can be handed over as they are."""
    pytest.importorskip("jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nnx = pytest.importorskip("flax.nnx")
        module = nnx.ConvTranspose(4, 6, (5,), (2,), rngs=nnx.Rngs(0))
        x = np.random.default_rng(0).standard_normal((2, 4, 9)).astype(np.float32)
        expected = np.asarray(module(x.transpose(0, 2, 1))).transpose(0, 2, 1)
        layer = ConvTranspose1d.from_jax(module.kernel, module.bias, stride=2, padding="SAME")
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"padding": "CAUSAL"}, ValueError, "padding must be 'same' or 'valid'.*'circular'.* got 'CAUSAL'"),
        ({"padding": (5, 0)}, ValueError, "zeros around the output .* got 1 before and 0 after"),
        ({"padding": (0, 6)}, ValueError, "zeros around the output .* got 0 before and 2 after, with stride=2"),
        ({"padding": (1, 2, 3)}, ValueError, r"padding must be an int, a pair or .* got \(1, 2, 3\)"),
        ({"padding": (1.5, 2)}, TypeError, "padding must be an int, got 1.5"),
        ({"padding": None}, TypeError, "padding must be an int, got None"),
        ({"padding": "SAME", "dilation": 0}, ValueError, "dilation must be at least 1"),
        ({"padding": "SAME", "kernel": np.ones((0, 3, 4))}, ValueError, "kernel must have no empty dimension"),
        ({"padding": "SAME", "kernel": np.ones((3, 4))}, ValueError, "kernel must be 3-D"),
    ],
)
def test_kernels_of_jax(given, error, match):
    with pytest.raises(error, match=match):
        ConvTranspose1d.from_jax(**{"kernel": np.ones((5, 3, 4)), "stride": 2} | given)


def test_padding_of_jax():
    """Flax' forms of the same numbers; zeros at the end that output_padding expresses."""
    options = {"kernel": np.ones((5, 3, 4)), "stride": 2}
    for padding in (1, (1,), [1], (1, 1), [(1, 1)], [[1, 1]]):
        assert ConvTranspose1d.from_jax(**options, padding=padding).padding == 3
    layer = ConvTranspose1d.from_jax(**options, padding=(4, 5))
    assert (layer.padding, layer.output_padding) == (0, 1)
    cropped = ConvTranspose1d.from_jax(**options, padding=(-2, -1))  # below 0: samples taken away
    x = np.arange(24.0).reshape(3, 8)
    np.testing.assert_array_equal(cropped(x), ConvTranspose1d.from_jax(**options, padding=0)(x)[:, 2:-1])
