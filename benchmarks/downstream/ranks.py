"""How well evidence before any retraining ranks optimised finalists, and what a shortlist by it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.downstream.shipping import sealed, target_loss
from benchmarks.downstream.target_study import TargetStudy
from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.rank import spearman

MEASURED = "measured"
"""Score: minus the loss of one run on the calibration documents."""


def score_of(study: TargetStudy, name: str) -> Floats:
    """Return (c,) a score of the finalists, higher is better."""
    if name == MEASURED:
        return -target_loss(study, study.losses[:, 0], study.fold >= 0)
    return study.scores[name]


def truth_of(study: TargetStudy) -> Floats:
    """Return (c,) minus the loss on the sealed documents, the mean of the sealed seeds."""
    return -target_loss(study, study.losses[:, 1:], sealed(study)).mean(axis=1)


def finalist_spearman(study: TargetStudy, name: str) -> float:
    """Return the rank correlation of a score with the sealed utility among the optimised finalists."""
    mine = study.optimised
    return float(spearman(score_of(study, name)[mine], truth_of(study)[mine]))


def picked_from_shortlist(study: TargetStudy, size: int, name: str = "judge") -> int:
    """Return the index of the best measured one among the best `size` optimised finalists by a score."""
    mine = np.flatnonzero(study.optimised)
    best = mine[np.argsort(-score_of(study, name)[mine], kind="stable")][:size]
    return int(best[np.argmax(score_of(study, MEASURED)[best])])


def shortlist_regret(study: TargetStudy, size: int, name: str = "judge") -> float:
    """Return what is lost, nats per token, by retraining only the best `size` optimised finalists by a score.

    Of those the lowest measured loss is picked; the regret is its sealed loss over the lowest sealed loss among all
    optimised finalists. That lowest one is lucky in part, so the regret is overstated; see `cross_fitted_regret`.
    """
    truth = truth_of(study)
    return float(truth[study.optimised].max() - truth[picked_from_shortlist(study, size, name)])


def cross_fitted_regret(study: TargetStudy, size: int, name: str = "judge") -> float:
    """Return `shortlist_regret` without the luck of seeds: what is best by some sealed seeds is valued by the others.

    For each sealed seed the best finalist is the one of lowest loss by the other seeds; it and the pick are compared by
    this seed. The true best would do no worse, so the regret is understated, if anything, and may fall below 0.
    """
    each = -target_loss(study, study.losses[:, 1:], sealed(study))
    picked = picked_from_shortlist(study, size, name)
    mine = np.flatnonzero(study.optimised)
    regrets = []
    for seed in range(each.shape[1]):
        others = np.delete(each, seed, axis=1).mean(axis=1)
        best = mine[np.argmax(others[mine])]
        regrets.append(each[best, seed] - each[picked, seed])
    return float(np.mean(regrets))


def mean_interval(
    values: Sequence[float], rng: np.random.Generator, resamples: int = 2000
) -> tuple[float, float, float]:
    """Return the mean of some cases' values and its 95% bootstrap interval over cases."""
    array = np.asarray(values, dtype=np.float64)
    means = array[rng.integers(0, len(array), (resamples, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(array.mean()), float(low), float(high)
