# SPDX-License-Identifier: MIT
"""The layouts of neighbouring systems, given to each importer: right, or refused in words; never taken for another.

=========  ==============================  ==========================================================
system     transposed kernel               where it is read, and what tells
=========  ==============================  ==========================================================
torch      (C_in, C_out/groups, K)         as it is
Paddle     the same                        as it is
MLX        (C_out, K, C_in)                `format: mlx`, the header of its own writers, its arrays
Equinox    (C_out, C_in/groups, K)         from_jax, by docs/coming-from.md; its arrays, and its bias (C_out, 1)
Haiku      (K, C_out, C_in)                from_jax, by docs/coming-from.md; its names w and b
Flax       (K, C_in, C_out)                from_jax; its name kernel, and its arrays
Keras      (K, C_out, C_in)                from_keras; its variables
=========  ==============================  ==========================================================
"""

import json
import os
import struct
import zipfile

import numpy as np
import pytest

from convt1d import Conv1d, ConvTranspose1d
from convt1d.weights import list_layers

RNG = np.random.default_rng(0)
SHAPES = [(16, 8, 4), (4, 4, 4), (8, 8, 5), (8, 4, 16), (1, 1, 5)]  # (C_in, C_out, K)


# --- MLX: its writers, by their bytes ------------------------------------------------------------------------


