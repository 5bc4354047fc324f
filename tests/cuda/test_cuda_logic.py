# SPDX-License-Identifier: MIT
"""The GPU path's logic on the CPU: the kernels' source through g++, and every program that would be launched.

All of convt1d.cuda runs but CuPy itself (tests/cuda/cuda_fake.py, cuda_shim.h). That the source compiles for a GPU is
test_cuda_compiles.py's matter; speed, memory and races on a GPU are test_cuda_gpu.py's.
"""

import functools
import itertools
import json
import pathlib
import re
import subprocess
import sys
import types

import cuda_fake
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d
from convt1d import arrays, geometry
from convt1d.cuda import PRECISIONS, backend, interchange, policy, tuning
from convt1d.cuda.kernels import columns, direct, fused, rows
from convt1d.cuda.operator import DeviceOperator
from convt1d.cuda.problem import Call, Problem
from convt1d.cuda.program import BATCH, THREADS, Launch, Product, program

pytestmark = pytest.mark.skipif(cuda_fake.compiler() is None, reason="g++ is missing: it compiles the kernels here")

DTYPES = cuda_fake.DTYPES
NAMES = [kernel.NAME for kernel in reversed(policy.KERNELS)]
KERNELS = (None, *NAMES)
SMALL = 6000  # bytes of workspace: pieces of a few columns


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """The kernels of each type, compiled when they are first asked for."""
    folder = tmp_path_factory.mktemp("cuda")
    sanitize = cuda_fake.sanitizer_works(folder)
    return functools.cache(lambda number: cuda_fake.build(folder, number, sanitize))


@pytest.fixture
def fake(libraries):
    return cuda_fake.Fake(libraries)


@pytest.fixture(autouse=True)
def no_undefined_behaviour(capfd):
    """UBSan reports on stderr."""
    yield
    assert "runtime error" not in capfd.readouterr().err


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("CONVT1D_CUDA_KERNEL", "CONVT1D_CUDA_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)


def force(patch, kernel=None, workspace=None):
    for name, value in (("KERNEL", kernel), ("WORKSPACE", workspace)):
        patch.setenv(f"CONVT1D_CUDA_{name}", "" if value is None else str(value))


def device_operator(weight, bias, given):
    names = ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode")
    c_in, per_group, kernel_size = weight.shape
    checked = geometry.check(c_in, per_group * given["groups"], kernel_size, *(given[name] for name in names))
    return DeviceOperator(checked, weight, bias)


def compute(fake, x, weight, bias, given, **options):
    y = device_operator(weight, bias, given)(fake, fake.array(x), **options)
    fake.check_and_free()
    return np.asarray(y)


def cast(dtype, x, w, b):
    """Arguments in a type; the bias in the type of the sums, so that only one rounding is left."""
    summed = arrays.compute_dtype(dtype)
    return x.astype(dtype), w.astype(dtype), None if b is None else b.astype(summed)


# --- every stored case ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "workspace"),
    [
        *((kernel, None) for kernel in KERNELS),
        (None, SMALL),
        *(pytest.param(k, SMALL, marks=pytest.mark.slow) for k in KERNELS[2:]),
    ],
)
def test_vectors(fake, cases, monkeypatch, kernel, workspace):
    force(monkeypatch, kernel, workspace)
    wrong = []
    for case in cases:
        dtype = DTYPES["complex64" if case.y.dtype.kind == "c" else "float32"]
        y = compute(fake, *cast(dtype, case.x, case.w, case.b), case.geometry)
        if y.dtype != dtype or y.shape != case.y.shape or not np.array_equal(y, case.y):
            wrong.append(case.id)
    assert wrong == []
    used = set(fake.log)
    if workspace == SMALL and kernel == "columns":
        assert "extend" in used
    if kernel is None:
        assert used >= {"direct4", "direct8", "direct16", "interleave", "product"}


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16", "complex128"])
def test_vectors_in_other_types(fake, cases, monkeypatch, name, kernel):
    """The half types sum in float32, exactly for these integers, and round once."""
    force(monkeypatch, kernel)
    dtype = DTYPES[name]
    chosen = [case for case in cases if (case.y.dtype.kind == "c") == (dtype.kind == "c")]
    for case in chosen[:: 2 if dtype.kind == "c" else 16]:
        y = compute(fake, *cast(dtype, case.x, case.w, case.b), case.geometry)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, case.y.astype(dtype), err_msg=str(case.id))


@settings(max_examples=100)
@given(
    problem=naive.problems(),
    kernel=st.sampled_from(KERNELS),
    workspace=st.sampled_from([None, SMALL, 20_000]),
    grid=st.sampled_from([1, 3, 2**31 - 1]),
    seed=st.integers(0, 3),
)
def test_naive_oracle(libraries, problem, kernel, workspace, grid, seed):
    """Grids smaller than the number of blocks stand for numbers of blocks beyond any grid."""
    fake = cuda_fake.Fake(libraries)
    fake.grid, fake.seed = grid, seed
    dtype = DTYPES["complex64" if problem.x.dtype.kind == "c" else "float32"]
    with pytest.MonkeyPatch.context() as patch:
        force(patch, kernel, workspace)
        y = compute(fake, *cast(dtype, problem.x, problem.w, problem.b), problem.geometry)
    s, p, op, g, d, mode = problem.geometry.values()
    np.testing.assert_array_equal(y, naive.conv_transpose1d(problem.x, problem.w, problem.b, s, p, op, g, d, mode))


