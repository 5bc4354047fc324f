# SPDX-License-Identifier: MIT
"""What the decoders are built of, in torch; `convert.py` knows each of these modules.

A module works on (N, C, L) and on (N, C, 1, L), the form with which ONNX Runtime is faster.
"""

import torch
from torch import nn
from torch.nn import functional


class Padded(nn.Module):
    """A convolution, named as in EnCodec, after torch's pad with two widths, as causal models have it."""

    def __init__(self, conv, pads, mode="constant"):
        super().__init__()
        self.conv = named(conv=conv)
        self.pads, self.mode = pads, mode

    def forward(self, x):
        return self.conv(functional.pad(x, self.pads if x.ndim == 3 else (*self.pads, 0, 0), self.mode))


class Cropped(nn.Module):
    """A transposed convolution, named as in EnCodec, that is cropped by two widths."""

    def __init__(self, convtr, widths):
        super().__init__()
        self.convtr = named(convtr=convtr)
        self.widths = widths

    def forward(self, x):
        return crop(self.convtr(x), self.widths)


def crop(x, widths):
    left, right = widths
    return x[..., left : x.shape[-1] - right]


class Sum(nn.Module):
    """Branches of one input, added and scaled."""

    def __init__(self, *branches, scale=1.0):
        super().__init__()
        self.scale = scale
        for number, branch in enumerate(branches):
            self.add_module(str(number), branch)

    def forward(self, x):
        first, *others = (branch(x) for branch in self.children())
        for other in others:
            first = first + other
        return first if self.scale == 1 else first * self.scale


class Residual(nn.Module):
    """x + f(x)"""

    def __init__(self, *layers):
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.block(x)


class Snake(nn.Module):
    """x + sin(alpha x)^2 / beta; beta is alpha unless `two`."""

    def __init__(self, channels, two=False):
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, channels, 1) + 0.5)
        self.beta = nn.Parameter(torch.rand(1, channels, 1) + 0.5) if two else None

    def forward(self, x):
        alpha, beta = (
            p.view(1, -1, *[1] * (x.ndim - 2)) for p in (self.alpha, self.alpha if self.beta is None else self.beta)
        )
        return x + (beta + 1e-9).reciprocal() * torch.sin(alpha * x).pow(2)


class Resampler(nn.Module):
    """BigVGAN's low-pass filter before every other sample is left out, or after zeros are put between samples."""

    def __init__(self, taps):
        super().__init__()
        self.kernel_size, self.stride, self.padding_mode = len(taps), 2, "replicate"
        self.register_buffer("filter", taps[None, None], persistent=False)

    def taps(self, x, factor=1):
        """For all channels of x, and the operator's other arguments."""
        taps = factor * self.filter.expand(int(x.shape[1]), -1, -1)  # a number, as torch's exporter needs it
        flat = x.ndim == 3
        return (taps if flat else taps.unsqueeze(2)), (self.stride if flat else (1, self.stride))


class UpSample1d(Resampler):
    """Names as in BigVGAN."""

    def __init__(self, taps):
        super().__init__(taps)
        self.ratio, self.pad = self.stride, self.kernel_size // self.stride - 1
        self.pad_left = self.pad_right = self.pad * self.stride + (self.kernel_size - self.stride) // 2

    def forward(self, x):
        taps, stride = self.taps(x, self.ratio)
        x = functional.pad(x, (self.pad, self.pad) if x.ndim == 3 else (self.pad, self.pad, 0, 0), "replicate")
        up = functional.conv_transpose1d if x.ndim == 3 else functional.conv_transpose2d
        return up(x, taps, stride=stride, groups=len(taps))[..., self.pad_left : -self.pad_right]


class LowPassFilter1d(Resampler):
    """Names as in BigVGAN."""

    def __init__(self, taps):
        super().__init__(taps)
        self.padding, self.pad_left, self.pad_right = True, self.kernel_size // 2 - 1, self.kernel_size // 2

    def forward(self, x):
        taps, stride = self.taps(x)
        pads = (self.pad_left, self.pad_right)
        x = functional.pad(x, pads if x.ndim == 3 else (*pads, 0, 0), "replicate")
        down = functional.conv1d if x.ndim == 3 else functional.conv2d
        return down(x, taps, stride=stride, groups=len(taps))


class Activation1d(nn.Module):
    """An activation at twice the rate; names as in BigVGAN."""

    def __init__(self, activation, taps):
        super().__init__()
        self.act, self.upsample, self.downsample = activation, UpSample1d(taps), LowPassFilter1d(taps)

    def forward(self, x):
        return self.downsample(self.act(self.upsample(x)))


class Noise(nn.Module):
    """x + n * linear(x), with n one number a sample; the same sequence in every call, so that results compare."""

    def __init__(self, channels, most=1 << 19):
        super().__init__()
        self.linear = nn.Conv1d(channels, channels, 1, bias=False)
        self.register_buffer("sequence", torch.randn(most), persistent=False)

    def forward(self, x):
        return x + self.sequence[: x.shape[-1]] * self.linear(x)


class Flat(nn.Module):
    """A module that takes (N, C, L) only, in a model of the other form."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x.squeeze(2)).unsqueeze(2)


def named(**modules):
    """Modules one after another under names of their own, so that a state has a repository's names."""
    chain = nn.Sequential()
    for name, module in modules.items():
        chain.add_module(name, module)
    return chain


def same(c_in, c_out, kernel_size, dilation=1, **options):
    """A convolution that keeps the length."""
    return nn.Conv1d(c_in, c_out, kernel_size, dilation=dilation, padding=dilation * (kernel_size - 1) // 2, **options)


def unit_variance(model, *inputs):
    """Scale each convolution so that its output has variance 1 on these inputs; return the model, in eval mode.

    With torch's initial weights a deep decoder's output hardly depends on its input. What a residual unit adds is a
    third of that, so that errors do not grow from unit to unit, as they do not in a trained model.
    """
    units = [module for module in model.modules() if isinstance(module, Residual)]
    added = {[each for each in unit.modules() if isinstance(each, nn.Conv1d)][-1:][0] for unit in units}

    def hook(module, _, y):
        scale = (0.3 if module in added else 1) / y.std().clamp_min(1e-6)
        module.weight *= scale
        if module.bias is not None:
            module.bias *= scale
        return y * scale

    kinds = (nn.Conv1d, nn.ConvTranspose1d)
    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        model.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return model.requires_grad_(False)
