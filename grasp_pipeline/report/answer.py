"""The answer: what was kept, for what, how sure that is, what shipped and why, what it cost; in plain words.

The terminal, the page and `--json` begin with the same answer; the statistician's words are in the glossary.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Any

import polars as pl

from grasp_pipeline.names import MEAN, RANDOM, WORST
from grasp_pipeline.progress import duration
from grasp_pipeline.report.formats import compact, count, number, passes, plain, share
from grasp_pipeline.report.inputs import ReportInputs, Row, task_label
from grasp_pipeline.report.why import TWO_SIDED_95

PUBLISHED_ANYWAY = "published without a certificate because the run allowed it"


def answer(inputs: ReportInputs) -> dict[str, Any]:
    """Return the answer as JSON-serialisable values.

    Returns:
        curation, time (UTC, ISO 8601), run, verdict (`certified`, `not certified` or `no certificate`), headline and
        statement (sentences), target, kept (tokens, of, share, chunks, budget), tasks (each with improvement and
        lower_bound over random in nats per token, confidence and certified, the failing ones first after the target),
        measured_with (architecture, parameters, tokens and passes of one training), shipped (arm, how it was built),
        why (sentences), cost (seconds or null, corpora_trained, stages) and versions of the tables.
    """
    kept, whole = inputs.kept_tokens, inputs.tokens
    head = inputs.headline
    return {
        "curation": inputs.curation,
        "time": inputs.time or None,
        "run": inputs.run_id,
        "verdict": verdict(inputs),
        "headline": headline(inputs),
        "statement": head["statement"] if head else None,
        "target": inputs.target,
        "kept": {
            "tokens": kept,
            "of": whole,
            "share": kept / whole if whole else None,
            "chunks": int(inputs.sources["kept_chunks"].sum()),
            "budget": inputs.budget_tokens,
        },
        "tasks": task_rows(inputs),
        "measured_with": asdict(inputs.proxy),
        "shipped": {"arm": inputs.picked or None, "how": how_built(inputs) or None},
        "why": why_plainly(inputs),
        "cost": {
            "seconds": float(inputs.timings["seconds"].sum()) if inputs.timings.height else None,
            "corpora_trained": trained_corpora(inputs),
            "stages": dict(inputs.timings.drop_nulls().iter_rows()),
        },
        "versions": dict(inputs.versions),
    }


def answer_markdown(inputs: ReportInputs) -> str:
    """Return the answer as Markdown for an asset's page; names from data stand in code spans or are escaped."""
    rows = [
        f"| {_cell(task_label(row['task']))} | {number(row['improvement'], signed=True)} "
        f"| {number(row['lower_bound'], signed=True)} | {'yes' if row['certified'] else '**NOT CERTIFIED**'} |"
        for row in task_rows(inputs)
    ]
    table = [
        "",
        "| task | nats per token better than random | at least | certified |",
        "|---|---|---|---|",
        *rows,
    ]
    lines = [f"**{verdict(inputs).capitalize()}.** {_cell(headline(inputs))}", *(table if rows else [])]
    return "\n".join([*lines, "", *(_cell(one) for one in why_plainly(inputs))])


