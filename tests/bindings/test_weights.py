# SPDX-License-Identifier: MIT
"""States and files of weights, good and damaged."""

import json
import os
import re
import struct
import subprocess
import sys
import zipfile

import hostile
import numpy as np
import pytest

from convt1d import ConvTranspose1d, conv_transpose1d
from convt1d.weights import LayerInfo, list_layers

# --- states -------------------------------------------------------------------------------------------------

W = np.arange(4 * 3 * 5, dtype=np.float32).reshape(4, 3, 5) - 30


def test_channels_kernel_and_groups_follow():
    layer = ConvTranspose1d.from_state_dict({"weight": W, "bias": np.ones(6, np.float32)}, stride=2)
    assert (layer.in_channels, layer.out_channels, layer.kernel_size, layer.groups) == (4, 6, 5, 2)
    layer = ConvTranspose1d.from_state_dict({"weight": W}, stride=2, groups=4)
    assert (layer.out_channels, layer.groups, layer.bias) == (12, 4, None)
    assert ConvTranspose1d.from_state_dict({"weight": W, "bias": None}, stride=2).groups == 1
    assert type(ConvTranspose1d.from_state_dict({"weight": W.tolist()}, stride=1).weight) is np.ndarray


def test_the_layer_owns_its_weights():
    class Mine(ConvTranspose1d):
        pass

    for weight in (W.copy(), W.astype(">f4"), np.asfortranarray(W), W[::-1, :, ::-1]):
        expected = weight.astype(np.float32)
        layer = Mine.from_state_dict({"weight": weight}, stride=2, padding=(1, 0), padding_mode="circular")
        x = np.ones((4, 9), np.float32)
        y = conv_transpose1d(x, expected, stride=2, padding=(1, 0), padding_mode="circular")
        weight[...] = 0
        assert type(layer) is Mine
        np.testing.assert_array_equal(layer.weight, expected)
        np.testing.assert_array_equal(layer(x), y)
        assert not layer.weight.flags.writeable


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 5), (4, 1, 5), (4, 3, 1), (4, 1, 1)])
def test_weight_norm_where_an_axis_has_length_1(shape):
    """Which dim it was cannot be told then, and does not matter."""
    v = np.random.default_rng(0).standard_normal(shape)
    for dim in range(3):
        g = np.full([n if axis == dim else 1 for axis, n in enumerate(shape)], 2.0)
        axes = tuple(axis for axis in range(3) if axis != dim)
        expected = 2 * v / np.sqrt((v**2).sum(axes, keepdims=True))
        layer = ConvTranspose1d.from_state_dict({"weight_g": g, "weight_v": v}, stride=1, groups=1)
        np.testing.assert_allclose(layer.weight, expected, rtol=1e-15)


def test_weight_norm_of_other_types():
    v = np.full((2, 2, 2), 300, np.float16)  # the sum of squares is beyond float16
    layer = ConvTranspose1d.from_state_dict({"weight_g": np.float16([[[2]], [[4]]]), "weight_v": v}, stride=1)
    assert layer.dtype == np.float16
    np.testing.assert_array_equal(layer.weight, np.broadcast_to([[[1]], [[2]]], (2, 2, 2)))
    v = np.full((1, 1, 2), 3 + 4j)
    layer = ConvTranspose1d.from_state_dict({"weight_g": np.ones(()), "weight_v": v}, stride=1)
    np.testing.assert_allclose(layer.weight, v / np.sqrt(50))


G, V, B = np.ones((4, 1, 1)), np.ones((4, 3, 5)), np.ones(3)
NEW = "parametrizations.weight."


