# SPDX-License-Identifier: MIT
"""Audio decoders in torch with random weights, weight_norm folded, written anew from papers and configurations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from . import dac, encodec, hifigan, kokoro, melgan, separation
from .blocks import unit_variance


@dataclass(frozen=True)
class Decoder:
    """A decoder as it is measured.

    `frames` of the input are the whole signal, and `hop` samples of the output belong to each; `rate` is the output's,
    in Hz. `streams`: it is a chain with a receptive field, so that onnxruntime can decode chunks that overlap.
    """

    title: str
    build: Callable
    channels: int
    frames: int
    hop: int
    rate: int
    streams: bool = True
    shapes: Callable | None = None  # of its inputs for so many frames, where there are several
    bar: float | None = None  # best peer / ours, whole signal, one thread
    chunk_bar: float | None = None  # likewise for chunks of 0.1 s

    def input_shapes(self, frames):
        return self.shapes(frames) if self.shapes else [(1, self.channels, frames)]

    def inputs(self, frames, seed=0):
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(shape, np.float32) for shape in self.input_shapes(frames)]

    def model(self):
        """The torch module; the same weights each time."""
        torch.manual_seed(0)
        model = self.build()
        return unit_variance(model, *map(torch.from_numpy, self.inputs(min(self.frames, 3000), seed=1)))

    @property
    def seconds(self):
        return self.frames * self.hop / self.rate


DECODERS = {
    "hifigan_v1": Decoder("HiFi-GAN V1", hifigan.v1, 80, 100, 256, 22050, bar=1.18, chunk_bar=4.5),
    "hifigan_v2": Decoder("HiFi-GAN V2", hifigan.v2, 80, 200, 256, 22050, bar=1.2),
    "hifigan_v3": Decoder("HiFi-GAN V3", hifigan.v3, 80, 200, 256, 22050, bar=1.1, chunk_bar=3.0),
    "dac": Decoder("DAC 44 kHz", dac.dac, 1024, 43, 512, 44100, bar=1.4, chunk_bar=3.5),
    "oobleck": Decoder("Oobleck", dac.oobleck, 64, 5, 2048, 44100, bar=1.4),
    "snac": Decoder("SNAC 24 kHz", dac.snac, 768, 48, 512, 24000, bar=1.7, chunk_bar=6.0),
    "encodec": Decoder("EnCodec 24 kHz", encodec.encodec, 128, 75, 320, 24000, bar=1.3),
    "mimi": Decoder("Mimi", encodec.mimi, 512, 13, 1920, 24000, streams=False, bar=1.25),
    "bigvgan": Decoder("BigVGAN base", hifigan.bigvgan, 100, 43, 256, 24000, bar=2.2),
    "kokoro": Decoder("Kokoro", kokoro.Kokoro, 512, 40, 600, 24000, False, kokoro.inputs, bar=1.2),
    "melgan": Decoder("MelGAN", melgan.melgan, 80, 100, 256, 22050, bar=1.15),
    "demucs": Decoder("Demucs v3", separation.Demucs, 2048, 22, 4096, 88200, False, separation.demucs_inputs, bar=1.4),
    "conv_tasnet": Decoder("Conv-TasNet", separation.ConvTasNet, 1, 16000, 1, 8000, streams=False, bar=1.05),
    "vocos": Decoder("Vocos", melgan.vocos, 100, 188, 256, 24000, streams=False),
    "phasenet": Decoder("PhaseNet", separation.PhaseNet, 3, 3001, 1, 100, streams=False),
}
