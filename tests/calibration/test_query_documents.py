"""Fewer query documents: the correlations are those of counting the drawn documents alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.calibration.query_documents import SPLITS, QueryShares, query_shares
from grasp_pipeline.corpus.events import count_events, events_by_group
from grasp_pipeline.seeds import generator

DOCUMENTS = np.repeat(np.arange(12), 2)
"""Of two chunks each, the first six of task 0."""


def problem(form: str) -> tuple[LogCoverage, TokenLists, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    chunks = TokenLists.of([rng.integers(0, 9, size=12) for _ in range(40)])
    queries = TokenLists.of([rng.integers(0, 9, size=8) for _ in DOCUMENTS])
    counts = count_events(chunks, queries, DOCUMENTS // 6, 2)
    membership = rng.random((15, 40)) < 0.4
    surrogate = LogCoverage(counts, 0.4, "joint" if form == "joint" else "conditional")
    return surrogate, queries, membership, rng.standard_normal((15, 2))


@pytest.mark.parametrize("form", ["joint", "conditional"])
def test_the_correlations_are_those_of_the_drawn_documents_counted_alone(form: str) -> None:
    surrogate, queries, membership, utilities = problem(form)
    task = np.repeat([0, 1], 6)
    found = query_shares(
        surrogate,
        events_by_group(surrogate.counts.keys, queries, DOCUMENTS, 12),
        task,
        membership,
        utilities,
        "toy",
    )
    assert found is not None

    def by_hand(kept: list[int]) -> float:
        chunks = [i for i, document in enumerate(DOCUMENTS) if document in kept]
        weights = np.zeros_like(surrogate.counts.weights)
        for i in chunks:
            text = queries.tokens[queries.offsets[i] : queries.offsets[i + 1]]
            for a, b in zip(text[:-1].tolist(), text[1:].tolist(), strict=True):
                weights[task[DOCUMENTS[i]], surrogate.counts.keys.tolist().index((a << 32) + b)] += 1
        weights /= weights.sum(axis=1, keepdims=True)
        predicted = replace(surrogate, counts=replace(surrogate.counts, weights=weights)).predict(membership)
        return float(np.mean([spearmanr(predicted[:, t], utilities[:, t]).statistic for t in range(2)]))

    draw = generator("query documents", "toy")
    drawn = [[draw.permutation(np.arange(6)), draw.permutation(np.arange(6, 12))] for _ in range(SPLITS)]
    assert found.all == pytest.approx(by_hand(list(range(12))))
    for value, size in ((found.half, 3), (found.quarter, 1)):
        assert value == pytest.approx(np.mean([by_hand([*a[:size], *b[:size]]) for a, b in drawn]))


def test_too_few_documents_say_nothing() -> None:
    surrogate, queries, membership, utilities = problem("joint")
    by_document = events_by_group(surrogate.counts.keys, queries, DOCUMENTS, 12)
    task = np.where(np.arange(12) < 9, 0, 1)
    assert query_shares(surrogate, by_document, task, membership, utilities) is None


def test_the_sentence_says_which_way() -> None:
    assert QueryShares(0.91, 0.87, 0.8).sentence.endswith(
        "with all 0.910: more query documents would likely help."
    )
    assert QueryShares(0.91, 0.909, 0.9).sentence.endswith("more query documents would hardly help.")
