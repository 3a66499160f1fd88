"""The corpora of highest log-coverage: what they cover, for which task, and what stands in their way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from test_finalists import SELECTED, ingredients

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.corpus.events import previous_token
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.families.log_coverage import SMOOTHINGS, LogCoverageFamily
from grasp_pipeline.selection.candidates.family import Choice, Search
from grasp_pipeline.selection.candidates.finalists import build_finalists
from grasp_pipeline.selection.target import Target

SEARCH = Search(SELECTED, 1e-3, 100)


def built(context: SelectionContext) -> dict[str, Candidate]:
    return {made.name: made for made in LogCoverageFamily().further(context, SEARCH)}


def uneven(target: str, weights: dict[str, float] | None = None) -> SelectionContext:
    """A corpus of three languages; task `a` asks for many different words of one, `b` for a few of another."""
    rng = np.random.default_rng(4)
    chunks = [rng.integers(100 * (i % 3), 100 * (i % 3) + 20, size=12) for i in range(240)]
    queries = [rng.integers(0, 20, size=30) for _ in range(10)]
    queries += [rng.integers(100, 120, size=30) for _ in range(10)]
    given = ingredients(duplicates=False)
    lists = TokenLists.of(chunks)
    sets = replace(given.feasible_sets, n_tokens=lists.lengths, budget=240 * 3)
    return replace(
        given,
        chunks=lists,
        queries=TokenLists.of(queries),
        query_task=np.repeat([0, 1], 10),
        target=Target.of(target, ["a", "b"], weights),
        feasible_sets=sets,
    )


def test_every_smoothing_and_lever_is_built_within_the_budget() -> None:
    context = ingredients()
    made = built(context)
    assert set(made) == {
        *(f"log-coverage-{rho:g}" for rho in SMOOTHINGS),
        "log-coverage-3-deduplicated",
        "log-coverage-3-joined",
        "log-coverage-3-twice",
        "log-coverage-30-twice",
    }
    for one in made.values():
        assert 0 < one.n_tokens * one.repeats <= context.feasible_sets.budget
        assert context.feasible_sets.allowed(one.dedup)[one.membership].all()
    again = built(ingredients())
    assert all(np.array_equal(made[name].membership, again[name].membership) for name in made)
    names = {one.name for one in build_finalists(ingredients(), SELECTED, 1e-3, 100)}
    assert names & set(made)


def test_each_has_the_highest_value_of_its_own_objective() -> None:
    context = ingredients()
    made = built(context)
    for rho in SMOOTHINGS:
        surrogate = LogCoverage(context.events, rho)
        values = {
            name: float(context.target.weights @ surrogate.predict(one.membership[None])[0])
            for name, one in made.items()
            if one.repeats == 1 and one.dedup == "none"
        }
        assert max(values, key=values.__getitem__) == f"log-coverage-{rho:g}"


def test_joined_corpora_give_every_task_its_share() -> None:
    third = np.arange(240) % 3
    shares = {}
    for name, weights in (("even", None), ("a", {"a": 5.0, "b": 1.0})):
        kept = built(uneven("mean", weights))["log-coverage-3-joined"].membership
        shares[name] = kept[third == 0].sum() / kept.sum()
        assert kept[third == 2].sum() <= 2
    assert 0.4 < shares["even"] < 0.6
    assert shares["a"] > 0.75


def test_the_worst_task_gains_no_less_than_under_the_mean() -> None:
    least = {}
    for target in ("mean", "worst"):
        context = uneven(target)
        surrogate = LogCoverage(context.events, 3.0)
        kept = built(context)["log-coverage-3"].membership
        both = surrogate.predict(np.stack([kept, np.ones(240, dtype=bool)]))
        least[target] = (both[0] - both[1]).min()
    assert least["worst"] >= least["mean"] - 1e-9
    assert "log-coverage-3-joined" not in built(uneven("worst"))


def test_one_task_of_several_counts_alone() -> None:
    kept = built(uneven("b", None))["log-coverage-3"].membership
    alone = replace(uneven("mean", {"b": 1.0}), target=Target.of("b", ["a", "b"]))
    np.testing.assert_array_equal(kept, built(alone)["log-coverage-3"].membership)


def test_contexts_of_another_kind_are_covered_and_leave_no_table() -> None:
    """Codes that a model could give: here a hash of the token's place in its chunk."""

    def places(chunks: TokenLists, first: int) -> np.ndarray:
        start = np.repeat(chunks.offsets[:-1], chunks.lengths)
        return (1 << 22) + (np.arange(len(chunks.tokens)) - start) % 3

    plain = uneven("mean")
    both = replace(plain, contexts=(previous_token, places))
    rates = [
        LogCoverage(each.events, 3.0).predict(np.ones((1, 240), dtype=bool))[0]
        for each in (plain, replace(plain, contexts=(places,)))
    ]
    joined = LogCoverage(both.events, 3.0).predict(np.ones((1, 240), dtype=bool))[0]
    np.testing.assert_allclose(joined, np.mean(rates, axis=0))
    made, family = built(both), LogCoverageFamily()
    assert not np.array_equal(made["log-coverage-3"].membership, built(plain)["log-coverage-3"].membership)
    kept = made["log-coverage-3"].membership
    choice = Choice(kept, np.ones(240, dtype=bool), smoothing=3.0)
    assert family.filter(both, choice) is None
    assert family.filter(plain, choice) is not None
