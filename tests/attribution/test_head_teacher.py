"""A convex head as a teacher: against refitting, and distilled into an index that beats the cosine it began from."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.attribution.convex.head import fit_head
from grasp_pipeline.attribution.convex.influence import HeadInfluence
from grasp_pipeline.attribution.distilled import distil, mean_average_precision, nearest_features
from grasp_pipeline.attribution.head_teacher import head_effects
from grasp_pipeline.errors import InputError

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(60, 5)) * np.array([3.0, 1, 1, 1, 1])
Y = (X[:, 1] + 0.5 * DRAW.normal(size=60) > 0).astype(float)
HEAD = fit_head(X, Y, 1.0)
QUERIES = DRAW.normal(size=(4, 5))


def newton(rows: list[int]) -> np.ndarray:
    """Return the effect of removing rows by one Newton step, the Hessian summed row by row."""
    hessian, gradient = np.eye(5), np.zeros(5)
    for i in range(60):
        p = 1 / (1 + np.exp(-X[i] @ HEAD.theta))
        if i in rows:
            gradient += (p - Y[i]) * X[i]
        else:
            hessian += p * (1 - p) * np.outer(X[i], X[i])
    margin = QUERIES @ HEAD.theta
    return -np.sign(margin) * (QUERIES @ np.linalg.solve(hessian, gradient))


def refitted(rows: list[int]) -> np.ndarray:
    margin = QUERIES @ HEAD.theta
    return np.sign(margin) * (margin - QUERIES @ HEAD.without(rows))


def test_effects_are_newton_steps_and_near_refitting_without_the_row() -> None:
    found = head_effects(HeadInfluence(HEAD), QUERIES)
    np.testing.assert_allclose(found, np.stack([newton([i]) for i in range(60)], axis=1), rtol=1e-7)
    exact = np.stack([refitted([i]) for i in range(60)], axis=1)
    assert min(np.corrcoef(found[q], exact[q])[0, 1] for q in range(4)) > 0.95


def test_groups_are_removed_whole() -> None:
    codes = np.arange(60) % 12
    rows = [np.flatnonzero(codes == g).tolist() for g in range(12)]
    found = head_effects(HeadInfluence(HEAD), QUERIES, codes)
    np.testing.assert_allclose(found, np.stack([newton(each) for each in rows], axis=1), rtol=1e-7)
    exact = np.stack([refitted(each) for each in rows], axis=1)
    assert min(np.corrcoef(found[q], exact[q])[0, 1] for q in range(4)) > 0.95


def test_a_distilled_head_beats_the_cosine_of_its_features_on_unseen_queries() -> None:
    """The first feature is large and decides nothing: cosine follows it, the head does not."""
    draw = np.random.default_rng(1)
    asked = (draw.normal(size=(120, 5)) * np.array([3.0, 1, 1, 1, 1])).astype(np.float32)
    effects, rows = head_effects(HeadInfluence(HEAD), asked), X.astype(np.float32)
    every = np.tile(np.arange(60), (80, 1))
    embedding = distil(rows, asked[:80], every, effects[:80], seed_name="head")
    order = np.argsort(-(embedding(asked[80:]) @ embedding(rows).T), axis=1)
    ours = mean_average_precision(order, effects[80:], 5).mean()
    rival = mean_average_precision(nearest_features(rows, asked[80:], 5), effects[80:], 5).mean()
    assert ours > 1.3 * rival


def test_what_does_not_fit_is_refused() -> None:
    made = HeadInfluence(HEAD)
    with pytest.raises(InputError, match="a head of 5 features"):
        head_effects(made, QUERIES[:, :3])
    with pytest.raises(InputError, match="for 60 rows"):
        head_effects(made, QUERIES, np.zeros(3, dtype=int))
