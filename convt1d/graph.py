# SPDX-License-Identifier: MIT
"""A graph of operations on signals, as torch and ONNX write models down, as a `Chain`.

torch/stream.py, onnx.py     operations of the model -> nodes, in the order in which they are computed
    |
simplified                   snakes from their products; pads, crops and factors into the layers beside them
    |
regions                      parts of one input and one output that are all known (ONNX)
    |
chain_of                     Chain(...), and a Sum(...) where branches meet again

op            value                             what it computes
"input"                                         a signal from outside
"layer"       Weights                           a convolution, transposed or not
"activation"  Activation
"add"                                           the sum of its inputs, of equal shapes
"multiply"    factors, of one or all channels   x * factor
"sin"
"square"
"pad"         left, right, padding mode         samples more at both ends
"crop"        left, right                       samples fewer at both ends
"other"                                         what is not known here
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .activations import Activation, SnakeBeta
from .chain import Chain, Sum
from .conv import Conv1d
from .geometry import ConvGeometry, Geometry, check_convolution
from .layer import ConvTranspose1d


class Weights(NamedTuple):
    """What makes a layer."""

    geometry: Geometry | ConvGeometry
    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(eq=False, repr=False)
class Node:
    """An operation and its result."""

    op: str
    inputs: list[Node]
    value: Any = None
    name: str = ""  # in the model, for messages
    origins: frozenset[Any] = field(default_factory=frozenset)  # what it is in the model


def users_of(nodes: Iterable[Node], ends: Iterable[Node]) -> Counter[Node]:
    """How often the result of each node is used; an end is used once by who asked for it."""
    return Counter(given for node in nodes for given in node.inputs) + Counter(ends)


# ---- patterns -----------------------------------------------------------------------------------------------------


def simplified(nodes: list[Node], ends: list[Node]) -> tuple[list[Node], list[Node]]:
    """The same graph with what belongs to a layer or an activation in one node, without what nobody needs."""
    nodes = _needed(nodes, ends)
    for rewrite in (_snake, _after_layer, _before_layer):
        users = users_of(nodes, ends)
        became: dict[Node, Node] = {}
        kept = []
        for node in nodes:
            node.inputs = [became.get(given, given) for given in node.inputs]
            found = rewrite(node, users)
            if found is None:
                kept.append(node)
                continue
            became[node] = found
            users[found] = users[node]
            kept.append(found)
        ends = [became.get(end, end) for end in ends]
        nodes = _needed(kept, ends)
    return nodes, ends


def _needed(nodes: list[Node], ends: list[Node]) -> list[Node]:
    """The nodes on which the ends depend."""
    needed, reached = set(ends), list(ends)
    while reached:
        for given in reached.pop().inputs:
            if given not in needed:
                needed.add(given)
                reached.append(given)
    return [node for node in nodes if node in needed]


def _snake(node: Node, users: Counter[Node]) -> Node | None:
    """x + b * sin(a * x)**2"""
    if node.op != "add" or len(node.inputs) != 2:
        return None
    for x, scaled in (node.inputs, node.inputs[::-1]):
        found = [scaled]
        for op in ("multiply", "square", "sin", "multiply"):
            if found[-1].op != op or users[found[-1]] != 1:
                break
            found += found[-1].inputs
        else:
            if found[-1] is x:
                by, _, _, inner, _ = found
                if np.all(by.value != 0) and (by.value.size == 1 or inner.value.size in (1, by.value.size)):
                    origins = node.origins.union(*(each.origins for each in found[:4]))
                    alpha, beta = np.broadcast_arrays(inner.value.astype(float), 1 / by.value.astype(float))
                    return Node("activation", [x], SnakeBeta(alpha, beta), node.name, origins)
    return None


def _after_layer(node: Node, users: Counter[Node]) -> Node | None:
    """Samples that are left out behind a layer, and factors that its weights can hold."""
    if node.op not in ("crop", "multiply") or node.inputs[0].op != "layer" or users[node.inputs[0]] != 1:
        return None
    layer = node.inputs[0]
    geometry, weight, bias = layer.value
    if node.op == "crop":
        transposed = isinstance(geometry, Geometry)
        padding = _moved(geometry.padding, node.value, 1 if transposed else -1)
        if padding is None or (not transposed and (geometry.stride != 1 or geometry.padding_mode != "zeros")):
            return None
        value = Weights(replace(geometry, padding=padding), weight, bias)
    else:
        factor = np.broadcast_to(node.value.astype(weight.dtype), geometry.out_channels)
        by_output = factor[:, None, None]
        if isinstance(geometry, Geometry):  # (C_in, C_out / groups, K): the outputs of a group are those of its rows
            by_output = factor.reshape(geometry.groups, 1, -1).repeat(geometry.in_channels // geometry.groups, 1)
            by_output = by_output.reshape(geometry.in_channels, -1, 1)
        value = Weights(geometry, weight * by_output, None if bias is None else bias * factor)
    return Node("layer", layer.inputs, value, node.name, node.origins | layer.origins)


def _before_layer(node: Node, users: Counter[Node]) -> Node | None:
    """A pad before a layer is the layer's padding."""
    if node.op == "multiply" and node.value.size > 1:
        channels, weight = node.value.size, node.value.reshape(-1, 1, 1)
        geometry = check_convolution(channels, channels, 1, groups=channels)
        return Node("layer", node.inputs, Weights(geometry, weight.copy(), None), node.name, node.origins)
    if node.op != "layer" or node.inputs[0].op != "pad" or users[node.inputs[0]] != 1:
        return None
    pad = node.inputs[0]
    left, right, mode = pad.value
    geometry = node.value.geometry
    if geometry.padding_mode != "zeros":
        return None
    if isinstance(geometry, ConvGeometry):
        if mode != "zeros" and geometry.padding != (0, 0):
            return None
        before, after = geometry.padding
        geometry = replace(geometry, padding=(before + left, after + right), padding_mode=mode)
    else:
        padding = _moved(geometry.padding, (left, right), -geometry.stride)
        if padding is None:
            return None
        geometry = replace(geometry, padding=padding, padding_mode=mode)
        halo = geometry.halo(geometry.output_padding)
        if mode != "zeros" and (halo[0] > left or halo[1] > right):
            return None
    return Node("layer", pad.inputs, node.value._replace(geometry=geometry), node.name, node.origins | pad.origins)


