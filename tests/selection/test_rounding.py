"""Herding against a loop that evaluates its cost for both decisions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.solver.rounding import herd


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.4, 1.0]), st.booleans(), st.integers(1, 80))
def test_herding_equals_its_cost_evaluated_twice(seed: int, lam: float, whitened: bool, rows: int) -> None:
    draw = generator("herd", seed)
    n, d, budget = 80, 4, 300
    sketches = draw.standard_normal((n, d)).astype(np.float32)
    tokens = draw.integers(1, 17, n).astype(np.float64)
    weights = np.clip(draw.uniform(-0.5, 1.5, n), 0, 1)
    excess = 0.1 * draw.standard_normal(n)
    root = draw.standard_normal((d, d))
    inner = root @ root.T + np.eye(d) if whitened else np.eye(d)
    fractional = np.nonzero((weights > 0) & (weights < 1))[0]
    spread = np.mean([sketches[i].astype(float) @ inner @ sketches[i] for i in fractional])

    error, surplus, expected = np.zeros(d), 0.0, weights == 1
    for i in fractional:
        costs = []
        for x in (0, 1):
            e = error + (x - weights[i]) * tokens[i] * sketches[i]
            t = surplus + (x - weights[i]) * tokens[i]
            quadratic = lam / (2 * budget**2) * (e @ inner @ e + spread * t**2)
            costs.append(-excess[i] * tokens[i] * x / budget + quadratic)
        expected[i] = costs[1] < costs[0]
        error = error + (expected[i] - weights[i]) * tokens[i] * sketches[i]
        surplus += (expected[i] - weights[i]) * tokens[i]
    blocks = ArrayBlocks(sketches, block_rows=rows)
    found = herd(blocks, tokens, budget, weights, excess, inner if whitened else None, lam)
    np.testing.assert_array_equal(found, expected)


def test_the_error_of_the_mean_does_not_grow_with_the_corpus() -> None:
    draw = generator("herd error")
    sums = []
    for n in (500, 4000):
        sketches = draw.standard_normal((n, 6)).astype(np.float32)
        tokens, weights = np.full(n, 8.0), np.full(n, 0.3)
        found = herd(ArrayBlocks(sketches), tokens, int(0.3 * 8 * n), weights, np.zeros(n), None, 1.0)
        sums.append(np.linalg.norm((found - weights) @ sketches))
        assert abs((found - weights).sum()) < 5
    assert max(sums) < 8  # independent rounding: 25 and 71
