"""The local page over a store: what it finds, what it refuses, and that text stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from starlette.testclient import TestClient

from assets.browse import find_rows, find_texts, make_app, queried, run_query
from grasp_pipeline import tables
from grasp_pipeline.errors import InputError
from grasp_pipeline.lineage.curation import Curation, find_curation
from grasp_pipeline.tables import Table
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables

MADE = Provenance("run", "test", "1", "")


def rows_of(table: Table, *rows: dict[str, Any]) -> pl.DataFrame:
    """Return rows of a table, what they do not name null."""
    return pl.DataFrame([dict.fromkeys(table.schema) | row for row in rows], schema=table.schema)


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> DeltaTables:
    """Return a store of three documents and one curation."""
    delta = DeltaTables(str(tmp_path_factory.mktemp("store")))
    shard = {"shard": "shard-0000", "source": "web"}
    texts = {"aaaaaaaa": "a kept <b>text</b>", "bbbbbbbb": "a dropped text of needles", "cccccccc": "Needles"}
    documents = [
        {"doc_id": name, "text": text, "n_bytes": len(text), "origin": f"f.jsonl#{i}"} | shard
        for i, (name, text) in enumerate(texts.items())
    ]
    chunks = [
        {"chunk_id": f"{name}-0", "doc_id": name, "position": 0, "n_tokens": 4, "start": 0, "end": 20} | shard
        for name in texts
    ]
    written = {
        tables.DOCUMENTS: documents,
        tables.TOKENIZED_SHARDS: chunks,
        tables.PRUNED_CORPUS: [
            {"chunk_id": "aaaaaaaa-0", "doc_id": "aaaaaaaa", "kept_tokens": 4, "order": 0} | shard
        ],
        tables.DROP_REASONS: [
            {"chunk_id": f"{name}-0", "doc_id": name, "reason": reason, "nearest_kept": "aaaaaaaa-0"} | shard
            for name, reason in (("bbbbbbbb", "redundant"), ("cccccccc", "low_alignment"))
        ],
        tables.REJECTED_DOCUMENTS: [
            {"doc_id": "dddddddd", "stage": "noise", "reason": "too_short", "origin": "f.jsonl#9"} | shard
        ],
    }
    versions = {}
    for table, rows in written.items():
        frame = rows_of(table, *rows)
        versions[table.name] = delta.write(table, frame, MADE, {"shard": "shard-0000"}).version
    row = {
        "curation": 1,
        "time": "2026",
        "run_id": "run",
        "published": True,
        "versions": json.dumps(versions),
    }
    row |= {"statement": "It <i>ships</i>.", "inputs": "{}", "certificate": "[]", "configuration": "ops: {}"}
    delta.write(tables.CURATIONS, rows_of(tables.CURATIONS, row), MADE)
    return delta


@pytest.fixture(scope="module")
def curation(delta: DeltaTables) -> Curation:
    latest = delta.latest(tables.CURATIONS)
    assert latest is not None
    return find_curation(delta.read(tables.CURATIONS, latest.version).collect(), None, delta)


def test_rows_are_found_by_what_is_asked(curation: Curation) -> None:
    assert find_rows(curation, "dropped")["chunk_id"].sort().to_list() == ["bbbbbbbb-0", "cccccccc-0"]
    assert find_rows(curation, "dropped", reason="redundant")["doc_id"].to_list() == ["bbbbbbbb"]
    assert find_rows(curation, "dropped", identity="ccc")["doc_id"].to_list() == ["cccccccc"]
    assert find_rows(curation, "dropped", source="mail").is_empty()
    assert find_rows(curation, "rejected", identity="ddd")["reason"].to_list() == ["too_short"]
    assert find_rows(curation, "dropped", most=1).height == 1
    with pytest.raises(InputError, match="choose among kept, dropped, rejected"):
        find_rows(curation, "lost")


def test_an_index_of_ids_changes_no_answer(curation: Curation) -> None:
    from assets.browse import OUTCOMES, id_column
    from assets.id_index import Indexes

    indexes = Indexes(curation, {name: (table, id_column(name)) for name, table in OUTCOMES.items()})
    indexes.wait()
    for outcome in ("kept", "dropped", "rejected"):
        for identity in ("aaa", "ccc", "ddd", "zz", "0"):
            found = find_rows(curation, outcome, identity=identity, index=indexes.of(curation, outcome))
            assert found.equals(find_rows(curation, outcome, identity=identity))


def test_a_search_of_texts_says_where_it_ended(curation: Curation) -> None:
    found, whole = find_texts(curation, "needles")
    assert found["doc_id"].to_list() == ["bbbbbbbb"]
    assert "of needles" in found["passage"][0]
    assert whole
    assert find_texts(curation, "needles", searched=1)[1] is False
    assert find_texts(curation, ".*")[0].is_empty()


def test_a_query_reads_tables_by_their_names(curation: Curation) -> None:
    found = run_query(
        curation, "SELECT reason, COUNT(*) AS n FROM drop_reasons GROUP BY reason ORDER BY reason"
    )
    assert found.rows() == [("low_alignment", 1), ("redundant", 1)]
    with pytest.raises(InputError, match="cannot be answered"):
        run_query(curation, "SELECT nothing FROM nowhere")


def test_a_query_cannot_reach_what_is_sealed(curation: Curation) -> None:
    sealed = dict.fromkeys((*tables.BY_SPLIT, tables.TASK_DOCUMENTS.name), 0)
    versions = json.dumps(curation.versions | sealed)
    whole = Curation(1, {"versions": versions}, curation.reader)
    assert queried(whole) == sorted(curation.versions)
    with pytest.raises(InputError):
        run_query(whole, "SELECT * FROM task_documents")


def test_the_pages_answer_and_escape(delta: DeltaTables) -> None:
    client = TestClient(make_app(delta))
    first = client.get("/")
    assert first.status_code == 200
    assert "It &lt;i&gt;ships&lt;/i&gt;." in first.text
    assert "bbbbbbbb-0" in first.text
    found = client.get("/", params={"words": "kept <b>"})
    assert "a kept &lt;b&gt;text&lt;/b&gt;" in found.text
    assert "<b>" not in found.text
    told = client.get("/explain", params={"id": "bbbbbbbb"}).text
    assert "dropped, redundant" in told
    assert "nearest kept aaaaaaaa-0" in told
    assert (
        client.get("/query", params={"sql": "SELECT doc_id FROM documents"}).text.count("/explain?id=") == 3
    )
    assert client.get("/compare").status_code == 200
    refused = client.get("/explain", params={"id": "<script>"})
    assert refused.status_code == 400
    assert "&lt;script&gt;" in refused.text
    assert client.get("/", params={"curation": "7"}).status_code == 400
    assert client.get("/report").status_code == 404
    assert "form-action 'self'" in first.headers["content-security-policy"]
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_a_missing_store_is_one_sentence(tmp_path: Path) -> None:
    client = TestClient(make_app(DeltaTables(str(tmp_path))))
    refused = client.get("/")
    assert refused.status_code == 400
    assert "no curations yet" in refused.text
