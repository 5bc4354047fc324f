# SPDX-License-Identifier: MIT
"""A layer's weights on devices, and its calls there as programs."""

from __future__ import annotations

import threading

import numpy as np

from .. import arrays
from .. import geometry as geometry_module
from ..geometry import Geometry
from ..operator import Calls
from . import backend as backends
from . import policy
from .problem import Call, Problem
from .program import Launch, Pointer, Product, program


class DeviceOperator:
    """A geometry with its weights on devices: what operator.Operator runs where x is on one.

    `weight` and `bias` are NumPy arrays, copied once per device, type and kernel, or arrays of the device x is on.
    A workspace that a CUDA graph has captured is kept as long as the operator.
    """

    def __init__(self, geometry: Geometry, weight, bias):
        self.geometry = geometry
        self.weight = weight
        self.bias = bias
        self._copies: dict = {}
        self._calls = Calls()
        self._captured: list = []
        self._lock = threading.Lock()

    def __call__(self, backend, x, output_size=None, out=None, precision="float32"):
        arrays.check_kind("x", x, (2, 3))
        arrays.check_channels("x", x, self.weight, self.geometry.in_channels)
        output_padding = None
        if output_size is not None:
            output_padding = geometry_module.output_padding_for(self.geometry, x.shape[-1], output_size, x.shape)
        key = (x.dtype, x.shape, output_padding, precision, backend.capability)
        call = self._calls.get(key)
        if call is None:
            call = self._calls.remember(key, self._prepare(x, output_padding, precision, backend.capability))
        made, dtype, shape = call
        if out is None:
            out = backend.empty(shape, dtype)
        else:
            self._check_out(backend, out, shape, dtype, x)
        if made is None:  # N = 0
            return out
        capturing = backend.capturing()
        if capturing:
            self._check_capture(backend, made, dtype, x)
        buffers = self._weights(backend, made.kernel, made.problem, made.form)
        x = backend.plain(x, dtype)
        work = backend.allocate(made.work) if made.work else None
        if capturing and work is not None:
            self._captured.append(work)
        addresses = {"bias": 0, "work": 0}  # the null pointer: none
        for name, array in {**buffers, "x": x, "y": out, "work": work}.items():
            if array is not None:
                addresses[name] = backend.pointer(array)
        for step in made.steps:
            if type(step) is Launch:
                backend.launch(dtype, step, _resolved(step.pointers, addresses))
            else:
                backend.product(dtype, Product(*_resolved(step, addresses)), precision == "tf32")
        return out

    def prepare(self, backend) -> None:
        """Copy the weights to a device, in their own type."""
        problem = Problem(self.geometry, self.weight.dtype, capability=backend.capability)
        kernel = policy.choose(problem)
        self._weights(backend, kernel, problem, kernel.form(problem))

    def _prepare(self, x, output_padding, precision, capability):
        extra = () if output_padding is None else (output_padding,)
        window = self.geometry.window(x.shape[-1], *extra)
        dtype = arrays.result_dtype(x.dtype, self.weight.dtype)
        shape = (*x.shape[:-2], self.geometry.out_channels, window.length)
        arrays.check_size("the output", shape, arrays.compute_dtype(dtype))
        batch = x.shape[0] if x.ndim == 3 else 1
        made = None
        if batch:
            problem = Problem(self.geometry, dtype, precision, x.shape[-1], capability)
            made = program(policy.choose(problem), Call(problem, batch, x.shape[-1], window))
        return made, dtype, shape

    def _weights(self, backend, kernel, problem, form):
        """Weights and bias on the backend's device, as the kernel wants them."""
        key = (backend.device, problem.dtype.name, kernel.NAME, form)
        found = self._copies.get(key)
        if found is None:
            with self._lock:  # two threads would copy twice, and one free what the other's kernels read
                found = self._copies.get(key)
                if found is None:
                    self._copies[key] = found = self._arrange(backend, kernel, problem)
        return found

    def _arrange(self, backend, kernel, problem):
        dtype = problem.dtype
        compute = arrays.compute_dtype(dtype)
        if self.bias is not None:
            arrays.check_cast("bias", self.bias.dtype, compute)
        if not backend.holds(self.weight):
            found = kernel.arranged(np, arrays.cast("weight", self.weight, dtype), problem)
            if self.bias is not None:
                found["bias"] = np.ascontiguousarray(arrays.cast("bias", self.bias, compute))
            return {name: backend.upload(array) for name, array in found.items()}
        found = kernel.arranged(backend.xp, backend.plain(self.weight, dtype), problem)
        if self.bias is not None:
            found["bias"] = backend.plain(self.bias, compute)
        return found

    def _check_capture(self, backend, made, dtype, x):
        """A graph runs again on the same memory: none of it may be given back when the call returns."""

        def stays(array, wanted):
            return array is None or (backend.holds(array) and array.dtype == wanted and array.flags.c_contiguous)

        weights = stays(self.weight, dtype) and stays(self.bias, arrays.compute_dtype(dtype))
        if any(type(step) is Product for step in made.steps):
            reason = f"kernel {made.kernel.NAME!r}, which was chosen for it, multiplies through cuBLAS"
        elif not stays(x, dtype):
            reason = f"x must be C-contiguous and of dtype {dtype.name}, got {x.dtype} with strides {x.strides}"
        elif (backend.device, dtype.name, made.kernel.NAME, made.form) not in self._copies and not (
            weights and not made.form
        ):
            reason = "the weights are not on the device as its kernel wants them; call the layer once before"
        else:
            return
        raise RuntimeError(f"a CUDA graph cannot capture this call: {reason}")

    def _check_out(self, backend, out, shape, dtype, x):
        if not backend.holds(out):
            raise TypeError(f"out must be an array on the device of x, {backend.name}, got {backend.describe(out)}")
        if out.shape != shape:
            raise ValueError(f"out must have shape {shape}, got {out.shape}")
        if out.dtype != dtype:
            raise TypeError(f"out must have dtype {dtype.name}, got {out.dtype}")
        if not out.flags.c_contiguous or backend.pointer(out) % dtype.itemsize:
            raise ValueError(f"out must be C-contiguous and aligned, got strides {out.strides}")
        inputs = {"x": x, "weight": self.weight, "bias": self.bias}
        for name, array in inputs.items():
            if array is not None and backend.holds(array) and _overlap(backend, out, array):
                raise ValueError(f"out must not overlap {name}, got arrays that share memory")


