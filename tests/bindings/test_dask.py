# SPDX-License-Identifier: MIT
"""Dask arrays: the in-memory result for any chunks, exactly the halo, lazily, and on processes that die."""

import importlib
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
import convt1d.dask  # noqa: E402  after the question whether dask is there

ROOT = Path(__file__).parents[2]
SCALE = str(ROOT / "docs" / "examples" / "scale.py")


@pytest.fixture(autouse=True)
def one_thread():
    """A test is told by its own code what runs when; `compute(scheduler="threads")` asks for more."""
    with dask.config.set(scheduler="synchronous"):
        yield


def cuts(n):
    """Chunks of an axis of length n, empty ones among them."""
    inside = st.lists(st.integers(0, n), max_size=12).map(sorted)
    return inside.map(lambda at: tuple(b - a for a, b in itertools.pairwise([0, *at, n])))


# what it computes -------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(problem=naive.problems(), data=st.data())
def test_equals_the_result_in_memory(problem, data):
    expected = convt1d.conv_transpose1d(problem.x, problem.w, problem.b, **problem.geometry)
    chunks = tuple(data.draw(cuts(n), label="chunks") for n in problem.x.shape)
    y = convt1d.dask.conv_transpose1d(da.from_array(problem.x, chunks), problem.w, problem.b, **problem.geometry)
    for along_n, given_n in zip(y.chunks[:-2], chunks[:-2], strict=True):
        assert [n for n in along_n if n] == [n for n in given_n if n]  # dask may leave out empty ones
    assert y.numblocks[-2] == 1
    assert 0 not in y.chunks[-1]
    # values; and that the blocks have the shapes and types that were announced
    da.utils.assert_eq(y, expected)


BITS = {
    "sinc": ((2, 1, 3000), (1, 1, 16), {"stride": 2, "padding": 7}),
    "groups": ((2, 12, 1500), (12, 1, 12), {"groups": 12, "stride": 2, "padding": (3, 7)}),
    "dilation": ((8, 2000), (8, 5, 7), {"stride": 3, "dilation": 2, "output_padding": 2}),
    "vocoder": ((1, 64, 600), (64, 32, 16), {"stride": 8, "padding": 4}),
    "istft": ((130, 200), (130, 1, 64), {"stride": 16}),
}


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("name", BITS)
def test_bits(force, name, mode):
    """Those of the whole signal, but for BLAS, for chunks of more than 64 samples; two threads of dask."""
    x_shape, w_shape, geometry = BITS[name]
    rng = np.random.default_rng(0)
    for dtype, kernel in itertools.product((np.float32, np.complex128, np.float16), (None, "direct", "gemm")):
        x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
        with force(kernel):
            expected = convt1d.conv_transpose1d(x, w, **geometry, padding_mode=mode)
            lazy = da.from_array(x, chunks=(*x_shape[:-2], 7, 130))
            y = convt1d.dask.conv_transpose1d(lazy, w, **geometry, padding_mode=mode)
            y = y.compute(scheduler="threads", num_workers=2)
        if kernel == "gemm":
            limit = 100 * np.finfo(dtype).eps * np.abs(expected).max()
            np.testing.assert_allclose(y, expected, rtol=0, atol=limit)
        else:
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("x_dtype", "w_dtype", "result"),
    [
        ("f4", "f4", "f4"),
        (">f4", "f4", "f4"),
        ("f4", "f8", "f8"),
        ("i2", "f4", "f4"),
        ("i8", "i8", "f8"),
        ("?", "?", "f8"),
        ("f2", "f2", "f2"),
        ("c8", "f4", "c8"),
        ("f8", "c8", "c16"),
    ],
)
def test_types(x_dtype, w_dtype, result):
    x, w = np.arange(30).reshape(1, 30).astype(x_dtype), np.ones((1, 2, 3), w_dtype)
    y = convt1d.dask.conv_transpose1d(da.from_array(x, chunks=7), w, np.ones(2, w_dtype))
    assert y.dtype == y._meta.dtype == result
    da.utils.assert_eq(y, convt1d.conv_transpose1d(x, w, np.ones(2, w_dtype)))


