# SPDX-License-Identifier: MIT
"""A program: the launches and products of one call.

A program knows no addresses, only offsets into buffers: it is made once per shape, and a backend runs it (backend.py,
and one of the tests' that runs the same kernels on the CPU).
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..geometry import ceil_div

if TYPE_CHECKING:
    from .kernels import Kernel
    from .problem import Call, Problem

#: Threads of a block, but for kernels that say otherwise: THREADS of kernels/common.cuh.
THREADS = 256
#: The most products in one call of cuBLAS.
BATCH = 32768
#: The largest size and leading dimension that cuBLAS takes.
LARGEST = 2**31 - 1
# Buffers begin on boundaries of so many bytes, as an allocator's would.
_ALIGNMENT = 256


class Pointer(NamedTuple):
    buffer: str  # "x", "y", "weight", "rest", "bias" or "work"
    offset: int = 0  # bytes


class Launch(NamedTuple):
    """One launch: a kernel's pointers come first, its parameter struct last."""

    kernel: str
    blocks: int
    pointers: tuple[Pointer, ...]
    params: np.ndarray  # one structured element, see `by_value`
    threads: int
    shared: int  # bytes of shared memory beside what the kernel declares


class Product(NamedTuple):
    """``c = a @ op(b)`` as BLAS has it: column-major, `batch` of them, their operands `..._step` elements apart."""

    m: int
    n: int
    k: int
    transposed: bool  # b
    a: Pointer
    lda: int
    a_step: int
    b: Pointer
    ldb: int
    b_step: int
    c: Pointer
    ldc: int
    c_step: int
    batch: int


class Program(NamedTuple):
    kernel: Kernel
    problem: Problem
    steps: tuple[Launch | Product, ...]
    work: int  # bytes of workspace
    form: str  # of the weights, see `Kernel.form`


class Steps:
    """What a kernel writes its program into."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self.made: list[Launch | Product] = []
        self.work = 0

    def launch(
        self, kernel: str, pointers: tuple[Pointer, ...], params: Any, threads: int = THREADS, shared: int = 0
    ) -> None:
        """`params`: a `struct` that has the number of blocks."""
        self.made.append(Launch(kernel, params.blocks, pointers, by_value(params), threads, shared))

    def product(self, *args: Any) -> None:
        product = Product(*args)
        if max(product.m, product.n, product.k, product.lda, product.ldb, product.ldc) > LARGEST:
            problem = self._problem
            raise ValueError(
                f"weight of shape {(problem.geometry.in_channels, problem.outputs, problem.geometry.kernel_size)} is "
                "too large for a product on the GPU: C_out / groups * K and C_in / groups * K / stride must be at most "
                f"{LARGEST}"
            )
        self.made.append(product)

    def reserve(self, offset: int, size: int) -> int:
        """Take `size` bytes of the workspace from `offset` on; return where the next may begin."""
        end = ceil_div(offset + size, _ALIGNMENT) * _ALIGNMENT
        self.work = max(self.work, end)
        return end


def program(kernel: Kernel, call: Call) -> Program:
    """Everything that one call launches."""
    steps = Steps(call.problem)
    kernel.write(call, steps)
    return Program(kernel, call.problem, tuple(steps.made), steps.work, kernel.form(call.problem))


def struct(name: str, fields: str, **nested: Any) -> Any:
    """A kernel's parameter struct: a named tuple of integers and, where a field is in `nested`, of such structs.

    The .cu file has it too, under the same names, and says what each field is; an integer has 64 bits. Where the tests
    compile a source, they compare every offset.
    """
    make: Any = namedtuple  # whose fields mypy would have to see
    made = make(name, fields)
    made.nested = {field: nested[field] for field in made._fields if field in nested}
    made.layout = np.dtype([(field, nested[field].layout if field in nested else np.int64) for field in made._fields])
    return made


def by_value(params: Any) -> np.ndarray:
    """A parameter struct as CuPy passes one by value: an array of one structured element."""
    return np.array([params], params.layout)
