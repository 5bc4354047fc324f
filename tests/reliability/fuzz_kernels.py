# SPDX-License-Identifier: MIT
"""Bytes -> arguments, hostile ones among them -> every public entry, held against the definition; or bytes -> files.

    python tests/reliability/fuzz_kernels.py kernels CORPUS [libFuzzer's options]        needs atheris
    python tests/reliability/fuzz_kernels.py readers CORPUS [libFuzzer's options]

A finding is an exception other than ValueError, TypeError and MemoryError (a file's also OSError), a wrong result, a
crash, or more time or memory than libFuzzer allows. tests/reliability/test_fuzz.py replays the corpus.
"""

import contextlib
import io
import operator
import os
import pathlib
import sys
import tempfile
import warnings

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

# what one byte behind the legal numbers stands for
ODD = [-1, 0, 2**31 - 1, 2**31, 2**63, -(2**63), 2**200, 1.5, float("nan"), True, None, "1", (1, 2), [3], (), {}, 2j]
PARAMETERS = ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode")
MODES = ("zeros", "reflect", "replicate", "circular")
REFUSALS = (ValueError, TypeError, MemoryError)
KINDS = ("npz", "safetensors", "onnx")


class Source:
    """Decisions from bytes; the first of the choices when they are used up."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def below(self, n):
        """A number below n, at most 65,536."""
        size = 1 if n <= 256 else 2
        value = int.from_bytes(self.data[self.at : self.at + size], "little")
        self.at += size
        return value % n

    def of(self, choices):
        return choices[self.below(len(choices))]

    def odds(self, n):
        """True once in n."""
        return self.below(n) == n - 1


def kernels(data):
    """One problem: a public entry with arguments made from `data`, and what the definition says."""
    import naive
    import numpy as np

    import convt1d

    source = Source(data)
    entry = source.of(ENTRIES)
    dtype = np.dtype(source.of(["f4", "f8", "c8", "c16", "f2", "i2", ">f4", ">c16", "?"]))
    large = source.odds(16) and entry is not learn  # rarely, for the definition takes its time, and least squares more
    groups, K = 1 + source.below(3), 1 + source.below(70 if large else 7)
    c_in, c_out = (groups * (1 + source.below(40 if large else 4)) for _ in "io")
    stride, dilation = 1 + source.below(20 if large else 5), 1 + source.below(4)
    L, N = 1 + source.below(40 if large else 14), source.below(4)
    given = {
        "stride": stride,
        "padding": source.below(dilation * K + 3),
        "output_padding": source.below(max(stride, dilation)),
        "groups": groups,
        "dilation": dilation,
        "padding_mode": source.of(MODES),
    }
    if source.odds(3):
        given["padding"] = (given["padding"], source.below(dilation * K + 3))
    correlates = entry is convolve
    if correlates:
        del given["output_padding"]
    rng = np.random.default_rng(source.below(256))

    def integers(*shape):
        values = rng.integers(-4, 5, shape)
        values = values + 1j * rng.integers(-4, 5, shape) if dtype.kind == "c" else values
        return present(values.astype(dtype), source)

    arrays = {
        "x": integers(*[N] * (N > 0), c_in, L),
        "w": integers(*((c_out, c_in // groups) if correlates else (c_in, c_out // groups)), K),
        "b": integers(c_out) if source.odds(2) else None,
    }
    hostile = source.odds(2)
    while hostile:
        if source.odds(2):
            name = source.of(list(arrays))
            arrays[name] = spoil(arrays[name], source)
        else:
            given[source.of(list(given))] = source.of(ODD)
        hostile = source.odds(3)
    workers = source.of([1, 2, 3, None, -1, 0, 1.0, 2**70])
    setting = {
        "CONVT1D_KERNEL": source.of(["", *convt1d.cpu.kernels.names()]),
        "CONVT1D_TILE": source.of(["", "1", "7"]),
    }

    @contextlib.contextmanager
    def surroundings():
        """Kernel and tile as chosen, and threads where `workers` allows them, however small the problem."""
        paying = convt1d.threads.worthwhile
        os.environ.update(setting)
        convt1d.threads.worthwhile = lambda *work: min(work[-1] or convt1d.threads.count(None), 3)
        try:
            yield
        finally:
            convt1d.threads.worthwhile = paying
            for name in setting:
                del os.environ[name]

    with surroundings(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "partial_fit leaves", RuntimeWarning)
        try:
            results = entry(convt1d, np, arrays, given, workers, source)
        except REFUSALS:
            return False
    if results is None:
        return True
    # accepted: then the arguments have a meaning, and the definition another way to say it
    x, w, b = (None if a is None else np.asarray(a) for a in arrays.values())
    exact = complex if np.result_type(x, w).kind == "c" else float
    if b is not None:  # which is rounded before it is added
        b = b.astype(np.result_type(results[0][0], np.float32))
    x, w, b = (None if a is None else a.astype(exact) for a in (x, w, b))
    for name, value in given.items():
        if name != "padding_mode":
            given[name] = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
    s, p, g, d = (given[name] for name in ("stride", "padding", "groups", "dilation"))
    s, g, d = (operator.index(n) for n in (s, g, d))
    mode, op = given["padding_mode"], operator.index(given.get("output_padding", 0))
    with np.errstate(all="ignore"):
        for found, what in results:
            if what != "y":
                name, gy = what
                gradients = naive.conv_transpose1d_backward(gy.astype(exact), x, w, s, p, op, g, d, mode)
                expected = gradients["xwb".index(name)].reshape(found.shape)
            elif correlates:
                expected = naive.conv1d(x, w, b, s, p, d, g, mode)
            else:
                expected = naive.conv_transpose1d(x, w, b, s, p, op, g, d, mode)
            compare(np, found, expected, spread=what != "y" or not np.isfinite(w).all())
    return True


def compare(np, found, expected, spread):
    """Small integers, which no rounding touches but the last one.

    `spread`: NaN may be in more places than naive.py has it, as the Notes say and test_numbers.py tests.
    """
    assert found.shape == expected.shape, (found.shape, expected.shape)
    finite = np.isfinite(expected)
    if spread and not finite.all():
        return
    assert (np.isfinite(found) == finite).all() or found.dtype == np.float16
    np.testing.assert_allclose(found[finite], expected[finite], rtol=2 * np.finfo(found.dtype).eps, atol=0)


def present(a, source):
    """The same numbers, placed otherwise."""
    import numpy as np

    kind = source.below(8)
    if kind == 4:
        return a[..., ::-1].copy()[..., ::-1]
    if kind == 5:
        return a.repeat(2, axis=-1)[..., ::2]
    if kind == 6:
        shifted = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        shifted[...] = a
        return shifted
    if kind == 7:
        a.flags.writeable = False
        return np.asfortranarray(a)
    return a


def spoil(a, source):
    """Something else in its place."""
    import numpy as np

    if a is None:
        a = np.ones(3)
    if type(a) is not np.ndarray or a.ndim == 0 or a.size > 10**6:  # spoiled before
        return a
    one = np.broadcast_to(np.float32(1), (1,) * a.ndim)
    makers = [
        lambda: a[..., :0],
        lambda: a[0],
        lambda: a[None],
        lambda: a[..., :-1],
        lambda: a.astype(object),
        lambda: a.astype(str),
        lambda: a.astype(np.longdouble),
        lambda: np.ma.masked_array(a),
        lambda: np.matrix(a.reshape(len(a), -1)),
        lambda: a.tolist(),
        lambda: [[1.0], [1.0, 2.0]],
        lambda: None,
        lambda: "array",
        lambda: np.broadcast_to(one, (2**20, *one.shape[1:])),
        lambda: np.broadcast_to(one, (*one.shape[:-1], 2**40)),
        lambda: np.full(a.shape, source.of([np.nan, np.inf, -np.inf, 2.0**100]), np.float64),
        lambda: a.astype("M8[s]"),
        lambda: memoryview(np.ascontiguousarray(a)),
        lambda: 1.0,
    ]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return source.of(makers)()
        except (ValueError, TypeError, IndexError, BufferError):
            return a


# --- the public entries: each yields (result, what it should be) ----------------------------------------------


def transpose(convt1d, np, arrays, given, workers, source):
    y = convt1d.conv_transpose1d(arrays["x"], arrays["w"], arrays["b"], **given, workers=workers)
    results = [(y, "y")]
    outs = [np.full_like(y, 7), y[..., ::-1], y[:1], y.astype("c16"), np.asarray(arrays["x"]), None, "out", y.T]
    out = source.of(outs)
    if out is not None:
        z = convt1d.conv_transpose1d(arrays["x"], arrays["w"], arrays["b"], **given, out=out)
        assert z is out
        results.append((z, "y"))
    return results


def convolve(convt1d, np, arrays, given, workers, source):
    if source.odds(8):
        given["padding"] = source.of(["same", "valid", "full"])
    y = convt1d.conv1d(arrays["x"], arrays["w"], arrays["b"], **given, workers=workers)
    if isinstance(given["padding"], str):
        total = 0 if given["padding"] == "valid" else given["dilation"] * (np.shape(arrays["w"])[2] - 1)
        given["padding"] = (total // 2, total - total // 2)
    return [(y, "y")]


def layer_of(convt1d, np, arrays, given):
    """A layer whose weights are these."""
    w = arrays["w"]
    dtype = np.result_type(w if hasattr(w, "dtype") else np.asarray(w), np.float16)
    c_out = np.shape(w)[1] * operator.index(given["groups"])
    layer = convt1d.ConvTranspose1d(
        np.shape(w)[0], c_out, np.shape(w)[2], **given, bias=arrays["b"] is not None, dtype=dtype, rng=0
    )
    layer.weight = w
    layer.bias = arrays["b"]
    return layer


def layered(function):
    """An entry of the layer; a mistake of this harness in making one is none of the layer's."""

    def entry(convt1d, np, arrays, given, workers, source):
        try:
            layer = layer_of(convt1d, np, arrays, given)
        except (IndexError, AttributeError, OverflowError):
            raise ValueError("no such layer") from None
        return function(convt1d, np, layer, arrays, given, workers, source)

    return entry


