# SPDX-License-Identifier: MIT
"""Sound files: WAVE by a reader of our own, mapped where it can be, all others by the package soundfile.

A program that writes WAVE to a pipe cannot go back and state how much it wrote. The known numbers that stand there
instead mean "to the end of the file"; any other number that the file falls short of means that it was cut.
"""

from __future__ import annotations

import os
import struct

import numpy as np

from . import files

#: What soundfile reads, by suffix.
OTHERS = (".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")

_INTEGERS, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE  # formats of samples
_TYPES = {
    (_INTEGERS, 8): "u1",
    (_INTEGERS, 16): "<i2",
    (_INTEGERS, 32): "<i4",
    (_INTEGERS, 64): "<i8",
    (_FLOATS, 32): "<f4",
    (_FLOATS, 64): "<f8",
}


def read(path) -> tuple[np.ndarray, int]:
    """Samples of a sound file, and their rate.

    Parameters
    ----------
    path : pathlib.Path
        A WAVE file (also RF64 and WAVE_FORMAT_EXTENSIBLE), or one that soundfile reads.

    Returns
    -------
    samples : ndarray, shape (C, L)
        As the file has them, 24 bits in the upper ones of an int32; float32 from soundfile.
    rate : int
        Samples per second.

    Raises
    ------
    ValueError
        The file is damaged or cut short, or of no known format.
    ImportError
        The format needs soundfile; the message names the extra.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import scipy.io.wavfile
    >>> from convt1d import sound
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.wav")
    ...     scipy.io.wavfile.write(path, 8000, np.zeros((5, 2), np.int16))
    ...     samples, rate = sound.read(path)
    >>> samples.shape, rate
    ((2, 5), 8000)
    """
    files.check_regular(path)
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[:4] in (b"RIFF", b"RF64") and magic[8:] == b"WAVE":
            found = _wave(file, path, struct.unpack("<I", magic[4:8])[0])
            if found is not None:
                return found
        elif path.suffix.lower() == ".wav":
            raise ValueError("it is no WAVE file: it begins with neither RIFF nor RF64")
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            f"{path} is no WAVE file of plain samples; others need soundfile ({error}): pip install 'convt1d[audio]'"
        ) from error
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(str(error)) from error
    return samples.T, rate


def _wave(file, path, stated):
    """Samples and rate of a WAVE file, behind its first 12 bytes; None if its samples are packed."""
    total, wide, form = os.path.getsize(path), None, b""
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it has no data chunk")
        kind, size = head[:4], struct.unpack("<I", head[4:])[0]
        if kind == b"data":
            break
        start = file.tell()
        if kind == b"fmt ":
            form = file.read(min(size, 40))
        elif kind == b"ds64":  # sizes of an RF64 file: of all, of the data
            wide = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        file.seek(start + size + size % 2)
    if len(form) < 16:
        raise ValueError("it has no format chunk before its data")
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = struct.unpack("<H", form[24:26])[0]
    dtype = "u1" if (tag, bits) == (_INTEGERS, 24) else _TYPES.get((tag, bits))
    if dtype is None:
        return None
    if channels < 1 or frame != channels * bits // 8:
        raise ValueError(f"it states {channels} channels of {bits} bits in frames of {frame} bytes")
    start, size = file.tell(), size if wide is None else wide
    left = total - start
    if size > left or (size == 0 and stated + 8 != total):
        if not _unknown(size):
            raise ValueError(f"it is cut short: its data chunk states {size} bytes, {left} are there")
        size = left
    count = size // frame
    if count == 0:
        return np.empty((channels, 0), "<i4" if bits == 24 else dtype), rate
    if bits != 24:
        return np.memmap(path, dtype, "r", start, (count, channels)).T, rate
    frames = np.zeros((count * channels, 4), np.uint8)
    frames[:, 1:] = np.frombuffer(file.read(count * frame), np.uint8).reshape(-1, 3)
    return frames.view("<i4").reshape(count, channels).T, rate


def _unknown(size):
    """Whether this is what stands for a size that was not known: 0, nearly 2 or 4 GiB, or 2 000 000 000."""
    return size in (0, 2_000_000_000) or 0x7FFFF000 <= size <= 0x7FFFFFFF or size >= 0xFFFFF000
