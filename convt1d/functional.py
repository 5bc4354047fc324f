# SPDX-License-Identifier: MIT
"""The whole pipeline on one page: arguments, checked geometry, kernel choice, kernel, output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, cuda, dispatch, memory, padding, threads
from . import geometry as geometry_module
from .geometry import ConvGeometry, Geometry, Window

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .cuda.operator import DeviceOperator

    Size = int | Sequence[int]

# Input shapes whose cutting into tiles an operator remembers.
_REMEMBERED = 512


class Operator:
    """A geometry, transposed or not, with its weights, packed once per compute type: what functions and layer run."""

    def __init__(self, geometry: Geometry | ConvGeometry, weight: np.ndarray, bias: np.ndarray | None):
        self.geometry = geometry
        self.weight = weight
        self.bias = bias
        self._kernels: dict = {}
        self._calls: dict = {}
        self._on_device: Any = None

    def __call__(self, x, output_size=None, out=None, workers=None, channels_last=False, precision="float32", origin=0):
        allowed = None if workers is None else threads.count(workers)
        if precision != "float32":
            cuda.check_precision(precision)
        if type(x) is not np.ndarray:
            if cuda.is_device_array(x) and isinstance(self.geometry, Geometry):
                from .cuda import interchange

                if channels_last:
                    raise ValueError("channels_last must be False for arrays on a GPU, got True: x.swapaxes(-1, -2)")
                return interchange.run(self.on_device(), x, output_size, out, precision)
            x = arrays.as_array("x", x, (2, 3))
        if output_size is None:
            output_padding = None
        else:
            self._check_shape(x, channels_last)
            length = x.shape[-2 if channels_last else -1]
            output_padding = geometry_module.output_padding_for(
                self.geometry, length, output_size, x.shape, channels_last
            )
        key = (x.dtype, x.shape, output_padding, channels_last, origin % 2)
        call = self._calls.get(key)
        if call is None:
            self._check_shape(x, channels_last)
            length = x.shape[-2 if channels_last else -1]
            extra = () if output_padding is None else (output_padding,)
            window = self.geometry.window(length, *extra)
            if origin % 2:
                window = replace(window, origin=1)
            call = self._remember(key, x, window, allowed, channels_last)
        return self._run(call, x.swapaxes(-1, -2) if channels_last else x, out, allowed)

    def on_device(self) -> DeviceOperator:
        """The same for arrays on a GPU; it holds the weights' copies there."""
        if self._on_device is None:
            from .cuda.operator import DeviceOperator

            assert isinstance(self.geometry, Geometry)
            self._on_device = DeviceOperator(self.geometry, self.weight, self.bias)
        return self._on_device

    def off_device(self) -> None:
        """Forget the weights' copies on GPUs."""
        self._on_device = None

    def window(self, x: np.ndarray, window: Window, out: np.ndarray | None = None, workers: int | None = None):
        """Any stretch of the output; x must be an array that `__call__` would take."""
        allowed = None if workers is None else threads.count(workers)
        key = (x.dtype, x.shape, window)
        call = self._calls.get(key)
        if call is None:
            call = self._remember(key, x, window, allowed)
        return self._run(call, x, out, allowed)

    def _run(self, call, x, out, allowed):
        run, dtype, compute, bias, shape, empty, work = call
        if out is None:
            out = empty(shape, dtype)
        else:
            arrays.check_out(out, shape, dtype, x=x, weight=self.weight, bias=self.bias)
        if run is None:  # N = 0
            return out
        if x.dtype != compute or not x.flags.aligned:
            x = x.astype(compute)
        y = out if dtype == compute else memory.allocator(shape, compute)(shape, compute)
        run(x, y, bias, threads.paying(*work, allowed))
        if y is not out:
            out[...] = y
        return out

    def _check_shape(self, x, channels_last=False):
        x = arrays.as_array("x", x, (2, 3))
        channels = self.geometry.in_channels
        if x.shape[-1 if channels_last else -2] != channels:
            one = f"L, {channels}" if channels_last else f"{channels}, L"
            raise ValueError(
                f"x must have shape (N, {one}) or ({one}) for a weight of shape {self.weight.shape}, got {x.shape}"
            )

    def _remember(self, key, x, window, allowed, channels_last=False):
        """Everything about a call but the data: checked once per element type and shape."""
        geometry = self.geometry
        length = x.shape[-2 if channels_last else -1]
        dtype = arrays.result_dtype(x.dtype, self.weight.dtype)
        compute = arrays.compute_dtype(dtype)
        shape = (geometry.out_channels, window.length)
        shape = (*x.shape[:-2], *(shape[::-1] if channels_last else shape))
        arrays.check_size("the output", shape, compute)
        batch = x.shape[0] if x.ndim == 3 else 1
        from .cpu import _tiles  # SciPy's BLAS takes 0.15 s to import: not before it is needed

        steps = window.length if isinstance(geometry, ConvGeometry) else length
        kernel, bias = self._kernel(compute, allowed, channels_last, dispatch.is_short(batch, steps))
        if batch == 0:
            call = None, dtype, compute, bias, shape, np.empty, None
        else:
            sources = padding.halo_sources(window.halo, length, geometry.padding_mode)
            odd = window.origin % 2 if kernel.plan.winograd else 0
            left = window.start + kernel.plan.reach + odd * geometry.stride
            large = memory.is_kept(math.prod(shape) * compute.itemsize)
            tiling = dispatch.tiling(kernel.plan, left, batch, length, window.length, large)
            run = _tiles.Run(kernel, tiling, left, batch, length, window.length, odd, sources)
            multiply_adds = batch * steps * self.weight.size * (4 if compute.kind == "c" else 1)
            data_bytes = compute.itemsize * (x.size + batch * geometry.out_channels * window.length)
            call = run, dtype, compute, bias, shape, memory.allocator(shape, dtype), (multiply_adds, data_bytes)
        if len(self._calls) >= _REMEMBERED:
            self._calls.clear()
        self._calls[key] = call
        return call

    def __reduce__(self):
        # packed weights are made again where the operator is used next
        return Operator, (self.geometry, self.weight, self.bias)

    def _kernel(self, compute, allowed, channels_last, short):
        """Packed weights and bias in a compute type and output layout, for calls that are `short` or not."""
        channels_last = channels_last and self.geometry.out_channels > 1
        found = self._kernels.get((compute, channels_last, short))
        if found is None:
            from .cpu import _runtime, _tiles

            allowed = threads.count(None) if allowed is None else allowed
            weight = arrays.cast("weight", self.weight, compute)
            bias = None
            if self.bias is not None:
                bias = np.ascontiguousarray(arrays.cast("bias", self.bias, compute))
            plan = dispatch.plan(self.geometry, compute, _runtime.machine(), channels_last, short)
            other = self._kernels.get((compute, channels_last, not short))
            if other is not None and other[0].plan.kernel == plan.kernel:
                kernel = other[0]  # the length makes no difference: one copy of the weights serves both
            else:
                kernel = _tiles.Kernel(plan, weight, self.geometry.groups, allowed)
            found = self._kernels[compute, channels_last, short] = kernel, bias
        return found


