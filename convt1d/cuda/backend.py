# SPDX-License-Identifier: MIT
"""One CUDA device through CuPy: memory, kernels compiled on first use, products through cuBLAS."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import numpy as np

from .. import arrays
from . import kernels
from .policy import KERNELS
from .program import LARGEST, Launch, Product

#: CONVT1D_TYPE of kernels/common.cuh for each type of arrays.
TYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128")


class CupyBackend:
    """One device, by CuPy: its arrays, kernels compiled on first use, cuBLAS. All on CuPy's current stream."""

    def __init__(self, device: int):
        self.xp: Any = import_cupy()
        self.device = device
        self.name = f"cuda:{device}"
        self.capability = int(self.xp.cuda.Device(device).compute_capability)

    def capturing(self) -> bool:
        """Whether the current stream's work goes into a CUDA graph."""
        stream = self.xp.cuda.get_current_stream()
        return stream.ptr not in (0, 1) and stream.is_capturing()  # never the default stream

    def holds(self, array) -> bool:
        return isinstance(array, self.xp.ndarray) and array.device.id == self.device

    def describe(self, array) -> str:
        """What an array is and where, for messages."""
        where = f" on cuda:{array.device.id}" if isinstance(array, self.xp.ndarray) else ""
        return f"{type(array).__module__}.{type(array).__name__}{where}"

    def empty(self, shape, dtype):
        return self.xp.empty(shape, dtype)

    def allocate(self, size: int):
        """Workspace; CuPy's pool gives it to others on this stream only, so after the kernels that use it."""
        return self.xp.empty(size, np.uint8)

    def pointer(self, array) -> int:
        return array.data.ptr

    def plain(self, array, dtype):
        """`array` in `dtype`, C-contiguous and aligned; no copy where it already is."""
        size = array.dtype.itemsize
        if array.data.ptr % size or any(step % size for step in array.strides):  # where CuPy's kernels would fault
            shape, steps = (*array.shape, size), (*array.strides, 1)
            parts = self.xp.ndarray(shape, np.uint8, array.data, steps)
            array = parts.copy(order="C").view(array.dtype).reshape(array.shape)
        return self.xp.ascontiguousarray(array if array.dtype == dtype else array.astype(dtype))

    def upload(self, array: np.ndarray):
        """A copy that outlives the call, for use on any stream."""
        # Not from the pool, which could hand freed weights to one stream while another still reads them: cudaFree
        # waits.
        with self.xp.cuda.using_allocator(None):
            words = array.view(np.uint16) if array.dtype.itemsize == 2 else array
            copy = self.xp.array(words).view(array.dtype)
        self.xp.cuda.get_current_stream().synchronize()
        return copy

    def launch(self, dtype: np.dtype, step: Launch, pointers: list[int]) -> None:
        function = _function(self.device, TYPES.index(dtype.name), step.kernel, step.shared > 0)
        blocks = min(step.blocks, LARGEST)  # which take the others, too
        function((blocks,), (step.threads,), (*pointers, step.params), shared_mem=step.shared)

    def product(self, dtype: np.dtype, p: Product, fast: bool) -> None:
        from cupy_backends.cuda.libs import cublas

        values, sums, compute, one, zero = _blas_types(dtype, fast)
        handle = self.xp.cuda.device.get_cublas_handle()
        modes = cublas.getPointerMode(handle), cublas.getMathMode(handle)
        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)
        cublas.setMathMode(handle, 0)  # CUBLAS_DEFAULT_MATH: whatever the process prefers, TF32 is for who asks for it
        try:
            cublas.gemmStridedBatchedEx(
                *(handle, cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T if p.transposed else cublas.CUBLAS_OP_N),
                *(p.m, p.n, p.k, one.ctypes.data),
                *(p.a, values, p.lda, p.a_step),
                *(p.b, values, p.ldb, p.b_step, zero.ctypes.data),
                *(p.c, sums, p.ldc, p.c_step, p.batch, compute, -1),
            )
        finally:
            cublas.setPointerMode(handle, modes[0])
            cublas.setMathMode(handle, modes[1])


@functools.cache
def _blas_types(dtype: np.dtype, fast: bool):
    """cudaDataType of values and of sums, cublasComputeType_t, one and zero."""
    values = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14, "complex64": 4, "complex128": 5}[dtype.name]
    compute_dtype = arrays.compute_dtype(dtype)
    sums = 0 if compute_dtype != dtype else values
    if compute_dtype.name in ("float64", "complex128"):
        compute = 70  # CUBLAS_COMPUTE_64F
    elif fast and dtype.name in ("float32", "complex64"):
        compute = 77  # CUBLAS_COMPUTE_32F_FAST_TF32
    else:
        compute = 68  # CUBLAS_COMPUTE_32F
    return values, sums, compute, np.ones(1, compute_dtype), np.zeros(1, compute_dtype)


def source() -> str:
    """The text of all kernels, which are one module."""
    folder = resources.files(kernels)
    names = ("common.cuh", *(f"{kernel.NAME}.cu" for kernel in reversed(KERNELS)))
    texts = (folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    return "".join(f'#line 1 "{name}"\n{text}' for name, text in zip(names, texts, strict=True))


@functools.cache
def _module(device: int, type_number: int):
    return import_cupy().RawModule(code=source(), options=("-std=c++17", f"-DCONVT1D_TYPE={type_number}"))


@functools.cache  # CuPy makes a new object on each request, which looks its kernel up again
def _function(device: int, type_number: int, kernel: str, shares: bool):
    function = _module(device, type_number).get_function(kernel)
    if shares:  # more shared memory than the 48 KiB that need no permission: all that there is
        most = import_cupy().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
        function.max_dynamic_shared_size_bytes = most - function.shared_size_bytes
    return function


def import_cupy():
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "convt1d runs on a GPU through CuPy, which is not installed: pip install 'convt1d[cuda13]', or "
            f"'convt1d[cuda12]' where the driver is older than CUDA 13 ({error})"
        ) from error
    return cupy


@functools.cache
def backend_for(device: int) -> CupyBackend:
    return CupyBackend(device)
