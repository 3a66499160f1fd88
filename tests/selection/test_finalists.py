"""The finalists on planted data: aligned, redundant, duplicated and off-task chunks."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.selection.finalists import (
    ALWAYS,
    Ingredients,
    Rule,
    build_finalists,
    linear_view,
    shortlist,
)
from grasp_pipeline.selection.ngrams import Chunks

SELECTED = Configuration("c", "output", 1.0, 1.0, "mean")


def ingredients(duplicates: bool = True) -> Ingredients:
    rng = np.random.default_rng(0)
    n, d = 240, 12
    target = np.zeros(d)
    target[:3] = 1.0
    sketches = rng.standard_normal((n, d)).astype(np.float32) * 0.5
    sketches[:80] += target
    survivors = np.ones(n, dtype=bool)
    if duplicates:
        sketches[40:60] = sketches[:20]
        survivors[40:60] = False
    lists = [rng.integers(1, 30 if i < 80 else 200, rng.integers(6, 14)) for i in range(n)]
    queries = [rng.integers(1, 30, 12) for _ in range(20)]
    chunks = Chunks.of(lists)
    budget = int(chunks.lengths().sum() * 0.25)
    losses = rng.normal(5, 1, n)
    share = np.full(len(queries), 1 / len(queries))
    return Ingredients(
        ArrayBlocks(sketches), target, chunks, Chunks.of(queries), share, survivors, losses, budget
    )


def test_every_family_competes_within_the_budget() -> None:
    given = ingredients()
    finalists = {entry.arm.name: entry for entry in build_finalists(given, SELECTED, 1e-3, 200)}
    assert {*ALWAYS, "surrogate-0.7", "surrogate-selected"} <= set(finalists)
    assert {"surrogate-0.7-deduplicated", "surrogate-ngrams-0.7", "dsir-deduplicated"} <= set(finalists)
    longest = given.n_tokens.max()
    for name, entry in finalists.items():
        tokens = int(given.n_tokens[entry.arm.membership].sum())
        assert tokens == entry.arm.n_tokens
        if name == "full":
            assert entry.arm.membership.all()
        else:
            assert given.budget - longest < tokens <= given.budget, name
        if entry.deduplicated:
            assert given.survivors[entry.arm.membership].all(), name
        if name.startswith("surrogate"):
            assert entry.arm.membership[:80].mean() > 0.5, name


def test_without_near_duplicates_there_are_no_deduplicated_twins() -> None:
    names = [entry.arm.name for entry in build_finalists(ingredients(duplicates=False), SELECTED, 1e-3, 200)]
    assert not any(name.endswith("deduplicated") and name != "random-deduplicated" for name in names)
    assert len(names) == len(set(names))


def test_equal_corpora_enter_once() -> None:
    memberships = [
        entry.arm.membership.tobytes() for entry in build_finalists(ingredients(), SELECTED, 1e-3, 200)
    ]
    assert len(memberships) == len(set(memberships))


@pytest.mark.parametrize("size", [1, 3])
def test_the_shortlist_follows_the_judge_and_keeps_the_simple_arms(size: int) -> None:
    finalists = build_finalists(ingredients(), SELECTED, 1e-3, 200)
    score = np.random.default_rng(1).random(len(finalists))
    chosen = {f.arm.name for f, on in zip(finalists, shortlist(finalists, score, size), strict=True) if on}
    assert set(ALWAYS) <= chosen
    by_score = [finalists[i].arm.name for i in np.argsort(-score) if finalists[i].arm.name not in ALWAYS]
    assert set(by_score[:size]) <= chosen
    best = next(name for name in by_score if name.startswith("surrogate"))
    assert best in chosen
    assert len(chosen) <= len(ALWAYS) + size + 1


def test_a_linear_view_explains_its_arm() -> None:
    given = ingredients()
    entries = {entry.arm.name: entry for entry in build_finalists(given, SELECTED, 1e-4, 500)}
    for name in (
        "influence",
        "graddot",
        "surrogate-0.7",
        "surrogate-ngrams-0.7",
        "surrogate-0.7-deduplicated",
    ):
        entry = entries[name]
        assert isinstance(entry.rule, Rule)
        view = linear_view(given, entry.rule, entry.arm.membership, entry.deduplicated)
        inside = view.marginal >= view.tau
        if entry.deduplicated:
            inside &= given.survivors
        tokens = given.n_tokens
        agreement = tokens[inside == entry.arm.membership].sum() / tokens.sum()
        assert agreement > 0.95, name
        if entry.rule.lam == 0:
            np.testing.assert_allclose(view.marginal, view.alignment, rtol=1e-6)
