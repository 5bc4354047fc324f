# SPDX-License-Identifier: MIT
"""The layer inside torch: the same as torch's own where that has one, the NumPy layer where it has none."""

import copy
import gc
import pickle
import re
import subprocess
import sys
import warnings

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d

torch = pytest.importorskip("torch")

import hifigan  # noqa: E402  they need torch
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import convt1d.torch as ours  # noqa: E402
from convt1d.gradients import Backward  # noqa: E402
from convt1d.torch import operators  # noqa: E402

# in, out, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode
LAYERS = [
    (4, 6, 5),
    (4, 6, 5, 3, 2, 2, 2, False),
    (4, 6, 5, 2, 1, 2, 2, True, 3),
    (4, 4, (5,), (2,), (1,), (0,), 4, True, (2,)),
]
# what torch refuses
BEYOND = [
    (4, 6, 5, 3, (0, 2), 0, 2),
    *((4, 6, 7, 2, 1, 1, 2, True, 2, mode) for mode in naive.MODES if mode != "zeros"),
    (4, 6, 5, 2, (3, 1), 1, 1, False, 3, "reflect"),
]
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """The same weights each time; small calls with gradients are computed here, too."""
    torch.manual_seed(0)
    monkeypatch.setattr(operators, "LEAST", 0)


def close(a, b, rtol=1e-5):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=0, atol=rtol * max(1, b.abs().max().item()))


def twin(arguments, **kinds):
    """A layer of torch's, and ours with its state."""
    theirs, mine = nn.ConvTranspose1d(*arguments, **kinds), ours.ConvTranspose1d(*arguments, **kinds)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def gradients(module, x, output_size=None):
    x = x.detach().requires_grad_()
    y = module(x, output_size) if output_size else module(x)
    (y * torch.linspace(-1, 1, y.shape[-1], dtype=y.real.dtype)).abs().square().sum().backward()
    found = [x.grad, *(p.grad for p in module.parameters())]
    module.zero_grad()
    return y.detach(), found


# --- torch as the oracle of what it defines -----------------------------------------------------------------


@settings(max_examples=100)
@given(problem=naive.problems(modes=["zeros"], pairs=False), kept=st.booleans())
def test_operator(problem, kept):
    """Values and gradients of torch's function on integers: exact."""
    x, w, b = (None if a is None else torch.from_numpy(a).requires_grad_() for a in (problem.x, problem.w, problem.b))
    s, p, op, g, d, mode = problem.geometry.values()
    pack = operators.Kept()
    y = operators.conv_transpose1d(x, w, b, s, p, [op], g, d, mode, pack.number if kept else 0)
    expected = nn.functional.conv_transpose1d(x, w, b, s, p, op, g, d)
    assert torch.equal(y, expected)
    by = torch.arange(y.numel()).to(y.dtype).reshape(y.shape)
    inputs = [t for t in (x, w, b) if t is not None]
    pairs = zip(torch.autograd.grad(y, inputs, by), torch.autograd.grad(expected, inputs, by), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("arguments", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer(arguments, dtype):
    """State both ways, repr, output_size, values and gradients."""
    theirs, mine = twin(arguments, dtype=dtype)
    assert isinstance(mine, nn.ConvTranspose1d)
    assert repr(mine) == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.ConvTranspose1d(*arguments, dtype=dtype).state_dict())
    mine.load_state_dict(theirs.state_dict())
    for shape in ((2, 4, 20), (4, 1)):
        x = torch.randn(shape, dtype=dtype)
        least = theirs(x).shape[-1] - theirs.output_padding[0]
        for size in (None, [least], [least + theirs.stride[0] - 1], (*shape[:-1], least)):  # torch ignores the channels
            (y, found), (y0, found0) = gradients(mine, x, size), gradients(theirs, x, size)
            close(y, y0)
            for a, b in zip(found, found0, strict=True):
                close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype):
    """Computed in float32, rounded once."""
    mine = ours.ConvTranspose1d(4, 6, 5, 2, dtype=dtype)
    wide = copy.deepcopy(mine).float()
    x = torch.randn(2, 4, 20, dtype=dtype)
    assert torch.equal(mine(x), wide(x.float()).to(dtype))
    y, found = gradients(mine, x)
    assert all(each.dtype == dtype and each.isfinite().all() for each in (y, *found))


