"""The finalists on planted data: aligned, redundant, duplicated and off-task chunks."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext, linear_view
from grasp_pipeline.selection.candidates.families import COMPARISON_ARMS, TWINS
from grasp_pipeline.selection.candidates.finalists import build_finalists, shortlist
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
from grasp_pipeline.selection.target import Target

SELECTED = Configuration("c", "output", 1.0, 1.0, "mean")


def ingredients(
    duplicates: bool = True, target_name: str = "mean", training_tokens: int = 10_000
) -> SelectionContext:
    rng = np.random.default_rng(0)
    n, d = 240, 12
    targets = np.zeros((2, d))
    targets[0, :3], targets[1, :2] = 2.0, 2.0
    sketches = rng.standard_normal((n, d)).astype(np.float32) * 0.5
    sketches[:80, :3] += 1.0
    survivors, clusters = np.ones(n, dtype=bool), np.arange(n)
    if duplicates:
        for copies in (slice(40, 60), slice(100, 120), slice(120, 140)):
            sketches[copies], survivors[copies], clusters[copies] = sketches[:20], False, clusters[:20]
    lists = [rng.integers(1, 30 if i < 80 else 200, rng.integers(6, 14)) for i in range(n)]
    queries = [rng.integers(1, 30, 12) for _ in range(20)]
    chunks = TokenLists.of(lists)
    budget = int(chunks.lengths.sum() * 0.25)
    losses = rng.normal(5, 1, n)
    return SelectionContext(
        ArrayBlocks(sketches),
        Target.of(target_name, ["a", "b"]),
        targets,
        chunks,
        TokenLists.of(queries),
        np.arange(20) % 2,
        losses,
        sketches[:, :3].sum(axis=1).astype(float),
        FeasibleSets(chunks.lengths, budget, survivors, np.arange(n), clusters),
        training_tokens,
    )


def test_every_family_competes_within_the_budget() -> None:
    context = ingredients()
    finalists = {entry.name: entry for entry in build_finalists(context, SELECTED, 1e-3, 200)}
    assert {*COMPARISON_ARMS, "surrogate-0.7", "surrogate-selected"} <= set(finalists)
    assert {"surrogate-0.7-deduplicated", "surrogate-ngrams-2", "dsir-deduplicated"} <= set(finalists)
    assert {"blend", "blend-twice", "conditional", "conditional-twice", "dsir-twice"} <= set(finalists)
    assert {"surrogate-0.7-softly-deduplicated", "surrogate-0.7-twice"} <= set(finalists)
    longest = context.n_tokens.max()
    place = np.arange(240)
    aligned = (place < 80) | ((place >= 100) & (place < 140))
    for name, entry in finalists.items():
        tokens = int(context.n_tokens[entry.membership].sum())
        assert tokens == entry.n_tokens
        if name == "full":
            assert entry.membership.all()
        else:
            budget = context.feasible_sets.budget // entry.repeats
            assert budget - longest < tokens <= budget, name
        assert context.feasible_sets.allowed(entry.dedup)[entry.membership].all(), name
        if name.startswith("surrogate"):
            kept = entry.membership
            assert kept[aligned].mean() > 2 * kept[~aligned].mean(), name


def test_without_near_duplicates_there_are_no_deduplicated_twins() -> None:
    names = [entry.name for entry in build_finalists(ingredients(duplicates=False), SELECTED, 1e-3, 200)]
    assert not any(name.endswith("deduplicated") and name != "random-deduplicated" for name in names)
    assert len(names) == len(set(names))


def test_every_comparison_arm_has_the_twin_that_the_candidates_have() -> None:
    """Half the budget's text, every chunk twice, by the same score: what repeats bring is theirs as well."""
    context = ingredients()
    finalists = {entry.name: entry for entry in build_finalists(context, SELECTED, 1e-3, 200)}
    assert set(TWINS) == {f"{arm}-twice" for arm in COMPARISON_ARMS if arm != "full"}
    assert set(TWINS) <= set(finalists)
    for name in TWINS:
        twin, once = finalists[name], finalists[name.removesuffix("-twice")]
        tokens = int(context.n_tokens[twin.membership].sum())
        assert (twin.repeats, twin.role, twin.family) == (2, "simple", once.family), name
        assert (
            context.feasible_sets.budget // 2 - context.n_tokens.max()
            < tokens
            <= context.feasible_sets.budget // 2
        ), name
        assert twin.n_tokens == tokens, name
        assert twin.description.endswith("every chunk twice."), name
        assert repr(twin.linear) == repr(once.linear), name
    for name in ("influence", "graddot", "lowest-loss", "middle-perplexity"):
        best = finalists[name].membership
        assert (best | ~finalists[f"{name}-twice"].membership).all(), f"half of {name} is its better half"


