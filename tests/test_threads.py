# SPDX-License-Identifier: MIT
"""How many threads a call uses, what limits them, and what becomes of them at a fork."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import convt1d
from convt1d import threads
from convt1d.cpu import _runtime

NO_QUOTA = 1 << 16


def python(code, *arguments, timeout=60, **env):
    """Standard output of a Python process."""
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def granted(root, groups, files):
    """What a system with these control groups grants; `files` lie below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return threads.granted_cpus(root)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000\n", NO_QUOTA),
        ("100000 100000\n", 1),
        ("150000 100000\n", 2),
        ("400000 100000\n", 4),
        ("1000 100000\n", 1),
        ("nonsense\n", NO_QUOTA),
        ("", NO_QUOTA),
        ("-1 100000\n", NO_QUOTA),
        ("100000 0\n", NO_QUOTA),
    ],
)
def test_quota_of_a_container(tmp_path, quota, cpus):
    """Seen from inside, the container's group is the root, whatever the path says."""
    assert granted(tmp_path, "0::/\n", {"cpu.max": quota}) == cpus


def test_quota_of_a_group_and_of_those_above(tmp_path):
    """As systemd's CPUQuota= sets it, outside any container."""
    quotas = {"app/web/cpu.max": "max 100000", "app/cpu.max": "300000 100000", "other/cpu.max": "100000 100000"}
    assert granted(tmp_path, "0::/app/web\n", quotas) == 3


def test_quota_of_version_1(tmp_path):
    groups = "5:memory:/app\n4:cpu,cpuacct:/app\n3:cpuset:/\n0::/\n"
    root = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    own = {"cpu/app/cpu.cfs_quota_us": "200000", "cpu/app/cpu.cfs_period_us": "100000"}
    assert granted(tmp_path, groups, root | own) == 2


def test_quota_of_version_1_in_a_container(tmp_path):
    """The path is one outside the container, and the mounted root is the container's group."""
    files = {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}
    assert granted(tmp_path, "4:cpu,cpuacct:/docker/0123\n", files) == 1


def test_no_control_groups(tmp_path):
    assert threads.granted_cpus(tmp_path) == NO_QUOTA


@pytest.mark.parametrize("line", [b"0::/caf\xe9\n", b"no colons\n0::/app\n", "0::/приложение\n".encode()])
def test_odd_control_groups(tmp_path, line):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(line)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("150000 100000\n")
    assert threads.granted_cpus(tmp_path) == 2


def test_the_quota_bounds_the_default(monkeypatch):
    monkeypatch.setattr(threads, "_quota", lambda: 3)
    monkeypatch.setattr(_runtime, "openmp_threads", lambda: 8)
    assert threads.count(None) == 3
    assert threads.count(5) == 5  # who asks for a number gets it


COUNT = "import convt1d.threads as t; print(t.count(None))"
several = pytest.mark.skipif(_runtime.openmp_threads() < 2, reason="needs OpenMP and two cores")


@several
def test_omp_num_threads():
    assert python(COUNT, OMP_NUM_THREADS="1") == "1\n"
    assert python(COUNT, OMP_NUM_THREADS="2") == "2\n"
    assert python(COUNT, OMP_NUM_THREADS="2,1", OMP_THREAD_LIMIT="1") == "1\n"


@several
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs os.sched_setaffinity")
def test_affinity():
    """taskset's, and what a process sets for itself when OpenMP has long been loaded."""
    narrow = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    assert python(narrow + COUNT) == "1\n"
    assert python("import convt1d.threads as t; t.count(None); " + narrow + COUNT) == "1\n"


@several
def test_threadpoolctl():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = threads.count(None)
    with threadpoolctl.threadpool_limits(1):
        assert threads.count(None) == 1
    assert threads.count(None) == before


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(threads, "time", Clock())
    monkeypatch.setattr(threads, "_serial_until", 0.0)
    return threads.time


def worth(allowed=2):
    return threads.worthwhile(threads.estimate(10**9, 10**6), allowed)


@pytest.mark.parametrize(
    ("own", "waited", "share"),
    [
        (1e-3, 0.0, 0.5),
        (1e-3, 1e-3, 0.5),  # slower than hoped for, yet no slower than alone
        (1e-3, 1e-3, 1 / 3),  # three equal parts: the other thread has two of them
        (100e-6, 90e-6, 1.0),  # the second thread woke up too late: little lost
        (0.0, 1e-2, 0.0),  # no share in the work: nothing to go by
    ],
)
def test_a_good_parallel_call_changes_nothing(clock, own, waited, share):
    threads.report_wait(own, waited, share)
    assert worth() == 2


def test_a_long_wait_leaves_calls_to_one_thread_for_a_while(clock):
    threads.report_wait(1e-3, 10e-3, 0.9)
    assert worth() == worth(8) == 1
    clock.now += 0.19
    assert worth() == 1
    clock.now += 0.02
    assert worth() == 2


