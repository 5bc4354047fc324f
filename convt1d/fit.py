# SPDX-License-Identifier: MIT
"""Least squares: weights and bias from examples of input and output, in closed form.

The layer is linear in its weights, and the taps of one polyphase branch (`convt1d.geometry` draws them) are all that
an output sample of its phase sees. So each branch of each group is one small problem, shared by the
group's output channels::

    Phi   a row per sample n and input step i, a column per tap m and channel c:  x~[n, c, i - step * m]
    y     the same rows, a column per output channel:  y[n, o, stride * i + dilation * rho - left]

    (A + alpha) w = B - s b      A = Phi^H W Phi,   B = Phi^H W y,   s = Phi^H W 1      W: the sample weights

The bias b of a channel carries no penalty and is common to all branches. With the smoother H_r of branch r (zero for
the outputs that no tap reaches) it is the mean of the biases b_r that the branches would choose by themselves, each
counted by the information 1 / c_r that the branch has of it::

    b = sum over r of b_r / c_r  /  sum over r of 1 / c_r
    b_r / c_r = 1^T W (y_r - H_r y_r)     1 / c_r = 1^T W (1 - H_r 1)

`Statistics` holds A, B and s, and never the data. Everything is computed in float64 or complex128.
"""

from __future__ import annotations

import math
import numbers
import os

import numpy as np

from . import arrays
from . import geometry as geometry_module
from .geometry import Branches, Geometry
from .padding import source_index

# Rows of Phi and y in memory at a time; 32 MiB take twice as long for one channel (one core of a Zen 4, 2026-11). But
# at least as many rows as Phi has columns: else more time went into adding up the pieces' A than into computing them.
PIECE_BYTES = 4 * 1024 * 1024


