# SPDX-License-Identifier: MIT
"""Least squares: known weights come back, noisy ones are those of one dense lstsq, and bad data is refused."""

import copy
import pickle
import re
import tracemalloc
import warnings

import ml_dtypes
import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convt1d.fit
from convt1d import ConvTranspose1d

# in_channels, out_channels, kernel_size; what else
LAYERS = {
    "plain": ((1, 1, 3), {}),
    "phases": ((2, 3, 8), {"stride": 4, "padding": 2}),
    "no-multiple": ((2, 2, 7), {"stride": 3, "padding": 3, "output_padding": 2}),
    "gaps": ((3, 2, 2), {"stride": 5, "padding": (1, 0), "output_padding": 4}),
    "asymmetric": ((2, 2, 6), {"stride": 2, "padding": (0, 4)}),
    "beyond-the-kernel": ((2, 1, 4), {"stride": 3, "padding": (9, 7)}),
    "groups": ((6, 4, 5), {"stride": 2, "padding": 2, "groups": 2}),
    "depthwise": ((4, 8, 6), {"stride": 2, "groups": 4}),
    "dilation": ((2, 3, 5), {"stride": 2, "padding": 6, "dilation": 3}),
    "dilation-and-gaps": ((2, 2, 4), {"stride": 4, "padding": (3, 5), "dilation": 6, "output_padding": 5, "groups": 2}),
    "stride-1": ((2, 2, 5), {"dilation": 2, "padding": 4}),
}


def make(name="phases", rng=0, dtype=float, **given):
    sizes, options = LAYERS[name]
    return ConvTranspose1d(*sizes, **options | given, dtype=dtype, rng=rng)


def normal(rng, shape, dtype=float):
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


def examples(layer, shape=(3, 40), noise=0.0, seed=0):
    """x, and y of the layer with other weights."""
    rng, dtype = np.random.default_rng(seed), np.result_type(layer.dtype, np.float64)
    *batch, length = shape
    x = normal(rng, (*batch, layer.in_channels, length), dtype)
    known = copy.copy(layer)
    known.weight = normal(rng, layer.weight.shape).astype(layer.dtype)
    if layer.bias is not None:
        known.bias = 5 * normal(rng, layer.bias.shape).astype(layer.dtype)
    y = known(x)
    return x, y + noise * normal(rng, y.shape, dtype), known


