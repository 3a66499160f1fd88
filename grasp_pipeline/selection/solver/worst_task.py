"""Several tasks in one selection: the weighted mean of their directions, or the best worst task.

    maximise  min_t (F_t(w) - base_t) / a_t ,   F_t(w) = <r_t, mu_w>_M - (lambda / 2) ||mu_w||_M^2

All F_t share their quadratic term, so for any prices p on the simplex the priced sum is, up to a positive factor and a
constant, the surrogate of one direction. Its optimum bounds the best worst task from above (Sion 1958). Every solved
price adds a point of which the best mixture is found exactly; that mixture's dual gives the next prices: simplicial
decomposition (von Hohenbalken 1977).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog, minimize

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.metric import Metric, apply_metric
from grasp_pipeline.errors import ConfigError, InputError, nearest
from grasp_pipeline.progress import Listener, silent

_FLOOR = 1e-3
"""Least scale of the relative gap, as a share of the size of F's two terms."""


class Solved(Protocol):
    """An optimum for one direction, as far as it is needed here."""

    @property
    def weights(self) -> NDArray[np.floating[Any]]:
        """(n,) in [0, 1]."""
        ...

    @property
    def upper_bound(self) -> float:
        """No feasible weights have a higher F for this direction."""
        ...


@dataclass(frozen=True)
class WorstTask:
    """The best worst task.

    weights: (n,) in [0, 1]; mean: (d,) their mean sketch; values: (T,) (F_t - base_t) / a_t, value: the least of them.
    upper_bound: no feasible weights have a higher least value. relative_gap: (upper_bound - value) / scale, the scale
    being |value|, at least 0.001 (|<r, mu>| + lambda/2 ||mu||^2) of the largest task.
    prices: (T,) on the simplex, 0 for tasks that do not bind; target: (d,) the one direction that they make, for which
    `weights` are optimal up to the gap; solves: calls of the optimiser.
    """

    weights: Floats
    mean: Floats
    value: float
    values: Floats
    upper_bound: float
    relative_gap: float
    prices: Floats
    target: Floats
    solves: int


def normalised_weights(names: Sequence[str], weights: dict[str, float]) -> Floats:
    """Return (T,) weights of the named tasks that sum to 1; none given: all equal; a task not named has 0.

    Raises:
        ConfigError: a weight names no task, or all are 0.
    """
    if not weights:
        return np.full(len(names), 1 / len(names))
    if unknown := sorted(set(weights) - set(names)):
        raise ConfigError(
            f"task_weights names {', '.join(unknown)}, which is no task; {nearest(unknown[0], names)}"
        )
    values = np.array([weights.get(name, 0.0) for name in names])
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ConfigError(f"task_weights are {weights}; give numbers of 0 or more, one of them above 0")
    return values / values.sum()


def solve_max_min(
    optimise: Callable[[Floats], Solved],
    mean_of: Callable[[Floats], Floats],
    targets: ArrayLike,
    *,
    lam: float,
    metric: Metric = None,
    weights: ArrayLike | None = None,
    baselines: ArrayLike | None = None,
    gap: float = 1e-4,
    max_solves: int = 50,
    listener: Listener = silent,
) -> WorstTask:
    """Maximise the worst of T tasks with directions targets (T, d).

    optimise: finds the best feasible weights for one direction (d,) (see `Selection`); lam, metric: its lambda and M.
    mean_of: the mean sketch (d,) of weights (n,).
    weights: (T,) a_t above 0, rescaled to mean 1: gains in proportion to them are aimed at; None: all 1.
    baselines: (T,) base_t, for example F_t of the whole corpus, so that gains are compared; None: 0.
    Stops at the relative gap, at max_solves, or where the gap of `optimise` itself allows no more. Points
    without a share in the mixture are forgotten. Deterministic.

    Raises:
        InputError: shapes disagree. ConfigError: a weight is not above 0.
    """
    tasks = _Tasks(targets, lam, metric, weights, baselines)
    prices = np.full(tasks.n, 1 / tasks.n)
    points: list[tuple[Floats, Floats]] = []
    shares = np.zeros(0)
    upper, best_prices, solves, value = np.inf, prices, 0, -np.inf
    while True:
        target, factor, constant = tasks.priced(prices)
        found = optimise(target)
        solves += 1
        bound = factor * found.upper_bound - constant
        if bound < upper:
            upper, best_prices = bound, prices
        weights_found = np.asarray(found.weights, dtype=np.float64)
        points.append((weights_found, mean_of(weights_found)))
        means = np.array([mean for _, mean in points])
        before = value
        shares, prices, value = _best_mixture(tasks, means, np.append(shares, 0.0))
        scale = max(abs(value), _FLOOR * tasks.size(shares @ means), np.finfo(np.float64).tiny)
        relative = max(0.0, upper - value) / scale
        listener(f"worst task: solve {solves}, least value {value:.6g}, relative gap {relative:.2e}")
        stuck = solves > tasks.n + 2 and value - before <= 1e-3 * (upper - value)
        if relative <= gap or solves >= max_solves or stuck:
            break
        used = np.nonzero(shares > 0)[0]
        points, shares = [points[j] for j in used], shares[used]
    mean = shares @ means
    return WorstTask(
        weights=np.sum([share * kept for share, (kept, _) in zip(shares, points, strict=True)], axis=0),
        mean=mean,
        value=value,
        values=tasks.values(mean),
        upper_bound=upper,
        relative_gap=relative,
        prices=best_prices,
        target=tasks.priced(best_prices)[0],
        solves=solves,
    )


