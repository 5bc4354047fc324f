# SPDX-License-Identifier: MIT
"""States and modules of torch, and files that name arrays as they do: weight_norm in all its forms, MLX' layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, files
from ..geometry import SETTINGS
from .parts import LayerInfo, check, check_convolution, layer, listed, one_axis

# What names a weight in a state: as it is, or under weight_norm (old and new); then what cannot be taken.
_OLD_NORM = ("weight_g", "weight_v")
_PARAMETRIZED = "parametrizations."
_NEW_NORM = (_PARAMETRIZED + "weight.original0", _PARAMETRIZED + "weight.original1")
_FORMS = ("weight", "weight_orig", _PARAMETRIZED + "weight.original", _OLD_NORM[1], _NEW_NORM[1])

# Layout, as the metadata of a .safetensors file names it -> where torch's axes of a kernel are in it.
LAYOUTS = dict.fromkeys(("", "pt", "np", "numpy", "paddle"), (0, 1, 2)) | {"mlx": (2, 0, 1)}

# The same for convolutions, and the settings that these have.
CONVOLUTION_SETTINGS = tuple(name for name in SETTINGS if name != "output_padding")
CONVOLUTION_LAYOUTS = LAYOUTS | {"mlx": (0, 2, 1)}

# Framework of an array -> the layout of its layers' kernels.
_FRAMEWORKS = {"mlx": "mlx", "jax": "flax", "jaxlib": "flax", "keras": "tf", "tensorflow": "tf"}

# Members of a class that decide what a layer computes; a subclass that brings one of its own is another layer.
_DECIDING = ("__call__", "_call_impl", "forward", "_output_padding", "weight", "bias")


class Found(NamedTuple):
    """What a mapping holds of one layer; groups and geometry are the caller's."""

    name: str  # of the weight, quoted
    weight: np.ndarray  # 3-D, folded, in torch's order of axes
    bias: np.ndarray | None
    sure: bool  # whether the order of axes is known, not assumed
    anyones: bool  # whether it lies in a .npz file, which any system writes


def from_state_dict(mapping, prefix="", *, groups=None, **sliding):
    found = find(mapping, prefix)
    return layer(found.name, found.weight, found.bias, groups=groups_of(found, groups), **sliding)


