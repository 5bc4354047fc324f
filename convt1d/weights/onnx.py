# SPDX-License-Identifier: MIT
"""ConvTranspose nodes of ONNX models, and models of one node.

model, functions inlined -> its nodes -> for each: weight, bias (constants.py), attributes of one axis -> geometry
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from .. import files
from ..geometry import Geometry, as_int, as_length, output_length
from .constants import Constants, Graph
from .parts import LayerInfo, check, check_convolution, crops, layer, listed, one_axis, only, same

_MOST_INLINED = 100_000  # nodes that the functions of a model may become


def onnx_geometry(
    weight_shape,
    length=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    output_padding=None,
    output_shape=None,
    pads=None,
    strides=None,
):
    """Arguments of `conv_transpose1d` for the attributes of a 1-D ConvTranspose node.

    Where ONNX' text leaves something open this is what ONNX Runtime does, but for SAME_UPPER and SAME_LOWER with a
    kernel that reaches less than a stride: there the output has L * stride samples, as the text says.

    Parameters
    ----------
    weight_shape : (int, int, int)
    length : int, optional
        L; only output_shape needs it, since it makes the crop depend on the input.
    auto_pad, dilations, group, kernel_shape, output_padding, output_shape, pads, strides
        The node's attributes.

    Returns
    -------
    dict
        stride, padding, output_padding, groups, dilation.
    """

    kernel_size = weight_shape[2]
    if one("kernel_shape", kernel_shape, kernel_size, 1) != kernel_size:
        raise ValueError(f"kernel_shape must be that of the weight {tuple(weight_shape)}, got {list(kernel_shape)}")
    stride, dilation = one("strides", strides, 1, 1), one("dilations", dilations, 1, 1)
    extra, wanted = one("output_padding", output_padding, 0, 0), one("output_shape", output_shape, None, 1)
    reach = output_length(1, kernel_size, dilation=dilation)
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto_pad!r}")
    if auto_pad != "NOTSET" and pads:
        raise ValueError(f"pads cannot go with auto_pad, got {list(pads[:9])} and {auto_pad}")

    if wanted is None and not auto_pad.startswith("SAME"):
        if pads and len(pads) != 2:
            raise ValueError(f"pads must hold two numbers, got {list(pads[:9])}")
        geometry = {"stride": stride, "padding": tuple(pads or (0, 0)), "output_padding": extra, "dilation": dilation}
    else:
        if wanted is None:
            right = reach - stride  # all that is cropped, without output_padding
        elif length is None:
            raise ValueError(f"output_shape {wanted} makes the crop depend on L, the input's length: give length=L")
        else:
            right = output_length(length, kernel_size, stride, dilation=dilation) - wanted
        total = max(0, right + extra)
        left = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        geometry = crops(left, right - left, stride, dilation)
    return geometry | {"groups": group}


def one(name, values, default, least):
    """The one number of an attribute that holds a list."""
    if not values:
        return default
    if len(values) != 1:
        raise ValueError(f"{name} must hold one number, got {list(values[:9])}")
    return as_int(name, values[0], least)


def conv_geometry(
    weight_shape, length=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None
):
    """Arguments of `conv1d` for the attributes of a 1-D Conv node; only SAME_* with a stride needs `length`."""
    kernel_size = weight_shape[2]
    if one("kernel_shape", kernel_shape, kernel_size, 1) != kernel_size:
        raise ValueError(f"kernel_shape must be that of the weight {tuple(weight_shape)}, got {list(kernel_shape)}")
    stride, dilation = one("strides", strides, 1, 1), one("dilations", dilations, 1, 1)
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto_pad!r}")
    if auto_pad != "NOTSET" and pads:
        raise ValueError(f"pads cannot go with auto_pad, got {list(pads[:9])} and {auto_pad}")
    padding = tuple(pads or (0, 0))
    if len(padding) != 2:
        raise ValueError(f"pads must hold two numbers, got {list(pads[:9])}")
    if auto_pad.startswith("SAME"):
        left, right = same(kernel_size, stride, dilation, length, "auto_pad")
        padding = (left, right) if auto_pad == "SAME_UPPER" else (right, left)
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": group}


def from_onnx(model_or_path, node=None, *, length=None, read=None):
    """`read` makes the layer of a model: of ConvTranspose by default."""
    read = read or read_transposed
    model = getattr(model_or_path, "model_proto", model_or_path)  # torch's ONNXProgram
    if hasattr(model, "SerializeToString") and hasattr(model, "graph"):
        return read(model, None, node, length)
    if hasattr(model, "read"):
        model = model.read()
    if isinstance(model, (bytes, bytearray, memoryview)):
        with files.reading("the model"):
            return read(files.onnx_message(bytes(model)), None, node, length)
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            "model_or_path must be an onnx.ModelProto, its bytes, a binary file or a path, got "
            f"{type(model_or_path).__name__}; an InferenceSession does not give back its model"
        )
    with files.reading(model):
        return read(files.onnx_model(model), model, node, length)


def read_transposed(model, path, name, length=None):
    weight, bias, geometry = layer_of(named(model, path, name), length, 1)
    return layer("weight", weight, bias, **geometry)


def layer_of(node, length, outputs):
    """Weight, bias with what an Add behind the node adds, and geometry; `outputs` is the weight's axis of them."""
    axis, weight, bias, geometry = node.parts(length)
    constant, remark = node.surroundings(axis, weight.shape[outputs] * (geometry["groups"] if outputs else 1))
    if constant is not None:
        bias = (constant if bias is None else bias + constant).astype(weight.dtype)
    if remark:
        warnings.warn(f"node {node.label!r}: {remark}", UserWarning, stacklevel=5)
    return weight, bias, geometry


