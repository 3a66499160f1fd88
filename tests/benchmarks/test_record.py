"""Result files follow the contract, and the tables in the README are those of the result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import record
from benchmarks.record import README, RESULTS, Figure, table, with_table

FIELDS = {"figure", "value", "low", "high", "unit", "goal", "command", "machine", "commit", "note"}


def test_tables_are_replaced_between_their_markers() -> None:
    where = {"command": "make benchmark-x", "machine": "m", "commit": "c"}
    rows = [
        Figure("x.a", 1.5, "s", low=1.0, high=2.0).__dict__ | where,
        Figure("x.b", 2.0, "s", low=0.5).__dict__ | where,
    ]
    text = "before\n<!-- generated from results/x.json -->\nold\n<!-- end of x -->\nafter\n"
    once = with_table(text, "x", rows)
    assert "old" not in once
    assert "[1, 2]" in once
    assert "from 0.5" in once
    assert with_table(once, "x", rows) == once
    assert once.startswith("before\n")
    assert once.endswith("after\n")


def test_an_update_replaces_its_own_figures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- generated from results/x.json -->\n<!-- end of x -->\n")
    monkeypatch.setattr(record, "README", readme)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    record.save(
        "x", "make x", [Figure("x.a", 1.0, "s"), Figure("x.b[one]", 2.0, "s"), Figure("x.b[two]", 3.0, "s")]
    )
    path = record.update("x", "make x", [Figure("x.b[one]", 4.0, "s"), Figure("x.c", 5.0, "s")])
    rows = json.loads(path.read_text())
    assert {row["figure"]: row["value"] for row in rows} == {"x.a": 1.0, "x.b[one]": 4.0, "x.c": 5.0}
    path = record.update("x", "make x", [Figure("x.a", 6.0, "s")])
    rows = json.loads(path.read_text())
    assert [(row["figure"], row["value"]) for row in rows] == [("x.a", 6.0), ("x.b[one]", 4.0), ("x.c", 5.0)]
    assert table(rows) in readme.read_text()


def test_a_table_names_every_commit_and_machine_once() -> None:
    figure = Figure("x.a", 1.0, "s").__dict__
    rows = [
        figure | {"command": "make x", "machine": machine, "commit": commit}
        for machine, commit in (("m", "c"), ("m", "d"), ("n", "c"))
    ]
    assert table(rows).startswith("`make x` on m; n, commit c, d.")


def test_the_machine_names_a_gpu_where_torch_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert record.machine().endswith(" GiB, no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: ["One", "One", "Two"][number])
    assert record.machine().endswith(" GiB, One and Two")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_follow_the_contract_and_stand_in_the_readme(path: Path) -> None:
    rows = json.loads(path.read_text())
    assert rows
    for row in rows:
        assert set(row) == FIELDS
        assert isinstance(row["value"], int | float)
        assert "/" not in row["machine"]
    assert table(rows) in README.read_text()
