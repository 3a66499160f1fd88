"""Sample rows on the asset pages: short enough to be seen, and without text that was not allowed."""

from __future__ import annotations

import polars as pl
import pytest
from toys import write_toy_corpus
from workplace import CLEANED, Workplace

from assets.samples import SHOWN, bars, sample_markdown, sample_rows
from grasp_pipeline import tables

SECRET = "a passage that nobody | else is permitted to `read`, " * 3


def test_text_is_shown_as_far_as_it_is_allowed() -> None:
    frame = pl.DataFrame({"doc_id": ["a1"], "text": [SECRET], "n": [3], "ids": [[1, 2]], "share": [0.123456]})
    hidden, hashed, cut = (sample_markdown(frame, texts) for texts in ("hide", "hash", "cut"))
    assert "passage" not in hidden + hashed
    assert "characters" in hidden
    assert "a passage that nobody \\| else" in cut
    assert "read" not in cut  # after 40 characters
    assert "2 values" in hidden
    assert "0.1235" in hidden
    detail = pl.DataFrame({"detail": ["quotes 'secret words'"]})
    assert "secret" not in sample_markdown(detail)


@pytest.mark.parametrize("columns", [1, 8, 80])
def test_what_is_shown_fits_the_page(columns: int) -> None:
    frame = pl.DataFrame({f"column_{i}": ["x" * 50] * 5 for i in range(columns)})
    told = sample_markdown(frame)
    assert len(told) < SHOWN
    assert "column" in told
    assert ("more columns" in told) == (columns == 80)
    assert sample_markdown(frame.clear()) == "The table has no rows."


def test_bars_are_as_long_as_the_values() -> None:
    told = bars([("much", 100), ("half", 50), ("none", -3)], "documents").splitlines()
    assert [line.count("█") for line in told[2:]] == [16, 8, 0]
    assert len(bars([("n" * 60, 1.5)] * 50, "x")) < SHOWN


def test_a_materialization_shows_rows_and_nothing_sealed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("samples")
    write_toy_corpus(folder)
    place = Workplace(folder)
    result = place.run(only=CLEANED)
    told = {
        event.asset_key.to_user_string(): event.materialization.metadata["sample_rows"].value
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    assert set(told) == set(CLEANED)
    text = place.read(tables.DOCUMENTS)["text"][0]
    assert "characters" in str(told["documents"])
    assert text[:12] not in str(told["documents"])
    version = place.delta.pin(tables.TASK_DOCUMENTS).version
    sealed = place.read(tables.TASK_DOCUMENTS).filter(split="evaluation")["document"].to_list()
    shown = sample_rows(place.delta, tables.TASK_DOCUMENTS, version, "cut")
    assert not any(document[:20] in shown for document in sealed)
    for part in place.store.glob("documents/**/*.parquet"):
        part.write_bytes(b"cut")
    lost = sample_rows(place.delta, tables.DOCUMENTS, place.delta.pin(tables.DOCUMENTS).version)
    assert lost.startswith("The rows cannot be read (")
    rejected = result.asset_materializations_for_node("documents")
    reasons = [each.metadata["reasons"].value for each in rejected if "reasons" in each.metadata]
    assert "█" in str(reasons[0])
