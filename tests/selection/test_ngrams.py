"""N-grams, DSIR, hashed features and the bigram likelihood against loops over tokens."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.corpus import ngrams
from grasp_pipeline.corpus.duplicates import repeat_groups
from grasp_pipeline.corpus.ngram_features import NgramFeatures
from grasp_pipeline.corpus.ngrams import bigrams, bucket, hash_bigrams, hash_unigrams, ranges
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.families.dsir import dsir_resample, dsir_scores
from grasp_pipeline.selection.candidates.judge import judge_coverage
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets

TEXTS = st.lists(st.lists(st.integers(0, 12), max_size=15), min_size=1, max_size=20)


def corpus(seed: int, n: int = 40, vocabulary: int = 30, longest: int = 40) -> list[list[int]]:
    """Token lists of uneven lengths with a skewed vocabulary."""
    draw = generator("corpus", seed)
    weights = 1 / np.arange(1, vocabulary + 1)
    lengths = draw.integers(1, longest, n)
    return [draw.choice(vocabulary, length, p=weights / weights.sum()).tolist() for length in lengths]


def slow_bucket(gram: tuple[int, ...], buckets: int) -> int:
    """The bucket of one n-gram by the scalar definition of SplitMix64's finaliser."""
    key = gram[0] + 1 if len(gram) == 1 else (gram[0] + 1) << 32 | (gram[1] + 1)
    mask = 2**64 - 1
    key = (key + 0x9E3779B97F4A7C15) & mask
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & mask
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & mask
    return ((key ^ (key >> 31)) >> 1) % buckets


def grams(text: list[int]) -> list[tuple[int, ...]]:
    return [(token,) for token in text] + list(pairwise(text))


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_ngrams_never_cross_a_border(texts: list[list[int]]) -> None:
    first, second, chunk = bigrams(TokenLists.of(texts))
    found = list(zip(chunk.tolist(), first.tolist(), second.tolist(), strict=True))
    assert found == [(i, a, b) for i, text in enumerate(texts) for a, b in pairwise(text)]


def test_hashes_equal_the_scalar_definition() -> None:
    token, other = np.array([0, 5, 70_000]), np.array([3, 0, 2**31 - 2])
    assert bucket(hash_unigrams(token), 997).tolist() == [slow_bucket((int(t),), 997) for t in token]
    expected = [slow_bucket((int(a), int(b)), 997) for a, b in zip(token, other, strict=True)]
    assert bucket(hash_bigrams(token, other), 997).tolist() == expected


