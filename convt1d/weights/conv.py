# SPDX-License-Identifier: MIT
"""Weights of convolutions from elsewhere: what torch, ONNX, Keras and JAX mean, in this package's terms.

Layouts differ from one system to the next; none flips the kernel::

    system        weight                        input
    torch, ONNX   (C_out, C_in/groups, K)       (N, C_in, L)     ours
    Keras         (K, C_in/groups, C_out)       (N, L, C_in)
    JAX, Flax     (K, C_in/groups, C_out)       (N, L, C_in)

A padding that depends on L, as "same" with a stride does, is refused: a layer has one geometry. Every reader returns a
checked geometry, the weight, and the bias or None; the classmethods of `Conv1d` make a layer of them and hold the
documentation.
"""

from __future__ import annotations

from typing import Any

from .. import arrays, files
from ..geometry import as_int
from . import keras_jax, onnx, sources, state
from .parts import check_convolution, one_axis, only, same

#: A layer's settings beside its sizes, which a .npz file may hold beside the weights.
SETTINGS = state.CONVOLUTION_SETTINGS


def _layer(name: str, weight: Any, bias: Any, groups: Any = None, **sliding: Any) -> Any:
    """What every reader returns, checked."""
    weight = arrays.as_weight(weight, name)
    geometry = check_convolution(weight.shape, groups=groups_of(name, weight.shape, groups), **sliding)
    dtype = arrays.layer_dtype(weight.dtype)
    if bias is not None:
        bias = arrays.cast("bias", arrays.as_shaped("bias", bias, (geometry.out_channels,)), dtype)
    return geometry, weight, bias


def groups_of(name: str, shape: Any, groups: Any = None) -> Any:
    """The groups of a convolution: those given, else 1 unless the shape leaves a doubt."""
    if groups is None and shape[1] == 1 < shape[0]:
        raise TypeError(
            f"groups must be given: {name} of shape {shape} is that of a depthwise layer "
            f"(groups={shape[0]}) and of one with a single input channel (groups=1)"
        )
    return 1 if groups is None else groups


def from_state_dict(mapping: Any, prefix: str = "", **settings: Any) -> Any:
    found = state.find(mapping, prefix, state.CONVOLUTION_LAYOUTS)
    return _layer(found.name, found.weight, found.bias, **settings)


def from_torch(module: Any, trust: bool = False) -> Any:
    kernel = getattr(module, "kernel_size", ())
    if getattr(module, "transposed", True) or not isinstance(kernel, tuple) or len(kernel) not in (1, 2):
        raise TypeError(f"module must be a torch.nn.Conv1d, got {type(module).__name__}")
    if not trust:
        state.check_plain(module, "Conv1d")
    named = isinstance(module.padding, str)  # "same" pads no axis of one tap
    paddings = (0,) * len(kernel) if named else module.padding
    try:
        axis = one_axis(kernel, module.stride, paddings, (0,) * len(kernel))
    except ValueError as error:
        raise TypeError(f"module must be a torch.nn.Conv1d, got {type(module).__name__}: {error}") from None
    return from_state_dict(
        module.state_dict(),
        stride=module.stride[axis],
        padding=module.padding if named else paddings[axis],
        dilation=module.dilation[axis],
        groups=module.groups,
        padding_mode=module.padding_mode,
    )


def from_file(path: Any, name: str | None = None, **settings: Any) -> Any:
    suffix = sources.suffix_of(path)
    with files.reading(path):
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if suffix == ".onnx":
            if unknown := set(settings) - {"length"}:
                raise TypeError(f"a .onnx file holds the geometry itself; got {sorted(unknown)}")
            return _read(files.onnx_model(path), path, name, **settings)
        if unknown := set(settings) - set(SETTINGS):
            raise TypeError(f"settings must be of {', '.join(SETTINGS)}; got {sorted(unknown)}")
        with files.arrays_of(path) as mapping:
            if name is None:
                listed = state.candidates(mapping, transposed=False)
                name = only([f.name for f in listed if not f.problem] or [f.name for f in listed], "name")
            settings = state.stored_settings(mapping, state.prefix_of(name), SETTINGS) | settings
            if "padding" not in settings:
                raise TypeError("padding must be given: the file does not hold it")
            return from_state_dict(mapping, name, **settings)


