"""Which configuration and which corpus were chosen, and why."""

from __future__ import annotations

import polars as pl

from grasp_pipeline.names import COVERAGE_FORMS, RANDOM
from grasp_pipeline.report import figures
from grasp_pipeline.report.blocks import elsewhere, folded, minus, numeric, pairs, picture, positions
from grasp_pipeline.report.formats import count, number
from grasp_pipeline.report.inputs import ReportInputs, task_label
from grasp_pipeline.report.markup import Column, Html, element, join, named, table
from grasp_pipeline.report.why import why_it_won


def decision(inputs: ReportInputs) -> list[Html]:
    """Return the choice of the configuration and of the corpus."""
    parts: list[Html] = []
    if sentences := why_it_won(inputs):
        parts = [element("h3", "Why ", named(inputs.picked)), *(element("p", one) for one in sentences)]
    parts.append(element("h3", "Configuration of the surrogate"))
    parts += elsewhere(inputs, "selected_config")
    choice = inputs.choice
    if choice is None:
        parts.append(element("p", "No configuration was chosen yet."))
    else:
        if choice["form"] in COVERAGE_FORMS:
            function = [
                ("Features", "pairs of neighbouring tokens in the queries"),
                ("Function", f"log-coverage, {choice['form']} form, smoothing rho {choice['rho']:g}"),
                ("Sketch for what needs gradients", named(choice["sketch_kind"])),
            ]
        else:
            metric = "identity" if choice["rho"] == 0 else f"whitened, damping rho {choice['rho']:g}"
            penalty = f"lambda {choice['lam']:g}" + (" (additive)" if choice["lam"] == 0 else "")
            function = [
                ("Sketch", named(choice["sketch_kind"])),
                ("Metric", metric),
                ("Redundancy penalty", penalty),
                ("Form", named(choice["form"])),
            ]
        parts += [
            element("p", choice["reason"]),
            pairs(
                ("Configuration", named(choice["config_id"])),
                *function,
                ("Rank correlation", _bounded(choice["rank_correlation"], choice["lower_bound"])),
                (
                    "Gain over the best additive one",
                    join(
                        "lower bound ",
                        minus(number(choice["paired_lower_bound"], signed=True)),
                        ", against ",
                        named(choice["best_additive"]),
                    ),
                ),
            ),
        ]
        if inputs.more_queries:
            parts.append(element("p", inputs.more_queries))
    if inputs.surrogates.height:
        parts += [
            picture(
                figures.candidates(inputs),
                "candidates",
                f"Rank correlation and lower bound of the first-ranked of {inputs.surrogates.height} candidate "
                "configurations; the table below has all numbers.",
                "Candidate configurations on the calibration subsets: measured rank correlation, and the lower bound "
                "that holds for all candidates at once. The bound decides.",
            ),
            folded(f"All {inputs.surrogates.height} candidate configurations", _candidates_table(inputs)),
        ]
    parts.append(element("h3", "Finalists"))
    if inputs.finalists.is_empty():
        parts.append(element("p", "No finalists were built yet."))
        return parts
    parts.append(
        element(
            "p",
            "Candidate corpora were built at the budget. A judge with evidence that no optimiser had seen decided "
            "which were retrained; of those one was picked by its calibration loss.",
        )
    )
    parts.append(
        picture(
            figures.finalists(inputs),
            "finalists",
            "Calibration loss of every retrained corpus, the picked one and the random draws marked; the table below "
            "has all numbers.",
            "Calibration loss of the retrained corpora at equal training tokens; lower is better. Band: spread "
            "of the random draws. The lowest loss is low partly by luck; the certificate accounts for that.",
        )
    )
    parts.append(_finalists_table(inputs))
    return parts


def _candidates_table(inputs: ReportInputs) -> Html:
    columns = [Column("Configuration"), Column("Sketch"), *numeric("Rho", "Lambda"), Column("Form")]
    columns += numeric("Rank correlation", "Lower bound", "Paired lower bound", "Sketch, seconds", "Rank")
    frame = inputs.surrogates.sort("rank", "config_id")
    rows = [
        [
            named(row["config_id"]),
            named(row["sketch_kind"]),
            f"{row['rho']:g}",
            f"{row['lam']:g}",
            named(row["form"]),
            number(row["rank_correlation"]),
            number(row["lower_bound"]),
            number(row["paired_lower_bound"], signed=True),
            number(row["cost_seconds"], 1),
            count(row["rank"]),
        ]
        for row in frame.iter_rows(named=True)
    ]
    chosen = (inputs.choice or {}).get("config_id")
    return table("Candidate configurations", columns, rows, positions(frame["config_id"].to_list(), chosen))


def _finalists_table(inputs: ReportInputs) -> Html:
    task, losses = inputs.on_target(inputs.arm_losses)
    joined = inputs.finalists.join(losses.select("arm", "loss"), on="arm", how="left")
    pooled = losses.join(inputs.finalists, on="arm", how="anti").select("arm", "loss", role=pl.lit(RANDOM))
    frame = pl.concat([joined, pooled], how="diagonal")
    frame = frame.with_columns(picked=pl.col("arm") == inputs.picked).sort(
        ["picked", "loss", "judge_score", "arm"], descending=[True, False, True, False], nulls_last=True
    )
    heading = f"Calibration loss, {task_label(task)} (nats per token)"
    columns = [Column("Corpus"), Column("Role"), *numeric(heading, "Judge score"), Column("Retrained")]
    columns += [*numeric("Tokens"), Column("How it was built", prose=True)]
    rows = [
        [
            join(named(row["arm"]), " (picked)") if row["picked"] else named(row["arm"]),
            named(row["role"]),
            number(row["loss"]),
            number(row["judge_score"], 2, signed=True),
            "yes" if row["shortlisted"] or row["loss"] is not None else "no",
            count(row["n_tokens"]),
            row["description"] or "",
        ]
        for row in frame.iter_rows(named=True)
    ]
    return table(
        "Finalists, the picked one first", columns, rows, positions(frame["arm"].to_list(), inputs.picked)
    )


def _bounded(value: float | None, low: float | None) -> str:
    return f"{minus(number(value))}, lower bound {minus(number(low))}"
