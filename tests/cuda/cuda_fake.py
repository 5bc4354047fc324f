# SPDX-License-Identifier: MIT
"""A backend of convt1d.cuda on the CPU: the kernels through g++ and cuda_shim.h, NumPy in cuBLAS' place.

It runs the programs that are made for a GPU, on "device" arrays in poisoned memory: every byte that nobody has
written is 0xff (NaN in each type), and what lies around an array is checked after each call.
"""

import bisect
import contextlib
import ctypes
import shutil
import subprocess
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np

from convt1d.cuda import backend as cuda_backend
from convt1d.cuda import policy
from convt1d.cuda.program import Launch

HERE = Path(__file__).parent
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {name: BFLOAT16 if name == "bfloat16" else np.dtype(name) for name in cuda_backend.TYPES}
GUARD = 1024  # bytes on both sides of an array


def compiler():
    return shutil.which("g++")


def build(folder: Path, number: int, sanitize: bool) -> ctypes.CDLL:
    target = folder / f"logic{number}.so"
    (folder / "source.cu").write_text(cuda_backend.source(), encoding="utf-8")
    (folder / "layout.cu").write_text(layout_assertions(), encoding="utf-8")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-ffp-contract=off"]
    flags += ["-fsanitize=undefined"] * sanitize
    subprocess.run(
        [
            *(compiler(), "-x", "c++", "-shared", "-fPIC", *flags, f"-DCONVT1D_TYPE={number}"),
            *(
                '-DKERNELS="source.cu"',
                '-DLAYOUT="layout.cu"',
                f"-I{folder}",
                str(HERE / "cuda_shim.h"),
                "-o",
                str(target),
            ),
        ],
        check=True,
        timeout=600,
    )
    library = ctypes.CDLL(str(target))
    library.shim_launch.argtypes = [
        *(ctypes.c_char_p, ctypes.c_longlong, ctypes.c_int, ctypes.c_longlong),
        *(ctypes.POINTER(ctypes.c_longlong), ctypes.c_int, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_ulonglong),
    ]
    return library


def parameter_structs():
    """Every struct that a kernel is launched with (it has the number of blocks), and those inside it; by name."""
    modules = [vars(kernel).values() for kernel in policy.KERNELS]
    waiting = [value for values in modules for value in values if "blocks" in getattr(value, "_fields", ())]
    found = {}
    while waiting:
        struct = waiting.pop()
        found[struct.__name__] = struct
        waiting += struct.nested.values()
    return found


def layout_assertions():
    """C++ that compiles where the structs of the .cu files lie as NumPy lays the Python ones out."""
    lines = []
    for name, struct in parameter_structs().items():
        layout = struct.layout
        lines.append(f'static_assert(sizeof({name}) == {layout.itemsize}, "{name}");')
        for field, (kind, offset) in layout.fields.items():
            place = f"__builtin_offsetof({name}, {field}) == {offset}"
            lines.append(f'static_assert({place} && sizeof({name}::{field}) == {kind.itemsize}, "{name}.{field}");')
    return "\n".join(lines) + "\n"


def sanitizer_works(folder: Path) -> bool:
    """Whether g++ has UBSan's run time."""
    (folder / "empty.cpp").write_text("int f(int n) { return n + 1; }")
    command = [compiler(), "-fsanitize=undefined", "-shared", "-fPIC", "empty.cpp", "-o", "empty.so"]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=60).returncode == 0


class DeviceArray(np.ndarray):
    """An array of the fake device; what computes on it gives plain arrays only through the backend."""

    device = types.SimpleNamespace(id=0)
    requires_grad = False


