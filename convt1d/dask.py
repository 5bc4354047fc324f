# SPDX-License-Identifier: MIT
"""The operator on dask arrays: signals larger than the memory, and more than one machine.

Output sample ``t`` belongs to input sample ``t // stride``, so output chunk ``j`` is `stride` times as long as input
chunk ``j``. What it needs beyond that chunk lies `before` samples to the left and `after` to the right of it::

    input    |-------- chunk j-1 --------|-------- chunk j --------|-------- chunk j+1 --------|
                                 [before |        block            | after]
    output                               |==== stride * chunk j ===|

What a chunk needs of a neighbour is cut off where that one lies, a task each, so that only this travels. One more task
puts the block together and runs `operator.Operator.window`. Only the first and the last chunk see the padding mode:
what continues the signal is fetched from where `padding.source_index` says, and takes a neighbour's place. Only this
module needs dask when it is imported; nothing in convt1d imports it.
"""

from __future__ import annotations

import functools
import itertools
from operator import getitem
from typing import TYPE_CHECKING

import numpy as np

try:
    import dask
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph
except ImportError as error:
    raise ImportError(f"convt1d.dask needs dask ({error}): pip install 'convt1d[dask]'") from error

from . import arrays, threads
from .functional import operator_of
from .geometry import Window, as_flag, ceil_div
from .padding import source_index

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .geometry import Padding, PaddingMode, Size
    from .layer import ConvTranspose1d

__all__ = ["apply", "conv_transpose1d"]


def conv_transpose1d(
    x: da.Array,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    channels_last: bool = False,
    workers: int | None = 1,
) -> da.Array:
    """1-D transposed convolution of a dask array, lazily, chunk by chunk.

    Parameters
    ----------
    x : dask.array.Array, shape (N, C_in, L) or (C_in, L)
        Input, of known chunks along N and L; chunks along C_in are put together.
    weight : array_like, shape (C_in, C_out / groups, K)
        Kernels, in torch's layout; in memory. It is copied.
    bias : array_like, shape (C_out,), optional
        Likewise.
    stride, padding, output_padding, groups, dilation, padding_mode : int, pair of int, str
        As for `convt1d.conv_transpose1d`.
    channels_last : bool, default False
        Whether x is ``(N, L, C_in)`` or ``(L, C_in)``, and the result ``(N, L_out, C_out)`` or ``(L_out, C_out)``.
    workers : int, optional
        Most threads that one task may use. 1 leaves the threads to dask, which runs as many tasks at a time as it has
        threads. More are for fewer chunks than cores; tasks at a time, times workers, should not exceed the cores.

    Returns
    -------
    dask.array.Array, shape (N, C_out, L_out) or (C_out, L_out)
        Chunked as `x` along N and, `stride` times as long, along L; the last chunk gets the rest, or what the crop
        leaves. One chunk along C_out. L_out and type are those of `convt1d.conv_transpose1d`.

    Raises
    ------
    ValueError
        A value or shape breaks its rule; the message names parameter, rule and value. Chunks are unknown.
    TypeError
        A parameter or element type is of the wrong kind; `x` is no dask array, or `weight` is one.

    See Also
    --------
    apply : the same with the weights and settings of a layer.
    convt1d.conv_transpose1d : the same in memory; its Notes hold the definition.

    Notes
    -----
    All arguments are checked at once, nothing is computed before `dask.compute`. The graph holds the weights once; each
    process packs them once.

    A task needs its input chunk, at most ``dilation * (K - 1) / stride + 1`` samples of the neighbours (those
    that can reach its output, no others), its output chunk, and 2 MiB. Chunks shorter than that halo are computed
    together. With ``padding_mode="circular"`` the two ends of `x` need each other, and no other chunk.

    Results have the bits of `convt1d.conv_transpose1d` where the plan is consistent (``convt1d info --layer`` says so
    under "same bits"). Elsewhere the last bits of chunks of 64 samples or less may depend on the chunking; of BLAS'
    products (kernel "gemm") those of any chunk.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from convt1d.dask import conv_transpose1d
    >>> x = da.arange(1000, chunks=300, dtype=float)[np.newaxis]
    >>> y = conv_transpose1d(x, np.array([[[0.5, 1.0, 0.5]]]), stride=2, padding=(1, 0))  # linear interpolation
    >>> y.chunks
    ((1,), (600, 600, 600, 200))
    >>> y[0, 598:603].compute()
    array([299. , 299.5, 300. , 300.5, 301. ])
    """
    # copies: the graph must not see what becomes of the caller's
    weight = arrays.as_array("weight", weight).copy()
    bias = None if bias is None else arrays.as_array("bias", bias).copy()
    operator = operator_of(weight, bias, stride, padding, output_padding, groups, dilation, padding_mode)
    return _apply(operator, x, channels_last, workers)


