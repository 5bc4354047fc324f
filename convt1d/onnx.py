# SPDX-License-Identifier: MIT
"""ONNX: models whose convolutions are computed here, and ConvTranspose for ONNX' reference evaluator.

    accelerate(model)  ->  graph.py: nodes, patterns, regions of convolutions and activations
                       ->  a Session: onnxruntime on what is left, cut at the regions, and a Chain for each of these

Only this module needs the onnx package when it is imported; nothing in convt1d imports it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx.reference.ops.op_conv_transpose import ConvTranspose as _ConvTranspose

from . import activations, files, graph
from .functional import conv_transpose1d
from .geometry import check, check_convolution
from .graph import Node, Weights
from .weights import onnx_geometry
from .weights.constants import Constants, Graph
from .weights.onnx import Node as _LayerNode
from .weights.onnx import _inferred_shapes, _inlined

TOLERANCE = 1e-4  # of the largest value
_LARGEST = 2**31 - 2**20  # bytes of a model that can be cut


class ConvTranspose(_ConvTranspose):
    """The operator for ONNX' evaluator, 1-D by convt1d; of other dimensions by onnx.

    onnx' own is wrong in 1-D for groups > 1 and for most output_shape.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.onnx import ConvTranspose
    >>> from onnx.reference import ReferenceEvaluator
    >>> layer = ConvTranspose1d(4, 6, 5, stride=3, groups=2)
    >>> evaluator = ReferenceEvaluator(layer.to_onnx(), new_ops=[ConvTranspose])
    >>> x = np.ones((1, 4, 10), np.float32)
    >>> np.array_equal(evaluator.run(None, {"x": x})[0], layer(x))
    True
    """

    def _run(self, X, W, B=None, **attributes):
        if X.ndim != 3:
            return super()._run(X, W, B, **attributes)
        return (conv_transpose1d(X, W, B, **onnx_geometry(W.shape, X.shape[2], **attributes)),)


class Argument(NamedTuple):
    """An input or output of a model, as onnxruntime's `NodeArg`."""

    name: str
    shape: list[int | str | None]
    type: str


class Session:
    """A model that onnxruntime and convt1d compute together; `accelerate` makes it.

    Attributes
    ----------
    chains : list of convt1d.Chain
        What is computed here, in the order of the model; none if `reason` says why.
    reason : str
        Why the whole model is left to onnxruntime, or "".

    Examples
    --------
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.onnx import accelerate
    >>> accelerate(ConvTranspose1d(2, 2, 4).to_onnx()).reason
    ''
    """

    def __init__(self, model: Any, parts: list[_Part], reason: str) -> None:
        self.chains = [part.run for part in parts if not part.is_session]
        self.reason = reason
        self._parts = parts
        stored = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [_argument(info) for info in model.graph.input if info.name not in stored]
        self._outputs = [_argument(info) for info in model.graph.output]
        kept = {info.name for info in self._outputs}
        self._dead: list[list[str]] = [[] for _ in parts]  # what no later part needs
        for at, part in reversed(list(enumerate(parts))):
            self._dead[at] = [name for name in part.inputs if name not in kept]
            kept |= set(part.inputs)

    def get_inputs(self) -> list[Argument]:
        """The model's inputs.

        Returns
        -------
        list of Argument
            Name, shape and type of each, as of onnxruntime's session.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> from convt1d.onnx import accelerate
        >>> [each.name for each in accelerate(ConvTranspose1d(2, 2, 4).to_onnx()).get_inputs()]
        ['x']
        """
        return list(self._inputs)

    def get_outputs(self) -> list[Argument]:
        """The model's outputs.

        Returns
        -------
        list of Argument
            Name, shape and type of each, as of onnxruntime's session.

        Examples
        --------
        >>> from convt1d import ConvTranspose1d
        >>> from convt1d.onnx import accelerate
        >>> [each.name for each in accelerate(ConvTranspose1d(2, 2, 4).to_onnx()).get_outputs()]
        ['y']
        """
        return list(self._outputs)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[np.ndarray]:
        """Compute the model.

        Parameters
        ----------
        output_names : sequence of str, or None
            Which outputs; None for all.
        input_feed : mapping from str to array_like
            An array for each input.
        run_options : onnxruntime.RunOptions, optional
            For what onnxruntime computes.

        Returns
        -------
        list of ndarray
            The outputs named, in that order.

        Raises
        ------
        ValueError
            A name is not one of the model's.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d import ConvTranspose1d
        >>> from convt1d.onnx import accelerate
        >>> session = accelerate(ConvTranspose1d(2, 2, 4).to_onnx())
        >>> session.run(None, {"x": np.ones((1, 2, 10), np.float32)})[0].shape
        (1, 2, 13)
        """
        known = [each.name for each in self._outputs]
        wanted = known if output_names is None else list(output_names)
        for name, names in [*((n, known) for n in wanted), *((n, [i.name for i in self._inputs]) for n in input_feed)]:
            if name not in names:
                raise ValueError(f"names must be of {', '.join(names)}, got {name!r}")
        if missing := [each.name for each in self._inputs if each.name not in input_feed]:
            raise ValueError(f"input_feed must hold every input, {', '.join(missing)} missing")
        values = {name: np.asarray(value) for name, value in input_feed.items()}
        for part, dead in zip(self._parts, self._dead, strict=True):
            given = {name: values[name] for name in part.inputs}
            if part.is_session:
                values.update(zip(part.outputs, part.run.run(part.outputs, given, run_options), strict=True))
            else:
                (x,) = given.values()
                values[part.outputs[0]] = part.run(x, workers=part.workers)
            for name in dead:
                values.pop(name, None)
        return [values[name] for name in wanted]


