"""The check no_document_lost: whole files, every shard, and files that are mostly without usable text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from toys import toy_texts
from workplace import CLEANED, Workplace, materialized

from assets.checks import no_document_lost
from grasp_pipeline import tables
from resources.delta.commits import Provenance
from resources.store import DeltaStore

ROWS = [
    {"key": str(number), "origin_name": "web", "body": text}
    for number, text in enumerate(toy_texts("news", 12, "web"))
]
LINES = [json.dumps(row) for row in ROWS]


def verdict(place: Workplace) -> dg.AssetCheckResult:
    result: Any = no_document_lost(store=DeltaStore(root=str(place.store)))
    return result


def write_again(place: Workplace, table: tables.Table, frame: pl.DataFrame, shard: str | None = None) -> None:
    """Store another content, as a step with a fault would."""
    made_by = Provenance("a run", table.name, "1", "", ())
    place.delta.write(table, frame, made_by, {"shard": shard} if shard else None)


@pytest.mark.parametrize("ends", ["\r", "\r\n", "\n"])
def test_objects_joined_by_any_line_end_all_become_documents(place: Workplace, ends: str) -> None:
    (place.corpus / "c.jsonl").write_bytes(ends.join(LINES).encode())
    place.run(only=CLEANED)
    assert place.read(tables.DOCUMENTS).filter(source="web").height == 12
    said = verdict(place)
    assert said.passed
    size = (place.corpus / "c.jsonl").stat().st_size
    assert said.metadata["bytes_read"].value == size


def test_a_file_of_mostly_bad_lines_is_warned_of_where_the_run_tells(
    place: Workplace, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    (place.corpus / "c.jsonl").write_text("\n".join([*LINES[:4], *["no JSON"] * 8]))
    (place.corpus / "empty.jsonl").write_text("\n")
    result = place.run(only=CLEANED)
    sentence = "'corpus/c.jsonl': 8 of 12 rows"
    rowless, bad = materialized(result, "manifest")["warnings"]
    assert rowless == "'corpus/empty.jsonl' has no rows"
    assert bad.startswith(sentence)
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "no_document_lost"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (check.description or "").startswith(sentence)
    rejected = place.read(tables.REJECTED_DOCUMENTS).filter(reason="unparsable_json")
    assert rejected.height == 8


class TestFailingStores:
    """Faults that a count of all rows does not show."""

    @pytest.fixture
    def cleaned(self, place: Workplace) -> Workplace:
        (place.corpus / "c.jsonl").write_text("\n".join(LINES))
        place.run(only=CLEANED)
        assert verdict(place).passed
        return place

    def test_bytes_that_are_in_no_row(self, cleaned: Workplace) -> None:
        """As a reader leaves them that passes over a part of a file: the rows add up all the same."""
        frame = cleaned.read(tables.MANIFEST)
        ours = pl.col("uri") == "corpus/c.jsonl"
        cut = pl.when(ours).then(pl.col("extent") - 7).otherwise(pl.col("extent"))
        write_again(cleaned, tables.MANIFEST, frame.with_columns(cut.alias("extent")))
        said = verdict(cleaned)
        size = (cleaned.corpus / "c.jsonl").stat().st_size
        assert (said.passed, said.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert said.description == f"'corpus/c.jsonl' has {size} bytes, its rows account for {size - 7}"

    def test_a_file_that_was_not_read_to_its_end(self, cleaned: Workplace) -> None:
        frame = cleaned.read(tables.MANIFEST)
        write_again(cleaned, tables.MANIFEST, frame.with_columns(file_extent=pl.lit(None, pl.Int64)))
        said = verdict(cleaned)
        assert not said.passed
        assert said.severity is dg.AssetCheckSeverity.ERROR

    def test_a_row_lost_in_one_shard_and_doubled_in_another(self, cleaned: Workplace) -> None:
        frame = cleaned.read(tables.DOCUMENTS)
        first, second = (name for name in frame["shard"].unique().sort()[:2])
        parts = {shard: frame.filter(shard=shard) for shard in (first, second)}
        again = parts[second].head(1).with_columns(doc_id=pl.lit("0" * 64))
        write_again(cleaned, tables.DOCUMENTS, parts[first].tail(-1), first)
        write_again(cleaned, tables.DOCUMENTS, pl.concat([parts[second], again]), second)
        assert cleaned.read(tables.DOCUMENTS).height == frame.height
        said = verdict(cleaned)
        assert (said.passed, said.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert f"the shard {first!r}" in (said.description or "")
        assert f"the shard {second!r}" in (said.description or "")
