# SPDX-License-Identifier: MIT
"""The extension modules and their OpenMP flags; everything else is in pyproject.toml."""

import os
import sys
from glob import glob

from setuptools import Extension, setup

FLAGS = {
    "linux": (["-O3", "-fopenmp"], ["-fopenmp"]),
    "darwin": (["-O3", "-Xpreprocessor", "-fopenmp"], ["-lomp"]),
    "win32": (["/O2", "/openmp"], []),
}
compile_args, link_args = FLAGS.get(sys.platform, (["-O3"], []))
# CONVT1D_OPENMP=0 builds without OpenMP: the same results on one thread.
if os.environ.get("CONVT1D_OPENMP", "1") == "0":
    compile_args, link_args = [flag for flag in compile_args if "O" in flag and "openmp" not in flag], []

setup(
    ext_modules=[
        Extension(
            f"convt1d.cpu.{name}",
            [f"convt1d/cpu/{name}.pyx"],
            depends=[path for pattern in ("*.h", "*.inc", "*.pxd") for path in glob(f"convt1d/cpu/{pattern}")],
            include_dirs=["convt1d/cpu"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for name in ("_correlate", "_runtime", "_tiles")
    ]
)
