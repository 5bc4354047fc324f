# SPDX-License-Identifier: MIT
"""The transposed layer: parameters, weights, and a call; and what it shares with `conv.Conv1d`."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from . import arrays, initialize
from . import geometry as geometry_module
from .gradients import NEEDS, backward_of, check_needs
from .operator import Operator, Pointwise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from .activations import Activation
    from .geometry import Padding, PaddingMode, Precision, Size
    from .gradients import Gradients
    from .stream import ConvTranspose1dStream


def html_table(title: str, rows: Mapping[str, str]) -> str:
    """What notebooks show of a layer or stream."""
    from html import escape

    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
    return f"<table><caption><code>{escape(title)}</code></caption>{lines}</table>"


def _parameter(name):
    return property(attrgetter(f"_operator.geometry.{name}"), doc=f"The layer's {name}, as it was given.")


class Layer:
    """What both layers are: a geometry with weights of their own. Use `ConvTranspose1d` or `Conv1d`."""

    __slots__ = ("__weakref__", "_backward", "_operator", "_statistics")  # so that a misspelt attribute is an error

    _operator: Any  # Operator
    _backward: Any
    _statistics: Any  # of partial_fit: they belong to the weights it found

    @classmethod
    def _of(cls, geometry, weight, bias):
        """A layer with copies of these weights, which nothing drew."""
        layer = cls.__new__(cls)
        own = [None if a is None else np.array(a, a.dtype.newbyteorder("="), order="C") for a in (weight, bias)]
        layer._set(geometry, *own)
        return layer

    def _set(self, geometry, weight, bias):
        for array in (weight, bias):
            if array is not None:
                array.flags.writeable = False
        self._operator = Operator(geometry, weight, bias)
        self._backward = backward_of(geometry, weight)
        self._statistics = None

    @property
    def weight(self) -> np.ndarray:
        # a view: the array itself could be made writable again, and an edit would leave stale packs in use
        return self._operator.weight.view()

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        self._set(self._operator.geometry, self._own("weight", value, self.weight.shape), self._operator.bias)

    @property
    def bias(self) -> np.ndarray | None:
        bias = self._operator.bias
        return None if bias is None else bias.view()

    @bias.setter
    def bias(self, value: ArrayLike | None) -> None:
        if value is not None:
            value = self._own("bias", value, (self.out_channels,))
        self._set(self._operator.geometry, self._operator.weight, value)

    def _own(self, name, value, shape):
        """A copy of `value` in the layer's dtype."""
        value = arrays.as_shaped(name, value, shape)
        return np.array(arrays.cast(name, value, self.dtype), order="C", copy=True)

    @property
    def dtype(self) -> np.dtype:
        """Type of the weights."""
        return self.weight.dtype

    # The constructor's other arguments: they live in the geometry and cannot be assigned.
    in_channels = _parameter("in_channels")
    out_channels = _parameter("out_channels")
    kernel_size = _parameter("kernel_size")
    stride = _parameter("stride")
    groups = _parameter("groups")
    dilation = _parameter("dilation")
    padding_mode = _parameter("padding_mode")

    @property
    def padding(self) -> int | tuple[int, int]:
        """As given: an int, or a pair where left and right differ."""
        left, right = self._operator.geometry.padding
        return left if left == right else (left, right)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the weights by name, as torch names them.

        Returns
        -------
        dict
            Of "weight", and "bias" if there is one.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> {name: array.shape for name, array in ConvTranspose1d(8, 4, 16).state_dict().items()}
        {'weight': (8, 4, 16), 'bias': (4,)}
        """
        state = {"weight": self.weight.copy()}
        if self.bias is not None:
            state["bias"] = self.bias.copy()
        return state

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Take the weights from a mapping such as `state_dict` returns; all or nothing.

        Parameters
        ----------
        state : mapping from str to array_like
            "weight", and "bias" if the layer has one.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape differs.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> one, other = ConvTranspose1d(8, 4, 16), ConvTranspose1d(8, 4, 16)
        >>> other.load_state_dict(one.state_dict())
        >>> bool((other.weight == one.weight).all())
        True
        """
        wanted = {"weight"} | ({"bias"} if self.bias is not None else set())
        if set(state) != wanted:
            raise ValueError(f"state must hold exactly {sorted(wanted)}, got {sorted(map(str, state))}")
        weight = self._own("weight", state["weight"], self.weight.shape)
        bias = None if self.bias is None else self._own("bias", state["bias"], self.bias.shape)
        self._set(self._operator.geometry, weight, bias)

    def fit(self, x: ArrayLike, y: ArrayLike, *, alpha: float = 0.0, sample_weight: ArrayLike | None = None) -> Self:
        """Learn weights and bias from examples: least squares with a ridge penalty, in closed form.

        Minimizes ``sum_n sample_weight[n] * ||y[n] - layer(x[n])||² + alpha * ||weight||²``; the bias carries no
        penalty. The layer's present weights and earlier examples play no part.

        Parameters
        ----------
        x : array_like, shape (N, C_in, L) or (C_in, L)
            Inputs.
        y : array_like, shape (N, C_out, L_out) or (C_out, L_out)
            The outputs wanted; L_out is any length that the layer can give for this L, see `output_size`.
        alpha : float, default 0.0
            Penalty on the weights' squares, at least 0. The sum that it balances grows with N, L and the size of y.
        sample_weight : array_like, shape (N,), optional
            Weights of the samples, at least 0; 1 by default. A sample of weight 0 counts as absent.

        Returns
        -------
        ConvTranspose1d or Conv1d
            The layer itself.

        Raises
        ------
        ValueError
            A shape or value breaks its rule: NaN or inf in x or y, too; or the result exceeds the layer's dtype.
        numpy.linalg.LinAlgError
            A ValueError as well: the examples do not determine the weights. There are fewer equations than unknowns;
            or x is constant, periodic or silent, so that rounding leaves no digit of the solution; or the bias
            cannot be told from the weights. A penalty, ``alpha > 0``, helps.
        TypeError
            A parameter or element type is of the wrong kind, such as complex data for a real layer.
        MemoryError
            The normal equations do not fit into the machine's memory.

        See Also
        --------
        partial_fit : the same from one batch after the other.

        Notes
        -----
        Computed in float64 or complex128, and cast to the layer's dtype at the end. An error leaves the layer as it is.

        The normal equations see the square of the data's condition number, after each channel has been scaled and,
        if the layer has a bias, centred. Up to 1e7 or so the weights have some digits; beyond there is an error.

        With ``R = min(K, stride / gcd(stride, dilation))`` output phases that have taps and
        ``q = C_in / groups * ceil(K / R)`` weights in each, the cost is
        ``N * L * groups * (q² / 2 + q * R * C_out / groups)`` multiply-adds for the sums and
        ``groups * R * q³ / 6`` for the solution. Besides the data it needs ``(R + 3) * groups * (q + 1)²`` numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((8, 2, 50))
        >>> known = ConvTranspose1d(2, 3, 7, stride=2, padding=3, dtype=float)
        >>> layer = ConvTranspose1d(2, 3, 7, stride=2, padding=3, dtype=float).fit(x, known(x))
        >>> np.abs(layer.weight - known.weight).max() < 1e-12
        np.True_
        """
        from .fit import check_alpha, statistics_of

        alpha = check_alpha(alpha)
        statistics = statistics_of(self._operator.geometry, self.dtype, self.bias is not None)
        statistics.add(x, y, sample_weight)
        self._set(self._operator.geometry, *statistics.solve(alpha))
        return self

    def partial_fit(
        self, x: ArrayLike, y: ArrayLike, *, alpha: float = 0.0, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn weights and bias from these examples and those of all `partial_fit` calls before.

        The result is `fit`'s on all batches together, up to rounding; `alpha` is this call's. Only sums are kept,
        so memory does not grow with the number of batches, whose N and L may differ. While the examples so far do not
        determine the weights, these stay as they are, the sums are kept, and a RuntimeWarning says what is missing.

        Parameters
        ----------
        x, y, alpha, sample_weight : array_like, array_like, float, array_like
            As for `fit`.

        Returns
        -------
        ConvTranspose1d or Conv1d
            The layer itself.

        Raises
        ------
        ValueError, TypeError, MemoryError
            As `fit`, but for what more examples can mend. The batch then does not count.

        Notes
        -----
        Each call copies the sums and solves the equations anew, at the cost given for `fit`: few large batches are
        faster than many small ones. The sums, ``R * groups * (q + 1)²`` numbers, stay with the layer until its weights
        come from elsewhere: `fit`, an assignment, `load_state_dict`. Copies and pickles of the layer hold them,
        `state_dict` does not.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> rng = np.random.default_rng(0)
        >>> known, layer = (ConvTranspose1d(1, 1, 4, stride=2, dtype=float) for _ in range(2))
        >>> for _ in range(3):
        ...     x = rng.standard_normal((1, 100))
        ...     layer = layer.partial_fit(x, known(x))
        >>> np.abs(layer.weight - known.weight).max() < 1e-12
        np.True_
        """
        from .fit import check_alpha, statistics_of

        alpha = check_alpha(alpha)
        # worked on apart, so that an interrupted call has not counted half a batch
        statistics = copy.deepcopy(self._statistics)
        if statistics is None:
            statistics = statistics_of(self._operator.geometry, self.dtype, self.bias is not None)
        statistics.add(x, y, sample_weight)
        try:
            weight, bias = statistics.solve(alpha)
        except np.linalg.LinAlgError as error:
            self._statistics = statistics
            warnings.warn(f"partial_fit leaves the weights as they are so far: {error}", RuntimeWarning, stacklevel=2)
        else:
            self._set(self._operator.geometry, weight, bias)
            self._statistics = statistics
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and geometry to a file that `from_file` and ``convt1d apply`` read.

        Parameters
        ----------
        path : str or os.PathLike
            A .npz or .safetensors file; replaced if it exists. It holds "weight", "bias" if there is one, and the
            layer's settings, stride and the others: as arrays, or in the metadata.

        Raises
        ------
        ValueError
            `path` ends otherwise.
        TypeError
            The kind of file does not know the layer's dtype.
        ImportError
            safetensors is missing; the message names the extra.

        Examples
        --------
        >>> import os, tempfile
        >>> from convt1d import ConvTranspose1d
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ConvTranspose1d(8, 4, 16, stride=8, padding=4).save(os.path.join(folder, "up.npz"))
        ...     ConvTranspose1d.from_file(os.path.join(folder, "up.npz"))
        ConvTranspose1d(8, 4, kernel_size=(16,), stride=(8,), padding=(4,))
        """
        from . import weights

        weights.save(self._operator.geometry, self.state_dict(), path)

    def __getstate__(self) -> dict[str, Any]:
        # packed weights are made again where the layer is used next
        return {
            "geometry": self._operator.geometry,
            "weight": self.weight,
            "bias": self.bias,
            "statistics": self._statistics,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        weight, bias = state["weight"].copy(), state["bias"]
        self._set(state["geometry"], weight, None if bias is None else bias.copy())
        self._statistics = copy.deepcopy(state["statistics"])

    def __repr__(self) -> str:
        g = self._operator.geometry
        text = f"{g.in_channels}, {g.out_channels}, kernel_size=({g.kernel_size},), stride=({g.stride},)"
        left, right = g.padding
        if left != right:
            text += f", padding=({left}, {right})"
        elif left:
            text += f", padding=({left},)"
        if g.dilation != 1:
            text += f", dilation=({g.dilation},)"
        if getattr(g, "output_padding", 0):
            text += f", output_padding=({g.output_padding},)"
        if g.groups != 1:
            text += f", groups={g.groups}"
        if self.bias is None:
            text += ", bias=False"
        if g.padding_mode != "zeros":
            text += f", padding_mode={g.padding_mode}"
        return f"{type(self).__name__}({text})"

    def _length_formula(self) -> str:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from . import info
        from .cpu import _runtime

        g = self._operator.geometry
        rows = {
            "x": f"(N, {g.in_channels}, L)",
            "y": f"(N, {g.out_channels}, L_out), L_out = {self._length_formula()}",
            "weight": f"{self.weight.shape}, {self.dtype}",
            "multiply-adds a sample": f"{self.weight.size:,}",
            "kernel here": info.plan_of(g, _runtime.machine(), arrays.compute_dtype(self.dtype).name).kernel,
        }
        return html_table(repr(self), rows)


class ConvTranspose1d(Layer):
    """A 1-D transposed convolution with its weights, prepared once and applied to any number of inputs.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    kernel_size : int
        K, samples of a kernel.
    stride : int, default 1
        Output samples per input sample.
    padding : int or (int, int), default 0
        Output samples cropped at both ends; a pair is ``(left, right)``. A causal layer is ``(0, K - stride)``.
    output_padding : int, default 0
        Output samples added at the end; smaller than stride or dilation.
    groups : int, default 1
        Blocks of channels that do not meet; in_channels for a depthwise layer.
    bias : bool, default True
        Whether the layer has a bias.
    dilation : int, default 1
        Distance of two kernel elements in the output, in samples.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "zeros"
        How the input continues outside its L samples.
    dtype : dtype, default float32
        Type of the weights: float16, bfloat16, float32, float64, complex64 or complex128.
    rng : None, int or numpy.random.Generator
        Source of the initial weights.

    Attributes
    ----------
    weight : ndarray, shape (in_channels, out_channels / groups, kernel_size)
        Read-only; assign to change it, the assigned array is copied.
    bias : ndarray, shape (out_channels,), or None
        Likewise.
    dtype : numpy.dtype
        Type of the weights.
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
        As they were given; they cannot be assigned.

    Raises
    ------
    ValueError
        A value breaks its rule; the message names parameter, rule and value.
    TypeError
        A parameter is of the wrong kind.

    See Also
    --------
    conv_transpose1d : the same as a function; its Notes hold the definition and the cost.

    Notes
    -----
    Initial weights and bias are uniform in ``±1 / sqrt(out_channels / groups * kernel_size)``; of complex ones
    real and imaginary parts each. `convt1d.initialize` has others: ``layer.weight = initialize.linear(...)``.

    Weights are packed on the first call, once per compute type (a float32 layer that meets a float64 input computes in
    float64, from a second pack).

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d
    >>> layer = ConvTranspose1d(32, 16, 2)
    >>> layer(np.ones((10, 32, 2), np.float32)).shape
    (10, 16, 3)
    >>> ConvTranspose1d(512, 256, 16, stride=8, padding=4)
    ConvTranspose1d(512, 256, kernel_size=(16,), stride=(8,), padding=(4,))
    """

    __slots__ = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: PaddingMode = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        geometry = geometry_module.check(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
        )
        bias = geometry_module.as_flag("bias", bias)
        dtype = arrays.layer_dtype(dtype)
        rng = initialize.as_generator(rng)
        arrays.check_size("weight", geometry.weight_shape, dtype)
        self._set(geometry, *initialize.uniform(geometry, dtype, rng, bias))

    output_padding = _parameter("output_padding")

    def __call__(
        self,
        x: ArrayLike,
        output_size: int | tuple[int, ...] | None = None,
        *,
        channels_last: bool = False,
        out: np.ndarray | None = None,
        workers: int | None = None,
        precision: Precision = "float32",
        before: Activation | None = None,
        after: Activation | None = None,
        add: ArrayLike | None = None,
    ) -> np.ndarray:
        """Apply the layer: ``after(layer(before(x))) + add``.

        Parameters
        ----------
        x : array_like, shape (N, C_in, L) or (C_in, L)
            Input; any strides, never modified.
        output_size : int, 1-tuple or full shape, optional
            Length of the output, in place of output_padding: at least the length without output_padding, and less
            than `stride` more.
        channels_last : bool, default False
            Whether x is ``(N, L, C_in)`` or ``(L, C_in)``, and the result ``(N, L_out, C_out)`` or ``(L_out, C_out)``.
            A layer that is called both ways packs its weights for either.
        out : ndarray, optional
            Where to put the result: exact shape and dtype, C-contiguous, writable, apart from the inputs.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.
        precision : {"float32", "tf32", "3xtf32"}, default "float32"
            The least precise arithmetic allowed for float32 and complex64 on a GPU, as in `conv_transpose1d`.
        before, after : convt1d.activations.Activation, optional
            Applied to x, and to the output with its bias, while they are in cache: no pass over memory of their own.
        add : array_like of the output's shape, optional
            Added at the end, such as a residual.

        Returns
        -------
        ndarray, shape (N, C_out, L_out) or (C_out, L_out)
            As of `conv_transpose1d`. Of a CuPy array or a torch tensor on a CUDA device it is of that kind, and is
            computed there.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> layer = ConvTranspose1d(8, 4, 3, stride=2, padding=1)
        >>> layer(np.ones((2, 8, 10))).shape
        (2, 4, 19)
        >>> layer(np.ones((2, 8, 10)), output_size=20).shape
        (2, 4, 20)
        >>> layer(np.ones((2, 10, 8)), channels_last=True).shape
        (2, 19, 4)
        """
        if channels_last is not False:
            channels_last = geometry_module.as_flag("channels_last", channels_last)
        pointwise = Pointwise.of(before, after, add, self._operator.geometry)
        return self._operator(x, output_size, out, workers, channels_last, precision, 0, pointwise)

    def stream(
        self,
        *,
        workers: int | None = None,
        before: Activation | None = None,
        after: Activation | None = None,
        channels_last: bool = False,
    ) -> ConvTranspose1dStream:
        """The layer on a signal that arrives in chunks: a `ConvTranspose1dStream`.

        Parameters
        ----------
        workers : int, optional
            Most threads to use for a chunk, as in `conv_transpose1d`.
        before, after : convt1d.activations.Activation, optional
            As in the layer's call.
        channels_last : bool, default False
            As in the layer's call: chunks are ``(N, n, C_in)`` or ``(n, C_in)``, and so is what they become.

        Returns
        -------
        ConvTranspose1dStream
            Of its own memory; it keeps the weights that the layer has now.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> ConvTranspose1d(1, 1, 4, stride=2).stream().process(np.ones((1, 3))).shape
        (1, 6)
        """
        from .stream import ConvTranspose1dStream

        return ConvTranspose1dStream(self, workers=workers, before=before, after=after, channels_last=channels_last)

    def to(self, device: str) -> Self:
        """Copy the weights to a GPU before the first call there, or forget such copies.

        A call runs where its input is, and never copies that; weights that are not there yet it copies once. So `to`
        is for the time of the first call, and for finding out early whether there is a GPU to use.

        Parameters
        ----------
        device : str
            "cuda", CuPy's current device; "cuda:1", that one; "cpu" frees the copies on all of them.

        Returns
        -------
        ConvTranspose1d
            The layer itself. Its `weight` and `bias` are NumPy arrays as before; assigning them makes the copies anew.

        Raises
        ------
        ImportError
            CuPy is missing; the message names the extra.
        RuntimeError
            CuPy finds no device.
        ValueError, TypeError
            There is no such device, or `device` is no string.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> ConvTranspose1d(8, 4, 16, stride=8).to("cpu")
        ConvTranspose1d(8, 4, kernel_size=(16,), stride=(8,))
        """
        if not isinstance(device, str):
            raise TypeError(f"device must be a string, 'cpu', 'cuda' or 'cuda:0' and on, got {device!r}")
        kind, colon, number = device.partition(":")
        if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdecimal())):
            raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:0' and on, got {device!r}")
        if kind == "cpu":
            self._operator.off_device()
            return self
        from .cuda.operator import prepare

        prepare(self._operator.on_device(), int(number) if colon else None)
        return self

    def backward(
        self,
        grad_output: ArrayLike,
        x: ArrayLike,
        output_size: int | tuple[int, ...] | None = None,
        *,
        needs: Iterable[str] = NEEDS,
        workers: int | None = None,
    ) -> Gradients:
        """Gradients with respect to input, weight and bias, as `conv_transpose1d_backward`.

        Parameters
        ----------
        grad_output : array_like, shape (N, C_out, L_out) or (C_out, L_out)
            Gradient of a scalar with respect to the output.
        x : array_like, shape (N, C_in, L) or (C_in, L)
            The input that the output came from.
        output_size : int, 1-tuple or full shape, optional
            As it was given to the call.
        needs : collection of {"x", "weight", "bias"}
            Which gradients to compute.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.

        Returns
        -------
        grad_x : ndarray of x's shape, or None
            None for what `needs` leaves out.
        grad_weight : ndarray of the weight's shape, or None
            Likewise.
        grad_bias : ndarray, shape (C_out,), or None
            Likewise, and None for a layer without a bias.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> layer = ConvTranspose1d(4, 2, 3, stride=2, rng=0)
        >>> x = np.ones((1, 4, 5), np.float32)
        >>> grad_x, grad_weight, grad_bias = layer.backward(np.ones((1, 2, 11), np.float32), x)
        >>> grad_x.shape, grad_weight.shape, grad_bias.tolist()
        ((1, 4, 5), (4, 2, 3), [11.0, 11.0])
        """
        if self.bias is None:
            needs = check_needs(needs) - {"bias"}
        return self._backward(grad_output, x, needs, workers, output_size)

    def output_length(self, L: int) -> int:
        """Length of the output.

        Parameters
        ----------
        L : int
            Length of the input, in samples.

        Returns
        -------
        int
            The formula is that of `convt1d.output_length`.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> ConvTranspose1d(512, 256, 16, stride=8, padding=4).output_length(200)
        1600
        """
        return self._operator.geometry.checked_output_length(geometry_module.as_length("L", L))

    # Weights from elsewhere, and to elsewhere: what each system means is in weights/.

    @classmethod
    def from_state_dict(
        cls,
        mapping: Mapping[str, Any],
        prefix: str = "",
        *,
        stride: Size,
        padding: Padding = 0,
        output_padding: Size = 0,
        groups: int | None = None,
        dilation: Size = 1,
        padding_mode: PaddingMode = "zeros",
    ) -> Self:
        """A layer from the state of a torch module; channels, kernel and bias follow from the arrays.

        Parameters
        ----------
        mapping : mapping from str to array_like or torch.Tensor
            A ``state_dict()``; other names may be in it.
        prefix : str, default ""
            Where the layer is in it: "up" for "up.weight", or "up.weight_g" and "up.weight_v", or
            "up.parametrizations.weight.original0" and "...original1" (weight_norm, which is folded, whatever its
            dim), and "up.bias" if there is one.
        stride, padding, output_padding : int, pair of int
            As for the layer: a state does not hold them.
        groups : int, optional
            By default what the lengths of bias and weight say. Where these leave a doubt it must be given: weights of
            shape (C, 1, K) without a bias may be depthwise.
        dilation, padding_mode : int, str
            As for the layer.

        Returns
        -------
        ConvTranspose1d
            Its dtype is that of the weights.

        Raises
        ------
        ValueError
            No such layer in `mapping`, shapes that do not belong together, a weight under spectral_norm or another
            parametrization, or one that weight_norm would make NaN.
        TypeError
            An argument or an element type is of the wrong kind.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> state = {"up.weight_g": np.ones((8, 1, 1)), "up.weight_v": np.ones((8, 2, 4)), "up.bias": np.zeros(4)}
        >>> ConvTranspose1d.from_state_dict(state, "up", stride=2, padding=1)
        ConvTranspose1d(8, 4, kernel_size=(4,), stride=(2,), padding=(1,), groups=2)
        """
        from . import weights

        geometry = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        return cls._of(*weights.from_state_dict(mapping, prefix, groups=groups, padding_mode=padding_mode, **geometry))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], name: str | None = None, **geometry: Any) -> Self:
        """A layer from a file: .safetensors, .npz or .onnx. Pickles (.pt, .pth) are never loaded.

        Parameters
        ----------
        path : str or os.PathLike
            The kind of file goes by its suffix. A model in several .safetensors files is read by its folder or by its
            ``.safetensors.index.json``.
        name : str, optional
            Which layer, as `convt1d.weights.list_layers` names them; not needed where there is only one.
        **geometry
            For .safetensors and .npz those of `from_state_dict`; the file may hold them, as `save` writes them: a .npz
            file as arrays beside the weights (``stride`` or ``up.stride``), a .safetensors file in its metadata. What
            is given here wins. For .onnx only `length`, see `from_onnx`.

        Returns
        -------
        ConvTranspose1d

        Raises
        ------
        ValueError, TypeError, OSError
            The file is damaged or holds no such layer; the message names it.
        ImportError
            A package is missing; the message names the extra.

        Notes
        -----
        Files may come from anyone. What they claim is held against what they have before memory is taken. A member of a
        .npz file may unpack to 64 MiB or 100 times its size; a .onnx file of nothing but empty messages takes about 100
        times its size to parse.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(os.path.join(folder, "up.npz"), weight=np.ones((8, 4, 16)), stride=8, padding=4)
        ...     ConvTranspose1d.from_file(os.path.join(folder, "up.npz"))
        ConvTranspose1d(8, 4, kernel_size=(16,), stride=(8,), padding=(4,), bias=False)
        """
        from . import weights

        return cls._of(*weights.from_file(path, name, **geometry))

    @classmethod
    def from_onnx(cls, model_or_path: Any, node: str | None = None, *, length: int | None = None) -> Self:
        """A layer from a 1-D ConvTranspose node of an ONNX model.

        Parameters
        ----------
        model_or_path : onnx.ModelProto, bytes, binary file, str or os.PathLike
            Weights may be initializers, also in other files of the model's folder, or whatever follows from them:
            dequantised, cast, transposed, under weight_norm.
        node : str, optional
            Name of the node, or of its output; not needed where there is only one.
        length : int, optional
            L, the input's length. Only a node with ``output_shape`` needs it, since that makes the crop depend on L,
            and only where the graph does not state it.

        Returns
        -------
        ConvTranspose1d
            Its dtype is that of the weights.

        Raises
        ------
        ValueError, TypeError, OSError
            No such node, a node of other than 1-D, weights that depend on an input of the graph, zeros beyond the
            output that output_padding cannot express, or a damaged file.
        ImportError
            onnx is missing; the message names the extra.

        Notes
        -----
        ``auto_pad`` and ``output_shape`` become an asymmetric crop. Where SAME_UPPER and SAME_LOWER meet a kernel that
        reaches less than a stride, the output has ``L * stride`` samples, as ONNX' text says; ONNX Runtime gives fewer.

        A 2-D node whose kernel has one tap along one axis is a 1-D layer. A constant Add behind the node is its bias.
        Of a BatchNormalization, Mul or Slice behind it a UserWarning tells, since it is not part of the layer.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> model = ConvTranspose1d(8, 4, 16, stride=8, padding=(0, 8)).to_onnx()
        >>> ConvTranspose1d.from_onnx(model)
        ConvTranspose1d(8, 4, kernel_size=(16,), stride=(8,), padding=(0, 8))
        """
        from . import weights

        return cls._of(*weights.from_onnx(model_or_path, node, length=length))

    @classmethod
    def from_torch(cls, module: Any, *, trust: bool = False) -> Self:
        """A layer from a ``torch.nn.ConvTranspose1d``; weight_norm is folded, spectral_norm refused.

        Parameters
        ----------
        module : torch.nn.ConvTranspose1d
            On any device; it is not changed. A ``ConvTranspose2d`` of height or width 1 is one, too.
        trust : bool, default False
            Whether to take the weights and arguments of a module that may compute something else: of a subclass with a
            ``forward`` of its own, or with forward hooks.

        Returns
        -------
        ConvTranspose1d
            Its dtype is that of the weights.

        Raises
        ------
        ValueError, TypeError
            As `from_state_dict`.
        TypeError
            `module` may compute something else than its weights and arguments say, and `trust` is False.

        Examples
        --------
        >>> import torch
        >>> from convt1d import ConvTranspose1d
        >>> ConvTranspose1d.from_torch(torch.nn.ConvTranspose1d(8, 4, 16, stride=8, padding=4))
        ConvTranspose1d(8, 4, kernel_size=(16,), stride=(8,), padding=(4,))
        """
        from . import weights

        return cls._of(*weights.from_torch(module, trust))

    @classmethod
    def from_keras(
        cls,
        layer_or_kernel: Any,
        bias: ArrayLike | None = None,
        *,
        stride: Size | None = None,
        padding: Literal["valid", "same"] | None = None,
        output_padding: Size | None = None,
        dilation: Size = 1,
        trust: bool = False,
    ) -> Self:
        """A layer from a ``keras.layers.Conv1DTranspose``, or from its kernel.

        Parameters
        ----------
        layer_or_kernel : keras.layers.Conv1DTranspose or array_like, shape (K, C_out, C_in)
            A layer must be built and have no activation.
        bias : array_like, shape (C_out,), optional
            This and what follows are for a kernel only; a layer holds them itself.
        stride : int
            Keras' ``strides``.
        padding : {"valid", "same"}
            As there.
        output_padding : int, optional
            Keras' own: with "same" it changes the crop as well.
        dilation : int, default 1
            Keras' ``dilation_rate``.
        trust : bool, default False
            Whether to take the weights and arguments of a subclass with a ``call`` of its own.

        Returns
        -------
        ConvTranspose1d
            Keras takes ``(N, L, C_in)``: call it as ``layer(x, channels_last=True)``.

        Raises
        ------
        ValueError, TypeError
            A value breaks its rule, or is of the wrong kind.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> ConvTranspose1d.from_keras(np.ones((5, 4, 8)), np.zeros(4), stride=2, padding="same")
        ConvTranspose1d(8, 4, kernel_size=(5,), stride=(2,), padding=(1, 2))
        """
        from . import weights

        settings = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        return cls._of(*weights.from_keras(layer_or_kernel, bias, trust=trust, **settings))

    @classmethod
    def from_jax(
        cls,
        kernel: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        stride: Size,
        padding: str | int | Sequence[Any],
        dilation: Size = 1,
        groups: int = 1,
        transpose_kernel: bool = False,
        use_consistent_padding: bool = False,
    ) -> Self:
        """A layer from the kernel of ``jax.lax.conv_transpose`` or of Flax' ``ConvTranspose``.

        Parameters
        ----------
        kernel : array_like, shape (K, C_in / groups, C_out), with transpose_kernel (K, C_out, C_in)
            JAX' ``rhs``; a parameter of Flax.
        bias : array_like, shape (C_out,), optional
            Likewise of Flax.
        stride : int
            The ``strides`` of both.
        padding : {"SAME", "VALID", "CIRCULAR"}, int or pair
            As there: numbers are samples around the stretched input; "CIRCULAR" is Flax'.
        dilation : int, default 1
            JAX' ``rhs_dilation``; Flax' ``kernel_dilation``.
        groups : int, default 1
            The ``feature_group_count`` of ``jax.lax.conv_general_dilated``.
        transpose_kernel, use_consistent_padding : bool, default False
            As in ``jax.lax.conv_transpose``.

        Returns
        -------
        ConvTranspose1d
            JAX takes ``(N, L, C_in)``: call it as ``layer(x, channels_last=True)``.

        Raises
        ------
        ValueError, TypeError
            A value breaks its rule, is of the wrong kind, or asks for zeros that output_padding cannot express.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> ConvTranspose1d.from_jax(np.ones((5, 8, 4)), stride=2, padding="SAME")
        ConvTranspose1d(8, 4, kernel_size=(5,), stride=(2,), padding=(1, 2), bias=False)
        """
        from . import weights

        flags = {"transpose_kernel": transpose_kernel, "use_consistent_padding": use_consistent_padding}
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return cls._of(*weights.from_jax(kernel, bias, **settings, **flags))

    def to_onnx(self, path: str | os.PathLike[str] | None = None) -> Any:
        """An ONNX model of one ConvTranspose node, input "x" and output "y".

        Parameters
        ----------
        path : str or os.PathLike, optional
            Where to write it as well.

        Returns
        -------
        onnx.ModelProto
            Of opset 11; of 22 for bfloat16.

        Raises
        ------
        ValueError
            A padding mode other than zeros, or more weights than the 2 GiB a model can hold.
        TypeError
            Complex weights.
        ImportError
            onnx is missing; the message names the extra.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> model = ConvTranspose1d(8, 4, 16, stride=8, padding=4).to_onnx()
        >>> model.graph.node[0].op_type
        'ConvTranspose'
        """
        from . import weights

        return weights.to_onnx(self._operator.geometry, self.weight, self.bias, path)

    def _length_formula(self) -> str:
        return f"{self.stride} L {self._operator.geometry.output_length(0):+d}"
