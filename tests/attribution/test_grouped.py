"""Grouped attribution against loops over groups, and the partitions it is given."""

from __future__ import annotations

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.attribution.group_gradients import group_gradients
from grasp_pipeline.attribution.grouped import Grouped, Groups, group_means
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.methods.grad_dot import GradDot
from grasp_pipeline.attribution.methods.grouped_trak import grouped_trak
from grasp_pipeline.attribution.partition import group_count, kmeans_groups, random_groups, streaming_groups
from grasp_pipeline.attribution.protocol import AdditiveAttributor
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.run import Texts, sketch_chunks

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

    def influence(self, groups: Groups) -> AdditiveAttributor:
        return DampedInfluence(groups.sketches, groups.sizes, self.targets, RHO)

    def groups(self, labels: np.ndarray | None = None) -> Groups:
        return group_means(self.sketches, self.tokens, self.labels if labels is None else labels)


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
    method = Grouped(c.influence, c.groups(), form)
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
    alone = Grouped(c.influence, c.groups(labels), form)
    plain = DampedInfluence(c.sketches, c.tokens, c.targets, RHO, form)
    expected = plain.predict(c.membership)
    np.testing.assert_allclose(alone.predict(c.membership), expected, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_whole_groups_have_their_groups_score(seed: int) -> None:
    c = Corpus(seed)
    groups = c.groups()
    inner = GradDot(groups.sketches, groups.sizes, c.targets, "sum")
    method = Grouped(lambda g: GradDot(g.sketches, g.sizes, c.targets), groups, "sum")
    of_groups = np.eye(len(groups.sizes))
    np.testing.assert_allclose(
        method.predict(of_groups[:, groups.codes]), inner.predict(of_groups), rtol=1e-9
    )


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
    with pytest.raises(InputError, match="one of each for every chunk"):
        c.groups(c.labels[1:])
    with pytest.raises(InputError, match="one for each of 60"):
        group_means(c.sketches, c.tokens[1:], c.labels)
    with pytest.raises(InputError, match="scores of shape"):
        Grouped(lambda g: GradDot(g.sketches[:2], g.sizes[:2], c.targets), c.groups())
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


def test_streaming_groups_find_separate_clouds_whatever_the_blocks() -> None:
    draw = generator("streamed clouds")
    truth = draw.integers(0, 4, 2000)
    points = (30 * np.eye(4, 90)[truth] + draw.standard_normal((2000, 90))).astype(np.float32)
    labels = streaming_groups(points, 24, "stream")
    assert all(len(set(truth[labels == g].tolist())) <= 1 for g in range(24))
    np.testing.assert_array_equal(labels, streaming_groups(ArrayBlocks(points, block_rows=7), 24, "stream"))
    unit = streaming_groups(points * draw.uniform(0.01, 100, (2000, 1)), 24, "stream", normalise=True)
    assert all(len(set(truth[unit == g].tolist())) <= 1 for g in range(24))
    with pytest.raises(InputError, match="not all finite"):
        streaming_groups(np.full((3, 2), np.nan), 2)
    with pytest.raises(ConfigError, match="between 1 and"):
        streaming_groups(points, 0)


@pytest.mark.parametrize("batch_tokens", [10_000, 30])
def test_one_backward_pass_per_group_gives_the_means_of_its_chunks(batch_tokens: int) -> None:
    model = toys.tiny_model("llama")
    draw = generator("group gradients")
    chunks = [draw.integers(0, toys.VOCAB, draw.integers(1, toys.LENGTH + 1)).tolist() for _ in range(14)]
    labels = np.array([3, 3, 1, 1, 1, 9, 3, 1, 9, 9, 3, 1, 3, 1])
    sketcher = FullSketcher(model, model.parameters(), 32, 2, 0)
    sketches, losses = sketch_chunks(sketcher, chunks, [str(i) for i in range(14)], 0, 512)
    expected = group_means(sketches, [len(c) for c in chunks], labels, losses)
    found = group_gradients(sketcher, Texts(TokenLists.of(chunks), 0), labels, batch_tokens)
    np.testing.assert_allclose(found.sketches, expected.sketches, rtol=1e-4, atol=1e-5)
    assert found.losses is not None
    assert expected.losses is not None
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    np.testing.assert_array_equal(found.sizes, expected.sizes)
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert found.passes == 3 if batch_tokens > 1000 else found.passes > 3


def test_trak_of_groups_is_trak_of_their_summed_gradients() -> None:
    c = Corpus()
    losses = generator("losses").uniform(0.5, 4, N)
    groups = group_means(c.sketches, c.tokens, c.labels, losses)
    assert groups.losses is not None
    sums = groups.sketches * groups.sizes[:, None]
    kernel = 0.0
    for total, loss in zip(sums, groups.losses, strict=True):
        kernel = kernel + np.outer(total, total) / (1 - np.exp(-loss)) ** 2
    inverse = np.linalg.pinv(np.asarray(kernel) + 2.0 * np.eye(D))
    method = Grouped(grouped_trak(c.targets, lambda _: 2.0), groups, "sum")
    expected = [
        [r @ inverse @ sums[g] * w / groups.sizes[g] for r in c.targets]
        for g, w in zip(groups.codes, c.tokens, strict=True)
    ]
    np.testing.assert_allclose(method.scores(), expected, rtol=1e-3, atol=1e-7)
