# SPDX-License-Identifier: MIT
"""The package as a whole: imports, stubs, BLAS, forks, threads."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convt1d
from convt1d import geometry, threads
from convt1d.cpu import _correlate, _runtime, _tiles

HERE = Path(__file__).parent


def test_absurd_number_of_workers_is_harmless():
    layer = convt1d.ConvTranspose1d(256, 256, 16, stride=8, rng=0)
    x = np.ones((256, 50), np.float32)
    np.testing.assert_array_equal(layer(x, workers=10**30), layer(x, workers=1))


def test_small_work_stays_on_one_thread(monkeypatch):
    monkeypatch.setattr(threads, "_serial_until", 0.0)  # a disturbed call before this one may have set it
    assert threads.worthwhile(threads.estimate(1000, 1000), 8) == 1
    assert threads.worthwhile(threads.estimate(10**9, 10**6), 8) == 8
    assert threads.worthwhile(threads.estimate(10**9, 10**6), 1) == 1


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
    """scipy.linalg takes a quarter of a second to import."""
    code = "import sys, convt1d; print([m for m in ('scipy.linalg', 'cupy', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def test_first_call_leaves_scipy_linalg_alone():
    """A kernel that calls BLAS loads that of SciPy and no more; what comes later finds scipy.linalg whole."""
    code = """
import os, sys, numpy as np, convt1d
os.environ["CONVT1D_KERNEL"] = "direct"
convt1d.conv_transpose1d(np.ones((1, 4)), np.ones((1, 1, 2)))
print([m for m in sys.modules if m.startswith("scipy")])
os.environ["CONVT1D_KERNEL"] = "gemm"
print(convt1d.conv_transpose1d(np.ones((1, 2)), np.ones((1, 1, 2)), stride=2))
print([m for m in sys.modules if m.startswith("scipy.linalg")])
import scipy.linalg
from scipy.linalg import cython_blas
print(scipy.linalg.solve(np.eye(2), np.ones(2)), "dgemm" in cython_blas.__pyx_capi__)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n[[1. 1. 1. 1.]]\n['scipy.linalg.cython_blas']\n[1. 1.] True\n", run.stderr


def test_names_are_reached_lazily():
    code = """
import sys, convt1d
print([m for m in sys.modules if m.startswith("convt1d.")])
print(convt1d.weights.list_layers.__module__, {"weights", "torch", "ConvTranspose1d"} <= set(dir(convt1d)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "['convt1d._compiled']\nconvt1d.weights.sources True\n", run.stderr
    with pytest.raises(AttributeError, match="no attribute 'conv_transpose2d'"):
        _ = convt1d.conv_transpose2d


@pytest.fixture
def source_tree(tmp_path):
    """A folder that holds the package without its compiled modules, as a checkout does."""
    skip = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(Path(convt1d.__file__).parent, tmp_path / "convt1d", ignore=skip)
    return tmp_path


def test_source_tree_steps_aside(source_tree):
    """Python started in a checkout after `pip install .` computes with the installed package, all of it."""
    code = "import convt1d as c; print(c.conv_transpose1d([[1, 2]], [[[1, 1]]]), c.__file__, c.weights.__file__)"
    installed = Path(convt1d.__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(installed.parent)}
    for arguments, wanted in ((["-c", code], str(installed)), (["-m", "convt1d", "info"], "kernels")):
        run = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=source_tree, env=environment
        )
        assert wanted in run.stdout, run.stderr
        assert str(source_tree) not in run.stdout


def test_source_tree_says_that_it_is_not_compiled(source_tree):
    run = subprocess.run(  # -S: without installed packages
        [sys.executable, "-S", "-c", "import convt1d"],
        capture_output=True, text=True, cwd=source_tree, env={},
    )  # fmt: skip
    assert "is a source tree without its compiled modules" in run.stderr
    assert f"pip install {source_tree}" in run.stderr


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


INCOMPATIBLE_BLAS = """
import ctypes, os, sys, types
os.environ["CONVT1D_KERNEL"] = "gemm"
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
    """A SciPy built with 64-bit integers has other signatures."""
    run = subprocess.run([sys.executable, "-c", INCOMPATIBLE_BLAS], capture_output=True, text=True)
    assert "interface of 32-bit integers (LP64), but SciPy" in run.stdout, run.stderr
    assert "wrong signature" in run.stdout
