"""Finalists with a trained similarity and labelled texts: built, shipped and explained by them, and made anew."""

from __future__ import annotations

import polars as pl
import pytest
from workplace import Workplace, materialized

from grasp_pipeline import tables
from grasp_pipeline.selection.candidates.families.airrep import AirRepFamily
from grasp_pipeline.selection.candidates.learned import Learned

ASKED = {"airrep": "proxy", "quality_labels": "labels.csv"}


def write_labels(place: Workplace, good: str = "good") -> None:
    """Label the corpus's documents by whether they are longer than the median."""
    text = place.read(tables.DOCUMENTS)["text"]
    long = text.str.len_chars() > text.str.len_chars().median()
    bad = "bad" if good == "good" else "good"
    kinds = pl.Series([good if each else bad for each in long])
    pl.DataFrame({"text": text, "label": kinds}).write_csv(place.folder / "labels.csv")


def learned_of(place: Workplace) -> Learned:
    folder = max((place.store / "files" / "finalists").iterdir(), key=lambda each: each.stat().st_mtime)
    return Learned.load(folder)


def test_they_are_built_shipped_and_explained_by_what_was_learned(copied: Workplace) -> None:
    write_labels(copied)
    first = copied.run(changes={"finalists": ASKED}, only=["finalists"])
    assert "airrep" in copied.read(tables.FINALISTS)["arm"].to_list()
    found = learned_of(copied)
    assert found.similarity is not None
    assert found.labels is not None

    copied.ship("airrep")
    kept, dropped = copied.read(tables.PRUNED_CORPUS), copied.read(tables.DROP_REASONS)
    assert dropped["score"].unique().to_list() == [AirRepFamily.ranks_by]
    chunks = copied.read(tables.TOKENIZED_SHARDS).sort("chunk_id")["chunk_id"]
    worth = dict(zip(chunks, found.similarity, strict=True))
    assert kept["marginal_value"].to_list() == pytest.approx([worth[each] for each in kept["chunk_id"]])

    again = copied.run(changes={"finalists": ASKED}, only=["finalists"])
    assert materialized(again, "finalists")["up_to_date"] is True
    assert materialized(first, "finalists")["up_to_date"] is False
    write_labels(copied, good="bad")
    turned = copied.run(changes={"finalists": ASKED}, only=["finalists"])
    assert materialized(turned, "finalists")["up_to_date"] is False
    after = learned_of(copied)
    assert after.labels is not None
    assert (after.labels.good.n, after.labels.bad.n) == (found.labels.bad.n, found.labels.good.n)


def test_labels_that_are_not_there_are_refused_first(
    copied: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = copied.versions()
    assert copied.run_in_terminal(changes={"finalists": {"quality_labels": "none.csv"}}) == 1
    assert "none.csv" in "".join(capsys.readouterr())
    assert copied.versions() == versions
