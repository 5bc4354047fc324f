# SPDX-License-Identifier: MIT
"""Each kernel and instruction set in turn."""

import os
import subprocess
import sys
from pathlib import Path

import machines
import naive
import numpy as np
import pytest

import convt1d
from convt1d import geometry, memory
from convt1d.cpu import kernels
from convt1d.cpu.problem import problem_of

HERE = Path(__file__).parents[1]


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
    chosen = kernels.choose(problem_of(given, np.dtype(dtype)), machines.ZEN4)
    assert chosen.kernel == "direct"
    assert 8 <= chosen.packing.piece_channels <= 32
    assert chosen.packing.piece_channels < chosen.problem.channels
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (batch, c_in, length)).astype(dtype)
    w = rng.integers(-9, 10, (c_in, c_out // groups, k)).astype(dtype)
    b = rng.integers(-9, 10, c_out).astype(dtype)
    expected = naive.conv_transpose1d(x, w, b, stride, 1, 0, groups, dilation, mode)
    for workers in (1, 3):
        for read in (x, np.repeat(x, 2, axis=-1)[..., ::2]):
            y = convt1d.conv_transpose1d(read, w, b, stride, 1, 0, groups, dilation, padding_mode=mode, workers=workers)
            np.testing.assert_array_equal(y, expected)


EVERY_LEVEL = """
import json, sys, numpy as np, convt1d
from convt1d.cpu import _runtime
assert _runtime.machine().instruction_set in _runtime.INSTRUCTION_SETS[: int(sys.argv[2]) + 1]
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


@pytest.mark.slow
@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_residue_classes_on_every_instruction_set(level):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "residue_classes", str(HERE / "test_convolution.py")]
    run = subprocess.run(command, env=dict(os.environ, CONVT1D_SIMD=level), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("level", ["0", "1", "2"])
@pytest.mark.parametrize("kernel", kernels.names())
def test_vectors_on_every_instruction_set(level, kernel):
    """The set is chosen when the extension is loaded, so each has a process of its own."""
    env = dict(os.environ, CONVT1D_SIMD=level, CONVT1D_KERNEL=kernel)
    run = subprocess.run(
        [sys.executable, "-c", EVERY_LEVEL, str(HERE / "data"), level], env=env, capture_output=True, text=True
    )
    assert run.stdout.startswith("all 524"), run.stderr
