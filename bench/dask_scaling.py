# SPDX-License-Identifier: MIT
"""Measure what a second worker process is worth on a compute-bound dask job, one thread each.

    python bench/dask_scaling.py                        one process against two
    python bench/dask_scaling.py --processes 1 2 4 8    needs as many idle cores
    python bench/dask_scaling.py --output FILE.json

The job: HiFi-GAN's first upsampling layer (512 -> 256 channels, kernel 16, stride 8) on a signal of many chunks, of
which only a sum comes back. The input is made once and lies in the workers, chunk by chunk; what is measured is the
layer, dask's work around it, and the neighbours' samples going from process to process. The clusters are started
before, and take turns.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from pathlib import Path

# before NumPy: the workers inherit it
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import dask.array as da
import machine
import numpy as np
from distributed import Client, LocalCluster, wait

from convt1d.dask import conv_transpose1d

CHUNK, CHUNKS = 2000, 64  # 8 GFLOP and 4 MB of input a chunk
BAR = 1.7  # times one process that two should reach


def job(client):
    """The layer on an input that the workers already hold."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((512, 256, 16)).astype(np.float32)
    x = da.random.default_rng(0).random((512, CHUNK * CHUNKS), dtype=np.float32, chunks=(512, CHUNK))
    x = client.persist(x)
    with client.as_current():
        wait(x)
    return conv_transpose1d(x, weight, stride=8, padding=4).sum(dtype=float)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="where to write the figures, as JSON")
    args = parser.parse_args()

    clusters = [LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0") for n in args.processes]
    clients = [Client(cluster, set_as_default=False) for cluster in clusters]
    try:
        jobs = [job(client) for client in clients]
        seconds = {n: [] for n in args.processes}
        sums = set()
        for i in range(-1, args.rounds):  # the first round warms up
            print(f"round {i + 1} of {args.rounds}", file=sys.stderr, flush=True)
            for n, client, lazy in zip(args.processes, clients, jobs, strict=True):
                start = time.perf_counter()
                sums.add(float(client.compute(lazy).result()))
                if i >= 0:
                    seconds[n].append(time.perf_counter() - start)
    finally:
        for client, cluster in zip(clients, clusters, strict=True):
            client.close()
            cluster.close()

    medians = {n: statistics.median(values) for n, values in seconds.items()}
    first = args.processes[0]
    flops = 2 * 512 * 256 * 16 * CHUNK * CHUNKS
    print("processes   seconds   GFLOP/s   times as fast")
    for n, median in medians.items():
        print(f"{n:9d} {median:9.2f} {flops / median / 1e9:9.1f} {medians[first] / median:15.2f}")
    print(f"sums {'equal' if len(sums) == 1 else 'DIFFERENT: ' + str(sums)}; the bar for two processes is {BAR} x")
    if args.output is not None:
        result = {"date": datetime.date.today().isoformat(), "machine": machine.describe(), "seconds": seconds}
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
