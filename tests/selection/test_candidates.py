"""Candidates: every way of choosing spends the budget, keeps to the allowed chunks, and repeats itself by name."""

from __future__ import annotations

import numpy as np
import pytest
from constraint_toys import violations
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.arrays import Bools
from grasp_pipeline.attribution.blocks import ArrayBlocks, mean_token_norm
from grasp_pipeline.attribution.partition import kmeans_groups
from grasp_pipeline.attribution.surrogate import Surrogate
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates import candidate
from grasp_pipeline.selection.candidates.candidate import Candidate, maximise, top_k
from grasp_pipeline.selection.candidates.families.dsir import dsir_resample
from grasp_pipeline.selection.candidates.families.full import full_corpus
from grasp_pipeline.selection.candidates.families.ggda import best_groups
from grasp_pipeline.selection.candidates.families.middle_perplexity import nearness_to_median
from grasp_pipeline.selection.candidates.families.random import Random
from grasp_pipeline.selection.candidates.families.random_deduplicated import drawn
from grasp_pipeline.selection.candidates.views import stack_views
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet

N, D, L = 300, 6, 16


class World:
    def __init__(self, seed: int = 0) -> None:
        draw = generator("arms", seed)
        self.sketches = (draw.standard_normal((N, D)) + 0.3).astype(np.float32)
        self.blocks = ArrayBlocks(self.sketches)
        self.tokens = np.where(draw.random(N) < 0.7, L, draw.integers(1, L + 1, N))
        self.target = draw.standard_normal(D)
        self.scores = self.sketches @ self.target
        self.survivors = draw.random(N) < 0.8
        self.labels = kmeans_groups(self.blocks, 10, seed)

    def feasible_sets(self, budget: int) -> FeasibleSets:
        return FeasibleSets.plain(self.tokens, budget, self.survivors)

    def chosen(self, feasible: FeasibleSet) -> dict[str, Bools]:
        draw = Random().draw(feasible, 0)
        assert draw.n_tokens == self.tokens[draw.membership].sum()
        assert draw.n_chunks == draw.membership.sum()
        return {
            "random": draw.membership,
            "random-deduplicated": drawn(feasible),
            "top k": top_k(self.scores, feasible),
            "dsir": dsir_resample(self.scores, feasible, 0),
            "ggda": best_groups(self.labels, self.scores, feasible),
            "surrogate": maximise(self.blocks, feasible, self.target).membership,
        }


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 0.7))
def test_every_arm_spends_the_budget_to_within_one_chunk_and_repeats_itself(seed: int, share: float) -> None:
    world = World(seed)
    budget = max(L, int(share * world.tokens.sum()))
    made = [one.chosen(one.feasible_sets(budget).feasible_set()) for one in (world, World(seed))]
    for name, kept in made[0].items():
        assert kept.dtype == np.bool_
        assert budget - L < world.tokens[kept].sum() <= budget
        np.testing.assert_array_equal(kept, made[1][name])


def test_masks_are_kept() -> None:
    world = World()
    for name, kept in world.chosen(world.feasible_sets(600).feasible_set("hard")).items():
        assert not kept[~world.survivors].any(), name


def test_every_arm_meets_constraints_and_keeps_documents_whole() -> None:
    world = World()
    documents = np.arange(N) // 4
    source = (documents % 3).astype(np.int64)
    feasible = ConstraintSet(
        world.tokens,
        1200,
        documents=documents,
        sources=source,
        source_names=["a", "b", "c"],
        floors={"a": 0.4},
        caps={"b": 0.2},
        keep=documents == 5,
        drop=documents == 6,
    )
    for name, kept in world.chosen(feasible).items():
        assert violations(feasible, kept) == [], name
        assert world.tokens[kept].sum() > 1200 - 4 * L, name


def test_more_rows_than_may_be_read_often_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    feasible = world.feasible_sets(900).feasible_set("hard")
    often = maximise(world.blocks, feasible, world.target, lam=1.0, gap=1e-5)
    monkeypatch.setattr(candidate, "STREAMED_ROWS", 10)
    streamed = maximise(world.blocks, feasible, world.target, lam=1.0, gap=1e-5)
    assert streamed.weights.dtype == np.float32
    assert streamed.fractional_objective == pytest.approx(often.fractional_objective, rel=1e-4)
    assert not streamed.membership[~world.survivors].any()


def test_random_draws_differ_and_cover_chunks_evenly() -> None:
    feasible = FeasibleSets.plain(np.full(40, 4), 40).feasible_set()
    draws = np.array([Random().draw(feasible, draw).membership for draw in range(400)])
    np.testing.assert_allclose(draws.mean(axis=0), 0.25, atol=0.09)
    assert not np.array_equal(
        Random().draw(feasible, 0, seed=0).membership, Random().draw(feasible, 0, seed=1).membership
    )


