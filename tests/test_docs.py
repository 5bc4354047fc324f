# SPDX-License-Identifier: MIT
"""Every example in the documentation runs and says what it does."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import convt1d
from convt1d.weights import list_layers


@pytest.mark.parametrize("name", ["functional", "geometry", "layer", "padding", "weights"])
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"convt1d.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_docstring_example_of_onnx():
    pytest.importorskip("onnx")
    result = doctest.testmod(importlib.import_module("convt1d.onnx"))
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_readme_example():
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["y"].shape == (1, 256, 1600)
    last = next(line for line in code.splitlines() if line.startswith("conv_transpose1d"))
    shown = re.search(r"# array\(\[(\[.*\])\]\)", code).group(1)
    np.testing.assert_array_equal(eval(last, names)[0], np.array(eval(shown)))


def test_docstrings_name_all_parameters():
    """numpydoc: each parameter of the public functions is described."""
    layer = convt1d.ConvTranspose1d
    readers = (
        layer.from_state_dict,
        layer.from_file,
        layer.from_onnx,
        layer.from_torch,
        layer.from_keras,
        layer.from_jax,
    )
    functions = (convt1d.conv_transpose1d, convt1d.output_length, layer.__call__, layer.to_onnx, list_layers)
    for function in functions + readers:
        for name in function.__code__.co_varnames[
            : function.__code__.co_argcount + function.__code__.co_kwonlyargcount
        ]:
            assert name in ("self", "cls") or re.search(
                rf"^ *(\w+, )*{name}(, \w+)* :", function.__doc__, re.MULTILINE
            ), name
