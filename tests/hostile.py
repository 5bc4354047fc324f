# SPDX-License-Identifier: MIT
"""Damaged files: what may come of reading them, and mutations of good ones."""

import contextlib
import sys
from pathlib import Path

import numpy as np

from convt1d import ConvTranspose1d
from convt1d.weights import list_layers

# numbers that lengths, offsets and dimensions are confused by
EXTREMES = [0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def mutations(data, count, seed):
    """`count` damaged copies of `data`: bytes changed, removed, doubled, moved, replaced by extremes, cut off."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            at, other = (int(i) for i in rng.integers(0, max(1, len(damaged)), 2))
            length = int(min(2 ** rng.integers(0, 7), max(1, len(damaged) - at)))
            kind = rng.integers(0, 7)
            if kind == 0:
                damaged[at : at + 1] = rng.bytes(1)
            elif kind == 1 and damaged:
                damaged[at] ^= 1 << int(rng.integers(0, 8))
            elif kind == 2:
                del damaged[at : at + length]
            elif kind == 3:
                damaged[at:at] = damaged[other : other + length]
            elif kind == 4:
                damaged[at : at + length] = rng.bytes(length)
            elif kind == 5:
                size = int(rng.choice([1, 2, 4, 8]))
                damaged[at : at + size] = (int(rng.choice(np.array(EXTREMES, object))) % 256**size).to_bytes(
                    size, "little"
                )
            elif rng.integers(0, 4) == 0:
                del damaged[at:]
        yield bytes(damaged)


def read(path, **geometry):
    """Read all there is to read; what fails must say so clearly. Returns how often it worked and failed."""
    worked = failed = 0
    names = [None]
    for step in range(100):
        if step > len(names):
            break
        try:
            if step == 0:
                names += [layer.name for layer in list_layers(path)]
            else:
                ConvTranspose1d.from_file(path, names[step - 1], **geometry)
            worked += 1
        except (ValueError, TypeError, OSError) as error:
            message, failed = str(error), failed + 1
            if str(path) not in message or len(message) > 5000:
                raise AssertionError("the message must name the file, and be short") from error
    return worked, failed


def fuzz(path, data, count, seed, **geometry):
    """Read mutations of a file; returns how many reads worked and failed."""
    total = np.zeros(2, int)
    for damaged in mutations(data, count, seed):
        path.write_bytes(damaged)
        total += read(path, **geometry)
    return total


def main(paths):
    """Print for each file how many reads failed and how many MiB the process has grown by."""
    import resource

    with contextlib.suppress(ImportError):
        import ml_dtypes  # noqa: F401  not to be counted
        import safetensors  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths:
        _, failed = read(path, stride=1)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{path.name}: {failed} {grown >> 10}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
