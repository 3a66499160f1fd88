"""Decisions between pairs of subsets: how often two proxies order them the same way, with bootstrap intervals.

Decision accuracy is the share of pairs of subsets that both proxies order the same way, as in DataDecide
(arXiv 2504.11393).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.intervals import bootstrap_interval, strata_groups, widened
from grasp_pipeline.calibration.rank import finite, resample_counts
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator

TAILS = (0.025, 0.975)

CLEAR = 2.0
"""A pair is clear where it differs by more than this many standard deviations of a difference between seeds."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its (B,) draws.

    limit: largest absolute value that it can have. bounded: it cannot be better than some value that it may have, such
    as rank 1 or a regret of 0; its draws are then what it might have been, and not spread around it.
    """

    value: float
    draws: Floats
    limit: float = np.inf
    bounded: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided 95%: of `calibration.intervals`, or the draws' quantiles where the figure is bounded."""
        if self.bounded:
            low, high = np.nanquantile(self.draws, TAILS)
        else:
            low, high = bootstrap_interval(self.value, self.draws, limit=self.limit)
        return float(low), float(high)


def mean_estimate(parts: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates with equally many draws, averaged draw by draw."""
    return Estimate(
        float(np.mean([part.value for part in parts])),
        np.mean([part.draws for part in parts], axis=0),
        max(part.limit for part in parts),
        any(part.bounded for part in parts),
    )


def decision_accuracy(
    first: ArrayLike, second: ArrayLike, noise: ArrayLike | None = None, groups: Sequence[str] | None = None
) -> Floats:
    """Return the share of pairs of subsets that both proxies order the same way; a tie in either counts one half.

    Args:
        first, second: (m, T) utilities, minus nats per token.
        noise: (T,) standard deviation of a utility of `first` over training seeds (of the mean, if it is one). Only
            pairs that differ on the first proxy by more than CLEAR standard deviations of a difference,
            sqrt(2) noise, count. None: all pairs.
        groups: m names; only pairs within a group count. None: all pairs.

    Returns:
        (T,) shares in [0, 1]; NaN for a task without such a pair.

    Raises:
        ValueError: shapes disagree or a value is not finite.
    """
    agree, counted = pairs(first, second, noise, groups)
    total = counted.sum(axis=(1, 2))
    return np.divide(agree.sum(axis=(1, 2)), total, out=np.full(len(total), np.nan), where=total > 0)


def bootstrap_decision_accuracy(
    first: ArrayLike,
    second: ArrayLike,
    resamples: int,
    seed_name: str,
    noise: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Estimate:
    """Return the mean decision accuracy over tasks, with draws over the subsets.

    Subsets are drawn with replacement, stratum by stratum, the same ones for all tasks; a pair of a subset with its
    own copy does not count. With c the (m,) counts of a resample and A, W the symmetric matrices of agreement and of
    counted pairs, zero on the diagonal, a resample's accuracy is c'Ac / c'Wc. Tasks without a counted pair are left out
    of the mean.

    Args:
        first, second, noise, groups: as in `decision_accuracy`.
        resamples: B.
        seed_name: name of the draw.
        strata: m labels of how the subsets were designed; None: all in one way.

    Raises:
        ConfigError: no task has a pair to count, or B is below 1.
        ValueError: shapes disagree or a value is not finite.
    """
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; ask for at least 1.")
    agree, counted = pairs(first, second, noise, groups)
    kept = counted.any(axis=(1, 2))
    if not kept.any():
        raise ConfigError(
            "No pair of subsets differs by more than its seed noise; retrain more subsets or more seeds."
        )
    agree, counted = agree[kept], counted[kept].astype(np.float64)
    m = agree.shape[1]
    drawn, rng = strata_groups(strata, m), generator(seed_name, "decision accuracy")
    counts = np.empty((resamples, m))
    for members in drawn:
        counts[:, members] = resample_counts(resamples, len(members), rng).T
    above = np.stack([((counts @ task) * counts).sum(axis=1) for task in agree], axis=1)
    below = np.stack([((counts @ task) * counts).sum(axis=1) for task in counted], axis=1)
    present = below > 0
    shares = np.divide(above, below, out=np.zeros_like(above), where=present)
    number = present.sum(axis=1)
    draws = np.divide(shares.sum(axis=1), number, out=np.full(resamples, np.nan), where=number > 0)
    observed = agree.sum(axis=(1, 2)) / counted.sum(axis=(1, 2))
    return Estimate(float(observed.mean()), widened(draws, drawn), limit=1)


def seed_noise(utilities: ArrayLike) -> Floats:
    """Return the standard deviation of a subset's mean utility over seeds, pooled over subsets: (T,).

    Args:
        utilities: (m, T, S) with S training seeds.

    Raises:
        ConfigError: fewer than two seeds.
    """
    values = finite("utilities", utilities)
    seeds = values.shape[2]
    if seeds < 2:
        raise ConfigError("Seed noise needs two training seeds per subset; raise evaluation_seeds to 2.")
    return np.sqrt(values.var(axis=2, ddof=1).mean(axis=0) / seeds)


def pairs(
    first: ArrayLike, second: ArrayLike, noise: ArrayLike | None, groups: Sequence[str] | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return agreement and which pairs count, both (T, m, m), symmetric, zero on the diagonal.

    Arguments as in `decision_accuracy`.

    Raises:
        ValueError: shapes disagree or a value is not finite.
    """
    one, other = finite("first", first), finite("second", second)
    if one.ndim != 2 or one.shape != other.shape or len(one) < 2:
        raise ValueError(
            f"first has shape {one.shape} and second {other.shape}; both must be (m, T) of the same m subsets, 2 at "
            "least, and T tasks."
        )
    differences = one.T[:, :, None] - one.T[:, None, :]
    same = np.sign(differences) * np.sign(other.T[:, :, None] - other.T[:, None, :])
    counted = np.broadcast_to(~np.eye(len(one), dtype=bool), same.shape)
    if noise is not None:
        smallest = CLEAR * np.sqrt(2) * np.broadcast_to(finite("noise", noise), one.shape[1:])
        counted = counted & (np.abs(differences) > smallest[:, None, None])
    if groups is not None:
        labels = np.asarray(groups)
        counted = counted & (labels[:, None] == labels[None, :])
    return np.where(counted, (1 + same) / 2, 0.0), counted
