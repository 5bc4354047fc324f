# SPDX-License-Identifier: MIT
"""Every example in the documentation runs and says what it does."""

import doctest
import importlib
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import convt1d
from convt1d.weights import list_layers

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name", ["convolution", "functional", "geometry", "gradients", "layer", "padding", "stream", "weights"]
)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"convt1d.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_docstring_example_of_onnx():
    pytest.importorskip("onnx")
    result = doctest.testmod(importlib.import_module("convt1d.onnx"))
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_docstring_examples_of_torch():
    pytest.importorskip("torch")
    result = doctest.testmod(importlib.import_module("convt1d.torch"))
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_readme_example():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    *first, learning = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = "".join(first)
    names = {}
    exec(code, names)
    assert names["y"].shape == (1, 256, 1600)
    np.testing.assert_allclose(names["whole"], names["layer"](names["x"]), rtol=0, atol=1e-5)
    last = next(line for line in code.splitlines() if line.startswith("conv_transpose1d"))
    shown = re.search(r"# array\(\[(\[.*\])\]\)", code).group(1)
    np.testing.assert_array_equal(eval(last, names)[0], np.array(eval(shown)))
    exec(learning, names)
    assert eval(learning.splitlines()[-1], names)


def test_learning_example(tmp_path):
    """The figures in docs/learning.md are what the script prints."""
    script = runpy.run_path(str(ROOT / "docs" / "examples" / "learned_upsampling.py"))
    cases = script["all_cases"]()
    assert script["report"](cases) in (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    pytest.importorskip("matplotlib")
    script["draw"](cases, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_training_loops(capsys):
    """The loops in docs/learning.md run and print what is shown below them."""
    text = (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    exec("".join(re.findall(r"```python loop\n(.*?)```", text, re.DOTALL)), {})
    assert f"```\n{capsys.readouterr().out}```" in text


def test_docstrings_name_all_parameters():
    """numpydoc: each parameter of the public functions is described."""
    layer, stream = convt1d.ConvTranspose1d, convt1d.ConvTranspose1dStream.process
    readers = (
        layer.from_state_dict,
        layer.from_file,
        layer.from_onnx,
        layer.from_torch,
        layer.from_keras,
        layer.from_jax,
    )
    methods = (layer.__call__, layer.to, layer.backward, layer.fit, layer.partial_fit, layer.to_onnx, stream)
    functions = (convt1d.conv_transpose1d, convt1d.conv_transpose1d_backward, convt1d.conv1d, convt1d.output_length)
    for function in (*functions, list_layers, *methods, *readers):
        for name in function.__code__.co_varnames[
            : function.__code__.co_argcount + function.__code__.co_kwonlyargcount
        ]:
            assert name in ("self", "cls") or re.search(
                rf"^ *(\w+, )*{name}(, \w+)* :", function.__doc__, re.MULTILINE
            ), name