def test_autocast():
    theirs, mine = twin((4, 6, 5, 2))
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 4, 20, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            y, y0 = mine.to(dtype)(x), theirs.to(dtype)(x)
        close(y, y0, 1e-2)
        assert y.dtype == (torch.bfloat16 if dtype == torch.float32 else dtype)
    with torch.autocast("cpu", torch.bfloat16):  # what comes out of one layer meets the weights of the next
        mine.float()(torch.randn(1, 4, 9, dtype=torch.bfloat16)).sum().backward()
    assert mine.weight.grad.dtype == torch.float32


# --- the NumPy layer as the oracle of the rest ---------------------------------------------------------------


@pytest.mark.parametrize("arguments", BEYOND)
def test_beyond_torch(arguments):
    with pytest.raises((ValueError, RuntimeError)):
        nn.ConvTranspose1d(*arguments)(torch.ones(1, 4, 9))
    mine = ours.ConvTranspose1d(*arguments, dtype=torch.float64)
    layer = convt1d.ConvTranspose1d.from_torch(mine)
    assert layer.padding == (mine.padding[0] if len(mine.padding) == 1 else mine.padding)
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    np.testing.assert_array_equal(mine(x).detach().numpy(), layer(x.numpy()))


@pytest.mark.parametrize("arguments", LAYERS + BEYOND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradcheck(arguments, dtype):
    """Finite differences, of the values and of the gradients."""
    mine = ours.ConvTranspose1d(*arguments, dtype=dtype)
    inputs = [t.detach().requires_grad_() for t in (torch.randn(2, 4, 4, dtype=dtype), *mine.parameters())]

    def function(x, *parameters):
        return torch.func.functional_call(mine, dict(zip(mine.state_dict(), parameters, strict=True)), x)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=dtype.is_complex)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_what_needs_no_gradient_is_not_computed(monkeypatch):
    asked = []
    inner = Backward.__call__
    monkeypatch.setattr(Backward, "__call__", lambda self, *a: asked.append(tuple(a[2])) or inner(self, *a))
    names = ("x", "weight", "bias")
    for needed in (("x",), ("weight",), ("bias",), ("x", "bias"), names):
        mine, x = ours.ConvTranspose1d(4, 6, 5, 2), torch.randn(2, 4, 9)
        tensors = dict(zip(names, (x, mine.weight, mine.bias), strict=True))
        for name, tensor in tensors.items():
            tensor.requires_grad_(name in needed)
        mine(x).sum().backward()
        assert asked.pop() == needed
        assert {name for name, tensor in tensors.items() if tensor.grad is not None} == set(needed)
    assert asked == []


