# SPDX-License-Identifier: MIT
"""Measure what a chunk costs in a stream: median, 99th percentile and maximum, in microseconds.

    python bench/stream.py                                10**5 chunks of 1, 16 and 256 samples
    python bench/stream.py --layers tiny --chunks 10000   a quick look
    python bench/stream.py --output FILE.json

Each chunk is timed by itself. In turns with it the layer is called on the chunk and its history put together, which
computes the same samples: "whole call" is that call's median, "beyond it" what the stream adds to it (it copies the
chunk). The layer `tiny` has next to no arithmetic: there a chunk's whole time is overhead.

Denormal: an input of subnormal numbers, so that sums and results are subnormal too, in turns with an ordinary one.
"""

import argparse
import datetime
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from run import Progress, limit_threads

CHUNKS = 10**5
SIZES = (1, 16, 256)
WARM = 100  # chunks before the first one recorded: packing, the first call of a shape, the caches
LAYERS = ("tiny", "hifigan_up4")


def build(row, dtype, padding=None, output_padding=None):
    """The layer of a row of layers.json, or the same with another crop."""
    import numpy as np

    from convt1d import ConvTranspose1d

    layer = ConvTranspose1d(
        row.Cin,
        row.Cout,
        row.K,
        row.stride,
        row.padding if padding is None else padding,
        row.output_padding if output_padding is None else output_padding,
        row.groups,
        dilation=row.dilation,
        dtype=dtype,
        rng=0,
    )
    layer.weight, layer.bias = row.parameters(dtype, np.random.default_rng(0))
    return layer


def whole_call(row, layer, x, threads):
    """A call that computes the samples which a stream computes for the chunk `x`, from the same input."""
    import numpy as np

    from convt1d.stream import Schedule

    schedule = Schedule.of(layer._operator.geometry)
    same = build(row, layer.dtype, schedule.window.padding, schedule.window.output_padding)
    window = np.concatenate([np.repeat(x[..., :1], schedule.history, axis=-1), x], axis=-1)
    return lambda: same(window, workers=threads)


def in_turns(calls, count, progress):
    """Time each of `calls` `count` times, in turns; microseconds (calls, count)."""
    import numpy as np

    clock = time.perf_counter_ns
    times = np.empty((len(calls), count))
    for i in range(-WARM, count):
        for row, call in enumerate(calls):
            start = clock()
            call()
            times[row, max(i, 0)] = clock() - start
        if i % 1024 == 0:
            progress.show(i / count)
    return times / 1e3


def figures(times):
    import numpy as np

    p50, p99 = np.percentile(times, [50, 99])
    return {"p50_us": p50, "p99_us": p99, "max_us": times.max()}


def measure(row, n, options, progress):
    import numpy as np

    from convt1d import ConvTranspose1dStream

    layer = build(row, options.dtype)
    x = replace(row, L=n).input(options.dtype, np.random.default_rng(1))
    stream = ConvTranspose1dStream(layer, workers=options.threads)
    calls = [lambda: stream.process(x), whole_call(row, layer, x, options.threads)]
    process, whole = in_turns(calls, options.chunks, progress)
    result = {"layer": row.name, "samples": n, "chunks": options.chunks, **figures(process)}
    result["whole_call_p50_us"] = figures(whole)["p50_us"]
    result["beyond_it_us"] = result["p50_us"] - result["whole_call_p50_us"]

    subnormal = np.finfo(x.dtype).smallest_normal / 256 * np.clip(x, -4, 4).astype(x.dtype)
    assert 0 < np.abs(subnormal).max() < np.finfo(x.dtype).smallest_normal
    layer.bias = 0 * layer.bias  # else sums and results would be ordinary numbers
    streams = [ConvTranspose1dStream(layer, workers=options.threads) for _ in range(2)]
    calls = [lambda: streams[0].process(x), lambda: streams[1].process(subnormal)]
    usual, denormal = (figures(times) for times in in_turns(calls, max(1, options.chunks // 10), progress))
    result["denormal"] = denormal | {"ratio": denormal["p50_us"] / usual["p50_us"]}
    return result


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", metavar="NAME", default=LAYERS, help="of layers.json, or tiny")
    parser.add_argument("--samples", nargs="+", type=int, metavar="N", default=SIZES, help="samples of a chunk")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help=f"of each size (default {CHUNKS})")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    options = parser.parse_args(argv)
    if min(options.chunks, options.threads, *options.samples) < 1:
        parser.error("--chunks, --threads and --samples are at least 1")
    return parser, options


def main(argv=None):
    parser, options = arguments(argv)
    limit_threads(options.threads)
    import machine
    import peers

    rows = {row.name: row for row in peers.read_layers()}
    rows["tiny"] = replace(rows["hifigan_up4"], name="tiny", Cin=1, Cout=1)
    if unknown := [name for name in options.layers if name not in rows]:
        parser.error(f"--layers: {', '.join(unknown)} unknown; there are {', '.join(rows)}")
    load_before = machine.load_average()
    if load_before and load_before[0] > 0.3:
        print(
            f"*** load average {load_before[0]:.2f}: the machine is not idle, maxima are doubtful ***", file=sys.stderr
        )

    progress = Progress(len(options.layers) * len(options.samples))
    results = []
    for name in options.layers:
        for n in options.samples:
            progress.begin(f"{name} {n}")
            results.append(measure(rows[name], n, options, progress))
    progress.close()

    described = machine.describe()
    print(f"{described['processor']}, {options.threads} thread(s), {options.dtype}, {options.chunks} chunks, us")
    head = ("p50", "p99", "max", "whole call", "beyond it", "denormal")
    print(f"{'layer':<16} {'samples':>7} " + " ".join(f"{name:>10}" for name in head))
    for each in results:
        keys = ("p50_us", "p99_us", "max_us", "whole_call_p50_us", "beyond_it_us")
        values = " ".join(f"{each[key]:10.2f}" for key in keys)
        print(f"{each['layer']:<16} {each['samples']:>7} {values} {each['denormal']['ratio']:8.2f} ×")
    if options.output is not None:
        document = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "threads": options.threads,
            "dtype": options.dtype,
            "machine": described,
            "load_before": load_before,
            "load_after": machine.load_average(),
            "results": results,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
