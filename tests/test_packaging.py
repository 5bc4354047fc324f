# SPDX-License-Identifier: MIT
"""What an installed distribution carries."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import convt1d

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("runtime", "text"), [("libgomp", "GPL-3.0.txt"), ("libomp", "Apache-2.0.txt")])
def test_licence_of_the_openmp_runtime(runtime, text):
    """The licence of a runtime is in an installation exactly if the runtime is."""
    found = 0
    for distribution in importlib.metadata.distributions(name="convt1d"):
        paths = [file.as_posix() for file in distribution.files or ()]
        if any(path.endswith(".dist-info/METADATA") for path in paths):  # not what a build left in the source tree
            licences = {path.partition("/licenses/")[2] for path in paths}
            carried = any(path.rpartition("/")[2].startswith(runtime) for path in paths)
            assert "LICENSE" in licences
            assert (f"LICENSES/{text}" in licences) == carried
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
