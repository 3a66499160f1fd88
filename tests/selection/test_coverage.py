"""The optimiser of log-coverage: against plain greedy and against every subset, bounds that hold, constraints met."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from constraint_toys import violations
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
from grasp_pipeline.selection.solver import coverage
from grasp_pipeline.selection.solver.budget import TokenBudget, check_budget
from grasp_pipeline.selection.solver.coverage import STEP, Coverage, cover, greedy


def problem(seed: int, n: int = 40, events: int = 12) -> tuple[Coverage, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.4, size=(n, events)).astype(np.float32)
    tokens = counts.sum(axis=1).astype(int) + rng.integers(1, 6, size=n)
    weights = rng.dirichlet(np.ones(events))
    return Coverage(csr_array(counts), weights, rng.uniform(0.01, 0.1, size=events)), tokens


def plain_greedy(objective: Coverage, tokens: np.ndarray, budget: int) -> float:
    """Every chunk's gain anew at every step; returns F at the budget's rates."""
    counts = objective.events.toarray().astype(float)
    chosen: list[int] = []
    while True:
        spent = tokens[chosen].sum() if chosen else 0
        have = counts[chosen].sum(axis=0) / budget
        open_ = [i for i in range(len(tokens)) if i not in chosen and tokens[i] <= budget - spent]
        if not open_:
            return objective.value(have)
        gains = [
            (objective.value(have + counts[i] / budget) - objective.value(have)) / tokens[i] for i in open_
        ]
        chosen.append(open_[int(np.argmax(gains))])


@pytest.mark.parametrize("seed", range(8))
def test_the_threshold_greedy_is_as_good_as_the_plain_one(seed: int) -> None:
    objective, tokens = problem(seed)
    budget = int(0.3 * tokens.sum())
    order = greedy(objective, tokens.astype(float), np.zeros(len(tokens), bool), budget)
    assert len(set(order.tolist())) == len(order)
    assert tokens[order].sum() <= budget
    left = np.setdiff1d(np.arange(len(tokens)), order)
    assert (tokens[left] > budget - tokens[order].sum()).all()
    nothing = objective.value(np.zeros(12))
    reached = objective.value(objective.events.toarray()[order].sum(axis=0) / budget) - nothing
    assert reached >= (1 - 2 * STEP) * (plain_greedy(objective, tokens, budget) - nothing)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_no_subset_is_above_the_bound(seed: int) -> None:
    objective, tokens = problem(seed, n=9, events=5)
    budget = int(0.5 * tokens.sum())
    feasible = TokenBudget(check_budget(tokens, budget), budget)
    found = cover(objective, tokens, feasible, gap=1e-6, max_passes=400)
    counts = objective.events.toarray().astype(float)
    best = max(
        objective.value(counts[list(some)].sum(axis=0) / budget)
        for k in range(1, 10)
        for some in combinations(range(9), k)
        if tokens[list(some)].sum() <= budget
    )
    assert best <= found.upper_bound + 1e-9
    assert found.fractional_objective <= found.upper_bound + 1e-12
    assert tokens[found.membership].sum() <= budget
    assert found.weights @ tokens <= budget * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_closes_and_the_fill_is_near_it(seed: int) -> None:
    objective, tokens = problem(seed, n=400)
    budget = int(0.3 * tokens.sum())
    found = cover(objective, tokens, TokenBudget(check_budget(tokens, budget), budget), max_passes=400)
    assert found.fractional_gap <= 1e-3
    assert found.relative_gap <= 0.02
    rate = objective.counted(found.membership) / tokens[found.membership].sum()
    np.testing.assert_allclose(found.q, objective.weights / (rate + objective.floor))
    np.testing.assert_allclose(found.marginal, objective.events @ found.q / tokens)


@pytest.mark.parametrize("seed", range(4))
def test_copies_halve_the_text_and_keep_the_rates(seed: int) -> None:
    objective, tokens = problem(seed, n=200)
    budget = int(0.4 * tokens.sum())
    twice = cover(objective, tokens, TokenBudget(check_budget(tokens * 2, budget), budget))
    half = cover(objective, tokens, TokenBudget(check_budget(tokens, budget // 2), budget // 2))
    assert tokens[twice.membership].sum() <= budget // 2
    assert twice.objective == pytest.approx(half.objective, abs=5e-3)


@pytest.mark.parametrize("seed", range(4))
def test_constraints_are_met_and_documents_stay_whole(seed: int) -> None:
    objective, tokens = problem(seed, n=120)
    rng = np.random.default_rng(seed)
    documents = np.repeat(np.arange(40), 3)
    sources = np.repeat(rng.integers(0, 3, size=40), 3)
    keep, drop = documents == 5, documents == 7
    budget = int(0.4 * tokens.sum())
    feasible = ConstraintSet(
        tokens,
        budget,
        documents=documents,
        sources=sources,
        source_names=("a", "b", "c"),
        caps={"a": 0.3},
        keep=keep,
        drop=drop,
    )
    found = cover(objective, tokens, feasible)
    assert violations(feasible, found.membership) == []
    assert found.membership[keep].all()
    assert not found.membership[drop].any()
    free = cover(objective, tokens, TokenBudget(check_budget(tokens, budget), budget))
    reached = objective.value(objective.counted(found.membership) / budget)
    assert reached <= found.upper_bound + 1e-9
    assert reached <= free.upper_bound + 1e-9


@pytest.mark.parametrize("fine", [1e-9, 0.5])
def test_blocks_taken_at_once_change_little(fine: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(0.1, size=(6000, 30)).astype(np.uint8)
    tokens = counts.sum(axis=1).astype(int) + rng.integers(1, 6, size=6000)
    objective = Coverage(csr_array(counts), rng.dirichlet(np.ones(30)), rng.uniform(0.01, 0.1, size=30))
    budget = int(0.3 * tokens.sum())
    monkeypatch.setattr(coverage, "FINE", fine)
    order = greedy(objective, tokens.astype(float), np.zeros(6000, bool), budget)
    assert len(set(order.tolist())) == len(order)
    assert tokens[order].sum() <= budget
    found = cover(objective, tokens, TokenBudget(check_budget(tokens, budget), budget), gap=3e-4)
    assert found.relative_gap <= 1e-3


def test_what_does_not_belong_together_is_refused() -> None:
    objective, _ = problem(0)
    with pytest.raises(InputError, match="do not belong together"):
        Coverage(objective.events, objective.weights[:-1], objective.floor[:-1])
    with pytest.raises(InputError, match="floors above 0"):
        Coverage(objective.events, objective.weights, objective.floor * 0)
