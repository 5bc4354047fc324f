# SPDX-License-Identifier: MIT
"""Measured numbers as data: one `Tuning` row per class of processors.

docs/tuning.md says for each number what was measured, where and when; ``bench/tune.py`` sweeps the numbers on the
machine at hand and prints the row it would choose. Nothing is tuned at run time: the bits of a result must not depend
on a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, eq=False)
class TileTuning:
    """Sizes of tiles and weight blocks."""

    x_bytes: int = 96 * 1024  # of x in a tile: a small part of L2, the rest is for weights, y and the next tile
    x_columns: int = 192  # columns of a tile at least, since all weights are read for each tile ...
    x_most_bytes: int = 640 * 1024  # ... unless x needs more bytes than this
    column_bytes: int = 64 * 1024  # of a block's columns: an L1 or little more
    most_columns: int = 2048
    single_columns: int = 8192  # most columns of a tile of a single channel
    block_rows: int = 64  # most rows (branches x outputs) of a weight block, and most branches; those of one for BLAS
    direct_rows: int = 16  # rows of a weight block of the other kernels
    pieces_rows: int = 512  # rows of a block where x is loaded in pieces: every block loads x again


@dataclass(frozen=True, eq=False)
class LoadTuning:
    """Which tiles of x are copied; "uses" are multiply-adds per sample of x."""

    copy_above: int = 1024  # uses above which x is always copied: less than 3 % of the work
    split_below: int = 32  # uses up to which x is read in place and only the edge columns are copied
    narrow_above: int = 16  # channels above which a memory-bound layer reads x a few channels at a time
    narrow_per_use: int = 4  # channels at a time for each use, at least 8 ...
    narrow_most: int = 32  # ... and at most
    narrow_bytes: int = 8192  # of a row in such a tile: long runs, which the hardware's prefetcher follows
    narrow_tiles: int = 4  # tiles of a short signal at least, for the threads
    few_samples: int = 16  # merged signals with fewer are copied sample by sample


@dataclass(frozen=True, eq=False)
class FusedTuning:
    """Longest sums (channels x taps) for which "fused" is chosen; 0: never."""

    depth: int = 512
    depth_of_one: int = 1024  # of a single branch


@dataclass(frozen=True, eq=False)
class WinogradTuning:
    """When Winograd's products pay, and their tiles."""

    gain: float = 1.03  # estimated gain from which "winograd" is chosen
    depth: int = 32  # channels x pairs of taps: shorter sums never are
    taps: int = 64  # of a branch at most: a tile is so much wider
    per_channel: int = 10  # cost beside the products, in vector multiply-adds: the differences, per channel,
    per_row: int = 8  # the sums kept and taken up again, per row of columns,
    per_odd_row: int = 10  # and both for a row with a triple of taps or a single one
    per_run: int = 10  # and for each of both where samples are paired within residue classes, in short runs
    narrow_gain: float | None = 1.25  # factor on the gain where the alternative reads x a few channels at a time
    x_bytes: int = 448 * 1024  # of x in a tile
    fused_gain: float = 1.12  # estimated gain from which "fused_winograd" is chosen
    fused_depth: int = 256  # channels x pairs of taps: longer sums are not fused
    fused_depth_of_whole: int = 256  # the same for whole register blocks and one pair of taps
    fused_block_bytes: int = 192 * 1024  # packed weights of a block
    fused_columns: int = 128  # of a tile
    edge_columns: int = 64  # at a signal's ends, computed in the edge buffer at a time
    load_bound: bool = False  # a load takes as long as a multiply-add, and counts in the gain of fused products


@dataclass(frozen=True, eq=False)
class GemmTuning:
    """BLAS."""

    least: int | None = None  # channels and rows from which "gemm" is chosen over our microkernels; None: never
    multiply_adds: int = 500_000  # of one product: OpenBLAS starts no threads of its own up to 2**19


@dataclass(frozen=True, eq=False)
class GradientTuning:
    """The weights' gradient."""

    rows: int = 512  # of a block at most
    column_bytes: int = 1024  # of a block at most; a run has as many time steps as a block has columns
    steps: int = 1024  # of a run where vectors run along time
    unfold: float = 1.2  # cycles for a number that is unfolded from g ...
    unfold_dilated: float = 10.0  # ... one by one
    transpose: float = 0.6  # cycles for a number of x that is transposed
    along_time: float = 2.5  # cycles for a product along time, whose vector is not aligned


@dataclass(frozen=True, eq=False)
class BatchTuning:
    """Short signals."""

    merge_length: int = 64  # samples: batches of signals this short are laid side by side
    merge_gain: float = 1.05  # longer ones, up to four times, where that saves as much of the vectors
    short_samples: int = 32  # in all, below which larger packed weights do not pay


@dataclass(frozen=True, eq=False)
class MemoryTuning:
    """Prefetch distances, and what the caches are thought to hold."""

    rows_ahead: int = 8  # channels (rows of x) between a prefetch and its use
    weights_ahead: int = 2048  # bytes of packed weights between a prefetch and its use
    y_ahead: int = 4096  # bytes of y between a prefetch and its use, where sums are short and y leaves L2
    x_stays: int = 256 * 1024  # bytes of x that stay in L2 from one register block to the next
    y_stays: int = 1024 * 1024  # bytes of y that are thought to be in L2 from the last call on
    x_two_channels: bool = False  # "fused" prefetches x two channels on into L1; "fused_winograd" no next tile
    pack_serial: int = 500_000  # weights: fewer are packed on one thread


@dataclass(frozen=True, eq=False)
class Tuning:
    """The numbers of one class of processors."""

    name: str
    transposes: str  # the instruction set whose interleaves are fastest
    measured: str  # machine and date of the numbers that differ from the row it is derived from
    tile: TileTuning = field(default_factory=TileTuning)
    load: LoadTuning = field(default_factory=LoadTuning)
    fused: FusedTuning = field(default_factory=FusedTuning)
    winograd: WinogradTuning = field(default_factory=WinogradTuning)
    gemm: GemmTuning = field(default_factory=GemmTuning)
    gradient: GradientTuning = field(default_factory=GradientTuning)
    batch: BatchTuning = field(default_factory=BatchTuning)
    memory: MemoryTuning = field(default_factory=MemoryTuning)


#: AVX-512 whose 64-byte vectors are computed in halves; unknown processors with AVX-512 are taken for one.
ZEN4 = Tuning("zen4", transposes="avx2", measured="AMD EPYC (Zen 4), 2026-11")

#: AVX-512 with two 64-byte multiply-adds a cycle.
INTEL_AVX512 = replace(
    ZEN4,
    name="intel_avx512",
    transposes="avx512",
    measured="Intel Sapphire Rapids, 2026-11",
    load=LoadTuning(narrow_per_use=1, narrow_most=16),
    winograd=WinogradTuning(
        per_channel=20,
        per_row=20,
        per_odd_row=25,
        per_run=15,
        narrow_gain=None,
        fused_gain=1.07,
        fused_depth_of_whole=512,
        load_bound=True,
    ),
    memory=MemoryTuning(x_two_channels=True),
)

AVX2 = replace(
    ZEN4,
    name="avx2",
    transposes="avx2",
    measured="AMD EPYC (Zen 4) held to AVX2, 2026-11",
    winograd=WinogradTuning(gain=1.1),
)

#: 16-byte vectors, or none: the microkernels are slower than BLAS.
BASELINE = replace(
    ZEN4,
    name="baseline",
    transposes="baseline",
    measured="not measured but for gemm (a Zen 4 held to SSE2, 2026-11)",
    fused=FusedTuning(depth=0, depth_of_one=0),
    winograd=WinogradTuning(gain=float("inf")),
    gemm=GemmTuning(least=8),
)

#: By name, in the order of the classes above.
ROWS = {row.name: row for row in (BASELINE, AVX2, ZEN4, INTEL_AVX512)}


def row_for(instruction_set: str, intel: bool) -> Tuning:
    """The row of a processor: by its instruction set, and by who made it where that matters."""
    if instruction_set == "avx512":
        return INTEL_AVX512 if intel else ZEN4
    return ROWS.get(instruction_set, BASELINE)
