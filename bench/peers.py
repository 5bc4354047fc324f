# SPDX-License-Identifier: MIT
"""The layers, one class for each operator on them, and one for each implementation that runs them.

A layer says what is given and what it costs; its `operator` is what an implementation does with it: forward,
the transposed convolution; backward, its gradients; conv1d, the convolution with the same weights.

An implementation is built once for a layer, with its weights. call(x) takes a NumPy array and returns one (of
backward a tuple), as a NumPy user would have it. It consists of three steps, so that the middle one can also be
timed alone:

    load(x)   the array in the library's own container, without a copy where the library can
    run(x)    the operator; returns when the output is complete
    numpy(y)  the output as an array, without a copy

`operators` names what an implementation is set up for; a layer or an element type that it cannot do raises
Unsupported with the reason. Each is set up as its users would for speed: weights packed or folded where the
library does that, no gradient bookkeeping but where gradients are asked for, no avoidable copies.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Layer:
    """A row of layers.json, and the transposed convolution that it describes."""

    operator = "forward"

    name: str
    N: int
    Cin: int
    Cout: int
    K: int
    stride: int
    padding: int
    output_padding: int
    dilation: int
    groups: int
    L: int

    @property
    def extent(self):
        return self.dilation * (self.K - 1) + 1

    @property
    def output_length(self):
        return (self.L - 1) * self.stride - 2 * self.padding + self.extent + self.output_padding

    @property
    def input_shape(self):
        return self.N, self.Cin, self.L

    @property
    def output_shape(self):
        return self.N, self.Cout, self.output_length

    @property
    def weight_shape(self):
        return self.Cin, self.Cout // self.groups, self.K

    @property
    def steps(self):
        """Positions at which the whole kernel is applied."""
        return self.L

    @property
    def fan_in(self):
        """How many products, about, an output sample sums."""
        return self.Cin // self.groups * max(1, self.K // self.stride)

    def flops(self, dtype):
        """Multiply-adds count two; a complex one is four real ones."""
        products = self.N * math.prod(self.weight_shape) * self.steps
        return 2 * products * (4 if np.dtype(dtype).kind == "c" else 1)

    def bytes(self, dtype):
        """Input, weights and output, each moved once."""
        return _bytes(dtype, self.input_shape, self.weight_shape, self.output_shape)

    def parameters(self, dtype, rng):
        """Random weight and bias, scaled so that outputs are of order one."""
        weight = _normal(self.weight_shape, dtype, rng)
        weight *= np.sqrt(1 / self.fan_in).astype(weight.real.dtype)
        return weight, _normal((self.output_shape[1],), dtype, rng)

    def input(self, dtype, rng):
        return _normal(self.input_shape, dtype, rng)

    def asdict(self):
        return asdict(self)


class Backward(Layer):
    """A layer's gradients with respect to x, weight and bias; x is known before, grad_output is the input."""

    operator = "backward"

    def flops(self, dtype):
        return 2 * super().flops(dtype)

    def bytes(self, dtype):
        """grad_output, x and weights read, the gradients of x and weights written."""
        return super().bytes(dtype) + _bytes(dtype, self.input_shape, self.weight_shape)

    def parameters(self, dtype, rng):
        """Random weight, bias and x."""
        return *super().parameters(dtype, rng), super().input(dtype, rng)

    def input(self, dtype, rng):
        return _normal(self.output_shape, dtype, rng)


class Conv1d(Layer):
    """A layer reversed: the convolution from its Cout channels to its Cin, with the same weight array."""

    operator = "conv1d"

    @property
    def input_shape(self):
        return super().output_shape

    @property
    def output_shape(self):
        return self.N, self.Cin, self.steps

    @property
    def steps(self):
        # L again, and with an output_padding of a stride or more (dilation allows it) longer.
        return (self.output_length + 2 * self.padding - self.extent) // self.stride + 1

    @property
    def fan_in(self):
        return self.Cout // self.groups * self.K


OPERATORS = {each.operator: each for each in (Layer, Backward, Conv1d)}


def _bytes(dtype, *shapes):
    return sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize


def _normal(shape, dtype, rng):
    dtype = np.dtype(dtype)
    real = np.zeros((), dtype).real.dtype
    values = rng.standard_normal(shape, real)
    if dtype.kind == "c":
        values = values + real.type(1) * 1j * rng.standard_normal(shape, real)
    return values.astype(dtype, copy=False)


def read_layers(operator="forward"):
    table = json.loads(Path(__file__).with_name("layers.json").read_text())
    return [OPERATORS[operator](**dict(zip(table["fields"], row, strict=True))) for row in table["layers"]]


class Unsupported(Exception):
    """This implementation does not do this operator, layer or element type."""


