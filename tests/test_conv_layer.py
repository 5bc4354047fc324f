# SPDX-License-Identifier: MIT
"""Conv1d: the layer around `conv1d`, its gradients and its stream."""

import copy
import pickle

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convt1d import Conv1d, Conv1dStream, ConvTranspose1d, conv1d
from convt1d.activations import ELU, Snake


@settings(max_examples=300)
@given(problem=naive.convolutions(), double=st.booleans())
def test_layer_is_the_function(problem, double):
    s, p, d, g, mode = problem.geometry.values()
    dtype = np.result_type(problem.x.dtype, np.float64 if double else np.float32)
    dtype = np.complex64 if dtype == np.complex128 and not double else dtype
    layer = Conv1d(
        problem.x.shape[-2],
        problem.w.shape[0],
        problem.w.shape[2],
        s,
        p,
        d,
        g,
        problem.b is not None,
        mode,
        dtype=dtype,
    )
    layer.weight = problem.w.astype(dtype)
    if problem.b is not None:
        layer.bias = problem.b.astype(dtype)
    x = problem.x.astype(dtype)
    expected = naive.conv1d(problem.x, problem.w, problem.b, s, p, d, g, mode)
    np.testing.assert_array_equal(layer(x), expected)
    last = layer(x.swapaxes(-1, -2), channels_last=True)
    np.testing.assert_array_equal(last.swapaxes(-1, -2), expected)
    assert layer.output_length(x.shape[-1]) == expected.shape[-1]


def gradients_of_the_definition(x, w, g, geometry):
    """By the linearity of the definition: a derivative is the response to a unit."""
    s, p, d, groups, mode = geometry

    def inner(a, b):
        return (naive.conv1d(a, b, None, s, p, d, groups, mode) * g).sum()

    grad_x, grad_w = np.zeros(x.shape), np.zeros(w.shape)
    for at in np.ndindex(x.shape):
        unit = np.zeros(x.shape)
        unit[at] = 1
        grad_x[at] = inner(unit, w)
    for at in np.ndindex(w.shape):
        unit = np.zeros(w.shape)
        unit[at] = 1
        grad_w[at] = inner(x, unit)
    return grad_x, grad_w, g.sum((0, 2))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 2)),
    geometry=st.tuples(
        st.integers(1, 3),
        st.tuples(st.integers(0, 5), st.integers(0, 5)),
        st.integers(1, 3),
        st.integers(1, 2),
        st.sampled_from(naive.MODES),
    ),
)
def test_backward_is_the_definitions(sizes, geometry):
    c_in, c_out, K, L, N = sizes
    s, p, d, groups, mode = geometry
    if L + sum(p) < d * (K - 1) + 1:
        return
    layer = Conv1d(c_in * groups, c_out * groups, K, s, p, d, groups, True, mode, dtype=float, rng=0)
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, (N, c_in * groups, L)).astype(float)
    layer.weight = rng.integers(-4, 5, layer.weight.shape)
    g = rng.integers(-4, 5, layer(x).shape).astype(float)
    found = layer.backward(g, x)
    for one, other in zip(found, gradients_of_the_definition(x, layer.weight, g, geometry), strict=True):
        np.testing.assert_array_equal(one, other)


def test_backward_of_complex_numbers_is_the_adjoint():
    rng = np.random.default_rng(0)
    layer = Conv1d(4, 6, 5, 2, 3, 2, 2, False, "reflect", dtype=complex, rng=0)
    x, h = (rng.standard_normal((2, 4, 30)) + 1j * rng.standard_normal((2, 4, 30)) for _ in range(2))
    g = layer(h) + 1
    grad_x, grad_weight, _ = layer.backward(g, x)
    assert np.vdot(g, layer(h)) == pytest.approx(np.vdot(grad_x, h))
    other = Conv1d(4, 6, 5, 2, 3, 2, 2, False, "reflect", dtype=complex, rng=1)
    assert np.vdot(g, other(x)) == pytest.approx(np.vdot(grad_weight, other.weight))


