# SPDX-License-Identifier: MIT
"""The stream against the whole signal: the naive oracle first, then the layer; what it keeps, what it refuses.

Small integers make results exact, so equality is to the last bit unless a test says otherwise.
"""

import copy
import gc
import pickle
import re
import weakref

import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_problems import DTYPES, LARGE, SEEDS, SETTINGS, normal, oracle

from convt1d import Conv1d, ConvTranspose1d, ConvTranspose1dStream

MODES = ("zeros", "reflect", "replicate")
PROBLEMS = naive.problems(modes=MODES)


def layer_of(w, b=None, **geometry):
    groups = geometry.get("groups", 1)
    layer = ConvTranspose1d(
        w.shape[0], w.shape[1] * groups, w.shape[2], bias=b is not None, dtype=w.dtype, rng=0, **geometry
    )
    layer.weight = w
    if b is not None:
        layer.bias = b
    return layer


def cut(x, at):
    """`x` in chunks that end at the positions `at`, and at its end."""
    return np.split(x, sorted(at), axis=-1)


def streamed(stream, chunks):
    return np.concatenate([*(stream.process(chunk) for chunk in chunks), stream.flush()], axis=-1)


@st.composite
def chunkings(draw, longest=60):
    """Where to cut a signal, whatever its length; equal cuts are empty chunks."""
    each = st.just(range(1, longest))
    return draw(each | st.lists(st.integers(0, longest), max_size=8))


def cuts(at, x):
    return [min(i, x.shape[-1]) for i in at]


# --- what it computes -------------------------------------------------------------------------------------------


@settings(max_examples=1000)
@given(problem=PROBLEMS, at=chunkings(), setting=SETTINGS, double=st.booleans())
def test_naive_oracle(force, problem, at, setting, double):
    dtype = DTYPES[problem.x.dtype.kind][double]
    x, w, b = (None if a is None else a.astype(dtype) for a in (problem.x, problem.w, problem.b))
    with force(*setting):
        y = streamed(ConvTranspose1dStream(layer_of(w, b, **problem.geometry)), cut(x, cuts(at, x)))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, oracle(problem.x, problem.w, problem.b, problem.geometry))


@settings(max_examples=300)
@given(problem=PROBLEMS, at=chunkings(), setting=SETTINGS, double=st.booleans(), seed=SEEDS)
def test_random_numbers(force, problem, at, setting, double, seed):
    """The bits of the whole-signal call from the kernels that sum in registers, 1e-6 of the peak from all."""
    rng, dtype = np.random.default_rng(seed), DTYPES[problem.x.dtype.kind][double]
    x, w = normal(rng, problem.x.shape, dtype), normal(rng, problem.w.shape, dtype)
    with force(*setting):
        layer = layer_of(w, **problem.geometry)
        y, whole = streamed(ConvTranspose1dStream(layer), cut(x, cuts(at, x))), layer(x)
    np.testing.assert_allclose(y, whole, rtol=0, atol=1e-6 * np.abs(whole).max())
    if setting[0] in ("direct", "fused", "winograd", "fused_winograd"):
        np.testing.assert_array_equal(y, whole)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("step", [1, 16, 1000])
