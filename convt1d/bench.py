# SPDX-License-Identifier: MIT
"""A layer of the user's own against the installed peers: what ``convt1d bench`` prints."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import threads
from .layer import ConvTranspose1d


def compare(layer: ConvTranspose1d, x: np.ndarray, workers: int, seconds: float = 3.0) -> dict[str, float]:
    """Median seconds of a warm call by implementation, taken in turns for about so many `seconds`.

    The peers' results are compared with the layer's first.

    Raises
    ------
    ArithmeticError
        A peer's result differs by more than rounding explains.
    """
    calls: dict[str, Callable[[], Any]] = {
        "convt1d": lambda: layer(x, workers=workers),
        **dict(_peers(layer, x, workers)),
    }
    wanted = calls["convt1d"]()
    for name, call in calls.items():
        deviation = np.abs(np.asarray(call()) - wanted).max() / np.abs(wanted).max()
        if not deviation < 1e-4:
            raise ArithmeticError(f"{name} differs from convt1d by {deviation:.1e} of the largest output")
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while len(taken["convt1d"]) < 5 or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def _peers(layer: ConvTranspose1d, x: np.ndarray, workers: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Those that are installed and compute this layer."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, tuple):
        return  # no peer has these
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(workers)
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        settings = {name: getattr(layer, name) for name in names}
        tensors = [None if a is None else torch.from_numpy(a.copy()) for a in (x, layer.weight, layer.bias)]

        def call_torch() -> object:
            with torch.inference_mode():
                return torch.nn.functional.conv_transpose1d(*tensors, **settings).numpy()

        yield f"torch {torch.__version__}", call_torch
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = workers
        model = layer.to_onnx().SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        yield f"ONNX Runtime {onnxruntime.__version__}", lambda: session.run(None, {"x": x})[0]


def describe(layer: ConvTranspose1d, length: int, workers: int | None) -> list[str]:
    """The lines of ``convt1d bench``; float32, a batch of one."""
    used = threads.count(workers)
    x = np.random.default_rng(0).standard_normal((1, layer.in_channels, length), dtype=np.float32)
    found = compare(layer, x, used)
    ours, flops = found["convt1d"], 2 * layer.weight.size * length
    lines = [f"{layer}, {length} samples, float32, {used} thread(s)"]
    lines += [f"  {name:<24}{1e6 * t:10.0f} us{flops / t / 1e9:10.1f} GFLOP/s" for name, t in found.items()]
    if len(found) == 1:
        return [*lines, "no peer to compare with: install torch, or onnx and onnxruntime"]
    name, best = min(((name, t) for name, t in found.items() if name != "convt1d"), key=lambda item: item[1])
    verdict = "worth it" if best > 1.1 * ours else "no gain" if best > 0.9 * ours else "not worth it"
    return [*lines, f"{verdict}: convt1d takes {ours / best:.2f} of the time of {name}, the best peer here"]