@pytest.mark.parametrize(
    ("state", "error", "match"),
    [
        ({}, ValueError, "must hold 'weight', it has layers of no known name"),
        ({"a.weight": V, "b.weight": V, "c.weight": np.ones(3)}, ValueError, "it has layers 'a', 'b'$"),
        ({"weight": V, "weight_g": G, "weight_v": V}, ValueError, "one form of the weight, got 'weight', 'weight_v'"),
        ({"weight_v": V}, ValueError, "needs both 'weight_g' and 'weight_v', but there is no 'weight_g'"),
        ({"weight_g": G}, ValueError, "there is no 'weight_v'"),
        ({NEW + "original1": V}, ValueError, "there is no 'parametrizations.weight.original0'"),
        ({"weight_orig": V, "weight_u": np.ones(3), "weight_v": np.ones(20)}, ValueError, "under spectral_norm"),
        ({NEW + "original": V, NEW + "0._u": np.ones(3)}, ValueError, "under spectral_norm"),
        ({"weight": V, "bias_orig": B, "bias_mask": B}, ValueError, "'bias' is under a parametrization"),
        ({"weight": V, "parametrizations.bias.original0": B}, ValueError, "'bias' is under a parametrization"),
        ({"weight_g": G[:3], "weight_v": V}, ValueError, r"as long as one axis of \(4, 3, 5\), got \(3, 1, 1\)"),
        ({"weight_g": np.ones((4, 3, 1)), "weight_v": V}, ValueError, "as long as one axis"),
        ({"weight_g": np.ones(4), "weight_v": V}, ValueError, "must be a number, or as long"),
        ({"weight_g": G, "weight_v": V * [[[0]], [[1]], [[0]], [[1]]]}, ValueError, r"norm 0 in \[\[0, 0, 0\], \[2"),
        ({"weight_g": G, "weight_v": V.astype(int)}, TypeError, "dtype must be one of .*, got 'int64'"),
        ({"weight": np.ones((4, 3))}, ValueError, r"'weight' must be 3-D or 4-D, got shape \(4, 3\)"),
        ({"weight": np.ones(3), "bias": np.ones(3)}, ValueError, r"'weight' must be 3-D or 4-D, got shape \(3,\)"),
        ({"weight_g": G, "weight_v": np.ones(3)}, ValueError, r"'weight_v' must be 3-D or 4-D, got shape \(3,\)"),
        ({"weight": np.ones((4, 0, 5))}, ValueError, "'weight' must have no empty dimension"),
        ({"weight": np.ones((4, 3, 5), int)}, TypeError, "dtype must be one of .*, got 'int64'"),
        ({"weight": np.full((4, 3, 5), None)}, TypeError, "'weight' must hold numbers"),
        ({"weight": V, "bias": np.ones(4)}, ValueError, r"'bias' must have a multiple of C_out / groups = 3.*\(4,\)"),
        ({"weight": V, "bias": np.ones(9)}, ValueError, r"divide C_in = 4, got shape \(9,\)"),
        ({"weight": V, "bias": np.ones((1, 3))}, ValueError, r"got shape \(1, 3\)"),
        ({"weight": V, "bias": np.ones(3) * 1j}, TypeError, "bias of dtype complex128 cannot be cast to float64"),
    ],
)
def test_bad_states(state, error, match):
    with pytest.raises(error, match=match):
        ConvTranspose1d.from_state_dict(state, stride=1)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"stride": 2, "groups": 1}, ValueError, r"bias must have shape \(3,\), got \(6,\)"),
        ({"stride": 2, "groups": 3}, ValueError, "in_channels must be divisible by groups"),
        ({"stride": 2, "groups": 2.5}, TypeError, "groups must be an int"),
        ({"stride": 2, "prefix": 0}, TypeError, "prefix must be a string, got 0"),
        ({"stride": 2, "mapping": [W]}, TypeError, "mapping must be a mapping .* got list"),
        ({}, TypeError, "stride"),
    ],
)
def test_bad_arguments(given, error, match):
    with pytest.raises(error, match=match):
        ConvTranspose1d.from_state_dict(**{"mapping": {"weight": W, "bias": np.ones(6)}} | given)


# --- files --------------------------------------------------------------------------------------------------

STATE = {
    "up.0.weight": W,
    "up.0.bias": np.arange(6, dtype=np.float32),
    "up.1.weight_g": np.ones((6, 1, 1)),
    "up.1.weight_v": np.ones((6, 2, 3)),
    "up.2.parametrizations.weight.original0": np.ones((1, 2, 1), np.float16),
    "up.2.parametrizations.weight.original1": np.ones((4, 2, 3), np.float16),
    "up.2.bias": np.ones(2, np.float16),
    "spectral.weight_orig": np.ones((4, 2, 3)),
    "spectral.weight_u": np.ones(4),
    "spectral.weight_v": np.ones(6),
    "conv.weight": np.ones((3, 2, 7)),  # no transposed convolution: bias 3 is no multiple of 2
    "conv.bias": np.ones(3),
    "linear.weight": np.ones((3, 4)),
    "norm.weight": np.ones(3),
    "empty.weight": np.ones((3, 0, 4)),
    "odd.weight_v": np.ones((3, 2, 4)),
}


def save(path, state):
    if path.suffix == ".npz":
        np.savez(path, **state)
    else:
        pytest.importorskip("safetensors.numpy").save_file(state, path)
    return path


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request, tmp_path):
    return save(tmp_path / f"state{request.param}", STATE)


