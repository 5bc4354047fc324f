# SPDX-License-Identifier: MIT
"""The layer: attributes, initial weights, what weights do on assignment, copies and saved states."""

import copy
import functools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from convt1d import Conv1d, ConvTranspose1d, ConvTranspose1dStream, conv_transpose1d, output_length

GEOMETRY = {"stride": 3, "padding": (2, 1), "output_padding": 1, "dilation": 2, "padding_mode": "circular"}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
X = np.random.default_rng(0).standard_normal((2, 4, 100)).astype(np.float32)


def make(in_channels=4, out_channels=6, kernel_size=5, *, groups=2, rng=0, **given):
    return ConvTranspose1d(in_channels, out_channels, kernel_size, groups=groups, rng=rng, **GEOMETRY | given)


def by_function(layer, x):
    """What the layer must give: the function with the layer's own attributes."""
    names = ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode")
    return conv_transpose1d(x, layer.weight, layer.bias, **{name: getattr(layer, name) for name in names})


def test_attributes():
    layer = make()
    attributes = {"in_channels": 4, "out_channels": 6, "kernel_size": 5, "groups": 2} | GEOMETRY
    assert {name: getattr(layer, name) for name in attributes} == attributes
    assert (layer.weight.shape, layer.weight.dtype) == ((4, 3, 5), np.float32)
    assert (layer.bias.shape, layer.bias.dtype) == ((6,), np.float32)
    assert make(bias=False).bias is None


def test_order_of_arguments():
    """The reference's; what it does not know goes by keyword."""
    layer = ConvTranspose1d(4, 6, 5, 3, 2, 1, 2, False, 4, "reflect")
    names = ("stride", "padding", "output_padding", "groups", "bias", "dilation", "padding_mode")
    assert [getattr(layer, name) for name in names] == [3, 2, 1, 2, None, 4, "reflect"]
    with pytest.raises(TypeError):
        ConvTranspose1d(4, 6, 5, 3, 2, 1, 2, False, 4, "reflect", np.float32)


def test_tuples_of_one_become_ints():
    layer = make(kernel_size=(5,), stride=[3], padding=(2,), output_padding=(np.int8(1),), dilation=(2,))
    expected = {"kernel_size": 5, "stride": 3, "padding": 2, "output_padding": 1, "dilation": 2}
    assert {name: getattr(layer, name) for name in expected} == expected
    assert {type(getattr(layer, name)) for name in expected} == {int}
    assert make(padding=[2, 1]).padding == (2, 1)


def test_parameters_cannot_be_changed():
    """Better refused than shown and not obeyed."""
    layer = make()
    for name in ("in_channels", "out_channels", "kernel_size", "groups", *GEOMETRY):
        with pytest.raises(AttributeError):
            setattr(layer, name, getattr(layer, name))


def test_function_with_the_same_weights():
    for given in ({}, {"bias": False}, {"dtype": np.complex64}):
        layer = make(**given)
        np.testing.assert_array_equal(layer(X), by_function(layer, X))
        np.testing.assert_array_equal(layer(X[0]), by_function(layer, X[0]))


def test_a_wider_input_computes_in_its_own_type():
    """A float32 layer does not narrow: weights are packed once per compute type."""
    layer = make()
    narrow = layer(X)
    for dtype, factor in ((np.float64, 1 / 3), (np.complex64, 1j), (np.complex128, 1j / 3)):
        x = X.astype(dtype) * dtype(factor)
        y = layer(x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, by_function(layer, x))
    np.testing.assert_array_equal(layer(X), narrow)


# --- initial weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "groups", "bound"),
    [((512, 256, 16), 1, 0.015625), ((64, 64, 16), 64, 0.25), ((30, 400, 7), 10, 1 / math.sqrt(280))],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.float16, BFLOAT16])
