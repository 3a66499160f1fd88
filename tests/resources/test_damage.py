"""A damaged table, a lost file and a store that cannot be written: one sentence each, which names it and the remedy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables
from resources.models import Models
from resources.store import DeltaStore

MADE = Provenance("run", "tokenizer", "1", "")


def rows(path: str = "files/x") -> pl.DataFrame:
    row = {"tokenizer_id": "t", "path": path, "vocab_size": 3, "bos": 0, "chunk_tokens": 4}
    return pl.concat([tables.TOKENIZER.empty(), pl.DataFrame([row])], how="diagonal_relaxed")


@pytest.fixture
def delta(tmp_path: Path) -> DeltaTables:
    """A table of two commits."""
    delta = DeltaTables(str(tmp_path))
    for path in ("files/x", "files/y"):
        delta.write(tables.TOKENIZER, rows(path), MADE)
    return delta


def log(table: Path, number: int) -> Path:
    return table / "_delta_log" / f"{number:020}.json"


def only_a_file(table: Path) -> None:
    shutil.rmtree(table)
    table.write_text("x")


@pytest.mark.parametrize(
    "harm",
    [
        lambda table: log(table, 1).write_bytes(log(table, 1).read_bytes()[:50]),
        lambda table: log(table, 2).write_text("no JSON\n"),
        lambda table: log(table, 0).unlink(),
        lambda table: log(table, 1).unlink(),
        only_a_file,
    ],
)
def test_a_damaged_log_is_named(delta: DeltaTables, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    harm(tmp_path / "tokenizer")
    for use in (
        lambda: delta.pin(tables.TOKENIZER),
        lambda: delta.read(tables.TOKENIZER, 2),
        lambda: delta.write(tables.TOKENIZER, rows("files/z"), MADE),
    ):
        with pytest.raises(
            StoreError, match=r"table tokenizer in the store .* cannot be opened \(.*\); restore"
        ) as told:
            use()
        assert "\n" not in str(told.value)
        assert "\x1b" not in str(told.value)
        assert told.value.__cause__ is not None


def test_a_version_that_is_not_there_is_named(delta: DeltaTables) -> None:
    with pytest.raises(StoreError, match=r"table tokenizer .* cannot be opened"):
        delta.read(tables.TOKENIZER, 99)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "was cut or changed"),
    ],
)
def test_a_lost_or_cut_data_file_is_named_before_it_is_read(
    delta: DeltaTables, tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    """polars would say so when rows are collected, far from here, and for a cut file in a panic."""
    DeltaTables(delta.root).read(tables.TOKENIZER, 2)
    for file in (tmp_path / "tokenizer").glob("*.parquet"):
        harm(file)
    for read in (
        lambda: delta.read(tables.TOKENIZER, 2),
        lambda: next(delta.batches(tables.TOKENIZER, 2)),
    ):
        with pytest.raises(
            StoreError, match=rf"the file .*\.parquet of the table tokenizer {told}; restore it"
        ):
            read()


@pytest.mark.parametrize("root", ["/proc/no/store", "/sys/store"])
def test_a_store_that_cannot_be_written_is_named(root: str) -> None:
    remedy = "make the store writable and see that it has room, or set GRASP_STORE to another"
    with pytest.raises(
        StoreError, match=rf"table tokenizer cannot be written to the store {root} \(.*\); {remedy}"
    ):
        DeltaTables(root).write(tables.TOKENIZER, rows(), MADE)
    with (
        pytest.raises(StoreError, match=rf"the folder {root}/files/x cannot be written \(.*\); {remedy}"),
        DeltaStore(root=root).new_files("files/x"),
    ):
        pass


def test_a_store_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    for root in (tmp_path / "store", tmp_path / "store" / "below"):
        with pytest.raises(
            StoreError, match=r"cannot be a folder, since .*/store is none; set GRASP_STORE to another"
        ):
            _ = DeltaStore(root=str(root)).tables
        with pytest.raises(StoreError, match="cannot be a folder"):
            DeltaStore(root=str(root)).has_file("x")
    assert (tmp_path / "store").read_text() == "x"


def test_a_stored_tokenizer_that_is_damaged_is_named(delta: DeltaTables, tmp_path: Path) -> None:
    (tmp_path / "files" / "y").mkdir(parents=True)
    (tmp_path / "files" / "y" / "tokenizer.json").write_text("{")
    with pytest.raises(StoreError, match=r"stored tokenizer .*/files/y/tokenizer\.json cannot be read"):
        Models(store=DeltaStore(root=str(tmp_path))).tokenizer(delta.pin(tables.TOKENIZER).version)


def test_a_stored_checkpoint_without_weights_is_named(tmp_path: Path) -> None:
    store = DeltaStore(root=str(tmp_path))
    row = {"checkpoint_id": "c", "role": "reference", "path": "files/p", "sha256": "0", "recipe": "{}"}
    frame = pl.concat([tables.PROXY_CHECKPOINTS.empty(), pl.DataFrame([row])], how="diagonal_relaxed")
    store.tables.write(tables.PROXY_CHECKPOINTS, frame, MADE)
    (tmp_path / "files" / "p").mkdir(parents=True)
    with pytest.raises(
        StoreError, match=r"the checkpoint .*/files/p cannot be read \(.*\); restore the file"
    ):
        Models(store=store).proxy(store.tables.pin(tables.PROXY_CHECKPOINTS).version, "reference")