# C_in, C_out, K, L: what is large in each is what some tile has to cut.
LARGE = {
    "stride": ((2, 3, 700, 9), {"stride": 300, "padding": 33}),
    "stride-beyond-K": ((2, 3, 70, 12), {"stride": 90, "padding": (3, 0), "output_padding": 89}),
    "taps": ((3, 2, 700, 90), {"padding": 350}),
    "dilation": ((2, 2, 40, 600), {"dilation": 130, "padding": (2400, 2200)}),
    "dilation-beyond-L": ((2, 2, 9, 50), {"stride": 6, "dilation": 1000, "padding": 3500}),
    "crop": ((2, 2, 5, 900), {"stride": 2, "padding": (850, 880)}),
    "inputs": ((200, 3, 4, 9), {"stride": 2}),
    "outputs": ((3, 200, 4, 70), {"stride": 2, "padding": 1}),
    "grouped": ((30, 20, 3, 40), {"groups": 10, "dilation": 2, "padding": 2}),
    "length": ((2, 1, 4, 5000), {"stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("name", LARGE)
def test_large(fake, monkeypatch, name, mode):
    (c_in, c_out, kernel_size, length), given = LARGE[name]
    given = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1} | given
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, c_in, length)).astype(np.float32)
    w = rng.integers(-3, 4, (c_in, c_out // given["groups"], kernel_size)).astype(np.float32)
    kernels = []
    expected = convt1d.conv_transpose1d(x, w, **given, padding_mode=mode)  # of the CPU's kernels
    for kernel, workspace in itertools.product(KERNELS, (None, 200_000)):
        force(monkeypatch, kernel, workspace)
        y = compute(fake, x, w, None, given | {"padding_mode": mode})
        np.testing.assert_array_equal(y, expected, err_msg=f"kernel {kernel}")
        kernels += fake.log


# --- what must hold of every result --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("kernel", NAMES)
def test_order_of_threads_and_blocks_does_not_matter(fake, monkeypatch, kernel, name):
    """To the last bit: in whatever order they run, no thread reads what another has yet to write."""
    force(monkeypatch, kernel, 60_000)
    rng, dtype = np.random.default_rng(0), DTYPES[name]
    for (c_in, c_out, kernel_size, length), options in [
        ((40, 35, 7, 90), {"stride": 3, "padding": 2, "padding_mode": "reflect"}),
        ((3, 3, 9, 700), {"stride": 2, "groups": 3, "padding_mode": "circular"}),
    ]:
        options = {"padding": 0, "output_padding": 0, "groups": 1, "dilation": 1} | options
        x = rng.standard_normal((2, c_in, length))
        w = rng.standard_normal((c_in, c_out // options["groups"], kernel_size))
        if dtype.kind == "c":
            x, w = x * (1 + 0.3j), w * (0.2 - 1j)
        x, w, b = cast(dtype, x, w, rng.standard_normal(c_out))
        results = []
        for fake.grid, fake.seed in ((2**31 - 1, 0), (2**31 - 1, 1), (2**31 - 1, 2), (2, 0), (2, 3)):
            results.append(compute(fake, x, w, b, options))  # a grid of two: blocks use shared memory again
        for other in results[1:]:
            np.testing.assert_array_equal(other.view(np.uint8), results[0].view(np.uint8))


@settings(max_examples=60)
@given(
    problem=naive.problems(kinds="f"),
    kernel=st.sampled_from(KERNELS),
    workspace=st.sampled_from([None, SMALL]),
    seed=st.integers(0, 2**32),
    precision=st.sampled_from(PRECISIONS),
)
def test_nan_and_inf_reach_what_the_definition_says(libraries, problem, kernel, workspace, seed, precision):
    """No more and no less, as on the CPU: through zero weights too, and through the extension of the signal."""
    rng = np.random.default_rng(seed)
    x, w = problem.x.astype(np.float32), (problem.w * rng.integers(0, 2, problem.w.shape)).astype(np.float32)
    x.flat[rng.integers(0, x.size, rng.integers(1, 4))] = rng.choice([np.nan, np.inf, -np.inf])
    s, p, op, g, d, mode = problem.geometry.values()
    with np.errstate(invalid="ignore"):
        expected = naive.conv_transpose1d(x, w, None, s, p, op, g, d, mode)
    with pytest.MonkeyPatch.context() as patch:
        force(patch, kernel, workspace)
        y = compute(cuda_fake.Fake(libraries), x, w, None, problem.geometry, precision=precision)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", DTYPES)
def test_close_to_float64(fake, monkeypatch, name):
    """Fractions, whose products the half types cannot hold: summed in float32, rounded once."""
    dtype, rng = DTYPES[name], np.random.default_rng(0)
    given = {"stride": 4, "padding": 2, "output_padding": 1, "groups": 1, "dilation": 1, "padding_mode": "replicate"}
    x, w, b = cast(dtype, *(rng.standard_normal(shape) for shape in ((2, 60, 40), (60, 10, 8), (10,))))
    wide = complex if dtype.kind == "c" else float
    expected = convt1d.conv_transpose1d(x.astype(wide), w.astype(wide), b.astype(wide), **given)
    single = {"float64": 1e-13, "complex128": 1e-13}.get(name, 1e-6)
    rounding = {"float16": 2**-11, "bfloat16": 2**-8}.get(name, 0)
    for kernel in NAMES:
        force(monkeypatch, kernel)
        y = compute(fake, x, w, b, given).astype(wide)
        assert np.all(np.abs(y - expected) <= rounding * np.abs(expected) + single * np.abs(expected).max()), kernel


@pytest.mark.slow
def test_half_types_round_as_numpy_does(fake):
    """Load and store, through a kernel of one tap: all halves there and back; and ties, subnormals, inf and NaN."""
    given = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1, "padding_mode": "zeros"}
    bits = np.arange(2**16, dtype=np.uint16)
    near = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    edges = np.array([65519.9, 65520, 2**-24, 2**-25, 3 * 2**-25, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 0], np.float32)
    for name in ("float16", "bfloat16"):
        dtype = DTYPES[name]
        one = np.ones((1, 1, 1), dtype)
        values = bits.view(dtype)
        y = compute(fake, values.reshape(1, -1), one, None, given)[0]
        with np.errstate(invalid="ignore"):
            nan = np.isnan(values)
            np.testing.assert_array_equal(y[~nan], values[~nan])
            assert np.isnan(y[nan]).all()
        # a bias is float32: x = 0 leaves it to be rounded
        bias = np.concatenate([near, edges, -edges])
        zeros, weight = np.zeros((len(bias), 1), dtype), np.ones((len(bias), 1, 1), dtype)
        y = compute(fake, zeros, weight, bias, given | {"groups": len(bias)})[:, 0]
        with np.errstate(over="ignore", invalid="ignore"):
            np.testing.assert_array_equal(y.astype(float), bias.astype(dtype).astype(float))


@pytest.mark.parametrize("kernel", NAMES)
def test_presentation(fake, monkeypatch, kernel):
    """Unbatched, strided, of another type, misaligned, empty; into `out`."""
    force(monkeypatch, kernel)
    given = {"stride": 2, "padding": 1, "output_padding": 0, "groups": 1, "dilation": 1, "padding_mode": "reflect"}
    rng = np.random.default_rng(0)
    x, w, b = rng.integers(-4, 5, (3, 4, 9)).astype(np.float32), rng.integers(-4, 5, (4, 5, 6)).astype(np.float32), None
    expected = convt1d.conv_transpose1d(x, w, b, **given)
    operator = device_operator(w, b, given)
    wide = fake.array(np.repeat(x, 2, axis=-1))
    shifted = fake.empty((x.nbytes + 2,), np.uint8)[2:].view(np.float32).reshape(x.shape)
    shifted[...] = x
    for same in (wide[..., ::2], fake.array(x.astype(np.int8)), fake.array(x.astype(np.float16)), shifted):
        np.testing.assert_array_equal(operator(fake, same), expected)
    np.testing.assert_array_equal(operator(fake, fake.array(x[1])), expected[1])
    assert operator(fake, fake.array(x[:0])).shape == (0, *expected.shape[1:])
    out = fake.empty(expected.shape, np.float32)
    assert operator(fake, fake.array(x), out=out) is out
    np.testing.assert_array_equal(out, expected)
    in_double = operator(fake, fake.array(x.astype(float)))
    assert in_double.dtype == float
    np.testing.assert_array_equal(in_double, expected)
    size = expected.shape[-1] + 1
    np.testing.assert_array_equal(
        operator(fake, fake.array(x), output_size=size),
        convt1d.conv_transpose1d(x, w, b, **given | {"output_padding": 1}),
    )
    fake.check_and_free()


@pytest.mark.parametrize(
    ("channels", "kernel_size", "length", "given"),
    [
        (2, 700, 40, {"stride": 300, "padding": 150}),  # a second block of phases, most of whose threads have none
        (3, 9, 300, {"stride": 3, "padding": (4, 1), "padding_mode": "reflect"}),  # 256 threads are no multiple of 3
        (2, 5, 2100, {"dilation": 700, "padding_mode": "circular"}),  # reaches further back than shared memory holds
        (2, 12, 2500, {"stride": 2, "padding": 5}),  # more steps than wait there at a time
    ],
)
@pytest.mark.parametrize("blocks", [tuning.DIRECT_BLOCKS, 1])
def test_direct_of_single_channels(fake, monkeypatch, channels, kernel_size, length, given, blocks):
    """Also where there are so many rows that a block takes many steps of each."""
    monkeypatch.setattr(tuning, "DIRECT_BLOCKS", blocks)
    given = PLAIN | given | {"groups": channels}
    x, w, b = integers((2, channels, channels, kernel_size, length), channels)
    expected = convt1d.conv_transpose1d(x, w, b, **given)
    for fake.seed in range(4):
        np.testing.assert_array_equal(compute(fake, x, w, b, given), expected)
    assert all(kernel.startswith("direct") and kernel != "direct" for kernel in fake.log)


def chosen(checked, dtype, precision="float32", length=None, capability=90):
    """The kernel's name."""
    return policy.choose(Problem(checked, DTYPES[dtype], precision, length, capability)).NAME


def programmed(checked, dtype, kernel, batch, length, precision="float32", capability=90):
    """The program of a call of the whole output."""
    problem = Problem(checked, DTYPES[dtype], precision, length, capability)
    return program(kernel, Call(problem, batch, length, checked.window(length)))


# --- the fused kernel ----------------------------------------------------------------------------------------------

# N, C_in, C_out, K, L: more than one tile, step or split in each direction, and lengths that no piece divides.
PLAIN = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1, "padding_mode": "zeros"}
TILES = {
    "times": ((2, 18, 9, 4, 201), {"stride": 2, "padding": 1}),
    "samples": ((9, 17, 5, 5, 31), {"stride": 3, "padding": (4, 1), "padding_mode": "reflect"}),
    "outputs": ((1, 16, 150, 3, 20), {"stride": 2, "output_padding": 1}),
    "branches": ((2, 3, 2, 300, 9), {"stride": 200, "padding": 77, "padding_mode": "replicate"}),
    "branches without taps": ((1, 3, 2, 70, 6), {"stride": 150, "padding": 3, "output_padding": 8}),
    "splits": ((1, 200, 6, 8, 40), {"stride": 4, "padding": 2, "padding_mode": "circular"}),
    "splits of two": ((1, 90, 1, 300, 5), {"stride": 140}),
    "groups": ((2, 66, 69, 6, 40), {"groups": 3, "stride": 2, "padding": (5, 2)}),
    "taps": ((2, 4, 70, 33, 100), {"padding": 16, "padding_mode": "circular"}),
    # tiles that lie inside a sample, whose slabs are read 16 bytes at a time
    "inside": ((2, 18, 9, 6, 480), {"stride": 2, "padding": 1}),
    "inside, many taps": ((1, 5, 3, 27, 536), {"padding": 3}),
    "inside, of odd length": ((1, 35, 9, 4, 431), {"stride": 2, "padding": 3, "padding_mode": "reflect"}),
}
KINDS = [*(("float32", precision) for precision in PRECISIONS), ("float16", "float32"), ("bfloat16", "float32")]


def integers(shapes, groups, seed=0):
    """x, weight and bias, whose products and sums every kind holds exactly; the half types round the result."""
    n, c_in, c_out, kernel_size, length = shapes
    rng = np.random.default_rng(seed)
    shapes = (n, c_in, length), (c_in, c_out // groups, kernel_size), (c_out,)
    return [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_fused_vectors(fake, cases, monkeypatch, precision):
    """All cases that `fused` computes, as test_vectors has them in float32."""
    force(monkeypatch, "fused")
    fake.capability = 80  # where all precisions are used
    wrong, some = [], 0
    for case in cases:
        if case.y.dtype.kind == "c" or case.geometry["dilation"] > 1:
            continue
        y = compute(fake, *cast(DTYPES["float32"], case.x, case.w, case.b), case.geometry, precision=precision)
        some += 1
        if not np.array_equal(y, case.y):
            wrong.append(case.id)
    assert wrong == []
    assert some > 100
    assert set(fake.log) <= {f"fused64_{precision}", f"fused128_{precision}", "reduce"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
@pytest.mark.parametrize("name", TILES)
def test_fused_tiles(fake, monkeypatch, name, kind):
    """On every architecture's stages, and with copies that arrive early and late."""
    shapes, given = TILES[name]
    given, (dtype, precision) = PLAIN | given, kind
    x, w, b = cast(DTYPES[dtype], *integers(shapes, given["groups"]))
    expected = convt1d.conv_transpose1d(x, w, b, **given)
    force(monkeypatch, "fused")
    for fake.capability, fake.seed, fake.grid in ((80, 0, 2**31 - 1), (86, 1, 3), (80, 2, 1), (86, 4, 2)):
        np.testing.assert_array_equal(compute(fake, x, w, b, given, precision=precision), expected)
    assert ("reduce" in fake.log) == ("splits" in name)
    assert all(kernel.startswith(("fused", "reduce")) for kernel in fake.log)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
@pytest.mark.parametrize("offset", [1, 4, 7])
def test_fused_input_off_a_boundary(fake, monkeypatch, kind, offset):
    """A contiguous x that begins anywhere."""
    (n, c_in, c_out, kernel_size, length), given = TILES["inside"]
    dtype, precision = DTYPES[kind[0]], kind[1]
    x, w, b = cast(dtype, *integers((n, c_in, c_out, kernel_size, length), 1))
    expected = convt1d.conv_transpose1d(x, w, b, **given)
    force(monkeypatch, "fused")
    memory = fake.array(np.concatenate([np.zeros(offset, dtype), x.ravel()]))
    y = convt1d.conv_transpose1d(
        memory[offset:].reshape(x.shape), fake.array(w), fake.array(b), **given, precision=precision
    )
    np.testing.assert_array_equal(y, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_fused_order_does_not_matter(fake, monkeypatch, kind):
    """To the last bit, of fractions, as above."""
    force(monkeypatch, "fused")
    fake.capability = 80
    dtype, precision = kind
    rng = np.random.default_rng(0)
    for (n, c_in, c_out, kernel_size, length), options in (
        ((2, 40, 35, 7, 90), {"stride": 3, "padding": 2, "padding_mode": "reflect"}),
        ((1, 130, 20, 8, 60), {"stride": 4, "padding": 2}),  # split
    ):
        shapes = (n, c_in, length), (c_in, c_out, kernel_size), (c_out,)
        x, w, b = cast(DTYPES[dtype], *(rng.standard_normal(shape) for shape in shapes))
        results = []
        for fake.grid, fake.seed in ((2**31 - 1, 0), (2**31 - 1, 1), (2**31 - 1, 2), (2, 3), (2, 4), (1, 7)):
            results.append(compute(fake, x, w, b, PLAIN | options, precision=precision))
        for other in results[1:]:
            np.testing.assert_array_equal(other.view(np.uint8), results[0].view(np.uint8))
    assert "reduce" in fake.log


@settings(max_examples=100)
@given(
    problem=naive.problems(kinds="f"),
    kind=st.sampled_from(KINDS),
    capability=st.sampled_from([75, 80, 86, 90]),
    grid=st.sampled_from([1, 2**31 - 1]),
    seed=st.integers(0, 5),
)
def test_fused_naive_oracle(libraries, problem, kind, capability, grid, seed):
    fake = cuda_fake.Fake(libraries)
    fake.grid, fake.seed, fake.capability = grid, seed, capability
    dtype, precision = DTYPES[kind[0]], kind[1]
    with pytest.MonkeyPatch.context() as patch:
        force(patch, "fused")
        y = compute(fake, *cast(dtype, problem.x, problem.w, problem.b), problem.geometry, precision=precision)
    s, p, op, g, d, mode = problem.geometry.values()
    expected = naive.conv_transpose1d(problem.x, problem.w, problem.b, s, p, op, g, d, mode)
    np.testing.assert_array_equal(y, expected.astype(dtype))
    if d == 1:
        assert {k.startswith("fused") for k in fake.log} == {dtype.name != "bfloat16" or capability >= 80}
        assert capability >= 80 or not any("tf32" in kernel for kernel in fake.log)


def test_precision_of_the_fused_kernel(fake, monkeypatch):
    """Against float64: TF32 shows its 10 bits; three products of it are as good as float32."""
    torch = pytest.importorskip("torch")
    force(monkeypatch, "fused")
    fake.capability = 80
    rng = np.random.default_rng(0)
    for (c_in, c_out, kernel_size, length), options in (
        ((96, 70, 4, 140), {"stride": 2, "padding": 1}),
        ((1024, 8, 20, 20), {"stride": 10, "padding": 5}),
    ):
        x = rng.standard_normal((1, c_in, length)).astype(np.float32)
        w = rng.standard_normal((c_in, c_out, kernel_size)).astype(np.float32)
        expected = convt1d.conv_transpose1d(x.astype(float), w.astype(float), **options)
        scale = np.abs(expected).max()
        of_torch = torch.nn.functional.conv_transpose1d(torch.tensor(x), torch.tensor(w), **options).numpy()
        bound = 2 * np.abs(of_torch - expected).max()
        error = {}
        for precision in PRECISIONS:
            y = compute(fake, x, w, None, PLAIN | options, precision=precision)
            error[precision] = np.abs(y - expected).max()
        assert error["float32"] <= bound
        assert error["3xtf32"] <= bound
        assert 1e-5 * scale < error["tf32"] < 1e-3 * scale


def test_3xtf32_takes_extremes(fake, monkeypatch):
    """What TF32 cannot hold, NaN whose lowest bits alone are set, and infinity times what has no rest."""
    force(monkeypatch, "fused")
    fake.capability = 80
    x = np.array([[1 + 2**-23, -3e38, 1e-30, np.inf, -np.inf, 0]], np.float32)
    x = np.concatenate([x, np.array([[0x7F800001]], np.uint32).view(np.float32)], axis=1)
    for weight in (2.0, -1.0, 1 / 3):
        w = np.array([[[weight]]], np.float32)
        y = compute(fake, x, w, None, PLAIN, precision="3xtf32")
        with np.errstate(over="ignore", invalid="ignore"):
            np.testing.assert_allclose(y, x * w[0, 0, 0], rtol=2**-22)


def test_weights_are_rounded_to_tf32():
    """To nearest, ties away from zero; NaN stays NaN, whichever bits say so."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1000).astype(np.float32) * np.float32(10) ** rng.integers(-30, 30, 1000)
    values = np.concatenate([values, [0, 1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, np.inf, -np.inf]]).astype("f4")
    rounded = fused.rounded_to_tf32(values.view(np.uint32)).view(np.float32)
    mantissa, exponent = np.frexp(values.astype(float))
    expected = np.where(
        np.isfinite(values), np.ldexp(np.trunc(mantissa * 2**11 + np.copysign(0.5, values)), exponent - 11), values
    )
    np.testing.assert_array_equal(rounded, expected)
    nan = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7FC00000, 0xFFFFFFFF], np.uint32)
    assert np.isnan(fused.rounded_to_tf32(nan).view(np.float32)).all()
    assert fused.rounded_to_tf32(np.array([0x7F7FFFFF], np.uint32)) == 0x7F800000  # beyond the largest


@pytest.mark.parametrize("stride", [1, 2, 3, 8, 10, 63, 64, 65, 100, 128, 129, 256, 1000])
@pytest.mark.parametrize("outputs", [1, 5, 64, 100])
def test_rows_of_the_fused_kernel(stride, outputs):
    """Each output channel and branch has one row in one tile, with its number of taps."""
    for kernel_size in (1, stride, stride + 1, 2 * stride - 1, 2 * stride, 3 * stride + stride // 2):
        checked = geometry.check(2, 2 * outputs, kernel_size, stride, 0, 0, 2)
        branches, found = geometry.branches(checked), {}
        for part in fused.rows_of(checked):
            whole = geometry.ceil_div(part.outputs * part.long, 16)
            less = geometry.ceil_div(part.outputs * (part.chunk - part.long), 16)
            assert 16 * (whole + less) <= part.tile
            assert part.long == part.chunk or part.chunk == part.branches == stride
            for o0 in range(0, outputs, part.outputs):
                for r0 in range(0, part.branches, part.chunk):
                    for o in range(o0, min(o0 + part.outputs, outputs)):
                        for r in range(r0, min(r0 + part.chunk, part.branches)):
                            assert (o, part.branch0 + r) not in found
                            found[o, part.branch0 + r] = part.taps - (r - r0 >= part.long)
        taps = {(o, r): branches.taps_of(r) if r < branches.count else 0 for o in range(outputs) for r in range(stride)}
        assert found == taps


def test_splits_of_the_fused_kernel(monkeypatch):
    """Where tiles alone leave most of a GPU idle, and no further than steps and workspace go."""

    def splits(tiles, channel_blocks):
        checked = geometry.check(channel_blocks * fused.STEP_CHANNELS, 1, 4, 2)  # two taps to a branch
        return fused.splits_of(Problem(checked, DTYPES["float32"]), tiles, 1000)

    assert splits(133, 64) == 1
    assert splits(32, 32) == 8
    assert splits(1, 4) == 1
    assert splits(1, 64) == 16
    monkeypatch.setenv("CONVT1D_CUDA_WORKSPACE", "3500")
    assert splits(1, 64) == 3


def test_shared_memory_of_the_fused_kernel():
    """Two blocks fit into what each architecture's multiprocessor has, of the oldest one."""
    kib = {75: 64, 80: 164, 86: 100, 89: 100, 90: 228, 100: 228, 120: 100}
    for capability, there in kib.items():
        for c_out, kernel_size, stride in ((1, 2, 1), (64, 4, 2), (300, 33, 1), (16, 1, 1), (8, 16, 8), (1, 999, 300)):
            checked = geometry.check(16, c_out, kernel_size, stride)
            for step in programmed(checked, "float32", fused, 1, 500, "tf32", capability).steps:
                at_once = 1 if capability == 75 else 2
                assert at_once * (step.shared + 1024 + 32) <= there * 1024  # a block takes a KiB for itself


def test_fused_kernel_beyond_32_bits(fake):
    """Blocks of eight billion samples: each has its place, although nothing can hold them."""
    checked = geometry.check(16, 2, 4, 2, 1)
    length = 2**32
    made = programmed(checked, "float32", fused, 1, length)
    (step,) = made.steps
    assert step.blocks == geometry.ceil_div(length + 2, fused.COLUMNS)
    assert (made.work, step.params["blocks"]) == (0, step.blocks)


# --- choice and cutting: pure functions ----------------------------------------------------------------------------

# C_in, C_out, K, stride, padding, output_padding, groups, dilation
LAYERS = {
    "hifigan_up1": (512, 256, 16, 8, 4),
    "hifigan_up2": (256, 128, 16, 8, 4),
    "hifigan_up4": (64, 32, 4, 2, 1),
    "oobleck_up1": (2048, 1024, 20, 10, 5),
    "istft": (1026, 1, 1024, 256),
    "bigvgan": (512, 512, 12, 2, 5, 0, 512),
    "dilated": (64, 64, 5, 3, 2, 1, 2, 2),
    "long kernel": (2, 2, 100_000, 1),
    "wide stride": (3, 2, 10, 100_000),
}


@pytest.mark.parametrize(
    ("name", "dtype", "kernel"),
    [
        ("hifigan_up1", "float32", "rows"),
        ("hifigan_up1", "bfloat16", "rows"),
        ("hifigan_up1", "float64", "columns"),
        ("oobleck_up1", "float32", "rows"),
        ("istft", "float32", "columns"),
        ("bigvgan", "float32", "direct"),
        ("dilated", "float32", "columns"),
        ("long kernel", "float32", "direct"),
    ],
)
def test_choice(name, dtype, kernel):
    assert chosen(geometry.check(*LAYERS[name]), dtype) == kernel


@pytest.mark.parametrize(
    ("name", "kind", "kernel"),
    [
        ("hifigan_up2", "tf32", "fused"),
        ("hifigan_up2", "float32", "rows"),
        ("hifigan_up4", "float32", "fused"),
        ("hifigan_up4", "float16", "fused"),
        ("hifigan_up1", "float16", "rows"),
        ("oobleck_up1", "tf32", "columns"),
        ("oobleck_up1", "3xtf32", "rows"),
        ("dilated", "3xtf32", "columns"),
        ("istft", "tf32", "columns"),
        ("istft", "float16", "fused"),
        ("bigvgan", "tf32", "direct"),
    ],
)
def test_choice_by_precision(name, kind, kernel):
    choose = functools.partial(chosen, geometry.check(*LAYERS[name]), kind if kind in DTYPES else "float32")
    precision = kind if kind in PRECISIONS else "float32"
    assert choose(precision) == kernel
    assert choose(precision, 8) != "fused"  # too short for its tiles
    if kind in ("tf32", "3xtf32"):  # a permission that older tensor cores cannot use
        assert choose(precision, capability=75) == choose("float32")
    if kind == "3xtf32":  # and one that seldom pays
        assert choose(precision, capability=90) == choose("float32")
        assert choose(precision, capability=80) == ("columns" if name == "dilated" else "fused")


GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "data" / "cuda_choices.json").read_text())


@pytest.mark.parametrize(
    ("layer", "runs"), GOLDEN["choices"], ids=["-".join(map(str, layer)) for layer, _ in GOLDEN["choices"]]
)
def test_choices_are_those_of_the_table(monkeypatch, layer, runs):
    """What commit cb31509 chose, for every kind, length, architecture and setting."""
    *sizes, groups, dilation = layer
    checked = geometry.check(*sizes, 0, 0, groups, dilation)
    expected = "".join(kernel * int(times or 1) for kernel, times in re.findall(r"([a-z])(\d*)", runs))
    found = ""
    for forced, workspace, kind, capability, length in itertools.product(*GOLDEN["axes"].values()):
        force(monkeypatch, forced, workspace)
        dtype, precision = ("float32", kind) if kind in PRECISIONS else (kind, "float32")
        found += chosen(checked, dtype, precision, length, capability)[0]
    assert found == expected


def test_refusals_are_said_in_words(monkeypatch):
    """Of every kernel that comes before the chosen one."""
    force(monkeypatch)
    refusals = {name: policy.refusals(Problem(geometry.check(*LAYERS[name]), DTYPES["float32"])) for name in LAYERS}
    assert refusals["hifigan_up4"] == {}
    assert refusals["hifigan_up1"] == {
        "fused": "410 flops per byte of x and y are more than 160: cuBLAS multiplies faster"
    }
    assert refusals["dilated"] == dict.fromkeys(("fused", "rows"), "the dilation is 2, not 1")
    assert set(refusals["bigvgan"]) == set(refusals["long kernel"]) == {"fused", "rows", "columns"}
    assert "one input channel" in refusals["bigvgan"]["columns"]
    assert "workspace" in refusals["long kernel"]["columns"]
    force(monkeypatch, "columns")
    assert policy.refusals(Problem(geometry.check(*LAYERS["hifigan_up4"]), DTYPES["float32"])) == {
        "fused": "another one is forced",
        "rows": "1280 bytes are moved for an input sample, by columns 1280",
    }


@pytest.mark.parametrize("kernel", NAMES)
def test_forced_choice(monkeypatch, kernel):
    """Where it can be used; `rows` and `fused` know no dilation, and columns of a long kernel would be too many."""
    force(monkeypatch, kernel)
    choose = functools.partial(chosen, dtype="float32")
    assert choose(geometry.check(*LAYERS["hifigan_up1"])) == kernel
    assert choose(geometry.check(*LAYERS["dilated"])) == ("direct" if kernel == "direct" else "columns")
    assert choose(geometry.check(*LAYERS["long kernel"])) == "direct"


@pytest.mark.parametrize(
    ("name", "value"),
    [("CONVT1D_CUDA_KERNEL", "fft"), ("CONVT1D_CUDA_WORKSPACE", "0"), ("CONVT1D_CUDA_WORKSPACE", "1M")],
)
def test_bad_settings_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        chosen(geometry.check(2, 2, 2), "float32")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 1000), (2, 10**7)])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_workspace_stays_under_its_bound(monkeypatch, name, dtype, batch, length, mode):
    checked = geometry.check(*(*LAYERS[name], *(1, 0, 0, 1, 1)[len(LAYERS[name]) - 3 :]), mode)
    for kernel in NAMES:
        force(monkeypatch, kernel, None if length < 10**7 else 2**32)  # few pieces
        problem = Problem(checked, DTYPES[dtype])
        made = programmed(checked, dtype, policy.choose(problem), batch, length)
        # a signal's stretch is beside the columns, and smaller where there is more than one output channel
        assert made.work <= 2 * problem.workspace + 10**6
        for step in made.steps:
            if isinstance(step, Product):
                assert 1 <= step.batch <= BATCH
                assert max(step.m, step.n, step.k, step.lda, step.ldb, step.ldc) < 2**31


def test_more_samples_than_a_product_takes():
    made = programmed(geometry.check(2, 2, 3), "float32", columns, 70_000, 2)
    products = [step for step in made.steps if isinstance(step, Product)]
    assert max(step.batch for step in products) == BATCH
    assert sum(step.batch for step in products) == 70_000


def test_offsets_beyond_32_bits(monkeypatch):
    """Four billion samples: addresses, positions and blocks are what they should be, although nothing can hold them."""
    force(monkeypatch, "columns", 2**34)
    length = 2**32
    made = programmed(geometry.check(2, 2, 4, 2, 1), "float32", columns, 1, length)
    params = {
        name: [step.params[0] for step in made.steps if isinstance(step, Launch) and step.kernel == name]
        for name in ("interleave", "extend")
    }
    assert len(params["extend"]) == len(params["interleave"]) > 1  # too long a row for cuBLAS to step over: copied
    u0, u1 = np.array([(each["part"]["u0"], each["part"]["u1"]) for each in params["interleave"]]).T
    assert (u0[0], u1[-1]) == (1, 1 + 2 * length)
    np.testing.assert_array_equal(u0[1:], u1[:-1])
    assert params["extend"][-1]["first"] > 2**31


def test_spans_are_long_where_blocks_are_enough():
    assert direct.span_of(16 * 512, 2048, 128) == 128 * 32
    assert direct.span_of(1, 1000, 128) == 128


# --- the package with such arrays: what CuPy would be asked ---------------------------------------------------------


@pytest.fixture
def device(monkeypatch, fake):
    cuda_fake.install(monkeypatch, fake)
    return fake


GEOMETRY = {"stride": 2, "padding": 1, "groups": 2, "dilation": 3, "padding_mode": "reflect"}


def operands():
    rng = np.random.default_rng(0)
    return [rng.integers(-4, 5, shape).astype(np.float32) for shape in ((3, 4, 20), (4, 3, 5), (6,))]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_function(device, monkeypatch, kernel, name):
    force(monkeypatch, kernel)
    host = [a.astype(DTYPES[name]) for a in operands()]
    options = GEOMETRY | {"dilation": 1}  # for `rows`
    y = convt1d.conv_transpose1d(*map(device.array, host), **options)
    assert isinstance(y, cuda_fake.DeviceArray)
    np.testing.assert_array_equal(y, convt1d.conv_transpose1d(*host, **options))
    out = device.empty(y.shape, y.dtype)
    assert convt1d.conv_transpose1d(*map(device.array, host), **options, out=out) is out
    np.testing.assert_array_equal(out, y)
    assert device.uploads == 0
    assert kernel != "rows" or "unpack" in device.log
    device.check_and_free()


def layer_of(weight, bias):
    layer = convt1d.ConvTranspose1d(4, 6, 5, **GEOMETRY)
    layer.weight, layer.bias = weight, bias
    return layer


def test_layer(device):
    x, weight, bias = operands()
    layer = layer_of(weight, bias)
    expected = layer(x)
    for _ in range(3):
        y = layer(device.array(x))
        assert isinstance(y, cuda_fake.DeviceArray)
        np.testing.assert_array_equal(y, expected)
    assert device.uploads == 2  # weight and bias, once
    layer(device.array(x.astype(float)))
    assert device.uploads == 4  # in float64 too
    assert type(layer(x)) is np.ndarray
    layer.weight = weight + 1
    np.testing.assert_array_equal(layer(device.array(x)), layer(x))
    assert device.uploads == 6


def test_to(device):
    x, weight, bias = operands()
    layer = layer_of(weight, bias)
    assert layer.to("cuda") is layer
    assert device.uploads == 2
    np.testing.assert_array_equal(layer(device.array(x)), layer(x))
    assert device.uploads == 2
    assert layer.to("cpu") is layer
    layer(device.array(x))
    assert device.uploads == 4
    with pytest.raises(ValueError, match=r"device must be one of the 2 CUDA devices here.*cuda:2"):
        layer.to("cuda:2")


@pytest.mark.parametrize(
    ("value", "error"), [("gpu", ValueError), ("cuda:", ValueError), ("cpu:0", ValueError), (0, TypeError)]
)
def test_to_something_else(value, error):
    with pytest.raises(error, match=f"device must be .*{value!r}"):
        convt1d.ConvTranspose1d(1, 1, 1).to(value)


def test_precision(device):
    x, weight, bias = operands()
    layer = layer_of(weight, bias)
    layer(device.array(x))
    assert "product" in device.log
    assert "fast product" not in device.log
    layer(device.array(x), precision="tf32")
    assert "fast product" in device.log
    np.testing.assert_array_equal(layer(x, precision="tf32"), layer(x))  # a CPU makes no use of it
    for call in (
        functools.partial(layer, x),
        functools.partial(layer, device.array(x)),
        functools.partial(convt1d.conv_transpose1d, x, weight, **GEOMETRY),
        functools.partial(convt1d.conv_transpose1d, device.array(x), device.array(weight), **GEOMETRY),
    ):
        with pytest.raises(ValueError, match="precision must be one of float32, tf32, 3xtf32, got 'tf16'"):
            call(precision="tf16")
        with pytest.raises(TypeError, match="precision must be a string, got 32"):
            call(precision=32)


def test_3xtf32_is_float32_where_there_is_no_fused_kernel(device):
    x, weight, bias = operands()
    layer = layer_of(weight, bias)  # dilated
    np.testing.assert_array_equal(layer(device.array(x), precision="3xtf32"), layer(x))
    assert "product" in device.log
    assert "fast product" not in device.log


def test_capture(device, monkeypatch):
    """A CUDA graph runs again what it was shown: on memory that must not be given back."""
    rng = np.random.default_rng(0)
    layer = convt1d.ConvTranspose1d(160, 6, 8, 4, 2, rng=rng)
    x = rng.standard_normal((160, 40)).astype(np.float32)
    on = device.array(x)
    force(monkeypatch, "fused")
    device.captures = True
    with pytest.raises(RuntimeError, match="cannot capture this call: the weights are not on the device"):
        layer(on)
    device.captures = False
    expected = layer(on)
    device.captures = True
    out = device.empty(expected.shape, np.float32)
    layer(on, out=out)
    np.testing.assert_array_equal(out, expected)
    assert "reduce" in device.log
    assert len(layer._operator.on_device()._captured) == 1  # the workspace
    with pytest.raises(RuntimeError, match=r"cannot capture .* x must be C-contiguous and of dtype float32"):
        layer(on[:, ::2])
    with pytest.raises(RuntimeError, match=r"cannot capture .* the weights"):
        convt1d.conv_transpose1d(on, device.array(layer.weight), stride=4)
    force(monkeypatch, "rows")
    with pytest.raises(RuntimeError, match=r"cannot capture .* kernel 'rows'.* multiplies through cuBLAS"):
        layer(on[:, :30].copy())
    force(monkeypatch, "direct")
    convt1d.conv_transpose1d(on, device.array(layer.weight), stride=4)


def test_blas_types():
    """cudaDataType of values and sums, and cublasComputeType_t: TF32 only where it was asked for."""
    strict = {name: backend._blas_types(dtype, False)[:3] for name, dtype in DTYPES.items()}
    assert strict == {
        "float32": (0, 0, 68),
        "float64": (1, 1, 70),
        "float16": (2, 0, 68),
        "bfloat16": (14, 0, 68),
        "complex64": (4, 4, 68),
        "complex128": (5, 5, 70),
    }
    fast = {name: backend._blas_types(dtype, True)[:3] for name, dtype in DTYPES.items()}
    assert {name for name in strict if strict[name] != fast[name]} == {"float32", "complex64"}
    assert {fast[name][2] for name in ("float32", "complex64")} == {77}


def test_arrays_on_both_sides(device):
    x, weight, bias = operands()
    on = [device.array(a) for a in (x, weight, bias)]
    for mixed, names in (
        ((on[0], weight, None), "weight must be on the GPU as x"),
        ((on[0], weight, bias), "weight and bias must be on the GPU as x"),
        ((on[0], on[1], bias), "bias must be on the GPU as x and weight"),
        ((x, on[1], None), "x must be on the GPU as weight"),
        ((x.tolist(), on[1], None), "x must be on the GPU as weight"),
    ):
        with pytest.raises(TypeError, match=names):
            convt1d.conv_transpose1d(*mixed, **GEOMETRY)
    layer = layer_of(weight, bias)
    expected = layer(x)
    with pytest.raises(TypeError, match=r"out must be an array like x.*cuda:0, got numpy\.ndarray"):
        layer(on[0], out=np.empty_like(expected))


def test_arrays_on_different_devices(device):
    x, weight, bias = map(device.array, operands())
    weight.device = types.SimpleNamespace(id=1)
    with pytest.raises(ValueError, match="must be on one device, got x on cuda:0, weight on cuda:1, bias on cuda:0"):
        convt1d.conv_transpose1d(x, weight, bias, **GEOMETRY)
    out = device.empty((3, 6, 49), np.float32)
    out.device = types.SimpleNamespace(id=1)
    with pytest.raises(ValueError, match="out must be on the device of x, cuda:0, got cuda:1"):
        layer_of(*operands()[1:])(x, out=out)


def test_out(device):
    x, weight, bias = operands()
    layer = layer_of(weight, bias)
    shape = layer(x).shape
    on = device.array(x)
    for out, error, words in (
        (device.empty((*shape[:2], shape[2] + 1), np.float32), ValueError, "out must have shape"),
        (device.empty(shape, np.float64), TypeError, "out must have dtype float32, got float64"),
        (device.empty(shape[::-1], np.float32).T, ValueError, "out must be C-contiguous"),
    ):
        with pytest.raises(error, match=words):
            layer(on, out=out)
    both = device.empty((on.size + int(np.prod(shape)),), np.float32)
    both[: on.size] = x.ravel()
    inside = both[: on.size].reshape(x.shape)
    with pytest.raises(ValueError, match="out must not overlap x"):
        layer(inside, out=both[on.size - 1 : -1].reshape(shape))
    np.testing.assert_array_equal(layer(inside, out=both[on.size :].reshape(shape)), layer(x))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": lambda x: x[0, 0]}, ValueError, "x must be 2-D or 3-D, got shape"),
        ({"x": lambda x: x[:, :3]}, ValueError, r"x must have shape \(N, 4, L\)"),
        ({"x": lambda x: x[..., :0]}, ValueError, "input length must be at least 1"),
        ({"x": lambda x: x.astype("U1")}, TypeError, "x must hold numbers"),
        ({"weight": lambda w: w[0]}, ValueError, "weight must be 3-D, got shape"),
        ({"weight": lambda w: w[..., :0]}, ValueError, "weight must have no empty dimension"),
        ({"weight": lambda w: w.astype("M8[s]")}, TypeError, "weight must hold numbers"),
        ({"bias": lambda b: b[:5]}, ValueError, r"bias must have shape \(6,\), got \(5,\)"),
        ({"bias": lambda b: b * 1j}, TypeError, "bias of dtype complex64 cannot be cast to float32"),
    ],
)
def test_other_arrays(device, change, error, words):
    given = dict(zip(("x", "weight", "bias"), operands(), strict=True))
    for name, make in change.items():
        given[name] = make(given[name])
    given = {
        name: a.view(cuda_fake.DeviceArray) if a.dtype.kind in "UM" else device.array(a) for name, a in given.items()
    }
    with pytest.raises(error, match=words):
        convt1d.conv_transpose1d(**given, **GEOMETRY)