class Implementation:
    operators = ("forward",)
    multiplied = 1.0  # of a layer's multiplications, those that are made

    def load(self, x):
        return x

    def numpy(self, y):
        return y

    def call(self, x):
        return self.numpy(self.run(self.load(x)))


class Convt1d(Implementation):
    name = "convt1d"
    operators = tuple(OPERATORS)
    modules = ("convt1d",)
    any_length = True

    def __init__(self, layer, weight, bias, x=None, *, threads):
        self._threads = threads
        if layer.operator == "conv1d":
            from convt1d import functional, geometry

            checked = geometry.check_convolution(
                layer.Cout, layer.Cin, layer.K, layer.stride, layer.padding, layer.dilation, layer.groups
            )
            self._function = self._operator = functional.Operator(checked, weight, bias)
            return
        import convt1d

        def new_layer():
            ours = convt1d.ConvTranspose1d(
                layer.Cin, layer.Cout, layer.K, layer.stride, layer.padding, layer.output_padding, layer.groups,
                True, layer.dilation, "zeros", dtype=weight.dtype,
            )  # fmt: skip
            ours.weight, ours.bias = weight, bias
            return ours

        def with_new_weights():
            new = weight.copy()
            return lambda x: convt1d.conv_transpose1d(
                x, new, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation,
                workers=threads,
            )  # fmt: skip

        ours = new_layer()
        self._function, self._operator = ours, ours._operator
        #: What to time for the first call of a layer, and for the function with weights that it has not met.
        self.first, self.function = lambda: functools.partial(new_layer(), workers=threads), with_new_weights
        if layer.operator == "backward":
            self._function = lambda grad_output, workers: ours.backward(grad_output, x, workers=workers)

    def run(self, x):
        return self._function(x, workers=self._threads)

    call = run

    def alone(self, x):
        return self._function(x, workers=1)

    @property
    def multiplied(self):
        """Winograd's are fewer; of gradients, at least so many."""
        plans = [kernel.plan for kernel, _ in self._operator._kernels.values()]
        return min((plan.multiplications for plan in plans), default=0.75)


class Torch(Implementation):
    name = "torch"
    operators = tuple(OPERATORS)
    modules = ("torch",)
    any_length = True

    def __init__(self, layer, weight, bias, x=None, *, threads):
        import torch

        torch.set_num_threads(threads)
        if layer.operator != "backward" and not torch.is_inference_mode_enabled():
            # Entered once for the process and never left: entering it in each call would be charged to torch.
            torch.inference_mode().__enter__()
        self._from_numpy = torch.from_numpy
        weight, bias = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
        if layer.operator == "conv1d":
            self._function = torch.nn.functional.conv1d
            self._arguments = weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
            return
        self._function = torch.nn.functional.conv_transpose1d
        self._arguments = (
            weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation,
        )  # fmt: skip
        if layer.operator == "backward":
            leaves = torch.from_numpy(x.copy()).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
            y = self._function(leaves[0], *self._arguments)
            self._function = lambda grad_output: torch.autograd.grad(y, leaves, grad_output, retain_graph=True)
            self._arguments = ()
            self.numpy = lambda gradients: tuple(each.numpy() for each in gradients)

    def load(self, x):
        return self._from_numpy(x)

    def run(self, x):
        return self._function(x, *self._arguments)

    def numpy(self, y):
        return y.numpy()


def _onnx_model(layer, weight, bias, length):
    """A model of one ConvTranspose or Conv node; `length` is a number, or a name to leave it open."""
    import onnx
    from onnx import helper, numpy_helper

    if layer.operator == "conv1d":
        kind, more = "Conv", {}
    else:
        kind, more = "ConvTranspose", {"output_padding": [layer.output_padding]}
    if weight.dtype != np.float32:
        raise Unsupported(f"no {weight.dtype} {kind}")
    node = helper.make_node(
        kind, ["x", "w", "b"], ["y"],
        kernel_shape=[layer.K], strides=[layer.stride], pads=[layer.padding, layer.padding],
        dilations=[layer.dilation], group=layer.groups, **more,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [*layer.input_shape[:2], length])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    # Old versions of the format, which every run-time reads; the two operators have not changed since.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


class OnnxRuntime(Implementation):
    name = "onnxruntime"
    operators = ("forward", "conv1d")
    modules = ("onnxruntime", "onnx")
    any_length = True  # an open length costs nothing here: 682 us fixed, 666 us open for ecg_autoencoder

    def __init__(self, layer, weight, bias, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            _onnx_model(layer, weight, bias, "L"), options, providers=["CPUExecutionProvider"]
        )

    # run() takes NumPy arrays without a copy. OrtValue inputs cost 75 us a call more in Python, and binding
    # an output made no difference beyond the noise (2026-11-22, EPYC, 1.32).
    def load(self, x):
        return {"x": x}

    def run(self, x):
        return self._session.run(None, x)

    def numpy(self, y):
        return y[0]


