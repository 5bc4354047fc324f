# SPDX-License-Identifier: MIT
"""out=: what it must be, and that it is written wholly or not at all."""

import naive
import numpy as np
import pytest
from operands import GEOMETRY, integers, misaligned, operands, read_only, strided

import convt1d
from convt1d.cpu import _runtime, kernels


def test_out_is_filled_and_returned(operator):
    x, w, b = operands()
    expected = operator(x, w, b, **GEOMETRY)
    out = np.empty_like(expected)
    assert operator(x, w, b, **GEOMETRY, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("mode", naive.MODES)
def test_nothing_beside_out_is_written(operator, force, mode):
    x, w, b = operands(np.float32)
    geometry = GEOMETRY | {"padding_mode": mode}
    expected = operator(x, w, b, **geometry)
    for kernel in kernels.names():
        for tile in (None, 16, 40):
            memory = np.full(expected.size + 128, 7, np.float32)
            with force(kernel, tile):
                operator(x, w, b, **geometry, out=memory[64:-64].reshape(expected.shape))
            np.testing.assert_array_equal(memory[64:-64], expected.ravel())
            assert (memory[:64] == 7).all()
            assert (memory[-64:] == 7).all()


def test_out_of_another_row(operator):
    """Between the rows of x lies memory that is not x: out may be there."""
    memory = integers(3, 70)
    expected = operator(memory[::2].copy(), np.ones((2, 1, 1)))
    operator(memory[::2], np.ones((2, 1, 1)), out=memory[1:2])
    np.testing.assert_array_equal(memory[1:2], expected)


BAD_OUT = {
    "list": (lambda y: y.tolist(), TypeError, "array"),
    "masked": (np.ma.masked_array, TypeError, "MaskedArray|masked|array"),
    "float32": (lambda y: y.astype(np.float32), TypeError, "float32.*|float64"),
    "complex": (lambda y: y.astype(complex), TypeError, "complex128"),
    "big-endian": (lambda y: y.astype(">f8"), TypeError, "> ?f8"),
    "longer": (lambda y: np.concatenate([y, y], axis=-1), ValueError, "shape"),
    "unbatched": (lambda y: y[0].copy(), ValueError, "shape"),
    "flat": (lambda y: y.ravel(), ValueError, "shape"),
    "one more axis": (lambda y: y[None], ValueError, "shape"),
    "Fortran": (np.asfortranarray, ValueError, "contiguous"),
    "strided": (strided, ValueError, "contiguous"),
    "misaligned": (misaligned, ValueError, "aligned"),
    "read-only": (read_only, ValueError, "writ|read-only"),
}


@pytest.mark.parametrize(("make", "error", "word"), BAD_OUT.values(), ids=BAD_OUT)
def test_bad_out(operator, make, error, word):
    x, w, b = operands()
    out = make(operator(x, w, b, **GEOMETRY) * 0 + 7)
    with pytest.raises(error, match=rf"(?s)\bout\b.*({word})"):
        operator(x, w, b, **GEOMETRY, out=out)
    assert (np.asarray(out) == 7).all()


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
@pytest.mark.parametrize("shift", [0, 1, -1])
def test_out_may_not_overlap_an_input(name, dtype, shift):
    """The same start, or one element shared at either end of out; also where the input is cast."""
    memory = np.ones(600)
    given = dict(zip(("x", "weight", "bias"), (np.ones(a) for a in ((2, 70), (2, 2, 3), (2,))), strict=True))
    out = memory[200:340].reshape(2, 70)
    size = given[name].size
    start = {0: 200, 1: 339, -1: 201 - size}[shift]
    part = memory[start : start + size].view(dtype)
    part[:] = 1
    given[name] = part.reshape(given[name].shape)
    kept = memory.copy()
    with pytest.raises(ValueError, match=r"out.*(overlap|memory)"):
        convt1d.conv_transpose1d(**given, padding=1, out=out)
    np.testing.assert_array_equal(memory.view(np.int64), kept.view(np.int64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": np.ones((3, 5, 70))},
        {"x": np.ones((3, 4, 70), object)},
        {"x": np.ones((3, 4, 71))},
        {"weight": np.ones((4, 3))},
        {"weight": np.ones((4, 3, 5), complex)},
        {"bias": np.ones(5)},
        {"bias": np.ones(6, complex)},
        {"workers": 0},
        {"workers": "1"},
        {"stride": 0},
        {"padding": 10**6},
        {"padding_mode": "wrap"},
        {"output_padding": 3},
        {"groups": 3},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_out_is_untouched_when_a_check_fails(wrong):
    x, w, b = operands()
    arguments = {"x": x, "weight": w, "bias": b, **GEOMETRY}
    out = np.full_like(convt1d.conv_transpose1d(**arguments), 7)
    with pytest.raises((ValueError, TypeError)):
        convt1d.conv_transpose1d(**arguments | wrong, out=out)
    assert (out == 7).all()


def test_out_of_a_layer_is_untouched_when_a_check_fails():
    x, _, _ = operands()
    layer = convt1d.ConvTranspose1d(4, 6, 5, **GEOMETRY, dtype=float)
    out = np.full_like(layer(x), 7)
    for given in ({"output_size": 1}, {"output_size": out.shape[-1] + 1}, {"workers": 0}):
        with pytest.raises(ValueError, match=r"output_size|workers|out"):
            layer(x, out=out, **given)
    with pytest.raises(ValueError, match=r"\(N, 4, L\)"):
        layer(x[:, :3], out=out)
    assert (out == 7).all()


class NoMemory:
    """In place of the list of free workspaces: none is free after the first `left`, and none can be had."""

    def __init__(self, left, workspaces):
        self.left, self.workspaces = left, workspaces

    def pop(self):
        if self.left == 0:
            raise MemoryError("as a test wants it")
        self.left -= 1
        return self.workspaces.pop()

    def append(self, workspace):
        self.workspaces.append(workspace)


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("stride", [2, 9])  # 9: gaps between the taps, filled with the bias
def test_without_workspaces_out_is_left_untouched(monkeypatch, force, stride, left):
    """Also where the first thread finds one and the second does not."""
    layer = convt1d.ConvTranspose1d(4, 6, 3, stride=stride, rng=0)
    x = np.ones((2, 4, 500), np.float32)
    with force(threads=True):
        y = layer(x, workers=2)
        kept = _runtime._free_workspaces
        out = np.full_like(y, 7)
        monkeypatch.setattr(_runtime, "_free_workspaces", NoMemory(left, kept))
        with pytest.raises(MemoryError, match="as a test wants it"):
            layer(x, out=out, workers=2)
        assert (out == 7).all()
        monkeypatch.setattr(_runtime, "_free_workspaces", kept)
        np.testing.assert_array_equal(layer(x, out=out, workers=2), y)


def test_out_has_the_same_layout():
    layer = convt1d.ConvTranspose1d(3, 2, 4)
    x, wrong = np.ones((1, 9, 3), np.float32), np.zeros((1, 2, 12), np.float32)
    with pytest.raises(ValueError, match=r"out must have shape \(1, 12, 2\), got \(1, 2, 12\)"):
        layer(x, channels_last=True, out=wrong)
    with pytest.raises(ValueError, match="out must be C-contiguous"):
        layer(x, channels_last=True, out=wrong.swapaxes(1, 2))
    assert (wrong == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_overflow_is_no_error_whatever_numpy_is_told(dtype):
    """An error after `out` has been written would leave half a result; all types overflow alike."""
    x, w = np.full((1, 3), 250.0, dtype), np.full((1, 1, 1), np.finfo(dtype).max / 100, dtype)
    out = np.empty((1, 3), dtype)
    with np.errstate(all="raise"):
        assert convt1d.conv_transpose1d(x, w, out=out) is out
    assert np.isinf(out).all()
