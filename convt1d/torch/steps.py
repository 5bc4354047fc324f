# SPDX-License-Identifier: MIT
"""Modules other than layers that are computed here: activations, BigVGAN's resamplers, and sequences with such.

    turn(model)      a module that `form_of` knows gets a class that is a subclass of its own
        |
    Known.forward    a plain call: the step of its form, on the tensor's memory; else the module's own forward
    Sequential       likewise; steps in a row are computed with one conversion, activations in the layers' passes

What a module computes is never taken from its name alone: `_computes` calls it with random inputs and parameters.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from .. import activations
from ..geometry import check, check_convolution
from ..operator import Operator, Pointwise
from . import operators
from .layers import Layer

_EPSILON = 1e-9  # what DAC, SNAC and BigVGAN add to what they divide by
_TOLERANCE = 1e-5  # of the largest value

# forms ------------------------------------------------------------------------------------------------------


def _snake(module, exponentials=False):
    """x + sin(a x)**2 / b, with a and b the module's alpha and beta, or their exponentials."""
    numbers = module._parameters
    if module._modules or module._buffers or not {"alpha"} <= {*numbers} <= {"alpha", "beta"}:
        raise ValueError("a snake has the parameters alpha and beta")
    alpha = numbers["alpha"].detach().double().numpy().ravel()
    beta = alpha if numbers.get("beta") is None else numbers["beta"].detach().double().numpy().ravel()
    if exponentials:
        alpha, beta = np.exp(alpha), np.exp(beta)
    return activations.SnakeBeta(alpha, beta + _EPSILON)


class _Resampler:
    """BigVGAN's functions of a filter that is applied to each channel: up by a factor, or low-pass and down."""

    def __init__(self, module, up):
        self.taps = module.filter.detach().numpy().reshape(-1).copy()
        self.up, self.stride = up, int(module.stride)
        if up:
            crop = int(module.pad_left), int(module.pad_right)
            self.taps *= module.ratio
            self.padding, self.mode = tuple(width - module.pad * self.stride for width in crop), "replicate"
        else:
            padded = bool(module.padding)
            self.padding = (int(module.pad_left), int(module.pad_right)) if padded else (0, 0)
            self.mode = module.padding_mode if padded and module.padding_mode != "constant" else "zeros"
        self._operators = {}

    def _operator(self, channels):
        """For so many channels."""
        if channels not in self._operators:
            size = self.taps.size
            if self.up:
                geometry = check(channels, channels, size, self.stride, self.padding, 0, channels, 1, self.mode)
            else:
                geometry = check_convolution(
                    channels, channels, size, self.stride, self.padding, 1, channels, self.mode
                )
            weight = np.broadcast_to(self.taps, (channels, 1, size)).copy()
            self._operators[channels] = Operator(geometry, weight, None)
        return self._operators[channels]

    def __call__(self, x, workers=None, pointwise=None):
        return self._operator(x.shape[-2])(x, workers=workers, pointwise=pointwise)


class _Resampled:
    """An activation at another rate."""

    def __init__(self, module):
        self.up, self.act, self.down = (
            FORMS[form_of(each)](each) for each in (module.upsample, module.act, module.downsample)
        )

    def __call__(self, x, workers=None):
        return self.down(self.up(x, workers, Pointwise(None, self.act, None)), workers)


# What makes the step of a module of each form, from its numbers as they are.
FORMS = {
    "ReLU": lambda module: activations.ReLU(),
    "LeakyReLU": lambda module: activations.LeakyReLU(module.negative_slope),
    "ELU": lambda module: activations.ELU(module.alpha),
    "Tanh": lambda module: activations.Tanh(),
    "PReLU": lambda module: activations.LeakyReLU(module.weight.item()),
    "snake": _snake,
    "snake of exponentials": lambda module: _snake(module, True),
    "up": lambda module: _Resampler(module, True),
    "low-pass": lambda module: _Resampler(module, False),
    "down": lambda module: _Resampler(module.lowpass, False),
    "resampled": _Resampled,
}
_BY_CLASS = {nn.ReLU: "ReLU", nn.LeakyReLU: "LeakyReLU", nn.ELU: "ELU", nn.Tanh: "Tanh", nn.PReLU: "PReLU"}
_BY_NAME = {"UpSample1d": "up", "LowPassFilter1d": "low-pass", "DownSample1d": "down", "Activation1d": "resampled"}


def form_of(module):
    """The name of what a module computes, or None."""
    if isinstance(module, Known):
        return module._form
    kind = type(module)
    tensors = (*module.parameters(), *module.buffers())
    if "forward" in vars(module) or any(not t.is_cpu or t.dtype is not torch.float32 for t in tensors):
        return None
    if kind in _BY_CLASS:
        return None if kind is nn.PReLU and module.weight.numel() > 1 else _BY_CLASS[kind]
    forms = ["snake", "snake of exponentials"] if "snake" in kind.__name__.lower() else []
    forms += [_BY_NAME[kind.__name__]] if kind.__name__ in _BY_NAME else []
    return next((form for form in forms if _computes(module, form)), None)


