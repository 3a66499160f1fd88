"""Delta tables: atomic partition writes, provenance and versions."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError, TrainingError
from resources.content import content_digest
from resources.delta import (
    Commit,
    DeltaTables,
    Provenance,
    Read,
    Settings,
    partition_predicate,
    sql_literal,
)
from resources.store import DeltaStore

ODD = [
    "sp ace",
    " around ",
    "100%",
    "%zz",
    "größe",
    unicodedata.normalize("NFD", "größe"),
    "语料 🗂",
    "p+l,u;s&",
    'it\'s "it"',
    "{brace}",
    "st*r",
    "<a>`b`",
    "a:b",
    "~",
    "..more",
]
"""Names of folders; between delta-rs, polars and pyarrow each was lost somewhere, or could have been."""
ODD_PATH = "/".join(["my folder", "100%", *ODD])

NASTY = ["plain", "x' OR 'a'='a", 'double "quote"', "a/b", "per%cent", "ünïcode", "sp ace", "back\\slash"]


def documents(shard: str, names: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "doc_id": names,
            "text": [f"text {name}" for name in names],
            "source": ["s"] * len(names),
            "shard": [shard] * len(names),
            "n_bytes": [1] * len(names),
            "origin": ["o"] * len(names),
            "cluster": names,
            "survivor": [True] * len(names),
        }
    )


def made_by(asset: str = "documents", *reads: Read, code: str = "1") -> Provenance:
    return Provenance("run-1", asset, code, "config", reads)


@pytest.fixture(params=["store", ODD_PATH], ids=["plain", "odd"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> DeltaTables:
    return DeltaTables(str(tmp_path / request.param))


def test_partitions_with_any_name_are_written_and_replaced_alone(lake: DeltaTables) -> None:
    for number, shard in enumerate(NASTY):
        lake.write(tables.DOCUMENTS, documents(shard, [f"d{number}"]), made_by(), {"shard": shard})
    lake.write(tables.DOCUMENTS, documents(NASTY[1], ["new"]), made_by(), {"shard": NASTY[1]})
    version = lake.pin(tables.DOCUMENTS).version
    for number, shard in enumerate(NASTY):
        part = lake.read(tables.DOCUMENTS, version, {"shard": shard}).collect()
        assert part["doc_id"].to_list() == (["new"] if number == 1 else [f"d{number}"])
    assert lake.read(tables.DOCUMENTS, version).collect().height == len(NASTY)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("form", ["path", "relative", "uri"])
def test_a_store_may_lie_in_a_folder_of_any_name(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / name / "store"
    root = {"path": str(whole), "relative": f"./{name}/store", "uri": f"file://{quote(str(whole))}"}[form]
    lake = DeltaTables(root)
    for shard in ("a", "b c%"):
        lake.write(tables.DOCUMENTS, documents(shard, [shard]), made_by(), {"shard": shard})
    version = lake.pin(tables.DOCUMENTS).version
    assert sorted(lake.read(tables.DOCUMENTS, version).collect()["doc_id"]) == ["a", "b c%"]
    assert [frame.height for frame in lake.batches(tables.DOCUMENTS, version)] == [1, 1]
    part = lake.read(tables.DOCUMENTS, version, {"shard": "b c%"}).filter(pl.col("n_bytes") > 0)
    assert part.collect()["doc_id"].to_list() == ["b c%"]
    row = ("s", "t", 0, "calibration", 1.0, 1, "c", "r", 1.0)
    utility = pl.DataFrame([row], schema=tables.SUBSET_UTILITIES.schema, orient="row")
    for value in (1.0, 2.0):
        changed = utility.with_columns(utility=pl.lit(value))
        lake.upsert(tables.SUBSET_UTILITIES, changed, made_by(), {"split": "calibration"})
    stored = lake.read(tables.SUBSET_UTILITIES, lake.pin(tables.SUBSET_UTILITIES).version)
    assert stored.collect()["utility"].to_list() == [2.0]
    store = DeltaStore(root=root)
    for content in ("1", "2"):
        with store.new_files("files/x") as folder:
            (folder / "f").write_text(content)
    with store.files("files/x") as folder:
        assert (folder / "f").read_text() == "2"
    assert sorted(path.name for path in whole.iterdir()) == ["documents", "files", "subset_utilities"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@given(st.text(max_size=20))
def test_literals_cannot_leave_their_quotes(value: str) -> None:
    literal = sql_literal(value)
    assert literal[0] == literal[-1] == "'"
    assert literal[1:-1].replace("''", "").count("'") == 0
    assert partition_predicate({"shard": value}) == f'"shard" = {literal}'


def test_every_commit_says_what_it_was_made_from(lake: DeltaTables) -> None:
    reads = (Read("manifest", 3), Read("tasks", 7, (("task", "x"),)))
    commit = lake.write(
        tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", *reads), {"shard": "a"}, {"rows": 1}
    )
    for metadata in lake._open(tables.DOCUMENTS).history():
        for key in ("run_id", "asset_key", "code_version", "config_digest", "upstream"):
            assert metadata[key], key
        assert json.loads(metadata["upstream"]) == {"manifest": 3, "tasks": 7}
    assert commit.reads == {"manifest": 3, "tasks/task=x": 7}
    assert commit.statistics == {"rows": 1}
    assert commit.partition == {"shard": "a"}


def test_equal_content_makes_no_commit(lake: DeltaTables) -> None:
    first = lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    again = lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(code="2"), {"shard": "a"})
    assert again.version == first.version
    changed = lake.write(tables.DOCUMENTS, documents("a", ["e"]), made_by(), {"shard": "a"})
    assert changed.version == first.version + 1


def test_equal_content_from_other_reads_makes_a_commit_that_names_them(lake: DeltaTables) -> None:
    """Else the log would go on telling of what is not read any more."""
    whole, split = Read("tasks", 1), Read("tasks", 1, (("split", "query"),))
    part = {"shard": "a"}
    first = lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", whole), part)
    second = lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", split), part)
    assert second.version == first.version + 1
    assert second.reads == {"tasks/split=query": 1}
    newer = Read("tasks", 2, (("split", "query"),))
    third = lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", newer), part)
    assert third.version == second.version


def test_a_pinned_read_gives_the_rows_that_its_label_names(lake: DeltaTables) -> None:
    rows = pl.concat(
        tables.TASKS.empty().vstack(
            pl.DataFrame([("t", s, 0, "d", s, [1], 1)], schema=tables.TASKS.schema, orient="row")
        )
        for s in ("query", "evaluation")
    )
    lake.write(tables.TASKS, rows, made_by("tasks"))
    read = lake.pin(tables.TASKS, {"split": "query"})
    assert read.label() == "tasks/split=query"
    assert lake.rows(read).collect()["split"].to_list() == ["query"]
    assert lake.count(tables.TASKS, read.version) == 2


def test_a_partition_keeps_its_version_when_others_change(lake: DeltaTables) -> None:
    lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    before = lake.pin(tables.DOCUMENTS, {"shard": "a"})
    lake.write(tables.DOCUMENTS, documents("b", ["e"]), made_by(), {"shard": "b"})
    assert lake.pin(tables.DOCUMENTS, {"shard": "a"}) == before
    assert lake.pin(tables.DOCUMENTS).version == before.version + 1


def test_old_versions_stay_readable(lake: DeltaTables) -> None:
    first = lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    lake.write(tables.DOCUMENTS, documents("a", []), made_by(), {"shard": "a"})
    assert lake.read(tables.DOCUMENTS, lake.pin(tables.DOCUMENTS).version).collect().is_empty()
    assert lake.read(tables.DOCUMENTS, first.version).collect()["doc_id"].to_list() == ["d"]


def test_upsert_replaces_by_key_and_keeps_the_rest(lake: DeltaTables) -> None:
    def utility(subset: str, value: float, split: str = "calibration") -> pl.DataFrame:
        row = (subset, "t", 0, split, value, 1, "c", "r", 1.0)
        return pl.DataFrame([row], schema=tables.SUBSET_UTILITIES.schema, orient="row")

    for frame in (utility("a", 1.0), utility("b", 2.0), utility("a", 3.0)):
        lake.upsert(tables.SUBSET_UTILITIES, frame, made_by(), {"split": "calibration"})
    lake.upsert(tables.SUBSET_UTILITIES, utility("c", 4.0, "evaluation"), made_by(), {"split": "evaluation"})
    frame = (
        lake.read(tables.SUBSET_UTILITIES, lake.pin(tables.SUBSET_UTILITIES).version)
        .collect()
        .sort("subset_id")
    )
    assert dict(frame.select("subset_id", "utility").iter_rows()) == {"a": 3.0, "b": 2.0, "c": 4.0}


def test_a_frame_that_breaks_the_contract_leaves_nothing_behind(lake: DeltaTables) -> None:
    for frame, message in (
        (documents("a", ["d", "d"]), "key"),
        (documents("a", ["d"]).drop("text"), "missing columns"),
        (documents("b", ["d"]), "outside the partition"),
        (documents("a", ["d"]).with_columns(doc_id=pl.lit(None, dtype=pl.String)), "nulls"),
    ):
        with pytest.raises(ValueError, match=message):
            lake.write(tables.DOCUMENTS, frame, made_by(), {"shard": "a"})
    assert not lake.exists(tables.DOCUMENTS)


def test_reading_what_was_never_written_says_what_to_do(lake: DeltaTables) -> None:
    with pytest.raises(StoreError, match=r"documents has not been written.*materialize"):
        lake.pin(tables.DOCUMENTS)
    lake.create(tables.DOCUMENTS, made_by())
    with pytest.raises(StoreError, match=r"shard.*has not been written"):
        lake.pin(tables.DOCUMENTS, {"shard": "a"})


def test_writers_of_distinct_partitions_all_commit(lake: DeltaTables) -> None:
    lake.create(tables.DOCUMENTS, made_by())
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            lake.write(
                tables.DOCUMENTS, documents(f"s{number}", [f"d{number}"]), made_by(), {"shard": f"s{number}"}
            )
        except Exception as error:  # collected, and asserted on below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert lake.read(tables.DOCUMENTS, lake.pin(tables.DOCUMENTS).version).collect().height == 5


class TestStream:
    """Rows that are written while they are made."""

    @staticmethod
    def put(
        lake: DeltaTables, shard: str, names: list[str], piece: int = 2, group: int = 3, code: str = "1"
    ) -> Commit:
        frames = documents(shard, names).iter_slices(piece)
        count = {"rows": len(names), "seconds": 1.0}
        return lake.write_stream(
            tables.DOCUMENTS, frames, made_by(code=code), {"shard": shard}, lambda: count, group
        )

    @staticmethod
    def files(lake: DeltaTables) -> list[Path]:
        return [p for p in Path(lake.uri(tables.DOCUMENTS)).rglob("*") if "part-" in p.name]

    def test_partitions_with_any_name_are_one_file_in_the_order_given(self, lake: DeltaTables) -> None:
        names = {shard: [f"d{number}-{i}" for i in range(7, -1, -1)] for number, shard in enumerate(NASTY)}
        for shard in NASTY:
            self.put(lake, shard, ["old"])
            commit = self.put(lake, shard, names[shard])
            assert commit.partition == {"shard": shard}
            assert commit.statistics == {"rows": 8, "seconds": 1.0}
        version = lake.pin(tables.DOCUMENTS).version
        for shard in NASTY:
            part = lake.read(tables.DOCUMENTS, version, {"shard": shard}).collect()
            assert part.equals(documents(shard, names[shard]))
        assert lake.read(tables.DOCUMENTS, version).collect().height == 8 * len(NASTY)
        assert len(lake._open(tables.DOCUMENTS).file_uris()) == len(NASTY)
        assert lake._open(tables.DOCUMENTS).history()[0]["run_id"] == "run-1"

    def test_a_partition_of_a_frame_can_be_replaced_and_back(self, lake: DeltaTables) -> None:
        lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
        lake.write(tables.DOCUMENTS, documents("b", ["e"]), made_by(), {"shard": "b"})
        self.put(lake, "a", ["f", "g"])
        now = lake.read(tables.DOCUMENTS, lake.pin(tables.DOCUMENTS).version).collect()
        assert sorted(now["doc_id"]) == ["e", "f", "g"]
        lake.write(tables.DOCUMENTS, documents("a", ["h"]), made_by(), {"shard": "a"})
        now = lake.read(tables.DOCUMENTS, lake.pin(tables.DOCUMENTS).version).collect()
        assert sorted(now["doc_id"]) == ["e", "h"]

    def test_row_groups_are_as_asked(self, lake: DeltaTables) -> None:
        import pyarrow.parquet as pq

        self.put(lake, "a", [str(i) for i in range(8)], piece=5, group=3)
        metadata = pq.ParquetFile(self.files(lake)[0]).metadata
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3, 2]

    def test_equal_content_makes_no_commit_and_no_file(self, lake: DeltaTables) -> None:
        first = self.put(lake, "a", ["d", "e", "f"], piece=1)
        again = self.put(lake, "a", ["d", "e", "f"], piece=3, code="2")
        assert again.version == first.version
        assert len(self.files(lake)) == 1
        assert self.put(lake, "a", ["d", "e"]).version == first.version + 1

    def test_no_rows_empty_the_partition(self, lake: DeltaTables) -> None:
        self.put(lake, "a", ["d"])
        self.put(lake, "b", ["e"])
        commit = self.put(lake, "a", [])
        assert commit == lake.latest(tables.DOCUMENTS, {"shard": "a"})
        assert lake.read(tables.DOCUMENTS, commit.version).collect()["doc_id"].to_list() == ["e"]

    def test_an_error_while_rows_are_made_leaves_nothing(self, lake: DeltaTables) -> None:
        first = self.put(lake, "a", ["d"])

        def frames() -> Iterator[pl.DataFrame]:
            yield documents("a", [f"e{i}" for i in range(500)])
            raise TrainingError("the sketch is not finite")

        with pytest.raises(TrainingError, match="not finite"):
            lake.write_stream(tables.DOCUMENTS, frames(), made_by(), {"shard": "a"}, dict, 10)
        assert lake.latest(tables.DOCUMENTS) == first
        assert lake.read(tables.DOCUMENTS, first.version).collect()["doc_id"].to_list() == ["d"]
        assert len(self.files(lake)) == 1

    def test_rows_that_break_the_contract_leave_nothing(self, lake: DeltaTables) -> None:
        good = documents("a", ["d"])
        for frame, message in (
            (good, r"the key \(doc_id\) is not unique"),
            (documents("a", ["e"]).drop("text"), "missing columns"),
            (documents("b", ["e"]), "outside the partition"),
        ):
            with pytest.raises(ValueError, match=message):
                lake.write_stream(tables.DOCUMENTS, iter([good, frame]), made_by(), {"shard": "a"}, dict, 1)
        with pytest.raises(ValueError, match="one partition"):
            lake.write_stream(tables.DOCUMENTS, iter([good]), made_by(), {}, dict)
        assert lake.commits(tables.DOCUMENTS) == []
        assert self.files(lake) == []

    def test_of_two_writers_of_one_partition_the_rows_of_one_remain(self, lake: DeltaTables) -> None:
        """The second commit comes between the first writer's look at the table and its own commit."""
        lake.create(tables.DOCUMENTS, made_by())
        opened, interrupted = lake._open, []

        def late(*given: Any) -> Any:
            delta = opened(*given)
            if len(interrupted) == 1 and sys._getframe(1).f_code.co_name == "_commit":
                interrupted.append(True)
                self.put(DeltaTables(lake.root), "a", ["other"])
            return delta

        def statistics() -> dict[str, int]:
            interrupted.append(True)
            return {}

        lake._open = late  # type: ignore[method-assign]
        lake.write_stream(
            tables.DOCUMENTS, iter([documents("a", ["mine"])]), made_by(), {"shard": "a"}, statistics
        )
        assert len(interrupted) == 2
        rows = lake.read(tables.DOCUMENTS, lake.pin(tables.DOCUMENTS).version).collect()
        assert rows["doc_id"].to_list() == ["mine"]
        assert len(lake.commits(tables.DOCUMENTS)) == 2