def apply(layer: ConvTranspose1d, x: da.Array, *, channels_last: bool = False, workers: int | None = 1) -> da.Array:
    """Apply a layer to a dask array, lazily, chunk by chunk.

    Parameters
    ----------
    layer : ConvTranspose1d
        The weights that it has now are computed with.
    x : dask.array.Array, shape (N, C_in, L) or (C_in, L)
        Input, as of `conv_transpose1d`.
    channels_last : bool, default False
        Whether x is ``(N, L, C_in)`` or ``(L, C_in)``, and the result ``(N, L_out, C_out)`` or ``(L_out, C_out)``.
    workers : int, optional
        Most threads that one task may use, as of `conv_transpose1d`.

    Returns
    -------
    dask.array.Array, shape (N, C_out, L_out) or (C_out, L_out)
        As of `conv_transpose1d`, whose Notes hold here too.

    Raises
    ------
    ValueError
        A shape breaks its rule; chunks are unknown.
    TypeError
        `layer` is no ConvTranspose1d, or `x` no dask array of numbers.

    See Also
    --------
    conv_transpose1d : the same with weights and settings as arguments.

    Examples
    --------
    >>> import dask.array as da
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.dask import apply
    >>> layer = ConvTranspose1d(2, 3, 4, stride=2, padding=1)
    >>> apply(layer, da.ones((1000, 2), chunks=(300, 2)), channels_last=True)
    dask.array<swapaxes, shape=(2000, 3), dtype=float64, chunksize=(600, 3), chunktype=numpy.ndarray>
    """
    from .layer import ConvTranspose1d

    if not isinstance(layer, ConvTranspose1d):
        raise TypeError(f"layer must be a ConvTranspose1d, got {type(layer).__name__}")
    return _apply(layer._operator, x, channels_last, workers)


def _apply(operator, x, channels_last, workers):
    _check(x, workers)
    if as_flag("channels_last", channels_last):
        return _apply(operator, x.swapaxes(-1, -2), False, workers).swapaxes(-1, -2)
    # Shape and type of x without its samples: an empty batch passes every check and tells what the result is.
    like = np.broadcast_to(np.zeros((), x.dtype), x.shape)
    arrays.check_kind("x", like, (2, 3))
    arrays.check_channels("x", like, operator.weight, operator.geometry.in_channels)
    result = operator(like[(np.newaxis,) * (3 - x.ndim)][:0])

    # Without empty chunks along N, of which some steps keep what others drop.
    x = x.rechunk((*(tuple(filter(None, sizes)) or (0,) for sizes in x.chunks[:-2]), -1, x.chunks[-1]))
    blocks, windows, lengths = _blocks(x, operator.geometry, result.shape[-1])
    shared = dask.delayed(operator, pure=True)  # one key in the graph, to which every task refers
    name = f"conv_transpose1d-{dask.base.tokenize(x, shared, windows, workers)}"
    # By hand: dask's own overlaps and blocks are six tasks a chunk, of a millisecond or two each on every side.
    graph = {}
    for sample in np.ndindex(x.numblocks[:-2]):
        for j, (parts, window) in enumerate(zip(blocks, windows, strict=True)):
            task = functools.partial(_conv_transpose1d, window=window, workers=workers)
            graph[name, *sample, 0, j] = (task, shared.key, [(part.name, *sample, 0, i) for part, i in parts])
    y = da.Array(
        HighLevelGraph.from_collections(
            name, graph, [shared, *{part.name: part for b in blocks for part, _ in b}.values()]
        ),
        name,
        (*x.chunks[:-2], result.shape[1:2], tuple(window.length for window in windows)),
        meta=np.empty((0,) * x.ndim, result.dtype),
    )
    return y.rechunk({x.ndim - 1: tuple(lengths)}, method="tasks")