def test_list(path):
    found = {info.name: info for info in list_layers(str(path))}
    assert sorted(found) == ["odd", "spectral", "up.0", "up.1", "up.2"]
    assert found["up.0"] == LayerInfo("up.0", (4, 3, 5), "float32", True, groups=2)
    assert found["up.1"] == LayerInfo("up.1", (6, 2, 3), "float64", False)
    assert found["up.2"] == LayerInfo("up.2", (4, 2, 3), "float16", True, groups=1)
    assert "spectral_norm" in found["spectral"].problem
    assert "no 'odd.weight_g'" in found["odd"].problem


def test_from_file(path):
    layer = ConvTranspose1d.from_file(path, "up.0", stride=2, padding=(0, 3), padding_mode="reflect")
    assert repr(layer) == (
        "ConvTranspose1d(4, 6, kernel_size=(5,), stride=(2,), padding=(0, 3), groups=2, padding_mode=reflect)"
    )
    np.testing.assert_array_equal(layer.weight, W)
    np.testing.assert_array_equal(layer.bias, STATE["up.0.bias"])
    layer = ConvTranspose1d.from_file(str(path), "up.1.", stride=2, groups=3)
    np.testing.assert_allclose(layer.weight, 1 / np.sqrt(6))
    layer = ConvTranspose1d.from_file(path, "up.2", stride=1)
    assert layer.dtype == np.float16
    np.testing.assert_allclose(layer.weight, 1 / np.sqrt(12), rtol=1e-3)
    expected = ConvTranspose1d.from_state_dict(STATE, "up.2", stride=1)
    np.testing.assert_array_equal(layer.weight, expected.weight)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({}, ValueError, "name must say which: 'up.0', 'up.1', 'up.2'"),
        ({"name": "up.3"}, ValueError, "must hold 'up.3.weight', it has layers"),
        ({"name": "up"}, ValueError, "must hold 'up.weight'"),
        ({"name": "spectral"}, ValueError, "under spectral_norm"),
        ({"name": "conv"}, ValueError, "'conv.bias' must have a multiple of"),
        ({"name": "linear"}, ValueError, "'linear.weight' must be 3-D or 4-D"),
        ({"name": "up.0", "stride": None}, TypeError, "stride must be an int, got None"),
        ({"name": "up.0", "stride": 0}, ValueError, "stride must be at least 1"),
        ({"name": "up.0", "strides": 2}, TypeError, r"geometry must be of stride, .* got \['strides'\]"),
        ({"name": "up.0", "length": 2}, TypeError, r"got \['length'\]"),
        ({"name": 3}, TypeError, "name must be a string"),
    ],
)
def test_bad_requests(path, given, error, match):
    with pytest.raises(error, match=re.escape(str(path)) + ": .*" + match):
        ConvTranspose1d.from_file(path, **{"stride": 2} | given)


def test_stride_is_needed(path):
    with pytest.raises(TypeError, match="stride must be given: the file does not hold it"):
        ConvTranspose1d.from_file(path, "up.0")


def test_one_layer_needs_no_name(tmp_path):
    for suffix in (".npz", ".safetensors"):
        for prefix in ("", "up."):
            state = {prefix + "weight": W, prefix + "bias": np.ones(3, np.float32), "other": np.ones(3)}
            path = save(tmp_path / f"one{suffix}", state)
            np.testing.assert_array_equal(ConvTranspose1d.from_file(path, stride=2).weight, W)
            assert list_layers(path)[0].name == prefix.rstrip(".")
    save(tmp_path / "none.npz", {"other": W})
    with pytest.raises(ValueError, match="holds no 1-D transposed convolution"):
        ConvTranspose1d.from_file(tmp_path / "none.npz", stride=2)


def test_settings_in_the_file(tmp_path):
    settings = {"stride": [3], "padding": [2, 1], "output_padding": 1, "groups": 2, "dilation": 2}
    path = save(tmp_path / "w.npz", {"weight": W, "padding_mode": "circular"} | settings)
    layer = ConvTranspose1d.from_file(path)
    expected = ConvTranspose1d(4, 6, 5, 3, (2, 1), 1, 2, False, 2, "circular")
    assert repr(layer) == repr(expected)
    assert list_layers(path) == [LayerInfo("", (4, 3, 5), "float32", False, 3, (2, 1), 1, 2, 2)]
    assert ConvTranspose1d.from_file(path, stride=5, padding_mode="zeros").stride == 5
    save(path, {f"up.{name}": value for name, value in settings.items()} | {"up.weight": W})
    assert ConvTranspose1d.from_file(path, "up").padding == (2, 1)
    for wrong in ({"stride": 0}, {"stride": 1.5}, {"padding": [1, 2, 3]}, {"stride": np.ones((2, 2), int)}):
        save(path, {"weight": W} | wrong)
        assert list_layers(path)[0].problem
        with pytest.raises((ValueError, TypeError), match=r"w\.npz: '?(stride|padding)"):
            ConvTranspose1d.from_file(path, **({"stride": 1} if "padding" in wrong else {}))


