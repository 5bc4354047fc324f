# SPDX-License-Identifier: MIT
"""Compare two results of bench/run.py:  python bench/compare.py OLD.json NEW.json

For each layer in both: the times of convt1d, their ratio (above 1: NEW is faster) and, as a control, the
geometric mean of the same ratio over the peers, whose code has not changed. Where the control moved, the
machine did; `net` is the ratio divided by it.
"""

import argparse
import json
import statistics
from pathlib import Path


def medians(document):
    """{layer: {implementation: median in us}}"""
    return {
        result["name"]: {name: each["median_us"] for name, each in result["implementations"].items()}
        for result in document.get("layers", [])
    }


def differences(old, new):
    """What else differs between the two runs, in words."""
    for key in ("threads", "dtype", "arrays", "short", "forced"):
        if old.get(key) != new.get(key):
            yield f"{key}: {old.get(key)} and {new.get(key)}"
    if old["machine"]["processor"] != new["machine"]["processor"]:
        yield f"processor: {old['machine']['processor']} and {new['machine']['processor']}"
    for name in sorted(old["versions"].keys() & new["versions"].keys()):
        if old["versions"][name] != new["versions"][name]:
            yield f"{name}: {old['versions'][name]} and {new['versions'][name]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--implementation", default="convt1d", metavar="NAME", help="default: convt1d")
    options = parser.parse_args()
    old, new = (json.loads(path.read_text()) for path in (options.old, options.new))

    # Results from before there was another operator do not name theirs.
    operators = [document.get("operator", "forward") for document in (old, new)]
    if operators[0] != operators[1]:
        raise SystemExit(f"the two runs measured different operators: {operators[0]} and {operators[1]}")
    for difference in differences(old, new):
        print(f"differs in {difference}")
    for path, document in ((options.old, old), (options.new, new)):
        for warning in document["warnings"]:
            print(f"{path}: {warning}")

    before, after = medians(old), medians(new)
    ratios, controls = [], []
    print(f"{'layer':<21}{'old us':>11}{'new us':>11}{'ratio':>8}{'control':>9}{'net':>8}")
    for layer in before:
        earlier, later = before[layer], after.get(layer, {})
        name = options.implementation
        if name not in earlier or name not in later:
            continue
        ratio = earlier[name] / later[name]
        others = [earlier[peer] / later[peer] for peer in earlier if peer in later and peer not in (name, "convt1d")]
        control = statistics.geometric_mean(others) if others else 1.0
        ratios.append(ratio)
        controls.append(control)
        net = ratio / control
        note = "  slower" if net < 0.95 else ""
        print(f"{layer:<21}{earlier[name]:11.1f}{later[name]:11.1f}{ratio:8.3f}{control:9.3f}{net:8.3f}{note}")
    if not ratios:
        raise SystemExit(f"the two runs have no layer of {options.implementation} in common")
    ratio, control = statistics.geometric_mean(ratios), statistics.geometric_mean(controls)
    print(f"{'geomean':<43}{ratio:8.3f}{control:9.3f}{ratio / control:8.3f}")


if __name__ == "__main__":
    main()
