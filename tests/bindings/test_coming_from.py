# SPDX-License-Identifier: MIT
"""docs/coming-from.md: each row of its tables, evaluated on both sides."""

import json
import os
import re
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

import convt1d

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "coming-from.md"


def rows():
    """(system, code there, code here) of every row that has code on the right."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        (head, _, *lines) = ([cell.strip() for cell in line.split(" | ")] for line in table.splitlines())
        if "convt1d" not in head[-1]:
            continue
        system = head[0].strip("| `").split("`")[0]
        for there, here in lines:
            code = re.match(r"`([a-z_]+=.*?)`", here)
            if code:
                yield system, re.search(r"`(.*?)`", there).group(1), code.group(1)


ROWS = list(rows())


def settings():
    """Numbers and arrays that the names in the tables stand for. `ke >= s`, and not both a stride and a dilation."""
    rng = np.random.default_rng(0)

    def array(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    shapes = [(4, 2, 1, 2), (5, 2, 1, 1), (16, 8, 1, 4), (7, 3, 1, 2), (3, 1, 3, 1), (6, 1, 2, 2), (3, 3, 1, 1)]
    for K, s, d, g in shapes:
        L, ke = int(rng.integers(12, 30)), d * (K - 1) + 1
        lo, hi, p, op, cut = (int(rng.integers(0, top)) for top in (ke, ke, ke, s, ke))
        numbers = {"K": K, "s": s, "d": d, "g": g, "ke": ke, "L": L, "lo": lo, "hi": hi, "p": p, "op": op}
        numbers |= {"full": (L - 1) * s + ke, "n": (L - 1) * s + ke - cut, "half": K}
        arrays = {"x": array(2, 8, L), "w": array(8, 8, K), "b": array(8), "x1": array(L), "h": array(2 * K + 1)}
        yield numbers | arrays | {"kernel": array(K, 8, 8), "kernel_t": array(K, 8, 8)}


# Each system: a function that runs it, and what its rows leave out, there and here.


def torch_function(input, weight, bias=None, **given):
    torch = pytest.importorskip("torch")
    tensors = (None if a is None else torch.from_numpy(a) for a in (input, weight, bias))
    return torch.nn.functional.conv_transpose1d(*tensors, **given).numpy()


def keras_layer(inputs, kernel, bias, use_bias=True, **given):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        layer = keras.layers.Conv1DTranspose(8, len(kernel), use_bias=use_bias, **given)
        layer.build((None, None, 8))
        layer.set_weights([kernel, bias] if use_bias else [kernel])
        return keras.ops.convert_to_numpy(layer(inputs))


def jax_function(lhs, rhs, strides, padding="VALID", **given):
    return np.asarray(pytest.importorskip("jax").lax.conv_transpose(lhs, rhs, strides, padding, **given))


def onnx_node(X, W, B=None, **attributes):
    helper, runtime = pytest.importorskip("onnx").helper, pytest.importorskip("onnxruntime")
    arrays = {"X": X, "W": W} | ({} if B is None else {"B": B})
    inputs = [helper.make_tensor_value_info(name, 1, array.shape) for name, array in arrays.items()]
    node = helper.make_node("ConvTranspose", list(arrays), ["Y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("Y", 1, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=10)
    return runtime.InferenceSession(model.SerializeToString()).run(None, arrays)[0]


SYSTEMS = {
    "torch.nn.functional.conv_transpose1d": (
        torch_function,
        "input=x, weight=w, stride=s, dilation=d",
        "x=x, weight=w, stride=s, dilation=d",
    ),
    "keras.layers.Conv1DTranspose": (
        keras_layer,
        "inputs=x.transpose(0, 2, 1), kernel=kernel, bias=b, strides=s, dilation_rate=d",
        "x=x.transpose(0, 2, 1), channels_last=True, weight=kernel.transpose(2, 1, 0), bias=b, stride=s, dilation=d",
    ),
    "jax.lax.conv_transpose": (
        jax_function,
        "lhs=x.transpose(0, 2, 1), rhs=kernel, strides=[s], rhs_dilation=[d]",
        "x=x.transpose(0, 2, 1), channels_last=True, weight=kernel[::-1].transpose(1, 2, 0), stride=s, dilation=d",
    ),
    "ConvTranspose": (onnx_node, "X=x, W=w, strides=[s], dilations=[d]", "x=x, weight=w, stride=s, dilation=d"),
    "scipy.signal.upfirdn": (
        lambda **given: scipy.signal.upfirdn(**given)[None],
        "x=x1, h=h, up=s",
        "x=x1[None], weight=h[None, None], stride=s",
    ),
    "scipy.signal.resample_poly": (
        lambda **given: scipy.signal.resample_poly(**given)[None],
        "x=x1, window=h, up=s, down=1",
        "x=x1[None], weight=s * h[None, None], stride=s, padding=half, output_padding=s - 1",
    ),
}


def test_every_table_is_read():
    assert {system for system, _, _ in ROWS} == set(SYSTEMS)
    assert len(ROWS) > 40


@pytest.mark.parametrize("row", ROWS, ids=[f"{system.split('.')[0]}-{there}" for system, there, _ in ROWS])
def test_row(row):
    system, there, here = row
    run, *defaults = SYSTEMS[system]
    compared = 0
    for names in settings():
        theirs, ours = (
            eval(f"dict({default}) | dict({code})", {"dict": dict}, names)
            for default, code in zip(defaults, (there, here), strict=True)
        )
        # what the page says of these rows
        if np.min(ours.get("padding", 0)) < 0 or (system == "scipy.signal.resample_poly" and names["s"] == 1):
            continue
        expected = run(**theirs)
        y = convt1d.conv_transpose1d(**ours)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
        compared += 1
    assert compared >= 3


def test_crossover_table():
    """What bench/fft_crossover.py measured last is what the page shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        table = runpy.run_path(str(ROOT / "bench" / "fft_crossover.py"))["table"]
    newest = max((ROOT / "bench" / "results").glob("fft-crossover-*.json"))
    document = json.loads(newest.read_text())
    text = PAGE.read_text(encoding="utf-8")
    assert table(document) in text
    assert document["date"][:10] in text
