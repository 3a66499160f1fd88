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
from resources.delta.commits import Commit, Provenance, Read, Settings
from resources.delta.content import content_digest
from resources.delta.predicates import partition_predicate, sql_literal
from resources.delta.tables import DeltaTables
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
def delta(request: pytest.FixtureRequest, tmp_path: Path) -> DeltaTables:
    return DeltaTables(str(tmp_path / request.param))


def test_partitions_with_any_name_are_written_and_replaced_alone(delta: DeltaTables) -> None:
    for number, shard in enumerate(NASTY):
        delta.write(tables.DOCUMENTS, documents(shard, [f"d{number}"]), made_by(), {"shard": shard})
    delta.write(tables.DOCUMENTS, documents(NASTY[1], ["new"]), made_by(), {"shard": NASTY[1]})
    version = delta.pin(tables.DOCUMENTS).version
    for number, shard in enumerate(NASTY):
        part = delta.read(tables.DOCUMENTS, version, {"shard": shard}).collect()
        assert part["doc_id"].to_list() == (["new"] if number == 1 else [f"d{number}"])
    assert delta.read(tables.DOCUMENTS, version).collect().height == len(NASTY)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("form", ["path", "relative", "uri"])
def test_a_store_may_lie_in_a_folder_of_any_name(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / name / "store"
    root = {"path": str(whole), "relative": f"./{name}/store", "uri": f"file://{quote(str(whole))}"}[form]
    delta = DeltaTables(root)
    for shard in ("a", "b c%"):
        delta.write(tables.DOCUMENTS, documents(shard, [shard]), made_by(), {"shard": shard})
    version = delta.pin(tables.DOCUMENTS).version
    assert sorted(delta.read(tables.DOCUMENTS, version).collect()["doc_id"]) == ["a", "b c%"]
    assert [frame.height for frame in delta.batches(tables.DOCUMENTS, version)] == [1, 1]
    part = delta.read(tables.DOCUMENTS, version, {"shard": "b c%"}).filter(pl.col("n_bytes") > 0)
    assert part.collect()["doc_id"].to_list() == ["b c%"]
    row = ("s", "t", 0, "calibration", 1.0, 1, "c", "r", 1.0)
    utility = pl.DataFrame([row], schema=tables.SUBSET_UTILITIES.schema, orient="row")
    for value in (1.0, 2.0):
        changed = utility.with_columns(utility=pl.lit(value))
        delta.upsert(tables.SUBSET_UTILITIES, changed, made_by(), {"split": "calibration"})
    stored = delta.read(tables.SUBSET_UTILITIES, delta.pin(tables.SUBSET_UTILITIES).version)
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


def test_every_commit_says_what_it_was_made_from(delta: DeltaTables) -> None:
    reads = (Read("manifest", 3), Read("tasks", 7, (("task", "x"),)))
    commit = delta.write(
        tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", *reads), {"shard": "a"}, {"rows": 1}
    )
    for metadata in delta._open(tables.DOCUMENTS).history():
        for key in ("run_id", "asset_key", "code_version", "config_digest", "upstream"):
            assert metadata[key], key
        assert json.loads(metadata["upstream"]) == {"manifest": 3, "tasks": 7}
    assert commit.reads == {"manifest": 3, "tasks/task=x": 7}
    assert commit.statistics == {"rows": 1}
    assert commit.partition == {"shard": "a"}


def test_equal_content_makes_no_commit(delta: DeltaTables) -> None:
    first = delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    again = delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(code="2"), {"shard": "a"})
    assert again.version == first.version
    changed = delta.write(tables.DOCUMENTS, documents("a", ["e"]), made_by(), {"shard": "a"})
    assert changed.version == first.version + 1


def test_equal_content_from_other_reads_makes_a_commit_that_names_them(delta: DeltaTables) -> None:
    """Else the log would go on telling of what is not read any more."""
    whole, split = Read("tasks", 1), Read("tasks", 1, (("split", "query"),))
    part = {"shard": "a"}
    first = delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", whole), part)
    second = delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", split), part)
    assert second.version == first.version + 1
    assert second.reads == {"tasks/split=query": 1}
    newer = Read("tasks", 2, (("split", "query"),))
    third = delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by("documents", newer), part)
    assert third.version == second.version


