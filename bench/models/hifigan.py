# SPDX-License-Identifier: MIT
"""HiFi-GAN V1 to V3 (arXiv:2010.05646), and BigVGAN (arXiv:2206.04658), whose activations are resampled."""

import numpy as np
import torch
from torch import nn

from .blocks import Activation1d, Residual, Snake, Sum, same


def leaky(channels):
    return nn.LeakyReLU(0.1)


def resampled_snake(channels):
    """A snake at twice the rate, between low-pass filters, depthwise."""
    n = np.arange(12) - 5.5
    taps = torch.tensor(np.sinc(n / 2) / 2 * np.kaiser(12, 4.66), dtype=torch.float32)
    return Activation1d(Snake(channels, two=True), taps / taps.sum())


def block(channels, kernel_size, dilations, twice, activation):
    def layers(dilation):
        return (
            layer
            for d in ((dilation, 1) if twice else (dilation,))
            for layer in (activation(channels), same(channels, channels, kernel_size, d))
        )

    return nn.Sequential(*(Residual(*layers(dilation)) for dilation in dilations))


def generator(mels, channels, upsample, blocks, twice=True, activation=leaky):
    """`upsample`: (kernel size, stride) of each stage; `blocks`: (kernel size, dilations) of each one's blocks."""
    layers = [same(mels, channels, 7)]
    for kernel_size, stride in upsample:
        up = nn.ConvTranspose1d(channels, channels // 2, kernel_size, stride, (kernel_size - stride) // 2)
        channels //= 2
        if activation is leaky:
            layers.append(nn.LeakyReLU(0.1))
        branches = (block(channels, k, dilations, twice, activation) for k, dilations in blocks)
        layers += [up, Sum(*branches, scale=1 / len(blocks))]
    last = nn.LeakyReLU(0.01) if activation is leaky else activation(channels)
    return nn.Sequential(*layers, last, same(channels, 1, 7), nn.Tanh())


UPSAMPLE = ((16, 8), (16, 8), (4, 2), (4, 2))
BLOCKS = tuple((kernel_size, (1, 3, 5)) for kernel_size in (3, 7, 11))


def v1():
    return generator(80, 512, UPSAMPLE, BLOCKS)


def v2():
    return generator(80, 128, UPSAMPLE, BLOCKS)


def v3():
    return generator(80, 256, ((16, 8), (16, 8), (8, 4)), ((3, (1, 2)), (5, (2, 6)), (7, (3, 12))), twice=False)


def bigvgan():
    return generator(100, 512, UPSAMPLE, BLOCKS, activation=resampled_snake)