# chunks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "geometry", "expected"),
    [
        # `stride` times as long, the last with the rest
        ((30, 30, 30, 10), {"stride": 2, "padding": (1, 0)}, (60, 60, 60, 20)),
        ((30, 30, 30, 10), {"stride": 2}, (60, 60, 60, 21)),
        ((30, 30, 30, 10), {"stride": 8, "padding": 40, "output_padding": 7}, (200, 240, 240, 42)),
        ((50, 0, 49, 1), {"stride": 2, "padding": 1}, (100, 98, 1)),
        # shorter than the halo
        ((1,) * 100, {"dilation": 9, "padding": 9, "padding_mode": "circular"}, (1,) * 100),
        ((96, 1, 3), {"dilation": 4, "padding": 4, "padding_mode": "reflect"}, (96, 1, 3)),
        # without an output
        ((40, 40, 20), {"padding": (2, 30)}, (40, 30)),
        ((40, 40, 20), {"padding": (50, 0)}, (32, 20)),
        ((99, 1), {"padding": 2}, (98,)),
        # nothing but what output_padding adds
        ((50, 50), {"dilation": 9, "output_padding": 8, "padding": (118, 0)}, (8,)),
    ],
)
def test_chunks(chunks, geometry, expected):
    x = np.random.default_rng(0).integers(-9, 10, (1, 100)).astype(float)
    w = np.array([[[1.0, 2.0, -3.0]]])
    y = convt1d.dask.conv_transpose1d(da.from_array(x, chunks=(1, chunks)), w, **geometry)
    assert y.chunks[-1] == expected
    da.utils.assert_eq(y, convt1d.conv_transpose1d(x, w, **geometry))


@pytest.mark.parametrize(
    ("geometry", "mode", "expected"),
    [
        ({"stride": 4, "padding": 0}, "zeros", [{0}, {0, 1}, {1, 2}, {2, 3}]),
        ({"stride": 4, "padding": 2}, "zeros", [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}]),
        ({"stride": 4, "padding": (4, 0)}, "zeros", [{0, 1}, {1, 2}, {2, 3}, {3}]),
        ({"stride": 4, "padding": (0, 4)}, "circular", [{0, 3}, {0, 1}, {1, 2}, {2, 3}]),
        ({"stride": 4, "padding": 2}, "circular", [{0, 1, 3}, {0, 1, 2}, {1, 2, 3}, {0, 2, 3}]),
        ({"stride": 4, "padding": 2}, "reflect", [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}]),
        ({"stride": 4, "padding": 2}, "replicate", [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}]),
        ({"stride": 8, "padding": 0}, "circular", [{0}, {1}, {2}, {3}]),
        ({"stride": 4, "padding": (48, 0)}, "zeros", [{1, 2}, {2, 3}, {3}]),
        ({"stride": 4, "padding": (4, 84)}, "zeros", [{0, 1}, {1}]),
    ],
)
def test_chunks_that_are_read(geometry, mode, expected):
    """K = 8 and 4 chunks of 10 samples: the neighbours that reach the output, of the others none."""
    read = set()

    def load(block_id):
        read.add(block_id[-1])
        return np.ones((1, 10))

    x = da.map_blocks(load, chunks=((1,), (10,) * 4), dtype=float)
    y = convt1d.dask.conv_transpose1d(x, np.ones((1, 1, 8)), **geometry, padding_mode=mode)
    assert read == set()
    for j, wanted in enumerate(expected):
        read.clear()
        y.blocks[0, j].compute()
        assert read == wanted
    assert y.numblocks == (1, len(expected))


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("kernel_size", [1, 2, 5, 9])
def test_neighbours_give_exactly_what_reaches_the_output(kernel_size, stride):
    """Counted tap by tap, for the second of three chunks of 12 samples."""
    x = da.zeros((1, 36), chunks=12)
    for left in range(kernel_size):
        geometry = convt1d.geometry.check(1, 1, kernel_size, stride, (left, 0))
        blocks, _, _ = convt1d.dask._blocks(x, geometry, geometry.output_length(36))
        outputs = range(12 * stride + left, 24 * stride + left)
        reaching = {(u - k) // stride for u in outputs for k in range(kernel_size) if (u - k) % stride == 0}
        assert sum(part.chunks[-1][i] for part, i in blocks[1]) == len(reaching | set(range(12, 24)))


# the graph --------------------------------------------------------------------------------------------------


def test_the_graph_holds_the_weights_once():
    """... as they were at the call; and is the same for the same call."""
    x, w = da.ones((2, 64, 1000), chunks=(1, 64, 100)), np.ones((64, 64, 8))
    y = convt1d.dask.conv_transpose1d(x, w, stride=2)
    w[...] = 2
    again, other = (convt1d.dask.conv_transpose1d(x, value, stride=2) for value in (w / 2, w))
    assert y.name == again.name != other.name
    sizes = [len(pickle.dumps(task)) for task in dict(y.__dask_graph__()).values()]
    assert len(sizes) < 5 * y.npartitions + 20
    assert sum(size > 10_000 for size in sizes) == 1
    assert sum(sizes) < 2 * w.nbytes
    da.utils.assert_eq(y, convt1d.conv_transpose1d(np.ones(x.shape), w / 2, stride=2))


def test_an_operator_travels_without_its_packs():
    operator = convt1d.functional.operator_of(np.ones((3, 2, 4)), np.ones(2), 2, 1, 0, 1, 1, "reflect")
    x, before = np.arange(30.0).reshape(3, 10), len(pickle.dumps(operator))
    y = operator(x)
    assert len(pickle.dumps(operator)) == before
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(operator))(x), y)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_threads_of_a_task(monkeypatch, workers):
    """One, unless more are asked for: dask runs as many tasks as it has threads."""
    allowed = []
    monkeypatch.setattr("convt1d.threads.worthwhile", lambda seconds, count: allowed.append(count) or 1)
    given = {} if workers == 1 else {"workers": workers}
    convt1d.dask.conv_transpose1d(da.ones((1, 100), chunks=50), np.ones((1, 1, 3)), **given).compute()
    assert allowed == [workers] * 2