def npy_of_mlx(array):
    """What mlx.core.save writes."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({''.join(f'{n}, ' for n in array.shape)})}}"
    text += " " * ((11 + len(text)) % 16) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + array.tobytes()


def safetensors_of_mlx(arrays, metadata=None):
    """What mlx.core.save_safetensors writes."""
    header, data = {"__metadata__": metadata}, b""
    for name, array in sorted(arrays.items()):
        header[name] = {"data_offsets": [len(data), len(data) + array.nbytes], "dtype": "F32", "shape": array.shape}
        data += array.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_as_mlx(path, arrays):
    if path.suffix == ".npz":
        with zipfile.ZipFile(path, "w") as file:
            for name, array in arrays.items():
                file.writestr(f"{name}.npy", npy_of_mlx(array))
    elif path.suffix == ".npy":
        path.write_bytes(npy_of_mlx(arrays["weight"]))
    else:
        pytest.importorskip("safetensors")
        path.write_bytes(safetensors_of_mlx(arrays, {"format": "mlx"} if path.stem == "marked" else None))
    return path


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["w.npz", "w.npy", "marked.safetensors", "w.safetensors"])
def test_files_of_mlx(tmp_path, name, shape, bias):
    """(C_out, K, C_in) of a transposed convolution, (C_out, K, C_in/groups) of a convolution."""
    w, b = (RNG.standard_normal(n).astype("f4") for n in (shape, shape[1]))
    bias = bias and not name.endswith(".npy")
    arrays = {"weight": np.ascontiguousarray(w.transpose(1, 2, 0))} | ({"bias": b} if bias else {})
    path = write_as_mlx(tmp_path / name, arrays)
    layer = ConvTranspose1d.from_file(path, stride=2)
    np.testing.assert_array_equal(layer.weight, w)
    assert layer.groups == 1
    assert list_layers(path)[0].weight_shape == shape
    taken = Conv1d.from_file(path, padding=0, groups=1)
    np.testing.assert_array_equal(taken.weight, arrays["weight"].transpose(0, 2, 1))
    assert list_layers(path, transposed=False)[0].weight_shape == taken.weight.shape


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
def test_mlx_itself(tmp_path, name):
    """Its layers, its writers and its arrays."""
    mlx = pytest.importorskip("mlx.core")
    layers = pytest.importorskip("mlx.nn")
    x = RNG.standard_normal((1, 9, 4)).astype("f4")
    theirs = layers.ConvTranspose1d(4, 4, 4, stride=2, padding=1)
    expected = np.asarray(theirs(mlx.array(x)))
    theirs.save_weights(str(tmp_path / name))
    for layer in (
        ConvTranspose1d.from_file(tmp_path / name, stride=2, padding=1),
        ConvTranspose1d.from_state_dict(theirs.parameters(), stride=2, padding=1),
    ):
        np.testing.assert_allclose(layer(x, channels_last=True), expected, atol=1e-5)
    theirs = layers.Conv1d(4, 6, 5, padding=2, dilation=2)
    expected = np.asarray(theirs(mlx.array(x)))
    layer = Conv1d.from_state_dict(theirs.parameters(), padding=2, dilation=2)
    np.testing.assert_allclose(layer(x, channels_last=True), expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "groups"), [((8, 8, 4), 1), ((8, 8, 8), 1), ((8, 4, 16), 2)])
def test_a_file_that_any_system_writes(tmp_path, shape, groups):
    """np.savez says nothing of layouts: where both fit weight and bias, the groups are asked for."""
    path, w = tmp_path / "w.npz", RNG.standard_normal(shape)
    np.savez(path, weight=w, bias=np.ones(8))
    with pytest.raises(ValueError, match=rf"groups={groups} if this is torch's layout, transpose.*MLX"):
        ConvTranspose1d.from_file(path, stride=2)
    np.testing.assert_array_equal(ConvTranspose1d.from_file(path, stride=2, groups=groups).weight, w)
    ConvTranspose1d.from_file(path, stride=2, groups=groups).save(path)  # which holds the groups
    np.testing.assert_array_equal(ConvTranspose1d.from_file(path).weight, w)


# --- JAX: Equinox, Haiku, Flax -------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "padding", "more", "dilation"), [(2, 0, 0, 1), (3, 1, 2, 1), (2, 2, 1, 3)])
def test_equinox(groups, stride, padding, more, dilation):
    equinox = pytest.importorskip("equinox")
    jax = pytest.importorskip("jax")
    theirs = equinox.nn.ConvTranspose1d(
        4, 6, 5, stride, more, padding, dilation, groups, key=jax.random.key(0), dtype=np.float32
    )
    x = RNG.standard_normal((4, 9)).astype("f4")
    lo = dilation * 4 - padding
    layer = ConvTranspose1d.from_jax(
        theirs.weight.transpose(2, 1, 0),
        theirs.bias.ravel(),
        stride=stride,
        padding=[(lo, lo + more)],
        dilation=dilation,
        groups=groups,
    )
    np.testing.assert_allclose(layer(x), theirs(x), atol=1e-5)
    state = {"weight": theirs.weight, "bias": theirs.bias}
    with pytest.raises(ValueError, match=r"format 'flax', .*give the kernel to from_jax"):
        ConvTranspose1d.from_state_dict(state, stride=stride)
    square = equinox.nn.ConvTranspose1d(4, 4, 5, stride, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"bias.*got shape \(4, 1\)"):  # as it comes out of a file
        ConvTranspose1d.from_state_dict(
            {"weight": np.asarray(square.weight), "bias": np.asarray(square.bias)}, stride=2
        )
    for given in (theirs, {"params": state}):
        with pytest.raises(TypeError, match="kernel must be an array of numbers, got"):
            ConvTranspose1d.from_jax(given, stride=2, padding="SAME")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_haiku(padding):
    haiku = pytest.importorskip("haiku")
    jax = pytest.importorskip("jax")
    x = RNG.standard_normal((1, 9, 4)).astype("f4")
    net = haiku.without_apply_rng(haiku.transform(lambda x: haiku.Conv1DTranspose(6, 5, 2, padding=padding)(x)))
    state = net.init(jax.random.key(0), x)
    held = state["conv1_d_transpose"]
    layer = ConvTranspose1d.from_jax(held["w"].transpose(0, 2, 1), held["b"], stride=2, padding=padding)
    np.testing.assert_allclose(layer(x, channels_last=True), net.apply(state, x), atol=1e-5)
    with pytest.raises(ValueError, match=r"its keys are 'b', 'w'|its keys are 'w', 'b'"):
        ConvTranspose1d.from_state_dict(held, stride=2)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_names_of_flax_and_haiku(tmp_path, suffix):
    """A file of them holds no layer: kernels are not called weight there."""
    state = {"up.kernel": np.ones((4, 4, 4), "f4"), "up/w": np.ones((4, 4, 4), "f4")}
    path = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez(path, **state)
    else:
        pytest.importorskip("safetensors.numpy").save_file(state, path)
    assert list_layers(path) == list_layers(path, transposed=False) == []
    with pytest.raises(ValueError, match=r"must hold 'up\.weight', it has layers of no known name"):
        ConvTranspose1d.from_file(path, "up", stride=2)


def test_flax_and_jax_arrays_in_a_state():
    jax = pytest.importorskip("jax")
    kernel = jax.numpy.ones((4, 4, 4))
    for layer, more in ((ConvTranspose1d, {"stride": 2}), (Conv1d, {"padding": 0})):
        with pytest.raises(ValueError, match="give the kernel to from_jax"):
            layer.from_state_dict({"weight": kernel}, **more)
        assert layer.from_state_dict({"weight": np.asarray(kernel)}, **more).kernel_size == 4


# --- Keras ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras' own use of NumPy
def test_keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    theirs = keras.layers.Conv1DTranspose(4, 4, strides=2)
    x = RNG.standard_normal((1, 9, 4)).astype("f4")
    expected = keras.ops.convert_to_numpy(theirs(x))
    for layer in (
        ConvTranspose1d.from_keras(theirs),
        ConvTranspose1d.from_keras(theirs.kernel, theirs.bias, stride=2, padding="valid"),
    ):
        np.testing.assert_allclose(layer(x, channels_last=True), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"format 'tf', .*give the kernel to from_keras"):
        ConvTranspose1d.from_state_dict({"weight": theirs.kernel}, stride=2)
    for given in (keras.layers.Conv1D(4, 4), keras.layers.Conv2DTranspose(4, (1, 4))):
        given.build((None, 9, 4) if "1D" in type(given).__name__ else (None, 1, 9, 4))
        with pytest.raises(TypeError, match=r"layer must be a keras\.layers\.Conv1DTranspose, got"):
            ConvTranspose1d.from_keras(given)


# --- Paddle, and torch's convolutions ------------------------------------------------------------------------


class Paddle:
    """What reading needs of a tensor of Paddle: its method `numpy` takes no arguments."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, list(array.shape), "paddle.float32"

    def numpy(self):
        return self.array

    detach = cpu = lambda self: self

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_paddle():
    w, b = RNG.standard_normal((4, 3, 8)).astype("f4"), np.ones(6, "f4")
    layer = ConvTranspose1d.from_state_dict({"up.weight": Paddle(w), "up.bias": Paddle(b)}, "up", stride=4)
    assert layer.groups == 2
    np.testing.assert_array_equal(layer.weight, w)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("padding", ["same", "valid", 3])
