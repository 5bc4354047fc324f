# SPDX-License-Identifier: MIT
"""The transformer: scikit-learn's own checks, SciPy, NumPy and Ridge as oracles, and life inside its tools."""

import copy
import importlib
import pickle
import re
import sys

import naive
import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

import convt1d
from convt1d import ConvTranspose1d, initialize

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402  they need scikit-learn
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import Ridge  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_validate  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402

from convt1d.sklearn import ConvTranspose1dTransformer  # noqa: E402

NAMED = ("linear", "sinc", "learned")


def signals(count=6, length=40, channels=1, seed=0, dtype=float):
    """Rows of smooth random signals: noise through a low-pass filter at a quarter of the sampling rate."""
    noise = np.random.default_rng(seed).standard_normal((count, channels, length + 30))
    smooth = scipy.signal.lfilter(scipy.signal.firwin(31, 0.5), 1, noise)[..., 30:]
    return smooth.reshape(count, -1).astype(dtype)


def pairs(transformer, channels=(1, 1), count=8, length=20, seed=0):
    """X, and wanted outputs that no layer can reach."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, channels[0] * length)), 3 + rng.standard_normal(
        (count, channels[1] * length * transformer.stride)
    )


# --- scikit-learn's own checks ------------------------------------------------------------------------------


CHECKED = [
    ConvTranspose1dTransformer(),
    ConvTranspose1dTransformer(weights="linear", stride=3, padding_mode="zeros"),
    ConvTranspose1dTransformer(weights="learned"),
    ConvTranspose1dTransformer(weights="learned", stride=1, kernel_size=4, padding_mode="circular", alpha=0.1),
]


@pytest.mark.parametrize(  # parametrize_with_checks of scikit-learn 1.6 gives a generator, of which pytest 9 warns
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=f"{number}-{check.func.__name__}")
        for number, checked in enumerate(CHECKED)
        for estimator, check in estimator_checks.estimator_checks_generator(checked)
    ],
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X .* feature names")  # that X has them in one call and not in the other
@pytest.mark.parametrize("weights", NAMED)
@pytest.mark.parametrize(
    "name",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_fit_check_is_fitted",
    ],
)
def test_checks_that_scikit_learn_keeps_for_its_own(name, weights):
    if "pandas" in name:
        pytest.importorskip("pandas")
    getattr(estimator_checks, name)("ConvTranspose1dTransformer", ConvTranspose1dTransformer(weights=weights))


def test_the_docstring_names_all_parameters():
    for name in ConvTranspose1dTransformer().get_params():
        assert re.search(rf"^ *(\w+, )*{name}(, \w+)* :", ConvTranspose1dTransformer.__doc__, re.MULTILINE), name


# --- interpolation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", naive.MODES)
def test_linear_is_interp(stride, mode):
    """Beyond the last sample it goes on to what the padding mode puts there."""
    X = signals()
    beyond = {"zeros": 0 * X[:, :1], "reflect": X[:, -2:-1], "replicate": X[:, -1:], "circular": X[:, :1]}[mode]
    continued = np.hstack([X, beyond])
    at = np.arange(40 * stride) / stride
    expected = [np.interp(at, np.arange(41), row) for row in continued]
    transformer = ConvTranspose1dTransformer(stride, weights="linear", padding_mode=mode)
    np.testing.assert_allclose(transformer.fit_transform(X), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("stride", [2, 3, 8])
def test_sinc_is_resample_poly(stride):
    """But for the sums of its phases, and for the edges, where replicate is SciPy's padtype="edge"."""
    X = signals() + 5
    result = ConvTranspose1dTransformer(stride, padding_mode="replicate").fit_transform(X)
    expected = scipy.signal.resample_poly(X, stride, 1, axis=1, padtype="edge")
    np.testing.assert_allclose(result, expected, rtol=0, atol=5e-3)
    np.testing.assert_allclose(result[:, ::stride], X, rtol=0, atol=1e-13)


