# SPDX-License-Identifier: MIT
"""Measure whole audio decoders beside torch, ONNX Runtime and OpenVINO: signals, chunks, and their conv1d layers.

    python bench/decoders.py                              every decoder of bench/models, one thread
    python bench/decoders.py --only dac snac --seconds 10 --output FILE.json     adds to the file, if it is there
    python bench/decoders.py --chunks 0.1 0.012           streamed, against runtimes with the overlap they need
    python bench/decoders.py --through torch onnx         what users of either get by one line, beside the same peers
    python bench/decoders.py --layers --only dac          the conv1d layers of a model, each alone
    python bench/decoders.py --realtime 10000             chunks of 20 ms of HiFi-GAN V1 and SNAC, one after another
    python bench/decoders.py --table FILE.json            what a file holds, as Markdown

A decoder is a torch module with random weights. Ours is a `convt1d.Chain` with its weights, in NumPy; where a model is
no chain (transformers, norms over the whole signal, several inputs) ours is the torch model in which convt1d computes
every part that is one. Peers are given what their users could give them: torch eagerly (--compile: compiled too), an
ONNX export of the model for the length at hand, and the same with all layers written as 2-D ones of height 1, which
nobody exports but which ONNX Runtime computes faster.

All run in one process, in turns, in an order that is shuffled each round; from NumPy array to NumPy array; each call
counts, the first after another implementation's too. Medians. Every result is compared with torch's, and one that is
off by more than 1e-4 of the peak ends the run. Chunks: ours is `chain.stream()`, whose outputs are compared with the
whole signal's; a runtime decodes the chunk with as many frames on both sides as the output depends on.
"""

import argparse
import datetime
import io
import json
import random
import statistics
import sys
import time
import warnings
from pathlib import Path

from run import Progress, limit_threads, settle