def test_what_runs_on_the_cpu_only(device):
    x, weight, _ = map(device.array, operands())
    layer = layer_of(*operands()[1:])
    for call in (
        lambda: convt1d.conv1d(x, operands()[1].transpose(1, 0, 2)),
        lambda: layer.backward(x, x),
        lambda: layer.fit(x, x),
        lambda: setattr(layer, "weight", weight),
        lambda: convt1d.ConvTranspose1dStream(convt1d.ConvTranspose1d(4, 2, 3)).process(x),
    ):
        with pytest.raises(TypeError, match="must be in the CPU's memory here"):
            call()


# --- torch's tensors: a stand-in with the few names that interchange.py uses ---------------------------------------


class Tensor:
    requires_grad = False
    is_cuda = True

    def __init__(self, array, index=0):
        self.array, self.device = array, types.SimpleNamespace(index=index)
        self.dtype = array.dtype.name

    detach = resolve_conj = resolve_neg = lambda self: self

    def view(self, name):
        return Tensor(self.array.view(name))


@pytest.fixture
def torch(monkeypatch, device):
    streams = []
    stand_in = types.ModuleType("torch")
    stand_in.Tensor = Tensor
    for name in (*DTYPES, "int16"):
        setattr(stand_in, name, name)
    stand_in.is_grad_enabled = lambda: True
    stand_in.empty = lambda shape, dtype, device: Tensor(fake_empty(shape, DTYPES[dtype]), device.index)
    stand_in.cuda = types.SimpleNamespace(current_stream=lambda device: types.SimpleNamespace(cuda_stream=77))
    fake_empty = device.empty
    cupy = sys.modules["cupy"]

    def from_dlpack(tensor):
        assert tensor.dtype != "bfloat16"  # CuPy has no such capsule
        return tensor.array

    class Stream:
        null = None

        def __enter__(self):
            streams.append(self.pointer)

        def __exit__(self, *error):
            pass

        @classmethod
        def from_external(cls, external):
            stream = cls()
            _, stream.pointer = external.__cuda_stream__()
            return stream

    cupy.from_dlpack = from_dlpack
    cupy.cuda.Stream = Stream
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    stand_in.streams = streams
    return stand_in


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_tensors(device, torch, name):
    x, weight, bias = (a.astype(DTYPES[name]) for a in operands())
    expected = convt1d.conv_transpose1d(x, weight, bias, **GEOMETRY)
    y = convt1d.conv_transpose1d(*(Tensor(device.array(a)) for a in (x, weight, bias)), **GEOMETRY)
    assert type(y) is Tensor
    np.testing.assert_array_equal(y.array, expected)
    layer = convt1d.ConvTranspose1d(4, 6, 5, **GEOMETRY, dtype=DTYPES[name])
    layer.weight, layer.bias = weight, bias
    out = Tensor(device.empty(expected.shape, expected.dtype))
    assert layer(Tensor(device.array(x)), out=out) is out
    np.testing.assert_array_equal(out.array, expected)
    assert set(torch.streams) == {77}


