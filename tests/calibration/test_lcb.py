"""The choice by lower confidence bound: what it adopts, what it refuses, and what it says."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.calibration.lcb import TAIL_RESAMPLES, Choice, Configuration, choose_configuration
from grasp_pipeline.calibration.rank import bootstrap_task_spearman, task_level_spearman
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator


def grid(lambdas: Sequence[float]) -> list[Configuration]:
    return [Configuration(f"c{i}", "full", 1.0, lam, "mean") for i, lam in enumerate(lambdas)]


def noisy(
    rng: np.random.Generator, noises: Sequence[float], m: int, tasks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that see the truth through noise of given size, half of it shared."""
    truth, shared = rng.normal(size=(m, tasks)), rng.normal(size=(m, tasks))
    own = rng.normal(size=(len(noises), m, tasks))
    return truth + np.asarray(noises)[:, None, None] * (shared + own) / np.sqrt(2), truth


def choose(lambdas: Sequence[float], predictions: np.ndarray, truth: np.ndarray, **changes: object) -> Choice:
    settings = {"confidence": 0.95, "resamples": 400, "seed_name": "test"} | changes
    return choose_configuration(grid(lambdas), predictions, truth, np.ones(len(lambdas)), **settings)  # type: ignore[arg-type]


def slow_bounds(observed: np.ndarray, drawn: np.ndarray, widen: float) -> list[float]:
    """The max-t bound by loops: one critical value for all columns."""
    errors = [float(np.std(column)) for column in drawn.T]
    largest = sorted(
        max((value - np.mean(drawn[:, k])) / errors[k] for k, value in enumerate(row)) for row in drawn
    )
    critical = largest[int(np.ceil(0.95 * (len(largest) - 1)))]
    return [observed[k] - critical * widen * errors[k] for k in range(len(errors))]


def test_bounds_are_those_of_a_loop_over_resamples() -> None:
    predictions, truth = noisy(np.random.default_rng(0), [0.8, 0.6, 0.5, 0.4], 20, 2)
    strata = ["a"] * 9 + ["b"] * 6 + ["c"] * 2 + ["d"] * 3
    groups = [np.arange(9), np.arange(9, 15), np.arange(15, 20)]
    choice = choose([0, 0, 1, 2], predictions, truth, resamples=1000, seed_name="twin", strata=strata)
    drawn = bootstrap_task_spearman(
        predictions, truth, 1000, generator("twin", "lcb"), sorted(groups, key=len)
    )
    observed = task_level_spearman(predictions, truth)
    widen = np.sqrt(20 / 17)
    np.testing.assert_allclose(choice.lower_bound, slow_bounds(observed, drawn, widen), rtol=0, atol=1e-12)
    against = [slow_bounds(observed[2:] - observed[a], drawn[:, 2:] - drawn[:, [a]], widen) for a in (0, 1)]
    np.testing.assert_allclose(choice.paired_lower_bound[2:], np.min(against, axis=0), rtol=0, atol=1e-12)
    assert (choice.paired_lower_bound[:2] == 0).all()
    np.testing.assert_array_equal(choice.rank_correlation, observed)


