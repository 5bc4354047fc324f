# SPDX-License-Identifier: MIT
"""The operator inside torch: `ConvTranspose1d`, and `replace`, which puts it into a model; `restore` takes it out.

    ConvTranspose1d.forward          torch's layer; only what it runs differs
        |
    conv_transpose1d                 by torch's own operators under torch.func, in forward mode and in an export to ONNX
        |
    convt1d::conv_transpose1d        the operator that torch knows: shapes (fake), autograd, torch.compile
        |
    _Pack                            weights, packed; kept from call to call while their bits stay the same
        |
    operator.Operator, gradients.Backward

Only this module needs torch when it is imported; nothing in convt1d imports it.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from typing import TYPE_CHECKING

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError(f"convt1d.torch needs torch ({error}): pip install 'convt1d[torch]'") from error
from torch import nn
from torch.nn.modules.utils import _single
from torch.nn.utils import parametrize

from . import geometry as geometry_module
from .gradients import NEEDS, Backward
from .operator import Operator
from .padding import source_index

if TYPE_CHECKING:
    from .geometry import Padding, PaddingMode, Size

__all__ = ["ConvTranspose1d", "replace", "restore"]

_HALF = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128, *_HALF)


class ConvTranspose1d(nn.ConvTranspose1d):
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
    in training three times. On each call the weights are compared with that copy, bit by bit: whatever changed them,
    an optimizer or an edit through ``.data``, takes effect. Where they have changed, and in training they always have,
    they are packed again, for either direction. For 512 -> 256 channels of 16 taps each packing takes 1.4 to 2.5 ms
    (one thread, Sapphire Rapids, 2026-11), as long as the product with some 50 samples.

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
        self._kept = _Kept()

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
            return self._forward(input, output_size)
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

    def _forward(self, input, output_size):
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            lower = torch.get_autocast_dtype("cpu")
            input, weight, bias = (_autocast(tensor, lower) for tensor in (input, weight, bias))
        output_padding = _single(self.output_padding)
        if output_size is not None:
            if isinstance(output_size, (tuple, list)) and len(output_size) == input.dim():
                output_size = output_size[-1:]  # as torch has it: the rest is not looked at
            geometry = _geometry(
                weight.shape, self.stride, self.padding, 0, self.groups, self.dilation, self.padding_mode
            )
            extra = geometry_module.output_padding_for(geometry, input.shape[-1], output_size, input.shape)
            output_padding = (extra,)
        return conv_transpose1d(
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


def replace(model: nn.Module) -> int:
    """Turn every `nn.ConvTranspose1d` of a model that is on the CPU into a `convt1d.torch.ConvTranspose1d`, in place.

    Parameters
    ----------
    model : nn.Module
        Its modules stay the objects they are, with their parameters, hooks and parametrizations (both kinds of
        weight_norm): optimizers, state_dict and names notice nothing.

    Returns
    -------
    int
        How many layers were turned. Left alone, and not counted, are subclasses of `nn.ConvTranspose1d`, and layers
        with another `forward`, on another device or of an element type that is not computed here.

    Raises
    ------
    TypeError
        `model` is no module.

    Examples
    --------
    >>> from torch import nn
    >>> from convt1d.torch import replace
    >>> model = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ConvTranspose1d(8, 4, 4, 2, 1), nn.ConvTranspose1d(4, 1, 4, 2, 1))
    >>> replace(model)
    2
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    found = [module for module in model.modules() if _replaceable(module)]
    for module in found:
        _become(module, ConvTranspose1d)
        module._kept = _Kept()
    return len(found)


def restore(model: nn.Module) -> int:
    """Turn every `convt1d.torch.ConvTranspose1d` of a model into torch's own layer, in place: the inverse of `replace`.

    Parameters
    ----------
    model : nn.Module
        Its modules stay the objects they are, as with `replace`.

    Returns
    -------
    int
        How many layers were turned.

    Raises
    ------
    TypeError
        `model` is no module.
    ValueError
        A layer has a padding mode, or a pair as padding, that torch's layer does not have; none is turned then.

    Examples
    --------
    >>> from torch import nn
    >>> from convt1d.torch import replace, restore
    >>> model = nn.Sequential(nn.ConvTranspose1d(8, 4, 4, 2, 1))
    >>> replace(model), restore(model), type(model[0]) is nn.ConvTranspose1d
    (1, 1, True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    found = {name: m for name, m in model.named_modules() if isinstance(m, ConvTranspose1d)}
    found = {name: m for name, m in found.items() if parametrize.type_before_parametrizations(m) is ConvTranspose1d}
    for name, module in found.items():
        if module.padding_mode != "zeros" or len(_single(module.padding)) != 1:
            raise ValueError(
                f"model must hold what torch's layer has, but {name!r} has padding={module.padding} and "
                f"padding_mode={module.padding_mode!r}"
            )
    for module in found.values():
        _become(module, nn.ConvTranspose1d)
        del module._kept
    return len(found)


def _become(module, kind):
    """Give a module another class, under what torch has made of the one it has."""
    if parametrize.is_parametrized(module):
        # a class that torch made for the module, or for its deep copies too: they keep theirs
        made = type(module)
        members = {k: v for k, v in vars(made).items() if k not in ("__dict__", "__weakref__")}
        kind = type(made.__name__, (kind,), members)
    module.__class__ = kind


def _replaceable(module):
    if parametrize.type_before_parametrizations(module) is not nn.ConvTranspose1d or "forward" in vars(module):
        return False
    # not module.weight: asking spectral_norm for it is a step of its power iteration
    on_cpu = all(t.device.type == "cpu" for t in itertools.chain(module.parameters(), module.buffers()))
    return on_cpu and all(t.dtype in _DTYPES for t in module.parameters())


def _autocast(tensor, dtype):
    """As torch's autocast does it: everything real but float64."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)