def test_large(name, mode, step):
    (c_in, c_out, kernel_size, length), geometry = LARGE[name]
    if length > 1000 and step == 1:
        length = 1000
    rng = np.random.default_rng(0)
    x = np.rint(2 * normal(rng, (2, c_in, length), np.float32))
    w = np.rint(2 * normal(rng, (c_in, c_out // geometry.get("groups", 1), kernel_size), np.float32))
    layer = layer_of(w, **geometry, padding_mode=mode)
    y = streamed(ConvTranspose1dStream(layer), cut(x, range(step, length, step)))
    np.testing.assert_array_equal(y, layer(x))


@given(problem=naive.problems(modes=MODES, longest=200), at=chunkings(200))
def test_when_the_output_comes(problem, at):
    """After each chunk: what `latency` and `warm_up` say, and no less."""
    layer = layer_of(problem.w, problem.b, **problem.geometry)
    stream, received, returned = ConvTranspose1dStream(layer), 0, 0
    for chunk in cut(problem.x, cuts(at, problem.x)):
        received += chunk.shape[-1]
        returned += stream.process(chunk).shape[-1]
        expected = received * layer.stride - stream.latency if received >= stream.warm_up else 0
        assert returned == expected >= 0
    assert returned + stream.flush().shape[-1] == layer.output_length(received)


@given(problem=PROBLEMS)
def test_it_could_not_come_earlier(problem):
    """The first sample not yet returned: the next input sample changes it, or the output could end before it."""
    x, w, geometry = problem.x, np.ones_like(problem.w, dtype=float), problem.geometry
    layer = layer_of(w, **geometry)
    stream = ConvTranspose1dStream(layer)
    length = x.shape[-1]
    assume(length >= stream.warm_up)
    returned = stream.process(x.real).shape[-1]
    longer = np.zeros((*x.shape[:-1], length + 1))
    longer[..., -1] = 1
    ends_here = layer.output_length(length) == returned
    assert ends_here or (layer(longer)[..., returned] != 0).all()


@pytest.mark.parametrize(
    ("kernel_size", "options", "latency", "warm_up"),
    [
        (16, {"stride": 8, "padding": 4}, 4, 1),  # HiFi-GAN
        (10, {"stride": 5, "padding": (0, 5)}, 0, 1),  # EnCodec: causal
        (16, {"stride": 8, "padding": (0, 10)}, 2, 1),  # crops two samples more: they are held back
        (1, {"stride": 4}, 3, 1),  # the output ends at the last sample: three zeros wait for the next
        (1, {"stride": 4, "output_padding": 3}, 0, 1),
        (12, {"stride": 2, "padding": 5, "padding_mode": "replicate"}, 5, 3),
        (12, {"stride": 2, "padding": 5, "padding_mode": "reflect"}, 5, 4),  # mirrors samples 1 to 3
        (9, {"stride": 1, "padding": (0, 8), "padding_mode": "replicate"}, 0, 1),
        (9, {"stride": 1, "padding": (0, 8), "padding_mode": "reflect"}, 0, 9),
    ],
)
def test_latency(kernel_size, options, latency, warm_up):
    layer = ConvTranspose1d(1, 1, kernel_size, **options, bias=False)
    layer.weight = np.ones((1, 1, kernel_size))
    stream = ConvTranspose1dStream(layer)
    assert (stream.latency, stream.warm_up) == (latency, warm_up)
    shapes = [stream.process(np.ones((1, 1))).shape for _ in range(warm_up)]
    assert shapes == [(1, 0)] * (warm_up - 1) + [(1, warm_up * layer.stride - latency)]


DTYPE_PAIRS = [
    *((x, w) for x in ("f2", "f4", "f8", "c8", "c16") for w in ("f4", "c16")),
    *((x, "f4") for x in (">f4", ">i2", "i1", "u2", "i8", "?")),
    ("f2", "f2"),
    ("i2", "f8"),
]


@pytest.mark.parametrize(("x_dtype", "w_dtype"), DTYPE_PAIRS)
def test_types(x_dtype, w_dtype):
    x = np.random.default_rng(0).integers(0, 5, (2, 3, 40)).astype(x_dtype)
    layer = layer_of(np.arange(3 * 2 * 5).reshape(3, 2, 5).astype(w_dtype), stride=2)
    stream = ConvTranspose1dStream(layer)
    y, whole = streamed(stream, cut(x, (0, 1, 2, 11, 11, 30))), layer(x)
    assert y.dtype == whole.dtype
    np.testing.assert_array_equal(y, whole)
    stream.reset()
    empty = stream.process(x[..., :0])
    assert (empty.shape, empty.dtype) == ((2, 2, 0), whole.dtype)


def test_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    layer = layer_of(np.arange(3 * 2 * 5).reshape(3, 2, 5).astype(bfloat16), stride=2, padding_mode="reflect")
    x = np.arange(3 * 40).reshape(3, 40).astype(bfloat16)
    y = streamed(ConvTranspose1dStream(layer), cut(x, (1, 2, 11, 30)))
    assert y.dtype == bfloat16
    np.testing.assert_array_equal(y, layer(x))


def test_lists_and_strided_chunks():
    layer = layer_of(np.array([[[1.0, 2.0, 3.0]]]), stride=2)
    whole = layer(np.arange(9.0).reshape(1, 9))
    assert (
        streamed(ConvTranspose1dStream(layer), [[[0.0, 1.0]], [[2.0, 3.0, 4, 5, 6, 7, 8]]]).tolist() == whole.tolist()
    )
    signal = np.arange(18.0)[::2].reshape(9, 1) / 2
    signal.flags.writeable = False
    np.testing.assert_array_equal(streamed(ConvTranspose1dStream(layer), cut(signal.T[:, :], (2, 3))), whole)


def test_nan_stays_where_it_belongs():
    """It reaches what the kernel's taps reach, not what else was computed from the same chunk."""
    layer = layer_of(np.ones((1, 1, 5)), stride=2, padding=(1, 3), padding_mode="reflect")
    x = np.arange(40.0).reshape(1, 40)
    x[0, [0, 20]] = np.nan, np.inf
    np.testing.assert_array_equal(streamed(ConvTranspose1dStream(layer), cut(x, range(1, 40))), layer(x))


def test_threads(force):
    rng = np.random.default_rng(0)
    layer = layer_of(np.rint(9 * normal(rng, (6, 5, 7))), stride=3)
    x = np.rint(9 * normal(rng, (2, 6, 3000)))
    with force(threads=True):
        one, two = (streamed(ConvTranspose1dStream(layer, workers=n), cut(x, (1000, 1001))) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, layer(x))


# --- beginning and end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lead", [(), (3,), (0,)])
def test_empty_chunks(mode, lead):
    layer = ConvTranspose1d(2, 4, 5, 3, 1, padding_mode=mode, rng=0)
    x = normal(np.random.default_rng(0), (*lead, 2, 9), np.float32)
    stream = ConvTranspose1dStream(layer)
    y = []
    for chunk in cut(x, (0, 0, 1, 1, 4, 4)):
        y.append(stream.process(chunk))
        assert y[-1].shape[:-1] == (*lead, 4)
        assert y[-1].dtype == np.float32
        assert chunk.shape[-1] > 0 or y[-1].shape[-1] == 0
    np.testing.assert_array_equal(np.concatenate([*y, stream.flush()], axis=-1), layer(x))


@pytest.mark.parametrize("lead", [(), (3,)])
def test_no_samples(lead):
    """The layer refuses such a signal; a stream has nothing to return."""
    stream = ConvTranspose1dStream(ConvTranspose1d(2, 4, 5))
    y = stream.flush()
    assert (y.shape, y.dtype) == ((4, 0), np.float32)
    stream.reset()
    stream.process(np.ones((*lead, 2, 0)))
    y = stream.flush()
    assert (y.shape, y.dtype) == ((*lead, 4, 0), np.float64)


@pytest.mark.parametrize("mode", MODES)
def test_a_crop_that_leaves_nothing(mode):
    layer = ConvTranspose1d(1, 1, 3, padding=(4, 2), padding_mode=mode)
    for length in range(1, 5):
        with pytest.raises(ValueError, match="output length"):
            layer.output_length(length)
        stream = ConvTranspose1dStream(layer)
        assert streamed(stream, [np.ones((1, length))]).shape == (1, 0)
    assert streamed(ConvTranspose1dStream(layer), [np.ones((1, 5))]).shape == (1, 1)


def test_flush_ends_the_signal():
    layer = ConvTranspose1d(1, 2, 4, 2, rng=0)
    stream = ConvTranspose1dStream(layer)
    for signal in (np.ones((1, 5)), np.ones((3, 1, 2), np.float32), np.ones((1, 0), int)):
        pieces = [stream.process(signal), stream.flush()]
        if signal.size:
            np.testing.assert_array_equal(np.concatenate(pieces, axis=-1), layer(signal))
        assert stream.flush().shape == (*signal.shape[:-2], 2, 0)
        refuse(ValueError, ["chunk", r"flush\(\)", r"reset\(\)"], stream.process, signal)
        assert stream.flush().shape[-1] == 0  # the refused chunk has not begun a signal
        stream.reset()
    stream.flush()
    refuse(ValueError, ["chunk", r"flush\(\)"], stream.process, signal)


@given(problem=PROBLEMS, at=chunkings())
def test_reset(problem, at):
    """Whatever came before, the next signal does not know of it."""
    layer = layer_of(problem.w, problem.b, **problem.geometry)
    stream = ConvTranspose1dStream(layer)
    stream.process(np.full((2, *problem.x.shape[-2:]), np.nan, np.complex64))
    stream.reset()
    np.testing.assert_array_equal(streamed(stream, cut(problem.x, cuts(at, problem.x))), layer(problem.x))


# --- state ------------------------------------------------------------------------------------------------------


@given(problem=PROBLEMS, at=chunkings(), share=st.floats(0, 1))
def test_state_and_restore(problem, at, share):
    """Stored anywhere, also with nothing returned yet, and taken up by another stream while the first goes on."""
    layer = layer_of(problem.w, problem.b, **problem.geometry)
    chunks = cut(problem.x, cuts(at, problem.x))
    halfway = round(share * len(chunks))
    first, second = ConvTranspose1dStream(layer), ConvTranspose1dStream(layer)
    second.process(np.full((2, *problem.x.shape[-2:]), np.nan, np.complex64))
    begun = [first.process(chunk) for chunk in chunks[:halfway]]
    stored = pickle.dumps(first.state())
    rest = streamed(first, chunks[halfway:])
    second.restore(pickle.loads(stored))
    np.testing.assert_array_equal(streamed(second, chunks[halfway:]), rest)
    np.testing.assert_array_equal(np.concatenate([*begun, rest], axis=-1), layer(problem.x))
    second.restore(first.state())
    assert second.flush().shape[-1] == 0
    refuse(ValueError, [r"flush\(\)"], second.process, problem.x)


def test_state_is_a_copy():
    layer = ConvTranspose1d(1, 1, 9, padding_mode="reflect", rng=0)
    stream = ConvTranspose1dStream(layer)
    x = np.arange(40.0).reshape(1, 40)
    for n in (3, 30):  # before the first output and after it
        stream.reset()
        pieces = [stream.process(x[:, :n])]
        kept = stream.state()
        stream.state()["samples"][...] = np.nan
        pieces.append(stream.process(x[:, n:]))
        pieces.append(stream.flush())
        np.testing.assert_array_equal(np.concatenate(pieces, axis=-1), layer(x))
        kept_samples = kept["samples"].copy()
        stream.restore(kept)
        stream.process(x)
        np.testing.assert_array_equal(kept["samples"], kept_samples)


def test_state_in_a_file(tmp_path):
    """A dict of arrays, ints and a string: an .npz holds it."""
    layer = ConvTranspose1d(1, 1, 9, 2, rng=0)
    x = np.arange(40.0).reshape(1, 40)
    stream = ConvTranspose1dStream(layer)
    stream.process(x[:, :20])
    np.savez(tmp_path / "state.npz", **stream.state())
    other = ConvTranspose1dStream(layer)
    other.restore(np.load(tmp_path / "state.npz"))
    np.testing.assert_array_equal(streamed(other, [x[:, 20:]]), streamed(stream, [x[:, 20:]]))


# --- the layer's weights ----------------------------------------------------------------------------------------


def test_the_stream_keeps_its_weights():
    layer = ConvTranspose1d(1, 1, 4, 2, rng=0)
    stream, x = ConvTranspose1dStream(layer), np.arange(9.0).reshape(1, 9)
    whole = layer(x)
    y = [stream.process(x[:, :4])]
    layer.weight = 2 * layer.weight
    layer.bias = layer.bias + 1
    np.testing.assert_array_equal(np.concatenate([*y, streamed(stream, [x[:, 4:]])], axis=-1), whole)
    np.testing.assert_array_equal(streamed(ConvTranspose1dStream(layer), [x]), layer(x))


def test_streams_share_the_packed_weights():
    """Those of one layer; they are released with the last of them and the layer."""
    layer = ConvTranspose1d(1, 1, 4, 2, rng=0)
    streams = [ConvTranspose1dStream(layer) for _ in range(2)]
    assert streams[0]._operator is streams[1]._operator
    assert streams[0]._operator is not ConvTranspose1dStream(ConvTranspose1d(1, 1, 4, 2, rng=0))._operator
    shared = weakref.ref(streams[0]._operator)
    del layer
    gc.collect()
    assert shared() is not None
    streams.clear()
    gc.collect()
    assert shared() is None


# --- out= -------------------------------------------------------------------------------------------------------


@given(problem=PROBLEMS, at=chunkings())
def test_out(problem, at):
    layer = layer_of(problem.w, problem.b, **problem.geometry)
    stream, twin, pieces = ConvTranspose1dStream(layer), ConvTranspose1dStream(layer), []
    for chunk in cut(problem.x, cuts(at, problem.x)):
        out = np.full_like(twin.process(chunk), np.nan)
        assert stream.process(chunk, out=out) is out
        pieces.append(out)
    np.testing.assert_array_equal(np.concatenate([*pieces, stream.flush()], axis=-1), layer(problem.x))


def read_only(shape):
    out = np.empty(shape)
    out.flags.writeable = False
    return out


BAD_OUT = {
    "list": (lambda shape: [0], TypeError, ["out", "list"]),
    "shape": (lambda shape: np.empty((*shape[:-1], shape[-1] + 1)), ValueError, ["out", r"must have shape \(2, \d"]),
    "dtype": (lambda shape: np.empty(shape, np.float32), TypeError, ["out", "float64", "float32"]),
    "read-only": (read_only, ValueError, ["out", "writable"]),
    "order": (lambda shape: np.empty((*shape, 2))[..., 0], ValueError, ["out", "contiguous"]),
}


@pytest.mark.parametrize("name", BAD_OUT)
@pytest.mark.parametrize("received", [0, 3, 9])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_bad_out_leaves_the_stream_as_it_was(name, received, n):
    """Refused with the first chunk, while nothing is returned yet, with the first output, and later on."""
    make, error, words = BAD_OUT[name]
    layer = layer_of(np.arange(12.0).reshape(1, 2, 6), padding_mode="reflect")
    x, stream = np.arange(40.0).reshape(1, 40), ConvTranspose1dStream(layer)
    stream.process(x[:, :received]) if received else None
    before = stream.state()
    total = received + n if received + n >= stream.warm_up else 0
    shape = (2, total if received < stream.warm_up else n)
    if name == "order" and 0 in shape:
        shape = (2, 3)  # an empty array is contiguous
        words, error = ["out", r"must have shape \(2, 0\)"], ValueError
    refuse(error, words, stream.process, x[:, received : received + n], out=make(shape))
    np.testing.assert_equal(stream.state(), before)
    if not received:
        stream.process(np.ones((3, 1, 0), np.float32))  # no batch or dtype has been fixed
        stream.reset()
    expected = layer(x)[:, max(0, received) if received >= stream.warm_up else 0 :]
    np.testing.assert_array_equal(streamed(stream, [x[:, received:]]), expected)


# --- bad input --------------------------------------------------------------------------------------------------


def refuse(error, words, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.type is error
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} not in {caught.value}"


def test_bad_layer():
    refuse(TypeError, ["layer", "ConvTranspose1d", "function"], ConvTranspose1dStream, refuse)
    refuse(TypeError, ["layer", "ConvTranspose1d", "type"], ConvTranspose1dStream, ConvTranspose1d)
    circular = ConvTranspose1d(1, 1, 3, padding_mode="circular")
    refuse(ValueError, ["padding_mode", "zeros, reflect or replicate", "circular"], ConvTranspose1dStream, circular)
    layer = ConvTranspose1d(1, 1, 3)
    refuse(ValueError, ["workers", "got 0"], ConvTranspose1dStream, layer, workers=0)
    refuse(TypeError, ["workers", "1.5"], ConvTranspose1dStream, layer, workers=1.5)


BAD_CHUNKS = [
    (np.ones(4), ValueError, ["chunk", "2-D or 3-D", r"\(4,\)"]),
    (np.ones((1, 1, 2, 4)), ValueError, ["chunk", "2-D or 3-D", r"\(1, 1, 2, 4\)"]),
    (np.ones((3, 4)), ValueError, ["chunk", r"\(2, L\)", r"\(3, 4\)"]),
    (np.ones((1, 0)), ValueError, ["chunk", r"\(2, L\)", r"\(1, 0\)"]),
    ([["a", "b"]], TypeError, ["chunk", "numbers"]),
    ([[1, 2], [3]], TypeError, ["chunk", "list"]),
    (np.ma.ones((2, 4)), TypeError, ["chunk", "MaskedArray"]),
    (np.ones((2, 4), np.longdouble), TypeError, ["chunk", "longdouble|float128"]),
    (None, TypeError, ["chunk", "NoneType"]),
]
OTHER_CHUNKS = [
    (np.ones((1, 2, 4)), ValueError, ["chunk", r"first", r"\(2, n\)", r"\(1, 2, 4\)"]),
    (np.ones((1, 2, 0)), ValueError, ["chunk", r"first", r"\(2, n\)", r"\(1, 2, 0\)"]),
    (np.ones((2, 4), np.float32), TypeError, ["chunk", "first", "float64", "float32"]),
    (np.ones((2, 0), complex), TypeError, ["chunk", "first", "float64", "complex128"]),
    ([[1, 2], [3, 4]], TypeError, ["chunk", "first", "float64", "int"]),
]


@pytest.mark.parametrize(("chunk", "error", "words"), BAD_CHUNKS + OTHER_CHUNKS)
def test_bad_chunk_leaves_the_stream_as_it_was(chunk, error, words):
    layer = ConvTranspose1d(2, 1, 5, 2, padding_mode="reflect", rng=0)
    x = np.arange(40.0).reshape(2, 20)
    for at in ([0], [1], [9]):
        begin, rest = cut(x, at)
        stream = ConvTranspose1dStream(layer)
        pieces = [stream.process(begin)]
        refuse(error, words, stream.process, chunk)
        np.testing.assert_array_equal(np.concatenate([*pieces, streamed(stream, [rest])], axis=-1), layer(x))


@pytest.mark.parametrize(("chunk", "error", "words"), BAD_CHUNKS)
def test_bad_first_chunk(chunk, error, words):
    stream = ConvTranspose1dStream(ConvTranspose1d(2, 1, 5))
    before = stream.state()
    refuse(error, words, stream.process, chunk)
    assert stream.state() == before
    assert stream.process(np.ones((7, 2, 3), np.float16)).shape == (7, 1, 3)


def test_chunk_and_weights_without_a_common_type():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    stream = ConvTranspose1dStream(ConvTranspose1d(1, 1, 2, dtype=np.float16))
    refuse(TypeError, ["common", "bfloat16", "float16"], stream.process, np.ones((1, 3), ml_dtypes.bfloat16))


STATE = {"geometry": ..., "received": 9, "flushed": 0, "samples": np.ones((2, 4))}
BAD_STATES = [
    ({}, ValueError, ["state", "flushed.*geometry", r"\[\]"]),
    (STATE | {"weight": 1}, ValueError, ["state", "weight"]),
    (STATE | {"geometry": "Geometry(1, 1)"}, ValueError, ["state", "geometry", "kernel_size=5", r"\(1, 1\)"]),
    (STATE | {"received": -1}, ValueError, ["received", "at least 0", "-1"]),
    (STATE | {"received": 1.5}, TypeError, ["received", "an int", "1.5"]),
    (STATE | {"flushed": 2}, ValueError, ["flushed", "0 or 1", "2"]),
    (STATE | {"flushed": True}, TypeError, ["flushed", "an int", "True"]),
    (STATE | {"samples": None}, ValueError, ["samples", "None", "9"]),
    (STATE | {"samples": [["a"]]}, TypeError, ["samples", "numbers"]),
    (STATE | {"samples": np.ones((2, 3))}, ValueError, ["samples", r"\(2, 4\)", r"\(2, 3\)"]),
    (STATE | {"samples": np.ones((5, 3, 4))}, ValueError, ["samples", r"\(2, 4\)", r"\(5, 3, 4\)"]),
    (STATE | {"samples": np.ones(4)}, ValueError, ["samples", "2-D or 3-D", r"\(4,\)"]),
    (STATE | {"received": 0}, ValueError, ["samples", r"\(2, 0\)", r"\(2, 4\)"]),
]


@pytest.mark.parametrize(("state", "error", "words"), BAD_STATES)
def test_bad_state_leaves_the_stream_as_it_was(state, error, words):
    stream = ConvTranspose1dStream(ConvTranspose1d(2, 1, 5, rng=0))
    stream.process(np.ones((2, 3)))
    before = stream.state()
    if state.get("geometry") is ...:
        state = state | {"geometry": before["geometry"]}
    refuse(error, words, stream.restore, state)
    np.testing.assert_equal(stream.state(), before)


def test_good_state_of_that_kind():
    """What the bad ones differ from."""
    stream = ConvTranspose1dStream(ConvTranspose1d(2, 1, 5, rng=0))
    stream.restore(STATE | {"geometry": stream.state()["geometry"]})
    assert stream.process(np.ones((2, 3))).shape == (1, 3)
    other = ConvTranspose1dStream(ConvTranspose1d(2, 1, 5, 2, rng=0))
    refuse(ValueError, ["geometry", "stride=2", "stride=1"], other.restore, stream.state())


def test_restore_without_memory_leaves_the_stream_as_it_was(monkeypatch):
    layer, x = layer_of(np.ones((2, 3, 5)), stride=2), np.ones((2, 300))
    stream, other = ConvTranspose1dStream(layer), ConvTranspose1dStream(layer)
    other.process(np.zeros((1, 2, 7)))

    def no_memory(*given):
        raise MemoryError("as a test wants it")

    for fresh in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(ConvTranspose1dStream, "_new_buffer", no_memory)
            with pytest.raises(MemoryError, match="as a test wants it"):
                stream.restore(other.state())
        assert (stream.state()["samples"] is None) == fresh
        stream.process(x)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"),
    [(16, 8, 1), (20, 8, 1), (24, 8, 1), (27, 8, 1), (12, 1, 3), (8, 1, 5), (12, 1, 9), (12, 1, 20)],
)
@pytest.mark.parametrize("mode", MODES)
def test_long_chunks_of_many_channels_have_the_bits_of_the_whole(kernel_size, stride, dilation, mode):
    """Winograd's products take pairs of samples: the same ones, wherever a chunk begins. `flush` adds a short one."""
    rng = np.random.default_rng(0)
    x, w = normal(rng, (256, 400), np.float32), normal(rng, (256, 32, kernel_size), np.float32)
    layer = layer_of(w, stride=stride, dilation=dilation, padding=4, padding_mode=mode)
    stream = ConvTranspose1dStream(layer)
    y = np.concatenate([stream.process(chunk) for chunk in cut(x, [100, 133, 201, 240, 307, 340])], axis=-1)
    plan = layer._operator._kernel(np.dtype("f4"), 1, False, False)[0].plan
    assert (plan.alignment, plan.repeat) == (2, 2 * dilation)
    np.testing.assert_array_equal(y, layer(x)[..., : y.shape[-1]])


@pytest.mark.parametrize("layer", [ConvTranspose1d(2, 2, 6, stride=2, rng=0), Conv1d(2, 2, 5, rng=0)])
def test_a_copy_goes_on_by_itself(layer):
    x = np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)
    stream = layer.stream()
    first = stream.process(x[:, :20])
    for other in (copy.copy(stream), copy.deepcopy(stream)):
        other.process(-x[:, :7])
    found = np.concatenate([first, stream.process(x[:, 20:]), stream.flush()], axis=1)
    np.testing.assert_array_equal(found, layer(x))