def _cell(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", plain(text))


def verdict(inputs: ReportInputs) -> str:
    """Return `certified`, `not certified` or `no certificate`."""
    if inputs.headline is None:
        return "no certificate"
    return "certified" if inputs.certified else "not certified"


def headline(inputs: ReportInputs) -> str:
    """Return in a few sentences what was kept, for what, and how much better it is than a random choice."""
    kept, whole, head = inputs.kept_tokens, inputs.tokens, inputs.headline
    told = f"Nothing was published of {count(whole)} tokens"
    if kept:
        told = f"Kept {count(kept)} of {count(whole)} tokens ({share(kept, whole)})"
        if head is not None and not inputs.certified:
            told += f", {PUBLISHED_ANYWAY}"
    told += f". Chosen for: {_purpose(inputs)}."
    if head is None:
        return f"{told} Nothing can be said yet of a pruned corpus against a random one."
    return f"{told} {_gain(head)}"


def _purpose(inputs: ReportInputs) -> str:
    tasks = [task for task in inputs.certificates["task"].unique().sort() if task not in (MEAN, WORST)]
    if inputs.target == MEAN:
        return f"the mean of {len(tasks)} tasks, {', '.join(tasks)}" if tasks else "the mean over tasks"
    if inputs.target == WORST:
        return f"the task that gains least of {', '.join(tasks)}"
    return f"the task {inputs.target}"


def _gain(head: Row) -> str:
    """Say how far the model's loss is below that of random text, and the least that the measurements allow."""
    value, low, sure = head["improvement"], head["lower_bound"], f"{100 * head['confidence']:g}%"
    better = "lower" if value >= 0 else "higher"
    sentence = (
        f"A model trained on what was picked has a held-out loss {number(abs(value))} nats per token {better} than one "
        f"trained on random text of the same size ({_perplexity(value)})"
    )
    if head["certified"]:
        return f"{sentence}; it is at least {number(low)} lower with {sure} confidence."
    return (
        f"{sentence}, but that can be luck: with {sure} confidence it is only known to be at least "
        f"{number(low, signed=True)} better."
    )


def _perplexity(improvement: float) -> str:
    change = 1 - math.exp(-abs(improvement)) if improvement >= 0 else math.exp(-improvement) - 1
    return f"perplexity {100 * change:.2g}% {'lower' if improvement >= 0 else 'higher'}"


def task_rows(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Return the certificates against random, a row per task: the target first, then those that fail."""
    names = ("task", "improvement", "lower_bound", "confidence", "certified")
    order = [pl.col("task") == inputs.target, ~pl.col("certified"), pl.col("task")]
    rows = inputs.certificates.filter(baseline=RANDOM).sort(order, descending=[True, True, False])
    return rows.select(names).to_dicts()


def scale(inputs: ReportInputs) -> str:
    """Say at what size of model and training the corpora were compared."""
    size, told = inputs.proxy, []
    if size.parameters:
        told.append(f"{size.architecture or 'proxy'} with {compact(size.parameters)} parameters")
    elif size.architecture:
        told.append(f"{size.architecture} proxy")
    if size.tokens:
        over = (
            "what is kept"
            if size.cluster_share == 1
            else f"a scale model, {share(size.cluster_share, 1)} of what is kept"
        )
        seen = f", {passes(size.passes)} over {over}" if size.passes is not None else ""
        told.append(f"each corpus trained on for {count(size.tokens)} tokens{seen}")
    return "; ".join(told) or "not known"


def scale_warning(inputs: ReportInputs) -> str:
    """Say what a training shorter than the planned one leaves open; empty where there is nothing to say."""
    size, passes = inputs.proxy, inputs.proxy.passes
    if size.cluster_share < 1:
        return (
            "The comparison trained on a scale model of each corpus: what only a larger corpus repeats it does not "
            "show. Raise finalists.max_training_tokens to come nearer to the whole."
        )
    if passes is None or passes >= 1:
        return ""
    return (
        "The comparison trained on less than one pass of what is kept: at a full training the order of the corpora can "
        "be another. Raise finalists.training_passes to measure it."
    )


def how_built(inputs: ReportInputs) -> str:
    """Return how what shipped was built, as its row of `finalists` says."""
    found = inputs.finalists.filter(arm=inputs.picked)["description"].to_list()
    return (found[0] or "") if found else ""


def trained_corpora(inputs: ReportInputs) -> int:
    """Count the candidate corpora that a model was trained on to pick one."""
    return inputs.arm_losses["arm"].n_unique()


def cost(inputs: ReportInputs) -> str:
    """Say what the run took."""
    told = []
    frame = inputs.timings.drop_nulls()
    if frame.height:
        most = frame.sort("seconds", "stage", descending=[True, False]).row(0, named=True)
        told.append(
            f"{duration(float(frame['seconds'].sum()))} in all, most of it {most['stage']} "
            f"({duration(most['seconds'])})"
        )
    if corpora := trained_corpora(inputs):
        told.append(f"{count(corpora)} candidate corpora trained on to pick one")
    return "; ".join(told) or "not recorded"


def when(inputs: ReportInputs) -> str:
    """Say when the certificate was issued, which curation it is and which run issued it."""
    told = inputs.time.replace("T", " ").removesuffix("+00:00")
    parts = [f"{told} UTC" if told else "", f"run {inputs.run_id}"]
    if inputs.curation is not None:
        parts.insert(0, f"curation {inputs.curation}")
    return ", ".join(part for part in parts if part)


def why_plainly(inputs: ReportInputs) -> list[str]:
    """Return two or three plain sentences on why what shipped won over the others; none where nothing was compared."""
    task, losses = inputs.on_target(inputs.arm_losses)
    drawn = losses.filter(pl.col("arm").is_in(list(inputs.random_arms)))["loss"]
    ranked = losses.filter(~pl.col("arm").is_in(list(inputs.random_arms))).sort("loss", "arm")
    mine, others = ranked.filter(arm=inputs.picked), ranked.filter(pl.col("arm") != inputs.picked)
    if mine.is_empty() or others.is_empty():
        return []
    loss, second = mine["loss"][0], others.row(0, named=True)
    place = (
        "the lowest loss" if loss <= second["loss"] else "a low loss, and won by the rule of the two halves"
    )
    against = f"{number(second['loss'])} with the next, {second['arm']}"
    if len(drawn):
        against += f", and {number(float(drawn.to_numpy().mean()))} with random text"
    return [
        f"The same small model was trained on each of {losses.height} candidate corpora. On {inputs.picked} it reached "
        f"{place} on held-out documents ({task_label(task)}): {number(loss)} nats per token, against {against}.",
        _lead(inputs, task, second["arm"]),
        f"{inputs.picked} {_origin(inputs)}.",
    ]


def _lead(inputs: ReportInputs, task: str, second: str) -> str:
    found = inputs.margins.filter(arm=second, task=task)
    if found.is_empty():
        return f"How sure its lead over {second} is was not measured."
    margin, error = found.select("margin", "standard_error").row(0)
    if margin - TWO_SIDED_95 * error > 0:
        luck = "more than the choice of test documents explains"
    elif margin + TWO_SIDED_95 * error < 0:
        return (
            f"It measured {number(-margin)} behind {second}, more than the choice of test documents explains."
        )
    else:
        luck = "so small that other test documents could have reversed it"
    if margin < 0:
        return f"It measured {number(-margin)} behind {second}, {luck}."
    return f"Its lead over {second} is {number(margin)}, {luck}."


def _origin(inputs: ReportInputs) -> str:
    roles = dict(inputs.finalists.select("arm", "role").iter_rows())
    role = roles.get(inputs.picked, "")
    if role == "full":
        return "is the clean corpus as it is: here, leaving text out did not pay"
    if role == "simple":
        return "is a simple rule that was meant for comparison; no optimised corpus beat it"
    return (
        "was built by the optimiser, which takes text that helps the tasks and counts against a text what the corpus "
        "has of its kind already"
    )
