"""The selection benchmark at toy size: what it stores, what it reads back, and its exact solver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import selection
from benchmarks.small_selection import CONSTRAINTS, SmallProblem, worst_errors
from grasp_pipeline.attribution.blocks import project_single


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> selection.Stored:
    monkeypatch.setenv("GRASP_STORE", str(tmp_path))
    monkeypatch.setattr(selection, "SHARD_ROWS", 2000)
    monkeypatch.setattr(selection, "PIECE_ROWS", 500)
    monkeypatch.setattr(selection, "POOL", 50)
    selection.generate(4000)
    selection.generate(6000)
    return selection.Stored(6000)


def test_the_table_holds_what_was_drawn_and_is_read_in_parts(stored: selection.Stored) -> None:
    frames = [frame for shard in selection.shards(6000) for frame in selection.World().frames(shard)]
    drawn = np.concatenate(
        [
            np.frombuffer(b"".join(frame["sketch"].to_list()), dtype="<f2").reshape(-1, selection.D)
            for frame in frames
        ]
    )
    read = np.concatenate([block for _, block in stored])
    np.testing.assert_array_equal(read, drawn)
    tokens = np.concatenate([frame["n_tokens"].to_numpy() for frame in frames])
    np.testing.assert_array_equal(stored.n_tokens(), tokens)
    assert 0.1 < 1 - len(np.unique(read, axis=0)) / len(read) < 0.3
    part = selection.Stored(2000)
    q = selection.World().target()
    np.testing.assert_array_equal(project_single(part, q), project_single(stored, q)[:2000])


@pytest.mark.parametrize("factor", [1.0, selection.REACHABLE])
def test_a_selection_is_measured(stored: selection.Stored, factor: float) -> None:
    found = selection.select(6000, factor)
    assert found["rows"] == stored.n == 6000
    assert found["fractional_gap"] <= selection.GAP
    assert found["gap"] < 0.01
    assert 0 <= found["unspent"] < 128
    assert found["gib"] > 0


def test_passes_are_timed_against_plain_products(stored: selection.Stored) -> None:
    speed = selection.pass_speed(2000)
    assert 0 < speed["low"] <= speed["ratio"] <= speed["high"]
    assert {"pass", "torch", "torch in pieces", "numpy"} < set(speed)


def test_small_problems_are_solved_under_every_kind_of_constraint() -> None:
    errors = worst_errors(trials=4)
    assert set(errors) == set(CONSTRAINTS)
    assert max(errors.values()) < 1e-4


def test_the_exact_solver_finds_the_best_of_all_corners() -> None:
    """Where every chunk counts the same, no corner of the feasible set is above the exact optimum."""
    problem = SmallProblem(3)
    problem.tokens[:], problem.budget = 10.0, 20
    phi = problem.sketches.astype(np.float64)
    pairs = [(phi[i] + phi[j]) / 2 for i in range(16) for j in range(i)]
    corners = [(problem.target - 0.35 * mean) @ mean for mean in pairs]
    assert max(corners) <= problem.exact() + 1e-9
