# SPDX-License-Identifier: MIT
"""torch, where it is installed, as the oracle of what it defines: padding_mode "zeros" and one padding."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convt1d

torch = pytest.importorskip("torch")

DEFINED = {"modes": ["zeros"], "pairs": False}


def positional(problem):
    """The parameters in the order of torch's function: stride, padding, output_padding, groups, dilation."""
    return [problem.geometry[name] for name in ("stride", "padding", "output_padding", "groups", "dilation")]


def by_torch(x, w, b, *parameters):
    tensors = (None if a is None else torch.from_numpy(a) for a in (x, w, b))
    return torch.nn.functional.conv_transpose1d(*tensors, *parameters).numpy()


@settings(max_examples=300)
@given(problem=naive.problems(**DEFINED, longest=200), seed=st.integers(0, 2**32))
def test_function(problem, seed):
    """The same positional arguments, on real numbers: equal up to rounding."""
    rng = np.random.default_rng(seed)
    arrays = problem.x, problem.w, problem.b
    arrays = [None if a is None else a * rng.standard_normal(a.shape) for a in arrays]
    y = convt1d.conv_transpose1d(*arrays, *positional(problem))
    expected = by_torch(*arrays, *positional(problem))
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12 * abs(expected).max())


@given(problem=naive.problems(**DEFINED, kinds="f"), seed=st.integers(0, 2**32))
def test_nan_and_inf(problem, seed):
    rng = np.random.default_rng(seed)
    x, w = problem.x, problem.w * rng.integers(0, 2, problem.w.shape)
    x.flat[rng.integers(0, x.size, 2)] = rng.choice([np.nan, np.inf, -np.inf], 2)
    y = convt1d.conv_transpose1d(x, w, problem.b, *positional(problem))
    np.testing.assert_array_equal(y, by_torch(x, w, problem.b, *positional(problem)))


# in, out, kernel_size, stride, padding, output_padding, groups, bias, dilation: positional in both
LAYERS = [
    (4, 6, 5),
    (4, 6, 5, 3, 2),
    (4, 6, 5, 3, 2, 2, 2, False),
    (4, 6, 5, 2, 1, 2, 2, True, 3),
    (4, 6, (5,), (2,), (1,), (0,), 1, True, (2,)),
]


@pytest.mark.parametrize("arguments", LAYERS)
def test_layer(arguments):
    """A state goes over under the names it has there, and back; output_size means the same."""
    module, layer = torch.nn.ConvTranspose1d(*arguments), convt1d.ConvTranspose1d(*arguments)
    layer.load_state_dict({name: tensor.numpy() for name, tensor in module.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 4, 100)).astype(np.float32)
    least = layer.output_length(100) - layer.output_padding
    for size in (None, least, least + layer.stride - 1):
        expected = module(torch.from_numpy(x), None if size is None else [size]).detach().numpy()
        np.testing.assert_allclose(layer(x, size), expected, rtol=1e-5, atol=1e-5)

    other = convt1d.ConvTranspose1d(*arguments)
    module.load_state_dict({name: torch.tensor(value) for name, value in other.state_dict().items()})
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(other(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arguments", LAYERS)
def test_repr(arguments):
    assert repr(convt1d.ConvTranspose1d(*arguments)) == repr(torch.nn.ConvTranspose1d(*arguments))
