# SPDX-License-Identifier: MIT
"""The documentation:  sphinx-build -W --keep-going -b html docs build/docs

Nothing is fetched, when the pages are built or when they are read: no intersphinx, no fonts, no MathJax (formulas are
plain text, as `help()` shows them too).
"""

import convt1d

project = "convt1d"
author = "The convt1d developers"
copyright = "2026, the convt1d developers"
version = release = convt1d.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser"]
exclude_patterns = ["examples"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"convt1d {version}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"footer_icons": [], "navigation_with_keys": True}

myst_heading_anchors = 3

autodoc_typehints = "none"  # numpydoc's Parameters say it in words
autodoc_member_order = "bysource"
autosummary_generate = False
# not needed to build the pages, whether they are there or not
autodoc_mock_imports = ["onnx", "torch"]

numpydoc_show_class_members = False
numpydoc_validation_checks = {"all", "ES01", "SA01", "SA03", "SA04", "SS05", "GL01", "GL02"}
