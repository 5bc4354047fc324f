# SPDX-License-Identifier: MIT
"""Measure what a second worker process is worth on a compute-bound dask job, one thread each.

    python bench/dask_scaling.py                        one process against two
    python bench/dask_scaling.py --processes 1 2 4 8    needs as many idle cores
    python bench/dask_scaling.py --output FILE.json

The job: an upsampling layer (512 -> 256 channels, kernel 16, stride 4) on a signal of many chunks, of which only a sum
comes back. The input is made once and lies in the workers, chunk by chunk; what is measured is the
layer, dask's work around it, and the neighbours' samples going from process to process. The clusters are started
before, and take turns. So do as many processes without dask, each with its share of chunks that it makes itself: what
the cores and the memory between them allow.
"""

import argparse
import datetime
import json
import multiprocessing
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

from convt1d import ConvTranspose1d
from convt1d.dask import conv_transpose1d

CHUNK, CHUNKS = 4000, 32  # 17 GFLOP, 8 MB of input and 16 MB of output a chunk
BAR = 1.7  # times one process that two should reach


def weights():
    return np.random.default_rng(0).standard_normal((512, 256, 16)).astype(np.float32)


def job(client):
    """The layer on an input that the workers already hold."""
    weight = weights()
    x = da.random.default_rng(0).random((512, CHUNK * CHUNKS), dtype=np.float32, chunks=(512, CHUNK))
    x = client.persist(x)
    with client.as_current():
        wait(x)
    return conv_transpose1d(x, weight, stride=4, padding=6).sum(dtype=float)


class Plain:
    """The same work in processes of its own, without dask."""

    def __init__(self, processes):
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(processes)]
        self.ends = [end for end, _ in pipes]
        self.processes = [
            context.Process(target=_plain, args=(end, CHUNKS // processes), daemon=True) for _, end in pipes
        ]
        for process in self.processes:
            process.start()

    def run(self):
        for end in self.ends:
            end.send(True)
        return sum(end.recv() for end in self.ends)

    def close(self):
        for end in self.ends:
            end.send(False)
        for process in self.processes:
            process.join()


def _plain(end, chunks):
    layer = ConvTranspose1d(512, 256, 16, stride=4, padding=6)
    layer.weight = weights()
    x = np.random.default_rng(0).random((4, 512, CHUNK), dtype=np.float32)
    while end.recv():
        end.send(sum(layer(x[i % 4], workers=1).sum(dtype=float) for i in range(chunks)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="where to write the figures, as JSON")
    args = parser.parse_args()

    clusters = [LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0") for n in args.processes]
    clients = [Client(cluster, set_as_default=False) for cluster in clusters]
    plain = {n: Plain(n) for n in args.processes}
    try:
        jobs = [job(client) for client in clients]
        seconds = {n: [] for n in args.processes}
        without = {n: [] for n in args.processes}
        sums = set()
        for i in range(-1, args.rounds):  # the first round warms up
            print(f"round {i + 1} of {args.rounds}", file=sys.stderr, flush=True)
            for n, client, lazy in zip(args.processes, clients, jobs, strict=True):
                start = time.perf_counter()
                sums.add(float(client.compute(lazy).result()))
                middle = time.perf_counter()
                plain[n].run()
                if i >= 0:
                    seconds[n].append(middle - start)
                    without[n].append(time.perf_counter() - middle)
    finally:
        for processes in plain.values():
            processes.close()
        for client, cluster in zip(clients, clusters, strict=True):
            client.close()
            cluster.close()

    medians = {n: (statistics.median(seconds[n]), statistics.median(without[n])) for n in args.processes}
    first = medians[args.processes[0]]
    flops = 2 * 512 * 256 * 16 * CHUNK * CHUNKS
    print("processes   seconds   GFLOP/s   times as fast   without dask: seconds   times as fast")
    for n, (with_dask, plainly) in medians.items():
        print(
            f"{n:9d} {with_dask:9.2f} {flops / with_dask / 1e9:9.1f} {first[0] / with_dask:15.2f}"
            f"{plainly:24.2f} {first[1] / plainly:15.2f}"
        )
    print(f"sums {'equal' if len(sums) == 1 else 'DIFFERENT: ' + str(sums)}; the bar for two processes is {BAR} x")
    if args.output is not None:
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": machine.describe(),
            "seconds": seconds,
            "without_dask": without,
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
