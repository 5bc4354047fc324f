# SPDX-License-Identifier: MIT
"""The decoder of the Descript Audio Codec, 44.1 kHz, in NumPy: latent vectors to music, whole or as they arrive.

    python docs/examples/decoders/dac.py weights.safetensors latents.npy music.wav [--chunk 9]

The weights are those of the repository descriptinc/descript-audio-codec, by their names there: decoder.model.0 and so
on, weight_norm and all. The latents are what its quantizer returns, (1024, L)::

    model.0   convolution 1024 -> 1536
    model.1 to 4, .block   snake, upsampling by 8, 8, 4, 2, and three units, dilation 1, 3, 9
        .2 to .4, .block   x + convolution 1x1 (snake (dilated convolution (snake (x))))
    model.5 to 7   snake, convolution 96 -> 1, tanh
"""

from convt1d import Chain, Conv1d, ConvTranspose1d, Sum
from convt1d.activations import Snake, Tanh

RATE = 44100
STRIDES = (8, 8, 4, 2)  # the kernels are twice as long
DILATIONS = (1, 3, 9)


def decoder(state, prefix="decoder.model"):
    """The decoder as a chain; `state` maps torch's names to arrays."""

    def conv(name, dilation=1):
        return Conv1d.from_state_dict(state, f"{prefix}.{name}", padding="same", dilation=dilation)

    def snake(name):
        return Snake(state[f"{prefix}.{name}.alpha"])

    def unit(name, dilation):
        inside = snake(f"{name}.0"), conv(f"{name}.1", dilation), snake(f"{name}.2"), conv(f"{name}.3")
        return Sum(Chain(), Chain(*inside))

    def stage(name, stride):
        up = ConvTranspose1d.from_state_dict(state, f"{prefix}.{name}.1", stride=stride, padding=-(-stride // 2))
        units = (unit(f"{name}.{number}.block", dilation) for number, dilation in enumerate(DILATIONS, 2))
        return Chain(snake(f"{name}.0"), up, *units)

    stages = (stage(f"{number}.block", stride) for number, stride in enumerate(STRIDES, 1))
    last = len(STRIDES) + 1
    return Chain(conv("0"), *stages, snake(f"{last}"), conv(f"{last + 1}"), Tanh())


if __name__ == "__main__":
    from command import main

    main(decoder, RATE)
