"""AirRep against a loop written from its formula, and trained on utilities that only some directions decide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from grasp_pipeline.attribution.methods.airrep import (
    AirRep,
    Encoder,
    Task,
    Training,
    _pairs,
    _standardised,
    train_encoder,
)
from grasp_pipeline.attribution.protocol import Attributor
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.corpus.pool import HeldOut
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator

N, H, Q, T, M = 60, 8, 12, 6, 30
SHORT = Training(steps=150, every=50, rate=0.03)


def task_of(attention: bool) -> tuple[Task, Task]:
    """Return what is learned from, and subsets and queries that are not: two directions in eight decide."""
    draw = generator("airrep test")
    chunks, queries = (
        draw.standard_normal((rows, H)).astype(np.float32) + np.float32(0.5) for rows in (N, 2 * Q)
    )
    shares = np.repeat(np.eye(T), Q // T, axis=1) * T / Q
    tokens = draw.integers(5, 20, N)
    membership = draw.random((2 * M, N)) < 0.4
    true = np.diag([2.0, 2.0, *[0.0] * (H - 2)]).astype(np.float32)
    centred = chunks - chunks.mean(axis=0)

    def task(which: slice, subsets: slice) -> Task:
        asked = queries[which]
        made = AirRep(centred @ true, (asked - chunks.mean(axis=0)) @ true, shares, tokens, attention)
        return Task(chunks, asked, shares, tokens, membership[subsets], made.predict(membership[subsets]))

    return task(slice(0, Q), slice(0, M)), task(slice(Q, 2 * Q), slice(M, 2 * M))


@pytest.mark.parametrize("attention", [True, False])
def test_predictions_are_those_of_a_loop(attention: bool) -> None:
    task, _ = task_of(attention)
    draw = generator("airrep loop")
    chunks, queries = draw.standard_normal((N, 4)), draw.standard_normal((Q, 4))
    method = AirRep(
        chunks.astype(np.float32), queries.astype(np.float32), task.shares, task.n_tokens, attention
    )
    assert isinstance(method, Attributor)
    slow = np.zeros((M, T))
    for row, members in enumerate(task.membership):
        for t in range(T):
            for q in np.flatnonzero(task.shares[t]):
                weights, values = [], []
                for i in np.flatnonzero(members):
                    similar = float(queries[q] @ chunks[i])
                    weights.append(task.n_tokens[i] * (math.exp(abs(similar)) if attention else 1.0))
                    values.append(similar)
                slow[row, t] += task.shares[t, q] * np.average(values, weights=weights)
    np.testing.assert_allclose(method.predict(task.membership), slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", [True, False])
def test_what_utilities_depend_on_is_learned_for_unseen_subsets_and_queries(attention: bool) -> None:
    learned, unseen = task_of(attention)
    rows = np.arange(M)
    trained = train_encoder(learned, attention, SHORT)
    ranked = [
        float(task_level_spearman(unseen.predictions(each, attention, rows)[None], unseen.utilities)[0])
        for each in (Encoder.untrained(learned.chunks), trained)
    ]
    assert ranked[1] > ranked[0] + 0.1
    if not attention:
        assert (train_encoder(learned, attention, SHORT).projection == trained.projection).all()


def test_pairs_are_weighed_as_the_paper_says() -> None:
    utilities = generator("pairs").standard_normal((5, 2)) * 3 + 1
    gap, weight, above, below = _pairs(_standardised(utilities))
    standard = (utilities - utilities.mean(axis=0)) / utilities.std(axis=0)
    slow = {}
    for t in range(2):
        for a in range(5):
            for b in range(a + 1, 5):
                size = abs(standard[a, t] - standard[b, t])
                slow[a, b, t] = 0.0 if size < 0.1 else min(size, 5.0)
    total = sum(slow.values())
    for place, (a, b) in enumerate(zip(above.tolist(), below.tolist(), strict=True)):
        for t in range(2):
            assert float(weight[place, t]) == pytest.approx(slow[a, b, t] / total, rel=1e-5)
            assert float(gap[place, t]) == pytest.approx(standard[a, t] - standard[b, t], rel=1e-4)


def test_shares_of_queries_give_the_token_weighted_means_of_their_tasks() -> None:
    sizes = torch.tensor([1, 2, 3, 1, 2])
    held = HeldOut(torch.zeros((5, 4), dtype=torch.int64), sizes, np.array([0, 1, 0, 1, 1]), np.arange(5))
    values = generator("shares").standard_normal(5)
    np.testing.assert_allclose(held.shares(2) @ values, held.task_means(values, 2))


def test_what_cannot_be_trained_on_is_refused() -> None:
    task, _ = task_of(True)
    with pytest.raises(InputError, match="trained on 6 or more"):
        train_encoder(replace(task, membership=task.membership[:5], utilities=task.utilities[:5]))
    with pytest.raises(InputError, match="one finite utility"):
        train_encoder(replace(task, utilities=np.full((M, T), np.nan)))
    with pytest.raises(InputError, match="the same features"):
        Encoder.untrained(np.ones((4, 2)))
    made = AirRep(task.chunks, task.queries, task.shares, task.n_tokens)
    with pytest.raises(InputError, match="subset 0 holds no tokens"):
        made.predict(np.zeros((1, N), dtype=bool))
    with pytest.raises(InputError, match=r"give \(n, p\)"):
        AirRep(task.chunks[:, :3], task.queries, task.shares, task.n_tokens)


@pytest.mark.parametrize("attention", [True, False])
def test_a_subset_far_from_the_strongest_chunk_has_a_value(attention: bool) -> None:
    """Attention is taken beside the strongest chunk of the pool, which a subset need not hold."""
    chunks = np.array([[4000.0], [1.0], [2.0]], dtype=np.float32)
    made = AirRep(chunks, np.ones((1, 1), dtype=np.float32), np.ones((1, 1)), np.ones(3), attention)
    found = made.predict(np.array([[True, False, False], [False, True, True]]))
    assert found[0, 0] == pytest.approx(4000)
    assert found[1, 0] == pytest.approx(1.5)
