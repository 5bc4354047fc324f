# SPDX-License-Identifier: MIT
"""One line for a whole model: `replace`, its inverse `restore`, and `freeze`. Modules stay the objects they are."""

from __future__ import annotations

import itertools
from collections import Counter

from torch import nn
from torch.nn.modules.utils import _single
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from . import operators, steps
from .layers import Conv1d, ConvTranspose1d, Layer
from .operators import Kept

_LAYERS = {nn.ConvTranspose1d: ConvTranspose1d, nn.Conv1d: Conv1d}


class Turned(int):
    """How many modules were turned; `counts` has how many of each class."""

    counts: dict[str, int]

    @staticmethod
    def of(counts: Counter[str]) -> Turned:
        turned = Turned(counts.total())
        turned.counts = dict(sorted(counts.items()))
        return turned

    def __repr__(self) -> str:
        return f"{int(self)} ({', '.join(f'{name}: {n}' for name, n in self.counts.items()) or 'none'})"


def replace(model: nn.Module, *, activations: bool = False) -> Turned:
    """Turn every `nn.ConvTranspose1d` and `nn.Conv1d` of a model that is on the CPU into convt1d's, in place.

    Parameters
    ----------
    model : nn.Module
        Its modules stay the objects they are, with their parameters, hooks and parametrizations (both kinds of
        weight_norm): optimizers, state_dict and names notice nothing.
    activations : bool
        Whether to turn activations, too, and BigVGAN's up- and downsamplers; see Notes.

    Returns
    -------
    int
        How many modules were turned; its attribute `counts` is a dict of how many of each class. Left alone, and not
        counted, are subclasses of torch's layers, and modules with another `forward`, on another device or of an
        element type that is not computed here.

    Raises
    ------
    TypeError
        `model` is no module.

    See Also
    --------
    freeze : what else makes a model faster whose weights do not change any more.
    restore : the inverse.

    Notes
    -----
    With ``activations=True`` `nn.ReLU`, `nn.LeakyReLU`, `nn.ELU`, `nn.Tanh` and `nn.PReLU` of one parameter are
    computed here, in one pass. So are modules whose class is named as a snake and whose forward is one of DAC's, SNAC's
    and BigVGAN's forms, and those named UpSample1d, LowPassFilter1d, DownSample1d and Activation1d that compute what
    BigVGAN's do: each is called with random inputs and parameters, and must give the same within 1e-5 of the largest
    value. In an `nn.Sequential` an activation beside a layer is computed in the layer's pass. All that holds for calls
    that ask for numbers only, in float32; with gradients, in a compiled model or an export the modules run as before.

    Examples
    --------
    >>> from torch import nn
    >>> from convt1d.torch import replace
    >>> model = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ConvTranspose1d(8, 4, 4, 2, 1), nn.ConvTranspose1d(4, 1, 4, 2, 1))
    >>> replace(model)
    3 (Conv1d: 1, ConvTranspose1d: 2)
    """
    _check(model)
    counts: Counter[str] = Counter()
    found = [module for module in model.modules() if _replaceable(module)]
    for module in found:
        kind = parametrize.type_before_parametrizations(module)
        _become(module, _LAYERS[kind])
        module._kept = Kept()
        counts[kind.__name__] += 1
    if activations:
        counts.update(steps.turn(model))
    return Turned.of(counts)


