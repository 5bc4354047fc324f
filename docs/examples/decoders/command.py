# SPDX-License-Identifier: MIT
"""The command line that the decoders here share: decode a file, whole or in chunks, and say how long it took."""

import argparse
import time

import numpy as np
import scipy.io.wavfile


def load(path):
    """The arrays of a .safetensors file, by their names."""
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise SystemExit(f"{error}; pip install 'convt1d[safetensors]'") from error
    return load_file(path)


def decode(chain, x, chunk):
    """Audio of the frames `x` (C, L): whole, or in chunks of so many frames; and the seconds of each."""
    seconds, pieces = [], []
    stream = chain.stream() if chunk else None
    for start in range(0, x.shape[-1], chunk or x.shape[-1]):
        begun = time.perf_counter()
        pieces.append(stream.process(x[:, start : start + chunk]) if chunk else chain(x))
        seconds.append(time.perf_counter() - begun)
    return np.concatenate([*pieces, *([stream.flush()] if chunk else [])], -1), seconds


def main(build, rate, arguments=None):
    """Read weights and frames, decode, write a .wav file."""
    parser = argparse.ArgumentParser(description="Decode frames into audio, in NumPy.")
    parser.add_argument("weights", help="the model's weights, .safetensors")
    parser.add_argument("frames", help="its input (C, L), .npy")
    parser.add_argument("output", help="the .wav file to write")
    parser.add_argument("--chunk", type=int, default=0, metavar="FRAMES", help="stream, so many frames at a time")
    options = parser.parse_args(arguments)
    chain, x = build(load(options.weights)), np.load(options.frames)
    audio, seconds = decode(chain, x, options.chunk)
    length = audio.shape[-1] / rate
    print(f"{length:.2f} s of audio in {sum(seconds):.2f} s, the slowest chunk {1e3 * max(seconds):.1f} ms")
    scipy.io.wavfile.write(options.output, rate, np.round(np.clip(audio.T, -1, 1) * 32767).astype(np.int16))
