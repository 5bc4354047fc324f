# SPDX-License-Identifier: MIT
"""Measure convt1d beside the installed peers on the layers of real models.

    python bench/run.py                                   every layer, one thread, float32
    python bench/run.py --layers hifigan_up1 --short      a quick look
    python bench/run.py --threads 2 --output FILE.json
    python bench/run.py --variable-length                 does a new input length cost anything?
    python bench/run.py --operator backward               gradients; conv1d: the convolution with the same weights
    python bench/run.py --beside torch,onnxruntime,sklearn --threads 2     who slows whom (beside.py)

All implementations run in one process and in turns, so that a disturbance of the machine meets all alike; which one
begins differs from round to round. A turn is one call on one of two inputs: it finds caches that its predecessor
emptied, and that library's threads, asleep or not, as a call in a program does. Every call counts, and medians are
reported. With --warm a turn takes some milliseconds of calls, the first of which is not recorded, and begins when
all threads sleep. An implementation has about a second for each layer and at least seven turns; one that needs
hundreds of milliseconds a call has fewer. "first" is our first call of a new layer, which packs the weights, and
"function" a call of conv_transpose1d with new weights, both also in turns, and both in units of our other calls. A
call goes from NumPy array to NumPy array (--native: from and to the library's own arrays); weights are prepared
before. With --operator backward the input is grad_output and all three gradients are asked for; x and what a
library keeps of its forward call are there before.

The limits come from the same run: the FMA peak is the highest rate that a matrix product *or any
implementation* reached anywhere in it, the bandwidth the best STREAM copy. FLOPs are 2·N·Cin·(Cout/g)·K·L;
backward twice that. That is what the definition takes, and what rates and shares count for all alike. Where convt1d
makes fewer multiplications (Winograd's identity), only those count as a rate that was reached, and shares can exceed 1;
"multiplied" says how many it makes.
"""

import argparse
import datetime
import functools
import gc
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent

ROUNDS = 31  # turns of each implementation at most
MIN_TURNS = 7  # the fewest, unless they take more than three times the budget
BUDGET = 1.0  # seconds for each implementation and layer
TURN = 0.005  # seconds of recorded calls in a turn; at least one call
COLD = 0.05  # a call this long warms its own caches: none is left out
LENGTHS = 40
_TOLERANCE = {"float32": 1e-5, "complex64": 1e-5, "float64": 1e-12}
# Longer sums. A weight's gradient sums over batch and time; an output sample of the convolution over the whole
# kernel, 81920 products in waveglow_upsample, where torch is 1.3e-5 off the float64 result and convt1d 0.7e-5.
_LONG_SUMS = {"float32": 2e-5, "complex64": 2e-5, "float64": 1e-11}
TOLERANCE = {"forward": _TOLERANCE, "backward": _LONG_SUMS, "conv1d": _LONG_SUMS}
EXIT_DISAGREE = 1


def limit_threads(count):
    """Hold the process to `count` processors. Must come before NumPy and the peers are imported.

    The variables make each pool the right size. The affinity is what no pool can get around; XLA, for one,
    takes its pool's size from it. With one thread each there is nothing left to compete for the processor, so
    the affinity takes nothing from anybody; only the scheduler can no longer move us away from another
    process.
    """
    for name in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"):
        os.environ[f"{name}_THREADS"] = str(count)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if count == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    if not hasattr(os, "sched_setaffinity"):
        print("This system has no processor affinity: thread pools are held by their settings alone.")
        return
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        raise SystemExit(f"--threads {count}: this process may use {len(allowed)} processors only")
    # The last ones: the first usually serves the interrupts.
    os.sched_setaffinity(0, allowed[-count:])


