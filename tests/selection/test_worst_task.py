"""The best worst task against a general-purpose solver, with the real optimiser and constraints inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constraint_toys import Array, Problem, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.solver.optimiser import optimise
from grasp_pipeline.selection.solver.worst_task import (
    WorstTask,
    normalised_weights,
    solve_max_min,
)


class Case:
    """A constrained corpus with several tasks."""

    def __init__(self, seed: int, kinds: set[str], tasks: int, lam: float, whitened: bool = False) -> None:
        draw = generator("worst task", seed)
        self.problem: Problem = random_problem(seed, kinds, 12, spare=0.9)
        self.constraints = self.problem.build()
        self.phi = draw.standard_normal((12, 4))
        self.targets = self.phi[:tasks] * 0.7 + 0.3 * draw.standard_normal((tasks, 4))
        self.lam = lam
        self.metric = metric_matrix(second_moment(self.phi, self.problem.tokens), 1.0) if whitened else None
        self.inner = np.eye(4) if self.metric is None else self.metric
        self.weights = draw.uniform(0.5, 2, tasks)
        self.baselines = 0.2 * draw.standard_normal(tasks)

    def mean(self, weights: Array) -> Array:
        return weights * self.problem.tokens @ self.phi / self.problem.budget

    def values(self, weights: Array, scale: Array | float = 1.0, base: Array | float = 0.0) -> Array:
        mean = self.mean(weights)
        return ((self.targets - self.lam / 2 * mean) @ self.inner @ mean - base) / scale

    def run(self, **options: Any) -> WorstTask:
        return solve_max_min(
            lambda target: optimise(
                self.phi, self.problem.tokens, target, self.problem.budget,
                lam=self.lam, metric=self.metric, feasible=self.constraints, gap=1e-7, max_passes=1000,
            ),
            self.mean, self.targets, lam=self.lam, metric=self.metric, **options,
        )  # fmt: skip

    def slow(self, start: Array, scale: Array | float = 1.0, base: Array | float = 0.0) -> float:
        """Maximise z under z <= value_t(w) for all t, every constraint a row."""
        rows = self.problem.program()
        n = len(start)
        spec: list[dict[str, Any]] = [
            {"type": "eq", "fun": lambda x: rows["A_eq"] @ x[:n] - rows["b_eq"]},
            {"type": "ineq", "fun": lambda x: self.values(x[:n], scale, base) - x[n]},
        ]
        if rows["A_ub"] is not None:
            spec.append({"type": "ineq", "fun": lambda x: rows["b_ub"] - rows["A_ub"] @ x[:n]})
        found = minimize(
            lambda x: -x[n], np.append(start, self.values(start, scale, base).min()), method="SLSQP",
            bounds=[*map(tuple, rows["bounds"]), (None, None)], constraints=spec,
            options={"maxiter": 1000, "ftol": 1e-12},
        )  # fmt: skip
        return -found.fun


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([set(), {"floors", "caps"}, {"cluster_units", "keep"}]),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.7, 1.5]),
    st.booleans(),
)
def test_best_worst_task_equals_an_exact_solver(
    seed: int, kinds: set[str], tasks: int, lam: float, whitened: bool
) -> None:
    try:
        case = Case(seed, kinds, tasks, lam, whitened)
    except ConfigError:
        return
    found = case.run(gap=1e-5)
    assert found.value == pytest.approx(case.values(found.weights).min(), abs=1e-6)
    np.testing.assert_allclose(found.values, case.values(found.weights), atol=1e-6)
    exact = max(case.slow(found.weights), case.slow(case.constraints.vertex(case.phi[:, 0])))
    assert found.value == pytest.approx(exact, abs=1e-4)
    assert found.upper_bound >= exact - 1e-5
    assert found.prices.sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_weights_and_baselines(seed: int) -> None:
    case = Case(seed, {"caps"}, 3, 0.7)
    found = case.run(gap=1e-5, weights=7 * case.weights, baselines=case.baselines)
    scale = case.weights / case.weights.mean()
    np.testing.assert_allclose(found.values, case.values(found.weights, scale, case.baselines), atol=1e-6)
    exact = case.slow(found.weights, scale, case.baselines)
    assert found.value == pytest.approx(exact, abs=1e-4)
    assert found.upper_bound >= exact - 1e-5


def test_the_worst_task_is_better_than_under_the_mean_and_binding_tasks_are_equal() -> None:
    case = Case(3, set(), 3, 0.7)
    found = case.run(gap=1e-6)
    mean = optimise(
        case.phi,
        case.problem.tokens,
        np.asarray(case.targets).mean(axis=0),
        case.problem.budget,
        gap=1e-6,
    )
    assert found.value > case.values(mean.weights).min() + 1e-3
    binding = found.values[found.prices > 1e-3]
    np.testing.assert_allclose(binding, found.value, atol=1e-3)
    assert case.values(optimise(
        case.phi, case.problem.tokens, found.target, case.problem.budget, gap=1e-6
    ).weights).min() == pytest.approx(found.value, abs=1e-2)  # fmt: skip


def test_the_gap_is_told_where_solves_run_out() -> None:
    case = Case(3, set(), 4, 0.0)
    found = case.run(gap=1e-9, max_solves=2)
    assert found.solves == 2
    assert found.relative_gap == pytest.approx((found.upper_bound - found.value) / abs(found.value), rel=1e-6)
    assert found.relative_gap > 1e-6


def test_weights_of_tasks() -> None:
    np.testing.assert_allclose(normalised_weights(["a", "b"], {}), [0.5, 0.5])
    np.testing.assert_allclose(normalised_weights(["a", "b", "c"], {"c": 3, "a": 1}), [0.25, 0, 0.75])
    with pytest.raises(ConfigError, match="names x, which is no task; choose among a, b"):
        normalised_weights(["a", "b"], {"x": 1})
    with pytest.raises(ConfigError, match="one of them above 0"):
        normalised_weights(["a", "b"], {"a": 0})


def test_refusals() -> None:
    case = Case(3, set(), 2, 0.7)
    with pytest.raises(InputError, match="one weight and one baseline"):
        case.run(weights=[1.0])
    with pytest.raises(ConfigError, match="each above 0"):
        case.run(weights=[1.0, 0.0])
