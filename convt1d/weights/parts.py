# SPDX-License-Identifier: MIT
"""What every reader of weights makes: a description, or a checked geometry, a weight and a bias."""

from __future__ import annotations

from dataclasses import dataclass

from .. import arrays
from .. import geometry as geometry_module
from ..geometry import ConvGeometry, Geometry, as_int

MOST_NAMES = 12  # in an error message


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer in a file, as `list_layers` finds it; None where the file does not say.

    Attributes
    ----------
    name : str
        What `from_file` takes as its `name`.
    weight_shape : (int, int, int) or None
        C_in, C_out / groups, K; of a convolution C_out, C_in / groups, K.
    dtype : str or None
        Type of the weights.
    bias : bool
        Whether there is a bias.
    stride, padding, output_padding, groups, dilation : int or None
        The geometry, padding as a pair. Only .onnx files hold all of it.
    problem : str
        Why it cannot be imported as it stands; empty if it can.
    remark : str
        What the layer is part of and does not compute, or where its bias comes from; empty if there is nothing to say.
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
    remark: str = ""


def only(names, argument):
    """The one name there is."""
    if len(names) != 1:
        raise ValueError(
            f"{argument} must say which: {listed(names)}" if names else "it holds no 1-D transposed convolution"
        )
    return names[0]


def listed(names) -> str:
    shown = [repr(name if len(name) <= 200 else name[:200] + "...") for name in names[:MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def check(shape, *, groups=1, **sliding) -> Geometry:
    """The geometry of a weight of this shape."""
    c_in, per_group, kernel_size = shape
    groups = as_int("groups", groups, 1)
    return geometry_module.check(c_in, per_group * groups, kernel_size, groups=groups, **sliding)


def check_convolution(shape, *, groups=1, **sliding) -> ConvGeometry:
    """The same of a convolution."""
    c_out, per_group, kernel_size = shape
    groups = as_int("groups", groups, 1)
    return geometry_module.check_convolution(per_group * groups, c_out, kernel_size, groups=groups, **sliding)


def layer(name, weight, bias, **geometry):
    """What every reader returns, checked."""
    weight = arrays.as_array(name, weight, (3,))
    if weight.size == 0:
        raise ValueError(f"{name} must have no empty dimension, got shape {weight.shape}")
    dtype = arrays.layer_dtype(weight.dtype)
    geometry = check(weight.shape, **geometry)
    if bias is not None:
        bias = arrays.cast("bias", arrays.as_shaped("bias", bias, (geometry.out_channels,)), dtype)
    return geometry, weight, bias


def crops(left, right, stride, dilation):
    """The geometry that drops `left` and `right` samples of the uncropped output; less than 0 stands for zeros."""
    most = max(stride, dilation) - 1
    if left < 0 or right < -most:
        raise ValueError(
            "zeros around the output can be expressed up to 0 before it and max(stride, dilation) - 1 after it, "
            f"got {max(0, -left)} before and {max(0, -right)} after, with stride={stride} and dilation={dilation}"
        )
    padding, output_padding = (left, max(0, right)), max(0, -right)
    return {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}


def one_axis(kernel, strides, paddings, output_paddings) -> int:
    """The spatial axis of a layer that is 1-D; each argument has a value for each of its axes.

    A 2-D layer is 1-D if the kernel of its other axis has one tap, is not spread and pads nothing.
    """
    settings = list(zip(kernel, strides, paddings, output_paddings, strict=True))
    plain = [setting == (1, 1, 0, 0) for setting in settings]
    if len(settings) == 1:
        return 0
    if len(settings) != 2 or not any(plain):
        raise ValueError(
            "a layer must be 1-D, or 2-D with kernel size 1, stride 1 and no padding along one axis; "
            f"got kernel {tuple(kernel)}, strides {tuple(strides)}, padding {tuple(paddings)}"
        )
    return 0 if plain[1] and not plain[0] else 1


def same(kernel_size: int, stride: int, dilation: int, length: int | None, name: str) -> tuple[int, int]:
    """A convolution's padding for ``ceil(L / stride)`` output samples, an odd rest on the right."""
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
