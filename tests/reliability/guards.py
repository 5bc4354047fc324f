# SPDX-License-Identifier: MIT
"""Random geometries on arrays between guard pages: whoever reads or writes beside an array is stopped by the system.

    | no access | .... array |  no access |     ends right before a page,
    | no access | array .... |  no access |     or begins right behind one; .... is NaN, and must stay so

As a script, one process for one instruction set: `guards.py FIRST COUNT PLACE`, a line for each geometry before it
runs, so that the last line names the one that a crash belongs to. PLACE is "guarded"; "plain" for sanitizers, which
have guards of their own; "beyond" and "before" claim a sample that is not there, to see that the guards do their work.
"""

import ctypes
import mmap
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import naive
from conftest import forced

import convt1d
from convt1d import functional, gradients, stream
from convt1d.cpu import _runtime, kernels

PAGE = mmap.PAGESIZE
NONE, READ_WRITE, PRIVATE, ANONYMOUS = 0, 3, 2, 0x20  # of Linux: <sys/mman.h>
KERNELS = (None, *kernels.names())
DTYPES = ("f4", "f8", "c8", "c16")

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Region:
    """Whole pages for `size` bytes, a guard page on either side; its bytes are those of NaN."""

    def __init__(self, size):
        self.inner = max(1, -(-size // PAGE)) * PAGE
        self.start = libc.mmap(None, self.inner + 2 * PAGE, NONE, PRIVATE | ANONYMOUS, -1, 0)
        if self.start in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        self.first = self.start + PAGE
        if libc.mprotect(self.first, self.inner, READ_WRITE):
            raise OSError(ctypes.get_errno(), "mprotect")
        ctypes.memset(self.first, 0xFF, self.inner)

    def __del__(self):
        libc.munmap(self.start, self.inner + 2 * PAGE)

    def array(self, address, shape, strides, dtype):
        """An array in the region, which lives as long as it does."""
        self.__array_interface__ = {
            "version": 3,
            "data": (int(address), False),
            "shape": shape,
            "strides": strides,
            "typestr": np.dtype(dtype).str,
        }
        return np.asarray(self)

    def bytes(self):
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.inner).from_address(self.first))


class Guarded:
    """Places arrays, and looks afterwards whether anything beside them was written."""

    def __init__(self, rng):
        self.rng = rng
        self.watched = []

    def empty(self, shape, dtype=float, *, any_strides=False):
        """An array of NaNs at one side or the other; `any_strides`: axes in any order, reversed, with gaps."""
        shape, dtype = np.atleast_1d(np.asarray(shape, int)), np.dtype(dtype)
        order, steps, signs = np.arange(shape.size)[::-1], np.ones(shape.size, int), np.ones(shape.size, int)
        if any_strides:
            order = self.rng.permutation(shape.size)
            steps, signs = self.rng.choice([1, 1, 2], shape.size), self.rng.choice([1, 1, -1], shape.size)
        strides, extent = np.zeros(shape.size, int), 1
        for axis in order:
            strides[axis] = extent * steps[axis]
            extent = (shape[axis] - 1) * strides[axis] + extent if shape[axis] else 0
        size, strides = extent * dtype.itemsize, strides * dtype.itemsize
        region = Region(size)
        lowest = region.first + (region.inner - size if self.rng.integers(2) else 0)
        address = lowest + int(((shape - 1) * strides)[signs < 0].sum())
        array = region.array(address, tuple(shape.tolist()), tuple((strides * signs).tolist()), dtype)
        self.watched.append((array, region, None))
        return array

    def of(self, values, dtype):
        """A copy of an input."""
        if values is None:
            return None
        array = self.empty(values.shape, dtype, any_strides=True)
        array[...] = values
        self.watched[-1] = (array, array.base, array.base.bytes().copy())
        return array

    def check(self):
        for array, region, before in self.watched:
            if before is None:
                array[...] = np.frombuffer(b"\xff" * array.itemsize, array.dtype)[0]
                before = 0xFF
            assert (region.bytes() == before).all(), "written beside an array, or into an input"
        self.watched.clear()


class Plain:
    """The same without guards."""

    def __init__(self, rng):
        pass

    def empty(self, shape, dtype=float):
        return np.full(shape, np.nan, dtype)

    def of(self, values, dtype):
        return None if values is None else values.astype(dtype)

    def check(self):
        pass


class Outside(Guarded):
    """As if the first input had one sample more, behind its end or before its beginning."""

    first = True

    def of(self, values, dtype):
        if not self.first:
            return super().of(values, dtype)
        self.first = False
        region = Region(values.nbytes)
        behind = region.inner - values.nbytes if self.end else -dtype.itemsize
        shape = (*values.shape[:-1], values.shape[-1] + 1)
        return region.array(region.first + behind, shape, values.strides, dtype)


class Beyond(Outside):
    end = True