def dense(layer, x, y, alpha=0.0, weights=None):
    """Weight and bias by one lstsq on everything: rows (n, o, t) and the penalty's, columns all weights and biases."""
    names = ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode")
    s, p, op, g, d, mode = (getattr(layer, name) for name in names)
    x, y = x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:])
    (n, c_in, length), (_, c_out, out_length), (_, per_group, K) = x.shape, y.shape, layer.weight.shape
    op += out_length - layer.output_length(length)
    units = naive.conv_transpose1d(x.reshape(-1, 1, length), np.eye(K)[None], None, s, p, op, 1, d, mode)
    units = units.reshape(n, c_in, K, out_length)
    design = np.zeros((n, c_out, out_length, c_in, per_group, K), x.dtype)
    for c, o in np.ndindex(c_in, per_group):
        design[:, c // (c_in // g) * per_group + o, :, c, o] = units[:, c].swapaxes(1, 2)
    design = design.reshape(-1, layer.weight.size)
    penalty = np.sqrt(alpha) * np.eye(layer.weight.size)
    if layer.bias is not None:
        ones = np.tile(np.eye(c_out).repeat(out_length, 0), (n, 1))
        design, penalty = np.hstack([design, ones]), np.hstack([penalty, np.zeros((len(penalty), c_out))])
    roots = np.sqrt(np.ones(n) if weights is None else weights).repeat(c_out * out_length)
    stacked = np.vstack([design * roots[:, None], penalty]) if alpha else design * roots[:, None]
    sides = np.concatenate([y.ravel() * roots, np.zeros(len(penalty))]) if alpha else y.ravel() * roots
    solution = np.linalg.lstsq(stacked, sides)[0]
    return solution[: layer.weight.size].reshape(layer.weight.shape), solution[layer.weight.size :]


def assert_learned(layer, weight, bias, tolerance=1e-10):
    np.testing.assert_allclose(layer.weight, weight, rtol=0, atol=tolerance)
    if layer.bias is not None:
        np.testing.assert_allclose(layer.bias, bias, rtol=0, atol=tolerance)


# --- the solution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [float, complex])
def test_known_weights_come_back(name, mode, bias, dtype):
    layer = make(name, padding_mode=mode, bias=bias, dtype=dtype)
    x, y, known = examples(layer)
    assert layer.fit(x, y) is layer
    assert_learned(layer, known.weight, known.bias)
    np.testing.assert_allclose(layer(x), y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_noisy_examples_against_one_dense_lstsq(name, mode, alpha):
    for dtype, bias, weighted in (
        (float, True, False),
        (float, True, True),
        (complex, True, True),
        (float, False, True),
    ):
        layer = make(name, padding_mode=mode, bias=bias, dtype=dtype)
        x, y, _ = examples(layer, (3, 25), noise=1.0)
        weights = np.array([0.5, 4.0, 1.7]) if weighted else None
        layer.fit(x, y, alpha=alpha, sample_weight=weights)
        assert_learned(layer, *dense(layer, x, y, alpha, weights))


@settings(max_examples=150)
@given(
    problem=naive.problems(longest=25),
    alpha=st.sampled_from([0.5, 1.0, 30.0]),
    weighted=st.booleans(),
    piece=st.sampled_from([1, 3000, 2**22]),
    seed=st.integers(0, 2**32),
)
def test_any_geometry_against_one_dense_lstsq(problem, alpha, weighted, piece, seed):
    """Also of few and exact numbers, where pieces of the sums are small, and where taps never meet an output."""
    x, w = problem.x, problem.w
    groups = problem.geometry["groups"]
    assume(w.size <= 150)
    layer = ConvTranspose1d(
        x.shape[-2], w.shape[1] * groups, w.shape[2], **problem.geometry, bias=problem.b is not None, dtype=x.dtype
    )
    rng = np.random.default_rng(seed)
    y = 9 * normal(rng, (*x.shape[:-2], layer.out_channels, layer.output_length(x.shape[-1])), x.dtype)
    weights = rng.uniform(0.5, 2.0, len(x) if x.ndim == 3 else 1) if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convt1d.fit, "PIECE_BYTES", piece)
        layer.fit(x, y, alpha=alpha, sample_weight=weights)
    assert_learned(layer, *dense(layer, x, y, alpha, weights), tolerance=1e-8)


def test_the_bias_is_not_penalised():
    """However large the penalty: the weights vanish and the bias is the mean, where shrinking it would give less."""
    layer = make("gaps")
    x, y, _ = examples(layer)
    layer.fit(x, y + 100, alpha=1e12)
    np.testing.assert_allclose(layer.weight, 0, atol=1e-6)
    np.testing.assert_allclose(layer.bias, (y + 100).mean(axis=(0, 2)), rtol=1e-6)


@pytest.mark.parametrize("extra", range(3))
def test_lengths_that_output_size_allows(extra):
    layer = make("no-multiple", output_padding=1)
    x, y, known = examples(layer)
    y = known(x, layer.output_length(40) - 1 + extra)
    assert_learned(layer.fit(x, y), known.weight, known.bias)


def test_output_padding_that_output_size_does_not_allow():
    """dilation 6 allows output_padding 5 with stride 4; it is the layer's own, so its outputs are examples."""
    layer = make("dilation-and-gaps")
    x, y, known = examples(layer)
    assert y.shape[-1] == make("dilation-and-gaps", output_padding=0).output_length(40) + 5
    assert_learned(layer.fit(x, y), known.weight, known.bias)


def test_unbatched():
    layer, other = make(), make()
    x, y, _ = examples(layer, (40,), noise=1.0)
    layer.fit(x, y, alpha=1.0, sample_weight=[2.0])
    other.fit(x[None], y[None], alpha=1.0, sample_weight=np.array([2.0]))
    np.testing.assert_array_equal(layer.weight, other.weight)
    np.testing.assert_array_equal(layer.bias, other.bias)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_sample_weight_counts_samples(alpha):
    """2 as if the sample came twice, 0 as if it were not there."""
    layer, other = make(), make()
    x, y, _ = examples(layer, (4, 20), noise=1.0)
    layer.fit(x, y, alpha=alpha, sample_weight=[1, 0, 2, 1])
    index = [0, 2, 2, 3]
    other.fit(x[index], y[index], alpha=alpha)
    assert_learned(layer, other.weight, other.bias, 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.complex64])
