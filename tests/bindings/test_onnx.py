# SPDX-License-Identifier: MIT
"""ONNX: ONNX Runtime as the oracle of every attribute, ONNX' own test case, the evaluator's repaired operator."""

import sys

import hostile
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d
from convt1d import ConvTranspose1d
from convt1d.weights import LayerInfo, list_layers, onnx_geometry

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT


def model_of(w, b=None, length="L", opset=11, **attributes):
    """A model of one ConvTranspose node "up", in w's type."""
    kind = helper.np_dtype_to_tensor_dtype(w.dtype)
    arrays = {"w": w} | ({} if b is None else {"b": b})
    node = helper.make_node("ConvTranspose", ["x", *arrays], ["y"], "up", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", w.shape[0], length])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def by_runtime(model, x):
    """What ONNX Runtime gives; None where it refuses."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options)
        return session.run(None, {session.get_inputs()[0].name: x})[0]
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            return None
        raise


def by_evaluator(model, x, **inputs):
    from onnx.reference import ReferenceEvaluator

    from convt1d.onnx import ConvTranspose

    return ReferenceEvaluator(model, new_ops=[ConvTranspose]).run(None, {"x": x} | inputs)[0]


@st.composite
def nodes(draw):
    """A problem, and attributes of a node: pads, auto_pad or output_shape."""
    problem = draw(naive.problems(modes=["zeros"], kinds="f", longest=20))
    g, K, L = problem.geometry, problem.w.shape[2], problem.x.shape[-1]
    s, d, op = g["stride"], g["dilation"], g["output_padding"]
    attributes = {"strides": [s], "dilations": [d], "group": g["groups"]}
    if op or draw(st.booleans()):
        attributes["output_padding"] = [op]
    if draw(st.booleans()):
        attributes["kernel_shape"] = [K]
    way = draw(st.sampled_from(["pads", "auto_pad", "output_shape"]))
    if way == "pads":
        attributes["pads"] = [int(p) for p in np.broadcast_to(g["padding"], 2)]
    else:
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"]))
    if way == "output_shape":
        natural = convt1d.output_length(L, K, s, 0, op, d)
        attributes["output_shape"] = [draw(st.integers(max(1, natural - 2 * d * K), natural + s - 1))]
        if attributes["auto_pad"] == "NOTSET" and draw(st.booleans()):
            attributes["pads"] = [1, 2]  # without a meaning there
    arrays = (None if a is None else a.astype(np.float32) for a in (problem.x, problem.w, problem.b))
    x, w, b = arrays
    return x.reshape(-1, *x.shape[-2:]), w, b, attributes


def check_against_runtime(problem):
    x, w, b, attributes = problem
    model = model_of(w, b, **attributes)
    expected = by_runtime(model, x)
    if expected is None:
        try:
            layer = ConvTranspose1d.from_onnx(model, length=x.shape[-1])
            layer.output_length(x.shape[-1])
        except ValueError:
            return "refused by both"
        # a large dilation allows it in the text; the runtime refuses it
        asked = attributes.get("output_padding", [0])[0]
        assert max(asked, layer.output_padding) >= layer.stride
        return "refused by ONNX Runtime"
    layer = ConvTranspose1d.from_onnx(model, "up", length=x.shape[-1])
    y, reach = layer(x), convt1d.output_length(1, w.shape[2], dilation=attributes["dilations"][0])
    short = reach + attributes.get("output_padding", [0])[0] < attributes["strides"][0]
    if short and attributes.get("auto_pad", "").startswith("SAME") and "output_shape" not in attributes:
        assert y.shape[-1] == x.shape[-1] * attributes["strides"][0] > expected.shape[-1]
        y = y[..., : expected.shape[-1]]
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(by_evaluator(model, x)[..., : y.shape[-1]], expected)
    return "equal"


@settings(max_examples=300)
@given(nodes())
def test_runtime(problem):
    check_against_runtime(problem)


@pytest.mark.slow
def test_runtime_long():
    counts = {}

    @settings(max_examples=5000, database=None)
    @given(nodes())
    def count(problem):
        result = check_against_runtime(problem)
        counts[result] = counts.get(result, 0) + 1

    count()
    print(counts)
    assert counts["equal"] > 3000


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_cases_of_onnx(rank, monkeypatch):
    """test_convtranspose_1d, as the onnx package makes it; what is not 1-D stays onnx' own affair."""
    from onnx.backend.test.case.node import convtranspose

    case = {}
    monkeypatch.setattr(convtranspose, "expect", lambda node, **given: case.update(given, node=node))
    cases = convtranspose.ConvTranspose
    {1: cases.export_convtranspose_1d, 2: cases.export, 3: cases.export_convtranspose_3d}[rank]()
    assert case["name"] == {1: "test_convtranspose_1d", 2: "test_convtranspose", 3: "test_convtranspose_3d"}[rank]
    (x, w), (expected,) = case["inputs"], case["outputs"]
    assert x.ndim == rank + 2
    inputs = [helper.make_tensor_value_info(n, FLOAT, a.shape) for n, a in zip("XW", (x, w), strict=True)]
    graph = helper.make_graph([case["node"]], "g", inputs, [helper.make_tensor_value_info("Y", FLOAT, None)])
    model = helper.make_model(graph)
    from onnx.reference import ReferenceEvaluator

    from convt1d.onnx import ConvTranspose

    evaluator = ReferenceEvaluator(model, new_ops=[ConvTranspose])
    np.testing.assert_array_equal(evaluator.run(None, {"X": x, "W": w})[0], expected)
    if rank == 1:
        np.testing.assert_array_equal(ConvTranspose1d.from_onnx(model_of(w))(x), expected)


# --- to_onnx ------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(naive.problems(modes=["zeros"], kinds="f"))
def test_written(problem):
    """ONNX Runtime runs what to_onnx writes, and reading it gives the layer again."""
    g, w = problem.geometry, problem.w.astype(np.float32)
    layer = ConvTranspose1d(w.shape[0], w.shape[1] * g["groups"], w.shape[2], **g, bias=problem.b is not None)
    layer.load_state_dict({"weight": w} if problem.b is None else {"weight": w, "bias": problem.b})
    model = layer.to_onnx()
    onnx.checker.check_model(model, full_check=True)
    x = problem.x.reshape(-1, *problem.x.shape[-2:]).astype(np.float32)
    again = ConvTranspose1d.from_onnx(model)
    np.testing.assert_array_equal(again(x), layer(x))
    np.testing.assert_array_equal(by_evaluator(model, x), layer(x))
    if layer.output_padding < layer.stride:
        assert repr(again) == repr(layer)
    y = by_runtime(model, x)
    if again.output_padding < again.stride:
        np.testing.assert_array_equal(y, layer(x))
    else:
        assert y is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_written_types(tmp_path, dtype, bias):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    layer = ConvTranspose1d(4, 6, 5, stride=3, padding=(1, 2), output_padding=1, groups=2, bias=bias, dtype=dtype)
    model = layer.to_onnx(tmp_path / "layer.onnx")
    assert (tmp_path / "layer.onnx").read_bytes() == model.SerializeToString()
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 4, 9)).astype(dtype)
    for again in (
        ConvTranspose1d.from_onnx(model),
        ConvTranspose1d.from_onnx(tmp_path / "layer.onnx", "conv_transpose"),
        ConvTranspose1d.from_file(str(tmp_path / "layer.onnx"), "y"),
    ):
        assert (repr(again), again.dtype) == (repr(layer), layer.dtype)
        np.testing.assert_array_equal(again(x), layer(x))
    assert by_evaluator(model, x).dtype == layer.dtype
    np.testing.assert_array_equal(by_evaluator(model, x), layer(x))


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"padding_mode": "reflect"}, ValueError, "padding_mode must be 'zeros' for ONNX, got 'reflect'"),
        ({"dtype": complex}, TypeError, "dtype must be one of .* for ONNX, got complex128"),
    ],
)
def test_not_to_be_written(tmp_path, given, error, match):
    with pytest.raises(error, match=match):
        ConvTranspose1d(1, 1, 3, **given).to_onnx(tmp_path / "layer.onnx")
    assert not list(tmp_path.iterdir())


