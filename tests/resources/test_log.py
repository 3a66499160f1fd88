"""The log of a table is read again only where it has grown, and told as if it were read anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from grasp_pipeline.tables import REJECTED_DOCUMENTS, Table
from resources.delta.commits import Commit, Provenance
from resources.delta.tables import DeltaTables

TABLE = REJECTED_DOCUMENTS
MADE = Provenance("run", "documents", "1", "")


def write(delta: DeltaTables, detail: str) -> None:
    row = {
        "doc_id": ["d"],
        "stage": "noise",
        "reason": "short",
        "detail": detail,
        "shard": "a",
        "source": "s",
        "origin": "o",
    }
    frame = pl.concat([TABLE.empty(), pl.DataFrame(row)], how="diagonal")
    delta.write(TABLE, frame, MADE, {"shard": "a"})


def detail(delta: DeltaTables) -> str:
    (newest, *_) = delta.commits(TABLE)
    return delta.read(TABLE, newest.version).collect()["detail"].item()


def test_what_others_commit_is_seen(tmp_path: Path) -> None:
    mine, other = (DeltaTables(str(tmp_path)) for _ in range(2))
    for number in range(25):
        write(mine if number % 3 else other, f"{number}")
        if number % 5 == 0:
            assert mine.commits(TABLE) == DeltaTables(str(tmp_path)).commits(TABLE)
            assert other.latest(TABLE) == mine.latest(TABLE)
        assert detail(mine) == detail(other) == f"{number}"
    assert len(mine.commits(TABLE)) == 25
    log = tmp_path / TABLE.name / "_delta_log"
    assert len(list(log.glob("*.checkpoint.parquet"))) >= 2


def test_a_table_that_was_deleted_and_made_again_is_another(tmp_path: Path) -> None:
    delta = DeltaTables(str(tmp_path))
    for content in ("old", "older"):
        write(delta, content)
    old = delta.commits(TABLE)
    assert detail(delta) == "older"
    shutil.rmtree(tmp_path / TABLE.name)
    assert delta.commits(TABLE) == []
    for content in ("new", "newer"):
        write(DeltaTables(str(tmp_path)), content)
    assert [commit.version for commit in delta.commits(TABLE)] == [commit.version for commit in old]
    assert delta.commits(TABLE) != old
    assert detail(delta) == "newer"


def test_what_the_last_commits_tell_takes_no_longer_in_a_long_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta = DeltaTables(str(tmp_path))
    read: list[int] = []
    commit_at = DeltaTables._commit_at

    def counted(self: DeltaTables, table: Table, opened: object, version: int) -> Commit | None:
        read.append(version)
        return commit_at(self, table, opened, version)

    monkeypatch.setattr(DeltaTables, "_commit_at", counted)
    numbers = []
    for number in range(30):
        write(delta, f"{number}")
        read.clear()
        newest = DeltaTables(str(tmp_path))
        commit = newest.latest(TABLE)
        assert commit is not None
        assert (
            newest.at(TABLE, commit.version)
            == newest.beside(commit, TABLE)
            == newest.standing(TABLE)
            == commit
        )
        numbers.append(len(read))
    assert numbers[-1] == numbers[1] <= 3
    read.clear()
    assert len(delta.commits(TABLE)) == 30
    assert len(read) < 30, "what this one wrote it knows already"


def test_a_log_that_somebody_shortened_is_told_as_far_as_it_goes(tmp_path: Path) -> None:
    for number in range(25):
        write(DeltaTables(str(tmp_path)), f"{number}")
    delta = DeltaTables(str(tmp_path))
    whole = delta.commits(TABLE)
    log = tmp_path / TABLE.name / "_delta_log"
    for version in range(15):
        (log / f"{version:020}.json").unlink()
    delta = DeltaTables(str(tmp_path))
    assert delta.commits(TABLE) == whole[:11]
    assert delta.at(TABLE, 3) is None
    write(delta, "next")
    assert detail(delta) == "next"


def test_the_shipped_log_is_never_cleaned(tmp_path: Path) -> None:
    delta = DeltaTables(str(tmp_path))
    write(delta, "a")
    told = delta.open_to_care(TABLE).metadata().configuration
    assert told["delta.enableExpiredLogCleanup"] == "false"
    assert told["delta.checkpointInterval"] == "10"