class _Tasks:
    """(F_t - base_t) / a_t of T tasks for mean sketches (d,)."""

    def __init__(
        self,
        targets: ArrayLike,
        lam: float,
        metric: Metric,
        weights: ArrayLike | None,
        baselines: ArrayLike | None,
    ) -> None:
        self.targets = np.asarray(targets, dtype=np.float64)
        if self.targets.ndim != 2 or not len(self.targets) or not np.isfinite(self.targets).all():
            raise InputError(
                f"task directions have shape {self.targets.shape}; give (tasks, d) finite values"
            )
        self.n, self.lam, self.metric = len(self.targets), lam, metric
        scale = np.ones(self.n) if weights is None else np.asarray(weights, dtype=np.float64)
        self.base = np.zeros(self.n) if baselines is None else np.asarray(baselines, dtype=np.float64)
        if scale.shape != (self.n,) or self.base.shape != (self.n,):
            raise InputError(f"give one weight and one baseline for each of {self.n} tasks")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ConfigError(
                f"task weights are {scale.tolist()}; a worst task needs each above 0, so leave out tasks without weight"
            )
        self.scale = scale / scale.mean()

    def priced(self, prices: Floats) -> tuple[Floats, float, float]:
        """Return the direction, factor and constant with sum_t p_t (F_t - base_t) / a_t = factor F - constant."""
        per = prices / self.scale
        return per @ self.targets / per.sum(), float(per.sum()), float(per @ self.base)

    def values(self, mean: Floats) -> Floats:
        """Return (T,) values at a mean (d,)."""
        image = apply_metric(self.metric, mean)
        return (self.targets @ image - self.lam / 2 * (mean @ image) - self.base) / self.scale

    def slopes(self, mean: Floats, means: Floats) -> Floats:
        """Return (T, J): how fast every value grows from a mean towards each of some means (J, d)."""
        images = apply_metric(self.metric, means - mean)
        return (self.targets - self.lam * mean) @ images.T / self.scale[:, None]

    def size(self, mean: Floats) -> float:
        """Return |<r, mu>| + lambda/2 ||mu||^2 of the largest task."""
        image = apply_metric(self.metric, mean)
        return float(np.abs(self.targets @ image).max() + self.lam / 2 * (mean @ image))


def _best_mixture(tasks: _Tasks, means: Floats, start: Floats) -> tuple[Floats, Floats, float]:
    """Return shares (J,) of the means with the highest least value, its prices (T,) and that value.

    A problem of J + 1 variables for SLSQP. The prices minimise the linearised bound at its solution: a linear program
    whose value would equal the mixture's at an exact solution.
    """
    if not start.any():
        start = np.eye(1, len(means))[0]
    if len(means) > 1:
        unit = max(tasks.size(mean) for mean in means) or 1.0

        def slack(x: Floats) -> Floats:
            return tasks.values(x[:-1] @ means) / unit - x[-1]

        def slack_gradient(x: Floats) -> Floats:
            mean = x[:-1] @ means
            own = tasks.slopes(np.zeros_like(mean), means) - tasks.lam * (
                (means @ apply_metric(tasks.metric, mean))[None] / tasks.scale[:, None]
            )
            return np.hstack([own / unit, -np.ones((tasks.n, 1))])

        found = minimize(
            lambda x: -x[-1],
            np.append(start, tasks.values(start @ means).min() / unit),
            jac=lambda x: np.append(np.zeros(len(means)), -1.0),
            method="SLSQP",
            bounds=[(0, 1)] * len(means) + [(None, None)],
            constraints=[
                {"type": "ineq", "fun": slack, "jac": slack_gradient},
                {
                    "type": "eq",
                    "fun": lambda x: x[:-1].sum() - 1,
                    "jac": lambda x: np.append(np.ones(len(means)), 0.0),
                },
            ],
            options={"maxiter": 300, "ftol": 1e-14},
        )
        shares = np.where(found.x[:-1] > 1e-12, found.x[:-1], 0.0)
        shares /= shares.sum()
        # SLSQP may stop short: keep the start where it is better.
        if tasks.values(shares @ means).min() > tasks.values(start @ means).min():
            start = shares
    mean = start @ means
    values = tasks.values(mean)
    bounds = values[:, None] + tasks.slopes(mean, means)
    prices = _least_bound(bounds / (np.abs(bounds).max() or 1.0))
    return start, prices, float(values.min())


def _least_bound(bounds: Floats) -> Floats:
    """Return prices (T,) on the simplex that minimise the largest of prices @ bounds (T, J)."""
    n, j = bounds.shape
    found = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.hstack([bounds.T, -np.ones((j, 1))]),
        b_ub=np.zeros(j),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, 1)] * n + [(None, None)],
        method="highs",
    )
    if found.x is None:
        raise RuntimeError(f"HiGHS did not solve the program of the task prices: {found.message}")
    prices = np.maximum(found.x[:n], 0.0)
    return prices / prices.sum()