# --- attributes ---------------------------------------------------------------------------------------------

W = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4) - 9
X = np.arange(2 * 7, dtype=np.float32).reshape(1, 2, 7) - 5


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"auto_pad": "SAME"}, "auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got 'SAME'"),
        ({"auto_pad": "SAME_UPPER", "pads": [0, 0]}, "pads cannot go with auto_pad"),
        ({"kernel_shape": [3]}, r"kernel_shape must be that of the weight \(2, 3, 4\), got \[3\]"),
        ({"kernel_shape": [4, 4]}, r"kernel_shape must hold one number, got \[4, 4\]"),
        ({"strides": [2, 2]}, "strides must hold one number"),
        ({"strides": [0]}, "strides must be at least 1, got 0"),
        ({"dilations": [-1]}, "dilations must be at least 1, got -1"),
        ({"output_padding": [-1]}, "output_padding must be at least 0"),
        ({"output_padding": [2], "strides": [2]}, "output_padding must be smaller than stride or dilation"),
        ({"output_shape": [1, 3, 9]}, "output_shape must hold one number"),
        ({"output_shape": [0]}, "output_shape must be at least 1"),
        ({"output_shape": [12]}, "up to 0 before it .* got 0 before and 2 after, with stride=1"),
        ({"pads": [1]}, "pads must hold two numbers"),
        ({"pads": [-1, 0]}, "padding must be at least 0, got -1"),
        ({"group": 0}, "groups must be at least 1, got 0"),
        ({"group": 3}, "in_channels must be divisible by groups"),
        ({"strides": 2}, "attribute 'strides' must be one of ConvTranspose's, of its type"),
        ({"group": [1]}, "attribute 'group'"),
        ({"adj": [1]}, "attribute 'adj'"),
        ({"strides": [2**40]}, "strides must be at most"),
    ],
)
def test_bad_attributes(tmp_path, attributes, match):
    model = model_of(W, length=7, **attributes)
    with pytest.raises(ValueError, match=match):
        ConvTranspose1d.from_onnx(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx: .*" + match):
        ConvTranspose1d.from_file(path)
    (info,) = list_layers(path)
    assert (info.name, info.weight_shape, info.dtype, info.stride) == ("up", (2, 3, 4), "float32", None)
    assert info.problem


def test_geometry_is_that_of_the_function():
    given = {"strides": [2], "pads": [1, 0], "output_padding": [1], "dilations": [3], "group": 2}
    geometry = onnx_geometry(W.shape, **given)
    assert geometry == {"stride": 2, "padding": (1, 0), "output_padding": 1, "groups": 2, "dilation": 3}
    assert onnx_geometry(W.shape) == {"stride": 1, "padding": (0, 0), "output_padding": 0, "groups": 1, "dilation": 1}


# --- L, where output_shape makes the crop depend on it ------------------------------------------------------


def behind_a_convolution(length, **attributes):
    """x of `length` -> Conv of kernel 3 -> h -> ConvTranspose."""
    model = model_of(W, length=length, **attributes)
    conv = helper.make_node("Conv", ["x", "v"], ["h"])
    model.graph.node[0].input[0] = "h"
    model.graph.node.insert(0, conv)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 3), np.float32), "v"))
    return model