def test_narrow_types_are_solved_in_double(dtype):
    layer = make(dtype=dtype)
    wide = make(dtype=complex if layer.dtype.kind == "c" else float)
    x, y, _ = examples(wide, noise=0.1)
    x, y = x.astype(dtype), y.astype(dtype)
    layer.fit(x, y)
    wide.fit(x.astype(wide.dtype), y.astype(wide.dtype))
    assert layer.dtype == dtype
    np.testing.assert_array_equal(layer.weight, wide.weight.astype(dtype))
    np.testing.assert_array_equal(layer.bias, wide.bias.astype(dtype))


def test_integers_lists_and_real_examples_of_a_complex_layer():
    rng = np.random.default_rng(0)
    x, y = rng.integers(-9, 9, (2, 2, 20)), rng.integers(-9, 9, (2, 3, 80))
    wanted = make().fit(x.astype(float), y.astype(float))
    for layer in (make().fit(x, y), make().fit(x.tolist(), y.tolist()), make(dtype=complex).fit(x, y)):
        assert_learned(layer, wanted.weight, wanted.bias)


def test_units_do_not_matter():
    """Channels of very different loudness are well posed, whatever the condition number of A says."""
    layer = make()
    x, y, known = examples(layer)
    scale = np.array([1e9, 1e-9])[:, None]
    layer.fit(x * scale, y)
    np.testing.assert_allclose(layer.weight * scale[..., None], known.weight, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", naive.MODES[1:])
def test_an_offset_costs_no_digits(mode):
    """Air pressure or a magnetic field: in A of the signal as it comes, their variation would be the last few digits.

    (Not for zeros: there the signal does jump by the offset at its ends.)
    """
    layer = make("no-multiple", padding_mode=mode)
    x, _, known = examples(layer, (3, 200))
    x += 1e5
    layer.fit(x, known(x))
    np.testing.assert_allclose(layer.weight, known.weight, rtol=0, atol=1e-10)
    np.testing.assert_allclose(layer.bias, known.bias, rtol=0, atol=1e-5)  # the sum of 1e5 * w is part of it


def test_the_examples_and_the_former_weights_play_no_part():
    layer, other = make(rng=1), make(rng=2)
    x, y, _ = examples(layer, noise=1.0)
    before = x.copy(), y.copy()
    layer.fit(*examples(layer, seed=5)[:2]).fit(x, y)
    np.testing.assert_array_equal(layer.weight, other.fit(x, y).weight)
    for array, kept in zip((x, y), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_memory_does_not_grow_with_the_examples():
    """32 MiB of examples; 4 MiB pieces are what is copied at a time."""
    layer = ConvTranspose1d(1, 1, 8, stride=2, padding=3)
    x = np.random.default_rng(0).standard_normal((1, 2_800_000), dtype=np.float32)
    y = layer(x)
    tracemalloc.start()
    layer.fit(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


# --- batch after batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("dtype", [float, complex])
def test_partial_fit_is_fit_on_all(alpha, dtype):
    together, layer = make("groups", dtype=dtype), make("groups", dtype=dtype)
    x, y, _ = examples(layer, (6, 30), noise=1.0)
    weights = np.arange(6) + 1.0
    for batch in (slice(0, 3), slice(3, 4), slice(4, 6)):
        assert layer.partial_fit(x[batch], y[batch], alpha=alpha, sample_weight=weights[batch]) is layer
    together.fit(x, y, alpha=alpha, sample_weight=weights)
    assert_learned(layer, together.weight, together.bias, 1e-12)


def test_partial_fit_with_batches_of_any_length():
    layer = make()
    batches = [examples(layer, shape, noise=1.0, seed=k)[:2] for k, shape in enumerate([(2, 30), (17,), (1, 50)])]
    padded = [np.concatenate(a) for a in zip(*[dense_rows(layer, x, y) for x, y in batches], strict=True)]
    for x, y in batches:
        layer.partial_fit(x, y, alpha=1.0)
    design, sides = padded
    penalty = np.eye(design.shape[1])[:-1]
    solution = np.linalg.lstsq(np.vstack([design, penalty]), np.vstack([sides, np.zeros((len(penalty), 3))]))[0]
    wanted = solution[:-1].reshape(2, 8, 3).swapaxes(1, 2)
    assert_learned(layer, wanted, solution[-1])


def dense_rows(layer, x, y):
    """Rows (n, t) of the design of an ungrouped layer, columns (c, k) and ones; and of y, columns o."""
    x, y = x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:])
    K = layer.kernel_size
    units = naive.conv_transpose1d(x.reshape(-1, 1, x.shape[-1]), np.eye(K)[None], s=layer.stride, p=layer.padding)
    units = units.reshape(len(x), -1, y.shape[-1]).swapaxes(1, 2).reshape(-1, x.shape[1] * K)
    return np.hstack([units, np.ones((len(units), 1))]), y.swapaxes(1, 2).reshape(-1, y.shape[1])


def test_partial_fit_says_what_is_missing():
    layer, together = make(), make()
    x, y, known = examples(layer, (6, 3))
    before = layer.state_dict()
    with pytest.warns(RuntimeWarning, match=r"as many equations as unknowns, got 3 output samples for 4 "):
        layer.partial_fit(x[0], y[0])
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    silence = np.zeros((1, 2, 50)), np.broadcast_to(known.bias[:, None], (1, 3, 200))
    with pytest.warns(RuntimeWarning, match="does not determine the weights"):
        layer.partial_fit(*silence, sample_weight=[1e-3])
    layer.partial_fit(x[1:], y[1:])
    assert_learned(layer, known.weight, known.bias)
    together.fit(x, y)
    assert_learned(layer, together.weight, together.bias)


def test_partial_fit_keeps_the_batch_where_warnings_are_errors():
    layer = make()
    x, y, _ = examples(layer, (6, 3), noise=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="equations"):
            layer.partial_fit(x[0], y[0])
        layer.partial_fit(x[1:], y[1:])
    assert_learned(layer, *(make().fit(x, y).state_dict().values()))


def test_the_penalty_is_of_the_last_call():
    layer, other = make(), make()
    x, y, _ = examples(layer, noise=1.0)
    layer.partial_fit(x[:1], y[:1], alpha=100.0).partial_fit(x[1:], y[1:], alpha=1.0)
    assert_learned(layer, *(other.fit(x, y, alpha=1.0).state_dict().values()), 1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.load_state_dict(layer.state_dict()),
        lambda layer: setattr(layer, "weight", layer.weight),
        lambda layer: setattr(layer, "bias", layer.bias),
        lambda layer: layer.fit(*examples(layer)[:2]),
    ],
    ids=["load_state_dict", "weight", "bias", "fit"],
)
def test_sums_are_forgotten_where_weights_come_from_elsewhere(change):
    layer = make()
    x, y, _ = examples(layer, noise=1.0, seed=3)
    layer.partial_fit(*examples(layer, noise=1.0, seed=4)[:2])
    change(layer)
    layer.partial_fit(x, y)
    np.testing.assert_array_equal(layer.weight, make().fit(x, y).weight)


