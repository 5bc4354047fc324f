# SPDX-License-Identifier: MIT
"""Rows of tuned numbers against each other, call by call, for `tune.py`.

The calls of a case take turns in random order. Before each timed call comes one that is not recorded: it brings the
candidate's own weights and code back into the caches. A cold case goes round more arrays than the caches hold, so its
x and y come from memory all the same. Figures are medians.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import machine
import numpy as np
from sweeps import COST_CASES, COSTS, EXTREMES, Case, Sweep, candidates, value_of, with_values

from convt1d import geometry, memory
from convt1d.arrays import leading_dimension
from convt1d.cpu import _runtime, kernels
from convt1d.cpu import plan as plans
from convt1d.cpu.gradient import gradient_plan, workspace_bytes
from convt1d.cpu.kernels import winograd
from convt1d.cpu.plan import WORKSPACE
from convt1d.cpu.problem import problem_of
from convt1d.cpu.tuning import Tuning
from convt1d.geometry import ConvGeometry, Geometry
from convt1d.gradients import Backward
from convt1d.operator import Operator

FLOAT = np.dtype(np.float32)
ROUNDS = 401  # of a case at most
FEWEST = 3  # rounds, even where time is up ...
CONVINCING = 7  # ... but after fewer than these nothing is proposed
LEAST_GAIN = 1.01  # less is not proposed
OTHER = "another kernel"  # the first in order of preference that is not Winograd's

Call = Callable[[np.ndarray, np.ndarray], Any]
Places = list[tuple[np.ndarray, np.ndarray]]


@dataclass
class Verdict:
    """What came of a field."""

    field: str
    in_force: Any
    proposed: Any = None
    propose: bool = False
    gain: float = 1.0  # of the proposed value, or else of the best candidate
    noise: float = 1.0
    best: Any = None
    timed: bool = False
    too_large: list[Any] = field(default_factory=list)  # candidates that a workspace would not hold for some layers
    remark: str = ""
    candidates: list[dict[str, Any]] = field(default_factory=list)


# ---- what a row makes of a case ---------------------------------------------------------------------------------


def geometry_of(case: Case) -> tuple[Geometry | ConvGeometry, int]:
    """What runs, and the length of its input."""
    layer = geometry.check(
        case.channels, case.outputs, case.kernel, case.stride, case.padding, 0, case.groups, case.dilation
    )
    if case.operator != "convolution":
        return layer, case.length
    sliding = case.kernel, case.stride, case.padding, case.dilation
    adjoint = geometry.check_convolution(case.outputs, case.channels, *sliding, case.groups)
    return adjoint, layer.output_length(case.length)


def fingerprint(case: Case, row: Tuning, on: Any) -> Hashable | None:
    """All that a row decides of a case on a machine: equal ones need no timing. None: the workspace cannot hold it."""
    on = replace(on, tuning=row)
    checked, length = geometry_of(case)
    always = row.transposes, row.memory.rows_ahead
    if case.operator == "gradient":
        assert isinstance(checked, Geometry)
        cut = gradient_plan(checked, FLOAT, on)
        return (described(cut), *always) if workspace_bytes(cut, checked, FLOAT) <= WORKSPACE else None
    window = checked.window(length)
    short = plans.is_short(row.batch, case.batch, length if isinstance(checked, Geometry) else window.length)
    chosen = kernels.choose(problem_of(checked, FLOAT, False, short), on)
    problem = chosen.problem
    size = case.batch * checked.out_channels * window.length * FLOAT.itemsize
    tiling = plans.cut(
        chosen, on, window.start + problem.reach, case.batch, length, window.length, memory.is_kept(size)
    )
    if tiling.workspace.size + 64 * FLOAT.itemsize > WORKSPACE or tiling.tile < 1 or chosen.packing.piece_channels < 1:
        return None
    x_bytes = chosen.packing.planes * problem.channels * tiling.tile * FLOAT.itemsize
    at_run_time = (
        row.memory.weights_ahead,
        row.memory.x_two_channels,
        row.memory.y_ahead if size > row.memory.y_stays else 0,
        x_bytes > row.memory.x_stays,
        tiling.merged and length < row.load.few_samples,
    )
    packing = chosen.kernel, described(chosen.packing), described(chosen.columns), described(chosen.tile)
    return *packing, described(tiling), *at_run_time, *always


def described(plan: Any) -> tuple[Any, ...]:
    """A dataclass of a plan as something to compare."""
    values = (getattr(plan, name) for name in plan.__dataclass_fields__)
    values = (described(value) if hasattr(value, "__dataclass_fields__") else value for value in values)
    return tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in values)


def overflows(row: Tuning, on: Any) -> set[tuple[Case, str, str]]:
    """Those of `EXTREMES` that a row would need more than a workspace for, by type and operator."""
    on, found = replace(on, tuning=row), set()
    for case in EXTREMES:
        layer, _ = geometry_of(case)
        for dtype in map(np.dtype, ("f4", "f8", "c8", "c16")):
            if workspace_bytes(gradient_plan(layer, dtype, on), layer, dtype) > WORKSPACE:
                found.add((case, dtype.name, "gradient"))
            chosen = kernels.choose(problem_of(layer, dtype), on)
            problem, packing, widest = chosen.problem, chosen.packing, chosen.tile.widest
            ldx = leading_dimension(widest + (packing.piece_taps - 1) * problem.step)
            needed = plans.workspace(chosen, ldx, leading_dimension(widest)).size + 64 * problem.size
            if min(widest, chosen.tile.target, packing.piece_channels) < 1 or needed > WORKSPACE:
                found.add((case, dtype.name, "forward"))
    return found


# ---- the arrays and the calls -----------------------------------------------------------------------------------


class Arena:
    """Memory larger than the caches, from which all cases take x and y in turn."""

    def __init__(self, size: int | None = None):
        if size is None:
            size = min(max(5 * machine.last_level_cache() // 4, 64 << 20), 512 << 20)
            size = min(size, (machine.memory_bytes() or size * 8) // 8)
        self._numbers = _runtime.aligned(size // 4, FLOAT)
        numbers = np.random.default_rng(0).standard_normal(2**18).astype(FLOAT)  # nothing is subnormal
        for start in range(0, self._numbers.size, numbers.size):
            part = self._numbers[start : start + numbers.size]
            part[...] = numbers[: part.size]

    def places(self, case: Case) -> Places:
        """Arrays for a case: one pair, or for a cold case as many as there is room for."""
        checked, length = geometry_of(case)
        if case.operator == "gradient":  # x, and g in the place of y
            shapes = (case.channels, length), (case.outputs, checked.window(length).length)
        else:
            shapes = (checked.in_channels, length), (checked.out_channels, checked.window(length).length)
        sizes = [case.batch * rows * columns for rows, columns in shapes]
        each = [-(-size // 16) * 16 for size in sizes]
        count = self._numbers.size // sum(each) if case.cold else 1
        assert count > case.cold, f"{case} needs more memory than there is to go round"
        found = []
        for place in range(count):
            starts = place * sum(each), place * sum(each) + each[0]
            x, y = (
                self._numbers[start : start + size].reshape(case.batch, *shape)
                for start, size, shape in zip(starts, sizes, shapes, strict=True)
            )
            found.append((x, y))
        return found


@contextlib.contextmanager
def forced(kernel: str) -> Iterator[None]:
    """Force a kernel on what is built meanwhile."""
    before = os.environ.get("CONVT1D_KERNEL")
    try:
        os.environ["CONVT1D_KERNEL"] = kernel
        yield
    finally:
        del os.environ["CONVT1D_KERNEL"]
        if before is not None:
            os.environ["CONVT1D_KERNEL"] = before


def build(case: Case, row: Tuning, weight: np.ndarray, places: Places) -> Call:
    """A call of the case, planned and packed with this row."""
    checked, _ = geometry_of(case)
    call: Call
    if case.operator == "gradient":
        assert isinstance(checked, Geometry)
        backward = Backward(checked, weight)

        def call(x, y):
            return backward(y, x, needs=("weight",), workers=1)
    else:
        operator = Operator(checked, weight, None)

        def call(x, y):
            return operator(x, out=y, workers=1)

    _runtime.use(row)
    call(*places[0])
    return call


def race(calls: Sequence[Call], rows: Sequence[Tuning], places: Places, seconds: float) -> tuple[list[float], int]:
    """The median seconds of each call, made while its row is in use, and the number of rounds."""
    times: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    shuffle = random.Random(0).shuffle
    step = 0
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while len(times[0]) < ROUNDS and (len(times[0]) < FEWEST or time.perf_counter() < end):
            shuffle(order)
            for i in order:
                _runtime.use(rows[i])
                calls[i](*places[step % len(places)])
                x, y = places[(step + 1) % len(places)]
                step += 2
                start = time.perf_counter()
                calls[i](x, y)
                times[i].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return [statistics.median(each) for each in times], len(times[0])


def weight_of(case: Case) -> np.ndarray:
    """Random weights, scaled so that outputs are of order one."""
    shape = case.channels, case.outputs // case.groups, case.kernel
    weight = np.random.default_rng(1).standard_normal(shape, FLOAT)
    fan_in = case.channels // case.groups * max(1, case.kernel // case.stride)
    return weight / np.sqrt(FLOAT.type(case.outputs * case.kernel if case.operator == "convolution" else fan_in))


# ---- a field ----------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """Medians of one case: of the row in force, twice, and of the rows whose fingerprints differ from its."""

    case: Case
    in_force: tuple[float, float]
    others: dict[int, float]  # by the row's number
    rounds: int

    @property
    def base(self) -> float:
        return (self.in_force[0] * self.in_force[1]) ** 0.5

    @property
    def noise(self) -> float:
        return max(self.in_force) / min(self.in_force)


def compare(
    cases: Sequence[Case], row: Tuning, others: Sequence[Tuning], seconds: float, arena: Arena
) -> list[Comparison]:
    """Time all cases that some of the other rows change."""
    on = _runtime.machine()
    kept = {case: fingerprint(case, row, on) for case in cases}
    changed: dict[Case, dict[Hashable, list[int]]] = {}
    for case in cases:
        for number, other in enumerate(others):
            found = fingerprint(case, other, on)
            if None not in (found, kept[case]) and found != kept[case]:
                changed.setdefault(case, {}).setdefault(found, []).append(number)
    end = time.perf_counter() + seconds
    comparisons = []
    for left, (case, kinds) in zip(range(len(changed), 0, -1), changed.items(), strict=True):
        places, weight = arena.places(case), weight_of(case)
        rows = [row, row, *(others[numbers[0]] for numbers in kinds.values())]
        calls = [build(case, each, weight, places) for each in rows]
        medians, rounds = race(calls, rows, places, (end - time.perf_counter()) / left)
        by_number = {n: t for numbers, t in zip(kinds.values(), medians[2:], strict=True) for n in numbers}
        comparisons.append(Comparison(case, (medians[0], medians[1]), by_number, rounds))
    return comparisons


def geometric_mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values) if values else 1.0


def sweep(each: Sweep, row: Tuning, seconds: float, arena: Arena) -> Verdict:
    """Time a field's candidates on the cases whose plans they change."""
    on = _runtime.machine()
    known = overflows(row, on)
    rows = {value: with_values(row, {each.field: value}) for value in candidates(each, row)}
    values = [value for value, other in rows.items() if overflows(other, on) <= known]
    comparisons = compare(each.cases, row, [rows[value] for value in values], seconds, arena)
    verdict = Verdict(each.field, value_of(row, each.field))
    verdict.too_large = [value for value in rows if value not in values]
    if not comparisons:
        verdict.remark = "no candidate changes a plan"
        return verdict
    for number, value in enumerate(values):
        gains = {str(c.case): c.base / c.others[number] for c in comparisons if number in c.others}
        noise = geometric_mean([c.noise for c in comparisons if number in c.others])
        gain = geometric_mean(list(gains.values()))
        verdict.candidates.append({"value": value, "gain": gain, "noise": noise, "layers": gains})
    # The best one is so on all layers of the field, not on the fewest: those that a candidate leaves alone count as 1.
    timed = (candidate for candidate in verdict.candidates if candidate["layers"])
    best = max(timed, key=lambda candidate: len(candidate["layers"]) * math.log(candidate["gain"]))
    settle(verdict, best, min(c.rounds for c in comparisons))
    verdict.remark = f"best: {best['value']}, for {len(best['layers'])} of {len(each.cases)} layers{verdict.remark}"
    return verdict