def test_length_from_the_graph(tmp_path):
    attributes = {"output_shape": [15], "strides": [2], "auto_pad": "SAME_UPPER"}  # 16 - 15: one from the right
    stated = model_of(W, length=7, **attributes)
    layer = ConvTranspose1d.from_onnx(stated)
    assert layer.padding == (0, 1)
    np.testing.assert_array_equal(layer(X), by_runtime(stated, X))
    inferred = behind_a_convolution(9, **attributes)
    assert ConvTranspose1d.from_onnx(inferred).padding == (0, 1)
    assert ConvTranspose1d.from_onnx(inferred, length=9).padding == (2, 3)  # 20 - 15: what is given wins
    (tmp_path / "m.onnx").write_bytes(inferred.SerializeToString())
    assert list_layers(tmp_path / "m.onnx")[0].padding == (0, 1)


@pytest.mark.parametrize("make", [model_of, None])
def test_length_asked_for(tmp_path, make):
    attributes = {"output_shape": [15], "strides": [2]}
    model = model_of(W, **attributes) if make else behind_a_convolution("L", **attributes)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"output_shape 15 makes the crop depend on L.*give length=L"):
        ConvTranspose1d.from_onnx(model)
    (info,) = list_layers(path)
    assert "give length=L" in info.problem
    assert ConvTranspose1d.from_onnx(model, length=7).padding == (1, 0)
    assert ConvTranspose1d.from_file(path, length=7).padding == (1, 0)
    with pytest.raises(TypeError, match="length must be an int"):
        ConvTranspose1d.from_onnx(model, length=7.5)
    with pytest.raises(ValueError, match="length must be at least 1"):
        ConvTranspose1d.from_onnx(model, length=0)


# --- which node ---------------------------------------------------------------------------------------------


