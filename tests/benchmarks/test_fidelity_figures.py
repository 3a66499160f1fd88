"""Cells to result files, tables and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fidelity_figures, record
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.laboratory.cell import SELECTED, CellResult
from grasp_pipeline.laboratory.design import OPTIMISED
from grasp_pipeline.seeds import generator

STRATA = ("uniform",) * 12 + ("tilted",) * 12 + (OPTIMISED,) * 16
KINDS = ("output", "full", "output+early", "full+early")


def made_up_cell(seed: int) -> CellResult:
    """Return a cell whose methods predict with more or less noise; the surrogate with the least."""
    rng = generator("made-up cell", seed)
    truth = rng.standard_normal((len(STRATA), 2))
    noisy: dict[str, float] = dict.fromkeys(fidelity_figures.SHOWN, 1.5) | {
        "surrogate": 0.2,
        "surrogate, output sketch": 0.4,
        "surrogate, full sketch": 0.3,
        "surrogate, second sketch seed": 0.25,
        "judge": 0.5,
        "random": 50.0,
    }
    predictions = {
        (name, form): truth + noise * rng.standard_normal(truth.shape)
        for name, noise in noisy.items()
        for form in (("mean",) if name.startswith(("surrogate", "judge")) else ("mean", "sum"))
    }
    grid = tuple(
        Configuration(f"{kind}-{lam}", kind, 10.0, lam, "mean") for kind in KINDS for lam in (0.0, 0.7, 1.0)
    )
    calibration = rng.standard_normal((24, 2))
    return CellResult(
        name=f"made/up/{seed}",
        tasks=("a", "b"),
        strata=STRATA,
        target=np.array([-1] * 24 + [0] * 8 + [1] * 8),
        utilities=truth[:, :, None] + 0.1 * rng.standard_normal((*truth.shape, 2)),
        predictions=predictions,
        kinds=dict.fromkeys(predictions, "full"),
        configurations=grid,
        grid_calibration=calibration + 0.3 * rng.standard_normal((len(grid), *calibration.shape)),
        grid_evaluation=truth + 0.3 * rng.standard_normal((len(grid), *truth.shape)),
        calibration_strata=("uniform",) * 12 + ("tilted",) * 12,
        calibration=calibration,
        chosen=10,
        reason="",
        membership=np.zeros((len(STRATA), 4), dtype=np.bool_),
        contaminated=3,
        seconds={"evaluation retraining": 60.0},
    )


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pages = {
        "benchmarks.md": ["fidelity"],
        "document.md": ["fidelity-methods"],
        "readme.md": ["fidelity"],
    }
    for page, names in pages.items():
        marks = [record.START.format(name=n) + "\n" + record.END.format(name=n) for n in names]
        (tmp_path / page).write_text("before\n" + "\n".join(marks) + "\nafter\n")
    monkeypatch.setattr(record, "README", tmp_path / "benchmarks.md")
    for module in (record, fidelity_figures):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(fidelity_figures, "DOCUMENT", tmp_path / "document.md")
    monkeypatch.setattr(fidelity_figures, "MAIN", tmp_path / "readme.md")
    monkeypatch.setattr(fidelity_figures, "PICTURES", tmp_path / "figures")
    monkeypatch.setattr(fidelity_figures, "RESAMPLES", 60)
    monkeypatch.setattr(fidelity_figures, "REGRET_DRAWS", 1)
    fidelity_figures.publish([made_up_cell(0), made_up_cell(1)], "fidelity", "make benchmark-fidelity")
    return tmp_path


def test_every_figure_that_was_asked_for_is_in_the_result_file(published: Path) -> None:
    found = {row["figure"]: row for row in json.loads((published / "fidelity.json").read_text())}
    for name in (
        *("spearman_all", "ratio_trak_default", "min_paired_low_all", "min_paired_low_tilted"),
        *("uniform_share_of_ceiling", "spearman_optimised", "output_sketch_share", "lcb_regret_24"),
    ):
        assert np.isfinite(found[f"fidelity.{name}"]["value"]), name
    best = found["fidelity.spearman_all"]
    assert best["low"] < best["value"] < best["high"] <= 1
    assert found["fidelity.min_paired_low_all"]["value"] > 0
    assert (
        found["fidelity.min_paired_low_all_together"]["value"]
        <= found["fidelity.min_paired_low_all"]["value"]
    )
    assert found["fidelity.ratio_trak_default"]["value"] == min(
        found[f"fidelity.ratio_trak_default_{form}"]["value"] for form in ("mean", "sum")
    )


def test_tables_stand_between_their_markers_and_pictures_are_drawn(published: Path) -> None:
    document = (published / "document.md").read_text()
    assert document.startswith("before\n")
    assert document.endswith("after\n")
    assert "| **surrogate** | mean |" in document
    assert "| noise ceiling |" in (published / "readme.md").read_text()
    pictures = sorted(path.name for path in (published / "figures").iterdir())
    assert pictures == [f"fidelity-{what}.png" for what in ("lambda", "methods", "predicted", "strata")]
    rows = json.loads((published / "methods" / "fidelity.json").read_text())
    assert {row["stratum"] for row in rows} >= {"all", "uniform", "tilted", OPTIMISED}
    assert all(row["gain"] == 0 for row in rows if (row["method"], row["form"]) == SELECTED)


def test_a_page_without_markers_is_named() -> None:
    with pytest.raises(ValueError, match="add them where the table belongs"):
        record.replace_between("no markers", "fidelity", "body")
