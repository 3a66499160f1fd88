"""Tables that an earlier version of the code wrote are read, explained, compared and curated again."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from small_store import unpack
from toys import toy_texts
from workplace import Workplace

from assets.curations import PUBLISHED
from grasp_pipeline import tables
from grasp_pipeline.__main__ import main
from grasp_pipeline.tables import ALL, Table


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    place = unpack(tmp_path)
    monkeypatch.setenv("GRASP_STORE", str(place.store))
    return place


def test_every_table_is_read_and_every_document_explained(
    old: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {name for name, table in ALL.items() if old.delta.exists(table)}
    assert stored > {"documents", "gradient_sketches", "subset_utilities", "pruned_corpus", "curations"}
    assert all(old.delta.read(ALL[name], version).collect().width for name, version in newest(old).items())
    for table in PUBLISHED:
        assert "curation" not in stored_columns(old, table)
        assert old.read(table)["curation"].null_count() == old.read(table).height > 0
    (origin, *_) = old.read(tables.DOCUMENTS)["origin"].sort()
    assert main(["explain", origin.split(" (")[0], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["curation"] == 1
    assert {chunk["fate"] for chunk in told["chunks"]} <= {"kept", "dropped"}
    assert main(["diff", "1", "1"]) == 0


def stored_columns(place: Workplace, table: Table) -> set[str]:
    return {field.name for field in place.delta.open_to_care(table).schema().fields}


def newest(place: Workplace) -> dict[str, int]:
    commits = {name: place.delta.latest(table) for name, table in ALL.items()}
    return {name: commit.version for name, commit in commits.items() if commit is not None}


@pytest.mark.slow
def test_it_is_curated_again(old: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"new-{number}", "news", text) for number, text in enumerate(toy_texts("news", 6, "late"))]
    new = pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")
    new.write_parquet(old.corpus / "c.parquet")
    before = newest(old)
    old.run("recurate")
    assert old.read(tables.CURATIONS)["curation"].to_list() == [1, 2]
    for table in PUBLISHED:
        assert set(old.read(table)["curation"]) == {2}
        assert old.delta.read(table, before[table.name]).collect()["curation"].is_null().all()
    exported = pl.read_parquet(old.store / "export" / "corpus.parquet")
    assert set(exported["curation"]) == {2}
    assert main(["diff", "1", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(uri).name for uri in told["inputs"]["entered"]] == ["c.parquet"]
    assert told["documents"]["entered"] == 6
    for number in ("1", "2"):
        assert main(["explain", "a.parquet#0", "--curation", number]) == 0
    versions = old.delta_versions()
    old.run("recurate")
    assert old.delta_versions() == versions
