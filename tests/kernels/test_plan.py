# SPDX-License-Identifier: MIT
"""Plans: what they promise, which kernel takes what, and why others refuse."""

from dataclasses import replace

import machines
import numpy as np
import pytest

from convt1d import geometry
from convt1d.arrays import leading_dimension
from convt1d.cpu import kernels, plan
from convt1d.cpu.problem import problem_of

LAYERS = [
    # C_in, C_out, K, stride, padding, output_padding, groups, dilation
    (512, 256, 16, 8, 4, 0, 1, 1),
    (2048, 1024, 20, 10, 5, 0, 1, 1),
    (1026, 1, 1024, 256, 0, 0, 1, 1),
    (512, 512, 12, 2, 5, 0, 512, 1),
    (512, 1, 16, 8, 0, 0, 1, 1),
    (64, 64, 5, 3, 2, 1, 2, 2),
    (1, 1, 10_000, 1, 0, 0, 1, 1),
    (1, 1, 3, 100_000, 0, 0, 1, 1),
    (20_000, 4, 3, 1, 0, 0, 1, 50_000),
]


@pytest.mark.parametrize("machine", machines.MACHINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("args", LAYERS)
@pytest.mark.parametrize("tile", ["", "1", "100000"])
def test_workspace_stays_under_its_promise(machine, dtype, args, tile, monkeypatch):
    monkeypatch.setenv("CONVT1D_TILE", tile)
    dtype = np.dtype(dtype)
    checked = geometry.check(*args)
    for kernel in kernels.names():
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        chosen = kernels.choose(problem_of(checked, dtype), machine)
        packing, problem = chosen.packing, chosen.problem
        assert max(o * (past - first) for _, o, _, _, first, past, _ in packing.blocks) <= packing.rows
        assert packing.piece_channels >= 1
        ldx = leading_dimension(chosen.tile.widest + (packing.piece_taps - 1) * problem.step)
        widest = plan.workspace(chosen, ldx, leading_dimension(chosen.tile.widest))
        assert widest.size + 64 * problem.size <= 2 * 1024 * 1024
        for length in (1, 50, 1000, 100_000):
            cut = plan.cut(chosen, machine, 0, 2, length, checked.output_length(length))
            assert cut.tile <= chosen.tile.widest
            assert cut.workspace.size <= widest.size


@pytest.mark.parametrize("machine", machines.MACHINES)
@pytest.mark.parametrize("args", LAYERS[:6])
def test_blocks_cover_every_row_once(machine, args, monkeypatch):
    for kernel in kernels.names():
        monkeypatch.setenv("CONVT1D_KERNEL", kernel)
        chosen = kernels.choose(problem_of(geometry.check(*args), np.dtype("float32")), machine)
        columns = chosen.columns
        outputs = args[1] // args[6]
        entries = list(zip(columns.branch.tolist(), columns.step.tolist(), strict=True))
        assert len(set(entries)) == len(entries) == chosen.problem.count * chosen.alignment
        seen = np.zeros((outputs, len(entries)), int)
        for o0, width, e0, e1, branch0, branch1, _ in chosen.packing.blocks:
            steps = range(chosen.alignment)
            assert sorted(entries[e0:e1]) == [(b, step) for b in range(branch0, branch1) for step in steps]
            seen[o0 : o0 + width, e0:e1] += 1
        assert (seen == 1).all()


@pytest.mark.parametrize(
    ("args", "chosen"),
    [
        # layer: on the baseline, AVX2, a Zen 4, an Intel server
        ((512, 256, 16, 8), ["gemm", "winograd", "winograd", "fused_winograd"]),
        ((512, 256, 16, 8, 0, 0, 1, 3), ["gemm", "direct", "direct", "direct"]),  # taps that are not neighbours
        ((64, 32, 4, 2), ["gemm", "winograd", "fused_winograd", "fused_winograd"]),
        ((16, 8, 4, 2), ["gemm", "fused", "fused", "fused"]),
        ((1024, 1, 16, 8), ["gemm", "direct", "direct", "direct"]),  # memory binds
        ((64, 32, 5, 3, 0, 0, 1, 2), ["gemm", "direct", "direct", "direct"]),
        ((64, 64, 12, 2, 0, 0, 64), ["direct", "fused", "fused", "fused"]),  # depthwise
    ],
)
def test_choice_of_kernel_is_readable(args, chosen):
    problem = problem_of(geometry.check(*args), np.dtype("float32"))
    assert [kernels.choose(problem, machine).kernel for machine in machines.MACHINES] == chosen


def test_a_refusal_says_why():
    deep = problem_of(geometry.check(512, 256, 16, 8), np.dtype("float32"))
    refused = kernels.choose(replace(deep, short=True), machines.ZEN4).refused
    assert list(refused) == ["fused_winograd", "winograd", "fused", "gemm"]
    assert "few samples" in refused["winograd"]
    assert "more than 512 products" in refused["fused"]
    wide = problem_of(geometry.check(64, 32, 4, 2), np.dtype("float32"))
    assert kernels.choose(wide, machines.AVX2).refused["fused_winograd"] == "the instruction set has no 32 registers"


def test_a_forced_kernel_that_cannot_be_used(monkeypatch):
    """The usual choice is made, and says why."""
    monkeypatch.setenv("CONVT1D_KERNEL", "fused")
    chosen = kernels.choose(problem_of(geometry.check(64, 32, 5, 3, dilation=2), np.dtype("float32")), machines.ZEN4)
    assert chosen.kernel == "direct"
    assert "do not lie side by side" in chosen.refused["fused"]
    monkeypatch.setenv("CONVT1D_KERNEL", "fastest")
    with pytest.raises(ValueError, match=r"CONVT1D_KERNEL must be one of fused_winograd, .*, got 'fastest'"):
        kernels.choose(chosen.problem, machines.ZEN4)


def test_gain_of_winograds_products():
    def gain(channels, taps, long, others, machine=machines.ZEN4, fused_rows=0):
        given = problem_of(geometry.check(channels, 1, 2), np.dtype("float32"))
        problem = replace(given, channels=channels, outputs=1, count=long + others, long=long, taps=taps)
        return kernels.winograd.estimate(problem, machine, fused_rows)

    intel = machines.INTEL
    assert 1.25 < gain(channels=512, taps=2, long=2048, others=0) < 4 / 3  # three products for four
    assert 1.3 < gain(512, 3, 2048, 0) < 3 / 2  # four products for six
    assert gain(512, 2, 1024, 1024) < gain(512, 2, 2048, 0)
    assert gain(512, 2, 4, 0) < 1  # few products for each difference
    assert gain(16, 2, 2048, 0) < 1
    assert 1.2 < gain(512, 2, 2048, 0, intel) < gain(512, 2, 2048, 0)
    assert gain(64, 2, 64, 0, intel) < 1 < gain(64, 2, 64, 0)  # all else takes longer beside faster multiply-adds
    assert gain(128, 3, 128, 0, intel) < gain(128, 4, 128, 0, intel)
    assert gain(64, 2, 64, 0, intel) < gain(64, 2, 64, 0, intel, fused_rows=8)  # no sums are kept in between
    assert gain(64, 2, 320, 0, intel, fused_rows=5) < gain(64, 2, 320, 0, intel, fused_rows=8)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((128, 64, 4, 2), True),
        ((128, 64, 5, 2), False),  # phases of three taps and of two
        ((128, 64, 6, 2), False),  # three taps
        ((128, 64, 32, 16), False),  # more phases than a register block has rows
        ((128, 64, 4, 2, 0, 0, 1, 2), False),  # taps that are not neighbours
        ((2048, 64, 4, 2), False),  # too deep
        ((128, 1, 4, 2), False),  # too few products for each difference
    ],
)
def test_where_winograds_products_are_fused(args, expected):
    problem = problem_of(geometry.check(*args), np.dtype("float32"))
    assert (kernels.choose(problem, machines.ZEN4).kernel == "fused_winograd") == expected
    for machine in (machines.BASELINE, machines.AVX2):
        assert kernels.choose(problem, machine).kernel != "fused_winograd"
