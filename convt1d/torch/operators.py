# SPDX-License-Identifier: MIT
"""Both operators as torch knows them: shapes (fake), autograd, torch.compile; and the packed weights that calls share.

layers.py                        a call of a layer
    |
plain(x) and Kept.operator       nothing but numbers is asked for: the NumPy operator, some microseconds beside it
    |
apply                            else: by torch's own operators under torch.func, in forward mode, in an export to
    |                            ONNX, and where a call with gradients is too small to pay
convt1d::conv_transpose1d, convt1d::conv1d
    |
_Pack                            weights, packed; kept from call to call while they stay the same
    |
operator.Operator, gradients.Backward
"""

from __future__ import annotations

import functools
import itertools
import weakref

import numpy as np
import torch
from torch import nn
from torch.autograd import forward_ad

from .. import geometry as geometry_module
from ..geometry import Geometry
from ..gradients import NEEDS, backward_of
from ..operator import Operator
from ..padding import source_index

_HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128, *_HALF)
PLAIN = (torch.float32, torch.float64)

# Multiply-adds of an output below which a call with gradients is torch's own: there a custom operator costs more.
# Estimated, not measured.
LEAST = 2_000_000


def plain(x):
    """Whether a call asks for numbers only: a tensor on the CPU, and no gradient, transform, trace or mode."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is torch.Tensor
        and not (x.requires_grad and torch.is_grad_enabled())
        and x.is_cpu
        and not _dispatch_modes()
        and not _function_modes()
        and not _transforms()
        and _tracing() is None
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
    )


_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_transforms, _tracing = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state


def numpy_of(x):
    """The memory of a plain tensor."""
    return (x.detach() if x.requires_grad else x).numpy()


# packed weights ---------------------------------------------------------------------------------------------


class _Pack:
    """Weights, prepared for both directions."""

    def __init__(self, weight, bias, geometry):
        self.weight, self.bias, self.geometry = weight, bias, geometry
        self.operator = Operator(geometry, weight, bias)
        self.backward = backward_of(geometry, weight)


class Kept:
    """A layer's pack. An operator of torch takes numbers, not objects: `number` stands for this one while it lives.

    In training mode the weights are compared with the pack's, bit by bit, in every call. In eval mode they are once;
    later their identity, address and version counter say whether they are the same. A frozen layer's weights must be.
    """

    def __init__(self, frozen=False):
        self.pack = None
        self.frozen = frozen
        self.number = next(_numbers)
        _kept[self.number] = self
        self.forget()

    def __reduce__(self):  # the copy of a layer, or one from a pickle, begins with none
        return Kept, (self.frozen,)

    def forget(self):
        """Compare the weights in the next call."""
        self._weight = self._bias = self._stamp = self.settings = None

    def knows(self, weight, bias):
        """Whether these are the tensors that were compared last, unchanged as far as torch counts."""
        if self._stamp is None or (not self.frozen and (weight is not self._weight or bias is not self._bias)):
            return False
        return self._stamp == _stamp(weight, bias)

    def operator(self, layer, weight, bias):
        """The operator for a plain call of a layer, whose weights are looked at."""
        pack = pack_of(weight, bias, layer._geometry(), self)
        if self.frozen or not (layer.training or is_uncounted(weight) or is_uncounted(bias)):
            self._weight, self._bias, self.settings = weight, bias, layer._settings()
            self._stamp = _stamp(weight, bias)
        return pack.operator


def stamp(*tensors):
    """What changes where tensors' numbers do, as far as torch counts."""
    try:
        return [t._version for t in tensors], [t.data_ptr() for t in tensors]
    except RuntimeError:  # inference tensors have no counter
        return [t.data_ptr() for t in tensors]


def _stamp(weight, bias):
    """`stamp` of a layer, quickly."""
    if is_uncounted(weight) or is_uncounted(bias):
        return stamp(*(t for t in (weight, bias) if t is not None))
    if bias is None:
        return weight._version, weight.data_ptr()
    return weight._version, bias._version, weight.data_ptr(), bias.data_ptr()


