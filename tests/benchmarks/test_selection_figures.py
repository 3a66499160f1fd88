"""The selection benchmark at toy size: what it stores, what it reads back, and its exact solver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import selection, selection_filter
from benchmarks.filter_agreement import filter_agreement
from benchmarks.small_selection import CONSTRAINTS, SmallProblem, worst_errors
from grasp_pipeline import tables
from grasp_pipeline.attribution.blocks import ArrayBlocks, project_single
from grasp_pipeline.sketch.storage import encode_vector
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables


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


def test_the_filter_is_measured_on_chunks_that_differ_by_seed() -> None:
    world = selection.World()
    first, again, other = (selection_filter.generated(world, seed, 0.0, 2000, 400) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert 0.8 < first.arrivals <= 1


def test_a_store_without_sketches_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selection_filter.load(tmp_path) is None
    assert "`make demo` leaves some" in capsys.readouterr().out


def test_stored_sketches_are_split_by_document_and_by_shard(
    stored: selection.Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark's own table stands in for a curated one, with two tasks beside it."""
    monkeypatch.setattr(selection_filter, "STORED_SEEDS", 1)
    monkeypatch.setattr(selection_filter, "GAP", 0.01)
    root = tmp_path / "benchmark-selection"
    targets = {f"task {seed}": selection.World().target(seed) for seed in range(2)}
    rows = [
        {
            "sketch_kind": selection_filter.KIND,
            "task": task,
            "split": split,
            "sketch": encode_vector(target if split == "query" else -target),
            "d": selection.D,
            "n_tokens": 1,
            "n_chunks": 1,
            "signal_to_noise": 1.0,
        }
        for task, target in targets.items()
        for split in ("query", "judge")
    ]
    made = Provenance("test", "test", "1", "")
    frame = pl.DataFrame(rows, schema=tables.TASK_SKETCHES.schema)
    DeltaTables(str(root)).write(tables.TASK_SKETCHES, frame, made)

    corpus = selection_filter.load(root)
    assert corpus is not None
    assert corpus.sketches.shape == (stored.n, selection.D)
    assert list(corpus.targets) == list(targets)
    np.testing.assert_array_equal(corpus.targets["task 1"], targets["task 1"])
    new = corpus.drawn(0)
    assert new.sum() == stored.n / selection_filter.PARTS
    assert (new != corpus.drawn(1)).any()

    whole, sources = selection_filter.stored_figures(corpus)
    assert 0.5 < whole.value <= 1
    new = corpus.shards == "shard-0001"
    by_hand = filter_agreement(
        ArrayBlocks(corpus.sketches[~new]),
        ArrayBlocks(corpus.sketches[new]),
        corpus.n_tokens[~new],
        corpus.n_tokens[new],
        targets["task 0"],
        selection_filter.SHARE,
        lam=selection_filter.LAM,
        gap=selection_filter.GAP,
    )
    assert corpus.agreements(new)[0] == by_hand
    assert sources.low is not None
    assert sources.high is not None
    assert sources.low <= by_hand.arrivals <= sources.high
