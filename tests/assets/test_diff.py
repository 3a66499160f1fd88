"""`python -m grasp_pipeline diff`: two curations compared by key columns, against sets made from whole tables."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from toys import toy_texts
from workplace import Curated, Workplace

from grasp_pipeline import tables
from grasp_pipeline.__main__ import main
from grasp_pipeline.lineage.compare import differing


def test_a_curation_does_not_differ_from_itself(
    curated: Curated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRASP_STORE", str(curated.place.store))
    assert main(["diff", "1", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["configuration"] == told["packages"] == {}
    assert told["before"] == told["after"]
    for what, table in (("documents", tables.DOCUMENTS), ("chunks", tables.PRUNED_CORPUS)):
        moves = told[what]
        assert (moves["entered"], moves["left"]) == (0, 0)
        assert moves["unchanged"] == curated.place.read(table).height
    assert isinstance(told["sealed_losses"], list)
    assert all(row["loss_before"] == row["loss_after"] for row in told["sealed_losses"])
    assert main(["diff", "1", "9"]) == 1
    assert "there is no curation 9" in capsys.readouterr().err


def test_a_fields_values_stand_side_by_side() -> None:
    assert differing({"a": 1, "b": 2}, {"b": 3, "c": None}) == {"a": [1, None], "b": [2, 3]}


def test_a_file_that_came_and_one_that_went(
    copied: Workplace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    names = (tables.DOCUMENTS, tables.PRUNED_CORPUS, tables.DROP_REASONS, tables.REJECTED_DOCUMENTS)
    old = {table.name: copied.read(table) for table in names}
    rows = [(f"new-{i}", "new<b>source", text) for i, text in enumerate(toy_texts("news", 8, "late"))]
    new = pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")
    new.write_parquet(copied.corpus / "c.parquet")
    copied.run("recurate", {"finalists": {"random_draws": 4}})
    now = {table.name: copied.read(table) for table in names}
    monkeypatch.setenv("GRASP_STORE", str(copied.store))
    page = tmp_path / "diff.html"
    assert main(["diff", "1", "2", "--json", "--html", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(uri).name for uri in told["inputs"]["entered"]] == ["c.parquet"]
    assert told["inputs"]["left"] == told["inputs"]["changed"] == []
    assert told["configuration"]["finalists.random_draws"][1] == 4
    cases = (("documents", "doc_id", "rejected_documents"), ("chunks", "chunk_id", "drop_reasons"))
    for what, key, outside in cases:
        table = "documents" if what == "documents" else "pruned_corpus"
        a, b = set(old[table][key]), set(now[table][key])
        moves = told[what]
        assert (moves["entered"], moves["left"], moves["unchanged"]) == (len(b - a), len(a - b), len(a & b))
        was = dict(old[outside].select(key, "reason").iter_rows())
        here = dict(now[outside].select(key, "reason").iter_rows())
        assert moves["entered_was"] == Counter(was.get(each, "new in the corpus") for each in b - a)
        assert moves["left_is"] == Counter(here.get(each, "not in the corpus") for each in a - b)
    assert told["documents"]["entered"] > 0
    sources = {row["source"]: row for row in told["sources"]}
    assert sources["new<b>source"]["tokens_before"] == 0
    assert sum(row["kept_after"] for row in told["sources"]) == now["pruned_corpus"]["kept_tokens"].sum()
    assert told["sealed_losses"] == (
        "The sealed losses of curation 2 were not measured; the job fidelity measures what ships."
    )
    html = page.read_text()
    assert "new&lt;b&gt;source" in html
    assert "<b>" not in html
    assert main(["diff", "1", "2"]) == 0
    said = capsys.readouterr().out
    for part in ("Input files", "c.parquet", "finalists.random_draws", "new in the corpus", "Certificates"):
        assert part in said
