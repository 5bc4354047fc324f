# SPDX-License-Identifier: MIT
"""Each allocation of a call fails in turn (faults.c preloaded): of a call come an error or the right bits, no third.

`faults.py LIBRARY LEAST`: of allocations outside the package those of LEAST bytes count. After an error `out` is
untouched, and the same object serves the next call. NumPy 2.4 answers some with SystemError, that counts as well.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import forced

import convt1d
from convt1d import threads

shim, least = ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
shim.fail_at.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_size_t]
shim.stop_failing.restype = ctypes.c_long
rng = np.random.default_rng(0)


def integers(*shape, dtype=np.float32):
    return rng.integers(-8, 9, shape).astype(dtype)


x, weight, bias = integers(2, 12, 300), integers(12, 10, 7), integers(10)
half = [array.astype(np.float16) for array in (x, weight, bias)]
geometry = {"stride": 3, "padding": 2, "padding_mode": "reflect"}
gaps = {"stride": 9, "padding": 2, "padding_mode": "reflect"}
y = convt1d.conv_transpose1d(x, weight, bias, **geometry)
y_half = convt1d.conv_transpose1d(*half, **geometry)
y_gaps = convt1d.conv_transpose1d(x, weight, bias, **gaps)
large = integers(256, 512, 8)  # packed by several threads


def function(workers):
    return None, lambda: convt1d.conv_transpose1d(x, weight, bias, **geometry, workers=workers)


def with_out(workers):
    out = np.empty_like(y_gaps)
    return out, lambda: convt1d.conv_transpose1d(x, weight, bias, **gaps, workers=workers, out=out)


def half_with_out(workers):
    out = np.empty_like(y_half)
    return out, lambda: convt1d.conv_transpose1d(*half, **geometry, workers=workers, out=out)


def a_layer(channels=12, outputs=10, kernel_size=7, **given):
    return convt1d.ConvTranspose1d(channels, outputs, kernel_size, **geometry | given, rng=0)


def layer(workers):
    new = a_layer()
    out = np.empty_like(y)
    return out, lambda: new(x, workers=workers, out=out)


def packed(workers):
    new = a_layer()
    new(x, workers=workers)
    out = np.empty_like(y)
    return out, lambda: new(x, workers=workers, out=out)


def packing(workers):
    new = a_layer(256, 512, 8)
    return None, lambda: new(large[:1, :, :8].reshape(256, -1), workers=workers)


def without_workspaces(workers):
    result = packed(workers)
    threads.release_workspaces()
    return result


def gradients(workers):
    new = a_layer()
    return None, lambda: new.backward(y, x, workers=workers)


def convolution(workers):
    return None, lambda: convt1d.conv1d(y, weight, stride=3, padding=2, workers=workers)


def stream(workers):
    running = convt1d.ConvTranspose1dStream(a_layer(), workers=workers)
    running.process(x[..., :100])
    before = running.state()

    def process():
        running.restore(before)
        return running.process(x[..., 100:])

    return None, process


def a_stream(workers):
    """From its first chunk on: what fails in the middle is done again."""
    running = convt1d.ConvTranspose1dStream(a_layer(), workers=workers)
    pieces = []

    def process():
        while len(pieces) < 3:
            pieces.append(running.process(x[..., len(pieces) * 100 : len(pieces) * 100 + 100]))
        pieces.append(running.flush())
        result = list(pieces)
        running.reset()
        pieces.clear()
        return np.concatenate(result, axis=-1)

    return None, process


def arrays(result):
    return result if isinstance(result, (tuple, list)) else [result]


def equal(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(arrays(found), arrays(expected), strict=True))


SCENARIOS = (
    *(function, with_out, half_with_out, layer, packed, packing, without_workspaces),
    *(gradients, convolution, stream, a_stream),
)


def main():
    errors = {MemoryError: 0, SystemError: 0}
    for scenario in SCENARIOS:
        for workers in (1, 2):
            expected = scenario(workers)[1]()
            for everything in (0, 1):
                k = failed = 1
                while failed:
                    print(f"{scenario.__name__}, {workers} workers, allocation {k}{' and on' * everything}", flush=True)
                    out, call = scenario(workers)
                    if out is not None:
                        out[...] = 7
                    found = None
                    shim.fail_at(k, everything, least)
                    try:
                        found = call()
                    except (MemoryError, SystemError) as error:
                        kind = type(error) if type(error) in errors else MemoryError
                    finally:
                        failed = shim.stop_failing()
                    if found is None:
                        assert failed, "an error with all allocations granted"
                        errors[kind] += 1
                        assert out is None or (out == 7).all(), "out is not as it was"
                    else:
                        assert equal(found, expected), "wrong bits"
                    assert equal(call(), expected), "wrong bits afterwards"
                    k += 1
    print(f"all, {errors[MemoryError]} MemoryError, {errors[SystemError]} SystemError")


with forced(None, None, threads=True):
    main()
