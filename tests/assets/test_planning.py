"""`python -m assets.run plan`: small runs of the job, and what they say of the whole."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from workplace import Workplace

from assets.graph import curated
from assets.planning import command, survey
from assets.planning.small_run import stage_of
from assets.planning.survey import survey_corpus
from assets.stages import STAGES
from grasp_pipeline.config import InputConfig
from grasp_pipeline.errors import InputError


def write_files(folder: Path, counts: list[int]) -> InputConfig:
    for number, count in enumerate(counts):
        texts = [f"text {number} {row} " + "x" * 90 for row in range(count)]
        pl.DataFrame({"text": texts}).write_parquet(folder / f"{number}.parquet")
    return InputConfig(paths=[str(folder / "*.parquet")])


def test_a_survey_counts_all_and_takes_of_every_file(tmp_path: Path) -> None:
    found = survey_corpus(write_files(tmp_path, [30, 60, 30]), {}, 4_000)
    assert found.documents == 120
    assert found.text_bytes == pytest.approx(120 * 100, rel=0.05)
    assert 4_000 <= found.sample["text"].str.len_bytes().sum() < 4_600
    assert found.sample["source"].n_unique() == 3
    assert found.sample.columns == ["text", "source", "id"]


def test_a_survey_that_is_out_of_time_goes_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "PATIENCE", -1.0)
    found = survey_corpus(write_files(tmp_path, [50, 50, 50, 50]), {}, 1_000)
    assert found.documents == pytest.approx(200, rel=0.1)
    assert found.sample["source"].n_unique() == 1


def test_a_survey_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no rows"):
        survey_corpus(write_files(tmp_path, [0]), {}, 1_000)


def test_what_a_check_looks_at_was_written_by_a_stage() -> None:
    assert stage_of("documents") == "documents"
    assert stage_of("documents_no_document_lost") == "documents"
    assert stage_of("residual_filter_filter_stands_for_the_corpus") == "pruned_corpus"


@pytest.mark.slow
def test_a_plan_has_every_stage_and_a_small_disk_is_refused(
    place: Workplace, home: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(command, "free_bytes", lambda _: 1e5)
    config = place.run_config()
    del config["loggers"]
    (place.folder / "run.yaml").write_text(yaml.safe_dump(config))
    from assets.run import main

    assert main(["plan", "--config", "run.yaml", "--workers", "4", "--json"]) == 1
    told = capsys.readouterr()
    assert "GB free; make room" in " ".join(told.err.split()), told.err
    plans = json.loads(told.out)
    expected = {name for name, stage in STAGES.items() if not curated().isdisjoint(stage.writes)}
    for plan in plans:
        assert {row["stage"] for row in plan["stages"]} == expected
        assert plan["total"]["seconds"] > 1
        assert plan["total"]["memory"] > 2e8
        assert plan["total"]["disk"] > 1e5
    runs = {row["stage"]: row["retrainings"] for row in plans[0]["stages"] if row["retrainings"]}
    assert runs["subset_utilities"] == 16
    assert set(runs) == {"subset_utilities", "certificates", "sealed_evaluation"}
    assert not place.store.exists()
