"""The larger proxy: arms of one budget, runs kept one by one, and gains with the bounds of known losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from downstream_toys import DOCUMENTS, TARGETS, toy_settings

from benchmarks import transfer_large
from benchmarks.transfer_large import ARMS, LargeSettings, choose, draw_pool, figures, runs_of, seed_file
from grasp_pipeline.evaluation.archive import load_archive


def settings(folder: Path) -> LargeSettings:
    """Return the benchmark over toy documents."""
    file = folder / "toy.parquet"
    DOCUMENTS.write_parquet(file)
    toy = toy_settings().model_dump(exclude={"coverage", "coverage_repeats"})
    toy["main"] |= {"multiples": [], "seeds": [0, 1]}
    return LargeSettings.model_validate(toy | {"corpora": {"toy": str(file)}, "chunks_per_document": 4})


def test_a_seed_is_measured_run_by_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRASP_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(transfer_large, "origin", lambda what: {"what": what, "commit": "x", "sources": "y"})
    given = settings(tmp_path)
    pool = draw_pool(given, "toy")
    arms = choose(given, pool, 0)
    budget = given.budget_fraction * pool.total
    for arm in ARMS:
        assert budget - given.chunk_tokens < pool.n_tokens[arms[arm]].sum() <= budget
    assert not np.array_equal(arms["dsir"], choose(given, pool, 1)["dsir"])
    np.testing.assert_array_equal(arms["log-coverage"], choose(given, pool, 1)["log-coverage"])
    for seed in (0, 1):
        transfer_large.run_seed(given, f"toy/{seed}")
    runs, _ = runs_of(given, pool, "toy")
    assert len(runs.values) == 2 * len(ARMS)
    parts = [load_archive(seed_file(given, f"toy/{seed}"), "seed") for seed in (0, 1)]
    assert parts[0][1]["losses"].shape == (3, len(TARGETS) * 14)
    assert parts[0][0]["training_tokens"] == 10 * given.batch_sequences * given.chunk_tokens
    assert [figure.figure for figure in figures(parts)] == [
        "transfer.gain_over_dsir",
        "transfer.gain_over_random",
    ]


def test_gains_are_those_of_known_losses() -> None:
    rng = np.random.default_rng(0)
    words = {
        "arms": list(ARMS),
        "tasks": ["a", "b"],
        "document_task": ["a"] * 30 + ["b"] * 30,
        "pool_tokens": 100,
        "budget": 25,
        "training_tokens": 100,
        "parameters": 5,
        "vocabulary": 7,
    }
    base = 3 + 0.3 * rng.standard_normal(60)
    parts = []
    for _ in range(2):
        noise = 0.02 * rng.standard_normal((3, 60))
        losses = base + np.array([[0.0], [0.1], [0.4]]) + noise
        parts.append((words, {"losses": losses, "document_tokens": np.full(60, 50.0)}))
    dsir, random = figures(parts)
    assert dsir.value == pytest.approx(0.1, abs=0.02)
    assert dsir.low is not None
    assert 0 < dsir.low < dsir.value
    assert random.value == pytest.approx(0.4, abs=0.02)
    assert "4.0 passes" in dsir.note
