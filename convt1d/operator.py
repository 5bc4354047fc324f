# SPDX-License-Identifier: MIT
"""The whole pipeline on one page: checked geometry, kernel choice, kernel, output."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import arrays, cuda, memory, padding, threads
from . import geometry as geometry_module
from .activations import Activation, as_activation
from .geometry import ConvGeometry, Geometry, Window

if TYPE_CHECKING:
    from .cuda.operator import DeviceOperator


# Bytes of what `Calls` remembers at most.
_MOST_BYTES = 4 * 1024 * 1024


class Calls(dict[Any, Any]):
    """What was prepared for calls, by their types and shapes: 512 of them or 4 MiB, then all are forgotten."""

    _bytes = 0

    def remember(self, key: Any, call: Any, size: int = 0) -> Any:
        """Remember a call that takes `size` bytes beside a few hundred."""
        if len(self) >= 512 or self._bytes + size > _MOST_BYTES:
            self.clear()
            self._bytes = 0
        self._bytes += size
        self[key] = call
        return call


class Pointwise(NamedTuple):
    """What a call computes in the layer's pass: y = after(layer(before(x))) + add."""

    before: Activation | None
    after: Activation | None
    add: np.ndarray | None

    @staticmethod
    def of(before: Any, after: Any, add: Any, geometry: Geometry | ConvGeometry) -> Pointwise | None:
        """The checked arguments of a call; None if there is nothing to compute."""
        if before is None and after is None and add is None:
            return None
        before, after = as_activation("before", before), as_activation("after", after)
        if before is not None:
            before.check_layer("before", geometry.in_channels)
        if after is not None:
            after.check_layer("after", geometry.out_channels)
        return Pointwise(before, after, None if add is None else arrays.as_array("add", add))


# Plans bound to lengths and batch sizes: operators with other weights use them again.
_bound = Calls()