def test_convolutions_written_as_2d(axis, padding):
    torch = pytest.importorskip("torch")
    pair = lambda value, other: (other, value) if axis == 2 else (value, other)  # noqa: E731
    given = padding if isinstance(padding, str) else pair(padding, 0)
    stride = pair(1 if padding == "same" else 2, 1)
    module = torch.nn.Conv2d(4, 6, pair(5, 1), stride, given, pair(2, 1), groups=2)
    x = RNG.standard_normal((1, 4, 30)).astype("f4")
    expected = module(torch.from_numpy(np.expand_dims(x, axis))).detach().numpy().squeeze(axis)
    np.testing.assert_allclose(Conv1d.from_torch(module)(x), expected, atol=1e-5)
    settings = {"stride": max(stride), "padding": padding, "dilation": 2, "groups": 2}
    np.testing.assert_allclose(Conv1d.from_state_dict(module.state_dict(), **settings)(x), expected, atol=1e-5)
    for beyond in (torch.nn.Conv2d(4, 6, (3, 5)), torch.nn.Conv2d(4, 6, pair(5, 1), padding=1), torch.nn.Linear(3, 4)):
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Conv1d"):
            Conv1d.from_torch(beyond)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Conv1d"):
        Conv1d.from_torch(torch.nn.ConvTranspose1d(4, 6, 5))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.ConvTranspose1d"):
        ConvTranspose1d.from_torch(torch.nn.Conv1d(4, 6, 5))


