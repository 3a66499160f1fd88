"""Second moments and metrics against loops and their defining properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.attribution.metric import apply_metric, metric_matrix, second_moment
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator


def test_second_moment_equals_a_sum_of_outer_products() -> None:
    draw = generator("second moment")
    sketches, weights = draw.standard_normal((1300, 4)).astype(np.float32), draw.integers(1, 100, 1300)
    slow = sum(w * np.outer(row, row) for w, row in zip(weights, sketches.astype(np.float64), strict=True))
    np.testing.assert_allclose(second_moment(sketches, weights), slow / weights.sum(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second_moment(sketches), sketches.T @ sketches / 1300, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(1e-3, 1e3))
def test_metric_is_the_scaled_damped_inverse(seed: int, rho: float, unit: float) -> None:
    root = generator("metric", seed).standard_normal((8, 6))
    c = root.T @ root / 8
    metric = metric_matrix(c, rho)
    damped = c + rho * np.trace(c) / 6 * np.eye(6)
    product = metric @ damped
    np.testing.assert_allclose(product, product[0, 0] * np.eye(6), atol=1e-8 * abs(product[0, 0]))
    np.testing.assert_allclose(metric, metric.T)
    assert np.linalg.eigvalsh(metric).min() > 0
    assert np.trace(metric @ c) == pytest.approx(np.trace(c))
    np.testing.assert_allclose(metric_matrix(unit * c, rho), metric, rtol=1e-7)  # free of the sketches' unit


def test_strong_damping_tends_to_the_identity() -> None:
    c = np.diag([1.0, 2.0, 6.0])
    np.testing.assert_array_equal(metric_matrix(c, 0), np.eye(3))
    np.testing.assert_allclose(metric_matrix(c, 1e9), np.eye(3), atol=1e-8)
    np.testing.assert_array_equal(apply_metric(None, [1, 2, 3]), [1, 2, 3])
    np.testing.assert_allclose(apply_metric(c, [[1, 1, 1], [0, 1, 0]]), [[1, 2, 6], [0, 2, 0]])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="rho is -1"):
        metric_matrix(np.eye(2), -1)
    with pytest.raises(ConfigError, match="cannot be inverted"):
        metric_matrix(np.diag([1.0, -5.0, 8.0]), 1e-3)
    for second in (np.zeros((2, 2)), np.ones((2, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(InputError, match="positive trace"):
            metric_matrix(second, 1)
    for weights in ([1, 1], [1, -1, 3], [0, 0, 0]):
        with pytest.raises(InputError, match="cannot weight 3 sketches"):
            second_moment(np.ones((3, 2), dtype=np.float32), weights)
