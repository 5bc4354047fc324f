# SPDX-License-Identifier: MIT
"""The host's side of the GPU path: a call becomes a program, and a backend runs it.

    geometry, type, shape  ->  dispatch.choose_cuda_kernel, cuda_cut  ->  program  ->  backend.launch, .product

A program is a list of launches and products that knows no addresses, only offsets into buffers: it is made once per
shape. A backend owns memory, kernels and products: `CupyBackend` here, and one of the tests that runs the same kernels
and programs on the CPU.

A new kernel is a function in a .cu file, a method of `_Maker` that says how it is launched, and a predicate in
dispatch.choose_cuda_kernel.
"""

from __future__ import annotations

import functools
import threading
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, dispatch
from .. import geometry as geometry_module
from ..dispatch import CUDA_BATCH, CUDA_FUSED_CHANNELS, CUDA_FUSED_COLUMNS, CUDA_THREADS
from ..geometry import Geometry, Window, ceil_div

#: CONVT1D_TYPE of kernels.cu for each type of arrays.
TYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128")
#: `Mode` of kernels.cu.
MODES = ("zeros", "reflect", "replicate", "circular")
SOURCES = ("kernels.cu", "fused.cu")
# Constants of kernels.cu, and of fused.cu; the margin of a slab read 16 bytes at a time, for each size of elements.
TILE, SIDE, TIMES = 2048, 32, 64
FUSED_THREADS = 128
MARGINS = {4: 6, 2: 14}
# Products take 32-bit leading dimensions.
_INT = 2**31 - 1
# Buffers begin on boundaries of so many bytes, as an allocator's would.
_ALIGNMENT = 256
# Shapes whose programs an operator remembers.
_REMEMBERED = 512


class Pointer(NamedTuple):
    buffer: str  # "x", "y", "weight", "rest", "bias" or "work"
    offset: int = 0  # bytes


class Launch(NamedTuple):
    kernel: str
    blocks: int
    args: tuple
    threads: int = CUDA_THREADS
    shared: int = 0  # bytes of shared memory beside what the kernel declares


class Product(NamedTuple):
    """``c = a @ op(b)`` as BLAS has it: column-major, `batch` of them, their operands `..._step` elements apart."""

    m: int
    n: int
    k: int
    transposed: bool  # b
    a: Pointer
    lda: int
    a_step: int
    b: Pointer
    ldb: int
    b_step: int
    c: Pointer
    ldc: int
    c_step: int
    batch: int


class Program(NamedTuple):
    kernel: str
    steps: tuple
    work: int  # bytes
    rounded: bool = False  # the weights, to TF32


def program(
    geometry: Geometry,
    dtype: np.dtype,
    kernel: str,
    batch: int,
    length: int,
    window: Window,
    precision: str = "float32",
    capability: int = 90,
) -> Program:
    """Everything that one call launches. Precision and architecture are for `fused`: products ask for theirs."""
    maker = _Maker(geometry, dtype, batch, length, window, precision, capability)
    getattr(maker, kernel)()
    rounded = kernel == "fused" and maker.kind == "tf32"
    return Program(kernel, tuple(maker.steps), maker.work, rounded)


