# SPDX-License-Identifier: MIT
"""Every example in the documentation runs and says what it does.

In the pages of docs/, all blocks of a page run in order, with the same names and in an empty folder::

    ```python      run; where it holds `>>>`, what is printed is compared, as doctest does it
    ```console     of it, lines that begin with `$ convt1d`; what the command prints is compared, `...` as in doctest

A section that needs an optional package is left out where that is missing. Other blocks (text, sh, `python loop`)
are not run here.
"""

import doctest
import importlib
import json
import os
import re
import runpy
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest

import convt1d
import convt1d.cli
from convt1d import explain, initialize, plot
from convt1d.weights import list_layers

ROOT = Path(__file__).parent.parent
PACKAGE = Path(convt1d.__file__).parent  # the installed one
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.stem != "scale")  # scripts, see test_dask.py
NOTEBOOKS = sorted(path.name for path in (ROOT / "docs" / "gallery").glob("*.ipynb"))
WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.glob("**/*.py"))
    if ">>> " in path.read_text(encoding="utf-8") and path.stem != "__init__"
]
OPTIONAL = ("dask", "distributed", "jax", "keras", "matplotlib", "onnx", "onnxruntime", "sklearn", "torch", "zarr")


def run_python(code, names, name):
    """Run a block of Python; with `>>>` as a doctest."""
    if ">>>" not in code:
        exec(compile(code, name, "exec"), names)
        return
    example = doctest.DocTestParser().get_doctest(code, names, name, name, 0)
    example.globs = names  # not the copy: later blocks see its names
    run_doctest(example)


def run_doctest(example):
    """Run it; an exception that it does not show is raised here."""
    try:
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(example, clear_globs=False)
    except doctest.DocTestFailure as failure:
        raise AssertionError(
            f"{example.name}: {failure.example.source}printed\n{failure.got}instead of\n{failure.example.want}"
        ) from None
    except doctest.UnexpectedException as unexpected:
        raise unexpected.exc_info[1]  # noqa: B904  # `from` would overwrite its cause, which names the missing package


def run_console(text, capsys, name):
    """Run the `$ convt1d` lines of a console block."""
    for command, wanted in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
        program, *arguments = shlex.split(command)
        if program == "convt1d":
            capsys.readouterr()
            assert convt1d.cli.main(arguments) in (0, None), command
            printed = capsys.readouterr().out
            assert doctest.OutputChecker().check_output(wanted, printed, doctest.ELLIPSIS), f"{name}: {printed}"


def missing_package(error):
    """The optional package that an ImportError, or its cause, names; None if it is another error."""
    for each in (error, error.__cause__):
        if isinstance(each, ModuleNotFoundError) and each.name.partition(".")[0] in OPTIONAL:
            return each.name
    return None


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_docstring_examples(module):
    missing = []
    try:
        examples = [test for test in doctest.DocTestFinder().find(importlib.import_module(module)) if test.examples]
    except ImportError as error:
        if missing_package(error) is None:
            raise
        pytest.skip(f"missing: {missing_package(error)}")
    assert examples
    for example in examples:
        try:
            run_doctest(example)
        except ImportError as error:
            if missing_package(error) is None:
                raise
            missing.append(missing_package(error))
    if missing:
        pytest.skip(f"the others ran; missing: {', '.join(missing)}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")  # its own use of NumPy