class _Part(NamedTuple):
    """A session of onnxruntime, or a chain, with the names of the tensors that go in and out."""

    run: Any
    inputs: list[str]
    outputs: list[str]
    is_session: bool = True
    workers: int | None = None


def accelerate(
    model: Any, *, threads: int | None = None, example: Mapping[str, Any] | None = None, options: Any = None
) -> Session:
    """A session for a model whose 1-D convolutions, and what stands between them, are computed by convt1d.

    Parameters
    ----------
    model : onnx.ModelProto, str, os.PathLike or bytes
        A model, or its file.
    threads : int, optional
        For both; by default each one's own.
    example : mapping from str to array_like, optional
        An array for each input. The session is then compared with onnxruntime: outputs must be equal to 1e-4 of the
        largest value, and the faster of the two is returned.
    options : onnxruntime.SessionOptions, optional
        For what onnxruntime computes.

    Returns
    -------
    Session
        With `run`, `get_inputs` and `get_outputs` of onnxruntime's. A model in which nothing can be computed here, or
        that was not faster with the example, is left to onnxruntime; `reason` says why.

    Raises
    ------
    ValueError, TypeError, OSError
        The model cannot be read, or outputs for the example differ.
    ImportError
        onnxruntime is missing.

    Notes
    -----
    Computed here are Conv and ConvTranspose of (N, C, L) in float32 with constant weights, Pad before and Slice behind
    them, Relu, LeakyRelu, Elu, Tanh, PRelu of one slope, snakes written as Mul, Sin, Pow or Mul, Mul or Div and Add,
    sums of signals and factors: parts of the graph with one input and one output that hold at least one convolution.
    All else goes to onnxruntime, a session for what lies between two such parts. Without an example nothing is
    measured: small models (PhaseNet) and those cut into many parts (Conv-TasNet) may be slower.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.onnx import accelerate
    >>> layer = ConvTranspose1d(4, 6, 5, stride=3)
    >>> session = accelerate(layer.to_onnx())
    >>> session.run(None, {"x": np.ones((1, 4, 10), np.float32)})[0].shape
    (1, 6, 32)
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"accelerate needs onnxruntime ({error}): pip install 'convt1d[onnxruntime]'") from error
    model, path = _opened(model)
    if options is None:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads

    def session(proto: Any) -> Any:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def whole(reason: str) -> Session:
        inputs = [info.name for info in model.graph.input if info.name not in stored]
        return Session(model, [_Part(session(model), inputs, [o.name for o in model.graph.output])], reason)

    stored = {tensor.name for tensor in model.graph.initializer}
    try:
        cut = _Cut(model, path)
        parts = cut.parts(session, threads)
    except _CannotCut as error:
        return whole(str(error))
    made = Session(model, parts, "")
    if example is None:
        return made
    theirs = whole("")
    _compare(made, theirs, example)
    ours, alone = (statistics.median(times) for times in _in_turns((made, theirs), example))
    if ours < alone:
        return made
    theirs.reason = f"for the example onnxruntime alone took {1e3 * alone:.3g} ms, together {1e3 * ours:.3g} ms"
    return theirs


def _compare(made: Session, theirs: Session, example: Mapping[str, Any]) -> None:
    for argument, a, b in zip(made.get_outputs(), made.run(None, example), theirs.run(None, example), strict=True):
        if a.shape != b.shape or not np.abs(a - b).max(initial=0) <= TOLERANCE * np.abs(b).max(initial=0):
            raise ValueError(
                f"output {argument.name!r} must equal onnxruntime's to {TOLERANCE} of its largest value for the "
                "example, and differs: a model with random numbers or a threshold cannot be compared"
            )


def _in_turns(sessions: Sequence[Session], example: Mapping[str, Any], rounds: int = 5) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, example)
            taken.append(time.perf_counter() - start)
    return times


class _CannotCut(Exception):
    """Why a model is left to onnxruntime."""


def _opened(model: Any) -> tuple[Any, Any]:
    """The model with its functions inlined and its weights in it, and where it lies."""
    model = getattr(model, "model_proto", model)
    path = None
    if isinstance(model, (str, os.PathLike)):
        path = model
        with files.reading(path):
            model = files.onnx_model(path)
            onnx.load_external_data_for_model(model, str(Path(path).resolve().parent))
    elif isinstance(model, (bytes, bytearray)):
        with files.reading("the model"):
            model = files.onnx_message(bytes(model))
    elif not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model must be an onnx.ModelProto, its bytes or a path, got {type(model).__name__}")
    return _inlined(model), path


def _argument(info: Any) -> Argument:
    tensor = info.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return Argument(info.name, shape, f"tensor({kind})")


# ---- the model as nodes -------------------------------------------------------------------------------------------


class _Reader:
    """A model's main graph as nodes; `results` maps names of tensors to them."""

    def __init__(self, model: Any, path: Any) -> None:
        self.model = model
        self.graph = Graph(model.graph)
        self._constants = Constants(model, path)
        self.shapes = _inferred_shapes(model)
        self.results: dict[str, Node] = {}
        self.nodes: list[Node] = []
        self.constant: list[bool] = []  # of each proto, whether it depends on no input
        self._lengths: dict[str, tuple[str, int]] = {}  # a shape, or a number: samples of a tensor, and how many more
        self._gathered: set[str] = set()  # of these the numbers
        for info in model.graph.input:
            if info.name not in self.graph.stored:
                self._add(Node("input", [], name=info.name), [info.name])
        for at, proto in enumerate(model.graph.node):
            self._read(at, proto)

    def _add(self, node: Node, names: Sequence[str]) -> None:
        self.nodes.append(node)
        for name in names:
            self.results[name] = node

    def _read(self, at: int, proto: Any) -> None:
        given = [self.results[name] for name in needs(proto) if name in self.results]
        random = proto.op_type.startswith("Random") or proto.op_type in ("Bernoulli", "Multinomial")
        self.constant.append(not given and not random)
        if self.constant[-1]:
            return
        self._follow_length(proto)
        node = None
        if len(proto.output) == 1 and proto.domain in ("", "ai.onnx") and all(name for name in proto.input[:2]):
            try:
                node = self._known(proto)
            except (ValueError, TypeError, OSError):  # a weight that does not follow, a geometry that is refused
                node = None
        if node is None:
            node = Node("other", given)
        elif node is given[0]:  # the same signal under another name
            self.results[proto.output[0]] = node
            node.origins |= {at}
            return
        node.name = proto.name or proto.op_type
        node.origins = frozenset({at})
        self._add(node, proto.output)

    def _follow_length(self, proto: Any) -> None:
        """Whether a node computes the length of a signal, more or less so many samples."""
        op, names = proto.op_type, list(proto.input)
        if op == "Shape" and not proto.attribute and len(self.shapes.get(names[0], ())) == 3:
            self._lengths[proto.output[0]] = names[0], 0
            return
        found = self._lengths.get(names[0]) if names else None
        if found is None or len(proto.output) != 1:
            return
        try:
            if op == "Gather":
                index, was_shape = self._array(names[1]), found[0]
                if index.size == 1 and index.item() in (2, -1) and (names[0] not in self._gathered):
                    self._lengths[proto.output[0]] = was_shape, 0
                    self._gathered.add(proto.output[0])
            elif names[0] in self._gathered and op in ("Sub", "Add", "Unsqueeze", "Squeeze", "Cast", "Identity"):
                by = self._array(names[1]) if op in ("Sub", "Add") else np.zeros(1, np.int64)
                if by.size == 1:
                    self._lengths[proto.output[0]] = found[0], found[1] + by.item() * (1 if op == "Add" else -1)
                    self._gathered.add(proto.output[0])
        except (ValueError, TypeError, OSError):
            return

    def _array(self, name: str) -> np.ndarray:
        return self._constants.array(name, self._constants.find(self.graph, name))

    def _known(self, proto: Any) -> Node | None:
        op, names = proto.op_type, list(proto.input)
        x = self.results.get(names[0]) if names else None
        if op == "Slice" and len(names) > 2 and x is not None and names[2] in self._gathered:
            length, more = self._lengths[names[2]]
            if length == names[0] and more <= 0 and names[1] not in self.results:
                return self._crop(x, names, -more)
            return None
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        if op in ("Add", "Mul", "Div"):
            return self._arithmetic(op, names)
        if x is None or any(name in self.results for name in names[1:]):
            return None
        if op in _ACTIVATIONS:
            return Node("activation", [x], _ACTIVATIONS[op](settings))
        if op == "PRelu":
            slope = self._array(names[1])
            return Node("activation", [x], activations.LeakyReLU(slope.item())) if slope.size == 1 else None
        if op == "Sin":
            return Node("sin", [x])
        if op == "Pow":
            exponent = self._array(names[1])
            return Node("square", [x]) if exponent.size == 1 and exponent.item() == 2 else None
        if op in ("Conv", "ConvTranspose"):
            return self._layer(proto, x)
        if op == "Pad" and len(names) > 1:
            return self._pad(x, names, settings)
        return self._crop(x, names) if op == "Slice" and len(names) > 2 else None

    def _arithmetic(self, op: str, names: list[str]) -> Node | None:
        signals = [self.results[name] for name in names if name in self.results]
        if len(signals) == 2:
            if op == "Mul" and signals[0] is signals[1]:
                return Node("square", signals[:1])
            one, other = (self.shapes.get(name, ()) for name in names)
            equal = len(one) == len(other) == 3 and list(one) == list(other) and one[1] > 0
            return Node("add", signals) if op == "Add" and equal else None
        if op == "Add" or (op == "Div" and names[0] not in self.results):
            return None
        at = 0 if names[1] in self.results else 1
        constant, shape = self._array(names[at]), self.shapes.get(names[1 - at], ())
        if constant.dtype != np.float32 or len(shape) != 3:
            return None
        if constant.size > 1 and (constant.shape[-2:] != (shape[1], 1) or constant.size != shape[1]):
            return None
        return Node("multiply", signals, 1 / constant.ravel() if op == "Div" else constant.ravel())

    def _layer(self, proto: Any, x: Node) -> Node | None:
        layer = _LayerNode(proto, self.graph, self._constants, lambda: self.shapes)
        shape, dtype = layer.weight_spec()
        if len(shape) != 3 or dtype != "float32":
            return None
        _, weight, bias, settings = layer.parts(None)
        groups = settings["groups"]
        if proto.op_type == "Conv":
            geometry: Any = check_convolution(shape[1] * groups, shape[0], shape[2], **settings)
        else:
            geometry = check(shape[0], shape[1] * groups, shape[2], **settings)
        return Node("layer", [x], Weights(geometry, weight, bias))

    def _pad(self, x: Node, names: list[str], settings: dict[str, Any]) -> Node | None:
        widths = self._array(names[1]).ravel()
        axes = self._array(names[3]).ravel().tolist() if len(names) > 3 and names[3] else [0, 1, 2]
        fill = self._array(names[2]).ravel() if len(names) > 2 and names[2] else np.zeros(1)
        mode = {b"reflect": "reflect", b"edge": "replicate", b"constant": "zeros"}.get(
            settings.get("mode", b"constant")
        )
        if mode is None or fill.any() or len(self.shapes.get(names[0], ())) != 3 or widths.size != 2 * len(axes):
            return None
        before, after = ({axis % 3: int(w) for axis, w in zip(axes, half, strict=True)} for half in np.split(widths, 2))
        left, right = before.pop(2, 0), after.pop(2, 0)
        if any((*before.values(), *after.values())):
            return None
        if min(left, right) >= 0:
            return Node("pad", [x], (left, right, mode))
        return Node("crop", [x], (-left, -right)) if max(left, right) <= 0 else None

    def _crop(self, x: Node, names: list[str], right: int | None = None) -> Node | None:
        starts = self._array(names[1]).ravel()
        axes = self._array(names[3]).ravel() if len(names) > 3 and names[3] else np.arange(starts.size)
        steps = self._array(names[4]).ravel() if len(names) > 4 and names[4] else np.ones(1)
        shape = self.shapes.get(names[0], ())
        if len(shape) != 3 or axes.tolist() not in ([2], [-1]) or steps.tolist() != [1]:
            return None
        start, length = int(starts[0]), shape[2]
        if right is not None:
            return Node("crop", [x], (start, right)) if start >= 0 else None
        end = int(self._array(names[2]).ravel()[0])
        if length:
            start, end, _ = slice(start, end).indices(length)
            return Node("crop", [x], (start, length - end)) if start < end else None
        right = -end if end < 0 else 0 if end >= _LARGEST else None
        return Node("crop", [x], (start, right)) if start >= 0 and right is not None else None


