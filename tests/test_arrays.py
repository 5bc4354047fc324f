# SPDX-License-Identifier: MIT
"""How arrays may be presented, which element types come out, and the rules of `out`."""

import ml_dtypes
import naive
import numpy as np
import pytest

import convt1d
from convt1d import dispatch

GEOMETRY = {
    "stride": 2,
    "padding": 1,
    "output_padding": 1,
    "groups": 2,
    "dilation": 3,
    "padding_mode": "reflect",
}


def integers(*shape, dtype=float, seed=0):
    values = np.random.default_rng(seed).integers(-4, 5, shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * np.random.default_rng(seed + 1).integers(-4, 5, shape)
    return values.astype(dtype)


def operands(dtype=float):
    """x, weight and bias for GEOMETRY; more than 64 samples, so that the batch is not merged."""
    shapes = (3, 4, 70), (4, 3, 5), (6,)
    return [integers(*shape, dtype=dtype, seed=2 * i) for i, shape in enumerate(shapes)]


# --- presentation -------------------------------------------------------------------------------------------


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def strided(a):
    """Every second element along each axis of something larger; what lies between must not be read."""
    wide = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    part = wide[tuple(slice(1, None, 2) for _ in a.shape)]
    part[...] = a
    return part


def reversed_axes(a):
    backwards = tuple(slice(None, None, -1) for _ in a.shape)
    return a[backwards].copy()[backwards]


def misaligned(a):
    """One byte off: no element lies where its type wants it."""
    buffer = np.empty(a.nbytes + 1, np.uint8)[1:]
    b = buffer.view(a.dtype).reshape(a.shape)
    b[...] = a
    assert not b.flags.aligned
    return b


class ArrayLike:
    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return np.array(self.a, dtype)


class Subclass(np.ndarray):
    pass


PRESENTATIONS = {
    "read-only": read_only,
    "strided": strided,
    "reversed": reversed_axes,
    "Fortran": np.asfortranarray,
    "swapped-axes": lambda a: np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "misaligned": misaligned,
    "subclass": lambda a: a.view(Subclass),
    "array-like": ArrayLike,
    "list": lambda a: a.tolist(),
}


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("present", PRESENTATIONS.values(), ids=PRESENTATIONS)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["x", "weight", "bias"])
def test_presentation(present, which, dtype):
    plain = operands(dtype)
    expected = convt1d.conv_transpose1d(*plain, **GEOMETRY)
    given = list(operands(dtype))
    given[which] = present(plain[which])
    y = convt1d.conv_transpose1d(*given, **GEOMETRY)
    assert type(y) is np.ndarray
    assert (y.dtype, y.dtype.isnative) == (dtype, True)
    assert y.flags.c_contiguous
    assert y.flags.writeable
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.asarray(given[which]), plain[which])  # not modified

    layer = convt1d.ConvTranspose1d(4, 6, 5, **GEOMETRY, dtype=dtype)
    layer.weight, layer.bias = given[1:]
    np.testing.assert_array_equal(layer(given[0]), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_broadcast(axis):
    """A stride of 0: one element stands for a whole axis."""
    given = []
    for a in operands():
        first = a.take([0], min(axis, a.ndim - 1))
        given.append(np.broadcast_to(first, a.shape))
    x, w, b = (np.ascontiguousarray(a) for a in given)
    expected = convt1d.conv_transpose1d(x, w, b, **GEOMETRY)
    np.testing.assert_array_equal(convt1d.conv_transpose1d(*given, **GEOMETRY), expected)
    with pytest.raises(ValueError, match="out"):
        convt1d.conv_transpose1d(*given, **GEOMETRY, out=np.broadcast_to(0.0, expected.shape))


@pytest.mark.parametrize("mode", naive.MODES)
def test_inputs_are_never_modified(operator, mode):
    given = operands()
    kept = [a.copy() for a in given]
    y = operator(*given, **GEOMETRY | {"padding_mode": mode})
    operator(*given, **GEOMETRY | {"padding_mode": mode}, out=y)
    for a, copy in zip(given, kept, strict=True):
        np.testing.assert_array_equal(a, copy)
        assert not np.shares_memory(a, y)


def test_unbatched(operator):
    x, w, b = operands()
    y = operator(x, w, b, **GEOMETRY)
    alone = operator(x[1], w, b, **GEOMETRY)
    assert alone.shape == y.shape[1:]
    np.testing.assert_array_equal(alone, y[1])


@pytest.mark.parametrize("mode", naive.MODES)
def test_empty_batch(operator, mode):
    x, w, b = operands()
    length = operator(x, w, b, **GEOMETRY).shape[2]
    out = np.empty((0, 6, length))
    assert operator(x[:0], w, b, **GEOMETRY | {"padding_mode": mode}).shape == (0, 6, length)
    assert operator(x[:0], w, b, **GEOMETRY | {"padding_mode": mode}, out=out) is out


# --- element types ------------------------------------------------------------------------------------------

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NATIVE = [np.dtype(code) for code in ("f2", "f4", "f8", "c8", "c16")] + [BFLOAT16]
INTEGERS = [np.dtype(code) for code in "?bBhHiIqQ"]


@pytest.mark.parametrize("w_dtype", NATIVE + INTEGERS, ids=str)
@pytest.mark.parametrize("x_dtype", NATIVE + INTEGERS, ids=str)
def test_result_type(x_dtype, w_dtype):
    """numpy.result_type, an integer result becoming float64; values are small enough to be exact in each."""
    x, w, _ = operands()
    x, w = abs(x[0, :, :20]).astype(x_dtype), abs(w).astype(w_dtype)
    try:
        dtype = np.result_type(x, w)
    except TypeError:  # numpy knows no common type of bfloat16 and int32, say
        with pytest.raises(TypeError):
            convt1d.conv_transpose1d(x, w, **GEOMETRY)
        return
    if dtype not in NATIVE:
        dtype = np.dtype(float)
    s, p, op, g, d, mode = GEOMETRY.values()
    expected = naive.conv_transpose1d(x.astype(complex), w.astype(complex), None, s, p, op, g, d, mode)
    y = convt1d.conv_transpose1d(x, w, **GEOMETRY)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(complex), expected)

    if w.dtype in NATIVE:
        layer = convt1d.ConvTranspose1d(4, 6, 5, **GEOMETRY, dtype=w.dtype, bias=False)
        layer.weight = w
        assert layer.weight.dtype == w.dtype
        assert layer(x).dtype == dtype
        np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize("b_dtype", NATIVE + INTEGERS, ids=str)
