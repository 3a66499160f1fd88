"""Datamodels: utilities regressed on features of subsets (Ilyas et al. 2022, arXiv 2202.00622).

The only method here that learns from retrained subsets and nothing else. Ridge in place of the paper's lasso: with
m calibration subsets it is a kernel method in m unknowns, and its leave-one-out errors are exact and free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.errors import ConfigError, InputError

PENALTIES: tuple[float, ...] = tuple(10.0**power for power in np.arange(-4, 4.5, 0.5).tolist())
"""Ridge penalties tried, in units of the mean eigenvalue of the features' centred (m, m) kernel."""


class RidgeDatamodel:
    """Ridge with intercept from features of a subset to its utility on each task, fitted when constructed.

        min_(a, b) sum_S (u_t(S) - a - b' x_S)^2 + penalty ||b||^2

    features: maps (k, n) memberships to (k, p). membership: (m, n) calibration subsets. utilities: (m, T).
    penalties: above 0, in units of tr(K)/m with K the kernel of the centred features; for each task the one of
    least exact leave-one-out squared error is taken, the largest of equals.

    Attributes: penalty (T,) as chosen, in the same units; coefficients (p, T).

    Raises:
        ConfigError: no penalty is given, or one is not above 0.
        InputError: shapes disagree, fewer than 3 subsets, a value is not finite, or all features are alike.
    """

    def __init__(
        self,
        features: Callable[[Membership], Floats],
        membership: Membership,
        utilities: ArrayLike,
        penalties: Sequence[float] = PENALTIES,
    ) -> None:
        if not penalties or not all(penalty > 0 for penalty in penalties):
            raise ConfigError(f"penalties are {list(penalties)}; give at least one, all above 0")
        self.features = features
        x, u = np.asarray(features(membership), dtype=np.float64), np.asarray(utilities, dtype=np.float64)
        if x.ndim != 2 or u.ndim != 2 or len(x) != len(u) or len(x) < 3:
            raise InputError(
                f"features {x.shape} and utilities {u.shape}; give (m, p) and (m, T) of at least 3 subsets"
            )
        if not np.isfinite(x).all() or not np.isfinite(u).all():
            raise InputError("a feature or utility is not finite; leave its subset out")
        m = len(x)
        self._x_mean, self._u_mean = x.mean(axis=0), u.mean(axis=0)
        centred, residual = x - self._x_mean, u - self._u_mean
        values, vectors = np.linalg.eigh(centred @ centred.T)
        unit = values.sum() / m
        if not unit > 0:
            raise InputError("all calibration subsets have the same features; give subsets that differ")
        grid = np.sort(np.asarray(penalties, dtype=np.float64))[::-1]
        errors = np.empty((len(grid), u.shape[1]))
        duals = np.empty((len(grid), *u.shape))
        for k, penalty in enumerate(grid * unit):
            inverse = (vectors / (np.maximum(values, 0) + penalty)) @ vectors.T
            duals[k] = inverse @ residual
            kept = penalty * np.diag(inverse) - 1 / m
            errors[k] = ((penalty * duals[k] / kept[:, None]) ** 2).sum(axis=0)
        best = errors.argmin(axis=0)
        self.penalty: Floats = grid[best]
        self.coefficients: Floats = centred.T @ np.take_along_axis(duals, best[None, None, :], axis=0)[0]

    def predict(self, membership: Membership) -> Floats:
        """Return (k, T) predicted utilities for (k, n) memberships."""
        return self._u_mean + (self.features(membership) - self._x_mean) @ self.coefficients
