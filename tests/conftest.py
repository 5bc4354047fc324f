# SPDX-License-Identifier: MIT
"""What several test files share: the two ways into the operator, its settings, and the vector cases."""

import contextlib
import json
import pathlib
import subprocess
import sys
import types

import hypothesis
import numpy as np
import pytest

import convt1d

HERE = pathlib.Path(__file__).parent
# pytest's importlib mode leaves sys.path alone: this makes naive.py, cuda/cuda_fake.py and others importable.
sys.path[:0] = [str(HERE), str(HERE / "cuda"), str(HERE / "reliability")]

# The suite asks the same questions on every run; `--hypothesis-profile=search` asks new ones.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("fixed")


def through_layer(x, weight, bias=None, *, out=None, workers=None, groups=1, **geometry):
    """What the function does, done by a layer that holds the weights."""
    c_in, c_out, kernel_size = weight.shape[0], weight.shape[1] * groups, weight.shape[2]
    options = {"groups": groups, "bias": bias is not None, "dtype": weight.dtype, **geometry}
    layer = convt1d.ConvTranspose1d(c_in, c_out, kernel_size, **options)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer(x, out=out, workers=workers)


@pytest.fixture(scope="session", params=[convt1d.conv_transpose1d, through_layer], ids=["function", "layer"])
def operator(request):
    return request.param


@contextlib.contextmanager
def forced(kernel=None, tile=None, *, threads=False):
    """Force a compute kernel and a tile width; None leaves the choice to the package.

    `threads`: as many as `workers` allows. By itself the package keeps a small call on one thread, whatever
    `workers` says, and small tests would never meet a second one.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("CONVT1D_KERNEL", kernel), ("CONVT1D_TILE", tile)):
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, str(value))
        if threads:
            patch.setattr("convt1d.threads.worthwhile", lambda *work: work[-1] or convt1d.threads.count(None))
        yield


@pytest.fixture(scope="session")
def force():
    return forced


@pytest.fixture(scope="session")
def cases():
    """The cases of tests/data, float64 or complex128; `geometry` holds the operator's keyword arguments."""
    arrays = np.load(HERE / "data" / "vectors.npz")
    names = ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode")

    def array(case, name):
        values = arrays[f"{case['id']:03d}_{name}"]
        return values.astype(complex if case["complex"] else float)

    return [
        types.SimpleNamespace(
            id=case["id"],
            x=array(case, "x"),
            w=array(case, "w"),
            b=array(case, "b") if case["bias"] else None,
            y=array(case, "y"),
            # the gradients, where they are stored, of a loss with gradient gy at y
            **{name: array(case, name) if name in case["arrays"] else None for name in ("gy", "gx", "gw", "gb")},
            geometry={name: case[name] for name in names},
        )
        for case in json.loads((HERE / "data" / "cases.json").read_text())
    ]


@pytest.fixture(scope="session")
def beyond_output():
    """Peak memory beyond the output's, in bytes, for ten seconds of DAC's last layer in either layout."""

    def measure(channels_last):
        code = f"""
import numpy as np, convt1d
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
def signal(length):
    return np.ones((1, length, 192) if {channels_last} else (1, 192, length), np.float32)
layer = convt1d.ConvTranspose1d(192, 96, 4, stride=2, padding=1, rng=0)
x = signal(441_000)
layer(signal(100), channels_last={channels_last})
before = peak()
y = layer(x, channels_last={channels_last})
print(peak() - before - y.nbytes)
"""
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    return measure
