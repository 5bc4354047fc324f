# SPDX-License-Identifier: MIT
"""Upsample a signal that is larger than the memory, and keep of it only a sum.

    python docs/examples/scale.py                   20 GB of random samples in, 40 GB out, none of them ever stored
    python docs/examples/scale.py --gigabytes 1     a quick look

What comes out is checked: the circular mode lets every sample meet every tap, so the sum of the output is that of the
input times that of the weights; and the stretches around two seams, of two chunks and of the signal's two ends, have
the bits of the result in memory.
"""

import argparse
import contextlib
import re
import sys
import time
from pathlib import Path

import numpy as np

try:
    import dask
    import dask.array as da
    from dask.diagnostics import ProgressBar
except ImportError as error:
    sys.exit(f"{error}: pip install 'convt1d[dask]'")

from convt1d import conv_transpose1d
from convt1d.cli import windowed_sinc
from convt1d.dask import conv_transpose1d as lazy_conv_transpose1d

STRIDE = 2
CHUNK = 2**22  # samples: 16 MiB of input, 32 MiB of output for each of dask's threads
AROUND = 1000  # samples on either side of a seam


def peak_bytes():
    """The most memory that this process has had."""
    try:  # Linux: getrusage would count what the process was started from
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the input (default 20)")
    args = parser.parse_args(argv)
    length = int(args.gigabytes * 1e9 / 4)

    taps = windowed_sinc(STRIDE).astype(np.float32)
    weight, padding = taps.reshape(1, 1, -1), (taps.size - STRIDE) // 2
    x = da.random.default_rng(0).random((1, length), dtype=np.float32, chunks=(1, CHUNK))
    y = lazy_conv_transpose1d(x, weight, stride=STRIDE, padding=padding, padding_mode="circular")
    print(f"{x.nbytes / 1e9:.1f} GB in {x.npartitions} chunks -> {y.nbytes / 1e9:.1f} GB", flush=True)

    start = time.perf_counter()
    with ProgressBar(out=sys.stderr) if sys.stderr.isatty() else contextlib.nullcontext():
        x_sum, y_sum = dask.compute(x.sum(dtype=float), y.sum(dtype=float))
    seconds = time.perf_counter() - start

    seam = CHUNK if length > 2 * CHUNK else length // 2
    for name, i in (("two chunks", seam), ("the two ends", 0)):
        # the output around the border before sample i, from the samples around it
        near = np.arange(i - AROUND, i + AROUND)
        expected = conv_transpose1d(x[:, near % length].compute(), weight, stride=STRIDE, padding=padding)
        out = np.arange(STRIDE * (i - AROUND), STRIDE * (i + AROUND))
        inside = slice(taps.size, -taps.size)  # further than the taps reach
        same = (y[:, out[inside] % y.shape[-1]].compute() == expected[:, inside]).all()
        print(f"around the seam of {name}: {'the same bits' if same else 'DIFFERENT'}")
    print(f"sum: off by {abs(y_sum / (x_sum * taps.sum(dtype=float)) - 1):.1e} of itself")
    rate = length / seconds / 1e6
    print(f"{seconds:.0f} s, {rate:.0f} million samples a second; peak memory {peak_bytes() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
