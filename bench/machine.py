# SPDX-License-Identifier: MIT
"""What the machine is, and what it can do: its FMA peak and its copy bandwidth, measured without a compiler.

Both figures are the best of many short repetitions. On a shared machine a core may run at 80 or at 115
GFLOP/s depending on its neighbours, and a limit is what the undisturbed machine does.
"""

import os
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

# (rows, inner, columns, products in one call) for numpy.matmul. OpenBLAS's AVX-512 core is fastest on
# products of at most 10**6 multiply-adds, which it does not pack; its AVX2 core and other BLAS on large ones.
# A stack of products is one call into C (about 1 us) for some 0.3 ms of arithmetic, so Python's share is
# below 1 %. The small products stay below 2**19 multiply-adds: OpenBLAS keeps those on the calling thread.
SMALL = [(32, 256, 64, 32), (16, 256, 128, 32), (64, 128, 64, 32), (32, 128, 64, 64)]
LARGE = [(256, 256, 512, 1), (512, 512, 512, 1)]


class PeakProbe:
    """Arithmetic rate of matrix products that stay in the L2 cache, in GFLOP/s over all `threads`.

    `best` is the highest rate seen so far; `sample()` runs the best shape once, so that a benchmark can watch
    how fast the machine is at the moment.
    """

    def __init__(self, dtype, threads):
        self._dtype = np.dtype(dtype)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads = threads
        self._operands = {shape: self._prepare(shape) for shape in SMALL + LARGE}
        self._shape = SMALL[0]
        self.best = 0.0
        self.measure(0.02)

    def _prepare(self, shape):
        m, k, n, stack = shape
        rng = np.random.default_rng(0)
        # Every product of the stack reads the same two operands: strides of zero.
        a = np.broadcast_to(rng.standard_normal((m, k)).astype(self._dtype), (stack, m, k))
        b = np.broadcast_to(rng.standard_normal((k, n)).astype(self._dtype), (stack, k, n))
        # Large products are left to the BLAS's own threads; small ones run on ours, one output for each.
        callers = self._threads if shape in SMALL else 1
        return [(a, b, np.zeros((stack, m, n), self._dtype)) for _ in range(callers)]

    def _rate(self, shape):
        m, k, n, stack = shape
        jobs = self._operands[shape]

        def product(job):
            a, b, out = job
            start = time.perf_counter()
            np.matmul(a, b, out=out)  # releases the GIL
            return 2e-9 * m * k * n * stack / (time.perf_counter() - start)

        return sum(self._pool.map(product, jobs)) if len(jobs) > 1 else product(jobs[0])

    def sample(self):
        self._rate(self._shape)  # others have emptied the caches: a cold one reads 85 where a warm one reads 110
        rate = self._rate(self._shape)
        self.best = max(self.best, rate)
        return rate

    def measure(self, seconds=0.5):
        """Try every shape for `seconds` in all; return the highest rate ever seen."""
        end = time.perf_counter() + seconds
        while True:
            for shape in self._operands:
                rate = self._rate(shape)
                if rate > self.best:
                    self.best, self._shape = rate, shape
            if time.perf_counter() > end:
                return self.best


class CopyProbe:
    """STREAM copy between arrays of 4 × the last-level cache: bytes read plus bytes written, in GB/s.

    numpy.copyto is a memcpy. The C library's writes past the cache (non-temporal), which ordinary stores do
    not: those read each line of the output before they write it, so a kernel with ordinary stores cannot
    reach all of this.
    """

    def __init__(self, threads):
        size = 4 * last_level_cache()
        if memory_bytes():
            size = min(size, memory_bytes() // 8)
        size -= size % (4096 * threads)
        self._source = np.ones(size, np.uint8).reshape(threads, -1)
        self._target = np.zeros_like(self._source)
        self.best = 0.0

    def measure(self, seconds=0.5):
        """Copy for `seconds`, at least three times; return the highest bandwidth ever seen."""
        end = time.perf_counter() + seconds
        count = 0
        while count < 3 or time.perf_counter() < end:
            workers = [
                threading.Thread(target=np.copyto, args=pair)
                for pair in zip(self._target[1:], self._source[1:], strict=True)
            ]
            start = time.perf_counter()
            for worker in workers:
                worker.start()
            np.copyto(self._target[0], self._source[0])
            for worker in workers:
                worker.join()
            elapsed = time.perf_counter() - start
            self.best = max(self.best, 2e-9 * self._source.size / elapsed)
            count += 1
        return self.best


def last_level_cache():
    """Bytes of the largest cache the kernel reports; 32 MiB where it reports none."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0))
    return max(sizes, default=32 << 20)


def memory_bytes():
    """Bytes of main memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def load_average():
    """The 1, 5 and 15 minute load averages, or None where the system has none (Windows)."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def affinity():
    """The processors this thread may run on, or None where the system does not say (macOS, Windows)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def blas():
    """The BLAS libraries and OpenMP run-times loaded now: [{library, version, architecture, threads}]."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    # The file's name says whose copy it is; its folder would only say where this machine keeps it.
    return [
        {
            "library": Path(info["filepath"]).name,
            "version": info.get("version"),
            "architecture": info.get("architecture"),
            "threads": info["num_threads"],
        }
        for info in threadpool_info()
    ]


def describe():
    memory = memory_bytes()
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "affinity": affinity(),
        "last_level_cache_mib": last_level_cache() / 2**20,
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }
