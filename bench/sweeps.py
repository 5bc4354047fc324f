# SPDX-License-Identifier: MIT
"""What `tune.py` sweeps: each field of `Tuning`, its candidates, and the layers that it decides.

`SWEEPS` is data. A field that has no sweep stands in `NOT_SWEPT` with the reason, or is one of `COSTS`, which are
fitted together. `tests/kernels/test_tune.py` holds every field to one of the three.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Case:
    """A layer (float32), what is computed of it, the batch, and whether the data come from memory."""

    channels: int
    outputs: int
    kernel: int
    stride: int
    length: int  # of the layer's input
    batch: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    cold: bool = False  # calls go round more arrays than the caches hold
    operator: str = "forward"  # or "gradient", of the weights; "convolution", the gradient of x

    def __str__(self) -> str:
        text = f"{self.channels}->{self.outputs} k{self.kernel} s{self.stride}"
        for name, value, usual in (("p", self.padding, 0), ("d", self.dilation, 1), ("g", self.groups, 1)):
            text += f" {name}{value}" if value != usual else ""
        operator = "" if self.operator == "forward" else f" {self.operator}"
        return f"{text} {self.batch}x{self.length}{operator}{' cold' if self.cold else ''}"


@dataclass(frozen=True)
class Sweep:
    """A field, its candidates made from the value in force, and the cases that it decides."""

    field: str
    candidates: Callable[[Any], Iterable[Any]]
    cases: tuple[Case, ...]


def scaled(*factors: float) -> Callable[[Any], list[Any]]:
    """Candidates that are so many times the value in force."""
    return lambda value: [type(value)(round(value * factor, 3)) for factor in factors]


def among(*values: Any) -> Callable[[Any], list[Any]]:
    """Fixed candidates."""
    return lambda _: list(values)


def instruction_sets(_: Any) -> list[str]:
    """Those that this processor has."""
    from convt1d.cpu import _runtime

    names = _runtime.INSTRUCTION_SETS
    return list(names[: names.index(_runtime.machine().instruction_set) + 1])


def cold(*cases: Case) -> tuple[Case, ...]:
    return tuple(replace(case, cold=True) for case in cases)


def gradient(*cases: Case) -> tuple[Case, ...]:
    return tuple(replace(case, operator="gradient") for case in cases)


# Layers that several fields decide. Those with one tap to a branch, or with taps apart, never are Winograd's.
ONE_TAP = (Case(64, 32, 3, 3, 8000), Case(128, 48, 2, 2, 6000), Case(192, 32, 4, 4, 3000))
TAPS_APART = (Case(64, 64, 3, 1, 6000, dilation=4), Case(192, 96, 3, 1, 2000, dilation=2))
DEEP = (Case(512, 128, 3, 1, 600, dilation=2), Case(768, 64, 2, 2, 1200), Case(640, 48, 5, 5, 600))
NARROW = cold(Case(512, 1, 16, 8, 4000), Case(128, 2, 4, 2, 16000), Case(256, 1, 8, 8, 8000), Case(48, 4, 4, 4, 30000))
DEPTHWISE = (Case(64, 64, 12, 2, 16000, groups=64), Case(24, 24, 8, 4, 40000, groups=24))
LARGE_STRIDES = (Case(64, 2, 100, 50, 1000), Case(256, 1, 1024, 256, 100), Case(80, 4, 512, 128, 100))
WINOGRAD = (
    Case(128, 64, 3, 1, 4000),
    Case(512, 64, 5, 2, 800),
    Case(512, 64, 7, 4, 600),
    Case(256, 32, 20, 10, 600),
    Case(1024, 64, 4, 2, 500),
)
FUSED_WINOGRAD = (
    Case(64, 32, 4, 2, 8000),
    Case(128, 64, 4, 2, 2500),
    Case(256, 64, 4, 2, 1200),
    Case(64, 64, 4, 1, 4000),
)
LARGE_WEIGHTS = (Case(512, 256, 16, 8, 64), Case(1024, 128, 16, 8, 48), Case(1024, 256, 4, 4, 64))
FEW_CHANNELS = gradient(
    Case(4, 4, 16, 8, 4000),
    Case(2, 16, 8, 4, 4000),
    Case(8, 32, 4, 2, 4000),
    Case(16, 8, 4, 2, 8000),
    Case(1, 4, 8, 4, 30000),
    Case(32, 4, 4, 2, 4000),
    Case(48, 2, 8, 4, 4000),
)
DILATED = gradient(
    Case(512, 5, 3, 1, 2000, dilation=2),
    Case(512, 4, 4, 1, 2000, dilation=2),
    Case(256, 4, 3, 1, 3000, dilation=4),
    Case(128, 5, 3, 1, 6000, dilation=4),
)
WIDE = gradient(Case(256, 64, 16, 8, 200), Case(512, 128, 4, 2, 300), Case(64, 640, 2, 2, 1000))

SWEEPS = (
    Sweep("transposes", instruction_sets, (
        Case(512, 64, 16, 8, 400), Case(192, 96, 5, 5, 1000), Case(64, 2, 100, 50, 1000), Case(80, 40, 9, 9, 2000),
        Case(64, 32, 4, 2, 4000, operator="convolution"), Case(64, 32, 6, 6, 2000, operator="convolution"),
        *gradient(Case(64, 32, 4, 2, 2000), Case(4, 64, 8, 4, 4000)),
    )),
    Sweep("tile.x_bytes", scaled(1 / 2, 2 / 3, 3 / 2, 2, 4), (*ONE_TAP, *TAPS_APART, *cold(*ONE_TAP[:2]))),
    Sweep("tile.x_columns", scaled(1 / 2, 3 / 2, 2), DEEP),
    Sweep("tile.x_most_bytes", scaled(1 / 2, 3 / 4, 3 / 2), (
        Case(1024, 64, 3, 1, 800, dilation=2), Case(1280, 32, 4, 4, 800), Case(2048, 32, 2, 2, 600),
    )),
    Sweep("tile.column_bytes", scaled(1 / 2, 3 / 2, 2), (
        Case(16, 1, 100, 50, 4000), Case(16, 4, 20, 10, 8000), Case(4, 1, 256, 128, 4000), Case(16, 8, 2, 2, 20000),
    )),
    Sweep("tile.most_columns", scaled(1 / 2, 2, 4), (
        Case(4, 2, 4, 2, 60000), Case(2, 4, 3, 1, 60000), Case(8, 1, 8, 4, 30000),
    )),
    Sweep("tile.single_columns", scaled(1 / 4, 1 / 2, 2), (*DEPTHWISE, *cold(*DEPTHWISE))),
    Sweep("tile.block_rows", among(32, 48, 64, 96, 128), LARGE_STRIDES),
    Sweep("tile.direct_rows", among(8, 16, 32, 64), DEEP),
    Sweep("tile.pieces_rows", among(128, 256, 512), (Case(6144, 96, 3, 3, 80), Case(1536, 192, 4, 2, 150))),
    Sweep("load.copy_above", among(256, 512, 1024, 2048, 4096), (
        Case(64, 128, 3, 3, 2000), Case(64, 256, 3, 3, 1200), Case(32, 512, 3, 3, 1000), Case(32, 512, 6, 6, 500),
    )),
    Sweep("load.split_below", among(16, 24, 32, 48, 64), (
        *cold(Case(64, 8, 4, 4, 16000), Case(64, 16, 3, 3, 12000), Case(64, 12, 2, 2, 16000)),
        *cold(Case(32, 64, 1, 1, 20000)), Case(64, 8, 4, 4, 800), Case(64, 16, 3, 3, 800),
    )),
    Sweep("load.narrow_above", among(8, 16, 24, 32, 64), cold(
        Case(12, 8, 4, 4, 40000), Case(20, 8, 4, 4, 30000), Case(28, 8, 4, 4, 20000), Case(48, 8, 4, 4, 16000),
    )),
    Sweep("load.narrow_per_use", among(1, 2, 4, 8), NARROW),
    Sweep("load.narrow_most", among(8, 16, 32, 64), NARROW),
    Sweep("load.narrow_bytes", scaled(1 / 2, 2), NARROW),
    Sweep("load.few_samples", among(0, 8, 16, 32), (
        Case(32, 16, 2, 1, 2, batch=10), Case(32, 16, 3, 3, 6, batch=16), Case(64, 16, 3, 3, 12, batch=16),
        Case(32, 16, 3, 3, 24, batch=16),
    )),
    Sweep("fused.depth", among(0, 256, 384, 512, 768, 1024), (
        Case(192, 32, 2, 2, 4000), Case(320, 32, 2, 2, 2500), Case(448, 32, 4, 4, 1200), Case(640, 32, 2, 2, 1500),
        Case(896, 16, 4, 4, 1200),
    )),
    Sweep("fused.depth_of_one", among(0, 512, 768, 1024, 1536, 2048), (
        Case(384, 64, 1, 1, 2000), Case(640, 64, 1, 1, 1500), Case(896, 64, 1, 1, 1000), Case(1280, 64, 1, 1, 800),
        Case(1792, 64, 1, 1, 600),
    )),
    Sweep("winograd.gain", among(1.0, 1.03, 1.06, 1.1, 1.2, math.inf), (
        Case(256, 48, 5, 2, 1600), Case(320, 48, 3, 1, 2500), Case(96, 64, 5, 1, 2000), Case(512, 32, 3, 2, 2000),
        Case(64, 16, 20, 10, 4000), Case(512, 32, 7, 1, 1000), Case(384, 64, 12, 4, 400), *WINOGRAD[:3],
    )),
    Sweep("winograd.depth", among(16, 24, 32, 48, 64), (
        Case(20, 32, 4, 2, 16000), Case(24, 64, 4, 2, 8000), Case(28, 32, 4, 1, 12000), Case(40, 32, 4, 2, 10000),
        Case(56, 32, 4, 2, 8000),
    )),
    Sweep("winograd.per_run", among(0, 5, 10, 20, 30), (
        Case(64, 64, 7, 1, 6000, dilation=3), Case(64, 64, 11, 1, 4000, dilation=5),
        Case(96, 96, 7, 1, 4000, dilation=9), Case(128, 128, 3, 1, 3000, dilation=3),
        Case(256, 256, 3, 1, 1000, dilation=5),
    )),
    Sweep("winograd.narrow_gain", among(None, 1.0, 1.25, 1.5), cold(
        Case(64, 4, 8, 4, 12000), Case(128, 2, 16, 8, 5000), Case(32, 8, 4, 2, 16000), Case(96, 5, 6, 3, 8000),
        Case(256, 4, 8, 4, 3000), Case(48, 16, 2, 1, 16000),
    )),
    Sweep("winograd.x_bytes", scaled(1 / 2, 2 / 3, 4 / 3, 2), (*WINOGRAD, *FUSED_WINOGRAD)),
    Sweep("winograd.fused_gain", among(1.0, 1.04, 1.07, 1.12, 1.2, math.inf), (
        Case(32, 32, 4, 2, 12000), Case(40, 16, 8, 4, 8000), Case(48, 32, 6, 3, 4000), Case(64, 8, 8, 2, 8000),
        Case(64, 64, 4, 1, 4000), Case(32, 32, 2, 1, 12000), *FUSED_WINOGRAD[:2],
    )),
    Sweep("winograd.fused_depth", scaled(1 / 2, 3 / 4, 3 / 2, 2), (
        Case(160, 48, 6, 3, 2000), Case(224, 48, 6, 3, 1500), Case(320, 48, 6, 3, 1000), Case(448, 48, 6, 3, 800),
        Case(80, 32, 8, 2, 4000), Case(192, 32, 8, 2, 2000),
    )),
    Sweep("winograd.fused_depth_of_whole", scaled(1 / 2, 3 / 4, 3 / 2, 2), (
        Case(160, 64, 4, 2, 2000), Case(224, 64, 4, 2, 1500), Case(320, 64, 4, 2, 1000), Case(448, 64, 4, 2, 800),
        Case(640, 64, 4, 2, 600), Case(896, 64, 4, 2, 400),
    )),
    Sweep("winograd.fused_block_bytes", scaled(1 / 4, 1 / 2, 2 / 3, 4 / 3), (
        Case(128, 64, 8, 2, 1200), Case(256, 64, 4, 1, 1200), Case(384, 64, 4, 2, 800), Case(512, 64, 4, 2, 600),
        *FUSED_WINOGRAD[1:3],
    )),
    Sweep("winograd.fused_columns", among(64, 96, 128, 192, 256), (*FUSED_WINOGRAD[:2], *cold(*FUSED_WINOGRAD[:2]))),
    Sweep("winograd.edge_columns", among(16, 32, 64, 128), (
        Case(64, 32, 4, 2, 60, padding=1), Case(64, 32, 4, 2, 300, padding=1), Case(128, 64, 4, 2, 130, padding=1),
        Case(64, 32, 8, 4, 100, batch=4, padding=2),
    )),
    Sweep("gemm.least", among(None, 8, 16, 32, 64), (
        Case(12, 8, 3, 1, 8000, dilation=4), Case(24, 16, 3, 1, 6000, dilation=4), Case(48, 48, 3, 1, 4000, dilation=4),
        Case(256, 64, 5, 3, 600, dilation=2), *DEEP[:2],
    )),
    Sweep("gradient.rows", among(128, 256, 512, 1024), WIDE),
    Sweep("gradient.column_bytes", scaled(1 / 4, 1 / 2, 3 / 2, 2), WIDE),
    Sweep("gradient.steps", scaled(1 / 4, 1 / 2, 2), (
        *FEW_CHANNELS, *gradient(Case(1, 1, 64, 1, 8000), Case(8, 1, 16, 8, 8000), Case(4, 4, 5, 1, 8000)),
    )),
    Sweep("gradient.unfold", scaled(1 / 2, 2, 4), FEW_CHANNELS),
    Sweep("gradient.unfold_dilated", scaled(1 / 4, 1 / 2, 2), DILATED),
    Sweep("gradient.transpose", scaled(1 / 2, 2, 4), FEW_CHANNELS),
    Sweep("gradient.along_time", scaled(1 / 2, 2 / 3, 3 / 2, 2), FEW_CHANNELS),
    Sweep("batch.merge_gain", among(1.0, 1.02, 1.05, 1.1, 1.2), (
        Case(32, 16, 2, 2, 68, batch=32), Case(32, 16, 3, 3, 100, batch=32), Case(16, 8, 4, 4, 130, batch=32),
        Case(16, 8, 3, 3, 200, batch=32), Case(32, 16, 2, 2, 245, batch=16),
    )),
    Sweep("batch.short_samples", among(1, 8, 16, 24, 32, 48, 64), (
        Case(1024, 128, 16, 8, 6), Case(1024, 128, 16, 8, 12), Case(1024, 128, 16, 8, 20), Case(1024, 128, 16, 8, 28),
        Case(1024, 128, 16, 8, 40), Case(256, 128, 4, 2, 28), Case(256, 128, 4, 2, 56),
    )),
    Sweep("memory.rows_ahead", among(4, 8, 16, 32), (
        *cold(*ONE_TAP[1:], Case(512, 128, 3, 1, 600, dilation=2)), *gradient(*cold(Case(64, 32, 4, 2, 2000))),
    )),
    Sweep("memory.weights_ahead", scaled(1 / 2, 2, 4), LARGE_WEIGHTS),
    Sweep("memory.y_ahead", scaled(1 / 2, 2), cold(*DEPTHWISE, Case(8, 32, 4, 4, 8000), Case(4, 64, 3, 3, 8000))),
    Sweep("memory.x_stays", scaled(1 / 2, 2, 4), (*DEEP, *ONE_TAP[2:], *cold(*DEEP[:2]))),
    Sweep("memory.y_stays", scaled(1 / 2, 2, 4), (
        Case(64, 64, 12, 2, 1500, groups=64), Case(64, 64, 12, 2, 3000, groups=64),
        Case(64, 64, 12, 2, 6000, groups=64), Case(8, 32, 4, 4, 3000),
    )),
    Sweep("memory.x_two_channels", among(False, True), (
        Case(32, 16, 4, 4, 16000), *ONE_TAP[:1], *cold(Case(32, 16, 4, 4, 16000), *ONE_TAP[:2], *FUSED_WINOGRAD[:2]),
    )),
)  # fmt: skip

NOT_SWEPT = {
    "name": "a name",
    "measured": "a date",
    "batch.merge_length": "a promise: only signals up to this length may have bits that depend on the batch",
    "gemm.multiply_adds": "a limit of OpenBLAS: beyond it a product starts threads of its own",
    "winograd.taps": "a limit on the tile's width",
    "load.narrow_tiles": "serves several threads; the sweep runs on one",
    "memory.pack_serial": "serves several threads; the sweep runs on one",
}

#: Winograd's costs are fitted together to what its kernels gain on `COST_CASES`, none of which memory binds.
COSTS = ("winograd.per_channel", "winograd.per_row", "winograd.per_odd_row", "winograd.load_bound")
COST_CASES = (
    Case(32, 32, 4, 2, 8000), Case(64, 32, 4, 2, 6000), Case(128, 64, 4, 2, 2000), Case(256, 128, 4, 2, 500),
    Case(48, 32, 6, 3, 4000), Case(128, 32, 8, 2, 2000), Case(64, 64, 4, 1, 3000), Case(64, 32, 8, 4, 3000),
    Case(64, 64, 3, 1, 4000), Case(128, 64, 3, 1, 2500), Case(256, 128, 3, 1, 600), Case(128, 64, 7, 1, 1200),
    Case(128, 64, 5, 2, 2000), Case(256, 64, 7, 3, 1000), Case(512, 64, 5, 2, 700), Case(256, 64, 10, 5, 500),
    Case(512, 64, 16, 8, 200), Case(192, 48, 12, 4, 800),
)  # fmt: skip

#: Layers that need much of a thread's workspace, in one operator or type: a candidate has to fit all of them.
EXTREMES = (
    Case(512, 256, 16, 8, 1), Case(2048, 1024, 20, 10, 1), Case(1026, 1, 1024, 256, 1), Case(512, 1, 16, 8, 1),
    Case(512, 512, 12, 2, 1, groups=512), Case(64, 64, 5, 3, 1, dilation=2), Case(1, 1, 10_000, 1, 1),
    Case(20_000, 4, 3, 1, 1, dilation=50_000), Case(6144, 512, 3, 3, 1), Case(1536, 512, 4, 2, 1),
    Case(512, 512, 4, 2, 1), Case(512, 1, 1, 1, 1), Case(256, 1, 1, 1, 1), Case(128, 1, 1, 1, 1), Case(64, 4, 2, 1, 1),
    Case(16, 16, 2, 1, 1), Case(1, 512, 1, 1, 1), Case(4, 1, 100, 50, 1), Case(1, 64, 4, 2, 1),
)  # fmt: skip


def fields_of(row: Any) -> dict[str, Any]:
    """The values of a row by their dotted names."""
    found = {}
    for each in fields(row):
        value = getattr(row, each.name)
        if is_dataclass(value):
            found |= {f"{each.name}.{name}": inner for name, inner in fields_of(value).items()}
        else:
            found[each.name] = value
    return found


def value_of(row: Any, field: str) -> Any:
    return functools.reduce(getattr, field.split("."), row)


def with_values(row: Any, values: dict[str, Any]) -> Any:
    """The row with other values of some fields."""
    for field, value in values.items():
        group, _, name = field.rpartition(".")
        row = replace(row, **{group: replace(getattr(row, group), **{name: value})} if group else {name: value})
    return row


def candidates(sweep: Sweep, row: Any) -> list[Any]:
    """The candidates of a sweep without the value in force."""
    in_force = value_of(row, sweep.field)
    return [value for value in dict.fromkeys(sweep.candidates(in_force)) if value != in_force]