@pytest.mark.parametrize("double", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_go_on_by_themselves(double):
    layer = make()
    x, y, _ = examples(layer, noise=1.0)
    other_x, other_y, _ = examples(layer, noise=1.0, seed=1)
    layer.partial_fit(x[:2], y[:2])
    twin = double(layer)
    twin.partial_fit(other_x, other_y)
    layer.partial_fit(x[2:], y[2:])
    np.testing.assert_allclose(layer.weight, make().fit(x, y).weight, rtol=0, atol=1e-12)
    both = [np.concatenate(pair) for pair in ((x[:2], other_x), (y[:2], other_y))]
    np.testing.assert_allclose(twin.weight, make().fit(*both).weight, rtol=0, atol=1e-12)


def test_a_refused_batch_does_not_count():
    layer = make()
    x, y, _ = examples(layer, noise=1.0)
    layer.partial_fit(x[:2], y[:2])
    bad = y[2:].copy()
    bad[..., -1] = np.nan
    for wrong, error in ((bad, "finite"), (y[1:], "shape"), (1e300 * y[2:], "range")):
        with pytest.raises(ValueError, match=error):
            layer.partial_fit(1e200 * x[2:] if error == "range" else x[2:], wrong)
    layer.partial_fit(x[2:], y[2:])
    assert_learned(layer, *(make().fit(x, y).state_dict().values()), 1e-12)


# --- bad input ----------------------------------------------------------------------------------------------


def refuse(error, words, layer, *args, **kwargs):
    """fit and partial_fit raise exactly `error`, with all `words` in its message, and leave the layer as it was."""
    before = layer.state_dict()
    for method in (layer.fit, layer.partial_fit):
        with pytest.raises(error) as caught:
            method(*args, **kwargs)
        assert caught.type is error
        for word in words:
            assert re.search(word, str(caught.value)), f"{word!r} not in {caught.value}"
        assert layer._statistics is None
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


X, Y = np.random.default_rng(0).standard_normal((2, 2, 20)), np.ones((2, 3, 80))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X[0, 0], Y, [r"\bx\b", "2-D or 3-D", r"\(20,\)"]),
        (X, Y[0, 0], [r"\by\b", "2-D or 3-D", r"\(80,\)"]),
        (X[:, :1], Y, [r"\bx\b", r"\(N, 2, L\)", r"\(2, 1, 20\)"]),
        (X, Y[:1], [r"\by\b", r"\(2, 3, L_out\)", r"\(1, 3, 80\)"]),
        (X, Y[0], [r"\by\b", r"\(2, 3, L_out\)", r"\(3, 80\)"]),
        (X[0], Y, [r"\by\b", r"\(3, L_out\)", r"\(2, 3, 80\)"]),
        (X, Y[:, :2], [r"\by\b", r"\(2, 3, L_out\)", r"\(2, 2, 80\)"]),
        (X, Y[..., :79], [r"\by\b", "80", "83", "got 79"]),
        (X, np.ones((2, 3, 84)), [r"\by\b", "80", "83", "got 84"]),
        (X, Y[..., :0], [r"\by\b", "at least 1", "got 0"]),
        (X[..., :0], Y, ["input length", "at least 1", "0"]),
        (X[:0], Y[:0], [r"\bx\b", "at least one sample", r"\(0, 2, 20\)"]),
    ],
)
def test_shapes(x, y, words):
    refuse(ValueError, words, make(), x, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("at", [0, -1])
def test_not_finite(name, bad, at):
    arrays = {"x": X.copy(), "y": Y.copy()}
    arrays[name].flat[at] = bad
    refuse(ValueError, [rf"\b{name}\b", "finite"], make(), **arrays)


def test_complex_examples_of_a_real_layer():
    for x, y, name in ((X * 1j, Y, "x"), (X, Y * 1j, "y")):
        refuse(TypeError, [rf"\b{name}\b", "real", "complex128"], make(), x, y)


@pytest.mark.parametrize("name", ["x", "y", "sample_weight"])
def test_other_kinds(name):
    arrays = {"x": X, "y": Y, "sample_weight": np.ones(2)}
    for value in (arrays[name].astype(object), arrays[name].astype(str), np.ma.masked_array(arrays[name]), {}):
        refuse(TypeError, [name], make(), **arrays | {name: value})


@pytest.mark.parametrize(
    ("alpha", "error"),
    [(-1, ValueError), (-1e-300, ValueError), (np.nan, ValueError), (np.inf, ValueError)]
    + [(value, TypeError) for value in ("1", None, True, 1j, [1.0], np.ones(1))],
)
def test_alpha(alpha, error):
    refuse(error, ["alpha", re.escape(str(alpha).strip("[]"))], make(), X, Y, alpha=alpha)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (np.ones(3), ValueError, [r"\(2,\)", r"\(3,\)"]),
        (1.0, ValueError, [r"\(2,\)", r"\(\)"]),
        (np.ones((2, 1)), ValueError, [r"\(2,\)", r"\(2, 1\)"]),
        ([1.0, -0.5], ValueError, ["at least 0", "-0.5"]),
        ([1.0, np.nan], ValueError, ["finite"]),
        ([1.0, np.inf], ValueError, ["finite"]),
        ([0.0, 0.0], ValueError, ["above 0", "zeros"]),
        ([1.0, 1j], TypeError, ["real", "complex128"]),
    ],
)
def test_sample_weight(weights, error, words):
    refuse(error, ["sample_weight", *words], make(), X, Y, sample_weight=weights)


