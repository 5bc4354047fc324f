# SPDX-License-Identifier: MIT
"""Where the time of whole decoders goes: in transposed layers, convolutions, activations, or elsewhere.

    python bench/where.py RESULT.json                     measures; one thread
    python bench/where.py RESULT.json --draw PICTURE.png  draws what it holds

torch eagerly and convt1d: the calls of each layer and activation are timed where they stand; what convt1d computes in a
layer's own pass is that layer's. onnxruntime: its own profiler, by operator; it fuses some activations, too. The three
run in turns; means over the rounds.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from run import limit_threads

NAMES = ("hifigan_v1", "dac", "snac", "encodec")
KINDS = {"transposed": "#d1495b", "convolution": "#2e4057", "activation": "#edae49", "elsewhere": "#c9c9c9"}
ROUNDS = 7
OPERATORS = {"ConvTranspose": "transposed", "Conv": "convolution", "FusedConv": "convolution"}
OF_ACTIVATIONS = ("Sin", "Mul", "Pow", "Elu", "LeakyRelu", "Tanh", "Div", "Reciprocal")


@contextmanager
def clocks(spent):
    """Time the calls of convt1d's layers and activations."""
    import convt1d
    from convt1d.activations import Activation

    kinds = {convt1d.ConvTranspose1d: "transposed", convt1d.Conv1d: "convolution", Activation: "activation"}
    before = {each: each.__call__ for each in kinds}

    def timed(call, kind):
        def run(*args, **options):
            start = time.perf_counter()
            y = call(*args, **options)
            spent[kind] += time.perf_counter() - start
            return y

        return run

    for each, kind in kinds.items():
        each.__call__ = timed(before[each], kind)
    yield
    for each in kinds:
        each.__call__ = before[each]


def hooked(model, spent):
    """Time the calls of a torch model's layers and activations, from now on."""
    from models import blocks
    from torch import nn

    kinds = {nn.ConvTranspose1d: "transposed", nn.Conv1d: "convolution"}
    kinds |= dict.fromkeys((nn.LeakyReLU, nn.ELU, nn.Tanh, blocks.Snake), "activation")
    for module in model.modules():
        kind = next((kinds[each] for each in kinds if isinstance(module, each)), None)
        if kind:
            started = []
            module.register_forward_pre_hook(lambda *_, started=started: started.append(time.perf_counter()))

            def end(*_, started=started, kind=kind):
                spent[kind] += time.perf_counter() - started.pop()

            module.register_forward_hook(end)


def of_onnxruntime(path, runs):
    """Seconds of each kind in a run, from the profiler's file."""
    spent = Counter()
    for event in json.loads(Path(path).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            operator = event["args"]["op_name"]
            kind = OPERATORS.get(operator, "activation" if operator in OF_ACTIVATIONS else "elsewhere")
            spent[kind] += 1e-6 * event["dur"] / runs
    return spent


def measure(name):
    """{implementation: {kind: milliseconds}}"""
    import decoders
    import onnxruntime
    import torch
    from models import DECODERS, convert

    decoder = DECODERS[name]
    model, inputs = decoder.model(), decoder.inputs(decoder.frames)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    session = onnxruntime.InferenceSession(decoders.exported(model, inputs), options, ["CPUExecutionProvider"])
    chain, totals = convert.as_step(model), {}
    spent = {"torch": Counter(), "convt1d": Counter()}
    hooked(model, spent["torch"])
    calls = {
        "torch": lambda: model(*map(torch.from_numpy, inputs)),
        "onnxruntime": lambda: session.run(None, {f"x{i}": x for i, x in enumerate(inputs)}),
        "convt1d": lambda: chain(*inputs, workers=1),
    }
    with clocks(spent["convt1d"]):
        for number in range(ROUNDS + 1):
            for each, call in calls.items():
                elapsed = decoders.timed(call)
                totals.setdefault(each, []).append(elapsed)
            if number == 0:  # packing, the first look at memory
                totals.clear()
                for counter in spent.values():
                    counter.clear()
    profile = session.end_profiling()
    spent = {each: Counter({k: v / ROUNDS for k, v in counter.items()}) for each, counter in spent.items()}
    spent["onnxruntime"] = of_onnxruntime(profile, ROUNDS + 1)
    Path(profile).unlink()
    found = {}
    for each in calls:
        kinds = {kind: 1e3 * spent[each][kind] for kind in KINDS}
        kinds["elsewhere"] = max(0, 1e3 * statistics.mean(totals[each]) - sum(kinds.values()) + kinds["elsewhere"])
        found[each] = kinds
    return found


def draw(document, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from models import DECODERS

    profile = document["profile"]
    figure, grid = plt.subplots(len(profile), figsize=(8, 1.25 * len(profile) + 0.9), layout="constrained")
    for axes, (name, found) in zip(grid, profile.items(), strict=True):
        for row, kinds in enumerate(found.values()):
            left = 0
            for kind, colour in KINDS.items():
                axes.barh(row, kinds[kind], left=left, color=colour, height=0.75)
                left += kinds[kind]
            axes.text(left, row, f" {left:.0f} ms", va="center", fontsize=8)
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(sum(kinds.values()) for kinds in found.values()))
        axes.set_title(f"{DECODERS[name].title}, {DECODERS[name].seconds:.2g} s of sound", loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in KINDS.values()]
    figure.legend(handles, list(KINDS), ncols=len(KINDS), loc="outside upper center", frameon=False, fontsize=9)
    versions = " · ".join(f"{name} {version}" for name, version in document["versions"].items())
    caption = f"{document['date'][:10]} · {document['machine']['processor']}, 1 thread · {versions}"
    figure.supxlabel(caption, fontsize=7, color="0.3")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="the .json file")
    parser.add_argument("--draw", type=Path, metavar="PICTURE.png")
    options = parser.parse_args(argv)
    if options.draw:
        draw(json.loads(options.result.read_text()), options.draw)
        return
    limit_threads(1)
    import datetime

    import machine
    import peers
    import torch

    torch.set_num_threads(1)
    torch.inference_mode().__enter__()
    document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": peers.versions([peers.Torch, peers.OnnxRuntime]),
        "profile": {name: measure(name) for name in NAMES},
    }
    options.result.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
