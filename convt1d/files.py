# SPDX-License-Identifier: MIT
"""Files of weights, which may come from anyone: opened, bounded, read. Nothing is ever unpickled.

    .npz, .safetensors  ->  a mapping from names to arrays, each read when it is asked for
    .onnx               ->  a ModelProto, and the arrays of its tensors

What a file claims is held against what it has before memory is taken; the memory is in proportion to the file.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# A member of a .npz file may unpack to 64 MiB, or to 100 times the bytes it takes in the file if that is more.
# Weights shrink to no less than half; deflate could make 1032 bytes of one.
UNPACKED_LEAST = 2**26
UNPACKED_RATIO = 100
# Headers: NumPy's own limit on the text of a .npy header; and 16 MiB for .safetensors, enough for 100,000 arrays.
NPY_HEADER = 10_000
SAFETENSORS_HEADER = 2**24

# safetensors' code of a type -> NumPy's name; the types a layer can have
_SAFETENSORS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64"}
# ONNX' number of a type -> NumPy's name, and the field that holds the values if raw_data does not
ONNX_TYPES = {
    1: ("float32", "float_data"),
    11: ("float64", "double_data"),
    10: ("float16", "int32_data"),
    16: ("bfloat16", "int32_data"),
}


@contextlib.contextmanager
def reading(path):
    """Whatever fails inside becomes a ValueError, TypeError or OSError that names the file."""
    try:
        yield
    except ImportError:
        raise
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) == os.fspath(path):
            raise
        if error.errno is None:
            raise OSError(f"{path}: {_short(error)}") from error
        raise OSError(error.errno, f"{path}: {error.strerror}", error.filename) from error
    except TypeError as error:
        raise TypeError(f"{path}: {_short(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {_short(error)}") from error
    except BaseException as error:
        # a panic in the Rust of safetensors is a BaseException
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {_short(error)}") from error


def _short(error) -> str:
    """What a library says may quote the file at any length."""
    text = str(error)
    return text if len(text) <= 1000 else text[:1000] + " ..."


def check_regular(path) -> None:
    """A file, not a folder or a pipe that would be waited for."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is not a regular file")


def need(package: str, what: str):
    """Import an optional package; its extra has the same name."""
    try:
        return __import__(package)
    except ImportError as error:
        raise ImportError(f"{what} needs {package} ({error}): pip install 'convt1d[{package}]'") from error


def bfloat16(name: str) -> np.dtype:
    """NumPy's bfloat16, for the array `name`."""
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            f"{name} is bfloat16, which NumPy knows through ml_dtypes only: pip install ml_dtypes, "
            "or convert it to float32 where it comes from"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


# .npz and .safetensors --------------------------------------------------------------------------------------


class _Arrays(Mapping):
    """Names to arrays; `spec` tells shape and type without reading the values."""

    _members: dict

    def __iter__(self):
        return iter(self._members)

    def __len__(self):
        return len(self._members)


