"""Rooms: near-de-duplication by degree, chunks that count twice, and the trust region's sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets, random_keys


def feasible_sets(seed: int, share: float = 0.3, trust: float = 0.0, whole: bool = False) -> FeasibleSets:
    draw = generator("rooms", seed)
    documents = np.sort(draw.integers(0, 40, 120))
    _, documents = np.unique(documents, return_inverse=True)
    count = documents.max() + 1
    cluster_of = draw.integers(0, 15, count)
    survives = np.zeros(count, dtype=bool)
    survives[np.unique(cluster_of, return_index=True)[1]] = True
    tokens = draw.integers(1, 10, 120)
    budget = int(share * tokens.sum())

    def constrain(tokens: np.ndarray, allowed: np.ndarray, keep: np.ndarray | None) -> ConstraintSet:
        marked = np.zeros(120, dtype=bool) if keep is None else keep
        return ConstraintSet(tokens, budget, documents=documents, keep=marked, drop=~allowed & ~marked)

    return FeasibleSets(
        tokens,
        budget,
        survives[documents],
        documents,
        cluster_of[documents],
        constrain if whole else None,
        trust,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_soft_leaves_the_root_of_every_cluster_and_its_survivor(seed: int) -> None:
    made = feasible_sets(seed)
    soft, hard = made.allowed("soft"), made.allowed("hard")
    assert (soft >= hard).all(), "what hard de-duplication keeps, soft keeps"
    for cluster in np.unique(made.clusters):
        inside = made.clusters == cluster
        documents = np.unique(made.documents[inside])
        kept = np.unique(made.documents[inside & soft])
        assert len(kept) == int(np.ceil(np.sqrt(len(documents))))
        assert len(np.unique(made.documents[inside & hard])) == 1
        for document in documents:
            assert len(set(soft[made.documents == document].tolist())) == 1


def test_a_degree_is_offered_where_it_leaves_something_out_and_enough_in() -> None:
    made = feasible_sets(1)
    assert made.offers("none")
    assert made.offers("soft")
    tight = feasible_sets(1, share=0.9)
    assert not tight.offers("hard")
    assert tight.strictest() == "none"
    alone = FeasibleSets.plain(np.full(10, 3), 9)
    assert not alone.offers("soft")
    assert not alone.offers("hard")


def test_a_chunk_that_counts_twice_spends_twice() -> None:
    made = feasible_sets(2)
    once, twice = (made.feasible_set(copies=copies) for copies in (1, 2))
    keys = random_keys(once, "test")
    none = np.zeros(len(keys))
    tokens = made.n_tokens
    assert made.budget - 10 < tokens[once.round(keys, none)].sum() <= made.budget
    assert made.budget // 2 - 10 < tokens[twice.round(keys, none)].sum() <= made.budget // 2


@pytest.mark.parametrize("whole", [False, True])
def test_the_trust_region_keeps_the_same_sample_whatever_is_preferred(whole: bool) -> None:
    made = feasible_sets(3, trust=0.5, whole=whole)
    trusted, none = made.feasible_set(trusted=True), np.zeros(120)
    kept = [trusted.round(random_keys(trusted, "preference", i), none) for i in range(60)]
    shared = np.all(kept, axis=0)
    spent = made.n_tokens[shared].sum()
    longest = np.bincount(made.documents, made.n_tokens).max() if whole else 10
    assert 0.5 * made.budget - longest <= spent
    assert not (shared & ~made.allowed(made.strictest())).any(), "without near duplicates"
    assert made.feasible_set(trusted=True) is trusted, "made once"


def test_luck_is_one_per_document_where_documents_are_kept_whole() -> None:
    made = feasible_sets(4, whole=True)
    keys = random_keys(made.feasible_set(), "luck")
    for document in np.unique(made.documents):
        assert len(set(keys[made.documents == document].tolist())) == 1
    assert len(set(random_keys(feasible_sets(4).feasible_set(), "luck").tolist())) == 120


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ConfigError, match="above the"):
        FeasibleSets.plain(np.full(10, 3), 31).feasible_set()