# bad input: told by the call, before anything is computed ---------------------------------------------------


def unread(shape=(2, 4, 50), dtype=float, chunks=10):
    """An array that must not be computed."""

    def load():
        raise AssertionError("computed")

    return da.from_delayed(dask.delayed(load)(), shape, dtype).rechunk((*shape[:-1], chunks) if shape else ())


W, B = np.ones((4, 6, 3)), np.ones(6)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.ones((2, 4, 50))}, TypeError, ["x must be a dask array, got ndarray"]),
        ({"x": None}, TypeError, ["x must be a dask array, got NoneType"]),
        ({"x": unread(())}, ValueError, ["x must be 2-D or 3-D", r"\(\)"]),
        ({"x": unread((50,))}, ValueError, ["x must be 2-D or 3-D", r"\(50,\)"]),
        ({"x": unread((1, 2, 4, 50))}, ValueError, ["x must be 2-D or 3-D", r"\(1, 2, 4, 50\)"]),
        ({"x": unread((2, 3, 50))}, ValueError, ["x must have shape", r"\(4, 6, 3\)", r"\(2, 3, 50\)"]),
        ({"x": unread((2, 4, 0))}, ValueError, ["length must be at least 1", "L = 0"]),
        ({"x": unread(dtype=object)}, TypeError, [r"\bx\b", "object"]),
        ({"x": unread(dtype="M8[s]")}, TypeError, [r"\bx\b", "datetime64"]),
        ({"x": da.ma.masked_array(unread())}, TypeError, ["x must be a plain array", "MaskedArray"]),
        (
            {"x": unread()[:, :, unread((50,)) > 0]},
            ValueError,
            ["x must have known chunks", "nan", "compute_chunk_sizes"],
        ),
        ({"weight": da.from_array(W)}, TypeError, ["weight must be an array in memory", "weight.compute()"]),
        ({"weight": None}, TypeError, ["weight", "NoneType|object"]),
        ({"weight": np.ones((4, 6))}, ValueError, ["weight must be 3-D", r"\(4, 6\)"]),
        ({"bias": da.from_array(B)}, TypeError, ["bias must be an array in memory", "bias.compute()"]),
        ({"bias": np.ones(5)}, ValueError, ["bias", r"\(6,\)", r"\(5,\)"]),
        ({"bias": B * 1j}, TypeError, ["bias", "complex128", "float64"]),
        ({"stride": 0}, ValueError, ["stride", "at least 1", "0"]),
        ({"padding": -1}, ValueError, ["padding", "at least 0", "-1"]),
        ({"padding": 26}, ValueError, ["output length must be at least 1", "L = 50|length 50", "0"]),
        ({"groups": 3}, ValueError, ["in_channels must be divisible by groups", "4", "3"]),
        ({"padding_mode": "same"}, ValueError, ["padding_mode", "'same'"]),
        ({"workers": 0}, ValueError, ["workers", "0"]),
        ({"workers": "2"}, TypeError, ["workers", "'2'"]),
    ],
)
def test_bad_input(change, error, words):
    arguments = {"x": unread(), "weight": W, "bias": B} | change
    with pytest.raises(error) as caught:
        convt1d.dask.conv_transpose1d(**arguments)
    assert caught.type is error
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} not in {caught.value}"


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.delitem(sys.modules, "convt1d.dask")
    with pytest.raises(ImportError, match=r"pip install 'convt1d\[dask\]'"):
        importlib.import_module("convt1d.dask")


