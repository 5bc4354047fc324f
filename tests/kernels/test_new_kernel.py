# SPDX-License-Identifier: MIT
"""A new kernel needs no change of another file: its Python, its compiled part, its name in two registries."""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import naive
import numpy as np
import pytest

import convt1d
from convt1d.cpu import _tiles, kernels
from convt1d.cpu import plan as parts

pytestmark = pytest.mark.slow  # it compiles

HERE = Path(__file__).parent
SOURCES = HERE.parents[1]


class Trivial:
    """What kernels/trivial.py would hold."""

    name = "trivial"
    consistent = True

    def plan(self, problem, machine, forced=""):
        if forced != self.name:
            return parts.Refusal("it is slow")
        each = problem.channels * problem.taps
        return parts.lay_out(
            self.name,
            problem,
            machine,
            rows=(8, 64),
            run=parts.usual_run(problem, machine),
            unit=1,
            packed=lambda long, others: each * (long + others),
            piece=max(1, problem.channels // 2),
            in_place=parts.in_place(problem, machine),
        )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The compiled part, built against the package's own headers."""
    cython = pytest.importorskip("Cython.Compiler.Main", reason="needs Cython")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not (SOURCES / "convt1d" / "cpu" / "_tile.pxd").exists():
        pytest.skip("needs a C compiler and the package's sources")
    folder = tmp_path_factory.mktemp("trivial")
    result = cython.compile(
        str(HERE / "trivial.pyx"),
        cython.CompilationOptions(output_file=str(folder / "trivial.c"), include_path=[str(SOURCES)]),
    )
    assert result.num_errors == 0
    library = folder / f"trivial{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = (sysconfig.get_paths()["include"], SOURCES / "convt1d" / "cpu")
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", *(f"-I{path}" for path in includes), folder / "trivial.c", "-o", library],
        check=True,
    )
    spec = importlib.util.spec_from_file_location("trivial", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trivial(compiled, monkeypatch):
    monkeypatch.setattr(kernels, "KERNELS", (Trivial(), *kernels.KERNELS))
    monkeypatch.setitem(_tiles.COMPILED, "trivial", compiled.address())
    monkeypatch.setenv("CONVT1D_KERNEL", "trivial")


@pytest.mark.parametrize("tile", [None, 1, 16])
def test_all_vectors(trivial, cases, tile, monkeypatch):
    if tile:
        monkeypatch.setenv("CONVT1D_TILE", str(tile))
    for case in cases:
        for dtype in (np.complex64, np.complex128) if np.iscomplexobj(case.y) else (np.float32, np.float64):
            given = [None if a is None else a.astype(dtype) for a in (case.x, case.w, case.b)]
            y = convt1d.conv_transpose1d(*given, **case.geometry)
            np.testing.assert_array_equal(y, case.y, err_msg=str(case.id))


def test_it_is_what_ran(trivial):
    layer = convt1d.ConvTranspose1d(40, 3, 5, stride=2, rng=0)
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 10, (2, 40, 300)).astype("float32"), rng.integers(-9, 10, (40, 3, 5)).astype("float32")
    layer.weight = w
    np.testing.assert_array_equal(layer(x), naive.conv_transpose1d(x, w, layer.bias, 2))
    plans = [kernel.plan for kernel, _ in layer._operator._kernels.values()]
    assert [plan.kernel for plan in plans] == ["trivial"]
    assert plans[0].packing.piece_channels == 20


def test_convolutions_and_gradients(trivial):
    """Rows of x that lack a tap."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 10, (2, 6, 50)).astype("float64"), rng.integers(-9, 10, (4, 6, 7)).astype("float64")
    expected = naive.conv1d(x, w, None, 3)
    np.testing.assert_array_equal(convt1d.conv1d(x, w, stride=3), expected)


def test_without_being_forced_it_refuses(compiled, monkeypatch):
    monkeypatch.setattr(kernels, "KERNELS", (Trivial(), *kernels.KERNELS))
    monkeypatch.setitem(_tiles.COMPILED, "trivial", compiled.address())
    layer = convt1d.ConvTranspose1d(4, 3, 5, stride=2, rng=0)
    layer(np.ones((4, 9), np.float32))
    (kernel, _), *_ = layer._operator._kernels.values()
    assert kernel.plan.kernel != "trivial"
    assert kernel.plan.refused["trivial"] == "it is slow"