def _same_length(one: int, other: int) -> bool:
    """Whether two lengths, 0 where they are open, may be equal and are not 1, which would be repeated."""
    return one == other != 1


_PAD_MODES = {b"reflect": "reflect", b"edge": "replicate", b"constant": "zeros"}
_ACTIVATIONS = {
    "Relu": lambda settings: activations.ReLU(),
    "LeakyRelu": lambda settings: activations.LeakyReLU(settings.get("alpha", 0.01)),
    "Elu": lambda settings: activations.ELU(settings.get("alpha", 1.0)),
    "Tanh": lambda settings: activations.Tanh(),
}


def needs(proto: Any) -> list[str]:
    """The names that a node takes, also those that graphs within it take from around it."""
    names = [name for name in proto.input if name]
    for attribute in proto.attribute:
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {info.name for info in inner.input} | {tensor.name for tensor in inner.initializer}
            own |= {name for node in inner.node for name in node.output}
            names += [name for node in inner.node for name in needs(node) if name not in own]
            names += [info.name for info in inner.output if info.name not in own]
    return names


# ---- the cut ------------------------------------------------------------------------------------------------------


class _Cut:
    """A model, and its regions."""

    def __init__(self, model: Any, path: Any) -> None:
        if model.ByteSize() > _LARGEST:
            raise _CannotCut(f"the model takes {model.ByteSize()} bytes, more than {_LARGEST}")
        self._model = model
        self._reader = reader = _Reader(model, path)
        ends = [reader.results[info.name] for info in model.graph.output if info.name in reader.results]
        nodes, _ = graph.simplified(list(reader.nodes), ends)
        self._names = {}  # a node's result, by the last tensor that has it
        for at, proto in enumerate(model.graph.node):
            for name in proto.output:
                self._names[at] = name
        ends = [node for node in nodes if self._result(node) in {info.name for info in model.graph.output}]
        self.regions = graph.regions(nodes, ends, _has_layer)
        if not self.regions:
            raise _CannotCut(
                "no part of the model with one input and one output holds a 1-D convolution of float32 with constant "
                f"weights ({len(nodes)} nodes looked at)"
            )

    def _result(self, node: Node) -> str:
        """The name of a node's result."""
        if node.op == "input":
            return node.name
        return self._names[max(node.origins)]

    def parts(self, session: Any, threads: int | None) -> list[_Part]:
        """Sessions and chains, in the order in which they run."""
        model, reader = self._model, self._reader
        ours = {at: region for region in self.regions for node in region.nodes for at in node.origins}
        level: dict[str, int] = {}  # a tensor -> how many regions lie before it at most
        members: dict[int, list[int]] = defaultdict(list)
        chains: list[tuple[int, _Part]] = []
        alive = self._alive(ours)
        for at, proto in enumerate(model.graph.node):
            region = ours.get(at)
            if reader.constant[at] or at not in alive:
                continue
            if region is None:
                level.update(dict.fromkeys(proto.output, max((level.get(n, 0) for n in needs(proto)), default=0)))
                members[level[proto.output[0]]].append(at)
            elif at == max(region.end.origins):
                start, end = self._result(region.start), self._result(region.end)
                try:
                    chain = graph.chain_of(region.start, region.end, region.nodes)
                except ValueError as error:
                    raise _CannotCut(str(error)) from None
                chains.append((level.get(start, 0), _Part(chain, [start], [end], False, threads)))
                level[end] = level.get(start, 0) + 1
        wanted = {info.name for info in model.graph.output}
        needed: dict[int, set[str]] = {
            k: {n for at in members[k] for n in needs(model.graph.node[at])} for k in members
        }
        parts = []
        for k in range(max([*members, *(k for k, _ in chains)], default=0) + 1):
            if members[k]:
                later = wanted.union(*(names for j, names in needed.items() if j != k), *(p.inputs for _, p in chains))
                made = [name for at in members[k] for name in model.graph.node[at].output if name in later]
                parts.append(self._session(members[k], made, session))
            parts += [part for depth, part in chains if depth == k]
        return parts

    def _alive(self, ours: dict[int, graph.Region]) -> set[int]:
        """The nodes of the model on which its outputs depend, of a region its last."""
        nodes = self._model.graph.node
        producer = {name: at for at, proto in enumerate(nodes) for name in proto.output}
        alive, stack = set(), [info.name for info in self._model.graph.output]
        while stack:
            at = producer.get(stack.pop())
            if at is not None and at not in alive:
                alive.add(at)
                stack += [self._result(ours[at].start)] if at in ours else needs(nodes[at])
        return alive

    def _session(self, members: list[int], outputs: list[str], session: Any) -> _Part:
        """What onnxruntime computes between two regions: these nodes, with the constants that they take."""
        model, reader = self._model, self._reader
        nodes = model.graph.node
        producer = {name: at for at, proto in enumerate(nodes) if reader.constant[at] for name in proto.output}
        own = {name for at in members for name in nodes[at].output}
        chosen, stack, names = set(members), [n for at in members for n in needs(nodes[at])], set()
        while stack:
            name = stack.pop()
            names.add(name)
            if name in producer and producer[name] not in chosen:
                chosen.add(producer[name])
                stack += needs(nodes[producer[name]])
        stored = [tensor for tensor in model.graph.initializer if tensor.name in names]
        sparse = [tensor for tensor in model.graph.sparse_initializer if tensor.values.name in names]
        known = own | {name for at in chosen for name in nodes[at].output} | {t.name for t in stored}
        inputs = [name for name in dict.fromkeys(n for at in members for n in needs(nodes[at])) if name not in known]
        inputs = [name for name in inputs if name not in {tensor.values.name for tensor in sparse}]
        infos = self._infos()
        if untyped := [name for name in inputs if name not in infos]:
            raise _CannotCut(f"the type of {untyped[0]!r}, at which the model would be cut, does not follow")
        made = onnx.helper.make_graph(
            [nodes[at] for at in sorted(chosen)],
            "part",
            [infos[name] for name in inputs],
            [infos.get(name) or onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
            stored,
            sparse_initializer=sparse,
        )
        part = onnx.helper.make_model(made, opset_imports=list(model.opset_import), ir_version=model.ir_version)
        part.functions.extend(model.functions)
        return _Part(session(part), inputs, outputs)

    def _infos(self) -> dict[str, Any]:
        """What is known of the tensors' types."""
        if not hasattr(self, "_known_infos"):
            try:
                typed = onnx.shape_inference.infer_shapes(self._model).graph
            except Exception:  # of many kinds
                typed = self._model.graph
            infos = {info.name: info for info in (*typed.value_info, *typed.input, *typed.output)}
            for region in self.regions:  # the chains' results are float32 (N, C, L)
                name = self._result(region.end)
                infos.setdefault(name, onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 3))
            self._known_infos = infos
        return self._known_infos


def _has_layer(nodes: list[Node]) -> bool:
    return any(node.op == "layer" for node in nodes)
