# SPDX-License-Identifier: MIT
"""The operators inside torch, on the CPU: layers, and one line that puts them into a model.

    model.py      replace(model), freeze(model), restore(model)
    layers.py     ConvTranspose1d, Conv1d: torch's layers; only what they run differs
    steps.py      activations and BigVGAN's resamplers that are computed here, and which modules are such
    stream.py     stream(model, example): a decoder as a `ChainStream`; chain(model, example)
    operators.py  both operators as torch knows them, and the packed weights

Only this package needs torch when it is imported; nothing else in convt1d imports it.
"""

from __future__ import annotations

try:
    import torch as _  # noqa: F401
except ImportError as error:
    raise ImportError(f"convt1d.torch needs torch ({error}): pip install 'convt1d[torch]'") from error

from .layers import Conv1d, ConvTranspose1d
from .model import freeze, replace, restore
from .stream import chain, stream

__all__ = ["Conv1d", "ConvTranspose1d", "chain", "freeze", "replace", "restore", "stream"]