def find(mapping, prefix, layouts=LAYOUTS) -> Found:
    """The arrays of the layer `prefix`; `layouts` says where a weight has its axes."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping must be a mapping from names to arrays, got {type(mapping).__name__}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {prefix!r}")
    prefix = prefix_of(prefix)
    names = _by_layer(mapping).get(prefix, {})
    _check_shards(mapping, prefix, names)
    keys = _weight_keys(prefix, names)
    if not keys:
        raise ValueError(_missing(mapping, prefix))
    layout, axes = _layout(mapping, keys[-1], layouts)
    given = [mapping[key] for key in keys]
    loaded = [as_numpy(repr(key), value) for key, value in zip(keys, given, strict=True)]
    name = repr(keys[-1])
    weight = arrays.as_array(name, loaded[-1], (3, 4) if layout != "mlx" else (3,))
    if weight.ndim == 4:
        axis = 3 - one_axis(weight.shape[2:], (1, 1), (0, 0), (0, 0))
        weight, loaded[0] = weight.squeeze(axis), loaded[0].squeeze(axis) if loaded[0].ndim == 4 else loaded[0]
    if len(keys) == 2:
        weight = _fold(repr(keys[1]), loaded[0], weight)
    bias = mapping.get(prefix + "bias")
    bias = None if bias is None else as_numpy(repr(prefix + "bias"), bias)
    if layout == "mlx" and bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{name} of the layout (C_out, K, C_in) of MLX needs a bias of {weight.shape[0]} values, got {bias.shape}"
        )
    sure, anyones = layout != "" or arrays.is_tensor(given[-1]), isinstance(mapping, files.Npz)
    return Found(name, weight.transpose(axes), bias, sure, anyones)


def groups_of(found, groups=None):
    """The groups of a transposed convolution: those given, else those that weight and bias leave no doubt of."""
    c_in, per_group = found.weight.shape[:2]
    if found.bias is None:
        if groups is None and per_group == 1 < c_in:
            raise ValueError(
                f"groups must be given for {found.name} of shape {found.weight.shape} without a bias: groups={c_in} "
                f"for a depthwise layer, groups=1 for a sum of {c_in} channels"
            )
        return 1 if groups is None else groups
    fitting = _groups(found.weight.shape, found.bias.shape)
    if fitting is None:
        raise ValueError(
            f"{found.name[:-1].removesuffix('weight')}bias' must have a multiple of C_out / groups = {per_group} "
            f"values, in groups that divide C_in = {c_in}, got shape {found.bias.shape}"
        )
    doubtful = not found.sure and fitting < c_in == found.bias.size and (fitting > 1 or found.anyones)
    if groups is None and doubtful:
        raise ValueError(
            f"groups must be given for {found.name} of shape {found.weight.shape} with a bias of {c_in} values: "
            f"groups={fitting} if this is torch's layout, transpose(2, 0, 1) if it is that of MLX, (C_out, K, C_in)"
        )
    return fitting if groups is None else groups


def from_torch(module, trust=False):
    kernel = getattr(module, "kernel_size", ())
    for wrapper in ("_orig_mod", "module"):  # torch.compile; DataParallel
        if hasattr(getattr(module, wrapper, None), "kernel_size"):
            raise TypeError(f"module must be the layer itself, got {type(module).__name__}; pass its .{wrapper}")
    if not getattr(module, "transposed", False) or not isinstance(kernel, tuple) or len(kernel) not in (1, 2):
        raise TypeError(f"module must be a torch.nn.ConvTranspose1d, got {type(module).__name__}")
    if not trust:
        check_plain(module)
    # a pair as the padding of one axis is convt1d.torch's own
    padding = [module.padding] if len(kernel) == 1 else list(module.padding)
    try:
        axis = one_axis(kernel, module.stride, padding, module.output_padding)
    except ValueError as error:
        raise TypeError(f"module must be a torch.nn.ConvTranspose1d, got {type(module).__name__}: {error}") from None
    sliding = {name: getattr(module, name)[axis] for name in ("stride", "output_padding", "dilation")}
    return from_state_dict(
        module.state_dict(),
        groups=module.groups,
        padding_mode=module.padding_mode,
        padding=padding[axis],
        **sliding,
    )


def check_plain(module, operator="ConvTranspose1d"):
    """Refuse a module that may compute something else than what its weights and arguments say."""
    kind = type(module)
    reasons = [
        f"its class {owner.__module__}.{owner.__qualname__} has its own {name}"
        for name in _DECIDING
        if (owner := next((base for base in kind.__mro__ if name in vars(base)), None)) is not None
        and not owner.__module__.startswith(("torch.nn.modules.", "torch.nn.utils.", "convt1d."))
    ]
    reasons += ["it has a forward of its own"] * ("forward" in vars(module))
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if any(not type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks):  # weight_norm's is known
        reasons.append("it has forward hooks")
    if reasons:
        raise TypeError(
            f"module must compute what torch.nn.{operator} does, but {reasons[0]}; with trust=True its weights "
            "and arguments are taken all the same"
        )


def _layout(mapping, key, layouts):
    """The layout of an array, and where torch's axes are in it."""
    if hasattr(mapping, "layout"):
        layout = mapping.layout(key)
    else:
        layout = _FRAMEWORKS.get(type(mapping[key]).__module__.partition(".")[0], "")
    if layout not in layouts:
        reader = {"tf": "from_keras", "flax": "from_jax"}.get(layout)
        way = f"; give the kernel to {reader}, or np.asarray of it if its axes are torch's" if reader else ""
        raise ValueError(f"{key!r} is in the layout of format {layout!r}, which is not known here{way}")
    if layout == "mlx" and not key.endswith("weight"):
        raise ValueError(f"{key!r} is under weight_norm in the layout of MLX, which is not read; fold it first")
    return layout, layouts[layout]


