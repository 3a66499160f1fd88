"""A comparison of two curations as text for the terminal and as a page in the report's style."""

from __future__ import annotations

from typing import Any

from grasp_pipeline.report.formats import count, number, plain
from grasp_pipeline.report.markup import Column, Html, element, table
from grasp_pipeline.report.stylesheet import STYLESHEET

Table = tuple[str, list[Column], list[list[str]]]
"""A title, columns and rows: what both forms show."""


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return number(value, 4)
    return "–" if value is None else plain(value)


def comparison_tables(told: dict[str, Any]) -> list[Table]:
    """Return what `compare` found as titled tables."""
    a, b = (f"curation {told[when]['curation']}" for when in ("before", "after"))
    text, figure = Column("what"), [Column(a, numeric=True), Column(b, numeric=True)]
    words = [Column(a, prose=True), Column(b, prose=True)]
    heads = [
        [name, told["before"][name], told["after"][name]] for name in told["before"] if name != "curation"
    ]
    inputs = [[kind, uri] for kind in ("entered", "left", "changed") for uri in told["inputs"][kind]]
    inputs.append(["unchanged", f"{count(told['inputs']['unchanged'])} files"])
    settings = [[name, *both] for part in ("configuration", "packages") for name, both in told[part].items()]
    kinds = [
        ("tokens_before", "tokens_after", "corpus"),
        ("kept_before", "kept_after", "kept"),
    ]
    tokens = [
        [f"{row['source']}, {what}", row[one], row[two]]
        for row in told["sources"]
        for one, two, what in kinds
    ]
    found: list[Table] = [
        ("Results", [text, *words], heads),
        ("Input files", [text, Column("file", prose=True)], inputs),
        ("Configuration", [Column("field"), *words], settings),
        ("Tokens by source", [Column("source"), *figure], tokens),
    ]
    for what, place in (("documents", "corpus"), ("chunks", "pruned corpus")):
        moves = told[what]
        rows = [[kind, "all", moves[kind]] for kind in ("entered", "left", "unchanged")]
        rows += [["entered", f"before: {why}", n] for why, n in moves["entered_was"].items()]
        rows += [["left", f"now: {why}", n] for why, n in moves["left_is"].items()]
        columns = [Column("what"), Column("reason", prose=True), Column(what, numeric=True)]
        found.append((f"{what.capitalize()} of the {place}", columns, rows))
    certificates = [
        [
            f"{row['task']} against {row['baseline']}: {name.replace('_', ' ')}",
            row[f"{name}_before"],
            row[f"{name}_after"],
        ]
        for row in told["certificates"]
        for name in ("arm", "improvement", "lower_bound", "certified")
    ]
    found.append(("Certificates", [text, *figure], certificates))
    sealed = told["sealed_losses"]
    if isinstance(sealed, str):
        found.append(("Sealed evaluation losses", [Column("what", prose=True)], [[sealed]]))
    else:
        rows = [[f"{row['arm']}, {row['task']}", row["loss_before"], row["loss_after"]] for row in sealed]
        found.append(("Sealed evaluation losses", [text, *figure], rows))
    return [
        (title, columns, [[_cell(cell) for cell in row] for row in rows]) for title, columns, rows in found
    ]


def comparison_text(told: dict[str, Any]) -> str:
    """Return a comparison as lines for the terminal."""
    lines = []
    for title, columns, rows in comparison_tables(told):
        lines.append(title)
        if not rows:
            lines.append("  no difference")
            continue
        shown = [[column.heading for column in columns], *rows] if len(columns) > 1 else rows
        widths = [max(len(row[i]) for row in shown) for i in range(len(columns))]
        lines += [
            "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in shown
        ]
    return "\n".join(lines)


def comparison_page(told: dict[str, Any]) -> str:
    """Return a comparison as one self-contained HTML document; equal comparisons give equal text."""
    title = f"Curations {told['before']['curation']} and {told['after']['curation']}"
    sections: list[Html] = []
    for heading, columns, rows in comparison_tables(told):
        inside = table(heading, columns, rows) if rows else element("p", "No difference.")
        sections.append(element("section", element("h2", heading), inside))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{STYLESHEET}</style>"
    )
    body = element("main", element("header", element("h1", title)), *sections)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
