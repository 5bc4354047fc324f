# SPDX-License-Identifier: MIT
"""The decoder of SNAC, 24 kHz, in NumPy: latent vectors to speech, whole or as they arrive.

    python docs/examples/decoders/snac.py weights.safetensors latents.npy speech.wav [--chunk 5]

The weights are those of the repository hubertsiuzdak/snac, by their names there, weight_norm and all. The latents are
what its quantizer returns, (768, L)::

    model.0, 1   depthwise convolution of 768 channels, convolution 1x1 to 1024
    model.2 to 5, .block   snake, upsampling by 8, 8, 4, 2, noise, and three units, dilation 1, 3, 9
        .2, .linear        x + n * convolution 1x1 (x), n a random number for each sample
        .3 to .5, .block   x + convolution 1x1 (snake (depthwise dilated convolution (snake (x))))
    model.6 to 8   snake, convolution 64 -> 1, tanh
"""

import numpy as np

from convt1d import Chain, Conv1d, ConvTranspose1d, Sum
from convt1d.activations import Snake, Tanh

RATE = 24000
STRIDES = (8, 8, 4, 2)  # the kernels are twice as long
DILATIONS = (1, 3, 9)


class Noise:
    """x + n * linear(x); `source()` makes the generator of the numbers n, so that each signal has the same."""

    def __init__(self, linear, source):
        self.linear, self.source = linear, source

    def __call__(self, x):
        return self.stream().process(x)

    def stream(self):
        return NoiseStream(self)


class NoiseStream:
    """What a chain's stream needs of a step with a memory; this one's is the generator."""

    def __init__(self, noise):
        self.noise = noise
        self.reset()

    def reset(self):
        self.generator = self.noise.source()

    def process(self, chunk):
        if not chunk.shape[-1]:
            return chunk
        numbers = self.generator.standard_normal((chunk.shape[-1], *chunk.shape[:-2]), np.float32)
        y = self.noise.linear(chunk)
        y *= np.expand_dims(numbers.T, -2)
        y += chunk
        return y

    def flush(self):
        """Nothing is late."""

    def state(self):
        return self.generator.bit_generator.state

    def restore(self, state):
        self.generator.bit_generator.state = state


def decoder(state, prefix="decoder.model", seed=0):
    """The decoder as a chain; `state` maps torch's names to arrays, `seed` begins the noise."""

    def conv(name, dilation=1, depthwise=False):
        name = f"{prefix}.{name}"
        groups = state[f"{name}.bias"].size if depthwise else 1
        return Conv1d.from_state_dict(state, name, padding="same", dilation=dilation, groups=groups)

    def snake(name):
        return Snake(state[f"{prefix}.{name}.alpha"])

    def unit(name, dilation):
        inside = snake(f"{name}.0"), conv(f"{name}.1", dilation, True), snake(f"{name}.2"), conv(f"{name}.3")
        return Sum(Chain(), Chain(*inside))

    def stage(number, stride):
        name = f"{number}.block"
        up = ConvTranspose1d.from_state_dict(state, f"{prefix}.{name}.1", stride=stride, padding=-(-stride // 2))
        noise = Noise(conv(f"{name}.2.linear"), lambda: np.random.default_rng([seed, number]))
        units = (unit(f"{name}.{at}.block", dilation) for at, dilation in enumerate(DILATIONS, 3))
        return Chain(snake(f"{name}.0"), up, noise, *units)

    stages = (stage(number, stride) for number, stride in enumerate(STRIDES, 2))
    last = len(STRIDES) + 2
    return Chain(conv("0", depthwise=True), conv("1"), *stages, snake(f"{last}"), conv(f"{last + 1}"), Tanh())


if __name__ == "__main__":
    from command import main

    main(decoder, RATE)