class Progress:
    """A bar on stderr; where that is not a terminal, one line for each step."""

    def __init__(self, steps):
        self._steps = steps
        self._step = -1
        self._start = time.monotonic()
        self._bar = sys.stderr.isatty()

    def begin(self, label):
        self._step += 1
        self._label = label
        if not self._bar:
            print(f"[{self._step + 1}/{self._steps}] {label}", file=sys.stderr, flush=True)
        self.show(0)

    def show(self, part, note=""):
        """`part` (0 to 1) of the step begun last is done."""
        if not self._bar:
            return
        done = (self._step + part) / self._steps
        passed = time.monotonic() - self._start
        left = f"{passed / done * (1 - done):.0f} s left" if done > 0.02 else ""
        bar = "#" * round(30 * done)
        print(
            f"\r[{bar:.<30}] {self._label + ' ' + note:<40.40} {left:>12}",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def close(self):
        if self._bar:
            print("\r" + " " * 90 + "\r", end="", file=sys.stderr, flush=True)


def settle(limit=0.25):
    """Wait until the pools of the previous implementation have stopped spinning for more work.

    With two threads ONNX Runtime's spin for 50 ms after a call and torch's for 13 (2026-11-22): the next
    implementation would run against them.
    """
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        wall, used = time.perf_counter(), time.process_time()
        time.sleep(0.006)  # longer than a scheduler tick, at which other threads' times are counted
        if time.process_time() - used < 0.2 * (time.perf_counter() - wall):
            return


def timed(run, x):
    start = time.perf_counter()
    y = run(x)
    elapsed = time.perf_counter() - start
    del y  # freed outside the clock
    return elapsed


class Contender:
    """One implementation of one layer, its inputs, and its times in seconds."""

    def __init__(self, implementation, layer, parameters, inputs, options):
        self.name = implementation.name
        self.implementation = implementation(layer, *parameters, threads=options.threads)
        self._native, self._warm = options.native, options.warm
        self.run = self.implementation.run if options.native else self.implementation.call
        self.inputs = [self.load(x) for x in inputs]
        self.outputs = [y for x in inputs for y in self._results(x)]
        self.times = []
        # Ours on one thread, in the same turns: between runs of different minutes neighbours decide what threads gain.
        self.alone = getattr(self.implementation, "alone", None) if options.threads > 1 else None
        self.alone_times = []
        self.others = {}
        if hasattr(self.implementation, "first") and layer.operator == "forward" and not options.warm:
            self.others = {"first": (self.implementation.first, []), "function": (self.implementation.function, [])}

    def _results(self, x):
        """What a call returns, one array or several, copied: the library may use their memory again."""
        found = self.implementation.call(x)
        return [y.copy() for y in (found if isinstance(found, tuple) else (found,))]

    def load(self, x):
        return self.implementation.load(x) if self._native else x

    def plan(self, budget, rounds):
        """Decide how many turns of how many calls the budget allows."""
        single = timed(self.run, self.inputs[0])
        if single < budget:
            single = min(timed(self.run, x) for x in self.inputs + self.inputs)
        self.leave_out = self._warm and single < COLD
        self.calls = min(500, max(1, int(TURN / single))) if self._warm else 1
        cost = (self.calls + self.leave_out) * single
        least = MIN_TURNS if MIN_TURNS * cost <= 3 * budget else max(1, int(3 * budget / cost))
        self.turns = min(rounds, max(least, int(budget / cost)))

    def plays(self, round_, rounds):
        """Spread the turns evenly over the rounds."""
        return (round_ + 1) * self.turns // rounds > round_ * self.turns // rounds

    def turn(self, round_):
        if self.leave_out:
            self.run(self.inputs[round_ % 2])
        for call in range(self.calls):
            self.times.append(timed(self.run, self.inputs[(round_ + call + 1) % 2]))
        for call in range(self.calls if self.alone else 0):
            self.alone_times.append(timed(self.alone, self.inputs[(round_ + call + 1) % 2]))

    def once(self, name, round_):
        """A turn of a call that meets its weights for the first time."""
        prepare, times = self.others[name]
        times.append(timed(prepare(), self.inputs[round_ % 2]))

    def figures(self):
        alone = {"alone_us": 1e6 * statistics.median(self.alone_times)} if self.alone_times else {}
        alone |= {f"{name}_us": 1e6 * statistics.median(times) for name, (_, times) in self.others.items() if times}
        return alone | {
            "median_us": 1e6 * statistics.median(self.times),
            "min_us": 1e6 * min(self.times),
            "calls": len(self.times),
            "turns": self.turns,
            "deviation": self.deviation,
        }


def deviation(outputs, reference):
    """Largest difference, in units of the largest value of the same array."""
    import numpy as np

    if any(y.shape != expected.shape for y, expected in zip(outputs, reference, strict=True)):
        return math.inf
    pairs = zip(outputs, reference, strict=True)
    # numpy.max, unlike max, lets a NaN through.
    return float(np.max([np.abs(y - expected).max() / np.abs(expected).max() for y, expected in pairs]))


def build(layer, implementations, options, skipped):
    """A Contender for each implementation that can do this layer; the others' reasons go into `skipped`."""
    import machine
    import numpy as np
    from peers import Unsupported

    rng = np.random.default_rng(0)
    parameters = layer.parameters(options.dtype, rng)
    inputs = [layer.input(options.dtype, rng) for _ in range(2)]
    processors = machine.affinity()
    contenders = []
    for implementation in implementations:
        try:
            if layer.operator not in implementation.operators:
                raise Unsupported(f"no {layer.operator}")
            contender = Contender(implementation, layer, parameters, inputs, options)
        except Unsupported as reason:
            skipped.setdefault(f"{implementation.name}: {reason}", []).append(layer.name)
        except Exception as error:
            if implementation.name == "convt1d":
                raise
            # A peer that fails on a layer must not end the run; what it said is printed with the results.
            text = (str(error).strip() or "no message").splitlines()[0]
            reason = f"{implementation.name}: {type(error).__name__}: {text[:100]}"
            skipped.setdefault(reason, []).append(layer.name)
        else:
            contenders.append(contender)
    # The first is the reference: convt1d where it is installed, so that an error of ours shows in every peer.
    for contender in contenders:
        contender.deviation = deviation(contender.outputs, contenders[0].outputs)
    for contender in contenders:
        contender.outputs = None
    if processors != machine.affinity():  # a library has pinned this thread
        os.sched_setaffinity(0, processors)
    return contenders


def measure(layer, implementations, options, probe, progress, skipped):
    """Run all implementations of one layer in turns; return their figures."""
    contenders = build(layer, implementations, options, skipped)
    for contender in contenders:
        contender.plan(options.budget, options.rounds)
    rounds = max((contender.turns for contender in contenders), default=0)
    order = [(contender, contender.turn) for contender in contenders]
    order += [(each, functools.partial(each.once, name)) for each in contenders for name in each.others]
    shuffle = random.Random(0).shuffle
    rates = []
    gc.collect()
    gc.disable()
    try:
        for round_ in range(rounds):
            progress.show(round_ / rounds, f"round {round_ + 1} of {rounds}")
            rates.append(probe.sample())
            shuffle(order)
            for contender, turn in order:
                if contender.plays(round_, rounds):
                    if options.threads > 1 and options.warm:
                        settle()
                    turn(round_)
    finally:
        gc.enable()
    return {
        "name": layer.name,
        "layer": layer.asdict(),
        "mflop": layer.flops(options.dtype) / 1e6,
        "mbyte": layer.bytes(options.dtype) / 1e6,
        "probe_gflops": statistics.median(rates) if rates else None,
        "multiplied": {contender.name: contender.implementation.multiplied for contender in contenders},
        "implementations": {contender.name: contender.figures() for contender in contenders},
    }


def evaluate(results, figures):
    """Add rates, shares and ratios to the layers' results; return the summary. Nothing is measured here."""
    # The peak is at least any rate seen: a probe that met a busy machine must not flatter us.
    seen = [
        1e3 * result["mflop"] * result.get("multiplied", {}).get(name, 1) / each["min_us"]
        for result in results
        for name, each in result["implementations"].items()
    ]
    peak = figures["peak_gflops"] = max([figures["probe_gflops"], *seen])
    for result in results:
        times = {name: each["median_us"] for name, each in result["implementations"].items()}
        compute, memory = 1e3 * result["mflop"] / peak, 1e3 * result["mbyte"] / figures["copy_gb_s"]
        result["floor_us"] = max(compute, memory)
        result["floor"] = "compute" if compute >= memory else "memory"
        # A layer that fits the cache can run faster than memory, and above 100 % of a memory floor.
        result["beyond_cache"] = result["mbyte"] * 1e6 > figures["last_level_cache_mib"] * 2**20
        peers = {name: time for name, time in times.items() if name != "convt1d"}
        result["best_peer"] = min(peers, key=peers.get) if peers else None
        ours = times.get("convt1d")
        if ours is None:
            continue
        result["gflops"] = 1e3 * result["mflop"] / ours
        result["gb_s"] = 1e3 * result["mbyte"] / ours
        result["share_of_peak"] = result["gflops"] / peak
        result["share_multiplied"] = result["share_of_peak"] * result.get("multiplied", {}).get("convt1d", 1)
        result["share_of_floor"] = result["floor_us"] / ours
        result["ratio_best"] = peers[result["best_peer"]] / ours if peers else None
        result["ratio_torch"] = peers["torch"] / ours if "torch" in peers else None
        for name in ("first", "function"):
            if found := result["implementations"]["convt1d"].get(f"{name}_us"):
                result[f"ratio_{name}"] = found / ours
                if name == "function" and "torch" in peers:
                    result["ratio_function_torch"] = peers["torch"] / found
        alone = result["implementations"]["convt1d"].get("alone_us")
        result["ratio_alone"] = alone / ours if alone else None

    summary = {}
    standard = [result for result in results if not result["extra"]]
    threaded = [
        (result["ratio_alone"], result["name"])
        for result in standard
        if result["mflop"] > 100 and result.get("ratio_alone")
    ]
    if threaded:
        summary["median_ratio_alone"] = statistics.median(ratio for ratio, _ in threaded)
        summary["lowest_ratio_alone"] = min(threaded)
        summary["ratios_alone"] = len(threaded), sum(ratio >= 1.8 for ratio, _ in threaded)
    if found := [result["ratio_first"] for result in standard if "ratio_first" in result]:
        summary["geomean_ratio_first"] = statistics.geometric_mean(found)
    for key in ("ratio_best", "ratio_torch", "ratio_function_torch"):
        found = [(result[key], result["name"]) for result in standard if result.get(key)]
        if found:
            summary[f"geomean_{key}"] = statistics.geometric_mean(ratio for ratio, _ in found)
            summary[f"lowest_{key}"] = min(found)
    large = [
        (result["share_of_peak"], result["name"])
        for result in standard
        if result["layer"]["groups"] == 1 and result["mflop"] > 50 and "share_of_peak" in result
    ]
    if large:
        summary["median_share_of_peak"] = statistics.median(share for share, _ in large)
        summary["lowest_share_of_peak"] = min(large)
        summary["median_share_multiplied"] = statistics.median(
            result["share_multiplied"] for result in standard if (result["share_of_peak"], result["name"]) in large
        )
    summary["share_of_copy_bandwidth"] = {
        result["name"]: result["gb_s"] / figures["copy_gb_s"]
        for result in results
        if result["layer"]["groups"] == result["layer"]["Cin"] and result["beyond_cache"] and "gb_s" in result
    }
    return summary


def table(results, names):
    """The table's lines."""
    peers = [name for name in names if name != "convt1d"]
    heads = ["us", "first", "function", "GFLOP/s", "peak", "floor", "probe", *peers, "best/ours", "torch/ours"]
    yield f"{'layer':<21}" + "".join(f" {head:>{max(8, len(head) + 1)}}" for head in heads)
    for result in results:
        times = {name: each["median_us"] for name, each in result["implementations"].items()}
        cells = [
            _cell(times.get("convt1d"), ".1f"),
            *(_cell(result.get(f"ratio_{name}"), ".2f") for name in ("first", "function")),
            _cell(result.get("gflops"), ".1f"),
            _cell(result.get("share_of_peak"), ".2f"),
            _cell(result.get("share_of_floor"), ".2f") + ("m" if result["floor"] == "memory" else " "),
            _cell(result["probe_gflops"], ".1f"),
            *(_cell(times.get(name), ".1f") for name in peers),
            _cell(result.get("ratio_best"), ".2f"),
            _cell(result.get("ratio_torch"), ".2f"),
        ]
        name = result["name"] + ("*" if result["extra"] else "")
        row = (f" {cell:>{max(8, len(head) + 1)}}" for cell, head in zip(cells, heads, strict=True))
        yield f"{name:<21}" + "".join(row)


def _cell(value, form):
    return "-" if value is None else format(value, form)


def report(results, summary, figures, names):
    print()
    for line in table(results, names):
        print(line)
    print(
        "us: medians. peak: ours as a share of the highest rate seen in this run, "
        f"{figures['peak_gflops']:.1f} GFLOP/s (the FMA probe alone: {figures['probe_gflops']:.1f}).\n"
        "floor: ours as a share of max(FLOPs / peak, bytes / STREAM copy), "
        f"{figures['copy_gb_s']:.1f} GB/s; m: memory decides (above 1 where the layer fits the cache).\n"
        "probe: median GFLOP/s of the FMA probe while this layer was measured."
    )
    if any(result["extra"] for result in results):
        print("*: not one of layers.json; in no mean.")
    print()
    for key, words in (
        ("ratio_best", "best peer / ours"),
        ("ratio_torch", "torch / ours"),
        ("ratio_function_torch", "torch / our function with new weights"),
    ):
        if f"geomean_{key}" in summary:
            lowest, name = summary[f"lowest_{key}"]
            print(f"{words}: geomean {summary[f'geomean_{key}']:.3f}, lowest {lowest:.3f} ({name})")
    if "geomean_ratio_first" in summary:
        print(f"first call / later ones: geomean {summary['geomean_ratio_first']:.2f}")
    if "median_share_of_peak" in summary:
        lowest, name = summary["lowest_share_of_peak"]
        print(
            f"share of peak, ungrouped layers above 50 MFLOP: median {summary['median_share_of_peak']:.3f}, "
            f"lowest {lowest:.3f} ({name}); median multiplied: {summary['median_share_multiplied']:.3f}"
        )
    if "median_ratio_alone" in summary:
        lowest, name = summary["lowest_ratio_alone"]
        count, above = summary["ratios_alone"]
        print(
            f"our one thread / ours, layers above 100 MFLOP: median {summary['median_ratio_alone']:.2f}, lowest "
            f"{lowest:.2f} ({name}), {above} of {count} at 1.8 or more"
        )
    for name, share in summary["share_of_copy_bandwidth"].items():
        print(f"share of STREAM copy, depthwise beyond the last-level cache: {share:.3f} ({name})")


def disagreements(results, allowed):
    """A line for each implementation that differs from the reference by more than rounding."""
    return [
        f"{name} differs by {each['deviation']:.1e} of max|y| from {next(iter(result['implementations']))} "
        f"on {result['name']} (allowed {allowed:.0e})"
        for result in results
        for name, each in result["implementations"].items()
        if not each["deviation"] <= allowed
    ]


def variable_length(layer, implementations, options, progress, skipped):
    """Does the first call at a new length cost more than later ones? A dictionary for each implementation."""
    import numpy as np

    rng = np.random.default_rng(1)
    lengths = rng.choice(np.arange(layer.L // 2, layer.L * 3 // 2), options.lengths, replace=False).tolist()
    contenders = build(layer, [each for each in implementations if each.any_length], options, skipped)
    for contender in contenders:
        contender.first, contender.later = [], []
    for number, length in enumerate(lengths):
        progress.show(number / len(lengths), f"length {number + 1} of {len(lengths)}")
        x = replace(layer, L=length).input(options.dtype, rng)
        for contender in contenders:
            run, loaded = contender.run, contender.load(x)
            if options.threads > 1:
                settle()
            # Wakes threads and warms the weights, at the length that is known; then only the length is new.
            run(contender.inputs[0])
            x.sum()  # in the cache, as it is for the repeated calls
            contender.first.append(timed(run, loaded))
            contender.later.append(statistics.median(timed(run, loaded) for _ in range(options.repeats)))
    return {
        contender.name: {
            "first_us": [1e6 * first for first in contender.first],
            "repeated_us": [1e6 * later for later in contender.later],
            "ratio_of_sums": sum(contender.first) / sum(contender.later),
            "worst_ratio": max(first / later for first, later in zip(contender.first, contender.later, strict=True)),
        }
        for contender in contenders
    }


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="of layers.json, or depthwise_long")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="default: all that are installed")
    parser.add_argument("--operator", choices=TOLERANCE, default="forward")
    parser.add_argument("--dtype", choices=_TOLERANCE, default="float32")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns at most (default {ROUNDS})")
    parser.add_argument(
        "--native", action="store_true", help="time each library on its own arrays, not from NumPy to NumPy"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="default: under bench/results/")
    parser.add_argument("--warm", action="store_true", help="turns of several calls, all but the first recorded")
    parser.add_argument(
        "--beside", type=lambda text: text.split(","), metavar="NAME,...", help="who slows whom, on all threads"
    )
    parser.add_argument("--variable-length", action="store_true", help=f"{LENGTHS} lengths, instead of the layers")
    parser.add_argument("--short", action="store_true", help="a fifth of the time; for a look, not for the record")
    options = parser.parse_args(argv)
    if options.threads < 1 or options.rounds < 1:
        parser.error("--threads and --rounds are at least 1")
    if options.variable_length and options.operator != "forward":
        parser.error("--variable-length is for --operator forward")
    options.budget = BUDGET / 5 if options.short else BUDGET
    options.lengths, options.repeats = (10, 3) if options.short else (LENGTHS, 9)
    return parser, options


def select(parser, options, cache_bytes):
    """The implementations, ours first, and the layers that the options ask for."""
    import peers

    known = peers.PEERS
    asked = list(known) if options.peers is None else options.peers
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"--peers: {', '.join(unknown)} unknown; there are {', '.join(known)}")
    implementations = []
    for each in [peers.Convt1d] + [known[name] for name in asked]:
        if missing := peers.missing_modules(each):
            print(f"{each.name} skipped: {' and '.join(missing)} not installed")
        else:
            implementations.append(each)

    layers = peers.read_layers(options.operator)
    standard = {layer.name for layer in layers}
    # Depthwise beyond the cache: bigvgan_upsample, long enough for input and output to take three times the
    # cache.
    model = next(layer for layer in layers if layer.name == "bigvgan_upsample")
    length = 3 * cache_bytes // (model.Cin * (1 + model.stride) * 4)
    layers.append(replace(model, name="depthwise_long", L=length))
    if options.variable_length and options.layers is None:
        options.layers = ["hifigan_up1", "hifigan_up3"]
    if options.layers is not None:
        if unknown := [name for name in options.layers if name not in {layer.name for layer in layers}]:
            parser.error(f"--layers: {', '.join(unknown)} unknown; there are {', '.join(each.name for each in layers)}")
        layers = [layer for layer in layers if layer.name in options.layers]
    return implementations, layers, standard


