"""Choice of the surrogate's configuration by a lower confidence bound over a finite grid.

The grid is written down before anything is measured. Every configuration predicts the utilities of the
calibration subsets, which were really retrained; what counts is not the observed rank correlation but what
can be said of it with the confidence asked for. A quadratic penalty (lambda > 0) is adopted only where it
beats the additive configurations beyond doubt; otherwise the additive one is kept, and the reason says so.

Configurations that see the same sketches err together, so the family-wise error is not split evenly over
them (Bonferroni) but taken from the joint bootstrap of all of them: the single-step max-t bound of Romano
and Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing", JASA 100 (2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.intervals import strata_groups
from grasp_pipeline.calibration.rank import bootstrap_task_spearman, finite, task_level_spearman
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import EVENTS, Form
from grasp_pipeline.seeds import generator

TIE = 1e-3
"""Lower bounds closer than this count as equal, and the cheaper sketch wins."""

TAIL_RESAMPLES = 50
"""Resamples that must lie beyond a critical value for its quantile to count as resolved."""


@dataclass(frozen=True)
class Configuration:
    """One candidate: sketch kind, damping rho of the metric (0: M = I), penalty lambda (0: none), form.

    Of log-coverage the kind is `EVENTS`, rho the smoothing and lambda 1: the whole function, not its additive limit.
    """

    config_id: str
    sketch_kind: str
    rho: float
    lam: float
    form: Form

    def __str__(self) -> str:
        if self.sketch_kind == EVENTS:
            return f"log-coverage of the queries' bigrams, {self.form} form, rho {self.rho:g}"
        metric = "M = I" if self.rho == 0 else f"rho {self.rho:g}"
        return f"{self.sketch_kind} sketch, {metric}, lambda {self.lam:g}, {self.form} form"


@dataclass(frozen=True)
class Choice:
    """What the calibration subsets say about every configuration, and the one chosen.

    Attributes:
        configurations: the K candidates, in the order given.
        rank_correlation: (K,) observed task-level rank correlation.
        lower_bound: (K,) one-sided lower bounds that hold for all K at once with the confidence asked for.
        paired_lower_bound: (K,) lower bound of the gain over every additive configuration, holding for all
            lambda > 0 configurations at once; 0 for an additive one.
        rank: (K,) 1 for the highest lower bound; ties within `TIE` go to the cheaper sketch.
        chosen: index of the choice.
        best_additive: index of the first-ranked configuration with lambda = 0.
        subsets: m, the number of calibration subsets.
        resamples: B actually used: raised above what was asked for where the quantiles needed it.
        confidence: family-wise one-sided confidence.
        reason: the choice in plain words.
    """

    configurations: tuple[Configuration, ...]
    rank_correlation: Floats
    lower_bound: Floats
    paired_lower_bound: Floats
    rank: NDArray[np.int64]
    chosen: int
    best_additive: int
    subsets: int
    resamples: int
    confidence: float
    reason: str


def choose_configuration(
    configurations: Sequence[Configuration],
    predictions: ArrayLike,
    utilities: ArrayLike,
    cost_seconds: ArrayLike,
    confidence: float,
    resamples: int,
    seed_name: str,
    strata: Sequence[str] | None = None,
) -> Choice:
    """Choose the configuration with the highest lower bound that is allowed to be chosen.

    The subsets are drawn again B times, each stratum by itself, and give the standard error s_k of every
    configuration's task-level rank correlation, widened by sqrt(m / (m - H)) for m subsets in H strata. With
    alpha = 1 - confidence and c the 1 - alpha quantile over resamples of the largest studentised deviation of
    any configuration, the lower bound is the observed correlation minus c s_k.

    The gain of a configuration with lambda > 0 over one additive configuration is bounded in the same way,
    c taken over all configurations with lambda > 0; its paired bound is the lowest over the additive ones. To
    hold against every additive opponent at once needs no further correction: all of the tests must reject
    (intersection-union test; Berger, Technometrics 24, 1982). Among the configurations with lambda > 0 and a
    paired bound above 0 the first by rank is adopted; if there are none, the first by rank among the
    additive ones.

    A quantile needs `TAIL_RESAMPLES` resamples beyond it: B is raised to TAIL_RESAMPLES / alpha where it is
    less.

    Args:
        configurations: K candidates with distinct ids, at least one with lambda = 0.
        predictions: (K, m, T) predicted utilities of the m calibration subsets on T tasks.
        utilities: (m, T) measured utilities, means over seeds, minus nats per token.
        cost_seconds: (K,) seconds that each configuration's sketches cost.
        confidence: family-wise one-sided confidence, in (.5, 1).
        resamples: B asked for.
        seed_name: name of the bootstrap's random stream.
        strata: m names: how each subset was designed; None: all in one way.

    Raises:
        ConfigError: the grid has no lambda = 0, ids repeat, or the confidence is outside (.5, 1).
        ValueError: shapes disagree or a number is not finite; the message names which.
    """
    grid = tuple(configurations)
    k = len(grid)
    additive = np.array([c.lam == 0 for c in grid], dtype=bool)
    _check_grid(grid, additive, confidence)
    predicted, cost = _finite_predictions(grid, predictions), finite("cost_seconds", cost_seconds)
    if predicted.shape[0] != k or cost.shape != (k,):
        raise ValueError(
            f"{k} configurations have predictions of shape {predicted.shape} and costs of shape "
            f"{cost.shape}; expected one of each per configuration."
        )
    measured = finite("utilities", utilities)
    observed = task_level_spearman(predicted, measured)

    alpha = 1 - confidence
    used = max(resamples, ceil(TAIL_RESAMPLES / alpha))
    groups = strata_groups(strata, len(measured))
    drawn = bootstrap_task_spearman(predicted, measured, used, generator(seed_name, "lcb"), groups)
    widen = float(np.sqrt(len(measured) / max(1, len(measured) - len(groups))))
    lower = _joint_lower(observed, drawn, widen, alpha)
    paired = np.zeros(k)
    if not additive.all():
        rivals = ~additive
        paired[rivals] = np.min(
            [
                _joint_lower(observed[rivals] - observed[a], drawn[:, rivals] - drawn[:, [a]], widen, alpha)
                for a in np.flatnonzero(additive)
            ],
            axis=0,
        )

    order = _order(lower, cost)
    rank = np.empty(k, dtype=np.int64)
    rank[order] = np.arange(1, k + 1)
    best_additive = next(i for i in order if additive[i])
    adopted = [i for i in order if not additive[i] and paired[i] > 0]
    chosen = adopted[0] if adopted else best_additive
    choice = Choice(
        grid, observed, lower, paired, rank, chosen, best_additive, len(measured), used, confidence, reason=""
    )
    return _with_reason(choice, order, additive, resamples)


def _check_grid(grid: tuple[Configuration, ...], additive: NDArray[np.bool_], confidence: float) -> None:
    if not additive.any():
        raise ConfigError("The grid has no additive configuration to fall back to; add one with lambda = 0.")
    ids = [c.config_id for c in grid]
    repeated = sorted({i for i in ids if ids.count(i) > 1})
    if repeated:
        raise ConfigError(
            f"The grid names {', '.join(repeated)} more than once; give each configuration its own id."
        )
    if not 0.5 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; give a value between 0.5 and 1, such as 0.95.")


def _finite_predictions(grid: tuple[Configuration, ...], predictions: ArrayLike) -> Floats:
    array = np.asarray(predictions, dtype=np.float64)
    for configuration, values in zip(grid, array, strict=False):
        finite(f"predictions of {configuration.config_id} ({configuration})", values)
    return array


def _joint_lower(observed: Floats, drawn: Floats, widen: float, alpha: float) -> Floats:
    """Return (K,) lower bounds of `observed` that hold at once with confidence 1 - alpha.

    A figure that is the same in every resample is its own bound.
    """
    deviation = drawn - drawn.mean(axis=0)
    error = np.sqrt(np.mean(deviation**2, axis=0))
    studentised = np.divide(deviation, error, out=np.zeros_like(deviation), where=error > 0)
    critical = float(np.quantile(studentised.max(axis=1), 1 - alpha, method="higher"))
    return observed - critical * widen * error


def _order(lower: Floats, cost: Floats) -> list[int]:
    """Return indices by lower bound, best first; of those within `TIE` of the best left, the cheapest."""
    left = sorted(range(len(lower)), key=lambda i: (-lower[i], cost[i], i))
    order: list[int] = []
    while left:
        tied = [i for i in left if lower[i] >= lower[left[0]] - TIE]
        following = min(tied, key=lambda i: (cost[i], -lower[i], i))
        order.append(following)
        left.remove(following)
    return order


def _with_reason(choice: Choice, order: list[int], additive: NDArray[np.bool_], asked: int) -> Choice:
    grid, k = choice.configurations, len(choice.configurations)
    best, chosen = choice.best_additive, choice.chosen
    level = f"{choice.confidence * 100:g}%"

    def named(i: int) -> str:
        return f"{grid[i].config_id} ({grid[i]})"

    parts: list[str] = []
    if not additive[chosen]:
        parts.append(
            f"Chose {named(chosen)}: on {choice.subsets} calibration subsets its rank correlation is "
            f"{choice.rank_correlation[chosen]:.3f} with a lower bound of {choice.lower_bound[chosen]:.3f} "
            f"({level}, all {k} configurations at once), and it gains at least "
            f"{choice.paired_lower_bound[chosen]:.3f} over the best additive configuration, {named(best)}, "
            f"which has {choice.rank_correlation[best]:.3f}."
        )
    else:
        parts.append(
            f"Chose the additive configuration {named(best)}: on {choice.subsets} calibration subsets its "
            f"rank correlation is {choice.rank_correlation[best]:.3f} with a lower bound of "
            f"{choice.lower_bound[best]:.3f} ({level}, all {k} configurations at once)."
        )
        rivals = np.flatnonzero(~additive)
        if len(rivals):
            closest = int(rivals[np.argmax(choice.paired_lower_bound[rivals])])
            parts.append(
                "Fell back to it because no configuration with lambda > 0 is better beyond doubt: the "
                f"closest, {named(closest)}, has {choice.rank_correlation[closest]:.3f}, and the lower bound "
                f"of its gain is {choice.paired_lower_bound[closest]:.3f}, not above 0."
            )
        else:
            parts.append("The grid has no configuration with lambda > 0 to compare it with.")
    if order[0] != chosen:
        first = order[0]
        doubt = (
            "the chosen one is better beyond doubt"
            if additive[first]
            else f"its gain over the additive ones may be {choice.paired_lower_bound[first]:.3f}"
        )
        parts.append(
            f"{named(first)} ranks first by lower bound ({choice.lower_bound[first]:.3f}) but was not "
            f"adopted: {doubt}."
        )
    if choice.lower_bound[chosen] <= 0:
        parts.append(
            "Its lower bound is not above 0: these subsets do not show that it ranks better than chance. "
            "Retrain more calibration subsets."
        )
    if choice.resamples > asked:
        parts.append(
            f"Used {choice.resamples} bootstrap resamples instead of {asked}, which cannot resolve a bound "
            f"of {level} confidence."
        )
    return replace(choice, reason=" ".join(parts))
