"""Rank correlation and its bootstrap, against scipy resample by resample."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from grasp_pipeline.calibration import rank
from grasp_pipeline.calibration.rank import (
    bootstrap_spearman,
    bootstrap_task_spearman,
    spearman,
    task_level_spearman,
)

VALUES = st.integers(-4, 4).map(float)
"""Few distinct values, so that ties and constant columns are common."""


def scipy_spearman(x: np.ndarray, y: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rho = float(np.asarray(spearmanr(x, y))[0])
    return 0.0 if np.isnan(rho) else rho


def slow_bootstrap(predictions: np.ndarray, utilities: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Rank every resample anew, one configuration and task at a time."""
    k, _, n_tasks = predictions.shape
    out = np.empty((len(drawn), k, n_tasks))
    for b, chosen in enumerate(drawn):
        for i in range(k):
            for t in range(n_tasks):
                out[b, i, t] = scipy_spearman(predictions[i, chosen, t], utilities[chosen, t])
    return out


@given(arrays(float, (2, 9), elements=VALUES))
def test_spearman_equals_scipy_with_ties(pair: np.ndarray) -> None:
    assert spearman(pair[0], pair[1]) == pytest.approx(scipy_spearman(pair[0], pair[1]), abs=1e-12)


@given(arrays(float, (2, 12), elements=VALUES), st.floats(0.1, 10))
def test_spearman_is_symmetric_bounded_and_blind_to_monotone_maps(pair: np.ndarray, slope: float) -> None:
    x, y = pair
    rho = float(spearman(x, y))
    assert -1 <= rho <= 1
    assert rho == spearman(y, x)
    assert rho == spearman(np.exp(slope * x), y)
    assert rho == pytest.approx(-spearman(-x, y), abs=1e-15)


def test_constant_column_correlates_zero() -> None:
    assert spearman(np.ones(5), np.arange(5)) == 0


def test_task_level_is_the_mean_of_tasks() -> None:
    rng = np.random.default_rng(0)
    predictions, utilities = rng.normal(size=(3, 20, 4)), rng.normal(size=(20, 4))
    expected = [
        np.mean([scipy_spearman(predictions[k, :, t], utilities[:, t]) for t in range(4)]) for k in range(3)
    ]
    np.testing.assert_allclose(task_level_spearman(predictions, utilities), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    arrays(float, (2, 7, 2), elements=VALUES),
    arrays(float, (7, 2), elements=VALUES),
    st.integers(0, 2**31),
)
def test_bootstrap_equals_the_slow_twin(predictions: np.ndarray, utilities: np.ndarray, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(7, size=(12, 7))
    fast = bootstrap_spearman(predictions, utilities, 12, np.random.default_rng(seed))
    np.testing.assert_allclose(fast, slow_bootstrap(predictions, utilities, drawn), atol=1e-12)


def test_bootstrap_in_double_precision_equals_the_slow_twin() -> None:
    rng = np.random.default_rng(1)
    m = 300
    predictions, utilities = rng.normal(size=(1, m, 1)), rng.integers(0, 9, size=(m, 1)).astype(float)
    drawn = np.random.default_rng(5).integers(m, size=(10, m))
    fast = bootstrap_spearman(predictions, utilities, 10, np.random.default_rng(5))
    np.testing.assert_allclose(fast, slow_bootstrap(predictions, utilities, drawn), atol=1e-12)


def test_task_level_bootstrap_is_the_mean_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    predictions, utilities = rng.normal(size=(3, 10, 2)), rng.normal(size=(10, 2))
    whole = bootstrap_task_spearman(predictions, utilities, 1300, np.random.default_rng(3))
    monkeypatch.setattr(rank, "BLOCK_ELEMENTS", 1)
    per_task = bootstrap_spearman(predictions, utilities, 1300, np.random.default_rng(3))
    np.testing.assert_array_equal(whole, per_task.mean(axis=-1))


def test_same_resamples_for_all_configurations() -> None:
    rng = np.random.default_rng(4)
    column, utilities = rng.normal(size=(1, 15, 1)), rng.normal(size=(15, 1))
    drawn = bootstrap_task_spearman(np.repeat(column, 3, axis=0), utilities, 50, rng)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(bad: float) -> None:
    predictions, utilities = np.zeros((2, 5, 3)), np.zeros((5, 3))
    predictions[1, 4, 2] = bad
    with pytest.raises(ValueError, match=r"predictions\[1, 4, 2\] is (nan|inf)"):
        task_level_spearman(predictions, utilities)
    utilities[0, 1] = bad
    with pytest.raises(ValueError, match=r"utilities\[0, 1\]"):
        bootstrap_task_spearman(np.zeros((2, 5, 3)), utilities, 10, np.random.default_rng(0))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected \(K, m, T\)"):
        task_level_spearman(np.zeros((2, 5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="2 subsets"):
        task_level_spearman(np.zeros((2, 1, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="paired"):
        spearman(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_spearman(np.zeros((2, 5, 3)), np.zeros((5, 3)), 0, np.random.default_rng(0))


def test_speed_of_a_calibration_sized_bootstrap() -> None:
    rng = np.random.default_rng(6)
    predictions, utilities = rng.normal(size=(40, 24, 4)), rng.normal(size=(24, 4))
    start = time.perf_counter()
    bootstrap_task_spearman(predictions, utilities, 4000, rng)
    assert time.perf_counter() - start < 3