def chain(*names, rank=1):
    """ConvTranspose nodes of these names in a row, outputs y0, y1, ..."""
    w = np.ones((2, 2, *[3] * rank), np.float32)
    nodes = [
        helper.make_node("ConvTranspose", [f"y{i - 1}" if i else "x", "w"], [f"y{i}"], n) for i, n in enumerate(names)
    ]
    inputs = [helper.make_tensor_value_info("x", FLOAT, [1, 2, *[7] * rank])]
    outputs = [helper.make_tensor_value_info(f"y{len(names) - 1}", FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(w, "w")])
    return helper.make_model(graph)


def test_node():
    model = chain("a", "", "b", "b")
    for name in ("a", "y1", "y3"):
        assert ConvTranspose1d.from_onnx(model, name).kernel_size == 3
    with pytest.raises(ValueError, match="node must say which: 'a', 'y1', 'b', 'b'"):
        ConvTranspose1d.from_onnx(model)
    with pytest.raises(ValueError, match="more than one ConvTranspose has 'b'; there are 'a', 'y1', 'b', 'b'"):
        ConvTranspose1d.from_onnx(model, "b")
    for name in ("c", ""):
        with pytest.raises(ValueError, match="no ConvTranspose has"):
            ConvTranspose1d.from_onnx(model, name)
    with pytest.raises(TypeError, match="node must be a string, got 3"):
        ConvTranspose1d.from_onnx(model, 3)
    many = chain(*(f"n{i}" for i in range(100)))
    with pytest.raises(ValueError, match=r"'n11' and 88 more$"):
        ConvTranspose1d.from_onnx(many)
    with pytest.raises(ValueError, match="holds no 1-D transposed convolution"):
        ConvTranspose1d.from_onnx(chain("a", rank=2))
    with pytest.raises(ValueError, match="node 'a' must be 1-D, got a 2-D ConvTranspose"):
        ConvTranspose1d.from_onnx(chain("a", rank=2), "a")


def test_list(tmp_path):
    path = tmp_path / "m.onnx"
    model = model_of(W, np.ones(3, np.float32), strides=[2], pads=[1, 0], output_padding=[1], dilations=[3])
    model.graph.node.extend(chain("flat", rank=2).graph.node)  # its weight here is the 1-D one: listed as such
    model.graph.node.append(helper.make_node("ConvTranspose", ["y", "z"], ["flat"], strides=[1, 1]))
    model.graph.node.append(helper.make_node("ConvTranspose", ["y", "z"], ["open"]))
    model.graph.node.append(helper.make_node("ConvTranspose", ["y", "z"], ["other"], domain="my"))
    path.write_bytes(model.SerializeToString())
    up, flat, unknown = list_layers(str(path))
    assert up == LayerInfo("up", (2, 3, 4), "float32", True, 2, (1, 0), 1, 1, 3, "")
    assert flat == LayerInfo("flat", (2, 3, 4), "float32", False, 1, (0, 0), 0, 1, 1, "")
    assert unknown == LayerInfo("open", None, None, False, problem=unknown.problem)
    assert "'z' must be stored in the model" in unknown.problem
    path.write_bytes(chain("a", rank=2).SerializeToString())
    assert list_layers(path) == []


