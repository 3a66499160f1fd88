"""Filling a token budget: the fractional knapsack against a linear program, whole chunks against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.solver.budget import (
    TokenBudget,
    check_budget,
    descending,
    fill_exactly,
    fill_whole,
    longest_run,
)

CORPORA = st.lists(st.integers(1, 20), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(0, 1000), st.floats(0.01, 1))
def test_exact_filling_is_the_best_fractional_knapsack(lengths: list[int], seed: int, share: float) -> None:
    tokens = np.array(lengths, dtype=np.float64)
    budget = max(1, int(share * tokens.sum()))
    value = generator("knapsack", seed).standard_normal(len(tokens))
    weights = fill_exactly(descending(value), tokens, budget)
    assert tokens @ weights == pytest.approx(budget)
    assert ((weights > 0) & (weights < 1)).sum() <= 1
    best = linprog(-value * tokens, A_eq=[tokens], b_eq=[budget], bounds=(0, 1))
    assert (value * tokens) @ weights == pytest.approx(-best.fun, abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(CORPORA, st.integers(0, 1000), st.floats(0.01, 1))
def test_whole_filling_is_the_longest_run_that_fits(lengths: list[int], seed: int, share: float) -> None:
    tokens = np.array(lengths, dtype=np.float64)
    budget = max(min(lengths), int(share * tokens.sum()))
    order = generator("run", seed).permutation(len(tokens))
    expected, spent = set(), 0
    for i in order:
        if tokens[i] > budget:
            continue
        if spent + tokens[i] > budget:
            break
        expected.add(int(i))
        spent += tokens[i]
    membership = fill_whole(order, tokens, budget)
    assert set(np.nonzero(membership)[0].tolist()) == expected
    assert budget - tokens.max() < spent <= budget


def test_descending_breaks_ties_by_the_next_key_then_by_position() -> None:
    assert descending([1, 3, 3, 2]).tolist() == [1, 2, 3, 0]
    assert descending([1, 3, 3, 2, 3], [0, 1, 5, 0, 5]).tolist() == [2, 4, 1, 3, 0]


VALUES = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -np.inf])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(VALUES, st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(0, 200),
    st.booleans(),
)
def test_the_longest_run_equals_sorting(rows: list[tuple[float, int]], limit: int, counted: bool) -> None:
    values = np.array([value for value, _ in rows], dtype=np.float32)
    sizes = np.array([size for _, size in rows], dtype=np.float32)
    found = longest_run(values, limit, None if counted else sizes)
    if counted:
        sizes[:] = 1
    order = np.argsort(-values, kind="stable")
    whole = int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right"))
    np.testing.assert_array_equal(np.flatnonzero(found.taken), np.sort(order[:whole]))
    assert found.spent == sizes[order[:whole]].sum()
    assert found.edge == (order[whole] if whole < len(order) else None)


def test_the_longest_run_of_more_rows_than_are_looked_at_together() -> None:
    draw = generator("long run")
    n = 600_000
    values = np.round(draw.standard_normal(n), 2).astype(np.float32)
    sizes = draw.integers(1, 129, n).astype(np.float32)
    limit = int(0.3 * sizes.sum())
    order = np.argsort(-values, kind="stable")
    whole = int(np.searchsorted(np.cumsum(sizes[order], dtype=np.float64), limit, side="right"))
    found = longest_run(values, limit, sizes)
    np.testing.assert_array_equal(np.flatnonzero(found.taken), np.sort(order[:whole]))
    assert (found.edge, found.spent) == (order[whole], sizes[order[:whole]].sum(dtype=np.float64))


def test_the_budget_as_a_polytope() -> None:
    tokens = np.array([4.0, 0.0, 3.0, 5.0, 2.0])
    feasible = TokenBudget(tokens, 8)
    assert feasible.vertex(np.array([1.0, 9.0, 2.0, 2.0, 0.0])).tolist() == [0, 0, 1, 1, 0]
    assert feasible.vertex(np.array([3.0, 9.0, 2.0, 2.0, 0.0])).tolist() == [1, 0, 1, 0.2, 0]
    kept = feasible.round(np.array([0.5, 1.0, 0.5, 1.0, 0.0]), np.array([0.0, 9.0, 1.0, 0.0, 5.0]))
    assert kept.tolist() == [False, False, True, True, False]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="budget is 0"):
        check_budget([5, 5], 0)
    with pytest.raises(ConfigError, match="above the 10 tokens"):
        check_budget([5, 5], 11)
    with pytest.raises(ConfigError, match="above the 5 tokens"):
        check_budget([5, 5], 6, np.array([True, False]))
    with pytest.raises(ConfigError, match="below the shortest chunk"):
        fill_whole(np.arange(2), np.array([5.0, 7.0]), 4)
    with pytest.raises(InputError, match="0 or more"):
        check_budget([5, -5], 3)
    with pytest.raises(InputError, match="allowed has shape"):
        check_budget([5, 5], 3, np.array([True]))
