# SPDX-License-Identifier: MIT
"""Weights from elsewhere: what torch, ONNX, Keras, JAX and MLX mean, in this package's terms.

Layout, and which part of the uncropped output is kept, differ from one system to the next::

    system                weight                        flipped   input
    torch, ONNX, Paddle   (C_in, C_out/groups, K)       no        (N, C_in, L)     ours
    Keras                 (K, C_out, C_in)              no        (N, L, C_in)
    JAX, Flax             (K, C_in/groups, C_out)       yes       (N, L, C_in)     transpose_kernel=True: as Keras
    MLX                   (C_out, K, C_in)              no        (N, L, C_in)

Each convention comes down to two numbers, the samples cropped on the left and on the right (`parts.crops`).
Every reader returns a checked geometry, the weight, and the bias or None; the classmethods of `ConvTranspose1d`
make a layer of them and hold the documentation::

    sources.py     a file, by its suffix, or a folder of shards -> one of these
      state.py       names to arrays: states and modules of torch, .safetensors, .npz
      onnx.py        nodes of a model, and to_onnx
        constants.py   values of a model that follow from stored tensors
      keras_jax.py   layers and kernels
    parts.py       LayerInfo, and what all of them share

`../files.py` opens the files and bounds what they may claim.
"""

from .keras_jax import from_jax, from_keras
from .onnx import from_onnx, onnx_geometry, to_onnx
from .parts import LayerInfo
from .sources import from_file, list_layers, refuse_pickle, save
from .state import from_state_dict, from_torch

__all__ = [
    "LayerInfo",
    "from_file",
    "from_jax",
    "from_keras",
    "from_onnx",
    "from_state_dict",
    "from_torch",
    "list_layers",
    "onnx_geometry",
    "refuse_pickle",
    "save",
    "to_onnx",
]