# packed weights ---------------------------------------------------------------------------------------------


class _Pack:
    """Weights, prepared for both directions."""

    def __init__(self, weight, bias, geometry):
        self.weight, self.bias, self.geometry = weight, bias, geometry
        self.operator = Operator(geometry, weight, bias)
        self.backward = Backward(geometry, weight)


class _Kept:
    """A layer's pack. An operator of torch takes numbers, not objects: `number` stands for this one while it lives."""

    def __init__(self):
        self.pack = None
        self.number = next(_numbers)
        _kept[self.number] = self

    def __reduce__(self):  # the copy of a layer, or one from a pickle, begins with none
        return _Kept, ()


_numbers = itertools.count(1)
_kept: weakref.WeakValueDictionary[int, _Kept] = weakref.WeakValueDictionary()


def _pack(weight, bias, geometry, number, backward=False):
    """The pack that `number` keeps, if it is of these weights; else a new one. The bias has no part in `backward`."""
    kept = _kept.get(number)
    pack = None if kept is None else kept.pack
    known = pack is not None and pack.geometry == geometry and _same(pack.weight, weight)
    if known and (backward or _same(pack.bias, bias)):
        return pack
    if kept is None or backward:
        return _Pack(weight, bias, geometry)
    kept.pack = pack = _Pack(weight.copy(), None if bias is None else bias.copy(), geometry)
    return pack


_COMPARED = 2**15  # numbers compared at a time: the mask stays in the cache, and the first difference is the end


def _same(a, b):
    """Equal to the bit: -0.0 is not 0.0, and NaN is NaN."""
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return a is b
    bits = np.dtype(f"u{min(a.dtype.itemsize, 8)}")
    a, b = np.ravel(a).view(bits), np.ravel(b).view(bits)  # ravel copies only what is not contiguous
    return all(np.array_equal(a[i : i + _COMPARED], b[i : i + _COMPARED]) for i in range(0, a.size, _COMPARED))


# the operator, as torch knows it ----------------------------------------------------------------------------

_SETTINGS = "int[1] stride, int[1] padding, SymInt[] output_padding, int groups, int[1] dilation, str padding_mode"


def _geometry(weight_shape, stride, padding, output_padding, groups, dilation, padding_mode):
    channels, per_group, kernel_size = weight_shape
    return geometry_module.check(
        channels, per_group * groups, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
    )


_remembered_geometry = functools.lru_cache(_geometry)


def _checked(input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode):
    """Geometry of a call and shape of its output; everything that can be wrong is said here, in torch's names."""
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(f"{name} must be on the CPU, got a tensor on {tensor.device}")
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} must be one of {', '.join(map(str, _DTYPES))}, got {tensor.dtype}")
        if tensor.dtype != input.dtype:
            raise TypeError(f"{name} must have the dtype of input, {input.dtype}, got {tensor.dtype}")
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(f"weight must be 3-D without an empty dimension, got shape {tuple(weight.shape)}")
    symbolic = any(isinstance(n, torch.SymInt) for n in (*weight.shape, *output_padding))  # cannot be hashed
    geometry = (_geometry if symbolic else _remembered_geometry)(
        weight.shape, tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation), padding_mode
    )
    channels = geometry.in_channels
    if input.dim() not in (2, 3) or input.shape[-2] != channels:
        raise ValueError(f"input must have shape (N, {channels}, L) or ({channels}, L), got {tuple(input.shape)}")
    if bias is not None and tuple(bias.shape) != (geometry.out_channels,):
        raise ValueError(f"bias must have shape ({geometry.out_channels},), got {tuple(bias.shape)}")
    return geometry, (*input.shape[:-2], geometry.out_channels, geometry.checked_output_length(input.shape[-1]))


