"""Names and texts on the HTML pages and in the terminal: never markup, never an order to the terminal."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cases import many, told_or_done
from hostile import NAMES, encodable, names
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.report.formats import plain, shorten, visible
from grasp_pipeline.report.inputs import ReportInputs
from grasp_pipeline.report.markup import Column, element, join, named, table
from grasp_pipeline.report.page import render

pytestmark = pytest.mark.slow

HIDDEN = {"\0", "\x1b", "\u202e", "\u2066", "\u200b", "\u2060", "\ufeff", "\U000e0041"}


@cache
def report_inputs() -> ReportInputs:
    """Return the small run that the report's own tests show."""
    spec = spec_from_file_location("report_toys", Path(__file__).parents[1] / "report" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    toys = module_from_spec(spec)
    spec.loader.exec_module(toys)
    return toys.make_inputs()


@cache
def own_scripts() -> int:
    """Return how many scripts the page brings itself."""
    return Reader(render(report_inputs())).tags.count("script")


class Reader(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@many("names on the page")
@given(names, names)
def test_names_are_text_on_the_page_and_in_the_terminal(name: str, other: str) -> None:
    with told_or_done("names on the page"):
        columns = [Column("name"), Column("number", numeric=True)]
        page = join(element("p", name, title=other), named(name), table(other, columns, [(name, other)], {0}))
        page.encode("utf-8")
        read = Reader(page)
        allowed = {"p", "bdi", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert set(read.tags) <= allowed
        assert {attribute for attribute, _ in read.attributes} <= {
            *("title", "class", "tabindex", "role", "aria-label", "scope")
        }
        assert visible(name) in "".join(read.texts)
        for said in (page, visible(name), plain(name), shorten(name)):
            assert not HIDDEN.intersection(said)
        assert "\n" not in plain(name)
        assert len(shorten(name)) <= 32


@many("pages")
@given(st.data())
def test_whole_pages_hold_no_markup_from_data(data: st.DataObject) -> None:
    """Every source, task, arm and sentence of the report is somebody's text."""
    inputs = report_inputs()
    given_names = iter(data.draw(st.lists(encodable, min_size=12, max_size=12)))
    swapped: dict[str, str] = {}

    def hostile(text: str | None) -> str | None:
        if text is None:
            return None
        if text not in swapped and len(swapped) < 12:
            swapped[text] = f"{next(given_names, '')}<script>alert(1)</script>"
        return swapped.get(text, text)

    changes: dict[str, Any] = {}
    for each in fields(inputs):
        value = getattr(inputs, each.name)
        if isinstance(value, pl.DataFrame) and "source" in value.columns:
            sources = [hostile(source) for source in value["source"].to_list()]
            changes[each.name] = value.with_columns(pl.Series("source", sources, pl.String))
    for name in ("store", "run_id"):
        changes[name] = hostile(getattr(inputs, name))
    with told_or_done("pages"):
        page = render(replace(inputs, **changes))
        page.encode("utf-8")
        read = Reader(page)
        assert read.tags.count("script") == own_scripts()
        assert not any(name.startswith("on") for name, _ in read.attributes)
        assert "alert(1)" in "".join(read.texts)
        assert not HIDDEN.intersection(page)


def test_a_document_that_is_html_stays_text() -> None:
    text = "<html><script>alert(document.cookie)</script><body onload=alert(1)>" + NAMES[16]
    read = Reader(join(element("p", text)))
    assert read.tags == ["p"]
    assert "".join(read.texts) == text