def test_initial_weights(sizes, groups, bound, dtype):
    """Uniform in ±1/sqrt((C_out / groups) * K); complex: both parts, each."""
    layer = ConvTranspose1d(*sizes, groups=groups, dtype=dtype, rng=1)
    for values in (layer.weight, layer.bias):
        assert values.dtype == dtype
        parts = values.astype(np.complex128)
        for part in (parts.real, parts.imag)[: 1 + (layer.weight.dtype.kind == "c")]:
            assert abs(part).max() <= bound * (1 + 2.0**-9)  # half of bfloat16's last place
            deviation = bound / math.sqrt(3)  # of a uniform distribution
            assert abs(part.mean()) < 5 * deviation / math.sqrt(part.size)
            assert abs(part.std() / deviation - 1) < 2.5 / math.sqrt(part.size)


def test_rng():
    one, same, other = make(rng=1), make(rng=1), make(rng=2)
    np.testing.assert_array_equal(one.weight, same.weight)
    np.testing.assert_array_equal(one.bias, same.bias)
    assert not np.array_equal(one.weight, other.weight)
    assert not np.array_equal(make(rng=None).weight, make(rng=None).weight)
    np.testing.assert_array_equal(make(rng=np.random.default_rng(1)).weight, one.weight)
    generator = np.random.default_rng(1)
    np.testing.assert_array_equal(make(rng=generator).weight, one.weight)
    assert not np.array_equal(make(rng=generator).weight, one.weight)  # the generator has moved on


# --- lengths ------------------------------------------------------------------------------------------------


def test_output_length():
    layer = make()
    expected = (100 - 1) * 3 - 2 - 1 + 2 * 4 + 1 + 1
    assert layer.output_length(100) == expected
    assert layer(X).shape == (2, 6, expected)
    sliding = {name: GEOMETRY[name] for name in ("stride", "padding", "output_padding", "dilation")}
    assert output_length(100, 5, **sliding) == expected
    assert type(output_length(np.int32(100), 5)) is int
    assert output_length(100, 5, 3, 1, 2, 4) == 99 * 3 - 2 + 4 * 4 + 2 + 1  # the order of the arguments


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("x", [X, X[0], X[:0]], ids=["batch", "unbatched", "empty"])
def test_output_size(extra, x):
    """Replaces output_padding, whatever that is: by a length, or the shape of the output."""
    least = make(output_padding=0).output_length(100)
    expected = make(output_padding=extra)(x)
    assert expected.shape[-1] == least + extra
    for size in (least + extra, (least + extra,), [least + extra], expected.shape, np.int64(least + extra)):
        for layer in (make(), make(output_padding=0)):
            np.testing.assert_array_equal(layer(x, size), expected)
            np.testing.assert_array_equal(layer(x, output_size=size), expected)
            out = np.empty_like(expected)
            assert layer(x, size, out=out) is out
            np.testing.assert_array_equal(out, expected)


def test_output_size_where_output_padding_may_exceed_it():
    """dilation 4 allows output_padding 3; output_size spans one stride, here 2 lengths."""
    layer = make(stride=2, dilation=4, output_padding=3)
    least = layer.output_length(100) - 3
    assert layer(X).shape[-1] == least + 3
    for extra in (0, 1):
        assert layer(X, least + extra).shape[-1] == least + extra


def test_output_size_of_a_signal_that_a_crop_takes_whole():
    """Without output_padding the length would be -1; with 3 it is 2, legal."""
    layer = ConvTranspose1d(1, 1, 1, stride=4, padding=1)
    with pytest.raises(ValueError, match="at least 1"):
        layer(np.ones((1, 1)))
    np.testing.assert_array_equal(layer(np.ones((1, 1)), 2), np.broadcast_to(layer.bias, (1, 2)))


# --- repr, copies, states -----------------------------------------------------------------------------------


def test_repr():
    """torch's: what is at its default is left out."""
    assert repr(ConvTranspose1d(16, 33, 3, 2)) == "ConvTranspose1d(16, 33, kernel_size=(3,), stride=(2,))"
    assert repr(make(bias=False)) == (
        "ConvTranspose1d(4, 6, kernel_size=(5,), stride=(3,), padding=(2, 1), dilation=(2,), "
        "output_padding=(1,), groups=2, bias=False, padding_mode=circular)"
    )


