# SPDX-License-Identifier: MIT
"""The layer: parameters, weights, and a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from . import arrays, initialize
from . import geometry as geometry_module
from .functional import Operator
from .gradients import NEEDS, Backward, check_needs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from .functional import Size
    from .gradients import Gradients


class ConvTranspose1d:
    """A 1-D transposed convolution with its weights, prepared once and applied to any number of inputs.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    kernel_size : int
        K, samples of a kernel.
    stride : int
        Output samples per input sample.
    padding : int or (int, int)
        Output samples cropped at both ends; a pair is ``(left, right)``. A causal layer is ``(0, K - stride)``.
    output_padding : int
        Output samples added at the end; smaller than stride or dilation.
    groups : int
        Blocks of channels that do not meet; in_channels for a depthwise layer.
    bias : bool
        Whether the layer has a bias.
    dilation : int
        Distance of two kernel elements in the output, in samples.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        How the input continues outside its L samples.
    dtype : dtype
        Type of the weights: float16, bfloat16, float32, float64, complex64 or complex128.
    rng : None, int or numpy.random.Generator
        Source of the initial weights.

    Attributes
    ----------
    weight : ndarray, shape (in_channels, out_channels / groups, kernel_size)
        Read-only; assign to change it, the assigned array is copied.
    bias : ndarray, shape (out_channels,), or None
        Likewise.

    Raises
    ------
    ValueError
        A value breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter is of the wrong kind.

    See Also
    --------
    conv_transpose1d : the same as a function; its Notes hold the definition and the cost.

    Notes
    -----
    Initial weights and bias are uniform in ``±1 / sqrt(out_channels / groups * kernel_size)``; of complex ones
    real and imaginary parts each.

    Weights are packed on the first call, once per compute type (a float32 layer that meets a float64 input computes in
    float64, from a second pack).

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d
    >>> layer = ConvTranspose1d(32, 16, 2)
    >>> layer(np.ones((10, 32, 2), np.float32)).shape
    (10, 16, 3)
    >>> ConvTranspose1d(512, 256, 16, stride=8, padding=4)
    ConvTranspose1d(512, 256, kernel_size=(16,), stride=(8,), padding=(4,))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        geometry = geometry_module.check(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
        )
        if not isinstance(bias, (bool, np.bool_)):
            raise TypeError(f"bias must be True or False, got {bias!r}")
        dtype = arrays.layer_dtype(dtype)
        rng = initialize.as_generator(rng)
        shape = (geometry.in_channels, geometry.out_channels // geometry.groups, geometry.kernel_size)
        arrays.check_size("weight", shape, dtype)
        self._set(geometry, *initialize.uniform(geometry, dtype, rng, bool(bias)))

    def _set(self, geometry, weight, bias):
        for array in (weight, bias):
            if array is not None:
                array.flags.writeable = False
        self._operator = Operator(geometry, weight, bias)
        self._backward = Backward(geometry, weight)

    def __call__(
        self,
        x: ArrayLike,
        output_size: Size | None = None,
        *,
        out: np.ndarray | None = None,
        workers: int | None = None,
    ) -> np.ndarray:
        """Apply the layer.

        Parameters
        ----------
        x : array_like, shape (N, C_in, L) or (C_in, L)
        output_size : int, 1-tuple or full shape, optional
            Length of the output, in place of output_padding: at least the length without output_padding, and less
            than `stride` more.
        out : ndarray, optional
            Where to put the result: exact shape and dtype, C-contiguous, writable, apart from the inputs.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.

        Returns
        -------
        ndarray, shape (N, C_out, L_out) or (C_out, L_out)
        """
        return self._operator(x, output_size, out, workers)

    def backward(
        self,
        grad_output: ArrayLike,
        x: ArrayLike,
        output_size: Size | None = None,
        *,
        needs: Iterable[str] = NEEDS,
        workers: int | None = None,
    ) -> Gradients:
        """Gradients with respect to input, weight and bias, as `conv_transpose1d_backward`.

        Parameters
        ----------
        grad_output : array_like, shape (N, C_out, L_out) or (C_out, L_out)
            Gradient of a scalar with respect to the output.
        x : array_like, shape (N, C_in, L) or (C_in, L)
            The input that the output came from.
        output_size : int, 1-tuple or full shape, optional
            As it was given to the call.
        needs : collection of {"x", "weight", "bias"}
            Which gradients to compute.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.

        Returns
        -------
        grad_x, grad_weight, grad_bias : ndarray or None
            None for what `needs` leaves out, and for the bias of a layer without one.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> layer = ConvTranspose1d(4, 2, 3, stride=2, rng=0)
        >>> x = np.ones((1, 4, 5), np.float32)
        >>> grad_x, grad_weight, grad_bias = layer.backward(np.ones((1, 2, 11), np.float32), x)
        >>> grad_x.shape, grad_weight.shape, grad_bias.tolist()
        ((1, 4, 5), (4, 2, 3), [11.0, 11.0])
        """
        if self.bias is None:
            needs = check_needs(needs) - {"bias"}
        return self._backward(grad_output, x, needs, workers, output_size)

    def output_length(self, L: int) -> int:
        """Length of the output for an input of `L` samples."""
        return self._operator.geometry.checked_output_length(geometry_module.as_int("L", L, 1))

    @property
    def weight(self) -> np.ndarray:
        # a view: the array itself could be made writable again, and an edit would leave stale packs in use
        return self._operator.weight.view()

    @weight.setter
    def weight(self, value):
        self._set(self._operator.geometry, self._own("weight", value, self.weight.shape), self._operator.bias)

    @property
    def bias(self) -> np.ndarray | None:
        bias = self._operator.bias
        return None if bias is None else bias.view()

    @bias.setter
    def bias(self, value):
        if value is not None:
            value = self._own("bias", value, (self.out_channels,))
        self._set(self._operator.geometry, self._operator.weight, value)

    def _own(self, name, value, shape):
        """A copy of `value` in the layer's dtype."""
        value = arrays.as_shaped(name, value, shape)
        return np.array(arrays.cast(name, value, self.dtype), order="C", copy=True)

    @property
    def dtype(self) -> np.dtype:
        """Type of the weights."""
        return self.weight.dtype

    # The constructor's other arguments: they live in the geometry and cannot be assigned.
    in_channels = property(attrgetter("_operator.geometry.in_channels"))
    out_channels = property(attrgetter("_operator.geometry.out_channels"))
    kernel_size = property(attrgetter("_operator.geometry.kernel_size"))
    stride = property(attrgetter("_operator.geometry.stride"))
    output_padding = property(attrgetter("_operator.geometry.output_padding"))
    groups = property(attrgetter("_operator.geometry.groups"))
    dilation = property(attrgetter("_operator.geometry.dilation"))
    padding_mode = property(attrgetter("_operator.geometry.padding_mode"))

    @property
    def padding(self) -> int | tuple[int, int]:
        """As given: an int, or a pair where left and right differ."""
        left, right = self._operator.geometry.padding
        return left if left == right else (left, right)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the weights by name, as torch names them: "weight", and "bias" if there is one."""
        state = {"weight": self.weight.copy()}
        if self.bias is not None:
            state["bias"] = self.bias.copy()
        return state

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Take the weights from a mapping such as `state_dict` returns; all or nothing.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape differs.
        """
        wanted = {"weight"} | ({"bias"} if self.bias is not None else set())
        if set(state) != wanted:
            raise ValueError(f"state must hold exactly {sorted(wanted)}, got {sorted(map(str, state))}")
        weight = self._own("weight", state["weight"], self.weight.shape)
        bias = None if self.bias is None else self._own("bias", state["bias"], self.bias.shape)
        self._set(self._operator.geometry, weight, bias)

    def __getstate__(self):
        # packed weights are made again where the layer is used next
        return {"geometry": self._operator.geometry, "weight": self.weight, "bias": self.bias}

    def __setstate__(self, state):
        weight, bias = state["weight"].copy(), state["bias"]
        self._set(state["geometry"], weight, None if bias is None else bias.copy())

    def __repr__(self):
        g = self._operator.geometry
        text = f"{g.in_channels}, {g.out_channels}, kernel_size=({g.kernel_size},), stride=({g.stride},)"
        left, right = g.padding
        if left != right:
            text += f", padding=({left}, {right})"
        elif left:
            text += f", padding=({left},)"
        if g.dilation != 1:
            text += f", dilation=({g.dilation},)"
        if g.output_padding:
            text += f", output_padding=({g.output_padding},)"
        if g.groups != 1:
            text += f", groups={g.groups}"
        if self.bias is None:
            text += ", bias=False"
        if g.padding_mode != "zeros":
            text += f", padding_mode={g.padding_mode}"
        return f"{type(self).__name__}({text})"
