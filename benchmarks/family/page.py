"""The table of `docs/family.md`: one row per system, its figures from the result file."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks import published
from benchmarks.family.systems import SYSTEMS, System

DOCUMENT = published.ROOT / "docs" / "family.md"
MARKER = "family"


def write_page() -> None:
    """Write the table of the page again; nothing where there are no results."""
    path = published.RESULTS / "family.json"
    if path.exists():
        body = systems_table(SYSTEMS, json.loads(path.read_text()))
        DOCUMENT.write_text(published.replace_between(DOCUMENT.read_text(), MARKER, body))


def systems_table(systems: Sequence[System], rows: Sequence[dict]) -> str:
    """Return one row per system that has figures, below what says where and when they were measured."""
    found = {row["figure"]: row for row in rows}
    lines = [
        " ".join(part for part in (published.source_line(rows), published.age("family", rows)) if part),
        "",
        "| system | claim | our figures | command | limits | when to use it |",
        "|---|---|---|---|---|---|",
    ]
    for each in systems:
        mine = [found[name] for name in each.figures if name in found]
        if mine:
            told = "; ".join(map(figure_words, mine))
            cells = (
                f"{each.name} ({each.source})",
                each.claim,
                told,
                f"`{each.command}`",
                each.limits,
                each.use,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_words(row: dict) -> str:
    """Return a figure with its interval, its unit and its goal."""
    interval = "" if row["low"] is None else f" from {row['low']:.3g}"
    if row["low"] is not None and row["high"] is not None:
        interval = f" [{row['low']:.3g}, {row['high']:.3g}]"
    goal = f" (goal: {row['goal']})" if row["goal"] else ""
    return f"`{row['figure']}` {row['value']:.3g}{interval} {row['unit']}{goal}"
