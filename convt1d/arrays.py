# SPDX-License-Identifier: MIT
"""Checks of arrays: what may come in, the type that goes out, and where it goes."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

# Types that are computed in themselves; the half types compute in float32.
_NATIVE = ("float32", "float64", "complex64", "complex128")
_HALF = ("float16", "bfloat16")  # bfloat16 is ml_dtypes.bfloat16, where that is installed


def is_device_array(value: Any) -> bool:
    """Whether `value` is a CuPy array or a torch tensor on a CUDA device; imports neither package."""
    return is_cupy(value) or is_torch(value)


def is_cupy(value: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, getattr(cupy, "ndarray", ()))


def is_torch(value: Any) -> bool:
    return is_tensor(value) and bool(value.is_cuda)


def like(y: np.ndarray, x: Any) -> Any:
    """`y` as the kind of array that x is: torch's tensor, or one of the array API standard, on the CPU."""
    if isinstance(x, np.ndarray):
        return y
    if is_tensor(x):
        torch = sys.modules["torch"]
        if y.dtype.name == "bfloat16":
            return torch.from_numpy(y.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(y)
    namespace = getattr(x, "__array_namespace__", None)
    return y if namespace is None else namespace().asarray(y)


def is_masked(value: Any) -> bool:
    """Whether `value` is a masked array; numpy.ma, which takes NumPy 10 ms, is not imported for that."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(value, getattr(masked, "MaskedArray", ()))


def as_array(name: str, value: Any, ndims: tuple[int, ...] = ()) -> np.ndarray:
    """`value` as an ndarray, of one of `ndims` dimensions if they are given.

    Kinds that would silently lose their meaning are refused.
    """
    if is_device_array(value):
        raise TypeError(
            f"{name} must be in the CPU's memory here, got an array on a GPU; copy it, as cupy.asnumpy does "
            "(conv_transpose1d and ConvTranspose1d take arrays on a GPU, all of one device)"
        )
    if hasattr(value, "__dask_graph__") or (hasattr(value, "dims") and hasattr(value, "coords")):
        raise TypeError(
            f"{name} must be an array in memory, got {type(value).__module__.partition('.')[0]}'s "
            f"{type(value).__name__}: {name}.compute() or {name}.to_numpy() is one; convt1d.dask.conv_transpose1d "
            "computes dask arrays chunk by chunk"
        )
    if is_masked(value):
        raise TypeError(f"{name} must be a plain array, got a MaskedArray; fill it first: {name}.filled(0)")
    if isinstance(value, np.matrix):
        raise TypeError(f"{name} must be a plain array, got a np.matrix; convert it: np.asarray({name})")
    if hasattr(value, "toarray") and not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a dense array, got {type(value).__name__}; use {name}.toarray()")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # a ragged list, a tensor, a traced value
        if not is_tensor(value):
            text = str(error).partition("\n")[0][:200]
            raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}: {text}") from None
        if value.requires_grad:
            raise TypeError(
                f"{name} must carry no gradient, which NumPy does not follow, got a tensor with requires_grad=True: "
                f"{name}.detach(); the layers of convt1d.torch have one"
            ) from None
        array = tensor_values(name, value)
    no_number = array.dtype.kind in "OUSMm" or array.dtype.type is np.void
    if no_number and not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be an array of numbers, got {_short(value)}")
    check_kind(name, array, ndims)
    return array


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of torch, on any device; torch is not imported."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def tensor_values(name: str, value: Any) -> np.ndarray:
    """The values of a tensor of torch, wherever it is; its gradient is left behind."""
    from . import files

    # torch has no NumPy name for bfloat16
    bfloat16 = files.bfloat16(name) if str(value.dtype) == "torch.bfloat16" else None
    try:
        if bfloat16 is not None:
            import torch  # there already, since this is one of its tensors

            return value.detach().cpu().view(torch.int16).numpy().view(bfloat16)
        array: np.ndarray = value.numpy(force=True)
        return array
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"{name} must be a dense tensor with values, of a type NumPy has: {error}") from None


def _short(value: Any) -> str:
    """A list or scalar as it was written, if it is short; else its kind."""
    text = repr(value) if isinstance(value, (list, tuple, str)) else ""
    return text if 0 < len(text) <= 60 else type(value).__name__


def check_kind(name: str, array: Any, ndims: tuple[int, ...] = ()) -> None:
    """Element type and dimensions of an array, wherever it is."""
    if not _is_known(array.dtype):
        raise TypeError(
            f"{name} must hold numbers of type {', '.join(_NATIVE + _HALF)} or integers, got dtype {array.dtype.name!r}"
        )
    if ndims and array.ndim not in ndims:
        wanted = " or ".join(f"{n}-D" for n in ndims)
        hint = f": {name}[None] is one channel" if ndims == (2, 3) and array.ndim == 1 else ""
        raise ValueError(f"{name} must be {wanted}, got shape {array.shape}{hint}")


@functools.lru_cache(256)
def _is_known(dtype: Any) -> bool:
    return dtype.name in _NATIVE + _HALF or dtype.kind in "biu"


def as_weight(value: Any, name: str = "weight") -> np.ndarray:
    """`value` as a 3-D ndarray without empty dimensions."""
    weight = as_array(name, value)
    check_weight(weight, name)
    return weight


def check_weight(weight: Any, name: str = "weight") -> None:
    check_kind(name, weight, (3,))
    if 0 in weight.shape:
        raise ValueError(f"{name} must have no empty dimension, got shape {weight.shape}")


def check_channels(name: str, array: Any, weight: Any, channels: int, channels_last: bool = False) -> None:
    """`array` must have the input channels of a layer with this weight."""
    if array.shape[-1 if channels_last else -2] != channels:
        one = f"L, {channels}" if channels_last else f"{channels}, L"
        fits = array.shape[-2 if channels_last else -1] == channels
        hint = f": channels_last={not channels_last}?" if fits else ""
        raise ValueError(
            f"{name} must have shape (N, {one}) or ({one}) for a weight of shape {weight.shape}, "
            f"got {array.shape}{hint}"
        )


def as_shaped(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as an ndarray of exactly `shape`."""
    array = as_array(name, value)
    if array.ndim == 0 and shape == (1,):  # R knows no other arrays of one number
        array = array.reshape(1)
    check_shape(name, array, shape)
    return array


def check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


@functools.lru_cache(256)
def result_dtype(x: np.dtype, weight: np.dtype) -> np.dtype:
    """numpy.result_type, with float64 for an integer or bool result."""
    try:
        dtype = np.result_type(x, weight)
    except TypeError:
        dtype = None
    if dtype is not None and dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    if dtype is None or dtype.name not in _NATIVE + _HALF:
        raise TypeError(f"x and weight must have a common floating type, got {x.name} and {weight.name}")
    return dtype.newbyteorder("=")


@functools.lru_cache(256)
def compute_dtype(result: np.dtype) -> np.dtype:
    """The type of the arithmetic."""
    return np.dtype(np.float32) if result.name in _HALF else result


def layer_dtype(dtype: Any) -> np.dtype:
    """A layer's own dtype, checked."""
    try:
        checked: np.dtype = np.dtype(dtype)
    except TypeError:
        name = str(dtype).rpartition(".")[2]  # of torch.float32, jax.numpy's and others
        hint = f": np.{name}" if name in _NATIVE + _HALF[:1] else ""
        raise TypeError(f"dtype must be a NumPy dtype, got {dtype!r}{hint}") from None
    if checked.name not in _NATIVE + _HALF:
        raise TypeError(f"dtype must be one of {', '.join(_NATIVE + _HALF)}, got {checked.name!r}")
    return checked.newbyteorder("=")


def cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` in `dtype`, aligned and in native byte order; no copy where it already is."""
    if array.dtype == dtype and array.flags.aligned:
        return array
    check_cast(name, array.dtype, dtype)
    return array.astype(dtype)


def check_cast(name: str, given: np.dtype, dtype: np.dtype) -> None:
    if not np.can_cast(given, dtype, "same_kind") and given.name not in _HALF:
        raise TypeError(f"{name} of dtype {given.name} cannot be cast to {dtype.name} (same_kind rule)")


def check_size(what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse, in words, what no index can hold."""
    size = dtype.itemsize
    for n in shape:
        size *= n or 1  # an array without elements has its strides all the same
    if size >= 2**62:
        raise ValueError(f"{what} of shape {shape} and dtype {dtype.name} would need {size:.3e} bytes, too large")


def leading_dimension(width: int) -> int:
    """A row length that holds `width` numbers and a vector more: an odd multiple of 16, so that rows fall into
    different cache sets."""
    return ((width + 31) // 16 | 1) * 16


def widest_row(most: int) -> int:
    """The largest width whose `leading_dimension` is at most `most`."""
    return ((most // 16 - 1) | 1) * 16 - 16


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, **inputs: Any) -> None:
    """`out` must be writable, C-contiguous, exactly of this shape and type, and apart from the inputs."""
    if not isinstance(out, np.ndarray) or is_masked(out) or isinstance(out, np.matrix):
        raise TypeError(f"out must be a plain numpy.ndarray, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype.name}, got {out.dtype}")
    if not out.flags.c_contiguous or not out.flags.aligned:
        raise ValueError(f"out must be C-contiguous and aligned, got strides {out.strides}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    for name, array in inputs.items():
        if array is not None and np.may_share_memory(out, array) and _shares_memory(out, array):
            raise ValueError(f"out must not overlap {name}, got arrays that share memory")


def _shares_memory(a: np.ndarray, b: np.ndarray) -> bool:
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]  # NumPy's stub knows only 0 and -1
    except np.exceptions.TooHardError:
        return True
