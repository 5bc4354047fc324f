# SPDX-License-Identifier: MIT
"""At which kernel length does convolution by FFT overtake convt1d?

    python bench/fft_crossover.py                              measure, write bench/results/fft-crossover-DATE.json
    python bench/fft_crossover.py --table FILE.json            print the table of docs/coming-from.md again

One channel, one thread, one long signal. The other side is `scipy.signal.oaconvolve`, as one would use it for a
stride: one call on all phases of the kernel, which are interleaved afterwards. Both take turns, and medians are
compared: of the thread's processor time, since neither side has a second thread. The crossing is read off between
two lengths, straight in the logarithms of length and of time.
"""

import argparse
import datetime
import json
import math
import statistics
import time
from pathlib import Path

import machine
from run import limit_threads

LENGTHS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
STRIDES = [1, 2, 8, 64]
DTYPES = ["float32", "float64"]
OUTPUT = 1 << 18  # output samples, whatever the stride
MIN_TURNS, TURNS = 7, 51
BUDGET = 0.5  # seconds for both sides of a case, or the fewest turns
FAR = 3.0  # longer kernels are left out once the FFT is so much faster


def by_fft(x, kernel, stride):
    import numpy as np
    from scipy.signal import oaconvolve

    phases = np.zeros((stride, -(-kernel.size // stride)), kernel.dtype)
    for j in range(stride):
        taps = kernel[j::stride]
        phases[j, : taps.size] = taps
    y = oaconvolve(x[None], phases, axes=-1)
    return np.ascontiguousarray(y.T).reshape(-1)[: (x.size - 1) * stride + kernel.size]


def measure(stride, dtype, kernel_size):
    """Medians in seconds of either side, and how far apart the outputs are, relative to the peak."""
    import numpy as np

    from convt1d import ConvTranspose1d

    rng = np.random.default_rng(0)
    x = rng.standard_normal(OUTPUT // stride).astype(dtype)
    layer = ConvTranspose1d(1, 1, kernel_size, stride=stride, bias=False, dtype=dtype, rng=1)
    kernel = np.ascontiguousarray(layer.weight[0, 0])
    sides = {"convt1d": lambda: layer(x[None], workers=1)[0], "fft": lambda: by_fft(x, kernel, stride)}
    outputs = {name: run() for name, run in sides.items()}  # also packs the weights
    difference = float(np.abs(outputs["fft"] - outputs["convt1d"]).max() / np.abs(outputs["convt1d"]).max())
    times = {name: [] for name in sides}
    end = time.perf_counter() + BUDGET
    for turn in range(TURNS):
        if turn >= MIN_TURNS and time.perf_counter() > end:
            break
        for name, run in sides.items():
            start = time.thread_time()
            run()
            times[name].append(time.thread_time() - start)
    return {name: statistics.median(each) for name, each in times.items()} | {"difference": difference}


def crossing(points):
    """The kernel length at which the FFT overtakes, by points of kernel size and two times; None if it never does."""
    ratios = [(math.log(point["kernel_size"]), math.log(point["convt1d"] / point["fft"])) for point in points]
    if ratios[0][1] >= 0:
        return points[0]["kernel_size"]
    # behind the last point at which convt1d is ahead: noise may cross more than once
    last = max(at for at, (_, ratio) in enumerate(ratios) if ratio < 0)
    if last == len(ratios) - 1:
        return None
    (left, below), (right, above) = ratios[last], ratios[last + 1]
    return round(math.exp(left - below * (right - left) / (above - below)))


def table(document):
    """In Markdown: where the FFT overtakes."""
    cases = {(case["stride"], case["dtype"]): case["points"] for case in document["cases"]}
    strides = sorted({stride for stride, _ in cases})

    def cell(points):
        at = crossing(points)
        if at is None:
            return f"beyond {points[-1]['kernel_size']:,}"
        return f"below {at:,}" if at == points[0]["kernel_size"] else f"{float(f'{at:.2g}'):,.0f}"

    lines = ["| stride | float32 | float64 |", "|---:|---:|---:|"]
    for stride in strides:
        lines.append("| " + " | ".join([str(stride), *(cell(cases[stride, dtype]) for dtype in DTYPES)]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a result, measure nothing")
    parser.add_argument("--output", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    limit_threads(1)
    import numpy as np
    import scipy

    import convt1d

    now = datetime.datetime.now(datetime.UTC)
    load_before, cases = machine.load_average(), []
    for stride in STRIDES:
        for dtype in DTYPES:
            points = []
            for kernel_size in LENGTHS:
                if kernel_size < stride:
                    continue
                points.append({"kernel_size": kernel_size} | measure(stride, dtype, kernel_size))
                ours, fft = points[-1]["convt1d"], points[-1]["fft"]
                print(
                    f"stride {stride:3} {dtype} K {kernel_size:6}   convt1d {1e3 * ours:8.2f} ms   "
                    f"fft {1e3 * fft:8.2f} ms   {ours / fft:5.2f}   apart {points[-1]['difference']:.0e}",
                    flush=True,
                )
                if ours > FAR * fft:
                    break
            cases.append({"stride": stride, "dtype": dtype, "points": points})
    document = {
        "date": now.isoformat(timespec="seconds"),
        "threads": 1,
        "output_samples": OUTPUT,
        "machine": machine.describe(),
        "versions": {"convt1d": convt1d.__version__, "numpy": np.__version__, "scipy": scipy.__version__},
        "load_before": load_before,
        "load_after": machine.load_average(),
        "cases": cases,
    }
    path = options.output or Path(__file__).parent / "results" / f"fft-crossover-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
