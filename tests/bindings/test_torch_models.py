# SPDX-License-Identifier: MIT
"""Whole models: convolutions, activations and BigVGAN's resamplers after `replace`; `freeze`. torch is the oracle."""

import copy
import io
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

import convt1d.torch as ours  # noqa: E402
from convt1d.torch import operators, steps  # noqa: E402

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from models import blocks, dac, encodec, hifigan  # noqa: E402

# in, out, kernel_size, stride, padding, dilation, groups, bias, padding_mode
CONVOLUTIONS = [
    (4, 6, 5),
    (4, 6, 5, 3, 2, 2, 2, False),
    (4, 6, 4, 1, "same", 3),
    (4, 6, 3, 1, "valid"),
    (4, 4, (5,), (2,), (1,), (2,), 4, True, "circular"),
    (4, 6, 4, 1, "same", 1, 2, True, "reflect"),
]


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """The same weights each time; small calls with gradients are computed here, too."""
    torch.manual_seed(0)
    monkeypatch.setattr(operators, "LEAST", 0)


def close(a, b, rtol=1e-5):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=0, atol=rtol * max(1, b.abs().max().item()))


def twin(arguments, **kinds):
    theirs, mine = nn.Conv1d(*arguments, **kinds), ours.Conv1d(*arguments, **kinds)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


