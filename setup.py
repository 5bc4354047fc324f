# SPDX-License-Identifier: MIT
"""The extension modules: OpenMP flags, stable ABI, coverage; everything else is in pyproject.toml.

prange is compiled as OpenMP. But on Windows the modules link to no runtime: convt1d/cpu/libgomp_team.c stands for it.
"""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup

OPENMP = {"darwin": ["-Xpreprocessor", "-fopenmp"], "win32": ["/openmp"]}
# -O3 makes an eighth more code and only activations faster: activate.inc asks for it. Other loops say what is unrolled.
compile_args, link_args = ["/O2" if sys.platform == "win32" else "-O2"], []
# CONVT1D_OPENMP=0 builds without OpenMP: the same results on one thread.
openmp = os.environ.get("CONVT1D_OPENMP", "1") != "0"
if openmp:
    compile_args += OPENMP.get(sys.platform, ["-fopenmp"])
# Python's own flags ask for debug symbols, five sixths of the extensions' bytes; CFLAGS=-g keeps them.
if sys.platform != "win32" and "-g" not in os.environ.get("CFLAGS", "").split():
    compile_args = [*compile_args, "-g0", "-fno-asynchronous-unwind-tables"]
    link_args = [*link_args, *["-Wl,-s"] * (sys.platform == "linux")]
# CONVT1D_COVERAGE=1 counts how often each line of C runs (.ci/coverage).
if os.environ.get("CONVT1D_COVERAGE", "0") == "1":
    # atomic: prange's threads count too
    compile_args = [*compile_args, "-O1", "--coverage", "-fprofile-update=atomic"]
    link_args = [*link_args, "--coverage"]
# One wheel for every CPython from the one that builds it on, so build with the oldest: from 3.12 on the headers take
# True, False and None for immortal, and what they make ends 3.11 with "deallocating True or False". Free-threaded
# builds have no stable ABI that Cython can use.
abi3 = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
major, minor = sys.version_info[:2]

modules = {name: [f"convt1d/cpu/{name}.pyx"] for name in ("_correlate", "_runtime", "_tiles")}
if openmp and sys.platform != "win32":
    modules["libgomp_team"] = ["convt1d/cpu/libgomp_team.c"]

setup(
    ext_modules=[
        Extension(
            f"convt1d.cpu.{name}",
            sources,
            depends=[
                path
                for pattern in ("*.h", "*.inc", "*.pxd")
                for path in glob(f"convt1d/cpu/**/{pattern}", recursive=True)
            ],
            include_dirs=["convt1d/cpu", *["convt1d/cpu/openmp"] * (sys.platform != "win32")],
            define_macros=[("Py_LIMITED_API", f"0x{major:02X}{minor:02X}0000")] if abi3 else [],
            py_limited_api=abi3,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for name, sources in modules.items()
    ],
    options={"bdist_wheel": {"py_limited_api": f"cp{major}{minor}"} if abi3 else {}},
)
