"""States of tokens and their clusters: one chunk at a time gives the same, however chunks are cut up and ordered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import LENGTH, VOCAB, tiny_model

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.log_coverage import CoverageForm, LogCoverage
from grasp_pipeline.corpus import ngrams
from grasp_pipeline.corpus.events import count_events, count_joined, previous_token
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.proxy import token_states
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.proxy.token_states import CLUSTER_CODES, StateClusters, TokenStates

RNG = np.random.default_rng(5)
LISTS = [RNG.integers(1, VOCAB, size=n).tolist() for n in RNG.integers(0, LENGTH + 1, size=37)]
CHUNKS = TokenLists.of(LISTS)
QUERIES = TokenLists.of([RNG.integers(1, VOCAB, size=LENGTH) for _ in range(6)])
TASK = np.arange(6) % 2


@pytest.fixture(scope="module")
def states() -> TokenStates:
    objective = tiny_model()
    return TokenStates(objective, objective.parameters(), 0, LENGTH)


def test_states_are_those_of_one_chunk_alone(states: TokenStates) -> None:
    found = states(CHUNKS)
    assert isinstance(states.objective, CausalLM)
    model = states.objective.model
    expected = []
    for chunk in LISTS:
        with torch.no_grad():
            hidden = model.base_model(torch.tensor([[0, *chunk]]))[0][0]
        expected.append(hidden[: len(chunk)].numpy())
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-5)


def test_clusters_are_the_nearest_centres(states: TokenStates) -> None:
    clusters = StateClusters.fit(states, CHUNKS, 5)
    distance = ((states(CHUNKS)[:, None].astype(float) - clusters.centres) ** 2).sum(axis=2)
    np.testing.assert_array_equal(clusters(CHUNKS, 0) - CLUSTER_CODES, distance.argmin(axis=1))
    assert len(set(clusters(CHUNKS, 0).tolist())) > 2


def test_the_order_of_chunks_and_copies_of_them_do_not_matter(states: TokenStates) -> None:
    order = RNG.permutation(len(LISTS))
    shuffled = TokenLists.of([LISTS[i] for i in order] + [LISTS[int(order[0])]])
    np.testing.assert_array_equal(
        StateClusters.fit(states, CHUNKS, 5).centres, StateClusters.fit(states, shuffled, 5).centres
    )


def test_clusters_are_fitted_on_a_part_of_a_large_corpus(
    states: TokenStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_states, "SAMPLE_TOKENS", 60)
    seen: list[int] = []
    plain = TokenStates.passes
    monkeypatch.setattr(
        TokenStates, "passes", lambda self, c: (seen.append(len(c.tokens)), plain(self, c))[1]
    )
    StateClusters.fit(states, CHUNKS, 5)
    assert 60 <= seen[0] < 60 + LENGTH


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
def test_how_chunks_are_cut_up_does_not_matter(
    states: TokenStates, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = StateClusters.fit(states, CHUNKS, 7)
    whole = count_events(CHUNKS, QUERIES, TASK, 2, clusters, clusters)
    monkeypatch.setattr(ngrams, "RANGE_CHUNKS", rows)
    parts = count_events(CHUNKS, QUERIES, TASK, 2, clusters, clusters)
    np.testing.assert_array_equal(whole.keys, parts.keys)
    np.testing.assert_array_equal(whole.events.toarray(), parts.events.toarray())
    # Counted by hand from the codes, chunk by chunk.
    codes = [clusters(TokenLists.of([chunk]), 0).tolist() for chunk in LISTS]
    for i, (chunk, context) in enumerate(zip(LISTS, codes, strict=True)):
        mine = [(c << 32) + t for c, t in zip(context, chunk, strict=True)]
        np.testing.assert_array_equal(
            whole.events.toarray()[i], [mine.count(key) for key in whole.keys.tolist()]
        )


def test_both_contexts_stand_side_by_side(states: TokenStates) -> None:
    clusters = StateClusters.fit(states, CHUNKS, 4)
    both = count_joined(CHUNKS, QUERIES, TASK, 2, [previous_token, clusters])
    alone = [count_events(CHUNKS, QUERIES, TASK, 2, each, each) for each in (previous_token, clusters)]
    subsets = RNG.random((5, CHUNKS.n)) < 0.6
    forms: dict[CoverageForm, float] = {"joint": 0.6, "conditional": 0.01}
    for form, rho in forms.items():
        found = LogCoverage(both, rho, form).predict(subsets)
        parts = [LogCoverage(each, rho, form).predict(subsets) for each in alone]
        np.testing.assert_allclose(found, np.mean(parts, axis=0))
    np.testing.assert_allclose(both.weights.sum(axis=1), 1)


def test_bad_requests_are_named(states: TokenStates) -> None:
    with pytest.raises(ConfigError, match="100000 clusters"):
        StateClusters.fit(states, CHUNKS, 100_000)
    with pytest.raises(InputError, match="codes of its own"):
        count_joined(CHUNKS, QUERIES, TASK, 2, [previous_token, previous_token])
