# SPDX-License-Identifier: MIT
"""What public bug reports of other projects stumbled over: the right value of each, as a test.

The kinds that have a file of their own:

===============================================  ==================================================================
reports                                          tests
===============================================  ==================================================================
constant expressions, QDQ, folding (ONNX,        test_constants.py: test_random_expressions, test_dequantised,
ONNX Runtime 19694, onnx 1758)                   test_a_quantised_vocoder
2-D of height 1 (torch2trt 311)                  test_constants.py, test_foreign.py, test_layouts.py
bias or BatchNorm behind the node (tf2onnx 1740) test_constants.py: test_an_add_is_the_bias, test_what_follows_is_told
local functions (rten 655)                       test_onnx.py: test_inside_a_branch_and_a_function
links of the Hub's cache (ort 27353)             test_foreign.py: test_the_cache_of_the_hub
models as bytes (ort 6696)                       test_foreign.py: test_models_that_are_no_path
shards (SKaiNET 1246)                            test_foreign.py: test_shards
prefixes (OpenTAD 44)                            test_foreign.py: test_the_nearest_name_comes_first
pickles (safetensors 202)                        test_foreign.py: test_the_recipe_for_pickles
forward of one's own (SoundStream 5)             test_foreign.py: test_modules_with_a_forward_of_their_own
layouts (mlx-vlm 1545, equinox 574)              test_layouts.py
torch.func (functorch 338), export (brevitas)    test_transforms.py
WAVE placeholders (ffmpeg-python 118)            test_sound.py
functions that pack (padertorch 68)              a matter of speed: docs/speed.md
===============================================  ==================================================================
"""

import numpy as np
import pytest
import scipy.signal

from convt1d import ConvTranspose1d, ConvTranspose1dStream, conv_transpose1d

RNG = np.random.default_rng(0)


