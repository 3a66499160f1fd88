"""Vacuum: what a curation names stays readable, what nobody names goes."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from grasp_pipeline import tables
from grasp_pipeline.__main__ import main
from grasp_pipeline.errors import ConfigError, StoreError
from resources.delta.care import named_versions, vacuum
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables

MADE = Provenance("run", "test", "1", "")


def rows(table: tables.Table, *given: dict) -> pl.DataFrame:
    return pl.concat([table.empty(), pl.DataFrame(list(given))], how="diagonal_relaxed")


@pytest.fixture
def delta(tmp_path: Path) -> DeltaTables:
    """Five versions of a table, of which a curation names the second and nobody the others but the newest."""
    delta = DeltaTables(str(tmp_path / "store"))
    for number in range(5):
        text = str(number) * 5000
        delta.write(tables.TOKENIZER, rows(tables.TOKENIZER, {"tokenizer_id": text, "path": text}), MADE)
    second = sorted(commit.version for commit in delta.commits(tables.TOKENIZER))[1]
    row = {"curation": 1, "versions": json.dumps({"tokenizer": second})}
    delta.write(tables.CURATIONS, rows(tables.CURATIONS, row), MADE)
    return delta


def readable(delta: DeltaTables) -> list[str]:
    found = []
    for commit in reversed(delta.commits(tables.TOKENIZER)):
        try:
            found.append(delta.read(tables.TOKENIZER, commit.version).collect()["path"][0][0])
        except Exception:
            continue
    return found


def test_only_what_nobody_names_goes(delta: DeltaTables) -> None:
    assert readable(delta) == ["0", "1", "2", "3", "4"]
    dry = {each.table: each for each in vacuum(delta, 0, True)}
    assert readable(delta) == ["0", "1", "2", "3", "4"]
    done = {each.table: each for each in vacuum(delta, 0, False)}
    assert readable(delta) == ["1", "4"]
    assert dry["tokenizer"].files == done["tokenizer"].files == 3
    assert dry["tokenizer"].kept_versions == 2
    assert dry["tokenizer"].bytes_after < dry["tokenizer"].bytes_before
    assert [each.files for each in vacuum(delta, 0, False)] == [0, 0]
    delta.write(tables.TOKENIZER, rows(tables.TOKENIZER, {"tokenizer_id": "x", "path": "5"}), MADE)
    assert readable(delta) == ["1", "4", "5"]


def test_what_is_younger_than_the_horizon_stays(delta: DeltaTables) -> None:
    assert all(each.files == 0 for each in vacuum(delta, 1, False))
    assert readable(delta) == ["0", "1", "2", "3", "4"]


def test_what_the_newest_commits_read_stays(delta: DeltaTables) -> None:
    from resources.delta.commits import Read

    first = min(commit.version for commit in delta.commits(tables.TOKENIZER))
    made = Provenance("run", "test", "1", "", (Read("tokenizer", first),))
    delta.write(tables.CANDIDATES, rows(tables.CANDIDATES, {"config_id": "c"}), made)
    assert first in named_versions(delta)["tokenizer"]
    vacuum(delta, 0, False)
    assert readable(delta) == ["0", "1", "4"]


def test_the_command_says_what_it_removed(
    delta: DeltaTables, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRASP_STORE", delta.root)
    assert main(["vacuum", "--horizon-days", "0", "--dry-run"]) == 0
    assert "tokenizer: 3 files would go" in capsys.readouterr().out
    assert main(["vacuum", "--horizon-days", "0"]) == 0
    assert "tokenizer: 3 files went" in capsys.readouterr().out
    assert main(["vacuum", "--horizon-days", "-1"]) == 1
    with pytest.raises(ConfigError, match="object store"):
        vacuum(DeltaTables("s3://bucket/store"), 1, True)


@pytest.fixture
def grown(tmp_path: Path) -> tuple[DeltaTables, list[int]]:
    """A table that grew by five upserts, and the version of each; a curation names the third."""
    delta = DeltaTables(str(tmp_path / "store"))
    versions = []
    for number in range(5):
        row = {"subset_id": str(number), "task": "t", "seed": 0, "recipe": "r", "utility": float(number)}
        versions.append(
            delta.upsert(tables.SUBSET_UTILITIES, rows(tables.SUBSET_UTILITIES, row), MADE).version
        )
    row = {"curation": 1, "versions": json.dumps({"subset_utilities": versions[2]})}
    delta.write(tables.CURATIONS, rows(tables.CURATIONS, row), MADE)
    return delta, versions


def seen(delta: DeltaTables, version: int) -> list[str]:
    return delta.read(tables.SUBSET_UTILITIES, version).collect()["subset_id"].sort().to_list()


def test_compaction_leaves_every_named_version_its_rows_in_fewer_files(
    grown: tuple[DeltaTables, list[int]],
) -> None:
    delta, versions = grown
    table = tables.SUBSET_UTILITIES
    folder = Path(delta.uri(table))
    many = len(delta.open_to_read(table, versions[4]).file_uris())
    assert many > 1
    dry = {each.table: each for each in vacuum(delta, 0, True, compact=True)}
    assert dry[table.name].compacted == many
    assert len(delta.open_to_read(table, versions[4]).file_uris()) == many
    commits = [commit.version for commit in delta.commits(table)]
    told = {each.table: each for each in vacuum(delta, 0, False, compact=True)}
    assert told[table.name].compacted == many
    assert len(delta.open_to_read(table, versions[4]).file_uris()) == 1, "the newest, through its compaction"
    assert [commit.version for commit in delta.commits(table)] == commits, "nothing is stale by it"
    assert seen(delta, versions[4]) == list("01234")
    assert seen(delta, versions[2]) == list("012"), "named by the curation"
    assert delta.pin(table).version == versions[4]
    assert {each.table: each.compacted for each in vacuum(delta, 0, False, compact=True)}[table.name] == 0

    row = {"subset_id": "5", "task": "t", "seed": 0, "recipe": "r", "utility": 5.0}
    last = delta.upsert(table, rows(table, row), MADE).version
    assert seen(delta, last) == list("012345")
    assert seen(delta, versions[4]) == list("01234")
    vacuum(delta, 0, False, compact=True)
    assert seen(delta, last) == list("012345")
    assert seen(delta, versions[2]) == list("012")
    assert len(list(folder.rglob("*.parquet"))) < many + 3


def test_a_missing_file_is_no_compaction(grown: tuple[DeltaTables, list[int]]) -> None:
    """What is lost is said, whatever was compacted before."""
    delta, versions = grown
    vacuum(delta, 0, False, compact=True)
    for file in Path(delta.uri(tables.SUBSET_UTILITIES)).rglob("*.parquet"):
        if "_delta_log" not in file.parts:
            file.unlink()
    with pytest.raises(StoreError, match="is missing; restore it"):
        seen(delta, versions[4])
