# SPDX-License-Identifier: MIT
"""Build, check and time the GPU path on this machine's GPU, in one go and within eight minutes.

    python bench/gpu.py                      everything; bench/results/GPU-DATE.json
    python bench/gpu.py --only istft depthwise --output FILE.json

Needs CuPy and torch with CUDA; the package may run from a checkout that was never built.

    1. every kernel of every type is compiled, and all cases of tests/data are computed by each, into poisoned outputs
    2. the ceilings: copy bandwidth, matrix products in each precision
    3. every layer in float32, TF32 (on both sides), 3xTF32 (against torch's float32), float16 and bfloat16: convt1d as
       it chooses and each of its kernels, torch with cudnn.benchmark, torch in two dimensions and channels_last,
       torch's matmul and fold; convt1d and torch from CUDA graphs, too

The floor of a layer is the longer of two times: to read x and the weights and write y once, at the copy bandwidth of
2., and to multiply, at the rate of its products (3xTF32: a third of TF32's). The table has what share of a kernel's
time that is.

A worker process does the work, so that neither a crash nor a call that takes minutes (cuDNN's search may) ends the
run: it is stopped, the fact recorded, and the next worker goes on behind it. Results are written as they come.

gpu_us is GPU time by events, with the calls queued behind a kernel that waits, so that it holds no gap of the host's
making; wall_us from call to finished result; host_us what the call keeps the host. Medians. Inputs and outputs rotate
through more memory than the L2 has, outputs are poisoned before and compared with float64 after.
"""

import argparse
import datetime
import functools
import json
import math
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

MINUTES = 7.5
STEP_SECONDS = 45  # one step may take so long
FIRST_SECONDS = 150  # and the first, which compiles and checks everything
TURNS = 15
TURN_SECONDS = 0.01

# name, N, C_in, C_out, K, stride, padding, output_padding, dilation, groups, L
FIELDS = ("N", "Cin", "Cout", "K", "stride", "padding", "output_padding", "dilation", "groups", "L")
LAYERS = {
    "depthwise": (16, 512, 512, 12, 2, 5, 0, 1, 512, 2048),
    "istft": (16, 1026, 1, 1024, 256, 0, 0, 1, 1, 224),
    "output_padding": (16, 64, 64, 5, 2, 4, 2, 3, 1, 8192),
    "up1": (16, 512, 256, 16, 8, 4, 0, 1, 1, 256),
    "up2": (16, 256, 128, 16, 8, 4, 0, 1, 1, 2048),
    "up3": (16, 128, 64, 4, 2, 1, 0, 1, 1, 16384),
    "up4": (16, 64, 32, 4, 2, 1, 0, 1, 1, 32768),
    "dac": (1, 1536, 768, 16, 8, 4, 0, 1, 1, 1024),
    "oobleck": (1, 2048, 1024, 20, 10, 5, 0, 1, 1, 1024),
    "pytorch_41382": (1, 64, 32, 4, 2, 1, 0, 1, 1, 40000),
    "one_hifigan": (1, 512, 256, 16, 8, 4, 0, 1, 1, 200),
}
PRECISIONS = ("float32", "tf32", "3xtf32", "float16", "bfloat16")
# By importance: if time runs out, the last ones are missing.
CONTENDERS = (
    *("convt1d", "torch", "torch channels_last", "convt1d fused", "convt1d rows", "torch fold", "convt1d columns"),
    *("convt1d graph", "torch graph"),
)
# Largest deviation from float64 on the same rounded inputs, in units of the largest output.
TOLERANCE = {"float32": 2e-5, "tf32": 5e-3, "3xtf32": 2e-5, "float16": 5e-3, "bfloat16": 4e-2}


def steps(names):
    yield {"step": "build and check"}
    yield {"step": "ceilings"}
    for contender in CONTENDERS:
        for name in names:
            for precision in PRECISIONS:
                if contender not in ("convt1d rows", "convt1d fused") or LAYERS[name][7] == 1:
                    yield {"step": "time", "layer": name, "precision": precision, "contender": contender}


