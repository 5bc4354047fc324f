# SPDX-License-Identifier: MIT
"""Many threads, forks of all kinds, other OpenMP programs, interrupts, and other processes that hold the cores."""

import os
import shutil
import subprocess
import sys

import pytest
from bounded import size

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
]

# What the scripts share: layers of several kinds with an input and the right answer each.
COMMON = """
import contextlib, os, signal, sys, threading, time
import numpy as np, convt1d
rng = np.random.default_rng(0)
KINDS = [  # C_in, C_out, K, and the geometry
    (64, 64, 8, {"stride": 4, "padding": 2}),
    (32, 32, 3, {"stride": 3, "dilation": 2, "padding_mode": "reflect"}),
    (48, 48, 12, {"stride": 2, "groups": 48, "padding_mode": "replicate"}),
    (128, 16, 16, {"stride": 8, "padding_mode": "circular"}),
    (7, 5, 1, {"stride": 9}),
]
layers, inputs, answers, gradients = [], [], [], []
for i, (c_in, c_out, K, geometry) in enumerate(KINDS * 2):
    dtype = "f4" if i < len(KINDS) else "c16"
    layers.append(convt1d.ConvTranspose1d(c_in, c_out, K, **geometry, dtype=dtype, rng=i))
    inputs.append(rng.standard_normal((2, c_in, 1500)).astype(dtype))
    answers.append(layers[i](inputs[i], workers=1))
    gradients.append(layers[i].backward(answers[i], inputs[i], needs=["weight"], workers=1)[1])

def right(workers=2, which=range(len(layers))):
    return all(np.array_equal(layers[i](inputs[i], workers=workers), answers[i]) for i in which)

def wait(child, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"
"""


def python(code, *arguments, timeout=600, **env):
    """Standard output of a script."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", COMMON + code, *map(str, arguments)]
    run = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout)
    assert run.returncode == 0, run.stderr
    return run.stdout


# Other libraries with threads of their own, which have used them.
BESIDE = {
    "": "",
    "torch": "import torch; torch.ones(10**7).add(1)",
    "sklearn": """
from sklearn.ensemble import HistGradientBoostingRegressor
rows = rng.standard_normal((20000, 10))
HistGradientBoostingRegressor(max_iter=3).fit(rows, rows[:, 0])
""",
}


@pytest.fixture(params=BESIDE)
def beside(request):
    """Code that comes before or after our first parallel call; it ends in a new line."""
    if request.param:
        pytest.importorskip(request.param)
    return BESIDE[request.param] + "\n"


# --- threads ------------------------------------------------------------------------------------------------------

THREADS = """
def pools():
    try:
        import threadpoolctl
    except ImportError:
        return "unknown"
    return sorted((p["filepath"], p["num_threads"]) for p in threadpoolctl.threadpool_info())

right()
before, end, counts, wrong = pools(), time.monotonic() + float(sys.argv[1]), [0] * 8, []
def streamed(stream):
    stream.reset()
    pieces = [stream.process(chunk) for chunk in np.split(inputs[0], [10, 700], axis=-1)]
    return np.concatenate([*pieces, stream.flush()], axis=-1)
alone = streamed(convt1d.ConvTranspose1dStream(layers[0]))
np.testing.assert_allclose(alone, answers[0], rtol=1e-6, atol=1e-6)     # the last bits go by the chunks
def run(number):
    own = np.random.default_rng(number)
    stream = convt1d.ConvTranspose1dStream(layers[0])
    while time.monotonic() < end and not wrong:
        i, workers = int(own.integers(len(layers))), [None, 1, 2, 3][own.integers(4)]
        kind = own.integers(8)
        if kind == 0:
            found = streamed(stream)
            same = np.array_equal(found, alone)
        elif kind == 1:
            found = layers[i].backward(answers[i], inputs[i], needs=["weight"], workers=workers)[1]
            same = np.array_equal(found, gradients[i])
        elif kind == 2:
            new = convt1d.ConvTranspose1d(*KINDS[0][:3], **KINDS[0][3], rng=0)
            same = np.array_equal(new(inputs[0], workers=workers), answers[0])
        elif kind == 3:
            convt1d.threads.release_workspaces()
            same = True
        else:
            same = np.array_equal(layers[i](inputs[i], workers=workers), answers[i])
        if not same:
            wrong.append((i, workers, int(kind)))
        counts[number] += 1
threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong, min(counts) > 0, pools() == before)
print(sum(counts), file=sys.stderr)
"""


@pytest.mark.parametrize("kernel", ["", "gemm"])  # gemm: through SciPy's BLAS
def test_eight_threads(kernel):
    """Right bits from shared layers, whatever the others do; BLAS and OpenMP left as they were."""
    assert python(THREADS, size(5, 60), CONVT1D_KERNEL=kernel) == "[] True True\n"


POOL = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    print(all(pool.map(lambda i: right(2, [i % len(layers)]), range(60))))
"""


def test_thread_pool(beside):
    assert python(beside + POOL) == "True\n"


# --- forks --------------------------------------------------------------------------------------------------------

PREFORK = """
def serve(generation):
    good = right()
    if generation:
        good = good and fork(generation - 1) == 0
    os._exit(not good)

def fork(generation):
    child = os.fork()
    if child == 0:
        serve(generation)
    return wait(child)

right()                                                 # as a server that warms up before it forks
statuses = [fork(2) for _ in range(3)]                  # children and theirs, after parallel calls of each
done = []
def manage():                                           # a manager's thread calls and forks as well
    right()
    done.append(fork(1))
threads = [threading.Thread(target=manage) for _ in range(3)]
for thread in threads:
    thread.start()
statuses.append(fork(0))                                # while the others compute
for thread in threads:
    thread.join()
print(statuses, done, fork(0), right())
"""


@pytest.mark.parametrize("late", [False, True])
def test_prefork(beside, late):
    """As gunicorn does: workers forked from a warmed-up parent, replaced, and with children of their own."""
    if late and not beside.strip():
        pytest.skip("no other library")
    code = "right()\n" + beside + PREFORK if late else beside + PREFORK
    assert python(code) == "[0, 0, 0, 0] [0, 0, 0] 0 True\n"


FORK_IN_C = """
import ctypes
right()
libc = ctypes.PyDLL(None)
child = libc.fork()
if child == 0:
    ctypes.pythonapi.PyOS_AfterFork_Child()
    os._exit(not right())
print(wait(child), right())
"""


def test_a_fork_that_python_does_not_see(beside):
    """As uWSGI's: no hook of os.register_at_fork is called before it."""
    assert python(beside + FORK_IN_C) == "0 True\n"


MULTIPROCESSING = """
import multiprocessing
right()
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map_async(right, [2] * 6).get(120))
print(right())
"""


def test_multiprocessing():
    assert python(MULTIPROCESSING) == f"{[True] * 6}\nTrue\n"


LOKY = """
import joblib
right()
x = np.concatenate(inputs[:1] * 20, axis=-1)            # beyond joblib's megabyte: workers get a read-only memory map
y = layers[0](x)
def work(x, layer):
    import numpy as np
    return type(x).__name__, bool(x.flags.writeable), layer(x, workers=2)
for name, writeable, found in joblib.Parallel(2, backend="loky")(joblib.delayed(work)(x, layers[0]) for _ in range(4)):
    print(name, writeable, np.array_equal(found, y))
"""


def test_joblib():
    pytest.importorskip("joblib")
    assert python(LOKY) == "memmap False True\n" * 4


# --- within other OpenMP programs -----------------------------------------------------------------------------------

OUTER = """
#include <omp.h>
int outer(int threads, int (*call)(int))
{
    int wrong = 0, seen = 0;
    #pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+:wrong, seen)
    for (int i = 0; i < 4 * threads; i++) {
        wrong += call(i) != 1;
        seen += omp_in_parallel();
    }
    return seen == 4 * threads ? wrong : -1;
}
"""

NESTED = """
import ctypes
outer = ctypes.CDLL(sys.argv[1]).outer          # lets go of the GIL; each callback takes it
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda i: int(right(2, [i % len(layers)])))
print(outer(2, callback), outer(4, callback), right())
child = os.fork()
if child == 0:
    os._exit(not right())
print(wait(child))
"""