def settle(verdict: Verdict, best: dict[str, Any], rounds: int) -> None:
    """Propose the best candidate if its gain is beyond doubt."""
    verdict.timed, verdict.best, verdict.gain, verdict.noise = True, best["value"], best["gain"], best["noise"]
    verdict.propose = verdict.gain >= LEAST_GAIN and verdict.gain > verdict.noise and rounds >= CONVINCING
    verdict.propose = verdict.propose and verdict.best != verdict.in_force
    verdict.proposed = verdict.best if verdict.propose else None
    verdict.remark = f", only {rounds} rounds" if rounds < CONVINCING else ""


# ---- Winograd's costs -------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """Seconds of a case by kernel; `OTHER` is what is chosen without Winograd's."""

    case: Case
    seconds: dict[str, float]
    noise: float
    rounds: int

    def of(self, row: Tuning, on: Any) -> float:
        """Seconds with the kernel that a row chooses."""
        checked, _ = geometry_of(self.case)
        kernel = kernels.choose(problem_of(checked, FLOAT), replace(on, tuning=row)).kernel
        return self.seconds.get(kernel, self.seconds[OTHER])


def measure_kernels(cases: Sequence[Case], row: Tuning, seconds: float, arena: Arena) -> list[Measured]:
    """Time each case with Winograd's kernels and without."""
    without = with_values(row, {"winograd.gain": float("inf"), "winograd.fused_gain": float("inf")})
    on, end = _runtime.machine(), time.perf_counter() + seconds
    found = []
    for left, case in zip(range(len(cases), 0, -1), cases, strict=True):
        places, weight = arena.places(case), weight_of(case)
        calls = [build(case, without, weight, places) for _ in range(2)]
        names = []
        for name in ("winograd", "fused_winograd"):
            with forced(name):
                checked, _ = geometry_of(case)
                if kernels.choose(problem_of(checked, FLOAT), on).kernel == name:
                    names.append(name)
                    calls.append(build(case, row, weight, places))
        medians, rounds = race(calls, [row] * len(calls), places, (end - time.perf_counter()) / left)
        base = (medians[0] * medians[1]) ** 0.5
        noise = max(medians[:2]) / min(medians[:2])
        found.append(Measured(case, {OTHER: base, **dict(zip(names, medians[2:], strict=True))}, noise, rounds))
    return found


