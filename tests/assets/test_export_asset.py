"""The asset `export` on a small store: what it writes, when it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.errors import DagsterUserCodeProcessError
from toys import WORDS, toy_texts

from assets.evidence import export
from grasp_pipeline import tables
from grasp_pipeline.corpus.chunking import chunk_documents
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.errors import ConfigError
from resources.delta.commits import Provenance
from resources.store import DeltaStore

ENCODER = train_bpe([text for source in WORDS for text in toy_texts(source, 20)], 300)
FORMATS = ["parquet", "jsonl", "huggingface", "tokens"]
NOTICES = "| source | licence |\n| --- | --- |\n| news | CC0 1.0 |\n"


def fill(table: tables.Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of which the columns that the export does not read are null."""
    return pl.concat([table.empty(), rows], how="diagonal_relaxed")


def write(store: DeltaStore, table: tables.Table, rows: pl.DataFrame) -> None:
    store.tables.write(table, fill(table, rows), Provenance("run", "test", "1", ""))


@pytest.fixture
def store(tmp_path: Path) -> DeltaStore:
    """The tables that the export reads: two sources, every other chunk kept."""
    store = DeltaStore(root=str(tmp_path / "store"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "LICENSES.md").write_text(NOTICES)
    rows = [
        (document_id(text), text, source, "shard-0000", len(text.encode()))
        for source in ("news", "french")
        for text in dict.fromkeys(normalize_text(text) for text in toy_texts(source, 20))
    ]
    names = ["doc_id", "text", "source", "shard", "n_bytes"]
    documents = fill(tables.DOCUMENTS, pl.DataFrame(rows, schema=names, orient="row"))
    chunks = chunk_documents(documents, ENCODER, 16).with_row_index("row")
    columns = ("chunk_id", "doc_id", "source", "shard")
    kept = chunks.filter(pl.col("row") % 2 == 0).select(*columns, kept_tokens="n_tokens", order="row")
    dropped = chunks.filter(pl.col("row") % 2 == 1).select(
        *columns, "n_tokens", reason=pl.lit("low_alignment")
    )
    write(store, tables.DOCUMENTS, documents)
    write(store, tables.TOKENIZED_SHARDS, chunks.drop("row"))
    write(store, tables.PRUNED_CORPUS, kept)
    write(store, tables.DROP_REASONS, dropped)
    write(
        store,
        tables.REJECTED_DOCUMENTS,
        pl.DataFrame({"doc_id": ["x"], "stage": ["cleaning"], "source": ["news"], "shard": ["shard-0000"]}),
    )
    write(store, tables.MANIFEST, pl.DataFrame({"uri": [str(tmp_path / "data" / "a.parquet")], "block": [0]}))
    tokenizer = {"tokenizer_id": ENCODER.tokenizer_id, "vocab_size": ENCODER.vocab_size, "bos": ENCODER.bos}
    write(store, tables.TOKENIZER, pl.DataFrame([tokenizer]))
    write(store, tables.CANDIDATES, pl.DataFrame([{"config_id": "c", "target": "mean", "budget_tokens": 99}]))
    write(
        store, tables.SELECTED_CONFIG, pl.DataFrame([{"config_id": "c", "lam": 0.4, "reason": "It is best."}])
    )
    certificate = {"arm": "a", "baseline": "random", "task": "mean", "statement": "95% lower bound 0.125."}
    write(store, tables.CERTIFICATES, pl.DataFrame([certificate]))
    return store


def run(store: DeltaStore, **config: Any) -> dict[str, Any]:
    """Materialize `export`; returns its metadata."""
    result = dg.materialize(
        [export], resources={"store": store}, run_config={"ops": {"export": {"config": config}}}
    )
    (event,) = result.asset_materializations_for_node("export")
    return {name: value.value for name, value in event.metadata.items()}


def content(store: DeltaStore) -> dict[str, bytes]:
    folder = Path(store.root) / "export"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_all_formats_with_card_notices_and_manifest(store: DeltaStore) -> None:
    metadata = run(store, formats=FORMATS)
    files = content(store)
    assert {name.split("/")[0] for name in files} == {
        *("corpus.parquet", "corpus.jsonl.zst", "huggingface", "tokens"),
        *("README.md", "LICENSES.md", "manifest.json"),
    }
    manifest = json.loads(files["manifest.json"])
    kept = store.tables.read(tables.PRUNED_CORPUS, store.tables.pin(tables.PRUNED_CORPUS).version).collect()
    left_out = manifest["left_out"]
    assert left_out == metadata["fragments_left_out"] == {"rows": 4, "tokens": 20}
    assert manifest["tokens"] == metadata["tokens"] == kept["kept_tokens"].sum() - 20
    assert manifest["upstream"]["pruned_corpus"] == store.tables.pin(tables.PRUNED_CORPUS).version
    card = files["README.md"].decode()
    for part in (
        "95% lower bound 0.125.",
        "CC0 1.0",
        "unknown, see the source",
        "It is best.",
        "| lam | 0.4 |",
        "20 are in no file: 4 fragments",
    ):
        assert part in card
    spans = pl.read_parquet(Path(store.root) / "export" / "corpus.parquet")
    assert spans["n_tokens"].min() >= 8
    counted = kept.filter(source="news")
    row = next(line for line in card.splitlines() if line.startswith("| news |")).split(" | ")
    assert row[2] == str(counted["doc_id"].n_unique())
    assert row[4] == "1"
    assert row[5] == str(counted.height)
    assert files["LICENSES.md"].decode() == NOTICES


def test_neither_card_nor_log_holds_text(store: DeltaStore) -> None:
    metadata = run(store, formats=FORMATS)
    documents = store.tables.read(tables.DOCUMENTS, store.tables.pin(tables.DOCUMENTS).version).collect()
    shown = content(store)["README.md"].decode() + json.dumps(metadata)
    pieces = [text[start : start + 30] for text in documents["text"] for start in (0, len(text) // 2)]
    assert [piece for piece in pieces if piece in shown] == []


def test_the_same_inputs_write_nothing_and_others_replace_everything(
    store: DeltaStore, tmp_path: Path
) -> None:
    assert run(store, formats=FORMATS)["up_to_date"] is False
    before = content(store)
    written = (Path(store.root) / "export" / "manifest.json").stat().st_mtime_ns
    assert run(store, formats=FORMATS)["up_to_date"] is True
    assert (Path(store.root) / "export" / "manifest.json").stat().st_mtime_ns == written
    assert run(store, formats=["jsonl"])["up_to_date"] is False
    assert set(content(store)) == {"corpus.jsonl.zst", "README.md", "LICENSES.md", "manifest.json"}
    assert run(store, formats=FORMATS)["up_to_date"] is False
    assert content(store) == before
    (tmp_path / "data" / "LICENSES.md").write_text(NOTICES.replace("CC0 1.0", "MIT"))
    assert run(store, formats=FORMATS)["up_to_date"] is False
    assert "MIT" in content(store)["README.md"].decode()


def test_a_failed_export_leaves_the_one_before(store: DeltaStore) -> None:
    run(store, formats=["jsonl"])
    before = content(store)
    documents = store.tables.read(tables.DOCUMENTS, store.tables.pin(tables.DOCUMENTS).version).collect()
    write(store, tables.DOCUMENTS, documents[1:])
    assert run(store, formats=["jsonl"])["up_to_date"], "documents that came after the corpus are not its own"
    pruned = store.tables.read(tables.PRUNED_CORPUS, store.tables.pin(tables.PRUNED_CORPUS).version).collect()
    write(store, tables.PRUNED_CORPUS, pruned.with_columns(pl.col("order") + 1))
    with pytest.raises(Exception, match="documents does not hold the doc_id"):
        run(store, formats=["jsonl"])
    assert content(store) == before
    assert [path.name for path in Path(store.root).iterdir() if path.name.startswith(".new-")] == []


def test_folders_are_refused_on_an_object_store_before_anything_is_read() -> None:
    with pytest.raises(DagsterUserCodeProcessError, match=r"huggingface, tokens.*s3://bucket/store") as told:
        run(DeltaStore(root="s3://bucket/store"), formats=FORMATS)
    assert isinstance(told.value.__cause__, ConfigError)