def test_tensors_that_are_refused(device, torch):
    x, weight, bias = map(device.array, operands())
    layer = layer_of(*operands()[1:])
    with pytest.raises(TypeError, match="must all be CuPy arrays or all torch tensors"):
        convt1d.conv_transpose1d(Tensor(x), weight, bias, **GEOMETRY)
    with pytest.raises(TypeError, match="out must be an array like x"):
        layer(x, out=Tensor(x))
    learned = Tensor(x)
    learned.requires_grad = True
    with pytest.raises(TypeError, match="x requires a gradient"):
        layer(learned)
    with pytest.raises(ValueError, match="must be on one device"):
        convt1d.conv_transpose1d(Tensor(x), Tensor(weight, 1), None, **GEOMETRY)


# --- the tests' own tools, and what an import brings ----------------------------------------------------------------


def test_undefined_behaviour_would_be_seen(libraries, capfd, tmp_path):
    if not cuda_fake.sanitizer_works(tmp_path):
        pytest.skip("g++ has no UBSan here")
    libraries(0).shim_overflow(2**31 - 1)
    assert "runtime error: signed integer overflow" in capfd.readouterr().err


def test_a_stray_write_would_be_seen(fake):
    array = fake.array([1.0, 2.0])
    fake._memory[0][2][array.ctypes.data - fake._memory[0][2].ctypes.data + array.nbytes] = 0
    with pytest.raises(AssertionError, match="past the end"):
        fake.check_and_free()