TOLERANCE = 1e-4  # of the peak
TURN = 0.005  # seconds of calls in a turn
CONTEXT = 64  # frames in which a receptive field must fit
# Input and output channels, kernel size, dilations, groups, samples; all keep the length.
LAYERS = {
    "hifigan": [
        (80, 512, 7, (1,), 1, 200),
        *(
            (c, c, k, (1, 3, 5), 1, n)
            for c, n in ((256, 1600), (128, 12800), (64, 25600), (32, 51200))
            for k in (3, 7, 11)
        ),
        (32, 1, 7, (1,), 1, 51200),
    ],
    "hifigan_v3": [
        (c, c, k, dilations, 1, n)
        for c, n in ((128, 1600), (64, 12800), (32, 51200))
        for k, dilations in ((3, (1, 2)), (5, (2, 6)), (7, (3, 12)))
    ],
    "dac": [
        (1024, 1536, 7, (1,), 1, 43),
        *((c, c, 7, (1, 3, 9), 1, n) for c, n in ((768, 344), (384, 2752), (192, 11008), (96, 22016))),
        *((c, c, 1, (1,), 1, n) for c, n in ((768, 344), (384, 2752), (192, 11008), (96, 22016))),
        (96, 1, 7, (1,), 1, 22016),
    ],
    "snac": [
        (768, 768, 7, (1,), 768, 48),
        *((c, c, 7, (1, 3, 9), c, n) for c, n in ((512, 384), (256, 3072), (128, 12288), (64, 24576))),
        *((c, c, 1, (1,), 1, n) for c, n in ((512, 384), (256, 3072), (128, 12288), (64, 24576))),
        (64, 1, 7, (1,), 1, 24576),
    ],
    "encodec": [
        (128, 512, 7, (1,), 1, 75),
        *((c, c // 2, 3, (1,), 1, n) for c, n in ((256, 600), (128, 3000), (64, 12000), (32, 24000))),
        *((c // 2, c, 1, (1,), 1, n) for c, n in ((256, 600), (128, 3000), (64, 12000), (32, 24000))),
        *((c, c, 1, (1,), 1, n) for c, n in ((256, 600), (128, 3000), (64, 12000), (32, 24000))),
    ],
    "melgan": [(c, c, 3, (1, 3, 9), 1, n) for c, n in ((256, 800), (128, 6400), (64, 12800), (32, 25600))],
    "demucs": [(c, 2 * c, 3, (1,), 1, n) for c, n in ((1024, 92), (512, 372), (256, 1492), (128, 5972), (64, 23892))],
    "conv_tasnet": [(128, 512, 1, (1,), 1, 2000), (512, 128, 1, (1,), 1, 2000), (512, 512, 3, (1, 16, 128), 512, 2000)],
    "waveglow": [(256, 512, 3, (1, 16, 128), 1, 2756), (256, 512, 1, (1,), 1, 2756)],
    "vocos": [(512, 512, 7, (1,), 512, 188)],
    "phasenet": [(8, 8, 7, (1,), 1, 3001)],
}
KINDS = {
    "dense": "K > 1, dilation 1",
    "dilated": "dilated",
    "pointwise": "K = 1",
    "depthwise": "depthwise",
    "one": "to one channel",
}


# Implementations: each is made for a model and inputs of one shape, and maps arrays to an array -----------------


def ours(decoder, model, inputs, threads):
    from models import convert

    try:
        step = convert.as_step(model)
    except convert.NoStep:
        return eager(decoder, convert.by_hand(model, threads), inputs, threads)
    return lambda x: step(x, workers=threads)


def through_torch(decoder, model, inputs, threads):
    """The torch model after `replace` and `freeze`, without another edit."""
    import copy

    from convt1d.torch import freeze, replace

    model = copy.deepcopy(model)
    replace(model, activations=True)
    freeze(model)
    return eager(decoder, model, inputs, threads)


def through_onnx(decoder, model, inputs, threads):
    """The exported model after `accelerate`."""
    from convt1d.onnx import accelerate

    session = accelerate(exported(model, inputs), threads=threads)
    return lambda *inputs: session.run(None, {f"x{i}": x for i, x in enumerate(inputs)})[0]


WAYS = {"torch": through_torch, "onnx": through_onnx}


def eager(decoder, model, inputs, threads):
    import torch

    return lambda *inputs: model(*map(torch.from_numpy, inputs)).numpy()


def compiled(decoder, model, inputs, threads):
    import torch

    return eager(decoder, torch.compile(model), inputs, threads)


def exported(model, inputs):
    """The model as ONNX, for inputs of these shapes."""
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(map(torch.from_numpy, inputs)),
            file,
            input_names=[f"x{i}" for i in range(len(inputs))],
            opset_version=17,
            dynamo=False,
        )
    return file.getvalue()


def onnxruntime(decoder, model, inputs, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported(model, inputs), options, providers=["CPUExecutionProvider"])
    return lambda *inputs: session.run(None, {f"x{i}": x for i, x in enumerate(inputs)})[0]


def onnxruntime_2d(decoder, model, inputs, threads):
    from models import convert

    return onnxruntime(decoder, convert.as_2d(model), inputs, threads)


def openvino(decoder, model, inputs, threads):
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(exported(model, inputs)), "CPU", settings).create_infer_request()

    def call(*inputs):
        for i, x in enumerate(inputs):
            request.set_input_tensor(i, openvino.Tensor(x, shared_memory=True))
        request.infer()
        return request.get_output_tensor().data

    return call


RUNTIMES = {"onnxruntime": onnxruntime, "onnxruntime 2-D": onnxruntime_2d, "openvino": openvino}
PEERS = {"torch": eager, "torch.compile": compiled, **RUNTIMES}


# Measuring ------------------------------------------------------------------------------------------------------


def deviation(y, reference):
    """Largest difference, in units of the largest value; NaN stays NaN."""
    import numpy as np

    if y.shape != reference.shape:
        return float("inf")
    return float(np.abs(y - reference).max() / np.abs(reference).max())


def in_turns(calls, options, least=3):
    """Times of each of `calls`, in seconds: whole rounds, for about options.seconds."""
    single = {name: timed(call) for name, call in calls.items()}
    times = {name: [] for name in calls}
    shuffle, end = random.Random(0).shuffle, time.perf_counter() + options.seconds
    while min(map(len, times.values())) < least or time.perf_counter() < end:
        order = list(calls)
        shuffle(order)
        for name in order:
            if options.threads > 1:
                settle()
            times[name] += [timed(calls[name]) for _ in range(max(1, int(TURN / single[name])))]
    return times


def timed(call):
    start = time.perf_counter()
    y = call()
    elapsed = time.perf_counter() - start
    del y  # freed outside the clock
    return elapsed


def figures(times, deviations):
    found = {
        name: {
            "median_ms": 1e3 * statistics.median(each),
            "min_ms": 1e3 * min(each),
            "calls": len(each),
            "deviation": deviations[name],
        }
        for name, each in times.items()
    }
    best = min((name for name in found if name != "convt1d"), key=lambda name: found[name]["median_ms"], default=None)
    ratio = found[best]["median_ms"] / found["convt1d"]["median_ms"] if best else None
    return {"implementations": found, "best": best, "ratio": ratio}


def check(deviations, what):
    """End the run where a result is wrong."""
    if wrong := {name: each for name, each in deviations.items() if not each <= TOLERANCE}:
        raise SystemExit(f"{what}: off by more than {TOLERANCE} of the peak: {wrong}")


def whole(name, decoder, peers, options, way=ours):
    """A signal at once, by everyone; ours in one of its ways."""
    model, inputs = decoder.model(), decoder.inputs(decoder.frames)
    reference = eager(decoder, model, inputs, options.threads)(*inputs).copy()
    made = {"convt1d": way, **peers}
    made = {each: build(decoder, model, inputs, options.threads) for each, build in made.items()}
    deviations = {each: deviation(call(*inputs), reference) for each, call in made.items()}
    check(deviations, name)
    times = in_turns({each: lambda call=call: call(*inputs) for each, call in made.items()}, options)
    return {"seconds": decoder.seconds, "frames": decoder.frames, **figures(times, deviations)}


def context(model, decoder):
    """Frames before and after a frame on which its output depends; None where it is not bounded."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        x = torch.randn(1, decoder.channels, CONTEXT + 1, requires_grad=True)
        at = CONTEXT // 2 * decoder.hop
        model(x)[..., at : at + decoder.hop].sum().backward()
        used = x.grad.abs().sum((0, 1)).nonzero().ravel().tolist()
    before, after = CONTEXT // 2 - used[0], used[-1] - CONTEXT // 2
    return None if max(before, after) == CONTEXT // 2 else (before, after)


def chunked(name, decoder, peers, options, seconds):
    """Chunks of about so many seconds: our stream, and the runtimes with overlap."""
    import numpy as np
    from models import convert

    model, frames = decoder.model(), max(1, round(seconds * decoder.rate / decoder.hop))
    before, after = context(model, decoder) or (0, 0)
    count = -(-(before + after) // frames) + 3
    (x,) = decoder.inputs(count * frames)
    reference = eager(decoder, model, [x], options.threads)(x).copy()
    chain = convert.as_step(model)
    stream = chain.stream(workers=options.threads)
    chunks = [np.ascontiguousarray(part) for part in np.split(x, count, -1)]
    y = np.concatenate([*map(stream.process, chunks), stream.flush()], -1)
    deviations = {"convt1d": deviation(y, reference)}
    same = chain(x, workers=options.threads)
    stream.reset()
    for chunk in chunks:
        stream.process(chunk)
    turn = iter(range(1 << 60))
    calls = {"convt1d": lambda: stream.process(chunks[next(turn) % count])}
    if before + after:
        window = np.ascontiguousarray(x[..., : before + frames + after])
        hop = decoder.hop
        cut = slice(before * hop, (before + frames) * hop)
        for peer, build in peers.items():
            call = build(decoder, model, [window], options.threads)
            deviations[peer] = deviation(call(window)[..., cut], reference[..., cut])
            calls[peer] = lambda call=call: call(window)
    check(deviations, name)
    return {
        "seconds": frames * decoder.hop / decoder.rate,
        "frames": frames,
        "context": (before, after),
        "latency": stream.latency,
        "off_the_whole": deviation(y, same),
        **figures(in_turns(calls, options), deviations),
    }


def realtime(name, decoder, options, seconds=0.02):
    """Percentiles of a chunk of about `seconds`, of many chunks in a row."""
    import numpy as np
    from models import convert

    frames = max(1, round(seconds * decoder.rate / decoder.hop))
    stream = convert.as_step(decoder.model()).stream(workers=options.threads)
    chunks = [decoder.inputs(frames, seed)[0] for seed in range(7)]
    for i in range(100):
        stream.process(chunks[i % 7])
    times = [1e3 * timed(lambda: stream.process(chunks[i % 7])) for i in range(options.realtime)]  # noqa: B023
    p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
    milliseconds = 1e3 * frames * decoder.hop / decoder.rate
    late = sum(each > milliseconds for each in times)
    found = {"p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999, "max_ms": max(times), "late": late}
    return {"chunk_ms": milliseconds, "chunks": options.realtime, **found}


def layer_decoder(c_in, c_out, kernel_size, dilation, groups, length):
    """One layer in the place of a decoder."""
    from models import Decoder
    from models.blocks import same

    def build():
        return same(c_in, c_out, kernel_size, dilation, groups=groups)

    kind = (
        "one"
        if c_out == 1
        else "depthwise"
        if groups > 1
        else "pointwise"
        if kernel_size == 1
        else "dense"
        if dilation == 1
        else "dilated"
    )
    name = f"{c_in}-{c_out} K{kernel_size} d{dilation} L{length}" + (" depthwise" if groups > 1 else "")
    return name, kind, Decoder(name, build, c_in, length, 1, 1)


# Results --------------------------------------------------------------------------------------------------------


def geomean(values):
    return statistics.geometric_mean(values) if values else float("nan")


def rows(results, bars=None):
    """Markdown rows of {title: result}, with the ratios' geometric mean below."""
    names = list(dict.fromkeys(name for each in results.values() for name in each["implementations"]))
    yield "| | s | " + " | ".join(names) + " | best peer / ours | bar |"
    yield "|---|" + "---:|" * (len(names) + 3)
    for title, each in results.items():
        times = (each["implementations"].get(name) for name in names)
        cells = [f"{found['median_ms']:.4g}" if found else "–" for found in times]
        ratio = f"**{each['ratio']:.2f}**" if each["ratio"] else "–"
        yield f"| {title} | {each['seconds']:.3g} | {' | '.join(cells)} | {ratio} | {(bars or {}).get(title) or ''} |"
    yield ""
    ratios = [each["ratio"] for each in results.values() if each["ratio"]]
    yield f"Geometric mean {geomean(ratios):.3f}, lowest {min(ratios, default=0):.2f}; milliseconds, medians."


def table(document):
    """A file as Markdown."""
    from models import DECODERS

    machine = document["machine"]
    yield f"{machine['processor']}, {document['threads']} thread(s), {document['date']}"
    yield ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    for part, results in document["parts"].items():
        yield f"\n## {part}\n"
        if part == "layers":
            for kind, words in KINDS.items():
                some = {name: each for name, each in results.items() if each["kind"] == kind}
                if some:
                    yield f"\n{words}\n"
                    yield from rows(some)
        elif part == "realtime":
            for name, each in results.items():
                yield f"- {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in each.items())
        else:
            titles = {DECODERS[name].title: each for name, each in results.items()}
            bars = {each.title: each.bar if part == "whole" else each.chunk_bar for each in DECODERS.values()}
            yield from rows(titles, bars if part in ("whole", "chunks of 0.1 s") else None)


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="decoders, or models whose layers are asked for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="for the turns of one subject (default 10)")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; default: all but compile")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too; needs a compiler")
    parser.add_argument("--chunks", nargs="+", type=float, metavar="SECONDS", help="streamed, in chunks so long")
    parser.add_argument("--through", nargs="+", choices=list(WAYS), help="inside torch, or inside ONNX Runtime")
    parser.add_argument("--layers", action="store_true", help="the conv1d layers")
    parser.add_argument("--realtime", type=int, metavar="COUNT", help="so many chunks of 20 ms")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="print a result")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="is added to")
    options = parser.parse_args(argv)
    if options.threads < 1 or options.seconds <= 0:
        parser.error("--threads must be at least 1, and --seconds more than 0")
    return parser, options


