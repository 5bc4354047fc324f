# SPDX-License-Identifier: MIT
"""The operator in scikit-learn's pipelines: `ConvTranspose1dTransformer`.

A row of X is one signal, its channels one after the other::

    X  (n_samples, in_channels * L)  ->  (n_samples, in_channels, L)
                                               |  layer_
       (n_samples, out_channels * L_out)  <-  (n_samples, out_channels, L_out)

Only this module needs scikit-learn when it is imported; nothing in convt1d imports it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self

import numpy as np

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(f"convt1d.sklearn needs scikit-learn ({error}): pip install 'convt1d[sklearn]'") from error
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from . import arrays, initialize
from . import geometry as geometry_module
from .fit import Statistics, check_alpha
from .layer import ConvTranspose1d

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["ConvTranspose1dTransformer"]

_NAMED = ("linear", "sinc", "learned")
_DTYPES = (np.float64, np.float32)


class ConvTranspose1dTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Upsample each row of X by a transposed convolution: interpolated, or with weights learned from examples.

    Parameters
    ----------
    stride : int, default 2
        Output samples per input sample.
    kernel_size : int, optional
        Taps of the filter; by default ``2 * stride - 1`` for "linear", and ``20 * stride + 1``, as many as
        `scipy.signal.resample_poly` takes, for "sinc" and "learned". "linear" and "sinc" need an odd number.
    weights : {"linear", "sinc", "learned"}, array_like or ConvTranspose1d, default "sinc"
        `convt1d.initialize.linear` or `windowed_sinc`; an array of shape (in_channels, out_channels / groups, K); a
        layer, of which `transform` uses a copy, and whose own parameters count instead of those given here;
        or what `fit` learns.
    in_channels : int, default 1
        Channels of a row, one after the other.
    out_channels : int, optional
        Likewise of the output; by default as many.
    groups : int, default 1
        Blocks of channels that do not meet; in_channels keeps all channels apart.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "reflect"
        How a signal continues beyond its ends.
    alpha : float, default 1e-06
        Penalty on learned weights, at least 0, as a share of the inputs' variance: the weights are best for inputs
        that carry white noise of ``alpha`` times their variance. 0 needs examples that determine the weights.

    Attributes
    ----------
    layer_ : ConvTranspose1d
        What `transform` applies; of X's dtype in `fit`, but where `weights` is a layer.
    n_features_in_ : int
        ``in_channels * L``
    feature_names_in_ : ndarray of str
        Where the columns of X had names.

    See Also
    --------
    convt1d.ConvTranspose1d.fit : the learning.

    Notes
    -----
    A row of the output has ``out_channels * L * stride`` features, but where `weights` is a layer, which may give
    another length. Output sample t of a channel lies at input sample ``t / stride``, as with
    `scipy.signal.resample_poly`: every stride-th output is on an input. So it does for a symmetric array of odd K; with
    an even one it lies at ``(t - 1/2) / stride``.

    Examples
    --------
    >>> import numpy as np
    >>> from convt1d.sklearn import ConvTranspose1dTransformer
    >>> ConvTranspose1dTransformer(weights="linear").fit_transform([[1.0, 2.0, 4.0]])
    array([[1. , 1.5, 2. , 3. , 4. , 3. ]])
    >>> X = np.sin(np.arange(60) + np.arange(5)[:, None])
    >>> finer = ConvTranspose1dTransformer(weights="learned", kernel_size=9).fit(X).transform(X)
    >>> finer.shape
    (5, 120)
    """

    def __init__(
        self,
        stride: int = 2,
        kernel_size: int | None = None,
        weights: str | ArrayLike | ConvTranspose1d = "sinc",
        in_channels: int = 1,
        out_channels: int | None = None,
        groups: int = 1,
        padding_mode: str = "reflect",
        alpha: float = 1e-6,
    ) -> None:
        self.stride = stride
        self.kernel_size = kernel_size
        self.weights = weights
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.padding_mode = padding_mode
        self.alpha = alpha

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Prepare the layer; with ``weights="learned"`` from examples.

        Parameters
        ----------
        X : array_like, shape (n_samples, in_channels * L)
            Finite numbers.
        y : array_like, shape (n_samples, out_channels * L * stride), optional
            The outputs wanted for X. Only ``weights="learned"`` looks at it, and not if it is 1-D: those are labels
            for a later step.

        Returns
        -------
        ConvTranspose1dTransformer
            The transformer itself.

        Raises
        ------
        ValueError
            A value or shape breaks its rule.
        numpy.linalg.LinAlgError
            A ValueError as well: with so small an alpha X does not determine the weights.
        TypeError
            A parameter is of the wrong kind.

        Notes
        -----
        Without wanted outputs, X itself is what is wanted, from every stride-th of its samples: beginning at each of
        the first `stride`, plainly, without a low-pass filter. That is right as far as the signals look alike at
        both rates. Where they do not, or where the coarse samples come about in another way, give pairs:
        ``fit(coarse, fine)``.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d.sklearn import ConvTranspose1dTransformer
        >>> coarse = np.random.default_rng(0).standard_normal((20, 50))
        >>> learned = ConvTranspose1dTransformer(weights="learned").fit(coarse, coarse.repeat(2, axis=1))
        >>> learned.transform(coarse).shape
        (20, 100)
        """
        return self._fit(X, y, first=True)

    def partial_fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn from these examples and all since the last `fit`, including those of `fit`.

        The weights are `fit`'s on all batches together, up to rounding. Only sums are kept. An error leaves the
        transformer as it was.

        Parameters
        ----------
        X, y : array_like
            As for `fit`.

        Returns
        -------
        ConvTranspose1dTransformer
            The transformer itself.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d.sklearn import ConvTranspose1dTransformer
        >>> learned = ConvTranspose1dTransformer(weights="learned")
        >>> for seed in range(3):
        ...     coarse = np.random.default_rng(seed).standard_normal((20, 50))
        ...     learned = learned.partial_fit(coarse, coarse.repeat(2, axis=1))
        >>> learned.transform(coarse).shape
        (20, 100)
        """
        return self._fit(X, y, first=not hasattr(self, "layer_"))

    def _fit(self, X, y, first):
        x = validate_data(self, X, reset=first, dtype=_DTYPES)
        learns = isinstance(self.weights, str) and self.weights == "learned"
        sums = None if first or not learns else copy.deepcopy(self._sums)
        layer = self._layer(x.dtype if sums is None else sums.dtype)
        x = _signals(x, layer)
        if learns:
            geometry = layer._operator.geometry
            if sums is None:
                sums = Statistics(geometry, layer.dtype, bias=True)
            elif sums.geometry != geometry:
                raise ValueError(f"partial_fit must go on with the layer it began with, {self.layer_}, got {layer}")
            alpha = check_alpha(self.alpha)
            for inputs, targets in _examples(x, y, layer):
                sums.add(inputs, targets)
            unit = sums.variation()
            try:
                layer.weight, layer.bias = sums.solve(alpha * unit)
            except np.linalg.LinAlgError as error:
                raise np.linalg.LinAlgError(
                    f"alpha={alpha:g}, times the inputs' variation of {unit:.3g}, is too small: {error}"
                ) from None
        self.layer_, self._sums = layer, sums
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Upsample.

        Parameters
        ----------
        X : array_like, shape (n_samples, in_channels * L)
            Finite numbers.

        Returns
        -------
        ndarray, shape (n_samples, out_channels * L * stride)
            Float32 if X is, here and in `fit`, else float64 (where `weights` is a layer, that has a say); or what
            `set_output` asks for.

        Examples
        --------
        >>> import numpy as np
        >>> from convt1d.sklearn import ConvTranspose1dTransformer
        >>> ConvTranspose1dTransformer(stride=4).fit_transform(np.ones((3, 50))).shape
        (3, 200)
        """
        check_is_fitted(self, "layer_")  # without the name, a fit that failed would do
        x = validate_data(self, X, reset=False, dtype=_DTYPES)
        y = self.layer_(_signals(x, self.layer_))
        return y.reshape(len(y), -1)

    def _layer(self, dtype):
        """The layer that the parameters describe, before anything is learned; checks all of them but alpha."""
        weights, kernel_size, out_channels = self.weights, self.kernel_size, self.out_channels
        if isinstance(weights, ConvTranspose1d):
            if weights.dtype.kind == "c":
                raise TypeError(f"weights must be real, got a layer of dtype {weights.dtype.name}")
            return copy.copy(weights)
        in_channels, _, groups = geometry_module.check_channels(self.in_channels, self.in_channels, self.groups)
        stride = geometry_module.as_int("stride", self.stride, 1)
        named = weights if isinstance(weights, str) else None
        if named is None:
            weights = arrays.as_array("weights", weights, (3,))
            if weights.dtype.kind == "c":
                raise TypeError(f"weights must be real, got dtype {weights.dtype.name}")
            natural = weights.shape[2], weights.shape[1] * groups
        elif named in _NAMED:
            natural = 2 * stride - 1 if named == "linear" else 20 * stride + 1, in_channels
        else:
            raise ValueError(
                f"weights must be one of {', '.join(_NAMED)}, an array or a ConvTranspose1d, got {named!r}"
            )
        kernel_size = natural[0] if kernel_size is None else geometry_module.as_int("kernel_size", kernel_size, 1)
        out_channels = natural[1] if out_channels is None else out_channels
        if named in ("linear", "sinc") and kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be odd for weights={named!r}, so that outputs lie on the inputs, got {kernel_size}"
            )
        left = (kernel_size - 1) // 2
        missing = stride - kernel_size + left  # for L * stride outputs; negative: too many
        layer = ConvTranspose1d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            (left, max(0, -missing)),
            max(0, missing),
            groups,
            bias=named == "learned",
            padding_mode=self.padding_mode,
            dtype=dtype,
            rng=0,
        )
        if named in ("linear", "sinc"):
            make = initialize.linear if named == "linear" else initialize.windowed_sinc
            weights = make(in_channels, out_channels, kernel_size, stride, groups)
        if named != "learned":
            layer.weight = arrays.as_shaped("weights", weights, layer.weight.shape)
        return layer

    @property
    def _n_features_out(self):
        """For get_feature_names_out."""
        layer = self.layer_
        return layer.out_channels * layer.output_length(self.n_features_in_ // layer.in_channels)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _signals(x, layer):
    """Rows as signals, (n_samples, in_channels, L)."""
    channels = layer.in_channels
    if x.shape[1] % channels:
        raise ValueError(
            f"X must have in_channels * L features with in_channels={channels}, got {x.shape[1]} feature(s)"
        )
    return x.reshape(len(x), channels, -1)


def _examples(x, y, layer):
    """Pairs of inputs and targets for the layer to learn from."""
    length, stride = x.shape[-1], layer.stride
    if y is not None and np.asarray(y).ndim != 1:
        y = check_array(y, dtype=_DTYPES, input_name="y")
        wanted = len(x), layer.out_channels * layer.output_length(length)
        if y.shape != wanted:
            raise ValueError(
                f"y must be 1-D (labels, not looked at) or the outputs wanted, of shape {wanted}, got {y.shape}"
            )
        yield x, y.reshape(len(y), layer.out_channels, -1)
        return
    if layer.out_channels != layer.in_channels:
        raise ValueError(
            "out_channels must be in_channels where X is all there is to learn from, "
            f"got out_channels={layer.out_channels} and in_channels={layer.in_channels}; give y, the outputs wanted"
        )
    if length < stride:
        raise ValueError(
            f"X must have at least stride={stride} samples per channel where it is all there is to learn from, "
            f"got {x[0].size} feature(s), {length} per channel"
        )
    for start in range(stride):
        # around the end where that is how signals continue; else what is left must do
        targets = np.roll(x, -start, axis=-1) if layer.padding_mode == "circular" else x[..., start:]
        steps = targets.shape[-1] // stride
        if steps:
            targets = targets[..., : steps * stride]
            yield targets[..., ::stride], targets
