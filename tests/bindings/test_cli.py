# SPDX-License-Identifier: MIT
"""The command line as a user runs it, against `scipy.signal.upfirdn` and the package's own function."""

import importlib.resources
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tracemalloc
import wave

import numpy as np
import pytest
import scipy.signal
from scipy.io import wavfile

import convt1d.bench
from convt1d import cli, explain, info
from convt1d.cpu import _runtime

RATE = 360  # of no meaning: the sample rate of the ECG is unknown
TAPS = cli.windowed_sinc(8)
PADDING = (TAPS.size - 8) // 2


@pytest.fixture
def ecg():
    with importlib.resources.files("convt1d").joinpath("data/ecg.npy").open("rb") as file:
        return np.load(file)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Call `main` in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = cli.main([str(arg) for arg in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def apply(run):
    """`convt1d apply --weights w.npy --input x.npy --output y.npy`, or with changes; returns the output."""

    def apply(*argv, weights="w.npy", input="x.npy", output="y.npy"):
        code, out, err = run("apply", "--weights", weights, "--input", input, "--output", output, *argv)
        assert (code, err) == (0, "")
        assert out.startswith(f"wrote {output}: ")
        return wavfile.read(output) if output.endswith(".wav") else np.load(output)

    return apply


def command(*argv, cwd):
    return subprocess.run(
        [sys.executable, "-m", "convt1d", *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def upsampled(x):
    """8 times, zeros outside; `x` is (L,)."""
    return scipy.signal.upfirdn(TAPS, x, up=8)[PADDING : PADDING + 8 * x.size]


def integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float64)


# general ----------------------------------------------------------------


def test_version_help_info(tmp_path):
    done = command("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"convt1d {convt1d.__version__}\n", "")
    done = command("info", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert np.__version__ in done.stdout
    assert len(done.stdout.splitlines()) == len(info.describe())
    assert "kernels  deep layers: " in done.stdout


def test_info_of_a_layer(capsys):
    assert cli.main(["info", "--layer", "512 256 16 --stride 8 --padding 4 --dtype float64"]) == 0
    out = capsys.readouterr().out
    plan = info.plan_of(convt1d.geometry.check(512, 256, 16, 8, 4), _runtime.machine(), "float64")
    assert re.search(rf"^kernel +{plan.kernel}$", out, re.MULTILINE)
    assert re.search(rf"^tile +{plan.tile.target} columns", out, re.MULTILINE)
    for name, reason in plan.refused.items():
        assert re.search(rf"^not {name} +{re.escape(reason)}$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("512 256", "the following arguments are required: kernel_size"),
        ("512 256 0", "kernel_size must be at least 1, got 0"),
        ("512 256 4 --stride two", "argument --stride: invalid int value: 'two'"),
        ("512 256 4 --dtype int8", "argument --dtype: invalid choice: 'int8'"),
        ("512 256 4 --padding '1", "No closing quotation"),
    ],
)
def test_info_of_no_layer(layer, words, capsys):
    assert cli.main(["info", "--layer", layer]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["demo", "--help"],
        ["apply", "--help"],
        ["explain", "--help"],
        ["layers", "--help"],
        ["info", "--help"],
    ],
)
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: convt1d")


def test_no_command(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("usage: convt1d")


# layers ----------------------------------------------------------------


def test_layers_of_nothing(run):
    np.savez("w.npz", weight=np.ones(3))
    assert run("layers", "w.npz") == (0, "no 1-D transposed convolution in w.npz\n", "")


def test_layers_that_cannot_be_used(run):
    np.savez("w.npz", **{"a.weight_v": np.ones((3, 2, 4)), "b\x1b[2J.weight": np.ones((3, 2, 4))})
    code, out, err = run("layers", "w.npz")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("a: 3 -> 2 x groups channels, kernel 4, float64, not usable: weight_norm needs both")
    assert second.startswith(r"'b\x1b[2J: 3 -> 2 x groups")


@pytest.mark.parametrize("path", ["w.pt", "w.txt", "no.npz", "w.npz"])
def test_layers_of_a_bad_file(run, path):
    with open("w.npz", "wb") as file:
        file.write(b"no zip file")
    code, out, err = run("layers", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("convt1d: error: ")
    assert path in err


def test_layers_without_the_package(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    np.array([]).tofile("w.onnx")
    code, out, err = run("layers", "w.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'convt1d[onnx]'" in err


# explain ----------------------------------------------------------------

EXPLAINED = [
    (["--kernel-size", "3"], {"kernel_size": 3}),
    (
        [
            *("--kernel-size", "5", "--stride", "3", "--padding", "2", "1", "--dilation", "2"),
            *("--output-padding", "2", "--padding-mode", "circular"),
        ],
        {
            "kernel_size": 5,
            "stride": 3,
            "padding": (2, 1),
            "dilation": 2,
            "output_padding": 2,
            "padding_mode": "circular",
        },
    ),
]


@pytest.mark.parametrize(("argv", "options"), EXPLAINED)
def test_explain(run, argv, options):
    """Equal taps of mean gain 1; the text is that of drawing and report."""
    layer = convt1d.ConvTranspose1d(1, 1, bias=False, dtype=float, **options)
    layer.weight = np.full(layer.weight.shape, layer.stride / layer.kernel_size)
    code, out, err = run("explain", *argv, "--length", "7")
    assert (code, err) == (0, "")
    assert out.startswith(f"{layer}, 7 input samples\n")
    assert f"\n{explain.drawing(layer, 7)}\n" in out
    assert f"\n{explain.overlap_report(layer)}\n\nOn this machine:\n\nkernel " in out
    code, out, err = run("explain", *argv)
    assert (code, err) == (0, "")
    assert int(re.search(r", (\d+) input samples", out)[1]) >= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.complex64])
def test_explain_weights(run, dtype):
    """Gains of the real taps; options given win over those stored."""
    weight = np.arange(24).reshape(4, 1, 6).astype(dtype)
    np.savez("w.npz", weight=weight, bias=np.ones(2), stride=3, padding=[1, 2], groups=2)
    code, out, err = run("explain", "--weights", "w.npz", "--stride", "2", "--length", "5")
    assert (code, err) == (0, "")
    options = {"stride": 2, "padding": (1, 2), "groups": 2, "dtype": np.result_type(dtype, np.float32)}
    layer = convt1d.ConvTranspose1d(4, 2, 6, **options)
    layer.weight = weight
    assert f"\n{explain.drawing(layer, 5)}\n" in out
    assert f"\n{explain.overlap_report(layer)}\n\nOn this machine:\n\nkernel " in out


def test_explain_a_layer_of_several(run):
    np.savez("w.npz", **{f"up.{i}.weight": np.full((1, 1, 2 + i), 1.0 + i) for i in range(3)})
    code, out, err = run("explain", "--weights", "w.npz", "--name", "up.2", "--stride", "2")
    assert (code, err) == (0, "")
    assert "    0     2  6\n    1     2  6\n" in out


def test_explain_an_onnx_file(run):
    pytest.importorskip("onnx")
    layer = convt1d.ConvTranspose1d(3, 2, 5, stride=3, padding=1, rng=0)
    layer.to_onnx("w.onnx")
    code, out, err = run("explain", "--weights", "w.onnx")
    assert (code, err) == (0, "")
    assert f"\n{explain.overlap_report(layer)}\n\nOn this machine:\n\nkernel " in out


@pytest.mark.parametrize(("columns", "widest"), [("50", 50), ("200", 200), ("1", 40)])
def test_explain_fits_the_terminal(run, monkeypatch, columns, widest):
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = run("explain", "--kernel-size", "16", "--stride", "8", "--length", "20")
    drawing = out.split("\n\n")[2].split("\n")
    assert widest - 10 < max(map(len, drawing)) <= widest


def test_explain_plot(run, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = run("explain", "--kernel-size", "3", "--stride", "2", "--plot", "p.png")
    assert (code, err) == (0, "")
    assert out.endswith("\nwrote p.png\n")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        ([], "--kernel-size --weights is required"),
        (["--kernel-size", "3", "--weights", "w.npy"], "not allowed with"),
        (["--kernel-size", "0"], "kernel_size must be at least 1, got 0"),
        (["--kernel-size", "3", "--output-padding", "1"], "output_padding must be smaller than stride or dilation"),
        (["--kernel-size", "3", "--padding-mode", "same"], "padding_mode must be one of"),
        (["--kernel-size", "3", "--groups", "2"], "divisible by groups"),
        (["--kernel-size", "3", "--name", "a"], "--name is for --weights"),
        (["--kernel-size", "3", "--length", "0"], "length must be at least 1, got L = 0"),
        (["--kernel-size", "3", "--padding", "9", "--length", "5"], "output length must be at least 1"),
        (["--kernel-size", str(2**31 - 1)], "at most 10000000 products"),
        (["--kernel-size", "3", "--stride", str(2**31 - 1)], "at most 10000000 output samples"),
        (["--kernel-size", "3", "--length", str(2**40)], "at most 10000000 products"),
        (["--kernel-size", "3", "--plot", "p.txt"], "--plot must end in .png"),
        (["--weights", "w.pt"], "w.pt: .pt files are pickles"),
        (["--weights", "w.txt"], "--weights must end in .npz or .npy"),
        (["--weights", "no.npy"], "no.npy: No such file"),
        (["--weights", "flat.npy"], r"'weight' must be 3-D or 4-D, got shape \(3,\)"),
        (["--weights", "empty.npy"], "kernel_size must be at least 1, got 0"),
        (["--weights", "zeros.npy", "--plot", "p.png"], "weight must be finite and not all zero"),
    ],
)
def test_explain_bad_input(run, tmp_path, argv, match):
    if "--plot" in argv:
        pytest.importorskip("matplotlib")
    np.save("flat.npy", np.ones(3))
    np.save("empty.npy", np.ones((1, 1, 0)))
    np.save("zeros.npy", np.zeros((1, 1, 3)))
    before = sorted(tmp_path.iterdir())
    code, out, err = run("explain", *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(match, err)
    assert sorted(tmp_path.iterdir()) == before


def test_any_encoding_will_do(tmp_path):
    for name in ("ascii", "cp1252", "utf-16"):
        done = subprocess.run(
            [sys.executable, "-m", "convt1d", "explain", "--kernel-size", "3", "--stride", "2"],
            env=os.environ | {"PYTHONIOENCODING": name},
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
            check=True,
        )
        assert "phase  taps  gain" in done.stdout.decode(name)
        assert done.stderr == b""


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
@pytest.mark.parametrize("argv", [["info"], ["explain", "--kernel-size", "3000", "--stride", "5"]])
def test_a_reader_that_goes_away(tmp_path, argv):
    """As in `convt1d info | head -1`: no traceback, neither while printing nor at exit."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "convt1d", *argv],
            cwd=tmp_path,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


# demo ----------------------------------------------------------------


def test_demo(tmp_path):
    done = command("demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(re.search(r"peak: (\S+)", done.stdout)[1]) < 1e-12
    assert float(re.search(r"(\S+) GFLOP/s", done.stdout)[1]) > 0
    assert list(tmp_path.iterdir()) == []


def test_demo_notices_a_wrong_result(run, monkeypatch):
    right = scipy.signal.upfirdn
    monkeypatch.setattr(scipy.signal, "upfirdn", lambda *args, **kwargs: right(*args, **kwargs) + 1e-6)
    code, _, err = run("demo")
    assert code == 1
    assert "WRONG" in err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_demo_plot(run, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    (tmp_path / f"p.{suffix}").write_text("an older picture")
    code, out, err = run("demo", "--plot", f"p.{suffix}")
    assert (code, err) == (0, "")
    assert f"wrote p.{suffix}" in out
    content = (tmp_path / f"p.{suffix}").read_bytes()
    assert len(content) > 10_000
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_demo_plot_without_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("demo", "--plot", "p.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'convt1d[plot]'" in err


@pytest.mark.parametrize("path", ["p", "p.npy", "missing/p.png"])
def test_demo_plot_bad_path(run, path):
    pytest.importorskip("matplotlib")
    code, out, err = run("demo", "--plot", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--plot" in err


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_windowed_sinc(stride):
    taps = cli.windowed_sinc(stride)
    np.testing.assert_allclose(taps, taps[::-1], rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(taps.reshape(-1, stride).sum(axis=0), 1, rtol=1e-14)
    padding = 8 * stride
    assert convt1d.output_length(100, taps.size, stride, padding) == 100 * stride


# apply: what it computes ----------------------------------------------------------------


def test_wave_file_as_a_user(tmp_path, ecg):
    wavfile.write(tmp_path / "x.wav", RATE, ecg)
    np.savez(tmp_path / "w.npz", weight=TAPS.reshape(1, 1, -1), stride=8, padding=PADDING)
    done = command("apply", "--weights", "w.npz", "--input", "x.wav", "--output", "y.wav", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote y.wav: 1 channel(s) of 8192 samples, 2880 Hz\n"
    rate, y = wavfile.read(tmp_path / "y.wav")
    assert (rate, y.dtype, y.shape) == (8 * RATE, np.float32, (8 * ecg.size,))
    np.testing.assert_allclose(y, upsampled(ecg / 2**15), rtol=1e-7, atol=1e-12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.npz", "x.wav", "y.wav"]


def test_float32_weights(apply, ecg):
    wavfile.write("x.wav", RATE, ecg)
    np.save("w.npy", TAPS.reshape(1, 1, -1).astype(np.float32))
    rate, y = apply("--stride", 8, "--padding", PADDING, input="x.wav", output="y.wav")
    assert rate == 8 * RATE
    expected = upsampled(ecg / 2**15)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def write_pcm(path, width, values):
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(b"".join(int(v).to_bytes(width, "little", signed=width > 1) for v in values))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_scaling(apply, width):
    half = 2 ** (8 * width - 1)
    values = np.array([-half, -1, 0, 1, half // 3, half - 1], dtype=np.int64)
    write_pcm("x.wav", width, values + half if width == 1 else values)
    np.save("w.npy", np.ones((1, 1, 1), dtype=np.float32))
    y = apply(input="x.wav")
    assert y.dtype == (np.float32 if width <= 2 else np.float64)
    np.testing.assert_array_equal(y, values / half)
    assert y.max() < 1


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_float_wave_is_not_scaled(apply, dtype):
    x = np.array([0, 0.5, -1.25, 3e5, np.inf, np.nan]).astype(dtype)
    wavfile.write("x.wav", RATE, x)
    np.save("w.npy", np.ones((1, 1, 1), dtype=np.float32))
    y = apply(input="x.wav")
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)


def test_wave_with_other_chunks(apply, ecg):
    wavfile.write("x.wav", RATE, ecg)
    with open("x.wav", "r+b") as file:
        content = file.read() + b"note\x04\x00\x00\x00abcd"
        file.seek(0)
        file.write(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])
    np.save("w.npy", np.ones((1, 1, 1)))
    np.testing.assert_array_equal(apply(input="x.wav"), ecg / 2**15)


def test_stereo_per_channel(apply, ecg):
    wavfile.write("x.wav", RATE, np.stack([ecg, ecg[::-1]], axis=1))
    np.save("w.npy", TAPS.reshape(1, 1, -1))
    argv = ["--per-channel", "--stride", 8, "--padding", PADDING]
    rate, y = apply(*argv, input="x.wav", output="y.wav")
    assert (rate, y.dtype, y.shape) == (8 * RATE, np.float32, (8 * ecg.size, 2))
    expected = np.stack([upsampled(ecg / 2**15), upsampled(ecg[::-1] / 2**15)])
    np.testing.assert_allclose(y.T, expected, rtol=1e-7, atol=1e-12)
    y = apply(*argv, input="x.wav", output="y.npy")
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-15)


def test_stereo_mixed_by_the_weights(apply, ecg):
    wavfile.write("x.wav", RATE, np.stack([ecg, ecg[::-1]], axis=1))
    weight = integers((2, 3, 5))
    np.save("w.npy", weight)
    rate, y = apply("--stride", 2, input="x.wav", output="y.wav")
    assert rate == 2 * RATE
    x = np.stack([ecg, ecg[::-1]]) / 2**15
    np.testing.assert_array_equal(y.T, convt1d.conv_transpose1d(x, weight, stride=2))


def test_npy_to_wave(apply):
    x = integers((2, 30))
    np.save("x.npy", x)
    np.save("w.npy", np.eye(2)[:, :, np.newaxis])
    rate, y = apply("--rate", 8000, "--stride", 1, output="y.wav")
    assert (rate, y.dtype) == (8000, np.float32)
    np.testing.assert_array_equal(y.T, x)
    np.save("x1.npy", x[np.newaxis])  # a batch of one is one signal
    np.testing.assert_array_equal(apply("--rate", 8000, input="x1.npy", output="z.wav")[1], y)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "y_shape"),
    [
        ((7,), (1, 1, 3), (9,)),
        ((7,), (1, 2, 3), (2, 9)),
        ((1, 7), (1, 1, 3), (1, 9)),
        ((2, 7), (2, 3, 3), (3, 9)),
        ((4, 2, 7), (2, 3, 3), (4, 3, 9)),
        ((1, 2, 7), (2, 1, 3), (1, 1, 9)),
        ((0, 2, 7), (2, 3, 3), (0, 3, 9)),
    ],
)
def test_npy_shapes(apply, x_shape, weight_shape, y_shape):
    x, weight = integers(x_shape), integers(weight_shape, seed=1)
    np.save("x.npy", x)
    np.save("w.npy", weight)
    y = apply("--groups", 1)
    assert y.shape == y_shape
    expected = convt1d.conv_transpose1d(x[np.newaxis] if x.ndim == 1 else x, weight)
    np.testing.assert_array_equal(y, expected.reshape(y_shape))


@pytest.mark.parametrize("x_shape", [(7,), (3, 7), (4, 3, 7), (0, 3, 7), (4, 0, 7)])
def test_npy_per_channel(apply, x_shape):
    x, weight, bias = integers(x_shape), integers((1, 2, 3), seed=1), integers((2,), seed=2)
    np.save("x.npy", x)
    np.save("w.npy", weight)
    np.save("b.npy", bias)
    y = apply("--per-channel", "--bias", "b.npy", "--stride", 2)
    batch = x.reshape((1,) * (3 - x.ndim) + x.shape)
    n, c, _ = batch.shape
    assert y.shape == (*x_shape[:-2], c * 2, 15)
    y = y.reshape(n, c * 2, 15)
    for i in range(c):  # output channel i*C_out + o is output o of input channel i
        expected = convt1d.conv_transpose1d(batch[:, i : i + 1], weight, bias, stride=2)
        np.testing.assert_array_equal(y[:, 2 * i : 2 * i + 2], expected)


@pytest.mark.parametrize(
    ("x_dtype", "weight_dtype", "y_dtype"),
    [
        ("<f4", "<f4", "<f4"),
        (">f4", "<f4", "<f4"),
        ("<f8", "<f4", "<f8"),
        ("<i2", "<f4", "<f4"),  # not scaled: only a wave file says what the largest integer means
        ("<i8", "<i8", "<f8"),
        ("<c8", "<f4", "<c8"),
        ("<f2", "<f2", "<f2"),
    ],
)
def test_npy_types(apply, x_dtype, weight_dtype, y_dtype):
    np.save("x.npy", np.arange(5).astype(x_dtype))
    np.save("w.npy", np.ones((1, 1, 1), dtype=weight_dtype))
    y = apply()
    assert y.dtype == y_dtype
    np.testing.assert_array_equal(y, np.arange(5))


def test_fortran_order_and_several_workers(apply):
    x, weight = integers((3, 2, 50)), integers((2, 2, 4))
    np.save("x.npy", np.asfortranarray(x))
    np.save("w.npy", np.asfortranarray(weight))
    y = apply("--workers", 2, "--stride", 3)
    np.testing.assert_array_equal(y, convt1d.conv_transpose1d(x, weight, stride=3))


def test_all_options(apply):
    x, weight, bias = integers((4, 20)), integers((4, 3, 5), seed=1), integers((6,), seed=2)
    np.save("x.npy", x)
    np.save("w.npy", weight)
    np.save("b.npy", bias)
    y = apply(
        *("--bias", "b.npy", "--stride", 3, "--padding", 2, 1, "--output-padding", 1, "--groups", 2),
        *("--dilation", 2, "--padding-mode", "reflect", "--workers", 1),
    )
    expected = convt1d.conv_transpose1d(x, weight, bias, 3, (2, 1), 1, 2, 2, padding_mode="reflect")
    np.testing.assert_array_equal(y, expected)


def test_stored_options_and_their_order(apply):
    x, weight, bias = integers((4, 20)), integers((4, 3, 5), seed=1), integers((6,), seed=2)
    np.save("x.npy", x)
    stored = {"stride": [3], "padding": [2, 1], "output_padding": 1, "groups": 2, "dilation": 2}
    np.savez_compressed("w.npz", weight=weight, bias=bias, padding_mode="circular", **stored)
    y = apply(weights="w.npz")
    expected = convt1d.conv_transpose1d(x, weight, bias, 3, (2, 1), 1, 2, 2, padding_mode="circular")
    np.testing.assert_array_equal(y, expected)
    # What the command line says wins.
    np.save("b.npy", -bias)
    argv = ["--stride", 4, "--padding", 0, "--bias", "b.npy", "--padding-mode", "zeros"]
    y = apply(*argv, weights="w.npz", output="z.npy")
    np.testing.assert_array_equal(y, convt1d.conv_transpose1d(x, weight, -bias, 4, 0, 1, 2, 2))


def test_weights_of_onnx(apply, run):
    pytest.importorskip("onnx")
    layer = convt1d.ConvTranspose1d(4, 6, 5, 3, (2, 1), 1, 2, dilation=2, rng=0)
    layer.to_onnx("w.onnx")
    x = integers((4, 20)).astype(np.float32)
    np.save("x.npy", x)
    np.testing.assert_array_equal(apply(weights="w.onnx"), layer(x))
    np.testing.assert_array_equal(apply("--name", "conv_transpose", "--force", weights="w.onnx"), layer(x))
    assert run("layers", "w.onnx") == (
        0,
        "conv_transpose: 4 -> 6 channels, kernel 5, stride 3, padding 2 1, output_padding 1, groups 2, dilation 2, "
        "bias, float32\n",
        "",
    )


def test_weights_of_onnx_whose_crop_depends_on_the_input(apply):
    onnx = pytest.importorskip("onnx")
    layer = convt1d.ConvTranspose1d(2, 2, 4, 2, bias=False, rng=0)
    model = layer.to_onnx()
    (node,) = model.graph.node
    del node.attribute[:]
    for name, value in (("strides", [2]), ("output_shape", [39])):
        node.attribute.append(onnx.helper.make_attribute(name, value))
    onnx.save(model, "w.onnx")
    x = integers((2, 20)).astype(np.float32)
    np.save("x.npy", x)
    np.testing.assert_array_equal(apply(weights="w.onnx"), layer(x)[:, 2:-1])  # 42 - 39, the larger part first


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_one_layer_of_a_state(apply, run, suffix):
    state = {"up.0.weight": integers((4, 3, 5)), "up.0.bias": integers((6,)), "up.1.weight": integers((6, 2, 3))}
    if suffix == "npz":
        np.savez("w.npz", **state)
    else:
        pytest.importorskip("safetensors.numpy").save_file(state, "w.safetensors")
    x, path = integers((4, 20), seed=1), f"w.{suffix}"
    np.save("x.npy", x)
    expected = convt1d.conv_transpose1d(x, state["up.0.weight"], state["up.0.bias"], 2, (0, 3), groups=2)
    argv = ["--name", "up.0", "--stride", 2, "--padding", 0, 3]
    np.testing.assert_array_equal(apply(*argv, weights=path), expected)
    np.save("b.npy", np.zeros(6))
    y = apply(*argv, "--bias", "b.npy", weights=path, output="z.npy")
    np.testing.assert_allclose(y, expected - state["up.0.bias"][:, np.newaxis], rtol=1e-12)
    code, out, err = run("layers", path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "up.0: 4 -> 6 channels, kernel 5, stride ?, groups 2, bias, float64",
        "up.1: 6 -> 2 x groups channels, kernel 3, stride ?, float64",
    ]
    code, out, err = run(
        "apply", "--weights", path, "--input", "x.npy", "--output", "n.npy", "--stride", "2", "--name", "c"
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'c.weight', it has layers 'up.0', 'up.1'" in err


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "output_padding", "dilation"),
    [
        (16, 8, [4], 0, 1),
        (3, 8, [0], 7, 1),
        (2, 5, [20], 1, 1),
        (7, 1, [0, 6], 0, 3),
        (5, 2, [13, 2], 3, 4),
        (4, 3, [2, 50], 2, 1),
        (1, 1, [0], 0, 1),
    ],
)
def test_pieces(apply, monkeypatch, mode, kernel_size, stride, padding, output_padding, dilation):
    # Integers: the results are equal to the last bit wherever the signal is cut.
    monkeypatch.setattr(cli, "PIECE", 1)
    x, weight, bias = integers((2, 2, 401)), integers((2, 3, kernel_size), seed=1), integers((3,), seed=2)
    np.save("x.npy", x)
    np.savez("w.npz", weight=weight, bias=bias)
    y = apply(
        *("--stride", stride, "--padding", *padding, "--output-padding", output_padding),
        *("--dilation", dilation, "--padding-mode", mode),
        weights="w.npz",
    )
    pair = (padding[0], padding[-1])
    expected = convt1d.conv_transpose1d(
        x, weight, bias, stride, pair, output_padding, dilation=dilation, padding_mode=mode
    )
    np.testing.assert_array_equal(y, expected)


def test_pieces_of_a_batch(apply, monkeypatch):
    monkeypatch.setattr(cli, "PIECE", 3000)
    x, weight = integers((17, 2, 10)), integers((2, 1, 3))
    np.save("x.npy", x)
    np.save("w.npy", weight)
    np.testing.assert_array_equal(apply("--groups", 1), convt1d.conv_transpose1d(x, weight))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_depthwise_weight_says_no_groups(apply, run, suffix):
    x, weight = integers((4, 20)), integers((4, 1, 5), seed=1)
    np.save("x.npy", x)
    np.save("w.npy", weight)
    np.savez("w.npz", weight=weight, stride=2)
    argv = ["--stride", 2, "--groups"]
    for groups in (4, 1):
        expected = convt1d.conv_transpose1d(x, weight, stride=2, groups=groups)
        np.testing.assert_array_equal(apply(*argv, groups, "--force", weights="w" + suffix), expected)
    code, out, err = run(
        "apply", "--stride", "2", "--weights", "w" + suffix, "--input", "x.npy", "--output", "y.npy", "--force"
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "groups=4 for a depthwise layer, groups=1 for a sum of 4 channels" in err


# apply --conv ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, (3, 0)), (2, 3, (4, 4)), (3, 1, (0, 2))])
def test_convolution(apply, run, monkeypatch, mode, stride, dilation, padding):
    monkeypatch.setattr(cli, "PIECE", 1)
    x, weight, bias = integers((2, 4, 201)), integers((6, 2, 5), seed=1), integers((6,), seed=2)
    np.save("x.npy", x)
    np.savez("w.npz", weight=weight, bias=bias, padding=padding, groups=2)
    np.save("w.npy", weight)
    np.save("b.npy", bias)
    argv = ["--conv", "--stride", stride, "--dilation", dilation, "--padding-mode", mode]
    expected = convt1d.conv1d(x, weight, bias, stride, padding, dilation, 2, padding_mode=mode)
    np.testing.assert_array_equal(apply(*argv, weights="w.npz"), expected)
    more = ["--padding", *padding, "--groups", 2, "--bias", "b.npy", "--force"]
    np.testing.assert_array_equal(apply(*argv, *more), expected)
    if mode != "circular":
        np.testing.assert_array_equal(apply(*argv, "--stream", 7, "--force", weights="w.npz"), expected)
    assert run("layers", "--conv", "w.npz") == (
        0,
        "(no name): 4 -> 6 channels, kernel 5, stride ?, padding 3 0, groups 2, bias, float64\n".replace(
            "padding 3 0", f"padding {padding[0]} {padding[1]}" if padding[0] != padding[1] else f"padding {padding[0]}"
        ),
        "",
    )


def test_convolutions_of_a_model(apply, run):
    pytest.importorskip("onnx")
    layer = convt1d.Conv1d(4, 6, 5, 2, (2, 1), 2, 2, rng=0)
    layer.to_onnx("w.onnx")
    x = integers((4, 40)).astype(np.float32)
    np.save("x.npy", x)
    np.testing.assert_array_equal(apply("--conv", weights="w.onnx"), layer(x))
    line = "conv: 4 -> 6 channels, kernel 5, stride 2, padding 2 1, groups 2, dilation 2, bias, float32\n"
    assert run("layers", "--conv", "w.onnx") == (0, line, "")
    assert run("layers", "w.onnx") == (0, "no 1-D transposed convolution in w.onnx\n", "")


def test_convolution_of_a_wave_file(apply, ecg):
    wavfile.write("x.wav", 8000, ecg)
    np.save("w.npy", np.ones((1, 1, 4), np.float32) / 4)
    apply("--conv", "--stride", 4, input="x.wav", output="y.wav")
    rate, y = wavfile.read("y.wav")
    assert rate == 2000
    np.testing.assert_allclose(y, ecg[: ecg.size // 4 * 4].reshape(-1, 4).mean(axis=1) / 2**15, atol=1e-6)


# apply --stream ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("step", [1, 7, 64, 1000])
@pytest.mark.parametrize("x_shape", [(401,), (2, 401), (1, 2, 401), (3, 2, 401), (0, 2, 401)])
def test_stream_writes_the_same_file(apply, mode, step, x_shape):
    x, weight, bias = integers(x_shape), integers((x_shape[-2] if len(x_shape) > 1 else 1, 3, 5), 1), integers((3,), 2)
    np.save("x.npy", x)
    np.savez("w.npz", weight=weight, bias=bias, stride=2, padding=[3, 1], output_padding=1, padding_mode=mode)
    apply(weights="w.npz")
    apply("--stream", step, weights="w.npz", output="z.npy")
    with open("y.npy", "rb") as whole, open("z.npy", "rb") as streamed:
        assert streamed.read() == whole.read()


@pytest.mark.parametrize("argv", [["--per-channel", "--workers", 1], []])
def test_stream_of_a_wave_file(apply, ecg, argv):
    wavfile.write("x.wav", RATE, np.stack([ecg, ecg[::-1]], axis=1))
    np.save("w.npy", integers((1 if argv else 2, 3, 5)).astype(np.float32))
    for output in ("y.wav", "y.npy"):
        apply(*argv, "--stride", 2, input="x.wav", output=output)
        apply(*argv, "--stride", 2, "--stream", 100, input="x.wav", output="z" + output[1:])
        with open(output, "rb") as whole, open("z" + output[1:], "rb") as streamed:
            assert streamed.read() == whole.read()


@pytest.mark.parametrize(
    ("x_dtype", "weight_dtype"),
    [("<f4", "<f4"), (">f4", "<f4"), ("<f4", "<f8"), ("<i2", "<f4"), ("<i8", "<i8"), ("<c8", "<f4"), ("<f2", "<f2")],
)
def test_stream_types(apply, x_dtype, weight_dtype):
    np.save("x.npy", integers((1, 30)).astype(x_dtype))
    np.save("w.npy", integers((1, 1, 3), seed=1).astype(weight_dtype))
    y = apply()
    z = apply("--stream", 4, output="z.npy")
    assert z.dtype == y.dtype
    np.testing.assert_array_equal(z, y)


def test_stream_needs_no_memory_for_the_signal(run):
    """Beside the files, of 4 and 24 MB, it takes what a chunk does; without --stream the output is held."""
    np.save("x.npy", integers((1, 10**6)).astype(np.float32))
    np.save("w.npy", integers((1, 1, 6), seed=1).astype(np.float32))
    peaks = []
    for more in ([], ["--stream", 4096]):
        tracemalloc.start()
        try:
            assert run(*ARGV, "--stride", 6, "--force", *more)[0] == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 2 * 10**6 < 24 * 10**6 <= peaks[0]


# apply: files and terminal ----------------------------------------------------------------


@pytest.fixture
def files(tmp_path, ecg):
    """Good input files: w.npy, x.npy, x.wav."""
    np.save(tmp_path / "w.npy", TAPS.reshape(1, 1, -1))
    np.save(tmp_path / "x.npy", ecg.astype(np.float64))
    wavfile.write(tmp_path / "x.wav", RATE, ecg)
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


ARGV = ["apply", "--weights", "w.npy", "--input", "x.npy", "--output", "y.npy"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress(run, files, monkeypatch):
    np.save("x.npy", np.ones((20, 1, 1024)))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(cli, "PIECE", 10_000)
    assert run(*ARGV)[0] == 0
    assert terminal.getvalue() == ""  # done within a second: nothing to tell
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    assert run(*ARGV, "--force")[0] == 0
    shown = [int(percent) for percent in re.findall(r"(\d+) %", terminal.getvalue())]
    assert len(shown) > 3
    assert shown == sorted(shown)
    assert shown[-1] == 100
    assert terminal.getvalue().endswith(" \r")  # wiped


@pytest.mark.parametrize(
    ("option", "stderr", "shown"), [("--progress", io.StringIO(), True), ("--no-progress", Terminal(), False)]
)
def test_progress_as_asked(run, files, monkeypatch, option, stderr, shown):
    monkeypatch.setattr(sys, "stderr", stderr)
    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    assert run(*ARGV, "--stream", 1, option)[0] == 0
    percents = re.findall(r"(\d+) %", stderr.getvalue())
    assert percents == ([str(n) for n in range(101)] if shown else [])  # of 1,024 chunks, none said twice


@pytest.mark.skipif(os.name != "posix", reason="signals cannot be sent to one process")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_no_file(files, name):
    np.save(files / "x.npy", np.zeros(10**7, np.float32))
    before = contents(files)
    argv = [sys.executable, "-m", "convt1d", *ARGV, "--stream", "1"]
    done = subprocess.Popen(argv, cwd=files, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size > 10**5 for path in files.glob(".convt1d-*.tmp")):
            assert done.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        done.send_signal(getattr(signal, name))
        assert done.communicate(timeout=60) == (None, b"convt1d: terminated\n")
        assert done.returncode == 128 + getattr(signal, name)
    finally:
        done.kill()
        done.wait()
    assert contents(files) == before


def test_progress_tells_rate_and_time_left(run, files, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    assert run(*ARGV, "--stream", 256)[0] == 0
    assert re.search(r" 50 %, [\d.e+]+ samples/s, \d+ s left", terminal.getvalue())


# upsample, standard input and output, bits ------------------------------------------


@pytest.mark.parametrize("filter", list(cli.FILTERS))
@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_upsample(run, files, filter, stride):
    """As long as stride times the input; a constant stays constant; sinc and linear keep a slow sine where it is."""
    x = np.sin(2 * np.pi * np.arange(400) / 50)
    np.save("s.npy", np.stack([x, np.ones(400)]))
    code, out, err = run("upsample", "s.npy", "up.npy", "--stride", stride, "--filter", filter)
    assert (code, out, err) == (0, f"wrote up.npy: float64, shape (2, {400 * stride})\n", "")
    sine, ones = np.load("up.npy")
    np.testing.assert_allclose(ones, 1, atol=1e-6)
    at = (np.arange(400 * stride) - (stride - 1) / 2) / stride
    wanted = np.sin(2 * np.pi * at / 50)
    tolerance = {"sinc": 1e-3, "linear": 4e-3, "hold": 0.07}[filter]
    assert np.abs(sine - wanted)[20 * stride : -20 * stride].max() < tolerance


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("stream", [[], ["--stream", "7"]])
def test_bits(run, bits, channels, stream):
    """Read back by SciPy within half a step; what is beyond [-1, 1) is clipped, and said."""
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (channels, 51)).astype(np.float32)
    np.save("x.npy", x)
    options = ["--stride", 1, "--filter", "hold", "--rate", 8000, "--bits", bits, *stream]
    code, _, err = run("upsample", "x.npy", "y.wav", *options)
    assert (code, err) == (0, "")
    rate, frames = wavfile.read("y.wav")
    assert rate == 8000
    y = cli.pcm_to_float(frames).reshape(51, channels).T
    np.testing.assert_allclose(y, x, atol=0 if bits == 32 else 0.5 / 2 ** (bits - 1), rtol=0)
    np.save("x.npy", 2 * x)
    code, _, err = run("upsample", "x.npy", "y.wav", *options, "--force")
    clipped = int((np.abs(2 * x) >= 1).sum())
    assert (code, err) == (0, "" if bits == 32 else f"convt1d: {clipped} samples beyond [-1, 1) were clipped\n")


@pytest.mark.parametrize("kind", ["wav", "npy"])
def test_standard_input_and_output(files, kind):
    x = np.random.default_rng(0).uniform(-0.9, 0.9, 100).astype(np.float32)
    wavfile.write(files / "s.wav", 8000, x)
    np.save(files / "s.npy", x)
    argv = [sys.executable, "-m", "convt1d", "upsample", "-", "-", "--stride", "2", "--format", kind]
    done = subprocess.run(argv, input=(files / f"s.{kind}").read_bytes(), capture_output=True, cwd=files)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(b"convt1d: wrote ")
    (files / f"out.{kind}").write_bytes(done.stdout)
    run = command("upsample", f"s.{kind}", f"file.{kind}", "--stride", "2", cwd=files)
    assert run.returncode == 0, run.stderr
    assert (files / f"file.{kind}").read_bytes() == done.stdout


def test_help_has_an_example_and_json_is_json(run):
    for name in ("demo", "upsample", "apply", "explain", "layers", "bench", "info"):
        done = command(name, "--help", cwd=".")
        assert "Example: convt1d" in " ".join(done.stdout.split()), name
    code, out, _ = run("info", "--json")
    assert (code, json.loads(out)["convt1d"]) == (0, convt1d.__version__)


def test_bench(run, files, monkeypatch):
    monkeypatch.setattr(convt1d.bench.compare, "__defaults__", (0.01,))
    code, out, err = run("bench", "--layer", "32 16 4 --stride 2 --padding 1", "--length", 20)
    assert (code, err) == (0, "")
    first, ours, *_, verdict = out.splitlines()
    assert first.endswith("20 samples, float32, 1 thread(s)")
    assert re.match(r"  convt1d +\d+ us +[\d.]+ GFLOP/s", ours)
    assert re.match(r"worth it|no gain|not worth it|no peer", verdict)
    np.savez("b.npz", weight=np.ones((4, 2, 4)), stride=2)
    assert run("bench", "--weights", "b.npz")[1].startswith("ConvTranspose1d(4, 2, kernel_size=(4,), stride=(2,)")
    assert run("bench", "--layer", "1 1 4", "--stride", 2)[0] == 2


def test_force(run, files):
    (files / "y.npy").write_bytes(b"old")
    before = contents(files)
    code, out, err = run(*ARGV)
    assert (code, out, err) == (2, "", "convt1d: error: --output y.npy exists; --force overwrites it\n")
    assert contents(files) == before
    assert run(*ARGV, "--force")[0] == 0
    assert np.load("y.npy").shape == (1159,)
    assert sorted(contents(files)) == ["w.npy", "x.npy", "x.wav", "y.npy"]


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("output", ["x.npy", "./x.npy", "w.npy", "b.npy", "link.npy"])
def test_output_is_an_input(run, files, output, force):
    np.save("b.npy", np.zeros(1))
    if output == "link.npy":
        try:
            (files / "link.npy").symlink_to("x.npy")
        except OSError:
            pytest.skip("no symbolic links here")
    before = contents(files)
    argv = ["apply", "--weights", "w.npy", "--input", "x.npy", "--bias", "b.npy", "--output", output]
    code, out, err = run(*argv, *force)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is also an input file" in err
    assert contents(files) == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX file modes and links")
def test_output_mode_and_link(run, files):
    umask = os.umask(0o027)
    try:
        assert run(*ARGV)[0] == 0
    finally:
        os.umask(umask)
    assert (files / "y.npy").stat().st_mode & 0o777 == 0o640
    (files / "folder").mkdir()
    (files / "link.npy").symlink_to("folder/z.npy")
    assert run(*ARGV[:-1], "link.npy")[0] == 0
    assert (files / "link.npy").is_symlink()
    assert np.load("folder/z.npy").shape == (1159,)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "convt1d: interrupted\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "convt1d: error: {} cannot be written: [Errno 28] No space left on device\n",
        ),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_while_writing(run, files, monkeypatch, error, code, message, exists):
    if exists:
        (files / "y.npy").write_bytes(b"old")
    before = contents(files)

    def save(file, *_, **__):
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "save", save)
    assert run(*ARGV, "--force") == (code, "", message.format(os.path.realpath("y.npy")))
    assert contents(files) == before


@pytest.mark.parametrize("stream", [[], ["--stream", "40"]])
@pytest.mark.parametrize(("name", "change"), [("a.npy", "cut"), ("a.wav", "cut"), ("a.npy", "replaced")])
def test_an_input_that_changes_is_an_error(run, files, monkeypatch, name, change, stream):
    """Touching what is mapped and no longer there would end the process (SIGBUS)."""
    np.save("a.npy", np.ones((1, 50_000), np.float32))
    wavfile.write("a.wav", RATE, np.ones(50_000, np.float32))
    before, reader = sorted(contents(files)), cli.files.reader

    def changed(mapped, path):
        if path.name != name:
            return reader(mapped, path)
        read = reader(mapped, path)
        if change == "replaced":
            os.replace("x.npy", path)
        else:
            os.truncate(path, 5000)
        return read

    monkeypatch.setattr(cli.files, "reader", changed)
    code, out, err = run("apply", "--weights", "w.npy", "--input", name, "--output", "y.npy", *stream)
    assert (code, out) == (2, "")
    assert f"--input {name} cannot be read: " in err
    assert {"cut": "was cut short meanwhile", "replaced": "another file took its place"}[change] in err
    assert "y.npy" not in contents(files)
    assert len(contents(files)) == len(before) - (change == "replaced")


def test_interrupted_while_computing(run, files, monkeypatch):
    def store(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_store", store)
    before = contents(files)
    assert run(*ARGV) == (130, "", "convt1d: interrupted\n")
    assert contents(files) == before


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C cannot be sent to one process")
@pytest.mark.parametrize("suffix", ["npy", "wav"])
def test_ctrl_c_as_a_user(files, suffix):
    """In the middle of a file that would take a minute: the old one stays, and nothing beside it."""
    np.save(files / "x.npy", np.zeros(10**7, np.float32))
    (files / f"y.{suffix}").write_bytes(b"old")
    before = contents(files)
    # a shell's background jobs ignore Ctrl-C, and so would what they start
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); import convt1d.cli as c; "
    argv = [*ARGV[:-1], f"y.{suffix}", "--force", "--stream", "1", *(["--rate", "1"] if suffix == "wav" else [])]
    done = subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(c.main())", *argv], cwd=files, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size > 10**5 for path in files.glob(".convt1d-*.tmp")):
            assert done.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        done.send_signal(signal.SIGINT)
        assert done.communicate(timeout=60) == (None, b"convt1d: interrupted\n")
        assert done.returncode == 130
    finally:
        done.kill()
        done.wait()
    assert contents(files) == before


def test_output_appears_meanwhile(run, files, monkeypatch):
    store = cli._store

    def store_and_write(*args):
        (files / "y.npy").write_bytes(b"somebody else's")
        store(*args)

    monkeypatch.setattr(cli, "_store", store_and_write)
    before = contents(files)
    code, out, err = run(*ARGV)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert contents(files) == before | {"y.npy": b"somebody else's"}


# apply: bad input ----------------------------------------------------------------


def bad(name, *argv, prepare=lambda: None, weights="w.npy", input="x.npy", output="y.npy", match, needs="numpy"):
    argv = ["apply", "--weights", weights, "--input", input, "--output", output, *argv]
    return pytest.param(argv, lambda: (pytest.importorskip(needs), prepare()), match, id=name)


def saved(path, array):
    return lambda: np.save(path, array)


def saved_npz(**arrays):
    return lambda: np.savez("w.npz", **arrays)


def garbage(path, content=b"neither an array nor a wave file"):
    def prepare():
        with open(path, "wb") as file:
            file.write(content)

    return prepare


def cut_short(path, keep=0.5, make=lambda: None):
    def prepare():
        make()
        with open(path, "r+b") as file:
            file.truncate(int(os.path.getsize(path) * keep))

    return prepare


def edited(path, offset, content):
    def prepare():
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(content)

    return prepare


WEIGHT = np.ones((1, 1, 4))
BAD = [
    # arguments
    bad("unknown option", "--strid", "2", match="--strid"),
    bad("not an int", "--stride", "1.5", match="--stride"),
    bad("no value", "--stride", match="--stride"),
    bad("stride", "--stride", "0", match="stride"),
    bad("huge stride", "--stride", str(2**70), match="stride"),
    bad("padding", "--padding", "-1", match="padding"),
    bad("three paddings", "--padding", "1", "2", "3", match="padding"),
    bad("all cropped", "--padding", "600", match="output length"),
    bad("output_padding", "--stride", "2", "--output-padding", "2", match="output_padding"),
    bad("groups", "--groups", "0", match="groups"),
    bad("groups do not divide", "--groups", "2", match="groups"),
    bad("dilation", "--dilation", "0", match="dilation"),
    bad("mode", "--padding-mode", "same", match="padding_mode"),
    bad("workers", "--workers", "0", match="workers"),
    bad("stream", "--stream", "0", match="--stream must be at least 1, got 0"),
    bad("circular stream", "--stream", "9", "--padding-mode", "circular", match="padding_mode.*circular"),
    bad(
        "beyond float32, streamed",
        *("--rate", "9", "--stream", "4"),
        output="y.wav",
        prepare=saved("x.npy", np.full(9, 1e300)),
        match="range of 32-bit float",
    ),
    # names
    bad("weights missing", weights="no.npy", match=r"no\.npy: No such file"),
    bad("input missing", input="no.npy", match=r"no\.npy: No such file"),
    bad("wave missing", input="no.wav", match=r"no\.wav: No such file"),
    bad("bias missing", "--bias", "no.npy", match=r"no\.npy: No such file"),
    bad(
        "weights suffix", weights="w.h5", match="--weights must end in .npz or .npy or .onnx or .safetensors, got w.h5"
    ),
    bad("weights a pickle", weights="w.pt", match=r"w\.pt: .pt files are pickles.*safetensors\.torch\.save_file"),
    bad("input suffix", input="x.txt", match="--input must end in .npy or .wav or .flac .* got x.txt"),
    bad("output suffix", output="y.mp3", match="--output must end in .npy or .wav, got y.mp3"),
    bad("output without suffix", output="y", match="--output must end in .npy or .wav, got y"),
    bad("bias suffix", "--bias", "b.npz", match="--bias must end in .npy"),
    bad("no folder", output="no/y.npy", match="there is no folder"),
    bad("a folder", "--force", output="d.npy", prepare=lambda: os.mkdir("d.npy"), match="not a file"),
    bad("input is a folder", input="d.npy", prepare=lambda: os.mkdir("d.npy"), match=r"d\.npy"),
    # weights and bias
    bad("2-D weights", prepare=saved("w.npy", np.ones((1, 4))), match="weight"),
    bad("no taps", prepare=saved("w.npy", np.ones((1, 1, 0))), match="kernel_size|weight"),
    bad(
        "channels",
        prepare=saved("w.npy", np.ones((2, 2, 4))),
        match=r"1 channel\(s\), but the weights take 2$",
    ),
    bad("bias shape", "--bias", "b.npy", prepare=saved("b.npy", np.ones(2)), match="bias"),
    bad("weights of text", prepare=saved("w.npy", np.full((1, 1, 4), "a")), match="weight"),
    bad("weights garbage", prepare=garbage("w.npy"), match=r"--weights w\.npy cannot be read"),
    bad("weights empty", prepare=garbage("w.npy", b""), match=r"--weights w\.npy cannot be read"),
    bad("weights cut", prepare=cut_short("w.npy"), match=r"--weights w\.npy cannot be read"),
    bad("weights pickled", prepare=saved("w.npy", np.array([None])), match=r"--weights w\.npy cannot be read"),
    bad("name of one array", "--name", "a", match="--name is for files of several arrays, w.npy holds one"),
    # onnx and safetensors
    bad("onnx missing", weights="no.onnx", match=r"no\.onnx: No such file", needs="onnx"),
    bad("onnx garbage", weights="w.onnx", prepare=garbage("w.onnx"), match=r"w\.onnx", needs="onnx"),
    bad("onnx geometry", "--output-padding", "1", weights="w.onnx", match="--output-padding cannot be given: w.onnx"),
    bad(
        "safetensors garbage",
        *("--stride", "2"),
        weights="w.safetensors",
        prepare=garbage("w.safetensors"),
        match=r"w\.safetensors: its header",
        needs="safetensors",
    ),
    bad(
        "no layer",
        "--name",
        "a",
        "--stride",
        "2",
        weights="w.npz",
        prepare=saved_npz(weight=WEIGHT),
        match=r"'a\.weight'",
    ),
    # npz
    bad("npz garbage", weights="w.npz", prepare=garbage("w.npz"), match=r"--weights w\.npz cannot be read"),
    bad("npz empty", weights="w.npz", prepare=garbage("w.npz", b""), match=r"--weights w\.npz cannot be read"),
    bad(
        "npz cut",
        weights="w.npz",
        prepare=cut_short("w.npz", make=saved_npz(weight=WEIGHT)),
        match=r"--weights w\.npz cannot be read",
    ),
    bad(
        "npz is npy",
        weights="w.npz",
        prepare=lambda: os.rename("w.npy", "w.npz"),
        match="a single array: name it .npy",
    ),
    bad(
        "npz keys",
        weights="w.npz",
        prepare=saved_npz(weight=WEIGHT, gain=2, strides=2),
        match=r"unknown arrays \['gain', 'strides'\]",
    ),
    bad(
        "npz bomb",
        weights="w.npz",
        prepare=lambda: np.savez_compressed("w.npz", weight=np.zeros((1, 1, 2**25), np.float32)),
        match="refused beyond 67108864 bytes and 100 times",
    ),
    bad("npz no weight", weights="w.npz", prepare=saved_npz(bias=np.ones(1)), match="no array named weight"),
    bad("npz pickled", weights="w.npz", prepare=saved_npz(weight=np.array([None])), match="cannot be read"),
    bad("npz float", weights="w.npz", prepare=saved_npz(weight=WEIGHT, stride=2.5), match="stride"),
    bad("npz bool", weights="w.npz", prepare=saved_npz(weight=WEIGHT, stride=True), match="stride"),
    bad("npz pair", weights="w.npz", prepare=saved_npz(weight=WEIGHT, stride=[2, 2]), match="stride"),
    bad("npz stride", weights="w.npz", prepare=saved_npz(weight=WEIGHT), match="--stride must be given"),
    bad("npz nothing", weights="w.npz", prepare=saved_npz(weight=WEIGHT, stride=2, padding=[]), match="padding"),
    bad("npz array", weights="w.npz", prepare=saved_npz(weight=WEIGHT, groups=np.ones(9)), match="groups"),
    bad("npz mode", weights="w.npz", prepare=saved_npz(weight=WEIGHT, stride=2, padding_mode=3), match="padding_mode"),
    # npy input
    bad("4-D", prepare=saved("x.npy", np.ones((1, 1, 1, 9))), match="--input x.npy must have shape"),
    bad("0-D", prepare=saved("x.npy", np.ones(())), match="--input x.npy must have shape"),
    bad("no samples", prepare=saved("x.npy", np.ones(0)), match="length"),
    bad("text", prepare=saved("x.npy", np.full(9, "a")), match="x"),
    bad("dates", prepare=saved("x.npy", np.ones(9, dtype="M8[s]")), match="x"),
    bad("pickled", prepare=saved("x.npy", np.array([None])), match=r"--input x\.npy cannot be read"),
    bad("garbage", prepare=garbage("x.npy"), match=r"--input x\.npy cannot be read"),
    bad("empty", prepare=garbage("x.npy", b""), match=r"--input x\.npy cannot be read"),
    bad("cut", prepare=cut_short("x.npy"), match=r"--input x\.npy cannot be read"),
    bad("stereo", prepare=saved("x.npy", np.ones((2, 9))), match="but the weights take 1; --per-channel"),
    bad("per channel", "--per-channel", prepare=saved("w.npy", np.ones((2, 2, 4))), match=r"\(1, C_out, K\)"),
    bad("conv channels", "--conv", prepare=saved("w.npy", np.ones((2, 3, 4))), match="but the weights take 3$"),
    bad("conv output_padding", "--conv", "--output-padding", "1", match="--output-padding is for transposed"),
    bad("conv groups", "--conv", prepare=saved("w.npy", np.ones((3, 1, 4))), match="groups=3.* and .*groups=1"),
    bad("conv padding", "--conv", weights="w.npz", prepare=saved_npz(weight=WEIGHT), match="--padding must be given"),
    bad("conv rate", "--conv", "--stride", "7", input="x.wav", output="y.wav", match="a multiple of the convolution's"),
    bad("conv per channel", "--conv", "--per-channel", prepare=saved("w.npy", np.ones((2, 3, 4))), match="C_out, 1, K"),
    bad(
        "beyond memory",
        *("--stride", str(2**31 - 1)),
        prepare=saved("x.npy", np.zeros((1, 10**6), dtype=np.int8)),
        match="memory|too (big|large)|large|index",
    ),
    # wave files
    bad("wave garbage", input="x.wav", prepare=garbage("x.wav"), match=r"--input x\.wav cannot be read"),
    bad("wave empty", input="x.wav", prepare=garbage("x.wav", b""), match=r"--input x\.wav cannot be read"),
    bad("wave cut", input="x.wav", prepare=cut_short("x.wav"), match="cut short"),
    bad("wave header cut", input="x.wav", prepare=cut_short("x.wav", 0.01), match="cannot be read"),
    bad("wave header only", input="x.wav", prepare=cut_short("x.wav", 36 / 2092), match="cannot be read"),
    bad(
        "24-bit wave cut",
        input="x.wav",
        prepare=cut_short("x.wav", make=lambda: write_pcm("x.wav", 3, range(99))),
        match="cut short",
    ),
    bad("mu-law", input="x.wav", prepare=edited("x.wav", 20, b"\x63\x00"), match="x.wav"),
    bad("no channels", input="x.wav", prepare=edited("x.wav", 22, b"\x00\x00"), match="cannot be read"),
    bad("no rate", output="y.wav", match="needs --rate"),
    bad("rate of a wave", "--rate", "9", input="x.wav", output="y.wav", match="--rate is only"),
    bad("rate of an array", "--rate", "9", match="--rate is only"),
    bad("rate 0", "--rate", "0", output="y.wav", match="rate must be at least 1, got 0"),
    bad("rate too high", "--rate", "4000000000", "--stride", "2", output="y.wav", match="8000000000 Hz"),
    bad(
        "batch to wave",
        *("--rate", "9"),
        output="y.wav",
        prepare=saved("x.npy", np.ones((2, 1, 9))),
        match="a batch of 2",
    ),
    bad(
        "no batch to wave",
        *("--rate", "9"),
        output="y.wav",
        prepare=saved("x.npy", np.ones((0, 1, 9))),
        match="a batch of 0",
    ),
    bad(
        "complex to wave",
        "--rate",
        "9",
        output="y.wav",
        prepare=saved("x.npy", np.ones(9) * 1j),
        match="complex128",
    ),
    bad(
        "beyond float32",
        *("--rate", "9"),
        output="y.wav",
        prepare=saved("x.npy", np.full(9, 1e300)),
        match="range of 32-bit float",
    ),
    bad(
        "channels of a wave",
        *("--rate", "9"),
        output="y.wav",
        prepare=saved("w.npy", np.ones((1, 16384, 1))),
        match="at most 16383 channels, got 16384",
    ),
    bad(
        "length of a wave",
        *("--rate", "1", "--stride", str(2**21)),
        output="y.wav",
        match="at most 4 GiB, got 1 x",
    ),
]


@pytest.mark.parametrize(("argv", "prepare", "match"), BAD)
def test_bad_input(run, files, argv, prepare, match):
    (files / "y.old.npy").write_bytes(b"untouched")
    prepare()
    before = contents(files)
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("convt1d: error: ")
    assert err.count("\n") == 1
    assert re.search(match, err)
    assert contents(files) == before


def test_bad_input_as_a_user(files):
    np.savez(files / "w.npz", weight=TAPS.reshape(1, 1, -1), gain=1)
    (files / "y.wav").write_bytes(b"old")
    before = contents(files)
    argv = ["--input", "x.wav", "--output", "y.wav"]
    for more in (["--weights", "w.npy"], ["--weights", "w.npz", "--force"], ["--force"]):
        done = command("apply", *argv, *more, cwd=files)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("convt1d: error: ")
        assert done.stderr.count("\n") == 1
    assert contents(files) == before


@pytest.mark.skipif(os.name != "posix", reason="pipes and modes of POSIX")
@pytest.mark.parametrize("option", ["--weights w.npz", "--weights w.npy", "--bias b.npy", "--input x.npy"])
def test_a_fifo_is_refused_not_waited_for(run, files, option):
    flag, name = option.split()
    (files / name).unlink(missing_ok=True)
    os.mkfifo(files / name)
    argv = [*ARGV]
    if flag in argv:
        argv[argv.index(flag) + 1] = name
    else:
        argv += [flag, name]
    code, _, err = run(*argv)
    assert code == 2
    assert "it is not a regular file" in err


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_private_file_stays_private(run, files):
    output = files / ARGV[ARGV.index("--output") + 1]
    output.touch(mode=0o600)
    assert run(*ARGV, "--force")[0] == 0
    assert output.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix", reason="a shell's way to close stderr")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-"])
def test_works_without_stdout_and_stderr(files, closed):
    line = shlex.join([sys.executable, "-m", "convt1d", *ARGV, "--progress"])
    assert subprocess.run(["sh", "-c", f"{line} {closed}"], cwd=files, stdin=subprocess.DEVNULL).returncode == 0
    assert np.load(files / ARGV[ARGV.index("--output") + 1]).size


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="no /dev/stdin here")
def test_devices_as_files(tmp_path):
    """/dev/stdin and /dev/stdout are what - is."""
    write_pcm(str(tmp_path / "x.wav"), 2, range(99))
    np.save(tmp_path / "w.npy", np.ones((1, 1, 3), np.float32))
    argv = [sys.executable, "-m", "convt1d", "apply", "--weights", "w.npy", "--stride", "2"]
    written = []
    for given, taken in (("-", "-"), ("/dev/stdin", "/dev/stdout")):
        with open(tmp_path / "x.wav", "rb") as file:
            done = subprocess.run(
                [*argv, "--input", given, "--output", taken],
                stdin=file,
                capture_output=True,
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                check=True,
            )
        written.append(done.stdout)
    assert written[0] == written[1]
    assert written[0][:4] == b"RIFF"
