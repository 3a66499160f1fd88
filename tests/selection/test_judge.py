"""The judge against its formula, and what standardising must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.judge import judge, judge_coverage, standardise

N, C = 50, 6


def test_judge_equals_its_formula() -> None:
    draw = generator("judge")
    texts = [draw.integers(0, 9, 12).tolist() for _ in range(N)]
    tokens = draw.integers(5, 13, N)
    likelihood = judge_coverage(TokenLists.of(texts), TokenLists.of(texts[:5]))
    membership = draw.random((C, N)) < 0.5
    optimised = np.array([True, True, True, False, True, False])
    covered = likelihood.predict(membership)[:, 0]
    found = judge(membership, tokens, likelihood, optimised)
    np.testing.assert_array_equal(found.score, covered)
    assert found.conditional is None

    gains = draw.standard_normal(N)
    with_gains = judge(membership, tokens, likelihood, optimised, gains)
    mean = np.array([np.average(gains[members], weights=tokens[members]) for members in membership])
    expected = np.zeros(C)
    for part in (covered, mean):
        expected += (part - part[optimised].mean()) / part[optimised].std()
    np.testing.assert_allclose(with_gains.score, expected, rtol=1e-4, atol=1e-5)
    assert with_gains.conditional == pytest.approx(mean)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_the_unit_of_a_part_changes_nothing(seed: int, unit: float, origin: float) -> None:
    part = generator("units", seed).standard_normal(8)
    np.testing.assert_allclose(standardise(unit * part + origin), standardise(part), atol=1e-6)


def test_a_constant_part_is_silent() -> None:
    values = np.array([0.1, 0.1 + 1e-17, 0.1, 5.0])
    assert standardise(values, np.array([True, True, True, False])).tolist() == [0, 0, 0, 0]
    assert standardise(np.zeros(3)).tolist() == [0, 0, 0]
    informative = np.arange(4.0)
    np.testing.assert_allclose(standardise(informative, np.zeros(4, dtype=bool)), standardise(informative))


def test_an_empty_candidate_is_refused() -> None:
    likelihood = judge_coverage(TokenLists.of([[1, 2]]), TokenLists.of([[1, 2]]))
    with pytest.raises(InputError, match="subset 0 holds no tokens"):
        judge(np.zeros((1, 1), dtype=bool), [2], likelihood)