@given(
    kernel_size=st.integers(1, 12),
    stride=st.integers(1, 6),
    channels=st.sampled_from([(1, 1, 1), (2, 3, 1), (4, 2, 2)]),
    mode=st.sampled_from(naive.MODES),
    length=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_an_array_of_any_shape(kernel_size, stride, channels, mode, length, seed):
    """L * stride outputs, of which t sees the kernel's middle tap (the left one of two) at input t / stride."""
    inputs, outputs, groups = channels
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((inputs, outputs // groups, kernel_size))
    X = rng.standard_normal((2, inputs * length))
    transformer = ConvTranspose1dTransformer(
        stride, weights=weights, in_channels=inputs, groups=groups, padding_mode=mode
    )
    whole = naive.conv_transpose1d(
        X.reshape(2, inputs, length), weights, None, stride, ((kernel_size - 1) // 2, 0), stride - 1, groups, 1, mode
    )
    expected = whole[..., : length * stride].reshape(2, -1)
    result = transformer.fit_transform(X)
    assert result.shape == (2, outputs * length * stride)
    np.testing.assert_allclose(result[:, : expected.shape[1]], expected, rtol=0, atol=1e-12)
    assert len(transformer.get_feature_names_out()) == result.shape[1]


@pytest.mark.parametrize("named", ["linear", "sinc"])
@pytest.mark.parametrize("groups", [1, 3])
def test_channels_stay_apart(named, groups):
    X = signals(channels=3)
    together = ConvTranspose1dTransformer(4, weights=named, in_channels=3, groups=groups).fit_transform(X)
    for c in range(3):
        alone = ConvTranspose1dTransformer(4, weights=named).fit_transform(X[:, c * 40 : (c + 1) * 40])
        np.testing.assert_allclose(together[:, c * 160 : (c + 1) * 160], alone, rtol=0, atol=1e-13)


def test_fewer_and_more_channels():
    X = signals(channels=2)
    mean = ConvTranspose1dTransformer(in_channels=2, out_channels=1).fit_transform(X)
    alone = ConvTranspose1dTransformer().fit_transform((X[:, :40] + X[:, 40:]) / 2)
    np.testing.assert_allclose(mean, alone, rtol=0, atol=1e-13)
    twice = ConvTranspose1dTransformer(out_channels=2).fit_transform(X[:, :40])
    np.testing.assert_allclose(twice[:, :80], twice[:, 80:], rtol=0, atol=1e-13)


def test_a_layer():
    """As it is, whatever the other parameters say: any output length, its bias; and apart from the user's own."""
    layer = ConvTranspose1d(2, 3, 5, stride=3, padding=(0, 1), dilation=2, rng=0, dtype=float)
    transformer = ConvTranspose1dTransformer(stride=7, weights=layer, in_channels=5, padding_mode="circular")
    X = signals(channels=2)
    expected = layer(X.reshape(6, 2, 40)).reshape(6, -1)
    assert expected.shape[1] != 3 * 40 * 3
    np.testing.assert_array_equal(transformer.fit_transform(X), expected)
    assert len(transformer.get_feature_names_out()) == expected.shape[1]
    layer.weight = np.zeros_like(layer.weight)
    np.testing.assert_array_equal(transformer.transform(X), expected)
    assert not np.array_equal(transformer.fit_transform(X), expected)


@pytest.mark.parametrize("named", NAMED)
def test_types(named):
    transformer = ConvTranspose1dTransformer(weights=named)
    wide = transformer.fit_transform(signals())
    assert wide.dtype == np.float64
    narrow = transformer.fit_transform(signals(dtype=np.float32))
    assert (narrow.dtype, transformer.layer_.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=1e-5)
    integers = np.random.default_rng(0).integers(-9, 9, (6, 40))
    assert transformer.fit_transform(integers).dtype == np.float64
    np.testing.assert_array_equal(transformer.transform(integers.tolist()), transformer.transform(integers))


# --- learning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "kernel_size"), [(1, 3), (2, 5), (2, 6), (3, 7), (4, 3)])
def test_learned_is_ridge_regression(stride, kernel_size):
    """Periodic signals: every tap of a phase sees all samples, so the penalty is alpha times their variation.

    Each phase with its own intercept; the layer's one bias is those with the phases' residuals added up.
    """
    transformer = ConvTranspose1dTransformer(
        stride, kernel_size, "learned", in_channels=2, out_channels=3, padding_mode="circular", alpha=0.05
    )
    X, Y = pairs(transformer, (2, 3))
    transformer.fit(X, Y)
    x, units = X.reshape(8, 2, 20), np.eye(kernel_size)[None]
    left = (kernel_size - 1) // 2
    design = naive.conv_transpose1d(
        x.reshape(16, 1, 20), units, None, stride, (left, 0), stride - 1, pad="circular"
    ).reshape(8, 2, kernel_size, -1)[..., : 20 * stride]
    # all weights (c, k) of one output channel at once, and one intercept
    rows = design.transpose(0, 3, 1, 2).reshape(-1, 2 * kernel_size)
    targets = Y.reshape(8, 3, -1).transpose(0, 2, 1).reshape(-1, 3)
    variation = np.square(x - x.mean(axis=(0, 2), keepdims=True)).sum() / 2
    ridge = Ridge(0.05 * variation).fit(rows, targets)
    weight = ridge.coef_.reshape(3, 2, kernel_size).transpose(1, 0, 2)
    np.testing.assert_allclose(transformer.layer_.weight, weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(transformer.layer_.bias, ridge.intercept_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("groups", [1, 2])
def test_learned_from_pairs_is_fit_of_the_layer(mode, groups):
    transformer = ConvTranspose1dTransformer(
        3, 8, "learned", in_channels=2, groups=groups, padding_mode=mode, alpha=0.0, out_channels=4
    )
    X, Y = pairs(transformer, (2, 4))
    fitted = transformer.fit(X, Y).layer_
    layer = ConvTranspose1d(2, 4, 8, 3, (3, 2), 0, groups, padding_mode=mode, dtype=float).fit(
        X.reshape(8, 2, 20), Y.reshape(8, 4, 60)
    )
    np.testing.assert_array_equal(fitted.weight, layer.weight)
    np.testing.assert_array_equal(fitted.bias, layer.bias)
    np.testing.assert_array_equal(transformer.transform(X), layer(X.reshape(8, 2, 20)).reshape(8, -1))


@pytest.mark.parametrize("mode", ["reflect", "circular"])
@pytest.mark.parametrize("length", [24, 26])
def test_learned_from_x_alone(mode, length):
    """Every third sample is the input, beginning at the first, the second and the third, and all are wanted."""
    X = signals(5, 2 * length).reshape(5, 2, length)
    alone = ConvTranspose1dTransformer(3, 7, "learned", 2, padding_mode=mode, alpha=0.0).fit(X.reshape(5, -1)).layer_
    expected = ConvTranspose1d(2, 2, 7, 3, (3, 1), padding_mode=mode, dtype=float)
    for start in range(3):
        rest = np.concatenate([X[..., start:], X[..., : start if mode == "circular" else 0]], axis=-1)
        whole = rest.shape[-1] // 3 * 3
        expected.partial_fit(rest[..., :whole:3], rest[..., :whole])
    np.testing.assert_allclose(alone.weight, expected.weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(alone.bias, expected.bias, rtol=0, atol=1e-12)


def slow_sensor(count, length):
    """Coarse and fine signals: every second sample of a sensor that has averaged over three."""
    fine = signals(count, 2 * length + 2)
    return ((fine[:, :-2] + fine[:, 1:-1] + fine[:, 2:]) / 3)[:, ::2], fine[:, 1:-1]


def test_learned_from_pairs_undoes_what_interpolation_cannot():
    coarse, fine = slow_sensor(60, 200)
    train, test = slice(40), slice(40, None)
    errors = {}
    for named in NAMED:
        restored = ConvTranspose1dTransformer(weights=named).fit(coarse[train], fine[train]).transform(coarse[test])
        errors[named] = np.square(restored - fine[test]).mean()
    assert errors["learned"] < 0.3 * min(errors["linear"], errors["sinc"])


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_does_not_matter(unit):
    """Volts or microvolts, few signals or many: alpha is a share of their variance."""
    X = signals()
    one, other = (ConvTranspose1dTransformer(weights="learned", alpha=1e-2) for _ in range(2))
    one.fit(X)
    other.fit(unit * X)
    np.testing.assert_allclose(other.layer_.weight, one.layer_.weight, rtol=0, atol=1e-10)
    other.fit(np.vstack([X] * 7))
    np.testing.assert_allclose(other.layer_.weight, one.layer_.weight, rtol=0, atol=1e-10)


def test_an_offset_does_not_matter():
    """Of 100 or a million: air pressure, or the magnetic field. (Without any, the phases share one mean.)"""
    X = signals()
    near, far = (ConvTranspose1dTransformer(weights="learned").fit(X + offset) for offset in (1e2, 1e6))
    np.testing.assert_allclose(far.layer_.weight, near.layer_.weight, rtol=0, atol=1e-4)
    np.testing.assert_allclose(far.transform(X + 1e6) - 1e6, near.transform(X + 1e2) - 1e2, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("value", [0.0, 7.3, -1e9])
def test_signals_without_anything_to_learn(mode, value):
    """Constant ones, too, have outputs: themselves (in the mode zeros only nearly, at the ends)."""
    X = np.full((4, 60), value)
    result = ConvTranspose1dTransformer(weights="learned", padding_mode=mode).fit(X).transform(X)
    np.testing.assert_allclose(result, value, rtol=0, atol=abs(value) * (1e-5 if mode != "zeros" else 0.5))


@pytest.mark.parametrize("with_y", [True, False])
def test_partial_fit_is_fit_on_all(with_y):
    whole, parts = (ConvTranspose1dTransformer(weights="learned", kernel_size=9) for _ in range(2))
    X, Y = pairs(whole)
    Y = Y if with_y else None
    whole.fit(X, Y)
    for rows in (slice(0, 3), slice(3, 4), slice(4, 8)):
        assert parts.partial_fit(X[rows], Y[rows] if with_y else None) is parts
    np.testing.assert_allclose(parts.layer_.weight, whole.layer_.weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(parts.layer_.bias, whole.layer_.bias, rtol=0, atol=1e-12)

    parts.fit(X[:5], Y[:5] if with_y else None)  # begins anew, and partial_fit goes on from there, also in a copy
    pickle.loads(pickle.dumps(parts)).partial_fit(X[:5])
    parts.partial_fit(X[5:], Y[5:] if with_y else None)
    np.testing.assert_allclose(parts.layer_.weight, whole.layer_.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("named", ["linear", "sinc"])
def test_partial_fit_without_learning(named):
    X = signals()
    transformer = ConvTranspose1dTransformer(weights=named).partial_fit(X[:2]).partial_fit(X[2:])
    np.testing.assert_array_equal(transformer.transform(X), clone(transformer).fit_transform(X))


def test_a_refused_batch_does_not_count():
    transformer = ConvTranspose1dTransformer(weights="learned", kernel_size=9)
    X, Y = pairs(transformer)
    transformer.partial_fit(X[:4], Y[:4])
    before = transformer.transform(X)
    for bad_x, bad_y in ((X[4:], Y[4:, 1:]), (np.where(X[4:] > 0, np.nan, 0), Y[4:]), (X[4:, 1:], Y[4:, 2:])):
        with pytest.raises(ValueError):
            transformer.partial_fit(bad_x, bad_y)
    np.testing.assert_array_equal(transformer.transform(X), before)
    for change in ({"kernel_size": 11}, {"stride": 1}, {"padding_mode": "zeros"}):
        with pytest.raises(ValueError, match=r"partial_fit must go on with .*kernel_size=\(9,\).*, got Conv"):
            copy.deepcopy(transformer).set_params(**change).partial_fit(X[4:])
    transformer.partial_fit(X[4:], Y[4:])
    expected = clone(transformer).fit(X, Y)
    np.testing.assert_allclose(transformer.layer_.weight, expected.layer_.weight, rtol=0, atol=1e-12)


# --- y ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("labels", [np.arange(6), ["a"] * 6, np.full(6, np.nan), [None] * 6], ids=str)
def test_labels_are_not_looked_at(named, labels):
    X = signals()
    transformer = ConvTranspose1dTransformer(weights=named, kernel_size=9)
    expected = transformer.fit_transform(X)
    np.testing.assert_array_equal(transformer.fit_transform(X, labels), expected)


@pytest.mark.parametrize("shape", [(6, 1), (6, 40), (6, 79), (6, 160), (5, 80), (7, 80), (6, 1, 80), (80, 6), ()])
def test_wanted_outputs_of_another_shape(shape):
    X, Y = signals(), np.ones(shape)
    for method in ("fit", "partial_fit", "fit_transform"):
        with pytest.raises(ValueError, match=r"\by\b|2D|dim 3|array"):
            getattr(ConvTranspose1dTransformer(weights="learned"), method)(X, Y)
    if len(shape) == 2:
        with pytest.raises(ValueError, match=rf"shape \(6, 80\), got {re.escape(str(shape))}"):
            ConvTranspose1dTransformer(weights="learned").fit(X, Y)
    ConvTranspose1dTransformer().fit(X, Y)  # no learning: nobody looks


def test_wanted_outputs_that_are_no_finite_numbers():
    X, Y = signals(), signals(length=80)
    for bad in (np.nan, np.inf):
        Y[2, 3] = bad
        with pytest.raises(ValueError, match=r"y contains"):
            ConvTranspose1dTransformer(weights="learned").fit(X, Y)
    with pytest.raises(ValueError):
        ConvTranspose1dTransformer(weights="learned").fit(X, np.full((6, 80), "a"))


# --- among scikit-learn's tools -----------------------------------------------------------------------------


def negative_error(transformer, X, Y):
    return -np.square(transformer.transform(X) - Y).mean()


def test_grid_search_in_two_processes():
    coarse, fine = slow_sensor(12, 40)
    grid = {"weights": ["sinc", "learned"], "alpha": [1e-6, 0.3]}
    search = GridSearchCV(ConvTranspose1dTransformer(), grid, scoring=negative_error, cv=3, n_jobs=2)
    search.fit(coarse, fine)
    alone = clone(search).set_params(n_jobs=1).fit(coarse, fine)
    scores, expected = (found.cv_results_["mean_test_score"] for found in (search, alone))
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    assert search.best_params_ == {"weights": "learned", "alpha": 1e-6}
    np.testing.assert_allclose(search.transform(coarse), alone.transform(coarse), rtol=0, atol=1e-12)


@pytest.mark.parametrize("named", NAMED)
def test_pipeline(named):
    """Labels go past it to the last step; names of the features go on."""
    X = signals(30)
    y = X[:, 7] + 0.5 * X[:, 8]  # at half-way points: a feature of the upsampled signal
    pipeline = make_pipeline(ConvTranspose1dTransformer(weights=named, kernel_size=9), Ridge(1e-6))
    scores = cross_validate(pipeline, X, y, cv=3)["test_score"]
    assert scores.min() > 0.9
    names = pipeline.fit(X, y)[:-1].get_feature_names_out()
    assert list(names[[0, -1]]) == ["convtranspose1dtransformer0", "convtranspose1dtransformer79"]


def test_pipeline_hands_pairs_on():
    pipeline = make_pipeline(ConvTranspose1dTransformer(weights="learned", kernel_size=9))
    X, Y = pairs(pipeline[0])
    expected = clone(pipeline[0]).fit(X, Y).transform(X)
    np.testing.assert_array_equal(pipeline.fit_transform(X, Y), expected)


@pytest.mark.parametrize("named", [*NAMED, "array", "layer"])
@pytest.mark.parametrize("double", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies(named, double):
    weights = {
        "array": np.arange(5.0).reshape(1, 1, 5),
        "layer": ConvTranspose1d(1, 1, 4, stride=2, padding=1, rng=0),
    }.get(named, named)
    X = signals()
    transformer = ConvTranspose1dTransformer(weights=weights)
    twin = double(transformer)
    expected = transformer.fit_transform(X)
    np.testing.assert_array_equal(twin.fit_transform(X), expected)
    np.testing.assert_array_equal(double(transformer).transform(X), expected)
    fresh = clone(transformer)
    with pytest.raises(NotFittedError):
        fresh.transform(X)
    np.testing.assert_array_equal(fresh.fit_transform(X), expected)
    assert repr(fresh) == repr(transformer)


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(signals(), columns=[f"t{t}" for t in range(40)])
    wanted = pandas.DataFrame(signals(length=80))
    transformer = ConvTranspose1dTransformer(weights="learned", kernel_size=9).set_output(transform="pandas")
    result = transformer.fit(frame, wanted).transform(frame)
    plain = ConvTranspose1dTransformer(weights="learned", kernel_size=9).fit(frame.to_numpy(), wanted.to_numpy())
    np.testing.assert_array_equal(result.to_numpy(), plain.transform(frame.to_numpy()))
    assert list(result.columns) == list(transformer.get_feature_names_out())
    assert list(transformer.feature_names_in_) == list(frame.columns)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"weights": "cubic"}, ValueError, ["weights", "linear, sinc, learned", "'cubic'"]),
        ({"weights": None}, TypeError, ["weights", "NoneType"]),
        ({"weights": np.ones(5)}, ValueError, ["weights", "3-D", r"\(5,\)"]),
        ({"weights": np.ones((2, 1, 5))}, ValueError, ["weights", r"\(1, 1, 5\)", r"\(2, 1, 5\)"]),
        ({"weights": np.ones((1, 1, 5)), "kernel_size": 6}, ValueError, ["weights", r"\(1, 1, 6\)", r"\(1, 1, 5\)"]),
        ({"weights": np.ones((1, 1, 5)), "out_channels": 2}, ValueError, ["weights", r"\(1, 2, 5\)"]),
        ({"weights": np.ones((1, 1, 5)) * 1j}, TypeError, ["weights", "real", "complex128"]),
        ({"weights": ConvTranspose1d(1, 1, 5, dtype=complex)}, TypeError, ["weights", "real", "complex128"]),
        ({"weights": ConvTranspose1d(3, 1, 5)}, ValueError, ["X", "in_channels=3", r"\b40\b"]),
        ({"stride": 0}, ValueError, ["stride", "at least 1", "0"]),
        ({"stride": 2.5}, TypeError, ["stride", "an int", r"2\.5"]),
        ({"kernel_size": 8}, ValueError, ["kernel_size", "odd", "sinc", "8"]),
        ({"kernel_size": 4, "weights": "linear"}, ValueError, ["kernel_size", "odd", "linear", "4"]),
        ({"kernel_size": 5, "stride": 4, "weights": "linear"}, ValueError, ["kernel_size", "at least", "5"]),
        ({"kernel_size": 0, "weights": "learned"}, ValueError, ["kernel_size", "at least 1", "0"]),
        ({"kernel_size": "9"}, TypeError, ["kernel_size", "an int", "'9'"]),
        ({"in_channels": 3}, ValueError, ["X", "in_channels=3", r"\b40\b"]),
        ({"in_channels": 0}, ValueError, ["in_channels", "at least 1", "0"]),
        ({"out_channels": 0}, ValueError, ["out_channels", "at least 1", "0"]),
        ({"in_channels": 2, "out_channels": 3, "groups": 2}, ValueError, ["out_channels", "groups", "3"]),
        ({"groups": 2}, ValueError, ["in_channels", "groups", "2"]),
        ({"padding_mode": "line"}, ValueError, ["padding_mode", "reflect", "'line'"]),
        ({"weights": "learned", "out_channels": 2}, ValueError, ["out_channels", "in_channels", "2", "give y"]),
        ({"weights": "learned", "stride": 41}, ValueError, ["X", "stride=41", r"\b40\b"]),
        ({"weights": "learned", "alpha": -1}, ValueError, ["alpha", "at least 0", "-1"]),
        ({"weights": "learned", "alpha": "1"}, TypeError, ["alpha", "real number", "'1'"]),
        ({"weights": "learned", "alpha": np.nan}, ValueError, ["alpha", "finite", "nan"]),
    ],
    ids=str,
)
def test_parameters(given, error, words):
    """Refused by fit and partial_fit, not when they are set, as scikit-learn wants it."""
    transformer = ConvTranspose1dTransformer(**given)
    for method in (transformer.fit, transformer.partial_fit):
        with pytest.raises(error) as caught:
            method(signals())
        assert caught.type is error
        for word in words:
            assert re.search(word, str(caught.value)), f"{word!r} not in {caught.value}"
        with pytest.raises(NotFittedError):
            transformer.transform(signals())


@pytest.mark.parametrize("alpha", [0.0, 1e-30])
def test_alpha_that_leaves_the_weights_open(alpha):
    X = np.sin(0.3 * np.arange(160)).reshape(4, 40)
    transformer = ConvTranspose1dTransformer(weights="learned", alpha=alpha, padding_mode="zeros")
    with pytest.raises(np.linalg.LinAlgError, match=rf"alpha={alpha:g}, times .* is too small: .*determine"):
        transformer.fit(X[:, :2], X[:, :4]) if alpha else transformer.fit(np.zeros((4, 40)))
    transformer.set_params(alpha=1e-6).fit(X)


def test_signals_too_large():
    with pytest.raises(ValueError, match="x must not be so large"):
        ConvTranspose1dTransformer(weights="learned").fit(1e200 * signals())


def test_signals_of_another_length():
    transformer = ConvTranspose1dTransformer().fit(signals())
    with pytest.raises(ValueError, match=r"39 features.*expecting 40"):
        transformer.transform(signals(length=39))
    assert transformer.layer_(signals(length=39)[:, None]).shape == (6, 1, 78)  # the layer takes any


def test_the_default_kernels():
    for stride in (1, 2, 5):
        found = {
            named: ConvTranspose1dTransformer(stride, weights=named).fit(signals()).layer_.weight for named in NAMED
        }
        assert [w.shape[-1] for w in found.values()] == [2 * stride - 1, 20 * stride + 1, 20 * stride + 1]
        np.testing.assert_array_equal(found["linear"], initialize.linear(1, 1, 2 * stride - 1, stride))
        np.testing.assert_array_equal(found["sinc"], initialize.windowed_sinc(1, 1, 20 * stride + 1, stride))
    assert convt1d.output_length(40, 41, 2, (20, 19)) == 80


def test_scikit_learn_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "convt1d.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn .*pip install 'convt1d\[sklearn\]'"):
        importlib.import_module("convt1d.sklearn")
