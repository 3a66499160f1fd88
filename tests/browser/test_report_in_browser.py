"""The report as a person meets it: drawn offline, searchable, without accessibility violations or errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

VIEWS = ("funnel", "mixture", "grid", "forest", "predicted", "values", "cost")


@pytest.fixture
def page(browser: Any, report: str) -> Iterator[Any]:
    """Open the report; the script must not fail and must not ask for anything."""
    tab = browser.new_page(viewport={"width": 1100, "height": 900})
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: faults.append(request.url) if request.url != report else None)
    tab.goto(report)
    yield tab
    tab.close()
    assert faults == []


def test_the_answer_is_what_is_seen_first(page: Any) -> None:
    verdict = page.locator("section.verdict")
    assert verdict.bounding_box()["y"] < 300
    assert "Kept 1,225,000 of 4,900,000 tokens" in verdict.inner_text()
    assert "230k parameters" in verdict.inner_text()


def test_every_view_is_drawn_and_answers(page: Any) -> None:
    for name in VIEWS:
        assert page.locator(f"#view-{name} svg [data-told]").count() > 2, name
    funnel = page.locator("#view-funnel")
    before = funnel.locator("svg").inner_html()
    funnel.locator("select").select_option("mail")
    assert funnel.locator("svg").inner_html() != before
    mark = page.locator("#view-forest circle[data-told]").last
    mark.hover()
    assert "full: 0.06" in page.locator("#view-forest .reading").inner_text()
    predicted = page.locator("#view-predicted")
    predicted.locator("select").first.select_option("sealed")
    assert "sealed subsets" in predicted.locator(".reading").inner_text()
    page.locator("#view-values summary").click()
    assert page.locator("#view-values tbody tr").count() == 30


def test_texts_are_filtered_sorted_searched_and_looked_up(page: Any) -> None:
    found, rows = page.locator("#texts-found"), page.locator("#texts-list article")
    assert found.inner_text() == "90 of 90 sampled texts"
    assert rows.count() == 20
    page.locator("#texts-more").click()
    assert rows.count() == 40
    page.get_by_label("Outcome").select_option("dropped")
    assert found.inner_text() == "30 of 90 sampled texts"
    first = rows.first
    assert first.locator("mark").first.inner_text() == "the quick brown fox jumps over the lazy"
    assert first.locator("b").count() == 0  # markup of a text stays text
    assert "<b>Text" in first.inner_text()
    section = page.locator("#texts")
    section.get_by_label("Order").select_option("similarity")
    assert "088abcdef-0" in rows.first.inner_text()
    page.get_by_label("Words in the text").fill("number 55 &")
    assert found.inner_text() == "1 of 90 sampled texts"
    page.get_by_label("Words in the text").fill("")
    page.get_by_label("Outcome").select_option("")
    page.get_by_label("Id begins with").fill("007")
    assert found.inner_text() == "1 of 90 sampled texts"
    assert "kept" in rows.first.inner_text() or "dropped" in rows.first.inner_text()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 390), ("dark", 390)]
)
def test_no_accessibility_violation_with_every_view_open(
    browser: Any, report: str, scheme: str, width: int, violations: Any
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    tab.goto(report)
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    tab.wait_for_function("document.querySelectorAll('.view tbody').length === 7")
    assert violations(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()