def fit(measured: Sequence[Measured], row: Tuning, on: Any) -> dict[str, Any]:
    """The costs that foretell the measured gains best.

    The reciprocal of an estimate is linear in the costs, so they are a least-squares solution without negatives, for
    each value of `load_bound`. The errors are relative.
    """
    from scipy.optimize import nnls

    costs = COSTS[:-1]
    solutions = []
    for load_bound in (False, True):
        matrix, target = [], []
        for each in measured:
            problem = problem_of(geometry_of(each.case)[0], FLOAT)
            for kernel in each.seconds.keys() - {OTHER}:
                rows = on.fused_rows(problem.stride, problem.outputs) if kernel == "fused_winograd" else 0

                def reciprocal(cost=None, problem=problem, rows=rows, load_bound=load_bound):
                    values = {name: float(name == cost) for name in costs}
                    values |= {"winograd.load_bound": load_bound, "winograd.depth": 0}
                    return 1 / winograd.estimate(problem, replace(on, tuning=with_values(row, values)), rows)

                gain, free = each.seconds[OTHER] / each.seconds[kernel], reciprocal()
                matrix.append([gain * (reciprocal(cost) - free) for cost in costs])
                target.append(1 - gain * free)
        if target:
            solution, error = nnls(np.array(matrix), np.array(target))
            solutions.append((error, load_bound, [round(cost) for cost in solution.tolist()]))
    if not solutions:
        return {}
    _, load_bound, values = min(solutions)
    return {**dict(zip(costs, values, strict=True)), "winograd.load_bound": load_bound}


