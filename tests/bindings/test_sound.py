# SPDX-License-Identifier: MIT
"""Sound files: SciPy and soundfile as oracles, headers as pipes leave them, damaged ones."""

import struct

import numpy as np
import pytest
import scipy.io.wavfile

from convt1d import sound

PCM = (np.sin(np.arange(600) / 9) * 20000).astype("<i2").reshape(300, 2)


def wave(path, data=PCM.nbytes, riff=None, form=1, bits=16, extensible=False, chunks=b"", samples=None):
    samples = PCM.tobytes() if samples is None else samples
    frame = 2 * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else form, 2, 8000, 8000 * frame, frame, bits)
    if extensible:
        head += struct.pack("<HHIH", 22, bits, 3, form) + b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + chunks + b"data" + struct.pack("<I", data) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body)
    return path


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36, 2_000_000_000, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("chunks", [b"", b"LIST" + struct.pack("<I", 5) + b"INFOx\0"])
def test_sizes_that_were_not_known(tmp_path, size, extensible, chunks):
    path = wave(tmp_path / "x.wav", size, min(size + 36, 0xFFFFFFFF) if size else 0, 1, 16, extensible, chunks)
    samples, rate = sound.read(path)
    assert rate == 8000
    np.testing.assert_array_equal(samples, PCM.T)


@pytest.mark.parametrize("size", [PCM.nbytes + 4, 2**31, 10**9])
def test_a_file_that_was_cut(tmp_path, size):
    with pytest.raises(ValueError, match=f"cut short: its data chunk states {size} bytes, 1200 are there"):
        sound.read(wave(tmp_path / "x.wav", size))


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i4", "<f4", "<f8"])
def test_as_scipy(tmp_path, dtype):
    frames = (PCM // 256 + 128 if dtype == "u1" else PCM).astype(dtype)
    scipy.io.wavfile.write(tmp_path / "x.wav", 8000, frames)
    samples, _ = sound.read(tmp_path / "x.wav")
    assert samples.dtype == dtype
    np.testing.assert_array_equal(samples, frames.T)


def test_24_bits_and_rf64(tmp_path):
    raw = np.arange(3 * 2 * 50, dtype=np.uint8).tobytes()
    samples, _ = sound.read(wave(tmp_path / "x.wav", len(raw), bits=24, samples=raw))
    np.testing.assert_array_equal(samples, scipy.io.wavfile.read(tmp_path / "x.wav")[1].T)
    data = wave(tmp_path / "y.wav", 0xFFFFFFFF, 0xFFFFFFFF).read_bytes()
    wide = b"ds64" + struct.pack("<IQQQI", 28, 0, PCM.nbytes, 300, 0)
    (tmp_path / "y.wav").write_bytes(b"RF64" + data[4:12] + wide + data[12:] + b"LIST\4\0\0\0abcd")
    np.testing.assert_array_equal(sound.read(tmp_path / "y.wav")[0], PCM.T)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data[:20], "no data chunk"),
        (lambda data: data.replace(b"fmt ", b"tmf "), "no format chunk"),
        (lambda data: data[:22] + b"\0\0" + data[24:], "0 channels of 16 bits in frames of 4 bytes"),
    ],
)
def test_damaged(tmp_path, change, match):
    path = wave(tmp_path / "x.wav")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=match):
        sound.read(path)


def test_other_formats(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for suffix in (".flac", ".ogg", ".mp3", ".aiff"):
        soundfile.write(tmp_path / f"x{suffix}", PCM, 16000)
        samples, rate = sound.read(tmp_path / f"x{suffix}")
        assert (len(samples), rate) == (2, 16000)
        if suffix in (".flac", ".aiff"):
            np.testing.assert_array_equal(samples * 2**15, PCM.T)
    (tmp_path / "x.flac").write_bytes(b"fLaC nothing")
    with pytest.raises(ValueError, match=r"x\.flac"):
        sound.read(tmp_path / "x.flac")
