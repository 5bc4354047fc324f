# SPDX-License-Identifier: MIT
"""Fast 1-D transposed convolutions and convolutions for NumPy, and whole audio decoders made of them.

::

    >>> import numpy as np
    >>> import convt1d
    >>> layer = convt1d.ConvTranspose1d(512, 256, 16, stride=8, padding=4)      # weights are prepared once
    >>> layer(np.zeros((1, 512, 200), np.float32)).shape
    (1, 256, 1600)
    >>> weight = np.array([[[0.5, 1.0, 0.5]]])                                  # linear interpolation
    >>> convt1d.conv_transpose1d([[1.0, 2.0, 4.0]], weight, stride=2, padding=1)
    array([[1. , 1.5, 2. , 3. , 4. ]])

``help(convt1d.ConvTranspose1d)`` has every argument, ``dir(convt1d)`` every name; submodules such as `convt1d.weights`
are imported when they are first used. The command ``convt1d --help`` lists the commands.

For those who work on it: how a call flows, and where things live::

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
                |                     winograd         two columns by three products for two taps, four for three
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
    files.py     files from anyone, opened with care
    onnx.py      accelerate(model); the operator for ONNX' evaluator
    graph.py     a model's operations, from torch or ONNX -> a Chain
    torch/       torch's layers, computed here; replace(model) puts them into a model
    sklearn.py   a transformer for scikit-learn's pipelines
    explain.py   which samples and taps make which output, and how evenly      plot.py   the same as pictures
    dask.py      the function on dask arrays: each chunk of the output is a window of the operator
    cli.py, __main__.py   the command `convt1d`          info.py   what `convt1d info` prints
    sound.py     sound files, for the command

CONTRIBUTING.md lists the places of a new kernel, instruction set, padding mode, epilogue or check.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from . import _compiled

_compiled.check(__name__, __path__)

if TYPE_CHECKING:
    from . import activations, dask, explain, initialize, onnx, plot, sklearn, threads, torch, weights  # noqa: F401
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

# Names and submodules are imported when they are first used (SPEC 1), so that `import convt1d` is quick.
_HOMES = {
    "Chain": "chain",
    "Conv1d": "conv",
    "Conv1dStream": "conv_stream",
    "ConvTranspose1d": "layer",
    "ConvTranspose1dStream": "stream",
    "Sum": "chain",
    "conv1d": "functional",
    "conv_transpose1d": "functional",
    "conv_transpose1d_backward": "functional",
    "output_length": "geometry",
}
_SUBMODULES = {"activations", "dask", "explain", "initialize", "onnx", "plot", "sklearn", "threads", "torch", "weights"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES, "__version__", "__doc__"})
