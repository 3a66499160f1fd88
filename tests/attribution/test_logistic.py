"""Removal from a logistic regression against fitting again without the removed rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from grasp_pipeline.attribution.logistic import (
    TOLERANCE,
    LogisticInfluence,
    NewtonStep,
    fit_logistic,
    leverage,
    minus_log_loss,
)
from grasp_pipeline.attribution.protocol import AdditiveAttributor, Attributor
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator

N, P, L2 = 60, 8, 0.5


class Problem:
    def __init__(self, seed: int = 0) -> None:
        draw = generator("logistic", seed)
        theta = draw.standard_normal(P)
        self.x = draw.standard_normal((N, P))
        self.y = (draw.random(N) < 1 / (1 + np.exp(-self.x @ theta))).astype(int)
        self.weights = draw.uniform(0.5, 2, N)
        self.targets = []
        for size in (30, 45):
            x = draw.standard_normal((size, P)) + draw.standard_normal(P) / 2
            self.targets.append((x, (draw.random(size) < 1 / (1 + np.exp(-x @ theta))).astype(int)))
        self.subsets = draw.random((10, N)) < 0.7

    def loss(self, theta: np.ndarray, weights: np.ndarray) -> float:
        total = L2 / 2 * float(theta @ theta)
        for x, y, w in zip(self.x, self.y, weights, strict=True):
            total += w * float(np.log1p(np.exp(-(2 * y - 1) * (x @ theta))))
        return total

    def gradient(self, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
        total = L2 * theta
        for x, y, w in zip(self.x, self.y, weights, strict=True):
            total = total + w * (1 / (1 + np.exp(-x @ theta)) - y) * x
        return total

    def hessian(self, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
        total = L2 * np.eye(P)
        for x, w in zip(self.x, weights, strict=True):
            p = 1 / (1 + np.exp(-x @ theta))
            total = total + w * p * (1 - p) * np.outer(x, x)
        return total

    def utility(self, theta: np.ndarray) -> list[float]:
        values = []
        for x, y in self.targets:
            p = 1 / (1 + np.exp(-x @ theta))
            values.append(
                float(np.mean([np.log(q if label else 1 - q) for q, label in zip(p, y, strict=True)]))
            )
        return values

    def refit(self, membership: np.ndarray) -> np.ndarray:
        return np.array(
            [self.utility(fit_logistic(self.x, self.y, self.weights * row, L2)) for row in membership]
        )

    def influence(self, rescaled: bool = False) -> LogisticInfluence:
        return LogisticInfluence(self.x, self.y, self.weights, L2, self.targets, rescaled)

    def newton(self) -> NewtonStep:
        return NewtonStep(self.x, self.y, self.weights, L2, self.targets)


def test_the_fit_is_the_minimum() -> None:
    p = Problem()
    theta = fit_logistic(p.x, p.y, p.weights, L2)
    assert np.linalg.norm(p.gradient(theta, p.weights)) < TOLERANCE * p.weights.sum()
    slow = minimize(p.loss, np.zeros(P), (p.weights,), jac=p.gradient, tol=1e-9)
    np.testing.assert_allclose(theta, slow.x, rtol=1e-4, atol=1e-5)
    other = LogisticRegression(C=1 / L2, fit_intercept=False, tol=1e-10, max_iter=1000).fit(
        p.x, p.y, p.weights
    )
    np.testing.assert_allclose(theta, other.coef_[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("l2", [1e-4, 1e4])
def test_the_fit_converges_on_separable_and_badly_scaled_rows(scale: float, l2: float) -> None:
    draw = generator("separable")
    x = scale * draw.standard_normal((40, 3))
    theta = fit_logistic(x, x[:, 0] > 0, np.ones(40), l2)
    assert np.isfinite(theta).all()


def test_influence_and_newton_equal_loops_over_rows() -> None:
    p = Problem()
    theta = fit_logistic(p.x, p.y, p.weights, L2)
    inverse = np.linalg.inv(p.hessian(theta, p.weights))
    slow: dict[str, list] = {"plain": [], "rescaled": [], "newton": []}
    for members in p.subsets:
        removed = np.nonzero(~members)[0]
        plain, rescaled, total = theta.copy(), theta.copy(), np.zeros(P)
        for i in removed:
            q = 1 / (1 + np.exp(-p.x[i] @ theta))
            gradient = p.weights[i] * (q - p.y[i]) * p.x[i]
            h = p.weights[i] * q * (1 - q) * (p.x[i] @ inverse @ p.x[i])
            plain += inverse @ gradient
            rescaled += inverse @ gradient / (1 - h)
            total += gradient
        newton = theta + np.linalg.solve(p.hessian(theta, p.weights * members), total)
        for name, value in (("plain", plain), ("rescaled", rescaled), ("newton", newton)):
            slow[name].append(p.utility(value))
    for name, method in (("plain", p.influence()), ("rescaled", p.influence(True)), ("newton", p.newton())):
        assert isinstance(method, Attributor)
        np.testing.assert_allclose(method.predict(p.subsets), slow[name], rtol=1e-7)
    assert not isinstance(p.influence(), AdditiveAttributor)  # the loss is not linear in theta


@pytest.mark.parametrize("seed", range(5))
def test_leaving_one_out_rescaled_influence_is_nearer_to_the_refit(seed: int) -> None:
    p = Problem(seed)
    without_one = ~np.eye(N, dtype=bool)
    truth = p.refit(without_one)
    plain = np.abs(p.influence().predict(without_one) - truth).mean()
    rescaled = np.abs(p.influence(True).predict(without_one) - truth).mean()
    assert rescaled < plain


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_for_one_removed_row_a_newton_step_is_rescaled_influence(seed: int) -> None:
    p = Problem(seed)
    without_one = ~np.eye(N, dtype=bool)
    np.testing.assert_allclose(
        p.newton().predict(without_one), p.influence(True).predict(without_one), rtol=1e-7
    )


def test_leaving_groups_out_newton_is_nearer_still() -> None:
    errors = np.zeros(3)
    for seed in range(8):
        p = Problem(seed)
        truth = p.refit(p.subsets)
        methods = (p.newton(), p.influence(True), p.influence())
        errors += [np.abs(method.predict(p.subsets) - truth).mean() for method in methods]
    assert errors[0] < errors[1] < errors[2]


def test_nothing_removed_is_the_full_fit() -> None:
    p = Problem()
    full = np.ones((1, N))
    for method in (p.influence(), p.influence(True), p.newton()):
        np.testing.assert_allclose(method.predict(full), p.refit(full), rtol=1e-9)


@pytest.mark.parametrize("rescaled", [False, True])
def test_linearised_scores_are_slopes_of_the_prediction(rescaled: bool) -> None:
    p = Problem()
    method = p.influence(rescaled)
    linear = method.linearised()
    assert isinstance(linear, AdditiveAttributor)
    step, full = 1e-5, np.ones((1, N))
    for i in range(0, N, 7):
        less, more = full.copy(), full.copy()
        less[0, i], more[0, i] = 1 - step, 1 + step
        slope = (method.predict(more) - method.predict(less))[0] / (2 * step)
        np.testing.assert_allclose(linear.scores()[i], slope, rtol=1e-4, atol=1e-8)
    gone = full - step * (~p.subsets)
    np.testing.assert_allclose(
        linear.predict(gone) - linear.predict(full),
        method.predict(gone) - method.predict(full),
        rtol=1e-2,
        atol=1e-9,
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5))
def test_a_weight_is_a_number_of_copies(seed: int, copies: int) -> None:
    p = Problem(seed)
    weights = np.ones(N)
    weights[3] = copies
    x = np.concatenate([p.x, np.repeat(p.x[3:4], copies - 1, axis=0)])
    y = np.concatenate([p.y, np.repeat(p.y[3:4], copies - 1)])
    np.testing.assert_allclose(
        fit_logistic(p.x, p.y, weights, L2), fit_logistic(x, y, np.ones(len(y)), L2), rtol=1e-6, atol=1e-8
    )


def test_utilities_of_extreme_parameters_are_finite() -> None:
    values = minus_log_loss([[1000.0], [-1000.0]], [([[1.0], [2.0]], [1, 1])])
    np.testing.assert_allclose(values, [[0.0], [-1500.0]])


def test_leverages_are_below_one_and_add_up_to_fewer_than_the_parameters() -> None:
    p = Problem()
    h = leverage(p.x, p.weights, fit_logistic(p.x, p.y, p.weights, L2), L2)
    assert (h > 0).all()
    assert (h < 1).all()
    assert h.sum() < P


def test_refusals() -> None:
    p = Problem()
    x = np.ones((3, 1))
    x[1] = 1e9
    with pytest.raises(InputError, match="row 1 has leverage 1"):
        leverage(x, np.ones(3), np.zeros(1), 1e-3)
    with pytest.raises(ConfigError, match="l2 is 0"):
        fit_logistic(p.x, p.y, p.weights, 0)
    with pytest.raises(InputError, match="give 0 and 1"):
        fit_logistic(p.x, 2 * p.y - 1, p.weights, L2)
    with pytest.raises(InputError, match=r"finite \(n, p\)"):
        fit_logistic(p.x[1:], p.y, p.weights, L2)
    with pytest.raises(InputError, match="0 or more"):
        fit_logistic(p.x, p.y, -p.weights, L2)
    with pytest.raises(InputError, match="no target set"):
        LogisticInfluence(p.x, p.y, p.weights, L2, [])
    with pytest.raises(InputError, match="target set 1 has 2 features"):
        NewtonStep(p.x, p.y, p.weights, L2, [p.targets[0], (np.ones((4, 2)), np.ones(4))])