@pytest.mark.parametrize("levels", ["1", "2"])  # 2: parallel regions within parallel regions
def test_within_another_openmp_program(tmp_path, levels):
    compiler = shutil.which("gcc")
    if not compiler:
        pytest.skip("needs gcc")
    (tmp_path / "outer.c").write_text(OUTER)
    library = tmp_path / "outer.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-fopenmp", "-o", library, tmp_path / "outer.c"], check=True)
    assert python(NESTED, library, OMP_MAX_ACTIVE_LEVELS=levels) == "0 0 True\n0\n"


# --- interrupts ---------------------------------------------------------------------------------------------------

INTERRUPTS = """
signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell's background job is started with it ignored
layer, x = layers[0], np.concatenate(inputs[:1] * 30, axis=-1)
y = layer(x)
out, stream, interrupted = np.empty_like(y), convt1d.ConvTranspose1dStream(layer), 0
for i in range(int(sys.argv[1])):
    timer = threading.Timer(0.01 + 0.002 * (i % 20), os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        while True:
            layer(x, out=out, workers=1 + i % 2)
    except KeyboardInterrupt:
        interrupted += 1
    timer.join()
    assert np.array_equal(layer(x, workers=2), y)
print(interrupted == int(sys.argv[1]), right())
"""


def test_interrupts():
    """Raised when the call is done, or between calls; the next call is right."""
    assert python(INTERRUPTS, size(20, 300)) == "True True\n"


# --- limits and busy machines -------------------------------------------------------------------------------------

BUSY = """
import subprocess
layer = convt1d.ConvTranspose1d(64, 64, 8, stride=4, rng=0)
x = np.ones((64, 300), np.float32)              # some 0.2 ms
out = layer(x)
busy = [sys.executable, "-c", "while True: pass"]
processes = [subprocess.Popen(busy) for _ in range(2 * len(os.sched_getaffinity(0)))]
try:
    time.sleep(1)
    seconds, calls = [0.0, 0.0], [0, 0]
    for turn in range(int(sys.argv[1])):        # in turns, so that both meet the same neighbours
        for workers in (1, 2):
            begin = time.perf_counter()
            while time.perf_counter() - begin < 0.5:
                layer(x, out=out, workers=workers)
                calls[workers - 1] += 1
            seconds[workers - 1] += time.perf_counter() - begin
finally:
    for process in processes:
        process.kill()
one, two = (s / c * 1e3 for s, c in zip(seconds, calls))
print(f"{one:.2f} ms a call with one thread, {two:.2f} ms with two allowed")
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs os.sched_getaffinity")
def test_a_busy_machine(record_property):
    """Twice as many busy processes as cores: two threads take no more than 1.5 times what one takes, its fair share.

    Both are means over the same seconds. Before calls learned from their waits it was 17 to 40 times.
    """
    text = python(BUSY, size(10, 60))
    print(text)
    record_property("busy", text)
    one, two = float(text.split()[0]), float(text.split()[-5])
    assert two <= 1.5 * one


OTHERS = {
    "torch": """
import torch
def other():
    return float((torch.ones(512, 512) @ torch.ones(512, 512)).sum())
""",
    "sklearn": """
from sklearn.cluster import KMeans
points = np.random.default_rng(0).standard_normal((3000, 8))
def other():
    return float(KMeans(4, n_init=1, max_iter=5, random_state=0).fit(points).inertia_)
""",
}


@pytest.mark.parametrize("loaded", ["before", "after"])
@pytest.mark.parametrize("name", OTHERS)
def test_beside_other_libraries(name, loaded):
    """Which bring an OpenMP runtime of their own: in turns, from threads, in forks of the process that used both."""
    pytest.importorskip(name)
    script = """
expected = other()
for _ in range(5):
    found = []
    threads = [threading.Thread(target=lambda: found.append(right())) for _ in range(3)]
    for thread in threads:
        thread.start()
    np.testing.assert_allclose(other(), expected, rtol=1e-5)
    for thread in threads:
        thread.join()
    assert found == [True] * 3
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if right() and right(3) else 1)
    assert right()
    assert wait(child) == 0
print("right")
"""
    early, late = ("import numpy as np\n" + OTHERS[name], "") if loaded == "before" else ("", OTHERS[name])
    command = [sys.executable, "-W", "ignore", "-c", early + COMMON + late + script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (run.returncode, run.stdout) == (0, "right\n"), run.stderr
