# SPDX-License-Identifier: MIT
"""Inward: each kernel, SIMD level and block shape in turn, the workspace, forks, and what runs when."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest

import convt1d
from convt1d import dispatch, geometry, memory, threads
from convt1d.cpu import _correlate, _runtime, _tiles

HERE = Path(__file__).parent
MACHINES = [
    dispatch.Machine(0, 4, 16, (4, 3, 3, 2)),
    dispatch.Machine(1, 4, 32, (6, 5, 4, 3)),
    dispatch.Machine(2, 8, 64, (8, 8, 8, 5, 5, 4, 3, 3)),
    dispatch.Machine(2, 8, 64, (8, 8, 8, 5, 5, 4, 3, 3), whole=True),
]
LAYERS = [
    # C_in, C_out, K, stride, padding, output_padding, groups, dilation
    (512, 256, 16, 8, 4, 0, 1, 1),
    (2048, 1024, 20, 10, 5, 0, 1, 1),
    (1026, 1, 1024, 256, 0, 0, 1, 1),
    (512, 512, 12, 2, 5, 0, 512, 1),
    (512, 1, 16, 8, 0, 0, 1, 1),
    (64, 64, 5, 3, 2, 1, 2, 2),
    (1, 1, 10_000, 1, 0, 0, 1, 1),
    (1, 1, 3, 100_000, 0, 0, 1, 1),
    (20_000, 4, 3, 1, 0, 0, 1, 50_000),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("args", LAYERS)
@pytest.mark.parametrize("tile", ["", "1", "100000"])
def test_workspace_stays_under_its_promise(machine, dtype, args, tile, monkeypatch):
    monkeypatch.setenv("CONVT1D_TILE", tile)
    dtype = np.dtype(dtype)
    checked = geometry.check(*args)
    for kernel in dispatch.KERNELS:
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        plan = dispatch.plan(checked, dtype, machine)
        size = dtype.itemsize // plan.parts
        assert max(o * (e1 - e0) for _, o, e0, e1, *_ in plan.blocks) <= plan.column_rows
        ldx = dispatch.leading(plan.widest + (plan.piece_taps - 1) * plan.step)
        tile_of_x = plan.streams * plan.piece_channels * ldx * size
        columns = plan.column_rows * dispatch.leading(plan.widest) * size
        row = 2 * ldx * size if plan.streams > 1 else 0
        assert plan.piece_channels >= 1
        assert tile_of_x + columns + plan.column_rows * (8 + size) + row + 64 * size <= 2 * 1024 * 1024
        for length in (1, 50, 1000, 100_000):
            assert dispatch.tiling(plan, 0, 2, length, checked.output_length(length)).tile <= plan.widest


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("args", LAYERS[:6])
def test_blocks_cover_every_row_once(machine, args, monkeypatch):
    for kernel in dispatch.KERNELS:
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        plan = dispatch.plan(geometry.check(*args), np.dtype("float32"), machine)
        outputs = args[1] // args[6]
        seen = np.zeros((outputs, plan.slots.size), int)
        for o0, width, e0, e1, slot0, slot1, _ in plan.blocks:
            halves = [range(slot0, slot1), range(slot0 + plan.slot_count, slot1 + plan.slot_count)]
            assert sorted(plan.slots[e0:e1]) == [slot for half in halves[: plan.streams // 2 + 1] for slot in half]
            seen[o0 : o0 + width, plan.slots[e0:e1]] += 1
        assert (seen == 1).all()


def test_choice_of_kernel_is_readable():
    choose = dispatch.choose_kernel
    assert choose(channels=512, taps=2, rows=2048, level=2, fusible=True) == "direct"
    assert choose(channels=512, taps=2, rows=2048, level=2, fusible=True, gain=1.3) == "winograd"
    assert choose(channels=512, taps=2, rows=2048, level=0, fusible=True, gain=1.3) == "gemm"
    assert choose(channels=512, taps=2, rows=2048, level=2, fusible=True, gain=1.2, fused_gain=1.3) == "fused_winograd"
    assert choose(channels=512, taps=2, rows=2048, level=2, fusible=True, gain=1.2, fused_gain=1.1) == "winograd"
    assert choose(channels=64, taps=2, rows=64, level=2, fusible=True, gain=1.01, fused_gain=1.05) == "fused"
    assert choose(channels=64, taps=2, rows=64, level=1, fusible=True) == "fused"
    assert choose(channels=64, taps=2, rows=16, level=1, fusible=True, gain=1.01) == "fused"
    assert choose(channels=64, taps=2, rows=50, level=2, fusible=False) == "direct"
    assert choose(channels=512, taps=2, rows=2048, level=0, fusible=True) == "gemm"
    assert choose(channels=1, taps=6, rows=2, level=0, fusible=False) == "direct"


@pytest.mark.parametrize("kernel", dispatch.KERNELS)
@pytest.mark.parametrize(
    ("batch", "c_in", "groups", "c_out", "k", "stride", "length"),
    [
        (70, 12, 12, 12, 8, 2, 90),  # far more items than parts of a share
        (1, 40, 1, 100, 10, 5, 70),  # one tile, whose weight blocks are shared out
        (2, 40, 1, 30, 8, 4, 1500),  # tiles read in place, but for both ends, and their blocks
        (3, 8, 1, 1, 3, 1, 65),  # fewer items than threads
    ],
)
def test_every_item_is_done_once(batch, c_in, groups, c_out, k, stride, length, kernel, monkeypatch):
    """However the threads share them out."""
    monkeypatch.setenv("CONVT1D_KERNEL", kernel)
    monkeypatch.setattr(threads, "SERIAL_SECONDS", 1e-12)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, c_in, length)).astype("float32")
    layer = convt1d.ConvTranspose1d(c_in, c_out, k, stride=stride, groups=groups, dtype="float32", rng=1)
    alone = layer(x, workers=1)
    for workers in (2, 3, 7, 40):
        np.testing.assert_array_equal(layer(x, out=np.full_like(alone, np.nan), workers=workers), alone)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", range(1, 9))
def test_a_single_channel(stride, dtype, monkeypatch):
    """Depthwise sums. Those of a large output go past the caches, wherever in a vector its rows begin: the same bits,
    of integers the definition's, and nothing beside them is written."""
    for seed in range(24):
        rng = np.random.default_rng(seed)
        batch, groups, each = (int(n) for n in rng.integers(1, 4, 3))
        k, padding = int(rng.integers(1, 5 * stride + 2)), int(rng.integers(0, 2 * stride))
        length = int(rng.integers(4, 40) if seed % 2 else rng.integers(200, 5000))
        dilation = seed % 3 + 1 if stride == 1 else 1
        weight = rng.integers(-9, 10, (groups, each, k)).astype(dtype)
        bias = rng.integers(-9, 10, groups * each).astype(dtype)
        given = stride, padding, 0, groups, dilation
        out_length = convt1d.output_length(length, k, stride, padding, 0, dilation)
        size = batch * groups * each * out_length
        room = np.full(size + 32, 7, dtype)
        out = room[seed : seed + size].reshape(batch, groups * each, out_length)
        for x in (
            rng.integers(-9, 10, (batch, groups, length)).astype(dtype),
            rng.standard_normal((batch, groups, length)),
        ):
            x = x.astype(dtype)
            monkeypatch.setattr(memory, "LARGE", 2**40)
            plain = convt1d.conv_transpose1d(x, weight, bias, *given)
            monkeypatch.setattr(memory, "LARGE", 0)
            convt1d.conv_transpose1d(x, weight, bias, *given, out=out, workers=1 + seed % 3)
            np.testing.assert_array_equal(out, plain)
            if length < 100 and (x == x.round()).all():
                np.testing.assert_array_equal(out, naive.conv_transpose1d(x, weight, bias, *given))
        assert (room[:seed] == 7).all()
        assert (room[seed + size :] == 7).all()


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("batch", "c_in", "groups", "c_out", "k", "stride", "dilation", "length"),
    [
        (1, 100, 1, 1, 16, 8, 1, 700),
        (3, 37, 1, 4, 7, 2, 1, 130),  # a last piece, and phases that lack the last tap
        (2, 66, 2, 4, 5, 1, 3, 200),
        (2, 40, 1, 3, 5, 3, 2, 90),
        (70, 20, 1, 2, 4, 2, 1, 9),  # a merged batch
        (1, 17, 1, 1, 1, 1, 1, 5000),
    ],
)
def test_few_channels_at_a_time(batch, c_in, groups, c_out, k, stride, dilation, length, dtype, mode, monkeypatch):
    """What multiplies each sample but a few times is read in pieces of some channels, here of integers."""
    monkeypatch.setenv("CONVT1D_KERNEL", "direct")
    given = geometry.check(c_in, c_out, k, stride, 1, 0, groups, dilation, mode)
    plan = dispatch.plan(given, np.dtype(dtype), MACHINES[2])
    assert plan.kernel == "direct"
    assert 8 <= plan.piece_channels <= 32
    assert plan.piece_channels < plan.channels
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (batch, c_in, length)).astype(dtype)
    w = rng.integers(-9, 10, (c_in, c_out // groups, k)).astype(dtype)
    b = rng.integers(-9, 10, c_out).astype(dtype)
    expected = naive.conv_transpose1d(x, w, b, stride, 1, 0, groups, dilation, mode)
    for workers in (1, 3):
        for read in (x, np.repeat(x, 2, axis=-1)[..., ::2]):
            y = convt1d.conv_transpose1d(read, w, b, stride, 1, 0, groups, dilation, padding_mode=mode, workers=workers)
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize(("c_out", "k", "stride"), [(16, 5, 2), (24, 3, 1), (5, 16, 8)])
@pytest.mark.parametrize("kernel", ["direct", "fused", "winograd", "fused_winograd"])
def test_sums_are_the_same_in_every_column(c_out, k, stride, dtype, kernel, monkeypatch):
    """A last vector may be whole, half, or a few columns along the rows: what precedes it says what it must hold."""
    monkeypatch.setenv("CONVT1D_KERNEL", kernel)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((1, 11, 120)).astype(dtype)
    layer = convt1d.ConvTranspose1d(11, c_out, k, stride=stride, dtype=dtype, rng=1)
    whole = layer(x)
    for length in range(1, 70):
        within = slice(stride * length)  # met by no later sample
        np.testing.assert_array_equal(layer(x[..., :length])[..., within], whole[..., within])


@pytest.mark.parametrize("kernel", ["", "direct", "gemm", "winograd", "fused_winograd"])
@pytest.mark.parametrize(
    ("c_in", "c_out", "k", "stride", "dilation"), [(8, 4, 4, 2, 1), (5, 3, 3, 1, 2), (16, 2, 7, 3, 1), (1, 1, 16, 8, 1)]
)
def test_signals_side_by_side_have_the_bits_of_one_alone(c_in, c_out, k, stride, dilation, kernel, monkeypatch):
    """A batch is one long signal where that saves parts of vectors: lengths around their multiples."""
    monkeypatch.setenv("CONVT1D_KERNEL", kernel)
    plan = dispatch.plan(geometry.check(c_in, c_out, k, stride, 1, 0, 1, dilation), np.dtype("float32"), MACHINES[2])
    rng = np.random.default_rng(0)
    layer = convt1d.ConvTranspose1d(c_in, c_out, k, stride=stride, padding=1, dilation=dilation, rng=0)
    merged = 0
    for length in (65, 79, 80, 96, 97, 128, 129, 255, 256):
        x = rng.standard_normal((5, c_in, length)).astype("float32")
        x[2, 0, -1] = np.inf  # and nothing crosses over
        merged += dispatch.tiling(plan, 1, 5, length, layer.output_length(length)).merged
        np.testing.assert_array_equal(layer(x), [layer(one) for one in x])
    assert (merged > 0) == (plan.kernel != "gemm" and not plan.winograd)


def test_gain_of_winograds_products():
    gain = dispatch.winograd_gain
    assert 1.25 < gain(channels=512, taps=2, full=2048, others=0) < 4 / 3  # three products for four
    assert gain(512, 3, 2048, 0) < 6 / 5  # the odd tap of each slot saves nothing
    assert gain(512, 2, 1024, 1024) < gain(512, 2, 2048, 0)
    assert gain(512, 2, 4, 0) < 1  # few products for each difference
    assert gain(16, 2, 2048, 0) < 1
    assert 1.2 < gain(512, 2, 2048, 0, whole=True) < gain(512, 2, 2048, 0)
    assert gain(64, 2, 64, 0, whole=True) < 1 < gain(64, 2, 64, 0)  # all else takes longer beside faster multiply-adds
    assert gain(128, 3, 128, 0, whole=True) < gain(128, 4, 128, 0, whole=True)
    assert gain(64, 2, 64, 0, True) < gain(64, 2, 64, 0, True, fused_rows=8)  # no sums are kept in between
    assert gain(64, 2, 320, 0, True, fused_rows=5) < gain(64, 2, 320, 0, True, fused_rows=8)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((128, 64, 4, 2), True),
        ((128, 64, 5, 2), False),  # phases of three taps and of two
        ((128, 64, 6, 2), False),  # three taps
        ((128, 64, 32, 16), False),  # more phases than a register block has rows
        ((128, 64, 4, 2, 0, 0, 1, 2), False),  # taps that are not neighbours
        ((2048, 64, 4, 2), False),  # too deep
        ((128, 1, 4, 2), False),  # too few products for each difference
    ],
)
def test_where_winograds_products_are_fused(args, expected):
    plan = dispatch.plan(geometry.check(*args), np.dtype("float32"), MACHINES[2])
    assert (plan.kernel == "fused_winograd") == (plan.fused and plan.winograd) == expected
    for machine in MACHINES[:2]:
        plan = dispatch.plan(geometry.check(*args), np.dtype("float32"), machine)
        assert plan.kernel != "fused_winograd"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("k", "stride"), [(4, 2), (16, 8), (7, 1), (11, 4), (3, 1)])
