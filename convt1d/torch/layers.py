# SPDX-License-Identifier: MIT
"""torch's layers, computed here: `ConvTranspose1d` and `Conv1d`. Only what they run differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.modules.utils import _single

from .. import geometry as geometry_module
from . import operators
from .operators import Kept

if TYPE_CHECKING:
    from ..geometry import Padding, PaddingMode, Size


class Layer(nn.Module):
    """What both layers share: the way from a call to the operator."""

    def train(self, mode: bool = True):
        """As torch's; in eval mode the next call compares the weights with the packed ones."""
        self._kept.forget()
        return super().train(mode)

    def ready(self):
        """The operator of a call for which `operators.plain` holds of the input; None where more is asked for."""
        parameters, kept = self._parameters, self._kept
        weight, bias = parameters.get("weight"), parameters.get("bias")
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters.values() if p is not None):
            return None
        if weight is not None and kept.knows(weight, bias) and kept.settings == self._settings():
            return kept.pack.operator
        if weight is None:  # weight_norm and parametrizations make it
            weight = self.weight
        if type(weight) not in _TENSORS or not weight.is_cpu or weight.dtype not in operators.PLAIN:
            return None
        return kept.operator(self, weight, bias)

    def _plain(self, input):
        """The result of a call that asks for numbers only; None of another, and of one with an error to tell."""
        if not operators.plain(input):
            return None
        operator = self.ready()
        if operator is None:
            return None
        try:
            x = operators.numpy_of(input)
            if x.dtype is operator.weight.dtype:
                return torch.from_numpy(operator(x, workers=torch.get_num_threads()))
        except (ValueError, TypeError, RuntimeError):  # told in torch's names by the operators that torch knows
            pass
        return None


_TENSORS = (nn.Parameter, torch.Tensor)


