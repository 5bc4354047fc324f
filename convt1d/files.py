# SPDX-License-Identifier: MIT
"""Files of weights, which may come from anyone: opened, bounded, read. Nothing is ever unpickled.

    .npy, .npz, .safetensors  ->  a mapping from names to arrays, each read when it is asked for
    .onnx                     ->  a ModelProto, and the arrays of its tensors

What a file claims is held against what it has before memory is taken; the memory is in proportion to the file.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Callable, Mapping
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
# the same for what weights may be computed from
_ONNX_INTEGERS = {
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
    17: ("float8_e4m3fn", "int32_data"),
    18: ("float8_e4m3fnuz", "int32_data"),
    19: ("float8_e5m2", "int32_data"),
    20: ("float8_e5m2fnuz", "int32_data"),
    21: ("uint4", "int32_data"),
    22: ("int4", "int32_data"),
}
_ONNX_BYTES = ("uint4", "int4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


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


def check_stored(path) -> None:
    """A regular file whose bytes are there: what reading it takes is in proportion to what is stored."""
    check_regular(path)
    found = os.stat(path)
    stored = getattr(found, "st_blocks", found.st_size) * 512  # Windows does not tell
    if found.st_size > max(UNPACKED_LEAST, UNPACKED_RATIO * stored):
        raise ValueError(
            f"it is a sparse file of {found.st_size} bytes of which {stored} are stored; refused beyond "
            f"{UNPACKED_LEAST} bytes and {UNPACKED_RATIO} times"
        )


def reader(mapped: np.memmap, path) -> Callable[[np.ndarray], np.ndarray]:
    """What reads a part of a mapped file, given as a view of the map, from the file itself.

    A map of a file that another process has cut short ends the program where it is touched; a read is an error.
    """
    begin, first, before = mapped.ctypes.data, mapped.offset, os.stat(path)

    def read(file, part):
        span = sum((n - 1) * step for n, step in zip(part.shape, part.strides, strict=True)) + part.itemsize
        if part.ndim > 1 and span > 2 * part.nbytes:  # rows far from each other
            return np.stack([read(file, row) for row in part])
        file.seek(first + part.ctypes.data - begin)
        data = file.read(span)
        if len(data) < span:
            raise ValueError(f"{span - len(data)} bytes are missing: it was cut short meanwhile")
        return np.ndarray(part.shape, part.dtype, data, strides=part.strides)

    def read_part(part):
        part = np.asarray(part)
        if part.size == 0:
            return part
        with open(path, "rb") as file:
            if not os.path.samestat(os.fstat(file.fileno()), before):
                raise ValueError("another file took its place meanwhile")
            return read(file, part)

    return read_part


def need(package: str, what: str):
    """Import an optional package; its extra has the same name."""
    try:
        return __import__(package)
    except ImportError as error:
        raise ImportError(f"{what} needs {package} ({error}): pip install 'convt1d[{package}]'") from error


def bfloat16(name: str) -> np.dtype:
    """NumPy's bfloat16, for the array `name`."""
    return ml_dtype(name, "bfloat16")


def ml_dtype(name: str, dtype: str) -> np.dtype:
    """A type that NumPy knows through ml_dtypes, for the array `name`."""
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            f"{name} is {dtype}, which NumPy knows through ml_dtypes only: pip install ml_dtypes, "
            "or convert it to float32 where it comes from"
        ) from None
    return np.dtype(getattr(ml_dtypes, dtype))


# .npz and .safetensors --------------------------------------------------------------------------------------