def test_a_pinned_read_gives_the_rows_that_its_label_names(delta: DeltaTables) -> None:
    rows = pl.concat(
        tables.TASKS.empty().vstack(
            pl.DataFrame([("t", s, 0, "d", s, [1], 1)], schema=tables.TASKS.schema, orient="row")
        )
        for s in ("query", "evaluation")
    )
    delta.write(tables.TASKS, rows, made_by("tasks"))
    read = delta.pin(tables.TASKS, {"split": "query"})
    assert read.label() == "tasks/split=query"
    assert delta.rows(read).collect()["split"].to_list() == ["query"]
    assert delta.count(tables.TASKS, read.version) == 2


def test_a_partition_keeps_its_version_when_others_change(delta: DeltaTables) -> None:
    delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    before = delta.pin(tables.DOCUMENTS, {"shard": "a"})
    delta.write(tables.DOCUMENTS, documents("b", ["e"]), made_by(), {"shard": "b"})
    assert delta.pin(tables.DOCUMENTS, {"shard": "a"}) == before
    assert delta.pin(tables.DOCUMENTS).version == before.version + 1


def test_versions_are_those_of_the_commits_while_others_write(
    delta: DeltaTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs numbers what it lists from the version that was opened, which another writer may have left behind."""
    made = [
        delta.write(tables.DOCUMENTS, documents(shard, [shard]), made_by(), {"shard": shard})
        for shard in ("a", "b")
    ]
    behind = delta._open(tables.DOCUMENTS)
    made.append(delta.write(tables.DOCUMENTS, documents("c", ["c"]), made_by(), {"shard": "c"}))
    assert behind.history()[0]["version"] == made[-1].version - 1
    monkeypatch.setattr(delta, "_open", lambda *_: behind)
    assert [(c.version, c.partition) for c in delta.commits(tables.DOCUMENTS)] == [
        (commit.version, commit.partition) for commit in reversed(made)
    ]


def test_old_versions_stay_readable(delta: DeltaTables) -> None:
    first = delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    delta.write(tables.DOCUMENTS, documents("a", []), made_by(), {"shard": "a"})
    assert delta.read(tables.DOCUMENTS, delta.pin(tables.DOCUMENTS).version).collect().is_empty()
    assert delta.read(tables.DOCUMENTS, first.version).collect()["doc_id"].to_list() == ["d"]


def test_upsert_replaces_by_key_and_keeps_the_rest(delta: DeltaTables) -> None:
    def utility(subset: str, value: float, split: str = "calibration") -> pl.DataFrame:
        row = (subset, "t", 0, split, value, 1, "c", "r", 1.0)
        return pl.DataFrame([row], schema=tables.SUBSET_UTILITIES.schema, orient="row")

    for frame in (utility("a", 1.0), utility("b", 2.0), utility("a", 3.0)):
        delta.upsert(tables.SUBSET_UTILITIES, frame, made_by(), {"split": "calibration"})
    delta.upsert(tables.SUBSET_UTILITIES, utility("c", 4.0, "evaluation"), made_by(), {"split": "evaluation"})
    frame = (
        delta.read(tables.SUBSET_UTILITIES, delta.pin(tables.SUBSET_UTILITIES).version)
        .collect()
        .sort("subset_id")
    )
    assert dict(frame.select("subset_id", "utility").iter_rows()) == {"a": 3.0, "b": 2.0, "c": 4.0}


def test_a_frame_that_breaks_the_contract_leaves_nothing_behind(delta: DeltaTables) -> None:
    for frame, message in (
        (documents("a", ["d", "d"]), "key"),
        (documents("a", ["d"]).drop("text"), "missing columns"),
        (documents("b", ["d"]), "outside the partition"),
        (documents("a", ["d"]).with_columns(doc_id=pl.lit(None, dtype=pl.String)), "nulls"),
    ):
        with pytest.raises(ValueError, match=message):
            delta.write(tables.DOCUMENTS, frame, made_by(), {"shard": "a"})
    assert not delta.exists(tables.DOCUMENTS)


def test_reading_what_was_never_written_says_what_to_do(delta: DeltaTables) -> None:
    with pytest.raises(StoreError, match=r"documents has not been written.*materialize"):
        delta.pin(tables.DOCUMENTS)
    delta.create(tables.DOCUMENTS, made_by())
    with pytest.raises(StoreError, match=r"shard.*has not been written"):
        delta.pin(tables.DOCUMENTS, {"shard": "a"})


def test_writers_of_distinct_partitions_all_commit(delta: DeltaTables) -> None:
    delta.create(tables.DOCUMENTS, made_by())
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            delta.write(
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
    assert delta.read(tables.DOCUMENTS, delta.pin(tables.DOCUMENTS).version).collect().height == 5


class TestStream:
    """Rows that are written while they are made."""

    @staticmethod
    def put(
        delta: DeltaTables, shard: str, names: list[str], piece: int = 2, group: int = 3, code: str = "1"
    ) -> Commit:
        frames = documents(shard, names).iter_slices(piece)
        count = {"rows": len(names), "seconds": 1.0}
        return delta.write_stream(
            tables.DOCUMENTS, frames, made_by(code=code), {"shard": shard}, lambda: count, group
        )

    @staticmethod
    def files(delta: DeltaTables) -> list[Path]:
        return [p for p in Path(delta.uri(tables.DOCUMENTS)).rglob("*") if "part-" in p.name]

    def test_partitions_with_any_name_are_one_file_in_the_order_given(self, delta: DeltaTables) -> None:
        names = {shard: [f"d{number}-{i}" for i in range(7, -1, -1)] for number, shard in enumerate(NASTY)}
        for shard in NASTY:
            self.put(delta, shard, ["old"])
            commit = self.put(delta, shard, names[shard])
            assert commit.partition == {"shard": shard}
            assert commit.statistics == {"rows": 8, "seconds": 1.0}
        version = delta.pin(tables.DOCUMENTS).version
        for shard in NASTY:
            part = delta.read(tables.DOCUMENTS, version, {"shard": shard}).collect()
            assert part.equals(documents(shard, names[shard]))
        assert delta.read(tables.DOCUMENTS, version).collect().height == 8 * len(NASTY)
        assert len(delta._open(tables.DOCUMENTS).file_uris()) == len(NASTY)
        assert delta._open(tables.DOCUMENTS).history()[0]["run_id"] == "run-1"

    def test_a_partition_of_a_frame_can_be_replaced_and_back(self, delta: DeltaTables) -> None:
        delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
        delta.write(tables.DOCUMENTS, documents("b", ["e"]), made_by(), {"shard": "b"})
        self.put(delta, "a", ["f", "g"])
        now = delta.read(tables.DOCUMENTS, delta.pin(tables.DOCUMENTS).version).collect()
        assert sorted(now["doc_id"]) == ["e", "f", "g"]
        delta.write(tables.DOCUMENTS, documents("a", ["h"]), made_by(), {"shard": "a"})
        now = delta.read(tables.DOCUMENTS, delta.pin(tables.DOCUMENTS).version).collect()
        assert sorted(now["doc_id"]) == ["e", "h"]

    def test_row_groups_are_as_asked(self, delta: DeltaTables) -> None:
        import pyarrow.parquet as pq

        self.put(delta, "a", [str(i) for i in range(8)], piece=5, group=3)
        metadata = pq.ParquetFile(self.files(delta)[0]).metadata
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3, 2]

    def test_equal_content_makes_no_commit_and_no_file(self, delta: DeltaTables) -> None:
        first = self.put(delta, "a", ["d", "e", "f"], piece=1)
        again = self.put(delta, "a", ["d", "e", "f"], piece=3, code="2")
        assert again.version == first.version
        assert len(self.files(delta)) == 1
        assert self.put(delta, "a", ["d", "e"]).version == first.version + 1

    def test_no_rows_empty_the_partition(self, delta: DeltaTables) -> None:
        self.put(delta, "a", ["d"])
        self.put(delta, "b", ["e"])
        commit = self.put(delta, "a", [])
        assert commit == delta.latest(tables.DOCUMENTS, {"shard": "a"})
        assert delta.read(tables.DOCUMENTS, commit.version).collect()["doc_id"].to_list() == ["e"]

    def test_an_error_while_rows_are_made_leaves_nothing(self, delta: DeltaTables) -> None:
        first = self.put(delta, "a", ["d"])

        def frames() -> Iterator[pl.DataFrame]:
            yield documents("a", [f"e{i}" for i in range(500)])
            raise TrainingError("the sketch is not finite")

        with pytest.raises(TrainingError, match="not finite"):
            delta.write_stream(tables.DOCUMENTS, frames(), made_by(), {"shard": "a"}, dict, 10)
        assert delta.latest(tables.DOCUMENTS) == first
        assert delta.read(tables.DOCUMENTS, first.version).collect()["doc_id"].to_list() == ["d"]
        assert len(self.files(delta)) == 1

    def test_rows_that_break_the_contract_leave_nothing(self, delta: DeltaTables) -> None:
        good = documents("a", ["d"])
        for frame, message in (
            (good, r"the key \(doc_id\) is not unique"),
            (documents("a", ["e"]).drop("text"), "missing columns"),
            (documents("b", ["e"]), "outside the partition"),
        ):
            with pytest.raises(ValueError, match=message):
                delta.write_stream(tables.DOCUMENTS, iter([good, frame]), made_by(), {"shard": "a"}, dict, 1)
        with pytest.raises(ValueError, match="one partition"):
            delta.write_stream(tables.DOCUMENTS, iter([good]), made_by(), {}, dict)
        assert delta.commits(tables.DOCUMENTS) == []
        assert self.files(delta) == []

    def test_of_two_writers_of_one_partition_the_rows_of_one_remain(self, delta: DeltaTables) -> None:
        """The second commit comes between the first writer's look at the table and its own commit."""
        delta.create(tables.DOCUMENTS, made_by())
        opened, interrupted = delta._open, []

        def late(*given: Any) -> Any:
            table = opened(*given)
            if len(interrupted) == 1 and sys._getframe(1).f_code.co_name == "attempt":
                interrupted.append(True)
                self.put(DeltaTables(delta.root), "a", ["other"])
            return table

        def statistics() -> dict[str, int]:
            interrupted.append(True)
            return {}

        delta._open = late  # type: ignore[method-assign]
        delta.write_stream(
            tables.DOCUMENTS, iter([documents("a", ["mine"])]), made_by(), {"shard": "a"}, statistics
        )
        assert len(interrupted) == 2
        rows = delta.read(tables.DOCUMENTS, delta.pin(tables.DOCUMENTS).version).collect()
        assert rows["doc_id"].to_list() == ["mine"]
        assert len(delta.commits(tables.DOCUMENTS)) == 2


@given(st.permutations(list(range(6))))
@settings(max_examples=10)
def test_content_digest_is_of_values_not_of_memory(order: list[int]) -> None:
    frame = documents("a", [f"d{i}" for i in range(6)])
    pieces = pl.concat([frame[i : i + 1] for i in range(6)], rechunk=False)
    assert content_digest(pieces) == content_digest(frame)
    shuffled = frame[order]
    assert (content_digest(shuffled) == content_digest(frame)) == (order == list(range(6)))


def test_every_table_can_be_created_written_and_read(delta: DeltaTables) -> None:
    for table in tables.ALL.values():
        delta.create(table, made_by(table.name))
        delta.write(table, table.empty(), made_by(table.name))
        assert delta.read(table, delta.pin(table).version).collect().schema == pl.Schema(table.schema)


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
    delta: DeltaTables, change: Any, fault: str
) -> None:
    """Before anything is written; delta-rs would speak of a number of fields."""
    now = tables.CONDITIONAL_LOSSES
    then = dataclasses.replace(now, schema=change(dict(now.schema)))
    delta.write(then, then.empty(), made_by("conditional_losses"), {"shard": "s"})
    for use in (
        lambda: delta.read(now, 0),
        lambda: delta.write(now, now.empty(), made_by("conditional_losses"), {"shard": "s"}),
    ):
        with pytest.raises(StoreError, match=fault) as told:
            use()
        assert f"Delete {delta.uri(now)} and materialize" in str(told.value)


