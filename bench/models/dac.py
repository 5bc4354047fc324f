# SPDX-License-Identifier: MIT
"""The decoders of DAC 44 kHz, of Stable Audio's Oobleck and of SNAC 24 kHz; names as in the first and the last."""

import math

from torch import nn

from .blocks import Noise, Residual, Snake, named, same


class Unit(Residual):
    """Snake, dilated convolution, snake, 1x1."""

    def __init__(self, channels, dilation, groups, two):
        super().__init__(
            Snake(channels, two),
            same(channels, channels, 7, dilation, groups=groups),
            Snake(channels, two),
            nn.Conv1d(channels, channels, 1),
        )


def stage(c_in, c_out, stride, depthwise, two):
    up = nn.ConvTranspose1d(c_in, c_out, 2 * stride, stride, math.ceil(stride / 2), stride % 2)
    noise = [Noise(c_out)] if depthwise else []
    units = (Unit(c_out, dilation, c_out if depthwise else 1, two) for dilation in (1, 3, 9))
    return named(block=nn.Sequential(Snake(c_in, two), up, *noise, *units))


def decoder(latent, widths, strides, d_out=1, *, depthwise=False, two=False):
    first = [same(latent, latent, 7, groups=latent), nn.Conv1d(latent, widths[0], 1)]
    layers = first if depthwise else [same(latent, widths[0], 7)]
    for *channels, stride in zip(widths, widths[1:], strides, strict=False):
        layers.append(stage(*channels, stride, depthwise, two))
    last = [Snake(widths[-1], two), same(widths[-1], d_out, 7, bias=not two)]
    return named(model=nn.Sequential(*layers, *last, *([] if two else [nn.Tanh()])))


def dac():
    return decoder(1024, (1536, 768, 384, 192, 96), (8, 8, 4, 2))


def oobleck():
    return decoder(64, (2048, 1024, 512, 256, 128, 128), (8, 8, 4, 4, 2), 2, two=True)


def snac():
    return decoder(768, (1024, 512, 256, 128, 64), (8, 8, 4, 2), depthwise=True)
