"""How well evidence before any retraining ranks optimised finalists, and what a shortlist by it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.calibration.rank import spearman
from grasp_pipeline.laboratory.downstream.case import Case
from grasp_pipeline.laboratory.downstream.shipping import sealed, target_loss

Floats = NDArray[np.float64]

MEASURED = "measured"
"""Score: minus the loss of one run on the calibration documents."""


def score_of(case: Case, name: str) -> Floats:
    """Return (c,) a score of the finalists, higher is better."""
    if name == MEASURED:
        return -target_loss(case, case.losses[:, 0], case.fold >= 0)
    return case.scores[name]


def truth_of(case: Case) -> Floats:
    """Return (c,) minus the loss on the sealed documents, the mean of the sealed seeds."""
    return -target_loss(case, case.losses[:, 1:], sealed(case)).mean(axis=1)


def finalist_spearman(case: Case, name: str) -> float:
    """Return the rank correlation of a score with the sealed utility among the optimised finalists."""
    mine = case.optimised
    return float(spearman(score_of(case, name)[mine], truth_of(case)[mine]))


def shortlist_regret(case: Case, size: int, name: str = "judge") -> float:
    """Return what is lost, nats per token, by retraining only the best `size` optimised finalists by a score.

    Of those the lowest measured loss is picked; the regret is its sealed loss over the lowest sealed loss among all
    optimised finalists. That lowest one is lucky in part, so the regret is overstated.
    """
    mine = np.flatnonzero(case.optimised)
    best = mine[np.argsort(-score_of(case, name)[mine], kind="stable")][:size]
    picked = best[np.argmax(score_of(case, MEASURED)[best])]
    truth = truth_of(case)
    return float(truth[mine].max() - truth[picked])


def mean_interval(
    values: Sequence[float], rng: np.random.Generator, resamples: int = 2000
) -> tuple[float, float, float]:
    """Return the mean of some cases' values and its 95% bootstrap interval over cases."""
    array = np.asarray(values, dtype=np.float64)
    means = array[rng.integers(0, len(array), (resamples, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(array.mean()), float(low), float(high)
