# SPDX-License-Identifier: MIT
"""What other systems hand around: the layouts, files and modules of each are read right, or refused in words."""

import io
import json
import os
import re

import numpy as np
import pytest

from convt1d import ConvTranspose1d, conv_transpose1d
from convt1d.weights import list_layers

W = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
B = np.arange(6, dtype=np.float32)
X = np.random.default_rng(1).standard_normal((1, 4, 9)).astype(np.float32)


def save(path, state, layout=None):
    metadata = None if layout is None else {"format": layout}
    pytest.importorskip("safetensors.numpy").save_file(state, path, metadata)
    return path


# --- layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(16, 8, 4), (4, 4, 4), (32, 16, 8), (1, 1, 5)])
def test_the_layout_of_mlx(tmp_path, shape, bias):
    """(C_out, K, C_in), as the file says: transposed, listed so, and equal to torch's file of the same layer."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal(shape).astype("f4"), rng.standard_normal(shape[1]).astype("f4")
    more = {"up.bias": b} if bias else {}
    theirs = save(tmp_path / "mlx.safetensors", {"up.weight": np.ascontiguousarray(w.transpose(1, 2, 0))} | more, "mlx")
    layer = ConvTranspose1d.from_file(theirs, "up", stride=2)
    np.testing.assert_array_equal(layer.weight, w)
    assert layer.groups == 1
    assert list_layers(theirs)[0].weight_shape == shape
    for layout in ("pt", "np", None):
        same = save(tmp_path / "pt.safetensors", {"up.weight": w} | more, layout)
        np.testing.assert_array_equal(ConvTranspose1d.from_file(same, "up", stride=2).weight, w)


@pytest.mark.parametrize(
    ("layout", "state", "match"),
    [
        ("flax", {"up.weight": W}, "format 'flax', which is not known here; give the kernel to from_jax"),
        ("tf", {"up.weight": W}, "give the kernel to from_keras"),
        ("gguf", {"up.weight": W}, "format 'gguf', which is not known"),
        ("mlx", {"up.weight_g": W[:, :1, :1], "up.weight_v": W}, "under weight_norm in the layout of MLX"),
        ("mlx", {"up.weight": W, "up.bias": B}, "needs a bias of 4 values"),
        (None, {"up.weight": np.ones((8, 4, 16)), "up.bias": np.ones(8)}, r"groups=2 if this is torch's.*MLX"),
        (None, {"up.weight": np.ones((6, 1, 3))}, "groups=6 for a depthwise layer, groups=1 for a sum of 6"),
    ],
)
def test_layouts_that_are_not_assumed(tmp_path, layout, state, match):
    path = save(tmp_path / "m.safetensors", state, layout)
    with pytest.raises(ValueError, match=match):
        ConvTranspose1d.from_file(path, "up", stride=2)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_grouped_kernels_of_jax(groups):
    """feature_group_count of jax.lax.conv_general_dilated."""
    jax = pytest.importorskip("jax")
    x = np.random.default_rng(0).integers(-4, 5, (1, 6, 9)).astype("f4")
    kernel = np.random.default_rng(1).integers(-4, 5, (6, 6 // groups, 5)).astype("f4")  # (C_out, C_in / groups, K)
    for stride, padding, dilation in ((2, 4, 1), (3, 5, 2)):
        expected = jax.lax.conv_general_dilated(
            x, kernel, (1,), [(padding, padding)], (stride,), (dilation,), feature_group_count=groups
        )
        layer = ConvTranspose1d.from_jax(
            kernel.transpose(2, 1, 0), stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        np.testing.assert_array_equal(layer(x), expected)


# --- shards -------------------------------------------------------------------------------------------------


def sharded(folder, index=True):
    one, two = (folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save(one, {"up.weight": W, "v.weight_g": W[:, :1, :1], "plain.weight": W}, "pt")
    save(two, {"up.bias": B, "v.weight_v": W, "v.bias": B}, "pt")
    if index:
        names = {"up.weight": one, "up.bias": two, "v.weight_g": one, "v.weight_v": two, "v.bias": two}
        names["plain.weight"] = one
        text = json.dumps({"weight_map": {name: path.name for name, path in names.items()}})
        (folder / "model.safetensors.index.json").write_text(text)
    return one, two


def test_shards(tmp_path):
    one, two = sharded(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        layer = ConvTranspose1d.from_file(path, "up", stride=4)
        np.testing.assert_array_equal(layer(X), conv_transpose1d(X, W, B, stride=4))
        assert {info.name for info in list_layers(path)} == {"up", "v", "plain"}
    for path, name, missing in ((one, "up", "up.bias"), (two, "v", "v.weight_g"), (one, "v", "v.weight_v")):
        with pytest.raises(ValueError, match=f"'{missing}' lies in another shard, model-0000"):
            ConvTranspose1d.from_file(path, name, stride=4)
    assert ConvTranspose1d.from_file(one, "plain", stride=4).bias is None
    (tmp_path / "model.safetensors.index.json").unlink()  # the names tell
    with pytest.raises(ValueError, match=r"'up\.bias' lies in another shard"):
        ConvTranspose1d.from_file(one, "up", stride=4)
    two.unlink()
    with pytest.raises(ValueError, match=r"'plain\.bias' may lie in another shard"):
        ConvTranspose1d.from_file(one, "plain", stride=4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {"up.weight": 3}}',
        '{"weight_map": {"a": "../b"}}',
        "[" * 9999,
    ],
)
def test_a_bad_index(tmp_path, text):
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        list_layers(path)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.generator."])
def test_the_nearest_name_comes_first(prefix):
    state = {f"{prefix}resblocks.{i}.weight": W for i in range(30)} | {f"{prefix}ups.0.weight": W}
    with pytest.raises(ValueError, match=rf"has layers '{prefix}ups\.0', .*did you mean '{prefix}ups\.0'\?"):
        ConvTranspose1d.from_state_dict(state, "ups.0", stride=2)
    with pytest.raises(ValueError, match=r"the values of 'generator' are mappings themselves: pass mapping\['gen"):
        ConvTranspose1d.from_state_dict({"generator": state, "epoch": 3}, "ups.0", stride=2)
    with pytest.raises(ValueError, match="its keys are 'epoch', 'lr'"):
        ConvTranspose1d.from_state_dict({"epoch": 3, "lr": 1}, "ups.0", stride=2)


# --- models of ONNX -----------------------------------------------------------------------------------------


def test_models_that_are_no_path(tmp_path):
    pytest.importorskip("onnx")
    model = ConvTranspose1d(4, 6, 8, rng=0).to_onnx(tmp_path / "m.onnx")
    data = model.SerializeToString()

    class Program:  # torch's ONNXProgram
        model_proto = model

    for given in (data, bytearray(data), memoryview(data), io.BytesIO(data), Program(), model):
        assert ConvTranspose1d.from_onnx(given).kernel_size == 8
    for given in (b"no model" * 2**20, object(), 3, [data]):
        with pytest.raises((ValueError, TypeError), match="model") as caught:
            ConvTranspose1d.from_onnx(given)
        assert len(str(caught.value)) < 1000


def test_the_cache_of_the_hub(tmp_path):
    """Model and data are links to a folder of blobs; a link to elsewhere is refused."""
    onnx = pytest.importorskip("onnx")
    snapshot, blobs = tmp_path / "snapshots" / "0a", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    layer = ConvTranspose1d(4, 6, 80, stride=40, rng=0)
    model = layer.to_onnx()
    onnx.save_model(model, blobs / "a", save_as_external_data=True, location="d", size_threshold=9)
    model = onnx.load(blobs / "a", load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "model.onnx_data"
    (blobs / "a").write_bytes(model.SerializeToString())
    try:
        (snapshot / "model.onnx").symlink_to("../../blobs/a")
        (snapshot / "model.onnx_data").symlink_to("../../blobs/d")
    except OSError:
        pytest.skip("no symbolic links here")
    np.testing.assert_array_equal(ConvTranspose1d.from_file(snapshot / "model.onnx").weight, layer.weight)
    (blobs / "d").rename(tmp_path / "secret")
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to("../../secret")
    with pytest.raises(ValueError, match="must be stored in the model's folder"):
        ConvTranspose1d.from_file(snapshot / "model.onnx")


# --- modules ------------------------------------------------------------------------------------------------


def modules(torch):
    nn = torch.nn

    class Renamed(nn.ConvTranspose1d):
        pass

    class Crops(nn.ConvTranspose1d):
        def forward(self, x, output_size=None):
            return super().forward(x)[..., :-4]

    class Scaled(nn.ConvTranspose1d):
        weight = property(lambda self: self._parameters["weight"] * 0.5)

    hooked = nn.ConvTranspose1d(4, 6, 8, 4)
    hooked.register_forward_hook(lambda module, x, y: y[..., :-4])
    patched = nn.ConvTranspose1d(4, 6, 8, 4)
    patched.forward = lambda x: nn.ConvTranspose1d.forward(patched, x)[..., :-4]
    return Renamed(4, 6, 8, 4), [Crops(4, 6, 8, 4), hooked, patched]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch.compile's own
def test_modules_with_a_forward_of_their_own():
    torch = pytest.importorskip("torch")
    renamed, others = modules(torch)
    expected = renamed(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(ConvTranspose1d.from_torch(renamed)(X), expected, atol=1e-5)
    for module in others:
        with pytest.raises(TypeError, match=r"must compute what torch\.nn\.ConvTranspose1d does, but .*trust=True"):
            ConvTranspose1d.from_torch(module)
        np.testing.assert_array_equal(
            ConvTranspose1d.from_torch(module, trust=True).weight, module.weight.detach().numpy()
        )
    for wrapped, way in ((torch.nn.DataParallel(renamed), "module"), (torch.compile(renamed), "_orig_mod")):
        with pytest.raises(TypeError, match=rf"pass its \.{way}"):
            ConvTranspose1d.from_torch(wrapped)


@pytest.mark.parametrize("axis", [2, 3])
def test_two_dimensional_modules(axis):
    torch = pytest.importorskip("torch")
    pair = lambda value, other: (other, value) if axis == 2 else (value, other)  # noqa: E731
    module = torch.nn.ConvTranspose2d(4, 6, pair(8, 1), pair(4, 1), pair(2, 0), pair(1, 0))
    expected = module(torch.from_numpy(np.expand_dims(X, axis))).detach().numpy().squeeze(axis)
    np.testing.assert_allclose(ConvTranspose1d.from_torch(module)(X), expected, atol=1e-5)
    layer = ConvTranspose1d.from_state_dict(module.state_dict(), stride=4, padding=2, output_padding=1)
    np.testing.assert_allclose(layer(X), expected, atol=1e-5)
    with pytest.raises(TypeError, match="must be 1-D, or 2-D with kernel size 1"):
        ConvTranspose1d.from_torch(torch.nn.ConvTranspose2d(4, 6, (3, 8)))


def test_a_subclass_of_keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")

    class Crops(keras.layers.Conv1DTranspose):
        def call(self, x):
            return super().call(x)[:, :-4]

    layer = Crops(6, 8, strides=4)
    layer.build((None, None, 4))
    with pytest.raises(TypeError, match=r"its class .*Crops has its own call; with trust=True"):
        ConvTranspose1d.from_keras(layer)
    assert ConvTranspose1d.from_keras(layer, trust=True).kernel_size == 8


# --- the recipe for pickles ---------------------------------------------------------------------------------


def test_the_recipe_for_pickles(tmp_path, monkeypatch):
    """What the message says, done with what people have."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors.torch")
    monkeypatch.chdir(tmp_path)
    up = torch.nn.ConvTranspose1d(4, 6, 8, 4)
    state = {f"ups.0.{name}": value.detach() for name, value in up.state_dict().items()}
    turned = state["ups.0.weight"].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for given in (
        state,
        {"generator": state},
        {"state_dict": state, "epoch": 3, "optimizer": {"lr": 1e-4, "state": {0: {"step": 1}}}},
        state | {"step": 7},
        state | {"ups.0.weight": turned},
        state | {"ema.ups.0.weight": state["ups.0.weight"]},
    ):
        torch.save(given, "path.pt")
        with pytest.raises(ValueError, match="are pickles") as caught:
            ConvTranspose1d.from_file("path.pt")
        recipe = re.search(r"safetensors\.torch\.save_file\(.*\)", str(caught.value))[0]
        assert "torch.jit.load(path).state_dict()" in str(caught.value)
        eval(recipe, {"torch": torch, "path": "path.pt", "safetensors": __import__("safetensors")})
        layer = ConvTranspose1d.from_file("weights.safetensors", "ups.0", stride=4)
        np.testing.assert_array_equal(layer.weight, state["ups.0.weight"].numpy())
