"""Grouped attribution against loops over groups, and the partitions it is given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.attribution.grouped import Grouped, group_means
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.methods.grad_dot import GradDot
from grasp_pipeline.attribution.partition import group_count, kmeans_groups, random_groups
from grasp_pipeline.attribution.protocol import AdditiveAttributor
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator

N, D, T, M, RHO = 60, 5, 2, 7, 0.5
FORMS: list[Form] = ["mean", "sum"]


class Corpus:
    def __init__(self, seed: int = 0) -> None:
        draw = generator("grouped", seed)
        self.sketches = (draw.standard_normal((N, D)) + 0.4).astype(np.float32)
        self.tokens = draw.integers(1, 129, N)
        self.targets = draw.standard_normal((T, D))
        self.labels = draw.choice(np.array(["a", "kk", "z", "q7", "b"]), N)
        self.membership = draw.random((M, N)) < 0.5
        self.membership[:, 0] = True

    def influence(self, means: np.ndarray, sizes: np.ndarray) -> AdditiveAttributor:
        return DampedInfluence(means, sizes, self.targets, RHO)


@pytest.mark.parametrize("form", FORMS)
def test_grouped_influence_equals_loops_over_groups(form: Form) -> None:
    c = Corpus()
    means, sizes = {}, {}
    for label in sorted(set(c.labels)):
        rows = [i for i in range(N) if c.labels[i] == label]
        sizes[label] = sum(int(c.tokens[i]) for i in rows)
        means[label] = sum(c.tokens[i] * c.sketches[i].astype(np.float64) for i in rows) / sizes[label]
    second = sum(sizes[g] * np.outer(means[g], means[g]) for g in means) / sum(sizes.values())
    damped = np.linalg.inv(second + RHO * np.trace(second) / D * np.eye(D))
    damped *= np.trace(second) / np.trace(damped @ second)
    scores = np.array(
        [[c.tokens[i] * (r @ damped @ means[c.labels[i]]) for r in c.targets] for i in range(N)]
    )
    method = Grouped(c.influence, c.sketches, c.tokens, c.labels, form)
    assert isinstance(method, AdditiveAttributor)
    np.testing.assert_allclose(method.scores(), scores, rtol=1e-3, atol=1e-3)
    for j, members in enumerate(c.membership):
        total = sum(scores[i] for i in range(N) if members[i])
        if form == "mean":
            total = total / sum(int(c.tokens[i]) for i in range(N) if members[i])
        np.testing.assert_allclose(method.predict(c.membership)[j], total, rtol=1e-3, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(FORMS))
def test_groups_of_one_change_nothing(seed: int, form: Form) -> None:
    c = Corpus(seed)
    labels = generator("singletons", seed).permutation(N) * 3 - 40
    alone = Grouped(c.influence, c.sketches, c.tokens, labels, form)
    plain = DampedInfluence(c.sketches, c.tokens, c.targets, RHO, form)
    expected = plain.predict(c.membership)
    np.testing.assert_allclose(alone.predict(c.membership), expected, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_whole_groups_have_their_groups_score(seed: int) -> None:
    c = Corpus(seed)
    means, sizes, codes = group_means(c.sketches, c.tokens, c.labels)
    inner = GradDot(means, sizes, c.targets, "sum")
    method = Grouped(lambda m, w: GradDot(m, w, c.targets), c.sketches, c.tokens, c.labels, "sum")
    of_groups = np.eye(len(sizes))
    np.testing.assert_allclose(method.predict(of_groups[:, codes]), inner.predict(of_groups), rtol=1e-9)


def test_random_groups_are_even_and_named_by_their_seed() -> None:
    labels = random_groups(23, 5, 3)
    assert sorted(np.bincount(labels)) == [4, 4, 5, 5, 5]
    np.testing.assert_array_equal(labels, random_groups(23, 5, 3))
    assert not np.array_equal(labels, random_groups(23, 5, 4))


def test_kmeans_finds_separate_clouds() -> None:
    draw = generator("clouds")
    truth = draw.integers(0, 4, 200)
    points = (30 * np.eye(4)[truth] + draw.standard_normal((200, 4))).astype(np.float16)
    labels = kmeans_groups(points, 12, 1)
    assert all(len(set(truth[labels == g].tolist())) <= 1 for g in range(12))
    np.testing.assert_array_equal(labels, kmeans_groups(points, 12, 1))


def test_kmeans_fits_few_rows_and_directions_and_reads_blocks_of_any_size() -> None:
    draw = generator("separate")
    truth = draw.integers(0, 3, 400)
    sketches = (8 * np.eye(3, 100)[truth] + 0.1 * draw.standard_normal((400, 100))).astype(np.float32)
    labels = kmeans_groups(ArrayBlocks(sketches), 12, "test", dimension=20, sample=100)
    assert labels.shape == (400,)
    assert all(len(set(truth[labels == g].tolist())) <= 1 for g in range(12))
    np.testing.assert_array_equal(
        labels, kmeans_groups(ArrayBlocks(sketches, block_rows=7), 12, "test", dimension=20, sample=100)
    )


def test_groups_of_few_chunks_are_not_made() -> None:
    assert [group_count(n, 64) for n in (3, 8, 100, 10_000)] == [1, 1, 12, 64]


def test_normalised_kmeans_groups_by_direction() -> None:
    draw = generator("directions")
    axis, length = draw.integers(0, 3, 150), draw.uniform(0.1, 100, (150, 1))
    points = length * (np.eye(3)[axis] + 0.01 * draw.standard_normal((150, 3)))
    labels = kmeans_groups(points, 9, normalise=True)
    assert all(len(set(axis[labels == g].tolist())) <= 1 for g in range(9))
    assert len(kmeans_groups(np.zeros((5, 2)), 3, normalise=True)) == 5


def test_refusals() -> None:
    c = Corpus()
    with pytest.raises(InputError, match="one for each of 60"):
        Grouped(c.influence, c.sketches, c.tokens, c.labels[1:])
    with pytest.raises(InputError, match="scores of shape"):
        Grouped(lambda m, w: GradDot(m[:2], w[:2], c.targets), c.sketches, c.tokens, c.labels)
    c.tokens[c.labels == "kk"] = 0
    with pytest.raises(InputError, match="group kk holds no tokens"):
        group_means(c.sketches, c.tokens, c.labels)
    for groups in (0, 8):
        with pytest.raises(ConfigError, match="between 1 and"):
            random_groups(7, groups)
        with pytest.raises(ConfigError, match="between 1 and"):
            kmeans_groups(np.eye(7), groups)
    with pytest.raises(InputError, match="not all finite"):
        kmeans_groups(np.full((3, 2), np.nan), 2)


def test_exact_groups_are_no_worse_and_repeatable() -> None:
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(12, 90)) * 3
    features = (centres[np.arange(240) % 12] + rng.normal(size=(240, 90))).astype(np.float32)

    def spread(labels: np.ndarray) -> float:
        return float(
            sum(np.square(features[labels == g] - features[labels == g].mean(0)).sum() for g in set(labels))
        )

    exact = kmeans_groups(features, 12, "x", exact_values=features.size)
    np.testing.assert_array_equal(exact, kmeans_groups(features, 12, "x", exact_values=features.size))
    assert spread(exact) <= spread(kmeans_groups(features, 12, "x"))
    np.testing.assert_array_equal(
        kmeans_groups(features, 12, "x"), kmeans_groups(features, 12, "x", exact_values=features.size - 1)
    )
