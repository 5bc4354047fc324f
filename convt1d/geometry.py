# SPDX-License-Identifier: MIT
"""Every check of a layer's parameters, and every formula of its geometry.

With ``ke = dilation * (kernel_size - 1) + 1`` the taps of one input sample span ``ke`` output positions.
Input sample ``i`` and tap ``k`` meet at position ``i * stride + dilation * k`` of the uncropped output;
``padding`` crops ``left`` positions from its start and ``right`` from its end::

    uncropped     0 ........ left .................................... natural
                  |- crop -|------------- L_out + ... --------------|- crop -|
    output position t  =  uncropped position t + left,   0 <= t < L_out

Where that position range reaches past the taps of the last sample (``output_padding``), zeros continue it.

A convolution, the adjoint, reads where the transposed one writes: output sample ``i`` sums the input positions
``i * stride + dilation * k - left``.

**Polyphase branches.** With ``g = gcd(stride, dilation)`` and ``period = stride / g``, the taps
``k = rho + period * m`` of one ``rho`` all land in one residue class of the output positions, ``dilation * rho mod
stride``, and read input samples that are ``step = dilation / g`` apart. Each ``rho`` is one branch, a small
convolution of its own::

    column[rho, o, i] = sum over m, c of  w[c, o, rho + period * m] * x[c, i - step * m]
    y[o, u - left]    = column[rho, o, i] + b[o]      at u = stride * i + dilation * rho

      stride 2, kernel 5:      x   .   a   b   c   .          branch 0: taps 0 2 4, branch 1: taps 1 3
                               u   0 1 2 3 4 5 6 7 8          position u = 2i + rho takes column i of branch rho
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, cast

from .padding import MODES as padding_modes

#: What parameters may be, for type checkers.
Size = int | tuple[int]
Padding = int | tuple[int] | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Precision = Literal["float32", "tf32", "3xtf32"]

#: The padding modes: how the input continues outside ``[0, L)``. Drawn in :mod:`convt1d.padding`.
PADDING_MODES = tuple(padding_modes)

# numpy.pad's and scipy.ndimage's names of them.
_OTHER_NAMES = {
    "constant": "zeros",
    "edge": "replicate",
    "nearest": "replicate",
    "wrap": "circular",
    "grid-wrap": "circular",
    "mirror": "reflect",
}

# Positions are computed in 64-bit integers; a parameter above the first could only belong to an output that no
# memory holds, and products of two such parameters still fit. Signals may be longer.
_LARGEST = 2**31 - 1
_LONGEST = 2**62


#: A layer's settings beside its sizes; a .npz file may hold them beside the weights, `convt1d apply` takes them.
SETTINGS = ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode")

_Check = TypeVar("_Check", bound=Callable[..., Any])
_PLAIN = frozenset((int, str))

#: The most input steps that a kernel takes as one column (`Plan.alignment` in cpu/plan.py), and the most residue
#: classes within which it pairs samples (`Plan.residues`).
ALIGNMENT, MOST_RESIDUES = 2, 256


@dataclass(frozen=True, slots=True)
class Window:
    """What one call computes."""

    start: int  # the first output sample, counted before any crop
    length: int  # how many
    halo: tuple[int, int]  # samples left and right of the input that its padding mode continues it by
    # Which input step of a longer signal the input begins with; only its residue modulo `alignment` matters. A kernel
    # that takes samples in pairs takes the same ones whatever part of the signal is given.
    origin: int = 0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Checked parameters of one transposed convolution; what everything behind the checks takes."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    output_padding: int = 0
    groups: int = 1
    dilation: int = 1
    padding_mode: str = "zeros"

    @property
    def weight_shape(self) -> tuple[int, int, int]:
        """Of the weight in torch's layout."""
        return self.in_channels, self.out_channels // self.groups, self.kernel_size

    def output_length(self, length: int, output_padding: int | None = None) -> int:
        """L_out for an input of `length` samples; may be < 1, see `checked_output_length`."""
        op = self.output_padding if output_padding is None else output_padding
        return (
            (length - 1) * self.stride
            - self.padding[0]
            - self.padding[1]
            + self.dilation * (self.kernel_size - 1)
            + op
            + 1
        )

    def checked_output_length(self, length: int, output_padding: int | None = None) -> int:
        """L_out, or a ValueError that states both lengths."""
        if length < 1:
            raise ValueError(f"input length must be at least 1, got L = {length}")
        out = self.output_length(length, output_padding)
        if out < 1:
            raise ValueError(
                f"output length must be at least 1, but an input of length {length} gives {out} with "
                f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
                f"output_padding={self.output_padding if output_padding is None else output_padding}, "
                f"dilation={self.dilation}"
            )
        return out

    def reaching(self, start: int, stop: int) -> tuple[int, int]:
        """The input positions `[first, past)` whose taps can reach the output positions `[start, stop)`, uncropped.

        They may lie outside the input, which its padding mode continues; ``past <= first`` if none can.
        """
        span = self.dilation * (self.kernel_size - 1)
        return -((span - start) // self.stride), (stop - 1) // self.stride + 1

    def adjoint(self) -> ConvGeometry:
        """The convolution with the same weight, which carries an output's gradient back to the input's samples."""
        return ConvGeometry(
            self.out_channels, self.in_channels, self.kernel_size, self.stride, self.padding, self.dilation,
            self.groups,
        )  # fmt: skip

    def halo(self, output_padding: int) -> tuple[int, int]:
        """How many samples left and right of the input can reach the output."""
        left = self.padding[0]
        first, past = self.reaching(left, left + self.output_length(1, output_padding))
        return max(0, -first), max(0, past - 1)

    def meeting(self, i: Any, k: Any) -> Any:
        """Where input sample `i` and tap `k` meet: the output sample, if in ``[0, L_out)``; else it is cropped."""
        return i * self.stride + self.dilation * k - self.padding[0]

    def window(self, length: int, output_padding: int | None = None) -> Window:
        """All of the output."""
        op = self.output_padding if output_padding is None else output_padding
        return Window(self.padding[0], self.checked_output_length(length, op), self.halo(op))


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Checked parameters of one convolution."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    groups: int = 1
    padding_mode: str = "zeros"

    @property
    def weight_shape(self) -> tuple[int, int, int]:
        """Of the weight in torch's layout."""
        return self.out_channels, self.in_channels // self.groups, self.kernel_size

    @property
    def reach(self) -> int:
        """Samples from the first tap to the last, both included."""
        return self.dilation * (self.kernel_size - 1) + 1

    def adjoint(self) -> Geometry:
        """The transposed convolution with the same weight, whose output is cut to the input's samples by a window."""
        return Geometry(
            self.out_channels, self.in_channels, self.kernel_size, self.stride, self.padding, 0, self.groups,
            self.dilation,
        )  # fmt: skip

    def checked_output_length(self, length: int) -> int:
        """L_out for an input of `length` samples, or a ValueError that states both lengths."""
        if length < 1:
            raise ValueError(f"input length must be at least 1, got L = {length}")
        reach, padded = self.reach, length + sum(self.padding)
        if padded < reach:
            raise ValueError(
                f"the kernel must not be longer than the padded input, but an input of length {length} with "
                f"padding={self.padding} has {padded} samples and the kernel spans {reach} with "
                f"kernel_size={self.kernel_size}, dilation={self.dilation}"
            )
        return (padded - reach) // self.stride + 1

    def window(self, length: int) -> Window:
        """All of the output."""
        return Window(0, self.checked_output_length(length), self.padding)


@dataclass(frozen=True, slots=True)
class Branches:
    """The polyphase branches of a geometry, as drawn above."""

    count: int
    period: int  # taps of one branch are this far apart in the kernel
    step: int  # ... and in the input
    taps: int  # of a long branch
    long: int  # the first `long` branches have `taps` taps, the others one less

    def taps_of(self, branch: int) -> int:
        """Taps of one branch."""
        return self.taps if branch < self.long else self.taps - 1


def branches(geometry: Geometry | ConvGeometry) -> Branches:
    """The polyphase branches of a geometry."""
    g = math.gcd(geometry.stride, geometry.dilation)
    period = geometry.stride // g
    taps = ceil_div(geometry.kernel_size, period)
    return Branches(
        count=min(geometry.kernel_size, period),
        period=period,
        step=geometry.dilation // g,
        taps=taps,
        long=geometry.kernel_size - (taps - 1) * period,
    )


def alignment(geometry: Geometry | ConvGeometry) -> int:
    """Input steps after which the pairs of samples that any kernel takes repeat."""
    step = branches(geometry).step
    return ALIGNMENT * step if step <= MOST_RESIDUES else ALIGNMENT


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def remembered(check: _Check) -> _Check:
    """The same, remembering its last results for arguments that are plain ints and strings: 1 us instead of 15."""
    cached = functools.lru_cache(256)(check)

    @functools.wraps(check)
    def checked(*args: Any, **kwargs: Any) -> Any:
        plain = _PLAIN.issuperset(map(type, args)) and _PLAIN.issuperset(map(type, kwargs.values()))
        return (cached if plain else check)(*args, **kwargs)

    return cast("_Check", checked)


@remembered
def check(
    in_channels: Any,
    out_channels: Any,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    padding_mode: Any = "zeros",
) -> Geometry:
    """Check all parameters of a layer and return them as a `Geometry`.

    Raises
    ------
    ValueError
        A value breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter is of the wrong kind.
    """
    in_channels, out_channels, groups = check_channels(in_channels, out_channels, groups)
    check_padding_mode(padding_mode)
    kernel_size, stride, padding, output_padding, dilation = check_sliding(
        kernel_size, stride, padding, output_padding, dilation
    )
    return Geometry(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
    )


@remembered
def check_convolution(
    in_channels: Any,
    out_channels: Any,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    padding_mode: Any = "zeros",
) -> ConvGeometry:
    """Check all parameters of a convolution; raises as `check` does."""
    in_channels, out_channels, groups = check_channels(in_channels, out_channels, groups)
    check_padding_mode(padding_mode)
    named = padding if isinstance(padding, str) else None
    if named not in (None, "same", "valid"):
        raise ValueError(f"padding must be an int, a pair (left, right), 'same' or 'valid', got {padding!r}")
    kernel_size, stride, padding, _, dilation = check_sliding(kernel_size, stride, 0 if named else padding, 0, dilation)
    if named == "same":
        if stride != 1:
            raise ValueError(f"padding='same' needs stride 1, got stride={stride}")
        total = dilation * (kernel_size - 1)
        padding = (total // 2, total - total // 2)
    return ConvGeometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)


def check_channels(in_channels: Any, out_channels: Any, groups: Any) -> tuple[int, int, int]:
    in_channels = as_int("in_channels", in_channels, 1)
    out_channels = as_int("out_channels", out_channels, 1)
    groups = as_int("groups", groups, 1)
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value % groups:
            raise ValueError(f"{name} must be divisible by groups, got {name}={value} and groups={groups}")
    return in_channels, out_channels, groups


def check_padding_mode(padding_mode: Any) -> None:
    if not isinstance(padding_mode, str):
        raise TypeError(f"padding_mode must be a string, got {padding_mode!r}")
    if padding_mode not in PADDING_MODES:
        hint = _OTHER_NAMES.get(padding_mode)
        known = f"{', '.join(PADDING_MODES)}, got {padding_mode!r}"
        raise ValueError(f"padding_mode must be one of {known}" + (f": here it is {hint!r}" if hint else ""))


def check_sliding(
    kernel_size: Any, stride: Any, padding: Any, output_padding: Any, dilation: Any
) -> tuple[int, int, tuple[int, int], int, int]:
    """The checks of `check` that need no channels."""
    kernel_size = as_int("kernel_size", kernel_size, 1, one_tuple=True)
    stride = as_int("stride", stride, 1, one_tuple=True)
    dilation = as_int("dilation", dilation, 1, one_tuple=True)
    padding = as_padding(padding)
    output_padding = as_int("output_padding", output_padding, 0, one_tuple=True)
    check_output_padding(output_padding, stride, dilation)
    if dilation * (kernel_size - 1) > _LARGEST:
        raise ValueError(
            f"dilation * (kernel_size - 1) must be at most {_LARGEST}, "
            f"got dilation={dilation} and kernel_size={kernel_size}"
        )
    return kernel_size, stride, padding, output_padding, dilation


def check_output_padding(output_padding: int, stride: int, dilation: int) -> None:
    if output_padding >= max(stride, dilation):
        raise ValueError(
            "output_padding must be smaller than stride or dilation, "
            f"got output_padding={output_padding}, stride={stride}, dilation={dilation}"
        )


def as_length(name: str, value: Any, least: int = 1, *, one_tuple: bool = False) -> int:
    """As `as_int`, for a number of samples."""
    return as_int(name, value, least, one_tuple=one_tuple, most=_LONGEST)


def whole(value: Any) -> int:
    """`value` as an int, or a TypeError. A whole float counts: in R, MATLAB and JSON `2` is one."""
    if type(value).__name__ in ("bool", "bool_"):
        raise TypeError
    if not isinstance(value, Integral) and isinstance(value, Real) and float(value).is_integer():
        return int(float(value))
    return operator.index(value)


def as_int(name: str, value: Any, least: int, *, one_tuple: bool = False, most: int = _LARGEST) -> int:
    """`value` as an int from `least` to `most`; `one_tuple` also takes a tuple or list of one."""
    if one_tuple and isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise ValueError(f"{name} must be an int or a tuple of one int, got {value!r}")
        value = value[0]
    try:
        number = whole(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}")
    return number


def as_flag(name: str, value: Any) -> bool:
    """`value` as a bool: True or False, nothing that merely counts as one."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_padding(padding: Any) -> tuple[int, int]:
    """`padding` as the pair (left, right)."""
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        return as_int("padding", padding[0], 0), as_int("padding", padding[1], 0)
    if isinstance(padding, (tuple, list)) and len(padding) > 2:
        raise ValueError(f"padding must be an int or a pair (left, right), got {padding!r}")
    both = as_int("padding", padding, 0, one_tuple=True)
    return both, both


def output_length(
    L: int, kernel_size: Size, stride: Size = 1, padding: Padding = 0, output_padding: Size = 0, dilation: Size = 1
) -> int:
    """Length of the output of a transposed convolution.

    Parameters
    ----------
    L : int
        Length of the input, in samples.
    kernel_size, stride, padding, output_padding, dilation : int
        As for `conv_transpose1d`; `padding` also takes a pair ``(left, right)``.

    Returns
    -------
    int
        It is ``(L - 1) * stride - left - right + dilation * (kernel_size - 1) + output_padding + 1``.

    Raises
    ------
    ValueError, TypeError
        As `conv_transpose1d`; also when the result would be smaller than 1.

    Examples
    --------
    >>> from convt1d import output_length
    >>> output_length(200, kernel_size=16, stride=8, padding=4)
    1600
    >>> output_length(200, kernel_size=16, stride=8, padding=(0, 8))
    1600
    """
    L = as_length("L", L)
    sliding = check_sliding(kernel_size, stride, padding, output_padding, dilation)
    return Geometry(1, 1, *sliding[:4], 1, sliding[4]).checked_output_length(L)


def output_padding_for(
    geometry: Geometry, length: int, output_size: Any, shape: tuple[int, ...], channels_last: bool = False
) -> int:
    """The output_padding that gives `output_size`: an int, a 1-tuple or the full shape of the output."""
    size = output_size
    if isinstance(size, (tuple, list)):
        if len(size) == len(shape) and len(size) > 1:
            given = tuple(as_length("output_size", v, 0) for v in size)
            *lead, size, channels = given if channels_last else (*given[:-2], given[-1], given[-2])
            if (*lead, channels) != (*shape[:-2], geometry.out_channels):
                last = ("L_out", geometry.out_channels) if channels_last else (geometry.out_channels, "L_out")
                raise ValueError(f"output_size must be {(*shape[:-2], *last)} in full, got {given}")
        elif len(size) != 1:
            raise ValueError(f"output_size must be an int, a 1-tuple or a full shape, got {output_size!r}")
    size = as_length("output_size", size, one_tuple=True)
    least = geometry.output_length(length, 0)
    if not least <= size <= least + geometry.stride - 1:
        raise ValueError(
            f"output_size must be between {least} and {least + geometry.stride - 1} "
            f"for an input of length {length}, got {size}"
        )
    return size - least