def test_import_brings_no_cupy():
    code = "import sys, convt1d; sys.exit(any(name.partition('.')[0] in ('cupy', 'torch') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_missing_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"pip install 'convt1d\[cuda13\]'.*convt1d\[cuda12\]"):
        convt1d.ConvTranspose1d(1, 1, 1).to("cuda")


def test_missing_device(monkeypatch, device):
    def count():
        raise sys.modules["cupy"].cuda.runtime.CUDARuntimeError("no driver")

    sys.modules["cupy"].cuda.runtime.getDeviceCount = count
    with pytest.raises(RuntimeError, match="there is no CUDA device that CuPy can use: no driver"):
        convt1d.ConvTranspose1d(1, 1, 1).to("cuda")


def test_constants_are_those_of_the_source():
    """What stands in Python and in a .cu file."""
    source = backend.source()
    for line in (
        f"THREADS {THREADS} ",
        f"TILE {columns.TILE} ",
        f"SIDE {rows.SIDE} ",
        f"TIMES {rows.TIMES} ",
        f"STEP_CHANNELS {fused.STEP_CHANNELS}\n",
        f"COLUMNS {fused.COLUMNS} ",
        f"MOST_REACH {fused.TAPS - 1} ",
        f"FUSED_THREADS {fused.FUSED_THREADS}\n",
    ):
        assert f"#define {line}" in source
    for margin in fused.MARGINS.values():
        assert f"static const int MARGIN = {margin};" in source
    assert f"enum Mode {{ {', '.join(geometry.PADDING_MODES).upper()} }};" in source
    for capacity in direct.CAPACITIES:
        assert f"DIRECT(direct{capacity}, {capacity})" in source


def test_parameter_structs():
    """Small, and laid out as those of the .cu files: cuda_fake.build compiles the assertions with each source."""
    structs = cuda_fake.parameter_structs()
    assert {"Direct", "Extend", "Interleave", "Pack", "Unpack", "Fused", "Reduce", "Branches", "Signal"} <= set(structs)
    for name, struct in structs.items():
        assert len(struct._fields) <= 16
        assert f"struct {name} {{" in backend.source()
    assertions = cuda_fake.layout_assertions()
    assert "static_assert(__builtin_offsetof(Interleave, part) == " in assertions


def test_borrowing_leaves_cupy_arrays_alone(device):
    x = device.array([1.0])
    assert interchange.borrow("x", x) is x