def main(argv=None):
    parser, options = arguments(argv)
    limit_threads(options.threads)
    import machine
    import numpy as np
    import peers

    if options.beside:
        import beside

        figures = machine.describe()
        document = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": figures}
        document |= {
            "threads": options.threads,
            "beside": beside.beside(options.beside, options.layers, options.threads),
        }
        if options.output:
            options.output.write_text(json.dumps(document, indent=1) + "\n")
        return 0
    load_before = machine.load_average()
    warnings = []
    if load_before and load_before[0] > 0.3:
        warnings.append(
            f"load average {load_before[0]:.2f} at the start: the machine is not idle, figures are doubtful"
        )
        print(f"\n*** WARNING: {warnings[0]} ***\n", file=sys.stderr)

    implementations, layers, standard = select(parser, options, machine.last_level_cache())
    figures = machine.describe()
    document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "threads": options.threads,
        "dtype": options.dtype,
        "operator": options.operator,
        "arrays": "native" if options.native else "numpy",
        "short": options.short,
        "calls": "warm" if options.warm else "all",
        "machine": figures,
        "versions": {"python": platform.python_version(), **peers.versions(implementations)},
        "forced": {
            name: value
            for name, value in os.environ.items()
            if name.startswith("CONVT1D_") or name == "OPENBLAS_CORETYPE"
        },
        "load_before": load_before,
    }
    names = [each.name for each in implementations]
    allowed = TOLERANCE[options.operator][options.dtype]
    skipped, interrupted = {}, False
    progress = Progress(len(layers) + 1)
    progress.begin("peak and bandwidth")
    if options.variable_length:
        document["variable_length"] = {}
        for layer in layers:
            progress.begin(layer.name)
            document["variable_length"][layer.name] = variable_length(
                layer, implementations, options, progress, skipped
            )
    else:
        real = np.zeros((), options.dtype).real.dtype
        probe, copy = machine.PeakProbe(real, options.threads), machine.CopyProbe(options.threads)
        probe.measure()
        copy.measure()
        results = document["layers"] = []
        try:
            for layer in layers:
                progress.begin(layer.name)
                result = measure(layer, implementations, options, probe, progress, skipped)
                results.append({**result, "extra": layer.name not in standard})
        except KeyboardInterrupt:
            interrupted = True
            warnings.append("interrupted: the layers after the last one shown are missing")
        figures["probe_gflops"] = probe.measure()
        figures["copy_gb_s"] = copy.measure()
        document["summary"] = evaluate(results, figures)
        warnings += disagreements(results, allowed)
    progress.close()
    document["load_after"] = machine.load_average()
    figures["blas"] = machine.blas()
    document["warnings"] = warnings
    document["skipped"] = skipped

    print(
        f"{figures['processor']}, {options.threads} of {figures['processors']} processors, "
        f"{options.operator}, {options.dtype}, {document['arrays']} arrays"
    )
    print(", ".join(f"{name} {version}" for name, version in document["versions"].items()))
    if options.variable_length:
        for layer, found in document["variable_length"].items():
            for name, each in found.items():
                print(
                    f"{layer:<14} {name:<12} first calls / repeated calls: sum {each['ratio_of_sums']:6.3f}, "
                    f"worst {each['worst_ratio']:7.3f}"
                )
    else:
        report(results, document["summary"], figures, names)
    for reason, where in skipped.items():
        some = ", ".join(where[:3]) + (", …" if len(where) > 3 else "")
        print(f"left out: {reason} ({len(where)} layers: {some})")
    loads = [f"{load[0]:.2f}" if load else "unknown" for load in (load_before, document["load_after"])]
    print(f"load average before {loads[0]}, after {loads[1]} (this run itself adds about {options.threads})")

    if options.output is None:
        kind = ("-variable" if options.variable_length else "") + ("-short" if options.short else "")
        kind += "" if options.operator == "forward" else f"-{options.operator}"
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        options.output = HERE / "results" / f"{stamp}-{options.dtype}-{options.threads}t{kind}.json"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {options.output}")
    for line in warnings:
        print(f"*** {line} ***")
    if interrupted:
        return 130
    return EXIT_DISAGREE if not options.variable_length and disagreements(results, allowed) else 0


if __name__ == "__main__":
    sys.exit(main())
