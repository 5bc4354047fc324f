# SPDX-License-Identifier: MIT
"""The decoders of docs/examples against torch's, whose weights are saved by the names of their repositories.

HiFi-GAN, DAC and EnCodec have the old names of weight_norm, SNAC its new ones. The torch modules are in bench/models
and tests/hifigan.py; their widths are smaller where that changes nothing else.
"""

import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "decoders"
sys.path += [str(ROOT / "bench"), str(ROOT / "tests")]
import hifigan  # noqa: E402
from models import blocks, dac, encodec  # noqa: E402

FRAMES = 12
# What builds the torch module, the prefix of its names, its input's channels; then the example's function.
CASES = {
    "hifigan": (lambda: hifigan.Generator(torch.nn.Identity()), "", 80, "generator"),
    "dac": (lambda: dac.decoder(24, (96, 48, 32, 16, 8), (8, 8, 4, 2)), "decoder.", 24, "decoder"),
    "snac": (lambda: dac.decoder(24, (96, 48, 32, 16, 8), (8, 8, 4, 2), depthwise=True), "decoder.", 24, "decoder"),
    "encodec": (
        lambda: encodec.seanet(24, 64, (8, 5, 4, 2), 7, "reflect", encodec.Block, encodec.LSTM(64)),
        "decoder.",
        24,
        "decoder",
    ),
}
NEW_NORM = ("snac",)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """An example's name, the path of its weights, its chain, an input and torch's output."""
    build, prefix, channels, function = CASES[request.param]
    torch.manual_seed(0)
    x = torch.randn(1, channels, FRAMES)
    model = blocks.unit_variance(build(), x)
    hop = model(x).shape[-1] // FRAMES
    rates = np.cumprod((8, 8, 4, 2))
    noises = [module for module in model.modules() if isinstance(module, blocks.Noise)]
    for number, (module, rate) in enumerate(zip(noises, rates, strict=False), 2):
        sequence = np.random.default_rng([0, number]).standard_normal(FRAMES * rate, np.float32)
        module.sequence = torch.from_numpy(sequence)
    norm = torch.nn.utils.parametrizations.weight_norm
    if request.param not in NEW_NORM:
        norm = torch.nn.utils.weight_norm
    layers = [each for each in model.modules() if isinstance(each, (torch.nn.Conv1d, torch.nn.ConvTranspose1d))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old one is deprecated
        for layer in layers:
            norm(layer)
    path = tmp_path_factory.mktemp(request.param) / "weights.safetensors"
    safetensors.save_file({prefix + name: value for name, value in model.state_dict().items()}, path)
    with torch.no_grad():
        y = model(x).numpy()[0]
    assert y.shape[-1] == hop * FRAMES
    assert y.std() > 0.05
    return request.param, path, function, x.numpy()[0], y


def build(case):
    name, path, function, _, _ = case
    load = runpy.run_path(str(EXAMPLES / "command.py"))["load"]
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))[function](load(path))


def streamed(stream, x, sizes):
    """All that a stream returns for chunks of `sizes` frames, again and again."""
    pieces, at = [], 0
    while at < x.shape[-1]:
        for size in sizes:
            pieces.append(stream.process(x[..., at : at + size]))
            at += size
    return np.concatenate([*pieces, stream.flush()], -1)


def test_equals_torch(case):
    *_, x, y = case
    chain = build(case)
    np.testing.assert_allclose(chain(x), y, rtol=0, atol=2e-5 * np.abs(y).max())
    np.testing.assert_allclose(chain(x[None])[0], y, rtol=0, atol=2e-5 * np.abs(y).max())


@pytest.mark.parametrize("sizes", [(1,), (4,), (3, 0, 5)])
def test_streams_have_the_bits_of_the_whole(case, sizes, monkeypatch):
    """With a kernel that sums the same way for any chunk; Winograd's, which many channels have, is in the next test."""
    monkeypatch.setenv("CONVT1D_KERNEL", "direct")
    *_, x, _ = case
    chain = build(case)
    whole, stream = chain(x), chain.stream()
    np.testing.assert_array_equal(streamed(stream, x, sizes), whole)
    stream.reset()
    np.testing.assert_array_equal(streamed(stream, x, sizes), whole)


def test_streams_equal_torch(case):
    *_, x, y = case
    np.testing.assert_allclose(streamed(build(case).stream(), x, (4,)), y, rtol=0, atol=2e-5 * np.abs(y).max())


def test_streams_go_on_from_a_state(case):
    *_, x, _ = case
    chain = build(case)
    stream, other = chain.stream(), chain.stream()
    stream.process(x[:, :5])
    other.restore(stream.state())
    for part in (x[:, 5:9], x[:, 9:]):
        np.testing.assert_array_equal(other.process(part), stream.process(part))
    np.testing.assert_array_equal(other.flush(), stream.flush())


def test_writes_a_file(case, tmp_path, capsys, monkeypatch):
    """The command, whole and in chunks: the same samples of 16 bits."""
    from scipy.io import wavfile

    monkeypatch.setenv("CONVT1D_KERNEL", "direct")
    name, path, function, x, y = case
    np.save(tmp_path / "x.npy", x)
    command = runpy.run_path(str(EXAMPLES / "command.py"))["main"]
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    audio = []
    for chunk in ((), ("--chunk", "5")):
        output = tmp_path / f"{len(audio)}.wav"
        command(example[function], example["RATE"], [str(path), str(tmp_path / "x.npy"), str(output), *chunk])
        rate, samples = wavfile.read(output)
        assert rate == example["RATE"]
        audio.append(samples)
    np.testing.assert_array_equal(*audio)
    np.testing.assert_allclose(audio[0] / 32767, np.clip(y[0], -1, 1), rtol=0, atol=1e-4)
    assert f"{y.shape[-1] / rate:.2f} s of audio" in capsys.readouterr().out


@pytest.mark.parametrize("name", CASES)
def test_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 120
