# SPDX-License-Identifier: MIT
"""Sweep the numbers of `Tuning` on this machine; print the row it would choose beside the row in force.

    python bench/tune.py                                  every field, in 20 minutes at most
    python bench/tune.py --fields '^winograd' --seconds 300
    python bench/tune.py --list                           the fields, their candidates and layers; nothing is timed
    python bench/tune.py --json FILE.json

Each field is swept by itself, the others as they are in force: `sweeps.py` has the candidates and the layers, all on
one thread in float32. A candidate that does not change the plan of a layer is not timed there. Candidates take turns
call by call, and figures are medians (`race.py`). A gain is a geometric mean over the layers that a candidate changes.
The value in force runs twice; the noise is the geometric mean of the ratios between the two, whichever is slower. The
best candidate is proposed if its gain is above the noise and at least 1.01, after seven rounds or more. Winograd's
costs are fitted to what its kernels gain over the others. Candidates that need more workspace than there is, for some
layers of `EXTREMES`, are left out. At the end all proposed values together are compared with the row in force.

Run it on an idle machine, and the proposed row once more against the tests: `python -m pytest`. docs/tuning.md says
what each number is, and how a row for another class of processors is added.
"""

import argparse
import datetime
import json
import re
import sys
import time
from pathlib import Path

from run import Progress, limit_threads

SECONDS = 1200
TOGETHER = 0.05  # of the time, for the proposed row as a whole
COSTS_SHARE = 3  # fields whose time the costs of Winograd's kernels get: many layers, three kernels


def tasks_for(pattern):
    """The sweeps of the fields that match, and whether the costs are among them."""
    from sweeps import COSTS, SWEEPS

    return [each for each in SWEEPS if re.search(pattern, each.field)], any(re.search(pattern, f) for f in COSTS)


def run_all(pattern, seconds, arena=None):
    """Sweep the fields that match within so many seconds.

    Returns the verdicts by field, the details of the costs (or None), and the comparison of the row as a whole (or
    None).
    """
    import race
    from sweeps import COSTS, value_of

    from convt1d.cpu import _runtime

    row, start = _runtime.machine().tuning, time.perf_counter()
    deadline = start + seconds * (1 - TOGETHER)
    sweeps, costs = tasks_for(pattern)
    left = len(sweeps) + COSTS_SHARE * costs
    progress = Progress(len(sweeps) + costs + 1)
    found, details = {}, None
    try:
        progress.begin("memory")
        arena = arena or race.Arena()
        for each in sweeps:
            progress.begin(each.field)
            remaining = deadline - time.perf_counter()
            if remaining > 0:
                found[each.field] = race.sweep(each, row, remaining / left, arena)
            else:
                found[each.field] = race.Verdict(each.field, value_of(row, each.field), remark="no time was left")
            left -= 1
        if costs:
            progress.begin("winograd: costs")
            remaining = deadline - time.perf_counter()
            if remaining > 0:
                verdicts, details = race.sweep_costs(row, remaining, arena)
            else:
                verdicts = [race.Verdict(f, value_of(row, f), remark="no time was left") for f in COSTS]
            found |= {verdict.field: verdict for verdict in verdicts}
        progress.close()
        return found, details, check_together(found, row, sweeps, start + seconds - time.perf_counter(), arena)
    finally:
        _runtime.use(row)


def check_together(found, row, sweeps, seconds, arena):
    """The proposed row as a whole against the row in force, on the layers of its fields."""
    import race
    from sweeps import COST_CASES, COSTS, with_values

    proposed = {verdict.field: verdict.proposed for verdict in found.values() if verdict.propose}
    if len(proposed) < 2 or seconds <= 0:
        return None
    cases = [case for each in sweeps if each.field in proposed for case in each.cases]
    cases += COST_CASES if proposed.keys() & set(COSTS) else ()
    compared = race.compare(list(dict.fromkeys(cases)), row, [with_values(row, proposed)], seconds, arena)
    return {
        "gain": race.geometric_mean([each.base / each.others[0] for each in compared]),
        "noise": race.geometric_mean([each.noise for each in compared]),
        "layers": {str(each.case): each.base / each.others[0] for each in compared},
    }


# ---- what is printed --------------------------------------------------------------------------------------------


def literal(value):
    return 'float("inf")' if value == float("inf") else repr(value)