@pytest.mark.parametrize("double", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
@pytest.mark.parametrize("given", [{}, {"bias": False}, {"dtype": np.complex128}, {"dtype": BFLOAT16}])
@pytest.mark.parametrize("used", [False, True])
def test_copies(double, given, used):
    layer = make(**given)
    if used:
        layer(X)
    twin = double(layer)
    expected = layer(X)
    np.testing.assert_array_equal(twin(X), expected)
    assert repr(twin) == repr(layer)
    assert not twin.weight.flags.writeable
    twin.weight = np.zeros_like(twin.weight)
    if twin.bias is not None:
        twin.bias = np.zeros_like(twin.bias)
    assert not twin(X).any()
    np.testing.assert_array_equal(layer(X), expected)


def test_a_pickle_holds_the_weights_once():
    """Packed copies are made again, not stored."""
    layer = make(in_channels=64, out_channels=64)
    before = len(pickle.dumps(layer))
    layer(np.ones((64, 10), np.float32))
    layer(np.ones((64, 10), np.float64))
    assert len(pickle.dumps(layer)) < before + 1000


@pytest.mark.parametrize("bias", [True, False])
def test_state_dict(bias):
    layer, other = make(bias=bias), make(bias=bias, rng=1)
    state = layer.state_dict()
    assert list(state) == ["weight", "bias"][: 1 + bias]
    assert not np.array_equal(layer(X), other(X))
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(X), layer(X))
    np.testing.assert_array_equal(other(X.astype(float)), layer(X.astype(float)))


def test_state_dict_through_a_file(tmp_path):
    layer, other = make(), make(rng=1)
    np.savez(tmp_path / "state.npz", **layer.state_dict())
    with np.load(tmp_path / "state.npz") as state:
        other.load_state_dict(dict(state))
    np.testing.assert_array_equal(other(X), layer(X))


# --- weights on assignment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_assignment_takes_effect_at_once(name):
    layer = make()
    for x in (X, X.astype(float)):  # one pack per compute type: none may stay behind
        layer(x)
    value = np.full(getattr(layer, name).shape, 2)
    setattr(layer, name, value)
    for x in (X, X.astype(float)):
        np.testing.assert_array_equal(layer(x), by_function(layer, x))
    np.testing.assert_array_equal(getattr(layer, name), value)
    assert getattr(layer, name).dtype == np.float32


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_assignment_copies(name):
    layer = make()
    mine = np.ones(getattr(layer, name).shape, np.float32)
    setattr(layer, name, mine)
    before = layer(X)
    mine[...] = 5
    np.testing.assert_array_equal(layer(X), before)
    assert (getattr(layer, name) == 1).all()
    mine[...] = 1  # still writable
    state = layer.state_dict()
    for value in state.values():
        if value.flags.writeable:
            value[...] = 5
    np.testing.assert_array_equal(layer(X), before)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_handed_out_read_only(name):
    """An edit in place would leave packed copies behind."""
    layer = make()
    value = getattr(layer, name)
    with pytest.raises(ValueError, match="read-only"):
        value[...] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        value.flags.writeable = True


@pytest.mark.parametrize("dtype", [np.float64, np.float16, BFLOAT16, np.int64])
def test_assignment_casts_to_the_type_of_the_layer(dtype):
    layer = make()
    layer.weight = np.full((4, 3, 5), 1.5, dtype) if dtype != np.int64 else np.full((4, 3, 5), 3)
    assert layer.weight.dtype == np.float32
    assert (layer.weight == layer.weight[0, 0, 0]).all()


# --- threads ------------------------------------------------------------------------------------------------


def test_one_layer_in_many_threads():
    """Also the first call, which packs, may come from several threads at once."""
    rng = np.random.default_rng(0)
    types = ("f4", "f8")
    inputs = [rng.standard_normal((1, 4, length)).astype(t) for length in range(65, 105) for t in types]
    expected = [make()(x) for x in inputs]
    for workers in (None, 1, 2):
        layer = make()
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(functools.partial(layer, workers=workers), inputs))
        for y, e in zip(results, expected, strict=True):
            np.testing.assert_array_equal(y, e)