class ConvTranspose1d(Layer, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d`, computed by convt1d.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride : int
        As torch's.
    padding : int or (int, int), default 0
        As torch's; a pair is ``(left, right)``.
    output_padding, groups, bias, dilation : int, bool
        As torch's.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "zeros"
        How the input continues outside its L samples; torch refuses all but the first.
    device, dtype : torch.device, torch.dtype
        As torch's: float32, float64, complex64, complex128, float16 or bfloat16. The input must be on the CPU.

    Raises
    ------
    ValueError
        A value breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter is of the wrong kind.

    See Also
    --------
    replace : puts this layer into a model.
    restore : takes it out again.
    convt1d.ConvTranspose1d : the layer for NumPy.

    Notes
    -----
    It is torch's layer, with its parameters, its `state_dict` and its hooks; initial weights are torch's, too.
    Autograd, gradients of gradients, ``torch.compile`` and autocast work. Under the transforms of torch.func, in
    forward mode and in an export to ONNX the layer runs torch's own operators, with all that they can do.
    float16 and bfloat16 are computed in float32. `torch.compile` compiles anew for each layer that is compiled apart
    from the others; its limit of eight is for such layers, not for those of one model.

    ``torch.set_num_threads`` sets the threads. Tensors are read in place, whatever their strides.

    Packed weights, and a copy of the weights they were made of, stay with the layer: about twice the weights' memory,
    in training three times. In training mode each call compares the weights with that copy, bit by bit: whatever
    changed them, an optimizer or an edit through ``.data``, takes effect. After an edit they are packed again, for
    either direction; for 512 -> 256 channels of 16 taps each packing takes 1.4 to 2.5 ms (one thread, Sapphire Rapids,
    2026-11), as long as the product with some 50 samples. In eval mode they are compared in the first call after
    ``eval()`` and where torch's version counters say that they changed. An edit that torch does not count (through
    ``.data`` or NumPy) takes effect with the next ``eval()``. `freeze` does away with comparisons altogether.

    A call with gradients of fewer than 2 million multiply-adds is torch's own: it costs less there.

    Examples
    --------
    >>> import torch
    >>> from convt1d.torch import ConvTranspose1d
    >>> layer = ConvTranspose1d(32, 16, 4, stride=2, padding=1, padding_mode="circular")
    >>> layer(torch.ones(10, 32, 50)).shape
    torch.Size([10, 16, 100])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        checked = geometry_module.check(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
        )
        super().__init__(
            checked.in_channels,
            checked.out_channels,
            checked.kernel_size,
            checked.stride,
            0,
            checked.output_padding,
            checked.groups,
            bias,
            checked.dilation,
            "zeros",
            device,
            dtype,
        )
        # what torch's constructor refuses
        left, right = checked.padding
        self.padding = (left,) if left == right else (left, right)
        self.padding_mode = padding_mode
        self._kept = Kept()

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Apply the layer.

        Parameters
        ----------
        input : Tensor, shape (N, C_in, L) or (C_in, L)
            On the CPU, of any strides.
        output_size : sequence of int, optional
            Length of the output, alone or as the last number of a shape, in place of output_padding.

        Returns
        -------
        Tensor, shape (N, C_out, L_out) or (C_out, L_out)
            As torch's layer returns it.

        Examples
        --------
        >>> import torch
        >>> from convt1d.torch import ConvTranspose1d
        >>> layer = ConvTranspose1d(8, 4, 3, stride=2, padding=1)
        >>> layer(torch.ones(2, 8, 10)).shape, layer(torch.ones(2, 8, 10), output_size=[20]).shape
        (torch.Size([2, 4, 19]), torch.Size([2, 4, 20]))
        """
        # the condition that TorchScript knows: of the two branches it compiles the second
        if not torch.jit.is_scripting():
            y = self._plain(input) if output_size is None else None
            return self._forward(input, output_size) if y is None else y
        else:
            assert self.padding_mode == "zeros", "TorchScript needs what torch's layer has: padding_mode 'zeros'"
            assert len(self.padding) == 1, "TorchScript needs what torch's layer has: one padding for both ends"
            output_padding = self._output_padding(
                input,
                output_size,
                self.stride,
                self.padding,
                self.kernel_size,
                1,
                self.dilation,
            )
            return nn.functional.conv_transpose1d(
                input,
                self.weight,
                self.bias,
                self.stride,
                self.padding,
                output_padding,
                self.groups,
                self.dilation,
            )

    def _settings(self):
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation, self.padding_mode

    def _geometry(self, output_padding=None):
        stride, padding, own, *others = self._settings()
        output_padding = own if output_padding is None else output_padding
        return operators.transposed_geometry(self.weight.shape, stride, padding, output_padding, *others)

    def _forward(self, input, output_size):
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            lower = torch.get_autocast_dtype("cpu")
            input, weight, bias = (_cast(tensor, lower) for tensor in (input, weight, bias))
        output_padding = _single(self.output_padding)
        if output_size is not None:
            if isinstance(output_size, (tuple, list)) and len(output_size) == input.dim():
                output_size = output_size[-1:]  # as torch has it: the rest is not looked at
            geometry = self._geometry(0)
            extra = geometry_module.output_padding_for(geometry, input.shape[-1], output_size, input.shape)
            output_padding = (extra,)
        return operators.conv_transpose1d(
            input,
            weight,
            bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            self.padding_mode,
            self._kept.number,
        )


class Conv1d(Layer, nn.Conv1d):
    """`torch.nn.Conv1d`, computed by convt1d.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride : int
        As torch's.
    padding : int, (int, int), "same" or "valid"
        As torch's; a pair is ``(left, right)``.
    dilation, groups, bias : int, bool
        As torch's.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "zeros"
        As torch's; reflections may be longer than the input.
    device, dtype : torch.device, torch.dtype
        As of `ConvTranspose1d`.

    Raises
    ------
    ValueError
        A value breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter is of the wrong kind.

    See Also
    --------
    ConvTranspose1d : its Notes hold for this layer, too.
    convt1d.Conv1d : the layer for NumPy.

    Examples
    --------
    >>> import torch
    >>> from convt1d.torch import Conv1d
    >>> Conv1d(32, 16, 3, padding=(2, 0))(torch.ones(10, 32, 50)).shape
    torch.Size([10, 16, 50])
    """

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        checked = geometry_module.check_convolution(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        left, right = checked.padding
        super().__init__(
            checked.in_channels,
            checked.out_channels,
            checked.kernel_size,
            checked.stride,
            padding if isinstance(padding, str) else left,
            checked.dilation,
            checked.groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        if left != right and not isinstance(padding, str):  # what torch's constructor refuses
            self.padding = (left, right)
        self._kept = Kept()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Apply the layer.

        Parameters
        ----------
        input : Tensor, shape (N, C_in, L) or (C_in, L)
            On the CPU, of any strides.

        Returns
        -------
        Tensor, shape (N, C_out, L_out) or (C_out, L_out)
            As torch's layer returns it.

        Examples
        --------
        >>> import torch
        >>> from convt1d.torch import Conv1d
        >>> Conv1d(8, 4, 3, stride=2, padding=1)(torch.ones(2, 8, 10)).shape
        torch.Size([2, 4, 5])
        """
        # the condition that TorchScript knows: of the two branches it compiles the second
        if not torch.jit.is_scripting():
            y = self._plain(input)
            return self._forward(input) if y is None else y
        else:
            assert len(self.padding) == 1, "TorchScript needs what torch's layer has: one padding for both ends"
            return self._conv_forward(input, self.weight, self.bias)

    def _settings(self):
        return self.stride, self.padding, self.groups, self.dilation, self.padding_mode

    def _geometry(self):
        return operators.conv_geometry(self.weight.shape, *self._settings())

    def _forward(self, input):
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            lower = torch.get_autocast_dtype("cpu")
            input, weight, bias = (_cast(tensor, lower) for tensor in (input, weight, bias))
        padding = self.padding
        if isinstance(padding, str):
            padding = (0,) if padding == "valid" else self._geometry().padding
        return operators.conv1d(
            input,
            weight,
            bias,
            self.stride,
            padding,
            self.groups,
            self.dilation,
            self.padding_mode,
            self._kept.number,
        )


def _cast(tensor, dtype):
    """As torch's autocast does it: everything real but float64."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)
