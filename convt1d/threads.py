# SPDX-License-Identifier: MIT
"""How many threads a call may use, and when they pay."""

from __future__ import annotations

import functools
import math
import operator
import os
from pathlib import Path

# Work below this stays on one thread: waking a second one costs 5..50 us (Zen 4, 2026-11).
SERIAL_SECONDS = 60e-6
# More threads than this are never used; cpu/_runtime.pxd has room for as many.
MOST = 256
# What one thread does, to estimate that work: multiply-adds and bytes per second. Only the order matters.
_MULTIPLY_ADDS = 40e9
_BYTES = 15e9


def count(workers: object) -> int:
    """The number of threads that `workers` allows: None, a positive int, or negative counting back.

    None is what OpenMP would take (OMP_NUM_THREADS, affinity) and what the cgroup's quota leaves.
    """
    if workers is None:
        from .cpu import _runtime

        return min(_runtime.openmp_threads(), _quota())
    try:
        if isinstance(workers, bool):
            raise TypeError
        n = operator.index(workers)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"workers must be None or an int, got {workers!r}") from None
    if n > 0:
        return min(n, MOST)
    cores = os.cpu_count() or 1  # asks the system, 6 us: only where it is needed
    if n == 0 or n < -cores:
        raise ValueError(f"workers must be positive, or negative and at least -{cores} (the cores), got {n}")
    return cores + 1 + n


def paying(multiply_adds: int, data_bytes: int, allowed: int) -> int:
    """Threads worth using for a call of this much work."""
    if allowed == 1:
        return 1
    seconds = max(multiply_adds / _MULTIPLY_ADDS, data_bytes / _BYTES)
    return max(1, min(allowed, int(seconds / (SERIAL_SECONDS / 2)))) if seconds > SERIAL_SECONDS else 1


def release_workspaces() -> int:
    """Give the threads' workspaces (2 MiB each, kept from call to call) back to the system.

    Returns
    -------
    int
        How many were released.
    """
    from .cpu import _runtime

    return _runtime.release_workspaces()


@functools.cache
def _quota() -> int:
    """CPUs that the Linux control group grants; a large number where there is no quota."""
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            fields = Path(quota_file).read_text().split()
            if period_file:
                fields += Path(period_file).read_text().split()
            quota, period = float(fields[0]), float(fields[1])
        except (OSError, ValueError, IndexError):  # no such group, or "max"
            continue
        if quota > 0 and period > 0:
            return max(1, math.ceil(quota / period))
    return 1 << 16
