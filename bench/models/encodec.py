# SPDX-License-Identifier: MIT
"""The decoders of EnCodec 24 kHz (names as in its repository) and of Mimi, with Mimi's transformer."""

import torch
from torch import nn
from torch.nn import functional

from .blocks import Cropped, Padded, Residual, Sum, named


class LSTM(nn.Module):
    """x + lstm(x)"""

    flat = True

    def __init__(self, channels, layers=2):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x):
        steps = x.permute(2, 0, 1)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class Block(Sum):
    """Half as many channels inside; the shortcut is a convolution, and its names are the repository's."""

    def __init__(self, channels, mode):
        inside = (
            nn.ELU(),
            causal(channels, channels // 2, 3, mode),
            nn.ELU(),
            causal(channels // 2, channels, 1, mode),
        )
        super().__init__()
        self.shortcut, self.block = causal(channels, channels, 1, mode), nn.Sequential(*inside)


def causal(c_in, c_out, kernel_size, mode):
    layer = nn.Conv1d(c_in, c_out, kernel_size)
    return Padded(layer, (kernel_size - 1, 0), mode) if kernel_size > 1 else named(conv=named(conv=layer))


def causal_up(c_in, c_out, stride, **options):
    return Cropped(nn.ConvTranspose1d(c_in, c_out, 2 * stride, stride, **options), (0, stride))


def seanet(c_in, channels, ratios, last, mode, block, *before):
    layers = [causal(c_in, channels, 7, mode), *before]
    for ratio in ratios:
        layers += [nn.ELU(), causal_up(channels, channels // 2, ratio), block(channels // 2, mode)]
        channels //= 2
    return named(model=nn.Sequential(*layers, nn.ELU(), causal(channels, 1, last, mode)))


def encodec():
    return seanet(128, 512, (8, 5, 4, 2), 7, "reflect", Block, LSTM(512))


class Attention(nn.Module):
    """A layer of Mimi's transformer: causal, with rotary positions, layer scales and no biases."""

    def __init__(self, width=512, heads=8, hidden=2048):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False))
        self.scales = nn.Parameter(torch.full((2, width), 0.1))

    def rotate(self, x):
        angle = torch.arange(x.shape[2])[:, None] * 10000.0 ** (-torch.arange(x.shape[3] // 2) / (x.shape[3] // 2))
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def forward(self, x):
        split = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(
            self.rotate(split[0]), self.rotate(split[1]), split[2], is_causal=True
        )
        x = x + self.scales[0] * self.out(found.transpose(1, 2).flatten(2))
        return x + self.scales[1] * self.mlp(self.norms[1](x))


class Transformer(nn.Sequential):
    flat = True

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def mimi():
    def block(channels, mode):
        half = channels // 2
        return Residual(nn.ELU(), causal(channels, half, 3, mode), nn.ELU(), causal(half, channels, 1, mode))

    up = causal_up(512, 512, 2, groups=512, bias=False)
    transformer = Transformer(*(Attention() for _ in range(8)))
    return nn.Sequential(up, transformer, seanet(512, 1024, (8, 6, 5, 4), 3, "constant", block))