def _array(tensor):
    """The tensor's memory as an array; of half types a copy in float32, in which they are computed."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    if tensor.dtype in _HALF:
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy()


def conv_transpose1d(input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode, kept=0):
    """The operator, by torch's own ones where torch's rules for custom operators do not reach: their tangents are 0."""
    settings = stride, padding, output_padding, groups, dilation, padding_mode
    own = torch.onnx.is_in_onnx_export() or torch.autograd.forward_ad._current_level >= 0
    if own or torch._C._are_functorch_transforms_active():
        return _by_torch(input, weight, bias, *settings)
    return _operator(input, weight, bias, *settings, kept)


def _by_torch(input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode):
    left, right = padding if len(padding) == 2 else (*padding, *padding)
    cropped = 0
    if padding_mode == "zeros":
        cropped = min(left, right)
    else:
        shape, length = tuple(map(int, weight.shape)), int(input.shape[-1])
        geometry = _geometry(shape, stride, padding, output_padding, groups, dilation, padding_mode)
        before, after = geometry.halo(geometry.output_padding)
        index = source_index(np.arange(-before, length + after), length, padding_mode)
        input = input[..., torch.from_numpy(index)]
        left, right = left + before * geometry.stride, right + after * geometry.stride
    y = nn.functional.conv_transpose1d(input, weight, bias, stride, cropped, output_padding, groups, dilation)
    return y if left == right == cropped else y[..., left - cropped : y.shape[-1] - (right - cropped)]


@torch.library.custom_op(
    "convt1d::conv_transpose1d",
    mutates_args=(),
    # `kept` says where packed weights may lie, 0 is nowhere; the result does not depend on it
    schema=f"(Tensor input, Tensor weight, Tensor? bias, {_SETTINGS}, int kept) -> Tensor",
)
def _operator(input, weight, bias, *settings):
    *settings, kept = settings
    geometry, _ = _checked(input, weight, bias, *settings)
    pack = _pack(_array(weight), _array(bias), geometry, kept)
    y = pack.operator(_array(input), workers=torch.get_num_threads())
    return torch.from_numpy(y).to(input.dtype)


@_operator.register_fake
def _(input, weight, bias, *settings):
    return input.new_empty(_checked(input, weight, bias, *settings[:-1])[1])


@torch.library.custom_op(
    "convt1d::conv_transpose1d_backward",
    mutates_args=(),
    # what is not needed comes back empty
    schema=f"(Tensor grad, Tensor input, Tensor weight, {_SETTINGS}, int kept, bool[3] needs)"
    " -> (Tensor, Tensor, Tensor)",
)
def conv_transpose1d_backward(grad, input, weight, *settings):
    *settings, kept, needs = settings
    geometry, _ = _checked(input, weight, None, *settings)
    pack = _pack(_array(weight), None, geometry, kept, backward=True)
    names = [name for name, need in zip(NEEDS, needs, strict=True) if need]
    gradients = pack.backward(_array(grad), _array(input), names, torch.get_num_threads())
    return tuple(input.new_empty(0) if g is None else torch.from_numpy(g).to(input.dtype) for g in gradients)


@conv_transpose1d_backward.register_fake
def _(grad, input, weight, *settings):
    geometry, _ = _checked(input, weight, None, *settings[:-2])
    shapes = input.shape, weight.shape, (geometry.out_channels,)
    return tuple(input.new_empty(shape if need else 0) for shape, need in zip(shapes, settings[-1], strict=True))


def _save(ctx, inputs, output):
    input, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx, grad):
    needs = ctx.needs_input_grad[:3]
    gradients = conv_transpose1d_backward(grad, *ctx.saved_tensors, *ctx.settings, list(needs))
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), *[None] * len(ctx.settings)


def _save_backward(ctx, inputs, output):
    grad, input, weight, *ctx.settings, _, ctx.needs = inputs
    ctx.save_for_backward(grad, input, weight)
    ctx.set_materialize_grads(False)


def _backward_backward(ctx, u, v, b):
    """Gradients of the gradients: u, v, b are the gradients of a loss with respect to those of x, weight and bias.

    As y is linear in x and in weight, <u, grad_x> + <v, grad_weight> + <b, grad_bias> is
    <grad, y(u, weight) + y(input, v) + b>.
    """
    (grad, input, weight), settings, (need_x, need_weight, need_bias) = ctx.saved_tensors, ctx.settings, ctx.needs
    by_grad = by_input = by_weight = None
    if need_x and u is not None:
        by_grad = _operator(u, weight, None, *settings, 0)
        by_weight = conv_transpose1d_backward(grad, u, weight, *settings, 0, [False, True, False])[1]
    if need_weight and v is not None:
        more = _operator(input, v, None, *settings, 0)
        by_grad = more if by_grad is None else by_grad + more
        by_input = conv_transpose1d_backward(grad, input, v, *settings, 0, [True, False, False])[0]
    if need_bias and b is not None:
        more = b[:, None].expand_as(grad)
        by_grad = more if by_grad is None else by_grad + more
    return by_grad, by_input, by_weight, *[None] * (len(settings) + 2)


_operator.register_autograd(_backward, setup_context=_save)
conv_transpose1d_backward.register_autograd(_backward_backward, setup_context=_save_backward)