def from_onnx(model_or_path: Any, node: str | None = None, *, length: int | None = None) -> Any:
    return onnx.from_onnx(model_or_path, node, length=length, read=_read)


def _read(model: Any, path: Any, name: str | None, length: int | None = None) -> Any:
    weight, bias, geometry = onnx.layer_of(onnx.named(model, path, name, "Conv"), length, 0)
    return _layer("weight", weight, bias, **geometry)


def from_keras(
    layer_or_kernel: Any, bias: Any = None, *, stride: Any = 1, padding: Any = None, dilation: Any = 1, groups: Any = 1
) -> Any:
    kernel = layer_or_kernel
    if hasattr(kernel, "get_config"):
        layer = kernel
        if not any(kind.__name__ in ("Conv1D", "DepthwiseConv1D") for kind in type(layer).__mro__):
            raise TypeError(f"layer must be a keras.layers.Conv1D, got {type(layer).__name__}")
        if type(layer).__name__ == "DepthwiseConv1D":
            raise TypeError(
                "layer must be a keras.layers.Conv1D; of a DepthwiseConv1D give kernel, groups and geometry"
            )
        if getattr(layer, "kernel", None) is None:
            raise ValueError("layer must be built: it has no kernel yet")
        activation = getattr(layer.activation, "__name__", "linear")
        if activation != "linear":
            raise ValueError(f"layer must have no activation, got {activation!r}: give it to the call as after=")
        kernel, bias, padding = layer.kernel, layer.bias, layer.padding
        stride, dilation, groups = layer.strides, layer.dilation_rate, layer.groups
    elif padding is None:
        raise TypeError("padding must be given with a kernel")
    weight = keras_jax.numpy_of("kernel", kernel).transpose(2, 1, 0)
    padding = _padding(padding, weight.shape[2], stride, dilation)
    bias = None if bias is None else keras_jax.numpy_of("bias", bias)
    return _layer("kernel", weight, bias, groups=groups, stride=stride, padding=padding, dilation=dilation)


def from_jax(
    kernel: Any, bias: Any = None, *, stride: Any = 1, padding: Any, dilation: Any = 1, groups: Any = 1
) -> Any:
    weight = arrays.as_array("kernel", keras_jax.numpy_of("kernel", kernel), (3,)).transpose(2, 1, 0)
    bias = None if bias is None else keras_jax.numpy_of("bias", bias)
    mode = "zeros"
    if isinstance(padding, str) and padding.upper() == "CIRCULAR":  # Flax
        padding, mode = "same", "circular"
    padding = _padding(padding, weight.shape[2], stride, dilation)
    return _layer(
        "kernel", weight, bias, groups=groups, stride=stride, padding=padding, dilation=dilation, padding_mode=mode
    )


def _padding(padding: Any, kernel_size: int, stride: Any, dilation: Any) -> tuple[int, int]:
    """Keras' and JAX' padding as numbers."""
    stride, dilation = (as_int(n, v, 1, one_tuple=True) for n, v in (("stride", stride), ("dilation", dilation)))
    kind = padding.lower() if isinstance(padding, str) else None
    if kind is None:
        left, right = keras_jax.pair(padding)
        return left, right
    if kind not in ("same", "valid", "causal"):
        raise ValueError(f"padding must be 'same', 'valid', 'causal' or numbers, got {padding!r}")
    if kind == "causal":
        return dilation * (kernel_size - 1), 0
    return (0, 0) if kind == "valid" else same(kernel_size, stride, dilation, None, "padding")
