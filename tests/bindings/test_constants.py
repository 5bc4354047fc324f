# SPDX-License-Identifier: MIT
"""ONNX weights that follow from stored tensors: ONNX Runtime is the oracle; what would take too much is refused."""

import time

import hostile
import naive
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convt1d import ConvTranspose1d
from convt1d.weights import list_layers

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
node = helper.make_node


def model_of(nodes, stored, opset=17, channels=4, **attributes):
    """A model of these nodes and a ConvTranspose "up" of w, and of b if something makes it."""
    made = {*stored, *(name for n in nodes for name in n.output)}
    up = node("ConvTranspose", ["x", "w", *({"b"} & made)], ["y"], "up", **{"strides": [2]} | attributes)
    tensors = [t if isinstance(t, onnx.TensorProto) else numpy_helper.from_array(t, n) for n, t in stored.items()]
    x = helper.make_tensor_value_info("x", FLOAT, [1, channels, *["L"] * len(attributes.get("strides", [1]))])
    graph = helper.make_graph([*nodes, up], "g", [x], [helper.make_tensor_value_info("y", FLOAT, None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def by_runtime(model, x):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def check(model, channels=4):
    x = np.random.default_rng(0).standard_normal((1, channels, 7)).astype(np.float32)
    expected = by_runtime(model, x)
    np.testing.assert_allclose(ConvTranspose1d.from_onnx(model)(x), expected, atol=2e-6 * max(1, abs(expected).max()))


# --- random expressions -------------------------------------------------------------------------------------


STEPS = (
    *("cast", "turn", "flat", "grow", "half", "scale", "norm", "join", "cut", "spread", "gather", "where", "same"),
)


@st.composite
def expressions(draw, shape, name):
    """Nodes that make `name`, of `shape`, from stored tensors: steps that leave the shape as it is."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    stored, nodes, count = {}, [], 0
    size = int(np.prod(shape))

    def store(value):
        nonlocal count
        count += 1
        stored[f"{name}{count}"] = value
        return f"{name}{count}"

    def apply(op, inputs, **attributes):
        nonlocal count
        count += 1
        nodes.append(node(op, inputs, [f"{name}{count}"], **attributes))
        return f"{name}{count}"

    def dequantised():
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        kind = draw(st.sampled_from([np.int8, np.uint8]))
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        n = draw(st.sampled_from([(), (shape[axis],)]))
        inputs = [
            store(rng.integers(low, high + 1, shape).astype(kind)),
            store(rng.uniform(0.001, 0.02, n).astype("f4")),
        ]
        if draw(st.booleans()):
            inputs.append(store(rng.integers(low, high + 1, n).astype(kind)))
        return apply("DequantizeLinear", inputs, axis=axis)

    def step(current):
        kind = draw(st.sampled_from(STEPS))
        if kind == "cast":
            wide = draw(st.sampled_from([onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16]))
            return apply("Cast", [apply("Cast", [current], to=wide)], to=FLOAT)
        if kind == "turn":
            perm = draw(st.permutations(range(len(shape))))
            return apply("Transpose", [apply("Transpose", [current], perm=perm)], perm=np.argsort(perm).tolist())
        if kind == "flat":
            return apply("Reshape", [apply("Reshape", [current, store(np.array([-1]))]), store(np.array(shape))])
        if kind == "grow":
            axes = store(np.array([draw(st.integers(0, len(shape)))]))
            return apply("Squeeze", [apply("Unsqueeze", [current, axes]), axes])
        if kind == "half":
            parts = [max(1, shape[0] // 2), shape[0] - max(1, shape[0] // 2)]
            if not parts[1]:
                return current
            sizes, ends = store(np.array(parts)), [f"{current}a", f"{current}b"]
            nodes.append(node("Split", [current, sizes], ends, axis=0))
            return apply("Concat", ends, axis=0)
        if kind == "scale":
            op = draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
            other = store(rng.uniform(0.5, 2, draw(st.sampled_from([(), shape, shape[-1:]]))).astype("f4"))
            return apply(op, [current, other])
        if kind == "norm":
            norm = (
                apply("ReduceL2", [current], axes=list(range(1, len(shape))), keepdims=1) if len(shape) > 1 else current
            )
            return apply("Div", [current, apply("Add", [apply("Abs", [norm]), store(np.float32(1))])])
        if kind == "join":
            twice = apply("Concat", [current, current], axis=0)
            ends = [store(np.array([n])) for n in (0, shape[0], 0)]
            return apply("Slice", [twice, *ends])
        if kind == "cut":
            negative = [store(np.array([n])) for n in (-1, -(2**31), 0, -1)]
            return apply("Slice", [apply("Slice", [current, *negative]), *negative])
        if kind == "spread":
            ones = apply(
                "ConstantOfShape", [apply("Shape", [current])], value=numpy_helper.from_array(np.ones(1, "f4"))
            )
            return apply("Mul", [apply("Expand", [current, store(np.array(shape))]), ones])
        if kind == "gather":
            return apply("Gather", [current, store(rng.permutation(shape[0]))], axis=0)
        if kind == "where":
            return apply("Where", [store(rng.random(shape) < 0.5), current, apply("Neg", [current])])
        return apply("Identity", [current])

    start = draw(st.sampled_from(["stored", "constant", "dequantised"]))
    if start == "stored":
        current = store(rng.standard_normal(shape).astype("f4"))
    elif start == "constant":
        values = rng.standard_normal(size).astype("f4").tolist()
        current = apply("Reshape", [apply("Constant", [], value_floats=values), store(np.array(shape))])
    else:
        current = dequantised()
    for _ in range(draw(st.integers(0, 5))):
        current = step(current)
    return [*nodes, node("Identity", [current], [name])], stored


@st.composite
def models(draw):
    groups = draw(st.integers(1, 2))
    shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    nodes, stored = draw(expressions(shape, "w"))
    if draw(st.booleans()):
        more, tensors = draw(expressions((shape[1] * groups,), "b"))
        nodes, stored = nodes + more, stored | tensors
    return model_of(nodes, stored, channels=shape[0], group=groups), shape[0]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(models())
def test_random_expressions(case):
    check(*case)


@pytest.mark.slow
@settings(max_examples=2000, database=None, suppress_health_check=list(HealthCheck))
@given(models())
def test_random_expressions_long(case):
    check(*case)


# --- dequantised --------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
Q = RNG.integers(-127, 128, (4, 6, 8)).astype(np.int8)


@pytest.mark.parametrize(
    ("scale", "zero", "opset", "attributes"),
    [
        ((), (), 10, {}),
        ((6,), None, 13, {}),
        ((6,), (6,), 17, {"axis": -2}),
        ((4,), (4,), 19, {"axis": 0}),
        ((4, 2, 8), (4, 2, 8), 21, {"axis": 1, "block_size": 3}),
        ((4, 6, 2), None, 21, {"axis": 2, "block_size": 5}),
    ],
)
def test_dequantised(scale, zero, opset, attributes):
    stored = {"q": Q, "s": RNG.uniform(0.001, 0.02, scale).astype("f4")}
    if zero is not None:
        stored["z"] = RNG.integers(-9, 9, zero).astype(np.int8)
    check(model_of([node("DequantizeLinear", list(stored), ["w"], **attributes)], stored, opset))


def test_four_bits():
    """Two numbers in a byte, of which ONNX Runtime makes the same."""
    values = RNG.integers(-8, 8, (4, 3, 5))
    tensor = helper.make_tensor("q", onnx.TensorProto.INT4, values.shape, values.ravel())
    check(model_of([node("DequantizeLinear", ["q", "s"], ["w"])], {"q": tensor, "s": np.float32(0.1)}, 21))


# --- 1-D written as 2-D -------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(problem=naive.problems(modes=["zeros"], kinds="f"), axis=st.sampled_from([2, 3]))
def test_two_dimensional(problem, axis):
    """Equal to the 1-D node of the same numbers."""
    g, w = problem.geometry, problem.w.astype(np.float32)
    left, right = (int(p) for p in np.broadcast_to(g["padding"], 2))
    one = {
        "strides": [g["stride"]],
        "dilations": [g["dilation"]],
        "output_padding": [g["output_padding"]],
        "pads": [left, right],
        "kernel_shape": [w.shape[2]],
    }
    order = slice(None, None, -1) if axis == 2 else slice(None)
    two = {
        name: [*values, int(name in ("strides", "dilations", "kernel_shape"))][order] for name, values in one.items()
    }
    two["pads"] = [0, left, 0, right] if axis == 2 else [left, 0, right, 0]
    stored = {"w": w} | ({} if problem.b is None else {"b": problem.b.astype(np.float32)})
    flat = ConvTranspose1d.from_onnx(model_of([], stored, group=g["groups"], **one))
    stored["w"] = np.expand_dims(w, axis)
    model = model_of([], stored, group=g["groups"], **two)
    layer = ConvTranspose1d.from_onnx(model, "up")
    assert repr(layer) == repr(flat)
    np.testing.assert_array_equal(layer.weight, flat.weight)


# --- what follows the node ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 6, 1), (6, 1), (1,), ()])
def test_an_add_is_the_bias(tmp_path, shape):
    bias = RNG.standard_normal(shape).astype("f4")
    model = model_of([], {"w": Q.astype("f4"), "b": np.arange(6, dtype="f4"), "c": bias})
    model.graph.node.append(node("Add", ["y", "c"], ["z"]))
    model.graph.output[0].name = "z"
    check(model)
    onnx.save(model, tmp_path / "m.onnx")
    (info,) = list_layers(tmp_path / "m.onnx")
    assert info.bias
    assert info.remark == "the constant Add behind it is its bias"


@pytest.mark.parametrize(
    "following", [node("Mul", ["y", "c"], ["z"], "gain"), node("Slice", ["y", "i", "j", "k"], ["z"], "crop")]
)
def test_what_follows_is_told(tmp_path, following):
    ends = {name: np.array([value]) for name, value in {"i": 0, "j": -4, "k": 2}.items()}
    model = model_of([], {"w": Q.astype("f4"), "c": np.float32(2)} | ends)
    model.graph.node.append(following)
    model.graph.output[0].name = "z"
    told = f"{following.op_type} '{following.name}' follows in the model"
    with pytest.warns(UserWarning, match=told):
        ConvTranspose1d.from_onnx(model)
    onnx.save(model, tmp_path / "m.onnx")
    assert told in list_layers(tmp_path / "m.onnx")[0].remark


# --- a real quantised model ---------------------------------------------------------------------------------


def test_a_quantised_vocoder(tmp_path):
    """ONNX Runtime's static quantisation, QDQ, per channel: each layer on the input that its node has."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    runtime = pytest.importorskip("onnxruntime")
    rng, nodes, stored, name = np.random.default_rng(1), [], {}, "x"
    for i, (c_in, c_out, size, stride) in enumerate([(16, 8, 16, 8), (8, 4, 8, 4), (4, 2, 4, 2)]):
        stored[f"w{i}"] = rng.standard_normal((c_in, c_out, size)).astype("f4") / c_in
        stored[f"b{i}"] = rng.standard_normal(c_out).astype("f4")
        attributes = {"strides": [stride], "pads": [(size - stride) // 2] * 2}
        nodes.append(node("ConvTranspose", [name, f"w{i}", f"b{i}"], [f"y{i}"], f"up{i}", **attributes))
        nodes.append(node("LeakyRelu", [f"y{i}"], [f"h{i}"], alpha=0.1))
        name = f"h{i}"
    ends = [helper.make_tensor_value_info(n, FLOAT, s) for n, s in (("x", [1, 16, 20]), (name, None))]
    tensors = [numpy_helper.from_array(value, n) for n, value in stored.items()]
    graph = helper.make_graph(nodes, "vocoder", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "f.onnx")

    class Signals(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": rng.standard_normal((1, 16, 20)).astype("f4")} for _ in range(8)]

        def get_next(self):
            return self.left.pop() if self.left else None

    path = tmp_path / "int8.onnx"
    quantization.quantize_static(
        tmp_path / "f.onnx",
        path,
        Signals(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["ConvTranspose"],
    )
    layers = list_layers(path)
    assert [(info.name, info.problem) for info in layers] == [(f"up{i}", "") for i in range(3)]
    model = onnx.load(path)
    ups = {n.name: n for n in model.graph.node if n.op_type == "ConvTranspose"}
    assert all(model.graph.initializer[0].data_type for _ in ups)
    wanted = [n for up in ups.values() for n in (up.input[0], up.output[0])]
    model.graph.output.extend(helper.make_tensor_value_info(n, FLOAT, None) for n in wanted)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options)
    found = dict(zip(wanted, session.run(wanted, {"x": rng.standard_normal((1, 16, 20)).astype("f4")}), strict=True))
    for up_name, up in ups.items():
        x, y = found[up.input[0]], found[up.output[0]]
        np.testing.assert_allclose(ConvTranspose1d.from_file(path, up_name)(x), y, atol=1e-6 * abs(y).max())


# --- hostile ones -------------------------------------------------------------------------------------------

ONE, BIG = np.ones((1, 1, 1), np.float32), np.array([2**20, 2**20, 2**20])


@pytest.mark.parametrize(
    ("nodes", "stored", "match"),
    [
        ([node("Expand", ["v", "s"], ["w"])], {"v": ONE, "s": BIG}, "Expand would compute .* bytes; refused"),
        ([node("ConstantOfShape", ["s"], ["w"])], {"s": BIG}, "ConstantOfShape would compute"),
        ([node("Tile", ["v", "s"], ["w"])], {"v": ONE, "s": BIG}, "Tile would compute"),
        (
            [node("Mul", ["u", "v"], ["w"])],
            {"u": np.ones((2**20, 1, 1), "f4"), "v": np.ones((1, 2**20, 1), "f4")},
            "Mul",
        ),
        ([node("Split", ["v"], ["w"], num_outputs=2**40)], {"v": ONE}, "num_outputs"),
        ([node("Loop", ["v"], ["w"])], {"v": ONE}, "operator Loop is not evaluated"),
        ([node("Cast", ["x"], ["w"], to=FLOAT)], {}, "'x' is an input of the graph"),
        ([node("Cast", ["u"], ["w"], to=FLOAT), node("Cast", ["w"], ["u"], to=FLOAT)], {}, "depends on itself"),
        ([node("Reshape", ["v", "s"], ["w"])], {"v": ONE, "s": np.array([2, 2])}, "Reshape cannot be evaluated"),
        (
            [node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=2**40)],
            {"q": Q, "s": np.ones((2, 6, 8), "f4")},
            "must have 1 blocks",
        ),
        (
            [node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(1500)] + [node("Neg", ["v1500"], ["w"])],
            {"v0": ONE},
            "1000",
        ),
        (
            [node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(60)] + [node("Neg", ["v60"], ["w"])],
            {"v0": ONE},
            "Concat would compute",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile(tmp_path, nodes, stored, match):
    start = time.monotonic()
    onnx.save(model_of(nodes, stored), tmp_path / "m.onnx")
    with pytest.raises((ValueError, TypeError), match=match):
        ConvTranspose1d.from_file(tmp_path / "m.onnx", "up")
    assert list_layers(tmp_path / "m.onnx")[0].problem
    assert time.monotonic() - start < 20


def seeds():
    """Models whose weights are computed in many ways."""
    q = np.arange(8, dtype=np.int8).reshape(2, 2, 2)
    yield (
        [node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1), node("Transpose", ["d"], ["w"], perm=[0, 1, 2])],
        {"q": q, "s": np.ones(2, "f4"), "z": np.zeros(2, np.int8)},
    )
    norm = [
        node("ReduceL2", ["v"], ["n"], axes=[1, 2], keepdims=1),
        node("Div", ["g", "n"], ["r"]),
        node("Mul", ["v", "r"], ["w"]),
    ]
    yield norm, {"v": np.ones((2, 2, 2), "f4"), "g": np.ones((2, 1, 1), "f4")}
    spread = [node("Expand", ["v", "s"], ["e"]), node("Slice", ["e", "a", "b", "c"], ["w"])]
    numbers = {name: np.array([value]) for name, value in {"a": 0, "b": 2, "c": 0}.items()}
    yield spread, {"v": np.ones((1, 1, 2), "f4"), "s": np.array([3, 2, 2])} | numbers


@pytest.mark.parametrize("count", [100, pytest.param(2500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", range(3))
def test_mutations(tmp_path, seed, count):
    """Damaged models are read, or refused in words, each in a bounded time."""
    model, start = model_of(*list(seeds())[seed], channels=2), time.monotonic()
    worked, failed = hostile.fuzz(tmp_path / "m.onnx", model.SerializeToString(), count, seed)
    print(f"{worked} reads worked, {failed} failed")
    assert worked > 0
    assert failed > count / 3
    assert time.monotonic() - start < 5 + count / 2


@pytest.mark.parametrize("shape", ["many nodes", "many nodes of one value", "many values of one chain", "wide"])
def test_the_time_grows_with_the_file(tmp_path, shape):
    if shape == "many nodes":
        model = model_of([], {"w": ONE}, channels=1)
        model.graph.node.extend(node("ConvTranspose", ["x", "w"], [f"y{i}"], f"n{i}") for i in range(5000))
    elif shape == "wide":
        model = model_of([node("Sum", [f"v{i}"] * 1000, [f"v{i + 1}"]) for i in range(900)], {"v0": ONE}, channels=1)
        model.graph.node[-1].input[1] = "v900"
    else:
        links = [node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(500)]
        model = model_of(links, {"v0": ONE, "w": ONE}, channels=1)
        for i in range(1000):
            name = "v500" if "one value" in shape else f"w{i}"
            if name != "v500":
                model.graph.node.append(node("Neg", ["v500"], [name]))
            model.graph.node.append(node("ConvTranspose", ["x", name], [f"y{i}"], f"n{i}"))
    onnx.save(model, tmp_path / "m.onnx")
    start = time.monotonic()
    assert len(list_layers(tmp_path / "m.onnx")) >= 1
    assert time.monotonic() - start < 60
