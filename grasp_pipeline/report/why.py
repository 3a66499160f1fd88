"""Why what won, won: three sentences, each from the tables."""

from __future__ import annotations

import polars as pl

from grasp_pipeline.names import COVERAGE_FORMS
from grasp_pipeline.report.formats import count, number
from grasp_pipeline.report.inputs import ReportInputs, Row, task_label

TWO_SIDED_95 = 1.96
"""Standard errors on either side of a mean over hundreds of documents."""


def why_it_won(inputs: ReportInputs) -> list[str]:
    """Return what was compared, how far the runner-up is, and what the surrogate had to do with it.

    Empty where no certificate was issued or the pick's losses are not there.
    """
    task, losses = inputs.on_target(inputs.arm_losses)
    ranked = losses.filter(~pl.col("arm").is_in(list(inputs.random_arms))).sort("loss", "arm")
    mine = ranked.filter(arm=inputs.picked)
    others = ranked.filter(pl.col("arm") != inputs.picked)
    if mine.is_empty() or others.is_empty():
        return []
    loss, second = mine["loss"][0], others.row(0, named=True)
    return [
        _compared(inputs, task, losses, loss, second),
        _margin(inputs, task, second),
        _surrogate(inputs),
    ]


def _compared(inputs: ReportInputs, task: str, losses: pl.DataFrame, loss: float, second: Row) -> str:
    place = "has the lowest loss" if loss <= second["loss"] else "was picked by the cross-fitted rule"
    drawn = losses.filter(pl.col("arm").is_in(list(inputs.random_arms)))["loss"]
    sentence = (
        f"{losses.height} corpora were retrained at {count(inputs.certificates['tokens'][0])} tokens each, and on the "
        f"calibration documents ({task_label(task)}) {inputs.picked} {place}, {number(loss)} nats per token, beside "
        f"{number(second['loss'])} of the runner-up {second['arm']}"
    )
    return sentence + (
        f" and {number(float(drawn.to_numpy().mean()))} of random draws." if len(drawn) else "."
    )


def _margin(inputs: ReportInputs, task: str, second: Row) -> str:
    found = inputs.margins.filter(arm=second["arm"], task=task)
    if found.is_empty():
        return f"How sure the margin over {second['arm']} is was not measured."
    margin, error = found.select("margin", "standard_error").row(0)
    low, high = (margin + sign * TWO_SIDED_95 * error for sign in (-1, 1))
    if high < 0:
        verdict = f"so it measured behind {second['arm']}, and other documents would hardly have reversed that order"
    elif low > 0:
        verdict = "so other documents would hardly have reversed the order"
    else:
        verdict = "so other documents could have reversed the order"
    return (
        f"Its margin over {second['arm']} is {number(margin)} nats per token, 95% interval over documents "
        f"[{number(low)}, {number(high)}], {verdict}; the luck of its training run and of being picked come on "
        "top, which only the certificate counts."
    )


def _surrogate(inputs: ReportInputs) -> str:
    roles = dict(inputs.finalists.select("arm", "role").iter_rows())
    origin = {
        "simple": "is a comparison arm that no surrogate built",
        "full": "is the clean corpus as it is, which nothing selected",
    }.get(roles.get(inputs.picked, ""), "was built by optimising the surrogate")
    choice = inputs.choice
    if choice is None:
        return f"{inputs.picked} {origin}."
    if choice["lam"] > 0:
        adopted = f"a redundancy penalty of lambda {choice['lam']:g}"
        if choice["form"] in COVERAGE_FORMS:
            adopted = f"log-coverage of the queries' bigrams with smoothing {choice['rho']:g}"
        decision = (
            f"adopted {adopted} ({choice['config_id']}), which ranked the "
            f"calibration subsets better than the best additive form by {number(choice['paired_lower_bound'])} at least"
        )
    else:
        decision = (
            f"fell back to its additive form ({choice['config_id']}), since no form with a redundancy penalty ranked "
            "the calibration subsets better beyond doubt"
        )
    return f"{inputs.picked} {origin}; the surrogate itself {decision}."
