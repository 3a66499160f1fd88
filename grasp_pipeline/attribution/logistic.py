"""Removal from an L2 binary logistic regression on frozen features: influence, rescaled influence, a Newton step.

    L(theta) = sum_i w_i l(x_i, y_i; theta) + (l2 / 2) ||theta||^2 ,   l = log(1 + exp(-(2 y - 1) x' theta))

Subset S keeps w_i m_i for memberships m, and the same l2. With g_i the gradient of example i, H the Hessian at the
full solution and h_i = w_i p_i (1 - p_i) x_i' H^-1 x_i its leverage, the removed examples move theta by

    influence  sum_i (1 - m_i) H^-1 g_i                (Koh & Liang 2017, arXiv 1703.04730)
    rescaled   sum_i (1 - m_i) H^-1 g_i / (1 - h_i)    (Rubinstein & Hopkins 2025, arXiv 2506.06656)
    Newton     H_S^-1 sum_i (1 - m_i) g_i              (H_S: the Hessian of what is kept)

For one example removed whole, the last two are the same (Sherman & Morrison). Utilities are minus the mean log loss,
in nats, of target sets at the theta so predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.errors import ConfigError, InputError, TrainingError

TOLERANCE = 1e-10
"""Largest gradient norm at a solution, per unit of weight where the weights add up to more than 1."""

Targets = Sequence[tuple[ArrayLike, ArrayLike]]
"""For each task its features (n_t, p) and labels (n_t,) in {0, 1}."""


class LogisticInfluence:
    """Utilities at the theta that influence predicts for a subset.

    x: (n, p) features; a constant column makes an intercept, penalised like the rest. y: (n,) in {0, 1}.
    weights: (n,) 0 or more. l2: above 0. targets: see `Targets`. rescaled: divide effects by 1 - h_i.

    Attributes: theta (p,) of the full fit; effects (n, p), the move of theta by the removal of each example.

    Raises:
        ConfigError: l2 is not above 0.
        InputError: shapes disagree, a value cannot be used, or a leverage is 1 when rescaled.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        weights: ArrayLike,
        l2: float,
        targets: Targets,
        rescaled: bool = False,
    ) -> None:
        rows, labels, self.weights = _checked(x, y, weights, l2)
        self.targets = _checked_targets(targets, rows.shape[1])
        self.theta = fit_logistic(rows, labels, self.weights, l2)
        p = expit(rows @ self.theta)
        gradients = (self.weights * (p - labels))[:, None] * rows
        hessian = _hessian(rows, self.weights * p * (1 - p), l2)
        self.effects: Floats = cho_solve(cho_factor(hessian), gradients.T).T
        if rescaled:
            self.effects = self.effects / (1 - leverage(rows, self.weights, self.theta, l2))[:, None]

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) predicted utilities for (m, n) memberships."""
        removed = 1 - np.asarray(membership, dtype=np.float64)
        return minus_log_loss(self.theta + removed @ self.effects, self.targets)

    def linearised(self) -> AdditiveScores:
        """Return the additive method, in the sum form, of the utilities' gradients r_t at the full solution.

        Scores (n, T) are - r_t' effect_i: the utility that an example's presence adds.
        """
        slopes = [(y - expit(x @ self.theta)) @ x / len(y) for x, y in self.targets]
        return AdditiveScores(-self.effects @ np.stack(slopes, axis=1), self.weights, "sum")


class NewtonStep:
    """Utilities after one Newton step from the full solution on the objective of the kept subset.

    Arguments and errors as for `LogisticInfluence`. The gradient of the kept objective is minus that of the removed.
    """

    def __init__(self, x: ArrayLike, y: ArrayLike, weights: ArrayLike, l2: float, targets: Targets) -> None:
        self.x, labels, self.weights = _checked(x, y, weights, l2)
        self.targets, self.l2 = _checked_targets(targets, self.x.shape[1]), l2
        self.theta = fit_logistic(self.x, labels, self.weights, l2)
        p = expit(self.x @ self.theta)
        self._gradients = (self.weights * (p - labels))[:, None] * self.x
        self._curvature = self.weights * p * (1 - p)

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) predicted utilities for (m, n) memberships; solves m systems of p unknowns."""
        return minus_log_loss(np.stack([self._step(row) for row in membership]), self.targets)

    def _step(self, row: Membership) -> Floats:
        """Return theta (p,) for one membership (n,)."""
        kept = np.asarray(row, dtype=np.float64)
        hessian = _hessian(self.x, kept * self._curvature, self.l2)
        return self.theta + cho_solve(cho_factor(hessian), (1 - kept) @ self._gradients)