def misordered(measured: Sequence[Measured], row: Tuning, on: Any) -> list[str]:
    """Cases for which a row chooses a kernel that was slower than another one, by more than the noise."""
    found = []
    for each in measured:
        loss = each.of(row, on) / min(each.seconds.values())
        if loss > max(LEAST_GAIN, each.noise):
            fastest = min(each.seconds, key=each.seconds.__getitem__)
            found.append(f"{each.case}: {loss:.2f} x slower than {fastest}")
    return found


def sweep_costs(
    row: Tuning, seconds: float, arena: Arena, cases: Sequence[Case] = COST_CASES
) -> tuple[list[Verdict], dict[str, Any]]:
    """Fit Winograd's costs, and compare the kernels chosen by them with those chosen now."""
    on = _runtime.machine()
    measured = measure_kernels(cases, row, seconds, arena)
    fitted = fit(measured, row, on)
    other = with_values(row, fitted)
    gains = {str(m.case): m.of(row, on) / m.of(other, on) for m in measured}
    changed = {name: gain for name, gain in gains.items() if gain != 1}
    candidate = {
        "value": None,
        "gain": geometric_mean(list(changed.values())),
        "noise": geometric_mean([m.noise for m in measured]),
        "layers": changed,
    }
    verdicts = []
    for name in COSTS:
        verdict = Verdict(name, value_of(row, name))
        settle(verdict, candidate | {"value": fitted.get(name, verdict.in_force)}, min(m.rounds for m in measured))
        text = f"fitted: {verdict.best}, other kernels for {len(changed)} of {len(measured)} layers"
        verdict.remark = text + verdict.remark
        verdicts.append(verdict)
    details = {
        "fitted": fitted,
        "misordered": misordered(measured, row, on),
        "misordered_by_fitted": misordered(measured, other, on),
        "layers": [
            {"layer": str(m.case), "seconds": m.seconds, "noise": m.noise, "chosen_over_fitted": gains[str(m.case)]}
            for m in measured
        ],
    }
    return verdicts, details
