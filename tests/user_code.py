# SPDX-License-Identifier: MIT
"""A user's code in mypy's strict mode; `mypy` checks it, nothing runs it."""

from __future__ import annotations

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import convt1d
from convt1d import threads

x = np.ones((1, 2, 8))
layer = convt1d.ConvTranspose1d(2, 3, 4, stride=2, padding=(1, 0), bias=False, padding_mode="reflect", rng=0)
assert_type(convt1d.conv_transpose1d([[1.0]], [[[1.0]]], None, 2, workers=1), np.ndarray)
single = np.ones((1, 2, 8), np.float32)
assert_type(convt1d.conv_transpose1d(single, single, stride=2, padding_mode="reflect"), NDArray[np.float32])
convt1d.conv_transpose1d(single, single, padding_mode="reflct")  # type: ignore[call-overload]
assert_type(convt1d.conv1d(x, np.ones((3, 2, 4)), padding="same"), np.ndarray)
assert_type(convt1d.output_length(8, 4, stride=(2,), padding=(1, 0)), int)
assert_type(layer(x, output_size=16, out=np.empty((1, 3, 16)), workers=-1), np.ndarray)
assert_type(layer.fit(x, layer(x), alpha=1e-3), convt1d.ConvTranspose1d)
assert_type(layer.partial_fit(x, layer(x)), convt1d.ConvTranspose1d)
assert_type(layer.weight, np.ndarray)
assert_type(layer.bias, np.ndarray | None)
assert_type(layer.backward(layer(x), x)[0], np.ndarray | None)
assert_type(convt1d.conv_transpose1d_backward(layer(x), x, layer.weight, stride=2)[1], np.ndarray | None)
assert_type(convt1d.ConvTranspose1d.from_file("x.safetensors", "up.0", stride=8), convt1d.ConvTranspose1d)
assert_type(convt1d.ConvTranspose1d.from_state_dict({"weight": x}, stride=8), convt1d.ConvTranspose1d)
assert_type(layer.state_dict(), dict[str, np.ndarray])
# What must be refused: mypy and pyright report a `type: ignore` that hides nothing.
convt1d.ConvTranspose1d(2, 3, 4, padding_mode="reflct")  # type: ignore[arg-type]
convt1d.ConvTranspose1d(2, 3, 4, padding=(1, 2, 3))  # type: ignore[arg-type]
layer(x, precision="tf23")  # type: ignore[arg-type]
convt1d.conv_transpose1d(x, x, padding_mode="reflct")  # type: ignore[call-overload]
convt1d.conv_transpose1d(x, x, padding=(1, 2, 3))  # type: ignore[arg-type]
convt1d.conv_transpose1d(x, x, precision="tf23")  # type: ignore[call-overload]
convt1d.conv1d(x, x, padding="valib")  # type: ignore[arg-type]
layer.weigth = x  # type: ignore[attr-defined]
layer.weight = np.zeros((2, 3, 4))
layer.bias = None
layer.to_onnx("layer.onnx")
stream = convt1d.ConvTranspose1dStream(layer, workers=1)
assert_type(stream.process(x, out=None), np.ndarray)
assert_type(stream.flush(), np.ndarray)
stream.restore(stream.state())
stream.reset()
assert_type(stream.latency, int)
assert_type([found.name for found in convt1d.weights.list_layers("model.onnx")], list[str])
assert_type(threads.release_workspaces(), int)
