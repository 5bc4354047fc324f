# SPDX-License-Identifier: MIT
"""Chains and sums: the same bits as step by step, whole and in chunks."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d
from convt1d import Chain, Conv1d, ConvTranspose1d, Sum
from convt1d.activations import ELU, LeakyReLU, ReLU, Snake, Tanh


def by_hand(step, x):
    """The definition, without anything fused."""
    if isinstance(step, Chain):
        for inner in step.steps:
            x = by_hand(inner, x)
        return x
    if isinstance(step, Sum):
        total = by_hand(step.branches[0], x)
        for branch in step.branches[1:]:
            total = total + by_hand(branch, x)
        return total if step.scale == 1 else total * step.scale
    return step(x)


ACTIVATIONS = st.sampled_from([ReLU(), LeakyReLU(0.1), ELU(), Tanh(), Snake(0.7), np.tanh])


@st.composite
def chains(draw, channels, depth=2):
    """A chain that keeps the number of channels, and how many output samples an input sample makes."""
    steps, rate = [], 1
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "up", "act", "act", "sum", "chain"]))
        if kind == "conv":
            K, d = draw(st.integers(1, 5)), draw(st.integers(1, 3))
            mode = draw(st.sampled_from(["zeros", "reflect", "replicate"]))
            left = draw(st.integers(0, d * (K - 1)))
            padding = (left, d * (K - 1) - left)
            steps.append(Conv1d(channels, channels, K, padding=padding, dilation=d, padding_mode=mode, rng=0))
        elif kind == "up" and rate == 1:
            rate = draw(st.integers(2, 3))
            K = rate * draw(st.integers(1, 3))
            steps.append(
                ConvTranspose1d(channels, channels, K, rate, ((K - rate) // 2, K - rate - (K - rate) // 2), rng=0)
            )
        elif kind == "sum" and depth:
            inner = [draw(chains(channels, 0).filter(lambda c: c[1] == 1))[0] for _ in range(draw(st.integers(1, 2)))]
            branches = [Chain(), *inner] if draw(st.booleans()) else [*inner, Chain()]
            steps.append(Sum(*branches, scale=draw(st.sampled_from([1.0, 0.5]))))
        elif kind == "chain" and depth:
            inner, r = draw(chains(channels, 0))
            if rate == 1 or r == 1:
                steps.append(inner)
                rate *= r
        else:
            steps.append(draw(ACTIVATIONS))
    return Chain(*steps), rate


@settings(max_examples=200, deadline=None)
@given(
    chain=chains(3),
    chunks=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    batch=st.sampled_from([None, 2]),
    dtype=st.sampled_from([np.float32, np.float64]),
    saved=st.integers(0, 6),
    workers=st.sampled_from([1, 2]),
)
def test_whole_and_streamed(chain, chunks, batch, dtype, saved, workers):
    chain, rate = chain
    length = sum(chunks)
    lead = (3,) if batch is None else (batch, 3)
    x = np.random.default_rng(length).standard_normal((*lead, length)).astype(dtype)
    if not length:
        return
    before = x.copy()
    whole = chain(x, workers=workers)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(whole, by_hand(chain, x))
    stream, at, pieces = chain.stream(workers=workers), 0, []
    for number, n in enumerate(chunks):
        if number == saved:
            state = pickle.loads(pickle.dumps(stream.state()))
            stream = chain.stream(workers=workers)
            stream.restore(state)
        pieces.append(stream.process(x[..., at : at + n]))
        at += n
        if "reflect" not in repr(chain):  # which begins only after some samples
            assert sum(p.shape[-1] for p in pieces) >= at * rate - stream.latency
    pieces.append(stream.flush())
    assert stream.rate == rate
    found = np.concatenate([piece for piece in pieces if piece.shape[-1]], axis=-1)
    np.testing.assert_array_equal(found, whole)


def hifigan(width):
    """A vocoder with all that is in HiFi-GAN, narrow."""
    steps, c = [Conv1d(20, width, 7, padding=3, rng=0)], width
    for kernel, stride in ((16, 8), (4, 2)):
        steps += [LeakyReLU(0.1), ConvTranspose1d(c, c // 2, kernel, stride, (kernel - stride) // 2, rng=1)]
        c //= 2
        blocks = []
        for k in (3, 7):
            units = [
                Sum(
                    Chain(),
                    Chain(
                        LeakyReLU(0.1),
                        Conv1d(c, c, k, padding="same", dilation=d, rng=2),
                        LeakyReLU(0.1),
                        Conv1d(c, c, k, padding="same", rng=3),
                    ),
                )
                for d in (1, 3, 5)
            ]
            blocks.append(Chain(*units))
        steps.append(Sum(*blocks, scale=0.5))
    return Chain(*steps, LeakyReLU(0.01), Conv1d(c, 1, 7, padding=3, rng=4), Tanh())


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_vocoder(width, size):
    decoder = hifigan(width)
    x = np.random.default_rng(0).standard_normal((20, 80)).astype(np.float32)
    whole, stream = decoder(x), decoder.stream()
    pieces = [stream.process(x[:, at : at + size]) for at in range(0, 80, size)]
    found = np.concatenate([*pieces, stream.flush()], axis=-1)
    assert found.shape == whole.shape == (1, 80 * 16)
    if width == 8:  # no Winograd products, whose short chunks may differ in the last bits
        np.testing.assert_array_equal(found, whole)
    np.testing.assert_allclose(found, whole, atol=1e-6 * np.abs(whole).max())


class Delay:
    """A step with a memory: the sample before."""

    def __call__(self, x):
        return np.concatenate([np.zeros((*x.shape[:-1], 1), x.dtype), x[..., :-1]], axis=-1)

    def stream(self):
        return DelayStream()


class DelayStream:
    rate, lag = 1, 0

    def __init__(self):
        self.reset()

    def reset(self):
        self.last = 0.0

    def process(self, chunk):
        y = Delay()(chunk)
        if chunk.shape[-1]:
            y[..., 0] = self.last
            self.last = chunk[..., -1].copy()
        return y

    def flush(self):
        return None

    def state(self):
        return self.last

    def restore(self, state):
        self.last = state


def test_a_step_with_a_memory():
    chain = Chain(Conv1d(2, 2, 3, padding=1, rng=0), Delay(), Sum(Chain(), Delay()))
    x = np.random.default_rng(0).standard_normal((2, 30))
    stream = chain.stream()
    pieces = [stream.process(x[:, :11]), stream.process(x[:, 11:12]), stream.process(x[:, 12:]), stream.flush()]
    np.testing.assert_array_equal(np.concatenate(pieces, -1), chain(x))


def test_decimated_and_raised_again():
    down = Conv1d(1, 4, 8, stride=4, padding=(2, 2), rng=0)
    up = ConvTranspose1d(4, 1, 8, stride=4, padding=2, rng=1)
    chain = Sum(Chain(), Chain(down, ELU(), up))
    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    stream = chain.stream()
    pieces = [stream.process(x[:, at : at + 5]) for at in range(0, 64, 5)]
    found = np.concatenate([*pieces, stream.flush()], -1)
    np.testing.assert_array_equal(found, chain(x))


def test_fused_layers_are_asked_once(monkeypatch):
    """Activations beside a layer do not become passes of their own."""
    calls = []
    monkeypatch.setattr(convt1d.activations.Activation, "apply", lambda *a: calls.append(a))
    Chain(LeakyReLU(0.1), Conv1d(2, 2, 3, padding=1), Tanh(), Conv1d(2, 2, 3, padding=1))(np.ones((2, 50)))
    assert not calls


def test_out_and_repr():
    chain = Chain(Conv1d(2, 2, 3, padding=1, rng=0), Tanh())
    x = np.ones((2, 20), np.float32)
    out = np.empty((2, 20), np.float32)
    assert chain(x, out=out) is out
    np.testing.assert_array_equal(out, chain(x))
    assert repr(Chain(Sum(Chain(), np.tanh, scale=0.5), ReLU())) == "Chain(Sum(Chain(), tanh, scale=0.5), ReLU())"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Chain(3), TypeError, "each step must be a layer"),
        (lambda: Chain(Snake([1.0, 2.0]), Conv1d(3, 3, 1)), ValueError, "before must have one parameter"),
        (lambda: Sum(), ValueError, "branches must be at least one"),
        (lambda: Sum(Chain(), scale=np.inf), ValueError, "scale must be finite"),
        (lambda: Sum(Chain(), Conv1d(2, 2, 3))(np.ones((2, 9))), ValueError, r"got \(2, 9\)"),
        (lambda: Sum(Chain(), ConvTranspose1d(2, 2, 4, 2)).stream(), ValueError, "branches must give equally many"),
        (lambda: Chain(Conv1d(2, 2, 3, padding_mode="circular")).stream(), ValueError, "padding_mode must be"),
        (lambda: Chain(Conv1d(2, 2, 3)).stream().restore({"parts": []}), ValueError, "state must hold exactly"),
        (lambda: Chain(Conv1d(2, 2, 3)).stream().process(np.ones((3, 9))), ValueError, "chunk must have shape"),
        (lambda: Chain()("text"), TypeError, "x must"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_wrong_chunks_leave_the_stream_as_it_was():
    chain = Chain(Sum(Chain(), Conv1d(2, 2, 3, padding=1, rng=0)), Tanh())
    x = np.arange(40, dtype=np.float32).reshape(2, 20)
    stream = chain.stream()
    with pytest.raises(ValueError, match="chunk must have shape"):
        stream.process(np.ones((3, 5), np.float32))
    first = stream.process(x[:, :9])
    with pytest.raises(ValueError, match="chunk must have the first one's shape"):
        stream.process(np.ones((3, 5), np.float32))
    found = np.concatenate([first, stream.process(x[:, 9:]), stream.flush()], -1)
    np.testing.assert_array_equal(found, chain(x))
    with pytest.raises(ValueError, match="must not follow flush"):
        stream.process(x)
    stream.reset()
    assert stream.process(x).shape == (2, 19)