def is_uncounted(tensor):
    """Whether torch does not count a tensor's versions."""
    return tensor is not None and tensor.is_inference()


_numbers = itertools.count(1)
_kept: weakref.WeakValueDictionary[int, Kept] = weakref.WeakValueDictionary()


def pack_of(weight, bias, geometry, kept, backward=False):
    """The pack that is kept, if it is of these weights; else a new one. The bias has no part in `backward`."""
    pack = None if kept is None else kept.pack
    if pack is not None and pack.geometry == geometry and kept.knows(weight, kept._bias if backward else bias):
        return pack
    weight, bias = _array(weight), _array(bias)
    known = pack is not None and pack.geometry == geometry and _same(pack.weight, weight)
    if known and (backward or _same(pack.bias, bias)):
        return pack
    if pack is not None and kept.frozen:
        raise RuntimeError(
            "weights must stay as they were when freeze(model) packed them: call freeze(model) again after an edit, "
            "or restore(model) to train"
        )
    if kept is None or backward:
        return _Pack(weight, bias, geometry)
    kept.forget()
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


# the operators, as torch knows them -------------------------------------------------------------------------


def transposed_geometry(weight_shape, stride, padding, output_padding, groups, dilation, padding_mode):
    channels, per_group, kernel_size = weight_shape
    return geometry_module.check(
        channels, per_group * groups, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
    )


def conv_geometry(weight_shape, stride, padding, groups, dilation, padding_mode):
    channels, per_group, kernel_size = weight_shape
    return geometry_module.check_convolution(
        per_group * groups, channels, kernel_size, stride, padding, dilation, groups, padding_mode
    )


def _checked(geometry_of, input, weight, bias, settings):
    """Geometry of a call and shape of its output; everything that can be wrong is said here, in torch's names."""
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(f"{name} must be on the CPU, got a tensor on {tensor.device}")
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be one of {', '.join(map(str, DTYPES))}, got {tensor.dtype}")
        if tensor.dtype != input.dtype:
            raise TypeError(f"{name} must have the dtype of input, {input.dtype}, got {tensor.dtype}")
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(f"weight must be 3-D without an empty dimension, got shape {tuple(weight.shape)}")
    settings = tuple(tuple(each) if isinstance(each, (list, tuple)) else each for each in settings)
    numbers = (*weight.shape, *itertools.chain(*(each for each in settings if isinstance(each, tuple))))
    symbolic = any(isinstance(n, torch.SymInt) for n in numbers)  # cannot be hashed
    geometry = (geometry_of if symbolic else _remembered(geometry_of))(weight.shape, *settings)
    channels = geometry.in_channels
    if input.dim() not in (2, 3) or input.shape[-2] != channels:
        raise ValueError(f"input must have shape (N, {channels}, L) or ({channels}, L), got {tuple(input.shape)}")
    if bias is not None and tuple(bias.shape) != (geometry.out_channels,):
        raise ValueError(f"bias must have shape ({geometry.out_channels},), got {tuple(bias.shape)}")
    return geometry, (*input.shape[:-2], geometry.out_channels, geometry.checked_output_length(input.shape[-1]))


@functools.cache
def _remembered(geometry_of):
    return functools.lru_cache(geometry_of)


