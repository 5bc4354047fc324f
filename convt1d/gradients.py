# SPDX-License-Identifier: MIT
"""Gradients with respect to input, weight and bias.

    grad_x      = the convolution of grad_output with the weight         the tile loop, through `ConvGeometry`
    grad_weight = x correlated with grad_output                          cpu/_correlate.pyx
    grad_bias   = grad_output summed over batch and time

A padding mode copies samples of x to positions outside it; what arrives there adds to the sample it copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, padding, threads
from . import geometry as geometry_module
from .geometry import ConvGeometry, Geometry, Window
from .operator import Calls, Operator

if TYPE_CHECKING:
    Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]

NEEDS = ("x", "weight", "bias")
# Positions outside x that are computed at a time: the halo of an absurd dilation is not held in memory at once.
_HALO_CHUNK = 4096
# Numbers of the output's gradient that are copied at a time to be added up.
_SUM_SIZE = 2**16


class Backward:
    """A geometry with its weights, packed for the adjoint once per compute type."""

    def __init__(self, geometry: Any, weight: np.ndarray):
        self.geometry = geometry
        self.weight = weight
        self._adjoints: dict = {}
        self._plans: dict = {}
        self._calls = Calls()

    def __call__(self, grad_output, x, needs=NEEDS, workers=None, output_size=None) -> Gradients:
        if needs is not NEEDS:
            needs = check_needs(needs)
        allowed = threads.count(workers)
        if type(x) is not np.ndarray:
            x = arrays.as_array("x", x, (2, 3))
        if type(grad_output) is not np.ndarray:
            grad_output = arrays.as_array("grad_output", grad_output, (2, 3))
        key = (x.dtype, x.shape, grad_output.dtype, grad_output.shape) if output_size is None else None
        call = self._calls.get(key)
        if call is None:
            call = self._prepare(grad_output, x, output_size)
            if key is not None:
                self._calls.remember(key, call)
        dtype, compute, window, outside, sources, runs = call
        g = arrays.cast("grad_output", grad_output, compute)
        grad_x = grad_weight = grad_bias = None
        if "x" in needs:
            grad_x = _like(self._grad_x(g, window, runs, compute, workers), x, dtype)
        if "weight" in needs:
            x = arrays.cast("x", x, compute)
            grad_weight = _like(self._grad_weight(g, x, outside, sources, compute, allowed), self.weight, dtype)
        if "bias" in needs:
            grad_bias = _sum_over_time(g).astype(dtype, copy=False)
        return grad_x, grad_weight, grad_bias

    def _prepare(self, grad_output, x, output_size):
        """Everything about a call but the data: checked once per element types and shapes."""
        geometry = self.geometry
        arrays.as_array("x", x, (2, 3))
        arrays.as_array("grad_output", grad_output, (2, 3))
        arrays.check_channels("x", x, self.weight, geometry.in_channels)
        length = x.shape[-1]
        op = geometry.output_padding
        if output_size is not None:
            op = geometry_module.output_padding_for(geometry, length, output_size, x.shape)
        out_length = geometry.checked_output_length(length, op)
        check_grad_output(grad_output, geometry.out_channels, out_length, x)
        dtype = arrays.result_dtype(arrays.result_dtype(x.dtype, self.weight.dtype), grad_output.dtype)
        outside = (0, 0) if geometry.padding_mode == "zeros" else geometry.halo(op)
        sources = padding.halo_sources(outside, length, geometry.padding_mode)
        runs = [*self._runs(-outside[0], 0, out_length), *self._runs(length, length + outside[1], out_length)]
        return dtype, arrays.compute_dtype(dtype), Window(0, length, (0, 0)), outside, sources, runs

    def _runs(self, first, past, out_length):
        """Which of the positions [first, past) of x~ meet the output: of a large dilation only few."""
        geometry, runs = self.geometry, []
        if past - first <= geometry.kernel_size:
            return [(first, past)] if first < past else []
        for k in reversed(range(geometry.kernel_size)):
            at = geometry.padding[0] - geometry.dilation * k  # tap k meets the output's samples 0, 1, ... from here on
            start = max(first, geometry_module.ceil_div(at, geometry.stride))
            stop = min(past, geometry_module.ceil_div(at + out_length, geometry.stride))
            if start < stop and runs and start <= runs[-1][1]:
                runs[-1] = runs[-1][0], stop
            elif start < stop:
                runs.append((start, stop))
        return runs

    @np.errstate(over="ignore", invalid="ignore")
    def _grad_x(self, g, window, runs, compute, workers):
        geometry = self.geometry
        adjoint = self._adjoint(compute)
        grad_x = adjoint.window(g, window, workers=workers)
        length = window.length
        for first, past in runs:
            for start in range(first, past, _HALO_CHUNK):
                width = min(_HALO_CHUNK, past - start)
                beyond = adjoint.window(g, Window(start, width, (0, 0)), workers=workers)
                sources = padding.source_index(np.arange(start, start + width), length, geometry.padding_mode)
                for j, source in enumerate(sources):
                    grad_x[..., source] += beyond[..., j]
        return grad_x

    def _adjoint(self, compute):
        """The operator that carries the output's gradient back to x, in a compute type."""
        adjoint = self._adjoints.get(compute)
        if adjoint is None:
            weight = arrays.cast("weight", self.weight, compute)
            adjoint = self._adjoints[compute] = Operator(self.geometry.adjoint(), weight.conj(), None)
        return adjoint

    def _grad_weight(self, g, x, outside, sources, compute, allowed):
        """x correlated with g, as the geometry of a transposed convolution has them."""
        from .cpu import _correlate, _runtime
        from .cpu.gradient import gradient_plan

        transposed = self.geometry if isinstance(self.geometry, Geometry) else self._extended
        plan = self._plans.get(compute)
        if plan is None:
            plan = self._plans[compute] = gradient_plan(transposed, compute, _runtime.machine())
        if x.ndim == 2:
            x, g = x[None], g[None]
        if x.shape[0] == 0:
            return np.zeros(self.weight.shape, compute)
        grad_weight = np.empty(self.weight.shape, compute)
        multiply_adds = x.shape[0] * x.shape[2] * self.weight.size * (4 if compute.kind == "c" else 1)
        seconds = threads.estimate(multiply_adds, compute.itemsize * (x.size + g.size))
        n = threads.worthwhile(seconds, allowed)
        _correlate.weight_gradient(plan, transposed, sources, outside, x, g, grad_weight, n)
        return grad_weight


