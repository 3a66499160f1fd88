"""The distilled index against slow twins, and against a teacher that the frozen features do not show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.attribution.distilled import (
    OUTLIERS,
    Distillation,
    Embedding,
    _with_outliers,
    distil,
    mean_average_precision,
    nearest_features,
)
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator

N, H, Q, C = 300, 12, 80, 60


class Case:
    """Features of which only the first three directions matter to the teacher."""

    def __init__(self) -> None:
        draw = generator("distilled test")
        self.features = (draw.standard_normal((N, H)) + 1).astype(np.float32)
        self.queries = (draw.standard_normal((Q, H)) + 1).astype(np.float32)
        chunks, queries = (x[:, :3] - 1 for x in (self.features, self.queries))
        norms = np.linalg.norm(chunks, axis=1) * np.linalg.norm(queries, axis=1)[:, None]
        self.effects = (queries @ chunks.T / norms).astype(np.float64)

    def distilled(self, steps: int, rows: slice) -> Embedding:
        candidates = nearest_features(self.features, self.queries[rows], C)
        effects = np.take_along_axis(self.effects[rows], candidates, axis=1)
        return distil(self.features, self.queries[rows], candidates, effects, Distillation(steps=steps))

    def precision(self, embedding: Embedding, rows: slice) -> float:
        similar = embedding(self.queries[rows]) @ embedding(self.features).T
        found = np.argsort(-similar, axis=1, kind="stable")
        return float(mean_average_precision(found, self.effects[rows], 10).mean())


def test_it_starts_at_the_cosine_of_the_features_and_learns_what_the_teacher_looks_at() -> None:
    case, learned, unseen = Case(), slice(0, 60), slice(60, 80)
    start = case.distilled(0, learned)
    similar = start(case.queries) @ start(case.features).T
    centred = case.features - case.features.mean(axis=0)
    asked = case.queries - case.features.mean(axis=0)
    slow = np.array([[q @ x / np.linalg.norm(q) / np.linalg.norm(x) for x in centred] for q in asked])
    np.testing.assert_allclose(similar, slow, atol=1e-5)
    assert (nearest_features(case.features, case.queries, 5) == np.argsort(-slow, axis=1)[:, :5]).all()
    before, after = (case.precision(each, unseen) for each in (start, case.distilled(300, learned)))
    assert after > before + 0.1


def test_the_same_teacher_gives_the_same_embedding_and_its_arrays_are_all_of_it() -> None:
    case, rows = Case(), slice(0, 20)
    first, again = case.distilled(20, rows), case.distilled(20, rows)
    back = Embedding.of(first.arrays())
    for other in (again, back):
        assert (other(case.queries) == first(case.queries)).all()


@settings(deadline=None)
@given(n=st.integers(2, 60), share=st.floats(0.1, 1.0), seed=st.integers(0, 5))
def test_outliers_are_no_candidates_and_are_placed_last(n: int, share: float, seed: int) -> None:
    draw = generator("outliers test", seed)
    c = max(2, int(share * n))
    candidates = np.stack([draw.permutation(n)[:c] for _ in range(3)])
    rows, targets = _with_outliers(candidates, draw.random((3, c)), n, "x")
    assert rows.shape == targets.shape == (3, c + min(round(OUTLIERS * c), n - c))
    assert (targets[:, c:] == 0).all()
    for row in rows:
        assert len(set(row.tolist())) == len(row)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 20))
def test_average_precision_is_that_of_a_loop(k: int, seed: int) -> None:
    draw = generator("precision test", seed)
    effects, found = draw.random((4, 9)), np.stack([draw.permutation(9) for _ in range(4)])
    slow = []
    for values, order in zip(effects, found, strict=True):
        relevant = set(np.argsort(-values)[:k].tolist())
        total = 0.0
        for j in range(1, k + 1):
            if order[j - 1] in relevant:
                total += len(relevant & set(order[:j].tolist())) / j
        slow.append(total / k)
    np.testing.assert_allclose(mean_average_precision(found, effects, k), slow)


def test_what_cannot_be_distilled_is_refused() -> None:
    case = Case()
    candidates = np.zeros((2, 1), dtype=np.int64)
    with pytest.raises(InputError, match="two candidates or more"):
        distil(case.features, case.queries[:2], candidates, np.zeros((2, 1)))
    candidates = np.zeros((2, 3), dtype=np.int64)
    with pytest.raises(InputError, match="not finite"):
        distil(case.features, case.queries[:2], candidates, np.full((2, 3), np.nan))
