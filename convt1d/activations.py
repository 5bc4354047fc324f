# SPDX-License-Identifier: MIT
"""Activations: sample by sample, alone or in the same pass as a layer.

    ReLU()               max(x, 0)
    LeakyReLU(slope)     x where x > 0, else slope * x
    ELU(alpha)           x where x > 0, else alpha * (exp(x) - 1)
    Tanh()               tanh(x)
    Snake(alpha)         x + sin(alpha * x)**2 / alpha            a number, or one for each channel
    SnakeBeta(alpha, beta)   x + sin(alpha * x)**2 / beta         likewise

All are 0 at 0, so that the zeros around a signal stay zeros, whether a layer continues its input before or after.
`microkernels/activate.inc` computes them; layers take one as ``before=`` and ``after=``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, threads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Seconds that a thread takes for a number of the slowest one, to estimate whether threads pay (AVX-512, 2026-11).
_SECONDS = 1e-9


class Activation:
    """An activation; use one of its subclasses.

    Parameters
    ----------
    a, b : float or array_like, shape (C,), default 0.0
        The numbers of its formula, see microkernels/activate.inc.

    Notes
    -----
    float32 results differ from the exact ones by at most 1 unit in the last place, for ``|alpha * x|`` up to 1e6 and
    beyond; NaN and inf give what NumPy's functions give. float16 and bfloat16 are computed in float32. The cost is
    0.05 to 1 ns a float32 number and core with AVX-512; float64 takes the C library's functions, some 10 ns.

    Examples
    --------
    >>> from convt1d.activations import Activation, Tanh
    >>> isinstance(Tanh(), Activation)
    True
    """

    kind = 0  # as in cpu/microkernels.h

    def __init__(self, a: Any = 0.0, b: Any = 0.0) -> None:
        self.a = np.ascontiguousarray(a, np.float64).reshape(-1)
        self.b = np.broadcast_to(np.asarray(b, np.float64).reshape(-1), self.a.shape).copy()
        for array in (self.a, self.b):
            array.flags.writeable = False

    def __call__(self, x: ArrayLike, *, out: np.ndarray | None = None, workers: int | None = None) -> np.ndarray:
        """Apply the activation.

        Parameters
        ----------
        x : array_like, shape (N, C, L) or (C, L)
            Input; any shape, if the parameters are one number.
        out : ndarray, optional
            Where to put the result: exact shape and dtype, C-contiguous, writable; x itself, or apart from it.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.

        Returns
        -------
        ndarray of x's shape
            In x's type, float64 for integers.

        Raises
        ------
        ValueError, TypeError
            A shape or type breaks its rule.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d.activations import LeakyReLU
        >>> LeakyReLU(0.5)(np.array([-2.0, 0.0, 3.0]))
        array([-1.,  0.,  3.])
        """
        x = arrays.as_array("x", x)
        dtype = self.result_dtype("x", x.dtype)
        self.check_channels("x", x)
        if out is None:
            out = np.empty(x.shape, dtype)
        else:
            arrays.check_out(out, x.shape, dtype, **({} if out is x else {"x": x}))
        self.apply(x, out, threads.count(workers))
        return out

    def apply(self, x: np.ndarray, out: np.ndarray, allowed: int | None) -> None:
        """The same for checked arrays, out of any strides; `allowed` as in `threads.worthwhile`."""
        from .cpu._tiles import activate

        compute = arrays.compute_dtype(out.dtype)
        y = out if out.dtype == compute and _has_rows(out) else np.empty(x.shape, compute)
        if x.dtype != compute or not _has_rows(x):
            x = np.ascontiguousarray(x, compute)
        n = threads.worthwhile(x.size * _SECONDS, allowed)
        activate(self.kind, self.a, self.b, _as_rows(x), _as_rows(y), n)
        if y is not out:
            out[...] = y

    def backward(self, grad_output: ArrayLike, x: ArrayLike) -> np.ndarray:
        """The gradient with respect to x.

        Parameters
        ----------
        grad_output : array_like of x's shape
            Gradient of a scalar with respect to the output.
        x : array_like, shape (N, C, L) or (C, L)
            The input that the output came from.

        Returns
        -------
        ndarray of x's shape
            In the common type of both.

        Examples
        --------
        >>> from convt1d.activations import Tanh
        >>> Tanh().backward([[1.0]], [[0.0]])
        array([[1.]])
        """
        x = arrays.as_array("x", x)
        grad_output = arrays.as_shaped("grad_output", grad_output, x.shape)
        dtype = self.result_dtype("x", np.result_type(x, grad_output))
        self.check_channels("x", x)
        compute = arrays.compute_dtype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            slope = self._slope(
                x.astype(compute), *(p.reshape(-1, 1) if p.size > 1 else p[0] for p in (self.a, self.b))
            )
            gradient: np.ndarray = (slope * grad_output).astype(dtype)
        return gradient

    def _slope(self, x: np.ndarray, a: Any, b: Any) -> Any:
        raise NotImplementedError

    def check_channels(self, name: str, x: np.ndarray) -> None:
        """Parameters of C channels need an array (N, C, L) or (C, L)."""
        if self.a.size > 1 and (x.ndim not in (2, 3) or x.shape[-2] != self.a.size):
            c = self.a.size
            raise ValueError(f"{name} must have shape (N, {c}, L) or ({c}, L) for {c} parameters, got {x.shape}")

    def check_layer(self, name: str, channels: int) -> None:
        """Its parameters must be those of a layer with so many channels on that side."""
        if self.a.size not in (1, channels):
            raise ValueError(
                f"{name} must have one parameter, or one for each of {channels} channels, got {self.a.size}"
            )

    @staticmethod
    def result_dtype(name: str, dtype: np.dtype) -> np.dtype:
        found = arrays.result_dtype(dtype, dtype)
        if found.kind == "c":
            raise TypeError(f"{name} must be real for an activation, got dtype {dtype.name}")
        return found

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Activation)
            and self.kind == other.kind
            and np.array_equal(self.a, other.a)
            and np.array_equal(self.b, other.b)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(_shown, self._arguments()))})"

    def _arguments(self) -> tuple[np.ndarray, ...]:
        return ()


class ReLU(Activation):
    """The larger of x and 0.

    Examples
    --------
    >>> from convt1d.activations import ReLU
    >>> ReLU()([-1.0, 2.0])
    array([0., 2.])
    """

    kind = 1

    def __init__(self) -> None:
        super().__init__()

    def _slope(self, x: np.ndarray, a: Any, b: Any) -> Any:
        return np.where(x > 0, x.dtype.type(1), x.dtype.type(0))


class LeakyReLU(Activation):
    """Equal to x where x > 0, else to ``slope * x``.

    Parameters
    ----------
    slope : float, default 0.01
        The ``negative_slope`` of torch.

    Examples
    --------
    >>> from convt1d.activations import LeakyReLU
    >>> LeakyReLU(0.1)([-1.0, 2.0])
    array([-0.1,  2. ])
    """

    kind = 2

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__(_number("slope", slope))

    def _slope(self, x: np.ndarray, a: Any, b: Any) -> Any:
        return np.where(x > 0, x.dtype.type(1), x.dtype.type(a))

    def _arguments(self) -> tuple[np.ndarray, ...]:
        return (self.a,)


class ELU(Activation):
    """Equal to x where x > 0, else to ``alpha * (exp(x) - 1)``.

    Parameters
    ----------
    alpha : float, default 1.0
        What it tends to for x far below 0, with a minus.

    Examples
    --------
    >>> from convt1d.activations import ELU
    >>> ELU()([-1.0, 2.0]).round(3)
    array([-0.632,  2.   ])
    """

    kind = 3

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(_number("alpha", alpha))

    def _slope(self, x: np.ndarray, a: Any, b: Any) -> Any:
        return np.where(x > 0, 1, a * np.exp(np.minimum(x, 0)))

    def _arguments(self) -> tuple[np.ndarray, ...]:
        return (self.a,)


class Tanh(Activation):
    """The hyperbolic tangent of x.

    Examples
    --------
    >>> from convt1d.activations import Tanh
    >>> Tanh()([-1.0, 0.0]).round(3)
    array([-0.762,  0.   ])
    """

    kind = 4

    def __init__(self) -> None:
        super().__init__()

    def _slope(self, x: np.ndarray, a: Any, b: Any) -> Any:
        return 1 - np.tanh(x) ** 2


class Snake(Activation):
    """``x + sin(alpha * x)**2 / alpha``, as DAC and SNAC have it.

    Parameters
    ----------
    alpha : float or array_like, shape (C,) or (1, C, 1)
        One, or one for each channel; of 0 the result is x.

    References
    ----------
    .. [1] Liu Ziyin et al., "Neural Networks Fail to Learn Periodic Functions and How to Fix It", arXiv:2006.08195

    Examples
    --------
    >>> from convt1d.activations import Snake
    >>> Snake([1.0, 2.0])([[1.0, 0.0], [1.0, 0.0]]).round(3)
    array([[1.708, 0.   ],
           [1.413, 0.   ]])
    """

    kind = 5

    def __init__(self, alpha: ArrayLike) -> None:
        alpha = _numbers("alpha", alpha)
        with np.errstate(divide="ignore"):
            super().__init__(alpha, np.where(alpha == 0, 0, 1 / alpha))

    def _slope(self, x: np.ndarray, a: Any, b: Any) -> Any:
        return 1 + a * b * np.sin(2 * a * x)

    def _arguments(self) -> tuple[np.ndarray, ...]:
        return (self.a,)


class SnakeBeta(Activation):
    """``x + sin(alpha * x)**2 / beta``, as BigVGAN and Oobleck have it.

    Parameters
    ----------
    alpha, beta : float or array_like, shape (C,) or (1, C, 1)
        One, or one for each channel. Parameters that a model stores as logarithms are to be exponentiated first.

    Examples
    --------
    >>> from convt1d.activations import SnakeBeta
    >>> SnakeBeta(1.0, 2.0)([[1.0, 0.0]]).round(3)
    array([[1.354, 0.   ]])
    """

    kind = 5

    def __init__(self, alpha: ArrayLike, beta: ArrayLike) -> None:
        alpha, beta = np.broadcast_arrays(_numbers("alpha", alpha), _numbers("beta", beta))
        if (beta == 0).any():
            raise ValueError("beta must not be 0, as sin(alpha * x)**2 is divided by it")
        super().__init__(alpha, 1 / beta)

    def _slope(self, x: np.ndarray, a: Any, b: Any) -> Any:
        return 1 + a * b * np.sin(2 * a * x)

    def _arguments(self) -> tuple[np.ndarray, ...]:
        return self.a, 1 / self.b


def as_activation(name: str, value: Any) -> Activation | None:
    """`value` as an activation, or None."""
    if value is None or isinstance(value, Activation):
        return value
    raise TypeError(f"{name} must be an activation of convt1d.activations or None, got {type(value).__name__}")


def _has_rows(array: np.ndarray) -> bool:
    """Whether an array can be seen as (N, C, L) with consecutive samples."""
    if not array.flags.aligned:
        return False
    return array.flags.c_contiguous or (array.ndim in (2, 3) and array.strides[-1] == array.itemsize)


def _as_rows(array: np.ndarray) -> np.ndarray:
    if array.ndim in (2, 3):
        return array if array.ndim == 3 else array[None]
    return array.reshape(1, 1, -1)


def _number(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not np.isfinite(found):
        raise ValueError(f"{name} must be finite, got {found}")
    return found


def _numbers(name: str, value: Any) -> np.ndarray:
    """One number, or one for each channel."""
    array = arrays.as_array(name, value)
    if array.size == 0 or array.size != max(1, *array.shape, 1):
        raise ValueError(f"{name} must be a number or one for each channel, got shape {array.shape}")
    if array.dtype.kind == "c" or not np.isfinite(array.astype(np.float64)).all():
        raise ValueError(f"{name} must hold finite real numbers, got {array.dtype.name} values")
    return array.astype(np.float64).reshape(-1)


def _shown(array: np.ndarray) -> str:
    return f"{array[0]:.6g}" if array.size == 1 else f"<{array.size} channels>"