def test_winograds_products_are_about_as_precise(k, stride, dtype, monkeypatch):
    """Of the root mean square, and of the largest, against sums in a higher precision."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 64, 200)), rng.standard_normal((64, 16, k))
    x, w = x.astype(dtype), w.astype(dtype)
    exact = naive.conv_transpose1d(x.astype(np.longdouble), w.astype(np.longdouble), None, stride)
    errors = {}
    for kernel in ("direct", "winograd", "fused_winograd"):
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        error = np.abs(convt1d.conv_transpose1d(x, w, stride=stride) - exact)
        errors[kernel] = np.array([np.sqrt((error**2).mean()), error.max()])
    for kernel in ("winograd", "fused_winograd"):
        assert (errors[kernel] > 0).all()
        assert (errors[kernel] < 2.5 * errors["direct"]).all(), errors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_differences_do_not_overflow_where_samples_do_not(dtype, monkeypatch):
    """A tile whose numbers are too large to be squared is multiplied tap by tap, as are all with such weights."""
    huge = np.finfo(dtype).max
    results = {}
    for kernel in ("direct", "winograd", "fused_winograd"):
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        x = np.ones((1, 8, 300), dtype)
        w = np.full((8, 3, 4), 0.01, dtype)
        x[0, 2, 100], x[0, 2, 101], x[0, 3, 131] = huge, -huge, np.inf
        results[kernel] = [convt1d.conv_transpose1d(x, w, stride=2)]
        x[0, 2:4, 100:132], w[1, 1, 0], w[1, 2, 2] = 0.01, huge, -huge
        results[kernel].append(convt1d.conv_transpose1d(x, w, stride=2))
    for direct, winograd in zip(2 * results["direct"], results["winograd"] + results["fused_winograd"], strict=True):
        np.testing.assert_array_equal(np.isfinite(winograd), np.isfinite(direct))
        np.testing.assert_allclose(winograd, direct, rtol=1e-5)
        assert np.abs(winograd[np.isfinite(winograd)]).max() > huge / 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("CONVT1D_KERNEL", "fft"), ("CONVT1D_TILE", "0"), ("CONVT1D_TILE", "-1"), ("CONVT1D_TILE", "wide")],
)
def test_bad_forced_choice_is_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        convt1d.conv_transpose1d(np.ones((1, 4)), np.ones((1, 1, 2)))


EVERY_LEVEL = """
import json, sys, numpy as np, convt1d
from convt1d.cpu import _runtime
assert _runtime.machine().level <= int(sys.argv[2])
folder = sys.argv[1]
cases = json.load(open(folder + "/cases.json"))
with np.load(folder + "/vectors.npz") as file:
    arrays = dict(file)
