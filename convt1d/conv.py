# SPDX-License-Identifier: MIT
"""The convolution as a layer; what it shares with the transposed one is in layer.py."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

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
    from .geometry import Padding, PaddingMode, Size
    from .gradients import Gradients


class Conv1d(Layer):
    """A 1-D convolution with its weights, prepared once and applied to any number of inputs.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    kernel_size : int
        K, samples of a kernel.
    stride : int, default 1
        Input samples per output sample.
    padding : int, (int, int), "same" or "valid", default 0
        Samples by which the input is continued at both ends; a pair is ``(left, right)``. "valid" is 0; "same", for
        stride 1, makes output and input equally long. A causal layer is ``(dilation * (K - 1), 0)``.
    dilation : int, default 1
        Distance of two kernel elements in the input, in samples.
    groups : int, default 1
        Blocks of channels that do not meet; in_channels for a depthwise layer.
    bias : bool, default True
        Whether the layer has a bias.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "zeros"
        How the input continues outside its L samples.
    dtype : dtype, default float32
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

    __slots__ = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding | Literal["same", "valid"] = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
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
        channels_last : bool, default False
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
        self,
        *,
        workers: int | None = None,
        before: Activation | None = None,
        after: Activation | None = None,
        channels_last: bool = False,
    ) -> Conv1dStream:
        """The layer on a signal that arrives in chunks: a `Conv1dStream`.

        Parameters
        ----------
        workers : int, optional
            Most threads to use for a chunk, as in `conv_transpose1d`.
        before, after : convt1d.activations.Activation, optional
            As in the layer's call.
        channels_last : bool, default False
            As in the layer's call: chunks are ``(N, n, C_in)`` or ``(n, C_in)``, and so is what they become.

        Returns
        -------
        Conv1dStream
            Of its own memory; it keeps the weights that the layer has now.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> Conv1d(1, 1, 3).stream().process(np.ones((1, 5))).shape
        (1, 3)
        """
        from .conv_stream import Conv1dStream

        return Conv1dStream(self, workers=workers, before=before, after=after, channels_last=channels_last)

    def _length_formula(self) -> str:
        g = self._operator.geometry
        length = f"L {sum(g.padding) - g.reach + (g.stride == 1):+d}"
        return length if g.stride == 1 else f"floor(({length}) / {g.stride}) + 1"

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

    # Weights from elsewhere, and to elsewhere: what each system means is in weights/conv.py.

    @classmethod
    def from_state_dict(
        cls,
        mapping: Mapping[str, Any],
        prefix: str = "",
        *,
        padding: Padding | Literal["same", "valid"],
        stride: Size = 1,
        dilation: Size = 1,
        groups: int | None = None,
        padding_mode: PaddingMode = "zeros",
    ) -> Self:
        """A layer from the state of a torch module; channels, kernel and bias follow from the arrays.

        Parameters
        ----------
        mapping : mapping from str to array_like or torch.Tensor
            A ``state_dict()``; other names may be in it.
        prefix : str, default ""
            Where the layer is in it, as of `ConvTranspose1d.from_state_dict`; weight_norm is folded.
        padding, stride, dilation : int, pair of int, str
            As for the layer: a state does not hold them.
        groups : int, optional
            1 by default; to be given for a weight of shape (C_out, 1, K), which a depthwise layer has, too.
        padding_mode : str, default "zeros"
            As for the layer.

        Returns
        -------
        Conv1d
            Its dtype is that of the weights.

        Raises
        ------
        ValueError, TypeError
            As of `ConvTranspose1d.from_state_dict`; `groups` is missing.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> state = {"pre.weight_g": np.ones((8, 1, 1)), "pre.weight_v": np.ones((8, 2, 7)), "pre.bias": np.zeros(8)}
        >>> Conv1d.from_state_dict(state, "pre", padding=3)
        Conv1d(2, 8, kernel_size=(7,), stride=(1,), padding=(3,))
        """
        from .weights import conv as conv_weights

        settings = {"padding": padding, "stride": stride, "dilation": dilation, "padding_mode": padding_mode}
        return cls._of(*conv_weights.from_state_dict(mapping, prefix, groups=groups, **settings))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], name: str | None = None, **settings: Any) -> Self:
        """A layer from a file: .safetensors, .npz or .onnx. Pickles (.pt, .pth) are never loaded.

        Parameters
        ----------
        path : str or os.PathLike
            The kind of file goes by its suffix.
        name : str, optional
            Which layer: its prefix, or the node's name; not needed where there is only one.
        **settings
            For .safetensors and .npz those of `from_state_dict`; a .npz file may hold them beside the weights, and what
            is given here wins. For .onnx only `length`, see `from_onnx`.

        Returns
        -------
        Conv1d

        Raises
        ------
        ValueError, TypeError, OSError, ImportError
            As of `ConvTranspose1d.from_file`.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(os.path.join(folder, "pre.npz"), weight=np.ones((8, 4, 7)), padding=3)
        ...     Conv1d.from_file(os.path.join(folder, "pre.npz"))
        Conv1d(4, 8, kernel_size=(7,), stride=(1,), padding=(3,), bias=False)
        """
        from .weights import conv as conv_weights

        return cls._of(*conv_weights.from_file(path, name, **settings))

    @classmethod
    def from_onnx(cls, model_or_path: Any, node: str | None = None, *, length: int | None = None) -> Self:
        """A layer from a 1-D Conv node of an ONNX model.

        Parameters
        ----------
        model_or_path : onnx.ModelProto, str or os.PathLike
            Weights may be initializers, also in other files of the model's folder, or Constant nodes.
        node : str, optional
            Name of the node, or of its output; not needed where there is only one.
        length : int, optional
            L; only ``auto_pad`` SAME_UPPER and SAME_LOWER with a stride need it.

        Returns
        -------
        Conv1d
            Its dtype is that of the weights.

        Raises
        ------
        ValueError, TypeError, OSError, ImportError
            As of `ConvTranspose1d.from_onnx`.

        Examples
        --------
        >>> from convt1d import Conv1d
        >>> Conv1d.from_onnx(Conv1d(8, 4, 7, padding=(6, 0)).to_onnx())
        Conv1d(8, 4, kernel_size=(7,), stride=(1,), padding=(6, 0))
        """
        from .weights import conv as conv_weights

        return cls._of(*conv_weights.from_onnx(model_or_path, node, length=length))

    @classmethod
    def from_torch(cls, module: Any, *, trust: bool = False) -> Self:
        """A layer from a ``torch.nn.Conv1d``; weight_norm is folded, spectral_norm refused.

        Parameters
        ----------
        module : torch.nn.Conv1d
            On any device; it is not changed.
        trust : bool, default False
            Whether to take the weights and arguments of a module that may compute something else, as of
            `ConvTranspose1d.from_torch`.

        Returns
        -------
        Conv1d
            Its dtype is that of the weights.

        Raises
        ------
        ValueError, TypeError
            As `from_state_dict`.

        Examples
        --------
        >>> import torch
        >>> from convt1d import Conv1d
        >>> Conv1d.from_torch(torch.nn.Conv1d(8, 4, 7, padding="same", dilation=3))
        Conv1d(8, 4, kernel_size=(7,), stride=(1,), padding=(9,), dilation=(3,))
        """
        from .weights import conv as conv_weights

        return cls._of(*conv_weights.from_torch(module, trust))

    @classmethod
    def from_keras(
        cls,
        layer_or_kernel: Any,
        bias: ArrayLike | None = None,
        *,
        stride: Size = 1,
        padding: str | None = None,
        dilation: Size = 1,
        groups: int = 1,
    ) -> Self:
        """A layer from a ``keras.layers.Conv1D``, or from its kernel.

        Parameters
        ----------
        layer_or_kernel : keras.layers.Conv1D or array_like, shape (K, C_in / groups, C_out)
            A layer must be built and have no activation.
        bias : array_like, shape (C_out,), optional
            This and what follows are for a kernel only; a layer holds them itself.
        stride : int, default 1
            Keras' ``strides``.
        padding : {"valid", "same", "causal"}
            As there; "same" only with stride 1, as it depends on L otherwise.
        dilation, groups : int, default 1
            Keras' ``dilation_rate`` and ``groups``.

        Returns
        -------
        Conv1d
            Keras takes ``(N, L, C_in)``: call it as ``layer(x, channels_last=True)``.

        Raises
        ------
        ValueError, TypeError
            A value breaks its rule, or is of the wrong kind.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> Conv1d.from_keras(np.ones((5, 8, 4)), np.zeros(4), padding="causal")
        Conv1d(8, 4, kernel_size=(5,), stride=(1,), padding=(4, 0))
        """
        from .weights import conv as conv_weights

        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return cls._of(*conv_weights.from_keras(layer_or_kernel, bias, **settings))

    @classmethod
    def from_jax(
        cls,
        kernel: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        padding: Any,
        stride: Size = 1,
        dilation: Size = 1,
        groups: int = 1,
    ) -> Self:
        """A layer from the kernel of ``jax.lax.conv_general_dilated`` or of Flax' ``Conv``.

        Parameters
        ----------
        kernel : array_like, shape (K, C_in / groups, C_out)
            A parameter of Flax.
        bias : array_like, shape (C_out,), optional
            Likewise.
        padding : {"SAME", "VALID", "CAUSAL", "CIRCULAR"}, int or pair
            As there; "SAME" only with stride 1, as it depends on L otherwise.
        stride, dilation, groups : int, default 1
            Flax' ``strides``, ``kernel_dilation`` and ``feature_group_count``.

        Returns
        -------
        Conv1d
            JAX takes ``(N, L, C_in)``: call it as ``layer(x, channels_last=True)``.

        Raises
        ------
        ValueError, TypeError
            A value breaks its rule, or is of the wrong kind.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d
        >>> Conv1d.from_jax(np.ones((5, 8, 4)), padding="SAME")
        Conv1d(8, 4, kernel_size=(5,), stride=(1,), padding=(2,), bias=False)
        """
        from .weights import conv as conv_weights

        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return cls._of(*conv_weights.from_jax(kernel, bias, **settings))

    def to_onnx(self, path: str | os.PathLike[str] | None = None) -> Any:
        """An ONNX model of one Conv node, input "x" and output "y".

        Parameters
        ----------
        path : str or os.PathLike, optional
            Where to write it as well.

        Returns
        -------
        onnx.ModelProto
            Of opset 11; of 22 for bfloat16.

        Raises
        ------
        ValueError, TypeError, ImportError
            As of `ConvTranspose1d.to_onnx`.

        Examples
        --------
        >>> from convt1d import Conv1d
        >>> Conv1d(8, 4, 7, padding=3).to_onnx().graph.node[0].op_type
        'Conv'
        """
        from . import weights

        return weights.to_onnx(self._operator.geometry, self.weight, self.bias, path)
