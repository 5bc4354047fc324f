# SPDX-License-Identifier: MIT
"""The decoder of Kokoro and StyleTTS 2: iSTFTNet under adaptive instance norms; its source signal is an input."""

import torch
from torch import nn

from .blocks import Snake, same

STYLE = 128


class AdaIN(nn.Module):
    """Instance norm whose scale and offset come from the style."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.fc = nn.InstanceNorm1d(channels, affine=True), nn.Linear(STYLE, 2 * channels)

    def forward(self, x, style):
        gamma, beta = self.fc(style).reshape(1, -1, *[1] * (x.ndim - 2)).chunk(2, 1)
        return (1 + gamma) * self.norm(x) + beta


class Block(nn.Module):
    """HiFi-GAN's block with norms and snakes."""

    def __init__(self, channels, kernel_size):
        super().__init__()
        self.norms = nn.ModuleList(AdaIN(channels) for _ in range(6))
        self.layers = nn.ModuleList(
            nn.Sequential(Snake(channels), same(channels, channels, kernel_size, d)) for d in (1, 1, 3, 1, 5, 1)
        )

    def forward(self, x, style):
        for i in (0, 2, 4):
            inside = self.layers[i](self.norms[i](x, style))
            x = x + self.layers[i + 1](self.norms[i + 1](inside, style))
        return x


class Stage(nn.Module):
    """A residual block of the part before the generator, which may double the rate."""

    def __init__(self, c_in, c_out, double=False):
        super().__init__()
        self.norms = nn.ModuleList(AdaIN(c) for c in (c_in, c_out))
        up = [nn.ConvTranspose1d(c_in, c_in, 3, 2, 1, 1, groups=c_in)] if double else []
        self.first = nn.Sequential(nn.LeakyReLU(0.2), *up, same(c_in, c_out, 3))
        self.second = nn.Sequential(nn.LeakyReLU(0.2), same(c_out, c_out, 3))
        self.shortcut = nn.Conv1d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()
        self.double = double

    def forward(self, x, style):
        inside = self.second(self.norms[1](self.first(self.norms[0](x, style)), style))
        wide = torch.repeat_interleave(x, 2, -1) if self.double else x
        return (inside + self.shortcut(wide)) * 2**-0.5


class Kokoro(nn.Module):
    def __init__(self):
        super().__init__()
        self.pitch, self.energy = (nn.Conv1d(1, 1, 3, 2, 1) for _ in range(2))
        self.text = nn.Conv1d(512, 64, 1)
        self.encode = Stage(514, 1024)
        self.decode = nn.ModuleList(Stage(1090, 512 if last else 1024, last) for last in (False, False, False, True))
        self.ups = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(0.1), nn.ConvTranspose1d(2 * c, c, k, s, (k - s) // 2))
            for c, k, s in ((256, 20, 10), (128, 12, 6))
        )
        self.sources = nn.ModuleList((nn.Conv1d(22, 256, 12, 6, 3), nn.Conv1d(22, 128, 1)))
        self.source_blocks = nn.ModuleList((Block(256, 7), Block(128, 11)))
        self.blocks = nn.ModuleList(nn.ModuleList(Block(c, k) for k in (3, 7, 11)) for c in (256, 128))
        self.post = nn.Sequential(nn.LeakyReLU(0.01), same(128, 22, 7))
        self.synthesis = nn.ConvTranspose1d(22, 1, 20, 5, 10, bias=False)

    def forward(self, text, pitch, energy, style, source):
        pitch, energy = self.pitch(pitch), self.energy(energy)
        x = self.encode(torch.cat([text, pitch, energy], 1), style)
        text = self.text(text)
        for stage in self.decode:
            x = stage(torch.cat([x, text, pitch, energy], 1), style)
        for i, up in enumerate(self.ups):
            x = up(x)
            if i == 1:
                x = torch.cat([x[..., 1:2], x], -1)  # one reflected sample
            x = x + self.source_blocks[i](self.sources[i](source), style)
            x = sum(block(x, style) for block in self.blocks[i]) / 3
        magnitude, phase = self.post(x).chunk(2, 1)
        magnitude, phase = magnitude.clamp_max(5).exp(), phase.sin()
        return self.synthesis(torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1))


def inputs(frames):
    return [(1, 512, frames), (1, 1, 2 * frames), (1, 1, 2 * frames), (1, STYLE), (1, 22, 120 * frames + 1)]