# files, processes and examples ------------------------------------------------------------------------------


def test_zarr_to_zarr(tmp_path):
    """Chunk by chunk, without rechunking: a chunk of the one file is read for a chunk of the other."""
    pytest.importorskip("zarr")
    x = np.random.default_rng(0).standard_normal((2, 1003)).astype(np.float32)
    w = np.random.default_rng(1).standard_normal((2, 3, 16)).astype(np.float32)
    da.from_array(x, chunks=(2, 100)).to_zarr(tmp_path / "x.zarr")
    lazy = da.from_zarr(tmp_path / "x.zarr")
    for mode in naive.MODES:
        y = convt1d.dask.conv_transpose1d(lazy, w, stride=8, padding=4, padding_mode=mode)
        assert y.chunks[-1] == (800,) * 10 + (24,)
        y.to_zarr(tmp_path / f"{mode}.zarr")
        expected = convt1d.conv_transpose1d(x, w, stride=8, padding=4, padding_mode=mode)
        np.testing.assert_array_equal(da.from_zarr(tmp_path / f"{mode}.zarr").compute(), expected)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_two_processes_one_of_which_is_killed():
    """Chunks that it held, and chunks that it was computing, are computed again."""
    distributed = pytest.importorskip("distributed")

    def load(block_id):
        time.sleep(0.05)
        return np.random.default_rng(block_id[-1]).standard_normal((1, 8, 1000)).astype(np.float32)

    chunks = 60
    x = da.map_blocks(load, chunks=((1,), (8,), (1000,) * chunks), dtype=np.float32)
    w = np.random.default_rng(0).standard_normal((8, 4, 16)).astype(np.float32)
    y = convt1d.dask.conv_transpose1d(x, w, stride=8, padding=4, padding_mode="circular")
    with (
        dask.config.set(scheduler=None),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        kept = client.persist(y)
        parts = distributed.futures_of(kept)
        deadline = time.monotonic() + 120
        while sum(part.done() for part in parts) < chunks // 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        assert not all(part.done() for part in parts)
        result = client.compute(kept).result(timeout=300)
        client.wait_for_workers(2, timeout=120)  # another one took its place
        assert victim not in client.run(os.getpid).values()
    whole = np.concatenate([load((0, 0, i)) for i in range(chunks)], axis=-1)
    expected = convt1d.conv_transpose1d(whole, w, stride=8, padding=4, padding_mode="circular")
    np.testing.assert_array_equal(result, expected)


@pytest.mark.slow
def test_a_signal_of_one_gigabyte_needs_little_memory():
    """docs/examples/scale.py, which by default does the same to twenty; two gigabytes come out."""
    environment = os.environ | {"DASK_NUM_WORKERS": "2"}
    done = subprocess.run(
        [sys.executable, SCALE, "--gigabytes", "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1.0 GB in 60 chunks -> 2.0 GB\n")
    assert done.stdout.count("the same bits") == 2
    assert float(re.search(r"off by (\S+) ", done.stdout)[1]) < 1e-6
    assert float(re.search(r"peak memory (\d+) MB", done.stdout)[1]) < 700


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no measure of the peak")
def test_zarr_to_zarr_needs_memory_for_chunks_only(tmp_path):
    """1.2 GB of samples, of which two threads see some 10 MB each at a time."""
    pytest.importorskip("zarr")
    script = f"""if True:
        import runpy
        import dask
        import dask.array as da
        import numpy as np
        from convt1d.dask import conv_transpose1d

        dask.config.set(num_workers=2)
        n = 10**8
        (da.arange(n, chunks=10**6) % 1000).astype("f4").reshape(1, n).to_zarr("x.zarr")
        weight = np.full((1, 1, 16), 0.125, "f4")
        y = conv_transpose1d(da.from_zarr("x.zarr"), weight, stride=2, padding=7, padding_mode="replicate")
        y.to_zarr("y.zarr")
        print(y.nbytes, da.from_zarr("y.zarr")[0, 10**8 : 10**8 + 2].compute().tolist())
        print(runpy.run_path({SCALE!r})["peak_bytes"]() // 10**6)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    values, peak = done.stdout.splitlines()
    near = np.arange(10**8 // 2 - 20, 10**8 // 2 + 20).reshape(1, -1) % 1000.0
    expected = convt1d.conv_transpose1d(near, np.full((1, 1, 16), 0.125), stride=2, padding=7)
    assert values == f"{8 * 10**8} {expected[0, 40:42].tolist()}"
    assert int(peak) < 500


@pytest.mark.slow
def test_documentation(tmp_path):
    """The scripts in docs/scale.md run, one after the other in a folder, and print what is shown."""
    for package in ("zarr", "distributed"):
        pytest.importorskip(package)
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    scripts = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```)?", text, re.DOTALL)
    assert len(scripts) == 3
    for script, shown in scripts:
        (tmp_path / "script.py").write_text(script, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert (done.returncode, done.stdout) == (0, shown), done.stderr


@pytest.mark.parametrize("shape", [(1000, 2), (3, 1000, 2)])
def test_a_layer_and_channels_last(shape):
    layer = convt1d.ConvTranspose1d(2, 3, 5, stride=2, padding=(1, 2), padding_mode="reflect", dtype=float, rng=0)
    x = np.random.default_rng(0).standard_normal(shape)
    chunks = (*((1,) * len(shape[:-2])), 300, 2)
    expected = layer(x, channels_last=True)
    da.utils.assert_eq(convt1d.dask.apply(layer, da.from_array(x, chunks), channels_last=True), expected)
    y = convt1d.dask.apply(layer, da.from_array(x.swapaxes(-1, -2), (*chunks[:-2], 2, 300)))
    da.utils.assert_eq(y.swapaxes(-1, -2), expected)
    settings = {"stride": 2, "padding": (1, 2), "padding_mode": "reflect", "channels_last": True}
    y = convt1d.dask.conv_transpose1d(da.from_array(x, chunks), layer.weight, layer.bias, **settings)
    da.utils.assert_eq(y, expected)
    with pytest.raises(TypeError, match="layer must be a ConvTranspose1d, got ndarray"):
        convt1d.dask.apply(layer.weight, da.ones((2, 10)))


def test_functions_in_memory_name_this_one():
    """A dask array would be loaded whole."""
    layer, x = convt1d.ConvTranspose1d(2, 3, 5), da.ones((2, 10))
    for call in (layer, lambda x: convt1d.conv_transpose1d(x, layer.weight), layer.stream().process):
        with pytest.raises(TypeError, match=r"got dask's Array: .*\.compute\(\).* convt1d\.dask\.conv_transpose1d"):
            call(x)
