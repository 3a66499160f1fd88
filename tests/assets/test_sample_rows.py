"""Sample rows on the asset pages: short enough to be seen, and without text that was not allowed."""

from __future__ import annotations

from urllib.parse import unquote
from xml.etree import ElementTree

import polars as pl
import pytest
from toys import write_toy_corpus
from workplace import CLEANED, Workplace

from assets.plots import NOTHING, bounds_chart, fidelity_chart, intervals, line
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


def svg(told: str) -> ElementTree.Element:
    """Return the picture inside Markdown that is shown without a click."""
    assert len(told) < SHOWN
    address = told.partition("](<data:image/svg+xml,")[2].removesuffix(">)")
    return ElementTree.fromstring(unquote(address))


def labels(told: str) -> list[str]:
    return [each.text or "" for each in svg(told).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("points", [1, 2, 79, 81, 5000])
def test_a_line_fits_the_page_and_goes_through_the_last_point(points: int) -> None:
    told = line([(1000 * (i + 1), 8.0 - i / points) for i in range(points)], "tokens", "losses")
    curve = svg(told).findall("{http://www.w3.org/2000/svg}path")[1].attrib["d"]
    assert curve.endswith("44 120" if points == 1 else "450 120")
    assert labels(told)[0] == "8"
    assert labels(told)[-1] == f"{1000 * points:,} tokens"
    assert line([], "tokens", "losses") == NOTHING
    assert line([(1, float("nan"))], "tokens", "losses") == NOTHING


def test_intervals_lie_on_one_scale_as_many_as_fit() -> None:
    few = intervals([("a < b & c", 0.0, 0.5, 1.0), ("other", 0.25, 0.5, 0.75)], "alt", ceiling=1.0)
    ranges, values, top = (each.attrib["d"] for each in svg(few).findall("{http://www.w3.org/2000/svg}path"))
    assert ranges == "M170 10H450M240 25H380"
    assert values == "M310 10h0M310 25h0"
    assert top.startswith("M450 0V")
    assert labels(few)[:2] == ["a < b & c 0.50", "other 0.50"]
    many = intervals([("n" * 60, -0.123, 0.456, 0.789)] * 50, "alt", ceiling=0.99)
    assert len(labels(many)) > 5
    assert intervals([("lost", float("nan"), 0.5, 0.6)], "alt") == NOTHING


def test_candidates_and_methods_are_drawn_the_best_first() -> None:
    surrogates = pl.DataFrame(
        {
            "config_id": ["worse", "best"],
            "rank": [2, 1],
            "lower_bound": [0.1, 0.2],
            "rank_correlation": [0.3, 0.6],
        }
    )
    assert labels(bounds_chart(surrogates))[:2] == ["best 0.60", "worse 0.30"]
    row = {
        "method": "influence",
        "form": "sum",
        "stratum": "all",
        "task": "mean_over_tasks",
        "noise_ceiling": 0.9,
    }
    measured = {"rank_correlation": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    fidelity = pl.DataFrame(
        [row | measured, row | measured | {"method": "surrogate", "rank_correlation": 0.55}]
    )
    assert labels(fidelity_chart(fidelity))[:2] == ["surrogate, sum 0.55", "influence, sum 0.50"]


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