def test_a_table_stands_on_the_reads_that_its_content_was_last_confirmed_under(delta: DeltaTables) -> None:
    first, second = (made_by("documents", Read("manifest", version)) for version in (1, 2))
    written = delta.write(tables.DOCUMENTS, documents("a", ["d"]), first, {"shard": "a"})
    delta.confirm(tables.DOCUMENTS, first)
    assert delta.standing(tables.DOCUMENTS) == written == delta.latest(tables.DOCUMENTS)
    assert delta.write(tables.DOCUMENTS, documents("a", ["d"]), second, {"shard": "a"}) == written
    delta.confirm(tables.DOCUMENTS, second)
    assert delta.latest(tables.DOCUMENTS) == written, "readers see no new version"
    standing = delta.standing(tables.DOCUMENTS)
    assert standing is not None
    assert (standing.version, standing.reads) == (written.version, {"manifest": 2})
    delta.confirm(tables.DOCUMENTS, second)
    again = delta.standing(tables.DOCUMENTS)
    assert again == standing, "told once"
    assert delta.read(tables.DOCUMENTS, written.version).collect().height == 1
    other = delta.write(tables.DOCUMENTS, documents("a", ["e"]), first, {"shard": "a"})
    assert delta.standing(tables.DOCUMENTS) == other


