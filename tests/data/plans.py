# SPDX-License-Identifier: MIT
"""Wrote plans.json: what the policy decided before each kernel had a room of its own.

It ran on commit cb31509, whose `convt1d.dispatch` it imports, and runs on no later one::

    git worktree add /tmp/old cb31509 && cp tests/data/plans.py /tmp/old/ && cd /tmp/old && python plans.py > plans.json
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from convt1d import dispatch, geometry

MACHINES = {
    "baseline": dispatch.Machine(0, 4, 16, (4, 3, 3, 2)),
    "avx2": dispatch.Machine(1, 4, 32, (6, 5, 4, 3)),
    "zen4": dispatch.Machine(2, 8, 64, (8, 8, 8, 5, 5, 4, 3, 3)),
    "intel_avx512": dispatch.Machine(2, 8, 64, (8, 8, 8, 5, 5, 4, 3, 3), whole=True),
}
# C_in, C_out, K, stride, padding, output_padding, groups, dilation
MORE = [
    (512, 1, 16, 8),  # memory binds
    (256, 2, 7, 1),
    (2048, 1024, 20, 10),
    (4096, 64, 5, 1),  # x in pieces
    (1536, 768, 16, 8),
    (20_000, 4, 3, 1, 0, 0, 1, 50_000),
    (1, 1, 10_000),
    (1, 1, 3, 100_000),
    (64, 2, 300, 150),  # several blocks of branches
    (1, 1, 512, 256),
    (96, 48, 7, 3, 1),  # branches that lack the last tap
    (96, 48, 9, 3, 1),
    (128, 64, 6, 2),
    (40, 24, 3, 1, 1),
    (40, 24, 5, 1, 2),
    (16, 16, 11, 1),
    (8, 8, 4, 2),
    (3, 5, 7, 4),
    (512, 512, 12, 2, 5, 0, 512),  # depthwise
    (64, 64, 7, 1, 3, 0, 64, 3),
    (64, 128, 8, 4, 2, 0, 64),
    (64, 64, 5, 3, 2, 1, 2, 2),
    (128, 64, 4, 2, 0, 0, 1, 2),
    (32, 16, 8, 4, 2, 0, 4),
]
CONVOLUTIONS = [(64, 32, 7, 1, 3), (128, 128, 3, 1, 1), (32, 64, 8, 4, 2), (512, 1, 7, 1, 3), (64, 64, 7, 1, 9, 3), (6, 4, 7, 3)]
CALLS = ((1, 1000), (3, 40), (5, 150))


def entry(checked, dtype, machine, channels_last, short):
    plan = dispatch.plan(checked, np.dtype(dtype), machine, channels_last, short)
    cuts = []
    for batch, length in CALLS:
        try:
            window = checked.window(length)
        except ValueError:
            continue
        cut = dispatch.tiling(plan, window.start + plan.reach, batch, length, window.length, True)
        cuts.append([cut.tile, cut.tiles, cut.merged, cut.streams, cut.first, cut.columns, cut.margin])
    return {
        "kernel": plan.kernel,
        "tile": [plan.tile, plan.widest, plan.unit, plan.in_place],
        "packing": [plan.piece_channels, plan.piece_taps, plan.column_rows, plan.group_size],
        "blocks": hashlib.sha256(plan.blocks.astype("<i8").tobytes()).hexdigest()[:16],
        "cuts": cuts,
    }


def main():
    os.environ.pop("CONVT1D_KERNEL", None)
    layers = json.loads((Path(dispatch.__file__).parents[1] / "bench" / "layers.json").read_text())["layers"]
    given = [("layer", (ci, co, k, s, p, op, g, d)) for _, _, ci, co, k, s, p, op, d, g, _ in layers]
    given += [("layer", args) for args in MORE] + [("convolution", args) for args in CONVOLUTIONS]
    rows = []
    for kind, args in given:
        checked = (geometry.check if kind == "layer" else geometry.check_convolution)(*args)
        for dtype, channels_last, short in (
            *(("float32", False, False), ("float64", False, False), ("complex64", False, False)),
            *(("float32", True, False), ("float32", False, True)),
        ):
            found = {name: entry(checked, dtype, m, channels_last, short) for name, m in MACHINES.items()}
            rows.append([kind, args, dtype, channels_last, short, found])
    print("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