class _Maker:
    """Writes a program down."""

    def __init__(self, geometry, dtype, batch, length, window, precision, capability):
        self.geometry, self.dtype, self.batch, self.length, self.window = geometry, dtype, batch, length, window
        self.capability = capability
        self.kind = dispatch.fused_precision(precision, capability) if dtype.name == "float32" else ""
        self.layout = geometry_module.branches(geometry)
        self.element, self.summand = dtype.itemsize, arrays.compute_dtype(dtype).itemsize
        self.channels = geometry.in_channels // geometry.groups  # of a group
        self.outputs = geometry.out_channels // geometry.groups
        self.mode = MODES.index(geometry.padding_mode)
        self.steps: list = []
        self.work = 0

    def _phases(self):
        """The arguments that say which taps reach which phase."""
        g, layout = self.geometry, self.layout
        inverse = pow(layout.step, -1, layout.period) if layout.period > 1 else 0
        return (
            *(g.kernel_size, g.stride, g.dilation, g.stride // layout.period, inverse),
            *(layout.period, layout.step, layout.taps, layout.long),
        )

    def _launch(self, kernel, blocks, *args):
        self.steps.append(Launch(kernel, blocks, (*args, blocks)))

    def _pieces(self, cut):
        """First and past-last sample and output position of each piece; positions count from before the crop."""
        start, stop = self.window.start, self.window.start + self.window.length
        for n in range(0, self.batch, cut.samples):
            for u in range(start, stop, cut.positions):
                yield n, min(n + cut.samples, self.batch), u, min(u + cut.positions, stop)

    def direct(self):
        g, start, positions = self.geometry, self.window.start, self.window.length
        lanes = min(g.stride, CUDA_THREADS)
        lane_blocks = ceil_div(g.stride, lanes)
        first, last = start // g.stride, (start + positions - 1) // g.stride + 1
        rows = self.batch * g.out_channels * lane_blocks
        span = dispatch.cuda_span(rows, last - first, CUDA_THREADS // lanes)
        spans = ceil_div(last - first, span)
        fits = [capacity for capacity in dispatch.CUDA_CAPACITIES if capacity >= self.layout.taps]
        self._launch(
            f"direct{fits[0]}" if fits and self.channels == 1 else "direct",
            rows * spans,
            *(Pointer("x"), Pointer("weight"), Pointer("bias"), Pointer("y")),
            *(self.length, self.channels, g.out_channels, self.outputs, *self._phases(), self.mode),
            *(start, positions, first, last, span, spans, lanes, lane_blocks),
            g.dilation * (g.kernel_size - 1) // g.stride,
        )

    def columns(self):
        g = self.geometry
        cut = dispatch.cuda_cut(g, self.dtype, "columns", self.batch, self.window.start, self.window.length)
        for n0, n1, u0, u1 in self._pieces(cut):
            for g0 in range(0, g.groups, cut.groups):
                for o0 in range(0, self.outputs, cut.outputs):
                    groups = g0, min(g0 + cut.groups, g.groups)
                    self._columns((n0, n1), (u0, u1), groups, (o0, min(o0 + cut.outputs, self.outputs)))

    def _columns(self, samples, positions, groups, outputs):
        """One piece: columns of input positions first to past, and the output samples that they make."""
        g, length, mode = self.geometry, self.length, self.mode
        (n0, n1), (u0, u1), (g0, g1), (o0, o1) = samples, positions, groups, outputs
        first = -((g.dilation * (g.kernel_size - 1) - u0) // g.stride)  # the first input that reaches u0, rounded up
        past = (u1 - 1) // g.stride + 1
        if g.padding_mode == "zeros":
            first, past = min(max(first, 0), length), min(max(past, 0), length)
            past = max(first, past)
        elif (first < 0 or past > length) and length <= min(past - first, _INT) and u1 - u0 == self.window.length:
            first, past = 0, length  # the columns of the whole signal, which the gather continues
        count = past - first
        leading = ceil_div(count, 8) * 8
        rows = (n1 - n0) * (g1 - g0) * (o1 - o0) * g.kernel_size
        used = self._reserve(0, rows * leading * self.summand)
        source = Pointer("x", n0 * g.in_channels * length * self.element)
        stretch = length
        if first < 0 or past > length or length > _INT:
            stretch = leading
            size = (n1 - n0) * g.in_channels * leading * self.element
            pieces = ceil_div(leading, CUDA_THREADS)
            self._launch(
                *("extend", (n1 - n0) * g.in_channels * pieces, source, Pointer("work", used)),
                *(length, mode, first, count, leading, pieces),
            )
            source = Pointer("work", used)
            self._reserve(used, size)
        else:
            source = Pointer("x", source.offset + first * self.element)
        if first > 0 or past < length or stretch != length:
            mode = 0  # all that is needed is in the columns
        if count:
            self._column_products(samples, groups, outputs, count, leading, source, stretch)
        log_phases = min(5, (g.stride - 1).bit_length())
        log_steps = TILE.bit_length() - 1 - log_phases
        q_first, q_last = u0 // g.stride, (u1 - 1) // g.stride
        q_blocks, r_blocks = ceil_div(q_last - q_first + 1, 1 << log_steps), ceil_div(g.stride, 1 << log_phases)
        y = Pointer("y", n0 * g.out_channels * self.window.length * self.element)
        self._launch(
            *("gather", (n1 - n0) * (g1 - g0) * (o1 - o0) * r_blocks * q_blocks, Pointer("work"), Pointer("bias"), y),
            *(leading, first, count, mode, *self._phases(), g1 - g0, o1 - o0, g0, o0, self.outputs, g.out_channels),
            *(self.window.start, self.window.length, u0, u1, q_first, q_blocks, r_blocks, log_steps, log_phases),
        )

    def _column_products(self, samples, groups, outputs, count, leading, source, stretch):
        """columns (n, group, o, k, i) = sum over c of weight (group, c, o, k) * source (n, group, c, i)"""
        g, (n0, n1), (g0, g1), (o0, o1) = self.geometry, samples, groups, outputs
        kernel, rows = g.kernel_size, (o1 - o0) * g.kernel_size
        of_sample, of_group = g.in_channels * stretch, self.channels * stretch
        weights = self.channels * self.outputs * kernel  # of a group
        if (g1 - g0) >= (n1 - n0) > 0 and g1 - g0 > 1:  # the batch runs over groups, the loop over samples
            outer, inner = n1 - n0, g1 - g0
            steps = (of_sample, 0, (g1 - g0) * rows * leading), (of_group, weights, rows * leading)
        else:
            outer, inner = g1 - g0, n1 - n0
            steps = (of_group, weights, rows * leading), (of_sample, 0, (g1 - g0) * rows * leading)
        base = source.offset + g0 * of_group * self.element, (g0 * weights + o0 * kernel) * self.element, 0
        for j in range(outer):
            for i in range(0, inner, CUDA_BATCH):
                at = [j * a + i * b for a, b in zip(*steps, strict=True)]
                self._product(
                    *(count, rows, self.channels, True),
                    *(Pointer(source.buffer, base[0] + at[0] * self.element), stretch, steps[1][0]),
                    *(Pointer("weight", base[1] + at[1] * self.element), self.outputs * kernel, steps[1][1]),
                    *(Pointer("work", at[2] * self.summand), leading, steps[1][2]),
                    min(CUDA_BATCH, inner - i),
                )

    def rows(self):
        g = self.geometry
        cut = dispatch.cuda_cut(g, self.dtype, "rows", self.batch, self.window.start, self.window.length)
        for n0, n1, u0, u1 in self._pieces(cut):
            self._rows(n0, n1, u0, u1)

    def _rows(self, n0, n1, u0, u1):
        """One piece. With m taps to a slot, row a of sample n holds x~ at q - (m - 1) for the piece's step q = a; the
        sums of step q multiply rows a ... a + m - 1, which lie side by side. Every m-th such stretch is a row of one
        matrix, and m matrices, each a row further on, hold them all.
        """
        g, layout = self.geometry, self.layout
        m, slots, full = layout.taps, layout.count, layout.long
        q_first, q_last = u0 // g.stride, (u1 - 1) // g.stride
        each = q_last - q_first + m  # rows of a sample
        products = ceil_div((n1 - n0) * each - (m - 1), m)  # rows of each of the m matrices
        rows, sums = m * products + m - 1, m * products
        packed = self._reserve(0, g.groups * sums * slots * self.outputs * self.summand)
        self._reserve(packed, g.groups * rows * self.channels * self.element)
        row_blocks, channel_blocks = ceil_div(rows, TIMES), ceil_div(self.channels, SIDE)
        self._launch(
            *("pack", g.groups * row_blocks * channel_blocks),
            *(Pointer("x", n0 * g.in_channels * self.length * self.element), Pointer("work", packed)),
            *(self.length, self.mode, q_first - (m - 1), n1 - n0, each, rows, self.channels, g.in_channels),
            *(row_blocks, channel_blocks),
        )
        # Slots below `full` have m taps. The others have one less: a product of their own, a row further on, rather
        # than zeros in the weights, which would turn a NaN or inf of x into more NaN than the definition has.
        for buffer, taps, slot0, width in (("weight", m, 0, full), ("rest", m - 1, full, slots - full)):
            if not width:
                continue
            for group in range(g.groups):
                n, k = width * self.outputs, taps * self.channels
                at = (group * rows + m - taps) * self.channels
                out = group * sums * slots * self.outputs + slot0 * self.outputs
                for r in range(0, m, CUDA_BATCH):
                    self._product(
                        *(n, products, k, False),
                        *(Pointer(buffer, group * n * k * self.element), n, 0),
                        *(Pointer("work", packed + (at + r * self.channels) * self.element), m * self.channels),
                        self.channels,
                        Pointer("work", (out + r * slots * self.outputs) * self.summand),
                        *(m * slots * self.outputs, slots * self.outputs),
                        min(CUDA_BATCH, m - r),
                    )
        u_blocks, output_blocks = ceil_div(u1 - u0, TIMES), ceil_div(self.outputs, SIDE)
        y = Pointer("y", n0 * g.out_channels * self.window.length * self.element)
        self._launch(
            *("unpack", (n1 - n0) * g.groups * u_blocks * output_blocks, Pointer("work"), Pointer("bias"), y),
            *(each, sums, slots, self.outputs, g.groups, g.stride, q_first, g.out_channels),
            *(self.window.start, self.window.length, u0, u1, u_blocks, output_blocks),
        )

    def fused(self):
        """One launch, seldom two; and one more that adds up, where the inner size is split."""
        g, start, positions = self.geometry, self.window.start, self.window.length
        q_first, q_last = start // g.stride, (start + positions - 1) // g.stride
        launches = []
        for name, rows in zip(("weight", "rest"), dispatch.fused_rows(g), strict=False):
            each = q_last - q_first + max(rows.taps, 1)  # columns of a sample
            column_tiles = ceil_div(self.batch * each, CUDA_FUSED_COLUMNS)
            row_tiles = ceil_div(self.outputs, rows.outputs) * ceil_div(rows.slots, rows.chunk)
            launches.append((name, rows, each, row_tiles, column_tiles))
        tiles = sum(g.groups * row_tiles * column_tiles for *_, row_tiles, column_tiles in launches)
        sums = self.batch * g.out_channels * positions * self.summand
        channel_blocks = ceil_div(self.channels, CUDA_FUSED_CHANNELS)
        splits = dispatch.fused_splits(tiles, channel_blocks, self.layout.taps, sums)
        if splits > 1:
            self._reserve(0, splits * sums)
        weights = self.channels * self.outputs * g.kernel_size  # of a group
        by_rows = int(self.batch * self.channels * self.length >= weights)  # what is larger should be read once
        for name, rows, each, row_tiles, column_tiles in launches:
            width, pitch, stages, slabs, staged, shared = self._rings(rows)
            blocks = splits * g.groups * row_tiles * column_tiles
            args = (
                *(Pointer("x"), Pointer(name if rows.taps else "weight"), Pointer("bias"), Pointer("y")),
                *(Pointer("work"), self.length, self.mode, self.channels, self.outputs, g.groups, self.batch, g.stride),
                *(rows.taps, rows.slot0, rows.slots, rows.chunk, rows.full, _reciprocal(rows.full)),
                *(_reciprocal(rows.chunk - rows.full), rows.outputs, each, q_first, start),
                *(positions, width, pitch, stages, slabs, staged, row_tiles, column_tiles, splits, by_rows, blocks),
            )
            name = f"fused{rows.tile}_{self.kind}" if self.kind else f"fused{rows.tile}"
            self.steps.append(Launch(name, blocks, args, FUSED_THREADS, shared))
        if splits > 1:
            pieces, count = ceil_div(positions, CUDA_THREADS), self.batch * g.out_channels
            self._launch(
                *("reduce", count * pieces, Pointer("work"), Pointer("bias"), Pointer("y")),
                *(splits, count, g.out_channels, positions, pieces),
            )

    def _rings(self, rows):
        """Columns of a slab and its row length, stages, slabs that they need, columns that are staged on their way
        out, and bytes of shared memory."""
        width = CUDA_FUSED_COLUMNS + max(rows.taps - 1, 0)
        piece = 16 // self.element
        pitch = (width + MARGINS[self.element]) // piece * piece
        if self.element == 4:
            pitch = ceil_div(pitch - 8, 32) * 32 + 8
        large = self.capability in dispatch.CUDA_LARGE_SHARED
        stages, staged = (4, CUDA_FUSED_COLUMNS) if large else (3, CUDA_FUSED_COLUMNS // 2)
        slabs = ceil_div(stages - 1, max(rows.taps, 1)) + 1
        rings = (stages * rows.tile + slabs * pitch) * CUDA_FUSED_CHANNELS * self.element
        stage = rows.outputs * (staged * rows.chunk * self.summand + 32)
        return width, pitch, stages, slabs, staged, max(rings, stage)

    def _product(self, *args):
        product = Product(*args)
        if max(product.m, product.n, product.k, product.lda, product.ldb, product.ldc) > _INT:
            raise ValueError(
                f"weight of shape {(self.geometry.in_channels, self.outputs, self.geometry.kernel_size)} is too large "
                f"for a product on the GPU: C_out / groups * K and C_in / groups * K / stride must be at most {_INT}"
            )
        self.steps.append(product)

    def _reserve(self, offset, size):
        """Take `size` bytes of the workspace from `offset` on; return where the next may begin."""
        end = ceil_div(offset + size, _ALIGNMENT) * _ALIGNMENT
        self.work = max(self.work, end)
        return end


def arranged(xp, weight, kernel: str, geometry: Geometry, rounded: bool = False) -> dict:
    """The weights as a kernel wants them, by the name of their buffer. `rounded`: to TF32. `xp` is NumPy or CuPy."""
    if kernel not in ("rows", "fused"):
        return {"weight": xp.ascontiguousarray(weight)}
    layout = geometry_module.branches(geometry)
    channels, outputs = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    # only copied: as integers, since not every version of CuPy indexes bfloat16
    words = weight.view(np.uint16) if weight.dtype.itemsize == 2 else weight
    words = words.reshape(geometry.groups, channels, outputs, geometry.kernel_size)
    found = {}
    if kernel == "fused":
        if rounded:
            words = _tf32(words.view(np.uint32))
        for name, rows in zip(("weight", "rest"), dispatch.fused_rows(geometry), strict=False):
            if rows.taps:
                found[name] = _in_fragments(xp, words, rows, geometry.stride).view(weight.dtype)
        return found
    for name, taps, slot0, slot1 in (
        ("weight", layout.taps, 0, layout.long),
        ("rest", layout.taps - 1, layout.long, layout.count),
    ):
        if slot0 == slot1:
            continue
        # a row of the signal runs forward in time: its last sample meets tap 0
        k = np.arange(slot0, slot1) + layout.period * np.arange(taps - 1, -1, -1)[:, None]
        # (group, channel, output, tap, slot) -> (group, tap, channel, slot, output)
        picked = xp.ascontiguousarray(words[..., xp.asarray(k)].transpose(0, 3, 1, 4, 2))
        found[name] = picked.view(weight.dtype)
    return found


def _reciprocal(n: int) -> int:
    """What a row's number, at most 128, times this, is cut by 16 bits to be divided by n, at most 128."""
    return 65536 // max(n, 1) + 1


def _tf32(bits):
    """float32 to TF32, to nearest, ties away from zero, as words; NaN stays NaN."""
    finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    bits = bits + np.uint32(0x1000) * finite.astype(np.uint32) | np.uint32(0x400000) * nan.astype(np.uint32)
    return bits & np.uint32(0xFFFFE000)


def _in_fragments(xp, words, rows: dispatch.FusedRows, stride: int):
    """Weights in the order in which the lanes of `fused` hold them, as fused.cu says; zeros where there are none."""
    groups, channels, outputs, kernel_size = words.shape
    blocks, chunks = ceil_div(channels, CUDA_FUSED_CHANNELS), ceil_div(rows.slots, rows.chunk)
    tiles, most, taps = ceil_div(outputs, rows.outputs), rows.outputs, rows.taps
    # (group, channel, output, tap, slot)
    k = min(kernel_size, taps * stride)
    spread = xp.zeros((groups, channels, outputs, taps * stride), words.dtype)
    spread[..., :k] = words[..., :k]
    spread = spread.reshape(groups, channels, outputs, taps, stride)[..., rows.slot0 : rows.slot0 + rows.slots]
    padded = xp.zeros((groups, blocks * CUDA_FUSED_CHANNELS, tiles * most, taps, chunks * rows.chunk), words.dtype)
    padded[:, :channels, :outputs, :, : rows.slots] = spread
    # -> (group, channel, tile of outputs, chunk, tap, output, slot) -> (..., row)
    padded = padded.reshape(groups, -1, tiles, most, taps, chunks, rows.chunk).transpose(0, 1, 2, 5, 4, 3, 6)
    matrix = xp.zeros((*padded.shape[:5], rows.tile), words.dtype)
    row = 0
    for part in (padded[..., : rows.full], padded[..., rows.full :]):
        count = most * part.shape[-1]
        matrix[..., row : row + count] = part.reshape(*padded.shape[:5], count)
        row += ceil_div(count, 16) * 16
    split = groups, blocks, *((2, 2, 4) if words.itemsize == 4 else (4, 2, 2)), tiles, chunks, taps, -1, 2, 8
    order = (0, 5, 6, 1, 7, 2, 8, 10, 4, 3, 9) if words.itemsize == 4 else (0, 5, 6, 1, 7, 8, 10, 2, 3, 9, 4)
    return xp.ascontiguousarray(matrix.reshape(split).transpose(order))


class DeviceOperator:
    """A geometry with its weights on devices: what functional.Operator runs where x is on one.

    `weight` and `bias` are NumPy arrays, copied once per device, type and kernel, or arrays of the device x is on.
    Workspaces that a CUDA graph has captured are kept as long as the operator.
    """

    def __init__(self, geometry: Geometry, weight, bias):
        self.geometry = geometry
        self.weight = weight
        self.bias = bias
        self._copies: dict = {}
        self._calls: dict = {}
        self._captured: list = []
        self._lock = threading.Lock()

    def __call__(self, backend, x, output_size=None, out=None, precision="float32"):
        arrays.check_kind("x", x, (2, 3))
        channels = self.geometry.in_channels
        if x.shape[-2] != channels:
            raise ValueError(
                f"x must have shape (N, {channels}, L) or ({channels}, L) for a weight of shape "
                f"{self.weight.shape}, got {x.shape}"
            )
        output_padding = None
        if output_size is not None:
            output_padding = geometry_module.output_padding_for(self.geometry, x.shape[-1], output_size, x.shape)
        key = (x.dtype, x.shape, output_padding, precision, backend.capability)
        call = self._calls.get(key)
        if call is None:
            call = self._remember(key, x, output_padding, precision, backend.capability)
        made, dtype, shape = call
        if out is None:
            out = backend.empty(shape, dtype)
        else:
            self._check_out(backend, out, shape, dtype, x)
        if made is None:  # N = 0
            return out
        capturing = backend.capturing()
        if capturing:
            self._check_capture(backend, made, dtype, x)
        buffers = self._weights(backend, made.kernel, dtype, made.rounded)
        x = backend.plain(x, dtype)
        work = backend.allocate(made.work) if made.work else None
        if capturing and work is not None:
            self._captured.append(work)
        addresses = {"bias": 0, "work": 0}  # the null pointer: none
        for name, array in {**buffers, "x": x, "y": out, "work": work}.items():
            if array is not None:
                addresses[name] = backend.pointer(array)
        for step in made.steps:
            if type(step) is Launch:
                args = _resolved(step.args, addresses)
                backend.launch(dtype, step.kernel, step.blocks, args, step.threads, step.shared)
            else:
                backend.product(dtype, Product(*_resolved(step, addresses)), precision == "tf32")
        return out

    def prepare(self, backend) -> None:
        """Copy the weights to a device, in their own type."""
        dtype = self.weight.dtype
        kernel = dispatch.choose_cuda_kernel(self.geometry, dtype, capability=backend.capability)
        self._weights(backend, kernel, dtype)

    def _remember(self, key, x, output_padding, precision, capability):
        extra = () if output_padding is None else (output_padding,)
        window = self.geometry.window(x.shape[-1], *extra)
        dtype = arrays.result_dtype(x.dtype, self.weight.dtype)
        shape = (*x.shape[:-2], self.geometry.out_channels, window.length)
        arrays.check_size("the output", shape, arrays.compute_dtype(dtype))
        batch = x.shape[0] if x.ndim == 3 else 1
        made = None
        if batch:
            kernel = dispatch.choose_cuda_kernel(self.geometry, dtype, precision, x.shape[-1], capability)
            made = program(self.geometry, dtype, kernel, batch, x.shape[-1], window, precision, capability)
        if len(self._calls) >= _REMEMBERED:
            self._calls.clear()
        self._calls[key] = made, dtype, shape
        return self._calls[key]

    def _weights(self, backend, kernel, dtype, rounded=False):
        """Weights and bias on the backend's device, as the kernel wants them."""
        key = (backend.device, dtype.name, kernel, rounded)
        found = self._copies.get(key)
        if found is None:
            with self._lock:  # two threads would copy twice, and one free what the other's kernels read
                found = self._copies.get(key)
                if found is None:
                    self._copies[key] = found = self._arrange(backend, kernel, dtype, rounded)
        return found

    def _arrange(self, backend, kernel, dtype, rounded):
        compute = arrays.compute_dtype(dtype)
        if self.bias is not None:
            arrays.check_cast("bias", self.bias.dtype, compute)
        if not backend.holds(self.weight):
            found = arranged(np, arrays.cast("weight", self.weight, dtype), kernel, self.geometry, rounded)
            if self.bias is not None:
                found["bias"] = np.ascontiguousarray(arrays.cast("bias", self.bias, compute))
            return {name: backend.upload(array) for name, array in found.items()}
        found = arranged(backend.xp, backend.plain(self.weight, dtype), kernel, self.geometry, rounded)
        if self.bias is not None:
            found["bias"] = backend.plain(self.bias, compute)
        return found

    def _check_capture(self, backend, made, dtype, x):
        """A graph runs again on the same memory: none of it may be given back when the call returns."""

        def stays(array, wanted):
            return array is None or (backend.holds(array) and array.dtype == wanted and array.flags.c_contiguous)

        weights = stays(self.weight, dtype) and stays(self.bias, arrays.compute_dtype(dtype))
        if any(type(step) is Product for step in made.steps):
            reason = f"kernel {made.kernel!r}, which was chosen for it, multiplies through cuBLAS"
        elif not stays(x, dtype):
            reason = f"x must be C-contiguous and of dtype {dtype.name}, got {x.dtype} with strides {x.strides}"
        elif (backend.device, dtype.name, made.kernel, made.rounded) not in self._copies and not (
            weights and made.kernel == "direct"
        ):
            reason = "the weights are not on the device as its kernel wants them; call the layer once before"
        else:
            return
        raise RuntimeError(f"a CUDA graph cannot capture this call: {reason}")

    def _check_out(self, backend, out, shape, dtype, x):
        if not backend.holds(out):
            raise TypeError(f"out must be an array on the device of x, {backend.name}, got {backend.describe(out)}")
        if out.shape != shape:
            raise ValueError(f"out must have shape {shape}, got {out.shape}")
        if out.dtype != dtype:
            raise TypeError(f"out must have dtype {dtype.name}, got {out.dtype}")
        if not out.flags.c_contiguous or backend.pointer(out) % dtype.itemsize:
            raise ValueError(f"out must be C-contiguous and aligned, got strides {out.strides}")
        inputs = {"x": x, "weight": self.weight, "bias": self.bias}
        for name, array in inputs.items():
            if array is not None and backend.holds(array) and _overlap(backend, out, array):
                raise ValueError(f"out must not overlap {name}, got arrays that share memory")


def _resolved(args, addresses):
    return [addresses[a.buffer] + a.offset if type(a) is Pointer else a for a in args]


def _overlap(backend, a, b) -> bool:
    """Whether the bytes between the first and the last element of each have any in common."""
    (a0, a1), (b0, b1) = _bounds(backend, a), _bounds(backend, b)
    return a0 < b1 and b0 < a1


def _bounds(backend, a):
    if a.size == 0:
        return 0, 0
    reach = [(n - 1) * stride for n, stride in zip(a.shape, a.strides, strict=True)]
    first = backend.pointer(a) + sum(min(r, 0) for r in reach)
    return first, backend.pointer(a) + sum(max(r, 0) for r in reach) + a.dtype.itemsize


class CupyBackend:
    """One device, by CuPy: its arrays, kernels compiled on first use, cuBLAS. All on CuPy's current stream."""

    def __init__(self, device: int):
        self.xp: Any = import_cupy()
        self.device = device
        self.name = f"cuda:{device}"
        self.capability = int(self.xp.cuda.Device(device).compute_capability)

    def capturing(self) -> bool:
        """Whether the current stream's work goes into a CUDA graph."""
        stream = self.xp.cuda.get_current_stream()
        return stream.ptr not in (0, 1) and stream.is_capturing()  # never the default stream

    def holds(self, array) -> bool:
        return isinstance(array, self.xp.ndarray) and array.device.id == self.device

    def describe(self, array) -> str:
        """What an array is and where, for messages."""
        where = f" on cuda:{array.device.id}" if isinstance(array, self.xp.ndarray) else ""
        return f"{type(array).__module__}.{type(array).__name__}{where}"

    def empty(self, shape, dtype):
        return self.xp.empty(shape, dtype)

    def allocate(self, size: int):
        """Workspace; CuPy's pool gives it to others on this stream only, so after the kernels that use it."""
        return self.xp.empty(size, np.uint8)

    def pointer(self, array) -> int:
        return array.data.ptr

    def plain(self, array, dtype):
        """`array` in `dtype`, C-contiguous and aligned; no copy where it already is."""
        size = array.dtype.itemsize
        if array.data.ptr % size or any(step % size for step in array.strides):  # where CuPy's kernels would fault
            shape, steps = (*array.shape, size), (*array.strides, 1)
            parts = self.xp.ndarray(shape, np.uint8, array.data, steps)
            array = parts.copy(order="C").view(array.dtype).reshape(array.shape)
        return self.xp.ascontiguousarray(array if array.dtype == dtype else array.astype(dtype))

    def upload(self, array: np.ndarray):
        """A copy that outlives the call, for use on any stream."""
        # Not from the pool, which could hand freed weights to one stream while another still reads them: cudaFree
        # waits.
        with self.xp.cuda.using_allocator(None):
            words = array.view(np.uint16) if array.dtype.itemsize == 2 else array
            copy = self.xp.array(words).view(array.dtype)
        self.xp.cuda.get_current_stream().synchronize()
        return copy

    def launch(self, dtype: np.dtype, kernel: str, blocks: int, args: list, threads: int, shared: int) -> None:
        function = _function(self.device, TYPES.index(dtype.name), kernel)
        function((min(blocks, _INT),), (threads,), tuple(args), shared_mem=shared)

    def product(self, dtype: np.dtype, p: Product, fast: bool) -> None:
        from cupy_backends.cuda.libs import cublas

        values, sums, compute, one, zero = _blas_types(dtype, fast)
        handle = self.xp.cuda.device.get_cublas_handle()
        modes = cublas.getPointerMode(handle), cublas.getMathMode(handle)
        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)
        cublas.setMathMode(handle, 0)  # CUBLAS_DEFAULT_MATH: whatever the process prefers, TF32 is for who asks for it
        try:
            cublas.gemmStridedBatchedEx(
                *(handle, cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T if p.transposed else cublas.CUBLAS_OP_N),
                *(p.m, p.n, p.k, one.ctypes.data),
                *(p.a, values, p.lda, p.a_step),
                *(p.b, values, p.ldb, p.b_step, zero.ctypes.data),
                *(p.c, sums, p.ldc, p.c_step, p.batch, compute, -1),
            )
        finally:
            cublas.setPointerMode(handle, modes[0])
            cublas.setMathMode(handle, modes[1])


@functools.cache
def _blas_types(dtype: np.dtype, fast: bool):
    """cudaDataType of values and of sums, cublasComputeType_t, one and zero."""
    values = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14, "complex64": 4, "complex128": 5}[dtype.name]
    compute_dtype = arrays.compute_dtype(dtype)
    sums = 0 if compute_dtype != dtype else values
    if compute_dtype.name in ("float64", "complex128"):
        compute = 70  # CUBLAS_COMPUTE_64F
    elif fast and dtype.name in ("float32", "complex64"):
        compute = 77  # CUBLAS_COMPUTE_32F_FAST_TF32
    else:
        compute = 68  # CUBLAS_COMPUTE_32F
    return values, sums, compute, np.ones(1, compute_dtype), np.zeros(1, compute_dtype)


def source() -> str:
    """The text of kernels.cu and fused.cu, which are one module."""
    folder = resources.files(__package__)
    texts = (folder.joinpath(name).read_text(encoding="utf-8") for name in SOURCES)
    return "".join(f'#line 1 "{name}"\n{text}' for name, text in zip(SOURCES, texts, strict=True))


@functools.cache
def _module(device: int, type_number: int):
    return import_cupy().RawModule(code=source(), options=("-std=c++17", f"-DCONVT1D_TYPE={type_number}"))


@functools.cache  # CuPy makes a new object on each request, which looks its kernel up again
def _function(device: int, type_number: int, kernel: str):
    function = _module(device, type_number).get_function(kernel)
    if kernel.startswith("fused"):  # more shared memory than the 48 KiB that need no permission: all that there is
        most = import_cupy().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
        function.max_dynamic_shared_size_bytes = most - function.shared_size_bytes
    return function


def import_cupy():
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "convt1d runs on a GPU through CuPy, which is not installed: pip install 'convt1d[cuda13]', or "
            f"'convt1d[cuda12]' where the driver is older than CUDA 13 ({error})"
        ) from error
    return cupy


@functools.cache
def backend_for(device: int) -> CupyBackend:
    return CupyBackend(device)


def prepare(operator: DeviceOperator, device: int | None) -> None:
    """Copy an operator's weights to a device; None is CuPy's current one."""
    cupy = import_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"there is no CUDA device that CuPy can use: {error}") from error
    if device is None:
        device = cupy.cuda.runtime.getDevice()
    if not device < count:
        raise ValueError(f"device must be one of the {count} CUDA devices here, 'cuda:0' and on, got 'cuda:{device}'")
    with cupy.cuda.Device(device):
        operator.prepare(backend_for(device))
