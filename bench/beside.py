# SPDX-License-Identifier: MIT
"""Calls of ours and of another library in turns, on all threads: who slows whom?

    python bench/run.py --threads 2 --beside torch,sklearn

Each library has a process of its own with convt1d. Layer by layer its call and ours alternate:

    after    theirs, ours, theirs, ours, ...                      one right after the other
    alone    theirs, pause, ours, pause, theirs, ...              the other's threads sleep, caches are as it left them

and ours on one thread, right after theirs. `ours` and `theirs` are after / alone: 1 where nobody waits for anybody.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

# Short and long, few channels and many.
LAYERS = (
    "ecg_autoencoder", "istft_1026", "convtasnet_decoder", "dilated_s1", "encodec_up4", "hifigan_up4", "phasenet_up",
)  # fmt: skip
PAUSE = 0.06  # seconds; ONNX Runtime's threads spin for 50 ms
SECONDS = 0.5  # of calls, for each layer and way


def other_call(name, layer, parameters, x, threads):
    """A call of the other library; of scikit-learn one that has nothing to do with the layer."""
    import numpy as np
    import peers

    if name == "sklearn":
        from sklearn.ensemble import HistGradientBoostingRegressor

        rows = np.random.default_rng(0).standard_normal((20000, 20))
        model = HistGradientBoostingRegressor(max_iter=20).fit(rows, rows[:, 0])
        return lambda: model.predict(rows)
    peer = peers.PEERS[name](layer, *parameters, threads=threads)
    return lambda: peer.call(x)


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(name, layer, threads):
    """Medians in microseconds of both, after each other and alone."""
    import numpy as np

    import convt1d

    rng = np.random.default_rng(0)
    weight, bias = layer.parameters("float32", rng)
    x = layer.input("float32", rng)
    ours = convt1d.ConvTranspose1d(
        layer.Cin, layer.Cout, layer.K, layer.stride, layer.padding, layer.output_padding, layer.groups, True,
        layer.dilation,
    )  # fmt: skip
    ours.weight, ours.bias = weight, bias
    out = ours(x)  # new outputs would be measured against the allocator's state
    theirs = other_call(name, layer, (weight, bias), x, threads)
    calls = {
        "ours": lambda: ours(x, out=out, workers=threads),
        "theirs": theirs,
        "one_thread": lambda: ours(x, out=out, workers=1),
    }
    for call in calls.values():
        call()
    turn = sum(timed(calls[who]) for who in ("ours", "theirs"))
    rounds = max(7, min(41, int(SECONDS / turn)))
    times = {}
    for way, order in (("after", ("theirs", "ours")), ("one", ("theirs", "one_thread")), ("alone", ("theirs", "ours"))):
        for _ in range(rounds if way != "alone" else min(rounds, 15)):
            for who in order:
                if way == "alone":
                    time.sleep(PAUSE)
                times.setdefault((who, way), []).append(timed(calls[who]))
    median = {key: 1e6 * statistics.median(found) for key, found in times.items()}
    return {
        "name": layer.name,
        "ours_after_us": median["ours", "after"],
        "ours_alone_us": median["ours", "alone"],
        "theirs_after_us": median["theirs", "after"],
        "theirs_alone_us": median["theirs", "alone"],
        "one_thread_us": median["one_thread", "one"],
    }


def tasks():
    """The process's threads, where the system lists them."""
    with contextlib.suppress(OSError):
        return set(os.listdir("/proc/self/task"))
    return set()


def run(name, layers, threads):
    """Figures of one library, in this process."""
    import peers

    from convt1d.cpu import _runtime

    known = {layer.name: layer for layer in peers.read_layers("forward")}
    results, new = [], set()
    for layer_name in layers:
        before = tasks() if results else None
        try:
            results.append(measure(name, known[layer_name], threads))
        except peers.Unsupported as reason:
            print(f"{layer_name} left out: {reason}", file=sys.stderr)
            continue
        if before is not None:
            new |= tasks() - before
    ratios = {
        who: [each[f"{who}_after_us"] / each[f"{who}_alone_us"] for each in results] for who in ("ours", "theirs")
    }
    one = [each["one_thread_us"] / each["ours_after_us"] for each in results]
    return {
        "library": name,
        "runtime": os.path.basename(_runtime.openmp_runtime()),
        "threads_in_process": len(tasks()),
        "threads_started_after_the_first_layer": len(new),
        "layers": results,
        "summary": {
            **{f"geomean_{who}": statistics.geometric_mean(found) for who, found in ratios.items()},
            **{f"worst_{who}": max(found) for who, found in ratios.items()},
            "geomean_one_thread_by_ours": statistics.geometric_mean(one),
            "lowest_one_thread_by_ours": min(one),
        },
    }


def report(figures):
    """Lines of one library's figures."""
    yield f"beside {figures['library']} (our threads: {figures['runtime']}), us, after theirs or ours / alone"
    heads = f"{'alone':>10}{'ratio':>7}"
    yield f"{'layer':<21}{'ours':>10}{heads}{'theirs':>10}{heads}{'one thread/ours':>17}"
    for each in figures["layers"]:
        ours, theirs = (
            f"{each[f'{who}_after_us']:>10.0f}{each[f'{who}_alone_us']:>10.0f}"
            f"{each[f'{who}_after_us'] / each[f'{who}_alone_us']:>7.2f}"
            for who in ("ours", "theirs")
        )
        yield f"{each['name']:<21}{ours}{theirs}{each['one_thread_us'] / each['ours_after_us']:>17.2f}"
    summary = figures["summary"]
    yield (
        f"ours: geomean {summary['geomean_ours']:.2f}, worst {summary['worst_ours']:.2f}; theirs: geomean "
        f"{summary['geomean_theirs']:.2f}, worst {summary['worst_theirs']:.2f}; one thread / ours: lowest "
        f"{summary['lowest_one_thread_by_ours']:.2f}"
    )


def beside(names, layers, threads):
    """Figures of several libraries, each from a process of its own."""
    found = []
    for name in names:
        command = [sys.executable, __file__, name, "--threads", str(threads), "--layers", *(layers or LAYERS)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print("\n".join(report(figures)), flush=True)
        found.append(figures)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    options = parser.parse_args()
    json.dump(run(options.name, options.layers, options.threads), sys.stdout)
