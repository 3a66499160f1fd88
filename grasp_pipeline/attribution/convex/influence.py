"""What a head would be without some of its rows: influence, rescaled influence, Newton step; and leverage.

With H = sum_i p_i (1 - p_i) x_i x_i' + lambda I, g_i = (p_i - y_i) x_i and theta_T the head refitted without the set T:

    influence    theta_T - theta ~ H^-1 sum_T g_i                             (Koh & Liang 2017, arXiv 1703.04730)
    leverage     h_i = p_i (1 - p_i) x_i' H^-1 x_i ,  in [0, 1)
    rescaled     theta_T - theta ~ H^-1 sum_T g_i / (1 - h_i)                 (arXiv 2506.06656)
    Newton step  theta_T - theta ~ (H - H_T)^-1 sum_T g_i                     (arXiv 2512.12572)

Rescaled influence is the Newton step of every row alone (Sherman-Morrison), and as additive as influence. The Newton
step of k rows is a k x k system (Woodbury): with K = X_T H^-1 X_T' and W = diag(p_i (1 - p_i)),

    (H - H_T)^-1 X_T' r = H^-1 X_T' (I - W K)^-1 r .
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.convex.head import ConvexHead
from grasp_pipeline.errors import InputError

Estimator = Literal["influence", "rescaled influence", "Newton step"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
"""From the cheapest to the dearest."""


class HeadInfluence:
    """Removals from a fitted head of n rows and d features; H is factorised once."""

    def __init__(self, head: ConvexHead) -> None:
        self.head = head
        hessian = (head.features.T * head.curvature) @ head.features
        hessian[np.diag_indices(len(hessian))] += head.damping
        self.inverse_features: Floats = cho_solve(cho_factor(hessian), head.features.T)
        """H^-1 X', (d, n)."""

    @cached_property
    def leverage(self) -> Floats:
        """h_i, (n,): the share of the curvature in its own direction that a row brings; 1 - h_i is what stays."""
        return self.head.curvature * np.einsum("id,di->i", self.head.features, self.inverse_features)

    def influence(self, queries: ArrayLike) -> Floats:
        """Return (q, n): by how much the margins of queries (q, d) change when each row is removed, by influence."""
        return np.asarray(queries) @ self.inverse_features * self.head.residual

    def rescaled(self, queries: ArrayLike) -> Floats:
        """Return (q, n): the same by rescaled influence."""
        return self.influence(queries) / (1 - self.leverage)

    def step(self, estimator: Estimator, rows: ArrayLike) -> Floats:
        """Return the predicted theta_T - theta (d,) for the set T of rows (k,).

        Raises:
            InputError: a row is named twice, or is none of the head's.
        """
        which = self._checked(rows)
        inverse, residual = self.inverse_features[:, which], self.head.residual[which]
        if estimator == "influence":
            return inverse @ residual
        if estimator == "rescaled influence":
            return inverse @ (residual / (1 - self.leverage[which]))
        shared = self.head.curvature[which, None] * (self.head.features[which] @ inverse)
        return inverse @ np.linalg.solve(np.eye(len(which)) - shared, residual)

    def _checked(self, rows: ArrayLike) -> NDArray[np.intp]:
        which, n = np.asarray(rows, dtype=np.intp).ravel(), len(self.head.labels)
        if len(np.unique(which)) != len(which) or (len(which) and not 0 <= which.min() <= which.max() < n):
            raise InputError(f"the rows to remove must be different ones from 0 to {n - 1}")
        return which