def test_inside_a_branch_and_a_function(tmp_path):
    """The body of If sees the names around it; a function is inlined where it is called."""
    branch = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["b"], "inner", strides=[2])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", FLOAT, None)],
    )
    model = model_of(W)
    choice = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model.graph.node.append(choice)
    inner = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "in_function")
    opset = [helper.make_opsetid("", 11)]
    model.functions.append(helper.make_function("my", "Up", ["x", "w"], ["y"], [inner], opset))
    model.graph.node.append(helper.make_node("Up", ["x", "w"], ["called"], "call", domain="my"))
    model.opset_import.append(helper.make_opsetid("my", 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    found = list_layers(path)
    assert [(layer.name, layer.stride, layer.problem) for layer in found[:1]] == [("up", 1, "")]
    assert [(layer.stride, layer.problem) for layer in found[1:]] == [(1, ""), (2, ""), (2, "")]
    np.testing.assert_array_equal(ConvTranspose1d.from_onnx(model, found[1].name).weight, W)
    with pytest.raises(ValueError, match="more than one"):
        ConvTranspose1d.from_onnx(model, "inner")  # in both branches


def functions_that_call(*calls):
    """A model whose functions F0, F1, ... call those so numbered, and hold a ConvTranspose each."""
    model = model_of(W)
    model.opset_import.append(helper.make_opsetid("my", 1))
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid("my", 1)]
    for i, called in enumerate(calls):
        nodes = [helper.make_node(f"F{n}", ["x", "w"], [f"y{k}"], domain="my") for k, n in enumerate(called)]
        nodes.append(helper.make_node("ConvTranspose", ["x", "w"], ["y"], f"in{i}"))
        model.functions.append(helper.make_function("my", f"F{i}", ["x", "w"], ["y"], nodes, opsets))
    model.graph.node.append(helper.make_node("F0", ["x", "w"], ["called"], domain="my"))
    return model


@pytest.mark.parametrize("calls", [[[0]], [[1], [0]], [[i + 1] * 10 for i in range(9)] + [[]]])
def test_functions_that_cannot_be_inlined(tmp_path, calls):
    """One that calls itself, and ten levels of ten calls each: listed with the reason, and quickly."""
    path = tmp_path / "m.onnx"
    path.write_bytes(functions_that_call(*calls).SerializeToString())
    up, *others = list_layers(path)
    assert up.problem == ""
    assert len(others) == len(calls)
    assert all("is recursive or too large to inline" in other.problem for other in others)


# --- where the weights are ----------------------------------------------------------------------------------


def constant(tensor):
    return helper.make_node("Constant", [], ["w"], value=tensor)


def raw(shape, size):
    return onnx.TensorProto(data_type=FLOAT, dims=shape, raw_data=bytes(size))


def without_initializers(*nodes):
    model = model_of(W)
    del model.graph.initializer[:]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model


def test_constant_and_identity():
    model = without_initializers(constant(numpy_helper.from_array(W)))
    np.testing.assert_array_equal(ConvTranspose1d.from_onnx(model).weight, W)
    model.graph.node[0].output[0] = "v"
    model.graph.node.insert(1, helper.make_node("Identity", ["v"], ["u"]))
    model.graph.node.insert(2, helper.make_node("Identity", ["u"], ["w"]))
    layer = ConvTranspose1d.from_onnx(model)
    np.testing.assert_array_equal(layer(X), by_runtime(model, X))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_typed_fields(dtype):
    """Values in float_data, double_data or, as bits, in int32_data."""
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    w = W.astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(w.dtype)
    model = model_of(w)
    tensor = helper.make_tensor("w", kind, w.shape, w.ravel())
    assert not tensor.HasField("raw_data")
    model.graph.initializer[0].CopyFrom(tensor)
    layer = ConvTranspose1d.from_onnx(model)
    assert layer.dtype == dtype
    np.testing.assert_array_equal(layer.weight, w)
    del tensor.float_data[:], tensor.double_data[:], tensor.int32_data[:]
    model.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(ValueError, match=r"weight of shape \(2, 3, 4\) needs 24 values, got 0"):
        ConvTranspose1d.from_onnx(model)


def test_bfloat16_without_ml_dtypes(monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    model = ConvTranspose1d(1, 1, 3, dtype=ml_dtypes.bfloat16).to_onnx()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match=r"weight is bfloat16.*pip install ml_dtypes"):
        ConvTranspose1d.from_onnx(model)


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        (
            [helper.make_node("DequantizeLinear", ["q", "s"], ["w"])],
            "'w' does not follow .*'q' must be stored in the model",
        ),
        (
            [helper.make_node("DequantizeLinear", ["x", "s"], ["w"])],
            "'w' does not follow .*'x' is an input of the graph",
        ),
        ([helper.make_node("Identity", ["w"], ["w"])], "'w' depends on itself"),
        ([helper.make_node("Constant", [], ["w"], value_floats=[1.0])], "it holds no 1-D"),
        ([helper.make_node("Constant", [], ["w"], value_string="a")], "Constant cannot be evaluated.*no dense numbers"),
        ([], "'w' must be stored in the model"),
        ([constant(numpy_helper.from_array(W.astype(np.int8)))], "dtype must be one of float32.* got 'int8'"),
        ([constant(numpy_helper.from_array(W[:, :0]))], r"no empty dimension, got shape \(2, 0, 4\)"),
        ([constant(raw([2, 3, 4], 95))], "needs 96 bytes, got 95"),
        ([constant(raw([-1, 3, 4], 96))], "got shape"),
        ([constant(raw([2**20] * 3, 96))], "needs .* bytes, got 96"),
    ],
)
def test_no_weight(nodes, match):
    with pytest.raises((ValueError, TypeError), match=match):
        ConvTranspose1d.from_onnx(without_initializers(*nodes))


