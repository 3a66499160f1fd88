"""Reasons for dropping against a loop over chunks, and nearest kept chunks against all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.candidate import maximise, top_k
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
from grasp_pipeline.selection.explanation.nearest import (
    nearest_by_cosine,
    nearest_by_graph,
    nearest_in_group,
    nearest_kept,
)
from grasp_pipeline.selection.explanation.reasons import TOKEN_BUDGET, drop_reasons, task_extremes

N, D = 120, 5


class World:
    def __init__(self, seed: int) -> None:
        draw = generator("reasons", seed)
        self.clusters = np.array([f"doc{c}" for c in draw.integers(0, 70, N)])
        base = {name: draw.standard_normal(D) for name in set(self.clusters.tolist())}
        noise = 0.05 * draw.standard_normal((N, D))
        self.sketches = (np.array([base[name] for name in self.clusters]) + noise).astype(np.float32)
        self.survivors = np.zeros(N, dtype=bool)
        self.survivors[np.unique(self.clusters, return_index=True)[1]] = True
        self.tokens = draw.integers(4, 9, N)
        self.target = draw.standard_normal(D)
        self.alignment = self.sketches @ self.target
        self.budget = 150
        self.blocks = ArrayBlocks(self.sketches, block_rows=17)

    def cosine(self, i: int, j: int) -> float:
        a, b = self.sketches[i].astype(float), self.sketches[j].astype(float)
        return float(a @ b / math.sqrt((a @ a) * (b @ b)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1, 7, 8192]))
def test_reasons_equal_a_loop(seed: int, hard: bool, random_draw: bool, named: bool, batch: int) -> None:
    world = World(seed)
    names = np.where(generator("quota names", seed).random(N) < 0.3, "cap of source web", "")
    allowed = world.survivors if hard else np.ones(N, dtype=bool)
    feasible = FeasibleSets.plain(world.tokens, world.budget, allowed).feasible_set("hard")
    arm = maximise(world.blocks, feasible, world.target, lam=1.0)
    kept = arm.membership
    found = drop_reasons(
        kept,
        world.alignment,
        world.tokens,
        world.budget,
        world.blocks,
        marginal=arm.marginal,
        tau=arm.tau,
        clusters=world.clusters,
        allowed=allowed,
        quotas=names if named else None,
        random_draw=random_draw,
        batch_rows=batch,
    )
    spent, threshold = 0, math.inf
    for i in sorted(np.nonzero(allowed)[0], key=lambda i: -world.alignment[i]):
        if spent + world.tokens[i] > world.budget:
            break
        spent += world.tokens[i]
        threshold = world.alignment[i]
    assert found.chunk.tolist() == [i for i in range(N) if not kept[i]]
    for k, i in enumerate(found.chunk):
        mates = [j for j in range(N) if kept[j] and world.clusters[j] == world.clusters[i]]
        lacking, value = world.alignment[i] - threshold, arm.marginal[i] - arm.tau
        pool = [j for j in range(N) if kept[j]]
        limited = named and names[i] != ""
        if not allowed[i] and limited:
            expected, margin = "quota", math.nan if random_draw else value
        elif not allowed[i] and mates:
            expected, margin, pool = "duplicate", math.nan, mates
        elif random_draw:
            expected, margin = "quota" if allowed[i] else "duplicate", math.nan
        elif lacking < 0:
            expected, margin = "low_alignment", lacking
        elif value < 0:
            expected, margin = "redundant", value
        elif not allowed[i]:
            expected, margin = "duplicate", math.nan
        else:
            expected, margin = "quota", value
        assert found.reason[k] == expected
        np.testing.assert_allclose(found.margin[k], margin)
        if not math.isnan(margin):
            low = expected == "low_alignment"
            assert found.value[k] == pytest.approx(float(world.alignment[i] if low else arm.marginal[i]))
            assert found.threshold[k] == pytest.approx(threshold if low else arm.tau)
        limit = "cap of source web" if limited else TOKEN_BUDGET
        assert found.quota[k] == (limit if expected == "quota" else "")
        assert found.alignment[k] == pytest.approx(world.alignment[i])
        by = (
            "random_draw" if random_draw else "alignment" if expected == "low_alignment" else "marginal_value"
        )
        assert found.score[k] == ("" if expected == "duplicate" else by)
        best = max(world.cosine(i, j) for j in pool)
        assert found.similarity[k] == pytest.approx(best, abs=1e-5)
        assert int(found.nearest_kept[k]) in pool
        assert world.cosine(i, int(found.nearest_kept[k])) == pytest.approx(best, abs=1e-5)


def test_every_reason_occurs() -> None:
    seen: set[str] = set()
    for seed in range(5):
        world = World(seed)
        feasible = FeasibleSets.plain(world.tokens, 150, world.survivors).feasible_set("hard")
        arm = maximise(world.blocks, feasible, world.target, lam=1.5)
        found = drop_reasons(
            arm.membership,
            world.alignment,
            world.tokens,
            150,
            world.blocks,
            marginal=arm.marginal,
            tau=arm.tau,
            clusters=world.clusters,
            allowed=world.survivors,
        )
        seen |= set(found.reason.tolist())
    assert {"low_alignment", "redundant", "duplicate"} <= seen


def test_an_arm_with_a_score_of_its_own_names_it_and_has_no_redundant_chunks() -> None:
    world = World(0)
    score = generator("own score").standard_normal(N)
    kept = top_k(score, FeasibleSets.plain(world.tokens, world.budget).feasible_set())
    found = drop_reasons(kept, score, world.tokens, world.budget, world.blocks, score_name="ngram_importance")
    assert set(found.reason.tolist()) <= {"low_alignment", "quota"}
    assert (found.margin <= 0).all()
    assert set(found.score.tolist()) == {"ngram_importance"}
    for row, nearest, similarity in zip(found.chunk, found.nearest_kept, found.similarity, strict=True):
        assert kept[nearest]
        others = [world.cosine(row, int(j)) for j in np.flatnonzero(kept)]
        assert similarity == pytest.approx(max(others), abs=1e-5)


def test_nothing_dropped_gives_empty_arrays() -> None:
    world = World(0)
    everything = np.ones(N, dtype=bool)
    found = drop_reasons(everything, world.alignment, world.tokens, int(world.tokens.sum()), world.blocks)
    assert len(found.chunk) == len(found.reason) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 50), st.booleans())
def test_nearest_equals_all_pairs(seed: int, batch: int, grouped: bool) -> None:
    draw = generator("nearest", seed)
    sketches = draw.standard_normal((90, 4)).astype(np.float32)
    sketches[3] = 0
    candidates = draw.random(90) < 0.4
    queries = np.nonzero(~candidates)[0]
    groups = draw.integers(0, 8, 90)
    blocks = ArrayBlocks(sketches, block_rows=13)
    if grouped:
        rows, cosines = nearest_in_group(blocks, queries, candidates, groups, batch)
    else:
        rows, cosines = nearest_by_cosine(blocks, queries, candidates, batch)
    unit = sketches / np.maximum(np.linalg.norm(sketches, axis=1, keepdims=True), 1e-30)
    for query, row, cosine in zip(queries, rows, cosines, strict=True):
        pool = [j for j in range(90) if candidates[j] and (not grouped or groups[j] == groups[query])]
        if not pool:
            assert row == -1
            assert math.isnan(cosine)
            continue
        assert row in pool
        assert cosine == pytest.approx(max(unit[query] @ unit[j] for j in pool), abs=1e-5)
        assert unit[query] @ unit[row] == pytest.approx(cosine, abs=1e-5)


def clustered(n: int, d: int, clusters: int, name: str) -> np.ndarray:
    """Return sketches around random centres, a tenth of them near copies of others."""
    draw = generator(name)
    centres = draw.standard_normal((clusters, d))
    sketches = centres[draw.integers(0, clusters, n)] + 0.7 * draw.standard_normal((n, d))
    copies = draw.integers(0, n, n // 10)
    sketches[: n // 10] = sketches[copies] + 0.01 * draw.standard_normal((n // 10, d))
    return sketches.astype(np.float32)


class TestGraph:
    SKETCHES = clustered(3000, 32, 60, "graph")
    KEPT = generator("graph kept").random(3000) < 0.5
    QUERIES = np.nonzero(~KEPT)[0][::5]

    def test_it_finds_what_the_exact_search_finds(self) -> None:
        blocks = ArrayBlocks(self.SKETCHES)
        rows, cosines = nearest_by_graph(blocks, self.QUERIES, self.KEPT)
        exact_rows, exact = nearest_by_cosine(blocks, self.QUERIES, self.KEPT)
        assert self.KEPT[rows].all()
        assert (cosines / exact).mean() > 0.99
        assert (cosines >= 0.95 * exact - 0.002).mean() >= 0.95
        assert (rows == exact_rows).mean() > 0.9
        unit = self.SKETCHES / np.linalg.norm(self.SKETCHES, axis=1, keepdims=True)
        true = np.einsum("ij,ij->i", unit[self.QUERIES], unit[rows])
        np.testing.assert_allclose(cosines, true, atol=0.002)

    def test_it_does_not_depend_on_blocks_or_the_run(self) -> None:
        first = nearest_by_graph(ArrayBlocks(self.SKETCHES), self.QUERIES, self.KEPT)
        again = nearest_by_graph(ArrayBlocks(self.SKETCHES, block_rows=77), self.QUERIES, self.KEPT)
        np.testing.assert_array_equal(first, again)

    def test_only_large_corpora_are_searched_by_it(self) -> None:
        blocks = ArrayBlocks(self.SKETCHES)
        small = nearest_kept(blocks, self.QUERIES, self.KEPT)
        large = nearest_kept(blocks, self.QUERIES, self.KEPT, exact_rows=2999)
        np.testing.assert_array_equal(small, nearest_by_cosine(blocks, self.QUERIES, self.KEPT))
        np.testing.assert_array_equal(large, nearest_by_graph(blocks, self.QUERIES, self.KEPT))

    def test_sketches_of_zeros_and_no_candidates(self) -> None:
        sketches = self.SKETCHES[:50].copy()
        sketches[[3, 10]] = 0
        queries = np.array([3, 20])
        kept = np.zeros(50, dtype=bool)
        rows, cosines = nearest_by_graph(ArrayBlocks(sketches), queries, kept)
        assert rows.tolist() == [-1, -1]
        assert np.isnan(cosines).all()
        kept[10] = True
        rows, cosines = nearest_by_graph(ArrayBlocks(sketches), queries, kept)
        assert rows.tolist() == [10, 10]
        assert cosines.tolist() == [0, 0]
        kept[30] = True
        rows, cosines = nearest_by_graph(ArrayBlocks(sketches), queries, kept)
        assert rows.tolist() == [10, 30]
        assert cosines[0] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_task_extremes_equal_a_loop(seed: int, tasks: int) -> None:
    world = World(seed)
    directions = generator("tasks", seed).standard_normal((D, tasks)).astype(np.float32)
    found = task_extremes(world.blocks, directions)
    for i in range(N):
        values = [float(world.sketches[i] @ directions[:, t]) for t in range(tasks)]
        assert found.strongest_value[i] == pytest.approx(max(values), abs=1e-4)
        assert found.weakest_value[i] == pytest.approx(min(values), abs=1e-4)
        assert values[found.strongest[i]] == pytest.approx(max(values), abs=1e-4)
        assert values[found.weakest[i]] == pytest.approx(min(values), abs=1e-4)


def test_refusals() -> None:
    world = World(0)
    kept = np.zeros(N, dtype=bool)
    with pytest.raises(InputError, match="disagree"):
        drop_reasons(kept[:5], world.alignment, world.tokens, 100, world.blocks)
    with pytest.raises(InputError, match="belong together"):
        drop_reasons(kept, world.alignment, world.tokens, 100, world.blocks, tau=1.0)
    with pytest.raises(InputError, match=r"quota names of shape \(3,\); give one"):
        drop_reasons(kept, world.alignment, world.tokens, 100, world.blocks, quotas=np.full(3, ""))
    for directions in (np.ones((D, 0)), np.ones((D + 1, 2)), np.ones(D)):
        with pytest.raises(InputError, match="give one column per task"):
            task_extremes(world.blocks, directions)
