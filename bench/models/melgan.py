# SPDX-License-Identifier: MIT
"""MelGAN (arXiv:1910.06711), reflect-padded, and Vocos (arXiv:2306.00814) with its inverse STFT as a layer."""

import torch
from torch import nn

from .blocks import Residual, Sum, same


def melgan():
    layers, channels = [same(80, 512, 7, padding_mode="reflect")], 512
    for stride in (8, 8, 2, 2):
        up = nn.ConvTranspose1d(channels, channels // 2, 2 * stride, stride, stride // 2)
        channels //= 2
        layers += [nn.LeakyReLU(0.2), up]
        for dilation in (1, 3, 9):
            layers.append(
                Sum(
                    nn.Conv1d(channels, channels, 1),
                    nn.Sequential(
                        nn.LeakyReLU(0.2),
                        same(channels, channels, 3, dilation, padding_mode="reflect"),
                        nn.LeakyReLU(0.2),
                        nn.Conv1d(channels, channels, 1),
                    ),
                )
            )
    return nn.Sequential(*layers, nn.LeakyReLU(0.2), same(channels, 1, 7, padding_mode="reflect"), nn.Tanh())


class Norm(nn.LayerNorm):
    """LayerNorm of the channels of each sample."""

    def forward(self, x):
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class Linear(nn.Linear):
    """A 1x1 convolution, as the product that the repository makes of it."""

    def forward(self, x):
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class Polar(nn.Module):
    """Log magnitudes and phases to real and imaginary parts."""

    def forward(self, x):
        magnitude, phase = x.chunk(2, 1)
        magnitude = magnitude.exp().clamp_max(100)
        return torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1)


class ConvNeXt(Residual):
    def __init__(self, width, hidden):
        super().__init__(
            same(width, width, 7, groups=width),
            Norm(width, 1e-6),
            Linear(width, hidden),
            nn.GELU(),
            Linear(hidden, width),
        )


def vocos():
    body = (ConvNeXt(512, 1536) for _ in range(8))
    head = nn.ConvTranspose1d(1026, 1, 1024, 256, 384, bias=False)
    return nn.Sequential(same(100, 512, 7), Norm(512, 1e-6), *body, Norm(512, 1e-6), Linear(512, 1026), Polar(), head)
