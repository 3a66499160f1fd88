"""Names of partitions, paths and roots: nothing but what they name is touched, and nothing outside the store."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from cases import many, told_or_done
from hostile import NAMES, encodable, names
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.locations import tidy_root
from resources.delta.commits import Provenance
from resources.delta.predicates import partition_predicate, sql_literal
from resources.delta.tables import DeltaTables
from resources.store import DeltaStore

pytestmark = pytest.mark.slow

MADE = Provenance("run", "task_documents", "1", "")
KEPT = ("plain", "o'clock")


def documents(task: str, text: str = "text") -> pl.DataFrame:
    row = {"task": task, "document": "d", "split": "query", "fold": 0, "text": text}
    return pl.DataFrame([row], schema=tables.TASK_DOCUMENTS.schema)


def everything_outside(folder: Path, store: Path) -> list[str]:
    tops = [top for top in folder.iterdir() if top != store]
    return sorted(str(path) for top in tops for path in (top, *top.rglob("*")))


@many("literals of predicates")
@given(names)
def test_a_literal_is_one_literal(name: str) -> None:
    with told_or_done("literals of predicates"):
        literal = sql_literal(name)
        inside = literal[1:-1]
        assert literal[0] == literal[-1] == "'"
        assert inside.replace("''", "").count("'") == 0
        assert inside.replace("''", "'") == name
        assert partition_predicate({"shard": name}) == f'"shard" = {literal}'


@many("partitions")
@given(encodable, encodable)
def test_a_partition_of_any_name_touches_no_other(
    tmp_path_factory: pytest.TempPathFactory, task: str, text: str
) -> None:
    folder = tmp_path_factory.mktemp("partitions")
    store = folder / "store"
    delta = DeltaTables(str(store))
    table = tables.TASKS
    assert table.partition_by == ("task",)

    def rows(name: str, size: int) -> pl.DataFrame:
        row = dict.fromkeys(table.schema) | {"task": name, "split": "query", "chunk_id": f"c{size}"}
        row |= {"document": text, "fold": 0, "input_ids": [1] * size, "n_tokens": size}
        return pl.DataFrame([row], schema=table.schema)

    for name in KEPT:
        delta.write(table, rows(name, 1), MADE, {"task": name})
    with told_or_done("partitions"):
        try:
            delta.write(table, rows(task, 2), MADE, {"task": task})
            commit = delta.write(table, rows(task, 3), MADE, {"task": task})
        finally:
            others = [name for name in KEPT if name != task]
            newest = delta.latest(table)
            assert newest is not None
            found = delta.read(table, newest.version).collect()
            assert found.filter(pl.col("task").is_in(others))["chunk_id"].to_list() == ["c1"] * len(others)
            assert everything_outside(folder, store) == []
        mine = delta.read(table, commit.version, {"task": task}).collect()
        assert mine["chunk_id"].to_list() == ["c3"]


@many("paths in the store")
@given(st.one_of(names, st.lists(st.sampled_from(["..", ".", "a", "", "/", "~"]), max_size=5).map("/".join)))
def test_paths_stay_in_the_store(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "paths"
    folder.mkdir(exist_ok=True)
    (folder / "secret").write_text("outside")
    store = DeltaStore(root=str(folder / "store"))
    before = everything_outside(folder, folder / "store")
    with told_or_done("paths in the store"):
        try:
            store.has_file(path)
            with store.new_files(path) as scratch:
                assert folder / "store" in scratch.parents
                (scratch / "x").write_text("1")
            with store.files(path) as found:
                assert folder / "store" in Path(os.path.realpath(found)).parents
        finally:
            assert everything_outside(folder, folder / "store") == before


@many("roots of stores")
@given(
    st.one_of(
        encodable, names.map(lambda name: f"/tmp/no-such-store/{name}"), names.map(lambda n: f"s3://{n}")
    )
)
def test_roots_are_used_or_refused(root: str) -> None:
    with told_or_done("roots of stores"):
        assert tidy_root(root)


@pytest.mark.parametrize("use", ["read", "write", "ask"])
def test_a_symbolic_link_out_of_the_store_is_refused(tmp_path: Path, use: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "tokenizer.json").write_text("secret")
    store = DeltaStore(root=str(tmp_path / "store"))
    (tmp_path / "store" / "files").mkdir(parents=True)
    (tmp_path / "store" / "files" / "link").symlink_to(outside)
    uses = {
        "read": lambda: store.files("files/link").__enter__(),
        "write": lambda: store.new_files("files/link/x").__enter__(),
        "ask": lambda: store.has_file("files/link/tokenizer.json"),
    }
    with pytest.raises(StoreError, match="leads out of the store"):
        uses[use]()
    assert [path.name for path in outside.iterdir()] == ["tokenizer.json"]


def test_a_store_that_is_itself_reached_by_a_link_is_used(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = DeltaStore(root=str(tmp_path / "store"))
    with store.new_files("files/a") as folder:
        (folder / "one").write_text("1")
    assert store.has_file("files/a/one")


def test_the_names_are_what_was_asked_for() -> None:
    assert {len(name) for name in NAMES} >= {4096}
    for sign in ("'", "..", "\n", "\0", "\u202e", "\u200b", "<script>"):
        assert any(sign in name for name in NAMES), sign