def test_ranges_tile_the_chunks_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks, query = TokenLists.of([*corpus(1), [], [3] * 90]), TokenLists.of(corpus(2, 5))

    def results() -> list[np.ndarray]:
        features = NgramFeatures.fit(chunks, 16)
        members = generator("members").random((3, chunks.n)) < 0.5
        return [
            dsir_scores(chunks, query, 50),
            features.transform(chunks),
            judge_coverage(chunks, query).predict(members),
        ]

    whole = results()
    monkeypatch.setattr(ngrams, "RANGE_TOKENS", 60)
    monkeypatch.setattr(ngrams, "RANGE_CHUNKS", 4)
    parts = list(ranges(chunks))
    assert len(parts) > 10
    assert [start for start, _ in parts] == np.cumsum([0, *(part.n for _, part in parts)]).tolist()[:-1]
    np.testing.assert_array_equal(np.concatenate([part.tokens for _, part in parts]), chunks.tokens)
    for one, other in zip(whole, results(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("normalised", [False, True])
def test_dsir_scores_equal_a_loop(normalised: bool) -> None:
    texts, query, buckets, smoothing = corpus(3), corpus(4, 6), 101, 0.5
    bags = []
    for collection in (query, texts):
        counts = Counter(slow_bucket(gram, buckets) for text in collection for gram in grams(text))
        total = sum(counts.values()) + smoothing * buckets
        bags.append([(counts[j] + smoothing) / total for j in range(buckets)])
    slow = [
        sum(np.log(bags[0][j] / bags[1][j]) for j in (slow_bucket(gram, buckets) for gram in grams(text)))
        for text in texts
    ]
    if normalised:
        mean = np.mean([len(grams(text)) for text in texts])
        slow = [score / len(grams(text)) * mean for score, text in zip(slow, texts, strict=True)]
    fast = dsir_scores(TokenLists.of(texts), TokenLists.of(query), buckets, smoothing, normalised)
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9)


def test_dsir_prefers_the_query_and_respects_the_budget() -> None:
    draw = generator("dsir preference")
    like = [draw.integers(0, 20, 30).tolist() for _ in range(50)]
    unlike = [draw.integers(20, 40, 30).tolist() for _ in range(150)]
    query = TokenLists.of([draw.integers(0, 20, 30).tolist() for _ in range(20)])
    chunks = TokenLists.of(like + unlike)
    scores = dsir_scores(chunks, query)
    assert scores[:50].min() > scores[50:].max()
    feasible_sets = FeasibleSets.plain(chunks.lengths, 900, np.arange(200) >= 20)
    chosen = dsir_resample(scores, feasible_sets.feasible_set(), 1)
    assert chosen.sum() == 30
    assert chosen[:50].sum() == 30
    np.testing.assert_array_equal(chosen, dsir_resample(scores, feasible_sets.feasible_set(), 1))
    assert not np.array_equal(chosen, dsir_resample(scores, feasible_sets.feasible_set(), 2))
    assert not dsir_resample(scores, feasible_sets.feasible_set("hard"), 1)[:20].any()


def test_gumbel_resampling_draws_in_proportion_to_the_weights() -> None:
    """The first draw without replacement is a draw from the normalised weights."""
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    feasible = FeasibleSets.plain(np.ones(4, dtype=int), 1).feasible_set()
    draws = [dsir_resample(np.log(weights), feasible, "test", i) for i in range(4000)]
    np.testing.assert_allclose(np.mean(draws, axis=0), weights, atol=0.03)


def test_features_equal_a_loop() -> None:
    texts, d = corpus(5), 8
    features = NgramFeatures.fit(TokenLists.of(texts), d)
    frequency = Counter(cell for text in texts for cell in {slow_bucket(g, 2**18) for g in pairwise(text)})
    slow = np.zeros((len(texts), d))
    for i, text in enumerate(texts):
        for a, b in pairwise(text):
            value = int(hash_bigrams(np.array([a]), np.array([b]))[0])
            idf = np.log((1 + len(texts)) / (1 + frequency[slow_bucket((a, b), 2**18)]))
            slow[i, (value >> 33) % d] += (-1) ** (value & 1) * idf / len(text)
    np.testing.assert_allclose(features.transform(TokenLists.of(texts)), slow, rtol=1e-5, atol=1e-6)


def test_features_of_pooled_text_are_the_token_weighted_mean() -> None:
    """Up to the pairs at borders, which a separator that no other pair shares keeps apart."""
    texts = corpus(6)
    chunks = TokenLists.of(texts)
    features = NgramFeatures.fit(chunks, 32)
    mean = np.average(features.transform(chunks), axis=0, weights=chunks.lengths)
    pooled = sum(
        features.transform(TokenLists.of([text]))[0].astype(np.float64) * len(text) for text in texts
    ) / sum(map(len, texts))
    np.testing.assert_allclose(mean, pooled, atol=1e-6)


def test_wide_features_keep_inner_products() -> None:
    texts = corpus(7, n=30, vocabulary=200, longest=60)
    chunks = TokenLists.of(texts)
    exact, narrow = (NgramFeatures.fit(chunks, d).transform(chunks) for d in (2**17, 1024))
    gram = exact @ exact.T
    scale = np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    error = (narrow @ narrow.T - gram) / np.where(scale > 0, scale, 1)
    assert np.abs(error).mean() < 2 / np.sqrt(1024)


def test_repeat_groups_pair_clusters_with_positions() -> None:
    clusters, positions = np.array(["x", "x", "y", "x", "x"]), np.array([0, 1, 0, 0, 1])
    labels = repeat_groups(clusters, positions)
    assert labels[0] == labels[3] != labels[1] == labels[4]
    assert len(set(labels.tolist())) == 3


def test_refusals() -> None:
    chunks, empty = TokenLists.of([[1, 2, 3]]), TokenLists.of([[1], []])
    with pytest.raises(InputError, match="query holds no tokens"):
        dsir_scores(chunks, TokenLists.of([]))
    with pytest.raises(ConfigError, match="above 0"):
        dsir_scores(chunks, chunks, smoothing=0)
    with pytest.raises(InputError, match="query of task 0 holds no token with a context"):
        judge_coverage(chunks, empty)
    with pytest.raises(ConfigError, match="0 n-gram features"):
        NgramFeatures.fit(chunks, 0)
    with pytest.raises(InputError, match="no chunks"):
        NgramFeatures.fit(TokenLists.of([]), 4)
    with pytest.raises(InputError, match="offsets must rise"):
        TokenLists(np.array([1, 2], dtype=np.int32), np.array([0, 3]))
    with pytest.raises(InputError, match="token ids must be"):
        dsir_scores(TokenLists.of([[-1]]), chunks)