def test_other_types(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in ("float16", "float32", "float64", "complex64", "complex128", ">f4", ml_dtypes.bfloat16):
        for suffix in (".npz", ".safetensors"):
            dtype = np.dtype(dtype)
            if (suffix, dtype.name) in ((".safetensors", "complex128"), (".npz", "bfloat16")):
                continue  # no such type there; NumPy writes bfloat16 as two bytes of nothing
            weight = W.astype(dtype)
            layer = ConvTranspose1d.from_file(save(tmp_path / f"w{suffix}", {"weight": weight}), stride=1)
            assert layer.dtype == dtype.newbyteorder("=")
            np.testing.assert_array_equal(layer.weight, weight)
    for state in ({"weight": W.astype(np.int8)}, {"weight": np.full(W.shape, "a")}):
        with pytest.raises(TypeError, match=r"w\.npz: .*(int8|str)"):
            ConvTranspose1d.from_file(save(tmp_path / "w.npz", state), stride=1)
    with pytest.raises(TypeError, match=r"w\.safetensors: .* got I8"):
        ConvTranspose1d.from_file(save(tmp_path / "w.safetensors", {"weight": W.astype(np.int8)}), stride=1)


def test_bfloat16_without_ml_dtypes(tmp_path, monkeypatch):
    weight = W.astype(pytest.importorskip("ml_dtypes").bfloat16)
    path = save(tmp_path / "w.safetensors", {"weight": weight})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert list_layers(path)[0].dtype == "bfloat16"
    with pytest.raises(TypeError, match=r"w\.safetensors: .* is bfloat16.*pip install ml_dtypes"):
        ConvTranspose1d.from_file(path, stride=1)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".PTH", ".bin", ".ckpt", ".pkl"])
def test_pickles_are_not_loaded(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    for read in (list_layers, ConvTranspose1d.from_file):
        with pytest.raises(ValueError, match=r"are pickles.*not loaded.*safetensors\.torch\.save_file\(.*torch\.load"):
            read(path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["w", "w.h5", "w.zip"])
def test_other_suffixes(tmp_path, name):
    with pytest.raises(ValueError, match=r"path must end in \.onnx, \.safetensors, \.npz or \.npy, got '.*w"):
        list_layers(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".onnx"])
def test_no_file(tmp_path, suffix):
    pytest.importorskip({".npz": "numpy", ".safetensors": "safetensors", ".onnx": "onnx"}[suffix])
    path = tmp_path / f"w{suffix}"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        list_layers(path)
    path.mkdir()
    with pytest.raises(ValueError, match=re.escape(f"{path}: it is not a regular file")):
        list_layers(path)


def test_without_safetensors(tmp_path, monkeypatch):
    path = save(tmp_path / "w.safetensors", {"weight": W})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"needs safetensors .*pip install 'convt1d\[safetensors\]'"):
        list_layers(path)