def expression(row, proposed, measured):
    """The proposed row, ready to be pasted into tuning.py."""
    constant = row.name.upper()
    groups = {}
    for field, value in proposed.items():
        group, _, name = field.rpartition(".")
        groups.setdefault(group, {})[name] = value
    lines = [f"{constant} = replace(", f"    {constant},", f'    measured="{measured}",']
    lines += [f'    {name}="{value}",' for name, value in groups.pop("", {}).items()]  # transposes
    for group, values in groups.items():
        inner = ", ".join(f"{name}={literal(value)}" for name, value in values.items())
        lines.append(f"    {group}=replace({constant}.{group}, {inner}),")
    return "\n".join([*lines, ")"])


def table(verdicts):
    """The table's lines."""
    yield f"{'field':<30} {'in force':>10} {'proposed':>10} {'gain':>6} {'noise':>6}  remark"
    for each in verdicts:
        proposed = literal(each.proposed) if each.propose else "-"
        timed = f"{each.gain:6.3f} {each.noise:6.3f}" if each.timed else f"{'-':>6} {'-':>6}"
        yield f"{each.field:<30} {literal(each.in_force):>10} {proposed:>10} {timed}  {each.remark}".rstrip()


def report(found, details, together, row, measured):
    for line in table(found.values()):
        print(line)
    print(
        "gain: of the proposed value, else of the best candidate; noise: of the value in force against itself. Both "
        "are geometric means."
    )
    if details:
        for key, words in (("misordered", "the costs in force"), ("misordered_by_fitted", "the fitted costs")):
            print(f"layers that {words} give a slower kernel: {len(details[key])} of {len(details['layers'])}")
            for line in details[key]:
                print(f"    {line}")
    proposed = {each.field: each.proposed for each in found.values() if each.propose}
    if together:
        print(f"all proposed values together: gain {together['gain']:.3f}, noise {together['noise']:.3f}")
    print()
    print(expression(row, proposed, measured) if proposed else f"the row in force stays: {row.name}")


def show_list(pattern, row):
    from sweeps import COST_CASES, COSTS, NOT_SWEPT, candidates, value_of

    for each in tasks_for(pattern)[0]:
        values = ", ".join(literal(value) for value in candidates(each, row))
        print(f"{each.field} = {literal(value_of(row, each.field))}: {values}")
        for case in each.cases:
            print(f"    {case}")
    for field in COSTS:
        if re.search(pattern, field):
            print(f"{field} = {literal(value_of(row, field))}: fitted to {len(COST_CASES)} layers")
    for field, reason in NOT_SWEPT.items():
        if re.search(pattern, field):
            print(f"{field} = {literal(value_of(row, field))}: not swept, {reason}")


def storable(value):
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [storable(inner) for inner in value]
    return "inf" if value == float("inf") else value


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"in all (default {SECONDS})")
    parser.add_argument("--fields", default="", metavar="REGEX", help="only fields whose dotted name it matches")
    parser.add_argument("--list", action="store_true", help="print fields, candidates and layers; time nothing")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    sweeps, costs = tasks_for(options.fields)
    if not options.list and not sweeps and not costs:
        parser.error(f"--fields: no field that is swept matches {options.fields!r}, see --list")
    return options


def main(argv=None):
    options = arguments(argv)
    limit_threads(1)
    import machine
    from sweeps import NOT_SWEPT

    from convt1d.cpu import _runtime

    on = _runtime.machine()
    if options.list:
        show_list(options.fields, on.tuning)
        return 0
    load_before = machine.load_average()
    if load_before and load_before[0] > 0.3:
        print(
            f"*** load average {load_before[0]:.2f}: the machine is not idle, gains are doubtful ***", file=sys.stderr
        )
    described, date = machine.describe(), datetime.datetime.now(datetime.UTC)
    print(f"{described['processor']}, {on.instruction_set}, row in force: {on.tuning.name} ({on.tuning.measured})")
    found, details, together = run_all(options.fields, options.seconds)
    measured = f"{described['processor']}, {date:%Y-%m}"
    report(found, details, together, on.tuning, measured)
    if options.json is not None:
        document = {
            "date": date.isoformat(timespec="seconds"),
            "seconds": options.seconds,
            "machine": described | {"instruction_set": on.instruction_set},
            "load_before": load_before,
            "load_after": machine.load_average(),
            "row_in_force": on.tuning.name,
            "fields": [vars(each) for each in found.values()],
            "winograd_costs": details,
            "together": together,
            "not_swept": {name: reason for name, reason in NOT_SWEPT.items() if re.search(options.fields, name)},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(storable(document), indent=1) + "\n")
        print(f"written: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