def test_partial_second_gradients():
    """A penalty on the gradient of the input alone, as of a gradient-penalised loss, equals torch's."""
    theirs, mine = twin((4, 6, 5, 2))
    found = []
    for module in (theirs, mine):
        x = torch.ones(1, 4, 9, requires_grad=True)
        (g,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        g.square().sum().backward()
        found.append([x.grad, module.weight.grad, module.bias.grad])
    for a, b in zip(*found, strict=True):
        close(a, b)


# --- the operator as torch sees it ----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [LAYERS[1], BEYOND[-1]])
def test_opcheck(arguments):
    mine = ours.ConvTranspose1d(*arguments)
    sliding = mine.stride, mine.padding, mine.output_padding, mine.groups, mine.dilation, mine.padding_mode
    for x in (torch.randn(2, 4, 9, requires_grad=True), torch.randn(4, 9)):
        torch.library.opcheck(
            torch.ops.convt1d.conv_transpose1d.default, (x, mine.weight, mine.bias, *sliding, mine._kept.number)
        )
        y = mine(x).detach().requires_grad_()
        for needs in ([True, True, True], [False, True, False]):
            torch.library.opcheck(operators.conv_transpose1d_backward, (y, x, mine.weight, *sliding, 0, needs))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    model = nn.Sequential(
        ours.ConvTranspose1d(4, 6, 5, 2, padding_mode="reflect"),
        nn.Tanh(),
        parametrizations.weight_norm(ours.ConvTranspose1d(6, 2, 4, 2, (1, 0))),
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for length in (9, 12):
        x = torch.randn(2, 4, length)
        with torch.no_grad():
            close(compiled(x), model(x))
        (y, found), (y0, found0) = gradients(compiled, x), gradients(model, x)
        close(y, y0)
        for a, b in zip(found, found0, strict=True):
            close(a, b)


def test_compile_output_size():
    mine = ours.ConvTranspose1d(4, 6, 5, 2)
    compiled = torch.compile(lambda x: mine(x, [2 * x.shape[-1] + 4]), backend="aot_eager", fullgraph=True)
    for length in (9, 10, 11):
        x = torch.randn(1, 4, length)
        close(compiled(x), mine(x, [2 * length + 4]))


# --- memory ---------------------------------------------------------------------------------------------------


def test_no_copies(monkeypatch):
    """Input, weights and output are the tensors' own memory; expanded and strided inputs are read in place."""
    seen = []
    inner = operators.Operator.__call__

    def spy(self, x, **options):
        y = inner(self, x, **options)
        seen.append((x.ctypes.data, x.strides, y.ctypes.data))
        return y

    monkeypatch.setattr(operators.Operator, "__call__", spy)
    base = torch.randn(3, 12, 4)
    mine = ours.ConvTranspose1d(4, 6, 5, 2)
    with torch.no_grad():
        for x in (base.transpose(1, 2), base.transpose(1, 2)[1:, :, ::3], torch.randn(4, 1).expand(2, 4, 7)):
            y = mine(x)
            assert seen.pop() == (x.data_ptr(), tuple(4 * n for n in x.stride()), y.data_ptr())
            close(y, mine(x.contiguous()))
            seen.clear()
    assert operators._array(mine.weight).ctypes.data == mine.weight.data_ptr()


def test_lazy_conjugates():
    mine = ours.ConvTranspose1d(4, 6, 5, 2, dtype=torch.complex64)
    x = torch.randn(1, 4, 9, dtype=torch.complex64)
    assert torch.equal(mine(x.conj()), mine(x.conj().resolve_conj()))


EDITS = {
    "data": lambda w: w.data.mul_(2),
    "numpy": lambda w: np.multiply(w.detach().numpy(), 2, out=w.detach().numpy()),
    "one": lambda w: w.data[-1, -1, -1].add_(1),
    "no_grad": lambda w: w.detach().neg_(),
    "set": lambda w: setattr(w, "data", torch.ones_like(w)),
    "transposed": lambda w: setattr(w, "data", torch.randn(w.shape[::-1]).permute(2, 1, 0)),
    "nan": lambda w: w.data.fill_(np.nan),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_edits_take_effect(edit, name):
    """Also those that torch's version counter does not see."""
    theirs, mine = twin((40, 60, 50, 2))
    if name == "bias" and edit in ("one", "transposed"):
        edit = "data"
    x = torch.randn(1, 40, 9)
    with torch.no_grad():
        mine(x)
        EDITS[edit](getattr(mine, name))
        setattr(theirs, name, nn.Parameter(getattr(mine, name).clone()))
        torch.testing.assert_close(mine(x), theirs(x), rtol=0, atol=1e-4, equal_nan=True)


def test_packs_are_kept(monkeypatch):
    """While the bits of the weights stay the same, also if weight_norm makes them anew; not beyond the layer."""
    made = []
    inner = operators._Pack.__init__
    monkeypatch.setattr(operators._Pack, "__init__", lambda self, *a: made.append(1) or inner(self, *a))
    mine = parametrizations.weight_norm(ours.ConvTranspose1d(4, 6, 5, 2))
    for grad in (True, False):
        for length in (9, 12):
            with torch.set_grad_enabled(grad):
                y = mine(torch.randn(1, 4, length))
        if grad:
            y.sum().backward()
    assert len(made) == 1
    torch.optim.SGD(mine.parameters(), 0.1).step()
    mine(torch.randn(1, 4, 9))
    assert len(made) == 2
    number = mine._kept.number
    assert number in operators._kept
    del mine, y
    gc.collect()
    assert number not in operators._kept


def test_copies_keep_their_own():
    mine = ours.ConvTranspose1d(4, 6, 5, 2, (0, 3), padding_mode="replicate")
    x = torch.randn(1, 4, 9)
    y = mine(x)
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert other._kept.number != mine._kept.number
        assert torch.equal(other(x), y)
        with torch.no_grad():
            other.weight.zero_()
        assert torch.equal(mine(x), y)
        assert not other(x).equal(y)


def test_threads_are_those_of_torch(monkeypatch):
    seen = []
    inner = operators.Operator.__call__
    monkeypatch.setattr(
        operators.Operator, "__call__", lambda self, x, workers: seen.append(workers) or inner(self, x, workers=workers)
    )
    mine, before = ours.ConvTranspose1d(4, 6, 5, 2), torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            mine(torch.randn(1, 4, 9))
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


def test_inference_mode():
    theirs, mine = twin((4, 6, 5, 2))
    with torch.inference_mode():
        x = torch.randn(1, 4, 9)
        close(mine(x), theirs(x))
        close(mine.eval()(x), theirs(x))
        inside = ours.ConvTranspose1d(4, 6, 5, 2)  # its weights have no version counter
        assert torch.equal(inside(x), inside(x))


# --- replace --------------------------------------------------------------------------------------------------


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, old_weight_norm, lambda module: module])
def test_hifigan(norm):
    theirs = hifigan.Generator(norm)
    mine = hifigan.Generator(norm)
    mine.load_state_dict(theirs.state_dict())
    before = dict(mine.named_modules()), dict(mine.named_parameters())
    assert ours.replace(mine).counts == {"Conv1d": 74, "ConvTranspose1d": 4}
    assert ours.replace(mine).counts == {}
    assert (dict(mine.named_modules()), dict(mine.named_parameters())) == before
    assert all(isinstance(up, ours.ConvTranspose1d) for up in mine.ups)
    x = torch.randn(1, hifigan.MELS, 4)
    (y, found), (y0, found0) = gradients(mine, x), gradients(theirs, x)
    assert y.shape == (1, 1, 4 * hifigan.HOP)
    assert y.std() > 0.1
    assert (y - y0).abs().max() <= 1e-5
    for a, b in zip(found, found0, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()

    for module in (theirs, mine):
        optimizer = torch.optim.SGD(module.parameters(), 1e-3)
        module(x).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        assert (mine(x) - y).abs().max() > 1e-4
        assert (mine(x) - theirs(x)).abs().max() <= 1e-5


def test_replace_keeps_parametrizations():
    module = parametrizations.weight_norm(nn.ConvTranspose1d(4, 6, 5, 2))
    twin = copy.deepcopy(module)  # torch gives it the same class
    x = torch.randn(1, 4, 9)
    assert ours.replace(module).counts == {"ConvTranspose1d": 1}
    assert isinstance(module, ours.ConvTranspose1d)
    assert not isinstance(twin, ours.ConvTranspose1d)
    assert parametrize.is_parametrized(module, "weight")
    close(module(x), twin(x))
    copied = copy.deepcopy(module)
    assert isinstance(copied, ours.ConvTranspose1d)
    assert copied._kept is not module._kept
    with pytest.raises(RuntimeError, match="state_dict"):  # as torch has it
        pickle.dumps(module)
    parametrize.remove_parametrizations(module, "weight")
    assert type(module) is ours.ConvTranspose1d
    close(module(x), twin(x))


def test_replace_asks_for_no_weight():
    """In training, each time that spectral_norm is asked for the weight, it goes a step on."""
    module = parametrizations.spectral_norm(nn.ConvTranspose1d(4, 6, 5, 2))
    twin = copy.deepcopy(module)
    assert ours.replace(module).counts == {"ConvTranspose1d": 1}
    for name, value in twin.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    x = torch.randn(1, 4, 9)
    close(module(x), twin(x))


def test_replace_leaves_alone():
    class Own(nn.ConvTranspose1d):
        pass

    shared, patched = nn.ConvTranspose1d(2, 2, 3), nn.ConvTranspose1d(2, 2, 3)
    patched.forward = lambda x: x
    model = nn.ModuleDict(
        {
            "shared": shared,
            "again": nn.Sequential(shared, nn.Conv1d(2, 2, 3)),
            "own": Own(2, 2, 3),
            "patched": patched,
            "elsewhere": nn.ConvTranspose1d(2, 2, 3, device="meta"),
            "other": nn.ConvTranspose2d(2, 2, 3),
            "lazy": nn.LazyConvTranspose1d(2, 3),
            "kind": nn.ConvTranspose1d(2, 2, 3).to(torch.float8_e4m3fn),
        }
    )
    assert ours.replace(model).counts == {"Conv1d": 1, "ConvTranspose1d": 1}
    assert model["again"][0] is shared
    assert type(shared) is ours.ConvTranspose1d
    assert [name for name, each in model.items() if isinstance(each, ours.ConvTranspose1d)] == ["shared"]
    alone = nn.ConvTranspose1d(2, 2, 3)
    assert ours.replace(alone).counts == {"ConvTranspose1d": 1}
    assert type(alone) is ours.ConvTranspose1d


# --- errors ---------------------------------------------------------------------------------------------------

X = torch.ones(1, 4, 9)


def layer(**given):
    return ours.ConvTranspose1d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 5} | given)