def definition(x, w, stride=1, left=0, right=0, groups=1, dilation=1):
    """Scatter in float64, then crop; x (C, L), w (C, C_out/groups, K)."""
    x, w = x.astype(float), w.astype(float)
    (c, length), (_, per_group, size) = x.shape, w.shape
    y = np.zeros((per_group * groups, (length - 1) * stride + dilation * (size - 1) + 1))
    for g in range(groups):
        ins, outs = (slice(g * n // groups, (g + 1) * n // groups) for n in (c, per_group * groups))
        for i in range(length):
            for k in range(size):
                y[outs, i * stride + k * dilation] += x[ins, i] @ w[ins, :, k]
    return y[:, left : y.shape[1] - right]


@pytest.mark.parametrize(
    ("size", "stride", "left", "right"),
    [(16, 8, 0, 8), (16, 8, 8, 0), (8, 8, 0, 0), (7, 4, 1, 2), (8, 4, 2, 2), (3, 2, 0, 1)],
)
def test_crops_on_the_right_side(size, stride, left, right):
    """vllm-omni 1241, mlx-audio 391, seisbench 158, demucs 122: trim right, trim 0 samples, trim unequally."""
    x, w = RNG.integers(-4, 5, (4, 30)).astype("f4"), RNG.integers(-4, 5, (4, 3, size)).astype("f4")
    expected = definition(x, w, stride, left, right)
    layer = ConvTranspose1d(4, 3, size, stride, (left, right), bias=False)
    layer.weight = w
    np.testing.assert_array_equal(layer(x), expected)
    stream = ConvTranspose1dStream(layer)
    streamed = np.concatenate([*(stream.process(x[:, i : i + 7]) for i in range(0, 30, 7)), stream.flush()], axis=-1)
    np.testing.assert_array_equal(streamed, expected)


def test_replicated_on_the_left():
    """AudioDec 11: a replicated sample before the layer, and the crop of what it makes."""
    x, w, stride = RNG.integers(-4, 5, (4, 30)).astype("f4"), RNG.integers(-4, 5, (4, 3, 8)).astype("f4"), 4
    padded = np.concatenate([x[:, :1], x], axis=1)
    expected = definition(padded, w, stride)[:, stride:-stride]
    y = conv_transpose1d(x, w, stride=stride, padding=(0, stride), padding_mode="replicate")
    np.testing.assert_array_equal(y, expected)


def test_many_channels_and_filters_in_the_same_memory():
    """tt-metal 42682 (iSTFT), litert-torch 1061: weights are told apart by their numbers, not by where they lie."""
    x, w = RNG.standard_normal((320, 12)).astype("f4"), np.empty((320, 1, 640), "f4")
    for _ in range(3):
        w[...] = RNG.standard_normal(w.shape)
        y = conv_transpose1d(x, w, stride=160, groups=1)
        expected = definition(x, w, 160)
        np.testing.assert_allclose(y, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("sign", [1, -1])
def test_half_sums_beyond_half(sign):
    """pytorch 153700: sums of float16 are made in float32 and rounded once."""
    x, w = np.full((1, 64, 40), 200, np.float16), np.full((64, 32, 4), 100, np.float16)
    w[1::2] *= sign
    y = conv_transpose1d(x, w, stride=2, padding=1)
    assert y.dtype == np.float16
    assert (y == (np.inf if sign > 0 else 0)).all()


def test_infinite_weights_meet_the_zeros_outside():
    """pytorch 165744: 0 * inf is NaN at both ends, as the sum has it."""
    y = conv_transpose1d(np.ones((1, 4)), np.full((1, 1, 3), np.inf))[0]
    np.testing.assert_array_equal(np.isnan(y), [True, True, False, False, True, True])
    assert (y[2:4] == np.inf).all()


@pytest.mark.parametrize("offset", [0, 1e3])
def test_digits_of_many_channels(offset):
    """mlx 4242, MIOpen 3508, openvino 21623: products by Winograd lose no digits, and silence stays silent."""
    x, w = (RNG.standard_normal((256, 60)) + offset).astype("f4"), RNG.standard_normal((256, 32, 4)).astype("f4")
    x[:, 20:40] = 0
    expected, size = definition(x, w, 2), definition(abs(x), abs(w), 2)
    y = conv_transpose1d(x, w, stride=2)
    assert abs(y - expected).max() <= 4 * np.finfo("f4").eps * size.max()
    assert not y[:, 44:78].any()


@pytest.mark.parametrize("dtype", ["i1", "<i2", ">i2", "u2", "i8", "?"])
def test_whole_numbers(dtype):
    """scipy 15620, 14733: integers are neither cut nor wrapped."""
    x, w = RNG.integers(0, 2, (2, 20)).astype(dtype), np.full((2, 1, 3), 0.5)
    y = conv_transpose1d(x, w, stride=2)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, definition(x, w, 2))
    assert conv_transpose1d(np.full((1, 9), 2**14, "<i2"), np.full((1, 1, 1), 8, "<i2")).max() == 2**17


def test_output_shape_with_same():
    """tensorflow 45999, keras 9883: any output length of "same" is a pair of crops; the adjoint is the oracle."""
    for size in (2, 3, 5, 8):
        for stride in (1, 2, 3):
            for length in (4, 5, 9):
                for wanted in range((length - 1) * stride + 1, length * stride + 1):
                    total = max(0, (length - 1) * stride + size - wanted)
                    left = total // 2
                    x, w = (
                        RNG.integers(-4, 5, (1, length)).astype(float),
                        RNG.integers(-4, 5, (1, 1, size)).astype(float),
                    )
                    y = conv_transpose1d(
                        x,
                        w,
                        stride=stride,
                        padding=(left, total - left),
                        output_padding=max(0, wanted - (length - 1) * stride - size),
                    )[0]
                    probe = RNG.integers(-4, 5, wanted).astype(float)
                    padded = np.pad(probe, (left, total - left))
                    correlated = scipy.signal.correlate(padded, w[0, 0], "valid")[::stride][:length]
                    correlated = np.pad(correlated, (0, length - correlated.size))
                    assert y @ probe == pytest.approx(correlated @ x[0])


def test_arguments_in_torchs_order():
    """bayesian-torch 34, coreai 57: groups and dilation are not exchanged; output_padding is counted in samples."""
    x, w = RNG.integers(-4, 5, (4, 9)).astype(float), RNG.integers(-4, 5, (4, 3, 5)).astype(float)
    y = conv_transpose1d(x, w, None, 3, 0, 2, 2, 4)
    np.testing.assert_array_equal(y[:, :-2], definition(x, w, 3, groups=2, dilation=4))
    assert not y[:, -2:].any()


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"auto_pad": "SAME_UPPER", "pads": [0, 0]}, "pads cannot go with auto_pad"),  # onnx 3000, tvm 19450
        ({"auto_pad": "VALID", "pads": [1, 2]}, "pads cannot go with auto_pad"),
        ({"strides": [2, 2]}, "strides must hold one number"),  # mxnet 20281, tf2onnx 323
        ({"dilations": [1, 1]}, "dilations must hold one number"),
        ({"pads": [1, 1, 1, 1]}, "pads must hold two numbers"),
    ],
)
def test_nodes_that_contradict_themselves(attributes, match):
    onnx = pytest.importorskip("onnx")
    model = ConvTranspose1d(4, 6, 8, rng=0).to_onnx()
    node = model.graph.node[0]
    del node.attribute[:]
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    with pytest.raises(ValueError, match=match):
        ConvTranspose1d.from_onnx(model)