@pytest.mark.parametrize("dtype", NATIVE, ids=str)
def test_bias_is_cast_to_the_result_type(dtype, b_dtype):
    x, w, b = operands()
    x, w, b = x[0, :, :20].astype(dtype), w.astype(dtype), abs(b).astype(b_dtype)
    if b_dtype.kind == "c" and dtype.kind != "c":
        with pytest.raises(TypeError, match="bias"):
            convt1d.conv_transpose1d(x, w, b, **GEOMETRY)
        return
    y = convt1d.conv_transpose1d(x, w, b, **GEOMETRY)
    assert y.dtype == dtype
    without = convt1d.conv_transpose1d(x, w, **GEOMETRY)
    np.testing.assert_array_equal(y.astype(complex), without.astype(complex) + b.astype(complex)[:, None])


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_half_types_compute_in_float32(operator, dtype):
    """One rounding, at the end."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(a.shape).astype(dtype) for a in operands())
    y = operator(x, w, b, **GEOMETRY)
    in_single = operator(*(a.astype(np.float32) for a in (x, w, b)), **GEOMETRY)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, in_single.astype(dtype))
    out = np.empty_like(y)
    assert operator(x, w, b, **GEOMETRY, out=out) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_half_types_keep_nan_and_inf(operator, dtype):
    x = np.array([[np.nan, 1, np.inf, 2, -np.inf]], dtype)
    y = operator(x, np.ones((1, 1, 1), dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(float), x.astype(float))  # numpy's isnan knows no bfloat16


def test_float64_is_not_computed_in_float32(operator):
    tiny = 2.0**-40
    y = operator(np.array([[1 + tiny]]), np.ones((1, 1, 1)))
    assert y[0, 0] == 1 + tiny


# --- out ----------------------------------------------------------------------------------------------------


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
    for kernel in dispatch.KERNELS:
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