def test_a_table_is_found_as_another_commit_saw_it(delta: DeltaTables) -> None:
    old = delta.write(tables.DOCUMENTS, documents("a", ["d"]), made_by(), {"shard": "a"})
    chunks = delta.write(
        tables.CALIBRATION_POOL,
        tables.CALIBRATION_POOL.empty(),
        made_by("calibration_pool", Read("documents", old.version)),
    )
    delta.write(tables.DOCUMENTS, documents("a", ["e"]), made_by(), {"shard": "a"})
    seen = delta.beside(chunks, tables.DOCUMENTS)
    assert seen == old
    unread = dataclasses.replace(chunks, metadata={**chunks.metadata, "reads": "{}"})
    assert delta.beside(unread, tables.DOCUMENTS) == old, "the newest of its time"
    assert delta.beside(chunks, tables.CERTIFICATES) is None


def test_settings_are_noted_once_and_tell_the_last(delta: DeltaTables) -> None:
    def under(value: int) -> Provenance:
        return Provenance("run-1", "documents", "1", f"digest {value}", (), json.dumps({"x": value}))

    written = delta.write(tables.DOCUMENTS, documents("a", ["d"]), under(1), {"shard": "a"})
    delta.keep_settings(tables.DOCUMENTS, under(1))
    delta.keep_settings(tables.DOCUMENTS, under(2))
    delta.keep_settings(tables.DOCUMENTS, under(2))
    assert delta.settings(tables.DOCUMENTS, "documents") == Settings("digest 2", {"x": 2})
    assert delta.settings(tables.DOCUMENTS, "tokenizer") is None
    assert delta.latest(tables.DOCUMENTS) == written
    delta.keep_settings(tables.DOCUMENTS, under(1))
    assert delta.settings(tables.DOCUMENTS, "documents") == Settings("digest 1", {"x": 1})
    from deltalake import DeltaTable

    assert DeltaTable(delta.uri(tables.DOCUMENTS)).version() == written.version + 2