def undetermined(words, layer, x, y, **given):
    """fit raises LinAlgError, a ValueError, and leaves the layer as it was; a penalty helps."""
    before = layer.state_dict()
    with pytest.raises(np.linalg.LinAlgError, match=words) as caught:
        layer.fit(x, y, **given)
    assert issubclass(caught.type, ValueError)
    assert "alpha > 0" in str(caught.value)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    layer.fit(x, y, alpha=1.0, **given)
    assert_learned(layer, *dense(layer, x, y, 1.0, given.get("sample_weight")), tolerance=1e-8)


def test_fewer_equations_than_unknowns():
    x, y = X[..., :1], Y[..., :4]
    undetermined(r"got 2 output samples for 4 unknowns \(weights of one output phase", make(), x, y)
    undetermined("got 3 .* for 4 unknowns", make(), *(a[0] for a in (X[..., :3], Y[..., :12])))
    undetermined("got 3 .* for 4 unknowns", make(), X[..., :3], Y[..., :12], sample_weight=[0, 1])
    # four equations for the four weights of each phase, and none left for the bias
    x, y = X[0, :, :4], Y[0, :, :16]
    undetermined(r"got 16 output samples for 17 unknowns \(weights and the bias", make(padding_mode="circular"), x, y)
    make(padding_mode="circular", bias=False).fit(x, y)


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 2, 60)),
        np.full((2, 2, 60), 7.3),
        np.sin(0.3 * np.arange(240)).reshape(2, 2, 60),
        np.stack([X[0].repeat(3, -1)] * 2)[:, [0, 0]],
        np.stack([X[:, 0], 0 * X[:, 0]], 1),
        1e-160 * X,
    ],
    ids=["silent", "constant", "sine", "the-same-channel-twice", "a-silent-channel", "all-but-silent"],
)
def test_examples_that_do_not_determine_the_weights(x, mode, bias):
    layer = make("asymmetric", padding=5, padding_mode=mode, bias=bias)  # no output at an edge: modes are the same
    y = np.random.default_rng(0).standard_normal((2, 2, layer.output_length(x.shape[-1])))
    undetermined("does not determine the weights", layer, x, y)