class Operator:
    """A geometry, transposed or not, with its weights, packed once per compute type: what functions and layer run."""

    def __init__(self, geometry: Geometry | ConvGeometry, weight: np.ndarray, bias: np.ndarray | None):
        self.geometry = geometry
        self.weight = weight
        self.bias = bias
        self._alignment = geometry_module.alignment(geometry)
        self._kernels: dict = {}
        self._calls = Calls()
        self._on_device: Any = None

    def __call__(
        self,
        x,
        output_size=None,
        out=None,
        workers=None,
        channels_last=False,
        precision="float32",
        origin=0,
        pointwise=None,
    ):
        allowed = None if workers is None else threads.count(workers)
        if precision != "float32":
            cuda.check_precision(precision)
        if type(x) is not np.ndarray:
            if arrays.is_device_array(x) and isinstance(self.geometry, Geometry):
                from .cuda import interchange

                if pointwise is not None:
                    raise ValueError("before, after and add must be None for arrays on a GPU: apply them there")
                if channels_last:
                    raise ValueError("channels_last must be False for arrays on a GPU, got True: x.swapaxes(-1, -2)")
                return interchange.run(self.on_device(), x, output_size, out, precision)
            y = self(
                arrays.as_array("x", x, (2, 3)), output_size, out, workers, channels_last, precision, origin, pointwise
            )
            return y if out is not None else arrays.like(y, x)
        output_padding = None if output_size is None else self._output_padding(x, output_size, channels_last)
        key = (x.dtype, x.shape, output_padding, channels_last, origin % self._alignment)
        call = self._calls.get(key)
        if call is None:
            window = replace(self._window(x, output_padding, channels_last), origin=origin % self._alignment)
            call = self._prepare(x, window, allowed, channels_last)
            self._calls.remember(key, call, _size(call[0]))
        return self._run(call, x.swapaxes(-1, -2) if channels_last else x, out, allowed, pointwise)

    def on_device(self) -> DeviceOperator:
        """The same for arrays on a GPU; it holds the weights' copies there."""
        if self._on_device is None:
            from .cuda.operator import DeviceOperator

            assert isinstance(self.geometry, Geometry)
            self._on_device = DeviceOperator(self.geometry, self.weight, self.bias)
        return self._on_device

    def prepare(self) -> None:
        """Pack the weights for calls that are not short, in their own type."""
        self._kernel(arrays.compute_dtype(self.weight.dtype), None, False, False)

    def off_device(self) -> None:
        """Forget the weights' copies on GPUs."""
        self._on_device = None

    def window(self, x: np.ndarray, window: Window, out: np.ndarray | None = None, workers: int | None = None):
        """Any stretch of the output; x must be an array that `__call__` would take."""
        allowed = None if workers is None else threads.count(workers)
        key = (x.dtype, x.shape, window)
        call = self._calls.get(key)
        if call is None:
            call = self._prepare(x, window, allowed)
            self._calls.remember(key, call, _size(call[0]))
        return self._run(call, x, out, allowed)

    def _run(self, call, x, out, allowed, pointwise=None):
        run, kernel, dtype, compute, bias, shape, empty, seconds = call
        if pointwise is not None:
            self._check_pointwise(pointwise, dtype, shape, out)
        if out is None:
            out = empty(shape, dtype)
        else:
            arrays.check_out(out, shape, dtype, x=x, weight=self.weight, bias=self.bias)
        if run is None:  # N = 0
            return out
        if x.dtype != compute or not x.flags.aligned:
            x = x.astype(compute)
        y = out if dtype == compute else memory.allocator(shape, compute)(shape, compute)
        n = threads.worthwhile(seconds, allowed)
        if pointwise is None:
            run(kernel, x, y, bias, n)
        else:
            _run_pointwise(run, kernel, x, y, bias, n, *pointwise)
        if y is not out:
            with np.errstate(over="ignore"):  # float16 overflows as the other types do, without a word
                out[...] = y
        return out

    @staticmethod
    def _check_pointwise(pointwise, dtype, shape, out):
        if dtype.kind == "c":
            raise TypeError(f"before, after and add must be None where the result is complex, got dtype {dtype.name}")
        if pointwise.add is not None:
            arrays.check_shape("add", pointwise.add, shape)
            arrays.check_cast("add", pointwise.add.dtype, dtype)
            if out is not None:
                arrays.check_out(out, shape, dtype, add=pointwise.add)

    def _length(self, x, channels_last):
        """The samples of an x whose shape is checked."""
        arrays.as_array("x", x, (2, 3))
        arrays.check_channels("x", x, self.weight, self.geometry.in_channels, channels_last)
        return x.shape[-2 if channels_last else -1]

    def _output_padding(self, x, output_size, channels_last):
        length = self._length(x, channels_last)
        return geometry_module.output_padding_for(self.geometry, length, output_size, x.shape, channels_last)

    def _window(self, x, output_padding, channels_last):
        """The whole output."""
        length = self._length(x, channels_last)
        return self.geometry.window(length) if output_padding is None else self.geometry.window(length, output_padding)

    def _prepare(self, x, window, allowed, channels_last=False):
        """Everything about a call but the data: checked once per element type and shape."""
        geometry = self.geometry
        length = x.shape[-2 if channels_last else -1]
        dtype = arrays.result_dtype(x.dtype, self.weight.dtype)
        compute = arrays.compute_dtype(dtype)
        shape = (geometry.out_channels, window.length)
        shape = (*x.shape[:-2], *(shape[::-1] if channels_last else shape))
        arrays.check_size("the output", shape, compute)
        batch = x.shape[0] if x.ndim == 3 else 1
        steps = window.length if isinstance(geometry, ConvGeometry) else length
        from .cpu import _runtime, plan

        short = plan.is_short(_runtime.machine().tuning.batch, batch, steps)
        kernel, bias = self._kernel(compute, allowed, channels_last, short)
        if batch == 0:
            return None, kernel, dtype, compute, bias, shape, np.empty, None
        large = memory.is_kept(math.prod(shape) * compute.itemsize)
        key = kernel.plan, kernel.machine, geometry.padding_mode, window, batch, length, large
        run = _bound.get(key)
        if run is None:
            run = self._bind(kernel, window, batch, length, large)
            _bound.remember(key, run, _size(run))
        multiply_adds = batch * steps * self.weight.size * (4 if compute.kind == "c" else 1)
        data_bytes = compute.itemsize * (x.size + batch * geometry.out_channels * window.length)
        seconds = threads.estimate(multiply_adds, data_bytes)
        return run, kernel, dtype, compute, bias, shape, memory.allocator(shape, dtype), seconds

    def _bind(self, kernel, window, batch, length, large):
        """The kernel's plan for one batch size and input length."""
        from .cpu import _tiles, plan

        geometry, chosen = self.geometry, kernel.plan
        sources = padding.halo_sources(window.halo, length, geometry.padding_mode)
        origin = window.origin % chosen.repeat
        left = chosen.left(window.start, origin)
        tiling = plan.cut(chosen, kernel.machine, left, batch, length, window.length, large)
        return _tiles.Run(chosen, geometry.groups, tiling, left, batch, length, window.length, origin, sources)

    def __reduce__(self):
        # packed weights are made again where the operator is used next
        return Operator, (self.geometry, self.weight, self.bias)

    def _kernel(self, compute, allowed, channels_last, short):
        """Packed weights and bias in a compute type and output layout, for calls that are `short` or not."""
        channels_last = channels_last and self.geometry.out_channels > 1
        found = self._kernels.get((compute, channels_last, short))
        if found is None:
            from .cpu import _runtime, _tiles, kernels  # compiled code: not before it is needed

            machine = _runtime.machine()
            allowed = threads.count(None) if allowed is None else allowed
            weight = arrays.cast("weight", self.weight, compute)
            bias = None
            if self.bias is not None:
                bias = np.ascontiguousarray(arrays.cast("bias", self.bias, compute))
            chosen = kernels.plan_for(self.geometry, compute, machine, channels_last, short)
            other, _ = self._kernels.get((compute, channels_last, not short), (None, None))
            if other is not None and not other.plan.packing.same(chosen.packing):
                other = None  # where the packings are the same, one copy of the weights serves both
            kernel = _tiles.Kernel(chosen, machine, weight, self.geometry.groups, allowed, other)
            if not kernel.even:
                chosen = kernels.plan_for(self.geometry, compute, machine, channels_last, short, plain=True)
                kernel = _tiles.Kernel(chosen, machine, weight, self.geometry.groups, allowed)
            found = self._kernels[compute, channels_last, short] = kernel, bias
        return found


def _size(run: Any) -> int:
    """Bytes of what a call remembers: the table of entries, and the padding mode's sources."""
    return 0 if run is None else int(run.nbytes)


def _run_pointwise(run, kernel, x, y, bias, n, before, after, add):
    """One pass where the plan allows it, else passes over x and y of their own: the same bits."""
    if before is not None and not run.can_activate:
        activated = np.empty(x.shape, x.dtype)
        before.apply(x, activated, n)
        x, before = activated, None
    if add is not None:
        add = np.ascontiguousarray(add, y.dtype)
    if run.can_finish:
        run(kernel, x, y, bias, n, before, after, add)
        return
    run(kernel, x, y, bias, n, before)
    if after is not None and run.channels_last:
        channels = np.ascontiguousarray(y.swapaxes(-1, -2))
        after.apply(channels, channels, n)
        y[...] = channels.swapaxes(-1, -2)
    elif after is not None:
        after.apply(y, y, n)
    if add is not None:
        y += add