ERRORS = {
    "stride": (ValueError, "stride must be at least 1, got 0", lambda: layer(stride=0)),
    "mode": (ValueError, "padding_mode must be one of zeros, .*, got 'same'", lambda: layer(padding_mode="same")),
    "padding": (TypeError, "padding must be an int, got 'same'", lambda: layer(padding="same")),
    "groups": (ValueError, "divisible by groups, got in_channels=4 and groups=3", lambda: layer(groups=3)),
    "channels": (ValueError, r"input must have shape \(N, 4, L\).* \(1, 3, 9\)", lambda: layer()(torch.ones(1, 3, 9))),
    "dimensions": (ValueError, r"input must have shape", lambda: layer()(torch.ones(9))),
    "dtype": (
        TypeError,
        "weight must have the dtype of input, torch.float64, got torch.float32",
        lambda: layer()(X.double()),
    ),
    "integers": (TypeError, "input must be one of .*, got torch.int64", lambda: layer()(X.long())),
    "sparse": (TypeError, "input must be a dense tensor, got layout", lambda: layer()(X.to_sparse())),
    "length": (ValueError, "output length must be at least 1", lambda: layer(padding=9)(X)),
    "empty": (ValueError, "input length must be at least 1", lambda: layer()(X[..., :0])),
    "output_size": (ValueError, "output_size must be between 13 and 13", lambda: layer()(X, [20])),
    "weight": (ValueError, "weight must be 3-D", lambda: raw(torch.ones(4, 6))),
    "bias": (ValueError, r"bias must have shape \(6,\), got \(5,\)", lambda: raw(torch.ones(4, 6, 3), torch.ones(5))),
    "model": (TypeError, "model must be a torch.nn.Module, got list", lambda: ours.replace([])),
}


