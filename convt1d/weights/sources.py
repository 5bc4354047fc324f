# SPDX-License-Identifier: MIT
"""Files of weights: which reader takes which."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import files
from ..geometry import SETTINGS
from . import onnx
from .parts import LayerInfo, only
from .state import candidates, from_state_dict, prefix_of, stored_settings

# Of dicts in a dict the one with most tensors is taken. A clone shares no memory and is contiguous, which the format
# wants.
_RECIPE = (
    "safetensors.torch.save_file((lambda d: {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in "
    "max([d, *(v for v in d.values() if isinstance(v, dict))], key=lambda m: sum(map(torch.is_tensor, m.values())))"
    ".items() if torch.is_tensor(v)})(torch.load(path, weights_only=True)), 'weights.safetensors')"
)
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def list_layers(path, transposed: bool = True) -> list[LayerInfo]:
    """Every 1-D transposed convolution in a file, or every convolution.

    Parameters
    ----------
    path : str or os.PathLike
        A .onnx, .safetensors, .npz or .npy file; or a sharded model's folder, or its .safetensors.index.json.
    transposed : bool, default True
        False lists what `Conv1d.from_file` reads, in place of what `ConvTranspose1d.from_file` does.

    Returns
    -------
    list of LayerInfo
        In the order of the file.

    Raises
    ------
    ValueError, TypeError, OSError
        The file is not what it should be; the message names it.
    ImportError
        A package is missing; the message names the extra.

    Notes
    -----
    A .onnx file holds operators, so the list is exact. Nodes inside functions of the model are listed as a problem.
    The others hold named arrays only: listed is every 3-D array named ``weight``, also under weight_norm or
    spectral_norm, whose bias fits. Both kinds of convolution have weights of this rank, so one may be among the other.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from convt1d.weights import list_layers
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "state.npz")
    ...     np.savez(path, **{"up.weight": np.ones((8, 4, 16)), "up.bias": np.ones(4), "up.stride": 8})
    ...     list_layers(path)  # doctest: +NORMALIZE_WHITESPACE
    [LayerInfo(name='up', weight_shape=(8, 4, 16), dtype='float64', bias=True, stride=8, padding=None,
               output_padding=None, groups=1, dilation=None, problem='', remark='')]
    """
    suffix = suffix_of(path)
    with files.reading(path):
        if suffix == ".onnx":
            return onnx.layers_of(files.onnx_model(path), path, "ConvTranspose" if transposed else "Conv")
        with files.arrays_of(path) as mapping:
            return candidates(mapping, transposed)


def from_file(path, name=None, **geometry):
    suffix = suffix_of(path)
    with files.reading(path):
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if suffix == ".onnx":
            if unknown := set(geometry) - {"length"}:
                raise TypeError(f"a .onnx file holds the geometry itself; got {sorted(unknown)}")
            return onnx.read_transposed(files.onnx_model(path), path, name, **geometry)
        if unknown := set(geometry) - set(SETTINGS):
            raise TypeError(f"geometry must be of {', '.join(SETTINGS)}; got {sorted(unknown)}")
        with files.arrays_of(path) as mapping:
            if name is None:
                found = candidates(mapping)
                name = only([f.name for f in found if not f.problem] or [f.name for f in found], "name")
            settings = stored_settings(mapping, prefix_of(name)) | geometry
            if "stride" not in settings:
                raise TypeError("stride must be given: the file does not hold it")
            return from_state_dict(mapping, name, **settings)


def save(geometry, weights: dict[str, np.ndarray], path) -> None:
    """Write arrays by name and the geometry's settings, as `from_file` of either layer reads them."""
    suffix = Path(path).suffix.lower()
    settings = {name: getattr(geometry, name) for name in SETTINGS if hasattr(geometry, name)}
    dtype = weights["weight"].dtype.name
    if suffix == ".npz":
        if dtype == "bfloat16":
            raise TypeError("dtype must be one that NumPy stores, got bfloat16: path must end in .safetensors")
        np.savez(path, **weights, **settings)  # type: ignore[arg-type]
    elif suffix == ".safetensors":
        if dtype == "complex128":
            raise TypeError("dtype must be one that safetensors stores, got complex128: path must end in .npz")
        files.need("safetensors", "writing .safetensors")
        from safetensors.numpy import save_file

        text = {name: " ".join(map(str, np.atleast_1d(value))) for name, value in settings.items()}
        save_file(weights, path, metadata=text)
    else:
        raise ValueError(f"path must end in .npz or .safetensors, got {str(path)!r}; layer.to_onnx writes .onnx")


def refuse_pickle(path) -> None:
    """A ValueError that says how to convert, if the file is a pickle by its name."""
    suffix = Path(path).suffix.lower()
    if suffix in _PICKLES:
        raise ValueError(
            f"{path}: {suffix} files are pickles, which can run any code, and are not loaded. Convert it where you "
            "trust it, and give weights.safetensors here (a TorchScript archive holds the dict as "
            f"torch.jit.load(path).state_dict()): {_RECIPE}"
        )


def suffix_of(path) -> str:
    refuse_pickle(path)
    suffix = Path(path).suffix.lower()
    if suffix in (".onnx", ".safetensors", ".npz", ".npy"):
        return suffix
    if files.shards_index(path) is not None:
        return ".safetensors"
    raise ValueError(f"path must end in .onnx, .safetensors, .npz or .npy, got {str(path)!r}")
