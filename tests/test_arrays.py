# SPDX-License-Identifier: MIT
"""How arrays may be presented, which element types come out, and the rules of `out`."""

import ml_dtypes
import naive
import numpy as np
import pytest
from operands import GEOMETRY, misaligned, operands, read_only, strided

import convt1d


def reversed_axes(a):
    backwards = tuple(slice(None, None, -1) for _ in a.shape)
    return a[backwards].copy()[backwards]


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


@pytest.mark.parametrize("package", ["torch", "jax.numpy", "array_api_strict"])
def test_the_kind_given_is_the_kind_returned(package):
    """Of torch and of libraries of the array API standard, on the CPU; `out` and the weights may be NumPy's."""
    xp = pytest.importorskip(package)
    x = xp.asarray(np.random.default_rng(0).standard_normal((2, 3, 20)).astype(np.float32))
    layer = convt1d.ConvTranspose1d(3, 2, 4, stride=2)
    expected = layer(np.asarray(x))
    for y in (
        layer(x),
        convt1d.Chain(layer)(x),
        convt1d.conv_transpose1d(x, layer.weight, layer.bias, 2),
        convt1d.conv_transpose1d(x, xp.asarray(layer.weight.copy()), xp.asarray(layer.bias.copy()), 2),
    ):
        assert type(y) is type(x)
        np.testing.assert_allclose(np.asarray(y), expected, atol=1e-6)
    assert type(layer(np.asarray(x))) is np.ndarray
    out = np.empty_like(expected)
    assert layer(x, out=out) is out


def test_tensors_that_numpy_cannot_hold():
    torch = pytest.importorskip("torch")
    layer, x = convt1d.ConvTranspose1d(3, 2, 4), torch.ones(3, 20)
    for wrong, words in (
        (x.bfloat16(), r"got torch\.bfloat16: x\.float\(\)"),
        (torch.nn.Parameter(x), r"Parameter with requires_grad=True: x\.detach\(\), or convt1d\.torch"),
        (x.to_sparse(), r"x must be dense, .*: x\.to_dense\(\)"),
    ):
        with pytest.raises(TypeError, match=words):
            layer(wrong)
    z = (x * (1 + 1j)).conj()
    np.testing.assert_array_equal(layer(z).numpy(), layer(z.resolve_conj().numpy()))


def test_named_dimensions_are_refused():
    xarray = pytest.importorskip("xarray")
    with pytest.raises(TypeError, match=r"got xarray's DataArray: .* x\.to_numpy\(\)"):
        convt1d.ConvTranspose1d(3, 2, 4)(xarray.DataArray(np.ones((3, 20))))