@pytest.mark.parametrize("page", PAGES)
def test_page(page, capsys, tmp_path, monkeypatch):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    names, missing = {"__name__": "__main__"}, []
    for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        try:
            for package in OPTIONAL:
                if re.search(rf"^(>>> )?(import|from) {package}\b", section, re.MULTILINE):
                    with warnings.catch_warnings():  # what they say of each other while they are loaded
                        warnings.simplefilter("ignore")
                        importlib.import_module(package)
            for kind, code in re.findall(r"^```(python|console)\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
                name = f"{page}, {section.splitlines()[0]}"
                if kind == "python":
                    run_python(code, names, name)
                else:
                    run_console(code, capsys, name)
        except ImportError as error:
            if missing_package(error) is None:
                raise
            missing.append(missing_package(error))
    if missing:
        pytest.skip(f"the rest of the page ran; missing: {', '.join(missing)}")


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook(notebook, tmp_path, monkeypatch):
    """Its cells run, in order and in an empty folder, and draw the picture that stands beside it."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    path, names = ROOT / "docs" / "gallery" / notebook, {"__name__": "__main__"}
    try:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), notebook, "exec"), names)
    except ImportError as error:
        if missing_package(error) is None:
            raise
        pytest.skip(f"missing: {missing_package(error)}")
    finally:
        plt.close("all")
    picture = path.with_suffix(".png").name
    assert (tmp_path / picture).stat().st_size > 10_000
    assert path.with_suffix(".png").exists()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/gallery/index.md",
        "docs/notes/gpu.md",
        "docs/notes/speed.md",
        *(f"docs/{page}" for page in PAGES),
    ],
)
def test_links(page):
    """What a page links to in the repository is there; headings too."""
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            file, _, _ = target.partition("#")
            assert (path.parent / file).exists(), target


def test_padding_modes_picture(tmp_path):
    """What is drawn outside the signal is numpy.pad's; inside, the curve of every mode goes through the same points."""
    script = runpy.run_path(str(ROOT / "docs" / "examples" / "padding_modes.py"))
    signal = script["SIGNAL"]
    middles = []
    for mode, of_numpy in (("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")):
        outside, values, at, y = script["case"](mode)
        (left,) = np.flatnonzero(np.diff(outside) > 1) + 1
        padded = np.pad(signal, (left, outside.size - left), mode=of_numpy)
        np.testing.assert_array_equal(values, padded[outside + left])
        assert at.size == y.size == signal.size * script["STRIDE"]
        middles.append(y[(at > 2.5) & (at < signal.size - 3.5)])
    assert np.ptp(middles, axis=0).max() == 0
    pytest.importorskip("matplotlib")
    script["draw"](tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_readme_example():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["y"].shape == (1, 256, 1600)
    last = next(line for line in code.splitlines() if line.startswith("conv_transpose1d"))
    shown = re.search(r"# array\(\[(\[.*\])\]\)", code).group(1)
    np.testing.assert_array_equal(eval(last, names)[0], np.array(eval(shown)))


def test_speed_tables():
    """Each row of the tables of layers is in the newest run."""
    newest = max((ROOT / "bench" / "results").glob("amd-epyc-zen4-*-1thread.json"))
    document = json.loads(newest.read_text(encoding="utf-8"))
    peers = ("convt1d", "torch", "onnxruntime", "openvino", "jax")
    measured = set()
    for layer in document["layers"]:
        times = " | ".join(f"{layer['implementations'][name]['median_us']:.0f}" for name in peers)
        measured.add(f"{times} | {layer['ratio_best']:.2f} ×")
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert document["date"][:10] in text
    rows = re.findall(r"^\| .*? [sk]\d+ \| (.*) \|$", text, re.MULTILINE)
    assert rows
    assert set(rows) <= measured


def test_decoder_tables():
    """Each row of the tables of decoders is in the newest run, in README.md and docs/decoders.md alike."""
    newest = max((ROOT / "bench" / "results").glob("intel-*-1thread-decoders.json"))
    document = json.loads(newest.read_text(encoding="utf-8"))
    measured = set()
    for results in document["parts"].values():
        for each in results.values():
            ours, *others = times = [value["median_ms"] for value in each["implementations"].values()]
            shown = [f"{time:.3g}" if time < 1000 else f"{time:.0f}" for time in times]
            measured.add((*shown, f"{min(others, default=0) / ours:.2f} ×"))
    for page, least in (("README.md", 5), ("docs/decoders.md", 20)):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert document["date"][:10] in text
        rows = [
            tuple(cell for cell in (cell.strip() for cell in line.split("|")[skipped:-1]) if cell)
            for line in text.splitlines()
            for skipped in (2 if page == "README.md" else 3,)
            if re.search(r"\d ×( \|)?$", line) and line.startswith("|")
        ]
        assert len(rows) >= least
        assert set(rows) <= measured


def test_learning_example(tmp_path):
    """The figures in docs/learning.md are what the script prints."""
    script = runpy.run_path(str(ROOT / "docs" / "examples" / "learned_upsampling.py"))
    cases = script["all_cases"]()
    assert script["report"](cases) in (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    pytest.importorskip("matplotlib")
    script["draw"](cases, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_pipelines(tmp_path):
    """The figures in docs/pipelines.md are what the script prints."""
    pytest.importorskip("sklearn")
    text = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    script = runpy.run_path(str(ROOT / "docs" / "examples" / "pipeline.py"))
    found = script["compare"]()
    assert script["table"](found["mse"]) in text
    assert script["table"](script["compare_decimations"]()) in text
    pytest.importorskip("matplotlib")
    script["draw"](found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_pictures_page(capsys):
    """The code in docs/pictures.md prints what is shown below it; its blocks `python plot` draw something."""
    pytest.importorskip("matplotlib").use("Agg")
    text = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    names = {}
    exec("".join(re.findall(r"```python(?: plot)?\n(.*?)```", text, re.DOTALL)), names)
    assert f"```\n{capsys.readouterr().out}```" in text
    assert all(ax.has_data() for ax in names["figure"].axes)
    names["plt"].close(names["figure"])


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
    first_weights = (initialize.linear, initialize.windowed_sinc, initialize.subpixel)
    explaining = (explain.arithmetic, explain.drawing, explain.overlap_report)
    plotting = (plot.plot_arithmetic, plot.plot_overlap, plot.plot_response)
    for function in (*functions, list_layers, *methods, *readers, *first_weights, *explaining, *plotting):
        for name in function.__code__.co_varnames[
            : function.__code__.co_argcount + function.__code__.co_kwonlyargcount
        ]:
            assert name in ("self", "cls") or re.search(
                rf"^ *(\w+, )*{name}(, \w+)* :", function.__doc__, re.MULTILINE
            ), name
