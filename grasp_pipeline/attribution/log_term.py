"""Additive attribution plus the log of a subset's size: z(f_t(S)) + weight * z(log size(S)).

What an additive method in its mean form lacks: it cannot tell a large subset from a small one. Size is counted in
tokens or in distinct documents by whoever uses this (`methods/log_size.py`, `methods/log_distinct.py`). z subtracts the
mean and divides by the standard deviation over fixed calibration subsets, for each task, so the weight has no unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.protocol import Attributor, Membership
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.errors import ConfigError, InputError

WEIGHTS: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)

Size = Callable[[Membership], NDArray[Any]]
"""(m, n) memberships -> (m,) or (m, 1) sizes."""


class AdditiveLogTerm:
    """z(additive) + weight * z(log size), with z fixed on calibration subsets.

    additive: predicts (m, T). size: of subsets, above 0. weight: 0 or more. calibration: (m, n) at least 2
    memberships. A column that is constant over the calibration subsets has z 0 everywhere.

    Raises:
        ConfigError: weight is negative.
        InputError: fewer than 2 calibration subsets, or a subset of size 0.
    """

    def __init__(self, additive: Attributor, size: Size, weight: float, calibration: Membership) -> None:
        _check_weights([weight])
        if len(calibration) < 2:
            raise InputError(f"{len(calibration)} calibration subsets; a standard deviation needs at least 2")
        self.additive, self.weight, self._size = additive, weight, size
        self._value = _Standard(additive.predict(calibration))
        self._log = _Standard(self._log_size(calibration))

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) for (m, n) memberships, in standard deviations of the additive prediction."""
        value, log = self.terms(membership)
        return value + self.weight * log

    def terms(self, membership: Membership) -> tuple[Floats, Floats]:
        """Return z(additive) (m, T) and z(log size) (m, 1)."""
        return self._value.z(self.additive.predict(membership)), self._log.z(self._log_size(membership))

    def _log_size(self, membership: Membership) -> Floats:
        sizes = np.asarray(self._size(membership), dtype=np.float64).reshape(len(membership), -1)[:, :1]
        if not (sizes > 0).all():
            raise InputError(f"subset {int(np.argmin(sizes[:, 0] > 0))} holds no documents; leave it out")
        return np.log(sizes)


def fit_log_term(
    additive: Attributor,
    size: Size,
    calibration: Membership,
    utilities: ArrayLike,
    weights: Sequence[float] = WEIGHTS,
) -> AdditiveLogTerm:
    """Return the method with the weight of best task-level rank correlation on the calibration subsets.

    calibration: (m, n). utilities: (m, T) measured. Of equally good weights the first is taken.

    Raises:
        ConfigError: no weight is given, or one is negative.
        InputError: a subset of size 0.
        ValueError: predictions and utilities disagree in shape or are not finite.
    """
    _check_weights(weights)
    method = AdditiveLogTerm(additive, size, 0.0, calibration)
    value, log = method.terms(calibration)
    predictions = np.stack([value + weight * log for weight in weights])
    method.weight = weights[int(np.argmax(task_level_spearman(predictions, utilities)))]
    return method


class _Standard:
    """Mean and standard deviation of each column of (m, T) values."""

    def __init__(self, values: Floats) -> None:
        self.mean, spread = values.mean(axis=0), values.std(axis=0)
        # Equal values leave a rounding error in the deviation, not 0.
        constant = spread <= 1e-12 * np.abs(values).max(axis=0)
        self.factor = np.divide(1, spread, out=np.zeros_like(spread), where=~constant)

    def z(self, values: Floats) -> Floats:
        return (values - self.mean) * self.factor


def _check_weights(weights: Sequence[float]) -> None:
    if not weights or not all(weight >= 0 for weight in weights):
        raise ConfigError(f"weights are {list(weights)}; give at least one, all 0 or more")