for case in cases:
    a = {name: arrays[f"{case['id']:03d}_{name}"] for name in case["arrays"]}
    for dtype in ("complex64", "complex128") if case["complex"] else ("float32", "float64"):
        p = case["padding"]
        y = convt1d.conv_transpose1d(
            a["x"].astype(dtype), a["w"].astype(dtype), a["b"].astype(dtype) if case["bias"] else None,
            case["stride"], tuple(p) if isinstance(p, list) else p, case["output_padding"], case["groups"],
            case["dilation"], padding_mode=case["padding_mode"])
        assert np.array_equal(y, a["y"]), (case["id"], dtype)
print("all", len(cases))
"""


@pytest.mark.parametrize("level", ["0", "1", "2"])
@pytest.mark.parametrize("kernel", dispatch.KERNELS)
def test_vectors_at_every_simd_level(level, kernel):
    """The level is chosen when the extension is loaded, so each has a process of its own."""
    env = dict(os.environ, CONVT1D_SIMD=level, CONVT1D_KERNEL=kernel)
    run = subprocess.run(
        [sys.executable, "-c", EVERY_LEVEL, str(HERE / "data"), level], env=env, capture_output=True, text=True
    )
    assert run.stdout.startswith("all 524"), run.stderr


def test_bad_simd_level_is_refused():
    code = "import convt1d.cpu._runtime"
    env = dict(os.environ, CONVT1D_SIMD="9")
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "CONVT1D_SIMD must be 0, 1 or 2, got '9'" in run.stderr


def test_workspaces_are_kept_and_released():
    layer = convt1d.ConvTranspose1d(64, 64, 8, stride=4, rng=0)
    x = np.ones((2, 64, 4000), np.float32)
    y = layer(x, workers=2)
    assert 1 <= threads.release_workspaces() <= 64
    assert threads.release_workspaces() == 0
    np.testing.assert_array_equal(layer(x, workers=2), y)


def test_absurd_number_of_workers_is_harmless():
    layer = convt1d.ConvTranspose1d(256, 256, 16, stride=8, rng=0)
    x = np.ones((256, 50), np.float32)
    np.testing.assert_array_equal(layer(x, workers=10**30), layer(x, workers=1))


def test_small_work_stays_on_one_thread(monkeypatch):
    monkeypatch.setattr(threads, "_alone_until", 0.0)  # a disturbed call before this one may have set it
    assert threads.paying(1000, 1000, 8) == 1
    assert threads.paying(10**9, 10**6, 8) == 8
    assert threads.paying(10**9, 10**6, 1) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fork_after_parallel_packing():
    """Packing large weights starts threads too, even if the call itself is small."""
    code = """
