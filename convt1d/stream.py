# SPDX-License-Identifier: MIT
"""The layer on a signal that arrives in chunks: the same output as for the whole signal, piece by piece.

Input sample ``i`` reaches the uncropped output from position ``i * stride`` on (see geometry.py). With ``m``
samples received, whatever comes later only touches positions from ``m * stride`` on, so those before are final.
Where the output has to end before ``L * stride`` (a large crop on the right), that difference is `held` back: the
sample just received might be the last. A chunk of n samples thus finishes exactly ``n * stride`` positions::

    input        0                m - history            m            m + n
                 |........ past ...|====== history ======|=== chunk ===|
                                    \\____________ window ______________/
    position     0 ..... left ........................ m*s ......... (m+n)*s
                 |- crop -|----- returned before -----|==============|- held -|
                                                m*s - held     (m+n)*s - held

They are computed by the layer's own operator, padding mode zeros, on the window [history | chunk], cropped to these
positions. The crop is the same for every chunk, so one pack of the weights serves all; each sum is that of
the whole-signal call, in the same order. The padding mode shows in two places only: what is put into the history before
the first sample, and which samples `flush` appends behind the last one.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import arrays, padding, threads
from . import geometry as geometry_module
from .geometry import ConvGeometry, Geometry
from .layer import ConvTranspose1d, Layer, html_table
from .operator import Operator, Pointwise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from .activations import Activation

# Samples that the buffer has room for behind the history, at least; no less than the history either: it is moved to the
# buffer's start only when the room is used up.
_ROOM = 64


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which positions a geometry finishes when; all numbers but `latency` count input samples."""

    window: Geometry  # of the operator that runs on [history | chunk]
    history: int
    latency: int  # output samples: left crop + held back
    warm_up: int  # received when the first output appears
    after: int  # samples appended behind the last one

    @staticmethod
    def of(geometry: Geometry) -> Schedule:
        """The schedule of a geometry, any mode but circular."""
        s, span = geometry.stride, geometry.dilation * (geometry.kernel_size - 1)
        left = geometry.padding[0]
        beyond = left + geometry.output_length(1) - s  # the output of L samples ends at position L*s + beyond
        held = max(0, -beyond)
        before, after = geometry.halo(geometry.output_padding)
        needs = padding.MODES[geometry.padding_mode].needs
        assert needs is not None  # the stream has refused such a mode
        # Back to the oldest sample that touches position m*s - held, and to that position itself; to end a signal, a
        # mode looks back one sample more than it appends.
        history = max((span + held) // s, -(-held // s))
        if geometry.padding_mode != "zeros":
            history = max(history, after + 1)
        crop = span + 1 - s + held  # positions that the window's last samples touch but later ones do too
        return Schedule(
            window=replace(
                geometry,
                padding=(history * s - held, max(0, crop)),
                output_padding=max(0, -crop),
                padding_mode="zeros",
            ),
            history=history,
            latency=left + held,
            warm_up=max((left + held) // s + 1, needs(before)),
            after=after,
        )


# A layer's window operator, with its packed weights, serves all its streams. It goes when the layer's operator goes:
# with the layer, or when new weights are assigned and the last stream of the old ones ends.
_windows: weakref.WeakKeyDictionary[Operator, Operator] = weakref.WeakKeyDictionary()


def window_operator(operator: Operator, geometry: Geometry | ConvGeometry) -> Operator:
    """The operator with another crop and padding mode that serves all streams of a layer's operator."""
    if geometry == operator.geometry:
        return operator
    found = _windows.get(operator)
    if found is None:
        found = _windows[operator] = Operator(geometry, operator.weight, operator.bias)
    return found


class LayerStream:
    """What the streams of both layers are: a signal of one batch size, number of channels and dtype."""

    _operator: Operator  # runs on what is kept
    rate: Fraction  # output samples for an input sample
    lag: Fraction  # output samples by which the stream is late at most
    latency: int
    warm_up: int

    def __init__(
        self,
        layer: Layer,
        workers: int | None,
        before: Activation | None,
        after: Activation | None,
        channels_last: bool,
    ) -> None:
        self._whole = layer._operator  # the weights; also what keeps the shared operator alive
        self._geometry: Any = self._whole.geometry
        mode = self._geometry.padding_mode
        if padding.MODES[mode].needs is None:
            possible = [mode for mode, known in padding.MODES.items() if known.needs is not None]
            raise ValueError(
                f"padding_mode must be {', '.join(possible[:-1])} or {possible[-1]} for a stream, "
                f"got {mode!r}: its first output samples depend on the last input samples"
            )
        threads.count(workers)  # a wrong number is told here, not with the first chunk
        self._workers = workers
        self._pointwise = Pointwise.of(before, after, None, self._geometry)
        self._channels_last = geometry_module.as_flag("channels_last", channels_last)

    def __repr__(self) -> str:
        g = self._geometry
        return (
            f"{type(self).__name__}({g.in_channels} -> {g.out_channels} channels, kernel_size={g.kernel_size}, "
            f"stride={g.stride}, latency={self.latency}, {self._received} samples received"
            f"{', channels last' if self._channels_last else ''}{', flushed' if self._flushed else ''})"
        )

    def _repr_html_(self) -> str:
        rows = {
            "latency": f"{self.latency} output samples",
            "warm-up": f"{self.warm_up} input samples",
            "received": f"{self._received} input samples{', flushed' if self._flushed else ''}",
        }
        return html_table(repr(self), rows)

    def reset(self) -> None:
        """Forget the signal, and the batch size, channels and dtype that its first chunk fixed."""
        self._received = 0
        self._flushed = False
        self._lead: tuple[int, ...] | None = None
        self._dtype: np.dtype | None = None
        self._result = arrays.result_dtype(self._whole.weight.dtype, self._whole.weight.dtype)
        self._late: Pointwise | None = self._pointwise  # what is left to the operator

    def __copy__(self) -> Self:
        """A stream that goes on by itself: `copy.copy` must not share the samples."""
        other = copy.deepcopy(self, {id(self._whole): self._whole, id(self._operator): self._operator})
        return other

    def _checked(self, chunk: ArrayLike) -> np.ndarray:
        """`chunk`, channels before samples, as an array like the first one; the first one begins the signal."""
        if self._channels_last:
            chunk = arrays.as_array("chunk", chunk, (2, 3)).swapaxes(-1, -2)
        if (
            type(chunk) is np.ndarray
            and chunk.shape[:-1] == self._lead
            and chunk.dtype == self._dtype
            and not self._flushed
        ):
            return chunk
        if self._flushed:
            raise ValueError("chunk must not follow flush(), which ended the signal: reset() starts a new one")
        chunk = arrays.as_array("chunk", chunk, (2, 3))
        given, channels = self._layout(chunk), self._geometry.in_channels
        arrays.check_channels("chunk", given, self._whole.weight, channels, self._channels_last)
        if self._lead is None:
            self._begin_signal(chunk)
        elif chunk.shape[:-1] != self._lead:
            like = (*self._lead[:-1], *(("n", channels) if self._channels_last else (channels, "n")))
            text = str(like).replace("'", "")
            raise ValueError(f"chunk must have the first one's shape, {text}, got {given.shape}")
        elif chunk.dtype != self._dtype:
            raise TypeError(f"chunk must have the first one's dtype {self._dtype}, got {chunk.dtype}")
        return chunk

    def _layout(self, samples: np.ndarray) -> np.ndarray:
        """Channels before samples, as the stream keeps them, in the layout of the caller's arrays; or back."""
        return samples.swapaxes(-1, -2) if self._channels_last else samples

    def _begin_signal(self, samples: np.ndarray) -> None:
        """A signal with the batch size, channels and dtype of `samples`."""
        result = arrays.result_dtype(samples.dtype, self._whole.weight.dtype)
        if self._pointwise is not None:
            if result.kind == "c":
                raise TypeError(f"before and after must be None where the result is complex, got dtype {result.name}")
            early = self._pointwise.before is not None and samples.dtype == result == arrays.compute_dtype(result)
            self._late = self._pointwise._replace(before=None) if early else self._pointwise
        self._lead, self._dtype, self._result = samples.shape[:-1], samples.dtype, result

    def _take(self, chunk: np.ndarray, room: np.ndarray) -> None:
        """Copy a chunk to where it is kept. What comes before the layer is computed here, once for each sample, unless
        only the operator widens the samples for it."""
        if self._late is self._pointwise or self._pointwise is None or self._pointwise.before is None:
            room[...] = chunk
        else:
            self._pointwise.before.apply(chunk, room, None if self._workers is None else threads.count(self._workers))

    def _run(self, recent: np.ndarray, out: np.ndarray | None, origin: int) -> np.ndarray:
        """The operator on a stretch of the signal that begins with sample `origin` of it."""
        last = self._channels_last
        return self._operator(self._layout(recent), None, out, self._workers, last, origin=origin, pointwise=self._late)

    def _part(self, y: np.ndarray, first: int, wanted: int) -> np.ndarray:
        """A copy of `wanted` output samples."""
        return np.ascontiguousarray(self._layout(self._layout(y)[..., first : first + wanted]))

    def _shape(self, wanted: int) -> tuple[int, ...]:
        """The shape of so many output samples."""
        lead = () if self._lead is None else self._lead[:-1]
        channels = self._geometry.out_channels
        return (*lead, wanted, channels) if self._channels_last else (*lead, channels, wanted)

    def _empty(self, out: np.ndarray | None) -> np.ndarray:
        if out is None:
            return np.empty(self._shape(0), self._result)
        arrays.check_out(out, self._shape(0), self._result)
        return out

    def _state(self, samples: np.ndarray | None) -> dict[str, Any]:
        return {
            "geometry": repr(self._geometry),
            "received": self._received,
            "flushed": int(self._flushed),
            "samples": samples,
        }

    def _check_state(self, state: Mapping[str, Any]) -> tuple[int, bool, np.ndarray | None]:
        """What a state holds: samples received, whether it was flushed, and what was remembered, or None."""
        names = {"geometry", "received", "flushed", "samples"}
        if set(state) != names:
            raise ValueError(f"state must hold exactly {sorted(names)}, got {sorted(map(str, state))}")
        if str(state["geometry"]) != repr(self._geometry):
            raise ValueError(
                f"state must be of a stream with geometry {self._geometry!r}, got one with {state['geometry']}"
            )
        received = geometry_module.as_length("state['received']", state["received"], 0)
        flushed = geometry_module.as_int("state['flushed']", state["flushed"], 0)
        if flushed > 1:
            raise ValueError(f"state['flushed'] must be 0 or 1, got {flushed}")
        samples = state["samples"]
        if samples is None and received:
            raise ValueError(f"state['samples'] must be an array after {received} received samples, got None")
        if samples is not None:
            samples = arrays.as_array("state['samples']", samples, (2, 3))
        return received, bool(flushed), samples

    def _check_samples(self, samples: np.ndarray, received: int, kept: int) -> None:
        channels = self._geometry.in_channels
        if samples.shape[-2:] != (channels, kept):
            raise ValueError(
                f"state['samples'] must have shape (N, {channels}, {kept}) or ({channels}, {kept}) "
                f"after {received} received samples, got {samples.shape}"
            )
        arrays.result_dtype(samples.dtype, self._whole.weight.dtype)


class ConvTranspose1dStream(LayerStream):
    """A layer applied to a signal that arrives in chunks, of any lengths.

    What `process` and `flush` return, concatenated, is what the layer returns for the whole signal.

    Parameters
    ----------
    layer : ConvTranspose1d
        Of any parameters but ``padding_mode="circular"``, which needs the end of the signal before its start. The
        stream keeps the weights that the layer has now.
    workers : int, optional
        Most threads to use for a chunk, as in `conv_transpose1d`.
    before, after : convt1d.activations.Activation, optional
        As in the layer's call.
    channels_last : bool, default False
        As in the layer's call: chunks are ``(N, n, C_in)`` or ``(n, C_in)``, and so is what they become.

    Attributes
    ----------
    latency : int
        Output samples that the output is behind: after m input samples ``m * stride - latency`` have been returned
        (none, as long as that is negative). It is the left padding, and what the right padding crops beyond
        ``dilation * (K - 1) + 1 - stride + output_padding``.
    warm_up : int
        Input samples received when the first output appears: ``latency // stride + 1``, but for ``reflect`` at
        least ``(dilation * (K - 1) - left) // stride + 1``, since the mirrored samples come first.

    Raises
    ------
    ValueError
        The padding mode is circular.
    TypeError
        `layer` is no ConvTranspose1d.

    Notes
    -----
    Batch size, channels and dtype are those of the first chunk until `reset`. A call that raises leaves the stream
    as it was. One thread at a time may use a stream; streams of one layer share its packed weights.

    ``zeros`` and ``replicate`` need no more latency than the crop; ``reflect`` only the longer warm-up.

    Results have the bits of the whole-signal call where the layer's plan is consistent (``convt1d info --layer`` says
    so under "same bits"). Elsewhere the last bits of chunks of less than 32 samples, and of `flush`, may depend on the
    chunking; of BLAS' products (kernel "gemm") those of any chunk.

    A chunk costs the arithmetic of its samples, about 5 us, and the copying of it. The first chunk packs the weights,
    and a chunk length that is new costs some 30 us once; 512 lengths are remembered. The buffer holds the largest
    chunk and twice the history, ``dilation * (K - 1) / stride`` samples, in the dtype of the chunks.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d, ConvTranspose1dStream
    >>> layer = ConvTranspose1d(1, 1, 4, stride=2, padding=1, rng=0)
    >>> x = np.arange(5, dtype=np.float32).reshape(1, 5)
    >>> stream = ConvTranspose1dStream(layer)
    >>> stream.latency
    1
    >>> y = [stream.process(x[:, :2]), stream.process(x[:, 2:]), stream.flush()]
    >>> [piece.shape for piece in y]
    [(1, 3), (1, 6), (1, 1)]
    >>> bool((np.concatenate(y, axis=1) == layer(x)).all())
    True
    """

    def __init__(
        self,
        layer: ConvTranspose1d,
        *,
        workers: int | None = None,
        before: Activation | None = None,
        after: Activation | None = None,
        channels_last: bool = False,
    ) -> None:
        if not isinstance(layer, ConvTranspose1d):
            raise TypeError(f"layer must be a ConvTranspose1d, got {type(layer).__name__}")
        super().__init__(layer, workers, before, after, channels_last)
        schedule = Schedule.of(self._geometry)
        self.latency, self.lag, self.rate = (
            schedule.latency,
            Fraction(schedule.latency),
            Fraction(self._geometry.stride),
        )
        self.warm_up = schedule.warm_up
        self._operator = window_operator(self._whole, schedule.window)
        self._history = schedule.history
        self._after = schedule.after
        self.reset()

    def reset(self) -> None:
        """Forget the signal, and the batch size, channels and dtype that its first chunk fixed.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d, ConvTranspose1dStream
        >>> stream = ConvTranspose1dStream(ConvTranspose1d(1, 1, 4, stride=2))
        >>> stream.process(np.ones((1, 3))).shape, stream.flush().shape
        ((1, 6), (1, 2))
        >>> stream.reset()
        >>> stream.process(np.ones((5, 1, 3))).shape
        (5, 1, 6)
        """
        super().reset()
        # The buffer holds, up to _end, the history; while nothing has been returned, room for it and all samples.
        self._buffer: Any = None
        self._end = self._history

    def process(self, chunk: ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """Take the next samples and return the output samples that they finish.

        Parameters
        ----------
        chunk : array_like, shape (N, C_in, n) or (C_in, n)
            Any n, 0 included; all else like the first chunk. It is copied. With `channels_last` the last two
            dimensions are the other way round, here and in the result.
        out : ndarray, optional
            Where to put the result: exact shape and dtype, C-contiguous, writable.

        Returns
        -------
        ndarray, shape (N, C_out, n_out) or (C_out, n_out)
            ``n_out = n * stride``, once `warm_up` samples have come and `latency` samples are subtracted.

        Raises
        ------
        ValueError
            A shape breaks its rule, or the stream has been flushed.
        TypeError
            An element type is of the wrong kind, or not that of the first chunk.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d, ConvTranspose1dStream
        >>> stream = ConvTranspose1dStream(ConvTranspose1d(1, 1, 16, stride=8, padding=4))
        >>> [stream.process(np.ones((1, n))).shape for n in (1, 10, 0)]
        [(1, 4), (1, 80), (1, 0)]
        """
        first = self._lead is None and not self._flushed
        try:
            chunk = self._checked(chunk)
            n = chunk.shape[-1]
            if self._buffer is None:
                self._buffer = self._new_buffer(chunk.shape[:-1], chunk.dtype, self._history, n)
            buffer = self._buffer
            if self._end + n > buffer.shape[-1]:
                buffer = self._make_room(n)
            start, end = self._end, self._end + n
            self._take(chunk, buffer[..., start:end])
            received = self._received + n
            if n == 0 or received < self.warm_up:
                y = self._empty(out)
            elif self._received < self.warm_up:
                y = self._first_output(end, received, received, received * self._geometry.stride - self.latency, out)
            else:
                recent = buffer[..., start - self._history : end]
                y = self._run(recent, out, self._received - self._history)
        except BaseException:
            if first:
                self.reset()
            raise
        self._received, self._end = received, end
        return y

    def flush(self) -> np.ndarray:
        """End the signal and return the rest of its output.

        Returns
        -------
        ndarray, shape (N, C_out, n_out) or (C_out, n_out)
            What is missing to the layer's output for the whole signal. Nothing (``n_out = 0``) for a signal that is
            too short to have an output, for which the layer raises: no samples, or a crop that leaves none. Before
            any chunk the shape is (C_out, 0).

        Notes
        -----
        Further chunks are refused until `reset`; flushing again returns nothing.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d, ConvTranspose1dStream
        >>> layer = ConvTranspose1d(1, 1, 16, stride=8, padding=4)
        >>> stream = ConvTranspose1dStream(layer)
        >>> stream.process(np.ones((1, 10))).shape, stream.flush().shape, layer(np.ones((1, 10))).shape
        ((1, 76), (1, 4), (1, 80))
        """
        length, stride = self._received, self._geometry.stride
        waiting = length < self.warm_up
        returned = 0 if waiting else length * stride - self.latency
        missing = self._geometry.output_length(length) - returned
        if self._flushed or length == 0 or missing <= 0:
            y = self._empty(None)
        else:
            buffer = self._make_room(self._after)
            end = self._end + self._after
            buffer[..., self._end : end] = self._outside(length, length + self._after, self._end, length)
            if waiting:
                y = self._first_output(end, length, length + self._after, missing, None)
            else:
                recent = buffer[..., self._end - self._history : end]
                y = self._run(recent, None, length - self._history)
                y = self._part(y, 0, missing)
        self._flushed = True
        return y

    def state(self) -> dict[str, Any]:
        """A copy of what the stream remembers, for `restore`.

        Returns
        -------
        dict
            Of an array, ints and a string; it can be pickled. The weights are not in it.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d, ConvTranspose1dStream
        >>> layer = ConvTranspose1d(1, 1, 4, stride=2, rng=0)
        >>> stream, other = ConvTranspose1dStream(layer), ConvTranspose1dStream(layer)
        >>> _ = stream.process([[1.0, 2.0]])
        >>> other.restore(stream.state())
        >>> bool((other.process([[3.0]]) == stream.process([[3.0]])).all())
        True
        """
        samples = None
        if self._buffer is not None:
            samples = self._buffer[..., self._end - self._remembered(self._received) : self._end].copy()
        return self._state(samples)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, here or in another stream of a layer with the same parameters.

        Parameters
        ----------
        state : mapping
            What `state` returned.

        Raises
        ------
        ValueError
            `state` is not from such a stream. The stream is left as it was.
        TypeError
            One of its values is of the wrong kind.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d, ConvTranspose1dStream
        >>> stream = ConvTranspose1dStream(ConvTranspose1d(1, 1, 4, stride=2))
        >>> before = stream.state()
        >>> first = stream.process([[1.0, 2.0]])
        >>> stream.restore(before)
        >>> bool((stream.process([[1.0, 2.0]]) == first).all())
        True
        """
        received, flushed, samples = self._check_state(state)
        if samples is not None:
            self._check_samples(samples, received, self._remembered(received))
            buffer = self._new_buffer(samples.shape[:-1], samples.dtype, self._history, samples.shape[-1])
        self.reset()
        if samples is not None:
            self._begin_signal(samples)
            self._buffer = buffer
            self._end = self._history + (samples.shape[-1] if received < self.warm_up else 0)
            self._buffer[..., self._end - samples.shape[-1] : self._end] = samples
        self._received, self._flushed = received, flushed

    def _new_buffer(self, lead, dtype, kept, n):
        shape = (*lead, arrays.leading_dimension(kept + max(n, kept, _ROOM)))
        arrays.check_size("the stream's buffer", shape, dtype)
        return np.empty(shape, dtype)

    def _remembered(self, received):
        """How many samples the buffer holds: while nothing has been returned, all and no history."""
        return received if received < self.warm_up else self._history

    def _make_room(self, n):
        """Move what is remembered to the start of the buffer, or of a larger one, so that n samples find room."""
        buffer, kept = self._buffer, self._remembered(self._received)
        at = self._history if self._received < self.warm_up else 0
        if at + kept + n > buffer.shape[-1]:
            buffer = self._new_buffer(self._lead, self._dtype, at + kept, n)
        buffer[..., at : at + kept] = self._buffer[..., self._end - kept : self._end]
        self._buffer, self._end = buffer, at + kept
        return buffer

    def _outside(self, first, last, end, length):
        """Samples at positions outside the signal, of which `length` samples were received, the last before `end`."""
        if self._geometry.padding_mode == "zeros":
            return 0
        source = padding.source_index(np.arange(first, last), length, self._geometry.padding_mode)
        return self._buffer[..., end - length + source]

    def _first_output(self, end, length, fresh, wanted, out):
        """The first `wanted` output samples: of the window that ends before `end`, all `fresh` samples are new."""
        history = self._history
        if out is not None:
            arrays.check_out(out, self._shape(wanted), self._result)
        window = self._buffer[..., end - fresh - history : end]
        window[..., :history] = self._outside(-history, 0, history + length, length)
        y = self._part(self._run(window, None, -history), self.latency, wanted)
        if out is None:
            return y
        out[...] = y
        return out
