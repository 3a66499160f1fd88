"""Blocks that the sections of the report share."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from grasp_pipeline.report.drawing import to_svg
from grasp_pipeline.report.inputs import ReportInputs
from grasp_pipeline.report.markup import Column, Html, element

MOST_ROWS = 60
"""Longer tables end with a row that sums up or counts the rest."""


def picture(figure: Figure | None, name: str, alt: str, caption: str) -> Html:
    """Return a figure with its caption; nothing where there is no figure."""
    if figure is None:
        return Html("")
    svg = Html(to_svg(figure, name, alt))
    return element("figure", svg, element("figcaption", caption), tabindex="0")


def pairs(*entries: tuple[str, object]) -> Html:
    """Return a list of terms and their values."""
    return element(
        "dl",
        *(part for term, text in entries for part in (element("dt", term), element("dd", text))),
        class_="pairs",
    )


def folded(title: str, inside: Html) -> Html:
    """Return a block that opens on a click."""
    return element("details", element("summary", title), inside)


def elsewhere(inputs: ReportInputs, table: str) -> list[Html]:
    """Return for which corpus a table's evidence was measured, where it is not the one that ships."""
    told = inputs.measured_elsewhere.get(table)
    return [] if told is None else [element("p", element("strong", told))]


def numeric(*headings: str) -> list[Column]:
    """Return numeric columns."""
    return [Column(heading, numeric=True) for heading in headings]


def positions(values: Sequence[object], wanted: object) -> list[int]:
    """Return where a value stands among others."""
    return [i for i, value in enumerate(values) if value == wanted]


def minus(text: str) -> str:
    """Return a number with a typographic minus."""
    return text.replace("-", "−")