def _array(tensor):
    """The tensor's memory as an array; of half types a copy in float32, in which they are computed."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    if tensor.dtype in _HALF:
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy()


def _define(name, settings, geometry_of):
    """The operator `convt1d::name` and its backward; `settings` are its arguments between bias and `kept`.

    `kept` says where packed weights may lie, 0 is nowhere; the result does not depend on it.
    """

    @torch.library.custom_op(
        f"convt1d::{name}",
        mutates_args=(),
        schema=f"(Tensor input, Tensor weight, Tensor? bias, {settings}, int kept) -> Tensor",
    )
    def operator(input, weight, bias, *settings):
        *settings, kept = settings
        _refuse_tangents(input, weight, bias)
        geometry, _ = _checked(geometry_of, input, weight, bias, settings)
        pack = pack_of(weight, bias, geometry, _kept.get(kept))
        y = pack.operator(_array(input), workers=torch.get_num_threads())
        return torch.from_numpy(y).to(input.dtype)

    @operator.register_fake
    def _(input, weight, bias, *settings):
        return input.new_empty(_checked(geometry_of, input, weight, bias, settings[:-1])[1])

    @torch.library.custom_op(
        f"convt1d::{name}_backward",
        mutates_args=(),
        # what is not needed comes back empty
        schema=f"(Tensor grad, Tensor input, Tensor weight, {settings}, int kept, bool[3] needs)"
        " -> (Tensor, Tensor, Tensor)",
    )
    def backward(grad, input, weight, *settings):
        *settings, kept, needs = settings
        _refuse_tangents(grad, input, weight)
        geometry, _ = _checked(geometry_of, input, weight, None, settings)
        pack = pack_of(weight, None, geometry, _kept.get(kept), backward=True)
        names = [name for name, need in zip(NEEDS, needs, strict=True) if need]
        gradients = pack.backward(_array(grad), _array(input), names, torch.get_num_threads())
        return tuple(input.new_empty(0) if g is None else torch.from_numpy(g).to(input.dtype) for g in gradients)

    @backward.register_fake
    def _(grad, input, weight, *settings):
        geometry, _ = _checked(geometry_of, input, weight, None, settings[:-2])
        shapes = input.shape, weight.shape, (geometry.out_channels,)
        return tuple(input.new_empty(shape if need else 0) for shape, need in zip(shapes, settings[-1], strict=True))

    def save(ctx, inputs, output):
        input, weight, _, *ctx.settings = inputs
        ctx.save_for_backward(input, weight)

    def gradients(ctx, grad):
        needs = ctx.needs_input_grad[:3]
        found = backward(grad, *ctx.saved_tensors, *ctx.settings, list(needs))
        return *(g if need else None for g, need in zip(found, needs, strict=True)), *[None] * len(ctx.settings)

    def save_backward(ctx, inputs, output):
        grad, input, weight, *ctx.settings, _, ctx.needs = inputs
        ctx.save_for_backward(grad, input, weight)
        ctx.set_materialize_grads(False)

    operator.register_autograd(gradients, setup_context=save)
    backward.register_autograd(functools.partial(_second_gradients, operator, backward), setup_context=save_backward)

    def by_torch(input, weight, bias, *settings):
        return _by_torch(input, weight, bias, geometry_of(tuple(map(int, weight.shape)), *settings))

    def backward_by_torch(grad, input, weight, *settings):
        *settings, _, needs = settings
        bias = weight.new_zeros(grad.shape[-2])
        _, pull = torch.func.vjp(lambda *operands: by_torch(*operands, *settings), input, weight, bias)
        return tuple(g if need else input.new_empty(0) for g, need in zip(pull(grad), needs, strict=True))

    # Under the transforms of torch.func the operators are torch's own: of custom ones the tangents would be 0.
    _transformed.impl(name, lambda *operands: by_torch(*operands[:-1]), "FuncTorchDynamicLayerFrontMode")
    _transformed.impl(f"{name}_backward", backward_by_torch, "FuncTorchDynamicLayerFrontMode")
    return operator, backward


_transformed = torch.library.Library("convt1d", "IMPL")


def _refuse_tangents(*tensors):
    """torch's rules for custom operators leave a tangent of forward mode behind: it would count as 0."""
    if forward_ad._current_level >= 0 and any(map(_may_have_tangent, tensors)):
        raise NotImplementedError(
            "torch.ops.convt1d has no forward mode: call a layer of convt1d.torch, or convt1d.torch.conv_transpose1d"
        )


def _may_have_tangent(tensor):
    try:
        return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None
    except RuntimeError:  # torch does not say so of a tensor that is traced
        return True


