# SPDX-License-Identifier: MIT
"""The layer under torch.func, in forward mode, in exports; and `restore`. torch's own layer is the oracle."""

import io
import warnings

import numpy as np
import pytest

import convt1d.files
import convt1d.weights.onnx

torch = pytest.importorskip("torch")

from torch import func, nn  # noqa: E402

import convt1d.torch as ours  # noqa: E402

# torch's own use of torch.jit, in forward mode as well
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:Attempted to insert:UserWarning"
)

# in, out, kernel_size, stride, padding, output_padding, groups, bias, dilation
LAYERS = [(4, 6, 8, 4, 2), (4, 6, 5, 3, 2, 2, 2, False), (4, 4, 5, 2, 1, 2, 4, True, 3)]


def twins(arguments):
    torch.manual_seed(0)
    theirs, mine = nn.ConvTranspose1d(*arguments).double(), ours.ConvTranspose1d(*arguments).double()
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine, torch.randn(2, 4, 7, dtype=torch.float64)


def parameters(module):
    return {name: value.detach() for name, value in module.named_parameters()}


TRANSFORMS = {
    "jvp": lambda m, x: func.jvp(m, (x,), (2 * x,)),
    "jvp of the weights": lambda m, x: func.jvp(
        lambda p: func.functional_call(m, p, (x,)), (parameters(m),), (parameters(m),)
    ),
    "jacfwd": lambda m, x: func.jacfwd(m)(x),
    "jacrev": lambda m, x: func.jacrev(m)(x),
    "hessian": lambda m, x: func.hessian(lambda x: m(x).pow(3).sum())(x),
    "linearize": lambda m, x: func.linearize(m, x)[1](2 * x),
    "grad": lambda m, x: func.grad(lambda p: func.functional_call(m, p, (x,)).pow(2).sum())(parameters(m)),
    "grad of each sample": lambda m, x: func.vmap(
        func.grad(lambda p, x: func.functional_call(m, p, (x[None],)).pow(2).sum()), (None, 0)
    )(parameters(m), x),
    "vmap": lambda m, x: func.vmap(m)(torch.stack([x, 3 * x])),
    "forward mode": lambda m, x: torch.autograd.functional.jacobian(m, x, strategy="forward-mode", vectorize=True),
    "jvp by double backward": lambda m, x: torch.autograd.functional.jvp(m, x, 2 * x),
}


@pytest.mark.parametrize("arguments", LAYERS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name, arguments):
    theirs, mine, x = twins(arguments)
    leaves = torch.utils._pytree.tree_leaves
    expected, found = (leaves(TRANSFORMS[name](module, x)) for module in (theirs, mine))
    assert any(e.any() for e in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_operator_itself(name):
    """What torch finds under torch.ops: right, or refused; never a tangent of 0."""

    class Raw(nn.ConvTranspose1d):
        def forward(self, x):
            settings = self.stride, self.padding, self.output_padding, self.groups, self.dilation, "zeros", 0
            return torch.ops.convt1d.conv_transpose1d(x, self.weight, self.bias, *settings)

    theirs, _, x = twins(LAYERS[1])
    raw = Raw(*LAYERS[1]).double()
    raw.load_state_dict(theirs.state_dict())
    if name in ("linearize", "forward mode"):
        raw.requires_grad_(False)
        with pytest.raises(NotImplementedError, match=r"torch\.ops\.convt1d has no forward mode"):
            TRANSFORMS[name](raw, x)
        return
    leaves = torch.utils._pytree.tree_leaves
    for a, b in zip(*(leaves(TRANSFORMS[name](module, x)) for module in (raw, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_operator_of_gradients_itself():
    """As torch's own layer, under vmap, and its tangents."""
    theirs, mine, x = twins(LAYERS[1])
    for module in (theirs, mine):
        x.requires_grad_()
        y = module(x)
        many = torch.autograd.grad(
            y, (x, module.weight), torch.stack([y.detach(), y.detach() ** 2]), is_grads_batched=True
        )
        if module is theirs:
            expected = many
    torch.testing.assert_close(many, expected)
    settings = mine.stride, mine.padding, mine.output_padding, mine.groups, mine.dilation, "zeros", 0
    weight, x, grad = mine.weight.detach(), x.detach(), y.detach()

    def gradients(x):
        return torch.ops.convt1d.conv_transpose1d_backward(grad, x, weight, *settings, [True, True, False])[1]

    by_grad, tangent = func.jvp(gradients, (x,), (2 * x,))  # the weights' gradient is linear in x
    torch.testing.assert_close(by_grad, gradients(x))
    torch.testing.assert_close(tangent, 2 * by_grad)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward mode"):
        gradients(torch.autograd.forward_ad.make_dual(x, x))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 3, (1, 4)])
def test_the_tangent_of_a_linear_layer_is_itself(mode, padding):
    """Where torch has no such layer: the layer without its bias, on the tangent."""
    layer = ours.ConvTranspose1d(4, 6, 5, 2, padding, 1, 2, False, 2, mode).double()
    x, v = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    y, tangent = func.jvp(layer, (x,), (v,))
    torch.testing.assert_close(y, layer(x))
    torch.testing.assert_close(tangent, layer(v))
    gradient = func.grad(lambda x: layer(x).pow(2).sum())(x)
    x.requires_grad_()
    layer(x).pow(2).sum().backward()
    torch.testing.assert_close(gradient, x.grad)


# --- exports ------------------------------------------------------------------------------------------------


def model_and_input():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose1d(4, 6, 8, 4, 2),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(6, 2, 4, 2)),
    )
    return model.eval(), torch.randn(1, 4, 9)


