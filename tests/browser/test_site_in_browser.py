"""The documentation's site as a keyboard or a screen reader meets it: no page with an axe-core violation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="Sphinx is not installed (make docs)")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-b", "html", "docs", str(folder)], cwd=ROOT, check=True
    )
    return folder


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 390)])
def test_no_page_has_a_violation(browser: Any, violations: Any, site: Path, scheme: str, width: int) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = {}
    try:
        for page in pages:
            tab.goto(page.as_uri())
            if told := violations(tab):
                found[page.name] = told
    finally:
        tab.close()
    assert found == {}