def raw(weight, bias=None):
    return operators.conv_transpose1d(X, weight, bias, 1, 0, [0], 1, 1, "zeros", 0)


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    error, words, call = ERRORS[name]
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert re.search(words, str(caught.value)), str(caught.value)


def test_other_devices():
    """No such device is needed to see the check: fake tensors name one."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, w = (torch.empty(shape, device="cuda") for shape in ((1, 4, 9), (4, 6, 3)))
        with pytest.raises(ValueError, match="input must be on the CPU, got a tensor on cuda"):
            operators.conv_transpose1d(x, w, None, 1, 0, [0], 1, 1, "zeros", 0)
    meta = layer(device="meta")
    assert meta(X.to("meta")).shape == (1, 6, 13)


def test_empty_batch():
    mine = layer()
    y, found = gradients(mine, X[:0])
    assert y.shape == (0, 6, 13)
    assert [tuple(each.shape) for each in found] == [(0, 4, 9), (4, 6, 5), (6,)]
    assert all(not each.any() for each in found)


def test_without_torch():
    """The message names the extra; the rest of the package does not import torch."""
    code = "import sys, convt1d; assert 'torch' not in sys.modules; sys.modules['torch'] = None; import convt1d.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: convt1d.torch needs torch" in done.stderr
    assert "pip install 'convt1d[torch]'" in done.stderr
