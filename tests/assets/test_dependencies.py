"""What makes what anew: the table of docs/operations.md, cell by cell, on a small store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_store import small_place, write_small
from toys import toy_texts
from workplace import ARRIVALS, Workplace, changed_tables, steps_up_to_date

from assets.curations import PUBLISHED
from assets.stages import STAGES
from grasp_pipeline.tables import ALL

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"

pytestmark = pytest.mark.slow


def expected() -> dict[str, set[str]]:
    """Return change -> tables that are made anew, as the page says."""
    (body,) = re.findall(
        r"<!-- dependencies -->\n(.*?)<!-- end of dependencies -->", PAGE.read_text(), re.DOTALL
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.strip().splitlines()]
    (_, *changes), _, *lines = rows
    return {
        change: {line[0].strip("`") for line in lines if line[number] == "x"}
        for number, change in enumerate(changes, 1)
    }


def told_tables() -> set[str]:
    (body,) = re.findall(
        r"<!-- dependencies -->\n(.*?)<!-- end of dependencies -->", PAGE.read_text(), re.DOTALL
    )
    return set(re.findall(r"^\| `(\w+)`", body, re.MULTILINE))


def same_rows(place: Workplace) -> None:
    """Write a file again with the same rows in other bytes."""
    file = place.corpus / "a.parquet"
    pl.read_parquet(file).write_parquet(file, compression="uncompressed")


def longer(file: Path, column: str) -> None:
    frame = pl.read_parquet(file)
    frame[3, column] = "a sentence more and " + frame[3, column]
    frame.write_parquet(file)


def new_file(place: Workplace) -> None:
    rows = [(f"new-{number}", "news", text) for number, text in enumerate(toy_texts("news", 4, "late"))]
    frame = pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")
    frame.write_parquet(place.corpus / "c.parquet")


@dataclass(frozen=True)
class Change:
    """What is changed of files and settings, of which step the code, and the job that runs then."""

    prepare: Callable[[Workplace], None] = lambda place: None
    settings: Mapping[str, Mapping[str, Any]] | None = None
    code: str = ""
    job: str = "curate"


CHANGES = {
    "nothing": Change(),
    "a file, not its rows": Change(same_rows, job="recurate"),
    "a row": Change(lambda place: longer(place.corpus / "b.parquet", "body"), job="recurate"),
    "a new file": Change(new_file, job="recurate"),
    "code": Change(code="documents"),
    "budget": Change(settings={"candidates": {"budget_fraction": 0.3}}),
    "sketch": Change(settings={"sketchers": {"output_hidden_dim": 3}}),
    "task": Change(lambda place: longer(place.tasks / "news.parquet", "text")),
    "proxy": Change(settings={"proxy_checkpoints": {"seed": 3}}),
    "vocabulary": Change(settings={"tokenizer": {"vocab_size": 320}}),
}


@contextmanager
def code_changed(step: str) -> Iterator[None]:
    """Raise the code version of a step."""
    if not step:
        yield
        return
    before = STAGES[step]
    STAGES[step] = replace(before, code_version=f"{before.code_version}, changed")
    try:
        yield
    finally:
        STAGES[step] = before


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = write_small(tmp_path_factory.mktemp("small"))
    place.run()
    return place


def test_the_page_tells_every_table_and_change() -> None:
    assert set(expected()) == set(CHANGES), PAGE
    assert told_tables() == set(ALL) - ARRIVALS


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_makes_anew_what_the_page_says(small: Workplace, tmp_path: Path, name: str) -> None:
    change = CHANGES[name]
    small.copy_to(tmp_path)
    place = small_place(tmp_path)
    change.prepare(place)
    before = place.versions()
    with code_changed(change.code):
        result = place.run(change.job, change.settings)
    made = changed_tables(before, place.versions())
    # Written where a refit was made before or is made now, and where it says another thing.
    assert made - {"refitted_finalists"} == expected()[name] - {"refitted_finalists"}
    number = place.read(ALL["curations"])["curation"].max()
    assert [set(place.read(table)["curation"]) for table in PUBLISHED] == [{number}] * len(PUBLISHED)
    if change.code:
        assert not steps_up_to_date(result)[change.code], "it ran, and found what it had written"
    if name == "nothing":
        assert place.delta_versions() == small.delta_versions()