STREAMED = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 9),
        "stride": st.integers(1, 5),
        "padding": st.tuples(st.integers(0, 12), st.integers(0, 12)),
        "dilation": st.integers(1, 4),
        "padding_mode": st.sampled_from(["zeros", "reflect", "replicate"]),
    }
)


@settings(max_examples=300)
@given(
    geometry=STREAMED,
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 1, 3])),
    chunks=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    batch=st.sampled_from([None, 1, 2]),
    dtype=st.sampled_from([np.float32, np.float64, np.complex64]),
    saved=st.integers(0, 8),
    activated=st.booleans(),
)
def test_stream_is_the_whole_signal(geometry, channels, chunks, batch, dtype, saved, activated):
    c_in, c_out, groups = channels[0] * channels[2], channels[1] * channels[2], channels[2]
    layer = Conv1d(c_in, c_out, groups=groups, dtype=dtype, rng=0, **geometry)
    length = sum(chunks)
    lead = (c_in,) if batch is None else (batch, c_in)
    x = np.random.default_rng(length).standard_normal((*lead, length)).astype(dtype)
    pointwise = {}
    if activated and dtype != np.complex64:
        pointwise = {"before": Snake(np.linspace(0.5, 2, c_in)), "after": ELU()}
    stream, at, pieces = layer.stream(**pointwise), 0, []
    for number, n in enumerate(chunks):
        if number == saved:
            state = pickle.loads(pickle.dumps(stream.state()))
            stream = layer.stream(**pointwise)
            stream.restore(state)
        pieces.append(stream.process(x[..., at : at + n]))
        at += n
    pieces.append(stream.flush())
    pieces = [piece for piece in pieces if piece.shape[-1]]
    try:
        whole = layer(x, **pointwise)
    except ValueError:  # too short to have an output
        assert not pieces
        return
    np.testing.assert_array_equal(np.concatenate(pieces, axis=-1), whole)


@pytest.mark.parametrize("stride", [1, 3])
def test_stream_returns_what_can_be_known(stride):
    layer = Conv1d(1, 1, 5, stride, padding=(3, 2), dilation=2, rng=0)
    stream, returned = layer.stream(), 0
    for n in range(1, 60):
        returned += stream.process(np.ones((1, 1), np.float32)).shape[-1]
        needed = [i for i in range(100) if i * stride + 8 - 3 < n]
        assert returned == len(needed)
        assert returned >= -(-n // stride) - stream.latency
    assert stream.warm_up == 6


def test_causal_stream_does_not_lag():
    stream = Conv1d(2, 2, 7, padding=(18, 0), dilation=3).stream()
    assert stream.latency == 0
    assert stream.process(np.ones((2, 1))).shape == (2, 1)


def test_long_streams_keep_their_buffer_small():
    stream = Conv1d(2, 2, 3, rng=0).stream()
    for _ in range(1000):
        stream.process(np.ones((2, 100)))
    assert stream._buffer._array.shape[-1] < 1000


def test_stride_beyond_the_kernel_skips():
    layer = Conv1d(1, 1, 2, stride=7, rng=0)
    x = np.arange(40.0).reshape(1, -1)
    stream = layer.stream()
    pieces = [stream.process(x[:, i : i + 1]) for i in range(40)]
    np.testing.assert_array_equal(np.concatenate([*pieces, stream.flush()], -1), layer(x))


def test_copies_and_states():
    layer = Conv1d(4, 6, 3, 2, "valid", groups=2, rng=0)
    x = np.ones((4, 20), np.float32)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(other(x), layer(x))
    other = Conv1d(4, 6, 3, 2, groups=2, rng=1)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other(x), layer(x))
    assert repr(layer) == "Conv1d(4, 6, kernel_size=(3,), stride=(2,), groups=2)"
    assert (layer.padding, layer.stride, layer.dilation, layer.groups) == (0, 2, 1, 2)
    assert Conv1d(1, 1, 4, padding="same").padding == (1, 2)


def test_initial_weights_have_the_spread_of_torch():
    layer = Conv1d(64, 500, 9, groups=4, rng=0)
    bound = 1 / np.sqrt(16 * 9)
    assert layer.weight.shape == (500, 16, 9)
    assert 0.99 * bound < np.abs(layer.weight).max() <= bound


