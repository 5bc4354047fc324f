# SPDX-License-Identifier: MIT
"""Layers and kernels of Keras, JAX and Flax."""

from __future__ import annotations

from .. import arrays
from ..geometry import as_int, output_length
from .parts import crops, layer
from .state import as_numpy


def from_keras(layer_or_kernel, bias=None, *, stride=None, padding=None, output_padding=None, dilation=1, trust=False):
    kernel = layer_or_kernel
    if hasattr(kernel, "get_config"):
        if any(value is not None for value in (bias, stride, padding, output_padding)) or dilation != 1:
            raise TypeError("a Keras layer holds its bias and geometry itself, give them with a kernel only")
        given = kernel
        _check_plain(given, trust)
        if getattr(given, "kernel", None) is None:
            raise ValueError("layer must be built: it has no kernel yet")
        activation = getattr(given.activation, "__name__", "linear")
        if activation != "linear":
            raise ValueError(
                f"layer must have no activation, got {activation!r}; give its kernel, bias and geometry instead, "
                "and apply the activation to the output"
            )
        kernel, bias, stride, dilation = given.kernel, given.bias, given.strides, given.dilation_rate
        padding, output_padding = given.padding, given.output_padding
    elif stride is None or padding is None:
        raise TypeError("stride and padding must be given with a kernel")
    weight = arrays.as_array("kernel", as_numpy("kernel", _keras_value(kernel)), (3,)).transpose(2, 1, 0)
    stride, dilation, reach = _reach(weight, stride, dilation)
    if output_padding is not None:
        output_padding = as_int("output_padding", output_padding, 0, one_tuple=True)
    left, right = _window(padding, reach, stride, output_padding)
    return layer("kernel", weight, _optional("bias", _keras_value(bias)), **crops(left, right, stride, dilation))


def _check_plain(given, trust):
    """Refuse a layer that is not Keras' Conv1DTranspose, or one that may compute something else."""
    classes = type(given).__mro__
    if not any(kind.__name__ == "Conv1DTranspose" for kind in classes):
        raise TypeError(f"layer must be a keras.layers.Conv1DTranspose, got {type(given).__name__}")
    owners = {name: next((kind for kind in classes if name in vars(kind)), None) for name in ("call", "__call__")}
    for name, owner in owners.items():
        if owner is not None and not owner.__module__.startswith(("keras.", "tf_keras.")) and not trust:
            raise TypeError(
                f"layer must compute what keras.layers.Conv1DTranspose does, but its class {owner.__qualname__} has "
                f"its own {name}; with trust=True its weights and arguments are taken all the same"
            )


def numpy_of(name, value):
    """A kernel or bias of Keras or JAX."""
    return as_numpy(name, _keras_value(value))


def _keras_value(variable):
    """What a variable of Keras 3 holds, a tensor of its backend; a Keras 2 variable has a method of that name."""
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


def from_jax(
    kernel,
    bias=None,
    *,
    stride,
    padding,
    dilation=1,
    groups=1,
    transpose_kernel=False,
    use_consistent_padding=False,
):
    kernel = arrays.as_array("kernel", as_numpy("kernel", kernel), (3,))
    groups = as_int("groups", groups, 1)
    if groups > 1 and (transpose_kernel or kernel.shape[2] % groups):
        raise ValueError(
            f"groups must divide the C_out of a kernel (K, C_in / groups, C_out), without transpose_kernel, "
            f"got {groups} for shape {kernel.shape}"
        )
    if transpose_kernel:
        weight = kernel.transpose(2, 1, 0)
    else:  # C_out = groups * per_group; the groups move to C_in
        size, per_input, c_out = kernel.shape
        weight = kernel[::-1].reshape(size, per_input, groups, c_out // groups).transpose(2, 1, 3, 0)
        weight = weight.reshape(groups * per_input, c_out // groups, size)
    stride, dilation, reach = _reach(weight, stride, dilation)
    mode = "zeros"
    if isinstance(padding, str) and padding.upper() == "CIRCULAR":  # Flax
        mode, total = "circular", reach - stride
        left = max(0, (total + bool(transpose_kernel)) // 2)
        right = total - left
    elif isinstance(padding, str):
        left, right = _window(padding, reach, stride, None)
    else:
        left, right = pair(padding)
        if not use_consistent_padding:  # samples around the input that the stride has spread, not crops
            left, right = reach - 1 - left, reach - 1 - right
    settings = crops(left, right, stride, dilation) | {"groups": groups, "padding_mode": mode}
    return layer("kernel", weight, _optional("bias", bias), **settings)


def _optional(name, value):
    return None if value is None else as_numpy(name, value)


def _reach(weight, stride, dilation):
    """Stride, dilation and the output positions that one input sample reaches."""
    if weight.size == 0:
        raise ValueError(f"kernel must have no empty dimension, got {weight.shape[::-1]} with K first")
    stride, dilation = (as_int(n, v, 1, one_tuple=True) for n, v in (("stride", stride), ("dilation", dilation)))
    return stride, dilation, output_length(1, weight.shape[2], dilation=dilation)


def _window(padding, reach, stride, output_padding):
    """Crops of "same" and "valid" as both mean them; by default "same" gives L * stride samples."""
    kind = padding.lower() if isinstance(padding, str) else padding
    if kind == "valid":
        return 0, min(0, reach - stride) if output_padding is None else -output_padding
    if kind != "same":
        raise ValueError(f"padding must be 'same' or 'valid', or for JAX 'circular' or numbers, got {padding!r}")
    total = reach - stride if output_padding is None else 2 * (reach // 2) - output_padding
    left = max(0, total // 2)
    return left, total - left


def pair(padding):
    """JAX's and Flax' explicit padding: an int, (a, b), or one of those in a list."""
    if isinstance(padding, (tuple, list)) and len(padding) == 1:
        padding = padding[0]
    pair = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    if len(pair) != 2:
        raise ValueError(f"padding must be an int, a pair or 'SAME', 'VALID', 'CIRCULAR', got {padding!r}")
    return tuple(as_int("padding", value, -(2**31)) for value in pair)
