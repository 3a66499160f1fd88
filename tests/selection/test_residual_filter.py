"""The residual filter agrees with the selection it came from and carries over to chunks never seen."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.blocks import ArrayBlocks, gather
from grasp_pipeline.corpus.ngram_features import NgramFeatures
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.views import stack_views
from grasp_pipeline.selection.explanation.residual_filter import (
    FeatureView,
    ResidualFilter,
    kept_agreement,
    token_agreement,
)
from grasp_pipeline.selection.solver.optimiser import optimise


def test_filter_repeats_the_selection_and_transfers_to_unseen_chunks() -> None:
    draw = generator("filter")
    centres = draw.standard_normal((6, 12))
    sketches = (centres[draw.integers(0, 6, 6000)] + draw.standard_normal((6000, 12))).astype(np.float32)
    tokens = draw.integers(4, 17, 6000)
    seen, unseen = slice(0, 3000), slice(3000, 6000)
    target = centres[0]
    budget = int(0.25 * tokens[seen].sum())
    found = optimise(sketches[seen], tokens[seen], target, budget, lam=0.7)
    residual = ResidualFilter.of(found.q, found.tau)

    mask = residual.apply(ArrayBlocks(sketches[seen], block_rows=500))
    np.testing.assert_array_equal(mask, sketches[seen] @ residual.q >= np.float64(residual.tau))
    assert token_agreement(mask, found.membership, tokens[seen]) > 0.99

    fresh = optimise(sketches[unseen], tokens[unseen], target, int(0.25 * tokens[unseen].sum()), lam=0.7)
    assert token_agreement(residual.apply(sketches[unseen]), fresh.membership, tokens[unseen]) > 0.95


def test_agreement_counts_tokens() -> None:
    first, second = np.array([True, True, False]), np.array([True, False, False])
    assert token_agreement(first, second, [1, 2, 7]) == pytest.approx(0.8)
    assert token_agreement(first, first, [1, 2, 7]) == 1


def test_agreement_of_what_is_kept() -> None:
    first, second = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert kept_agreement(first, second, [3, 1, 2, 90]) == pytest.approx(3 / 5)
    assert kept_agreement(np.ones(4, dtype=bool), second, [3, 1, 2, 90]) == pytest.approx(5 / 96)
    assert kept_agreement(first & ~first, second & ~second, [3, 1, 2, 90]) == 1
    assert kept_agreement(first & ~first, second, [3, 1, 2, 90]) == 0


def test_features_of_new_chunks_are_made_as_those_of_the_fit() -> None:
    draw = generator("view")
    sketches = draw.standard_normal((40, 6)).astype(np.float32)
    lists = [draw.integers(0, 30, draw.integers(2, 20)) for _ in range(40)]
    chunks = TokenLists.of(lists)
    fitted = NgramFeatures.fit(chunks, d=32)
    target = fitted.transform(chunks).astype(float).mean(axis=0)
    stacked, _ = stack_views(
        [(ArrayBlocks(sketches), np.ones(6)), (ArrayBlocks(fitted.transform(chunks)), target)],
        chunks.lengths,
    )
    view = FeatureView.of(stacked, lambda: fitted)
    every = np.arange(40)
    expected = gather(stacked, every)
    np.testing.assert_array_equal(gather(view.features(ArrayBlocks(sketches), chunks), every), expected)
    some = view.features(ArrayBlocks(sketches[7:12]), TokenLists.of(lists[7:12]))
    np.testing.assert_array_equal(gather(some, np.arange(5)), expected[7:12])

    weights = chunks.lengths / chunks.lengths.sum()
    np.testing.assert_allclose(view.mean(weights @ sketches, chunks), weights @ expected, atol=1e-5)
    plain = FeatureView.of(ArrayBlocks(sketches), lambda: fitted)
    assert plain == FeatureView()
    np.testing.assert_array_equal(gather(plain.features(ArrayBlocks(sketches), chunks), every), sketches)


def test_refusals() -> None:
    with pytest.raises(InputError, match="has 3 values and the sketches 2"):
        ResidualFilter.of(np.ones(3), 0.0).apply(np.ones((4, 2), dtype=np.float32))
    for q, tau in ((np.array([np.nan]), 0.0), (np.ones((2, 2)), 0.0), (np.ones(2), np.inf)):
        with pytest.raises(InputError, match="finite direction"):
            ResidualFilter.of(q, tau)