def named(model, path, name, op_type="ConvTranspose"):
    """The node of this name or output, or the only one, of those that are 1-D."""
    nodes = list(nodes_of(model, path, op_type))
    if name is not None and not isinstance(name, str):
        raise TypeError(f"node must be a string, got {name!r}")
    if name is None:
        name = only([node.label for node in nodes if node.one_dimensional], "node")
    matching = [node for node in nodes if node.label == name] or [n for n in nodes if name in n.proto.output]
    if len(matching) != 1:
        known = listed([node.label for node in nodes if node.one_dimensional])
        many = f"more than one {op_type} has" if matching else f"no {op_type} has"
        raise ValueError(f"node must name one by its name or an output: {many} {name!r}; there are {known or 'none'}")
    return matching[0]


def layers_of(model, path, op_type="ConvTranspose"):
    """LayerInfo of every 1-D node, with what stands against its import."""
    return [_describe(node) for node in nodes_of(model, path, op_type) if node.one_dimensional]


def _describe(node):
    known = {"weight_shape": None, "dtype": None, "bias": node.has_bias}
    try:
        shape, known["dtype"] = node.weight_spec()
        known["weight_shape"] = shape if len(shape) == 3 else None
        axis, geometry = node.geometry(shape, None)
        known["weight_shape"] = (*shape[:2], shape[2 + axis])
        node.find(2)
        checked = (check if node.proto.op_type == "ConvTranspose" else check_convolution)(
            known["weight_shape"], **geometry
        )
        known |= {name: getattr(checked, name) for name in geometry}
        constant, known["remark"] = node.surroundings(axis, checked.out_channels)
        if constant is not None:
            known["remark"] = "; ".join(filter(None, ["the constant Add behind it is its bias", known["remark"]]))
            known["bias"] = True
        return LayerInfo(node.label, **known)
    except (ValueError, TypeError) as error:
        return LayerInfo(node.label, **known, problem=str(error))


# name -> number of its type (INT, STRING, INTS) and the field that holds it
_ATTRIBUTES = {"auto_pad": (3, "s"), "group": (2, "i")} | dict.fromkeys(
    ("dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides"), (7, "ints")
)
_PASSED = ("Identity", "Squeeze")  # nodes that leave the samples as they are
_TOLD = (
    "Add",
    "BatchNormalization",
    "Div",
    "Mul",
    "Pad",
    "Slice",
    "Sub",
)  # nodes that a layer may have been meant with


