# SPDX-License-Identifier: MIT
"""ConvTranspose for ONNX' reference evaluator, whose own is wrong in 1-D for groups > 1 and for most output_shape.

Only this module needs the onnx package when it is imported; nothing in convt1d imports it.
"""

from __future__ import annotations

from onnx.reference.ops.op_conv_transpose import ConvTranspose as _ConvTranspose

from .functional import conv_transpose1d
from .weights import onnx_geometry


class ConvTranspose(_ConvTranspose):
    """The operator, 1-D by convt1d; of other dimensions by onnx.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d import ConvTranspose1d
    >>> from convt1d.onnx import ConvTranspose
    >>> from onnx.reference import ReferenceEvaluator
    >>> layer = ConvTranspose1d(4, 6, 5, stride=3, groups=2)
    >>> evaluator = ReferenceEvaluator(layer.to_onnx(), new_ops=[ConvTranspose])
    >>> x = np.ones((1, 4, 10), np.float32)
    >>> np.array_equal(evaluator.run(None, {"x": x})[0], layer(x))
    True
    """

    def _run(self, X, W, B=None, **attributes):
        if X.ndim != 3:
            return super()._run(X, W, B, **attributes)
        return (conv_transpose1d(X, W, B, **onnx_geometry(W.shape, X.shape[2], **attributes)),)
