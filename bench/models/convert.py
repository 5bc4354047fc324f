# SPDX-License-Identifier: MIT
"""A torch model in other forms: as a `convt1d.Chain`, with convt1d put in by hand, and on (N, C, 1, L)."""

import copy
import runpy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

import convt1d
from convt1d import activations

from . import blocks, encodec

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "decoders"


class NoStep(Exception):
    """A module that is no step of a Chain."""


def numbers(parameter):
    return None if parameter is None else parameter.detach().numpy().copy()


def as_layer(module, padding=None, mode="zeros"):
    """convt1d's layer for one of torch's, with another padding where one is given."""
    options = {"groups": module.groups, "bias": module.bias is not None}
    sizes = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0])
    if padding is None:
        padding, mode = module.padding[0], module.padding_mode
    if isinstance(module, nn.ConvTranspose1d):
        extra = module.output_padding[0]
        layer = convt1d.ConvTranspose1d(*sizes, padding, extra, dilation=module.dilation[0], **options)
    else:
        layer = convt1d.Conv1d(*sizes, padding, module.dilation[0], padding_mode=mode, **options)
    layer.weight = numbers(module.weight)
    if module.bias is not None:
        layer.bias = numbers(module.bias)
    return layer


def padded(module):
    (conv,) = module.conv
    return as_layer(conv, module.pads, "zeros" if module.mode == "constant" else module.mode)


def cropped(module):
    (convtr,) = module.convtr
    return as_layer(convtr, module.widths)


def resampled(module):
    """BigVGAN's activation, whose filters are one channel for all."""
    alpha, up, down = module.act.alpha.numel(), module.upsample, module.downsample
    extended = tuple(width - up.stride * up.pad for width in (up.pad_left, up.pad_right))
    sizes = (alpha, alpha, up.kernel_size, up.stride)
    options = {"groups": alpha, "bias": False, "padding_mode": "replicate"}
    upward = convt1d.ConvTranspose1d(*sizes, extended, **options)
    downward = convt1d.Conv1d(*sizes, (down.pad_left, down.pad_right), **options)
    upward.weight = np.tile(up.ratio * numbers(up.filter), (alpha, 1, 1))
    downward.weight = np.tile(numbers(down.filter), (alpha, 1, 1))
    return convt1d.Chain(upward, snake(module.act), downward)


def snake(module):
    alpha = numbers(module.alpha)
    return activations.Snake(alpha) if module.beta is None else activations.SnakeBeta(alpha, numbers(module.beta))


@cache
def example(name):
    """What an example of the documentation defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


class Sequence:
    """A generator whose numbers are given."""

    def __init__(self, sequence):
        self.sequence, self.at = sequence, 0

    def standard_normal(self, shape, dtype):
        n = shape[0]
        found = np.take(self.sequence, np.arange(self.at, self.at + n), mode="wrap")
        self.at += n
        return np.broadcast_to(found.reshape(n, *[1] * (len(shape) - 1)), shape)


def noise(module):
    sequence = numbers(module.sequence)
    return example("snac")["Noise"](as_layer(module.linear), lambda: Sequence(sequence))


def lstm(module):
    return example("encodec")["LSTM"]({name: numbers(value) for name, value in module.lstm.state_dict().items()})


def parametric(module):
    if module.weight.numel() > 1:
        raise NoStep(module)
    return activations.LeakyReLU(module.weight.item())


STEPS = {
    nn.Conv1d: as_layer,
    nn.ConvTranspose1d: as_layer,
    blocks.Padded: padded,
    blocks.Cropped: cropped,
    blocks.Activation1d: resampled,
    blocks.Snake: snake,
    blocks.Noise: noise,
    encodec.LSTM: lstm,
    nn.Identity: lambda module: convt1d.Chain(),
    nn.PReLU: parametric,
    nn.ReLU: lambda module: activations.ReLU(),
    nn.LeakyReLU: lambda module: activations.LeakyReLU(module.negative_slope),
    nn.ELU: lambda module: activations.ELU(module.alpha),
    nn.Tanh: lambda module: activations.Tanh(),
}


def as_step(module):
    """The step of a Chain that computes what the module does; NoStep if there is none."""
    if type(module) in STEPS:
        return STEPS[type(module)](module)
    if isinstance(module, blocks.Sum):
        return convt1d.Sum(*map(as_step, module.children()), scale=module.scale)
    if isinstance(module, blocks.Residual):
        return convt1d.Sum(convt1d.Chain(), as_step(module.block))
    if isinstance(module, nn.Sequential) and not hasattr(module, "flat"):
        return convt1d.Chain(*map(as_step, module))
    raise NoStep(type(module).__name__)


class ByHand(nn.Module):
    """A step in the place of a module."""

    def __init__(self, step, workers):
        super().__init__()
        self.step, self.workers = step, workers

    def forward(self, x):
        return torch.from_numpy(self.step(x.numpy(), workers=self.workers))


def by_hand(module, workers):
    """The model with every part that is a step of a Chain computed by convt1d, steps in a row as one Chain."""
    try:
        return ByHand(as_step(module), workers)
    except NoStep:
        pass
    if type(module) is nn.Sequential:
        parts, steps = [], []
        for child in [*module, None]:
            try:
                steps.append(as_step(child))
            except NoStep:
                parts += [ByHand(convt1d.Chain(*steps), workers)] if steps else []
                parts += [] if child is None else [by_hand(child, workers)]
                steps = []
        return nn.Sequential(*parts)
    module = copy.copy(module)
    module._modules = {name: child and by_hand(child, workers) for name, child in module._modules.items()}
    return module


def convolution_2d(module):
    """The same on (N, C, 1, L)."""
    transposed = isinstance(module, nn.ConvTranspose1d)
    options = {
        "stride": (1, module.stride[0]),
        "padding": (0, module.padding[0]),
        "dilation": (1, module.dilation[0]),
        "groups": module.groups,
        "bias": module.bias is not None,
        "padding_mode": module.padding_mode,
    }
    if transposed:
        options["output_padding"] = (0, module.output_padding[0])
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(module.in_channels, module.out_channels, (1, module.kernel_size[0]), **options)
    layer.weight.data, layer.bias = module.weight.data[:, :, None], module.bias
    return layer


class Lifted(nn.Module):
    """A model on (N, C, 1, L) behind inputs (N, C, L)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(*(x.unsqueeze(2) if x.ndim == 3 else x for x in inputs)).squeeze(2)


def as_2d(model):
    """The model rewritten with convolutions of height 1, which take onnxruntime's blocked layout."""

    def lift(module):
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            return convolution_2d(module)
        if hasattr(module, "flat"):
            return blocks.Flat(module)
        if isinstance(module, nn.InstanceNorm1d):
            norm = nn.InstanceNorm2d(module.num_features, affine=True)
            norm.load_state_dict(module.state_dict())
            return norm
        module = copy.copy(module)
        module._modules = {name: child and lift(child) for name, child in module._modules.items()}
        return module

    return Lifted(lift(model)).eval().requires_grad_(False)
