# SPDX-License-Identifier: MIT
"""The documentation:  sphinx-build -W --keep-going -b html docs build/docs

Nothing is fetched, neither when the pages are built nor when they are read: formulas become MathML, and the names of
other packages that the pages link to are listed here. In docstrings formulas are plain text, as `help()` shows them.
"""

import json
import tempfile
import zlib
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from myst_parser.parsers.sphinx_ import MystParser

import convt1d

project = "convt1d"
author = "The convt1d developers"
copyright = "2026, the convt1d developers"
version = release = convt1d.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc", "myst_parser"]
extensions += ["sphinx.ext.intersphinx", "sphinx_copybutton"]
# prompts, and lines without one, are not copied
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
exclude_patterns = ["examples"]
default_role = "py:obj"
highlight_language = "none"  # of blocks that name none: tables, drawings, formulas
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"

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

# What the pages link to in other packages' documentation: name, kind, place.
ELSEWHERE = {
    "numpy": """https://numpy.org/doc/stable/
        numpy.ndarray py:class reference/generated/numpy.ndarray.html
        numpy.dtype py:class reference/generated/numpy.dtype.html
        numpy.random.Generator py:class reference/random/generator.html
        numpy.linalg.LinAlgError py:class reference/generated/numpy.linalg.LinAlgError.html
        array_like std:term glossary.html#term-array_like""",
    "python": """https://docs.python.org/3/
        int py:class library/functions.html#int
        float py:class library/functions.html#float
        complex py:class library/functions.html#complex
        bool py:class library/functions.html#bool
        str py:class library/stdtypes.html#str
        tuple py:class library/stdtypes.html#tuple
        dict py:class library/stdtypes.html#dict
        list py:class library/stdtypes.html#list
        None py:data library/constants.html#None
        True py:data library/constants.html#True
        False py:data library/constants.html#False
        os.PathLike py:class library/os.html#os.PathLike
        fractions.Fraction py:class library/fractions.html#fractions.Fraction
        bltin-boolean-values std:label library/stdtypes.html#boolean-type-bool
        sequence std:term glossary.html#term-sequence""",
    "torch": """https://docs.pytorch.org/docs/stable/
        torch.nn.Module py:class generated/torch.nn.Module.html
        torch.nn.ConvTranspose1d py:class generated/torch.nn.ConvTranspose1d.html
        torch.Tensor py:class tensors.html""",
    "dask": """https://docs.dask.org/en/stable/
        dask.array.Array py:class generated/dask.array.Array.html""",
}


def inventory(name, places):
    """A file that intersphinx reads, in place of the one that it would fetch."""
    path = Path(tempfile.gettempdir()) / f"convt1d-docs-{name}.inv"
    lines = "".join("{} {} 1 {} -\n".format(*place.split()) for place in places)
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n# The rest is zlib-compressed.\n"
    path.write_bytes(head.encode() + zlib.compress(lines.encode()))
    return str(path)


intersphinx_mapping = {
    name: (url, inventory(name, places))
    for name, (url, *places) in ((name, text.splitlines()) for name, text in ELSEWHERE.items())
}

numpydoc_xref_param_type = True
numpydoc_xref_aliases = {
    "ndarray": "numpy.ndarray",
    "dtype": "numpy.dtype",
    "numpy.dtype": "numpy.dtype",
    "numpy.random.Generator": "numpy.random.Generator",
    "os.PathLike": "os.PathLike",
    "dask.array.Array": "dask.array.Array",
    "torch.nn.Module": "torch.nn.Module",
    "ConvTranspose1d": "convt1d.ConvTranspose1d",
    "Conv1d": "convt1d.Conv1d",
    "Activation": "convt1d.activations.Activation",
    "convt1d.activations.Activation": "convt1d.activations.Activation",
    "array_like": ":term:`numpy:array_like`",
}
numpydoc_xref_ignore = "all"
numpydoc_show_class_members = False
# Every rule of numpydoc but those on the first line, the capitals and the See Also that this project writes otherwise.
numpydoc_validation_checks = {"all", "GL01", "ES01", "SA01", "SA03", "SA04", "SS05"}
# its attributes are what it has; a package not imported here; what `Chain.stream` and `Sum.stream` make
numpydoc_validation_exclude = {
    r"\.LayerInfo$",
    r"convt1d\.onnx\.(ConvTranspose|Session)$",
    r"convt1d\.chain\.(Chain|Sum)Stream",
}


class Notebook(MystParser):
    """A notebook's cells as a page; its outputs are in pictures beside it."""

    supported = ("ipynb",)

    def parse(self, inputstring, document):
        parts = [f"{{download}}`This page as a notebook <{Path(document['source']).name}>`"]
        for cell in json.loads(inputstring)["cells"]:
            text = "".join(cell["source"])
            parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        parts[:2] = parts[1::-1]  # the title is first
        super().parse("\n\n".join(parts), document)


def formula(as_block):
    def visit(translator, node):
        translator.body.append(tex2mathml(node.astext(), as_block=as_block))
        raise SkipNode

    return visit, None


def setup(app):
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(Notebook)
    app.add_html_math_renderer("mathml", formula(False), formula(True))