class Node:
    """A node of a convolution, the graph it stands in, and what its inputs stand for.

    `inferred()` gives the shapes in the main graph.
    """

    def __init__(self, proto, graph, constants, inferred):
        self.proto, self._graph, self._constants, self._inferred = proto, graph, constants, inferred

    @property
    def label(self):
        return self.proto.name or (self.proto.output[0] if self.proto.output else "")

    @property
    def has_bias(self):
        return len(self.proto.input) > 2 and bool(self.proto.input[2])

    def find(self, number):
        """What stands for the weight, input 1, or the bias, input 2, which may be None."""
        if self._graph.function:
            raise ValueError(
                f"it is part of function {self._graph.function!r}, which is recursive or too large to inline"
            )
        if number == 2 and not self.has_bias:
            return None
        if len(self.proto.input) < 2 or not self.proto.input[1]:
            raise ValueError("it has no weight")
        return self._constants.find(self._graph, self.proto.input[number])

    def weight_spec(self):
        """Shape and dtype name of the weight."""
        found = self.find(1)
        return (found.shape, found.dtype.name) if isinstance(found, np.ndarray) else files.onnx_spec(found)

    @property
    def one_dimensional(self):
        """Whether it is 1-D, maybe written as 2-D, or may be, if the node does not tell."""
        sizes = {a.name: len(a.ints) for a in self.proto.attribute if a.name in _ATTRIBUTES}
        if sizes.get("kernel_shape", 0) > 2:  # and no weight need be computed
            return False
        try:
            shape = self.weight_spec()[0]
        except (ValueError, TypeError):
            return max(sizes.get("pads", 0) // 2, *(n for name, n in sizes.items() if name != "pads"), 0, 0) < 2
        if len(shape) == 4:
            try:
                self.geometry(shape, None)
            except (ValueError, TypeError) as error:
                return "L, the input's length" in str(error)
        return len(shape) in (3, 4)

    def parts(self, length):
        """The axis of the 1-D layer in a 2-D one, weight, bias or None, and the geometry."""
        weight, bias = self.find(1), self.find(2)
        shape = weight.shape if isinstance(weight, np.ndarray) else tuple(weight.dims)
        axis, geometry = self.geometry(shape, length)
        weight = self._constants.array("weight", weight)
        if bias is not None:
            bias = self._constants.array("bias", bias)
        return axis, weight.reshape(*shape[:2], shape[2 + axis]), bias, geometry

    def attributes(self):
        """The attributes by name, as Python's numbers and strings."""
        found = {}
        for attribute in self.proto.attribute:
            kind, field = _ATTRIBUTES.get(attribute.name, (0, ""))
            if attribute.type != kind or attribute.ref_attr_name:
                raise ValueError(f"attribute {attribute.name!r} must be one of {self.proto.op_type}'s, of its type")
            value = getattr(attribute, field)
            found[attribute.name] = value.decode() if field == "s" else list(value) if field == "ints" else value
        return found

    def one_axis(self, shape):
        """The axis along which the node is 1-D, and its attributes there."""
        given, rank = self.attributes(), len(shape) - 2
        if rank == 1:
            return 0, given
        if rank != 2:
            raise ValueError(f"node {self.label!r} must be 1-D, got a {rank}-D {self.proto.op_type}")
        for name, values in given.items():
            wanted = 2 * rank if name == "pads" else rank
            if isinstance(values, list) and values and len(values) != wanted:
                raise ValueError(f"{name} must hold {wanted} numbers, got {values[:9]}")
        pads = given.get("pads") or [0] * 4
        ones, zeros = [1, 1], [0, 0]
        padded = [int(pads[axis] != 0 or pads[axis + 2] != 0) for axis in (0, 1)]
        try:
            axis = one_axis(shape[2:], given.get("strides") or ones, padded, given.get("output_padding") or zeros)
        except ValueError as error:
            raise ValueError(f"node {self.label!r} must be 1-D, got a 2-D {self.proto.op_type}: {error}") from None
        if (given.get("output_shape") or ones)[1 - axis] != 1:
            raise ValueError(f"output_shape must be 1 along the axis of one tap, got {given['output_shape']}")
        at = {name: values[axis::2] if isinstance(values, list) else values for name, values in given.items()}
        return axis, at

    def geometry(self, shape, length):
        """The axis of `one_axis`, and the arguments of `conv_transpose1d` or `conv1d`."""
        axis, attributes = self.one_axis(shape)
        if length is None and (attributes.get("output_shape") or attributes.get("auto_pad", "").startswith("SAME")):
            length = self._length(2 + axis)
        elif length is not None:
            length = as_length("length", length)
        of_operator = onnx_geometry if self.proto.op_type == "ConvTranspose" else conv_geometry
        return axis, of_operator((*shape[:2], shape[2 + axis]), length, **attributes)

    def _length(self, axis):
        """L, from the shape that the graph states or that follows; None if it is open."""
        name = self.proto.input[0]
        for shapes in (lambda: _shapes(self._graph.proto), self._inferred):
            dims = shapes().get(name, ())
            if len(dims) > axis and dims[axis] > 0:
                return dims[axis]
        return None

    def surroundings(self, axis, channels):
        """The constant that an Add behind the node adds to each channel, or None; and what else follows, in words."""
        name, constant, rank = self.proto.output[0], None, len(self.weight_spec()[0]) - 2
        while True:
            users = self._graph.users.get(name, [])
            if name in self._graph.outputs or len(users) != 1 or not users[0].output:
                return constant, ""
            user, name = users[0], users[0].output[0]
            rank -= user.op_type == "Squeeze"
            if user.op_type in _PASSED:
                continue
            if user.op_type not in _TOLD:
                return constant, ""
            value = self._constant_of(user) if user.op_type == "Add" and constant is None else None
            per_channel = (1, channels, *[1] * rank)
            if value is not None and value.ndim <= rank + 2 and _broadcast(value.shape, per_channel) == per_channel:
                constant = np.broadcast_to(value, per_channel).ravel()
                continue
            if user.op_type in ("Add", "Div", "Mul", "Sub") and self._constant_of(user) is None:
                return constant, ""  # two signals meet
            return constant, f"{user.op_type} {user.name or name!r} follows in the model and is not part of the layer"

    def _constant_of(self, user):
        """The constant operand of a node of two inputs, or None."""
        for other in user.input:
            try:
                return self._constants.array("an operand", self._constants.find(self._graph, other))
            except (ValueError, TypeError, OSError):
                continue
        return None


def _broadcast(*shapes):
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _shapes(graph):
    """Name -> dimensions of the tensors whose shape a graph states; 0 for one that is open."""
    infos = chain(graph.input, graph.value_info, graph.output)
    return {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos}


def _inferred_shapes(model):
    """`_shapes` of what follows from the shapes of the inputs."""
    if model.functions:  # they may call themselves: onnx 1.17 crashes
        return {}
    from onnx import shape_inference

    try:
        return _shapes(shape_inference.infer_shapes(model).graph)
    except Exception:  # of many types; then the caller is asked
        return {}


def nodes_of(model, path, op_type):
    """Every node of this operator in the model, also in the bodies of If, Loop and Scan."""
    model = _inlined(model)
    inferred = cache(lambda: _inferred_shapes(model))  # once, however many nodes ask
    constants = Constants(model, path)
    graphs = deque([Graph(model.graph), *(Graph(function, None, function.name) for function in model.functions)])
    while graphs:
        graph = graphs.popleft()
        for node in graph.proto.node:
            if node.op_type == op_type and node.domain in ("", "ai.onnx"):
                yield Node(node, graph, constants, inferred)
            graphs += [Graph(a.g, graph, graph.function) for a in node.attribute if a.HasField("g")]
            graphs += [Graph(g, graph, graph.function) for a in node.attribute for g in a.graphs]


def _inlined(model):
    """The model without functions of its own; as it is if they call themselves, or would become too large."""
    if not model.functions:
        return model
    functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.functions}
    sizes = {}

    def size(nodes):
        total = 0
        for node in nodes:
            key = node.domain, node.op_type, getattr(node, "overload", "")
            if key in functions:
                if key not in sizes:
                    sizes[key] = _MOST_INLINED  # while it is open: a call of itself is too large
                    sizes[key] = size(functions[key].node)
                total += sizes[key]
            total += 1 + sum(size(g.node) for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs))
            if total >= _MOST_INLINED:
                return _MOST_INLINED
        return total

    try:
        if size(model.graph.node) >= _MOST_INLINED:
            return model
        from onnx import inliner

        return inliner.inline_local_functions(model)
    except Exception:  # RecursionError, or what the inliner says of a damaged model
        return model


