"""Texts that alone decide what a quality head says of them."""

from __future__ import annotations

import polars as pl

from grasp_pipeline.report.blocks import elsewhere, numeric
from grasp_pipeline.report.formats import MISSING, number
from grasp_pipeline.report.inputs import ReportInputs
from grasp_pipeline.report.markup import Column, Html, element, join, named, table

NOT_MEASURED = (
    "Not measured yet. Leverage comes with the published attribution: run the job prove_attribution, then report "
    "again."
)
ALONE = 0.5
"""Leverage from which a text counts for more in its own verdict than all others together."""


def outliers(inputs: ReportInputs) -> list[Html]:
    """Return the texts of most leverage, and which estimate of a removal is safe on their features."""
    frame = inputs.outliers.sort("leverage", "chunk_id", descending=[True, False])
    if frame.is_empty():
        return [element("p", NOT_MEASURED, class_="note")]
    columns = [Column("Chunk"), *numeric("Leverage"), Column("Told to be of"), Column("Source or task")]
    rows = [
        [
            named(row["chunk_id"]),
            number(row["leverage"]),
            f"the {row['label']}",
            named(row["source"] or MISSING),
        ]
        for row in frame.iter_rows(named=True)
    ]
    alone = frame.select((pl.col("leverage") >= ALONE).sum()).item()
    return [
        *elsewhere(inputs, "outliers"),
        element(
            "p",
            "A quality head, a logistic regression that tells the target's texts from the corpus's, was fitted to a "
            "sample of both. Leverage is the share of a text's verdict that the text itself decides: near 1, nothing "
            "like it is among the others, so look at it before trusting what the head or an influence estimate says of "
            f"it. {_decide(alone, frame.height)}",
        ),
        table("Texts of most leverage", columns, rows, list(range(alone))),
        element("p", "Cheapest estimate of a removal that is safe here: ", join(*_safe(inputs)), "."),
    ]


def _decide(alone: int, shown: int) -> str:
    if alone == 0:
        return f"None of the {shown} shown decides half of its own verdict or more."
    decide = "decides half of its" if alone == 1 else "decide half of their"
    return f"{alone} of the {shown} shown {decide} own verdict or more."


def _safe(inputs: ReportInputs) -> list[object]:
    """Return what is safe for every number of texts removed, with commas between."""
    parts: list[object] = []
    for k, estimator in inputs.safe_estimators.items():
        texts = "1 text" if k == "1" else f"{k} texts"
        parts += [", " if parts else "", f"for {texts} ", named(estimator)]
    return parts