def _check(x, workers):
    """A dask array of known chunks and of numbers, without looking at one."""
    if not isinstance(x, da.Array):
        raise TypeError(
            f"x must be a dask array, got {type(x).__name__}; convt1d.conv_transpose1d takes arrays in memory"
        )
    arrays.as_array("x", x._meta)
    if np.isnan(x.shape).any():
        raise ValueError(f"x must have known chunks, got shape {x.shape}; x.compute_chunk_sizes() finds them")
    threads.count(workers)


def _blocks(x, geometry, length_out):
    """The blocks, each as chunks (of an array, its number) to be put together; the window of each that is to be
    computed; and the output's chunks."""
    stride, length, last = geometry.stride, x.shape[-1], x.ndim - 1
    left = geometry.padding[0]
    first, past = geometry.reaching(left, left + length_out)
    outside = (0, 0) if geometry.padding_mode == "zeros" else (max(0, -first), max(0, past - length))
    if max(outside) > length:  # a kernel that reaches beyond the other end of the signal
        return [[(x.rechunk({last: -1}), 0)]], [geometry.window(length)], [length_out]

    # The rest of x cannot reach the output. One sample stays, should nothing of it.
    first = min(max(0, first), length - 1)
    inside = x[..., first : max(first + 1, past)]
    left -= first * stride
    start, stop = geometry.reaching(left, left + stride)  # of the sample at 0
    before, after = max(0, -start), max(0, stop - 1)

    sizes = _joined(inside.chunks[-1], max(1, before, after), ceil_div(length_out, stride))
    margins = [outside[0], *[before] * (len(sizes) - 1)]
    starts = [first + start for start in itertools.accumulate([0, *sizes[:-1]])]
    windows = [
        Window(left + stride * margin, n, (0, 0), start - margin)
        for margin, start, n in zip(margins, starts, _lengths(sizes, stride, length_out), strict=True)
    ]
    lengths = _lengths(inside.chunks[-1], stride, length_out)

    chunks = inside.rechunk({last: tuple(sizes)}, method="tasks")
    blocks = [[(chunks, j)] for j in range(len(sizes))]
    if before:
        tails = _cut_off(chunks, slice(-before, None), before)
        for j in range(1, len(sizes)):
            blocks[j].insert(0, (tails, j - 1))
    if after:
        heads = _cut_off(chunks, slice(after), after)
        for j in range(len(sizes) - 1):
            blocks[j].append((heads, j + 1))
    if outside[0]:
        blocks[0].insert(0, (_continued(x, np.arange(-outside[0], 0), geometry.padding_mode), 0))
    if outside[1]:
        blocks[-1].append((_continued(x, np.arange(length, length + outside[1]), geometry.padding_mode), 0))
    return blocks, windows, lengths


def _cut_off(x, part, width):
    """The same part of every chunk."""
    chunks = (*x.chunks[:-1], (width,) * x.numblocks[-1])
    return da.map_blocks(getitem, x, (..., part), chunks=chunks, meta=x._meta)


def _continued(x, positions, mode):
    """The samples at positions outside x."""
    source = source_index(positions, x.shape[-1], mode)
    first = source.min()
    whole = x[..., first : source.max() + 1].rechunk({x.ndim - 1: -1}, method="tasks")
    return whole[..., source - first].rechunk({x.ndim - 1: -1}, method="tasks")  # dask cuts what repeats


def _joined(chunks, least, enough):
    """Lengths of chunks put together, so that each has `least` samples and begins before the sample `enough`."""
    sizes = [0]
    for size in chunks:
        if sizes[-1] >= least:
            sizes.append(0)
        sizes[-1] += size
    while len(sizes) > 1 and (sizes[-1] < least or sum(sizes[:-1]) >= enough):
        sizes[-2:] = [sum(sizes[-2:])]
    return sizes


def _lengths(chunks, stride, length_out):
    """Lengths of the output chunks that belong to input chunks; the last one gets the rest."""
    ends = [stride * end for end in itertools.accumulate(chunks)]
    ends = [0, *(end for end in ends[:-1] if end < length_out), length_out]
    return [b - a for a, b in itertools.pairwise(ends) if a < b]


def _conv_transpose1d(operator, parts, window, workers):
    block = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    return operator.window(block, window, workers=workers)
