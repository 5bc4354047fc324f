# SPDX-License-Identifier: MIT
"""The documentation:  sphinx-build -W --keep-going -b html docs build/docs

Nothing is fetched, neither when the pages are built nor when they are read: no intersphinx, no fonts, no MathJax.
Formulas are plain text, as `help()` shows them too.
"""

import convt1d

project = "convt1d"
author = "The convt1d developers"
copyright = "2026, the convt1d developers"
version = release = convt1d.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc", "myst_parser"]
extensions += ["sphinx_copybutton"]
# prompts, and lines without one, are not copied
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
exclude_patterns = ["examples"]
default_role = "py:obj"
highlight_language = "none"  # of blocks that name none: tables, drawings, formulas
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"convt1d {version}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_js_files = ["accessible.js"]
html_theme_options = {name: {"code-font-size": "75%"} for name in ("light_css_variables", "dark_css_variables")}

autosummary_generate = False
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the Parameters say it in words
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# The pages are the same wherever they are built, so these are not imported even where they are there.
autodoc_mock_imports = ["cupy", "dask", "onnx", "sklearn", "torch"]

numpydoc_show_class_members = False
# Every rule of numpydoc but those on the first line, the capitals and the See Also that this project writes otherwise.
numpydoc_validation_checks = {"all", "GL01", "ES01", "SA01", "SA03", "SA04", "SS05"}
# its attributes are what it has; a package not imported here; what `Chain.stream` and `Sum.stream` make
numpydoc_validation_exclude = {
    r"\.LayerInfo$",
    r"convt1d\.onnx\.ConvTranspose$",
    r"convt1d\.chain\.(Chain|Sum)Stream",
}
