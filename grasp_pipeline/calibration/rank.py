"""Rank correlation of predictions with measured utilities, and its bootstrap over subsets.

The statistic is the task-level rank correlation: Spearman's rho over subsets for each task, then the mean
over tasks. A resample of subsets is a vector of counts, so its average ranks follow from cumulated counts in
the order of the original column: one sort per column, none per resample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from grasp_pipeline.arrays import Floats

BLOCK_ELEMENTS = 1 << 19
"""Resamples x subsets held at once: a few megabytes per buffer, to stay near the cache."""


def spearman(x: ArrayLike, y: ArrayLike) -> Floats:
    """Return Spearman's rho along the last axis, ties given their average rank.

    rho = cov(rank x, rank y) / (sd(rank x) sd(rank y)); Spearman 1904. A constant column has no ranking to
    agree
    with: its correlation is 0.

    Args:
        x: (..., m) values; broadcast against `y`.
        y: (..., m) values.

    Returns:
        (...) correlations in [-1, 1].

    Raises:
        ValueError: a value is not finite (the message names where), or m is below 2.
    """
    ranks_x = _centred_ranks(finite("x", x))
    ranks_y = _centred_ranks(finite("y", y))
    if ranks_x.shape[-1] != ranks_y.shape[-1]:
        raise ValueError(f"x has {ranks_x.shape[-1]} values and y {ranks_y.shape[-1]}; they must be paired.")
    covariance = (ranks_x * ranks_y).sum(axis=-1)
    return _ratio(covariance, (ranks_x**2).sum(axis=-1) * (ranks_y**2).sum(axis=-1))


def task_level_spearman(predictions: ArrayLike, utilities: ArrayLike) -> Floats:
    """Return the mean over tasks of Spearman's rho over subsets.

    Args:
        predictions: (K, m, T) predicted utilities of K configurations on m subsets and T tasks.
        utilities: (m, T) measured utilities, minus nats per token.

    Returns:
        (K,) correlations.

    Raises:
        ValueError: shapes disagree or a value is not finite; the message names which.
    """
    predicted, measured = _checked(predictions, utilities)
    return spearman(np.swapaxes(predicted, 1, 2), measured.T).mean(axis=-1)


def bootstrap_spearman(
    predictions: ArrayLike,
    utilities: ArrayLike,
    resamples: int,
    rng: np.random.Generator,
    groups: Sequence[NDArray[np.int64]] | None = None,
) -> Floats:
    """Return Spearman's rho per configuration and task in every bootstrap resample of the subsets.

    Subsets are drawn with replacement, the same ones for all configurations and tasks, and ranks are
    recomputed within each resample with ties averaged. A column that is constant within a resample has
    correlation 0.

    Args:
        predictions: (K, m, T) predicted utilities.
        utilities: (m, T) measured utilities.
        resamples: B, number of resamples.
        rng: source of the draws; the result depends on it, m, B and the groups alone.
        groups: rows of the subsets that are drawn again apart, as many as each has, or None: all together.
            Subsets designed by stratum are drawn by stratum: between strata the design, not chance, decides.

    Returns:
        (B, K, T) correlations.

    Raises:
        ValueError: shapes disagree, a value is not finite, or B is below 1.
    """
    predicted, measured = _checked(predictions, utilities)
    drawn = np.empty((_positive(resamples), predicted.shape[0], predicted.shape[2]))
    for rows, correlations in _blocks(predicted, measured, resamples, rng, groups):
        drawn[rows] = correlations
    return drawn


def bootstrap_task_spearman(
    predictions: ArrayLike,
    utilities: ArrayLike,
    resamples: int,
    rng: np.random.Generator,
    groups: Sequence[NDArray[np.int64]] | None = None,
) -> Floats:
    """Return the task-level rank correlation of every configuration in every bootstrap resample of the
    subsets.

    The mean over tasks of `bootstrap_spearman`, without ever holding its (B, K, T) array.

    Arguments and errors are the same.

    Returns:
        (B, K) correlations.
    """
    predicted, measured = _checked(predictions, utilities)
    drawn = np.empty((_positive(resamples), predicted.shape[0]))
    for rows, correlations in _blocks(predicted, measured, resamples, rng, groups):
        drawn[rows] = correlations.mean(axis=-1)
    return drawn


def finite(name: str, values: ArrayLike) -> Floats:
    """Return `values` as float64.

    Raises:
        ValueError: a value is NaN or infinite; the message gives `name` and the value's position.
    """
    array = np.asarray(values, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = ", ".join(str(int(i)) for i in bad[0])
        raise ValueError(
            f"{name}[{where}] is {array[tuple(bad[0])]}, and {len(bad)} of {array.size} values are not "
            "finite. Find out why it was not computed, or leave it out everywhere."
        )
    return array


def _checked(predictions: ArrayLike, utilities: ArrayLike) -> tuple[Floats, Floats]:
    predicted, measured = finite("predictions", predictions), finite("utilities", utilities)
    if predicted.ndim != 3 or measured.ndim != 2 or predicted.shape[1:] != measured.shape:
        raise ValueError(
            f"predictions have shape {predicted.shape} and utilities {measured.shape}; expected (K, m, T) "
            "and (m, T)."
        )
    if measured.shape[0] < 2 or measured.shape[1] < 1:
        raise ValueError(
            f"utilities have shape {measured.shape}; a rank correlation needs 2 subsets and 1 task."
        )
    return predicted, measured


def _positive(resamples: int) -> int:
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; ask for at least 1.")
    return resamples


def _centred_ranks(values: Floats) -> Floats:
    if values.ndim == 0 or values.shape[-1] < 2:
        raise ValueError(f"values have shape {values.shape}; a rank correlation needs at least 2 per column.")
    return rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2


def _ratio(covariance: Floats, squared: Floats) -> Floats:
    """Return covariance / sqrt(squared), 0 where a column is constant."""
    root = np.sqrt(squared)
    return np.clip(np.divide(covariance, root, out=np.zeros_like(root), where=root > 0), -1.0, 1.0)


def _blocks(
    predicted: Floats,
    measured: Floats,
    resamples: int,
    rng: np.random.Generator,
    groups: Sequence[NDArray[np.int64]] | None = None,
) -> Iterator[tuple[slice, Floats]]:
    """Yield (rows, (b, K, T) correlations) for consecutive blocks of resamples.

    The arithmetic is on doubled centred ranks, which are integers of size m at most, so every sum is below
    m^3: single precision holds them exactly up to m = 256, double precision is used above.
    """
    k, m, n_tasks = predicted.shape
    dtype = np.float32 if m**3 <= 1 << 24 else np.float64
    size = max(512, BLOCK_ELEMENTS // m)
    columns = [[_Column(predicted[i, :, t]) for i in range(k)] for t in range(n_tasks)]
    truths = [_Column(measured[:, t]) for t in range(n_tasks)]
    for start in range(0, resamples, size):
        b = min(size, resamples - start)
        counts = np.empty((m, b), dtype)
        for members in groups or (np.arange(m),):
            counts[members] = resample_counts(b, len(members), rng)
        cumulated = np.empty((m + 1, b), dtype)
        correlations = np.empty((b, k, n_tasks))
        for t, truth in enumerate(truths):
            ranks = truth.doubled_ranks(counts, cumulated)
            weighted = counts * ranks
            spread = np.einsum("ib,ib->b", weighted, ranks).astype(np.float64)
            for i, column in enumerate(columns[t]):
                other = column.doubled_ranks(counts, cumulated)
                covariance = np.einsum("ib,ib->b", weighted, other).astype(np.float64)
                other_spread = np.einsum("ib,ib,ib->b", counts, other, other).astype(np.float64)
                correlations[:, i, t] = _ratio(covariance, spread * other_spread)
        yield slice(start, start + b), correlations


def resample_counts(b: int, m: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return (m, b) counts: how often each of m subsets is in each of b resamples of m draws."""
    drawn = rng.integers(m, size=(b, m))
    drawn += np.arange(b)[:, None] * m
    return np.bincount(drawn.ravel(), minlength=b * m).reshape(b, m).T


class _Column:
    """A column's order and tie groups, from which its ranks in any resample follow without sorting."""

    def __init__(self, values: Floats) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.below = np.searchsorted(ordered, values, side="left")
        self.up_to = np.searchsorted(ordered, values, side="right")

    def doubled_ranks(self, counts: NDArray, cumulated: NDArray) -> NDArray:
        """Return (m, b) doubled centred average ranks: 2 rank - (m + 1) = n(smaller) + n(smaller or equal) -
        m.

        Args:
            counts: (m, b) counts of the resamples.
            cumulated: (m + 1, b) buffer, overwritten.
        """
        cumulated[0] = 0
        # Row by row: numpy's cumsum along the first axis walks down one column at a time, ten times slower.
        for position, item in enumerate(self.order):
            np.add(cumulated[position], counts[item], out=cumulated[position + 1])
        ranks = cumulated.take(self.below, axis=0)
        ranks += cumulated.take(self.up_to, axis=0)
        ranks -= len(counts)
        return ranks