def _computes(module, form):
    """Whether a copy of a module, with random numbers in it, gives what the form does for a random input."""
    generator = torch.Generator().manual_seed(0)
    channels = {t.numel() for t in module.parameters()} or {3}
    if len(channels) > 1:
        return False
    try:
        twin = copy.deepcopy(module)
        x = 2 * torch.randn(2, channels.pop(), 37, generator=generator)
        with torch.no_grad():
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.25)
            found = torch.from_numpy(FORMS[form](twin)(x.numpy()))
            expected = twin.forward(x)
            return found.shape == expected.shape and bool(
                (found - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp_min(1)
            )
    except Exception:  # of any kind: another module that has the name
        return False


# a module in a model ----------------------------------------------------------------------------------------


class Known:
    """What a module's class gets as its first base: a plain call is computed here."""

    def forward(self, x):
        if not _plain(x) or self._runs_as_before() or getattr(self, "inplace", False):
            return super().forward(x)
        return torch.from_numpy(_step_of(self)(operators.numpy_of(x), workers=torch.get_num_threads()))

    def train(self, mode=True):
        self.__dict__.pop("_step", None)
        return super().train(mode)

    def _runs_as_before(self):
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def __reduce_ex__(self, protocol):
        return _rebuilt, (self._was,), {name: value for name, value in vars(self).items() if name != "_step"}


@functools.cache
def _known(kind):
    """The subclass of a module's class."""
    return type(kind.__name__, (Known, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__, "_was": kind})


def _rebuilt(kind):
    """An empty module of that subclass, for copies and pickles."""
    return _known(kind).__new__(_known(kind))


def _plain(x):
    return operators.plain(x) and x.dtype is torch.float32 and x.dim() in (2, 3)


def _step_of(module):
    """The step of a known module, made anew when its numbers change."""
    modules = module.modules() if module._modules else (module,)
    tensors = [t for child in modules for d in (child._parameters, child._buffers) for t in d.values()]
    tensors = [t for t in tensors if t is not None]
    stamps = operators.stamp(*tensors)
    if not tensors:
        stamps = [getattr(module, "negative_slope", None), getattr(module, "alpha", None)]
    found = module.__dict__.get("_step")
    if found is None or found[0] != stamps or any(map(_is_not, tensors, found[1])) or (tensors and module.training):
        # the tensors are kept so that no other one takes their place in memory
        found = module.__dict__["_step"] = stamps, tensors, FORMS[module._form](module)
    return found[2]


def _is_not(a, b):
    return a is not b or operators.is_uncounted(a)


class Sequential(nn.Sequential):
    """`nn.Sequential` whose plain calls compute what stands in a row, layers with their activations, in NumPy."""

    def forward(self, input):
        """As torch's."""
        if not _plain(input) or torch_module._has_any_global_hook():
            return super().forward(input)
        modules, at, x = list(self), 0, input
        while at < len(modules):
            run = self._run(modules[at:], x.shape[-2]) if _plain(x) else []
            if run:
                x = torch.from_numpy(_computed(run, operators.numpy_of(x), torch.get_num_threads()))
                at += len(run)
            else:
                x = modules[at](x)
                at += 1
        return x

    @staticmethod
    def _run(modules, channels):
        """The steps of the first of these modules, up to one that is not computed here, or does not fit."""
        run = []
        for module in modules:
            step = None
            hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
            if hooks or module._backward_pre_hooks:
                break
            if isinstance(module, Layer):
                step = module.ready()
                if step is None or step.weight.dtype != np.float32 or step.geometry.in_channels != channels:
                    break
                channels = step.geometry.out_channels
            elif isinstance(module, Known) and not module._runs_as_before():
                # the first would write into the input
                step = _step_of(module) if run or not getattr(module, "inplace", False) else None
            if step is None:
                break
            run.append(step)
        return run


def _computed(run, x, workers):
    """Steps one after the other; an activation between two layers is computed with the first."""
    steps = [*run, None]
    at = 0
    while at < len(run):
        step, before = steps[at], None
        if isinstance(step, activations.Activation) and isinstance(steps[at + 1], Operator):
            step, before, at = steps[at + 1], step, at + 1
        at += 1
        if isinstance(step, Operator):
            after = steps[at] if isinstance(steps[at], activations.Activation) else None
            at += after is not None
            pointwise = None if before is None and after is None else Pointwise(before, after, None)
            x = step(x, workers=workers, pointwise=pointwise)
        else:
            x = step(x, workers=workers)
    return x


def turn(model):
    """Give the known modules of a model, and sequences with such, their subclasses; how many of each class."""
    forms = {module: form_of(module) for module in model.modules() if not isinstance(module, Known)}
    for module, form in forms.items():
        if form is not None:
            module.__dict__["_form"] = form
            module.__class__ = _known(type(module))
    found = [module for module, form in forms.items() if form is not None]
    for module in forms:
        if type(module) is nn.Sequential and sum(isinstance(child, (Layer, Known)) for child in module) > 1:
            module.__class__ = Sequential
            found.append(module)
    return Counter(type(module).__name__ for module in found)


def turn_back(model):
    """The inverse of `turn`."""
    found = [module for module in model.modules() if isinstance(module, (Known, Sequential))]
    for module in found:
        module.__class__ = nn.Sequential if type(module) is Sequential else module._was
        module.__dict__.pop("_form", None)
        module.__dict__.pop("_step", None)
    return Counter(type(module).__name__ for module in found)
