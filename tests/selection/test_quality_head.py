"""The quality head: what it finds, its filter, and its damping against leaving rows out for real."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata
from test_finalists import SELECTED, ingredients

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.convex.head import fit_head
from grasp_pipeline.selection.candidates.families import COMPARED, FAMILIES
from grasp_pipeline.selection.candidates.families.quality_head import (
    BUCKETS,
    fit_quality_head,
    leave_one_out_loss,
    ngram_rates,
    quality_head,
)
from grasp_pipeline.selection.candidates.family import Choice
from grasp_pipeline.selection.candidates.finalists import build_finalists
from grasp_pipeline.selection.explanation.chunk_filter import ChunkInputs, agreement


def texts(low: int, high: int, count: int, seed: int) -> TokenLists:
    draw = np.random.default_rng(seed)
    return TokenLists.of([draw.integers(low, high, 20) for _ in range(count)])


def test_new_texts_of_the_target_rank_above_others() -> None:
    corpus = TokenLists.join([texts(1, 200, 60, 0), texts(30, 90, 60, 1)])
    made = fit_quality_head(texts(30, 90, 25, 2), corpus)
    values = made.values(TokenLists.join([texts(30, 90, 40, 3), texts(1, 200, 40, 4)]))
    auc = (rankdata(values)[:40].mean() - 20.5) / 40
    assert auc > 0.9
    assert made.leverage().shape == made.head.labels.shape
    assert made.leverage().max() < 1


def test_the_weights_say_what_the_fitted_head_says() -> None:
    good, corpus = texts(30, 90, 10, 0), texts(1, 200, 20, 1)
    made = fit_quality_head(good, corpus)
    fitted = made.head.features @ made.head.theta
    np.testing.assert_allclose(made.values(good), fitted[:10], atol=1e-8)
    np.testing.assert_allclose(np.sort(made.values(corpus)), np.sort(fitted[10:]), atol=1e-8)


def test_rates_are_counts_per_token() -> None:
    chunks = TokenLists.of([[5, 5, 6], [7]])
    found = ngram_rates(chunks, np.array([True, True]))
    assert found.shape == (2, BUCKETS)
    np.testing.assert_allclose(found.sum(axis=1), [5 / 3, 1.0])


def test_the_leave_one_out_loss_is_near_that_of_refitting() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 60)), (np.arange(40) % 2).astype(float)
    head = fit_head(x, y, 20.0)
    margins = np.array([x[i] @ head.without([i]) for i in range(40)])
    exact = np.mean(np.logaddexp(0, margins) - y * margins)
    assert leave_one_out_loss(head) == pytest.approx(exact, rel=0.02)
    assert np.mean(np.logaddexp(0, x @ head.theta) - y * (x @ head.theta)) < 0.8 * exact


def test_the_family_is_built_and_its_filter_keeps_what_it_chose() -> None:
    context = ingredients()
    finalists = {one.name: one for one in build_finalists(context, SELECTED, 1e-3, 200)}
    one, family = finalists["quality-head"], FAMILIES["quality-head"]
    assert "quality-head-twice" in finalists
    assert "quality-head-twice" in COMPARED
    assert one.membership[:80].sum() > 0.9 * one.membership.sum(), (
        "the target's words are those of the first 80"
    )
    made = family.filter(context, Choice(one.membership, context.feasible_sets.allowed(one.dedup)))
    assert made is not None
    assert not made.reads_proxy
    assert agreement(made, ChunkInputs(context.chunks), one.membership) > 0.98
    assert quality_head(context) is quality_head(context)