def subjects(parser, options):
    """(part, name, what measures it) for all that the options ask for."""
    from models import DECODERS

    known = LAYERS if options.layers else DECODERS
    asked = options.only or list(known)
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"--only: {', '.join(unknown)} unknown; there are {', '.join(known)}")
    chosen = ["torch", *RUNTIMES] if options.peers is None else options.peers
    peers = {name: PEERS[name] for name in [*chosen, *(["torch.compile"] if options.compile else [])]}
    runtimes = {name: build for name, build in peers.items() if name in RUNTIMES}
    for name in asked:
        if options.layers:
            for *shape, dilations, groups, length in LAYERS[name]:
                for dilation in dilations:
                    title, kind, layer = layer_decoder(*shape, dilation, groups, length)
                    yield (
                        "layers",
                        f"{name} {title}",
                        lambda title=title, kind=kind, layer=layer: (
                            {"kind": kind} | whole(title, layer, peers, options)
                        ),
                    )
        elif options.realtime:
            if options.only or name in ("hifigan_v1", "snac"):
                yield "realtime", name, lambda name=name: realtime(name, DECODERS[name], options)
        elif options.through:
            for way in options.through:
                yield (
                    f"through {way}",
                    name,
                    lambda name=name, way=way: whole(name, DECODERS[name], peers, options, WAYS[way]),
                )
        elif options.chunks:
            for seconds in options.chunks if DECODERS[name].streams else ():
                yield (
                    f"chunks of {seconds:g} s",
                    name,
                    lambda name=name, seconds=seconds: chunked(name, DECODERS[name], runtimes, options, seconds),
                )
        else:
            yield "whole", name, lambda name=name: whole(name, DECODERS[name], peers, options)


