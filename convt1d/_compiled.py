# SPDX-License-Identifier: MIT
"""A source tree that nobody has compiled steps aside for the installed package.

Python puts the folder it is started in before the installed packages. In a checkout after ``pip install .`` it would
find these sources, which have no compiled modules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def check(name: str, places: Iterable[str]) -> None:
    """Make `name` the installed package if the one in `places` is not compiled.

    Raises
    ------
    ImportError
        No compiled one is installed.
    """
    if _is_compiled(places):
        return
    folder = Path(*places).resolve()
    spec = PathFinder.find_spec(name, [entry for entry in sys.path if Path(entry).resolve() != folder.parent])
    if spec is None or spec.loader is None or not _is_compiled(spec.submodule_search_locations or ()):
        raise ImportError(
            f"{folder} is a source tree without its compiled modules, and no compiled {name} is installed: "
            f"run `pip install {folder.parent}`, or `pip install -e {folder.parent}` to work on it"
        )
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)


def _is_compiled(places: Iterable[str]) -> bool:
    return any((Path(place) / "cpu" / f"_tiles{suffix}").exists() for place in places for suffix in EXTENSION_SUFFIXES)
