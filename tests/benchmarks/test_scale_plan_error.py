"""The benchmark of the plan: its errors are relative to what happened, and its configurations are distinct corpora."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from assets.stages import STAGES, check_run_config
from benchmarks.scale.plan_error import CASES, compare, run_config
from grasp_pipeline import definitions


def test_errors_are_relative_to_the_run_and_name_the_stage_that_is_furthest_off() -> None:
    planned = {"seconds": {"documents": 6.0, "report": 3.0}, "peak": {"documents": 2**30, "report": 2**29}}
    happened = {"seconds": {"documents": 10.0, "report": 2.0}, "peak": {"documents": 2**31, "report": 2**29}}
    time, memory = compare("case", planned, happened)
    assert time.value == pytest.approx(0.25)
    assert "furthest off: documents 6.0 for 10.0, report 3.0 for 2.0" in time.note
    assert memory.value == pytest.approx(0.5)
    assert memory.note == "1.00 GiB for 2.00"


def test_every_case_is_a_valid_configuration_of_a_corpus_of_its_own(tmp_path: Path) -> None:
    assert definitions.defs, "the stages are known once all assets are"
    sizes = set()
    for name, case in CASES.items():
        folder = tmp_path / name
        folder.mkdir()
        config = run_config(case, folder)
        check_run_config(config["ops"], STAGES)
        files = sorted((folder / "corpus").glob("*.parquet"))
        assert [file.name[:2] for file in files] == sorted(case.files)
        sizes.add(sum(pl.read_parquet(file).height for file in files))
    assert len(sizes) == len(CASES) == 3
