# SPDX-License-Identifier: MIT
"""Random layers on hostile numbers, for so many seconds: every layer class and kernel, held against the definition.

    python tests/reliability/differential.py SECONDS [SEED]

Each round draws a layer, a kernel, tiles and data: taps and samples of scales from 1e-20 to 1e20, windows, zero taps,
silence, onsets, impulses, subnormal numbers, single huge, infinite or NaN samples. It demands

    the same bits    for any number of workers, alone and in a batch, from views of any strides, with `out=`, with an
                     activation and a residual in the layer's pass or after it, in chunks of at least 32 samples
    the bound        of docs/reliability.md, element by element, against float64
    the reach        of NaN, inf and huge samples that the definition has: they change nothing else
"""

import collections
import contextlib
import math
import os
import sys
import time
import warnings

import numpy as np

import convt1d
from convt1d import activations
from convt1d.cpu import kernels

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).smallest_subnormal)
WINOGRAD = ("winograd", "fused_winograd")
SPECIALS = (np.nan, np.inf, -np.inf, 1e30, -3e38, 1.8e19)


class Finding(AssertionError):
    """What broke a promise, and how to draw it again."""


# ---- data ---------------------------------------------------------------------------------------------------------


def usual(rng, x, w):
    pass


def silence(rng, x, w):
    x[..., : rng.integers(x.shape[-1])] = 0
    if rng.integers(2):
        w[..., : rng.integers(w.shape[-1] + 1)] = 0


def gap(rng, x, w):
    first, past = np.sort(rng.integers(0, x.shape[-1] + 1, 2))
    x[..., first:past] = 0


def window(rng, x, w):
    w *= np.hanning(w.shape[-1] + 1)[:-1]
    silence(rng, x, w)


def scales_of_taps(rng, x, w):
    w *= 10.0 ** rng.uniform(-20, 20, w.shape[-1])


def scales_of_samples(rng, x, w):
    x *= 10.0 ** rng.uniform(-20, 20, x.shape[-1])


def impulse(rng, x, w):
    x[...] = 0
    x[..., rng.integers(x.shape[-2]), rng.integers(x.shape[-1])] = 1


def subnormal(rng, x, w):
    x *= 1e-42
    w *= 10.0 ** rng.uniform(-1, 3)


def near_overflow(rng, x, w):
    x[..., rng.integers(x.shape[-2]), rng.integers(x.shape[-1])] = 1e37
    w *= 0.1


def pruned(rng, x, w):
    w[rng.random(w.shape) < 0.7] = 0
    x[..., rng.integers(x.shape[-2]), rng.integers(x.shape[-1])] = 10.0 ** rng.uniform(0, 18)


DATA = (
    *(usual, silence, gap, window, scales_of_taps, scales_of_samples),
    *(impulse, subnormal, near_overflow, pruned),
)


# ---- layers -------------------------------------------------------------------------------------------------------


def draw_layer(rng, correlates):
    """A layer, and what makes the same one again."""
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    c_in, c_out = (groups * int(rng.choice(sizes)) for sizes in ([1, 3, 16, 33, 64, 100, 160], [1, 2, 5, 16, 32, 64]))
    K, dilation = int(rng.integers(1, 17)), int(rng.choice([1, 1, 1, 2, 3]))
    stride = int(rng.choice([1, 2, 3])) if correlates else int(rng.integers(1, 9))
    if c_in * c_out // groups * K > 60_000:
        c_out = groups * 8
    padding = (int(rng.integers(0, K)), int(rng.integers(0, K)))
    given = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": bool(rng.integers(2)),
    }
    given["padding_mode"] = str(rng.choice(["zeros", "zeros", "reflect", "replicate", "circular"]))
    kind = convt1d.Conv1d if correlates else convt1d.ConvTranspose1d
    return kind(c_in, c_out, K, **given, rng=int(rng.integers(2**31)))


