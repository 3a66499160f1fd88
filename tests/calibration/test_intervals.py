"""Bootstrap intervals cover what they say: simulated, for means over cells, one cell, strata and paired gains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binom, norm

from grasp_pipeline.calibration.intervals import bootstrap_interval, strata_groups, widened
from grasp_pipeline.calibration.rank import bootstrap_task_spearman, task_level_spearman

SHIFTS = {"uniform": (0.0, 0.4), "fixed_size": (-3.0, 1.0), "tilted": (0.5, 1.2), "finalists": (1.0, 0.8)}
"""Mean and spread of the utilities of a stratum."""

SIZES = {"uniform": 12, "fixed_size": 10, "tilted": 12, "finalists": 10}
ALONE = {"uniform": 12}
Draw = tuple[np.ndarray, np.ndarray, list[str]]


def population(rng: np.random.Generator, sizes: dict[str, int], level: float, tasks: int = 2) -> Draw:
    """Return predictions (2, m, T) of two methods whose errors go together, utilities (m, T) and m strata."""
    utilities, predictions, strata = [], [], []
    for stratum, n in sizes.items():
        shift, spread = SHIFTS[stratum]
        own = shift + spread * (0.8 * rng.normal(size=(n, 1)) + 0.6 * rng.normal(size=(n, tasks)))
        shared = rng.normal(size=(n, tasks))
        errors = [shared + rng.normal(size=(n, tasks)) for _ in range(2)]
        predictions.append(
            np.stack([own + level * s * error for s, error in zip((0.2, 0.32), errors, strict=True)])
        )
        utilities.append(own)
        strata += [stratum] * n
    return np.concatenate(predictions, axis=1), np.concatenate(utilities), strata


def simulate(sizes: dict[str, int], cells: int, runs: int, resamples: int, seed: int) -> Iterator[tuple]:
    """Yield (figures, draws, truth) of runs: two methods' means over cells and their gain."""
    levels = np.linspace(0.5, 2.5, cells)
    many = {stratum: 900 * n for stratum, n in sizes.items()}
    truths = [
        task_level_spearman(*population(np.random.default_rng([seed, i]), many, level, 8)[:2])
        for i, level in enumerate(levels)
    ]
    truth = with_gain(np.mean(truths, axis=0))
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        observed, drawn = [], []
        for level in levels:
            predictions, utilities, strata = population(rng, sizes, level)
            groups = strata_groups(strata, len(strata))
            observed.append(task_level_spearman(predictions, utilities))
            draws = bootstrap_task_spearman(predictions, utilities, resamples, rng, groups)
            drawn.append(widened(draws, groups))
        yield with_gain(np.mean(observed, axis=0)), with_gain(np.mean(drawn, axis=0)), truth


def with_gain(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values[..., :1] - values[..., 1:]], axis=-1)


def coverage(
    sizes: dict[str, int], cells: int, runs: int, resamples: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often, of `runs`, the interval and the percentile interval hold the truth, (3,) each."""
    inside, percentile = np.zeros((2, 3), dtype=int)
    for value, draws, truth in simulate(sizes, cells, runs, resamples, seed=cells):
        low, high = bootstrap_interval(value, draws, limit=1)
        inside += (low <= truth) & (truth <= high)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        percentile += (low <= truth) & (truth <= high)
    return inside, percentile


def accepted(runs: int, least: float = 0.925) -> int:
    """Return the fewest hits of `runs` that a coverage of `least` gives with a probability of a thousandth or less."""
    return int(binom.ppf(0.001, runs, least))


@pytest.mark.parametrize(("sizes", "most"), [(SIZES, 0.8), (ALONE, 0.93)], ids=["all strata", "one stratum"])
def test_intervals_of_means_over_cells_cover(sizes: dict[str, int], most: float) -> None:
    inside, percentile = coverage(sizes, cells=12, runs=60)
    assert (inside >= accepted(60)).all(), inside / 60
    assert percentile[0] / 60 < most, "percentile intervals of the better method do not"


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 4, 12])
@pytest.mark.parametrize("sizes", [SIZES, ALONE], ids=["all strata", "one stratum"])
def test_intervals_cover_at_length(sizes: dict[str, int], cells: int) -> None:
    inside, _ = coverage(sizes, cells, runs=1000, resamples=200)
    assert (inside >= accepted(1000)).all(), inside / 1000


def test_an_interval_is_the_value_less_the_bias_and_normal_quantiles_of_the_spread() -> None:
    draws = np.array([[0.1, 5.0], [0.3, 5.0], [0.2, 5.0]])
    low, high = bootstrap_interval([0.4, 7.0], draws, 0.9)
    reach = norm.ppf(0.95) * np.std([0.1, 0.3, 0.2])
    np.testing.assert_allclose(low, [0.6 - reach, 9.0])
    np.testing.assert_allclose(high, [0.6 + reach, 9.0])


def test_an_interval_ends_where_the_figure_must_and_leaves_out_draws_without_one() -> None:
    draws = np.array([0.8, 0.9, 1.0, np.nan])
    low, high = bootstrap_interval(0.98, draws, limit=1)
    free_low, free_high = bootstrap_interval(0.98, draws)
    assert (low, high) == (free_low, 1.0)
    assert free_high > 1


def test_widening_keeps_the_mean_and_counts_the_strata() -> None:
    draws = np.array([[1.0, -2.0], [3.0, 4.0]])
    wide = widened(draws, [np.arange(6), np.arange(6, 10)])
    np.testing.assert_allclose(wide.mean(axis=0), draws.mean(axis=0))
    np.testing.assert_allclose(np.ptp(wide, axis=0), np.ptp(draws, axis=0) * np.sqrt(10 / 8))


def test_strata_are_drawn_apart_and_small_ones_together() -> None:
    labels = [("a", -1)] * 5 + [("b", 0)] * 4 + [("b", 1)] * 1 + [("c", -1)] * 2
    groups = strata_groups(labels, 12)
    assert sorted(sorted(group.tolist()) for group in groups) == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9, 10, 11],
    ]
    assert [group.tolist() for group in strata_groups(None, 3)] == [[0, 1, 2]]
    with pytest.raises(ValueError, match="expected one each"):
        strata_groups(labels, 3)
