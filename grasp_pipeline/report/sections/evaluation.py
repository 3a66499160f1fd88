"""The sealed evaluation: how well the methods rank, and the loss of every arm."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS
from grasp_pipeline.report import figures
from grasp_pipeline.report.blocks import elsewhere, folded, numeric, picture, positions
from grasp_pipeline.report.formats import MISSING, count, interval, number
from grasp_pipeline.report.inputs import ReportInputs, task_label
from grasp_pipeline.report.markup import Column, Html, element, named, table

NOT_MEASURED = (
    "Not measured yet. The sealed evaluation is a job of its own: run the job fidelity, then report again."
)


def fidelity(inputs: ReportInputs) -> list[Html]:
    """Return the rank correlations on the sealed subsets."""
    frame = inputs.overall_fidelity
    if frame.is_empty():
        return [element("p", NOT_MEASURED, class_="note")]
    columns = [
        Column("Method"),
        Column("Form"),
        *numeric("Rank correlation [interval]", "Paired gain [interval]"),
    ]
    columns += numeric("Noise ceiling", "Subsets")
    first = inputs.reference_method
    keys = list(frame.select("method", "form").iter_rows())
    rows = [
        [
            named(row["method"]),
            named(row["form"]),
            interval(row["rank_correlation"], row["ci_low"], row["ci_high"]),
            "reference"
            if key == first
            else interval(row["paired_gain"], row["paired_ci_low"], row["paired_ci_high"], signed=True),
            number(row["noise_ceiling"]),
            count(row["n_subsets"]),
        ]
        for key, row in zip(keys, frame.iter_rows(named=True), strict=True)
    ]
    best = frame.row(0, named=True)
    strata = inputs.fidelity.filter(pl.col("task") == MEAN_OVER_TASKS, pl.col("stratum") != ALL)
    tasks = inputs.fidelity.filter(pl.col("stratum") == ALL, pl.col("task") != MEAN_OVER_TASKS)
    return [
        *elsewhere(inputs, "fidelity"),
        element(
            "p",
            "Every method predicted the losses of the same sealed subsets, which were really retrained and read only "
            "after the choice was stored.",
        ),
        picture(
            figures.fidelity(inputs),
            "fidelity",
            f"Rank correlation with interval of {frame.height} methods on all sealed subsets, highest "
            f"{number(best['rank_correlation'])}; the table below has all numbers.",
            "Rank correlation with the measured losses on all sealed subsets, mean over tasks, with intervals. Dashed: "
            "the noise ceiling.",
        ),
        table(
            "Fidelity on all sealed subsets, mean over tasks; paired gain: the surrogate's correlation minus the "
            "method's",
            columns,
            rows,
            positions(keys, first),
        ),
        picture(
            figures.fidelity_by_stratum(inputs),
            "strata",
            "Rank correlation of the same methods in one panel per stratum of subsets; a table below has all numbers.",
            "The same by stratum. Strata differ in difficulty and in their ceiling: methods compare within a panel.",
        ),
        *_pivot("Rank correlation by stratum, mean over tasks", strata, keys, "stratum"),
        *_pivot("Rank correlation by task, all subsets", tasks, keys, "task"),
    ]


def _pivot(caption: str, frame: pl.DataFrame, keys: Sequence[tuple[str, str]], by: str) -> list[Html]:
    """Return a folded table with a row per method and a column per value of `by`; none where there are none."""
    values = frame[by].unique(maintain_order=True).to_list()
    if not values:
        return []
    cells = {
        (row["method"], row["form"], row[by]): interval(
            row["rank_correlation"], row["ci_low"], row["ci_high"], 2
        )
        for row in frame.iter_rows(named=True)
    }
    ceilings = dict(frame.select(by, "noise_ceiling").unique(by, maintain_order=True).iter_rows())
    columns = [Column("Method"), Column("Form"), *numeric(*values)]
    rows: list[list[object]] = [
        [named(method), named(form), *(cells.get((method, form, value), MISSING) for value in values)]
        for method, form in keys
    ]
    rows.append(["Noise ceiling", "", *(number(ceilings[value], 2) for value in values)])
    return [folded(caption, table(caption, columns, rows))]


def evaluation(inputs: ReportInputs) -> list[Html]:
    """Return every arm's loss on the sealed documents."""
    frame = inputs.evaluation_losses
    if frame.is_empty():
        return [element("p", NOT_MEASURED, class_="note")]
    task, rows = inputs.on_target(frame)
    others = frame.filter(pl.col("task") != task)
    parts = [
        *elsewhere(inputs, "evaluation_losses"),
        element(
            "p",
            "Loss on documents that nothing before had read, every arm trained on the same number of tokens with fresh "
            "seeds. Gain: the random corpus's loss minus the arm's.",
        ),
        picture(
            figures.evaluation(inputs),
            "evaluation-losses",
            f"Evaluation loss of {rows.height} arms with the spread over seeds; the table below has all numbers.",
            "Sealed evaluation loss per arm, with one standard deviation over training seeds; lower is better. "
            "Right: gain over random.",
        ),
        _losses_table(
            f"Sealed evaluation, {task_label(task)}", rows.sort("loss", "arm"), inputs, by_task=False
        ),
    ]
    if others.height:
        inside = _losses_table(
            "Sealed evaluation by task", others.sort("task", "loss", "arm"), inputs, by_task=True
        )
        parts.append(folded("By task", inside))
    return parts


def _losses_table(caption: str, frame: pl.DataFrame, inputs: ReportInputs, by_task: bool) -> Html:
    columns = [Column("Arm"), *([Column("Task")] if by_task else [])]
    columns += numeric(
        "Loss (nats per token)", "Sd over seeds", "Gain over random [interval]", "Seeds", "Training tokens"
    )
    rows = [
        [
            named(row["arm"]),
            *([named(task_label(row["task"]))] if by_task else []),
            number(row["loss"]),
            number(row["seed_sd"]),
            "baseline"
            if row["arm"] in inputs.random_arms
            else interval(row["gain"], row["gain_low"], row["gain_high"], signed=True),
            count(row["seeds"]),
            count(row["tokens"]),
        ]
        for row in frame.iter_rows(named=True)
    ]
    return table(caption, columns, rows, positions(frame["arm"].to_list(), inputs.evaluated_pick))
