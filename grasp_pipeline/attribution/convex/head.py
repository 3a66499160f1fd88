"""Logistic regression to convergence in float64: one head, or one for each of many subsets of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.errors import ConfigError, InputError, TrainingError

DECREMENT = 1e-20
"""Half the squared Newton decrement, in nats, at which a head has converged: parameters are exact to rounding."""

STEPS, HALVINGS = 100, 40
"""Most Newton steps, and most halvings of one."""

BLOCK_FLOATS = 1 << 22
"""Floats of the Hessians of subsets that are fitted side by side."""

SIDE_BY_SIDE = 64
"""Features up to which the Hessians of many subsets are one matrix product."""


@dataclass(frozen=True, eq=False)
class ConvexHead:
    """A fitted head.

    Attributes:
        features: (n, d) float64, x_i; a column of ones is the intercept.
        labels: (n,) float64, y_i, 0 or 1.
        damping: lambda, in nats per unit of ||theta||^2 / 2, of the sum over rows.
        theta: (d,) float64, where the gradient is zero.
    """

    features: Floats
    labels: Floats
    damping: float
    theta: Floats

    @cached_property
    def probabilities(self) -> Floats:
        """p_i of label 1, (n,)."""
        return expit(self.features @ self.theta)

    @cached_property
    def curvature(self) -> Floats:
        """p_i (1 - p_i), (n,): the Hessian of row i is this times x_i x_i'."""
        return self.probabilities * (1 - self.probabilities)

    @cached_property
    def residual(self) -> Floats:
        """p_i - y_i, (n,): the gradient of row i is this times x_i."""
        return self.probabilities - self.labels

    def without(self, rows: ArrayLike) -> Floats:
        """Return theta (d,) of the head refitted without some rows (k,): what every estimate is compared with."""
        kept = np.ones(len(self.labels), dtype=bool)
        kept[np.asarray(rows)] = False
        return _newton(self.features[kept], self.labels[kept], self.damping, self.theta)