_NPY_OF_MLX = re.compile(
    rb"\x93NUMPY..(?:..){1,2}\{'descr': '[^']*', 'fortran_order': \w+, 'shape': \([0-9, ]*, \)\}", re.S
)


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

    def layout(self, name):
        with self._open(name) as member:
            return _npy_layout(member)

    def spec(self, name):
        """Shape and dtype, held against the size of the member."""
        with self._open(name) as member:
            return _npy_spec(name, member, self._members[name].file_size)

    def __getitem__(self, name):
        self.spec(name)
        with self._open(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


class Npy(_Arrays):
    """The array of a .npy file, named weight."""

    def __init__(self, path, stack):
        self._members, self._path = {"weight": path}, path

    def layout(self, name):
        with open(self._members[name], "rb") as file:
            return _npy_layout(file)

    def spec(self, name):
        with open(self._members[name], "rb") as file:
            return _npy_spec(name, file, os.path.getsize(self._path))

    def __getitem__(self, name):
        self.spec(name)
        with open(self._members[name], "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _npy_layout(stream):
    """What wrote a .npy file: "mlx", which ends a shape by a comma and a space; empty for all others."""
    return "mlx" if _NPY_OF_MLX.match(stream.read(NPY_HEADER)) else ""


def _npy_spec(name, stream, given):
    """Shape and dtype of a .npy file, held against its size."""
    stream = io.BytesIO(stream.read(NPY_HEADER))  # no more: a header may claim 4 GiB, in each of many members
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"array {name!r} is of version {version} of the .npy format, not {list(readers)}")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError(f"array {name!r} holds Python objects; unpickling them is refused")
    size = stream.tell() + math.prod(shape) * dtype.itemsize
    if size != given or min(shape, default=0) < 0:
        raise ValueError(
            f"array {name!r} of shape {shape} and dtype {dtype} would take {size} bytes with its header, it has {given}"
        )
    return shape, dtype.name


class Safetensors(_Arrays):
    """The arrays of a .safetensors file. The package checks the header and maps the file."""

    def __init__(self, path, stack):
        self._path = path
        package = need("safetensors", "reading .safetensors")
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
            self._of_mlx = file.read(20) == b'{"__metadata__":null'  # where MLX has nothing to say; others leave it out
        if header > SAFETENSORS_HEADER:
            raise ValueError(f"its header must take at most {SAFETENSORS_HEADER} bytes, it claims {header}")
        with contextlib.suppress(ImportError):
            import ml_dtypes  # noqa: F401  the package asks NumPy for "bfloat16", which is known from then on
        self._file = stack.enter_context(package.safe_open(path, framework="np"))
        self._members = dict.fromkeys(self._file.keys())
        self.metadata = self._file.metadata() or {}

    def layout(self, name):
        """What wrote the file: "pt", "mlx", ...; empty if it does not say."""
        return self.metadata.get("format", "mlx" if self._of_mlx else "")

    @functools.cached_property
    def elsewhere(self):
        """What other shards of the same model hold."""
        return Elsewhere(self._path)

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


_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(.*)-[0-9]{5}-of-([0-9]{5})\.safetensors", re.DOTALL)


def shards_index(path):
    """The index of a sharded model, or its only .safetensors file, for the index or the model's folder; else None."""
    path = Path(path)
    if path.name.endswith(_INDEX):
        return path
    found = sorted(path.glob("*" + _INDEX)) or sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if len(found) > 1:
        raise ValueError(f"path must be one file where a folder holds several, got {path} with {found[0].name}, ...")
    return found[0] if found else None


def _weight_map(index):
    """Name of an array -> name of the file that holds it, in the index's own folder."""
    check_regular(index)
    with open(index, "rb") as file:
        text = file.read(SAFETENSORS_HEADER + 1)
    if len(text) > SAFETENSORS_HEADER:
        raise ValueError(f"an index must take at most {SAFETENSORS_HEADER} bytes")
    try:
        found = json.loads(text)["weight_map"]
        names = {name: os.path.basename(file) for name, file in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no index of .safetensors files: {type(error).__name__}") from None
    if names != found:
        raise ValueError("the shards of an index must lie in its folder")
    return names


class Elsewhere(dict):
    """Name of an array -> the file that holds it, of all shards but one; `incomplete` if some are missing."""

    def __init__(self, path):
        super().__init__()
        self.incomplete = False
        path = Path(path)
        shard = _SHARD.fullmatch(path.name)
        for index in sorted(path.parent.glob("*" + _INDEX)):
            names = _weight_map(index)
            if path.name in names.values():
                self.update((name, file) for name, file in names.items() if file != path.name)
                return
        for number in range(1, 1 + int(shard[2]) if shard else 1):
            other = path.with_name(f"{shard[1]}-{number:05}-of-{shard[2]}.safetensors")
            if other != path:
                try:
                    with arrays_of(other) as arrays:
                        self.update(dict.fromkeys(arrays, other.name))
                except OSError:
                    self.incomplete = True
                    break


class Shards(_Arrays):
    """The arrays of a sharded model, by its index."""

    def __init__(self, index, stack):
        self._members, self._folder, self._stack, self._open = _weight_map(index), Path(index).parent, stack, {}

    def _shard(self, name):
        file = self._members[name]
        if file not in self._open:
            path = self._folder / file
            check_stored(path)
            self._open[file] = Safetensors(path, self._stack)
        if name not in self._open[file]:
            raise ValueError(f"{file} must hold {name!r}, as the index says")
        return self._open[file]

    def layout(self, name):
        return self._shard(name).layout(name)

    def spec(self, name):
        return self._shard(name).spec(name)

    def __getitem__(self, name):
        return self._shard(name)[name]


@contextlib.contextmanager
def arrays_of(path):
    """The mapping of a .npy, .npz or .safetensors file, or of the shards of a model, open inside the block."""
    path = Path(path)
    kinds = {".npy": Npy, ".npz": Npz, ".safetensors": Safetensors}
    if path.suffix.lower() not in kinds:
        path = shards_index(path) or path
        if path.name.endswith(_INDEX):
            with contextlib.ExitStack() as stack:
                yield Shards(path, stack)
            return
    check_stored(path)
    with contextlib.ExitStack() as stack:
        yield kinds.get(path.suffix.lower(), Safetensors)(os.fspath(path), stack)


# .onnx ------------------------------------------------------------------------------------------------------


def onnx_model(path):
    """The ModelProto in the file `path`, without what is stored outside it."""
    check_stored(path)
    return onnx_message(Path(path).read_bytes())


def onnx_message(data: bytes):
    """The ModelProto of these bytes."""
    return need("onnx", "reading .onnx").ModelProto.FromString(data)


def onnx_spec(tensor):
    """Shape and dtype name of a TensorProto; a type that is no float keeps ONNX' number."""
    return tuple(tensor.dims), ONNX_TYPES.get(tensor.data_type, (f"ONNX data type {tensor.data_type}",))[0]


def onnx_array(name: str, tensor, path) -> np.ndarray:
    """The values of a TensorProto; `path` is the model's, or None if it did not come from a file."""
    shape = tuple(tensor.dims)
    if tensor.data_type not in ONNX_TYPES | _ONNX_INTEGERS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got ONNX data type {tensor.data_type}")
    dtype, field = (ONNX_TYPES | _ONNX_INTEGERS)[tensor.data_type]
    if tensor.HasField("segment"):
        raise ValueError(f"{name} must be stored whole, got a segment of it")
    if min(shape, default=1) < 1:
        raise ValueError(f"{name} must have no empty dimension, got shape {shape}")
    # through the bits of what NumPy may not know by name, and of two integers of 4 bits in a byte
    bits = "<u2" if dtype == "bfloat16" else "u1" if dtype in _ONNX_BYTES else dtype
    stored = np.dtype(bits).newbyteorder("<")
    count = -(-math.prod(shape) // 2) if dtype.endswith("int4") else math.prod(shape)
    size = count * stored.itemsize
    if tensor.data_location == 1:  # EXTERNAL
        data = _external(name, tensor, path, size)
    elif tensor.HasField("raw_data"):
        data = tensor.raw_data
    else:
        values = getattr(tensor, field)
        if len(values) != count:
            raise ValueError(f"{name} of shape {shape} needs {count} values, got {len(values)}")
        if field == "int32_data":  # bits in the lower part of an int32
            data = np.array(values, np.int32).astype(f"<u{stored.itemsize}").tobytes()
        else:
            data = np.array(values, stored).tobytes()
    if len(data) != size:
        raise ValueError(f"{name} of shape {shape} and dtype {dtype} needs {size} bytes, got {len(data)}")
    array = np.frombuffer(data, stored)
    if dtype.endswith("int4"):  # the lower half of a byte comes first
        array = np.stack([array & 15, array >> 4], -1).ravel()[: math.prod(shape)]
        array = (array ^ 8).astype(np.int8) - np.int8(8) if dtype == "int4" else array
    elif dtype.startswith(("bfloat", "float8")):
        array = array.astype(f"=u{stored.itemsize}").view(ml_dtype(name, dtype))
    return array.reshape(shape)


def _external(name, tensor, path, size):
    """Bytes that a model keeps in another file: of its own folder, as ONNX has it, or of the folder that the model
    really lies in, as ONNX Runtime has it; in the cache of the Hugging Face Hub both files are links."""
    if path is None:
        raise ValueError(f"{name} lies outside the model: pass the model's path, or load it with external data")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    roots = [os.path.realpath(os.path.dirname(path) or "."), os.path.dirname(os.path.realpath(path))]
    target = os.path.realpath(os.path.join(roots[0], location))
    if os.path.isabs(location) or all(os.path.commonpath([root, target]) != root for root in roots):
        raise ValueError(f"{name} must be stored in the model's folder, got location {location!r}")
    check_stored(target)
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    if length != size:
        raise ValueError(f"{name} of shape {tuple(tensor.dims)} needs {size} bytes, got length {length}")
    if not 0 <= offset <= os.path.getsize(target) - size:
        raise ValueError(f"{name} needs {size} bytes from {offset} on, {location!r} has {os.path.getsize(target)}")
    with open(target, "rb") as file:
        file.seek(offset)
        return file.read(size)