@layered
def call(convt1d, np, layer, arrays, given, workers, source):
    results = [(layer(arrays["x"], workers=workers), "y")]
    if source.odds(4):
        layer(arrays["x"], source.of([*ODD, results[0][0].shape, results[0][0].shape[-1] + source.below(8)]))
    if source.odds(4):
        convt1d.threads.release_workspaces()
        results.append((layer(arrays["x"]), "y"))
    return results


@layered
def backward(convt1d, np, layer, arrays, given, workers, source):
    y = layer(arrays["x"])
    gy = present(np.rint(np.clip(y.real, -4, 4)).astype(y.dtype), source)
    if source.odds(4):
        gy = spoil(gy, source)
    needs = source.of([("x", "weight", "bias"), ["x"], {"weight"}, "x", ["y"], None, 3])
    gradients = layer.backward(gy, arrays["x"], needs=needs, workers=workers)
    gy = np.asarray(gy)
    real = gy.dtype.kind != "c" or np.asarray(arrays["x"]).dtype.kind == np.asarray(arrays["w"]).dtype.kind == "c"
    if not real or y.dtype == np.float16 or gy.dtype.kind not in "fc":
        return None
    return [(a, (name, gy)) for a, name in zip(gradients, "xwb", strict=True) if a is not None]


@layered
def stream(convt1d, np, layer, arrays, given, workers, source):
    x = arrays["x"]
    signal = convt1d.ConvTranspose1dStream(layer, workers=workers)
    layer(x)  # which refuses what has no output; a stream returns nothing
    pieces, at, length = [], 0, np.shape(x)[-1]
    while at < length:
        n = source.below(9) if source.at < len(source.data) else length
        pieces.append(signal.process(np.asarray(x)[..., at : at + n]))
        at += n
        if source.odds(4):
            state = signal.state()
            if source.odds(4):
                state[source.of([*state, "more"])] = source.of(ODD)
            signal = convt1d.ConvTranspose1dStream(layer)
            signal.restore(state)
    pieces.append(signal.flush())
    return [(np.concatenate(pieces, axis=-1), "y")]