class Statistics:
    """Sums over all examples seen so far; their size depends on the layer only.

    With G groups, R branches, q = C_in / groups * M columns of Phi and one column of ones after them:

    gram     (G, R, q + 1, q + 1)            A, bordered by s; the last number is the sum of W over the branch's rows
    moment   (G, q + 1, R * C_out / groups)  B of all branches; the last row holds the sums of W y
    shift    (C_in,)                         Phi's columns are of x~ - shift

    With a bias the shift is the mean of the first examples: an offset of x far above its variation would else take
    the variation's digits. The weights are the same, and ``e = b + shift^T w`` stands where b stood.
    """

    def __init__(self, geometry: Geometry, dtype: np.dtype, bias: bool):
        self.geometry = geometry
        self.dtype = dtype
        self.bias = bias
        self.layout = self._layout(geometry)
        exact = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
        groups, branches = geometry.groups, self.layout.count
        columns = geometry.in_channels // groups * self.layout.taps + 1
        _check_memory((groups * (branches + 3), columns, columns), exact)  # three: `_add_steps` at work
        self.gram = np.zeros((groups, branches, columns, columns), exact)
        self.moment = np.zeros((groups, columns, branches * geometry.out_channels // groups), exact)
        self.shift = np.zeros(geometry.in_channels, exact)
        self.total = np.zeros(geometry.out_channels, exact)  # sum of W y over all outputs
        self.unreached = 0.0  # sum of W over the outputs of a channel that no tap reaches
        self.rows = [0] * branches
        self.outputs = 0  # of a channel

    @staticmethod
    def _layout(geometry) -> Branches:
        return geometry_module.branches(geometry)

    @np.errstate(over="ignore", invalid="ignore")  # `solve` tells
    def add(self, x, y, sample_weight=None) -> None:
        """Check examples as `ConvTranspose1d.fit` documents them, and add their sums."""
        x, y, weights = self._checked(x, y, sample_weight)
        if self.bias and not self.outputs:
            self.shift[:] = x.mean(axis=(0, 2), dtype=self.shift.dtype)
        count, out_length = np.count_nonzero(weights), y.shape[-1]
        # both sides of an equation times the root of its weight: then A is a product with itself
        roots = None if (weights == 1).all() else np.sqrt(weights)[:, None]

        branches = range(self.layout.count)
        starts, stops = self._steps(out_length)
        # The input steps that all branches have in common share one A; at either end a few are left to each.
        start = max(starts)
        stop = max(start, min(stops))
        self._add_steps(x, y, roots, start, stop, branches)
        for rho in branches:
            self._add_steps(x, y, roots, starts[rho], min(stops[rho], start), branches[rho : rho + 1])
            self._add_steps(x, y, roots, max(starts[rho], stop), stops[rho], branches[rho : rho + 1])
        self.total += weights @ y.sum(axis=-1, dtype=self.total.dtype)
        steps = [b - a for a, b in zip(starts, stops, strict=True)]
        self.rows = [rows + int(count * more) for rows, more in zip(self.rows, steps, strict=True)]
        self.unreached += float(weights.sum()) * (out_length - sum(steps))
        self.outputs += count * out_length

    def _steps(self, out_length):
        """The input steps ``[start, stop)`` of each branch that meet the output."""
        s, d, left = self.geometry.stride, self.geometry.dilation, self.geometry.padding[0]
        ends = [left, left + out_length]
        return [[geometry_module.ceil_div(u - d * rho, s) for rho in range(self.layout.count)] for u in ends]

    def _add_steps(self, x, y, roots, start, stop, branches):
        """Add the rows of input steps ``start <= i < stop`` to `branches`, in pieces of bounded size."""
        steps, batch = stop - start, len(x)
        if steps <= 0:
            return
        groups, outputs = self.geometry.groups, self.geometry.out_channels // self.geometry.groups
        gram = np.zeros_like(self.gram[:, 0])
        moment = self.moment[..., branches.start * outputs : branches.stop * outputs]
        per_row = groups * (self.gram.shape[-1] + len(branches) * outputs)
        rows = max(self.gram.shape[-1], PIECE_BYTES // (per_row * self.gram.itemsize))
        many = max(1, rows // steps)  # samples in a piece, if it holds whole ones
        for n in range(0, batch, many):
            samples = slice(n, n + many)
            for i in range(start, stop, rows):
                phi = self._phi(x[samples], i, min(i + rows, stop))
                targets = self._targets(y[samples], i, min(i + rows, stop), branches)
                if roots is not None:
                    phi *= roots[samples]
                    targets *= roots[samples]
                phi = phi.reshape(*phi.shape[:2], -1)
                conjugate = phi.conj()  # phi itself if real: NumPy then computes half of the product
                gram += conjugate @ phi.mT
                moment += conjugate @ targets.reshape(*targets.shape[:2], -1).mT
        self.gram[:, branches.start : branches.stop] += gram[:, None]

    def _phi(self, x, start, stop):
        """Phi transposed, (groups, q + 1, N, stop - start): time comes last, as in x."""
        groups = self.geometry.groups
        batch, channels, length = x.shape
        channels //= groups
        x = x.reshape(batch, groups, channels, length).transpose(1, 2, 0, 3)
        shift = self.shift.reshape(groups, channels, 1, 1)
        phi = np.empty((groups, self.gram.shape[-1], batch, stop - start), self.gram.dtype)
        for m in range(self.layout.taps):
            of_tap = phi[:, m * channels : (m + 1) * channels]
            at = self._samples(m, start, stop)
            if at[0] >= 0 and at[-1] < length:
                of_tap[...] = x[..., at.start : at.stop : at.step]
            else:
                source = source_index(np.array(at), length, self.geometry.padding_mode)
                of_tap[...] = x[..., source]
                of_tap[..., source < 0] = 0
            of_tap -= shift
        phi[:, -1] = 1
        return phi

    def _samples(self, m, start, stop):
        """The positions in x that the steps' tap m of a branch meets."""
        return range(start - self.layout.step * m, stop - self.layout.step * m)

    def _targets(self, y, start, stop, branches):
        """y transposed, (groups, branches * C_out / groups, N, stop - start)."""
        groups, s = self.geometry.groups, self.geometry.stride
        batch, outputs, length = y.shape
        outputs //= groups
        y = y.reshape(batch, groups, outputs, length).transpose(1, 2, 0, 3)
        targets = np.empty((groups, len(branches) * outputs, batch, stop - start), self.gram.dtype)
        for j, rho in enumerate(branches):
            t = s * start + self.geometry.dilation * rho - self.geometry.padding[0]
            targets[:, j * outputs : (j + 1) * outputs] = y[..., t : t + s * (stop - start - 1) + 1 : s]
        return targets

    @np.errstate(over="ignore", invalid="ignore")  # `solve` tells
    def variation(self) -> float:
        """Sum of the squares of x~ about its mean, in the average column of Phi; above 0.

        A penalty of a share of this is that share of the inputs' variance, whatever their number and unit. Of inputs
        that do not vary by more than rounding it is the sum of their squares; of silence it is 1.
        """
        columns = self.gram.shape[-1] - 1
        squares = np.einsum("grii->gri", self.gram).real
        total = np.maximum(squares[..., -1:], np.finfo(float).tiny)  # a branch may have no row
        mean = self.gram[..., :-1, -1] / total
        about = np.mean(squares[..., :-1] - total * np.abs(mean) ** 2)
        shift = np.tile(self.shift.reshape(self.geometry.groups, 1, -1), self.layout.taps)
        itself = about + np.mean(total * np.abs(mean.conj() + shift) ** 2)
        if about > (4 * columns * np.finfo(float).eps) ** 2 * itself:
            return float(about)
        return float(itself) or 1.0

    @np.errstate(over="ignore", invalid="ignore")  # `_rounded` tells
    def solve(self, alpha: float):
        """The weights and the bias (None without one) that minimize the penalised sum of squares.

        Raises `numpy.linalg.LinAlgError` where more examples or a penalty would help, `ValueError` where they do not.
        """
        if alpha == 0:
            self._check_equations()
        geometry, layout = self.geometry, self.layout
        channels, outputs = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
        weight = np.empty((geometry.in_channels, outputs, geometry.kernel_size), self.gram.dtype)
        bias = np.empty(geometry.out_channels, self.gram.dtype)
        for group in range(geometry.groups):
            inputs, of_group = (slice(group * n, (group + 1) * n) for n in (channels, outputs))
            solved = []
            for rho in range(layout.count):
                taps = layout.taps_of(rho)
                index = np.r_[: channels * taps, self.gram.shape[-1] - 1]
                gram = self.gram[group, rho][np.ix_(index, index)]
                moment = self.moment[group, index, rho * outputs : (rho + 1) * outputs]
                solved.append(_solve_branch(gram, moment, alpha, np.tile(self.shift[inputs], taps), self.bias))
            b = 0
            if self.bias:
                known = sum(information for *_, information in solved) + self.unreached
                if known == 0:
                    raise np.linalg.LinAlgError(
                        "the bias cannot be told from the weights: these inputs can add up to a constant at every "
                        f"output; give {_remedy(alpha)}, or use a layer with bias=False"
                    )
                residual = sum(information * own for _, _, own, information in solved)
                if self.unreached:
                    reached = self.moment[group, -1].reshape(layout.count, outputs).sum(axis=0)
                    residual = residual + self.total[of_group] - reached
                b = bias[of_group] = residual / known
            for rho, (of_branch, slope, own, _) in enumerate(solved):
                of_branch = of_branch + slope[:, None] * (b - own)
                weight[inputs, :, rho :: layout.period] = of_branch.reshape(-1, channels, outputs).transpose(1, 2, 0)
        weight = self._arranged(weight)
        return self._rounded("weight", weight), self._rounded("bias", bias) if self.bias else None

    def _arranged(self, weight):
        """The weight in the layer's layout."""
        return weight

    def _rounded(self, name, values):
        """`values` in the layer's own type."""
        rounded = values.astype(self.dtype)
        if not np.isfinite(rounded).all():
            raise ValueError(f"{name} exceeds the range of {self.dtype.name}; scale x and y")
        return rounded

    def _check_equations(self):
        """More unknowns than equations leave them open; then no matrix needs to be looked at."""
        channels = self.geometry.in_channels // self.geometry.groups
        unknowns = [channels * self.layout.taps_of(rho) for rho in range(self.layout.count)]
        counts = [(rows, q, "weights of one output phase") for rows, q in zip(self.rows, unknowns, strict=True)]
        if self.bias:
            counts.append((self.outputs, sum(unknowns) + 1, "weights and the bias"))
        for equations, q, what in counts:
            if equations < q:
                raise np.linalg.LinAlgError(
                    "alpha = 0 needs at least as many equations as unknowns, got "
                    f"{equations} output samples for {q} unknowns ({what}, per output channel); "
                    "give more or longer examples, or alpha > 0"
                )

    def _check_lengths(self, x, y):
        geometry = self.geometry
        length, output_padding = x.shape[-1], geometry.output_padding
        if length and y.shape[-1] != geometry.output_length(length):
            try:
                output_padding = geometry_module.output_padding_for(geometry, length, y.shape[-1], x.shape)
            except ValueError as error:
                raise ValueError(f"y must be as long as the layer's output for this x, but {error}") from None
        geometry.checked_output_length(length, output_padding)

    def _checked(self, x, y, sample_weight):
        """The examples as arrays of three dimensions, and a weight for each."""
        geometry = self.geometry
        x = arrays.as_array("x", x, (2, 3))
        y = arrays.as_array("y", y, (2, 3))
        if x.shape[-2] != geometry.in_channels:
            channels = geometry.in_channels
            raise ValueError(f"x must have shape (N, {channels}, L) or ({channels}, L), got {x.shape}")
        if y.shape[:-1] != (*x.shape[:-2], geometry.out_channels):
            wanted = ", ".join(map(str, (*x.shape[:-2], geometry.out_channels)))
            raise ValueError(f"y must have shape ({wanted}, L_out) for an x of shape {x.shape}, got {y.shape}")
        if x.ndim == 2:
            x, y = x[None], y[None]
        if x.shape[0] == 0:
            raise ValueError(f"x must hold at least one sample, got shape {x.shape}")
        self._check_lengths(x, y)
        for name, array in (("x", x), ("y", y)):
            if array.dtype.kind == "c" and self.dtype.kind != "c":
                raise TypeError(f"{name} must be real for a layer of dtype {self.dtype.name}, got {array.dtype.name}")
            _check_finite(name, array)
        if sample_weight is None:
            return x, y, np.ones(len(x))
        weights = arrays.as_shaped("sample_weight", sample_weight, (len(x),))
        if weights.dtype.kind == "c":
            raise TypeError(f"sample_weight must be real, got {weights.dtype.name}")
        weights = weights.astype(np.float64)
        _check_finite("sample_weight", weights)
        if weights.min() < 0:
            raise ValueError(f"sample_weight must be at least 0, got {weights.min()}")
        if weights.max() == 0:
            raise ValueError("sample_weight must be above 0 for at least one sample, got zeros only")
        return x, y, weights


class ConvStatistics(Statistics):
    """The same for a convolution: one branch, whose rows are the output samples and whose taps are all.

    Phi's row of output sample i holds ``x~[c, i * stride + dilation * k - left]``.
    """

    @staticmethod
    def _layout(geometry) -> Branches:
        return Branches(count=1, period=1, step=1, taps=geometry.kernel_size, long=1)

    def _steps(self, out_length):
        return [0], [out_length]

    def _samples(self, m, start, stop):
        s, at = self.geometry.stride, self.geometry.dilation * m - self.geometry.padding[0]
        return range(at + s * start, at + s * (stop - 1) + 1, s)

    def _targets(self, y, start, stop, branches):
        groups = self.geometry.groups
        return y.reshape(len(y), groups, -1, y.shape[-1]).transpose(1, 2, 0, 3)[..., start:stop].astype(self.gram.dtype)

    def _arranged(self, weight):
        groups, (_, outputs, K) = self.geometry.groups, weight.shape
        return weight.reshape(groups, -1, outputs, K).transpose(0, 2, 1, 3).reshape(self.geometry.weight_shape)

    def _check_lengths(self, x, y):
        wanted = self.geometry.checked_output_length(x.shape[-1])
        if y.shape[-1] != wanted:
            raise ValueError(f"y must be as long as the layer's output for this x, {wanted}, got shape {y.shape}")


def statistics_of(geometry, dtype: np.dtype, bias: bool) -> Statistics:
    """The sums of a layer with this geometry."""
    kind = Statistics if isinstance(geometry, Geometry) else ConvStatistics
    return kind(geometry, dtype, bias)


def check_alpha(alpha) -> float:
    """The penalty, a finite number of at least 0."""
    if isinstance(alpha, (bool, np.bool_)) or not isinstance(alpha, numbers.Real):
        raise TypeError(f"alpha must be a real number, got {alpha!r}")
    if not 0 <= alpha < math.inf:  # type: ignore[operator]
        raise ValueError(f"alpha must be a finite number of at least 0, got {alpha}")
    return float(alpha)


def _solve_branch(gram, moment, alpha, shift, bias):
    """One branch of one group.

    Returns
    -------
    weights : (q, outputs)
        With the branch's own bias.
    slope : (q,)
        How they change with the bias.
    own : (outputs,)
        The bias that the branch would choose by itself; 0 where it knows nothing of it.
    information : float
        How well it knows it: ``1 / c``.
    """
    q = len(gram) - 1
    eps = np.finfo(float).eps
    penalty = np.append(np.full(q, alpha), 0)
    if bias:
        # Unknowns w and e, all columns but that of ones centred: no digits are lost to an offset.
        spread = (q + 1) * eps * np.sqrt(gram[-1, -1].real) * np.append(np.abs(shift), 0)
        to_bias = np.append(-shift, 1)  # b = e - shift^T w
        try:
            solution, _ = _solve(gram, penalty, np.column_stack([moment, to_bias.conj()]), spread)
        except np.linalg.LinAlgError:
            pass  # the columns add up to a constant: the branch leaves the bias to others
        else:
            c = (to_bias @ solution[:, -1]).real
            return solution[:q, :-1], solution[:q, -1] / c, to_bias @ solution[:, :-1], 1 / c
    gram, moment = gram.copy(), moment.copy()  # of x~ itself
    gram[:q] += shift.conj()[:, None] * gram[-1]
    gram[:, :q] += gram[:, -1:] * shift
    moment[:q] += shift.conj()[:, None] * moment[-1]
    s = gram[:q, -1]
    solution, scale = _solve(gram[:q, :q], penalty[:q], np.column_stack([moment[:q], s]))
    weights, slope = solution[:, :-1], -solution[:, -1]
    total = gram[-1, -1].real
    information = total + np.vdot(s, slope).real
    if not bias or information <= (q + 1) * eps * (total + np.linalg.norm(slope * scale) ** 2):  # rounding
        return weights, slope, 0, 0
    own = (moment[-1] - s.conj() @ weights) / information
    return weights + slope[:, None] * own, slope, own, information


def _solve(gram, penalty, sides, spread=0):
    """``(gram + diag(penalty))^-1 sides``, and the roots of the diagonal, which must exceed `spread`.

    The matrix is scaled to a diagonal of ones, so that neither the units of x nor channels of different loudness
    look like a bad condition. Cholesky alone would accept matrices of which rounding has left nothing.
    """
    import scipy.linalg  # late: most users of the layer never fit

    matrix = np.array(gram, order="F")
    diagonal = np.einsum("ii->i", matrix)
    diagonal += penalty
    scale = np.sqrt(diagonal.real)
    if not np.isfinite(scale).all():
        raise ValueError("x must not be so large that its squares exceed the range of float64; scale it")
    limits = np.finfo(float)
    least = len(matrix) * limits.eps
    condition = 0.0
    if (scale > np.maximum(spread, np.sqrt(limits.tiny / limits.eps))).all():  # smaller squares have lost digits
        matrix /= scale
        matrix /= scale[:, None]
        lange, pocon = scipy.linalg.get_lapack_funcs(("lange", "pocon"), (matrix,))
        norm = lange("1", matrix)
        try:
            factor = scipy.linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            pass
        else:
            condition, _ = pocon(factor[0], norm)
    if not condition > least:
        raise np.linalg.LinAlgError(
            f"x does not determine the weights (reciprocal condition {condition:.1e}, above {least:.1e} is needed), "
            "as where it is constant or a few sine waves, or where some channels follow from others; "
            f"give {_remedy(penalty[0])}, or other examples"
        )
    solution = scipy.linalg.cho_solve(factor, sides / scale[:, None], overwrite_b=True, check_finite=False)
    return solution / scale[:, None], scale


def _remedy(alpha):
    return "alpha > 0" if alpha == 0 else f"an alpha above {alpha:g}"


def _check_finite(name, array):
    """NaN and inf would spread over all weights of a group."""
    step = max(1, PIECE_BYTES // math.prod(array.shape[:-1]))
    for start in range(0, array.shape[-1], step):
        if not np.isfinite(array[..., start : start + step]).all():
            raise ValueError(f"{name} must be finite, got NaN or inf")


def _check_memory(shape, dtype):
    """Refuse, in words, sums that the machine cannot hold; the system would kill the process."""
    arrays.check_size("the normal equations", shape, dtype)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system: left to the allocation
        return
    size = math.prod(shape) * dtype.itemsize
    if size > memory:
        raise MemoryError(
            f"the normal equations of this layer, {shape[0]} matrices of {shape[1]} x {shape[2]} ({size / 2**30:.1f} "
            f"GiB), do not fit into this machine's {memory / 2**30:.1f} GiB; more groups or a smaller kernel need less"
        )
