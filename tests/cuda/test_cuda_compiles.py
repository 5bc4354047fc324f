# SPDX-License-Identifier: MIT
"""The GPU path's source compiles for each architecture, within bounds of registers and spills.

With nvcc, or else with NVRTC (which is what CuPy uses, and needs no GPU either): pip install nvidia-cuda-nvrtc.
"""

import ctypes
import functools
import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_fake
import pytest

from convt1d.cuda import backend

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
KERNELS = {"direct", "direct4", "direct8", "direct16", "extend", "interleave", "pack", "unpack", "reduce"}
FUSED = {
    "float32": {f"fused{rows}_{precision}" for rows in (64, 128) for precision in ("float32", "tf32", "3xtf32")},
    "float16": {"fused64", "fused128"},
    "bfloat16": {"fused64", "fused128"},
}
# What CuPy passes, and what a user may: a warning would be printed once at every first use.
OPTIONS = ("-std=c++17", "-ftz=true")


def find_nvcc():
    places = [os.environ.get(name, "") + "/bin/nvcc" for name in ("CUDA_HOME", "CUDA_PATH")]
    places += [shutil.which("nvcc") or "", *sorted(glob.glob("/usr/local/cuda*/bin/nvcc"), reverse=True)]
    return next((place for place in places if Path(place).is_file()), None)


def find_nvrtc():
    """The library of the package nvidia-cuda-nvrtc, by its path."""
    for folder in sys.path:
        found = sorted(Path(folder or ".").glob("nvidia/*/lib/libnvrtc.so.*"))
        found = [path for path in found if "alt" not in path.name]
        if found:
            return found[0]
    return None


def text():
    """The source, with assertions that the parameter structs lie as the host's do."""
    return backend.source() + cuda_fake.layout_assertions()


def with_nvcc(nvcc, folder, number, architecture):
    source = folder / "source.cu"
    source.write_text(text(), encoding="utf-8")
    run = subprocess.run(
        [
            *(nvcc, "-cubin", *OPTIONS, "-Xptxas", "-v", f"-arch=sm_{architecture}", f"-DCONVT1D_TYPE={number}"),
            *(str(source), "-o", str(folder / "source.cubin")),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


@functools.cache
def load_nvrtc(path):
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC looks for it by name only
    return ctypes.CDLL(str(path))


def with_nvrtc(path, folder, number, architecture):
    nvrtc = load_nvrtc(path)
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text().encode(), b"source.cu", 0, None, None) == 0
    options = [*OPTIONS, "--ptxas-options=-v", f"-arch=sm_{architecture}", f"-DCONVT1D_TYPE={number}"]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options))
    )
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()
    return log.value.decode()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Compile for a type and an architecture; what ptxas has to say."""
    folder = tmp_path_factory.mktemp("compiled")
    if find_nvcc():
        return functools.partial(with_nvcc, find_nvcc(), folder)
    if find_nvrtc():
        return functools.partial(with_nvrtc, find_nvrtc(), folder)
    pytest.skip("neither nvcc nor NVRTC (pip install nvidia-cuda-nvrtc) is here to compile the kernels")


def expected(number):
    return KERNELS | FUSED.get(backend.TYPES[number], set())


def resources(log):
    """Registers and bytes of spills of each kernel."""
    found = {}
    for name, text in re.findall(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry|\Z)", log, re.DOTALL):
        registers = int(re.search(r"Used (\d+) registers", text).group(1))
        found[name] = registers, sum(map(int, re.findall(r"(\d+) bytes spill", text)))
    return found


# float32 on the oldest, a middle and the newest, the widest type and one of software conversions on the oldest; of the
# others, which take some minutes, each type on the newest, or with CONVT1D_FULL=1 all.
FULL = os.environ.get("CONVT1D_FULL") == "1"
PAIRS = [(number, architecture) for number in range(len(backend.TYPES)) for architecture in ARCHITECTURES]
QUICK = [*((0, architecture) for architecture in ARCHITECTURES[::3]), (3, ARCHITECTURES[0]), (5, ARCHITECTURES[0])]


@pytest.mark.parametrize(
    ("number", "architecture"),
    [
        pytest.param(
            *pair, marks=() if pair in QUICK else pytest.mark.slow, id=f"{backend.TYPES[pair[0]]}-sm_{pair[1]}"
        )
        for pair in PAIRS
        if FULL or pair in QUICK or pair[1] == ARCHITECTURES[-1]
    ],
)
def test_compiles(compiled, number, architecture):
    log = compiled(number, architecture)
    assert "warning" not in log.lower(), log
    used = resources(log)
    assert set(used) == expected(number)
    for name, (registers, spilled) in used.items():
        if name.startswith("fused"):  # two blocks to a multiprocessor of 128 rows, three of 64, which has 64 Ki of them
            assert registers <= (255 if "128" in name else 168), name
            # a few indices that a tile begins with; of 3xTF32, whose factors take twice the registers, some more
            assert spilled <= (1024 if "3xtf32" in name else 64), name
            continue
        # At 256 threads a multiprocessor holds two blocks of 128 registers, three of 80, four of most kernels.
        assert registers <= 128, name
        # indices that one pass needs, not what the inner loops read
        assert spilled <= 256, name


def test_both_compilers(compiled, tmp_path):
    """nvcc, which the tests above used, and NVRTC, which CuPy uses, take the same source."""
    if not (find_nvcc() and find_nvrtc()):
        pytest.skip("one of nvcc and NVRTC is missing, the other was used above")
    for number in (2, 5):
        assert set(resources(with_nvrtc(find_nvrtc(), tmp_path, number, 90))) == expected(number)