@given(st.permutations(list(range(6))))
@settings(max_examples=10)
def test_content_digest_is_of_values_not_of_memory(order: list[int]) -> None:
    frame = documents("a", [f"d{i}" for i in range(6)])
    pieces = pl.concat([frame[i : i + 1] for i in range(6)], rechunk=False)
    assert content_digest(pieces) == content_digest(frame)
    shuffled = frame[order]
    assert (content_digest(shuffled) == content_digest(frame)) == (order == list(range(6)))


def test_every_table_can_be_created_written_and_read(lake: DeltaTables) -> None:
    for table in tables.ALL.values():
        lake.create(table, made_by(table.name))
        lake.write(table, table.empty(), made_by(table.name))
        assert lake.read(table, lake.pin(table).version).collect().schema == pl.Schema(table.schema)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda schema: {k: v for k, v in schema.items() if k != "judge"}, "it has no column judge"),
        (
            lambda schema: {**schema, "reference": pl.Float64},
            "it has a column reference that is not written any more",
        ),
    ],
)
def test_a_table_of_another_version_is_refused_with_what_to_do(
    lake: DeltaTables, change: Any, fault: str
) -> None:
    """Before anything is written; delta-rs would speak of a number of fields."""
    now = tables.CONDITIONAL_LOSSES
    then = dataclasses.replace(now, schema=change(dict(now.schema)))
    lake.write(then, then.empty(), made_by("conditional_losses"), {"shard": "s"})
    for use in (
        lambda: lake.read(now, 0),
        lambda: lake.write(now, now.empty(), made_by("conditional_losses"), {"shard": "s"}),
    ):
        with pytest.raises(StoreError, match=fault) as told:
            use()
        assert f"Delete {lake.uri(now)} and materialize" in str(told.value)