class Fake:
    """As backend.CupyBackend. `seed` orders blocks and threads, `grid` bounds the grid."""

    def __init__(self, libraries, device=0):
        self.xp = types.SimpleNamespace(
            asarray=np.asarray, zeros=np.zeros, ascontiguousarray=lambda a: self.plain(a, a.dtype)
        )
        self.libraries = libraries
        self.device = device
        self.name = f"cuda:{device}"
        self.seed = 0
        self.grid = 2**31 - 1
        self.capability = 90
        self.captures = False
        self.log = []  # kernels and products, in order
        self.uploads = 0
        self._memory = []  # (address, size, buffer), sorted

    # --- memory ---

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = np.full(size + 2 * GUARD + 256, 0xFF, np.uint8)
        offset = -(buffer.ctypes.data + GUARD) % 256 + GUARD
        array = buffer[offset : offset + size].view(dtype).reshape(shape).view(DeviceArray)
        bisect.insort(self._memory, (buffer.ctypes.data + offset, size, buffer), key=lambda entry: entry[0])
        return array

    def allocate(self, size):
        return self.empty(size, np.uint8)

    def array(self, values, dtype=None):
        values = np.asarray(values, dtype)
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array

    def upload(self, array):
        self.uploads += 1
        return self.array(array)

    def plain(self, array, dtype):
        if array.dtype == dtype and array.flags.c_contiguous and self.pointer(array) % dtype.itemsize == 0:
            return array if self._block(self.pointer(array))[2] is not None else self.array(array)
        return self.array(np.asarray(array).astype(dtype))

    def capturing(self):
        return self.captures

    def holds(self, array):
        return isinstance(array, DeviceArray) and array.device.id == self.device

    def describe(self, array):
        return type(array).__name__

    def pointer(self, array):
        return array.ctypes.data

    def check_and_free(self):
        """Nothing around any array was written."""
        for address, size, buffer in self._memory:
            offset = address - buffer.ctypes.data
            assert (buffer[:offset] == 0xFF).all(), "written before the start of an array"
            assert (buffer[offset + size :] == 0xFF).all(), "written past the end of an array"
        self._memory = []

    def _block(self, address):
        """The allocation that holds an address: start, size and buffer."""
        index = bisect.bisect_right(self._memory, address, key=lambda entry: entry[0]) - 1
        start, size, buffer = self._memory[index] if index >= 0 else (0, 0, None)
        return (start, size, buffer) if address <= start + size else (0, 0, None)

    def _view(self, address, itemsize, shape, strides):
        """Memory as an array; all of it must lie in one allocation."""
        last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + itemsize
        start, size, _ = self._block(address)
        assert address + last <= start + size, "an operand reaches past the end of its array"
        return (ctypes.c_char * last).from_address(address)

    # --- what runs ---

    def launch(self, dtype, step: Launch, pointers):
        self.log.append(step.kernel)
        assert all(type(pointer) is int for pointer in pointers)
        assert step.params.size == 1  # what CuPy passes by value
        assert step.blocks > 0
        library = self.libraries(cuda_backend.TYPES.index(dtype.name))
        status = library.shim_launch(
            *(step.kernel.encode(), min(step.blocks, self.grid), step.threads, step.shared),
            *((ctypes.c_longlong * len(pointers))(*pointers), len(pointers)),
            *(step.params.ctypes.data, step.params.nbytes, self.seed),
        )
        assert status == 0, f"{step.kernel}: {status}"

    def product(self, dtype, p, fast):
        self.log.append("fast product" if fast else "product")
        compute = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
        # what cuBLAS demands
        assert min(p.m, p.n, p.k, p.batch) > 0
        assert max(p.m, p.n, p.k, p.lda, p.ldb, p.ldc, p.batch) < 2**31
        assert p.lda >= p.m
        assert p.ldb >= (p.n if p.transposed else p.k)
        assert p.ldc >= p.m

        def operand(address, of, rows, columns, leading, step):
            strides = (step * of.itemsize, of.itemsize, leading * of.itemsize)
            buffer = self._view(address, of.itemsize, (p.batch, rows, columns), strides)
            return np.ndarray((p.batch, rows, columns), of, buffer, 0, strides)

        a = operand(p.a, dtype, p.m, p.k, p.lda, p.a_step)
        b = operand(p.b, dtype, *((p.n, p.k) if p.transposed else (p.k, p.n)), p.ldb, p.b_step)
        c = operand(p.c, compute, p.m, p.n, p.ldc, p.c_step)
        b = b.transpose(0, 2, 1) if p.transposed else b
        with np.errstate(invalid="ignore", over="ignore"):
            c[...] = np.matmul(a.astype(compute), b.astype(compute))


def install(patch, fake):
    """Make `fake` what CuPy is to the package: its arrays are recognised, and run there. `patch`: monkeypatch."""
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 2,
        getDevice=lambda: fake.device,
        CUDARuntimeError=type("CUDARuntimeError", (Exception,), {}),
    )
    cupy = types.ModuleType("cupy")
    cupy.ndarray = DeviceArray
    cupy.cuda = types.SimpleNamespace(Device=lambda device: contextlib.nullcontext(), runtime=runtime)
    fake.xp.cuda = cupy.cuda
    patch.setitem(sys.modules, "cupy", cupy)
    patch.setattr(cuda_backend, "backend_for", lambda device: fake)
