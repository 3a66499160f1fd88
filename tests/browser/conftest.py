"""A headless Chromium, and the report of a hand-made run with every view filled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from report.conftest import make_inputs

from grasp_pipeline.report.inputs import ProxySize
from grasp_pipeline.report.page import render
from grasp_pipeline.report.samples import shared_passages

CHROMIUM = os.environ.get("GRASP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start Chromium once; without it, or without Playwright, the tests are skipped and say so."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (make setup)")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium, or set GRASP_CHROMIUM)")
    with api.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def violations() -> Any:
    """Return what asks axe-core for the violations of any level on an open page: the rule and its first element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

    def found(tab: Any) -> list[tuple[str, str]]:
        told = axe.Axe().run(tab).response["violations"]
        return [(each["id"], each["nodes"][0]["html"][:200]) for each in told]

    return found


def sampled(n: int = 90) -> list[dict[str, Any]]:
    """Return hand-made texts of every outcome."""
    rows = []
    for i in range(n):
        outcome = ("kept", "dropped", "rejected")[i % 3]
        text = f"<b>Text {i}</b> the quick brown fox jumps over the lazy dog number {i} & more"
        near = "A kept neighbour: the quick brown fox jumps over the lazy cat"
        row: dict[str, Any] = {
            "id": f"{i:03}abcdef-0",
            "doc": f"{i:03}abcdef",
            "outcome": outcome,
            "source": f"source {i % 4}",
            "reason": {"kept": "kept", "dropped": "redundant", "rejected": "too_short"}[outcome],
            "tokens": 100 + i,
            "value": i / 10,
            "tasks": [["french", 0.5]],
        }
        if outcome != "rejected":
            row["text"] = text
        if outcome == "dropped":
            row["near"] = {"id": "kept-1", "text": near, "similarity": i / n} | shared_passages(text, near)
        rows.append(row)
    return rows


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the report of the hand-made run; returns its file:// address."""
    draw = np.random.default_rng(0)
    plain = make_inputs()
    sources = plain.sources["source"].to_list()
    stages = ["came in", "after noise", "after exact duplicate", "kept, whole or in part"]
    funnel = [
        (place, stage, source, 1000 // (place + 1))
        for place, stage in enumerate(stages)
        for source in sources
    ]
    edges = np.linspace(0, 1, 11)
    values = [
        ("alignment", outcome, float(low), float(high), int(draw.integers(1, 50)), 0.5)
        for outcome in ("kept", "low_alignment", "redundant")
        for low, high in pairwise(edges)
    ]
    predictions = [
        (split, task, stratum, float(draw.normal()), float(draw.normal()))
        for split in ("calibration", "sealed")
        for task in ("french", "news")
        for stratum in ("uniform", "source_tilted")
        for _ in range(10)
    ]
    margins = [(arm, "mean", i / 50, 0.01) for i, arm in enumerate(("dsir", "influence", "full"), 1)]
    inputs = make_inputs(
        funnel=pl.DataFrame(funnel, ["place", "stage", "source", "documents"], orient="row"),
        values=pl.DataFrame(values, ["score", "outcome", "low", "high", "chunks", "threshold"], orient="row"),
        predictions=pl.DataFrame(
            predictions, ["split", "task", "stratum", "predicted", "measured"], orient="row"
        ),
        margins=pl.DataFrame(margins, ["arm", "task", "margin", "standard_error"], orient="row"),
        samples=sampled(),
        proxy=ProxySize("llama", 230_464, 200_000, 0.16),
        time="2026-03-01T09:30:00+00:00",
        curation=3,
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(inputs), encoding="utf-8")
    return path.as_uri()