def conv_transpose1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    padding_mode: str = "zeros",
    channels_last: bool = False,
    out: np.ndarray | None = None,
    workers: int | None = None,
    precision: str = "float32",
) -> np.ndarray:
    """1-D transposed convolution.

    Also known as a fractionally-strided convolution, or (loosely) a deconvolution: each input sample adds a copy
    of the kernel, scaled by it, to the output; copies of neighbouring samples start `stride` positions apart.

    Parameters
    ----------
    x : array_like, shape (N, C_in, L) or (C_in, L)
        Input; any strides, never modified.
    weight : array_like, shape (C_in, C_out / groups, K)
        Kernels, in torch's layout.
    bias : array_like, shape (C_out,), optional
        What is added to every sample of an output channel.
    stride : int
        Output samples per input sample.
    padding : int or (int, int)
        Output samples cropped at both ends; a pair is ``(left, right)``.
    output_padding : int
        Output samples added at the end; smaller than stride or dilation.
    groups : int
        Blocks of channels that do not meet: C_in and C_out must be divisible by it.
    dilation : int
        Distance of two kernel elements in the output, in samples.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        How x continues outside ``[0, L)``; see Notes.
    channels_last : bool
        Whether x is ``(N, L, C_in)`` or ``(L, C_in)``, and the result ``(N, L_out, C_out)`` or ``(L_out, C_out)``, as
        Keras, JAX and sound files have them. Read and written as they lie, without a transposed copy.
    out : ndarray, optional
        Where to put the result: exact shape and dtype, C-contiguous, writable, apart from the inputs.
    workers : int, optional
        Most threads to use; None leaves it to the machine (OMP_NUM_THREADS, affinity, cgroup quota), a negative
        number counts back from the number of cores. The result does not depend on it.
    precision : {"float32", "tf32", "3xtf32"}
        The least precise arithmetic allowed for float32 and complex64. "tf32" lets a GPU round the factors of their
        products to 10 bits of mantissa, which is faster; "3xtf32" lets it make each product of three such, which is
        about as precise as float32. A CPU, other types and, of "3xtf32", most GPUs make no use of the permission.

    Returns
    -------
    ndarray, shape (N, C_out, L_out) or (C_out, L_out)
        ``L_out = (L - 1) * stride - left - right + dilation * (K - 1) + output_padding + 1``, in the type
        ``numpy.result_type(x, weight)``, float64 if that is an integer type. float16 and bfloat16 are computed
        in float32.

    Raises
    ------
    ValueError
        A value or shape breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter or element type is of the wrong kind.

    See Also
    --------
    ConvTranspose1d : the same with weights prepared once; use it where weights are used again.

    Notes
    -----
    With ``x~`` the input continued by `padding_mode`, and per group::

        y[n, o, t] = b[o] + sum over i*stride + dilation*k = t + left of  sum over c of w[c, o, k] * x~[n, c, i]

    The continuation happens before the strides spread the input, so a constant signal stays constant at the edges
    for every mode but "zeros". Only ``dilation * (K - 1) / stride`` samples at either end matter.

    The cost is ``N C_in (C_out / groups) K L`` multiply-adds, whatever the stride: no products with the zeros
    between the samples. Besides the output a call needs 2 MiB a thread, and a packed copy of the weights. The memory of
    outputs above 32 MiB that are no longer used, at most 256 MiB of it, is kept for the next ones;
    `convt1d.threads.release_workspaces` gives it back.
    Results are the same bits for any number of workers; on another CPU or version the last bits may differ. A
    sample gives the same bits alone and in a batch if L > 64.

    Layers of many channels take three products for four by Winograd's identity [2]_: rounding errors are of the same
    size (docs/definition.md); numbers that are infinite, NaN or too large to be squared are multiplied as they are.

    CuPy arrays, and torch tensors on a CUDA device, are computed there; x, weight, bias and `out` must be of one kind
    and on one device, and so is the result (docs/gpu.md).

    References
    ----------
    .. [1] Vincent Dumoulin and Francesco Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285
    .. [2] Andrew Lavin and Scott Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308; the
       products are F(2, 2), also known as a fast FIR filter.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import conv_transpose1d
    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> weight = np.array([[[0.5, 1.0, 0.5]]])          # linear interpolation
    >>> conv_transpose1d(x, weight, stride=2, padding=1)
    array([[1. , 1.5, 2. , 3. , 4. ]])
    >>> conv_transpose1d(x, weight, stride=2, padding=1, output_padding=1, padding_mode="circular")
    array([[1. , 1.5, 2. , 3. , 4. , 2.5]])
    """
    operator = operator_of(weight, bias, stride, padding, output_padding, groups, dilation, padding_mode, x)
    return operator(x, None, out, workers, geometry_module.as_flag("channels_last", channels_last), precision)


def operator_of(weight, bias, stride, padding, output_padding, groups, dilation, padding_mode, x=None) -> Operator:
    """The operator that the arguments of `conv_transpose1d` describe, checked; x, if it may be on a GPU."""
    if any(map(cuda.is_device_array, (x, weight, bias))):
        from .cuda import interchange

        weight, bias = interchange.operands(x, weight, bias)
        arrays.check_kind("weight", weight, (3,))
        as_bias = interchange.as_shaped
    else:
        weight = arrays.as_array("weight", weight, (3,))
        as_bias = arrays.as_shaped
    channels, per_group, kernel_size = weight.shape
    groups = geometry_module.as_int("groups", groups, 1)
    if weight.size == 0:
        raise ValueError(f"weight must have no empty dimension, got shape {weight.shape}")
    checked = geometry_module.check(
        channels, per_group * groups, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
    )
    if bias is not None:
        bias = as_bias("bias", bias, (checked.out_channels,))
    return Operator(checked, weight, bias)
