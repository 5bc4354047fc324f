# SPDX-License-Identifier: MIT
"""The functions: the transposed convolution, the convolution that is its adjoint, and the gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypedDict, overload

import numpy as np

from . import arrays
from . import geometry as geometry_module
from .gradients import NEEDS, Backward
from .operator import Operator

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import ArrayLike, NDArray

    from .geometry import Padding, PaddingMode, Precision, Size
    from .gradients import Gradients

    class Settings(TypedDict, total=False):
        """What `conv_transpose1d` takes by name, for the overload of float32 in and out."""

        stride: Size
        padding: Padding
        output_padding: Size
        groups: int
        dilation: Size
        padding_mode: PaddingMode
        channels_last: bool
        out: NDArray[np.float32] | None
        workers: int | None
        precision: Precision


@overload
def conv_transpose1d(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    **settings: Unpack[Settings],
) -> NDArray[np.float32]: ...
@overload
def conv_transpose1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    channels_last: bool = False,
    out: np.ndarray | None = None,
    workers: int | None = None,
    precision: Precision = "float32",
) -> np.ndarray: ...
def conv_transpose1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    channels_last: bool = False,
    out: np.ndarray | None = None,
    workers: int | None = None,
    precision: Precision = "float32",
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
    stride : int, default 1
        Output samples per input sample.
    padding : int or (int, int), default 0
        Output samples cropped at both ends; a pair is ``(left, right)``.
    output_padding : int, default 0
        Output samples added at the end; smaller than stride or dilation.
    groups : int, default 1
        Blocks of channels that do not meet: C_in and C_out must be divisible by it.
    dilation : int, default 1
        Distance of two kernel elements in the output, in samples.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "zeros"
        How x continues outside ``[0, L)``; see Notes.
    channels_last : bool, default False
        Whether x is ``(N, L, C_in)`` or ``(L, C_in)``, and the result ``(N, L_out, C_out)`` or ``(L_out, C_out)``, as
        Keras, JAX and sound files have them. Read and written as they lie, without a transposed copy.
    out : ndarray, optional
        Where to put the result: exact shape and dtype, C-contiguous, writable, apart from the inputs.
    workers : int, optional
        Most threads to use; None leaves it to the machine (OMP_NUM_THREADS, affinity, cgroup quota), a negative
        number counts back from the number of cores. The result does not depend on it.
    precision : {"float32", "tf32", "3xtf32"}, default "float32"
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
    outputs and packed weights above 32 MiB that are no longer used, at most 256 MiB of it, is kept for the next ones;
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
    if any(map(arrays.is_device_array, (x, weight, bias))):
        from .cuda import interchange

        weight, bias = interchange.operands(x, weight, bias)
        arrays.check_weight(weight)
        as_bias = interchange.as_shaped
    else:
        weight = arrays.as_weight(weight)
        as_bias = arrays.as_shaped
    channels, per_group, kernel_size = weight.shape
    groups = geometry_module.as_int("groups", groups, 1)
    checked = geometry_module.check(
        channels, per_group * groups, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
    )
    if bias is not None:
        bias = as_bias("bias", bias, (checked.out_channels,))
    return Operator(checked, weight, bias)


def conv1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Padding | Literal["same", "valid"] = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    out: np.ndarray | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """1-D convolution, as deep learning defines it: a strided correlation.

    Parameters
    ----------
    x : array_like, shape (N, C_in, L) or (C_in, L)
        Input; any strides, never modified.
    weight : array_like, shape (C_out, C_in / groups, K)
        Kernels, in torch's layout.
    bias : array_like, shape (C_out,), optional
        What is added to every sample of an output channel.
    stride : int, default 1
        Input samples per output sample.
    padding : int, (int, int), "same" or "valid", default 0
        Samples by which the input is continued at both ends; a pair is ``(left, right)``. "valid" is 0; "same",
        for stride 1, makes output and input equally long (an odd rest goes to the right).
    dilation : int, default 1
        Distance of two kernel elements in the input, in samples.
    groups : int, default 1
        Blocks of channels that do not meet: C_in and C_out must be divisible by it.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "zeros"
        How x continues, as in `conv_transpose1d`. Unlike in torch, a padding longer than the input repeats.
    out : ndarray, optional
        Where to put the result: exact shape and dtype, C-contiguous, writable, apart from the inputs.
    workers : int, optional
        Most threads to use, as in `conv_transpose1d`.

    Returns
    -------
    ndarray, shape (N, C_out, L_out) or (C_out, L_out)
        ``L_out = (L + left + right - dilation * (K - 1) - 1) // stride + 1``, in the type
        ``numpy.result_type(x, weight)``, as `conv_transpose1d`.

    Raises
    ------
    ValueError
        A value or shape breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter or element type is of the wrong kind.

    See Also
    --------
    conv_transpose1d : the adjoint: with the same weight and stride, ``<conv_transpose1d(x), y> == <x, conv1d(y)>``.

    Notes
    -----
    With ``x~`` the input continued by `padding_mode`, and per group::

        y[n, o, i] = b[o] + sum over k and c of w[o, c, k] * x~[n, c, i*stride + dilation*k - left]

    The cost is ``N (C_in / groups) C_out K L_out`` multiply-adds. Besides the output a call needs 2 MiB a thread, and
    a packed copy of the weights. Results are the same bits for any number of workers; a sample gives the same
    bits alone and in a batch if ``L_out > 64``.

    References
    ----------
    .. [1] Vincent Dumoulin and Francesco Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import conv1d, conv_transpose1d
    >>> y = np.array([[1.0, 2.0, 4.0, 2.0, 0.0]])
    >>> weight = np.array([[[0.5, 1.0, 0.5]]])
    >>> conv1d(y, weight, stride=2, padding=1)
    array([[2., 6., 1.]])

    The adjoint identity:

    >>> x = np.array([[3.0, -1.0, 2.0]])
    >>> up = conv_transpose1d(x, weight, stride=2, padding=1)
    >>> float((up * y).sum()), float((x * conv1d(y, weight, stride=2, padding=1)).sum())
    (2.0, 2.0)
    """
    weight = arrays.as_weight(weight)
    out_channels, per_group, kernel_size = weight.shape
    groups = geometry_module.as_int("groups", groups, 1)
    checked = geometry_module.check_convolution(
        per_group * groups, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
    )
    if bias is not None:
        bias = arrays.as_shaped("bias", bias, (checked.out_channels,))
    return Operator(checked, weight, bias)(x, None, out, workers)


def conv_transpose1d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    needs: Iterable[str] = NEEDS,
    workers: int | None = None,
) -> Gradients:
    """Gradients of `conv_transpose1d` with respect to x, weight and bias.

    Parameters
    ----------
    grad_output : array_like, shape (N, C_out, L_out) or (C_out, L_out)
        Gradient of a scalar with respect to the output.
    x : array_like, shape (N, C_in, L) or (C_in, L)
        The input that the output came from.
    weight : array_like, shape (C_in, C_out / groups, K)
        The kernels that made it.
    stride, padding, output_padding, groups, dilation, padding_mode : int, pair of int, str
        As for `conv_transpose1d`.
    needs : collection of {"x", "weight", "bias"}
        Which gradients to compute.
    workers : int, optional
        Most threads to use, as in `conv_transpose1d`. The result does not depend on it.

    Returns
    -------
    grad_x : ndarray of x's shape, or None
        None for what `needs` leaves out; the type of all three is the common one of the arguments.
    grad_weight : ndarray of weight's shape, or None
        Likewise.
    grad_bias : ndarray, shape (C_out,), or None
        Likewise.

    Raises
    ------
    ValueError
        A value or shape breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter or element type is of the wrong kind.

    See Also
    --------
    ConvTranspose1d.backward : the same with weights prepared once.
    conv1d : what carries grad_output back to x.

    Notes
    -----
    With ``x~`` the input continued by `padding_mode`, ``g`` the `grad_output`, 0 outside its samples, and per group::

        grad_x~[n, c, i]     = sum over o and k of conj(w[c, o, k])  * g[n, o, i*stride + dilation*k - left]
        grad_weight[c, o, k] = sum over n and i of conj(x~[n, c, i]) * g[n, o, i*stride + dilation*k - left]

    and what lands on a position outside x adds to the sample that it copies. Complex gradients follow the convention
    of torch and of Wirtinger calculus: the gradient of a real loss is the direction of steepest ascent,
    ``d loss / d Re + i d loss / d Im``.

    NaN and inf propagate as arithmetic does; one in x also makes those taps' gradients NaN that a crop keeps from
    meeting it (inf * 0), and likewise one in the weight those samples' of x.

    The cost is that of two forward calls. Besides the results a call needs 2 MiB a thread, and a packed
    copy of the weights. Threads divide the weights among them, never a sum over time: the bits do not depend on their
    number.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import conv_transpose1d_backward
    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> weight = np.array([[[0.5, 1.0, 0.5]]])
    >>> grad_output = np.array([[1.0, 0.0, 0.0, 0.0, 1.0]])
    >>> grad_x, grad_weight, grad_bias = conv_transpose1d_backward(grad_output, x, weight, stride=2, padding=1)
    >>> grad_x
    array([[1., 0., 1.]])
    >>> grad_weight
    array([[[0., 5., 0.]]])
    >>> grad_bias
    array([2.])
    """
    weight = arrays.as_weight(weight)
    groups = geometry_module.as_int("groups", groups, 1)
    checked = geometry_module.check(
        weight.shape[0],
        weight.shape[1] * groups,
        weight.shape[2],
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
    )
    return Backward(checked, weight)(grad_output, x, needs, workers)
