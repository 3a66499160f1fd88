"""Convex heads: every formula against refitting, finite differences or dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import root
from scipy.special import expit

from grasp_pipeline.attribution.convex.advisor import advise, draw_sets, removal_errors, safest
from grasp_pipeline.attribution.convex.head import SIDE_BY_SIDE, ConvexHead, fit_head, fit_subsets
from grasp_pipeline.attribution.convex.influence import ESTIMATORS, HeadInfluence
from grasp_pipeline.attribution.convex.scaling import exponents
from grasp_pipeline.errors import ConfigError, InputError


def problem(n: int, d: int, damping: float, seed: int = 0) -> ConvexHead:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, d))
    return fit_head(x, draw.random(n) < expit(x @ draw.normal(size=d)), damping)


def weighted_fit(head: ConvexHead, weights: np.ndarray) -> np.ndarray:
    """Return theta of a head with a weight (n,) per row, where a general solver finds its gradient zero."""
    x, y = head.features, head.labels

    def gradient(theta: np.ndarray) -> np.ndarray:
        return x.T @ (weights * (expit(x @ theta) - y)) + head.damping * theta

    return root(gradient, np.zeros(x.shape[1]), tol=1e-12).x


@settings(max_examples=15)
@given(st.integers(5, 40), st.integers(1, 12), st.sampled_from([0.01, 0.5, 5.0]), st.integers(0, 99))
def test_the_gradient_of_a_fitted_head_is_zero(n: int, d: int, damping: float, seed: int) -> None:
    head = problem(n, d, damping, seed)
    np.testing.assert_allclose(head.features.T @ head.residual + damping * head.theta, 0, atol=1e-9)


def test_a_head_is_what_a_general_solver_finds() -> None:
    head = problem(60, 5, 0.3)
    np.testing.assert_allclose(head.theta, weighted_fit(head, np.ones(60)), atol=1e-8)


@pytest.mark.parametrize("d", [4, SIDE_BY_SIDE + 3])
def test_subsets_side_by_side_are_heads_of_their_own_rows(d: int) -> None:
    head = problem(50, d, 0.05)
    members = np.random.default_rng(1).random((7, 50)) < 0.5
    found = fit_subsets(head.features, head.labels, 0.05, members, head.theta)
    alone = [fit_head(head.features[each], head.labels[each], 0.05).theta for each in members]
    np.testing.assert_allclose(found, alone, atol=1e-9)


def test_separable_rows_and_small_damping_converge() -> None:
    """Plain Newton steps overshoot here; without a row of either label the head is finite as well."""
    x = np.linspace(-1, 1, 40)[:, None] * np.array([[30.0, 1.0]])
    y = x[:, 0] > 0
    head = fit_head(x, y, 1e-4)
    np.testing.assert_allclose(head.features.T @ head.residual + 1e-4 * head.theta, 0, atol=1e-8)
    members = np.stack([y, ~y, np.zeros(40, dtype=bool), np.ones(40, dtype=bool)])
    found = fit_subsets(x, y, 1e-4, members)
    np.testing.assert_array_equal(found[2], 0)
    np.testing.assert_allclose(found[3], head.theta, rtol=1e-8)


def test_influence_is_the_derivative_in_a_rows_weight() -> None:
    head, step = problem(40, 4, 0.3), 1e-3
    queries = np.random.default_rng(2).normal(size=(3, 4))
    found = HeadInfluence(head).influence(queries)
    for row in (0, 7, 39):
        up, down = np.ones(40), np.ones(40)
        up[row], down[row] = 1 + step, 1 - step
        slope = queries @ (weighted_fit(head, down) - weighted_fit(head, up)) / (2 * step)
        np.testing.assert_allclose(found[:, row], slope, rtol=1e-3, atol=1e-6)


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(1, 9), st.sampled_from([0.01, 1.0]))
def test_the_newton_step_is_that_of_the_dense_hessian(seed: int, k: int, damping: float) -> None:
    head = problem(30, 12, damping, seed)
    rows = np.random.default_rng(seed).choice(30, k, replace=False)
    kept = np.setdiff1d(np.arange(30), rows)
    x, w = head.features[kept], head.curvature[kept]
    hessian = x.T @ np.diag(w) @ x + damping * np.eye(12)
    gradient = head.features[rows].T @ head.residual[rows]
    np.testing.assert_allclose(
        HeadInfluence(head).step("Newton step", rows),
        np.linalg.solve(hessian, gradient),
        rtol=1e-6,
        atol=1e-9,
    )


def test_rescaled_influence_is_the_newton_step_of_one_row_and_additive() -> None:
    head = problem(30, 20, 0.05)
    made = HeadInfluence(head)
    assert 0 <= made.leverage.min() <= made.leverage.max() < 1
    for row in range(30):
        np.testing.assert_allclose(
            made.step("rescaled influence", [row]), made.step("Newton step", [row]), rtol=1e-8, atol=1e-12
        )
    queries = np.random.default_rng(3).normal(size=(2, 20))
    np.testing.assert_allclose(
        queries @ made.step("rescaled influence", [1, 4, 9]), made.rescaled(queries)[:, [1, 4, 9]].sum(axis=1)
    )
    np.testing.assert_allclose(
        queries @ made.step("influence", [1, 4]), made.influence(queries)[:, [1, 4]].sum(axis=1)
    )


def test_leave_one_out_by_refitting_is_near_rescaled_influence_and_far_from_influence() -> None:
    """More features than rows: influence underestimates, by 1 - h."""
    draw = np.random.default_rng(5)
    x = np.maximum(draw.normal(size=(60, 20)) @ draw.normal(size=(20, 120)), 0) / 5
    head = fit_head(x, draw.random(60) < 0.5, 0.05)
    made, query = HeadInfluence(head), x[:5] + 0.1
    exact = np.stack([query @ (head.without([row]) - head.theta) for row in range(60)], axis=1)

    def error(found: np.ndarray) -> float:
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert error(made.rescaled(query)) < error(made.influence(query)) / 2


def test_errors_of_sets_are_distances_from_refitting() -> None:
    head = problem(50, 6, 0.2)
    sets = draw_sets(50, 4, 3, "test")
    found = removal_errors(head, sets)
    for place, rows in enumerate(sets):
        exact = head.without(rows) - head.theta
        assert found.actual[place] == pytest.approx(np.linalg.norm(exact))
        made = HeadInfluence(head)
        for column, name in enumerate(ESTIMATORS):
            assert found.errors[place, column] == pytest.approx(np.linalg.norm(made.step(name, rows) - exact))


def test_the_advice_is_the_cheapest_estimator_whose_worst_set_is_within_the_tolerance() -> None:
    wide, tall = problem(60, 40, 0.5), problem(2000, 4, 0.5)
    advice = advise(tall, (1, 20), drawn=8)
    assert [each.estimator for each in advice] == list(ESTIMATORS) * 2
    assert safest(advice, 1) == "influence"
    assert all(each.safe == (each.worst <= 0.1) and each.median <= each.worst for each in advice)
    assert safest(advise(wide, (1,), tolerance=0.2, drawn=8), 1) != "influence"
    assert safest(advise(wide, (30,), tolerance=1e-6, drawn=8), 30) is None
    assert advise(wide, (3,), drawn=8) == advise(wide, (3,), drawn=8)


def test_the_newton_steps_error_falls_with_the_square_of_n() -> None:
    newton, influence = exponents("n", problems=3, sets=4, varied=(500, 1000, 2000))
    assert -2.4 < newton.value < -1.6
    assert -2.4 < influence.value < -1.6
    assert newton.interval[0] <= newton.value <= newton.interval[1]


@pytest.mark.parametrize(
    ("features", "labels", "damping", "fault"),
    [
        (np.ones((3, 2)), [0, 1], 1.0, r"features of shape \(3, 2\) and labels of shape \(2,\)"),
        (np.array([[1.0], [np.nan]]), [0, 1], 1.0, "row 1 of the features holds a value that is not finite"),
        (np.ones((2, 1)), [0, 2], 1.0, "row 1 has the label 2; labels are 0 or 1"),
    ],
)
def test_what_cannot_be_fitted_is_named(
    features: np.ndarray, labels: list, damping: float, fault: str
) -> None:
    with pytest.raises(InputError, match=fault):
        fit_head(features, labels, damping)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="damping is 0; it must be above 0"):
        fit_head(np.ones((2, 1)), [0, 1], 0)
    with pytest.raises(InputError, match=r"memberships of shape \(1, 3\) must be \(m, 2\)"):
        fit_subsets(np.ones((2, 1)), [0, 1], 1.0, np.ones((1, 3), dtype=bool))
    head = problem(20, 2, 1.0)
    for rows in ([1, 1], [20], [-1]):
        with pytest.raises(InputError, match="different ones from 0 to 19"):
            HeadInfluence(head).step("influence", rows)
    for k in (0, 20):
        with pytest.raises(ConfigError, match="from 1 to 19"):
            draw_sets(20, k, 1)
    with pytest.raises(ConfigError, match="tolerance is 0"):
        advise(head, (1,), tolerance=0)