def test_bias_of_another_shape():
    for bias in (np.ones(2, np.float32), np.ones((1, 3), np.float32)):
        with pytest.raises(ValueError, match="bias must have shape"):
            ConvTranspose1d.from_onnx(model_of(W, bias))


def outside(tmp_path, **entries):
    """A model in tmp_path/model whose weight lies outside it, as `entries` say."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"1234" + W.tobytes())
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    model = model_of(W)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx", model


def test_external_data(tmp_path):
    path, model = outside(tmp_path, location="w.bin", offset=4, length=96)
    np.testing.assert_array_equal(ConvTranspose1d.from_file(path).weight, W)
    assert list_layers(path)[0].weight_shape == (2, 3, 4)
    with pytest.raises(ValueError, match="weight lies outside the model: pass the model's path"):
        ConvTranspose1d.from_onnx(model)
    np.testing.assert_array_equal(ConvTranspose1d.from_onnx(onnx.load(path)).weight, W)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"location": "../secret.bin"}, "must be stored in the model's folder, got location '../secret.bin'"),
        ({"location": "{tmp}/secret.bin"}, "must be stored in the model's folder"),
        ({"location": "{tmp}/model/w.bin"}, "must be stored in the model's folder"),
        ({"location": "link.bin"}, "must be stored in the model's folder"),
        ({"location": ""}, "regular file"),
        ({"location": "."}, "regular file"),
        ({}, "regular file"),
        ({"location": "w\0.bin"}, "null"),
        ({"location": "missing.bin"}, r"missing\.bin"),
        ({"location": "w.bin", "offset": 5}, "needs 96 bytes from 5 on, 'w.bin' has 100"),
        ({"location": "w.bin", "offset": -1}, "needs 96 bytes from -1 on"),
        ({"location": "w.bin", "offset": 2**70}, "needs 96 bytes from"),
        ({"location": "w.bin", "offset": "x"}, "invalid literal"),
        ({"location": "w.bin", "length": 2**62}, "needs 96 bytes, got length"),
    ],
)
def test_external_data_elsewhere(tmp_path, entries, match):
    entries = {key: value.format(tmp=tmp_path) if key == "location" else value for key, value in entries.items()}
    path, _ = outside(tmp_path, **entries)
    try:
        (tmp_path / "model" / "link.bin").symlink_to("../secret.bin")
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises((ValueError, OSError), match=match) as caught:
        ConvTranspose1d.from_file(path)
    assert str(tmp_path / "model") in str(caught.value)


# --- damaged files ------------------------------------------------------------------------------------------


def seeds():
    """Models that together take every path of the reader, inference included."""
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "branch", [], [])
    attributes = {"strides": [2], "dilations": [3], "group": 1, "kernel_shape": [4], "output_padding": [1]}
    small = np.ones((2, 2, 1), np.float32)
    yield model_of(W, np.ones(3, np.float32), pads=[1, 2], **attributes)
    yield behind_a_convolution(9, output_shape=[15], auto_pad="SAME_LOWER", strides=[2])
    yield without_initializers(constant(helper.make_tensor("w", FLOAT, [2, 2, 1], small.ravel())))
    model = chain("a", "", "b")
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    opset = [helper.make_opsetid("", 11)]
    model.functions.append(helper.make_function("my", "Up", ["x"], ["y"], list(chain("f").graph.node), opset))
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="w.bin")
    yield model


@pytest.mark.parametrize("count", [100, pytest.param(2500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", range(4))
def test_mutations(tmp_path, seed, count):
    model = list(seeds())[seed]
    (tmp_path / "w.bin").write_bytes(np.ones((2, 2, 3), np.float32).tobytes())
    worked, failed = hostile.fuzz(tmp_path / "m.onnx", model.SerializeToString(), count, seed)
    print(f"{worked} reads worked, {failed} failed")
    assert worked > 0
    assert failed > count / 3


@pytest.mark.parametrize("content", [b"", b"\0", b"\x08", b"not a model", b"\xff" * 99])
def test_no_model(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.onnx"):
        ConvTranspose1d.from_file(tmp_path / "m.onnx")


def test_without_onnx(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(model_of(W).SerializeToString())
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: list_layers(tmp_path / "m.onnx"), ConvTranspose1d(1, 1, 3).to_onnx):
        with pytest.raises(ImportError, match=r"needs onnx .*pip install 'convt1d\[onnx\]'"):
            call()