class Before(Outside):
    end = False


class Numpy:
    """NumPy with another `empty`: the package's own outputs and buffers come from there."""

    def __init__(self, empty):
        self.empty = empty

    def __getattr__(self, name):
        return getattr(np, name)


def problem(rng):
    """A random geometry with integers as data, so that every result is exact."""
    groups, K, stride, dilation = (int(rng.integers(1, top + 1)) for top in (3, 12, 9, 4))
    c_in, c_out = (groups * int(rng.integers(1, rng.choice([4, 20]) + 1)) for _ in "io")
    L, N = int(rng.integers(1, rng.choice([12, 70, 300]) + 1)), int(rng.integers(0, 4))
    output_padding = int(rng.integers(0, max(stride, dilation)))
    spare = (L - 1) * stride + dilation * (K - 1) + output_padding
    left = int(rng.integers(0, min(spare, dilation * K + 2) + 1))
    right = int(rng.integers(0, min(spare - left, dilation * K + 2) + 1))
    dtype = np.dtype(rng.choice(DTYPES))

    def integers(*shape):
        values = rng.integers(-8, 9, shape).astype(dtype)
        return values + 1j * rng.integers(-8, 9, shape) if dtype.kind == "c" else values

    geometry = {
        "stride": stride,
        "padding": (left, right),
        "groups": groups,
        "dilation": dilation,
        "padding_mode": str(rng.choice(naive.MODES)),
    }
    x = integers(*[N] * (N > 0), c_in, L)
    w, b = integers(c_in, c_out // groups, K), integers(c_out) if rng.integers(2) else None
    length = convt1d.output_length(L, K, stride, (left, right), output_padding, dilation)
    g = integers(*x.shape[:-2], c_out, length)
    at = sorted(int(i) for i in rng.integers(0, L + 1, 3))
    tile = rng.choice([0, 0, 1, 5, 16, 40])
    return types.SimpleNamespace(
        x=x, w=w, b=b, g=g, at=at, op=output_padding, geometry=geometry, dtype=dtype, tile=int(tile) or None
    )


def results(p, place, workers):
    """Everything that a kernel computes for a problem: forward, into `out`, gradients, convolution, stream."""
    x, w, b, g = (place.of(values, p.dtype) for values in (p.x, p.w, p.b, p.g))
    geometry = p.geometry | {"output_padding": p.op}
    y = convt1d.conv_transpose1d(x, w, b, **geometry, workers=workers)
    out = place.empty(y.shape, y.dtype)
    convt1d.conv_transpose1d(x, w, b, **geometry, workers=workers, out=out)
    found = [y, out, *convt1d.conv_transpose1d_backward(g, x, w, **geometry, workers=workers)]
    # the same weight as a convolution's, of the output's gradient: long enough, since the crop is added again
    convolution = dict(p.geometry)
    reach = p.geometry["dilation"] * (w.shape[2] - 1) + 1
    if g.shape[-1] + sum(p.geometry["padding"]) >= reach:
        found.append(convt1d.conv1d(g, w, None, **convolution, workers=workers))
    if p.geometry["padding_mode"] != "circular":
        layer = convt1d.ConvTranspose1d(
            w.shape[0], g.shape[-2], w.shape[2], bias=b is not None, dtype=p.dtype, rng=0, **geometry
        )
        layer.weight, layer.bias = w, b
        running = convt1d.ConvTranspose1dStream(layer, workers=workers)
        found += [running.process(chunk) for chunk in np.split(x, p.at, axis=-1)]
        found.append(running.flush())
    return found


def main(first, count, place):
    places = {"guarded": Guarded, "plain": Plain, "beyond": Beyond, "before": Before}
    workspaces = [Region(2 * 1024 * 1024) for _ in range(2)]
    if place != "plain":
        assert all(region.inner == 2 * 1024 * 1024 for region in workspaces)
        _runtime._free_workspaces[:] = [region.first for region in workspaces]
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        p = problem(rng)
        print(f"seed {seed}: {p.dtype} x {p.x.shape} weight {p.w.shape} {p.geometry} {p.op} tile {p.tile}", flush=True)
        expected = results(p, Plain(rng), 1)
        for kernel in KERNELS:
            placed, workers = places[place](rng), int(rng.integers(1, 3))
            own = functional.np, gradients.np, stream.np, _runtime.aligned
            functional.np = gradients.np = stream.np = Numpy(placed.empty)
            if place != "plain":
                for region in workspaces:
                    region.bytes()[...] = 0xFF
                _runtime.aligned = placed.empty
            try:
                with forced(kernel, p.tile, threads=True):
                    found = results(p, placed, workers)
            finally:
                functional.np, gradients.np, stream.np, _runtime.aligned = own
            assert len(found) == len(expected)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"kernel {kernel}, {workers} workers")
            placed.check()
    print(f"all {count}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
