"""Selection from a few reads against the optimiser in memory, exact solvers, and its own contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.read_ahead import ReadAhead
from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.solver.optimiser import Selection, optimise
from grasp_pipeline.selection.solver.stream import optimise_stream

Array = NDArray[Any]


class Corpus:
    """Clustered chunks with copies, stored as float16; F in float64 for the slow twins."""

    def __init__(self, seed: int, n: int, d: int, share: float = 0.25, whitened: bool = False) -> None:
        draw = generator("stream case", seed)
        centres = draw.standard_normal((8, d))
        sketches = 0.6 * centres[draw.integers(0, 8, n)] + draw.standard_normal((n, d))
        sketches[draw.integers(0, n, n // 5)] = sketches[draw.integers(0, max(1, n // 50), n // 5)]
        self.sketches = sketches.astype(np.float16)
        self.tokens = np.where(draw.random(n) < 0.6, 16, draw.integers(1, 17, n))
        self.target = centres[0] + 0.3 * draw.standard_normal(d)
        self.budget = max(16, int(share * self.tokens.sum()))
        self.metric = metric_matrix(second_moment(self.sketches, self.tokens), 1.0) if whitened else None

    def mean(self, weights: Array) -> Array:
        kept = weights.astype(np.float64) * self.tokens
        return kept @ self.sketches.astype(np.float64) / kept.sum()

    def f(self, weights: Array, lam: float) -> float:
        mean = self.mean(weights)
        inner = np.eye(len(mean)) if self.metric is None else self.metric
        return float((self.target - lam / 2 * mean) @ inner @ mean)

    def stream(self, lam: float, **options: Any) -> Selection:
        return optimise_stream(
            self.sketches,
            self.tokens,
            self.target,
            self.budget,
            metric=self.metric,
            lam=lam,
            **options,
        )

    def in_memory(self, lam: float, **options: Any) -> Selection:
        return optimise(
            self.sketches, self.tokens, self.target, self.budget, metric=self.metric, lam=lam, **options
        )


class Uneven:
    """Blocks of given sizes over and over: what a store with row groups of unequal length would yield."""

    def __init__(self, sketches: Array, sizes: list[int]) -> None:
        self.sketches, self.sizes = sketches, sizes
        self.n, self.d = sketches.shape

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        start, turn = 0, 0
        while start < self.n:
            size = self.sizes[turn % len(self.sizes)]
            yield start, self.sketches[start : start + size]
            start, turn = start + size, turn + 1


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.4, 1.0, 3.0]),
    st.booleans(),
    st.floats(0.1, 0.95),
    st.sampled_from([8, 12, 20]),
)
def test_optimum_equals_an_exact_solver(
    seed: int, lam: float, whitened: bool, share: float, held_rows: int
) -> None:
    """Holding half of sixteen rows, or all."""
    case = Corpus(seed, 16, 4, share, whitened)
    phi = case.sketches.astype(np.float64) * case.tokens[:, None] / case.budget
    inner = np.eye(4) if case.metric is None else case.metric
    exact = minimize(
        lambda w: -(case.target - lam / 2 * (w @ phi)) @ inner @ (w @ phi),
        np.full(16, case.budget / case.tokens.sum()),
        jac=lambda w: -phi @ inner @ (case.target - lam * (w @ phi)),
        method="SLSQP",
        bounds=[(0, 1)] * 16,
        constraints={
            "type": "eq",
            "fun": lambda w: (w @ case.tokens - case.budget) / case.budget,
            "jac": lambda w: case.tokens / case.budget,
        },
        options={"maxiter": 500, "ftol": 1e-10},
    )
    assert exact.success
    found = case.stream(lam, gap=5e-5, held_rows=held_rows, max_passes=500)
    assert found.fractional_objective <= -exact.fun + 1e-5
    assert found.upper_bound >= -exact.fun - 1e-5
    assert found.fractional_objective == pytest.approx(-exact.fun, abs=1e-4, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 0.7, 1.5]), st.booleans(), st.sampled_from([0.02, 0.3, 1.0])
)
@example(
    768, 0.0, False, 1.0
)  # the target is nearly orthogonal to the mean: little is left to compare a gap with
def test_contract(seed: int, lam: float, whitened: bool, share: float) -> None:
    case = Corpus(seed, 3000, 6, share, whitened)
    found = case.stream(lam, gap=1e-4, held_rows=256, max_passes=100)
    weights = found.weights.astype(np.float64)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights @ case.tokens == pytest.approx(case.budget, rel=1e-5)
    assert found.n_tokens == case.tokens[found.membership].sum() <= case.budget
    assert found.n_tokens == case.tokens.sum() or case.budget - found.n_tokens < 16
    assert found.fractional_gap <= 1e-4
    assert found.fractional_objective == pytest.approx(case.f(weights, lam), rel=1e-4, abs=1e-4)
    assert found.objective == pytest.approx(case.f(found.membership, lam), rel=1e-4, abs=1e-4)
    inner = np.eye(6) if case.metric is None else case.metric
    np.testing.assert_allclose(found.q, inner @ (case.target - lam * case.mean(weights)), atol=1e-3)
    np.testing.assert_allclose(found.marginal, case.sketches.astype(np.float64) @ found.q, atol=1e-4)
    assert found.marginal.dtype == found.weights.dtype == np.float32


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("lam", [0.4, 1.0])
def test_few_reads_reach_the_optimum_in_memory(lam: float, whitened: bool) -> None:
    case = Corpus(3, 40_000, 16, whitened=whitened)
    found = case.stream(lam, gap=1e-5, held_rows=4096)
    twin = case.in_memory(lam, gap=1e-6)
    gain = twin.fractional_objective - case.f(np.ones(40_000), lam)
    assert found.fractional_objective == pytest.approx(twin.fractional_objective, abs=3e-5 * gain)
    assert found.relative_gap < 1e-4
    assert found.passes <= 5
    # The chunks are the same but for some near the threshold.
    differ = found.membership != twin.membership
    assert case.tokens[differ].sum() < 0.02 * case.budget
    assert np.abs(found.marginal[differ] - found.tau).max(initial=0) < 0.05 * found.marginal.std()


def test_lambda_zero_is_the_top_by_value() -> None:
    case = Corpus(5, 2000, 5)
    found, twin = case.stream(0.0, held_rows=100), case.in_memory(0.0)
    np.testing.assert_array_equal(found.membership, twin.membership)
    np.testing.assert_allclose(found.weights, twin.weights, atol=1e-6)
    assert (found.passes, found.fractional_gap) == (2, pytest.approx(0, abs=1e-6))


def test_all_rows_held_is_the_optimiser_in_memory() -> None:
    case = Corpus(6, 1500, 8)
    found, twin = case.stream(1.0, gap=1e-5), case.in_memory(1.0, gap=1e-5)
    gain = twin.fractional_objective - case.f(np.ones(1500), 1.0)
    assert found.fractional_objective == pytest.approx(twin.fractional_objective, abs=2e-5 * gain)
    assert found.passes == 2


@pytest.mark.parametrize("whitened", [False, True])
def test_a_reachable_target_is_met_and_rounded(whitened: bool) -> None:
    """Where mu = r / lambda can be met, marginal values vanish and no bracket around a threshold separates anything."""
    case = Corpus(7, 20_000, 8, whitened=whitened)
    case.target = 1.2 * (case.mean(np.ones(20_000)) + 0.2)
    found = case.stream(1.2, gap=1e-4, held_rows=1024, max_passes=200)
    inner = np.eye(8) if case.metric is None else case.metric
    best = case.target @ inner @ case.target / 2.4
    assert found.fractional_objective == pytest.approx(best, rel=1e-4)
    assert found.objective == pytest.approx(best, rel=1e-3)
    assert found.relative_gap < 1e-3


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.booleans())
def test_blocks_of_any_size_give_the_same_bits(sizes: list[int], ahead: bool) -> None:
    case = Corpus(8, 5000, 8, whitened=True)
    whole = case.stream(0.7, held_rows=512)
    blocks = Uneven(case.sketches, sizes)
    part = optimise_stream(
        ReadAhead(blocks) if ahead else blocks,
        case.tokens,
        case.target,
        case.budget,
        metric=case.metric,
        lam=0.7,
        held_rows=512,
    )
    for name in ("weights", "membership", "marginal", "q"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
    assert (part.objective, part.upper_bound, part.tau) == (whole.objective, whole.upper_bound, whole.tau)


def test_only_allowed_chunks_are_chosen() -> None:
    case = Corpus(9, 4000, 6)
    allowed = generator("stream allowed").random(4000) < 0.5
    found = case.stream(0.7, allowed=allowed, held_rows=512, gap=1e-5, max_passes=60)
    assert not found.weights[~allowed].any()
    assert not found.membership[~allowed].any()
    twin = case.in_memory(0.7, allowed=allowed, gap=1e-5)
    assert found.fractional_objective == pytest.approx(twin.fractional_objective, rel=1e-4)


def test_a_chunk_longer_than_the_budget_is_not_kept() -> None:
    case = Corpus(10, 50, 3)
    case.tokens[4] = 10_000
    case.sketches[4] = 10 * case.target
    case.budget = 200
    found = case.stream(0.5, held_rows=10)
    assert not found.membership[4]
    assert 0 < found.n_tokens <= 200


def test_a_target_already_met_and_copies_alone() -> None:
    """No gain to compare with, and every marginal value equal."""
    case = Corpus(11, 3000, 3)
    case.sketches[:] = case.sketches[0]
    case.target = case.sketches[0].astype(np.float64)
    found = case.stream(1.0, held_rows=100)
    assert found.fractional_objective == pytest.approx(case.target @ case.target / 2, rel=1e-5)
    assert case.budget - found.n_tokens < 16


def test_max_passes_is_kept_and_the_gap_told() -> None:
    case = Corpus(12, 20_000, 32)
    said: list[str] = []
    found = case.stream(1.0, gap=1e-12, held_rows=128, max_passes=3, listener=said.append)
    assert found.passes == 3
    assert found.fractional_gap > 1e-12
    assert any(message.startswith("optimiser: pass 3") for message in said)


def test_refusals() -> None:
    case = Corpus(1, 40, 3)
    for budget, message in ((0, "budget is 0"), (100_000, "above the")):
        with pytest.raises(ConfigError, match=message):
            optimise_stream(case.sketches, case.tokens, case.target, budget)
    with pytest.raises(ConfigError, match="below the shortest"):
        optimise_stream(case.sketches, case.tokens + 20, case.target, 10)
    with pytest.raises(ConfigError, match="held_rows is 1"):
        case.stream(0.7, held_rows=1)
    with pytest.raises(ConfigError, match="lambda is -1"):
        case.stream(-1.0)
    with pytest.raises(InputError, match="do not belong together"):
        optimise_stream(case.sketches, case.tokens, case.target[:2], case.budget)
    with pytest.raises(InputError, match="one finite number"):
        optimise_stream(ArrayBlocks(case.sketches), -case.tokens, case.target, case.budget)
    case.sketches[4] = np.inf
    with pytest.raises(InputError, match="not finite"):
        case.stream(1.0)
