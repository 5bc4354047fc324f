# SPDX-License-Identifier: MIT
"""The HiFi-GAN V1 generator, with random weights (Kong, Kim and Bae, arXiv:2010.05646); names as in jik876/hifi-gan."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

MELS, HOP = 80, 256
# (C_in, C_out, K, stride) of the four transposed layers
UPSAMPLE = ((512, 256, 16, 8), (256, 128, 16, 8), (128, 64, 4, 2), (64, 32, 4, 2))
KERNELS, DILATIONS = (3, 7, 11), (1, 3, 5)


class ResBlock(nn.Module):
    def __init__(self, channels, kernel_size, norm):
        super().__init__()
        half = (kernel_size - 1) // 2
        convolutions = [
            nn.ModuleList(nn.Conv1d(channels, channels, kernel_size, dilation=d, padding=half * d) for d in dilations)
            for dilations in (DILATIONS, (1, 1, 1))
        ]
        self.convs1, self.convs2 = (nn.ModuleList(map(norm, each)) for each in convolutions)

    def forward(self, x):
        for first, second in zip(self.convs1, self.convs2, strict=True):
            inner = second(nn.functional.leaky_relu(first(nn.functional.leaky_relu(x, 0.1)), 0.1))
            x = x + inner
        return x


class Generator(nn.Module):
    """(N, 80, L) -> (N, 1, 256 L)"""

    def __init__(self, norm=weight_norm):
        super().__init__()

        def loud(module):  # with torch's initial weights the output would hardly depend on the input
            module.weight.data *= 2.5
            return norm(module)

        self.conv_pre = loud(nn.Conv1d(MELS, 512, 7, padding=3))
        self.ups = nn.ModuleList(loud(nn.ConvTranspose1d(i, o, k, s, (k - s) // 2)) for i, o, k, s in UPSAMPLE)
        self.resblocks = nn.ModuleList(ResBlock(o, k, norm) for _, o, _, _ in UPSAMPLE for k in KERNELS)
        self.conv_post = loud(nn.Conv1d(32, 1, 7, padding=3))

    def forward(self, x):
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(nn.functional.leaky_relu(x, 0.1))
            blocks = self.resblocks[i * len(KERNELS) : (i + 1) * len(KERNELS)]
            x = sum(block(x) for block in blocks) / len(blocks)
        return torch.tanh(self.conv_post(nn.functional.leaky_relu(x)))
