# SPDX-License-Identifier: MIT
"""Time the four transposed layers of a HiFi-GAN V1 generator where they stand, torch's own and convt1d's.

    python bench/hifigan.py                       one thread, 200 frames (2.3 s of sound at 22.05 kHz)
    python bench/hifigan.py --frames 64 --norm    weight_norm left in, which makes the weights anew for each call

Two generators of the same weights, one after `convt1d.torch.replace`, run in turns; hooks time each layer's call, so
that it meets the caches as the rest of the model leaves them. Medians over the turns, in microseconds.
"""

import argparse
import sys
import time
from pathlib import Path

from run import Progress, limit_threads


def timed(module, times):
    """Add each call's duration to `times`."""
    begun = []
    module.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
    module.register_forward_hook(lambda *_: times.append(time.perf_counter() - begun.pop()))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--norm", action="store_true", help="keep weight_norm in the layers")
    options = parser.parse_args(argv)
    if min(options.frames, options.turns, options.threads) < 1:
        parser.error("--frames, --turns and --threads are at least 1")
    limit_threads(options.threads)

    import machine
    import numpy as np
    import torch

    from convt1d.torch import replace

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import hifigan

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    theirs, mine = (hifigan.Generator(*([] if options.norm else [lambda module: module])).eval() for _ in range(2))
    mine.load_state_dict(theirs.state_dict())
    replaced = replace(mine)
    models = {"torch": theirs, "convt1d": mine}
    times = {name: [[] for _ in model.ups] for name, model in models.items()}
    for name, model in models.items():
        for up, record in zip(model.ups, times[name], strict=True):
            timed(up, record)

    x = torch.randn(1, hifigan.MELS, options.frames)
    progress = Progress(options.turns + 1)
    with torch.no_grad():
        for turn in range(options.turns + 1):  # the first is not counted
            progress.begin(f"turn {turn}")
            names = list(models) if turn % 2 else list(models)[::-1]
            outputs = {name: models[name](x) for name in names}
    progress.close()
    difference = (outputs["torch"] - outputs["convt1d"]).abs().max().item()
    medians = {name: [1e6 * np.median(record[1:]) for record in records] for name, records in times.items()}

    print(f"{machine.describe()['processor']}, torch {torch.__version__}, {options.threads} thread(s)")
    print(f"{int(replaced)} layers turned, {options.turns} turns, outputs differ by {difference:.1e} at most")
    print(f"{'layer':<24} {'torch':>9} {'convt1d':>9} {'ratio':>7}")
    rows = [f"{i} -> {o}, K {k}, stride {s}" for i, o, k, s in hifigan.UPSAMPLE]
    totals = {name: sum(values) for name, values in medians.items()}
    for row, a, b in zip(
        [*rows, "sum"],
        [*medians["torch"], totals["torch"]],
        [*medians["convt1d"], totals["convt1d"]],
        strict=True,
    ):
        print(f"{row:<24} {a:9.0f} {b:9.0f} {a / b:6.2f} ×")


if __name__ == "__main__":
    main()