def _moved(padding: tuple[int, int], widths: tuple[int, ...], by: int) -> tuple[int, int] | None:
    left, right = (have + by * width for have, width in zip(padding, widths, strict=True))
    return (left, right) if min(left, right) >= 0 else None


# ---- as a Chain ---------------------------------------------------------------------------------------------------


def is_known(node: Node) -> bool:
    """Whether a step of a Chain computes it."""
    return node.op in ("layer", "activation", "add") or (node.op == "multiply" and node.value.size == 1)


def chain_of(start: Node, end: Node, nodes: list[Node]) -> Chain:
    """The nodes from `start`, not included, to `end`: each is known, and depends on `start` only.

    Raises
    ------
    ValueError
        A branch is left in its middle, so that a part would be computed twice.
    """
    dominator: dict[Node, Node] = {start: start}
    depth = {start: 0}

    def common(a: Node, b: Node) -> Node:
        while a is not b:
            a, b = (dominator[a], b) if depth[a] > depth[b] else (a, dominator[b])
        return a

    for node in nodes:
        above = node.inputs[0]
        for given in node.inputs[1:]:
            above = common(above, given)
        dominator[node], depth[node] = above, depth[above] + 1
    users = users_of(nodes, [end])
    used: set[Node] = set()

    def is_inner_sum(node: Node) -> bool:
        return node.op == "add" and users[node] == 1 and node is not start

    def path(first: Node, last: Node) -> list[Any]:
        steps: list[Any] = []
        while last is not first:
            if last in used and last.op == "layer" and not _is_depthwise(last):  # those are computed once more
                raise ValueError(f"{last.name} is used by branches that do not meet again in one place")
            used.add(last)
            scale, total = 1.0, last
            if last.op == "multiply" and is_inner_sum(last.inputs[0]):
                scale, total = float(last.value[0]), last.inputs[0]
            if total.op == "add":
                operands = summed(total)
                meeting = operands[0]
                for operand in operands[1:]:
                    meeting = common(meeting, operand)
                branches = sorted((path(meeting, operand) for operand in operands), key=bool)
                steps.append(Sum(*(Chain(*branch) for branch in branches), scale=scale))
                last = meeting
            else:
                steps.append(_step(last))
                (last,) = last.inputs
        return steps[::-1]

    def summed(node: Node) -> list[Node]:
        found = []
        for given in node.inputs:
            if is_inner_sum(given) and dominator[given] is dominator[node]:
                found += summed(given)
            else:
                found.append(given)
        return found

    return Chain(*path(start, end))


def _is_depthwise(node: Node) -> bool:
    return bool(node.value.geometry.groups == node.value.geometry.in_channels)


def _step(node: Node) -> Any:
    if node.op == "activation":
        assert isinstance(node.value, Activation)
        return node.value
    if node.op == "multiply":
        return Sum(Chain(), scale=float(node.value[0]))
    kind: Any = ConvTranspose1d if isinstance(node.value.geometry, Geometry) else Conv1d
    return kind._of(*node.value)


# ---- parts of a model ---------------------------------------------------------------------------------------------


class Region(NamedTuple):
    """A part whose nodes depend on `start` only, and of which only `end` is used elsewhere."""

    start: Node
    end: Node
    nodes: list[Node]


def regions(nodes: list[Node], ends: list[Node], worthwhile: Callable[[list[Node]], bool]) -> list[Region]:
    """The largest parts of known nodes, from the end of the graph to its start."""
    place = {node: at for at, node in enumerate(nodes)}
    users: dict[Node, list[Node | None]] = {node: [] for node in nodes}
    for node in nodes:
        for given in node.inputs:
            users.setdefault(given, []).append(node)
    for end in ends:
        users.setdefault(end, []).append(None)
    taken: set[Node] = set()
    found = []
    for end in reversed(nodes):
        if end in taken or not is_known(end) or (end.op == "add" and len(end.inputs) < 2):
            continue
        inside: set[Node] = set()
        frontier, best = {end}, None
        while frontier:
            latest = max(frontier, key=lambda node: place.get(node, -1))
            outside = latest is not end and any(user not in inside for user in users[latest])
            if latest in taken or outside or not is_known(latest):
                break
            frontier.remove(latest)
            inside.add(latest)
            frontier |= set(latest.inputs)
            if len(frontier) == 1:
                best = next(iter(frontier)), set(inside)
        if best is not None:
            part = [node for node in nodes if node in best[1]]
            if worthwhile(part):
                taken |= best[1]
                found.append(Region(best[0], end, part))
    return found[::-1]