SETTINGS = {"stride": 3, "padding": (1, 2), "output_padding": 2, "groups": 2, "dilation": 2, "padding_mode": "reflect"}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("bias", [True, False])
def test_save_and_from_file(tmp_path, suffix, dtype, bias):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    layer = ConvTranspose1d(4, 6, 5, bias=bias, dtype=dtype, rng=0, **SETTINGS)
    layer.save(tmp_path / f"up{suffix}")
    again = ConvTranspose1d.from_file(tmp_path / f"up{suffix}")
    assert repr(again) == repr(layer)
    assert again.dtype == layer.dtype
    x = np.random.default_rng(0).standard_normal((2, 4, 9)).astype(dtype)
    np.testing.assert_array_equal(again(x), layer(x))
    assert ConvTranspose1d.from_file(tmp_path / f"up{suffix}", stride=4).stride == 4


def test_save_to_other_kinds_of_files(tmp_path):
    layer = ConvTranspose1d(1, 1, 2)
    with pytest.raises(ValueError, match=r"path must end in \.npz or \.safetensors, got '.*up\.onnx'"):
        layer.save(tmp_path / "up.onnx")
    with pytest.raises(TypeError, match=r"complex128: path must end in \.npz"):
        ConvTranspose1d(1, 1, 2, dtype=complex).save(tmp_path / "up.safetensors")
    assert not list(tmp_path.iterdir())


def test_misspelt_attribute():
    with pytest.raises(AttributeError, match="weigth"):
        ConvTranspose1d(1, 1, 2).weigth = np.ones((1, 1, 2))


def test_pictures_of_layer_and_stream():
    """Notebooks show shapes, kernel and what a stream waits for; text is escaped."""
    layer = ConvTranspose1d(512, 256, 16, stride=8, padding=4)
    html = layer._repr_html_()
    for text in ("(N, 512, L)", "(N, 256, L_out), L_out = 8 L +0", "(512, 256, 16), float32", "kernel here"):
        assert text in html, html
    stream = ConvTranspose1dStream(layer)
    stream.process(np.ones((512, 3), np.float32))
    assert repr(stream) == (
        "ConvTranspose1dStream(512 -> 256 channels, kernel_size=16, stride=8, latency=4, 3 samples received)"
    )
    assert "512 -&gt; 256 channels" in stream._repr_html_()
    stream.flush()
    assert repr(stream).endswith(", flushed)")
    html = Conv1d(4, 3, 5, stride=3)._repr_html_()
    assert "L_out = floor((L -5) / 3) + 1" in html
    assert "(3, 4, 5), float32" in html
    stream = Conv1d(4, 3, 5, padding="same").stream(channels_last=True)
    assert repr(stream).endswith("latency=2, 0 samples received, channels last)")
    assert "2 output samples" in stream._repr_html_()


def test_bias_of_one_number():
    """R has no arrays of one number; they arrive as numbers."""
    x, weight = np.ones((1, 4)), np.ones((1, 1, 2))
    np.testing.assert_array_equal(conv_transpose1d(x, weight, 0.5), conv_transpose1d(x, weight, np.array([0.5])))
    layer = ConvTranspose1d(1, 1, 2)
    layer.bias = 0.5
    assert layer.bias.shape == (1,)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (r"got shape \(10,\): x\[None\] is one channel", lambda f: f(np.ones(10), np.ones((1, 1, 2)))),
        (r"got \(1, 10, 4\): channels_last=True\?", lambda f: f(np.ones((1, 10, 4)), np.ones((4, 2, 2)))),
        ("here it is 'circular'", lambda f: f(np.ones((1, 10)), np.ones((1, 1, 2)), padding_mode="wrap")),
        ("x must be an array of numbers, got NoneType", lambda f: f(None, np.ones((1, 1, 2)))),
        (r"x must be an array of numbers, got \['a'\]", lambda f: f(["a"], np.ones((1, 1, 2)))),
    ],
)
def test_messages_say_what_to_do(words, call):
    with pytest.raises((ValueError, TypeError), match=words):
        call(conv_transpose1d)
