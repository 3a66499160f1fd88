"""A column that a table lacks is read as null, and the number of a curation is written into published rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from grasp_pipeline.errors import StoreError
from grasp_pipeline.tables import PRUNED_CORPUS
from resources.delta.commits import Commit, Provenance, Read
from resources.delta.tables import DeltaTables

BEFORE = replace(
    PRUNED_CORPUS,
    schema={name: dtype for name, dtype in PRUNED_CORPUS.schema.items() if name != "curation"},
    added=(),
)
"""The table as it was before there was the column."""

MADE = Provenance("run", "pruned_corpus", "1", "", (Read("certificates", 4),))


def rows(*chunks: str) -> pl.DataFrame:
    shards = [f"shard-{number % 2}" for number in range(len(chunks))]
    frame = pl.DataFrame({"chunk_id": chunks, "shard": shards, "source": "s", "doc_id": "d"})
    return BEFORE.conform(pl.concat([BEFORE.empty(), frame], how="diagonal"))


@pytest.fixture
def delta(tmp_path: Path) -> DeltaTables:
    found = DeltaTables(str(tmp_path))
    found.write(BEFORE, rows("a", "b", "c"), MADE, statistics={"told": 1})
    return found


def newest(delta: DeltaTables) -> Commit:
    commit = delta.latest(PRUNED_CORPUS)
    assert commit is not None
    return commit


def numbers(delta: DeltaTables, version: int) -> dict[str, int | None]:
    frame = delta.read(PRUNED_CORPUS, version).collect()
    batches = pl.concat(delta.batches(PRUNED_CORPUS, version, rows=1))
    assert batches.sort("chunk_id").equals(frame.sort("chunk_id"))
    return dict(frame.select("chunk_id", "curation").iter_rows())


def test_an_older_table_is_read_and_written_anew(delta: DeltaTables) -> None:
    old = newest(delta)
    assert numbers(delta, old.version) == {"a": None, "b": None, "c": None}
    delta.write(PRUNED_CORPUS, rows("a", "d").with_columns(curation=pl.lit(1)), MADE)
    assert numbers(delta, newest(delta).version) == {"a": 1, "d": 1}
    assert numbers(delta, old.version) == {"a": None, "b": None, "c": None}


def test_a_number_changes_nothing_that_the_log_tells(delta: DeltaTables) -> None:
    old = newest(delta)
    delta.stamp(PRUNED_CORPUS, 3)
    stamped = newest(delta)
    assert numbers(delta, stamped.version) == {"a": 3, "b": 3, "c": 3}
    assert stamped.version > old.version
    assert (stamped.reads, stamped.statistics, stamped.partition) == (
        old.reads,
        old.statistics,
        old.partition,
    )
    assert stamped.metadata["input_digest"] == MADE.input_digest()
    delta.stamp(PRUNED_CORPUS, 3)
    assert newest(delta) == stamped, "it tells the number already"
    later = replace(MADE, reads=(Read("certificates", 5),))
    delta.confirm(PRUNED_CORPUS, later)
    delta.stamp(PRUNED_CORPUS, 4)
    assert newest(delta).metadata["input_digest"] == later.input_digest(), "what stood still stands"
    assert newest(delta).reads == {"certificates": 5}


def test_rows_that_another_run_published_meanwhile_are_left_alone(
    delta: DeltaTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DeltaTables(delta.root)
    commit = delta._commit

    def late(*arguments, **given) -> Commit:  # type: ignore[no-untyped-def]
        other.write(PRUNED_CORPUS, rows("x").with_columns(curation=pl.lit(9)), MADE)
        return commit(*arguments, **given)

    monkeypatch.setattr(delta, "_commit", late)
    with pytest.raises(StoreError, match="another run published pruned_corpus"):
        delta.stamp(PRUNED_CORPUS, 3)
    assert numbers(other, newest(other).version) == {"x": 9}