def _second_gradients(operator, backward, ctx, u, v, b):
    """Gradients of the gradients: u, v, b are the gradients of a loss with respect to those of x, weight and bias.

    As y is linear in x and in weight, <u, grad_x> + <v, grad_weight> + <b, grad_bias> is
    <grad, y(u, weight) + y(input, v) + b>.
    """
    (grad, input, weight), settings, (need_x, need_weight, need_bias) = ctx.saved_tensors, ctx.settings, ctx.needs
    by_grad = by_input = by_weight = None
    if need_x and u is not None:
        by_grad = operator(u, weight, None, *settings, 0)
        by_weight = backward(grad, u, weight, *settings, 0, [False, True, False])[1]
    if need_weight and v is not None:
        more = operator(input, v, None, *settings, 0)
        by_grad = more if by_grad is None else by_grad + more
        by_input = backward(grad, input, v, *settings, 0, [True, False, False])[0]
    if need_bias and b is not None:
        more = b[:, None].expand_as(grad)
        by_grad = more if by_grad is None else by_grad + more
    return by_grad, by_input, by_weight, *[None] * (len(settings) + 2)


conv_transpose1d_operator, conv_transpose1d_backward = _define(
    "conv_transpose1d",
    "int[1] stride, int[1] padding, SymInt[] output_padding, int groups, int[1] dilation, str padding_mode",
    transposed_geometry,
)
conv1d_operator, conv1d_backward = _define(
    "conv1d", "int[1] stride, int[1] padding, int groups, int[1] dilation, str padding_mode", conv_geometry
)


# torch's own operators --------------------------------------------------------------------------------------


def conv_transpose1d(input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode, kept=0):
    """The operator, by torch's own where that is needed or faster."""
    settings = stride, padding, output_padding, groups, dilation, padding_mode
    if _is_torchs_own(input, weight, input.shape[-1]):
        return _by_torch(input, weight, bias, transposed_geometry(tuple(map(int, weight.shape)), *settings))
    return conv_transpose1d_operator(input, weight, bias, *settings, kept)


def conv1d(input, weight, bias, stride, padding, groups, dilation, padding_mode, kept=0):
    """The operator, by torch's own where that is needed or faster."""
    settings = stride, padding, groups, dilation, padding_mode
    if _is_torchs_own(input, weight, input.shape[-1] // stride[0] if isinstance(stride, tuple) else input.shape[-1]):
        return _by_torch(input, weight, bias, conv_geometry(tuple(map(int, weight.shape)), *settings))
    return conv1d_operator(input, weight, bias, *settings, kept)


def _is_torchs_own(input, weight, steps):
    """Whether torch's rules for custom operators do not reach (their tangents are 0), or a call is too small to pay."""
    if torch.onnx.is_in_onnx_export() or forward_ad._current_level >= 0:
        return True
    if torch.compiler.is_compiling():
        return False
    small = type(input) is torch.Tensor and weight.dim() == 3 and input.dim() in (2, 3) and input.is_cpu
    if not small or not torch.is_grad_enabled() or input.dtype != weight.dtype or input.dtype not in PLAIN:
        return False
    return not _dispatch_modes() and weight.numel() * steps * len(input) < LEAST


def _by_torch(input, weight, bias, geometry):
    transposed = isinstance(geometry, Geometry)
    left, right = geometry.padding
    cropped = 0
    if geometry.padding_mode != "zeros":
        length = int(input.shape[-1])
        before, after = geometry.halo(geometry.output_padding) if transposed else geometry.padding
        index = source_index(np.arange(-before, length + after), length, geometry.padding_mode)
        input = input[..., torch.from_numpy(index)]
        scale = geometry.stride if transposed else -1
        left, right = left + before * scale, right + after * scale
    elif transposed:
        cropped = min(left, right)
    elif left == right:
        cropped = left
    else:
        input = nn.functional.pad(input, (left, right))
        left = right = 0
    stride, groups, dilation = geometry.stride, geometry.groups, geometry.dilation
    if not transposed:
        return nn.functional.conv1d(input, weight, bias, stride, cropped, dilation, groups)
    y = nn.functional.conv_transpose1d(input, weight, bias, stride, cropped, geometry.output_padding, groups, dilation)
    return y if left == right == cropped else y[..., left - cropped : y.shape[-1] - (right - cropped)]
