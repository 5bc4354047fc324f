# SPDX-License-Identifier: MIT
"""Draw a result of bench/run.py:  python bench/plot.py RESULT.json PICTURE.png

Bars for each layer, convt1d and its peers: the time that the machine's limits allow, divided by the time
taken. So all layers share one scale, from microseconds to milliseconds, and 100 % is what this machine can
do. The numbers are convt1d's speed relative to the best peer's.
"""

import argparse
import json
from pathlib import Path

COLOURS = {
    "convt1d": "#d1495b",
    "torch": "#2e4057",
    "onnxruntime": "#66a182",
    "openvino": "#8d96a3",
    "jax": "#edae49",
    "upfirdn": "#b79ced",
}
ROW = 12  # layers side by side: as many as can be read on a page
TOP = 130  # per cent; what fits the cache can be faster than memory and is cut off here


def caption(document):
    machine, versions = document["machine"], document["versions"]
    threads = "1 thread" if document["threads"] == 1 else f"{document['threads']} threads"
    names = ("convt1d", "torch", "onnxruntime", "openvino", "jax", "scipy", "numpy")
    operator = document.get("operator", "forward")  # results from before there was another do not name theirs
    return (
        f"{document['date'][:10]} · {machine['processor']}, {threads}, {operator}, {document['dtype']}, medians · "
        f"limits measured in the same run: {machine['peak_gflops']:.0f} GFLOP/s, {machine['copy_gb_s']:.0f} GB/s\n"
        + " · ".join(f"{name} {versions[name]}" for name in names if name in versions)
    )


def draw(document, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [result for result in document["layers"] if result["implementations"]]
    present = {name for result in results for name in result["implementations"]}
    names = [name for name in COLOURS if name in present]
    count = -(-len(results) // ROW)
    figure, grid = plt.subplots(count, figsize=(9.5, 3.1 * count + 0.6), layout="constrained", squeeze=False)
    for row, axes in enumerate(grid[:, 0]):
        draw_row(axes, results[row * ROW : (row + 1) * ROW], names)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[name]) for name in names]
    figure.legend(handles, names, ncols=len(names), loc="outside upper center", frameon=False)
    figure.supxlabel(caption(document), fontsize=7.5, color="0.3")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_row(axes, results, names):
    for at, result in enumerate(results):
        # Side by side without gaps for what a layer lacks: not every peer runs every layer.
        found = [name for name in names if name in result["implementations"]]
        width = 0.84 / len(names)
        for number, name in enumerate(found):
            share = 100 * result["floor_us"] / result["implementations"][name]["median_us"]
            left = at + (number - (len(found) - 1) / 2) * width
            axes.bar(left, min(share, TOP), width, color=COLOURS[name])
            if name == "convt1d" and result.get("ratio_best"):
                axes.text(left, min(share, TOP) + 1.5, f"{result['ratio_best']:.2f}×", ha="center", fontsize=8)
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_ylim(0, TOP + 10)
    axes.set_ylabel("share of the machine's limit, %")
    axes.set_xticks(range(len(results)), [result["name"] for result in results], rotation=30, ha="right")
    axes.set_xlim(-0.6, ROW - 0.4)
    axes.spines[["top", "right"]].set_visible(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    document = json.loads(options.result.read_text())
    if not document.get("layers"):
        raise SystemExit(f"{options.result} holds no layers")
    draw(document, options.picture)


if __name__ == "__main__":
    main()
