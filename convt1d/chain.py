# SPDX-License-Identifier: MIT
"""Layers one after the other and side by side: a decoder from one description, for whole signals and for streams.

    Chain(a, b, c)        c(b(a(x)))                                     Chain() is x itself
    Sum(a, b, scale=s)    s * (a(x) + b(x))                              Sum(Chain(), Chain(...)) is a residual unit

    steps  ->  fused      an activation beside a layer is computed in the layer's pass
           ->  stream     each step's own; a sum waits for the branch that lags most

A step is a layer, an activation, a Chain, a Sum, any function that works sample by sample, or any object with a call
and `stream()`, whose stream has `process`, `flush`, `reset`, `state` and `restore`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays
from .activations import Activation
from .buffer import Buffer
from .layer import Layer
from .operator import Pointwise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Chain:
    """Steps that follow one another, applied to whole signals or to chunks of them.

    Parameters
    ----------
    *steps : ConvTranspose1d, Conv1d, Activation, Chain, Sum or callable
        A callable gets an array (N, C, L) or (C, L) and must return one with as many samples, each of which depends on
        its own sample only; see Notes for steps with a memory.

    Attributes
    ----------
    steps : tuple
        As they were given.

    Raises
    ------
    TypeError
        A step is not callable.

    See Also
    --------
    Sum : branches that get the same input.

    Notes
    -----
    An activation that stands before or behind a layer is computed in the layer's own pass; results are the same bits as
    step by step. float16 and bfloat16 are widened once for a layer and its activations.

    A step with a memory, such as an LSTM, is an object that is called with a whole signal, and whose ``stream()``
    returns one with ``process(chunk)``, ``flush()``, ``reset()``, ``state()``, ``restore(state)`` and, if they differ
    from 1 and 0, ``rate`` (output samples for an input sample) and ``lag`` (output samples by which it is late), which
    may be `fractions.Fraction`.

    The memory that a call needs beside its result is that of the two largest outputs of steps.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import Chain, Conv1d, ConvTranspose1d, Sum
    >>> from convt1d.activations import LeakyReLU
    >>> unit = Sum(Chain(), Chain(LeakyReLU(0.1), Conv1d(4, 4, 3, padding="same", dilation=3)))
    >>> decoder = Chain(ConvTranspose1d(8, 4, 4, stride=2, padding=1), unit)
    >>> x = np.ones((8, 50), np.float32)
    >>> decoder(x).shape
    (4, 100)
    >>> stream = decoder.stream()
    >>> pieces = [stream.process(x[:, :20]), stream.process(x[:, 20:]), stream.flush()]
    >>> [piece.shape for piece in pieces]
    [(4, 36), (4, 60), (4, 4)]
    >>> bool((np.concatenate(pieces, axis=1) == decoder(x)).all())
    True
    """

    def __init__(self, *steps: Any) -> None:
        for step in steps:
            if not callable(step):
                raise TypeError(f"each step must be a layer, an activation or callable, got {type(step).__name__}")
        self.steps = steps
        self._fused = _fuse(steps)

    def __call__(self, x: ArrayLike, *, out: np.ndarray | None = None, workers: int | None = None) -> np.ndarray:
        """Apply all steps to a whole signal.

        Parameters
        ----------
        x : array_like, shape (N, C, L) or (C, L)
            Input; never modified.
        out : ndarray, optional
            Where to put the result: exact shape and dtype, C-contiguous, writable, apart from the input.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.

        Returns
        -------
        ndarray
            The last step's output; x itself of a chain without steps.

        Raises
        ------
        ValueError, TypeError
            As the steps' own calls.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Chain, Conv1d
        >>> Chain(Conv1d(2, 4, 3), np.tanh)(np.ones((2, 10))).shape
        (4, 8)
        """
        given, x = x, arrays.as_array("x", x, (2, 3))
        y = self._apply(x, workers)
        if out is None:
            return arrays.like(y, given)
        arrays.check_out(out, y.shape, y.dtype, x=x)
        out[...] = y
        return out

    def _apply(self, x: np.ndarray, workers: int | None, add: np.ndarray | None = None) -> np.ndarray:
        """The chain on a checked array; `add`, only where the last step is a layer, is added in its pass."""
        for at, step in enumerate(self._fused):
            x = step.whole(x, workers, add if at == len(self._fused) - 1 else None)
        return x

    def stream(self, *, workers: int | None = None) -> ChainStream:
        """The chain on a signal that arrives in chunks.

        Parameters
        ----------
        workers : int, optional
            Most threads to use for a chunk, as in `conv_transpose1d`.

        Returns
        -------
        ChainStream
            Of its own memory.

        Raises
        ------
        ValueError
            A layer's padding mode is circular.

        Examples
        --------
        >>> from convt1d import Chain, Conv1d
        >>> Chain(Conv1d(2, 4, 3, padding=1), Conv1d(4, 2, 3, padding=1)).stream().latency
        2
        """
        return ChainStream([step.stream(workers) for step in self._fused])

    def _flat(self) -> list[Any]:
        """The steps, with those of chains within in their place."""
        return [one for step in self.steps for one in (step._flat() if isinstance(step, Chain) else [step])]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(_named, self.steps))})"


class Sum:
    """Branches that get the same input; their outputs are added.

    Parameters
    ----------
    *branches : ConvTranspose1d, Conv1d, Activation, Chain, Sum or callable
        As the steps of a `Chain`. ``Chain()`` is the input itself: a residual unit is ``Sum(Chain(), Chain(...))``.
    scale : float, default 1.0
        What the sum is multiplied by, such as 1/3 for a mean of three.

    Attributes
    ----------
    branches, scale
        As they were given.

    Raises
    ------
    TypeError, ValueError
        A branch is not callable; there is none; `scale` is no finite number.

    Notes
    -----
    Outputs are added in the order of the branches. In a stream the branches lag by different numbers of samples; what
    one of them is ahead is kept until the others have it, too.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import Chain, Sum
    >>> Sum(Chain(), np.square, scale=0.5)(np.array([[1.0, 2.0]]))
    array([[1., 3.]])
    """

    def __init__(self, *branches: Any, scale: float = 1.0) -> None:
        if not branches:
            raise ValueError("branches must be at least one, got none")
        scale = float(scale)
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        self.branches = branches
        self.scale = scale
        self._chains = [branch if isinstance(branch, Chain) else Chain(branch) for branch in branches]

    def __call__(self, x: ArrayLike, *, workers: int | None = None) -> np.ndarray:
        """Apply the branches to a whole signal, and add.

        Parameters
        ----------
        x : array_like, shape (N, C, L) or (C, L)
            Input; never modified.
        workers : int, optional
            Most threads to use, as in `conv_transpose1d`.

        Returns
        -------
        ndarray
            The sum, times `scale`.

        Raises
        ------
        ValueError, TypeError
            As the branches' own calls; their outputs differ in shape.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Chain, Conv1d, Sum
        >>> Sum(Chain(), Conv1d(2, 2, 3, padding="same"))(np.ones((2, 10))).shape
        (2, 10)
        """
        x = arrays.as_array("x", x, (2, 3))
        total: Any = None
        own = False  # whether nobody else has the memory of `total`
        for chain in self._chains:
            last = chain._fused[-1] if chain._fused else None
            if isinstance(last, _LayerStep):
                total = chain._apply(x, workers, total)
            else:
                y = chain._apply(x, workers)
                if total is not None:
                    _check_equal(total, y)
                    out = total if own and total.dtype == y.dtype else None
                    y = np.add(total, y, out=out)
                total = y
            own = own or (total is not x and (len(self._chains) == 1 or isinstance(last, (_LayerStep, _SumStep))))
        return total if self.scale == 1 else np.multiply(total, self.scale, out=total if own else None)

    def stream(self, *, workers: int | None = None) -> SumStream:
        """The sum on a signal that arrives in chunks.

        Parameters
        ----------
        workers : int, optional
            Most threads to use for a chunk, as in `conv_transpose1d`.

        Returns
        -------
        SumStream
            Of its own memory.

        Examples
        --------
        >>> from convt1d import Chain, Conv1d, Sum
        >>> Sum(Chain(), Conv1d(4, 4, 7, padding=3)).stream().latency
        3
        """
        return SumStream([chain.stream(workers=workers) for chain in self._chains], self.scale)

    def __repr__(self) -> str:
        scale = f", scale={self.scale:.6g}" if self.scale != 1 else ""
        return f"{type(self).__name__}({', '.join(map(_named, self.branches))}{scale})"


_Like = tuple[tuple[int, ...], np.dtype] | None


# ---- streams ------------------------------------------------------------------------------------------------------


class _SignalStream:
    """A signal of one batch size, number of channels and dtype, in chunks; what both streams here are."""

    rate: Fraction
    lag: Fraction

    def __init__(self, parts: list[Any]):
        self._parts = parts
        self._begin()

    def _begin(self) -> None:
        self._like: _Like = None  # shape and type of chunks, but for their length
        self._made: _Like = None  # ... and of what they become
        self._flushed = False

    @property
    def latency(self) -> int:
        """Output samples by which the stream is late at most."""
        return math.ceil(self.lag)

    def reset(self) -> None:
        """Forget the signal, and the batch size, channels and dtype that its first chunk fixed."""
        for part in self._parts:
            part.reset()
        self._begin()

    def process(self, chunk: ArrayLike) -> np.ndarray:
        """Take the next samples and return the output samples that they finish.

        Parameters
        ----------
        chunk : array_like, shape (N, C, n) or (C, n)
            Any n, 0 included; all else like the first chunk. It is copied.

        Returns
        -------
        ndarray
            The next samples of the output; after n samples of the input ``n * rate - latency`` or more have come, if no
            layer waits for its padding mode ("reflect").

        Raises
        ------
        ValueError
            A shape breaks its rule, or the stream has been flushed.
        TypeError
            An element type is of the wrong kind, or not that of the first chunk.

        Notes
        -----
        After an error of the first chunk the stream is as it was; one that comes from inside a later chunk, such as
        MemoryError, leaves it between two chunks: `reset` it.
        """
        if self._flushed:
            raise ValueError("chunk must not follow flush(), which ended the signal: reset() starts a new one")
        chunk = arrays.as_array("chunk", chunk, (2, 3))
        like = chunk.shape[:-1], chunk.dtype
        if self._like is None:
            try:
                y = self._process(chunk)
            except BaseException:
                self.reset()
                raise
            self._like = like
            return y
        if like != self._like:
            raise ValueError(
                f"chunk must have the first one's shape {(*self._like[0], 'n')} and dtype {self._like[1]}, "
                f"got {chunk.shape} and {chunk.dtype}"
            )
        return self._process(chunk)

    def flush(self) -> np.ndarray:
        """End the signal and return the rest of its output.

        Returns
        -------
        ndarray
            What is missing to the output for the whole signal. Further chunks are refused until `reset`.
        """
        y = self._flush()
        self._flushed = True
        return y

    def state(self) -> dict[str, Any]:
        """A copy of what the stream remembers, for `restore`: arrays, numbers and lists of them; no weights."""
        return {
            "like": self._like,
            "made": self._made,
            "flushed": self._flushed,
            "parts": [part.state() for part in self._parts],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, here or in another stream of the same description.

        Raises
        ------
        ValueError, TypeError
            `state` is not from such a stream. The stream is left as it was.
        """
        if not isinstance(state, Mapping) or set(state) != set(self.state()):
            raise ValueError(f"state must hold exactly {sorted(self.state())}")
        if len(state["parts"]) != len(self._parts):
            raise ValueError(f"state must be of {len(self._parts)} parts, got {len(state['parts'])}")
        before = self.state()
        try:
            self._restore(state)
        except BaseException:
            self._restore(before)
            raise

    def _restore(self, state: Mapping[str, Any]) -> None:
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.restore(saved)
        self._like, self._made = (
            None if like is None else (tuple(like[0]), np.dtype(like[1])) for like in (state["like"], state["made"])
        )
        self._flushed = bool(state["flushed"])

    def _process(self, chunk: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _flush(self) -> np.ndarray:
        raise NotImplementedError


class ChainStream(_SignalStream):
    """A chain on a signal that arrives in chunks, of any lengths; `Chain.stream` makes it.

    What `process` and `flush` return, concatenated, is what the chain returns for the whole signal.

    Attributes
    ----------
    latency : int
        Output samples by which the stream is late at most.
    rate, lag : fractions.Fraction
        Output samples for an input sample; the latency before it is rounded up.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import Chain, ConvTranspose1d
    >>> stream = Chain(ConvTranspose1d(2, 2, 4, stride=2, padding=1), np.tanh).stream()
    >>> stream.process(np.ones((2, 10))).shape, stream.flush().shape, stream.latency
    ((2, 19), (2, 1), 1)
    """

    def __init__(self, parts: list[Any]):
        super().__init__(parts)
        self.rate, self.lag = Fraction(1), Fraction(0)
        for part in parts:
            rate = Fraction(getattr(part, "rate", 1))
            self.rate, self.lag = self.rate * rate, self.lag * rate + Fraction(getattr(part, "lag", 0))

    def _process(self, chunk: np.ndarray) -> np.ndarray:
        y = chunk if self._parts else chunk.copy()
        for part in self._parts:
            y = part.process(y)
        self._made = y.shape[:-1], y.dtype
        return y

    def _flush(self) -> np.ndarray:
        rest: Any = None
        for part in self._parts:
            pieces = [] if rest is None else [part.process(rest)]
            pieces.append(part.flush())
            pieces = [piece for piece in pieces if piece is not None and piece.shape[-1]] or pieces[:1]
            rest = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
        if self._made is not None and (rest is None or not rest.shape[-1]):
            rest = np.empty((*self._made[0], 0), self._made[1])
        return np.empty((0, 0)) if rest is None else rest


class SumStream(_SignalStream):
    """A sum on a signal that arrives in chunks, of any lengths; `Sum.stream` makes it.

    Attributes
    ----------
    latency : int
        Output samples by which the stream is late at most: that of the branch that lags most.
    rate, lag : fractions.Fraction
        As of `ChainStream`.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import Chain, Conv1d, Sum
    >>> stream = Sum(Chain(), Conv1d(2, 2, 3, padding=1)).stream()
    >>> stream.process(np.ones((2, 10))).shape, stream.flush().shape
    ((2, 9), (2, 1))
    """

    def __init__(self, parts: list[ChainStream], scale: float):
        rates = {part.rate for part in parts}
        if len(rates) > 1:
            raise ValueError(
                "branches must give equally many output samples for an input sample, "
                f"got {', '.join(map(str, sorted(rates)))}"
            )
        self.rate, self.lag = rates.pop(), max(part.lag for part in parts)
        self._scale = scale
        super().__init__(parts)

    def _begin(self) -> None:
        super()._begin()
        self._ahead: list[Buffer | None] = [None] * len(self._parts)

    def state(self) -> dict[str, Any]:
        """A copy of what the stream remembers, for `restore`."""
        ahead = [None if kept is None else kept.samples(0, len(kept)).copy() for kept in self._ahead]
        return {**super().state(), "ahead": ahead}

    def _restore(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state["ahead"], list) or len(state["ahead"]) != len(self._parts):
            raise ValueError(f"state['ahead'] must be of {len(self._parts)} branches, got {len(state['ahead'])}")
        super()._restore(state)
        self._ahead = [None if kept is None else _buffer_of(kept) for kept in state["ahead"]]

    def _process(self, chunk: np.ndarray) -> np.ndarray:
        return self._added([part._process(chunk) for part in self._parts])

    def _flush(self) -> np.ndarray:
        y = self._added([part._flush() for part in self._parts])
        left = [0 if kept is None else len(kept) for kept in self._ahead]
        if any(left):
            raise ValueError(f"branches must return equally many samples, got {left} more than the shortest")
        return y

    def _added(self, pieces: list[np.ndarray]) -> np.ndarray:
        """The sum of what all branches have come to, of which `pieces` is new."""
        kept = [0 if buffer is None else len(buffer) for buffer in self._ahead]
        n = min(have + piece.shape[-1] for have, piece in zip(kept, pieces, strict=True))
        pieces = [self._next(branch, piece, kept[branch], n) for branch, piece in enumerate(pieces)]
        total = pieces[0]
        for at, piece in enumerate(pieces[1:]):
            _check_equal(total, piece)
            total = np.add(total, piece, out=total if at and total.dtype == piece.dtype else None)
        if len(pieces) == 1:
            total = total.copy()
        return total if self._scale == 1 else np.multiply(total, self._scale, out=total)

    def _next(self, branch: int, piece: np.ndarray, kept: int, n: int) -> np.ndarray:
        """The next n samples of a branch, of which `kept` were there before `piece`; what is left is kept."""
        if not kept and piece.shape[-1] == n:
            return piece
        buffer = self._ahead[branch]
        if buffer is None:
            buffer = self._ahead[branch] = Buffer(piece.shape[:-1], piece.dtype)
        if kept:
            buffer.append(piece.shape[-1])[...] = piece
            piece = buffer.samples(0, n)
            buffer.drop(n)
        else:
            buffer.append(piece.shape[-1] - n)[...] = piece[..., n:]
            piece = piece[..., :n]
        return piece


class _FunctionStream:
    """A function that works sample by sample."""

    def __init__(self, function: Callable[[np.ndarray], Any]):
        self.process = function

    def flush(self) -> None:
        """Nothing is late."""

    def reset(self) -> None:
        """Nothing is remembered."""

    def state(self) -> None:
        """Nothing is remembered."""

    def restore(self, state: None) -> None:
        """Nothing is remembered."""


# ---- steps --------------------------------------------------------------------------------------------------------


class _LayerStep:
    """A layer with the activations before and behind it."""

    def __init__(self, layer: Any, before: Activation | None, after: Activation | None):
        Pointwise.of(before, after, None, layer._operator.geometry)  # wrong numbers of parameters are told here
        self.layer, self.before, self.after = layer, before, after

    def whole(self, x: np.ndarray, workers: int | None, add: np.ndarray | None) -> np.ndarray:
        here = {"workers": workers, "before": self.before, "after": self.after}
        dtype = arrays.result_dtype(x.dtype, self.layer.dtype)
        if add is None or (add.dtype == dtype == arrays.compute_dtype(dtype)):
            y: np.ndarray = self.layer(x, add=add, **here)
            return y
        y = self.layer(x, **here)
        _check_equal(add, y)
        return add + y

    def stream(self, workers: int | None) -> Any:
        return self.layer.stream(workers=workers, before=self.before, after=self.after)


class _SumStep:
    def __init__(self, step: Sum):
        self.step = step

    def whole(self, x: np.ndarray, workers: int | None, add: None) -> np.ndarray:
        return self.step(x, workers=workers)

    def stream(self, workers: int | None) -> Any:
        return self.step.stream(workers=workers)


class _ActivationStep:
    def __init__(self, step: Activation):
        self.step = step

    def whole(self, x: np.ndarray, workers: int | None, add: None) -> np.ndarray:
        return self.step(x, workers=workers)

    def stream(self, workers: int | None) -> Any:
        return _FunctionStream(lambda x: self.step(x, workers=workers))


class _OtherStep:
    """A function, or an object with a stream of its own."""

    def __init__(self, step: Any):
        self.step = step

    def whole(self, x: np.ndarray, workers: int | None, add: None) -> np.ndarray:
        return arrays.as_array(f"what {_named(self.step)} returns", self.step(x), (2, 3))

    def stream(self, workers: int | None) -> Any:
        make = getattr(self.step, "stream", None)
        return _FunctionStream(lambda x: self.whole(x, workers, None)) if make is None else make()


def _fuse(steps: tuple[Any, ...]) -> list[Any]:
    """Steps as they are computed: chains within chains opened, activations given to the layers beside them.

    An activation between two layers is the first one's: there each sample is computed once.
    """
    flat = [one for step in steps for one in (step._flat() if isinstance(step, Chain) else [step])]
    fused: list[Any] = []
    at = 0
    while at < len(flat):
        step, following = flat[at], flat[at + 1 : at + 3]
        at += 1
        if isinstance(step, Activation) and following and isinstance(following[0], Layer):
            after = following[1] if len(following) > 1 and isinstance(following[1], Activation) else None
            fused.append(_LayerStep(following[0], step, after))
            at += 1 if after is None else 2
        elif isinstance(step, Layer):
            after = following[0] if following and isinstance(following[0], Activation) else None
            fused.append(_LayerStep(step, None, after))
            at += after is not None
        elif isinstance(step, Activation):
            fused.append(_ActivationStep(step))
        else:
            fused.append(_SumStep(step) if isinstance(step, Sum) else _OtherStep(step))
    return fused


def _check_equal(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape != other.shape:
        raise ValueError(f"branches must return equal shapes, got {one.shape} and {other.shape}")


def _buffer_of(samples: np.ndarray) -> Buffer:
    samples = arrays.as_array("state['ahead']", samples, (2, 3))
    buffer = Buffer(samples.shape[:-1], samples.dtype)
    buffer.append(samples.shape[-1])[...] = samples
    return buffer


def _named(step: Any) -> str:
    return getattr(step, "__name__", None) or repr(step)
