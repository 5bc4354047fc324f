# SPDX-License-Identifier: MIT
"""What an installed distribution carries."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

import convt1d

ROOT = Path(__file__).parent.parent


def test_one_licence_and_no_runtime():
    """No library of others, and so no licence but our own. On Windows the compiler's OpenMP runtime may be there."""
    found = 0
    for distribution in importlib.metadata.distributions(name="convt1d"):
        paths = [file.as_posix() for file in distribution.files or ()]
        if any(path.endswith(".dist-info/METADATA") for path in paths):  # not what a build left in the source tree
            assert [path for path in paths if "/licenses/" in path and not path.endswith("/licenses/LICENSE")] == []
            assert sys.platform == "win32" or not [path for path in paths if ".libs/" in path or ".dylibs/" in path]
            found += 1
    if not found:
        pytest.skip("convt1d is not installed")


def test_conda_recipe():
    """.ci/conda/recipe.yaml has the version and the requirements of pyproject.toml. (py-rattler-build renders it.)"""
    recipe = (ROOT / ".ci" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert f'version: "{convt1d.__version__}"' in recipe
    for each in (*project["project"]["dependencies"], *project["build-system"]["requires"]):
        name, least = re.split("(?=>)", each, maxsplit=1)
        assert f"- {name} {least}\n" in recipe, each


@pytest.mark.skipif(sys.platform == "win32", reason="links to the compiler's runtime")
def test_no_openmp_runtime_is_linked():
    modules = list((Path(convt1d.__file__).parent / "cpu").glob("*.so"))
    assert modules
    for module in modules:
        code = module.read_bytes()
        assert not [name for name in (b"libgomp.so", b"libomp.", b"libiomp5.") if name in code], module
