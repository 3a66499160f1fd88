"""How much better the picked corpus is, and how sure that is."""

from __future__ import annotations

import polars as pl

from grasp_pipeline.names import RANDOM
from grasp_pipeline.report.blocks import elsewhere, numeric
from grasp_pipeline.report.formats import MISSING, count, number
from grasp_pipeline.report.inputs import BEST_SIMPLE, ReportInputs, Row, task_label
from grasp_pipeline.report.markup import Column, Html, element, named, table


def certificates(inputs: ReportInputs) -> list[Html]:
    """Return the table of certificates and what else can be said on the target."""
    frame = inputs.certificates
    if frame.is_empty():
        return [element("p", "No certificate was issued yet.")]
    first = (pl.col("task") != inputs.target).alias("other")
    frame = frame.sort(first, pl.col("task"), pl.col("baseline") != RANDOM, pl.col("baseline"))
    columns = [
        Column("Task"),
        Column("Against"),
        *numeric("Improvement (nats per token)", "Lower bound", "Confidence"),
    ]
    columns += [Column("Certified"), *numeric("Documents", "Fresh seeds", "Degrees of freedom")]
    rows = [
        [
            named(task_label(row["task"])),
            named(row["baseline"]),
            number(row["improvement"], signed=True),
            number(row["lower_bound"], signed=True),
            f"{100 * row['confidence']:g}%",
            "yes" if row["certified"] else "no",
            count(row["documents"]),
            count(row["seeds"]),
            number(row["degrees_of_freedom"], 1),
        ]
        for row in frame.iter_rows(named=True)
    ]
    marked = [i for i, row in enumerate(frame.iter_rows(named=True)) if _decides(row, inputs)]
    tokens = ", ".join(count(value) for value in frame["tokens"].unique().sort())
    picks = sorted({pick for picks in frame["fold_picks"] for pick in (picks or "").split(",") if pick})
    others = [
        row["statement"]
        for row in frame.iter_rows(named=True)
        if row["task"] == inputs.target and row["baseline"] in (RANDOM, BEST_SIMPLE)
    ]
    return [
        *elsewhere(inputs, "certificates"),
        element(
            "p",
            "Improvement of the picked corpus ",
            named(inputs.picked or MISSING),
            f" at {tokens} training tokens for every arm. Picked on one half of the calibration documents, "
            "certified on the other with a fresh training run, halves swapped and averaged. Picks of the two halves: ",
            named(" and ".join(picks) or MISSING),
            ".",
        ),
        table("Certificates, the one that decides marked", columns, rows, marked),
        *(element("p", statement) for statement in others),
    ]


def _decides(row: Row, inputs: ReportInputs) -> bool:
    return row["baseline"] == RANDOM and row["task"] == inputs.target