def test_strata_that_differ_are_not_counted_as_chance() -> None:
    """Utilities of two designs lie far apart: how many of each are drawn must not widen the bound."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(24, 2)) + np.repeat([0.0, 3.0], 12)[:, None]
    predictions = truth + np.array([1.0, 0.8])[:, None, None] * rng.normal(size=(2, 24, 2))
    apart = choose([0, 1], predictions, truth, strata=["a"] * 12 + ["b"] * 12)
    together = choose([0, 1], predictions, truth)
    assert (apart.lower_bound > together.lower_bound).all()
    with pytest.raises(ValueError, match="24 subsets have 2 strata"):
        choose([0, 1], predictions, truth, strata=["a", "b"])


@pytest.mark.parametrize("strata", [None, ["a"] * 10 + ["b"] * 6 + ["c"] * 4 + ["d"] * 4])
def test_the_bounds_of_all_configurations_hold_at_once(strata: list[str] | None) -> None:
    """The true correlations, from a large sample of the same design, lie above all bounds as often as promised."""
    noises, labels = [0.9, 0.7, 0.5], np.asarray(strata or ["a"] * 24)
    shift = np.array([ord(label) - ord("a") for label in labels])[:, None] * 0.7

    def draw(rng: np.random.Generator, times: int) -> tuple[np.ndarray, np.ndarray]:
        shifts = np.tile(shift, (times, 1))
        truth = rng.normal(size=(24 * times, 2)) + shifts
        return truth + np.asarray(noises)[:, None, None] * rng.normal(size=(3, 24 * times, 2)), truth

    true = task_level_spearman(*draw(np.random.default_rng(10**6), 400))
    trials = 200
    held = 0
    for trial in range(trials):
        predictions, truth = draw(np.random.default_rng(trial), 1)
        choice = choose([0, 0, 1], predictions, truth, seed_name=f"cover {trial}", strata=strata)
        held += (choice.lower_bound <= true).all()
    assert held / trials >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(
    ("m", "tasks", "lambdas", "strata"),
    [
        (24, 1, [0, 1], None),
        (12, 2, [0, 1], None),
        (24, 2, [0, 0, 1, 1, 1], None),
        (24, 2, [0, 0, 1, 1, 1], ["a"] * 12 + ["b"] * 4 + ["c"] * 8),
    ],
)
def test_under_the_null_a_penalty_is_adopted_no_more_often_than_promised(
    m: int, tasks: int, lambdas: list[float], strata: list[str] | None
) -> None:
    trials, adopted = 200, 0
    for trial in range(trials):
        predictions, truth = noisy(np.random.default_rng(trial), [0.6] * len(lambdas), m, tasks)
        choice = choose(lambdas, predictions, truth, seed_name=f"null {trial}", strata=strata)
        adopted += lambdas[choice.chosen] > 0
    # Two standard errors of a true rate of .05 above .05.
    assert adopted / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_a_better_penalty_is_adopted_and_explained() -> None:
    for trial in range(20):
        predictions, truth = noisy(np.random.default_rng(trial), [1.0, 1.0, 0.2, 0.4], 24, 4)
        choice = choose([0, 0, 1, 0.5], predictions, truth, seed_name=f"better {trial}")
        assert choice.chosen == 2
        assert choice.best_additive in (0, 1)
        assert choice.paired_lower_bound[2] > 0
        assert (choice.paired_lower_bound[:2] <= 0).all()
        assert choice.rank[2] == 1
        assert f"gains at least {choice.paired_lower_bound[2]:.3f} over the best additive" in choice.reason


def test_falling_back_is_said_plainly() -> None:
    predictions, truth = noisy(np.random.default_rng(3), [0.5, 0.5], 12, 2)
    predictions[1, :6] += 1.5
    choice = choose([0, 1], predictions, truth)
    assert choice.chosen == choice.best_additive == 0
    assert "Fell back" in choice.reason
    assert "not above 0" in choice.reason
    assert f"{choice.paired_lower_bound[1]:.3f}" in choice.reason


def test_a_higher_ranked_penalty_that_is_not_beyond_doubt_is_named() -> None:
    predictions, truth = noisy(np.random.default_rng(4), [0.62, 0.6], 24, 2)
    choice = choose([0, 1], predictions, truth)
    assert choice.rank[1] == 1
    assert choice.chosen == 0
    assert "ranks first by lower bound" in choice.reason


def test_ties_go_to_the_cheaper_sketch() -> None:
    predictions, truth = noisy(np.random.default_rng(5), [0.5], 20, 2)
    same = np.repeat(predictions, 3, axis=0)
    choice = choose_configuration(grid([0, 0, 0]), same, truth, [3.0, 1.0, 2.0], 0.95, 400, "tie")
    assert choice.chosen == 1
    np.testing.assert_array_equal(choice.rank, [3, 1, 2])


def test_too_few_resamples_are_raised_and_it_says_so() -> None:
    predictions, truth = noisy(np.random.default_rng(6), [0.5] * 8, 16, 1)
    choice = choose([0, 1, 1, 1, 1, 1, 1, 1], predictions, truth, resamples=200)
    assert choice.resamples == TAIL_RESAMPLES / 0.05
    assert f"Used {choice.resamples} bootstrap resamples instead of 200" in choice.reason
    assert choose([0], predictions[:1], truth, resamples=1300).resamples == 1300


def test_worthless_predictions_are_called_so() -> None:
    rng = np.random.default_rng(7)
    choice = choose([0], rng.normal(size=(1, 16, 2)), rng.normal(size=(16, 2)))
    assert "does not show" in choice.reason or "do not show" in choice.reason


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 100))
def test_the_order_of_the_grid_does_not_matter(order: list[int], seed: int) -> None:
    predictions, truth = noisy(np.random.default_rng(seed), [0.9, 0.7, 0.5, 0.4, 0.2], 16, 2)
    configurations, cost = grid([0, 1, 0, 0.5, 1.4]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    first = choose_configuration(configurations, predictions, truth, cost, 0.95, 400, "order")
    second = choose_configuration(
        [configurations[i] for i in order], predictions[order], truth, cost[order], 0.95, 400, "order"
    )
    assert second.configurations[second.chosen] == first.configurations[first.chosen]
    np.testing.assert_array_equal(second.rank, first.rank[order])
    np.testing.assert_array_equal(second.lower_bound, first.lower_bound[order])
    np.testing.assert_array_equal(second.paired_lower_bound, first.paired_lower_bound[order])
    assert sorted(first.rank) == [1, 2, 3, 4, 5]
    assert second.reason == first.reason


def test_what_cannot_be_decided_is_refused() -> None:
    predictions, truth = noisy(np.random.default_rng(8), [0.5, 0.5], 10, 2)
    with pytest.raises(ConfigError, match="lambda = 0"):
        choose([1, 2], predictions, truth)
    with pytest.raises(ConfigError, match="c0 more than once"):
        choose_configuration([grid([0])[0]] * 2, predictions, truth, [1, 1], 0.95, 400, "twice")
    with pytest.raises(ConfigError, match="confidence"):
        choose([0, 1], predictions, truth, confidence=1.0)
    with pytest.raises(ValueError, match="one of each"):
        choose([0, 1, 1], predictions, truth)
    predictions[1, 3, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"predictions of c1 \(full sketch, rho 1, lambda 1, mean form\)\[3, 0\]"
    ):
        choose([0, 1], predictions, truth)
