# SPDX-License-Identifier: MIT
"""Fast 1-D transposed convolution for NumPy.

How a call flows, and where things live::

    conv_transpose1d(x, weight, ...)          ConvTranspose1d(...)(x)
      functional.py                             layer.py, initialize.py (first weights)
          \\                                     /
           functional.Operator: the pipeline on one page
                |
    arguments   |  geometry.py    every check of a parameter; output length, halo
                |  arrays.py      every check of an array; result type, out=
                v
    choice      |  dispatch.py    geometry + type + machine -> kernel, weight blocks, tiles   (pure functions)
                |  padding.py     padding mode -> which samples lie outside the input        (index maps)
                |  threads.py     workers -> threads
                v
    kernel      |  cpu/_tiles.pyx   pack the weights once; for each tile:
                |                     load -> product -> gather      "direct" (SIMD), "gemm" (BLAS)
                |                     load -> both in registers      "fused"  (SIMD)
                |                  cpu/_leaves.inc   the SIMD leaves; _simd.h builds them for each instruction set
                |                  cpu/_blas.pxd     the only file that touches BLAS
                v
    output      y (N, C_out, L_out), each sample written once

    weights.py   weights from torch, ONNX, Keras, JAX and files -> a layer, and back: what each system means
    files.py     files from anyone, opened with care         onnx.py   the operator for ONNX' evaluator
    cli.py, __main__.py   the command `convt1d`          info.py   what `convt1d info` prints

A new padding mode is an index map in padding.py; a new check goes where its parameter is checked; a new kernel is a
leaf in cpu/_leaves.inc, its call in cpu/_tiles.pyx and a predicate in dispatch.choose_kernel.
"""

from .functional import conv_transpose1d
from .geometry import output_length
from .layer import ConvTranspose1d

__version__ = "0.1.0"

__all__ = ["ConvTranspose1d", "conv_transpose1d", "output_length"]
