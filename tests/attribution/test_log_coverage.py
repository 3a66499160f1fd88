"""Log-coverage and its expansion: formulas twice, limits, and the properties that the optimiser rests on."""

from __future__ import annotations

from itertools import pairwise
from math import inf, log

import numpy as np
import pytest

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.attribution.protocol import AdditiveAttributor, Attributor
from grasp_pipeline.attribution.task_metric import Geometry, TaskMetricSurrogate
from grasp_pipeline.corpus.events import EventCounts, count_events
from grasp_pipeline.errors import ConfigError, InputError

RNG = np.random.default_rng(3)
CHUNKS = [RNG.integers(0, 6, size=n).tolist() for n in RNG.integers(2, 12, size=24)]
QUERIES = [RNG.integers(0, 6, size=8).tolist() for _ in range(4)]
TASK = [0, 0, 1, 1]
SUBSETS = RNG.random((7, 24)) < 0.4


def counts() -> EventCounts:
    return count_events(TokenLists.of(CHUNKS), TokenLists.of(QUERIES), np.array(TASK), 2)


def slow(rho: float, form: str, growth: float = 1.25) -> np.ndarray:
    """The formulas word by word."""
    flat = [t for text in CHUNKS for t in text]
    vocabulary = 1 + max([*flat, *(t for text in QUERIES for t in text)])
    befores = [a for text in CHUNKS for a in text[:-1]]
    contexts = len({a for text in QUERIES for a in text[:-1]})
    out = np.zeros((len(SUBSETS), 2))
    for s, subset in enumerate(SUBSETS):
        texts = [text for text, inside in zip(CHUNKS, subset, strict=True) if inside]
        tokens = sum(len(text) for text in texts)
        pairs = [pair for text in texts for pair in pairwise(text)]
        smoothing = rho * (tokens / len(flat)) ** (growth - 1)
        for t in range(2):
            events = [
                pair for text, task in zip(QUERIES, TASK, strict=True) if task == t for pair in pairwise(text)
            ]
            for a, b in events:
                p_b = (flat.count(b) + 1) / (len(flat) + vocabulary)
                p_a = (befores.count(a) + 1) / (len(flat) + contexts)
                mu = pairs.count((a, b)) / tokens
                if form == "joint":
                    value = log(mu + rho * p_a * p_b)
                else:
                    of_a = sum(first == a for first, _ in pairs) / tokens
                    value = log((mu + smoothing * p_b) / (of_a + smoothing))
                out[s, t] += value / len(events)
    return out


@pytest.mark.parametrize("form", ["joint", "conditional"])
@pytest.mark.parametrize("rho", [0.009, 0.6, 3.0])
def test_predictions_are_the_formulas(rho: float, form: str) -> None:
    made = LogCoverage(counts(), rho, "joint" if form == "joint" else "conditional")
    assert isinstance(made, Attributor)
    np.testing.assert_allclose(made.predict(SUBSETS), slow(rho, form), rtol=1e-9)


def test_copies_of_a_subset_change_nothing_in_the_joint_form() -> None:
    twice = count_events(TokenLists.of(CHUNKS * 2), TokenLists.of(QUERIES), np.array(TASK), 2)
    both = np.concatenate([SUBSETS, SUBSETS], axis=1)
    once = np.concatenate([SUBSETS, np.zeros_like(SUBSETS)], axis=1)
    made = LogCoverage(twice, 0.6)
    np.testing.assert_allclose(made.predict(both), made.predict(once), rtol=1e-12)


def test_a_large_rho_is_the_additive_limit() -> None:
    additive = LogCoverage(counts(), inf)
    assert isinstance(additive, AdditiveAttributor)
    rho = 1e7
    whole = LogCoverage(counts(), rho).predict(SUBSETS)
    at_zero = counts().weights @ np.log(LogCoverage(counts(), rho).floor)
    np.testing.assert_allclose(rho * (whole - at_zero), additive.predict(SUBSETS), rtol=1e-4)
    tokens = SUBSETS @ counts().n_tokens
    np.testing.assert_allclose((SUBSETS @ additive.scores()) / tokens[:, None], additive.predict(SUBSETS))


def test_the_joint_form_is_concave_in_the_weights() -> None:
    made = LogCoverage(counts(), 0.1)
    n = counts().n_tokens.astype(float)
    for _ in range(50):
        a, b = RNG.random((2, 24))
        a, b = a / (a @ n), b / (b @ n)
        left, right, middle = made.predict(np.stack([a, b, (a + b) / 2]))
        assert (middle >= (left + right) / 2 - 1e-12).all()


def test_the_quadratic_form_is_the_second_order_expansion_at_its_centre() -> None:
    given = counts()
    made = TaskMetricSurrogate(given, rho=2.5, lam=1.0, blend=0.2)
    floor = 2.5 * given.context_rate * given.next_rate
    centre = 0.8 * given.pool_rate + 0.2 * given.weights
    for t in range(2):
        whole = lambda mu, t=t: given.weights[t] @ np.log(mu + floor)  # noqa: E731
        quadratic = lambda mu, t=t: made.directions[t] @ mu - made.metrics[t] @ mu**2 / 2  # noqa: E731
        step = RNG.normal(size=len(floor)) * centre[t]
        for size in (1e-2, 1e-3):
            error = [
                (whole(centre[t] + sign * size * step) - whole(centre[t]))
                - (quadratic(centre[t] + sign * size * step) - quadratic(centre[t]))
                for sign in (1, -1)
            ]
            assert np.abs(error).max() < 5 * size**3


@pytest.mark.parametrize("geometry", ["own", "mean", "other", "pool", "identity"])
def test_every_geometry_prices_the_pool_alike(geometry: Geometry) -> None:
    given = counts()
    made = TaskMetricSurrogate(given, geometry=geometry)
    own = TaskMetricSurrogate(given)
    np.testing.assert_allclose(made.metrics @ given.pool_rate**2, own.metrics @ given.pool_rate**2)
    mu = given.rates(SUBSETS)[0]
    by_hand = [
        [made.directions[t] @ row - 0.5 * np.sum(made.metrics[t] * row * row) for t in range(2)] for row in mu
    ]
    np.testing.assert_allclose(made.predict(SUBSETS), by_hand)


def test_without_a_penalty_only_the_direction_is_left() -> None:
    given = counts()
    made = TaskMetricSurrogate(given, lam=0.0)
    np.testing.assert_allclose(made.predict(SUBSETS), given.rates(SUBSETS)[0] @ made.directions.T)


def test_bad_settings_and_subsets_are_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        LogCoverage(counts(), 0.0)
    with pytest.raises(ConfigError, match="no additive limit"):
        LogCoverage(counts(), inf, "conditional")
    with pytest.raises(ConfigError, match="is not additive"):
        LogCoverage(counts(), 0.1).scores()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        TaskMetricSurrogate(counts(), blend=1.5)
    with pytest.raises(InputError, match="do not fit"):
        LogCoverage(counts(), 0.1).predict(np.ones((1, 3), dtype=bool))
    with pytest.raises(InputError, match="subset 0 holds no tokens"):
        LogCoverage(counts(), 0.1).predict(np.zeros((1, 24), dtype=bool))
