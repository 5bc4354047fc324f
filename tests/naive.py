# SPDX-License-Identifier: MIT
"""The definitions of the operators and of the gradients as naive loops, and random problems to put to them."""

import types

import numpy as np
from hypothesis import strategies as st

MODES = ("zeros", "reflect", "replicate", "circular")


def conv_transpose1d(x, w, b=None, s=1, p=0, op=0, g=1, d=1, pad="zeros"):
    (left, right), (C, M, K), L, P = np.broadcast_to(p, 2), w.shape, x.shape[-1], 2 * x.shape[-1] - 2 or 1
    x, w = x.reshape(*x.shape[:-2], g, C // g, L), w.reshape(g, C // g, M, K)
    y = np.zeros((*x.shape[:-2], M, (L - 1) * s - left - right + d * (K - 1) + op + 1), np.result_type(x, w))
    for t, k in np.ndindex(y.shape[-1], K):
        i, between = divmod(t + left - d * k, s)  # x~[i] meets w[k] at t where i·s + d·k = t + left
        i = {"circular": i % L, "replicate": min(max(i, 0), L - 1), "reflect": min(i % P, -i % P)}.get(pad, i)
        if not between and 0 <= i < L:
            y[..., t] += (x[..., i, None] * w[..., k]).sum(-2)
    return y.reshape(*x.shape[:-3], g * M, y.shape[-1]) + (0 if b is None else b[:, None])


def conv1d(x, w, b=None, s=1, p=0, d=1, g=1, pad="zeros"):
    (left, right), (C, M, K), L, P = np.broadcast_to(p, 2), w.shape, x.shape[-1], 2 * x.shape[-1] - 2 or 1
    x, w = x.reshape(*x.shape[:-2], g, M, L), w.reshape(g, C // g, M, K)
    y = np.zeros((*x.shape[:-2], C // g, (L + left + right - d * (K - 1) - 1) // s + 1), np.result_type(x, w))
    for i, k in np.ndindex(y.shape[-1], K):
        t = i * s + d * k - left
        t = {"circular": t % L, "replicate": min(max(t, 0), L - 1), "reflect": min(t % P, -t % P)}.get(pad, t)
        if 0 <= t < L:
            y[..., i] += (x[..., None, :, t] * w[..., k]).sum(-1)
    return y.reshape(*x.shape[:-3], C, y.shape[-1]) + (0 if b is None else b[:, None])


def conv_transpose1d_backward(gy, x, w, s=1, p=0, op=0, g=1, d=1, pad="zeros"):
    (left, _), (C, M, K), L, P = np.broadcast_to(p, 2), w.shape, x.shape[-1], 2 * x.shape[-1] - 2 or 1
    x, w, gy = x.reshape(-1, g, C // g, L), w.reshape(g, C // g, M, K), gy.reshape(-1, g, 1, M, gy.shape[-1])
    gx, gw = (np.zeros(a.shape, np.result_type(x, w, gy)) for a in (x, w))
    for t, k in np.ndindex(gy.shape[-1], K):
        i, between = divmod(t + left - d * k, s)
        i = {"circular": i % L, "replicate": min(max(i, 0), L - 1), "reflect": min(i % P, -i % P)}.get(pad, i)
        if not between and 0 <= i < L:
            gx[..., i] += (w[..., k].conj() * gy[..., t]).sum(-1)
            gw[..., k] += (x[..., i, None].conj() * gy[..., t]).sum(0)
    return gx.reshape(-1, C, L), gw.reshape(C, M, K), gy.sum((0, -1)).reshape(g * M)


@st.composite
def small_integers(draw, kinds):
    """A function from shape to array: integers, so that every result is exact; "f" real, "c" complex."""
    rng, kind = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(kinds))

    def integers(*shape):
        values = rng.integers(-8, 9, shape).astype(float)
        return values if kind == "f" else values + 1j * rng.integers(-8, 9, shape)

    return integers


@st.composite
def convolutions(draw, modes=MODES, pairs=True, kinds="fc", longest=150):
    """Arguments of the convolution, all legal, integers as data."""
    groups, K, stride, dilation = (draw(st.integers(1, top)) for top in (3, 12, 9, 4))
    channels = [groups * draw(st.integers(1, 4)) for _ in "io"]
    left, right = (draw(st.integers(0, dilation * K + 2)) for _ in "lr")
    least = max(1, dilation * (K - 1) + 1 - 2 * min(left, right))
    L, N = least + draw(st.integers(0, 12) | st.integers(13, longest)), draw(st.integers(0, 3))
    integers = draw(small_integers(kinds))
    return types.SimpleNamespace(
        x=integers(*[N] * (N > 0), channels[0], L),
        w=integers(channels[1], channels[0] // groups, K),
        b=integers(channels[1]) if draw(st.booleans()) else None,
        geometry={
            "stride": stride,
            "padding": (left, right) if pairs and draw(st.booleans()) else min(left, right),
            "dilation": dilation,
            "groups": groups,
            "padding_mode": draw(st.sampled_from(modes)),
        },
    )


@st.composite
def problems(draw, modes=MODES, pairs=True, kinds="fc", longest=60):
    """Arguments of the operator, all legal: small integers as data, so that every result is exact."""
    groups, K, stride, dilation = (draw(st.integers(1, top)) for top in (3, 9, 6, 4))
    channels = [groups * draw(st.integers(1, 4)) for _ in "io"]
    L, N = draw(st.integers(1, 12) | st.integers(13, longest)), draw(st.integers(0, 3))  # N = 0: not batched
    output_padding = draw(st.integers(0, max(stride, dilation) - 1))
    spare = (L - 1) * stride + dilation * (K - 1) + output_padding  # what the crops may take
    left = draw(st.integers(0, min(spare, dilation * K + 2)))
    right = draw(st.integers(0, min(spare - left, dilation * K + 2)))
    padding = (left, right) if pairs and draw(st.booleans()) else min(left, right)
    integers = draw(small_integers(kinds))
    return types.SimpleNamespace(
        x=integers(*[N] * (N > 0), channels[0], L),
        w=integers(channels[0], channels[1] // groups, K),
        b=integers(channels[1]) if draw(st.booleans()) else None,
        geometry={
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "groups": groups,
            "dilation": dilation,
            "padding_mode": draw(st.sampled_from(modes)),
        },
    )