@pytest.mark.parametrize("dynamo", [False, True])
def test_export_to_onnx(dynamo):
    runtime = pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    model, x = model_and_input()
    expected = model(x).detach().numpy()
    assert ours.replace(model).counts == {"ConvTranspose1d": 2}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        if dynamo:
            file.write(torch.onnx.export(model, (x,), dynamo=True, verbose=False).model_proto.SerializeToString())
        else:
            torch.onnx.export(model, (x,), file, dynamo=False)
    session = runtime.InferenceSession(file.getvalue())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, expected, atol=1e-5)
    layers = convt1d.weights.onnx.layers_of(convt1d.files.onnx_message(file.getvalue()), None)
    assert [(info.weight_shape, info.stride, info.padding) for info in layers] == [
        ((4, 6, 8), 4, (2, 2)),
        ((6, 2, 4), 2, (0, 0)),
    ]


def test_script(tmp_path):
    model, x = model_and_input()
    model[2] = nn.utils.parametrize.remove_parametrizations(model[2], "weight")
    expected = model(x)
    assert ours.replace(model).counts == {"ConvTranspose1d": 2}
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), expected)
    torch.jit.save(scripted, tmp_path / "m.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "m.pt")(x), expected)
    beyond = torch.jit.script(ours.ConvTranspose1d(4, 6, 3, padding_mode="circular"))
    with pytest.raises(Exception, match="padding_mode 'zeros'"):
        beyond(x)


# --- restore ------------------------------------------------------------------------------------------------


def test_restore():
    model, x = model_and_input()
    plain, expected = {name: type(module) for name, module in model.named_modules()}, model(x)
    kept = list(model.parameters())
    assert ours.replace(model) == ours.restore(model) == 2
    assert {name: type(module).__name__ for name, module in model.named_modules()} == {
        name: kind.__name__ for name, kind in plain.items()
    }
    assert type(model[0]) is nn.ConvTranspose1d
    assert not any(isinstance(module, ours.ConvTranspose1d) for module in model.modules())
    assert all(a is b for a, b in zip(model.parameters(), kept, strict=True))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert ours.restore(model).counts == {}


@pytest.mark.parametrize("beyond", [{"padding": (0, 2)}, {"padding_mode": "reflect"}])
def test_what_torch_does_not_have_is_not_restored(beyond):
    model = nn.Sequential(ours.ConvTranspose1d(4, 6, 8), ours.ConvTranspose1d(6, 2, 3, **beyond))
    with pytest.raises(ValueError, match="'1' has padding"):
        ours.restore(model)
    assert type(model[0]) is ours.ConvTranspose1d
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        ours.restore([])