# --- the convolution ----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_conv1d(data):
    """Values and gradients of torch's function on integers: exact."""
    K, s, d, g = (data.draw(st.integers(1, n)) for n in (6, 4, 3, 3))
    p, L = data.draw(st.integers(0, 6)), data.draw(st.integers(K * d, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shapes = (2, 2 * g, L), (3 * g, 2, K), (3 * g,)
    x, w, b = (torch.from_numpy(rng.integers(-4, 5, shape).astype(float)).requires_grad_() for shape in shapes)
    y = operators.conv1d(x, w, b, (s,), (p,), g, (d,), "zeros")
    expected = nn.functional.conv1d(x, w, b, s, p, d, g)
    by = torch.arange(y.numel()).to(y.dtype).reshape(y.shape)
    pairs = zip(torch.autograd.grad(y, (x, w, b), by), torch.autograd.grad(expected, (x, w, b), by), strict=True)
    assert torch.equal(y, expected)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("arguments", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_conv_layer(arguments, dtype):
    theirs, mine = twin(arguments, dtype=dtype)
    assert isinstance(mine, nn.Conv1d)
    assert repr(mine) == repr(theirs)
    x = torch.randn(2, 4, 20, dtype=dtype)
    for mode in (True, False):
        mine.train(mode)
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                close(mine(x), theirs(x))
                close(mine(x[0]), theirs(x[0]))
    found, expected = ([*torch.autograd.grad(m(x).abs().sum(), m.parameters())] for m in (mine, theirs))
    for a, b in zip(found, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("arguments", [*CONVOLUTIONS[:3], (4, 6, 3, 2, (2, 0), 1, 2, True, "replicate")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_conv_gradients(arguments, dtype):
    """Finite differences, of the values and of the gradients; and what torch asks of an operator."""
    mine = ours.Conv1d(*arguments, dtype=dtype)
    inputs = [t.detach().requires_grad_() for t in (torch.randn(2, 4, 9, dtype=dtype), *mine.parameters())]

    def function(x, *parameters):
        return torch.func.functional_call(mine, dict(zip(mine.state_dict(), parameters, strict=True)), x)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=dtype.is_complex)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    padding = mine._geometry().padding
    x, sliding = inputs[0], (mine.stride, padding, mine.groups, mine.dilation, mine.padding_mode)
    if not dtype.is_complex:
        torch.library.opcheck(
            torch.ops.convt1d.conv1d.default, (x, mine.weight, mine.bias, *sliding, mine._kept.number)
        )


def test_small_calls_with_gradients_are_torchs(monkeypatch):
    """Same values and gradients either way, in every mode and padding."""
    for make, arguments in ((ours.Conv1d, (4, 6, 5, 2, (2, 1), 1, 2)), (ours.ConvTranspose1d, (4, 6, 5, 2, (2, 1)))):
        for mode in naive.MODES:
            layer = make(*arguments, padding_mode=mode)
            x, found = torch.randn(2, 4, 9), []
            for least in (0, 1 << 40):
                monkeypatch.setattr(operators, "LEAST", least)
                y = layer(x)
                found.append([y, *torch.autograd.grad(y.square().sum(), layer.parameters())])
            for a, b in zip(*found, strict=True):
                close(a, b)


# --- weights that change ------------------------------------------------------------------------------------


def test_eval_mode_trusts_version_counters(monkeypatch):
    """Edits that torch counts take effect at once, others with the next eval(); nothing is compared in between."""
    theirs, mine = twin((40, 60, 5))
    mine.eval()
    x = torch.randn(1, 40, 9)
    compared, inner = [], operators._same
    monkeypatch.setattr(operators, "_same", lambda *a: compared.append(1) or inner(*a))
    with torch.no_grad():
        for edit in (
            lambda w: w.mul_(2),
            lambda w: setattr(w, "data", torch.ones_like(w)),
            lambda w: mine.load_state_dict({"weight": w.flip(0), "bias": mine.bias}),
        ):
            mine(x)
            compared.clear()
            mine(x)
            assert not compared
            edit(mine.weight)
            theirs.weight.data = mine.weight.data.clone()
            close(mine(x), theirs(x))
        mine.weight.data.mul_(3)
        mine.eval()
        theirs.weight.data = mine.weight.data.clone()
        close(mine(x), theirs(x))


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm, lambda module: module])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_freeze(norm):
    model = nn.Sequential(norm(nn.Conv1d(4, 8, 3)), nn.ELU(), norm(nn.ConvTranspose1d(8, 2, 4, 2)))
    x = torch.randn(2, 4, 9)
    expected = model(x).detach()
    ours.replace(model)
    assert ours.freeze(model) == 2
    assert sorted(model.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    copies = [copy.deepcopy(model)]
    if norm is not parametrizations.weight_norm:  # which leaves a hook that pickle refuses
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copies.append(torch.load(file, weights_only=False))
    for frozen in (model, *copies):
        close(frozen(x), expected)
        y = frozen(x.clone().requires_grad_())
        close(y.detach(), expected)
        assert y.requires_grad
        with torch.no_grad():
            frozen[0].weight.data.zero_()  # not counted
            close(frozen(x), expected)
            frozen[0].weight.mul_(2)
            with pytest.raises(RuntimeError, match=r"freeze\(model\) again"):
                frozen(x)
        ours.freeze(frozen)
        assert not frozen(x).equal(expected)


# --- activations --------------------------------------------------------------------------------------------


MODELS = {
    "hifigan": (lambda: hifigan.generator(8, 32, ((8, 4), (4, 2)), hifigan.BLOCKS[:2]), 8),
    "dac": (lambda: dac.decoder(8, (24, 12, 8), (4, 2)), 8),
    "oobleck": (lambda: dac.decoder(8, (24, 12, 8), (4, 2), two=True), 8),
    "snac": (lambda: dac.decoder(8, (24, 12, 8), (4, 2), depthwise=True), 8),
    "encodec": (lambda: encodec.seanet(8, 32, (4, 2), 7, "reflect", encodec.Block, encodec.LSTM(32)), 8),
    "bigvgan": (
        lambda: hifigan.generator(8, 32, ((8, 4), (4, 2)), hifigan.BLOCKS[:2], activation=hifigan.resampled_snake),
        8,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    """Values, gradients, copies, pickles and the way back."""
    build, channels = MODELS[name]
    x = torch.randn(2, channels, 12)
    theirs = blocks.unit_variance(build(), x)
    mine = copy.deepcopy(theirs)
    counts = ours.replace(mine, activations=True).counts
    assert counts["Conv1d"] == sum(type(m) is nn.Conv1d for m in theirs.modules())
    if name == "bigvgan":
        assert counts["Activation1d"] == counts["UpSample1d"] == counts["LowPassFilter1d"] == counts["Snake"]
    file = io.BytesIO()
    torch.save(mine, file)
    file.seek(0)
    for each in (mine, copy.deepcopy(mine), torch.load(file, weights_only=False)):
        assert list(each.state_dict()) == list(theirs.state_dict())
        with torch.no_grad():
            close(each(x), theirs(x), 2e-5)
        found = []
        for model in (each, theirs):
            leaf = x.clone().requires_grad_()
            found += torch.autograd.grad(model(leaf).square().sum(), leaf)
        close(*found, 1e-4)
    assert ours.replace(mine, activations=True).counts == {}
    assert ours.restore(mine).counts == counts
    assert [type(m) for m in mine.modules()] == [type(m) for m in theirs.modules()]
    with torch.no_grad():
        assert torch.equal(mine(x), theirs(x))


def test_numbers_that_change():
    model = nn.Sequential(nn.Conv1d(3, 3, 3), blocks.Snake(3), nn.PReLU(), nn.LeakyReLU(0.1)).eval()
    theirs, x = copy.deepcopy(model), torch.randn(1, 3, 20)
    ours.replace(model, activations=True)
    with torch.no_grad():
        for edit in (
            lambda m: m[1].alpha.mul_(2),
            lambda m: m[2].weight.fill_(-0.5),
            lambda m: setattr(m[3], "negative_slope", 0.7),
            lambda m: (m[1].alpha.data.mul_(3), m.eval()),
        ):
            close(model(x), theirs(x))
            edit(model)
            edit(theirs)
        close(model(x), theirs(x))


def test_hooks_in_place_and_gradients():
    """What a sequence may not skip."""
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv1d(3, 3, 3), nn.ELU(inplace=True), nn.Conv1d(3, 2, 3)).eval()
    theirs, x = copy.deepcopy(model), torch.randn(1, 3, 20)
    ours.replace(model, activations=True)
    assert type(model) is steps.Sequential
    with torch.no_grad():
        a, b = x.clone(), x.clone()
        close(model(a), theirs(b))
        assert torch.equal(a, b)  # changed in place
        assert a.min() >= 0
        seen = []
        handle = model[2].register_forward_hook(lambda *a: seen.append(1))
        close(model(x.clone()), theirs(x.clone()))
        assert seen == [1]
        handle.remove()
        with pytest.raises(ValueError, match=r"input must have shape \(N, 3, L\)"):
            model(torch.ones(1, 4, 20))
    for m in (model, theirs):
        m(x.clone()).sum().backward()
    for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad)


class Snake(nn.Module):
    """A class with the name of a known one, and a form of its own."""

    def __init__(self, function, beta=True):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(3))
        if beta:
            self.beta = nn.Parameter(torch.ones(3))
        self.function = function

    def forward(self, x):
        parameters = (self.alpha[:, None], self.beta[:, None]) if hasattr(self, "beta") else (self.alpha[:, None],)
        return self.function(x, *parameters)


FORMS = {
    "snake": (lambda x, a: x + torch.sin(a * x) ** 2 / (a + 1e-9), False, "snake"),
    "beta": (lambda x, a, b: x + torch.sin(a * x) ** 2 / (b + 1e-9), True, "snake"),
    "logscale": (lambda x, a, b: x + torch.sin(a.exp() * x) ** 2 / (b.exp() + 1e-9), True, "snake of exponentials"),
    "alpha where beta is meant": (lambda x, a, b: x + torch.sin(a * x) ** 2 / a, True, None),
    "another power": (lambda x, a: x + torch.sin(a * x) / a, False, None),
    "cosine": (lambda x, a: x + (1 - torch.cos(a * x)) / a, False, None),
    "of the signal's mean": (lambda x, a: x + torch.sin(a * x) ** 2 / a + 0.01 * x.mean(), False, None),
    "an error": (lambda x, a: x.no_such_method(), False, None),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name):
    """With these parameters, all ones, some of them give the same: only what is computed counts."""
    function, beta, form = FORMS[name]
    assert steps.form_of(Snake(function, beta)) == form


# --- torch.compile ------------------------------------------------------------------------------------------


def test_compile():
    """New lengths compile once more, not each; the modules' own activations are left to the compiler."""
    model = dac.decoder(4, (12, 8), (2,)).eval().requires_grad_(False)
    theirs = copy.deepcopy(model)
    ours.replace(model, activations=True)
    ours.freeze(model)
    compilations = []

    def backend(graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        compilations.append(1)
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        for length in (20, 21, 30, 45, 46):
            x = torch.randn(1, 4, length)
            close(compiled(x), theirs(x))
    assert len(compilations) == 2
