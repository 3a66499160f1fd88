"""Where the tokens went: by source and by reason."""

from __future__ import annotations

import polars as pl

from grasp_pipeline.report import figures
from grasp_pipeline.report.accounts import KEPT
from grasp_pipeline.report.blocks import MOST_ROWS, folded, numeric, picture
from grasp_pipeline.report.formats import count, share, size
from grasp_pipeline.report.glossary import DROP_REASONS, REJECTION_REASONS
from grasp_pipeline.report.inputs import ReportInputs, totals
from grasp_pipeline.report.markup import Column, Html, element, named, table


def tokens(inputs: ReportInputs) -> list[Html]:
    """Return what was kept, rejected and dropped."""
    return [
        element("h3", "By source"),
        picture(
            figures.tokens_by_source(inputs),
            "sources",
            f"Kept and dropped tokens of {inputs.sources.height} sources; the table below has all numbers.",
            "Tokens kept and dropped by source, and the share of each source that was kept.",
        ),
        _sources_table(inputs),
        element("h3", "By reason"),
        picture(
            figures.reasons(inputs),
            "reasons",
            "Documents rejected and tokens dropped by reason; the tables below have all numbers.",
            "Above: documents rejected before tokenization. Below: clean tokens that the selection dropped.",
        ),
        *_reasons_tables(inputs),
    ]


def _sources_table(inputs: ReportInputs) -> Html:
    frame = inputs.sources.sort("tokens", "source", descending=[True, False])
    columns = [
        Column("Source"),
        *numeric("Documents", "Bytes", "Tokens", "Tokens kept", "Kept of the source"),
    ]
    columns += numeric("Share of the pruned corpus")
    whole = frame.sum().with_columns(source=pl.lit("all"))
    rest = frame.slice(MOST_ROWS)
    lines = list(frame.head(MOST_ROWS).iter_rows(named=True))
    if rest.height:
        lines.append(rest.sum().row(0, named=True) | {"source": f"{count(rest.height)} smaller sources"})
    lines.append(whole.row(0, named=True))
    rows = [
        [
            named(row["source"]),
            count(row["documents"]),
            size(row["bytes"]),
            count(row["tokens"]),
            count(row["kept_tokens"]),
            share(row["kept_tokens"], row["tokens"]),
            share(row["kept_tokens"], inputs.kept_tokens),
        ]
        for row in lines
    ]
    return table("Clean corpus by source", columns, rows, [len(rows) - 1])


def _reasons_tables(inputs: ReportInputs) -> list[Html]:
    rejected = totals(inputs.rejected, "reason", "documents")
    dropped = totals(inputs.drop_reasons, "reason", "tokens")
    meaning = Column("What it means", prose=True)
    parts = []
    if rejected.height:
        columns = [Column("Reason"), *numeric("Documents", "Share of documents read", "Bytes"), meaning]
        rows = [
            [
                named(row["reason"]),
                count(row["documents"]),
                share(row["documents"], inputs.documents_read),
                size(row["bytes"]),
                REJECTION_REASONS.get(row["reason"], ""),
            ]
            for row in rejected.iter_rows(named=True)
        ]
        parts += [
            table("Documents rejected before tokenization", columns, rows),
            _by_source("Rejected documents by reason and source", inputs.rejected, "documents"),
        ]
    else:
        parts.append(element("p", "No document was rejected."))
    if dropped.height:
        columns = [Column("Reason"), *numeric("Chunks", "Tokens", "Share of the clean corpus"), meaning]
        rows = [
            [
                named(row["reason"]),
                count(row["chunks"]),
                count(row["tokens"]),
                share(row["tokens"], inputs.tokens),
                DROP_REASONS.get(row["reason"], ""),
            ]
            for row in dropped.iter_rows(named=True)
        ]
        parts += [
            table("Chunks dropped by the selection", columns, rows),
            *(_outcomes(inputs, counted) for counted in ("tokens", "chunks")),
        ]
    else:
        parts.append(element("p", "The selection dropped nothing."))
    return parts


def _outcomes(inputs: ReportInputs, counted: str) -> Html:
    """Return a folded table of what became of each source's tokens or chunks: kept, or dropped for which reason."""
    kept = inputs.sources.select(
        "source", pl.lit(KEPT).alias("reason"), pl.col(f"kept_{counted}").alias(counted)
    )
    both = pl.concat([kept, inputs.drop_reasons.select("source", "reason", counted)])
    reasons = [KEPT, *totals(inputs.drop_reasons, "reason", "tokens")["reason"]]
    wide = both.pivot("reason", index="source", values=counted, aggregate_function="sum").fill_null(0)
    sums = wide.with_columns(all=pl.sum_horizontal(reasons)).sort("all", "source", descending=[True, False])
    rest = sums.slice(MOST_ROWS).drop("source").sum()
    lines = list(sums.head(MOST_ROWS).iter_rows(named=True))
    if sums.height > MOST_ROWS:
        lines.append(
            rest.row(0, named=True) | {"source": f"{count(sums.height - MOST_ROWS)} smaller sources"}
        )
    rows = [[named(line["source"]), *(count(line[name]) for name in (*reasons, "all"))] for line in lines]
    caption = f"Kept and dropped {counted} by source and reason"
    return folded(caption, table(caption, [Column("Source"), *numeric(*reasons, "All")], rows))


def _by_source(caption: str, frame: pl.DataFrame, counted: str) -> Html:
    """Return a folded table with a row per reason and source, largest first."""
    frame = frame.sort(counted, "reason", "source", descending=[True, False, False])
    rows: list[list[object]] = [
        [named(row["reason"]), named(row["source"]), count(row[counted])]
        for row in frame.head(MOST_ROWS).iter_rows(named=True)
    ]
    rest = frame.slice(MOST_ROWS)
    if rest.height:
        rows.append([f"{count(rest.height)} smaller rows", "", count(int(rest[counted].sum()))])
    columns = [Column("Reason"), Column("Source"), *numeric(counted.capitalize())]
    return folded(caption, table(caption, columns, rows))