@layered
def learn(convt1d, np, layer, arrays, given, workers, source):
    known, x = layer.state_dict(), arrays["x"]
    y = source.of([layer(x), x, None])
    layer.fit(x, y, alpha=source.of([0, 1.0, *ODD]), sample_weight=source.of([None, [1.0], 1, "x", [np.nan] * 3]))
    layer.partial_fit(x, y)
    layer.load_state_dict(known)
    return [(layer(x), "y")]


@layered
def states(convt1d, np, layer, arrays, given, workers, source):
    import copy
    import pickle

    state = layer.state_dict()
    if source.odds(4):
        state[source.of(["weight", "bias", "more"])] = spoil(state["weight"], source)
    sliding = {name: given[name] for name in PARAMETERS}
    other = convt1d.ConvTranspose1d.from_state_dict(state, source.of(["", "up", 3]), **sliding)
    layer.load_state_dict(state)
    other = source.of([other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))])
    return [(other(arrays["x"], workers=workers), "y")]


def lengths(convt1d, np, arrays, given, workers, source):
    sliding = {name: given[name] for name in PARAMETERS if name not in ("groups", "padding_mode")}
    convt1d.output_length(source.of([1, 5, *ODD]), source.of([3, *ODD]), **sliding)


ENTRIES = [transpose, convolve, call, backward, stream, learn, states, lengths]


# --- files -----------------------------------------------------------------------------------------------------


def readers(data):
    """A file of weights: its kind from the first byte. Returns whether anything could be read."""
    import numpy as np

    from convt1d import ConvTranspose1d, cli
    from convt1d.weights import list_layers

    kind = KINDS[data[0] % len(KINDS)] if data else "npz"
    worked, silent = False, io.StringIO()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder, f"weights.{kind}")
        path.write_bytes(data[1:])
        names = [None]
        with contextlib.suppress(ValueError, TypeError, OSError):
            names += [layer.name for layer in list_layers(path)][:20]
            worked = True
        for name in names:
            with contextlib.suppress(ValueError, TypeError, OSError):
                ConvTranspose1d.from_file(path, name, **({} if kind == "onnx" else {"stride": 2}))
        np.save(pathlib.Path(folder, "x.npy"), np.ones((1, 4)))
        arguments = [f"--{name}={folder}/{file}" for name, file in (("input", "x.npy"), ("output", "y.npy"))]
        with contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent):
            assert cli.main(["apply", f"--weights={path}", *arguments]) in (0, 2)
            assert cli.main(["layers", str(path)]) in (0, 2)
    return worked


TARGETS = {"kernels": kernels, "readers": readers}


def main():
    import resource

    import atheris

    target = TARGETS[sys.argv.pop(1)]
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)  # what asks for more is told MemoryError
    with atheris.instrument_imports(include=["convt1d"]):
        import convt1d
        import convt1d.cli
        import convt1d.stream
        import convt1d.weights  # noqa: F401
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
