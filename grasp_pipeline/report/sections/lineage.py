"""Where the numbers came from."""

from __future__ import annotations

from grasp_pipeline.progress import duration
from grasp_pipeline.report.blocks import numeric, pairs
from grasp_pipeline.report.formats import count, number, public_location, share
from grasp_pipeline.report.inputs import ReportInputs, task_label
from grasp_pipeline.report.markup import Column, Html, element, named, table


def lineage(inputs: ReportInputs) -> list[Html]:
    """Return the table versions, the store, the checkpoints and the times."""
    store = public_location(inputs.store)
    parts = [
        element(
            "p",
            "Every table is a Delta table; this page was made from the versions below. To read one again: ",
            element("code", f'pl.read_delta("{store.rstrip("/")}/TABLE", version=N)'),
            ".",
        ),
        pairs(
            ("Store", element("code", store)),
            ("Run", element("code", inputs.run_id)),
            ("Target", named(task_label(inputs.target))),
            ("Budget", f"{count(inputs.budget_tokens)} tokens"),
        ),
        table(
            "Table versions",
            [Column("Table"), *numeric("Delta version")],
            [[named(name), count(version)] for name, version in sorted(inputs.versions.items())],
        ),
    ]
    if inputs.checkpoints.height:
        columns = [Column("Checkpoint"), *numeric("Tokens seen", "Train loss (nats per token)")]
        columns += numeric("Validation loss (nats per token)")
        rows = [
            [named(role), count(seen), number(train), number(validation)]
            for role, seen, train, validation in inputs.checkpoints.sort("tokens_seen").iter_rows()
        ]
        parts.append(table("Checkpoints of the proxy", columns, rows))
    if inputs.timings.height:
        whole = float(inputs.timings["seconds"].sum())
        rows = [
            [named(stage), duration(seconds), share(seconds, whole)]
            for stage, seconds in inputs.timings.drop_nulls().iter_rows()
        ]
        rows.append(["all", duration(whole), ""])
        parts.append(
            table("Time per stage", [Column("Stage"), *numeric("Time", "Share")], rows, [len(rows) - 1])
        )
    return parts
