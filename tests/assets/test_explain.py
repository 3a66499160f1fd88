"""`python -m grasp_pipeline explain`: every document's fate, as the tables of its curation tell it."""

from __future__ import annotations

import json

import polars as pl
import pytest
from workplace import Curated

from grasp_pipeline import tables
from grasp_pipeline.__main__ import main


def told(curated: Curated, capsys: pytest.CaptureFixture[str], wanted: str) -> dict:
    assert main(["explain", wanted, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def _store(curated: Curated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRASP_STORE", str(curated.place.store))


def test_every_chunk_is_kept_or_dropped_with_its_reason(
    curated: Curated, capsys: pytest.CaptureFixture[str]
) -> None:
    """The slow twin: the tables as they are now, which one curation alone has written."""
    place = curated.place
    documents = place.read(tables.DOCUMENTS)
    chunks = place.read(tables.TOKENIZED_SHARDS)
    dropped = place.read(tables.DROP_REASONS)
    kept = set(place.read(tables.PRUNED_CORPUS)["chunk_id"])
    seen = set()
    with_nearest = dropped.filter(pl.col("nearest_kept").is_not_null())["doc_id"].unique().sort()
    for doc_id in [*documents["doc_id"].sort()[:3], *with_nearest[:2]]:
        found = told(curated, capsys, doc_id)
        text = documents.filter(doc_id=doc_id)["text"][0]
        assert found["preview"] == text[:200]
        mine = chunks.filter(doc_id=doc_id).sort("position")
        assert [each["chunk_id"] for each in found["chunks"]] == mine["chunk_id"].to_list()
        for each in found["chunks"]:
            seen.add(each["fate"])
            assert each["fate"] == ("kept" if each["chunk_id"] in kept else "dropped")
            if each["fate"] == "dropped":
                row = dropped.filter(chunk_id=each["chunk_id"]).row(0, named=True)
                names = ("reason", "score", "value", "threshold", "nearest_kept")
                assert {name: each[name] for name in names} == {name: row[name] for name in names}
                if each["nearest_kept"]:
                    near = chunks.filter(chunk_id=each["nearest_kept"]).row(0, named=True)
                    whole = documents.filter(doc_id=near["doc_id"])["text"][0]
                    assert each["nearest_kept_text"] == whole[near["start"] : near["end"]][:200]
    assert "dropped" in seen


def test_an_origin_a_chunk_and_a_beginning_lead_to_the_document(
    curated: Curated, capsys: pytest.CaptureFixture[str]
) -> None:
    row = curated.place.read(tables.DOCUMENTS).row(0, named=True)
    chunk = curated.place.read(tables.TOKENIZED_SHARDS).filter(doc_id=row["doc_id"])["chunk_id"][0]
    origin = row["origin"].split(" (")[0]
    for wanted in (row["doc_id"], row["doc_id"][:16], chunk, origin, origin.rpartition("/")[2]):
        assert told(curated, capsys, wanted)["doc_id"] == row["doc_id"]


def test_a_rejected_document_names_its_reason_and_survivor(
    curated: Curated, capsys: pytest.CaptureFixture[str]
) -> None:
    rejected = curated.place.read(tables.REJECTED_DOCUMENTS)
    row = rejected.sort(pl.col("duplicate_of").is_null()).row(0, named=True)
    found = told(curated, capsys, row["origin"].split(" (")[0])
    assert row["reason"] in [each["reason"] for each in found["rejected"]]
    assert row["duplicate_of"] in [each["duplicate_of"] for each in found["rejected"]]
    assert main(["explain", row["origin"].split(" (")[0]]) == 0
    assert f"Rejected at {row['stage']}: {row['reason']}" in capsys.readouterr().out


def test_what_cannot_be_explained_is_said_in_a_sentence(
    curated: Curated, capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["explain", "no such thing"]) == 1
    assert "knows no document or chunk 'no such thing'" in capsys.readouterr().err
    assert main(["explain", "x", "--curation", "7"]) == 1
    assert "there is no curation 7; choose among 1" in capsys.readouterr().err
    monkeypatch.setenv("GRASP_STORE", str(tmp_path))
    assert main(["explain", "x"]) == 1
    assert "the store has no curations yet" in capsys.readouterr().err