def _check_shards(mapping, prefix, names):
    """Refuse a layer of which another shard of the model holds a part."""
    other = getattr(mapping, "elsewhere", None)
    if other is None:
        return
    parts = _by_layer(other).get(prefix, {})
    if parts:
        name = next(iter(parts.values()))
        raise ValueError(f"{name!r} lies in another shard, {other[name]}: pass the model's folder or its index")
    if names and "bias" not in names and other.incomplete:
        raise ValueError(
            f"{prefix + 'bias'!r} may lie in another shard of the model, and not all of them are here: pass the "
            "model's folder once it is complete"
        )


def _missing(mapping, prefix):
    """What to say of a layer that is not there: the nearest names first, and mappings in the mapping."""
    wanted = prefix.removesuffix(".")
    known = [found.name for found in candidates(mapping)]
    known.sort(key=lambda name: -_common_end(name, wanted))
    text = f"mapping must hold {prefix + 'weight'!r}, it has layers {listed(known) or 'of no known name'}"
    if known and wanted and ("." + known[0]).endswith("." + wanted):
        text += f"; did you mean {known[0]!r}?"
    if not hasattr(mapping, "spec"):
        inner = [name for name, value in mapping.items() if isinstance(name, str) and isinstance(value, Mapping)]
        if inner:
            text += f"; the values of {listed(inner)} are mappings themselves: pass mapping[{inner[0]!r}]"
        elif not known and len(mapping):
            text += f"; its keys are {listed([str(key) for key in mapping])}"
    return text


def _common_end(a, b):
    """Characters that two names have in common at their ends."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(a), len(b)))


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


def prefix_of(name):
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
        raise ValueError(f"mapping must hold one form of the weight, got {listed([prefix + f[-1] for f in found])}")
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


def as_numpy(name, value):
    """An array of any framework; a tensor may be on a GPU, and its gradient stays behind."""
    return arrays.tensor_values(name, value) if arrays.is_tensor(value) else arrays.as_array(name, value)


def candidates(mapping, transposed=True) -> list[LayerInfo]:
    """What in a mapping from names to arrays may be a transposed convolution, or a convolution."""
    found = []
    shape: Any
    layouts, fitting = (LAYOUTS, _groups) if transposed else (CONVOLUTION_LAYOUTS, _one_group)
    for prefix, names in _by_layer(mapping).items():
        forms = [form for form in _FORMS if form in names]
        shape, dtype = _spec(mapping, names[forms[0]]) if forms else ((), "")
        bias = _spec(mapping, names["bias"])[0] if "bias" in names else None
        known, problem = {}, ""
        if len(shape) == 4 and (shape[2] == 1) != (shape[3] == 1):
            shape = (shape[0], shape[1], shape[2] * shape[3])
        if len(shape) != 3 or 0 in shape:
            continue
        try:
            shape = tuple(shape[axis] for axis in _layout(mapping, names[forms[0]], layouts)[1])
        except ValueError as error:
            problem = str(error)
        if not problem and bias is not None and not fitting(shape, bias):
            continue
        try:
            _check_shards(mapping, prefix, names)
            _weight_keys(prefix, names)
            groups = fitting(shape, bias) if transposed and bias and not problem else None
            stored = stored_settings(mapping, prefix, SETTINGS if transposed else CONVOLUTION_SETTINGS)
            settings = ({"groups": groups} if groups else {}) | stored
            checked: Any = (check if transposed else check_convolution)(shape, **settings)
            known = {setting: getattr(checked, setting) for setting in settings if setting != "padding_mode"}
        except (ValueError, TypeError) as error:
            problem = problem or str(error)
        found.append(LayerInfo(prefix.removesuffix("."), shape, dtype, bias is not None, **known, problem=problem))
    return found


def _one_group(weight_shape, bias_shape):
    """1 if a convolution's weight and bias belong together, else None: they do not tell the groups."""
    return 1 if bias_shape == weight_shape[:1] else None


def _spec(mapping, name):
    if hasattr(mapping, "spec"):
        return mapping.spec(name)
    value = mapping[name]
    return tuple(getattr(value, "shape", ())), str(getattr(value, "dtype", ""))


def stored_settings(mapping, prefix, names=SETTINGS):
    """The geometry that lies beside the weights of a .npz file, or in the metadata of a .safetensors file."""
    settings = {}
    for name in names if isinstance(mapping, files.Safetensors) else ():
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
