"""The budgeted optimiser against exact solvers, enumeration and its own bounds."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize

from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.solver.optimiser import optimise
from grasp_pipeline.selection.solver.simplex import nearest_in_hull

Array = NDArray[Any]


class Case:
    """A corpus of n chunks with clusters and copies; F in float64 for the slow twins."""

    def __init__(self, seed: int, n: int, d: int, whitened: bool = False, share: float = 0.4) -> None:
        draw = generator("optimiser case", seed)
        centres = draw.standard_normal((3, d))
        self.sketches = (centres[draw.integers(0, 3, n)] + 0.7 * draw.standard_normal((n, d))).astype(
            np.float32
        )
        self.sketches[draw.integers(0, n, n // 5)] = self.sketches[0]
        self.tokens = np.where(draw.random(n) < 0.6, 16, draw.integers(1, 17, n))
        self.target = centres[0] + 0.3 * draw.standard_normal(d)
        self.budget = max(16, int(share * self.tokens.sum()))
        self.metric = metric_matrix(second_moment(self.sketches, self.tokens), 1.0) if whitened else None

    def f(self, weights: Array, lam: float) -> float:
        kept = weights * self.tokens
        mean = kept @ self.sketches.astype(np.float64) / kept.sum()
        inner = np.eye(len(mean)) if self.metric is None else self.metric
        return float(self.target @ inner @ mean - lam / 2 * (mean @ inner @ mean))

    def run(self, lam: float, **options: Any) -> Any:
        return optimise(
            self.sketches, self.tokens, self.target, self.budget, metric=self.metric, lam=lam, **options
        )


def slow_optimum(case: Case, lam: float) -> float:
    """Maximise F over the weights themselves with a general-purpose solver."""
    phi = case.sketches * case.tokens[:, None] / case.budget
    inner = np.eye(phi.shape[1]) if case.metric is None else case.metric
    found = minimize(
        lambda w: -(case.target - lam / 2 * (w @ phi)) @ inner @ (w @ phi),
        np.full(len(phi), case.budget / case.tokens.sum()),
        jac=lambda w: -phi @ inner @ (case.target - lam * (w @ phi)),
        method="SLSQP",
        bounds=[(0, 1)] * len(phi),
        constraints={
            "type": "eq",
            "fun": lambda w: (w @ case.tokens - case.budget) / case.budget,
            "jac": lambda w: case.tokens / case.budget,
        },
        options={"maxiter": 500, "ftol": 1e-9},
    )
    assert found.success
    return -found.fun


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.4, 1.0, 3.0]), st.booleans(), st.floats(0.1, 0.95))
def test_optimum_equals_an_exact_solver(seed: int, lam: float, whitened: bool, share: float) -> None:
    case = Case(seed, 12, 4, whitened, share)
    found = case.run(lam, gap=1e-7)
    assert found.fractional_objective == pytest.approx(slow_optimum(case, lam), abs=1e-4)
    assert found.fractional_objective == pytest.approx(case.f(found.weights, lam), abs=1e-5)
    assert found.objective == pytest.approx(case.f(found.membership, lam), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.7, 1.5]), st.booleans())
def test_enumeration_lies_between_rounding_and_bound(seed: int, lam: float, whitened: bool) -> None:
    case = Case(seed, 10, 3, whitened)
    found = case.run(lam)
    exact, within = [], []
    for bits in product((0.0, 1.0), repeat=10):
        spent = np.array(bits) @ case.tokens
        if 0 < spent <= case.budget:
            within.append(case.f(np.array(bits), lam))
        if spent == case.budget:
            exact.append(within[-1])
    assert found.objective <= max(within) + 1e-5
    assert all(value <= found.upper_bound + 1e-5 for value in exact)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.floats(0.05, 1.0))
def test_contract(seed: int, lam: float, whitened: bool, share: float) -> None:
    case = Case(seed, 200, 6, whitened, share)
    found = case.run(lam)
    assert ((found.weights >= 0) & (found.weights <= 1)).all()
    assert found.weights @ case.tokens == pytest.approx(case.budget)
    spent = case.tokens[found.membership].sum()
    assert found.n_tokens == spent <= case.budget
    assert spent == case.tokens.sum() or case.budget - spent < 16
    assert found.fractional_gap <= 1e-3
    assert found.relative_gap >= 0
    draw = generator("feasible", seed)
    for _ in range(5):
        weights = draw.random(200)
        weights *= case.budget / (weights @ case.tokens)
        if weights.max() <= 1:
            assert case.f(weights, lam) <= found.upper_bound + 1e-5
    inner = np.eye(6) if case.metric is None else case.metric
    mean = found.weights * case.tokens @ case.sketches.astype(np.float64) / case.budget
    np.testing.assert_allclose(found.q, inner @ (case.target - lam * mean), atol=1e-4)
    np.testing.assert_allclose(found.marginal, case.sketches @ found.q, atol=1e-4)


def test_many_chunks_agree_with_plain_frank_wolfe() -> None:
    """The same optimum as the textbook method with exact line search, in far fewer passes."""
    case = Case(5, 3000, 32, whitened=True, share=0.25)
    lam = 1.0
    found = case.run(lam, gap=1e-5)
    phi, metric = case.sketches.astype(np.float64), case.metric
    assert metric is not None
    mean = case.tokens @ phi / case.tokens.sum()
    for _ in range(500):
        q = metric @ (case.target - lam * mean)
        vertex, left = np.zeros(32), float(case.budget)
        for i in np.argsort(-(phi @ q), kind="stable"):
            take = min(left, case.tokens[i])
            vertex += take * phi[i] / case.budget
            left -= take
            if left <= 0:
                break
        step = vertex - mean
        mean = mean + min(1.0, q @ step / (lam * step @ metric @ step)) * step
    slow = case.target @ metric @ mean - lam / 2 * (mean @ metric @ mean)
    assert found.fractional_objective == pytest.approx(slow, rel=1e-3)
    assert found.passes < 60
    assert found.relative_gap < 2e-3
    # Complementary slackness: chunks on the wrong side of tau lie near it (copies of one chunk tie).
    wrong = (found.marginal >= found.tau) != found.membership
    assert np.abs(found.marginal[wrong] - found.tau).max(initial=0) < 0.05 * found.marginal.std()


def test_lambda_zero_is_additive_top_k_in_one_pass() -> None:
    case = Case(3, 100, 5)
    found = case.run(0.0)
    order = np.argsort(-(case.sketches @ case.target.astype(np.float32)), kind="stable")
    fits = order[np.cumsum(case.tokens[order]) <= case.budget]
    assert set(np.nonzero(found.membership)[0]) == set(fits)
    assert (found.passes, found.fractional_gap) == (1, 0.0)


def test_blocks_of_any_size_give_the_same_bits() -> None:
    case = Case(7, 2500, 8, whitened=True)
    whole = case.run(0.7)
    for rows in (1, 700, 1024, 1500):
        blocks = ArrayBlocks(case.sketches, block_rows=rows)
        part = optimise(blocks, case.tokens, case.target, case.budget, metric=case.metric, lam=0.7)
        np.testing.assert_array_equal(part.weights, whole.weights)
        np.testing.assert_array_equal(part.marginal, whole.marginal)
        assert (part.tau, part.objective, part.passes) == (whole.tau, whole.objective, whole.passes)


def test_half_precision_sketches_with_a_scale() -> None:
    case = Case(7, 500, 8)
    scale = np.full(500, 1e-3, dtype=np.float32)
    half = ArrayBlocks((case.sketches * 1e3).astype(np.float16), scale)
    found = optimise(half, case.tokens, case.target, case.budget)
    assert found.objective == pytest.approx(case.run(0.7).objective, rel=5e-3)


def test_only_allowed_chunks_are_chosen() -> None:
    case = Case(11, 200, 5)
    allowed = generator("allowed").random(200) < 0.6
    found = case.run(0.7, allowed=allowed)
    assert not found.weights[~allowed].any()
    assert not found.membership[~allowed].any()
    survivors = optimise(case.sketches[allowed], case.tokens[allowed], case.target, case.budget)
    assert found.fractional_objective == pytest.approx(survivors.fractional_objective, rel=1e-3)


def test_budget_of_everything_keeps_everything() -> None:
    case = Case(2, 40, 3, share=1.0)
    found = case.run(1.0)
    assert found.membership.all()
    assert found.relative_gap == pytest.approx(0, abs=1e-4)


def test_a_target_already_met_stops_at_the_floor_of_the_gap() -> None:
    """Where drawing at random is optimal, there is no gain to compare the gap with."""
    case = Case(4, 400, 3)
    even = case.tokens @ case.sketches / case.tokens.sum()
    found = optimise(case.sketches, case.tokens, even, case.budget, lam=1.0)
    assert found.passes < 100
    assert found.fractional_objective == pytest.approx(even @ even / 2, rel=1e-3)


@pytest.mark.parametrize("whitened", [False, True])
def test_a_reachable_target_is_rounded_without_losing_it(whitened: bool) -> None:
    """Where mu = r / lambda can be met, marginal values vanish and no threshold separates the kept."""
    case = Case(6, 2000, 8, whitened)
    case.target = 1.2 * case.tokens @ case.sketches / case.tokens.sum()
    found = case.run(1.2, gap=1e-5)
    inner = np.eye(8) if case.metric is None else case.metric
    best = case.target @ inner @ case.target / 2.4
    assert found.fractional_objective == pytest.approx(best, rel=1e-4)
    assert found.objective == pytest.approx(best, rel=1e-3)
    by_threshold = found.marginal >= found.tau
    assert case.f(by_threshold, 1.2) < best - 0.05


class Groups:
    """A polytope by linear programming: the first half of the chunks gets at most a share of the budget."""

    def __init__(self, tokens: Array, budget: int, cap: float) -> None:
        self.n_tokens, self.budget, self.cap = tokens.astype(np.float64), budget, cap * budget
        self.rounded: list[Array] = []

    def vertex(self, gains: Array) -> Array:
        first = np.where(np.arange(len(gains)) < len(gains) // 2, self.n_tokens, 0.0)
        best = linprog(
            -gains * self.n_tokens,
            A_ub=[first],
            b_ub=[self.cap],
            A_eq=[self.n_tokens],
            b_eq=[self.budget],
            bounds=(0, 1),
        )
        assert best.success
        return best.x

    def round(self, weights: Array, gains: Array) -> Array:
        kept = np.zeros(len(weights), dtype=bool)
        spent, first = 0.0, 0.0
        for i in np.lexsort((-gains, -weights)):
            half = self.n_tokens[i] if i < len(weights) // 2 else 0.0
            if spent + self.n_tokens[i] <= self.budget and first + half <= self.cap:
                kept[i], spent, first = True, spent + self.n_tokens[i], first + half
        self.rounded.append(kept)
        return kept


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.4, 1.0]), st.booleans(), st.floats(0.1, 0.6))
def test_a_polytope_of_constraints_equals_an_exact_solver(
    seed: int, lam: float, whitened: bool, cap: float
) -> None:
    case = Case(seed, 14, 4, whitened, share=0.45)
    groups = Groups(case.tokens, case.budget, cap)
    if case.budget - groups.cap > case.tokens[7:].sum():
        return
    found = case.run(lam, gap=1e-7, feasible=groups)
    phi = case.sketches * case.tokens[:, None] / case.budget
    inner = np.eye(4) if case.metric is None else case.metric
    first = np.where(np.arange(14) < 7, case.tokens, 0) / case.budget
    exact = minimize(
        lambda w: -(case.target - lam / 2 * (w @ phi)) @ inner @ (w @ phi),
        groups.vertex(np.zeros(14)),
        jac=lambda w: -phi @ inner @ (case.target - lam * (w @ phi)),
        method="SLSQP",
        bounds=[(0, 1)] * 14,
        constraints=[
            {"type": "eq", "fun": lambda w: (w @ case.tokens - case.budget) / case.budget},
            {"type": "ineq", "fun": lambda w: cap - w @ first},
        ],
        options={"maxiter": 500, "ftol": 1e-9},
    )
    assert exact.success
    assert found.fractional_objective == pytest.approx(-exact.fun, abs=1e-4)
    assert found.weights @ first <= cap + 1e-6
    assert any((found.membership == kept).all() for kept in groups.rounded)
    assert found.objective == pytest.approx(max(case.f(kept, lam) for kept in groups.rounded), abs=1e-5)


def test_a_polytope_for_another_corpus_or_with_a_mask_is_refused() -> None:
    case = Case(1, 20, 3)
    with pytest.raises(ConfigError, match="constraints are for 20 chunks and 40 tokens"):
        case.run(1.0, feasible=Groups(case.tokens, 40, 1.0))
    with pytest.raises(ConfigError, match="leave `allowed` out"):
        case.run(1.0, feasible=Groups(case.tokens, case.budget, 1.0), allowed=np.ones(20, dtype=bool))


def test_max_passes_is_kept_and_the_gap_told() -> None:
    case = Case(5, 3000, 32, share=0.25)
    found = case.run(1.0, gap=1e-9, max_passes=4)
    assert found.passes == 4
    assert found.fractional_gap > 1e-9


def test_refusals() -> None:
    case = Case(1, 20, 3)
    for budget, message in ((0, "budget is 0"), (-4, "budget is -4"), (10_000, "above the")):
        with pytest.raises(ConfigError, match=message):
            optimise(case.sketches, case.tokens, case.target, budget)
    with pytest.raises(ConfigError, match="lambda is -1"):
        case.run(-1.0)
    with pytest.raises(ConfigError, match="not positive definite"):
        optimise(case.sketches, case.tokens, case.target, case.budget, metric=-np.eye(3), lam=1.0)
    with pytest.raises(InputError, match="metric has shape"):
        optimise(case.sketches, case.tokens, case.target, case.budget, metric=np.eye(2))
    with pytest.raises(InputError, match="do not belong together"):
        optimise(case.sketches, case.tokens, case.target[:2], case.budget)
    case.sketches[4] = np.inf
    with pytest.raises(InputError, match="not finite"):
        case.run(1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 6), st.floats(1e-3, 1e3))
def test_nearest_point_of_a_hull(seed: int, k: int, d: int, unit: float) -> None:
    """Exactly optimal: no vertex lies nearer to the origin, along the point's direction, than the point."""
    points = unit * (generator("hull", seed).standard_normal((k, d)) + 0.5)
    weights = nearest_in_hull(points)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    nearest = weights @ points
    assert (points @ nearest).min() >= nearest @ nearest - 1e-9 * unit**2


def test_nearest_point_of_equal_points() -> None:
    for points in (np.zeros((3, 2)), np.ones((4, 2)), np.ones((1, 5))):
        np.testing.assert_allclose(nearest_in_hull(points) @ points, points[0], atol=1e-12)