def test_chunks_count_twice_only_where_a_retraining_sees_the_budget() -> None:
    short = ingredients(training_tokens=ingredients().feasible_sets.budget - 1)
    assert all(entry.repeats == 1 for entry in build_finalists(short, SELECTED, 1e-3, 200))


def test_equal_corpora_enter_once() -> None:
    memberships = [
        entry.membership.tobytes() for entry in build_finalists(ingredients(), SELECTED, 1e-3, 200)
    ]
    assert len(memberships) == len(set(memberships))


@pytest.mark.parametrize("size", [1, 3])
def test_the_shortlist_follows_the_judge_and_keeps_the_simple_arms(size: int) -> None:
    finalists = build_finalists(ingredients(), SELECTED, 1e-3, 200)
    score = np.random.default_rng(1).random(len(finalists))
    chosen = {f.name for f, on in zip(finalists, shortlist(finalists, score, size), strict=True) if on}
    assert set(COMPARISON_ARMS) <= chosen
    judged = [finalists[i].name for i in np.argsort(-score)]
    by_score = [name for name in judged if name not in (*COMPARISON_ARMS, *TWINS)]
    assert set(by_score[:size]) <= chosen
    best = next(name for name in by_score if name != "dsir-deduplicated")
    assert best in chosen
    assert chosen & set(TWINS) == set([name for name in judged if name in TWINS][:size])
    assert len(chosen) <= len(COMPARISON_ARMS) + 2 * size + 1


def test_a_limit_leaves_out_comparison_arms_from_the_last_on_and_then_the_worst_judged() -> None:
    finalists = build_finalists(ingredients(), SELECTED, 1e-3, 200)
    score = np.random.default_rng(1).random(len(finalists))

    def chosen(most: int | None) -> set[str]:
        listed = shortlist(finalists, score, 2, most)
        return {finalist.name for finalist, on in zip(finalists, listed, strict=True) if on}

    everything = chosen(None)
    assert everything - chosen(len(everything) - 2) == set(COMPARISON_ARMS[-2:])
    by_score = [finalists[i].name for i in np.argsort(-score)]
    best = next(name for name in by_score if name not in (*COMPARISON_ARMS, *TWINS, "dsir-deduplicated"))
    assert chosen(1) == {best}
    assert len(chosen(5) & set(TWINS)) == 2
    with pytest.raises(ConfigError, match="raise it by 3"):
        chosen(-2)


def test_the_worst_task_gains_more_than_under_the_mean() -> None:
    mean, worst = ingredients(), ingredients(target_name="worst")
    worst.targets[1] = mean.targets[1] = np.eye(12)[5] * 1.5
    gains = {}
    for name, context in (("mean", mean), ("worst", worst)):
        arms = {entry.name: entry for entry in build_finalists(context, SELECTED, 1e-3, 200)}
        entry = arms["surrogate-0.7"]
        kept = entry.membership * context.n_tokens
        sketches = context.blocks.sketches.astype(float)  # type: ignore[attr-defined]
        every = context.n_tokens @ sketches / context.n_tokens.sum()

        def value(mu: np.ndarray, targets: np.ndarray = context.targets) -> np.ndarray:
            return targets @ mu - 0.35 * mu @ mu

        gains[name] = value(kept @ sketches / kept.sum()) - value(every)
        assert entry.linear is not None
        if name == "worst":
            assert entry.linear.target is not None
            view = linear_view(context, entry.linear, entry.membership, np.ones(240, dtype=bool))
            agreement = ((view.marginal >= view.tau) == entry.membership).mean()
            assert agreement > 0.9
            assert entry.surrogate_value == pytest.approx(gains[name].min(), rel=1e-5)
    assert gains["worst"].min() > gains["mean"].min() + 1e-3


def test_a_linear_view_explains_its_arm() -> None:
    context = ingredients()
    entries = {entry.name: entry for entry in build_finalists(context, SELECTED, 1e-4, 500)}
    for name in (
        "influence",
        "graddot",
        "surrogate-0.7",
        "surrogate-ngrams-1",
        "surrogate-0.7-deduplicated",
        "surrogate-0.7-twice",
    ):
        entry = entries[name]
        assert isinstance(entry.linear, LinearScore)
        allowed = context.feasible_sets.allowed(entry.dedup)
        view = linear_view(context, entry.linear, entry.membership, allowed)
        inside = (view.marginal >= view.tau) & allowed
        tokens = context.n_tokens
        agreement = tokens[inside == entry.membership].sum() / tokens.sum()
        assert agreement > 0.95, name
        if entry.linear.lam == 0:
            np.testing.assert_allclose(view.marginal, view.alignment, rtol=1e-6)
