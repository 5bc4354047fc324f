# SPDX-License-Identifier: MIT
"""A decoder in torch as a `convt1d.Chain`, for whole signals and for streams.

model, example  ->  make_fx: the operations that depend on the input, all else as constants
                ->  graph.py: nodes, patterns, a Chain
                ->  compared with the model at two lengths
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from .. import activations, graph
from ..chain import Chain, ChainStream
from ..graph import Node, Weights
from . import operators

_TOLERANCE = 1e-4  # of the largest value
_aten = torch.ops.aten
_SAME = {  # the same where the shape is
    *(_aten.view, _aten.reshape, _aten._unsafe_view, _aten.expand, _aten.clone, _aten.alias, _aten.detach),
    *(_aten.contiguous, _aten.lift_fresh_copy, _aten._to_copy, _aten.squeeze, _aten.unsqueeze, _aten.permute),
}
_PADS = {_aten.reflection_pad1d: "reflect", _aten.replication_pad1d: "replicate", _aten.constant_pad_nd: "zeros"}


def chain(model: nn.Module, example: torch.Tensor) -> Chain:
    """A decoder in torch as a `convt1d.Chain`: layers, activations and sums of them, with the weights of now.

    Parameters
    ----------
    model : nn.Module
        In eval mode, on the CPU, from one signal (N, C, L) to one. Convolutions, transposed or not, with the pads
        before them and the crops behind, also under weight_norm; ReLU, LeakyReLU, ELU, Tanh, PReLU of one parameter
        and snakes, as modules or as functions; sums, and factors.
    example : Tensor, shape (N, C, L)
        An input, some times as long as what the model sees around a sample.

    Returns
    -------
    convt1d.Chain
        It takes and returns arrays, and does not need torch.

    Raises
    ------
    ValueError
        An operation of the model is not known; it is named. Or the model is in training mode, or what is computed
        differs from the model by more than 1e-4 of the largest value for the example or for one of another length.
    TypeError
        `model` is no module, or `example` no tensor.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from convt1d.torch import chain
    >>> model = nn.Sequential(nn.Conv1d(8, 4, 3, padding=1), nn.ELU(), nn.ConvTranspose1d(4, 1, 4, 2, 1)).eval()
    >>> chain(model, torch.randn(1, 8, 50))
    Chain(Conv1d(8, 4, kernel_size=(3,), stride=(1,), padding=(1,)), ELU(1), ConvTranspose1d(4, 1, kernel_size=(4,), \
stride=(2,), padding=(1,)))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(example, torch.Tensor):
        raise TypeError(f"example must be a torch.Tensor, got {type(example).__name__}")
    if example.dim() != 3 or not len(example) or not example.shape[2]:
        raise ValueError(f"example must have shape (N, C, L), got {tuple(example.shape)}")
    if model.training:
        raise ValueError("model must be in eval mode: model.eval()")
    example = example.detach()
    with torch.no_grad():
        traced = make_fx(torch.func.functionalize(lambda x: model(x)))(example)
    nodes, end = _read(traced, example)
    nodes, (end,) = graph.simplified(nodes, [end])
    start = nodes[0]
    unknown = [node.name for node in nodes[1:] if not graph.is_known(node)]
    if unknown:
        listed = ", ".join(list(dict.fromkeys(unknown))[:8])
        raise ValueError(f"model must be of layers, activations and sums only, got {listed}: no stream computes that")
    found = graph.chain_of(start, end, nodes[1:])
    for x in (example, torch.cat([example, example[..., : -(-example.shape[2] // 2)]], 2)):
        with torch.no_grad():
            expected = model(x).numpy()
        y = found(x.numpy())
        if y.shape != expected.shape or not np.abs(y - expected).max() <= _TOLERANCE * np.abs(expected).max():
            raise ValueError(
                f"model must do the same at any length; what its operations were for L = {example.shape[2]} gives "
                f"another result for L = {x.shape[2]}"
            )
    return found


def stream(model: nn.Module, example: torch.Tensor, *, workers: int | None = None) -> ChainStream:
    """A decoder in torch on a signal that arrives in chunks, in place of overlap and crop.

    Parameters
    ----------
    model, example : torch.nn.Module, torch.Tensor
        As of `chain`.
    workers : int, optional
        Most threads to use for a chunk, as in `conv_transpose1d`.

    Returns
    -------
    convt1d.chain.ChainStream
        ``process(chunk)`` and ``flush()`` return arrays that, one after the other, are what the model gives for the
        whole signal; ``latency`` says by how many output samples they are late.

    Raises
    ------
    ValueError, TypeError
        As of `chain`: what sees all of the signal, such as a norm over time or attention, is named and refused; so is
        what remembers, such as an LSTM. A padding mode is circular.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from convt1d.torch import stream
    >>> model = nn.Sequential(nn.Conv1d(8, 4, 3, padding=1), nn.ELU(), nn.ConvTranspose1d(4, 1, 4, 2, 1)).eval()
    >>> x = torch.randn(1, 8, 50)
    >>> streaming = stream(model, x)
    >>> streaming.process(x[..., :20]).shape, streaming.process(x[..., 20:]).shape, streaming.flush().shape
    ((1, 1, 37), (1, 1, 60), (1, 1, 3))
    >>> streaming.latency
    3
    """
    return chain(model, example).stream(workers=workers)


def _read(traced: Any, example: torch.Tensor) -> tuple[list[Node], Node]:
    """The nodes of a traced model, the input first, and its result."""
    values: dict[Any, Any] = {}
    nodes: list[Node] = []

    def value(given: Any) -> Any:
        if isinstance(given, torch.fx.Node):
            return values[given]
        return [value(each) for each in given] if isinstance(given, (list, tuple)) else given

    for at in traced.graph.nodes:
        if at.op == "placeholder":
            values[at] = Node("input", [], name="the input")
            nodes.append(values[at])
        elif at.op == "get_attr":
            values[at] = operator.attrgetter(at.target)(traced)
        elif at.op == "output":
            result = value(at.args[0])
            if not isinstance(result, Node):
                raise ValueError("model must return one signal that depends on its input")
            return nodes, result
        else:
            arguments = [value(each) for each in at.args]
            flat = [each for given in arguments for each in (given if isinstance(given, list) else [given])]
            if not any(isinstance(each, Node) for each in flat):
                with torch.no_grad():
                    values[at] = at.target(*arguments, **at.kwargs)
                continue
            shapes = [_shape(given) for given in at.args]
            node = _node(at.target, arguments, at.kwargs, shapes, _shape(at))
            if node is None:
                node = Node("other", [each for each in flat if isinstance(each, Node)])
            if not node.name:
                node.name = str(at.target)
            values[at] = node
            if node not in nodes[-1:]:
                nodes.append(node)
    raise AssertionError("a traced model has an output")


def _shape(at: Any) -> Any:
    meta = getattr(at, "meta", {}).get("tensor_meta")
    return getattr(meta, "shape", None)


def _node(target: Any, arguments: list[Any], options: Any, shapes: list[Any], shape: Any) -> Node | None:
    """The node of one operation, at least one of whose arguments is a signal; None if it is not known."""
    kind = getattr(target, "overloadpacket", target)
    x, *others = arguments
    if kind in (_aten.add, _aten.mul, _aten.div) and not options and len(arguments) == 2:
        return _arithmetic(kind, arguments, shapes, shape)
    if not isinstance(x, Node) or any(isinstance(each, Node) for each in others):
        return None
    if kind is _aten.convolution and others[0].dim() == 3:
        return _layer(x, *others)
    if kind in _SAME:
        return x if shapes[0] == shape else None
    if kind in _ACTIVATIONS and not options:
        made = _ACTIVATIONS[kind](*others)
        return None if made is None else Node("activation", [x], made)
    if kind is _aten.sin:
        return Node("sin", [x])
    if kind is _aten.pow and others == [2]:
        return Node("square", [x])
    if kind is _aten.slice and not options:
        given: list[Any] = [*others, *[0, None, None, 1][len(others) :]]
        dim, start, stop, step = given
        length = shapes[0][dim]
        start, stop, _ = slice(start, stop).indices(length)
        if step == 1 and (start, stop) == (0, length):
            return x
        return Node("crop", [x], (start, length - stop)) if step == 1 and dim in (2, -1) else None
    if kind in _PADS and len(others[0]) == 2 and (len(others) == 1 or others[1] == 0):
        left, right = others[0]
        if min(left, right) >= 0:
            return Node("pad", [x], (left, right, _PADS[kind]))
        return Node("crop", [x], (-left, -right)) if max(left, right) <= 0 else None
    return None


def _arithmetic(kind, arguments, shapes, shape):
    """Sums of signals, and signals times constants."""
    signals = [each for each in arguments if isinstance(each, Node)]
    if len(signals) == 2:
        if kind is _aten.add and shapes[0] == shapes[1]:
            return Node("add", signals)
        return Node("square", signals[:1]) if kind is _aten.mul and signals[0] is signals[1] else None
    constant = arguments[1] if isinstance(arguments[0], Node) else arguments[0]
    if kind is _aten.add and not isinstance(constant, torch.Tensor) and constant == 0:
        return signals[0]  # sum() begins with 0
    if kind is _aten.add or (kind is _aten.div and constant is arguments[0]):
        return None
    constant = np.asarray(constant.detach() if isinstance(constant, torch.Tensor) else constant)
    factors = factors_of(constant, shape)
    if factors is None:
        return None
    return Node("multiply", signals, 1 / factors if kind is _aten.div else factors)


def factors_of(constant: np.ndarray, shape: Any) -> np.ndarray | None:
    """A constant that multiplies a signal, as one factor or one for each channel; None if it is something else."""
    if constant.size == 1:
        return constant.reshape(1)
    per_channel = constant.ndim in (2, 3) and constant.shape[-1] == 1 and constant.shape[-2] == constant.size
    return constant.reshape(-1) if per_channel and shape is not None and shape[1] == constant.size else None


def _layer(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    weight, bias = (None if t is None else t.detach().numpy() for t in (weight, bias))
    stride, padding, dilation, output_padding = map(tuple, (stride, padding, dilation, output_padding))
    if transposed:
        settings = stride, padding, output_padding, groups, dilation, "zeros"
        geometry = operators.transposed_geometry(weight.shape, *settings)
    else:
        geometry = operators.conv_geometry(weight.shape, stride, padding, groups, dilation, "zeros")
    return Node("layer", [x], Weights(geometry, weight, bias))


def _elu(alpha=1.0, scale=1.0, input_scale=1.0):
    return activations.ELU(alpha) if scale == input_scale == 1 else None


def _prelu(weight):
    return activations.LeakyReLU(weight.item()) if weight.numel() == 1 else None


_ACTIVATIONS: dict[Any, Any] = {
    _aten.relu: activations.ReLU,
    _aten.leaky_relu: activations.LeakyReLU,
    _aten.elu: _elu,
    _aten.tanh: activations.Tanh,
    _aten.prelu: _prelu,
    _aten._prelu_kernel: _prelu,
}
