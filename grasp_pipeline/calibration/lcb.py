"""Choice of the surrogate's configuration by a lower confidence bound over a finite grid.

The grid is written down before anything is measured. Every configuration predicts the utilities of the
calibration subsets, which were really retrained; what counts is not the observed rank correlation but what
can be said of it with the confidence asked for. A quadratic penalty (lambda > 0) is adopted only where it
beats the additive configurations beyond doubt; otherwise the additive one is kept, and the reason says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.calibration.rank import bootstrap_task_spearman, finite, task_level_spearman
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator

Floats = NDArray[np.float64]

TIE = 1e-3
"""Lower bounds closer than this count as equal, and the cheaper sketch wins."""

TAIL_RESAMPLES = 10
"""Resamples that must lie below a bound for its quantile to count as resolved."""


@dataclass(frozen=True)
class Configuration:
    """One candidate: sketch kind, damping rho of the metric (0: M = I), penalty lambda (0: none), form."""

    config_id: str
    sketch_kind: str
    rho: float
    lam: float
    form: str

    def __str__(self) -> str:
        metric = "M = I" if self.rho == 0 else f"rho {self.rho:g}"
        return f"{self.sketch_kind} sketch, {metric}, lambda {self.lam:g}, {self.form} form"


@dataclass(frozen=True)
class Choice:
    """What the calibration subsets say about every configuration, and the one chosen.

    Attributes:
        configurations: the K candidates, in the order given.
        rank_correlation: (K,) observed task-level rank correlation.
        lower_bound: (K,) one-sided lower bounds that hold for all K at once with the confidence asked for.
        paired_lower_bound: (K,) lower bound of the gain over the best additive configuration, holding for all
            lambda > 0 configurations at once; never above 0 for an additive one.
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
) -> Choice:
    """Choose the configuration with the highest lower bound that is allowed to be chosen.

    With alpha = 1 - confidence and B bootstrap resamples of the subsets, the lower bound of configuration k
    is the alpha / K quantile of its task-level rank correlation. Its paired bound is the alpha / K1 quantile
    of its correlation minus the largest one of any additive configuration in the same resample, K1 the number
    of configurations with lambda > 0: the opponent is chosen anew in each resample, with hindsight, which
    makes the bound conservative. Among the configurations with lambda > 0 and a paired bound above 0 the
    first by rank is adopted; if there are none, the first by rank among the additive ones.

    A quantile needs `TAIL_RESAMPLES` resamples below it: B is raised to TAIL_RESAMPLES * K / alpha where it
    is less.

    Args:
        configurations: K candidates with distinct ids, at least one with lambda = 0.
        predictions: (K, m, T) predicted utilities of the m calibration subsets on T tasks.
        utilities: (m, T) measured utilities, means over seeds, minus nats per token.
        cost_seconds: (K,) seconds that each configuration's sketches cost.
        confidence: family-wise one-sided confidence, in (.5, 1).
        resamples: B asked for.
        seed_name: name of the bootstrap's random stream.

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
    used = max(resamples, ceil(TAIL_RESAMPLES * k / alpha))
    drawn = bootstrap_task_spearman(predicted, measured, used, generator(seed_name, "lcb"))
    lower = np.quantile(drawn, alpha / k, axis=0, method="lower")
    drawn -= drawn[:, additive].max(axis=1, keepdims=True)
    rivals = max(1, int((~additive).sum()))
    paired = np.quantile(drawn, alpha / rivals, axis=0, method="lower")

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
            f"over {k} configurations."
        )
    return replace(choice, reason=" ".join(parts))