@several
def test_parallel_calls_say_how_they_went(monkeypatch):
    """Without this nobody would learn: forward, and the weights' gradient."""
    seen = []
    monkeypatch.setattr(threads, "report_wait", lambda *call: seen.append(call))
    monkeypatch.setattr(threads, "worthwhile", lambda seconds, allowed: allowed)
    layer = convt1d.ConvTranspose1d(64, 64, 8, stride=4, rng=0)
    x = np.ones((2, 64, 1000), np.float32)
    y = layer(x, workers=2)
    assert len(seen) == 1
    layer.backward(y, x, needs=["weight"], workers=2)
    assert len(seen) == 2
    layer(x, workers=1)
    assert len(seen) == 2
    for own, waited, share in seen:
        assert own >= 0
        assert waited >= 0
        assert 0 <= share <= 1.5


FORKS = """
import os, threading, numpy as np, convt1d
layer = convt1d.ConvTranspose1d(64, 64, 8, stride=4, rng=0)
x = np.ones((4, 64, 4000), np.float32)
y = layer(x, workers=2)

def fork():
    child = os.fork()
    if child == 0:
        os._exit(not np.array_equal(layer(x, workers=2), y))
    return os.waitpid(child, 0)[1]

if {in_a_thread}:
    thread = threading.Thread(target=lambda: print(fork()))
    thread.start()
    thread.join()
print(fork(), fork(), np.array_equal(layer(x, workers=2), y))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(("in_a_thread", "printed"), [(False, "0 0 True\n"), (True, "0\n0 0 True\n")])
def test_fork_after_a_parallel_call(in_a_thread, printed):
    """libgomp's waiting threads do not survive a fork; without the pause before it the child would hang.

    Each Python thread has some of its own: another thread's fork must not make the main thread's forgotten.
    """
    assert python(FORKS.format(in_a_thread=in_a_thread)) == printed


# --- one pool with whoever is there ---------------------------------------------------------------------------------

COMMON = """
import ctypes, os, sys, threading, time, numpy as np, convt1d
from convt1d.cpu import _runtime
layer = convt1d.ConvTranspose1d(64, 64, 8, stride=4, rng=0)
x = np.ones((4, 64, 4000), np.float32)
y = layer(x, workers=1)

def tasks():
    return set(os.listdir("/proc/self/task"))

def right(workers=2):
    return np.array_equal(layer(x, workers=workers), y)
"""

OTHER = """
#include <omp.h>
int region(int threads)
{
    int seen = 0;
    #pragma omp parallel num_threads(threads) reduction(+:seen)
    seen += 1;
    return seen;
}
"""

LOADED = """
if {late}:
    own = right()
    assert _runtime.openmp_runtime() == "own threads"
other = ctypes.CDLL(sys.argv[1])
assert other.region(2) == 2
before = tasks()
print(right(), "gomp" in _runtime.openmp_runtime(), tasks() <= before)
print(other.region(2), right(3), right(2), len(tasks() - before) <= 1)
thread = threading.Thread(target=lambda: print(right(2)))
thread.start()
thread.join()
child = os.fork()
if child == 0:
    os._exit(not (right() and other.region(2) == 2))
print(os.waitpid(child, 0)[1], right())
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
@pytest.mark.skipif(not _runtime.built_with_openmp(), reason="needs OpenMP")
@pytest.mark.parametrize("late", [False, True])
def test_the_threads_of_a_loaded_runtime(tmp_path, late):
    """A call starts none where a C library has some, loaded before our first parallel call or after it."""
    compiler = shutil.which("gcc")
    if not compiler:
        pytest.skip("needs gcc")
    (tmp_path / "other.c").write_text(OTHER)
    library = tmp_path / "other.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-fopenmp", "-o", library, tmp_path / "other.c"], check=True)
    code = COMMON + LOADED.format(late=late)
    assert python(code, library) == "True True True\n2 True True True\nTrue\n0 True\n"


LIBRARIES = {
    "torch": "import torch; use = lambda: torch.ones(10**7).add(1)",
    "sklearn": """
from sklearn.ensemble import HistGradientBoostingRegressor
rows = np.random.default_rng(0).standard_normal((20000, 10))
use = lambda: HistGradientBoostingRegressor(max_iter=3).fit(rows, rows[:, 0])
""",
}


@several
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_threads_of_a_library(name):
    pytest.importorskip(name)
    code = f"{COMMON}{LIBRARIES[name]}\nuse(); before = tasks()\n"
    code += "print(right(), tasks() <= before, _runtime.openmp_runtime()); use(); print(right(), tasks() <= before)"
    shared, own = python(code, timeout=300).splitlines()
    assert shared.startswith("True True /")
    assert own == "True True"


OWN = """
before = tasks()
results = []
threads = [threading.Thread(target=lambda: results.append(right(4))) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
time.sleep(0.1)     # the last of these threads leaves
processors = len(os.sched_getaffinity(0))
print(all(results), _runtime.openmp_runtime(), len(tasks() - before) <= max(3, processors - 1))
begin = time.process_time()
time.sleep(0.2)
print(time.process_time() - begin < 0.02)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
@pytest.mark.skipif(not _runtime.built_with_openmp(), reason="needs OpenMP")
def test_our_own_threads():
    """Callers share them, and they sleep between calls."""
    assert python(COMMON + OWN) == "True own threads True\nTrue\n"
