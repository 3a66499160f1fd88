"""Near-duplicate clusters against a slow twin: exact Jaccard similarity of all pairs, by word tuples."""

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.corpus.duplicates import (
    PERMUTATIONS,
    RECALL,
    bands_for,
    minhash_digests,
    near_duplicate_clusters,
)
from grasp_pipeline.corpus.text_batch import TextBatch


def slow_shingles(text: str) -> set:
    words = text.lower().split()
    if len(words) < 5:
        return {tuple(words)} if words else {text}
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def slow_clusters(texts: list[str], threshold: float) -> tuple[list[int], list[float]]:
    sets = [slow_shingles(text) for text in texts]
    survivors, survivor, similarity = [], [], []
    for index, own in enumerate(sets):
        values = [(len(own & sets[other]) / len(own | sets[other]), other) for other in survivors]
        value, other = next(((v, o) for v, o in values if v >= threshold), (1.0, index))
        survivors += [index] if other == index else []
        survivor.append(other)
        similarity.append(value)
    return survivor, similarity


def corpus(seed: int, documents: int = 120) -> list[str]:
    """Documents and edited copies of them, from light to heavy edits, some too short for a 5-gram."""
    draw = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(300)]
    texts: list[str] = []
    for _ in range(documents):
        if texts and draw.random() < 0.5:
            words = draw.choice(texts).split()
            for _ in range(draw.choice([0, 1, 1, 2, len(words) // 4])):
                words[draw.randrange(len(words))] = draw.choice(vocabulary)
        else:
            words = draw.choices(vocabulary, k=draw.choice([1, 3, 4, 5, 6, 20, 60, 200]))
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_clusters_agree_with_the_slow_twin(seed: int, threshold: float) -> None:
    texts = corpus(seed)
    clusters = near_duplicate_clusters(texts, threshold)
    survivor, similarity = slow_clusters(texts, threshold)
    assert clusters.survivor.tolist() == survivor
    np.testing.assert_allclose(clusters.similarity, similarity)
    assert len(set(survivor)) < len(survivor)


@given(st.lists(st.text(st.sampled_from("ab \n!漢"), min_size=1, max_size=12), max_size=12))
@settings(max_examples=40, deadline=None)
def test_every_member_is_similar_to_a_survivor_that_came_before_it(texts: list[str]) -> None:
    clusters = near_duplicate_clusters(texts, 0.7)
    for index, (survivor, similarity) in enumerate(zip(clusters.survivor, clusters.similarity, strict=True)):
        assert survivor <= index
        assert clusters.survivor[survivor] == survivor
        assert similarity >= 0.7
        assert (survivor == index) <= (similarity == 1)


def test_the_batch_changes_no_digest() -> None:
    texts = corpus(9, 60)
    whole = minhash_digests(TextBatch(texts))
    parts = [minhash_digests(TextBatch(texts[start : start + 7])) for start in range(0, 60, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(minhash_digests(TextBatch(texts[::-1]))[::-1], whole)


def test_later_documents_change_nothing_for_earlier_ones() -> None:
    texts = corpus(5)
    first = near_duplicate_clusters(texts[:70], 0.6)
    both = near_duplicate_clusters(texts, 0.6)
    assert both.survivor[:70].tolist() == first.survivor.tolist()


def test_a_chain_does_not_tie_dissimilar_documents_together() -> None:
    words = [f"w{number}" for number in range(400)]
    chain = [" ".join(words[start : start + 200]) for start in range(0, 200, 10)]
    clusters = near_duplicate_clusters(chain, 0.8)
    assert clusters.similarity.min() >= 0.8
    assert 2 < len(set(clusters.survivor.tolist())) < len(chain)


@pytest.mark.parametrize("threshold", [0.31, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_reach_the_recall_and_no_longer_ones_do(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= PERMUTATIONS
    assert 1 - (1 - threshold**rows) ** bands >= RECALL
    if rows < PERMUTATIONS:
        assert 1 - (1 - threshold ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) < RECALL


def test_many_copies_of_one_text_are_no_quadratic_work() -> None:
    texts = ["the same notice at the foot of every page of the site " * 3 + str(n) for n in range(5_000)]
    started = time.perf_counter()
    clusters = near_duplicate_clusters(texts, 0.8)
    assert len(set(clusters.survivor.tolist())) == 1
    assert time.perf_counter() - started < 20


def test_no_documents() -> None:
    assert near_duplicate_clusters([], 0.8).survivor.tolist() == []
