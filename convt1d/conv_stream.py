# SPDX-License-Identifier: MIT
"""The convolution on a signal that arrives in chunks: the same output as for the whole signal, piece by piece.

With e counting the samples of the continued signal, `padding` and all, output sample i needs ``e = i*stride ..
i*stride + reach - 1``, and is computed when the last of them has come::

    e          0 .... left ................................ left + received ....
               |- mode -|--------------- x ------------------|- mode, at flush -|
    kept                                  |==================|
                                          i*stride of the next output

The layer's own operator without padding runs on what is kept; each sum is that of the whole-signal call, in the same
order. The padding mode shows in two places only: what stands before the first sample, and what `flush` appends.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from . import geometry as geometry_module
from . import padding
from .buffer import Buffer
from .conv import Conv1d
from .stream import LayerStream, window_operator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from .activations import Activation


class Conv1dStream(LayerStream):
    """A convolution applied to a signal that arrives in chunks, of any lengths.

    What `process` and `flush` return, concatenated, is what the layer returns for the whole signal.

    Parameters
    ----------
    layer : Conv1d
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
        Output samples by which the stream lags: after n samples it has returned ``ceil(n / stride) - latency`` or
        one more. It is ``ceil((dilation * (K - 1) - left) / stride)``: 0 for a causal layer, less where the padding
        on the left is longer.
    warm_up : int
        Samples received when the first output appears.

    Raises
    ------
    ValueError, TypeError
        A parameter breaks its rule.

    Notes
    -----
    Bits are those of the whole signal, as of `ConvTranspose1dStream`: chunks so short that a layer does not use
    Winograd's products for them may differ in the last bits.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import Conv1d, Conv1dStream
    >>> layer = Conv1d(1, 1, 3, padding="same", rng=0)
    >>> x = np.arange(5, dtype=np.float32).reshape(1, 5)
    >>> stream = Conv1dStream(layer)
    >>> stream.latency
    1
    >>> y = [stream.process(x[:, :2]), stream.process(x[:, 2:]), stream.flush()]
    >>> [piece.shape for piece in y]
    [(1, 1), (1, 3), (1, 1)]
    >>> bool((np.concatenate(y, axis=1) == layer(x)).all())
    True
    """

    def __init__(
        self,
        layer: Conv1d,
        *,
        workers: int | None = None,
        before: Activation | None = None,
        after: Activation | None = None,
        channels_last: bool = False,
    ) -> None:
        if not isinstance(layer, Conv1d):
            raise TypeError(f"layer must be a Conv1d, got {type(layer).__name__}")
        super().__init__(layer, workers, before, after, channels_last)
        geometry = self._geometry
        self._operator = window_operator(self._whole, replace(geometry, padding=(0, 0), padding_mode="zeros"))
        left, right = geometry.padding
        needs = padding.MODES[geometry.padding_mode].needs
        assert needs is not None  # LayerStream has refused such a mode
        self._needed = needs(left) if left else 1  # samples that the mode's own depend on
        self._lookback = 0 if geometry.padding_mode == "zeros" else right + 1
        self.lag = Fraction(geometry.reach - 1 - left, geometry.stride)
        self.rate = Fraction(1, geometry.stride)
        self.latency = geometry_module.ceil_div(self.lag.numerator, self.lag.denominator)
        self.warm_up = max(self._needed, geometry.reach - left)
        self.reset()

    def reset(self) -> None:
        """Forget the signal, and the batch size, channels and dtype that its first chunk fixed.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d, Conv1dStream
        >>> stream = Conv1dStream(Conv1d(1, 1, 4))
        >>> stream.process(np.ones((1, 8))).shape, stream.flush().shape
        ((1, 5), (1, 0))
        >>> stream.reset()
        >>> stream.process(np.ones((5, 1, 8))).shape
        (5, 1, 5)
        """
        super().reset()
        self._buffer: Any = None
        self._first = 0  # e of the oldest sample that is kept

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
            All output samples whose inputs have come.

        Raises
        ------
        ValueError
            A shape breaks its rule, or the stream has been flushed.
        TypeError
            An element type is of the wrong kind, or not that of the first chunk.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d, Conv1dStream
        >>> stream = Conv1dStream(Conv1d(1, 1, 4, stride=2, padding=1))
        >>> [stream.process(np.ones((1, n))).shape for n in (1, 10, 0)]
        [(1, 0), (1, 5), (1, 0)]
        """
        first = self._lead is None and not self._flushed
        try:
            samples = self._checked(chunk)
            n = samples.shape[-1]
            if self._buffer is None:
                self._buffer = Buffer(samples.shape[:-1], samples.dtype)
            received = self._received + n
            self._take(samples, self._buffer.append(n))
            try:
                buffer = self._begun(received) if self._received < self._needed <= received else self._buffer
                y = self._outputs(buffer, self._done(received), out)
            except BaseException:
                self._buffer.unappend(n)
                raise
        except BaseException:
            if first:
                self.reset()
            raise
        self._buffer, self._received = buffer, received
        self._forget()
        return y

    def flush(self) -> np.ndarray:
        """End the signal and return the rest of its output.

        Returns
        -------
        ndarray, shape (N, C_out, n_out) or (C_out, n_out)
            What is missing to the layer's output for the whole signal; nothing (``n_out = 0``) for a signal that is too
            short to have an output, for which the layer raises. Before any chunk the shape is (C_out, 0).

        Notes
        -----
        Further chunks are refused until `reset`; flushing again returns nothing.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import Conv1d, Conv1dStream
        >>> stream = Conv1dStream(Conv1d(1, 1, 4, padding=3))
        >>> stream.process(np.ones((1, 10))).shape, stream.flush().shape
        ((1, 10), (1, 3))
        """
        length, right = self._received, self._geometry.padding[1]
        if self._flushed or length == 0:
            y = self._empty(None)
        else:
            buffer = self._begun(length) if length < self._needed else self._buffer
            kept = len(buffer)
            outside = self._outside(length, length + right, buffer, length)
            buffer.append(right)[...] = outside
            geometry = self._geometry
            past = (geometry.padding[0] + length + right - geometry.reach) // geometry.stride + 1
            try:
                y = self._outputs(buffer, past, None)
            finally:
                buffer.unappend(len(buffer) - kept)
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
        >>> from convt1d import Conv1d, Conv1dStream
        >>> layer = Conv1d(1, 1, 4, rng=0)
        >>> stream, other = Conv1dStream(layer), Conv1dStream(layer)
        >>> _ = stream.process([[1.0, 2.0, 3.0]])
        >>> other.restore(stream.state())
        >>> bool((other.process([[4.0]]) == stream.process([[4.0]])).all())
        True
        """
        samples = None if self._buffer is None else self._buffer.samples(0, len(self._buffer)).copy()
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
        >>> from convt1d import Conv1d, Conv1dStream
        >>> stream = Conv1dStream(Conv1d(1, 1, 4))
        >>> before = stream.state()
        >>> first = stream.process([[1.0, 2.0, 3.0, 4.0]])
        >>> stream.restore(before)
        >>> bool((stream.process([[1.0, 2.0, 3.0, 4.0]]) == first).all())
        True
        """
        received, flushed, samples = self._check_state(state)
        if samples is not None:
            self._check_samples(samples, received, self._kept(received)[1])
            buffer = Buffer(samples.shape[:-1], samples.dtype)
            buffer.append(samples.shape[-1])[...] = samples
        self.reset()
        if samples is not None:
            self._begin_signal(samples)
            self._buffer = buffer
            self._first = self._kept(received)[0]
        self._received, self._flushed = received, flushed

    def _done(self, received: int) -> int:
        """Outputs returned once so many samples have been received."""
        if received < self._needed:
            return 0
        geometry = self._geometry
        return max(0, (geometry.padding[0] + received - geometry.reach) // geometry.stride + 1)

    def _kept(self, received: int) -> tuple[int, int]:
        """e of the oldest sample that is kept, and how many are."""
        if received < self._needed:
            return 0, received
        end = self._geometry.padding[0] + received
        first = max(0, min(self._done(received) * self._geometry.stride, end - self._lookback, end))
        return first, end - first

    def _forget(self) -> None:
        first, _ = self._kept(self._received)
        self._buffer.drop(first - self._first)
        self._first = first

    def _begun(self, length: int) -> Buffer:
        """The samples received, `length` of them and all still there, behind those that the mode puts before."""
        left, lead = self._geometry.padding[0], self._buffer.lead
        buffer = Buffer(lead, self._buffer.dtype)
        room = buffer.append(left + length)
        room[..., left:] = self._buffer.samples(0, length)
        room[..., :left] = self._outside(-left, 0, buffer, length)
        return buffer

    def _outside(self, first: int, past: int, buffer: Buffer, length: int) -> Any:
        """Samples at positions outside the signal, of which `length` have come; the last of `buffer` is the last."""
        if self._geometry.padding_mode == "zeros":
            return 0
        source = padding.source_index(np.arange(first, past), length, self._geometry.padding_mode)
        return buffer.samples(0, len(buffer))[..., len(buffer) - length + source]

    def _outputs(self, buffer: Buffer, past: int, out: np.ndarray | None) -> np.ndarray:
        """The outputs up to `past` that have not been returned."""
        geometry, done = self._geometry, self._done(self._received)
        if past <= done:
            return self._empty(out)
        start = done * geometry.stride - self._first
        recent = buffer.samples(start, start + (past - done - 1) * geometry.stride + geometry.reach)
        return self._run(recent, out, done)
