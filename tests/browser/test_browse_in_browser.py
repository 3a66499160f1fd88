"""The local page over a store as a person meets it: the report's views, searches, and no accessibility violation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
import uvicorn
from small_store import unpack

from assets.browse import make_app

PAGES = (
    "/",
    "/?words=the",
    "/views",
    "/query?sql=SELECT+*+FROM+curations",
    "/compare",
    "/compare?before=1&after=1",
)
SECONDS = pl.DataFrame({"stage": ["documents", "finalists"], "seconds": [3.0, 40.0]})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the stored small store; returns the address."""
    place = unpack(tmp_path_factory.mktemp("browsed"))
    app = make_app(place.delta, seconds=lambda run: SECONDS)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_reports_views_are_drawn_of_the_curation_that_is_chosen(browser: Any, served: str) -> None:
    tab = browser.new_page(viewport={"width": 1100, "height": 900})
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.goto(served)
    tab.get_by_role("link", name="Views").click()
    for name in ("funnel", "mixture", "grid", "forest", "values", "cost"):
        assert tab.locator(f"#view-{name} svg [data-told]").count() > 1, name
    assert "40 s" in (tab.locator("#view-cost svg").text_content() or "")
    assert "Sealed subsets: none are stored" in tab.locator("main").inner_text()
    tab.get_by_label("Curation").fill("1")
    tab.get_by_role("button", name="Show").click()
    assert tab.url.endswith("/views?curation=1")
    funnel = tab.locator("#view-funnel")
    before = funnel.locator("svg").inner_html()
    funnel.locator("select").select_option(index=1)
    assert funnel.locator("svg").inner_html() != before
    tab.get_by_label("Curation").fill("7")
    tab.get_by_role("button", name="Show").click()
    assert "there is no curation 7; choose among 1" in tab.get_by_role("alert").inner_text()
    tab.close()
    assert [each for each in faults if "400" not in each] == []


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 390), ("dark", 390)]
)
def test_no_accessibility_violation_on_any_page(
    browser: Any, served: str, scheme: str, width: int, violations: Any
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    for path in PAGES:
        tab.goto(served + path)
        tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert violations(tab) == [], path
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, path
    tab.close()
