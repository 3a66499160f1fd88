"""Sample rows and bars on an asset's page: Markdown short enough that the web interface shows it without a click."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from grasp_pipeline.errors import GraspError, reason_in
from grasp_pipeline.report.formats import brief

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.tables import Table
    from resources.delta.tables import DeltaTables

SampleText = Literal["hide", "hash", "cut"]

SHOWN = 1_000
"""Characters below which Dagster's web interface (1.13) shows Markdown on the page; longer one opens by a click."""

ROWS = 5
WIDTHS = (24, 16, 12, 8)
"""Characters of a cell, the widest first that fits."""

TEXTS = frozenset({"text", "detail"})
"""Columns that hold documents' own text, or may quote it."""

SEALED = "evaluation"
CUT = 40


def cell(name: str, value: Any, width: int, texts: SampleText) -> str:
    """Return a value as a table's cell: document text only as far as it is allowed, lists and bytes by their size."""
    short = brief(value)
    if short is not None:
        return short
    told = " ".join(str(value).split())
    if name in TEXTS:
        if texts == "hide":
            return f"{len(told):,} characters"
        if texts == "hash":
            return hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        width = CUT
    return _escaped(told if len(told) <= width else f"{told[: width - 1]}…")


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it stands."""
    for sign in "\\`*_[]<>|~":
        text = text.replace(sign, f"\\{sign}")
    return text


def _rows_across(frame: pl.DataFrame, width: int, texts: SampleText) -> str:
    """Return a table with a line per column and a column per sample row."""
    lines = ["|column|" + "|".join(f"row {i}" for i in range(1, frame.height + 1)) + "|"]
    lines.append("|" + "-|" * (frame.height + 1))
    for name in frame.columns:
        cells = (cell(name, value, width, texts) for value in frame[name].to_list())
        lines.append("|" + "|".join([_escaped(name), *cells]) + "|")
    return "\n".join(lines)


def sample_markdown(frame: pl.DataFrame, texts: SampleText = "hide") -> str:
    """Return the first rows as Markdown: as many, as wide and of as many columns as fit the page without a click.

    Args:
        frame: at most a few rows.
        texts: what is shown of documents' text: its length alone, a digest of it, or its first 40 characters.
    """
    if frame.is_empty():
        return "The table has no rows."
    for columns in range(frame.width, 0, -1):
        left = frame.width - columns
        more = f"\n\nand {left} more columns" if left else ""
        for rows in range(min(ROWS, frame.height), 0, -1):
            for width in WIDTHS:
                told = _rows_across(frame[:rows, :columns], width, texts) + more
                if len(told) < SHOWN:
                    return told
    return "The rows are too wide to show."


def sample_rows(delta: DeltaTables, table: Table, version: int, texts: SampleText = "hide") -> str:
    """Return a few rows of a table as Markdown, none of them of a sealed split."""
    import polars as pl

    large = [name for name, dtype in table.schema.items() if dtype == pl.Binary]
    try:
        frame = delta.read(table, version)
        if "split" in table.schema:
            frame = frame.filter(pl.col("split") != SEALED)
        return sample_markdown(frame.drop(large).head(ROWS).collect(), texts)
    except (
        GraspError,
        pl.exceptions.PolarsError,
        OSError,
    ) as error:  # whoever needs the rows says what to do
        return f"The rows cannot be read ({_escaped(reason_in(error))})."


def bars(rows: Iterable[tuple[str, float]], unit: str, most: int = 12) -> str:
    """Return values as Markdown with a bar for each, the longest for the largest; negative ones have none.

    Args:
        rows: name and value, in the order to show.
        unit: heads the values.
        most: rows.
    """
    shown = list(rows)[:most]
    top = max((value for _, value in shown), default=0.0)
    lines = [f"||{unit}||", "|-|-:|-|"]
    for name, value in shown:
        length = round(16 * value / top) if top > 0 and value > 0 else 0
        number = f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
        lines.append(f"|{_escaped(name)[:36]}|{number}|{'█' * length}|")
    return "\n".join(lines)
