"""Events and their contexts: counted as by hand, range by range, whatever the vocabulary."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.corpus import ngrams
from grasp_pipeline.corpus.events import (
    EventTable,
    count_events,
    event_keys,
    given_contexts,
    previous_token,
)
from grasp_pipeline.errors import InputError

texts = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=6)


@given(
    chunks=texts,
    queries=st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=6), min_size=2, max_size=4),
)
def test_counts_are_those_by_hand(chunks: list[list[int]], queries: list[list[int]]) -> None:
    if not any(chunks):
        return
    task = np.arange(len(queries)) % 2
    found = count_events(TokenLists.of(chunks), TokenLists.of(queries), task, 2)
    wanted = sorted({(a, b) for text in queries for a, b in pairwise(text)})
    np.testing.assert_array_equal(found.keys, [(a << 32) + b for a, b in wanted])
    first = sorted({a for a, _ in wanted})
    for i, text in enumerate(chunks):
        pairs = list(pairwise(text))
        np.testing.assert_array_equal(found.events.toarray()[i], [pairs.count(pair) for pair in wanted])
        np.testing.assert_array_equal(
            found.contexts.toarray()[i], [[a for a, _ in pairs].count(a) for a in first]
        )
    np.testing.assert_array_equal(found.context, [first.index(a) for a, _ in wanted])
    for t in range(2):
        of_task = [pair for text in queries[t::2] for pair in pairwise(text)]
        np.testing.assert_allclose(found.weights[t], [of_task.count(pair) / len(of_task) for pair in wanted])
    flat = [token for text in chunks for token in text]
    vocabulary = 1 + max([*flat, *(token for text in queries for token in text)])
    smooth = [(flat.count(b) + 1) / (len(flat) + vocabulary) for _, b in wanted]
    np.testing.assert_allclose(found.next_rate, smooth)


def test_the_ranges_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    chunks = TokenLists.of([rng.integers(0, 40, size=n) for n in rng.integers(0, 30, size=60)])
    queries = TokenLists.of([rng.integers(0, 40, size=25) for _ in range(4)])
    codes = rng.integers(0, 3, size=len(chunks.tokens))
    of_query = given_contexts(rng.integers(0, 3, size=len(queries.tokens)))
    for contexts, query_contexts in ((previous_token, previous_token), (given_contexts(codes), of_query)):
        whole = count_events(chunks, queries, np.arange(4) % 2, 2, contexts, query_contexts)
        with monkeypatch.context() as patch:
            patch.setattr(ngrams, "RANGE_TOKENS", 50)
            patch.setattr(ngrams, "RANGE_CHUNKS", 3)
            pieces = count_events(chunks, queries, np.arange(4) % 2, 2, contexts, query_contexts)
        np.testing.assert_array_equal(whole.events.toarray(), pieces.events.toarray())
        np.testing.assert_array_equal(whole.contexts.toarray(), pieces.contexts.toarray())
        np.testing.assert_allclose(whole.context_rate, pieces.context_rate)


def test_codes_of_large_token_ids_are_distinct() -> None:
    big = 2**31 - 1
    tokens = np.array([0, 1, big - 1, big])
    keys = event_keys(np.repeat(tokens, 4), np.tile(tokens, 4))
    assert len(set(keys.tolist())) == 16
    assert (keys >= 0).all()


def test_a_table_gives_the_mean_value_of_a_chunks_tokens() -> None:
    keys = event_keys(np.array([1, 1, 2]), np.array([2, 3, 1]))
    table = EventTable(keys, np.array([10.0, 1.0, -4.0], dtype=np.float32))
    chunks = TokenLists.of([[1, 2, 1, 3], [3, 3], [], [2, 1]])
    np.testing.assert_allclose(table.per_token(chunks), [(10 - 4 + 1) / 4, 0, 0, -4 / 2])


def test_a_query_without_events_is_named() -> None:
    with pytest.raises(InputError, match="query of task 1"):
        count_events(TokenLists.of([[1, 2]]), TokenLists.of([[1, 2], [3]]), np.arange(2), 2)
    with pytest.raises(InputError, match="no tokens"):
        count_events(TokenLists.of([[]]), TokenLists.of([[1, 2]]), np.zeros(1, int), 1)