# --- the parent: hands out steps, keeps the clock, writes the results -----------------------------------------------


class Worker:
    """A process of this script that takes a step a line and answers a line of JSON."""

    def __init__(self):
        command = [sys.executable, __file__, "--worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answers = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            if line.startswith("{"):
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def ask(self, step, seconds):
        """What came of a step, and whether this worker can go on."""
        try:
            self._process.stdin.write(json.dumps(step) + "\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            return {"error": f"stopped after {seconds:.0f} s"}, False
        except OSError as error:
            return {"error": f"the worker has gone: {error}"}, False
        if answer is None:
            return {"error": f"the worker ended with status {self._process.wait()}"}, False
        return answer, True

    def stop(self):
        self._process.kill()
        self._process.wait()


def run(names, output, minutes):
    end = time.monotonic() + 60 * minutes
    results = {"date": datetime.date.today().isoformat(), "fields": FIELDS, "steps": []}
    worker, path = None, output
    for step in steps(names):
        left = end - time.monotonic()
        if left < 5:
            results["unfinished"] = f"{minutes} minutes were over before {step}"
            print(results["unfinished"])
            break
        limit = FIRST_SECONDS if step["step"] == "build and check" else STEP_SECONDS
        if worker is None:
            worker, limit = Worker(), limit + 60  # it imports first
        answer, alive = worker.ask(step, min(limit, left))
        if not alive:
            worker.stop()
            worker = None
        if step["step"] == "build and check":
            results["machine"] = answer.pop("machine", None)
            if "fatal" in answer:
                print(answer["fatal"], file=sys.stderr)
                return None
        results["steps"].append(step | answer)
        if path is None:
            gpu = (results["machine"] or {"gpu": "unknown-gpu"})["gpu"]
            gpu = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
            path = HERE / "results" / f"{gpu}-{results['date']}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(results, indent=1) + "\n")
        temporary.replace(path)
        print(describe(step, answer), flush=True)
    if worker is not None:
        worker.stop()
    print(f"\n{table(results['steps'])}\n\n{path}")
    return results


def describe(step, answer):
    name = " ".join(str(value) for value in step.values())
    if "error" in answer:
        return f"{name}: {answer['error']}"
    if step["step"] == "time":
        return f"{name}: {answer['gpu_us']:.1f} us on the GPU, {answer['wall_us']:.1f} us a call"
    return f"{name}: {json.dumps({key: value for key, value in answer.items() if key != 'machine'})}"


def table(done):
    """GPU microseconds of the contenders and the share that the floor is of them, by layer and precision."""
    times, ceilings = {}, next((step for step in done if "copy_gb_s" in step), None)
    for step in done:
        if step["step"] == "time" and "gpu_us" in step:
            share = f" {100 * floor_us(step, ceilings) / step['gpu_us']:.0f}%" if ceilings else ""
            text = f"{step['gpu_us']:.1f}{share}{'' if step['right'] else ' WRONG'}"
            times.setdefault((step["layer"], step["precision"]), {})[step["contender"]] = text
    lines = [("layer", "precision", *CONTENDERS)]
    lines += [(*key, *(row.get(contender, "-") for contender in CONTENDERS)) for key, row in times.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in lines)


def floor_us(step, ceilings):
    """The least time that a layer needs on this GPU, by its copy bandwidth and its rate of products."""
    precision, products = step["precision"], 1
    if precision == "3xtf32":
        precision, products = "tf32", 3
    multiplying = products * step["flops"] / ceilings[f"{precision}_tflop_s"] / 1e6
    return max(step["bytes"] / ceilings["copy_gb_s"] / 1e3, multiplying)


# --- the worker -----------------------------------------------------------------------------------------------------


def work():
    gpu = None
    for line in sys.stdin:
        step = json.loads(line)
        try:
            if gpu is None:
                gpu = Gpu()
            if step["step"] == "build and check":
                answer = {"machine": gpu.machine()} | gpu.build() | gpu.check()
            elif step["step"] == "ceilings":
                answer = gpu.ceilings()
            else:
                answer = gpu.time(step["layer"], step["precision"], step["contender"])
        except NoGpu as error:
            answer = {"fatal": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            if gpu is not None and gpu.broken():
                print(json.dumps(answer), flush=True)
                os._exit(1)  # an error that the device does not recover from
        print(json.dumps(answer), flush=True)


class NoGpu(Exception):
    pass


class Gpu:
    """CuPy, torch, and what is measured with them; both work on the default stream."""

    device = "cuda"

    def __init__(self):
        try:
            import cupy
            import torch

            count = cupy.cuda.runtime.getDeviceCount()
        except Exception as error:
            raise NoGpu(f"There is no GPU to measure: {type(error).__name__}: {error}") from error
        if not count or not torch.cuda.is_available():
            raise NoGpu("There is no GPU to measure: CuPy or torch sees no CUDA device")
        self.cupy, self.torch = cupy, torch
        torch.backends.cudnn.benchmark = True
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        self.name, self.l2 = properties["name"].decode(), int(properties["l2CacheSize"])
        self._layer = self._prepared = None
        spin = 'extern "C" __global__ void spin(long long n) { long long t = clock64(); while (clock64() - t < n); }'
        self._spin = cupy.RawModule(code=spin).get_function("spin")

    def broken(self):
        try:
            self.torch.cuda.synchronize()
        except Exception:
            return True
        return False

    def machine(self):
        runtime = self.cupy.cuda.runtime
        return {
            "gpu": self.name,
            "compute_capability": self.cupy.cuda.Device(0).compute_capability,
            "l2_mib": self.l2 / 2**20,
            "driver": runtime.driverGetVersion(),
            "cuda": runtime.runtimeGetVersion(),
            "cupy": self.cupy.__version__,
            "torch": self.torch.__version__,
            "cudnn": self.torch.backends.cudnn.version(),
        }

    def build(self):
        """Seconds to compile each type's kernels, or to find them in CuPy's cache."""
        from convt1d.cuda import backend

        seconds = {}
        for number, name in enumerate(backend.TYPES):
            start = time.perf_counter()
            backend._module(0, number).compile()
            seconds[name] = round(time.perf_counter() - start, 2)
        return {"build_seconds": seconds}

    def check(self):
        """The stored cases with each kernel, in pieces as well: how many of each type were wrong."""
        import ml_dtypes
        import numpy as np

        import convt1d
        from convt1d.cuda import backend

        data = HERE.parent / "tests" / "data"
        vectors, cases = np.load(data / "vectors.npz"), json.loads((data / "cases.json").read_text())
        cases = [(case, {name: vectors[f"{case['id']:03d}_{name}"] for name in ("x", "w", "y")}) for case in cases]
        for case, arrays in cases:
            arrays["b"] = vectors[f"{case['id']:03d}_b"] if case["bias"] else None
        names = ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode")
        counts, wrong = {}, {}
        for name in backend.TYPES:
            dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
            for kernel, workspace, precision in (
                *((kernel, "", "float32") for kernel in ("", "direct", "columns", "rows", "fused")),
                *(("columns", "6000", "float32"), ("fused", "", "tf32"), ("fused", "", "3xtf32")),
            ):
                if precision != "float32" and name != "float32":
                    continue
                os.environ |= {"CONVT1D_CUDA_KERNEL": kernel, "CONVT1D_CUDA_WORKSPACE": workspace}
                for case, arrays in cases:
                    if case["complex"] != (dtype.kind == "c") or (kernel and case["id"] % 2):
                        continue
                    summed = np.float32 if dtype.itemsize == 2 else dtype
                    x, w = self._array(arrays["x"], dtype), self._array(arrays["w"], dtype)
                    b = None if arrays["b"] is None else self._array(arrays["b"], np.dtype(summed))
                    out = self._array(np.full(arrays["y"].shape, np.nan), dtype)
                    given = {key: case[key] for key in names}
                    convt1d.conv_transpose1d(x, w, b, **given, out=out, precision=precision)
                    counts[name] = counts.get(name, 0) + 1
                    if not np.array_equal(self._values(out), arrays["y"].astype(dtype)):
                        wrong.setdefault(f"{name} {kernel} {workspace} {precision}", []).append(case["id"])
        os.environ |= {"CONVT1D_CUDA_KERNEL": "", "CONVT1D_CUDA_WORKSPACE": ""}
        return {"vectors": counts, "wrong": wrong}

    def _array(self, a, dtype):
        a = a.astype(dtype)
        return self.cupy.asarray(a.view("u2")).view(dtype) if dtype.itemsize == 2 else self.cupy.asarray(a)

    def _values(self, a):
        return self.cupy.asnumpy(a.view("u2")).view(a.dtype) if a.dtype.itemsize == 2 else self.cupy.asnumpy(a)

    def ceilings(self):
        """Copy bandwidth in GB/s, bytes read and written; TFLOP/s of large products of random numbers."""
        torch, n = self.torch, 8192
        source = torch.empty(2**28, device=self.device).normal_()
        target = torch.empty_like(source)
        us = self._times([functools.partial(target.copy_, source)])["gpu_us"]
        answer = {"copy_gb_s": round(2 * 4 * source.numel() / us / 1e3, 1)}
        del source, target
        for precision in PRECISIONS:
            if precision == "3xtf32":
                continue  # of tf32
            self._allow(precision)
            x, y, out = (torch.randn(n, n, device=self.device, dtype=self._dtype(precision)) for _ in range(3))
            us = self._times([functools.partial(torch.matmul, x, y, out=out)])["gpu_us"]
            answer[f"{precision}_tflop_s"] = round(2 * n**3 / us / 1e6, 1)
        return answer

    def _allow(self, precision):
        self.torch.backends.cuda.matmul.allow_tf32 = self.torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def _dtype(self, precision):
        return getattr(self.torch, "float32" if "tf32" in precision else precision)

    def time(self, layer, precision, contender):
        torch = self.torch
        self._allow(precision)
        sizes = dict(zip(FIELDS, LAYERS[layer], strict=True))
        xs, weight, bias, expected = self._problem(layer, precision, sizes)
        call, outputs = getattr(self, "_" + contender.replace(" ", "_"))(sizes, precision, xs, weight, bias)
        start = time.perf_counter()
        call(0)
        torch.cuda.synchronize()
        first = time.perf_counter() - start
        times = self._times([lambda i=i: call(i) for i in range(len(xs))])
        for y in outputs:
            y.fill_(math.nan)
        y = call(0)
        y = (y if y.ndim == 3 else y.squeeze(2))[:1].double()
        deviation = float((y - expected).abs().max() / expected.abs().max())
        elements = sizes["N"] * (sizes["Cin"] * sizes["L"] + sizes["Cout"] * expected.shape[-1])
        flops = 2 * sizes["N"] * sizes["Cin"] * sizes["Cout"] // sizes["groups"] * sizes["K"] * sizes["L"]
        return times | {
            "first_call_s": round(first, 3),
            "deviation": deviation if math.isfinite(deviation) else str(deviation),
            "right": deviation < TOLERANCE[precision],
            "bytes": (elements + weight.numel()) * xs[0].element_size(),
            "flops": flops,
            "gb_s": round((elements + weight.numel()) * xs[0].element_size() / times["gpu_us"] / 1e3, 1),
            "tflop_s": round(flops / times["gpu_us"] / 1e6, 2),
        }

    def _problem(self, layer, precision, sizes):
        """Inputs that fill the L2 several times, weight, bias, and the first sample's output in float64."""
        if self._prepared == (layer, precision):
            return self._layer
        self._layer = None
        torch = self.torch
        torch.cuda.empty_cache()
        torch.manual_seed(0)
        dtype = self._dtype(precision)
        shape = sizes["N"], sizes["Cin"], sizes["L"]
        count = min(max(2, math.ceil(3 * self.l2 / (math.prod(shape) * dtype.itemsize))), 64)
        xs = [torch.randn(shape, device=self.device, dtype=dtype) for _ in range(count)]
        fan = sizes["Cin"] // sizes["groups"] * sizes["K"] / sizes["stride"]
        weight = torch.randn(
            sizes["Cin"], sizes["Cout"] // sizes["groups"], sizes["K"], device=self.device
        ) / math.sqrt(fan)
        weight, bias = weight.to(dtype), torch.randn(sizes["Cout"], device=self.device).to(dtype)
        expected = self._fold(sizes, xs[0][:1].double(), weight.double(), bias.double())
        self._prepared, self._layer = (layer, precision), (xs, weight, bias, expected)
        return self._layer

    def _fold(self, sizes, x, weight, bias):
        """matmul and fold; output_padding beyond what fold takes becomes zeros at the end of x."""
        torch = self.torch
        s, groups, kernel = sizes["stride"], sizes["groups"], sizes["K"]
        more = sizes["output_padding"] // s
        x = torch.nn.functional.pad(x, (0, more))
        batch, c_in, length = x.shape
        out = (length - 1) * s - 2 * sizes["padding"] + sizes["dilation"] * (kernel - 1) + 1
        out += sizes["output_padding"] - more * s
        w = weight.reshape(groups, c_in // groups, -1).transpose(1, 2)
        columns = torch.matmul(w, x.reshape(batch, groups, c_in // groups, length))
        y = torch.nn.functional.fold(
            columns.reshape(batch, -1, length),
            *((1, out), (1, kernel)),
            dilation=(1, sizes["dilation"]),
            padding=(0, sizes["padding"]),
            stride=(1, s),
        )
        return y.squeeze(2) + bias[:, None]

    # Contenders: a function of the input's number, and the outputs that it writes if it takes any.

    def _convt1d(self, sizes, precision, xs, weight, bias, kernel="", captured=False):
        import convt1d
        from convt1d.cuda import interchange

        cupy, torch = self.cupy, self.torch
        names = ("stride", "padding", "output_padding", "dilation", "groups")
        # by its parts: from a tensor's host copy, whatever NumPy makes of bfloat16
        w, b = interchange.borrow("weight", weight), interchange.borrow("bias", bias)
        layer = convt1d.ConvTranspose1d(
            *(sizes["Cin"], sizes["Cout"], sizes["K"]), **{name: sizes[name] for name in names}, dtype=w.dtype
        )
        layer.weight, layer.bias = self._values(w), self._values(b)
        length = layer.output_length(sizes["L"])
        outputs = [
            torch.full((sizes["N"], sizes["Cout"], length), math.nan, device=self.device).to(xs[0].dtype) for _ in xs
        ]
        inputs = [interchange.borrow("x", x) for x in xs]
        views = [interchange.borrow("out", y) for y in outputs]
        allowed = precision if "tf32" in precision else "float32"
        os.environ["CONVT1D_CUDA_KERNEL"] = kernel
        try:  # the first call chooses the kernel
            layer(inputs[0], out=views[0], precision=allowed)
            program = next(iter(layer._operator.on_device()._calls.values()))[0]
        finally:
            os.environ["CONVT1D_CUDA_KERNEL"] = ""
        chosen = program.kernel.NAME
        if kernel and chosen != kernel:
            raise ValueError(f"{kernel} cannot be used here")
        if captured and chosen not in ("direct", "fused"):  # a capture that fails would end this worker
            raise ValueError(f"{chosen} multiplies through cuBLAS, which no graph captures")
        cupy.cuda.Device(0).synchronize()

        def call(i):
            layer(inputs[i], out=views[i], precision=allowed)
            return outputs[i]

        return call, outputs

    def _convt1d_columns(self, *args):
        return self._convt1d(*args, kernel="columns")

    def _convt1d_rows(self, *args):
        return self._convt1d(*args, kernel="rows")

    def _convt1d_fused(self, *args):
        return self._convt1d(*args, kernel="fused")

    def _convt1d_graph(self, *args):
        call, outputs = self._convt1d(*args, captured=True)
        graphs, stream = [], self.cupy.cuda.Stream(non_blocking=True)
        with stream:
            call(0)  # which leaves CuPy's pool of this stream what the workspace needs
            stream.synchronize()
            for i in range(len(outputs)):
                stream.begin_capture()
                call(i)
                graphs.append(stream.end_capture())

        def replay(i):
            graphs[i].launch()
            return outputs[i]

        return replay, outputs

    def _torch_graph(self, sizes, precision, xs, weight, bias):
        torch, (call, _) = self.torch, self._torch(sizes, precision, xs, weight, bias)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call(0)
        torch.cuda.current_stream().wait_stream(side)
        graphs, outputs = [torch.cuda.CUDAGraph() for _ in xs], []
        for i, graph in enumerate(graphs):
            with torch.cuda.graph(graph):
                outputs.append(call(i))

        def replay(i):
            graphs[i].replay()
            return outputs[i]

        return replay, outputs

    def _torch(self, sizes, precision, xs, weight, bias):
        options = {name: sizes[name] for name in ("stride", "padding", "output_padding", "groups", "dilation")}
        function = self.torch.nn.functional.conv_transpose1d
        return lambda i: function(xs[i], weight, bias, **options), []

    def _torch_channels_last(self, sizes, precision, xs, weight, bias):
        """As images of one row, the channels innermost: made so before the clock starts."""
        torch = self.torch
        names = ("stride", "padding", "output_padding", "dilation")
        least = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
        options = {name: (least[name], sizes[name]) for name in names}
        images = [x.unsqueeze(2).to(memory_format=torch.channels_last) for x in xs]
        kernel = weight.unsqueeze(2).to(memory_format=torch.channels_last)
        function = torch.nn.functional.conv_transpose2d
        return lambda i: function(images[i], kernel, bias, groups=sizes["groups"], **options), []

    def _torch_fold(self, sizes, precision, xs, weight, bias):
        return lambda i: self._fold(sizes, xs[i], weight, bias), []

    def _times(self, calls):
        """Medians, in microseconds; the calls in turn, each on memory of its own."""
        torch, torn = self.torch, len(calls)
        for call in calls[:3]:
            call()
        torch.cuda.synchronize()
        start = time.perf_counter()
        calls[0]()
        torch.cuda.synchronize()
        single = time.perf_counter() - start
        number = max(1, min(50, int(TURN_SECONDS / max(single, 1e-6))))  # launches queue up to about a thousand
        gpu, wall, host, index = [], [], [], 0
        for _ in range(TURNS if single < 0.5 else 2):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            # as long as the host needs to queue them all, at 2 GHz or less, and some more
            self._spin((1,), (1,), (int(2e9 * min(0.05, 1e-3 + 1.5 * number * min(single, 1e-3))),))
            first.record()
            start = time.perf_counter()
            for i in range(number):
                calls[(index + i) % torn]()
            host.append((time.perf_counter() - start) / number)
            last.record()
            torch.cuda.synchronize()
            gpu.append(first.elapsed_time(last) / number * 1e3)
            start = time.perf_counter()
            calls[index % torn]()
            torch.cuda.synchronize()
            wall.append(time.perf_counter() - start)
            index += number
        return {
            "gpu_us": round(statistics.median(gpu), 2),
            "gpu_least_us": round(min(gpu), 2),
            "wall_us": round(1e6 * statistics.median(wall), 2),
            "host_us": round(1e6 * statistics.median(host), 2),
            "calls": number * len(gpu),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="LAYER", help=", ".join(LAYERS)
    )
    parser.add_argument("--output", type=Path, help="instead of bench/results/GPU-DATE.json")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"stop after so many (default {MINUTES})")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return 0
    results = run(options.only, options.output, options.minutes)
    if results is None:
        return 2
    checked = results["steps"][0] if results["steps"] else {"error": "nothing was checked"}
    wrong = [s for s in results["steps"] if s.get("right") is False and s["contender"].startswith("convt1d")]
    return 1 if wrong or checked.get("wrong") or "error" in checked else 0


if __name__ == "__main__":
    sys.exit(main())
