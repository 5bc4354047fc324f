# SPDX-License-Identifier: MIT
"""Fast 1-D transposed convolution for NumPy.

How a call flows, and where things live::

    conv_transpose1d(x, weight, ...)          ConvTranspose1d(...)(x)                    conv1d(x, weight, ...)
      functional.py                             layer.py, initialize.py (first weights)    convolution.py
          \\                                     /                                         /
           functional.Operator: the pipeline on one page  ---------------------------------
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
                |                     load pairs -> three products for two columns -> gather   "winograd"  (SIMD)
                |                     load pairs -> all three and gather in registers     "fused_winograd"
                |                  cpu/_load.pxd     reading a signal, continued by its mode, or split into phases
                |                  cpu/_leaves.inc   the SIMD leaves; _simd.h builds them for each instruction set
                |                  cpu/_blas.pxd     the only file that touches BLAS
                |                  cpu/_runtime.pyx  SIMD level, OpenMP and forks, workspaces
                v
    output      y (N, C_out, L_out), each sample written once      memory.py   where a large new one lies

    cuda/   the same where x is on a GPU: dispatch.py chooses and cuts, launch.py makes a program of launches and
            products, kernels.cu and fused.cu hold the kernels, interchange.py takes CuPy's arrays and torch's tensors

    conv_transpose1d_backward(grad_output, x, weight, ...)          ConvTranspose1d.backward
      gradients.py    grad_x        Operator again, with a ConvGeometry: the adjoint is a convolution
                      grad_weight   cpu/_correlate.pyx
                      grad_bias     a sum

    stream.py   ConvTranspose1dStream(layer): the same on a signal that arrives in chunks
    fit.py   weights from examples: sums over them, one small linear system per slot (layer.fit, layer.partial_fit)
    weights.py   weights from torch, ONNX, Keras, JAX and files -> a layer, and back: what each system means
    files.py     files from anyone, opened with care         onnx.py   the operator for ONNX' evaluator
    torch.py     torch's layer, computed here; replace(model) puts it into a model
    sklearn.py   a transformer for scikit-learn's pipelines
    explain.py   which samples and taps make which output, and how evenly      plot.py   the same as pictures
    dask.py      the function on dask arrays: each chunk of the output is a window of the operator
    cli.py, __main__.py   the command `convt1d`          info.py   what `convt1d info` prints

A new padding mode is an index map in padding.py; a new check goes where its parameter is checked; a new kernel is a
leaf in cpu/_leaves.inc, its call in cpu/_tiles.pyx and a predicate in dispatch.choose_kernel (on a GPU: a function in
cuda/*.cu, its launch in cuda/launch.py and a predicate in dispatch.choose_cuda_kernel).
"""

from .convolution import conv1d
from .functional import conv_transpose1d
from .geometry import output_length
from .gradients import conv_transpose1d_backward
from .layer import ConvTranspose1d
from .stream import ConvTranspose1dStream

__version__ = "0.1.0"

__all__ = [
    "ConvTranspose1d",
    "ConvTranspose1dStream",
    "conv1d",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "output_length",
]