import os, numpy as np, convt1d
layer = convt1d.ConvTranspose1d(256, 256, 16, stride=8, rng=0)
layer(np.ones((256, 1), np.float32), workers=2)
pid = os.fork()
if pid == 0:
    layer(np.ones((4, 256, 400), np.float32), workers=2)
    os._exit(0)
print(os.waitpid(pid, 0)[1])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "0\n", run.stderr


def test_import_is_light():
    """SciPy's BLAS takes 0.15 s to import: not before the first call."""
    code = "import sys, convt1d; print([m for m in ('scipy.linalg', 'cupy', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


@pytest.mark.parametrize("module", [_correlate, _runtime, _tiles])
def test_stub_names_what_the_extension_has(module):
    stub = ast.parse((Path(convt1d.__file__).parent / "cpu" / f"{module.__name__.split('.')[-1]}.pyi").read_text())
    named = {node.name for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert named == public


def test_benchmark_layers_are_well_formed():
    text = json.loads((HERE.parent / "bench" / "layers.json").read_text())
    for name, _, c_in, c_out, k, s, p, op, d, g, length in text["layers"]:
        checked = geometry.check(c_in, c_out, k, s, p, op, g, d)
        assert checked.checked_output_length(length) >= 1, name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM from /proc")
def test_peak_memory_is_the_output_and_little_more(beyond_output):
    """A column buffer of the whole signal would be 339 MB more."""
    assert beyond_output(channels_last=False) < 16 * 1024 * 1024


INCOMPATIBLE_BLAS = """
import ctypes, sys, types
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
name = b"void (char *, char *, int64_t *)"
blas = types.ModuleType("scipy.linalg.cython_blas")
blas.__pyx_capi__ = {f: new(1, name, None) for f in ("sgemm", "dgemm")}
sys.modules["scipy.linalg.cython_blas"] = blas
import numpy as np, convt1d
try:
    convt1d.conv_transpose1d(np.ones((1, 4)), np.ones((1, 1, 2)))
except ImportError as error:
    print(error)
"""


def test_incompatible_blas_is_refused_in_words():
    """A SciPy built with 64-bit integers: Cython notices by the functions' signatures."""
    run = subprocess.run([sys.executable, "-c", INCOMPATIBLE_BLAS], capture_output=True, text=True)
    assert "interface of 32-bit integers (LP64), but SciPy" in run.stdout, run.stderr
    assert "wrong signature" in run.stdout
