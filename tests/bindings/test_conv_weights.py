# SPDX-License-Identifier: MIT
"""Convolutions from elsewhere: each system's own result is the oracle."""

import os
from pathlib import Path

import numpy as np
import pytest

from convt1d import Conv1d

X = np.random.default_rng(0).standard_normal((2, 6, 40)).astype(np.float32)


def close(y, expected):
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "same", "dilation": 3},
        {"stride": 3, "padding": 2, "groups": 2, "bias": False},
        {"padding": "same", "dilation": 2, "padding_mode": "reflect"},
        {"padding": 4, "padding_mode": "replicate"},
        {"padding": 3, "padding_mode": "circular", "groups": 6},
    ],
)
@pytest.mark.parametrize("norm", [None, "old", "new"])
def test_torch(settings, norm, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv1d(6, 12, 5, **settings)
    if norm == "new":
        torch.nn.utils.parametrizations.weight_norm(module)
    elif norm == "old":
        with pytest.warns(FutureWarning):
            torch.nn.utils.weight_norm(module)
    expected = module(torch.from_numpy(X)).detach().numpy()
    layer = Conv1d.from_torch(module)
    close(layer(X), expected)
    grad = np.ones(expected.shape, np.float32)
    x = torch.from_numpy(X).requires_grad_()
    module(x).sum().backward()
    close(layer.backward(grad, X)[0], x.grad.numpy())
    state = {f"net.0.{name}": value.detach().numpy() for name, value in module.state_dict().items()}
    settings = {name: value for name, value in settings.items() if name != "bias"}
    close(Conv1d.from_state_dict(state, "net.0", **settings)(X), expected)
    save = pytest.importorskip("safetensors.numpy").save_file
    save(state, tmp_path / "net.safetensors")
    close(Conv1d.from_file(tmp_path / "net.safetensors", "net.0", **settings)(X), expected)


@pytest.mark.parametrize("settings", [{"padding": (5, 2), "dilation": 2}, {"stride": 3, "groups": 3}, {"bias": False}])
def test_onnx_and_back(settings, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    layer = Conv1d(6, 12, 4, rng=0, **settings)
    model = layer.to_onnx(tmp_path / "conv.onnx")
    onnx.checker.check_model(model)
    close(ReferenceEvaluator(model).run(None, {"x": X})[0], layer(X))
    for read in (Conv1d.from_onnx(model), Conv1d.from_file(tmp_path / "conv.onnx")):
        assert repr(read) == repr(layer)
        np.testing.assert_array_equal(read(X), layer(X))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 3])
def test_onnx_auto_pad(auto_pad, stride):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = Conv1d(6, 12, 4, stride, rng=0).to_onnx()
    node = model.graph.node[0]
    del node.attribute[[a.name for a in node.attribute].index("pads")]
    node.attribute.append(onnx.helper.make_attribute("auto_pad", auto_pad))
    expected = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0]
    close(Conv1d.from_onnx(model, length=40)(X), expected)
    if stride > 1 and auto_pad != "VALID":
        with pytest.raises(ValueError, match="give length=L"):
            Conv1d.from_onnx(model)


def test_onnx_own_cases():
    """ONNX' own cases of 1-D convolutions, which come with the package."""
    onnx = pytest.importorskip("onnx")
    folders = sorted((Path(onnx.__file__).parent / "backend/test/data/pytorch-converted").glob("test_Conv1d*"))
    if not folders:
        pytest.skip("this ONNX comes without its test data")
    for folder in folders:
        x, y = (
            onnx.numpy_helper.to_array(onnx.TensorProto.FromString((folder / "test_data_set_0" / name).read_bytes()))
            for name in ("input_0.pb", "output_0.pb")
        )
        close(Conv1d.from_file(folder / "model.onnx")(x), y)


@pytest.mark.parametrize("padding", ["same", "valid", "causal"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras' own use of NumPy
def test_keras(padding, groups, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    keras = pytest.importorskip("keras")
    layer = keras.layers.Conv1D(12, 5, padding=padding, dilation_rate=2, groups=groups)
    x = np.ascontiguousarray(X.swapaxes(1, 2))
    expected = keras.ops.convert_to_numpy(layer(x))
    close(Conv1d.from_keras(layer)(x, channels_last=True), expected)
    named = keras.layers.Conv1D(12, 5, activation="relu")
    named(x)
    with pytest.raises(ValueError, match="after="):
        Conv1d.from_keras(named)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CAUSAL", "CIRCULAR", 3, ((1, 4),)])
def test_flax(padding):
    flax = pytest.importorskip("flax.linen")
    jax = pytest.importorskip("jax")
    module = flax.Conv(12, (4,), padding=padding, kernel_dilation=2, feature_group_count=2)
    x = np.ascontiguousarray(X.swapaxes(1, 2))
    expected, state = module.init_with_output(jax.random.key(0), x)
    kernel, bias = state["params"]["kernel"], state["params"]["bias"]
    layer = Conv1d.from_jax(kernel, bias, padding=padding, dilation=2, groups=2)
    close(layer(x, channels_last=True), np.asarray(expected))


def test_npz_holds_the_geometry(tmp_path):
    np.savez(tmp_path / "pre.npz", **{"pre.weight": np.ones((8, 1, 7)), "pre.padding": [6, 0], "pre.groups": 8})
    assert repr(Conv1d.from_file(tmp_path / "pre.npz")).startswith(
        "Conv1d(8, 8, kernel_size=(7,), stride=(1,), padding=(6, 0)"
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Conv1d.from_state_dict({"weight": np.ones((8, 1, 7))}, padding=3), TypeError, "groups must be given"),
        (lambda: Conv1d.from_state_dict({"w": np.ones((8, 4, 7))}, padding=3), ValueError, "must hold 'weight'"),
        (
            lambda: Conv1d.from_state_dict({"weight": np.ones((8, 4, 7)), "bias": np.ones(4)}, padding=3),
            ValueError,
            "bias must",
        ),
        (lambda: Conv1d.from_keras(np.ones((5, 8, 4)), padding="same", stride=2), ValueError, "depend on L"),
        (lambda: Conv1d.from_keras(np.ones((5, 8, 4))), TypeError, "padding must be given"),
        (lambda: Conv1d.from_jax(np.ones((5, 8, 4)), padding="FULL"), ValueError, "padding must be 'same'"),
        (lambda: Conv1d.from_torch(np.ones(3)), TypeError, "module must be a torch.nn.Conv1d"),
        (lambda: Conv1d.from_file("model.pt"), ValueError, "are pickles"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