def main(argv=None):
    parser, options = arguments(argv)
    if options.table:
        print("\n".join(table(json.loads(options.table.read_text()))))
        return
    limit_threads(options.threads)
    import machine
    import peers
    import torch

    torch.set_num_threads(options.threads)
    torch.inference_mode().__enter__()
    found = machine.describe()
    document = {"threads": options.threads, "machine": found, "versions": {}, "parts": {}}
    if options.output and options.output.exists():
        document = json.loads(options.output.read_text())
        if (document["machine"]["processor"], document["threads"]) != (found["processor"], options.threads):
            raise SystemExit(f"{options.output} is of another processor, or of another number of threads")
    document["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document["versions"] |= peers.versions([peers.Torch, peers.OnnxRuntime, peers.OpenVino])
    todo = list(subjects(parser, options))
    progress = Progress(len(todo))
    for part, name, measure in todo:
        progress.begin(f"{part}: {name}")
        result = document["parts"].setdefault(part, {})[name] = measure()
        print(f"{part}: {name}: {summary(result)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(document, indent=1) + "\n")
    progress.close()
    print("\n".join(table(document)))


def summary(result):
    if "implementations" not in result:
        return ", ".join(f"{key} {value:.4g}" for key, value in result.items())
    times = (f"{name} {each['median_ms']:.4g}" for name, each in result["implementations"].items())
    return ", ".join(times) + (f" ms; {result['ratio']:.3f}" if result["ratio"] else " ms")


if __name__ == "__main__":
    sys.exit(main())
