# SPDX-License-Identifier: MIT
"""The shape of the code: no long function, no large struct, no kernel known outside its own files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "convt1d"
MOST_LINES, MOST_FIELDS, MOST_IDENTITY_TESTS = 90, 16, 8
KERNELS = ("direct", "gemm", "fused", "winograd", "fused_winograd", "columns", "rows")

pytestmark = pytest.mark.skipif(not (ROOT / "cpu" / "_tiles.pyx").exists(), reason="needs the sources")


def sources(*endings):
    return sorted(path for path in ROOT.rglob("*") if path.suffix in endings)


def without_docstring(node):
    lines, first = node.end_lineno - node.lineno + 1, node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= first.end_lineno - first.lineno + 1
    return lines


def python_functions():
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node.name, without_docstring(node)


def cython_functions():
    for path in sources(".pyx", ".pxd"):
        text = re.sub(r'"""(.|\n)*?"""', "", path.read_text(encoding="utf-8"))
        for block in re.split(r"\n(?=(?:    )?(?:cdef|def|cpdef) |\S)", text):
            found = re.match(r"\s*(?:cdef|def|cpdef) [^(]*?(\w+)\(", block)
            if found:
                yield path, found[1], len(block.strip().splitlines())


def c_functions():
    """Blocks between braces at the start of a line, and macros of several lines."""
    for path in sources(".h", ".inc", ".cu", ".cuh"):
        lines, start = path.read_text(encoding="utf-8").splitlines(), 0
        for i, line in enumerate(lines):
            if re.match(r"\S", line) and not line.startswith(("}", "{")):
                start = i
            if line.startswith("}"):
                yield path, lines[start], i - start + 1
        for macro in re.finditer(r"^#define .*(?:\\\n.*)+", "\n".join(lines), re.MULTILINE):
            yield path, macro[0].splitlines()[0], len(macro[0].splitlines())


def test_no_function_is_long():
    found = [*python_functions(), *cython_functions(), *c_functions()]
    assert len(found) > 500
    assert [(path.name, name, lines) for path, name, lines in found if lines > MOST_LINES] == []


def python_structs():
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield path, node.name, sum(isinstance(entry, ast.AnnAssign) for entry in node.body)


def cython_structs():
    for path in sources(".pyx", ".pxd"):
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        for found in re.finditer(r"^( *)c(?:type)?def struct (\w+):\n((?:\1    .*\n|\s*\n)*)", text, re.MULTILINE):
            body = re.sub(r"\(\*(\w+)\)\([^()]*\)[^\n]*", r"\1", found[3])  # pointers to functions
            fields = re.findall(r"^ *[\w ]+? \*{0,2}\(?\*?(\w+(?:\[\w+\])?(?:, *\*?\w+)*)", body, re.MULTILINE)
            yield path, found[2], sum(len(names.split(",")) for names in fields)


def c_structs():
    """Fields of each struct: what stands before a semicolon outside inner braces, functions and constants left out."""
    for path in sources(".h", ".inc", ".cu", ".cuh"):
        text = re.sub(r"/\*(.|\n)*?\*/|//.*", "", path.read_text(encoding="utf-8"))
        for found in re.finditer(r"\bstruct\b[^{;()=]*\{", text):
            body, depth = "", 1
            for c in text[found.end() :]:
                depth += (c == "{") - (c == "}")
                if depth == 0:
                    break
                body += ";" if c == "}" and depth == 1 else c if depth == 1 else ""
            fields = [
                field
                for field in body.split(";")
                if field.strip()
                and not re.search(r"\w\s*\(|\bstatic\b|\benum\b|\busing\b", re.sub(r"\(\*\w+\)\([^()]*\)", "", field))
            ]
            yield (
                path,
                found[0][:40],
                sum(len(re.sub(r"<[^<>]*>|\([^()]*\)", "", field).split(",")) for field in fields),
            )


def test_no_struct_is_large():
    found = [*python_structs(), *cython_structs(), *c_structs()]
    assert len(found) > 100
    assert [(path.name, name, fields) for path, name, fields in found if fields > MOST_FIELDS] == []


def test_kernels_are_known_in_their_own_files():
    """Places that compare a kernel's name or ask for a flag of one, outside the kernel's own files."""
    quoted = "|".join(f'"{name}"' for name in KERNELS)
    asked = re.compile(rf"(?:==|!=|\bin\b|\bis\b) *\(?(?:{quoted})|(?:{quoted}) *(?:==|!=|\bin\b)|\.kernel *(?:==|!=)")
    flags = re.compile(r"\b(?:if|elif|and|or|not|while)\b[^#]*\.(?:is_)?(?:winograd|fused|gemm|direct)\b(?!\()")
    found = []
    for path in sources(".py", ".pyx", ".pxd", ".h"):
        if path.parent.name == "kernels" and path.stem in KERNELS:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = line.split("#")[0]
            if asked.search(code) or flags.search(code):
                found.append((path.name, number, line.strip()))
    assert len(found) <= MOST_IDENTITY_TESTS, found
