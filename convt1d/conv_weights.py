# SPDX-License-Identifier: MIT
"""Weights of convolutions from elsewhere: what torch, ONNX, Keras and JAX mean, in this package's terms.

Layouts differ from one system to the next; none flips the kernel::

    system        weight                        input
    torch, ONNX   (C_out, C_in/groups, K)       (N, C_in, L)     ours
    Keras         (K, C_in/groups, C_out)       (N, L, C_in)
    JAX, Flax     (K, C_in/groups, C_out)       (N, L, C_in)

A padding that depends on L, as "same" with a stride does, is refused: a layer has one geometry. Every reader returns a
checked geometry, the weight, and the bias or None; the classmethods of `Conv1d` make a layer of them and hold the
documentation. How files and states are read is in weights.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import arrays, files, weights
from . import geometry as geometry_module
from .geometry import as_int

#: A layer's settings beside its sizes, which a .npz file may hold beside the weights.
SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode")


def _layer(name: str, weight: Any, bias: Any, groups: Any = None, **sliding: Any) -> Any:
    """What every reader returns, checked."""
    weight = arrays.as_weight(weight, name)
    out_channels, per_group, kernel_size = weight.shape
    if groups is None:
        if per_group == 1 < out_channels:
            raise TypeError(
                f"groups must be given: {name} of shape {weight.shape} is that of a depthwise layer "
                f"(groups={out_channels}) and of one with a single input channel (groups=1)"
            )
        groups = 1
    dtype = arrays.layer_dtype(weight.dtype)
    groups = as_int("groups", groups, 1)
    geometry = geometry_module.check_convolution(
        per_group * groups, out_channels, kernel_size, groups=groups, **sliding
    )
    if bias is not None:
        bias = arrays.cast("bias", arrays.as_shaped("bias", bias, (out_channels,)), dtype)
    return geometry, weight, bias


def from_state_dict(mapping: Any, prefix: str = "", **settings: Any) -> Any:
    return _layer(*weights.stored(mapping, prefix), **settings)


def from_torch(module: Any) -> Any:
    if getattr(module, "transposed", True) or len(getattr(module, "kernel_size", ())) != 1:
        raise TypeError(f"module must be a torch.nn.Conv1d, got {type(module).__name__}")
    padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    settings = {name: getattr(module, name) for name in ("stride", "dilation", "groups", "padding_mode")}
    return from_state_dict(module.state_dict(), padding=padding, **settings)


def from_file(path: Any, name: str | None = None, **settings: Any) -> Any:
    suffix = weights.suffix_of(path)
    with files.reading(path):
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if suffix == ".onnx":
            if unknown := set(settings) - {"length"}:
                raise TypeError(f"a .onnx file holds the geometry itself; got {sorted(unknown)}")
            return _from_onnx(files.onnx_model(path), Path(path).parent, name, settings.get("length"))
        if unknown := set(settings) - set(SETTINGS):
            raise TypeError(f"settings must be of {', '.join(SETTINGS)}; got {sorted(unknown)}")
        with files.arrays_of(path) as mapping:
            prefix = name if name is not None else weights.only_layer(mapping)
            settings = weights.stored_settings(mapping, prefix, SETTINGS) | settings
            if "padding" not in settings:
                raise TypeError("padding must be given: the file does not hold it")
            return from_state_dict(mapping, prefix, **settings)


def from_onnx(model_or_path: Any, node: str | None = None, *, length: int | None = None) -> Any:
    if hasattr(model_or_path, "SerializeToString") and hasattr(model_or_path, "graph"):
        return _from_onnx(model_or_path, None, node, length)
    with files.reading(model_or_path):
        return _from_onnx(files.onnx_model(model_or_path), Path(model_or_path).parent, node, length)


def _from_onnx(model: Any, folder: Any, name: str | None, length: int | None) -> Any:
    weight, bias, geometry = weights.node_named(model, folder, name, "Conv", onnx_geometry, length)
    return _layer("weight", weight, bias, **geometry)


def onnx_geometry(
    weight_shape: tuple[int, ...],
    length: int | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> dict[str, Any]:
    """Arguments of `conv1d` for the attributes of a 1-D Conv node; only SAME_* with a stride needs `length`."""
    kernel_size = weight_shape[2]
    if weights.one("kernel_shape", kernel_shape, kernel_size, 1) != kernel_size:
        raise ValueError(f"kernel_shape must be that of the weight {weight_shape}, got {list(kernel_shape)}")
    stride, dilation = weights.one("strides", strides, 1, 1), weights.one("dilations", dilations, 1, 1)
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto_pad!r}")
    if auto_pad != "NOTSET" and pads:
        raise ValueError(f"pads cannot go with auto_pad, got {list(pads[:9])} and {auto_pad}")
    padding: Any = tuple(pads or (0, 0))
    if len(padding) != 2:
        raise ValueError(f"pads must hold two numbers, got {list(pads[:9])}")
    if auto_pad.startswith("SAME"):
        left, right = _same(kernel_size, stride, dilation, length, "auto_pad")
        padding = (left, right) if auto_pad == "SAME_UPPER" else (right, left)
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": group}


def _same(kernel_size: int, stride: int, dilation: int, length: int | None, name: str) -> tuple[int, int]:
    """Padding for ``ceil(L / stride)`` output samples, an odd rest on the right."""
    reach = dilation * (kernel_size - 1) + 1
    if stride == 1:
        total = reach - 1
    elif length is None:
        raise ValueError(
            f"{name}: 'same' with stride {stride} makes the padding depend on L, the input's length; give length=L "
            "for ONNX, or else the padding as a pair (left, right)"
        )
    else:
        total = max(0, (geometry_module.ceil_div(length, stride) - 1) * stride + reach - length)
    return total // 2, total - total // 2


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
    weight = weights.numpy_of("kernel", kernel).transpose(2, 1, 0)
    padding = _padding(padding, weight.shape[2], stride, dilation)
    bias = None if bias is None else weights.numpy_of("bias", bias)
    return _layer("kernel", weight, bias, groups=groups, stride=stride, padding=padding, dilation=dilation)


def from_jax(
    kernel: Any, bias: Any = None, *, stride: Any = 1, padding: Any, dilation: Any = 1, groups: Any = 1
) -> Any:
    weight = arrays.as_array("kernel", weights.numpy_of("kernel", kernel), (3,)).transpose(2, 1, 0)
    bias = None if bias is None else weights.numpy_of("bias", bias)
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
        left, right = weights.pair(padding)
        return left, right
    if kind not in ("same", "valid", "causal"):
        raise ValueError(f"padding must be 'same', 'valid', 'causal' or numbers, got {padding!r}")
    if kind == "causal":
        return dilation * (kernel_size - 1), 0
    return (0, 0) if kind == "valid" else _same(kernel_size, stride, dilation, None, "padding")