def test_a_table_stands_on_the_reads_that_its_content_was_last_confirmed_under(lake: DeltaTables) -> None:
    first, second = (made_by("documents", Read("manifest", version)) for version in (1, 2))
    written = lake.write(tables.DOCUMENTS, documents("a", ["d"]), first, {"shard": "a"})
    lake.confirm(tables.DOCUMENTS, first)
    assert lake.standing(tables.DOCUMENTS) == written == lake.latest(tables.DOCUMENTS)
    assert lake.write(tables.DOCUMENTS, documents("a", ["d"]), second, {"shard": "a"}) == written
    lake.confirm(tables.DOCUMENTS, second)
    assert lake.latest(tables.DOCUMENTS) == written, "readers see no new version"
    standing = lake.standing(tables.DOCUMENTS)
    assert standing is not None
    assert (standing.version, standing.reads) == (written.version, {"manifest": 2})
    lake.confirm(tables.DOCUMENTS, second)
    again = lake.standing(tables.DOCUMENTS)
    assert again == standing, "told once"
    assert lake.read(tables.DOCUMENTS, written.version).collect().height == 1
    other = lake.write(tables.DOCUMENTS, documents("a", ["e"]), first, {"shard": "a"})
    assert lake.standing(tables.DOCUMENTS) == other