def test_adjoint_of_the_transposed_layer():
    rng = np.random.default_rng(0)
    up = ConvTranspose1d(8, 4, 6, stride=3, padding=2, bias=False, dtype=float, rng=0)
    x = rng.standard_normal((2, 8, 20))
    y = rng.standard_normal(up(x).shape)
    np.testing.assert_allclose(conv1d(y, up.weight, stride=3, padding=2), up.backward(y, x)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Conv1d(2, 2, 3, 2, "same"), ValueError, "padding='same' needs stride 1"),
        (lambda: Conv1d(2, 2, 3, padding="full"), ValueError, "padding must be an int, a pair"),
        (lambda: Conv1d(2, 2, 3, padding_mode="circular").stream(), ValueError, "padding_mode must be .* for a stream"),
        (lambda: Conv1dStream(ConvTranspose1d(2, 2, 3)), TypeError, "layer must be a Conv1d"),
        (lambda: Conv1d(2, 2, 3)(np.ones((3, 9))), ValueError, "x must have shape"),
        (lambda: Conv1d(2, 2, 9)(np.ones((2, 5))), ValueError, "kernel must not be longer"),
        (lambda: Conv1d(2, 2, 3).backward(np.ones((2, 9)), np.ones((2, 9))), ValueError, "grad_output must have"),
        (lambda: Conv1d(2, 2, 3).stream().restore({}), ValueError, "state must hold exactly"),
        (lambda: Conv1d(2, 2, 3).stream().process(np.ones((3, 9))), ValueError, "chunk must have shape"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_refused_chunk_leaves_the_stream_as_it_was():
    layer = Conv1d(2, 2, 3, rng=0)
    stream, x = layer.stream(), np.arange(40, dtype=np.float32).reshape(2, 20)
    first = stream.process(x[:, :10])
    with pytest.raises(ValueError, match="out must have shape"):
        stream.process(x[:, 10:], out=np.empty((2, 3), np.float32))
    with pytest.raises(TypeError, match="first one's dtype"):
        stream.process(x[:, 10:].astype(float))
    pieces = [first, stream.process(x[:, 10:]), stream.flush()]
    np.testing.assert_array_equal(np.concatenate(pieces, -1), layer(x))
    with pytest.raises(ValueError, match="must not follow flush"):
        stream.process(x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(
    "geometry",
    [
        {"stride": 3, "padding": (4, 1), "dilation": 2, "groups": 2, "padding_mode": "reflect"},
        {"stride": 1, "padding": "same"},
        {"stride": 7},
    ],
)
def test_fit_finds_the_weights(geometry, dtype, bias):
    known = Conv1d(4, 6, 5, bias=bias, dtype=dtype, rng=0, **geometry)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4, 90)) + (1j * rng.standard_normal((6, 4, 90)) if dtype == np.complex128 else 0)
    one, other = (Conv1d(4, 6, 5, bias=bias, dtype=dtype, **geometry) for _ in range(2))
    other.partial_fit(x[:3], known(x[:3])).partial_fit(x[3:], known(x[3:]))
    for layer in (one.fit(x, known(x)), other):
        np.testing.assert_allclose(layer.weight, known.weight, atol=1e-12)
        if bias:
            np.testing.assert_allclose(layer.bias, known.bias, atol=1e-12)


def test_fit_is_the_ridge_solution():
    rng = np.random.default_rng(0)
    layer = Conv1d(2, 3, 4, 2, 1, bias=False, dtype=float)
    x, y = rng.standard_normal((5, 2, 30)), rng.standard_normal((5, 3, 15))
    layer.fit(x, y, alpha=2.5)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    rows = np.stack([padded[:, :, i * 2 : i * 2 + 4].reshape(5, -1) for i in range(15)], 1).reshape(-1, 8)
    wanted = np.linalg.solve(rows.T @ rows + 2.5 * np.eye(8), rows.T @ y.transpose(0, 2, 1).reshape(-1, 3))
    np.testing.assert_allclose(layer.weight.reshape(3, 8), wanted.T, atol=1e-12)
    with pytest.raises(ValueError, match="y must be as long"):
        layer.fit(x, y[..., :14])
