"""Which estimate of a removal can be trusted on these features: measured against exact refitting.

How far influence is off depends on n, d, k and lambda (`scaling.py`), and on the features. So sets are drawn from the
user's own rows, removed, and the head is refitted; an estimator is safe for sets of a size where every drawn set's
error was within the tolerance. With m sets drawn, at least nine in ten random sets of that size are then within it with
confidence 1 - .9^m (.966 for 32). Sets that someone has chosen are not random sets: nothing is said about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.attribution.convex.head import ConvexHead
from grasp_pipeline.attribution.convex.influence import ESTIMATORS, Estimator, HeadInfluence
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator

DRAWN = 32
"""Sets per size."""

TOLERANCE = 0.1
"""Relative error of the change in margins that is let pass."""


@dataclass(frozen=True, eq=False)
class RemovalErrors:
    """Of m sets. actual: (m,) size of the exact change; errors: (m, 3) of `ESTIMATORS`, both in the same norm."""

    actual: Floats
    errors: Floats

    @property
    def relative(self) -> Floats:
        """(m, 3) errors divided by the exact change."""
        return self.errors / self.actual[:, None]


@dataclass(frozen=True)
class Advice:
    """One estimator for removals of k of n rows with d features at a damping.

    median, worst: relative error of the change in the rows' margins, over the sets drawn; safe: whether the worst is
    within the tolerance.
    """

    n: int
    d: int
    k: int
    damping: float
    estimator: Estimator
    median: float
    worst: float
    safe: bool


def removal_errors(
    head: ConvexHead, sets: Sequence[ArrayLike], queries: ArrayLike | None = None
) -> RemovalErrors:
    """Compare every estimator with refitting, for m sets of rows.

    queries: (q, d) whose margins count, in the Euclidean norm; None: the parameters themselves.
    """
    made = HeadInfluence(head)
    view = np.eye(len(head.theta)) if queries is None else np.asarray(queries, dtype=np.float64)
    actual, errors = np.empty(len(sets)), np.empty((len(sets), len(ESTIMATORS)))
    for place, rows in enumerate(sets):
        exact = head.without(rows) - head.theta
        actual[place] = np.linalg.norm(view @ exact)
        for column, name in enumerate(ESTIMATORS):
            errors[place, column] = np.linalg.norm(view @ (made.step(name, rows) - exact))
    return RemovalErrors(actual, errors)


def draw_sets(n: int, k: int, drawn: int, *name: str | int) -> list[Ints]:
    """Return sets of k different rows of n, drawn by name.

    Raises:
        ConfigError: k is not from 1 to n - 1.
    """
    if not 0 < k < n:
        raise ConfigError(f"{k} rows are to be removed from {n}; give a number from 1 to {n - 1}")
    draw = generator("removed rows", n, k, *name)
    return [draw.choice(n, k, replace=False) for _ in range(drawn)]


def advise(
    head: ConvexHead, sizes: Sequence[int], tolerance: float = TOLERANCE, drawn: int = DRAWN
) -> list[Advice]:
    """Return every estimator's measured errors for removals of each size, from the cheapest to the dearest.

    Raises:
        ConfigError: see `draw_sets`; the tolerance is not above 0.
    """
    if not tolerance > 0:
        raise ConfigError(f"the tolerance is {tolerance}; it must be above 0")
    (n, d), found = head.features.shape, []
    for k in sizes:
        relative = removal_errors(head, draw_sets(n, k, drawn, "advisor"), head.features).relative
        for name, errors in zip(ESTIMATORS, relative.T, strict=True):
            worst = float(errors.max())
            row = Advice(n, d, k, head.damping, name, float(np.median(errors)), worst, worst <= tolerance)
            found.append(row)
    return found


def safest(advice: Sequence[Advice], k: int) -> Estimator | None:
    """Return the cheapest estimator that is safe for sets of k rows; None: refit."""
    return next((each.estimator for each in advice if each.k == k and each.safe), None)
