# SPDX-License-Identifier: MIT
"""ONNX models computed in part here, and torch's as chains and streams; onnxruntime and torch are the oracles."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT

from convt1d.onnx import accelerate  # noqa: E402


def alone(model, feed, outputs=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feed)


def close(found, expected, rtol=1e-5):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1, np.abs(b).max(initial=0)))


def model_of(nodes, arrays, outputs, length="L", channels=4):
    """A model of these nodes: (type, inputs, output, attributes)."""
    graph = helper.make_graph(
        [helper.make_node(op, given, [out], f"n{i}", **a) for i, (op, given, out, a) in enumerate(nodes)],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, channels, length])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 4, 40), np.float32)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


CONV = {"w": normal(4, 4, 3), "b": normal(4)}
SAME = {"pads": [1, 1]}


def test_a_residual_and_an_activation():
    """What is computed here is one chain, and onnxruntime has no part in it."""
    nodes = [
        ("LeakyRelu", ["x"], "a", {"alpha": 0.2}),
        ("Conv", ["a", "w", "b"], "c", SAME),
        ("Elu", ["c"], "d", {}),
        ("Add", ["x", "d"], "e", {}),
        ("Tanh", ["e"], "y", {}),
    ]
    model = model_of(nodes, CONV, ["y"])
    session = accelerate(model)
    (chain,) = session.chains
    assert repr(chain).startswith("Chain(Sum(Chain(), Chain(LeakyReLU(0.2), Conv1d(4, 4")
    assert session.reason == ""
    assert [each.name for each in session.get_inputs() + session.get_outputs()] == ["x", "y"]
    assert session.get_inputs()[0].type == "tensor(float)"
    assert session.get_inputs()[0].shape == [1, 4, "L"]
    for length in (7, 40):
        feed = {"x": X[..., :length]}
        close(session.run(["y"], feed), alone(model, feed))


SNAKES = {
    "pow": [("Pow", ["s", "two"], "q", {})],
    "square": [("Mul", ["s", "s"], "q", {})],
}


@pytest.mark.parametrize("square", SNAKES)
@pytest.mark.parametrize("last", ["Mul", "Div"])
def test_snakes(square, last):
    arrays = CONV | {"a": np.abs(normal(1, 4, 1)) + 0.5, "r": np.abs(normal(1, 4, 1)) + 0.5, "two": np.float32(2)}
    by = ["r", "q"] if last == "Mul" else ["q", "r"]
    nodes = [
        ("Mul", ["a", "x"], "m", {}),
        ("Sin", ["m"], "s", {}),
        *SNAKES[square],
        (last, by, "p", {}),
        ("Add", ["x", "p"], "z", {}),
        ("Conv", ["z", "w"], "y", SAME),
    ]
    model = model_of(nodes, arrays, ["y"])
    session = accelerate(model)
    assert "SnakeBeta" in repr(session.chains)
    close(session.run(None, {"x": X}), alone(model, {"x": X}))
    # with its middle asked for, too, onnxruntime computes the snake
    model = model_of(nodes, arrays, ["y", "q"])
    session = accelerate(model)
    assert "SnakeBeta" not in repr(session.chains)
    close(session.run(None, {"x": X}), alone(model, {"x": X}))


PADS = {
    "reflect": ("reflect", [0, 0, 2, 0, 0, 1]),
    "edge": ("edge", [0, 0, 3, 0, 0, 0]),
    "constant": ("constant", [0, 0, 1, 0, 0, 4]),
    "of channels": ("constant", [0, 1, 0, 0, -1, 0]),
}


@pytest.mark.parametrize("name", PADS)
def test_pads(name):
    mode, widths = PADS[name]
    nodes = [("Pad", ["x", "p"], "a", {"mode": mode}), ("Conv", ["a", "w", "b"], "y", {})]
    model = model_of(nodes, CONV | {"p": np.array(widths)}, ["y"])
    session = accelerate(model)
    assert len(session._parts) == (1 if name != "of channels" else 2)
    close(session.run(None, {"x": X}), alone(model, {"x": X}))


def test_crops():
    """By numbers, and by what is computed of the length, as torch exports x[..., : x.shape[-1] - 2]."""
    up = ("ConvTranspose", ["x", "w"], "u", {"strides": [2]})
    arrays = CONV | {"one": np.array([1]), "end": np.array([-2]), "axis": np.array([2])}
    negative = [up, ("Slice", ["u", "one", "end", "axis"], "y", {})]
    computed = [
        up,
        ("Shape", ["u"], "shape", {}),
        ("Gather", ["shape", "at"], "length", {}),
        ("Sub", ["length", "less"], "stop", {}),
        ("Unsqueeze", ["stop", "zero"], "stops", {}),
        ("Slice", ["u", "one", "stops", "axis"], "y", {}),
    ]
    more = {"at": np.array(2), "less": np.array(2), "zero": np.array([0])}
    for nodes in (negative, computed):
        model = model_of(nodes, arrays | more, ["y"])
        session = accelerate(model)
        assert len(session._parts) == 1
        for length in (5, 40):
            close(session.run(None, {"x": X[..., :length]}), alone(model, {"x": X[..., :length]}))
    # a length that is not the signal's own stays onnxruntime's
    computed[1] = ("Shape", ["x"], "shape", {})
    model = model_of(computed, arrays | more, ["y"])
    close(accelerate(model).run(None, {"x": X}), alone(model, {"x": X}))


def test_what_lies_between_goes_to_onnxruntime():
    nodes = [
        ("Conv", ["x", "w", "b"], "a", SAME),
        ("Softmax", ["a"], "b1", {"axis": 1}),
        ("Conv", ["b1", "w"], "c", SAME),
        ("Mul", ["c", "a"], "y", {}),
        ("ReduceMean", ["a"], "mean", {"axes": [2]}),
    ]
    model = model_of(nodes, CONV, ["y", "mean"])
    session = accelerate(model, threads=1)
    assert len(session.chains) == 2
    close(session.run(None, {"x": X}), alone(model, {"x": X}))
    close(session.run(["mean"], {"x": X}), alone(model, {"x": X}, ["mean"]))


REASONS = {
    "nothing": [("Relu", ["x"], "y", {})],
    "dynamic weights": [("Conv", ["x", "x"], "y", {})],
}


@pytest.mark.parametrize("name", REASONS)
def test_a_model_that_cannot_be_helped(name):
    model = model_of(REASONS[name], {}, ["y"], length=4)
    session = accelerate(model)
    assert "no part of the model" in session.reason
    assert session.chains == []
    x = {"x": np.abs(X[..., :4])}
    close(session.run(None, x), alone(model, x))


def test_example(monkeypatch):
    """The faster of the two is returned; a difference is an error."""
    import convt1d.onnx as ours

    model = model_of([("Conv", ["x", "w"], "y", SAME)], CONV, ["y"])
    for times, reason in (([[1.0], [2.0]], ""), ([[2.0], [1.0]], "onnxruntime alone took 1e+03 ms")):
        monkeypatch.setattr(ours, "_in_turns", lambda *a, times=times: times)
        session = accelerate(model, example={"x": X})
        assert reason in session.reason
        assert bool(session.chains) == (not reason)
    monkeypatch.setattr(ours.graph, "chain_of", lambda *a: lambda x, workers: x)
    with pytest.raises(ValueError, match="output 'y' must equal onnxruntime's"):
        accelerate(model, example={"x": X})


def test_errors(tmp_path):
    model = model_of([("Conv", ["x", "w"], "y", SAME)], CONV, ["y"])
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    session = accelerate(path)
    close(session.run(None, {"x": X}), alone(model, {"x": X}))
    with pytest.raises(ValueError, match="names must be of y, got 'z'"):
        session.run(["z"], {"x": X})
    with pytest.raises(ValueError, match="input_feed must hold every input, x missing"):
        session.run(None, {})
    with pytest.raises(TypeError, match=r"model must be an onnx\.ModelProto"):
        accelerate(3)
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"m\.onnx"):
        accelerate(path)


@st.composite
def graphs(draw):
    """Random graphs: each node takes one or two of those before; some results are outputs."""
    names, nodes = ["x"], []
    for i in range(draw(st.integers(2, 9))):
        op = draw(st.sampled_from(["Conv", "Conv", "LeakyRelu", "Tanh", "Add", "Mul", "Sigmoid", "Scale"]))
        a, b = (draw(st.sampled_from(names)) for _ in range(2))
        given, attributes = [a], {}
        if op == "Conv":
            given, attributes = [a, "w", "b"], SAME
        elif op in ("Add", "Mul"):
            given = [a, b]
        elif op == "Scale":
            op, given = "Mul", [a, draw(st.sampled_from(["half", "each"]))]
        nodes.append((op, given, f"t{i}", attributes))
        names.append(f"t{i}")
    outputs = draw(st.sets(st.sampled_from(names[1:]), min_size=1, max_size=3))
    return nodes, sorted(outputs)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_any_graph(drawn):
    nodes, outputs = drawn
    weights = {
        "w": CONV["w"] / 4,
        "b": CONV["b"],
        "half": np.float32(0.5),
        "each": np.float32([[[1], [2], [0.5], [-1]]]),
    }
    model = model_of(nodes, weights, outputs)
    close(accelerate(model, threads=1).run(None, {"x": X}), alone(model, {"x": X}), 1e-4)


# --- torch --------------------------------------------------------------------------------------------------


torch = pytest.importorskip("torch")
sys.path += [str(Path(__file__).parents[2] / "bench"), str(Path(__file__).parents[1])]
import hifigan as original  # noqa: E402
from models import blocks, dac, encodec, hifigan  # noqa: E402
from torch import nn  # noqa: E402

import convt1d.torch as ours  # noqa: E402

MODELS = {
    "hifigan": (lambda: hifigan.generator(8, 32, ((8, 4), (4, 2)), hifigan.BLOCKS[:2]), True),
    "dac": (lambda: dac.decoder(8, (24, 12, 8), (4, 2)), True),
    "oobleck": (lambda: dac.decoder(8, (24, 12, 8), (4, 2), two=True), True),
    "encodec": (lambda: encodec.seanet(8, 32, (4, 2), 7, "reflect", encodec.Block), True),
    "bigvgan": (
        lambda: hifigan.generator(8, 16, ((4, 2),), hifigan.BLOCKS[:1], activation=hifigan.resampled_snake),
        True,
    ),
    "lstm": (lambda: encodec.seanet(8, 32, (4, 2), 7, "constant", encodec.Block, encodec.LSTM(32)), False),
}


def seeded(build, x):
    torch.manual_seed(0)
    return blocks.unit_variance(build(), x)


@pytest.mark.parametrize("name", MODELS)
def test_exported(name):
    build, whole = MODELS[name]
    x = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0))
    model, file = seeded(build, x), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {2: "L"}})
    proto = onnx.load_from_string(file.getvalue())
    session = accelerate(proto)
    assert len(session.chains) >= 1
    if name != "bigvgan":  # there the exporter loses the shapes
        assert len(session._parts) == (1 if whole else 3)
    for length in (20, 31):
        feed = {"x": RNG.standard_normal((1, 8, length), np.float32)}
        close(session.run(None, feed), alone(proto, feed), 1e-4)


@pytest.mark.parametrize("name", [name for name, (_, whole) in MODELS.items() if whole])
@pytest.mark.parametrize("replaced", [False, True])
def test_streams(name, replaced):
    x = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(0))
    model = seeded(MODELS[name][0], x)
    expected = model(x).numpy()
    if replaced:
        ours.replace(model, activations=True)
    stream = ours.stream(model, x)
    pieces = [stream.process(part.numpy()) for part in x.split([1, 5, 0, 20, 14], 2)]
    assert sum(piece.shape[2] for piece in pieces) >= expected.shape[2] - stream.latency
    y = np.concatenate([*pieces, stream.flush()], 2)
    close([y], [expected], 2e-5)
    close([y], [ours.chain(model, x)(x.numpy())], 2e-5)


def test_functions_and_weight_norm():
    """HiFi-GAN as its repository writes it."""
    torch.manual_seed(0)
    model, x = original.Generator().eval(), torch.randn(1, original.MELS, 12)
    y = ours.chain(model, x)(x.numpy())
    close([y], [model(x).detach().numpy()])


class Other(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv1d(4, 4, 3, padding=1), function

    def forward(self, x):
        return self.function(self.conv(x))


REFUSED = {
    "a norm": (lambda y: nn.functional.instance_norm(y), "batch_norm"),
    "attention": (lambda y: nn.functional.scaled_dot_product_attention(y, y, y), "got aten"),
    "a product of signals": (lambda y: y * y.sigmoid(), "aten.sigmoid"),
    "samples of its own": (lambda y: y * torch.linspace(0, 1, y.shape[2]), "aten.mul"),
    "a crop at a place": (lambda y: y[..., :5], "aten.slice"),
    "shared": (lambda y: nn.functional.conv1d(y, torch.ones(4, 4, 1)) + y.flip(1), "aten.flip"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    function, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        ours.chain(Other(function).eval(), torch.randn(1, 4, 20))


def test_arguments():
    model, x = nn.Conv1d(4, 4, 3), torch.randn(1, 4, 20)
    with pytest.raises(ValueError, match=r"model must be in eval mode: model.eval\(\)"):
        ours.chain(model, x)
    with pytest.raises(ValueError, match=r"example must have shape \(N, C, L\), got \(4, 20\)"):
        ours.chain(model.eval(), x[0])
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
        ours.chain([], x)
    with pytest.raises(TypeError, match=r"example must be a torch.Tensor, got ndarray"):
        ours.chain(model, x.numpy())
