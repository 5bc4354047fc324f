# SPDX-License-Identifier: MIT
"""How many threads a call may use, and when they pay."""

from __future__ import annotations

import functools
import math
import os
import time
from pathlib import Path, PurePosixPath
from typing import Any

from . import memory
from .geometry import whole

# Seconds of work below which a call stays on one thread: waking a second one costs 5 to 50 us (Zen 4, 2026-11).
SERIAL_SECONDS = 60e-6
# Multiply-adds and bytes per second of one thread, to estimate that work. Only the order matters.
_MULTIPLY_ADDS = 40e9
_BYTES = 15e9
# Where other processes keep the cores busy, a call waits for its own threads until they get their turn: 50 to 250 times
# as long as it takes alone (0.2 ms of work on two cores, one and four busy processes; Zen 4, 2026-11). A call is called
# disturbed if it took LOSS times as long as it would have alone, and SPARE seconds more.
_LOSS, _SPARE = 1.25, 100e-6
# After a disturbed call, calls stay on one thread for so many times its wait: trying again costs a twentieth.
_RETRY_FACTOR = 20
_serial_until = 0.0


def count(workers: object) -> int:
    """The number of threads that `workers` allows: None, a positive int, or negative counting back.

    None is what OpenMP would take (OMP_NUM_THREADS, affinity) and what the cgroup's quota leaves.
    """
    if workers is None:
        return min(_runtime().openmp_threads(), _quota())
    try:
        n = whole(workers)
    except TypeError:
        raise TypeError(f"workers must be None or an int, got {workers!r}") from None
    if n > 0:
        return min(n, _runtime().most_threads())
    cores = os.cpu_count() or 1  # asks the system, 6 us: only where it is needed
    if n == 0 or n < -cores:
        raise ValueError(f"workers must be positive, or negative and at least -{cores} (the cores), got {n}")
    return cores + 1 + n


def estimate(multiply_adds: int, data_bytes: int) -> float:
    """Seconds that one thread takes for so much work."""
    return max(multiply_adds / _MULTIPLY_ADDS, data_bytes / _BYTES)


def worthwhile(seconds: float, allowed: int | None) -> int:
    """Threads worth using for a call that takes one thread so many `seconds`.

    `allowed` None stands for `count(None)`, which takes a system call (0.6 us) and is asked for only if it matters.
    """
    if allowed == 1 or seconds <= SERIAL_SECONDS or time.monotonic() < _serial_until:
        return 1
    if allowed is None:
        allowed = count(None)
    return max(1, min(allowed, int(seconds / (SERIAL_SECONDS / 2))))


def report_wait(own: float, waited: float, share: float) -> None:
    """How a parallel call went: its caller worked `own` seconds on a `share` of it, then waited for the others."""
    global _serial_until
    if share > 0 and own + waited > _LOSS * own / share + _SPARE:
        _serial_until = time.monotonic() + _RETRY_FACTOR * waited


def release_workspaces() -> int:
    """Give the threads' workspaces (2 MiB each, kept from call to call) back to the system.

    And the memory of large outputs and packed weights that are no longer used, which is kept for the next ones (at most
    256 MiB).

    Returns
    -------
    int
        How many workspaces were released.

    Examples
    --------
    >>> from convt1d import threads
    >>> threads.release_workspaces() >= 0
    True
    """
    memory.release()
    return _runtime().release_workspaces()


@functools.cache
def _runtime() -> Any:
    """The extension, imported late; an import statement would cost a call 0.8 us, even of what is imported already."""
    from .cpu import _runtime

    return _runtime


@functools.cache
def _quota() -> int:
    return granted_cpus(Path("/"))


def granted_cpus(root: Path) -> int:
    """CPUs that the process's Linux control groups grant, its own and those above; 65536 where there is no quota.

        proc/self/cgroup                    0::/app/web              or, of version 1, 4:cpu,cpuacct:/app/web
        sys/fs/cgroup/[app/[web/]]cpu.max   150000 100000            sys/fs/cgroup/cpu/[app/[web/]]cpu.cfs_quota_us, ...

    In a container the path may be one outside it; its own group is the root then.
    """
    try:
        text = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")  # names of any bytes
    except OSError:
        text = ""
    granted: float = 1 << 16
    names: tuple[str, ...]
    for line in text.splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, names = root / "sys/fs/cgroup", ("cpu.max",)
        elif "cpu" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):
            try:
                found = " ".join((mount / folder / name).read_text(encoding="ascii") for name in names)
                quota, period = map(float, found.split())
            except (OSError, ValueError):  # no such group, or "max"
                continue
            if quota > 0 and period > 0:
                granted = min(granted, quota / period)
    return max(1, math.ceil(granted))
