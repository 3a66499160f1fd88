"""Seed reliability and the noise ceiling."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from grasp_pipeline.calibration.ceiling import seed_reliability
from grasp_pipeline.calibration.rank import spearman
from grasp_pipeline.errors import ConfigError


def measured(rng: np.random.Generator, m: int, noise: float, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    truth = rng.normal(size=(m, 2))
    return truth, truth[:, :, None] + noise * rng.normal(size=(m, 2, seeds))


def test_spearman_brown_by_hand() -> None:
    _, utilities = measured(np.random.default_rng(0), 30, 0.7, 3)
    result = seed_reliability(utilities)
    for t in range(2):
        pairs = [
            np.asarray(spearmanr(utilities[:, t, a], utilities[:, t, b]))[0]
            for a, b in combinations(range(3), 2)
        ]
        r = np.mean(pairs)
        assert result.per_task[t] == pytest.approx(3 * r / (1 + 2 * r))
    assert result.mean == pytest.approx(result.per_task.mean())
    np.testing.assert_allclose(result.ceiling_per_task, np.sqrt(result.per_task))
    assert result.noise_ceiling == pytest.approx(result.ceiling_per_task.mean())


@pytest.mark.parametrize("noise", [0.3, 1.0])
@pytest.mark.parametrize("seeds", [2, 5])
def test_a_perfect_predictor_reaches_the_ceiling(noise: float, seeds: int) -> None:
    truth, utilities = measured(np.random.default_rng(1), 4000, noise, seeds)
    reached = spearman(truth.T, utilities.mean(axis=2).T)
    np.testing.assert_allclose(reached, seed_reliability(utilities).ceiling_per_task, atol=0.02)


def test_equal_seeds_are_reliable_and_opposed_ones_are_not() -> None:
    column = np.arange(10.0)
    assert seed_reliability(np.stack([column, column], axis=-1)[:, None]).noise_ceiling == pytest.approx(1)
    assert seed_reliability(np.stack([column, -column], axis=-1)[:, None]).noise_ceiling == 0


def test_one_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 training seeds"):
        seed_reliability(np.zeros((10, 2, 1)))
    with pytest.raises(ValueError, match="expected"):
        seed_reliability(np.zeros((10, 2)))
    with pytest.raises(ValueError, match=r"utilities\[0, 0, 0\] is nan"):
        seed_reliability(np.full((10, 2, 2), np.nan))
