"""Cells to result files, tables and pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import fidelity_figures, fidelity_tables
from benchmarks import published as recorded
from benchmarks.laboratory.summary import Row
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.experiment import SELECTED, CellResult
from grasp_pipeline.seeds import generator

STRATA = ("uniform",) * 12 + ("tilted",) * 12 + (OPTIMISED,) * 16
KINDS = ("output", "full", "output+early", "full+early")


RIVALS = (
    *fidelity_tables.BY_KIND,
    *(f"{name}, {kind} sketch" for name in fidelity_tables.BY_KIND for kind in ("output", "full")),
    "TRAK, default damping",
    "GradDot",
    "datamodel on source counts",
)


def made_up_cell(seed: int) -> CellResult:
    """Return a cell whose methods predict with more or less noise; the surrogate with the least."""
    rng = generator("made-up cell", seed)
    truth = rng.standard_normal((len(STRATA), 2))
    noisy: dict[str, float] = dict.fromkeys(RIVALS, 1.5) | {
        "surrogate": 0.2,
        "surrogate, output sketch": 0.4,
        "surrogate, full sketch": 0.3,
        "surrogate, second sketch seed": 0.25,
        "judge": 0.5,
        "retrained, scored on the query": 0.12,
        "random": 50.0,
    }
    predictions = {
        (name, form): truth + noise * rng.standard_normal(truth.shape)
        for name, noise in noisy.items()
        for form in (("mean",) if name.startswith(("surrogate", "judge", "retrained")) else ("mean", "sum"))
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
        origin=recorded.origin("cell"),
        seconds={"evaluation retraining": 60.0},
    )


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: None) -> Path:
    pages = {
        "benchmarks.md": ["fidelity-fresh"],
        "document.md": [f"fidelity-fresh-{what}" for what in ("methods", "controls", "gains", "kinds")],
        "readme.md": ["fidelity-fresh"],
    }
    for page, names in pages.items():
        marks = [recorded.START.format(name=n) + "\n" + recorded.END.format(name=n) for n in names]
        (tmp_path / page).write_text("before\n" + "\n".join(marks) + "\nafter\n")
    monkeypatch.setattr(recorded, "README", tmp_path / "benchmarks.md")
    for module in (recorded, fidelity_tables):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(fidelity_tables, "DOCUMENT", tmp_path / "document.md")
    monkeypatch.setattr(fidelity_tables, "MAIN", tmp_path / "readme.md")
    monkeypatch.setattr(fidelity_figures, "PICTURES", tmp_path / "figures")
    monkeypatch.setattr(fidelity_figures, "RESAMPLES", 60)
    monkeypatch.setattr(fidelity_figures, "REGRET_DRAWS", 1)
    fidelity_figures.publish(
        [made_up_cell(0), made_up_cell(1)], "fidelity-fresh", "make benchmark-fidelity-fresh"
    )
    return tmp_path


def test_every_figure_that_was_asked_for_is_in_the_result_file(published: Path) -> None:
    found = {row["figure"]: row for row in json.loads((published / "fidelity-fresh.json").read_text())}
    for name in (
        *("spearman_all", "ratio_trak_default", "min_paired_low_all", "min_paired_low_tilted"),
        *("uniform_share_of_ceiling", "spearman_optimised", "output_sketch_share", "lcb_regret_24"),
    ):
        assert np.isfinite(found[f"fidelity.{name}"]["value"]), name
    best = found["fidelity.spearman_all"]
    assert best["low"] < best["value"] < best["high"] <= 1
    assert found["fidelity.min_paired_low_all"]["value"] > 0
    for name in (
        *("gain_all", "gain_uniform", "gain_tilted", "gain_task_optimised", "gain_own_task"),
        *("gain_same_sketch[output]", "gain_same_sketch[full]"),
    ):
        gain = found[f"fidelity.{name}"]
        assert gain["low"] <= gain["value"] <= gain["high"], name
        assert " sketch, over" in gain["note"] or "full" in gain["note"], "sketch kinds are named"
    assert {row["commit"] for row in found.values()} == {"abc1234"}
    assert (
        found["fidelity.min_paired_low_all_together"]["value"]
        <= found["fidelity.min_paired_low_all"]["value"]
    )
    for form in ("mean", "sum"):
        reached, possible = (
            found[f"fidelity.ratio_trak_{name}_{form}"]["value"] for name in ("default", "ceiling")
        )
        assert possible / reached == pytest.approx(
            found["fidelity.ceiling_all"]["value"] / found["fidelity.spearman_all"]["value"]
        )
    for stratum, key in (("all", "spearman_all"), ("own_task", "spearman_optimised")):
        reached = found[f"fidelity.spearman_retrained_{stratum}"]["value"]
        share = found[f"fidelity.share_of_retrained_{stratum}"]
        assert share["value"] == pytest.approx(found[f"fidelity.{key}"]["value"] / reached)
        assert share["low"] < share["value"] < share["high"]
    assert found["fidelity.ratio_trak_default"]["value"] == min(
        found[f"fidelity.ratio_trak_default_{form}"]["value"] for form in ("mean", "sum")
    )


def test_tables_stand_between_their_markers_and_pictures_are_drawn(published: Path) -> None:
    document = (published / "document.md").read_text()
    assert document.startswith("before\n")
    assert document.endswith("after\n")
    assert "| **surrogate** |" in document
    assert "| noise ceiling |" in document
    readme = (published / "readme.md").read_text()
    assert "strongest rival there" in readme
    assert "Measured before" not in readme + document
    pictures = sorted(path.name for path in (published / "figures").iterdir())
    assert pictures == [
        f"fidelity-{what}.png" for what in ("controls", "lambda", "methods", "predicted", "strata")
    ]
    rows = json.loads((published / "methods" / "fidelity-fresh.json").read_text())
    assert {row["stratum"] for row in rows} >= {"all", "uniform", "tilted", OPTIMISED}
    assert all(row["gain"] == 0 for row in rows if (row["method"], row["form"]) == SELECTED)


def row(method: str, form: str, stratum: str, value: float, gain: float = 0.0, kinds: str = "ngrams") -> Row:
    around = (value, value - 0.1, value + 0.1, gain, gain - 0.01, gain + 0.01)
    return Row(method, form, stratum, *around, 0, 1, 0.9, 4, 40, kinds)


ROWS = [
    row("surrogate", "mean", "all", 0.8, kinds="ngrams x3, output"),
    row("damped influence", "sum", "all", 0.7, 0.1),
    row("damped influence", "mean", "all", 0.5, 0.3),
    row("GradDot", "sum", "all", 0.6, 0.2, "full"),
    row("GradDot", "mean", "all", 0.4, 0.4, "full"),
    row("damped influence, ngrams sketch", "sum", "all", 0.75, 0.05),
    row("surrogate, ngrams sketch", "mean", "all", 0.79, 0.01),
    row("surrogate", "mean", "uniform", 0.6),
    row("surrogate, ngrams sketch", "mean", "uniform", 0.58, 0.02),
    row("damped influence", "sum", "uniform", 0.3, 0.3),
    row("damped influence", "mean", "uniform", 0.55, 0.05),
    row("GradDot", "sum", "uniform", 0.2, 0.4, "full"),
    row("GradDot", "mean", "uniform", 0.65, -0.05, "output"),
]


def cells_of(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {line[0].strip("*"): [cell.strip() for cell in line[1:]] for line in lines}


def test_every_number_of_a_rival_is_in_the_form_that_is_stronger_in_its_own_column() -> None:
    """Over all subsets both rivals are stronger as a sum, among uniform ones both as a mean."""
    found = cells_of(fidelity_tables.methods_table(ROWS))
    assert found["damped influence"] == ["0.700 [0.600, 0.800] sum", "0.550 mean", "ngrams"]
    assert found["GradDot"] == ["0.600 [0.500, 0.700] sum", "0.650 mean", "full"]
    assert found["surrogate"][-1] == "ngrams x3, output"
    assert not any("damped influence, " in name for name in found), (
        "what reads one kind alone is in its own table"
    )


def test_gains_are_published_for_every_stratum_losing_ones_too() -> None:
    gains = cells_of(fidelity_tables.gains_table(ROWS))
    assert gains["damped influence"] == ["+0.100 [+0.090, +0.110] sum", "+0.050 [+0.040, +0.060] mean"]
    assert gains["GradDot"] == ["+0.200 [+0.190, +0.210] sum", "-0.050 [-0.060, -0.040] mean"]
    assert gains["beyond doubt ahead / undecided / behind"] == ["2 / 0 / 0", "1 / 0 / 1"]
    lines = cells_of(fidelity_tables.strata_table(ROWS))
    assert lines["all"][1:4] == ["damped influence, sum form (ngrams)", "0.700", "+0.100 [+0.090, +0.110]"]
    assert lines["uniform"][1:4] == ["GradDot, mean form (output)", "0.650", "-0.050 [-0.060, -0.040]"]
    assert "chosen cell by cell: ngrams x3, output." in fidelity_tables.strata_table(ROWS)


def test_the_surrogate_stands_beside_rivals_on_the_same_sketches() -> None:
    found = cells_of(fidelity_tables.kinds_table(ROWS))
    assert found["ngrams"][:2] == ["0.790 [0.690, 0.890]", "0.750 sum"]


def test_cells_measured_with_changes_are_not_published(clean: None) -> None:
    cell = replace(made_up_cell(0), origin={"what": "cell", "commit": "abc with changes", "sources": ""})
    with pytest.raises(ConfigError, match="measured in part with abc with changes"):
        fidelity_figures.publish([cell], "fidelity-fresh", "make")


def test_a_page_without_markers_is_named() -> None:
    with pytest.raises(ValueError, match="add them where the table belongs"):
        recorded.replace_between("no markers", "fidelity", "body")


def test_one_run_predicts_another_one_without_shared_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first seed's models are asked, the second seed's utilities are predicted; the slow twin ranks by hand."""
    monkeypatch.setattr(fidelity_figures, "RESAMPLES", 80)
    cells = [made_up_cell(0), made_up_cell(1)]
    rng = np.random.default_rng(5)
    asked = [cell.utilities + 0.2 * rng.standard_normal(cell.utilities.shape) for cell in cells]
    found = {row.figure: row for row in fidelity_figures.beside_another_run(cells, asked)}

    def ranked(predicted: list[np.ndarray]) -> float:
        return float(
            np.mean(
                [
                    [spearmanr(p[:, t], cell.utilities[:, t, 1]).statistic for t in range(len(cell.tasks))]
                    for cell, p in zip(cells, predicted, strict=True)
                ]
            )
        )

    once = ranked([queries[:, :, 0] for queries in asked])
    ours = ranked([cell.predictions[fidelity_figures.SELECTED] for cell in cells])
    assert found["fidelity.spearman_another_run_all[one_run]"].value == pytest.approx(once)
    assert found["fidelity.spearman_another_run_all[surrogate]"].value == pytest.approx(ours)
    share = found["fidelity.share_of_another_run_all"]
    assert share.value == pytest.approx(ours / once)
    assert share.low is not None
    assert share.high is not None
    assert share.low < share.value < share.high
    assert "fidelity.share_of_another_run_own_task" in found
    assert fidelity_figures.beside_another_run(cells, []) == []