def _resolved(args, addresses):
    """`args` with addresses in the place of pointers."""
    return [addresses[a.buffer] + a.offset if type(a) is Pointer else a for a in args]


def _overlap(backend, a, b) -> bool:
    """Whether the bytes between the first and the last element of each have any in common."""
    (a0, a1), (b0, b1) = _bounds(backend, a), _bounds(backend, b)
    return a0 < b1 and b0 < a1


def _bounds(backend, a):
    if a.size == 0:
        return 0, 0
    reach = [(n - 1) * stride for n, stride in zip(a.shape, a.strides, strict=True)]
    first = backend.pointer(a) + sum(min(r, 0) for r in reach)
    return first, backend.pointer(a) + sum(max(r, 0) for r in reach) + a.dtype.itemsize


def prepare(operator: DeviceOperator, device: int | None) -> None:
    """Copy an operator's weights to a device; None is CuPy's current one."""
    cupy = backends.import_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"there is no CUDA device that CuPy can use: {error}") from error
    if device is None:
        device = cupy.cuda.runtime.getDevice()
    if not device < count:
        raise ValueError(f"device must be one of the {count} CUDA devices here, 'cuda:0' and on, got 'cuda:{device}'")
    with cupy.cuda.Device(device):
        operator.prepare(backends.backend_for(device))