class OpenVino(Implementation):
    name = "openvino"
    operators = ("forward", "conv1d")
    modules = ("openvino", "onnx")
    any_length = False  # compiled for one shape

    def __init__(self, layer, weight, bias, threads):
        import openvino

        core = openvino.Core()
        model = core.read_model(_onnx_model(layer, weight, bias, layer.input_shape[2]))
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._tensor = openvino.Tensor
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def load(self, x):
        return self._tensor(x, shared_memory=True)

    # 25 us a call for the smallest layer, against 128 us for infer(x, share_inputs=True, share_outputs=True).
    def run(self, x):
        self._request.set_input_tensor(x)
        self._request.infer()
        return self._request.get_output_tensor()

    def numpy(self, y):
        return y.data


class Jax(Implementation):
    name = "jax"
    operators = ("forward", "conv1d")  # its gradients are not set up here
    modules = ("jax",)
    any_length = True  # by compiling anew for each

    def __init__(self, layer, weight, bias, threads):
        import jax

        # The computation runs on the calling thread instead of being handed to another and waited for.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.config.update("jax_enable_x64", weight.dtype in (np.float64, np.complex128))
        if layer.operator == "conv1d":
            kernel, stride, stretch, margins = weight, layer.stride, 1, (layer.padding, layer.padding)
        else:
            # A transposed convolution is a convolution of the input with stride - 1 zeros between its samples
            # and the kernel flipped, (Cout, Cin / groups, K). XLA skips the zeros.
            cin, cout = layer.Cin // layer.groups, layer.Cout // layer.groups
            kernel = weight[:, :, ::-1].reshape(layer.groups, cin, cout, layer.K).transpose(0, 2, 1, 3)
            kernel = kernel.reshape(layer.Cout, cin, layer.K)
            margin = layer.extent - 1 - layer.padding
            stride, stretch, margins = 1, layer.stride, (margin, margin + layer.output_padding)

        def convolve(x):
            # Weights closed over, so that XLA lays them out when it compiles: 32 ms against 108 ms as
            # arguments for 1536 -> 768, L = 20; no difference for small ones.
            y = jax.lax.conv_general_dilated(
                x, kernel, (stride,), [margins],
                lhs_dilation=(stretch,), rhs_dilation=(layer.dilation,),
                dimension_numbers=("NCH", "OIH", "NCH"), feature_group_count=layer.groups,
            )  # fmt: skip
            return y + bias[:, None]

        self._function = jax.jit(convolve)
        self._asarray = jax.numpy.asarray

    def load(self, x):
        return self._asarray(x)

    def run(self, x):
        return self._function(x).block_until_ready()

    def numpy(self, y):
        return np.asarray(y)

    def call(self, x):
        # Not through load(x): 17 us for the smallest layer, against 50 us.
        return np.asarray(self._function(x))


class Upfirdn(Implementation):
    """scipy.signal.upfirdn, channel by channel, as a SciPy user does a depthwise layer; always one thread."""

    name = "upfirdn"
    modules = ("scipy",)
    any_length = True

    def __init__(self, layer, weight, bias, threads):
        from scipy.signal import upfirdn

        if layer.groups != layer.Cin:
            raise Unsupported("one input channel per output only")
        self._upfirdn = upfirdn
        self._layer = layer
        self._bias = bias
        self._taps = np.zeros((layer.Cout, layer.extent), weight.dtype)
        self._taps[:, :: layer.dilation] = weight.reshape(layer.Cout, layer.K)

    def run(self, x):
        layer = self._layer
        multiplier = layer.Cout // layer.Cin
        y = np.empty((x.shape[0], layer.Cout, layer.output_length), x.dtype)
        for channel in range(layer.Cout):
            full = self._upfirdn(self._taps[channel], x[:, channel // multiplier], layer.stride)
            kept = full[:, layer.padding : layer.padding + layer.output_length]
            target = y[:, channel]
            np.add(kept, self._bias[channel], out=target[:, : kept.shape[1]])
            target[:, kept.shape[1] :] = self._bias[channel]  # output_padding past the last tap
        return y


PEERS = {peer.name: peer for peer in (Torch, OnnxRuntime, OpenVino, Jax, Upfirdn)}


def missing_modules(implementation):
    """The modules this implementation needs and this environment lacks."""
    return [module for module in implementation.modules if importlib.util.find_spec(module) is None]


def versions(implementations):
    found = {}
    for module in ["numpy", "scipy"] + [module for item in implementations for module in item.modules]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[module] = importlib.metadata.version(module)
    return found
