# SPDX-License-Identifier: MIT
"""bench/tune.py: every tuned number is swept or said not to be, and a small sweep has the structure of a large one."""

import ast
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import machines
import pytest

from convt1d.cpu import _runtime, tuning

BENCH = Path(__file__).parents[2] / "bench"
ROW = tuning.ZEN4


@pytest.fixture(scope="module", autouse=True)
def bench_on_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield


@pytest.fixture
def modules():
    """The script's modules; the row in force is in force again afterwards."""
    import race
    import sweeps
    import tune

    row = _runtime.machine().tuning
    yield tune, race, sweeps
    _runtime.use(row)


def test_every_field_is_swept_or_said_not_to_be(modules):
    _, _, sweeps = modules
    swept = [each.field for each in sweeps.SWEEPS]
    known = [*swept, *sweeps.COSTS, *sweeps.NOT_SWEPT]
    assert sorted(known) == sorted(sweeps.fields_of(ROW))
    assert all(sweeps.NOT_SWEPT.values())


def test_every_field_is_documented(modules):
    """In docs/tuning.md, in bold, under its group's heading."""
    _, _, sweeps = modules
    sections = (BENCH.parent / "docs" / "tuning.md").read_text(encoding="utf-8").split("\n## ")
    for name in sweeps.fields_of(ROW):
        group, _, field = name.rpartition(".")
        if group:
            (section,) = [text for text in sections if text.splitlines()[0].endswith(f": `{group}`")]
            titles = "".join(line for line in section.splitlines() if line.startswith("**"))
            assert f"`{field}`" in titles, name


@pytest.mark.parametrize("machine", machines.MACHINES, ids=lambda machine: machine.tuning.name)
def test_candidates_can_be_planned(modules, machine):
    """Each differs from the value in force, has its type, and makes some plan on the machines it is for differ."""
    _, race, sweeps = modules
    idle = set()
    for each in sweeps.SWEEPS:
        in_force = sweeps.value_of(machine.tuning, each.field)
        values = sweeps.candidates(each, machine.tuning)
        assert in_force not in values
        before = {case: race.fingerprint(case, machine.tuning, machine) for case in each.cases}
        assert None not in before.values(), each.field
        changes = 0
        for value in values:
            if None not in (value, in_force) and math.inf != value:
                assert isinstance(value, type(in_force)) or in_force == math.inf
            row = sweeps.with_values(machine.tuning, {each.field: value})
            changes += sum(race.fingerprint(case, row, machine) != before[case] for case in each.cases)
        if not changes:
            idle.add(each.field)
    if machine.instruction_set == "avx512":
        assert not idle


def test_a_sweep_of_one_field(modules):
    tune, race, sweeps = modules
    arena = race.Arena(1 << 20)
    case = sweeps.Case(4, 2, 4, 2, 3000)
    each = sweeps.Sweep("tile.most_columns", sweeps.scaled(1 / 2), (case, replace(case, cold=True)))
    row = replace(_runtime.machine().tuning, tile=replace(ROW.tile, most_columns=1024))
    verdict = race.sweep(each, row, 0.02, arena)
    assert verdict.in_force == 1024
    assert verdict.best == 512
    assert verdict.noise >= 1
    (candidate,) = verdict.candidates
    assert candidate["layers"].keys() == {str(case) for case in each.cases}
    assert verdict.proposed == (512 if verdict.propose else None)
    nothing = race.sweep(sweeps.Sweep("gradient.rows", sweeps.among(256), (case,)), row, 0.02, arena)
    assert nothing.remark == "no candidate changes a plan"
    assert not nothing.propose
    assert len(list(tune.table([verdict, nothing]))) == 3


def test_candidates_fit_the_workspace(modules):
    """Twice the bytes of a gradient's block do not fit for wide layers, though they do for others."""
    _, race, sweeps = modules
    known = race.overflows(machines.ZEN4.tuning, machines.ZEN4)
    row = sweeps.with_values(machines.ZEN4.tuning, {"gradient.column_bytes": 2048})
    assert race.overflows(row, machines.ZEN4) - known
    each = sweeps.Sweep("gradient.column_bytes", sweeps.among(512, 2048), sweeps.gradient(sweeps.Case(8, 8, 4, 2, 100)))
    assert race.sweep(each, _runtime.machine().tuning, 0.01, race.Arena(1 << 20)).too_large == [2048]


@pytest.mark.parametrize("operator", ["gradient", "convolution"])
def test_a_sweep_of_gradients(modules, operator):
    _, race, sweeps = modules
    case = sweeps.Case(4, 2, 4, 2, 500, batch=2, operator=operator)
    each = sweeps.Sweep("memory.rows_ahead", sweeps.among(4), (case,))
    assert race.sweep(each, _runtime.machine().tuning, 0.01, race.Arena(1 << 20)).best == 4


def test_the_fit_finds_the_costs_that_made_the_gains(modules):
    _, race, sweeps = modules
    row, on = tuning.INTEL_AVX512, machines.INTEL
    costs = {name: sweeps.value_of(row, name) for name in sweeps.COSTS}
    measured = []
    for case in sweeps.COST_CASES:
        problem = race.problem_of(race.geometry_of(case)[0], race.FLOAT)
        seconds = {race.OTHER: 1.0, "winograd": 1 / race.winograd.estimate(problem, on)}
        if race.kernels.fused_winograd.unfit(problem, on) == "":
            rows = on.fused_rows(problem.stride, problem.outputs)
            seconds["fused_winograd"] = 1 / race.winograd.estimate(problem, on, rows)
        measured.append(race.Measured(case, seconds, 1.05, 9))
    assert race.fit(measured, row, on) == costs
    assert race.misordered(measured, row, on) == []


def test_costs_of_one_layer(modules):
    _, race, sweeps = modules
    case = sweeps.Case(16, 8, 4, 2, 200)
    verdicts, details = race.sweep_costs(_runtime.machine().tuning, 0.02, race.Arena(1 << 20), [case])
    assert [verdict.field for verdict in verdicts] == list(sweeps.COSTS)
    assert details["fitted"].keys() == set(sweeps.COSTS)
    assert [layer["layer"] for layer in details["layers"]] == [str(case)]


def test_the_row_can_be_pasted(modules):
    tune, _, sweeps = modules
    proposed = {"transposes": "avx512", "winograd.gain": math.inf, "winograd.depth": 48, "load.copy_above": 512}
    text = tune.expression(ROW, proposed, "a machine, 2026-11")
    found = eval(ast.unparse(ast.parse(text).body[0].value), {"replace": replace, "ZEN4": ROW})
    assert asdict(found) == asdict(replace(sweeps.with_values(ROW, proposed), measured="a machine, 2026-11"))


def test_script(tmp_path):
    """One field within a second, into a file; it leaves the affinity and thread settings of this process alone."""
    file = tmp_path / "tuned.json"
    options = ["--fields", "^batch.merge_gain$", "--seconds", "0.5", "--json", str(file)]
    run = subprocess.run([sys.executable, BENCH / "tune.py", *options], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "field" in run.stdout
    document = json.loads(file.read_text())
    (entry,) = document["fields"]
    assert entry["field"] == "batch.merge_gain"
    assert entry["in_force"] == _runtime.machine().tuning.batch.merge_gain
    assert document["not_swept"] == {}


def test_unknown_fields_are_refused(modules, capsys):
    tune, _, _ = modules
    with pytest.raises(SystemExit):
        tune.main(["--fields", "no such field"])
    assert "no such field" in capsys.readouterr().err
