# SPDX-License-Identifier: MIT
"""Whose arrays they are: CuPy's and torch's, on one device and one stream, and a result of x's kind."""

from __future__ import annotations

import contextlib
import sys

import numpy as np

from .. import arrays
from ..arrays import is_cupy, is_device_array, is_torch
from . import backend as backends
from .operator import DeviceOperator


def run(operator: DeviceOperator, x, output_size, out, precision):
    """`operator` on x's device: on torch's current stream if x is a tensor, on CuPy's if it is an array."""
    if out is not None and (not is_device_array(out) or is_torch(out) != is_torch(x)):
        raise TypeError(f"out must be an array like x, {_described(x)} on cuda:{device_of(x)}, got {_described(out)}")
    if out is not None and device_of(out) != device_of(x):
        raise ValueError(f"out must be on the device of x, cuda:{device_of(x)}, got cuda:{device_of(out)}")
    with on_stream_of(x) as backend:
        own, given = borrow("x", x), None if out is None else borrow("out", out)
        if given is None and is_torch(x):
            backend = _TorchMemory(backend, x)
        y = operator(backend, own, output_size, given, precision)
    if out is not None:
        return out
    return backend.tensor if isinstance(backend, _TorchMemory) else y


def operands(x, weight, bias):
    """Weight and bias of a call of the function, as CuPy arrays on the device of x."""
    given = {"x": x, "weight": weight, "bias": bias}
    given = {name: value for name, value in given.items() if value is not None}
    here = [name for name, value in given.items() if is_device_array(value)]
    there = [name for name in given if name not in here]
    if there:
        raise TypeError(
            f"{' and '.join(there)} must be on the GPU as {' and '.join(here)}, got {_described(given[there[0]])}; "
            f"move it: cupy.asarray({there[0]}). A layer, ConvTranspose1d, keeps its weights on both sides"
        )
    if len({is_torch(value) for value in given.values()}) > 1:  # they would be on two streams
        kinds = ", ".join(f"{name} of {_described(value)}" for name, value in given.items())
        raise TypeError(f"{', '.join(given)} must all be CuPy arrays or all torch tensors, got {kinds}")
    devices = {name: device_of(value) for name, value in given.items()}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on cuda:{device}" for name, device in devices.items())
        raise ValueError(f"{', '.join(given)} must be on one device, got {where}")
    with on_stream_of(x):
        weight = borrow("weight", weight)
        return weight, None if bias is None else borrow("bias", bias)


def as_shaped(name, value, shape):
    """What arrays.as_shaped is for arrays of the CPU."""
    arrays.check_kind(name, value)
    arrays.check_shape(name, value, shape)
    return value


@contextlib.contextmanager
def on_stream_of(x):
    """Device and stream of x made current; yields the backend."""
    backend = backends.backend_for(device_of(x))
    cupy = backend.xp
    with cupy.cuda.Device(backend.device):
        if not is_torch(x):
            yield backend
            return
        pointer = sys.modules["torch"].cuda.current_stream(x.device).cuda_stream
        stream = cupy.cuda.Stream.from_external(_Stream(pointer)) if pointer else cupy.cuda.Stream.null
        with stream:
            yield backend


def device_of(value) -> int:
    return value.device.id if is_cupy(value) else value.device.index


def borrow(name, value):
    """A CuPy array of the same memory, ready on the current stream."""
    if is_cupy(value):
        return value
    torch = sys.modules["torch"]
    if value.requires_grad and torch.is_grad_enabled():
        raise TypeError(f"{name} requires a gradient, which this call would lose: use torch.no_grad() or detach() it")
    tensor = value.detach().resolve_conj().resolve_neg()
    cupy = backends.import_cupy()
    if tensor.dtype == torch.bfloat16:  # CuPy takes none through DLPack
        return cupy.from_dlpack(tensor.view(torch.int16)).view(_bfloat16())
    return cupy.from_dlpack(tensor)


class _Stream:
    """A stream by its address, as the CUDA stream protocol has it; not every version of torch's own has it."""

    def __init__(self, pointer):
        self.pointer = pointer

    def __cuda_stream__(self):
        return 0, self.pointer


class _TorchMemory:
    """A backend whose output is a tensor: in torch's memory, which torch frees in its own order."""

    def __init__(self, backend, x):
        self._backend = backend
        self._device = x.device

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def empty(self, shape, dtype):
        torch = sys.modules["torch"]
        self.tensor = torch.empty(shape, dtype=getattr(torch, dtype.name), device=self._device)
        return borrow("out", self.tensor)


def _bfloat16():
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("bfloat16 needs ml_dtypes: pip install ml_dtypes") from error
    return np.dtype(ml_dtypes.bfloat16)


def _described(value) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
