# SPDX-License-Identifier: MIT
"""The convolution itself, of which the transposed one is the adjoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import arrays
from . import geometry as geometry_module
from .functional import Operator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from .functional import Size


def conv1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
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
    stride : int
        Input samples per output sample.
    padding : int, (int, int), "same" or "valid"
        Samples by which the input is continued at both ends; a pair is ``(left, right)``. "valid" is 0; "same",
        for stride 1, makes output and input equally long (an odd rest goes to the right).
    dilation : int
        Distance of two kernel elements in the input, in samples.
    groups : int
        Blocks of channels that do not meet: C_in and C_out must be divisible by it.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
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
    weight = arrays.as_array("weight", weight, (3,))
    out_channels, per_group, kernel_size = weight.shape
    groups = geometry_module.as_int("groups", groups, 1)
    if weight.size == 0:
        raise ValueError(f"weight must have no empty dimension, got shape {weight.shape}")
    checked = geometry_module.check_convolution(
        per_group * groups, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
    )
    if bias is not None:
        bias = arrays.as_shaped("bias", bias, (checked.out_channels,))
    return Operator(checked, weight, bias)(x, None, out, workers)