def to_onnx(geometry, weight, bias, path=None):
    """A model of one node of either operator."""
    onnx = files.need("onnx", "writing .onnx")
    numbers = {dtype: number for number, (dtype, _) in files.ONNX_TYPES.items()}
    if weight.dtype.name not in numbers:
        raise TypeError(f"dtype must be one of {', '.join(numbers)} for ONNX, got {weight.dtype.name}")
    if geometry.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros' for ONNX, got {geometry.padding_mode!r}")
    if weight.nbytes >= 2**31 - 2**20:
        raise ValueError(f"weight must be smaller than 2 GiB for ONNX, got {weight.nbytes} bytes")
    left, right = geometry.padding
    operator, name, only_transposed = "Conv", "conv", {}
    if isinstance(geometry, Geometry):
        # ONNX Runtime refuses output_padding >= stride, which a large dilation allows: less of the crop is the same
        less = min(right, geometry.output_padding) if geometry.output_padding >= geometry.stride else 0
        right -= less
        operator, name = "ConvTranspose", "conv_transpose"
        only_transposed["output_padding"] = [geometry.output_padding - less]
    kind, make = numbers[weight.dtype.name], onnx.helper.make_tensor
    tensors = {name: array for name, array in (("weight", weight), ("bias", bias)) if array is not None}
    node = onnx.helper.make_node(
        operator,
        ["x", *tensors],
        ["y"],
        name,
        strides=[geometry.stride],
        pads=[left, right],
        **only_transposed,
        dilations=[geometry.dilation],
        group=geometry.groups,
        kernel_shape=[geometry.kernel_size],
    )
    graph = onnx.helper.make_graph(
        [node],
        "convt1d",
        [onnx.helper.make_tensor_value_info("x", kind, ["N", geometry.in_channels, "L"])],
        [onnx.helper.make_tensor_value_info("y", kind, ["N", geometry.out_channels, "L_out"])],
        [make(n, kind, a.shape, a.astype(a.dtype.newbyteorder("<")).tobytes(), raw=True) for n, a in tensors.items()],
    )
    # the operator is the same from version 11 on, and bfloat16 came with 22
    opset, ir = (22, 10) if weight.dtype.name == "bfloat16" else (11, 6)
    model = onnx.helper.make_model(
        graph, producer_name="convt1d", opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir
    )
    if path is not None:
        Path(path).write_bytes(model.SerializeToString())
    return model
