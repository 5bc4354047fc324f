# SPDX-License-Identifier: MIT
"""Demucs v3's decoder, Conv-TasNet (arXiv:1809.07454) and PhaseNet, as in SeisBench, batch norms folded."""

import torch
from torch import nn
from torch.nn import functional

from .blocks import crop, same


class Demucs(nn.Module):
    """Six stages; each adds the encoder's output of its size, then convolves, gates and upsamples."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList()
        for channels in (2048, 1024, 512, 256, 128, 64):
            last = channels == 64
            up = nn.ConvTranspose1d(channels, 8 if last else channels // 2, 8, 4)
            before = (same(channels, 2 * channels, 3), nn.GLU(1))
            self.stages.append(nn.Sequential(*before, up, *([] if last else [nn.ReLU()])))

    def forward(self, x, *skips):
        for stage, skip in zip(self.stages, skips, strict=True):
            x = stage(x + skip)
        return x


def demucs_inputs(frames):
    shapes = []
    for channels in (2048, 1024, 512, 256, 128, 64):
        shapes.append((1, channels, frames))
        frames = 4 * frames + 4
    return [shapes[0], *shapes]


class Separator(nn.Module):
    """A block of Conv-TasNet: its residual, and what it gives to the skip path."""

    def __init__(self, dilation, width=128, hidden=512):
        super().__init__()
        norms = (nn.GroupNorm(1, hidden, 1e-8) for _ in range(2))
        self.inside = nn.Sequential(
            nn.Sequential(nn.Conv1d(width, hidden, 1), nn.PReLU()),
            next(norms),
            nn.Sequential(same(hidden, hidden, 3, dilation, groups=hidden), nn.PReLU()),
            next(norms),
        )
        self.residual, self.skip = nn.Conv1d(hidden, width, 1), nn.Conv1d(hidden, width, 1)

    def forward(self, x):
        inside = self.inside(x)
        return x + self.residual(inside), self.skip(inside)


class ConvTasNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, 512, 16, 8, bias=False), nn.ReLU())
        self.bottleneck = nn.Sequential(nn.GroupNorm(1, 512, 1e-8), nn.Conv1d(512, 128, 1))
        self.blocks = nn.ModuleList(Separator(2**i) for _ in range(3) for i in range(8))
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(128, 1024, 1))
        self.decoder = nn.ConvTranspose1d(512, 1, 16, 8, bias=False)

    def forward(self, x):
        encoded = self.encoder(x)
        x, total = self.bottleneck(encoded), 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        masks = self.mask(total).sigmoid().chunk(2, 1)
        return torch.cat([self.decoder(mask * encoded) for mask in masks], 1)


class PhaseNet(nn.Module):
    def __init__(self, root=8, depth=5):
        super().__init__()

        def unit(layer):
            return nn.Sequential(layer, nn.ReLU())

        widths = [root * 2**i for i in range(depth)]
        self.first = unit(same(3, root, 7))
        self.same = nn.ModuleList(unit(same(a, b, 7)) for a, b in zip([root, *widths], widths, strict=False))
        self.down = nn.ModuleList(unit(nn.Conv1d(c, c, 7, 4, 3 if c == root else 0)) for c in widths[:-1])
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(unit(nn.ConvTranspose1d(a, b, 7, 4)) for a, b in pairs)
        self.merge = nn.ModuleList(unit(same(2 * b, b, 7)) for _, b in pairs)
        self.last = nn.Conv1d(root, 3, 1)

    def forward(self, x):
        x, skips = self.first(x), []
        for same_, down, pads in zip(self.same, self.down, ((0, 0), (2, 3), (1, 3), (2, 3)), strict=False):
            x = same_(x)
            skips.append(x)
            x = down(functional.pad(x, pads))
        x = self.same[-1](x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = crop(up(x), (1, 2))
            offset = (x.shape[-1] - skip.shape[-1]) // 2
            x = merge(torch.cat([skip, x[..., offset : offset + skip.shape[-1]]], 1))
        return self.last(x).softmax(1)