# --- tensors given to NumPy's side ---------------------------------------------------------------------------


def entries(x, w, b):
    """Every way in that takes arrays, and the name that its refusal must have."""
    from convt1d import Chain, ConvTranspose1dStream, activations, conv1d, conv_transpose1d, conv_transpose1d_backward

    plain = np.ones((1, 4, 8), np.float32)
    layer = ConvTranspose1d(4, 2, 3, rng=0)

    def assign(name, value):
        setattr(ConvTranspose1d(4, 2, 3, rng=0), name, value)

    yield "x", lambda: conv_transpose1d(x, np.ones((4, 2, 3), np.float32))
    yield "weight", lambda: conv_transpose1d(plain, w)
    yield "bias", lambda: conv_transpose1d(plain, np.ones((4, 2, 3), np.float32), b)
    yield "weight", lambda: conv1d(np.ones((1, 2, 8), np.float32), w)
    yield "x", lambda: layer(x)
    yield "x", lambda: Conv1d(4, 2, 3, rng=0)(x)
    yield "x", lambda: Chain(layer)(x)
    yield "x", lambda: activations.Snake(1.0)(x)
    yield "weight", lambda: assign("weight", w)
    yield "bias", lambda: assign("bias", b)
    yield "chunk", lambda: ConvTranspose1dStream(layer).process(x)
    yield (
        "grad_output",
        lambda: conv_transpose1d_backward(x, np.ones((1, 2, 6), np.float32), np.ones((2, 4, 3), np.float32)),
    )
    yield "x", lambda: ConvTranspose1d(4, 2, 3, rng=0).fit(x, np.ones((1, 2, 10)), alpha=1.0)


def test_tensors_for_numpy():
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    x, w, b = torch.ones(1, 4, 8), torch.ones(4, 2, 3), torch.ones(2)
    makes = {
        "float8": lambda t: t.to(torch.float8_e4m3fn),
        "requires_grad=True": lambda t: t.clone().requires_grad_(),
        "detach": lambda t: torch.nn.Parameter(t),
        "dense": lambda t: t.to_sparse(),
        "with values": lambda t: t.to("meta"),
    }
    for text, make in makes.items():
        for name, call in entries(*map(make, (x, w, b))):
            with pytest.raises(TypeError, match=rf"^'?{name}'? must .*(?i:{text})"):
                call()
    halves = [t.to(torch.bfloat16) for t in (x, w, b)]
    for (_, call), (_, plain) in zip(entries(*halves), entries(x.numpy(), w.numpy(), b.numpy()), strict=True):
        found, expected = call(), plain()
        if isinstance(expected, np.ndarray):
            found = found.float().numpy() if isinstance(found, torch.Tensor) else found.astype(np.float32)
            np.testing.assert_allclose(found, expected, rtol=1e-2)
    conjugated = torch.full((1, 4, 8), 1 + 2j).conj()  # what torch keeps as a flag
    for y in (ConvTranspose1d(4, 2, 3, rng=0)(z) for z in (conjugated, np.full((1, 4, 8), 1 - 2j, "c8"))):
        np.testing.assert_array_equal(y, ConvTranspose1d(4, 2, 3, rng=0)(np.full((1, 4, 8), 1 - 2j, "c8")))


def test_arrays_of_jax():
    jax = pytest.importorskip("jax")
    from convt1d import conv_transpose1d

    x, w = jax.numpy.ones((1, 4, 8)), jax.numpy.ones((4, 2, 3))
    y = conv_transpose1d(x.astype("bfloat16"), w.astype("bfloat16"), stride=2)
    np.testing.assert_array_equal(y.astype("f4"), conv_transpose1d(np.ones((1, 4, 8)), np.ones((4, 2, 3)), stride=2))
    with pytest.raises(TypeError, match=r"weight must hold numbers of type .* got dtype 'float8_e4m3fn'"):
        conv_transpose1d(x, w.astype("float8_e4m3fn"))
    with pytest.raises(TypeError, match=r"x must be an array of numbers, got .*Tracer"):
        jax.jit(lambda x: conv_transpose1d(x, np.ones((4, 2, 3))))(x)