def restore(model: nn.Module) -> Turned:
    """Turn every module of a model that `replace` turned into what it was, in place.

    Parameters
    ----------
    model : nn.Module
        Its modules stay the objects they are, as with `replace`. What `freeze` folded stays folded.

    Returns
    -------
    int
        How many modules were turned, with `counts`, as `replace` returns it.

    Raises
    ------
    TypeError
        `model` is no module.
    ValueError
        A layer has a padding mode, or a pair as padding, that torch's layer does not have; none is turned then.

    Examples
    --------
    >>> from torch import nn
    >>> from convt1d.torch import replace, restore
    >>> model = nn.Sequential(nn.ConvTranspose1d(8, 4, 4, 2, 1))
    >>> replace(model), restore(model), type(model[0]) is nn.ConvTranspose1d
    (1 (ConvTranspose1d: 1), 1 (ConvTranspose1d: 1), True)
    """
    _check(model)
    ours = {mine: theirs for theirs, mine in _LAYERS.items()}
    found = {name: m for name, m in model.named_modules() if parametrize.type_before_parametrizations(m) in ours}
    for name, module in found.items():
        kind = parametrize.type_before_parametrizations(module)
        mode = module.padding_mode if kind is ConvTranspose1d else "zeros"
        if mode != "zeros" or (len(_single(module.padding)) != 1 and not isinstance(module.padding, str)):
            raise ValueError(
                f"model must hold what torch's layer has, but {name!r} has padding={module.padding} and "
                f"padding_mode={module.padding_mode!r}"
            )
    counts: Counter[str] = Counter()
    for module in found.values():
        kind = ours[parametrize.type_before_parametrizations(module)]
        _become(module, kind)
        del module._kept
        counts[kind.__name__] += 1
    counts.update(steps.turn_back(model))
    return Turned.of(counts)


def freeze(model: nn.Module) -> int:
    """Fix the weights of every layer of a model that is convt1d's: fold weight_norm, pack them once, compare no more.

    Parameters
    ----------
    model : nn.Module
        After `replace`. Its layers' weights and biases get ``requires_grad = False``; parametrizations and both kinds
        of weight_norm of these layers are folded, so that names in the state_dict change to ``weight``.

    Returns
    -------
    int
        How many layers were frozen.

    Raises
    ------
    TypeError
        `model` is no module.

    Notes
    -----
    A later edit that torch counts (an optimizer's step, `load_state_dict`, an assignment) makes the layer's next call a
    RuntimeError; one that it does not count, through ``.data`` or NumPy, has no effect. Call `freeze` again after an
    edit. Gradients of inputs are computed as before. Copies and pickles of a frozen model are frozen.

    Examples
    --------
    >>> from torch import nn
    >>> from convt1d.torch import freeze, replace
    >>> model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(8, 4, 4, 2, 1))).eval()
    >>> replace(model), freeze(model), list(model.state_dict())
    (1 (ConvTranspose1d: 1), 1, ['0.bias', '0.weight'])
    """
    _check(model)
    found = 0
    for module in model.modules():
        if not isinstance(module, Layer):
            continue
        _fold(module)
        if (
            "weight" not in module._parameters
            or module.weight.dtype not in operators.DTYPES
            or not module.weight.is_cpu
        ):
            continue  # what another hook makes anew for each call
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.requires_grad_(False)
        kept = module._kept = Kept(frozen=True)
        operator = kept.operator(module, module.weight, module.bias)
        operator.prepare()
        found += 1
    return found


def _check(model):
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def _fold(module):
    """A layer with its weights as plain parameters."""
    training = {child: child.training for child in module.modules()}
    for child in training:
        child.training = False  # asked for its weight in training, spectral_norm goes a step on
    for name in list(getattr(module, "parametrizations", ())):
        parametrize.remove_parametrizations(module, name)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            nn.utils.remove_weight_norm(module)
    for child, mode in training.items():
        child.training = mode


def _become(module, kind):
    """Give a module another class, under what torch has made of the one it has."""
    if parametrize.is_parametrized(module):
        # a class that torch made for the module, or for its deep copies too: they keep theirs
        made = type(module)
        members = {k: v for k, v in vars(made).items() if k not in ("__dict__", "__weakref__")}
        kind = type(made.__name__, (kind,), members)
    module.__class__ = kind


def _replaceable(module):
    if parametrize.type_before_parametrizations(module) not in _LAYERS or "forward" in vars(module):
        return False
    if "_conv_forward" in vars(module):
        return False
    # not module.weight: asking spectral_norm for it is a step of its power iteration
    on_cpu = all(t.device.type == "cpu" for t in itertools.chain(module.parameters(), module.buffers()))
    return on_cpu and all(t.dtype in operators.DTYPES for t in module.parameters())
