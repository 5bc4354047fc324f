# SPDX-License-Identifier: MIT
"""Values of an ONNX model that follow from its stored tensors: weights that are dequantised, cast, normalised, ...

    name -> the nodes that compute it, each after those it needs -> one by one through onnx' evaluator

What a node may make is bounded before it runs, and what all of them may make by what the model stores.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from .. import files

MOST_NODES = 1000  # that one value may depend on
MOST_EVALUATED = 8_000  # in all, of a model
MOST_VISITS = 300_000  # of a node's inputs, in all, to see what values depend on
LEAST_BYTES = 2**28  # that may be computed in all, of a model; or this many times what is stored of it:
RATIO = 64

# Operators whose output has no more elements than their inputs together; those that broadcast; and `_elements`.
_NO_LARGER = {
    *("Abs", "Cast", "CastLike", "Clip", "Concat", "Constant", "DequantizeLinear", "Exp", "Flatten", "Identity", "Log"),
    *("LpNormalization", "Neg", "QuantizeLinear", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean"),
    *(
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Reshape",
        "Shape",
        "Sigmoid",
        "Sign",
        "Size",
        "Slice",
    ),
    *("Softplus", "Split", "Sqrt", "Squeeze", "Tanh", "Transpose", "Unsqueeze"),
}
_BROADCAST = {"Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where"}


class Graph:
    """What the names in a graph stand for; names of the graphs around it are visible too."""

    def __init__(self, proto, around=None, function=""):
        self.proto, self.around, self.function = proto, around, function
        self.stored = {} if function else {tensor.name: tensor for tensor in proto.initializer}
        self.producers = {output: node for node in proto.node for output in node.output if output}
        self.inputs = set(proto.input) if function else {info.name for info in proto.input}
        self.outputs = set(proto.output) if function else {info.name for info in proto.output}

    @functools.cached_property
    def users(self):
        """Name -> the nodes that take it."""
        found: dict = {}
        for node in self.proto.node:
            for name in set(node.input):
                found.setdefault(name, []).append(node)
        return found

    def home(self, name):
        """The graph that stores or computes a name."""
        graph = self
        while graph is not None:
            if name in graph.stored or name in graph.producers:
                return graph
            if name in graph.inputs:
                raise ValueError(f"{name!r} is an input of the graph, its values are not stored in the model")
            graph = graph.around
        raise ValueError(f"{name!r} must be stored in the model as a dense tensor, it is not")


class Constants:
    """The constant values of one model; `path` is where it lies, or None."""

    def __init__(self, model, path):
        self._path = path
        self._opsets = list(model.opset_import)
        self._counted = set()
        self._nodes, self._bytes, self._visits = MOST_EVALUATED, LEAST_BYTES, MOST_VISITS
        self._found = {}

    def find(self, graph, name):
        """What a name stands for: a TensorProto where it is stored as it is, else the computed array."""
        if (graph, name) not in self._found:
            try:
                self._found[graph, name] = self._find(graph, name)
            except (ValueError, TypeError, OSError) as error:
                self._found[graph, name] = error
        found = self._found[graph, name]
        if isinstance(found, Exception):
            raise found.with_traceback(None)
        return found

    def _find(self, graph, name):
        home, wanted = graph.home(name), name
        for _ in range(MOST_NODES):
            if wanted in home.stored:
                return home.stored[wanted]
            node = home.producers[wanted]
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        return attribute.t
            if node.op_type != "Identity" or len(node.input) != 1:
                break
            wanted = node.input[0]
            home = home.home(wanted)
        return self._evaluate(graph, name)

    def array(self, name, found):
        """What `find` returned, as an array."""
        return found if isinstance(found, np.ndarray) else files.onnx_array(name, found, self._path)

    def _evaluate(self, graph, name):
        values = {}
        try:
            for home, node in self._ordered(graph, name):
                inputs = [self._input(home, given, values) for given in node.input]
                outputs = self._run(node, inputs)
                names = [output for output in node.output if output]
                values |= {(id(home), output): value for output, value in zip(names, outputs, strict=True)}
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name!r} does not follow from stored tensors: {error}") from None
        return values[id(graph.home(name)), name]

    def _ordered(self, graph, name):
        """(graph, node) of all that `name` depends on, each after what it needs."""
        order, open_, done = [], set(), set()
        stack = [(graph.home(name), name)]
        while stack:
            self._visits -= 1
            if self._visits < 0:
                raise ValueError(f"the values of the model depend on more than {MOST_VISITS} inputs of nodes")
            home, wanted = stack[-1]
            key = id(home), wanted
            if wanted in home.stored or key in done:
                stack.pop()
                continue
            node = home.producers[wanted]
            if key in open_:
                stack.pop()
                done.update((id(home), output) for output in node.output)
                order.append((home, node))
                continue
            if len(open_) >= MOST_NODES:
                raise ValueError(f"it depends on more than {MOST_NODES} nodes")
            open_.add(key)
            for given in node.input:
                if given:
                    needed = home.home(given)
                    if (id(needed), given) in open_ - done:
                        raise ValueError(f"{given!r} depends on itself")
                    stack.append((needed, given))
        return order

    def _input(self, graph, name, values):
        """An input of a node, from what is stored or was computed; None if it is left out."""
        if not name:
            return None
        home = graph.home(name)
        key = id(home), name
        if name not in home.stored:
            return values[key]
        array = files.onnx_array(repr(name), home.stored[name], self._path)
        if key not in self._counted:
            self._counted.add(key)
            self._bytes += RATIO * array.nbytes
        return array

    def _run(self, node, inputs):
        """The outputs of one node, within what is left of the bounds."""
        op = node.op_type
        if node.domain not in ("", "ai.onnx") and (node.domain, op) != ("com.microsoft", "DequantizeLinear"):
            raise ValueError(f"operator {node.domain}.{op} is not evaluated")
        if any(attribute.ref_attr_name for attribute in node.attribute):
            raise ValueError(f"{op} has an attribute of a function around it")
        attributes = {attribute.name: attribute for attribute in node.attribute}
        size = 8 * _elements(op, inputs, attributes, len(node.output))
        self._nodes -= 1
        self._bytes -= size
        if self._nodes < 0 or self._bytes < 0:
            raise ValueError(
                f"{op} would compute {size} bytes; refused beyond {MOST_EVALUATED} nodes, and beyond {LEAST_BYTES} "
                f"bytes and {RATIO} times what is stored"
            )
        try:
            with np.errstate(all="ignore"):
                if op == "Constant":
                    return [self._constant(node)]
                if op == "DequantizeLinear":
                    numbers = {key: attributes[key].i for key in ("axis", "block_size") if key in attributes}
                    return [dequantize(*inputs, **numbers)]
                return [np.asarray(value) for value in self._by_evaluator(node, inputs)]
        except Exception as error:  # the evaluator's are of any kind
            raise ValueError(f"{op} cannot be evaluated: {type(error).__name__}: {str(error)[:200]}") from None

    def _constant(self, node):
        for attribute in node.attribute:
            if attribute.name == "value":
                return files.onnx_array(repr(node.output[0]), attribute.t, self._path)
            if attribute.name in ("value_float", "value_floats"):
                return np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32)
            if attribute.name in ("value_int", "value_ints"):
                return np.array(attribute.i if attribute.name == "value_int" else attribute.ints, np.int64)
        raise ValueError("it holds no dense numbers")

    def _by_evaluator(self, node, inputs):
        from onnx import TypeProto, helper
        from onnx.reference import ReferenceEvaluator

        given = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        ends = [[helper.make_value_info(n, TypeProto()) for n in names if n] for names in (given, node.output)]
        graph = helper.make_graph([node], "node", *ends)
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets)).run(None, given)


def _elements(op, inputs, attributes, outputs):
    """The most elements that the outputs of a node can have."""
    shapes = [value.shape for value in inputs if value is not None]
    if op in _NO_LARGER:
        if "num_outputs" in attributes and attributes["num_outputs"].i != outputs:
            raise ValueError(f"num_outputs of {op} must be the number of its outputs, {outputs}")
        return sum(map(math.prod, shapes)) + 16
    if op in _BROADCAST:
        return math.prod(np.broadcast_shapes(*shapes))
    if op == "Gather" and len(inputs) == 2:
        axis = attributes["axis"].i if "axis" in attributes else 0
        return math.prod(shapes[0]) // max(1, shapes[0][axis]) * math.prod(shapes[1])
    if op in ("Expand", "Tile") and len(inputs) == 2 and inputs[1] is not None:
        return math.prod(shapes[0]) * math.prod(max(1, int(n)) for n in inputs[1].ravel())
    if op == "ConstantOfShape" and inputs and inputs[0] is not None:
        return math.prod(max(0, int(n)) for n in inputs[0].ravel())
    raise ValueError(f"operator {op} is not evaluated")


def dequantize(x, scale, zero_point=None, axis=1, block_size=0):
    """DequantizeLinear in its three forms: of the whole tensor, along an axis, in blocks along it.

    Parameters
    ----------
    x : ndarray of integers or float8
    scale : ndarray
        Of one value, of one for each index of `axis`, or of one for each block; its type is that of the result.
    zero_point : ndarray like scale, optional
        0 by default.
    axis, block_size : int
        The node's attributes; 0 stands for no blocks.

    Returns
    -------
    ndarray of x's shape
    """
    wide = np.int64 if x.dtype.kind in "iu" else np.float32
    zero_point = np.zeros_like(scale, wide) if zero_point is None else zero_point.astype(wide)
    if zero_point.shape != scale.shape:
        raise ValueError(f"zero_point must have the shape of scale, {scale.shape}, got {zero_point.shape}")
    if block_size:
        blocks = np.arange(x.shape[axis]) // block_size
        if scale.shape[axis] != blocks[-1] + 1:
            raise ValueError(f"scale must have {blocks[-1] + 1} blocks along axis {axis}, got shape {scale.shape}")
        scale, zero_point = scale.take(blocks, axis), zero_point.take(blocks, axis)
    else:
        shape = [1] * x.ndim
        if scale.size > 1:
            shape[axis] = x.shape[axis]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return ((x.astype(wide) - zero_point).astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype)