def test_top_k_keeps_nothing_below_what_it_drops() -> None:
    world = World()
    kept = top_k(world.scores, world.feasible_sets(900).feasible_set())
    assert world.scores[~kept].max() <= world.scores[kept].min()


def test_middle_perplexity_takes_the_tokens_around_the_median() -> None:
    world = World()
    losses = generator("losses").normal(5, 1, N)
    chosen = top_k(nearness_to_median(losses, world.tokens), world.feasible_sets(1500).feasible_set())
    kept = np.sort(losses[chosen])
    between = (losses >= kept[0]) & (losses <= kept[-1])
    np.testing.assert_array_equal(between, chosen, "an interval of losses")
    below, above = (int(world.tokens[side].sum()) for side in (losses < kept[0], losses > kept[-1]))
    assert abs(below - above) <= 2 * L, "as many tokens on either side"
    assert 1500 - L < world.tokens[chosen].sum() <= 1500


def test_the_full_corpus_is_everything() -> None:
    full = full_corpus([3, 4, 5])
    assert (full.role, full.n_chunks, full.n_tokens) == ("full", 3, 12)
    assert (full.surrogate_value, full.relative_gap, full.passes) == (None,) * 3


def test_a_maximiser_tells_what_the_optimiser_found_and_beats_top_k_on_f() -> None:
    world = World()
    feasible = world.feasible_sets(900).feasible_set()
    found = maximise(world.blocks, feasible, world.target, lam=1.0)
    f = Surrogate(world.blocks, world.tokens, world.target, None, 1.0)
    mine, other = f.predict(np.array([found.membership, top_k(world.scores, feasible)]))[:, 0]
    assert mine > other
    assert found.objective == pytest.approx(mine, rel=1e-4)
    assert found.q.shape == (D,)
    made = Candidate("f", "surrogate", "candidate", found.membership, 900, "F.", selection=found)
    assert made.surrogate_value == found.objective
    assert made.passes == found.passes > 0
    assert made.relative_gap is not None
    assert made.relative_gap < 0.05


def test_groups_are_taken_whole_but_for_the_last() -> None:
    world = World()
    kept = best_groups(world.labels, world.scores, world.feasible_sets(900).feasible_set())
    shares = [kept[world.labels == g].mean() for g in range(10) if (world.labels == g).any()]
    assert sum(0 < share < 1 for share in shares) <= 1
    worth = [
        np.average(world.scores[world.labels == g], weights=world.tokens[world.labels == g])
        for g in range(10)
        if (world.labels == g).any()
    ]
    taken = [w for w, share in zip(worth, shares, strict=True) if share == 1]
    left = [w for w, share in zip(worth, shares, strict=True) if share == 0]
    assert min(taken) > max(left)


def test_stacked_views_weigh_alike() -> None:
    world = World()
    other = (1e4 * generator("ngram view").standard_normal((N, 4))).astype(np.float32)
    blocks, target = stack_views(
        [(world.blocks, world.target), (ArrayBlocks(other), np.ones(4))], world.tokens
    )
    assert (blocks.d, target.shape) == (D + 4, (D + 4,))
    for (view, factor), norm in zip(
        blocks.views,
        (mean_token_norm(world.blocks, world.tokens), mean_token_norm(ArrayBlocks(other), world.tokens)),
        strict=True,
    ):
        assert factor * norm == pytest.approx(1)
        assert view.n == N
    members = np.array([generator("members").random(N) < 0.5])
    both = Surrogate(blocks, world.tokens, target, None, 0.7).predict(members)
    parts = sum(
        Surrogate(view, world.tokens, np.asarray(r) / norm**2, None, 0.7 / norm**2).predict(members)
        for view, r, norm in (
            (world.blocks, world.target, mean_token_norm(world.blocks, world.tokens)),
            (ArrayBlocks(other), np.ones(4), mean_token_norm(ArrayBlocks(other), world.tokens)),
        )
    )
    np.testing.assert_allclose(both, parts, rtol=1e-4)


def test_refusals() -> None:
    world = World()
    with pytest.raises(ConfigError, match="above the"):
        world.feasible_sets(int(world.tokens.sum())).feasible_set("hard")
    with pytest.raises(InputError, match="must be finite"):
        top_k(np.full(N, np.nan), world.feasible_sets(100).feasible_set())
    with pytest.raises(InputError, match="one for each of 300 chunks"):
        dsir_resample(np.ones(5), world.feasible_sets(100).feasible_set())
    with pytest.raises(InputError, match="scores of shape"):
        best_groups(world.labels, np.ones(5), world.feasible_sets(100).feasible_set())
    with pytest.raises(InputError, match="all zero"):
        stack_views([(ArrayBlocks(np.zeros((N, 2), dtype=np.float32)), np.ones(2))], world.tokens)