class ConvBackward(Backward):
    """The same for a convolution: its gradients are those of the transposed one, with x and g in each other's place.

    A padding mode other than zeros is an extension of x ahead of a convolution without padding; what arrives at the
    samples around x adds to those that they copy.
    """

    geometry: ConvGeometry

    def __init__(self, geometry: ConvGeometry, weight: np.ndarray):
        super().__init__(geometry, weight)
        around = (0, 0) if geometry.padding_mode == "zeros" else geometry.padding
        self._around = around
        self._extended = replace(geometry, padding=tuple(np.subtract(geometry.padding, around).tolist())).adjoint()

    def _prepare(self, grad_output, x, output_size):
        geometry = self.geometry
        arrays.as_array("x", x, (2, 3))
        arrays.as_array("grad_output", grad_output, (2, 3))
        arrays.check_channels("x", x, self.weight, geometry.in_channels)
        length = x.shape[-1]
        check_grad_output(grad_output, geometry.out_channels, geometry.checked_output_length(length), x)
        dtype = arrays.result_dtype(arrays.result_dtype(x.dtype, self.weight.dtype), grad_output.dtype)
        left, right = self._around
        window = Window(geometry.padding[0] - left, left + length + right, (0, 0))
        index = padding.source_index(np.arange(-left, length + right), length, geometry.padding_mode)
        return dtype, arrays.compute_dtype(dtype), window, (0, 0), index if left + right else None, None

    @np.errstate(over="ignore", invalid="ignore")
    def _grad_x(self, g, window, runs, compute, workers):
        extended = self._adjoint(compute).window(g, window, workers=workers)
        left, right = self._around
        length = window.length - left - right
        grad_x = np.ascontiguousarray(extended[..., left : left + length])
        for at in (*range(-left, 0), *range(length, length + right)):
            source = padding.source_index(np.array([at]), length, self.geometry.padding_mode)[0]
            grad_x[..., source] += extended[..., left + at]
        return grad_x

    def _grad_weight(self, g, x, outside, sources, compute, allowed):
        if sources is not None:
            x = np.ascontiguousarray(x[..., sources])
        none = padding.halo_sources((0, 0), g.shape[-1], "zeros")
        return super()._grad_weight(x, g, outside, none, compute, allowed).conj()


def backward_of(geometry: Geometry | ConvGeometry, weight: np.ndarray) -> Backward:
    """The gradients of a layer with this geometry."""
    return Backward(geometry, weight) if isinstance(geometry, Geometry) else ConvBackward(geometry, weight)


def check_grad_output(grad_output: np.ndarray, channels: int, length: int, x: np.ndarray) -> None:
    shape = (*x.shape[:-2], channels, length)
    if grad_output.shape != shape:
        raise ValueError(
            f"grad_output must have the shape of the output, {shape} for x of shape {x.shape}, got {grad_output.shape}"
        )


def check_needs(needs) -> frozenset:
    """`needs` as a set of names."""
    if isinstance(needs, str) or not isinstance(needs, Iterable):
        raise TypeError(f"needs must be a collection of the names {', '.join(NEEDS)}, got {needs!r}")
    names = list(needs)
    for name in names:
        if name not in NEEDS:
            raise ValueError(f"needs must hold names out of {', '.join(NEEDS)}, got {name!r}")
    return frozenset(names)


@np.errstate(over="ignore", invalid="ignore")  # inf - inf is NaN without a word everywhere else, too
def _sum_over_time(g):
    """Sums over batch and time.

    NumPy adds up contiguous numbers in pairs, but those of any other layout one after the other, at the cost of their
    last digits: these are copied, some at a time.
    """
    if g.strides[-1] == g.itemsize:
        sums = g.sum(axis=-1)  # along time first: over both axes at once NumPy takes four times as long
        return sums.sum(axis=0) if g.ndim == 3 else sums
    sums = np.zeros(g.shape[-2], g.dtype)
    step = max(128, _SUM_SIZE // g.shape[-2])
    for sample in g.reshape(-1, *g.shape[-2:]):
        for start in range(0, g.shape[-1], step):
            sums += np.ascontiguousarray(sample[:, start : start + step]).sum(axis=-1)
    return sums


def _like(gradient, argument, dtype):
    """In the result's type; of a real argument's gradient in a complex result only the real part."""
    if dtype.kind == "c" and argument.dtype.kind != "c":
        return np.ascontiguousarray(gradient.real)
    return gradient.astype(dtype, copy=False)
