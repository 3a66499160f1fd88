"""Every attribution method against a loop over subsets and chunks, written from its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.methods.distinct_documents import DistinctDocuments
from grasp_pipeline.attribution.methods.grad_dot import GradDot
from grasp_pipeline.attribution.methods.quadratic_only import quadratic_from_means
from grasp_pipeline.attribution.methods.random_score import RandomScore
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.protocol import AdditiveAttributor, Attributor
from grasp_pipeline.attribution.surrogate import Surrogate, predict_from_means, subset_means
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator

N, D, T, M = 60, 7, 3, 9
FORMS: list[Form] = ["mean", "sum"]


class World:
    """A small corpus: sketches, token counts, targets, memberships, in float64 for the slow loops."""

    def __init__(self, seed: int = 0) -> None:
        draw = generator("world", seed)
        self.sketches = (draw.standard_normal((N, D)) + 0.5).astype(np.float32)
        self.tokens = draw.integers(1, 129, N)
        self.targets = draw.standard_normal((T, D))
        self.membership = draw.random((M, N)) < draw.uniform(0.2, 0.8, (M, 1))
        self.membership[:, 0] = True
        root = draw.standard_normal((D, D))
        self.metric = root @ root.T + np.eye(D)

    def slow_f(self, metric: Any, lam: float, form: str) -> list[list[float]]:
        values = []
        for members in self.membership:
            total, size = np.zeros(D), 0
            for i in np.nonzero(members)[0]:
                total += self.tokens[i] * self.sketches[i].astype(np.float64)
                size += self.tokens[i]
            mean = total if form == "sum" else total / size
            values.append([r @ metric @ mean - lam / 2 * (mean @ metric @ mean) for r in self.targets])
        return values


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.4, 1.0, 3.0]), st.booleans())
def test_surrogate_equals_its_formula(seed: int, lam: float, whitened: bool) -> None:
    world = World(seed)
    metric = world.metric if whitened else None
    fast = Surrogate(world.sketches, world.tokens, world.targets, metric, lam).predict(world.membership)
    np.testing.assert_allclose(
        fast, world.slow_f(world.metric if whitened else np.eye(D), lam, "mean"), rtol=1e-4, atol=1e-4
    )


def test_a_grid_shares_one_pass() -> None:
    world = World()
    means = subset_means(world.sketches, world.tokens, world.membership)
    for metric in (None, world.metric):
        for lam in (0.0, 0.7):
            np.testing.assert_array_equal(
                predict_from_means(means, world.targets, metric, lam),
                Surrogate(world.sketches, world.tokens, world.targets, metric, lam).predict(world.membership),
            )


@pytest.mark.parametrize("form", FORMS)
def test_additive_methods_equal_their_formulas(form: Form) -> None:
    world = World()
    metric = metric_matrix(second_moment(world.sketches, world.tokens), 0.5)
    cases = [
        (GradDot(world.sketches, world.tokens, world.targets, form), np.eye(D)),
        (DampedInfluence(world.sketches, world.tokens, world.targets, 0.5, form), metric),
        (Surrogate(world.sketches, world.tokens, world.targets, metric, 0.0, form), metric),
    ]
    for method, inner in cases:
        slow = np.array(world.slow_f(inner, 0.0, form))
        np.testing.assert_allclose(method.predict(world.membership), slow, rtol=1e-4, atol=1e-4)
        scores = [
            [world.tokens[i] * (r @ inner @ world.sketches[i]) for r in world.targets] for i in range(N)
        ]
        np.testing.assert_allclose(method.scores(), scores, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_additive_predictions_follow_from_scores(form: Form) -> None:
    world = World()
    methods: list[AdditiveAttributor] = [
        GradDot(world.sketches, world.tokens, world.targets, form),
        DampedInfluence(world.sketches, world.tokens, world.targets, 1.0, form),
        RandomScore(world.tokens, T, 3, form),
        Surrogate(world.sketches, world.tokens, world.targets, world.metric, 0.0, form),
    ]
    for method in methods:
        assert isinstance(method, AdditiveAttributor)
        expected = world.membership @ method.scores()
        if form == "mean":
            expected = expected / (world.membership @ world.tokens)[:, None]
        np.testing.assert_allclose(method.predict(world.membership), expected, rtol=1e-3, atol=1e-4)


def test_quadratic_only_is_the_surrogate_without_a_task() -> None:
    world = World()
    means = subset_means(world.sketches, world.tokens, world.membership)
    no_task = Surrogate(world.sketches, world.tokens, np.zeros((T, D)), world.metric, 1.0)
    np.testing.assert_allclose(
        quadratic_from_means(means, T, world.metric), no_task.predict(world.membership)
    )


def test_distinct_documents_counts_clusters() -> None:
    world = World()
    clusters = np.array([f"c{i % 11}" for i in range(N)])
    slow = [[float(len(set(clusters[members])))] * T for members in world.membership]
    method = DistinctDocuments(clusters, T)
    assert isinstance(method, Attributor)
    np.testing.assert_array_equal(method.predict(world.membership), slow)
    np.testing.assert_array_equal(method.predict(world.membership * 0.3), slow)


def test_random_scores_depend_on_the_seed_alone() -> None:
    tokens = World().tokens
    np.testing.assert_array_equal(RandomScore(tokens, T, 1).scores(), RandomScore(tokens, T, 1).scores())
    assert not np.array_equal(RandomScore(tokens, T, 1).scores(), RandomScore(tokens, T, 2).scores())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_lambda_one_ranks_by_distance_to_the_task(seed: int, unit: float) -> None:
    """F with lambda 1 is a constant minus half the squared distance; the unit of phi changes no rank."""
    world = World(seed)
    means = subset_means(world.sketches, world.tokens, world.membership)
    f = predict_from_means(means, world.targets, None, 1.0)
    distance = ((means.means[:, None] - world.targets) ** 2).sum(axis=2)
    np.testing.assert_allclose(
        f + distance / 2, np.tile((world.targets**2).sum(axis=1) / 2, (M, 1)), atol=1e-6
    )
    scaled = subset_means(np.float32(unit) * world.sketches, world.tokens, world.membership)
    np.testing.assert_allclose(
        predict_from_means(scaled, unit * world.targets, None, 1.0), unit**2 * f, rtol=1e-3, atol=1e-3
    )


def test_copies_of_a_subset_have_its_value_in_the_mean_form() -> None:
    world = World()
    twice = np.concatenate([world.sketches, world.sketches])
    tokens = np.concatenate([world.tokens, world.tokens])
    doubled = np.concatenate([world.membership, world.membership], axis=1)
    for lam in (0.0, 1.0):
        np.testing.assert_allclose(
            Surrogate(twice, tokens, world.targets, None, lam).predict(doubled),
            Surrogate(world.sketches, world.tokens, world.targets, None, lam).predict(world.membership),
            rtol=1e-4,
            atol=1e-5,
        )


def test_refusals() -> None:
    world = World()
    with pytest.raises(ConfigError, match="needs lambda 0"):
        Surrogate(world.sketches, world.tokens, world.targets, None, 0.5, "sum")
    with pytest.raises(ConfigError, match="lambda is -1"):
        Surrogate(world.sketches, world.tokens, world.targets, None, -1)
    with pytest.raises(ConfigError, match="not additive"):
        Surrogate(world.sketches, world.tokens, world.targets, None, 0.5).scores()
    with pytest.raises(ConfigError, match="form is 'median'"):
        GradDot(world.sketches, world.tokens, world.targets, "median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="damping above 0"):
        DampedInfluence(world.sketches, world.tokens, world.targets, 0.0)
    empty = np.zeros((2, N), dtype=bool)
    empty[0] = True
    with pytest.raises(InputError, match="subset 1 holds no tokens"):
        Surrogate(world.sketches, world.tokens, world.targets).predict(empty)
    with pytest.raises(InputError, match="subset 1 holds no tokens"):
        GradDot(world.sketches, world.tokens, world.targets).predict(empty)
    with pytest.raises(InputError, match="do not belong together"):
        subset_means(world.sketches, world.tokens[:-1], world.membership)
    world.sketches[3, 2] = np.nan
    with pytest.raises(InputError, match="not finite"):
        subset_means(world.sketches, world.tokens, np.ones((1, N), dtype=bool))
