# SPDX-License-Identifier: MIT
"""The golden table: plans of many layers on four machines, as they were before each kernel had a room of its own."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from machines import MACHINES

import convt1d
from convt1d import geometry
from convt1d.cpu import kernels, plan
from convt1d.cpu.problem import problem_of

TABLE = json.loads((Path(__file__).parents[1] / "data" / "plans.json").read_text())
CALLS = ((1, 1000), (3, 40), (5, 150))


def decisions(checked, dtype, machine, channels_last, short):
    chosen = kernels.choose(problem_of(checked, np.dtype(dtype), channels_last, short), machine)
    packing, tile = chosen.packing, chosen.tile
    cuts = []
    for batch, length in CALLS:
        try:
            window = checked.window(length)
        except ValueError:
            continue
        left = window.start + chosen.problem.reach
        cut = plan.cut(chosen, machine, left, batch, length, window.length, True)
        cuts.append([cut.tile, cut.tiles, cut.merged, cut.nontemporal, cut.first, cut.columns, cut.history])
    return {
        "kernel": chosen.kernel,
        "tile": [tile.target, tile.widest, tile.unit, tile.in_place],
        "packing": [packing.piece_channels, packing.piece_taps, packing.rows, packing.group_size],
        "blocks": hashlib.sha256(packing.blocks.astype("<i8").tobytes()).hexdigest()[:16],
        "cuts": cuts,
    }


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.tuning.name)
def test_plans_are_those_of_the_table(machine):
    for kind, args, dtype, channels_last, short, expected in TABLE:
        checked = (geometry.check if kind == "layer" else geometry.check_convolution)(*args)
        found = decisions(checked, dtype, machine, channels_last, short)
        assert found == expected[machine.tuning.name], (kind, args, dtype, channels_last, short)


def test_the_table_has_every_kernel():
    assert {entry["kernel"] for row in TABLE for entry in row[-1].values()} == set(kernels.names())


@pytest.mark.parametrize("args", [(512, 1, 16, 8), (256, 2, 7, 1), (64, 32, 4, 2), (512, 256, 16, 8)])
def test_a_plan_does_not_depend_on_which_length_came_first(args):
    def plans(*lengths):
        layer = convt1d.ConvTranspose1d(*args[:3], stride=args[3], rng=0)
        for length in lengths:
            layer(np.ones((args[0], length), np.float32))
        found = {}
        for (_, _, short), (kernel, _) in layer._operator._kernels.items():
            packing, tile = kernel.plan.packing, kernel.plan.tile
            found[short] = kernel.plan.kernel, packing.piece_channels, packing.blocks.tolist(), tile
        return found

    assert plans(10, 5000) == plans(5000, 10)
    assert set(plans(10, 5000)) == {False, True}