def fit_logistic(x: ArrayLike, y: ArrayLike, weights: ArrayLike, l2: float) -> Floats:
    """Return theta (p,) that minimises L for x (n, p), y (n,) and weights (n,), by damped Newton steps.

    Raises:
        ConfigError: l2 is not above 0.
        InputError: shapes disagree or a value cannot be used.
        TrainingError: the gradient stays above `TOLERANCE` for 100 steps.
    """
    rows, labels, w = _checked(x, y, weights, l2)
    signs = 2 * labels - 1
    bound = TOLERANCE * max(1.0, float(w.sum()))

    def objective(theta: Floats) -> float:
        return float(w @ np.logaddexp(0, -signs * (rows @ theta)) + l2 / 2 * theta @ theta)

    theta = np.zeros(rows.shape[1])
    for _ in range(100):
        p = expit(rows @ theta)
        gradient = (w * (p - labels)) @ rows + l2 * theta
        if np.linalg.norm(gradient) < bound:
            return theta
        step = cho_solve(cho_factor(_hessian(rows, w * p * (1 - p), l2)), gradient)
        value, slope, length = objective(theta), float(gradient @ step), 1.0
        slack = 1e-12 * abs(value)
        while objective(theta - length * step) > value - 1e-4 * length * slope + slack and length > 1e-10:
            length /= 2
        theta = theta - length * step
    raise TrainingError("the logistic regression did not converge; scale its features or give a larger l2")


def minus_log_loss(thetas: ArrayLike, targets: Targets) -> Floats:
    """Return (m, T) utilities of parameters thetas (m, p): minus the mean log loss of each target set, in nats."""
    rows = np.atleast_2d(np.asarray(thetas, dtype=np.float64))
    utilities = [
        -np.logaddexp(0, (1 - 2 * y)[:, None] * (x @ rows.T)).mean(axis=0)
        for x, y in _checked_targets(targets, rows.shape[1])
    ]
    return np.stack(utilities, axis=1)


def leverage(x: ArrayLike, weights: ArrayLike, theta: ArrayLike, l2: float) -> Floats:
    """Return h (n,) in [0, 1): w_i p_i (1 - p_i) x_i' H^-1 x_i at theta (p,) for x (n, p) and weights (n,).

    Raises:
        InputError: a leverage is 1, up to rounding: the fit without that row is not determined.
    """
    rows = np.asarray(x, dtype=np.float64)
    p = expit(rows @ np.asarray(theta, dtype=np.float64))
    curvature = np.asarray(weights, dtype=np.float64) * p * (1 - p)
    solved = cho_solve(cho_factor(_hessian(rows, curvature, l2)), rows.T).T
    h = curvature * np.einsum("ij,ij->i", rows, solved)
    if not (h < 1).all():
        row = int(np.argmin(h < 1))
        raise InputError(
            f"row {row} has leverage {h[row]}, and without it the fit is not determined; give a larger l2 or "
            "use NewtonStep"
        )
    return h


def _hessian(x: Floats, curvature: Floats, l2: float) -> Floats:
    """Return sum_i c_i x_i x_i' + l2 I: (p, p) for curvature c (n,)."""
    return (x * curvature[:, None]).T @ x + l2 * np.eye(x.shape[1])


def _checked(x: ArrayLike, y: ArrayLike, weights: ArrayLike, l2: float) -> tuple[Floats, Floats, Floats]:
    """Return x (n, p), y (n,) and weights (n,) in float64."""
    if not l2 > 0:
        raise ConfigError(f"l2 is {l2}; give a penalty above 0, so that every subset has one solution")
    rows, labels = _checked_pair(x, y, "the training set")
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != labels.shape or not np.isfinite(w).all() or (w < 0).any():
        raise InputError(
            f"weights of shape {w.shape}; give a finite one, 0 or more, for each of {len(rows)} rows"
        )
    return rows, labels, w


def _checked_targets(targets: Targets, p: int) -> list[tuple[Floats, Floats]]:
    """Return target sets with p features in float64."""
    if not targets:
        raise InputError("there is no target set; give features and labels of at least one task")
    pairs = [_checked_pair(x, y, f"target set {t}") for t, (x, y) in enumerate(targets)]
    for t, (x, _) in enumerate(pairs):
        if x.shape[1] != p:
            raise InputError(f"target set {t} has {x.shape[1]} features; give the {p} of the model")
    return pairs


def _checked_pair(x: ArrayLike, y: ArrayLike, name: str) -> tuple[Floats, Floats]:
    rows, labels = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if rows.ndim != 2 or labels.shape != (len(rows),) or not rows.size or not np.isfinite(rows).all():
        raise InputError(
            f"{name} has features {rows.shape} and labels {labels.shape}; give finite (n, p) and (n,)"
        )
    if not np.isin(labels, (0, 1)).all():
        raise InputError(f"{name} has the labels {np.unique(labels)[:5]}; give 0 and 1")
    return rows, labels
