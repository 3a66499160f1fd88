"""What is measured again is compared figure by figure, and only what the present code reproduced is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import published, reproduce, sources
from grasp_pipeline.errors import GraspError

ROW = {"figure": "f.a", "value": 0.5, "low": 0.4, "high": None, "note": "n"}


def measuring(rows: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(arguments: Sequence[str], store: Path, results: Path) -> None:
        results.mkdir(parents=True)
        (results / "fidelity-quick.json").write_text(json.dumps(rows))

    monkeypatch.setattr(reproduce, "_measure", measure)


@pytest.mark.parametrize(
    ("change", "same"),
    [({}, True), ({"value": 0.5 + 1e-12}, True), ({"value": 0.5001}, False), ({"low": None}, False)],
)
def test_every_figure_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, same: bool
) -> None:
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    (tmp_path / "fidelity-quick.json").write_text(json.dumps([ROW]))
    measuring([ROW | change], monkeypatch)
    if same:
        assert "the same 1 figures" in reproduce.quick_cell(tmp_path / "scratch")
    else:
        with pytest.raises(GraspError, match=r"1 of 1 figures differ: f\.a"):
            reproduce.quick_cell(tmp_path / "scratch")


def test_a_figure_that_is_missing_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    (tmp_path / "fidelity-quick.json").write_text(json.dumps([ROW, ROW | {"figure": "f.b"}]))
    measuring([ROW], monkeypatch)
    with pytest.raises(GraspError, match=r"differ: f\.b"):
        reproduce.quick_cell(tmp_path / "scratch")


@pytest.mark.parametrize("same", [True, False])
def test_every_array_of_a_case_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    place = Path("laboratory/downstream/main/toy/0")

    def case(store: Path, loss: float) -> None:
        (store / place).mkdir(parents=True)
        np.savez(store / place / "case-a-1.npz", losses=np.array([loss, np.nan]), words=np.array(["x"]))

    case(tmp_path / "old", 1.0)
    monkeypatch.setattr(
        reproduce, "_measure", lambda arguments, store, results: case(store, 1.0 if same else 1.1)
    )
    if same:
        said = reproduce.downstream_ground("main/toy/0", tmp_path / "old", tmp_path / "scratch")
        assert said == "1 cases (main/toy/0), measured again, gave the same 2 arrays"
    else:
        with pytest.raises(GraspError, match=r"case-a-1\.npz of main/toy/0 differs in losses"):
            reproduce.downstream_ground("main/toy/0", tmp_path / "old", tmp_path / "scratch")
    with pytest.raises(GraspError, match="holds no finished case"):
        reproduce.downstream_ground("main/toy/0", tmp_path / "elsewhere", tmp_path / "more")


def test_a_table_tells_what_the_present_code_reproduced_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sources.SOURCES, "x", ("benchmarks/published.py",))
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    rows = [ROW | {"commit": "c", "sources": "older"}]
    assert published.age("x", rows).startswith("**Measured before changes")
    (tmp_path / "reproduced").mkdir()
    told = {"commit": "d", "sources": sources.sources_digest("x"), "said": "one case gave the same"}
    (tmp_path / "reproduced" / "x.json").write_text(json.dumps(told))
    assert published.age("x", rows) == "The code was rearranged since; at commit d one case gave the same."
    (tmp_path / "reproduced" / "x.json").write_text(json.dumps(told | {"sources": "older still"}))
    assert published.age("x", rows).startswith("**Measured before changes")