def reference(layer, x, w, bias=None):
    """The definition in float64, one tap at a time; the padding mode is zeros."""
    geometry = layer._operator.geometry
    (left, right), s, d, g = geometry.padding, geometry.stride, geometry.dilation, geometry.groups
    N, C, L = x.shape
    K = w.shape[-1]
    if isinstance(layer, convt1d.Conv1d):
        x = np.pad(x, ((0, 0), (0, 0), (left, right))).reshape(N, g, C // g, -1)
        w = w.reshape(g, -1, *w.shape[1:])
        length = (x.shape[-1] - d * (K - 1) - 1) // s + 1
        y = sum(w[None, ..., k] @ x[..., k * d : k * d + (length - 1) * s + 1 : s] for k in range(K))
        y = y.reshape(N, -1, length)
    else:
        x, w = x.reshape(N, g, C // g, L), w.reshape(g, C // g, -1, K)
        full = np.zeros((N, g, w.shape[2], (L - 1) * s + d * (K - 1) + 1))
        for k in range(K):
            full[..., k * d : k * d + (L - 1) * s + 1 : s] += np.swapaxes(w[..., k], 1, 2)[None] @ x
        y = full.reshape(N, -1, full.shape[-1])[..., left : full.shape[-1] - right]
    return y if bias is None else y + bias[:, None]


def bound(layer, x, w, bias, kernel, weak):
    """What no error may exceed, docs/reliability.md section 4. `weak`: of any numbers, for Winograd's products."""
    geometry = layer._operator.geometry
    s, d, x, w = geometry.stride, geometry.dilation, abs(x), abs(w)
    taps = w.shape[-1] if isinstance(layer, convt1d.Conv1d) else -(-w.shape[-1] // apart(s, d))  # of a branch
    terms = geometry.in_channels // geometry.groups * taps
    if kernel in WINOGRAD and weak:
        x, w = (a + neighbours(a, n) for a, n in ((x, apart(d, s)), (w, apart(s, d))))
    size = reference(layer, x, w)
    offset = 0 if bias is None else abs(bias)[:, None]
    return 4 * math.sqrt(terms + 1) * EPS * (size + offset) + terms * TINY


def apart(one, other):
    """Of the taps of a branch, in samples of x or in taps: of a convolution, whose rows are branches, likewise."""
    return one // math.gcd(one, other)


def neighbours(a, n):
    """The sum of both neighbours, n numbers away, zeros around them."""
    found = np.zeros_like(a)
    found[..., n:] += a[..., :-n]
    found[..., :-n] += a[..., n:]
    return found


# ---- rounds -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def surroundings(kernel, tile):
    """Kernel and tile as named, and as many threads as workers allow."""
    paying = convt1d.threads.worthwhile
    os.environ.update({"CONVT1D_KERNEL": kernel, "CONVT1D_TILE": tile})
    convt1d.threads.worthwhile = lambda *work: min(work[-1] or 1, 3)
    try:
        yield
    finally:
        convt1d.threads.worthwhile = paying
        for name in ("CONVT1D_KERNEL", "CONVT1D_TILE"):
            del os.environ[name]


def same(what, found, expected):
    if not np.array_equal(found, expected, equal_nan=True):
        differ = (found != expected) & ~(np.isnan(found) & np.isnan(expected))
        raise Finding(f"{what}: {int(differ.sum())} of {differ.size} bits differ, first at {np.argwhere(differ)[0]}")


def one_round(seed, counts):
    rng = np.random.default_rng(seed)
    correlates = bool(rng.integers(2))
    layer = draw_layer(rng, correlates)
    forced, tile = str(rng.choice(["", *WINOGRAD, *kernels.names()])), str(rng.choice(["", "", "", "7", "40"]))
    spoil = DATA[rng.integers(len(DATA))]
    N, L = int(rng.integers(1, 4)), int(rng.integers(65, 200))
    x, w = rng.standard_normal((N, layer.in_channels, L)), layer.weight.astype(float)
    if rng.integers(4) == 0:  # sums that do not cancel
        x, w = abs(x), abs(w)
    spoil(rng, x, w)
    with np.errstate(all="ignore"):
        x, layer.weight = x.astype("f4"), w.astype("f4")
    if not np.isfinite(layer.weight).all():
        return
    with surroundings(forced, tile), np.errstate(all="ignore"):
        try:
            y = layer(x, workers=1)
        except ValueError:  # the padding leaves no output, or reflects beyond the signal
            return
        kernel = layer._operator._kernel(np.dtype("f4"), 1, False, False)[0].plan.kernel
        counts[f"{type(layer).__name__} {kernel}"] += 1
        try:
            check_bits(rng, layer, x, y, kernel, counts)
            if layer.padding_mode == "zeros":
                check_bound(layer, x, y, kernel, forced in WINOGRAD, counts)
                check_reach(rng, layer, x, y, counts)
            if rng.integers(4) == 0:
                check_gradients(rng, layer, x, y, counts)
                check_chain(rng, layer, x, y, counts)
        except Finding as finding:
            raise Finding(f"{finding}; seed {seed}, {layer!r}, {kernel}, tile {tile!r}, {spoil.__name__}") from None


def check_bits(rng, layer, x, y, kernel, counts):
    L = x.shape[-1]
    same("workers", layer(x, workers=3), y)
    if min(L, y.shape[-1]) > 64:
        same("alone", np.stack([layer(one, workers=1) for one in x]), y)
        same("a larger batch", layer(np.concatenate([x, x[::-1], x]), workers=2)[: len(x)], y)
    same("out", layer(x, out=np.full_like(y, 7), workers=2), y)
    same("strided", layer(x.repeat(2, axis=-1)[..., ::2], workers=1), y)
    same("reversed", layer(np.ascontiguousarray(x[..., ::-1])[..., ::-1], workers=1), y)
    same("Fortran", layer(np.asfortranarray(x), workers=1), y)
    same("byte order", layer(x.astype(">f4"), workers=1), y)
    counts["comparisons of bits"] += 6
    after = [activations.ReLU(), activations.LeakyReLU(0.1), activations.ELU(1.0), activations.Tanh()][rng.integers(4)]
    add = rng.standard_normal(y.shape).astype("f4")
    same("epilogues", layer(x, before=after, after=after, add=add), after(layer(after(x))) + add)
    counts["comparisons of bits"] += 1
    if layer.padding_mode != "circular" and kernel != "gemm":
        kind = convt1d.Conv1dStream if isinstance(layer, convt1d.Conv1d) else convt1d.ConvTranspose1dStream
        stream, at, pieces = kind(layer, workers=1), 0, []
        least = fewest_samples(layer)
        while at + least <= L:
            step = int(rng.integers(least, 2 * least))
            pieces.append(stream.process(x[..., at : at + step]))
            at += step
        if pieces:
            found = np.concatenate(pieces, axis=-1)
            same("stream", found, y[..., : found.shape[-1]])
            counts["streams"] += 1


def fewest_samples(layer):
    """Of a chunk that is multiplied as the whole signal is: it has 32 columns, the first one too."""
    geometry = layer._operator.geometry
    return 32 * geometry.stride + geometry.reach if isinstance(layer, convt1d.Conv1d) else 64


def check_bound(layer, x, y, kernel, weak, counts):
    x64, w64 = x.astype(float), layer.weight.astype(float)
    bias = None if layer.bias is None else layer.bias.astype(float)
    exact = reference(layer, x64, w64, bias)
    size = reference(layer, abs(x64), abs(w64))
    allowed = bound(layer, x64, w64, bias, kernel, weak)
    beyond = ~(abs(y - exact) <= allowed) & (size < 1e37)
    if beyond.any():
        worst = (abs(y - exact) / np.maximum(allowed, 1e-300))[beyond].max()
        raise Finding(f"bound: {int(beyond.sum())} outputs beyond, up to {worst:.3g} x, first {np.argwhere(beyond)[0]}")
    if not weak:
        same("silence", y[size == 0], (exact if bias is None else exact * 0 + bias[:, None])[size == 0].astype("f4"))
    counts["outputs held to the bound"] += y.size


def check_reach(rng, layer, x, y, counts):
    """A special sample changes what its sum contains, and nothing else."""
    other, at = x.copy(), (0, int(rng.integers(x.shape[1])), int(rng.integers(x.shape[2])))
    other[at] = rng.choice(SPECIALS)
    z = layer(other, workers=1)
    alone = np.zeros(x.shape)
    alone[at] = 1
    group = np.ones(layer.weight.shape)
    touched = reference(layer, alone, group) > 0
    same(f"out of reach of {other[at]}", z[~touched], y[~touched])
    exact = reference(layer, other.astype(float), layer.weight.astype(float))
    if not np.isfinite(other[at]):
        same("NaN", np.isnan(z[touched]), np.isnan(exact[touched]))
        same("infinities", np.isinf(z[touched]), np.isinf(exact[touched]))
    counts["special samples"] += 1


def check_gradients(rng, layer, x, y, counts):
    g = rng.standard_normal(y.shape).astype("f4")
    g[..., : rng.integers(g.shape[-1])] = 0
    one, three = layer.backward(g, x, workers=1), layer.backward(g, x, workers=3)
    for a, b in zip(one, three, strict=True):
        if a is not None:
            same("gradients", a, b)
    counts["gradients"] += 1


def check_chain(rng, layer, x, y, counts):
    after = activations.LeakyReLU(0.1)
    chain = convt1d.Chain(layer, after)
    same("chain", chain(x), after(y))
    counts["chains"] += 1
    if layer.padding_mode == "zeros" and np.isfinite(y).all():
        stream = chain.stream(workers=1)
        pieces = [stream.process(x[..., at : at + 20]) for at in range(0, x.shape[-1], 20)]
        found = np.concatenate([*pieces, stream.flush()], axis=-1)
        allowed = 1e-5 * np.abs(y).max(initial=0) + layer.weight.size // layer.out_channels * TINY
        if found.shape != y.shape or not (np.abs(found - after(y)) <= allowed).all():
            raise Finding("a stream of a chain is not the chain")
        counts["chain streams"] += 1


def main(seconds, seed=0):
    """Rounds for so many seconds; what was done, counted. The first finding ends it."""
    counts, end = collections.Counter(), time.monotonic() + seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end:
            one_round(seed, counts)
            counts["layers"] += 1
            seed += 1
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    print(main(float(sys.argv[1]), *map(int, sys.argv[2:])))
