# SPDX-License-Identifier: MIT
"""HiFi-GAN V1 in NumPy: mel spectra to speech, whole or as they arrive.

    python docs/examples/decoders/hifigan.py generator.safetensors mel.npy speech.wav [--chunk 9]

The weights are those of the generator in the repository jik876/hifi-gan, by their names there: conv_pre, ups.0,
resblocks.0.convs1.0, ..., conv_post. weight_norm may be left in::

    mel (80, L) -> conv_pre -> 4 x [ leaky, ups.i, mean of three blocks ] -> leaky, conv_post, tanh -> audio (1, 256 L)
    a block: 3 x [ x + convs2.j(leaky(convs1.j(leaky(x)))) ], kernel size 3, 7 or 11, dilation 1, 3, 5 in convs1
"""

from convt1d import Chain, Conv1d, ConvTranspose1d, Sum
from convt1d.activations import LeakyReLU, Tanh

RATE = 22050
STRIDES = (8, 8, 2, 2)  # the kernels are twice as long
DILATIONS = (1, 3, 5)
BLOCKS = 3  # beside each other after each upsampling


def generator(state):
    """The generator as a chain; `state` maps torch's names to arrays."""

    def conv(name, dilation=1):
        return Conv1d.from_state_dict(state, name, padding="same", dilation=dilation)

    def unit(name, j, dilation):
        first, second = conv(f"{name}.convs1.{j}", dilation), conv(f"{name}.convs2.{j}")
        return Sum(Chain(), Chain(LeakyReLU(0.1), first, LeakyReLU(0.1), second))

    def block(number):
        return Chain(*(unit(f"resblocks.{number}", j, dilation) for j, dilation in enumerate(DILATIONS)))

    steps = [conv("conv_pre")]
    for i, stride in enumerate(STRIDES):
        up = ConvTranspose1d.from_state_dict(state, f"ups.{i}", stride=stride, padding=stride // 2)
        blocks = (block(BLOCKS * i + j) for j in range(BLOCKS))
        steps += [LeakyReLU(0.1), up, Sum(*blocks, scale=1 / BLOCKS)]
    return Chain(*steps, LeakyReLU(0.01), conv("conv_post"), Tanh())


if __name__ == "__main__":
    from command import main

    main(generator, RATE)
