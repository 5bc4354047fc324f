# SPDX-License-Identifier: MIT
"""Let the wheel that is built next carry the licence of the OpenMP runtime:  python LICENSES/add_runtime.py

Changes `license-files` in the pyproject.toml of the tree it lies in. For builds whose wheel is repaired, which puts the
runtime in (.ci/build-wheels, cibuildwheel). An ordinary build carries no runtime and only the MIT licence.
"""

import re
import sys
from pathlib import Path

TEXTS = {"linux": ("GPL-3.0.txt", "GCC-exception-3.1.txt"), "darwin": ("Apache-2.0.txt", "LLVM-exception.txt")}

here = Path(__file__).resolve().parent
files = ["LICENSE", *(f"{here.name}/{name}" for name in ("README.md", *TEXTS.get(sys.platform, ())))]
project = here.parent / "pyproject.toml"
line = "license-files = [{}]".format(", ".join(f'"{file}"' for file in files))
text, found = re.subn("^license-files = .*$", line, project.read_text(encoding="utf-8"), flags=re.MULTILINE)
assert found == 1, f"{project} has {found} lines that begin with license-files"
project.write_text(text, encoding="utf-8")
