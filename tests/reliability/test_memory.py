# SPDX-License-Identifier: MIT
"""No access outside the arrays, an error where there is no memory, no leak. In processes of their own: they may die."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bounded import size

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(sys.platform != "linux", reason="maps pages, preloads and reads /proc as Linux does"),
]
sanitized = "libasan" in os.environ.get("LD_PRELOAD", "")
unsanitized = pytest.mark.skipif(sanitized, reason="memory is the sanitizer's")


def script(name, *arguments, timeout=3600, **env):
    """A script of this folder, run to its end or to its death."""
    command = [sys.executable, HERE / name, *map(str, arguments)]
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", **env}  # threads are forced: spinning, they could take minutes
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


def last(run):
    """What the script did last, and what it died of."""
    return f"exit status {run.returncode} at\n{run.stdout.splitlines()[-1:]}\n{run.stderr[-3000:]}"


# --- accesses -----------------------------------------------------------------------------------------------------


@unsanitized
@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_between_guard_pages(level):
    """Forward, gradients, convolution and stream, with each kernel; inputs, outputs, packed weights and workspaces."""
    count = size(100, 5000)
    run = script("guards.py", 100_000 * int(level), count, "guarded", CONVT1D_SIMD=level)
    assert run.returncode == 0, last(run)
    assert run.stdout.endswith(f"all {count}\n")


@unsanitized
@pytest.mark.parametrize("place", ["beyond", "before"])
def test_guard_pages_stop_who_reads_beside_an_array(place):
    run = script("guards.py", 0, 1, place)
    assert run.returncode == -11, last(run)
    assert "seed 0" in last(run)


@pytest.mark.skipif(not sanitized, reason="needs .ci/asan")
@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_under_sanitizers(level):
    count = size(67, 1000)
    run = script("guards.py", 10_000, count, "plain", CONVT1D_SIMD=level)
    assert run.returncode == 0, last(run)
    assert run.stdout.endswith(f"all {count}\n")


@pytest.mark.skipif(not sanitized, reason="needs .ci/asan")
@pytest.mark.parametrize("length", [5001, 5064])
def test_sanitizers_see_who_reads_beside_an_array(length):
    code = f"""
import numpy as np, convt1d
x = np.lib.stride_tricks.as_strided(np.ones(5000), (1, {length}), (40000, 8))
convt1d.conv_transpose1d(x, np.ones((1, 1, 3)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode != 0
    # unknown: of a vector that lies half beyond
    kinds = "(heap-buffer-overflow|unknown-crash)"
    assert re.search(f"ERROR: AddressSanitizer: {kinds} .*\nREAD of size", run.stderr), run.stderr


# --- no memory, no threads ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """faults.c, compiled."""
    compiler = shutil.which("gcc")
    if not compiler or not hasattr(ctypes.CDLL(None), "__libc_malloc"):
        pytest.skip("needs gcc and glibc")
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, HERE / "faults.c", "-ldl"], check=True)
    return path


@unsanitized
def test_each_allocation_fails_in_turn(shim):
    """The package's own, and NumPy's and Python's of 1 KiB and more; in full, of any size."""
    run = script("faults.py", shim, size(1024, 0), LD_PRELOAD=str(shim))
    assert run.returncode == 0, last(run)
    errors = int(run.stdout.splitlines()[-1].split()[1])
    assert errors >= 100  # it did fail


NO_THREADS = """
import ctypes, sys, threading, numpy as np, convt1d
from convt1d import threads
threads.worthwhile = lambda seconds, allowed: allowed or threads.count(None)
shim = ctypes.CDLL(sys.argv[1])
layer = convt1d.ConvTranspose1d(256, 256, 16, stride=8, rng=0)
x = np.ones((2, 256, 100), np.float32)
y = layer(x, workers=1)
again = convt1d.ConvTranspose1d(256, 256, 16, stride=8, rng=0)
shim.forbid_threads(1)
print(all(np.array_equal(again(x, workers=n), y) for n in (2, 4, 1, 3)))
layer.backward(y, x, workers=4)
shim.forbid_threads(0)
print(all(np.array_equal(layer(x, workers=n), y) for n in (2, 4, 1, 3)))
shim.forbid_threads(1)
print(all(np.array_equal(layer(x, workers=n), y) for n in (3, 4, 2, 8)))
"""


@unsanitized
def test_threads_that_cannot_be_started(shim):
    """libgomp would end the process: "Thread creation failed"."""
    env = {**os.environ, "LD_PRELOAD": str(shim), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", NO_THREADS, str(shim)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert run.stdout == "True\n" * 3, run.stderr


ADDRESS_SPACE = """
import resource, numpy as np, convt1d
layer = convt1d.ConvTranspose1d(16, 16, 8, stride=4, rng=0)
x = np.ones((16, 1_000_000), np.float32)
small = layer(x[:, :1000])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
for _ in range(20):
    try:
        layer(x)                # 256 MB
    except MemoryError:
        print("MemoryError", np.array_equal(layer(x[:, :1000]), small))
"""


@unsanitized
def test_a_limit_on_the_address_space():
    run = subprocess.run([sys.executable, "-c", ADDRESS_SPACE], capture_output=True, text=True, timeout=300)
    assert run.stdout == "MemoryError True\n" * 20, run.stderr


# --- leaks --------------------------------------------------------------------------------------------------------

CALLS = """
import contextlib, sys, numpy as np, convt1d
from convt1d import threads

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

rng = np.random.default_rng(0)
x = rng.standard_normal((2, 6, 100)).astype(np.float32)
weight, bias = rng.standard_normal((6, 4, 5)).astype(np.float32), np.ones(4, np.float32)
layer = convt1d.ConvTranspose1d(6, 4, 5, stride=3, rng=0)
y = layer(x)
stream = convt1d.ConvTranspose1dStream(layer)
threads.worthwhile = lambda seconds, allowed: allowed or threads.count(None)

WRONG = (
    lambda: layer(x[:, :5]),
    lambda: layer(x, out=x),
    lambda: layer(x, output_size=1),
    lambda: convt1d.conv_transpose1d(x, weight, bias[:3]),
    lambda: layer.backward(y[..., 1:], x),
    lambda: stream.process(x[:, :2]),
)

def errors():
    for call in WRONG:
        with contextlib.suppress(ValueError, TypeError):
            call()
            raise SystemExit("no error")

def streamed():
    stream.process(x[..., :10])
    stream.process(x)
    stream.restore(stream.state())
    stream.flush()
    stream.reset()

def new():
    convt1d.ConvTranspose1d(6, 4, 5, stride=2, rng=0)(x)

KINDS = (lambda i: layer(x, workers=1 + i % 2),
         lambda i: layer(x[..., : 1 + i % 99]),
         lambda i: convt1d.conv_transpose1d(x, weight, bias, 1 + i % 3, padding_mode="reflect"),
         lambda i: convt1d.conv1d(y, weight, stride=3),
         lambda i: layer.backward(y, x),
         lambda i: convt1d.conv_transpose1d_backward(y, x, weight, 3),
         lambda i: streamed(), lambda i: new(), lambda i: errors())
calls = int(sys.argv[1])
for i in range(calls):
    if i == calls // 4:
        before = resident()
    KINDS[i % len(KINDS)](i)
print(resident() - before)
"""


@unsanitized
def test_no_leak():
    """Of all calls: layer, function, convolution, gradients, stream, errors. The first quarter fills what is kept."""
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", CALLS, str(size(10_000, 100_000))]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    assert int(run.stdout) < 1 << 20
