# SPDX-License-Identifier: MIT
"""Weights from elsewhere: what torch, ONNX, Keras and JAX mean, in this package's terms.

Layout, and which part of the uncropped output is kept, differ from one system to the next::

    system        weight                        flipped   input
    torch, ONNX   (C_in, C_out/groups, K)       no        (N, C_in, L)     ours
    Keras         (K, C_out, C_in)              no        (N, L, C_in)
    JAX, Flax     (K, C_in, C_out)              yes       (N, L, C_in)     transpose_kernel=True: as Keras

Each convention comes down to two numbers, the samples cropped on the left and on the right (`_crops`).
Every reader returns a checked geometry, the weight, and the bias or None; the classmethods of `ConvTranspose1d`
make a layer of them and hold the documentation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from . import arrays, files
from . import geometry as geometry_module
from .geometry import SETTINGS, Geometry, as_int, as_length, output_length

# What names a weight in a state: as it is, or under weight_norm (old and new); then what cannot be taken.
_OLD_NORM = ("weight_g", "weight_v")
_PARAMETRIZED = "parametrizations."
_NEW_NORM = (_PARAMETRIZED + "weight.original0", _PARAMETRIZED + "weight.original1")
_FORMS = ("weight", "weight_orig", _PARAMETRIZED + "weight.original", _OLD_NORM[1], _NEW_NORM[1])

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_MOST_NAMES = 12  # in an error message
_LONGEST_CHAIN = 100  # of Identity nodes


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A transposed convolution in a file, as `list_layers` finds it; None where the file does not say.

    Attributes
    ----------
    name : str
        What `ConvTranspose1d.from_file` takes as its `name`.
    weight_shape : (int, int, int) or None
        C_in, C_out / groups, K.
    dtype : str or None
        Type of the weights.
    bias : bool
        Whether there is a bias.
    stride, padding, output_padding, groups, dilation : int or None
        The geometry, padding as a pair. Only .onnx files hold all of it.
    problem : str
        Why it cannot be imported as it stands; empty if it can.
    """

    name: str
    weight_shape: tuple[int, int, int] | None
    dtype: str | None
    bias: bool
    stride: int | None = None
    padding: tuple[int, int] | None = None
    output_padding: int | None = None
    groups: int | None = None
    dilation: int | None = None
    problem: str = ""


def list_layers(path) -> list[LayerInfo]:
    """Every 1-D transposed convolution in a file.

    Parameters
    ----------
    path : str or os.PathLike
        A .onnx, .safetensors or .npz file.

    Returns
    -------
    list of LayerInfo
        In the order of the file.

    Raises
    ------
    ValueError, TypeError, OSError
        The file is not what it should be; the message names it.
    ImportError
        A package is missing; the message names the extra.

    Notes
    -----
    A .onnx file holds operators, so the list is exact. Nodes inside functions of the model are listed as a problem.
    The others hold named arrays only: listed is every 3-D array named ``weight``, also under weight_norm or
    spectral_norm, whose bias fits. An ordinary convolution has weights of the same rank and may be among them.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from convt1d.weights import list_layers
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "state.npz")
    ...     np.savez(path, **{"up.weight": np.ones((8, 4, 16)), "up.bias": np.ones(4), "up.stride": 8})
    ...     list_layers(path)  # doctest: +NORMALIZE_WHITESPACE
    [LayerInfo(name='up', weight_shape=(8, 4, 16), dtype='float64', bias=True, stride=8, padding=None,
               output_padding=None, groups=1, dilation=None, problem='')]
    """
    suffix = suffix_of(path)
    with files.reading(path):
        if suffix == ".onnx":
            return [_describe(node) for node in _one_dimensional(files.onnx_model(path))]
        with files.arrays_of(path) as mapping:
            return _candidates(mapping)


