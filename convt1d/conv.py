# SPDX-License-Identifier: MIT
"""The convolution as a layer; what it shares with the transposed one is in layer.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from . import arrays, initialize
from . import geometry as geometry_module
from .gradients import NEEDS, check_needs
from .layer import Layer
from .operator import Pointwise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from .activations import Activation
    from .conv_stream import Conv1dStream
    from .functional import Size
    from .gradients import Gradients


class Conv1d(Layer):
    """A 1-D convolution with its weights, prepared once and applied to any number of inputs.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    kernel_size : int
        K, samples of a kernel.
    stride : int
        Input samples per output sample.
    padding : int, (int, int), "same" or "valid"
        Samples by which the input is continued at both ends; a pair is ``(left, right)``. "valid" is 0; "same", for
        stride 1, makes output and input equally long. A causal layer is ``(dilation * (K - 1), 0)``.
    dilation : int
        Distance of two kernel elements in the input, in samples.
    groups : int
        Blocks of channels that do not meet; in_channels for a depthwise layer.
    bias : bool
        Whether the layer has a bias.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        How the input continues outside its L samples.
    dtype : dtype
        Type of the weights: float16, bfloat16, float32, float64, complex64 or complex128.
    rng : None, int or numpy.random.Generator
        Source of the initial weights.

    Attributes
    ----------
    weight : ndarray, shape (out_channels, in_channels / groups, kernel_size)
        Read-only; assign to change it, the assigned array is copied.
    bias : ndarray, shape (out_channels,), or None
        Likewise.
    dtype : numpy.dtype
        Type of the weights.
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        As they were given, but padding as numbers; they cannot be assigned.

    Raises
    ------
    ValueError
        A value breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter is of the wrong kind.

    See Also
    --------
    conv1d : the same as a function; its Notes hold the definition and the cost.
    ConvTranspose1d : the adjoint.

    Notes
    -----
    The arguments stand in the order of ``torch.nn.Conv1d``. Initial weights and bias are uniform in
    ``±1 / sqrt(in_channels / groups * kernel_size)``, as there.

    Weights are packed on the first call, once per compute type.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import Conv1d
    >>> layer = Conv1d(16, 32, 7, padding="same", dilation=3)
    >>> layer(np.ones((10, 16, 50), np.float32)).shape
    (10, 32, 50)
    >>> layer
    Conv1d(16, 32, kernel_size=(7,), stride=(1,), padding=(9,), dilation=(3,))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        geometry = geometry_module.check_convolution(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        bias = geometry_module.as_flag("bias", bias)
        dtype = arrays.layer_dtype(dtype)
        rng = initialize.as_generator(rng)
        arrays.check_size("weight", geometry.weight_shape, dtype)
        self._set(geometry, *initialize.uniform(geometry, dtype, rng, bias))

    def __call__(
        self,
        x: ArrayLike,
        *,
        channels_last: bool = False,
        out: np.ndarray | None = None,
        workers: int | None = None,
        before: Activation | None = None,
        after: Activation | None = None,
        add: ArrayLike | None = None,
    ) -> np.ndarray:
        """Apply the layer: ``after(layer(before(x))) + add``.

        Parameters
        ----------
        x : array_like, shape (N, C_in, L) or (C_in, L)
            Input; any strides, never modified.
        channels_last : bool
            Whether x is ``(N, L, C_in)`` or ``(L, C_in)``, and the result ``(N, L_out, C_out)`` or ``(L_out, C_out)``.
        out : ndarray, optional
            Where to put the result: exact shape and dtype, C-contiguous, writable, apart from the inputs.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.
        before, after : convt1d.activations.Activation, optional
            Applied to x, and to the output with its bias, while they are in cache: no pass over memory of their own.
        add : array_like of the output's shape, optional
            Added at the end, such as a residual.

        Returns
        -------
        ndarray, shape (N, C_out, L_out) or (C_out, L_out)
            As of `conv1d`.

        Raises
        ------
        ValueError, TypeError
            A value, shape or type breaks its rule.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> from convt1d.activations import LeakyReLU
        >>> layer, x = Conv1d(8, 8, 3, padding=1, rng=0), np.ones((2, 8, 10), np.float32)
        >>> y = layer(x, before=LeakyReLU(0.1), add=x)
        >>> bool((y == layer(LeakyReLU(0.1)(x)) + x).all())
        True
        """
        if channels_last is not False:
            channels_last = geometry_module.as_flag("channels_last", channels_last)
        pointwise = Pointwise.of(before, after, add, self._operator.geometry)
        return self._operator(x, None, out, workers, channels_last, pointwise=pointwise)

    def stream(
        self, *, workers: int | None = None, before: Activation | None = None, after: Activation | None = None
    ) -> Conv1dStream:
        """The layer on a signal that arrives in chunks: a `Conv1dStream`.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> Conv1d(1, 1, 3).stream().process(np.ones((1, 5))).shape
        (1, 3)
        """
        from .conv_stream import Conv1dStream

        return Conv1dStream(self, workers=workers, before=before, after=after)

    def backward(
        self, grad_output: ArrayLike, x: ArrayLike, *, needs: Iterable[str] = NEEDS, workers: int | None = None
    ) -> Gradients:
        """Gradients with respect to input, weight and bias.

        Parameters
        ----------
        grad_output : array_like, shape (N, C_out, L_out) or (C_out, L_out)
            Gradient of a scalar with respect to the output.
        x : array_like, shape (N, C_in, L) or (C_in, L)
            The input that the output came from.
        needs : collection of {"x", "weight", "bias"}
            Which gradients to compute.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.

        Returns
        -------
        grad_x : ndarray of x's shape, or None
            None for what `needs` leaves out.
        grad_weight : ndarray of the weight's shape, or None
            Likewise.
        grad_bias : ndarray, shape (C_out,), or None
            Likewise, and None for a layer without a bias.

        Notes
        -----
        Complex gradients, NaN and inf are as of `conv_transpose1d_backward`; so is the cost.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> layer, x = Conv1d(4, 2, 3, rng=0), np.ones((1, 4, 5), np.float32)
        >>> grad_x, grad_weight, grad_bias = layer.backward(np.ones((1, 2, 3), np.float32), x)
        >>> grad_x.shape, grad_weight.shape, grad_bias.tolist()
        ((1, 4, 5), (2, 4, 3), [3.0, 3.0])
        """
        if self.bias is None:
            needs = check_needs(needs) - {"bias"}
        return self._backward(grad_output, x, needs, workers)

    def output_length(self, L: int) -> int:
        """Length of the output.

        Parameters
        ----------
        L : int
            Length of the input, in samples.

        Returns
        -------
        int
            ``(L + left + right - dilation * (K - 1) - 1) // stride + 1``.

        Examples
        --------
        >>> from convt1d import Conv1d
        >>> Conv1d(512, 256, 16, stride=8, padding=4).output_length(1600)
        200
        """
        return self._operator.geometry.checked_output_length(geometry_module.as_length("L", L))