def checked(features: ArrayLike, labels: ArrayLike, damping: float) -> tuple[Floats, Floats]:
    """Return features (n, d) and labels (n,) as float64.

    Raises:
        InputError: shapes differ, a value is not finite, or a label is not 0 or 1.
        ConfigError: the damping is not above 0.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
        raise InputError(f"features of shape {x.shape} and labels of shape {y.shape}: give (n, d) and (n,)")
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise InputError(f"row {row} of the features holds a value that is not finite; leave the row out")
    odd = np.flatnonzero((y != 0) & (y != 1))
    if len(odd):
        raise InputError(f"row {odd[0]} has the label {y[odd[0]]:g}; labels are 0 or 1")
    if not (np.isfinite(damping) and damping > 0):
        raise ConfigError(
            f"the damping is {damping}; it must be above 0, so that every subset has one optimum"
        )
    return x, y


def fit_head(features: ArrayLike, labels: ArrayLike, damping: float) -> ConvexHead:
    """Fit a head to all rows by Newton's method with halved steps.

    Raises:
        InputError, ConfigError: see `checked`.
        TrainingError: it does not converge.
    """
    x, y = checked(features, labels, damping)
    return ConvexHead(x, y, damping, _newton(x, y, damping, np.zeros(x.shape[1])))


def fit_subsets(
    features: ArrayLike, labels: ArrayLike, damping: float, memberships: Bools, start: Floats | None = None
) -> Floats:
    """Return theta (m, d) of heads fitted to m subsets (m, n) of the rows; start: (d,) where every fit begins.

    Up to `SIDE_BY_SIDE` features the subsets go side by side, a block at a time; the result is that of one by one to
    rounding.

    Raises:
        InputError, ConfigError: see `checked`; the memberships have another shape.
        TrainingError: a fit does not converge.
    """
    x, y = checked(features, labels, damping)
    members = np.asarray(memberships, dtype=bool)
    if members.ndim != 2 or members.shape[1] != len(y):
        raise InputError(f"memberships of shape {members.shape} must be (m, {len(y)})")
    begin = np.zeros(x.shape[1]) if start is None else np.asarray(start, dtype=np.float64)
    found = np.empty((len(members), x.shape[1]))
    if x.shape[1] > SIDE_BY_SIDE:
        for place, each in enumerate(members):
            found[place] = _newton(x[each], y[each], damping, begin)
        return found
    upper = np.triu_indices(x.shape[1])
    products = x[:, upper[0]] * x[:, upper[1]]
    rows = max(1, BLOCK_FLOATS // (x.shape[1] ** 2 + len(y)))
    for low in range(0, len(members), rows):
        found[low : low + rows] = _newton_block(
            x, y, damping, members[low : low + rows], begin, products, upper
        )
    return found


def _loss(margins: Floats, labels: Floats) -> Floats:
    return np.logaddexp(0, margins) - labels * margins


def _newton(x: Floats, y: Floats, damping: float, start: Floats) -> Floats:
    theta, diagonal = start.copy(), np.diag_indices(x.shape[1])
    for _ in range(STEPS):
        margins = x @ theta
        p = expit(margins)
        gradient = x.T @ (p - y) + damping * theta
        hessian = (x.T * (p * (1 - p))) @ x
        hessian[diagonal] += damping
        step = cho_solve(cho_factor(hessian), gradient)
        decrease = gradient @ step
        if decrease <= 2 * DECREMENT:
            return theta - step
        value, size, along, new = _loss(margins, y).sum() + damping / 2 * theta @ theta, 1.0, x @ step, theta
        for _ in range(HALVINGS):
            new = theta - size * step
            lower = _loss(margins - size * along, y).sum() + damping / 2 * new @ new
            if lower <= value - size / 4 * decrease or decrease < 1e-12 * max(value, 1.0):
                break
            size /= 2
        theta = new
    raise TrainingError(
        f"the head has not converged after {STEPS} Newton steps; scale the features, or raise the damping {damping:g}"
    )


def _newton_block(
    x: Floats, y: Floats, damping: float, members: Bools, start: Floats, products: Floats, upper: tuple
) -> Floats:
    """Return (m, d); products: (n, d (d + 1) / 2) of every row's features, so that m Hessians are one product."""
    m, d = len(members), x.shape[1]
    counted = members.astype(np.float64)
    theta, diagonal = np.tile(start, (m, 1)), np.arange(d)
    hessian, decrease = np.empty((m, d, d)), np.full(m, np.inf)
    for _ in range(STEPS):
        margins = theta @ x.T
        p = expit(margins)
        gradient = (counted * (p - y)) @ x + damping * theta
        entries = (counted * (p * (1 - p))) @ products
        hessian[:, upper[0], upper[1]] = entries
        hessian[:, upper[1], upper[0]] = entries
        hessian[:, diagonal, diagonal] += damping
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        decrease = (gradient * step).sum(axis=1)
        if (decrease <= 2 * DECREMENT).all():
            return theta - step
        value = (counted * _loss(margins, y)).sum(axis=1) + damping / 2 * (theta**2).sum(axis=1)
        size, along, new = np.ones(m), step @ x.T, theta
        for _ in range(HALVINGS):
            new = theta - size[:, None] * step
            lower = (counted * _loss(margins - size[:, None] * along, y)).sum(axis=1)
            lower += damping / 2 * (new**2).sum(axis=1)
            high = (lower > value - size / 4 * decrease) & (decrease >= 1e-12 * np.maximum(value, 1.0))
            if not high.any():
                break
            size[high] /= 2
        theta = new
    raise TrainingError(
        f"{int((decrease > 2 * DECREMENT).sum())} of {m} heads have not converged after {STEPS} Newton steps; scale "
        f"the features, or raise the damping {damping:g}"
    )