def from_file(path, name=None, **geometry):
    suffix = suffix_of(path)
    with files.reading(path):
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if suffix == ".onnx":
            if unknown := set(geometry) - {"length"}:
                raise TypeError(f"a .onnx file holds the geometry itself; got {sorted(unknown)}")
            return _from_onnx(files.onnx_model(path), Path(path).parent, name, **geometry)
        if unknown := set(geometry) - set(SETTINGS):
            raise TypeError(f"geometry must be of {', '.join(SETTINGS)}; got {sorted(unknown)}")
        with files.arrays_of(path) as mapping:
            if name is None:
                found = _candidates(mapping)
                name = _only([f.name for f in found if not f.problem] or [f.name for f in found], "name")
            settings = stored_settings(mapping, _prefix(name)) | geometry
            if "stride" not in settings:
                raise TypeError("stride must be given: the file does not hold it")
            return from_state_dict(mapping, name, **settings)


def refuse_pickle(path) -> None:
    """A ValueError that says how to convert, if the file is a pickle by its name."""
    suffix = Path(path).suffix.lower()
    if suffix in _PICKLES:
        raise ValueError(
            f"{path}: {suffix} files are pickles, which can run any code, and are not loaded. Convert it where you "
            "trust it: safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        )


def suffix_of(path) -> str:
    refuse_pickle(path)
    suffix = Path(path).suffix.lower()
    if suffix not in (".onnx", ".safetensors", ".npz"):
        raise ValueError(f"path must end in .onnx, .safetensors or .npz, got {str(path)!r}")
    return suffix


def _only(names, argument):
    """The one name there is."""
    if len(names) != 1:
        raise ValueError(
            f"{argument} must say which: {_listed(names)}" if names else "it holds no 1-D transposed convolution"
        )
    return names[0]


def _listed(names) -> str:
    shown = [repr(name if len(name) <= 200 else name[:200] + "...") for name in names[:_MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _check(shape, *, groups=1, **sliding) -> Geometry:
    """The geometry of a weight of this shape."""
    c_in, per_group, kernel_size = shape
    groups = as_int("groups", groups, 1)
    return geometry_module.check(c_in, per_group * groups, kernel_size, groups=groups, **sliding)


def _layer(name, weight, bias, **geometry):
    """What every reader returns, checked."""
    weight = arrays.as_array(name, weight, (3,))
    if weight.size == 0:
        raise ValueError(f"{name} must have no empty dimension, got shape {weight.shape}")
    dtype = arrays.layer_dtype(weight.dtype)
    geometry = _check(weight.shape, **geometry)
    if bias is not None:
        bias = arrays.cast("bias", arrays.as_shaped("bias", bias, (geometry.out_channels,)), dtype)
    return geometry, weight, bias


def _crops(left, right, stride, dilation):
    """The geometry that drops `left` and `right` samples of the uncropped output; less than 0 stands for zeros."""
    most = max(stride, dilation) - 1
    if left < 0 or right < -most:
        raise ValueError(
            "zeros around the output can be expressed up to 0 before it and max(stride, dilation) - 1 after it, "
            f"got {max(0, -left)} before and {max(0, -right)} after, with stride={stride} and dilation={dilation}"
        )
    padding, output_padding = (left, max(0, right)), max(0, -right)
    return {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}


# torch ------------------------------------------------------------------------------------------------------


def from_state_dict(mapping, prefix="", *, groups=None, **sliding):
    name, weight, bias = stored(mapping, prefix)
    if bias is not None:
        fitting = _groups(weight.shape, bias.shape)
        if fitting is None:
            raise ValueError(
                f"{_prefix(prefix) + 'bias'!r} must have a multiple of C_out / groups = {weight.shape[1]} values, in "
                f"groups that divide C_in = {weight.shape[0]}, got shape {bias.shape}"
            )
        groups = fitting if groups is None else groups
    return _layer(name, weight, bias, groups=1 if groups is None else groups, **sliding)


def stored(mapping, prefix):
    """Name, weight and bias (or None) of a layer in a state, of either operator; weight_norm is folded."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping must be a mapping from names to arrays, got {type(mapping).__name__}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {prefix!r}")
    prefix = _prefix(prefix)
    keys = _weight_keys(prefix, _by_layer(mapping).get(prefix, {}))
    if not keys:
        known = _listed([found.name for found in _candidates(mapping)])
        raise ValueError(f"mapping must hold {prefix + 'weight'!r}, it has layers {known or 'of no known name'}")
    loaded = [_as_numpy(repr(key), mapping[key]) for key in keys]
    weight = arrays.as_array(repr(keys[-1]), loaded[-1], (3,))
    if len(keys) == 2:
        weight = _fold(repr(keys[1]), loaded[0], weight)
    bias = mapping.get(prefix + "bias")
    if bias is not None:
        bias = _as_numpy(repr(prefix + "bias"), bias)
    return repr(keys[-1]), weight, bias


def from_torch(module):
    if not getattr(module, "transposed", False) or len(getattr(module, "kernel_size", ())) != 1:
        raise TypeError(f"module must be a torch.nn.ConvTranspose1d, got {type(module).__name__}")
    sliding = {name: getattr(module, name) for name in ("stride", "padding", "output_padding", "dilation")}
    return from_state_dict(module.state_dict(), groups=module.groups, padding_mode=module.padding_mode, **sliding)


def _by_layer(mapping) -> dict[str, dict[str, str]]:
    """The names in a state, by layer: prefix -> what follows it -> the whole name; in their order."""
    layers: dict = {}
    for name in mapping:
        if isinstance(name, str):
            prefix, found, rest = name.rpartition(_PARAMETRIZED)
            if not found or prefix[-1:] not in ("", "."):
                prefix, found, rest = name.rpartition(".")
                prefix, found = prefix + found, ""
            layers.setdefault(prefix, {})[found + rest] = name
    return layers


def _prefix(name):
    return name if not name or name.endswith(".") else name + "."


def _weight_keys(prefix, names):
    """Names of the weight, or of the g and v that weight_norm makes it of; none if it is not there."""
    for part in ("weight", "bias"):
        parametrized = [n for n in names if n.startswith(f"{_PARAMETRIZED}{part}.") and n not in _NEW_NORM]
        if not parametrized and f"{part}_orig" not in names:
            continue
        if f"{part}_u" in names or any(name.endswith("._u") for name in parametrized):
            what = "spectral_norm, whose weight depends on its power iteration"
        else:
            what = "a parametrization that is not known here"
        raise ValueError(
            f"{prefix + part!r} is under {what}; make it plain first, with torch.nn.utils.remove_spectral_norm, "
            "torch.nn.utils.prune.remove or torch.nn.utils.parametrize.remove_parametrizations"
        )
    found = [form for form in (("weight",), _OLD_NORM, _NEW_NORM) if any(part in names for part in form)]
    if len(found) > 1:
        raise ValueError(f"mapping must hold one form of the weight, got {_listed([prefix + f[-1] for f in found])}")
    keys = [prefix + part for form in found for part in form]
    if missing := [part for form in found for part in form if part not in names]:
        raise ValueError(f"weight_norm needs both {keys[0]!r} and {keys[1]!r}, but there is no {prefix + missing[0]!r}")
    return keys


def _fold(name, g, v):
    """weight_norm: ``v * g / norm(v)``, the norm over all axes but one (dim), or over all (dim=None)."""
    g = arrays.as_array(f"the g of {name}", g)
    # an axis of length 1 counts as either: the norm over it is the same
    wanted = np.shape(g) if g.ndim == 3 else (1, 1, 1)
    if g.size != np.prod(wanted) or any(n not in (1, m) for n, m in zip(wanted, v.shape, strict=True)):
        raise ValueError(f"the g of {name} must be a number, or as long as one axis of {v.shape}, got {g.shape}")
    if sum(n > 1 for n in wanted) > 1:
        raise ValueError(f"the g of {name} must be as long as one axis of {v.shape}, got {g.shape}")
    arrays.layer_dtype(v.dtype)
    axes = tuple(axis for axis, n in enumerate(wanted) if n == 1)
    wide = v.astype(np.complex128 if v.dtype.kind == "c" else np.float64)
    norm = np.sqrt((wide.real**2 + wide.imag**2).sum(axes, keepdims=True))
    if not norm.all():
        raise ValueError(f"{name} has norm 0 in {np.argwhere(norm == 0)[:3].tolist()}: weight_norm would give NaN")
    return (wide * (g.astype(np.float64).reshape(wanted) / norm)).astype(v.dtype)


def _groups(weight_shape, bias_shape):
    """The groups of a weight with this bias; None if the two do not belong to a transposed convolution."""
    c_in, per_group = weight_shape[0], weight_shape[1]
    if len(bias_shape) != 1 or not per_group or not bias_shape[0]:
        return None
    groups, rest = divmod(bias_shape[0], per_group)
    return None if rest or c_in % groups else groups


def _as_numpy(name, value):
    """Arrays stay; tensors of torch, which has no NumPy name for bfloat16, are taken apart."""
    if not all(hasattr(value, method) for method in ("detach", "cpu", "numpy")):
        return arrays.as_array(name, value)
    bfloat16 = files.bfloat16(name) if str(value.dtype) == "torch.bfloat16" else None
    try:
        if bfloat16 is not None:
            import torch  # there already, since this is one of its tensors

            return value.detach().cpu().view(torch.int16).numpy().view(bfloat16)
        return value.numpy(force=True)
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"{name} must be a dense tensor with values: {error}") from None


def _candidates(mapping) -> list[LayerInfo]:
    """What in a mapping from names to arrays may be a transposed convolution."""
    found = []
    for prefix, names in _by_layer(mapping).items():
        forms = [form for form in _FORMS if form in names]
        shape, dtype = _spec(mapping, names[forms[0]]) if forms else ((), "")
        bias = _spec(mapping, names["bias"])[0] if "bias" in names else None
        if len(shape) != 3 or 0 in shape or (bias is not None and not _groups(shape, bias)):
            continue
        groups, known, problem = bias and _groups(shape, bias), {}, ""
        try:
            _weight_keys(prefix, names)
            settings = ({"groups": groups} if groups else {}) | stored_settings(mapping, prefix)
            checked = _check(shape, **settings)
            known = {setting: getattr(checked, setting) for setting in settings if setting != "padding_mode"}
        except (ValueError, TypeError) as error:
            problem = str(error)
        found.append(LayerInfo(prefix.removesuffix("."), shape, dtype, bias is not None, **known, problem=problem))  # type: ignore[arg-type]
    return found


def only_layer(mapping) -> str:
    """The prefix of the one layer that a state holds, of either operator."""
    found = [
        prefix.removesuffix(".")
        for prefix, names in _by_layer(mapping).items()
        for form in [next((form for form in _FORMS if form in names), None)]
        if form and len(_spec(mapping, names[form])[0]) == 3
    ]
    return _only(found, "name")


def _spec(mapping, name):
    if hasattr(mapping, "spec"):
        return mapping.spec(name)
    value = mapping[name]
    return tuple(getattr(value, "shape", ())), str(getattr(value, "dtype", ""))


def stored_settings(mapping, prefix, names=SETTINGS):
    """The geometry that lies beside the weights of a .npz file, or in the metadata of a .safetensors file."""
    settings, prefix = {}, _prefix(prefix)
    if isinstance(mapping, files.Safetensors):
        for name in names:
            if text := mapping.metadata.get(prefix + name):
                numbers = [int(part) if part.isdecimal() else part for part in text.split()]
                settings[name] = numbers[0] if len(numbers) == 1 else tuple(numbers)
    if isinstance(mapping, files.Npz):
        for name in names:
            if prefix + name in mapping:
                shape, _ = mapping.spec(prefix + name)
                if shape not in ((), (1,), (2,)):
                    raise ValueError(f"{prefix + name!r} must be a number or a pair, got an array of shape {shape}")
                value = mapping[prefix + name]
                settings[name] = value.item() if value.size == 1 else tuple(value.tolist())
    return settings


# Keras and JAX ----------------------------------------------------------------------------------------------


def from_keras(layer_or_kernel, bias=None, *, stride=None, padding=None, output_padding=None, dilation=1):
    kernel = layer_or_kernel
    if hasattr(kernel, "get_config"):
        if any(value is not None for value in (bias, stride, padding, output_padding)) or dilation != 1:
            raise TypeError("a Keras layer holds its bias and geometry itself, give them with a kernel only")
        if not any(kind.__name__ == "Conv1DTranspose" for kind in type(kernel).__mro__):
            raise TypeError(f"layer must be a keras.layers.Conv1DTranspose, got {type(kernel).__name__}")
        layer = kernel
        if getattr(layer, "kernel", None) is None:
            raise ValueError("layer must be built: it has no kernel yet")
        activation = getattr(layer.activation, "__name__", "linear")
        if activation != "linear":
            raise ValueError(
                f"layer must have no activation, got {activation!r}; give its kernel, bias and geometry instead, "
                "and apply the activation to the output"
            )
        kernel, bias, stride, dilation = layer.kernel, layer.bias, layer.strides, layer.dilation_rate
        padding, output_padding = layer.padding, layer.output_padding
    elif stride is None or padding is None:
        raise TypeError("stride and padding must be given with a kernel")
    weight = arrays.as_array("kernel", _as_numpy("kernel", _keras_value(kernel)), (3,)).transpose(2, 1, 0)
    stride, dilation, reach = _reach(weight, stride, dilation)
    if output_padding is not None:
        output_padding = as_int("output_padding", output_padding, 0, one_tuple=True)
    left, right = _window(padding, reach, stride, output_padding)
    return _layer("kernel", weight, _optional("bias", _keras_value(bias)), **_crops(left, right, stride, dilation))


def numpy_of(name, value):
    """A kernel or bias of Keras or JAX."""
    return _as_numpy(name, _keras_value(value))


def _keras_value(variable):
    """What a variable of Keras 3 holds, a tensor of its backend; a Keras 2 variable has a method of that name."""
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


def from_jax(kernel, bias=None, *, stride, padding, dilation=1, transpose_kernel=False, use_consistent_padding=False):
    kernel = arrays.as_array("kernel", _as_numpy("kernel", kernel), (3,))
    weight = kernel.transpose(2, 1, 0) if transpose_kernel else kernel[::-1].transpose(1, 2, 0)
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
    return _layer("kernel", weight, _optional("bias", bias), padding_mode=mode, **_crops(left, right, stride, dilation))


def _optional(name, value):
    return None if value is None else _as_numpy(name, value)


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


# ONNX -------------------------------------------------------------------------------------------------------


def onnx_geometry(
    weight_shape,
    length=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    output_padding=None,
    output_shape=None,
    pads=None,
    strides=None,
):
    """Arguments of `conv_transpose1d` for the attributes of a 1-D ConvTranspose node.

    Where ONNX' text leaves something open this is what ONNX Runtime does, but for SAME_UPPER and SAME_LOWER with a
    kernel that reaches less than a stride: there the output has L * stride samples, as the text says.

    Parameters
    ----------
    weight_shape : (int, int, int)
    length : int, optional
        L; only output_shape needs it, since it makes the crop depend on the input.
    auto_pad, dilations, group, kernel_shape, output_padding, output_shape, pads, strides
        The node's attributes.

    Returns
    -------
    dict
        stride, padding, output_padding, groups, dilation.
    """

    kernel_size = weight_shape[2]
    if one("kernel_shape", kernel_shape, kernel_size, 1) != kernel_size:
        raise ValueError(f"kernel_shape must be that of the weight {tuple(weight_shape)}, got {list(kernel_shape)}")
    stride, dilation = one("strides", strides, 1, 1), one("dilations", dilations, 1, 1)
    extra, wanted = one("output_padding", output_padding, 0, 0), one("output_shape", output_shape, None, 1)
    reach = output_length(1, kernel_size, dilation=dilation)
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto_pad!r}")
    if auto_pad != "NOTSET" and pads:
        raise ValueError(f"pads cannot go with auto_pad, got {list(pads[:9])} and {auto_pad}")

    if wanted is None and not auto_pad.startswith("SAME"):
        if pads and len(pads) != 2:
            raise ValueError(f"pads must hold two numbers, got {list(pads[:9])}")
        geometry = {"stride": stride, "padding": tuple(pads or (0, 0)), "output_padding": extra, "dilation": dilation}
    else:
        if wanted is None:
            right = reach - stride  # all that is cropped, without output_padding
        elif length is None:
            raise ValueError(f"output_shape {wanted} makes the crop depend on L, the input's length: give length=L")
        else:
            right = output_length(length, kernel_size, stride, dilation=dilation) - wanted
        total = max(0, right + extra)
        left = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        geometry = _crops(left, right - left, stride, dilation)
    return geometry | {"groups": group}


def one(name, values, default, least):
    """The one number of an attribute that holds a list."""
    if not values:
        return default
    if len(values) != 1:
        raise ValueError(f"{name} must hold one number, got {list(values[:9])}")
    return as_int(name, values[0], least)


def from_onnx(model_or_path, node=None, *, length=None):
    if hasattr(model_or_path, "SerializeToString") and hasattr(model_or_path, "graph"):
        return _from_onnx(model_or_path, None, node, length)
    with files.reading(model_or_path):
        return _from_onnx(files.onnx_model(model_or_path), Path(model_or_path).parent, node, length)


def _from_onnx(model, folder, name, length=None):
    weight, bias, geometry = node_named(model, folder, name, "ConvTranspose", onnx_geometry, length)
    return _layer("weight", weight, bias, **geometry)


def node_named(model, folder, name, operator, geometry_of, length):
    """Weight, bias and geometry of one node of an operator."""
    nodes = list(nodes_of(model, operator))
    if name is not None and not isinstance(name, str):
        raise TypeError(f"node must be a string, got {name!r}")
    if name is None:
        name = _only([node.label for node in nodes if node.rank in (1, None)], "node")
    matching = [node for node in nodes if node.label == name] or [n for n in nodes if name in n.proto.output]
    if len(matching) != 1:
        known = _listed([node.label for node in nodes if node.rank in (1, None)])
        many = f"more than one {operator} has" if matching else f"no {operator} has"
        raise ValueError(f"node must name one by its name or an output: {many} {name!r}; there are {known or 'none'}")
    node = matching[0]
    if node.rank not in (1, None):
        raise ValueError(f"node {name!r} must be 1-D, got a {node.rank}-D {operator}")
    weight, bias = node.weight(), node.bias()
    geometry = node.geometry(length, geometry_of)
    weight = files.onnx_array("weight", weight, folder)
    if bias is not None:
        bias = files.onnx_array("bias", bias, folder)
    return weight, bias, geometry


def _describe(node):
    """LayerInfo of a node, with what stands against its import."""
    known = {"weight_shape": None, "dtype": None, "bias": node.has_bias}
    try:
        known["weight_shape"], known["dtype"] = files.onnx_spec(node.weight())
        node.bias()
        geometry = _check(known["weight_shape"], **node.geometry(None, onnx_geometry))
        known |= {name: getattr(geometry, name) for name in SETTINGS if name != "padding_mode"}
        return LayerInfo(node.label, **known)
    except (ValueError, TypeError) as error:
        return LayerInfo(node.label, **known, problem=str(error))


# name -> number of its type (INT, STRING, INTS) and the field that holds it
_ATTRIBUTES = {"auto_pad": (3, "s"), "group": (2, "i")} | dict.fromkeys(
    ("dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides"), (7, "ints")
)


@dataclass(frozen=True, slots=True)
class _Graph:
    """What the names in a graph stand for; names of the graphs around it are visible too."""

    stored: dict
    producers: dict
    lengths: dict
    around: _Graph | None

    def find(self, name):
        """The TensorProto that a name stands for."""
        graph = self
        for _ in range(_LONGEST_CHAIN):
            while name not in graph.stored and name not in graph.producers:
                graph = graph.around
                if graph is None:
                    raise ValueError(f"{name!r} must be stored in the model as a dense tensor, it is not")
            if name in graph.stored:
                return graph.stored[name]
            node = graph.producers[name]
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        return attribute.t
                raise ValueError(f"{name!r} must be a Constant with a dense tensor")
            if node.op_type != "Identity" or len(node.input) != 1:
                raise ValueError(
                    f"{name!r} must be stored in the model, but {node.op_type} computes it; fold constants first, or "
                    "take the weights from the model before it was quantised"
                )
            name = node.input[0]
        raise ValueError(f"{name!r} is its own input, or behind more than {_LONGEST_CHAIN} Identity nodes")


@dataclass(frozen=True, slots=True)
class _Node:
    """A ConvTranspose node and the graph it stands in.

    `inferred()` gives the lengths in the main graph; `function` names the function of the model it is part of.
    """

    proto: object
    graph: _Graph
    inferred: Callable[[], dict]
    function: str

    @property
    def label(self):
        return self.proto.name or (self.proto.output[0] if self.proto.output else "")

    @property
    def has_bias(self):
        return len(self.proto.input) > 2 and bool(self.proto.input[2])

    def weight(self):
        if self.function:
            raise ValueError(
                f"it is part of function {self.function!r}; inline that first, with onnx.inliner.inline_local_functions"
            )
        if len(self.proto.input) < 2:
            raise ValueError("it has no weight")
        return self.graph.find(self.proto.input[1])

    def bias(self):
        return self.graph.find(self.proto.input[2]) if self.has_bias else None

    @property
    def rank(self):
        """Spatial dimensions; None if the node does not tell."""
        try:
            return len(self.weight().dims) - 2
        except ValueError:
            sizes = {a.name: len(a.ints) for a in self.proto.attribute if a.name in _ATTRIBUTES}
            sizes["pads"] = sizes.get("pads", 0) // 2
            return max(sizes.values()) or None

    def geometry(self, length, geometry_of):
        attributes = {}
        for attribute in self.proto.attribute:
            kind, field = _ATTRIBUTES.get(attribute.name, (0, ""))
            if attribute.type != kind or attribute.ref_attr_name:
                raise ValueError(f"attribute {attribute.name!r} must be one of {self.proto.op_type}'s, of its type")
            value = getattr(attribute, field)
            attributes[attribute.name] = value.decode() if field == "s" else value
        if length is None and attributes.get("output_shape"):
            length = self._length()
        elif length is not None:
            length = as_length("length", length)
        return geometry_of(tuple(self.weight().dims), length, **attributes)

    def _length(self):
        """L, from the shape that the graph states or that follows; None if it is open."""
        name = self.proto.input[0]
        return self.graph.lengths.get(name) or self.inferred().get(name)


def _lengths(graph):
    """Name -> L of the three-dimensional tensors whose shape a graph states."""
    lengths = {}
    for info in chain(graph.input, graph.value_info, graph.output):
        dims = info.type.tensor_type.shape.dim
        if len(dims) == 3 and dims[2].dim_value > 0:
            lengths[info.name] = dims[2].dim_value
    return lengths


def _inferred_lengths(model):
    """`_lengths` of what follows from the shapes of the inputs."""
    if model.functions:  # they may call themselves: onnx 1.17 crashes
        return {}
    from onnx import shape_inference

    try:
        return _lengths(shape_inference.infer_shapes(model).graph)
    except Exception:  # of many types; then the caller is asked
        return {}


def nodes_of(model, operator="ConvTranspose"):
    """Every node of an operator in the model, also in the bodies of If, Loop and Scan."""
    inferred = cache(lambda: _inferred_lengths(model))  # once, however many nodes ask
    graphs = deque([(model.graph, None, ""), *((function, None, function.name) for function in model.functions)])
    while graphs:
        proto, around, function = graphs.popleft()
        stored = {} if function else {tensor.name: tensor for tensor in proto.initializer}
        producers = {output: node for node in proto.node for output in node.output if output}
        graph = _Graph(stored, producers, {} if function else _lengths(proto), around)
        for node in proto.node:
            if node.op_type == operator and node.domain in ("", "ai.onnx"):
                yield _Node(node, graph, inferred, function)
            graphs += [(a.g, graph, function) for a in node.attribute if a.HasField("g")]
            graphs += [(g, graph, function) for a in node.attribute for g in a.graphs]


def _one_dimensional(model):
    return [node for node in nodes_of(model) if node.rank in (1, None)]


def save(geometry: Geometry, state: dict[str, np.ndarray], path) -> None:
    """Write arrays by name and the geometry's settings, as `from_file` reads them."""
    suffix = Path(path).suffix.lower()
    settings = {name: getattr(geometry, name) for name in SETTINGS}
    dtype = state["weight"].dtype.name
    if suffix == ".npz":
        if dtype == "bfloat16":
            raise TypeError("dtype must be one that NumPy stores, got bfloat16: path must end in .safetensors")
        np.savez(path, **state, **settings)  # type: ignore[arg-type]
    elif suffix == ".safetensors":
        if dtype == "complex128":
            raise TypeError("dtype must be one that safetensors stores, got complex128: path must end in .npz")
        files.need("safetensors", "writing .safetensors")
        from safetensors.numpy import save_file

        text = {name: " ".join(map(str, np.atleast_1d(value))) for name, value in settings.items()}
        save_file(state, path, metadata=text)
    else:
        raise ValueError(f"path must end in .npz or .safetensors, got {str(path)!r}; layer.to_onnx writes .onnx")


def to_onnx(geometry, weight, bias, path=None):
    """Of either operator."""
    onnx = files.need("onnx", "writing .onnx")
    numbers = {dtype: number for number, (dtype, _) in files.ONNX_TYPES.items()}
    if weight.dtype.name not in numbers:
        raise TypeError(f"dtype must be one of {', '.join(numbers)} for ONNX, got {weight.dtype.name}")
    if geometry.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros' for ONNX, got {geometry.padding_mode!r}")
    if weight.nbytes >= 2**31 - 2**20:
        raise ValueError(f"weight must be smaller than 2 GiB for ONNX, got {weight.nbytes} bytes")
    left, right = geometry.padding
    operator, name, only_transposed = "Conv", "conv", {}
    if isinstance(geometry, Geometry):
        # ONNX Runtime refuses output_padding >= stride, which a large dilation allows: less of the crop is the same
        less = min(right, geometry.output_padding) if geometry.output_padding >= geometry.stride else 0
        right -= less
        operator, name = "ConvTranspose", "conv_transpose"
        only_transposed["output_padding"] = [geometry.output_padding - less]
    kind, make = numbers[weight.dtype.name], onnx.helper.make_tensor
    tensors = {name: array for name, array in (("weight", weight), ("bias", bias)) if array is not None}
    node = onnx.helper.make_node(
        operator,
        ["x", *tensors],
        ["y"],
        name,
        strides=[geometry.stride],
        pads=[left, right],
        **only_transposed,
        dilations=[geometry.dilation],
        group=geometry.groups,
        kernel_shape=[geometry.kernel_size],
    )
    graph = onnx.helper.make_graph(
        [node],
        "convt1d",
        [onnx.helper.make_tensor_value_info("x", kind, ["N", geometry.in_channels, "L"])],
        [onnx.helper.make_tensor_value_info("y", kind, ["N", geometry.out_channels, "L_out"])],
        [make(n, kind, a.shape, a.astype(a.dtype.newbyteorder("<")).tobytes(), raw=True) for n, a in tensors.items()],
    )
    # the operator is the same from version 11 on, and bfloat16 came with 22
    opset, ir = (22, 10) if weight.dtype.name == "bfloat16" else (11, 6)
    model = onnx.helper.make_model(
        graph, producer_name="convt1d", opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir
    )
    if path is not None:
        Path(path).write_bytes(model.SerializeToString())
    return model