def test_initializers_as_inputs():
    """onnx 1449: a weight may be both; pytorch 126071: one that is an input only is named as such."""
    onnx = pytest.importorskip("onnx")
    layer = ConvTranspose1d(4, 6, 8, rng=0)
    model = layer.to_onnx()
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    np.testing.assert_array_equal(ConvTranspose1d.from_onnx(model).weight, layer.weight)
    del model.graph.initializer[:]
    with pytest.raises(ValueError, match="'weight' is an input of the graph, its values are not stored"):
        ConvTranspose1d.from_onnx(model)


@pytest.mark.filterwarnings("ignore:.*quantize.*:UserWarning")
def test_quantised_weights_are_never_numbers(tmp_path):
    """pytorch 54816, quanto, candle 2875: integers beside scales and 8-bit floats are refused by their type."""
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    quantised = torch.quantize_per_tensor(torch.ones(4, 2, 3), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"'weight' must be .*QInt8"):
        ConvTranspose1d.from_state_dict({"weight": quantised}, stride=2)
    for dtype, name in ((torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3")):
        save({"up.weight": torch.ones(4, 2, 3).to(dtype), "up.weight_scale": torch.ones(1)}, tmp_path / "w.safetensors")
        with pytest.raises((TypeError, ValueError), match=f"got {name}"):
            ConvTranspose1d.from_file(tmp_path / "w.safetensors", "up", stride=2)


def test_panels():
    """sktime 405, obspy 1363: panels of series as a batch, gaps, masks, big-endian samples."""
    x, w = RNG.standard_normal((5, 2, 20)), RNG.standard_normal((2, 3, 4))
    np.testing.assert_allclose(conv_transpose1d(x, w, stride=2)[3], definition(x[3], w, 2))
    np.testing.assert_array_equal(conv_transpose1d(x.astype(">f8"), w, stride=2), conv_transpose1d(x, w, stride=2))
    x[3, 1, 7] = np.nan
    gap = np.isnan(conv_transpose1d(x, w, stride=2))
    assert gap[3, :, 14:18].all()
    assert gap.sum() == 3 * 4
    with pytest.raises(TypeError, match=r"x must be a plain array, got a MaskedArray; fill it first"):
        conv_transpose1d(np.ma.masked_invalid(x), w)


@pytest.mark.parametrize("kind", ["safetensors", "state", "command"])
def test_depthwise_without_bias(tmp_path, kind):
    """kokoro 79: (C, 1, K) is a depthwise layer nearly always, and never a sum without a word."""
    w = RNG.standard_normal((6, 1, 4)).astype("f4")
    if kind == "state":
        call = lambda **more: ConvTranspose1d.from_state_dict({"weight": w}, stride=2, **more)  # noqa: E731
    else:
        save = pytest.importorskip("safetensors.numpy").save_file
        save({"pool.weight": w}, tmp_path / "w.safetensors")
        call = lambda **more: ConvTranspose1d.from_file(tmp_path / "w.safetensors", "pool", stride=2, **more)  # noqa: E731
    with pytest.raises(ValueError, match="groups=6 for a depthwise layer"):
        call()
    assert call(groups=6).out_channels == 6
    assert call(groups=1).out_channels == 1


# --- hostile files --------------------------------------------------------------------------------------------


def test_sparse_files(tmp_path):
    """A file that claims a terabyte and stores nothing is refused before any memory is taken."""
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "w.npy"
    header = np.lib.format.header_data_from_array_1_0(np.empty((2, 1, 2), "f4")) | {"shape": (2**38, 1, 1)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        try:
            file.truncate(file.tell() + 2**40)
        except OSError:
            pytest.skip("no sparse files here")
    if path.stat().st_blocks * 512 > 2**30:
        pytest.skip("no sparse files here")
    with pytest.raises(ValueError, match=r"w\.npy: it is a sparse file of 1099511627904 bytes"):
        ConvTranspose1d.from_file(path, stride=1, groups=1)
    model = ConvTranspose1d(4, 6, 8, rng=0).to_onnx()
    del model.graph.node[0].attribute[:]
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.dims[:] = [2**38, 1, 1]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.npy")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx: .*sparse file"):
        ConvTranspose1d.from_file(tmp_path / "m.onnx")
