"""HTML that is escaped unless it was built here: text from data cannot become markup."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

from grasp_pipeline.report.formats import MISSING, plain, visible

SHORT_NAME = 28
"""Characters; longer names may break anywhere."""


class Html(str):
    """A string that is HTML already."""

    __slots__ = ()


def join(*parts: object) -> Html:
    """Concatenate; whatever is not `Html` is made visible and escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(visible(part)) for part in parts))


def element(tag: str, *children: object, **attributes: str) -> Html:
    """Return an element. Attribute names: a trailing underscore is dropped, others become hyphens."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    written = "".join(f' {name}="{escape(visible(value))}"' for name, value in names.items())
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def named(value: object) -> Html:
    """Return a name from data, its writing direction kept to itself; short ones stay on one line."""
    text = plain(value)
    return element("bdi", text, **({"class_": "short"} if len(text) <= SHORT_NAME else {}))


@dataclass(frozen=True)
class Column:
    """A column's heading. Numbers are aligned right on one line; prose has room to wrap."""

    heading: str
    numeric: bool = False
    prose: bool = False


def table(
    caption: str, columns: Sequence[Column], rows: Sequence[Sequence[object]], marked: Collection[int] = ()
) -> Html:
    """Return a captioned table that scrolls sideways where it is too wide.

    Args:
        caption: says what the table shows.
        columns: one per cell of a row; the first cell is the row's heading.
        rows: cells; strings in numeric columns get a typographic minus and dash.
        marked: numbers of the rows to stress.
    """
    head = [element("th", column.heading, scope="col", **_kind(column)) for column in columns]
    body = [
        element("tr", *_cells(columns, row), **({"class_": "marked"} if i in marked else {}))
        for i, row in enumerate(rows)
    ]
    inside = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        element("tbody", *body),
    )
    return element("div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _kind(column: Column) -> dict[str, str]:
    if column.numeric:
        return {"class_": "number"}
    return {"class_": "prose"} if column.prose else {}


def _cells(columns: Sequence[Column], row: Sequence[object]) -> list[Html]:
    cells = []
    for i, (column, cell) in enumerate(zip(columns, row, strict=True)):
        if column.numeric and not isinstance(cell, Html):
            cell = "–" if cell == MISSING else str(cell).replace("-", "−")
        if i == 0:
            cells.append(element("th", cell, scope="row", **_kind(column)))
        else:
            cells.append(element("td", cell, **_kind(column)))
    return cells