def test_a_table_is_found_as_another_commit_saw_it(lake: DeltaTables) -> None:
    old = lake.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    chunks = lake.write(
        tables.CALIBRATION_POOL,
        tables.CALIBRATION_POOL.empty(),
        made_by("calibration_pool", Read("documents", old.version)),
    )
    lake.write(tables.DOCUMENTS, documents("a", ["e"]), made_by(), {"shard": "a"})
    seen = lake.beside(chunks, tables.DOCUMENTS)
    assert seen == old
    unread = dataclasses.replace(chunks, metadata={**chunks.metadata, "reads": "{}"})
    assert lake.beside(unread, tables.DOCUMENTS) == old, "the newest of its time"
    assert lake.beside(chunks, tables.CERTIFICATES) is None


def test_settings_are_noted_once_and_tell_the_last(lake: DeltaTables) -> None:
    def under(value: int) -> Provenance:
        return Provenance("run-1", "documents", "1", f"digest {value}", (), json.dumps({"x": value}))

    written = lake.write(tables.DOCUMENTS, documents("a", ["d"]), under(1), {"shard": "a"})
    lake.keep_settings(tables.DOCUMENTS, under(1))
    lake.keep_settings(tables.DOCUMENTS, under(2))
    lake.keep_settings(tables.DOCUMENTS, under(2))
    assert lake.settings(tables.DOCUMENTS, "documents") == Settings("digest 2", {"x": 2})
    assert lake.settings(tables.DOCUMENTS, "tokenizer") is None
    assert lake.latest(tables.DOCUMENTS) == written
    lake.keep_settings(tables.DOCUMENTS, under(1))
    assert lake.settings(tables.DOCUMENTS, "documents") == Settings("digest 1", {"x": 1})
    from deltalake import DeltaTable

    assert DeltaTable(lake.uri(tables.DOCUMENTS)).version() == written.version + 2