def test_a_bias_that_the_weights_can_replace():
    """Channels that add up to one, as class probabilities do, and one tap a phase."""
    layer = ConvTranspose1d(2, 1, 2, stride=2, dtype=float)
    share = np.random.default_rng(0).uniform(size=(1, 30))
    x = np.concatenate([share, 1 - share])
    y = np.random.default_rng(1).standard_normal((1, 60))
    undetermined("bias cannot be told from the weights", layer, x, y)
    ConvTranspose1d(2, 1, 2, stride=2, dtype=float, bias=False).fit(x, y)
    gaps = ConvTranspose1d(2, 1, 2, stride=3, dtype=float)  # where no tap reaches, only the bias does
    known = ConvTranspose1d(2, 1, 2, stride=3, dtype=float)
    assert_learned(gaps.fit(x, known(x)), known.weight, known.bias)


def test_a_penalty_that_is_too_small():
    with pytest.raises(np.linalg.LinAlgError, match="an alpha above 1e-30"):
        make().fit(np.ones((2, 2, 20)), Y, alpha=1e-30)


def test_numbers_too_large():
    refuse(ValueError, [r"\bx\b", "range of float64"], make(), 1e200 * X, Y)
    refuse(ValueError, ["weight", "range of float16"], make(dtype=np.float16), X, make()(X) * 1e9)
    refuse(ValueError, ["weight", "range of float64"], make(), 1e-100 * X, 1e300 * make()(X))


def test_equations_that_no_machine_holds():
    layer = ConvTranspose1d(2**14, 1, 2**8)  # a weight of 16 MiB, normal equations of 128 TiB
    x, y = np.ones((2**14, 1)), np.ones((1, 2**8))
    with pytest.raises(MemoryError, match="4194305"):
        layer.fit(x, y, alpha=1.0)
