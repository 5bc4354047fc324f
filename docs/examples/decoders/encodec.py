# SPDX-License-Identifier: MIT
"""The decoder of EnCodec, 24 kHz, in NumPy: latent vectors to sound, whole or as they arrive.

    python docs/examples/decoders/encodec.py weights.safetensors latents.npy sound.wav [--chunk 8]

The weights are those of the repository facebookresearch/encodec, by their names there, weight_norm and all. The latents
are what its quantizer returns, (128, L)::

    model.0    causal convolution 128 -> 512, the signal reflected before its start
    model.1    x + LSTM of two layers (x)
    model.3, 6, 9, 12    after an ELU: upsampling by 8, 5, 4, 2, cropped on the right
    model.4, 7, 10, 13   shortcut (x) + block (x): ELU, convolution to half the channels, ELU, convolution 1x1 back
    model.15   after an ELU: convolution 32 -> 1
"""

import numpy as np

from convt1d import Chain, Conv1d, ConvTranspose1d, Sum
from convt1d.activations import ELU

RATE = 24000
STRIDES = (8, 5, 4, 2)  # the kernels are twice as long


class LSTM:
    """x + lstm(x), as a step of a chain; `state` has torch's names, weight_ih_l0 and so on.

    What a layer's input gives to the gates of all samples is a 1x1 convolution. A sigmoid is (1 + tanh(z / 2)) / 2, so
    one tanh computes all four gates; their weights are halved for it.
    """

    def __init__(self, state, layers=2):
        self.width = state["weight_hh_l0"].shape[1]
        halved = np.repeat(np.float32([0.5, 0.5, 1, 0.5]), self.width)[:, None]
        self.layers = []
        for i in range(layers):
            gates = Conv1d(self.width, 4 * self.width, 1)
            gates.weight = (halved * state[f"weight_ih_l{i}"])[..., None]
            gates.bias = halved[:, 0] * (state[f"bias_ih_l{i}"] + state[f"bias_hh_l{i}"])
            self.layers.append((gates, np.ascontiguousarray((halved * state[f"weight_hh_l{i}"]).T)))

    def __call__(self, x):
        return self.stream().process(x)

    def stream(self):
        return LSTMStream(self)


class LSTMStream:
    """What a chain's stream needs of a step with a memory: each layer's output and cell of the last sample."""

    def __init__(self, lstm):
        self.lstm = lstm
        self.reset()

    def reset(self):
        self.memory = None

    def process(self, chunk):
        if not chunk.shape[-1]:
            return chunk
        batch, width = chunk.shape[:-2], self.lstm.width
        if self.memory is None:
            self.memory = [np.zeros((2, *batch, width), np.float32) for _ in self.lstm.layers]
        y = chunk
        for (gates, recurrent), (h, c) in zip(self.lstm.layers, self.memory, strict=True):
            inputs = np.ascontiguousarray(np.moveaxis(gates(y), -1, 0))
            y = np.empty((*chunk.shape[-1:], *batch, width), np.float32)
            for of_input, output in zip(inputs, y, strict=True):
                i, f, g, o = np.split(np.tanh(of_input + h @ recurrent), 4, -1)
                c[...] = 0.5 * ((f + 1) * c + (i + 1) * g)
                h[...] = output[...] = (0.5 * (o + 1)) * np.tanh(c)
            y = np.moveaxis(y, 0, -1)
        return y + chunk

    def flush(self):
        """Nothing is late."""

    def state(self):
        return None if self.memory is None else [each.copy() for each in self.memory]

    def restore(self, state):
        self.memory = None if state is None else [each.copy() for each in state]


def decoder(state, prefix="decoder.model"):
    """The decoder as a chain; `state` maps torch's names to arrays."""

    def conv(name, kernel_size):
        geometry = {"padding": (kernel_size - 1, 0), "padding_mode": "reflect"}
        return Conv1d.from_state_dict(state, f"{prefix}.{name}.conv.conv", **geometry)

    def stage(at, stride):
        name = f"{prefix}.{at}.convtr.convtr"
        up = ConvTranspose1d.from_state_dict(state, name, stride=stride, padding=(0, stride))
        block = ELU(), conv(f"{at + 1}.block.1", 3), ELU(), conv(f"{at + 1}.block.3", 1)
        return Chain(ELU(), up, Sum(conv(f"{at + 1}.shortcut", 1), Chain(*block)))

    names = f"{prefix}.1.lstm."
    lstm = LSTM({name.removeprefix(names): value for name, value in state.items() if name.startswith(names)})
    stages = (stage(3 * i + 3, stride) for i, stride in enumerate(STRIDES))
    return Chain(conv("0", 7), lstm, *stages, ELU(), conv(f"{3 * len(STRIDES) + 3}", 7))


if __name__ == "__main__":
    from command import main

    main(decoder, RATE)