def test_nothing_is_imported_before_it_is_needed(tmp_path):
    """Neither a framework nor a reader, by a state of NumPy arrays and a .npz file."""
    save(tmp_path / "w.npz", {"weight": W})
    code = (
        "import sys, numpy, convt1d; layer = convt1d.ConvTranspose1d.from_file('w.npz', stride=2); "
        "convt1d.ConvTranspose1d.from_state_dict(layer.state_dict(), stride=2); "
        "print([n for n in ('torch', 'onnx', 'safetensors', 'jax', 'keras', 'ml_dtypes') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- damaged files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("packed", [".npz", ".safetensors", "compressed .npz"])
def test_mutations(tmp_path, packed, count):
    """The data is small, so that most mutations meet the header."""
    state = {
        "a.weight": np.ones((2, 1, 2), np.float32),
        "a.bias": np.ones(1, np.float32),
        "b.weight_g": np.ones((2, 1, 1), np.float16),
        "b.weight_v": np.ones((2, 1, 1), np.float16),
    }
    path = tmp_path / f"w{packed.split()[-1]}"
    if packed == "compressed .npz":
        np.savez_compressed(path, **state, padding=[1, 2])
    else:
        save(path, state)
    worked, failed = hostile.fuzz(path, path.read_bytes(), count, 0, stride=1)
    print(f"{worked} reads worked, {failed} failed")
    assert worked > 0
    assert failed > count / 3


def header(shape, descr="<f4", version=b"\1\0"):
    """A .npy file of this header and 16 bytes of data."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    size = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + text + bytes(16)


def zipped(path, content, name="weight.npy", method=zipfile.ZIP_STORED, times=1):
    with zipfile.ZipFile(path, "w", method) as file, file.open(name, "w") as member:
        for _ in range(times):
            member.write(content)


NPZ = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no zip file"),
    "a .npy file": lambda path: path.write_bytes(header((2, 1, 2))),
    "object": lambda path: zipped(path, header((2, 1, 2), "|O")),
    "pickled": lambda path: np.savez(path, weight=np.array([None])),
    "huge": lambda path: zipped(path, header((2**40, 1, 2))),
    "huge product": lambda path: zipped(path, header((2**62, 2**62, 2**62))),
    "negative": lambda path: zipped(path, header((-2, -1, 2))),
    "no numbers": lambda path: zipped(path, header("('a', 1, 2)")),
    "long header": lambda path: zipped(
        path, header("(" + "1," * 2**23 + ")", version=b"\2\0"), method=zipfile.ZIP_DEFLATED
    ),
    "deep": lambda path: zipped(path, header("(" * 5000 + ")" * 5000)),
    "version 3": lambda path: zipped(path, header((2, 1, 2), version=b"\3\0")),
    "no .npy member": lambda path: zipped(path, b"no array"),
    "bzip2": lambda path: zipped(path, header((2, 1, 2)), method=zipfile.ZIP_BZIP2),
    "bomb": lambda path: zipped(path, header((2, 1, 2)) + bytes(2**20), method=zipfile.ZIP_DEFLATED, times=256),
    "honest bomb": lambda path: np.savez_compressed(path, weight=np.zeros((2**26, 1, 1), np.float32)),
}


def safetensors_file(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(**given):
    return {"weight": {"dtype": "F32", "shape": [2, 1, 2], "data_offsets": [0, 16]} | given}


SAFETENSORS = {
    "empty": b"",
    "cut length": b"\1\0",
    "text": b"no safetensors file",
    "huge header": safetensors_file(b"{}", length=2**63 - 1),
    "largest header": safetensors_file(b"{}", length=2**64 - 1),
    "100 MB header": safetensors_file(b"{}", length=10**8),
    "true 32 MiB header": safetensors_file(b"{" + b" " * 2**25 + b"}"),
    "no JSON": safetensors_file(b"{'a'"),
    "deep JSON": safetensors_file(b'{"a":' * 100_000),
    "deep list": safetensors_file(b"[" * 1_000_000),
    "no object": safetensors_file(b"3"),
    "no data": safetensors_file(entry()),
    "too short": safetensors_file(entry(), bytes(15)),
    "too long": safetensors_file(entry(), bytes(17)),
    "huge shape": safetensors_file(entry(shape=[2**40, 2**40, 2**40]), bytes(16)),
    "negative shape": safetensors_file(entry(shape=[-2, 1, -2]), bytes(16)),
    "backwards": safetensors_file(entry(data_offsets=[16, 0]), bytes(16)),
    "beyond": safetensors_file(entry(data_offsets=[2**62, 2**62 + 16]), bytes(16)),
    "unknown type": safetensors_file(entry(dtype="F33"), bytes(16)),
    "invalid UTF-8": safetensors_file(b'{"\xff": 1}'),
}


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_hostile_files(tmp_path):
    """Each is refused, and none takes the memory it claims."""
    paths = [tmp_path / f"{name}.npz" for name in NPZ]
    for path, write in zip(paths, NPZ.values(), strict=True):
        write(path)
    try:
        import safetensors
    except ImportError:
        safetensors = None
    for name, content in SAFETENSORS.items() if safetensors else ():
        paths.append(tmp_path / f"{name}.safetensors")
        paths[-1].write_bytes(content)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, hostile.__file__, *map(str, paths)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        failed, mebibytes = map(int, line.split(": ")[1].split())
        assert failed >= 1, line
        assert mebibytes < 150, line
    assert len(done.stdout.splitlines()) == len(paths)
