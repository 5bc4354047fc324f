# SPDX-License-Identifier: MIT
"""Initial weights: uniform, which a layer begins with, and three that upsample before anything has been learned.

An interpolating kernel has its centre at ``c = (K - 1) / 2``. In a layer of that stride, output sample ``t`` is the
input read at position ``(t + left - c) / stride``, counted in input samples, where ``left`` is the left padding::

    K odd,           padding=(K - 1) // 2        at t / stride: every stride-th output lies on an input
    K - stride even, padding=(K - stride) // 2   at (t - (stride - 1) / 2) / stride: both ends are treated alike
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import geometry as geometry_module
from .geometry import ConvGeometry, Geometry

if TYPE_CHECKING:
    from .geometry import Size

__all__ = ["linear", "subpixel", "windowed_sinc"]


def as_generator(rng) -> np.random.Generator:
    """`rng` (None, an int or a Generator) as a Generator."""
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        seed = None if rng is None else geometry_module.whole(rng)
    except TypeError:
        raise TypeError(f"rng must be None, an int or a numpy.random.Generator, got {rng!r}") from None
    if seed is not None and seed < 0:
        raise ValueError(f"rng must be a non-negative int, got {rng}")
    return np.random.default_rng(seed)


def uniform(geometry: Geometry | ConvGeometry, dtype: np.dtype, rng: np.random.Generator, bias: bool):
    """Weight and bias uniform in ±1/√(channels · kernel_size), with the weight's second axis; torch's rule.

    Complex values draw real and imaginary parts each from that range.
    """
    shape = geometry.weight_shape
    bound = 1 / math.sqrt(shape[1] * shape[2])

    def draw(shape):
        values = rng.uniform(-bound, bound, shape)
        if dtype.kind == "c":
            values = values + 1j * rng.uniform(-bound, bound, shape)
        return values.astype(dtype)

    weight = draw(shape)
    return weight, draw((geometry.out_channels,)) if bias else None


def linear(in_channels: int, out_channels: int, kernel_size: Size, stride: Size, groups: int = 1) -> np.ndarray:
    """Weights of a layer that interpolates linearly.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, groups : int
        The layer's; ``kernel_size >= 2 * stride - 1``. Its dilation must be 1.

    Returns
    -------
    ndarray of float64, shape (in_channels, out_channels / groups, kernel_size)
        ``max(0, 1 - |k - (kernel_size - 1) / 2| / stride)`` from each input channel to its output channel, see Notes.

    Raises
    ------
    ValueError, TypeError
        A parameter breaks its rule, or is of the wrong kind.

    See Also
    --------
    windowed_sinc : the interpolation of band-limited signals.

    Notes
    -----
    Straight lines stay straight, but for the ends, where the padding mode bends them. The head of
    `convt1d.initialize` says where the outputs lie.

    In a group of I input and O output channels, output o is made of input ``o % I``. With fewer outputs than
    inputs, it is made of the mean of all inputs i with ``i % O == o``. So channels stay apart where I = O, and a
    constant over all channels stays that constant.

    The layer's bias is its own: make it with ``bias=False`` for interpolation and nothing else.

    Examples
    --------
    >>> from convt1d import ConvTranspose1d, initialize
    >>> layer = ConvTranspose1d(1, 1, 3, stride=2, padding=1, bias=False)
    >>> layer.weight = initialize.linear(1, 1, 3, stride=2)
    >>> layer([[1.0, 2.0, 4.0]])
    array([[1. , 1.5, 2. , 3. , 4. ]])
    """
    geometry = _check(in_channels, out_channels, kernel_size, stride, groups)
    if geometry.kernel_size < 2 * geometry.stride - 1:
        raise ValueError(
            "kernel_size must be at least 2 * stride - 1 to interpolate linearly, "
            f"got kernel_size={geometry.kernel_size} and stride={geometry.stride}"
        )
    return _between_channels(geometry, np.maximum(0, 1 - np.abs(_position(geometry))))


def windowed_sinc(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size,
    groups: int = 1,
    *,
    window: Any = ("kaiser", 5.0),
) -> np.ndarray:
    """Weights of a layer that interpolates as band-limited signals ask for: a low-pass filter against spectral images.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, groups : int
        The layer's; ``kernel_size >= stride``. Its dilation must be 1. More taps cut more sharply:
        ``20 * stride + 1`` are what `scipy.signal.resample_poly` takes.
    window : str, float or tuple, default ("kaiser", 5.0)
        As `scipy.signal.get_window` takes it (a number is a Kaiser window's beta); that of `resample_poly` by default.

    Returns
    -------
    ndarray of float64, shape (in_channels, out_channels / groups, kernel_size)
        ``sinc((k - (kernel_size - 1) / 2) / stride) * window[k]``, divided by the sum of its phase, from each
        input channel to its output channel as for `linear`.

    Raises
    ------
    ValueError, TypeError
        A parameter breaks its rule, or is of the wrong kind.

    Notes
    -----
    The taps ``k % stride == j`` are a phase: an output sample sees one. Each has sum 1, so a constant stays constant.
    `scipy.signal.firwin` gives the same taps, but for that: only all of its taps together have a given sum.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d, initialize
    >>> layer = ConvTranspose1d(2, 2, 81, stride=4, padding=40, output_padding=3, groups=2, bias=False, dtype=float)
    >>> layer.weight = initialize.windowed_sinc(2, 2, 81, stride=4, groups=2)
    >>> x = np.stack([np.sin(0.5 * np.arange(100)), np.ones(100)])
    >>> inside = slice(40, -40)
    >>> np.abs(layer(x)[0] - np.sin(0.5 * np.arange(400) / 4))[inside].max() < 2e-3
    np.True_
    """
    from scipy.signal import get_window  # late: takes longer to import than all of convt1d

    geometry = _check(in_channels, out_channels, kernel_size, stride, groups)
    _check_taps(geometry)
    taps = np.sinc(_position(geometry)) * get_window(window, geometry.kernel_size, fftbins=False)
    phases = np.zeros((-(-taps.size // geometry.stride), geometry.stride))
    phases.flat[: taps.size] = taps
    sums = phases.sum(axis=0)
    if not (np.abs(sums) > np.sqrt(np.finfo(float).eps)).all():
        raise ValueError(
            f"window must leave every phase of the filter a sum other than 0, got window={window!r} with "
            f"kernel_size={geometry.kernel_size} and stride={geometry.stride}"
        )
    return _between_channels(geometry, (phases / sums).ravel()[: taps.size])


def subpixel(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size,
    groups: int = 1,
    *,
    rng: np.random.Generator | int | None = None,
) -> np.ndarray:
    """Random weights whose phases are all equal, so that learning begins without a checkerboard (a tone, in audio).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, groups : int
        The layer's; ``kernel_size >= stride``. Its dilation must be 1.
    rng : None, int or numpy.random.Generator
        Source of the weights.

    Returns
    -------
    ndarray of float64, shape (in_channels, out_channels / groups, kernel_size)
        ``kernel_size // stride`` numbers for each pair of channels, each repeated `stride` times, and zeros for the
        taps that are left. The numbers are uniform in ``±1 / sqrt(out_channels / groups * kernel_size)``.

    Raises
    ------
    ValueError, TypeError
        A parameter breaks its rule, or is of the wrong kind.

    Notes
    -----
    The layer then gives the output of a transposed convolution of stride 1 with those numbers, each of its samples
    repeated `stride` times. This is ICNR (Aitken et al., 2017, https://arxiv.org/abs/1707.02937), which was made for
    sub-pixel convolutions; a transposed convolution is one.

    Examples
    --------
    >>> from convt1d import ConvTranspose1d, initialize
    >>> layer = ConvTranspose1d(1, 1, 6, stride=3, bias=False)
    >>> layer.weight = initialize.subpixel(1, 1, 6, stride=3, rng=0)
    >>> layer([[1.0, 2.0]]).round(2)
    array([[ 0.11,  0.11,  0.11,  0.04,  0.04,  0.04, -0.38, -0.38, -0.38]])
    """
    geometry = _check(in_channels, out_channels, kernel_size, stride, groups)
    _check_taps(geometry)
    rng = as_generator(rng)
    weight, _ = uniform(geometry, np.dtype(np.float64), rng, bias=False)
    repeats, left = divmod(geometry.kernel_size, geometry.stride)
    weight = weight[..., :repeats].repeat(geometry.stride, axis=-1)
    return np.pad(weight, ((0, 0), (0, 0), (0, left)))


def _check(in_channels, out_channels, kernel_size, stride, groups):
    return geometry_module.check(in_channels, out_channels, kernel_size, stride, groups=groups)


def _check_taps(geometry):
    if geometry.kernel_size < geometry.stride:
        raise ValueError(
            "kernel_size must be at least stride, a tap for every phase, "
            f"got kernel_size={geometry.kernel_size} and stride={geometry.stride}"
        )


def _position(geometry):
    """Where the taps are, in input samples from the kernel's centre."""
    return (np.arange(geometry.kernel_size) - (geometry.kernel_size - 1) / 2) / geometry.stride


def _between_channels(geometry, taps):
    """`taps` from each input channel to its output channel, as `linear` says."""
    inputs, outputs = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    i, o = np.arange(inputs)[:, None], np.arange(outputs)
    share = i % outputs == o % inputs  # of the two remainders, one is the number itself
    return np.tile((share / share.sum(axis=0))[..., None] * taps, (geometry.groups, 1, 1))
