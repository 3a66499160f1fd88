"""The commands that ask the proxy of a store."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from workplace import Workplace

from grasp_pipeline.__main__ import main


def test_groups_and_forgets(
    copied: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(copied.folder)
    monkeypatch.delenv("GRASP_STORE", raising=False)
    out = tmp_path / "groups.parquet"
    assert main(["groups", "--size", "8", "-k", "2", "--out", str(out)]) == 0
    assert "backward passes" in capsys.readouterr().out
    frame = pl.read_parquet(out)
    assert frame["chunk_id"].is_unique().all()
    assert frame["worth"].is_finite().all()
    assert main(["forgets", "the price of bread", "-k", "3", "--steps", "5"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 6
    assert main(["forgets", ""]) == 1
    assert "has no tokens" in capsys.readouterr().err
    monkeypatch.setenv("GRASP_STORE", str(tmp_path / "nothing"))
    assert main(["groups"]) == 1
    assert "the store has no table" in capsys.readouterr().err
