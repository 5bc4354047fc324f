# SPDX-License-Identifier: MIT
"""Fast 1-D transposed convolutions and convolutions for NumPy, and whole audio decoders made of them.

How a call flows, and where things live::

    conv_transpose1d(x, weight, ...)  conv1d(...)             ConvTranspose1d(...)(x)      Conv1d(...)(x)
      functional.py                                             layer.py                     conv.py
          \\                                                      /
           operator.Operator: the pipeline on one page  ---------
                |
    arguments   |  geometry.py    every check of a parameter; output length, halo, polyphase branches
                |  arrays.py      every check of an array; result type, out=
                v
    choice      |  cpu/problem.py   geometry + type -> what any kernel asks          cpu/machine.py, cpu/tuning.py
                |  cpu/kernels/     the first kernel that accepts: blocks, pieces, tile    (pure functions, cpu/plan.py)
                |  padding.py       padding mode -> which samples lie outside the input    (index maps)
                |  threads.py       workers -> threads
                v
    kernel      |  cpu/_tiles.pyx   pack the weights once; for each tile, weight block and piece: load -> run -> finish
                |                     direct           sums in registers -> columns -> interleave
                |                     gemm             the same by BLAS
                |                     fused            sums and interleave in registers
                |                     winograd         three products for two columns of two taps -> interleave
                |                     fused_winograd   these and the interleave in registers
                |                   load applies an activation to x; finish one to y, and adds a residual
                |                   cpu/__init__.py maps the folder and explains its words
                v
    output      y (N, C_out, L_out)      memory.py   where a large new one lies

    cuda/   the same where x is on a GPU; cuda/__init__.py maps it

    conv_transpose1d_backward(grad_output, x, weight, ...)          ConvTranspose1d.backward
      gradients.py    grad_x        Operator again, with a ConvGeometry: the adjoint is a convolution
                      grad_weight   cpu/gradient.py, cpu/_correlate.pyx
                      grad_bias     a sum

    chain.py        Chain(...), Sum(...): layers one after the other and side by side, whole signals and streams of them
    activations.py  Snake(alpha), LeakyReLU(slope), ...: alone, or in a layer's pass
    stream.py       ConvTranspose1dStream(layer): the same on a signal that arrives in chunks     buffer.py  its samples
    conv_stream.py  Conv1dStream(layer)
    initialize.py   first weights
    fit.py   weights from examples: sums over them, one small linear system per branch (layer.fit, layer.partial_fit)
    weights/     weights from torch, ONNX, Keras, JAX, MLX and files -> a layer, and back: what each system means
    files.py     files from anyone, opened with care         onnx.py   the operator for ONNX' evaluator
    torch.py     torch's layer, computed here; replace(model) puts it into a model
    sklearn.py   a transformer for scikit-learn's pipelines
    explain.py   which samples and taps make which output, and how evenly      plot.py   the same as pictures
    dask.py      the function on dask arrays: each chunk of the output is a window of the operator
    cli.py, __main__.py   the command `convt1d`          info.py   what `convt1d info` prints
    sound.py     sound files, for the command

CONTRIBUTING.md lists the places of a new kernel, instruction set, padding mode, epilogue or check.
"""

from . import activations
from .chain import Chain, Sum
from .conv import Conv1d
from .conv_stream import Conv1dStream
from .functional import conv1d, conv_transpose1d, conv_transpose1d_backward
from .geometry import output_length
from .layer import ConvTranspose1d
from .stream import ConvTranspose1dStream

__version__ = "0.1.0"

__all__ = [
    "Chain",
    "Conv1d",
    "Conv1dStream",
    "ConvTranspose1d",
    "ConvTranspose1dStream",
    "Sum",
    "activations",
    "conv1d",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "output_length",
]