class Npz(_Arrays):
    """The arrays of a .npz file."""

    def __init__(self, path, stack):
        self._size = os.path.getsize(path)
        try:
            self._zip = stack.enter_context(zipfile.ZipFile(path))
        except zipfile.BadZipFile as error:
            raise ValueError(f"it is no .npz file: {error}") from error
        members = self._zip.infolist()
        self._members = {m.filename.removesuffix(".npy"): m for m in members if m.filename.endswith(".npy")}

    def _open(self, name):
        """The member as a stream, no longer than the file can account for."""
        member = self._members[name]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"array {name!r} is packed by method {member.compress_type}, not as numpy.savez does it")
        if member.compress_size > self._size:
            raise ValueError(f"array {name!r} claims {member.compress_size} bytes of a file of {self._size}")
        if member.file_size > max(UNPACKED_LEAST, UNPACKED_RATIO * member.compress_size):
            raise ValueError(
                f"array {name!r} claims to unpack from {member.compress_size} to {member.file_size} bytes; "
                f"refused beyond {UNPACKED_LEAST} bytes and {UNPACKED_RATIO} times"
            )
        return self._zip.open(member)

    def spec(self, name):
        """Shape and dtype, held against the size of the member."""
        with self._open(name) as member:
            stream = io.BytesIO(member.read(NPY_HEADER))  # no more: a header may claim 4 GiB, in each of many members
            version = np.lib.format.read_magic(stream)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"array {name!r} is of version {version} of the .npy format, not {list(readers)}")
            shape, _, dtype = readers[version](stream)
            if dtype.hasobject:
                raise ValueError(f"array {name!r} holds Python objects; unpickling them is refused")
            size = stream.tell() + math.prod(shape) * dtype.itemsize
            if size != self._members[name].file_size or min(shape, default=0) < 0:
                raise ValueError(
                    f"array {name!r} of shape {shape} and dtype {dtype} would take {size} bytes with its header, "
                    f"it has {self._members[name].file_size}"
                )
        return shape, dtype.name

    def __getitem__(self, name):
        self.spec(name)
        with self._open(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


class Safetensors(_Arrays):
    """The arrays of a .safetensors file. The package checks the header and maps the file."""

    def __init__(self, path, stack):
        package = need("safetensors", "reading .safetensors")
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > SAFETENSORS_HEADER:
            raise ValueError(f"its header must take at most {SAFETENSORS_HEADER} bytes, it claims {header}")
        with contextlib.suppress(ImportError):
            import ml_dtypes  # noqa: F401  the package asks NumPy for "bfloat16", which is known from then on
        self._file = stack.enter_context(package.safe_open(path, framework="np"))
        self._members = dict.fromkeys(self._file.keys())
        self.metadata = self._file.metadata() or {}

    def spec(self, name):
        """Shape and dtype."""
        part = self._file.get_slice(name)
        code = str(part.get_dtype())
        return tuple(part.get_shape()), _SAFETENSORS.get(code, code)

    def __getitem__(self, name):
        if name not in self._members:
            raise KeyError(name)
        dtype = self.spec(name)[1]
        if dtype not in _SAFETENSORS.values():
            raise TypeError(f"array {name!r} must be one of {', '.join(_SAFETENSORS)}, got {dtype}")
        if dtype == "bfloat16":
            bfloat16(f"array {name!r}")
        return self._file.get_tensor(name)


@contextlib.contextmanager
def arrays_of(path):
    """The mapping of a .npz or .safetensors file, open inside the block."""
    check_regular(path)
    kind = Npz if Path(path).suffix.lower() == ".npz" else Safetensors
    with contextlib.ExitStack() as stack:
        yield kind(os.fspath(path), stack)


# .onnx ------------------------------------------------------------------------------------------------------


def onnx_model(path):
    """The ModelProto in the file `path`, without what is stored outside it."""
    onnx = need("onnx", "reading .onnx")
    check_regular(path)
    return onnx.ModelProto.FromString(Path(path).read_bytes())


def onnx_spec(tensor):
    """Shape and dtype name of a TensorProto; a type that is no float keeps ONNX' number."""
    return tuple(tensor.dims), ONNX_TYPES.get(tensor.data_type, (f"ONNX data type {tensor.data_type}",))[0]


def onnx_array(name: str, tensor, folder) -> np.ndarray:
    """The values of a TensorProto; `folder` is the model's, or None if it did not come from a file."""
    shape, dtype = onnx_spec(tensor)
    if tensor.data_type not in ONNX_TYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {dtype}")
    if min(shape, default=1) < 1:
        raise ValueError(f"{name} must have no empty dimension, got shape {shape}")
    # bfloat16 through its bits: NumPy may not know it by name
    stored = np.dtype("<u2" if dtype == "bfloat16" else dtype).newbyteorder("<")
    size = math.prod(shape) * stored.itemsize
    if tensor.data_location == 1:  # EXTERNAL
        data = _external(name, tensor, folder, size)
    elif tensor.HasField("raw_data"):
        data = tensor.raw_data
    else:
        values = getattr(tensor, ONNX_TYPES[tensor.data_type][1])
        if len(values) != math.prod(shape):
            raise ValueError(f"{name} of shape {shape} needs {math.prod(shape)} values, got {len(values)}")
        if stored.itemsize == 2:  # bits in the lower half of an int32
            data = np.array(values, np.int32).astype("<u2").tobytes()
        else:
            data = np.array(values, stored).tobytes()
    if len(data) != size:
        raise ValueError(f"{name} of shape {shape} and dtype {dtype} needs {size} bytes, got {len(data)}")
    array = np.frombuffer(data, stored).reshape(shape)
    return array.astype("=u2").view(bfloat16(name)) if dtype == "bfloat16" else array


def _external(name, tensor, folder, size):
    """Bytes that a model keeps in another file: of its own folder, as ONNX has it."""
    if folder is None:
        raise ValueError(f"{name} lies outside the model: pass the model's path, or load it with external data")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    root = os.path.realpath(folder)
    target = os.path.realpath(os.path.join(root, location))
    if os.path.isabs(location) or os.path.commonpath([root, target]) != root:
        raise ValueError(f"{name} must be stored in the model's folder, got location {location!r}")
    check_regular(target)
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    if length != size:
        raise ValueError(f"{name} of shape {tuple(tensor.dims)} needs {size} bytes, got length {length}")
    if not 0 <= offset <= os.path.getsize(target) - size:
        raise ValueError(f"{name} needs {size} bytes from {offset} on, {location!r} has {os.path.getsize(target)}")
    with open(target, "rb") as file:
        file.seek(offset)
        return file.read(size)
