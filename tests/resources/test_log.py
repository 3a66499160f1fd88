"""The log of a table is read again only where it has grown, and told as if it were read anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from grasp_pipeline.tables import REJECTED_DOCUMENTS
from resources.delta.commits import Provenance
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
