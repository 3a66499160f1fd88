"""The summary in the terminal that ends a run."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from grasp_pipeline.progress import duration
from grasp_pipeline.report import answer
from grasp_pipeline.report.formats import count, interval, number, plain, public_location, share
from grasp_pipeline.report.inputs import BEST_SIMPLE, ReportInputs, task_label, totals

MOST_ROWS = 12

NOT_MEASURED = "Not measured yet: run the job fidelity."


def print_summary(inputs: ReportInputs, console: Console, report: str = "") -> None:
    """Print the answer, then what came in and was kept, the evidence, and where everything lies.

    Args:
        inputs: as for the report.
        console: written to; readable from 80 columns on, with or without colour.
        report: path or URI of the HTML report.
    """
    _answer(inputs, console)
    _corpus(inputs, console)
    _configuration(inputs, console)
    _fidelity(inputs, console)
    _evaluation(inputs, console)
    _timings(inputs, console)
    _places(inputs, console, report)


def print_vision_summary(
    fidelity: pl.DataFrame, reference: tuple[str, str], reason: str, console: Console
) -> None:
    """Print the choice of the configuration and every method's rank correlation on images.

    Args:
        fidelity: rows of `fidelity` of one data set, over all subsets and the mean over tasks.
        reference: (method, form) that paired gains are taken against.
        reason: the choice in words.
        console: written to; readable from 80 columns on, with or without colour.
    """
    _heading(console, "Configuration of the surrogate")
    _line(console, reason)
    _heading(console, "Rank correlation with the losses of the retrained classifiers, mean over tasks")
    _correlations(fidelity.sort("rank_correlation", descending=True), reference, console)


def _corpus(inputs: ReportInputs, console: Console) -> None:
    _heading(console, "Corpus")
    _line(
        console,
        f"Read {count(inputs.documents_read)} documents, rejected {count(inputs.documents_rejected)} "
        f"({share(inputs.documents_rejected, inputs.documents_read)}); "
        f"{count(inputs.documents_kept)} documents, {count(inputs.tokens)} tokens are clean.",
    )
    kept = inputs.kept_tokens
    _line(
        console,
        f"Kept {count(kept)} tokens ({share(kept, inputs.tokens)}; budget {count(inputs.budget_tokens)})."
        if kept
        else "Nothing was published.",
    )
    rejected = totals(inputs.rejected, "reason", "documents")
    rows = [
        [reason, count(documents), share(documents, inputs.documents_read)]
        for reason, documents in rejected.select("reason", "documents").iter_rows()
    ]
    console.print()
    _table(console, ["rejected because", ">documents", ">share"], rows)
    dropped = totals(inputs.drop_reasons, "reason", "tokens")
    rows = [
        [reason, count(chunks), count(tokens), share(tokens, inputs.tokens)]
        for reason, chunks, tokens in dropped.select("reason", "chunks", "tokens").iter_rows()
    ]
    console.print()
    _table(console, ["dropped because", ">chunks", ">tokens", ">share"], rows)


def _configuration(inputs: ReportInputs, console: Console) -> None:
    _heading(console, "Configuration of the surrogate")
    _line(console, inputs.choice["reason"] if inputs.choice else "None was chosen yet.")
    if inputs.more_queries:
        _line(console, inputs.more_queries)
    _elsewhere(inputs, "selected_config", console)


def _fidelity(inputs: ReportInputs, console: Console) -> None:
    _heading(console, "Rank correlation with the losses of the sealed subsets, mean over tasks")
    frame = inputs.overall_fidelity
    if frame.is_empty():
        _line(console, NOT_MEASURED)
        return
    _elsewhere(inputs, "fidelity", console)
    _correlations(frame, inputs.reference_method, console)


def _correlations(frame: pl.DataFrame, first: tuple[str, str] | None, console: Console) -> None:
    rows = [
        [
            row["method"],
            row["form"],
            interval(row["rank_correlation"], row["ci_low"], row["ci_high"]),
            "reference"
            if (row["method"], row["form"]) == first
            else interval(row["paired_gain"], row["paired_ci_low"], row["paired_ci_high"], signed=True),
        ]
        for row in frame.iter_rows(named=True)
    ]
    _table(console, ["method", "form", ">correlation", ">surrogate's gain"], rows, most=len(rows))
    _line(
        console, f"Noise ceiling {number(frame['noise_ceiling'][0])}; {count(frame['n_subsets'][0])} subsets."
    )


def _evaluation(inputs: ReportInputs, console: Console) -> None:
    task, frame = inputs.on_target(inputs.evaluation_losses)
    _heading(console, f"Sealed evaluation loss, {plain(task_label(task))}, nats per token")
    if frame.is_empty():
        _line(console, NOT_MEASURED)
        return
    _elsewhere(inputs, "evaluation_losses", console)
    rows = [
        [
            row["arm"] + (" (picked)" if row["arm"] == inputs.evaluated_pick else ""),
            number(row["loss"]),
            number(row["seed_sd"]),
            "baseline"
            if row["arm"] in inputs.random_arms
            else interval(row["gain"], row["gain_low"], row["gain_high"], signed=True),
        ]
        for row in frame.sort("loss", "arm").iter_rows(named=True)
    ]
    _table(console, ["arm", ">loss", ">sd", ">gain over random"], rows, most=len(rows))


def _timings(inputs: ReportInputs, console: Console) -> None:
    frame = inputs.timings.drop_nulls()
    if frame.is_empty():
        return
    _heading(console, "Time")
    rows = [[stage, duration(seconds)] for stage, seconds in frame.iter_rows()]
    rows.append(["all", duration(float(frame["seconds"].sum()))])
    _table(console, ["stage", ">time"], rows, most=len(rows))


def _answer(inputs: ReportInputs, console: Console) -> None:
    verdict = answer.verdict(inputs)
    _heading(console, verdict.upper(), "bold green" if inputs.certified else "bold yellow")
    _line(console, answer.headline(inputs))
    _elsewhere(inputs, "certificates", console)
    rows = [
        [
            task_label(row["task"]),
            number(row["improvement"], signed=True),
            number(row["lower_bound"], signed=True),
            "yes" if row["certified"] else "NOT CERTIFIED",
        ]
        for row in answer.task_rows(inputs)
    ]
    console.print()
    headings = ["task, against random text", ">better by (nats/token)", ">at least", "certified"]
    _table(console, headings, rows, most=len(rows))
    console.print()
    shipped = ": ".join(part for part in (inputs.picked, answer.how_built(inputs)) if part)
    for name, text in (
        ("What shipped", shipped if inputs.kept_tokens else f"nothing; picked was {shipped or 'nothing'}"),
        ("Why", " ".join(answer.why_plainly(inputs)) or "Nothing was compared yet."),
        ("Measured with", " ".join([f"{answer.scale(inputs)}.", answer.scale_warning(inputs)])),
        ("Cost", answer.cost(inputs)),
        ("When", answer.when(inputs)),
    ):
        _pair(console, name, text)
    target = pl.col("task") == inputs.target
    statements = [] if inputs.headline is None else [inputs.headline["statement"]]
    statements += inputs.certificates.filter(target, baseline=BEST_SIMPLE)["statement"].to_list()
    if statements:
        _heading(console, "The certificate")
    for statement in statements:
        _line(console, statement)


def _pair(console: Console, name: str, text: str) -> None:
    """Print a name and a text beside it, wrapped within its column."""
    width = 15
    lines = Text(plain(text)).wrap(console, max(console.width - 2 - width, 20))
    for number_, line in enumerate(lines):
        line.rstrip()
        head = Text(f"  {name if number_ == 0 else '':<{width}}", style="dim" if number_ else "bold")
        console.print(head + line, highlight=False)


def _elsewhere(inputs: ReportInputs, table: str, console: Console) -> None:
    """Say for which corpus evidence was measured, where it is not the one that ships."""
    if table in inputs.measured_elsewhere:
        _line(console, inputs.measured_elsewhere[table])


def _places(inputs: ReportInputs, console: Console, report: str) -> None:
    _heading(console, "Where it lies")
    if inputs.curation is not None:
        _line(
            console,
            f"This is curation {inputs.curation}; `python -m grasp_pipeline explain FILE#ROW` says what became of a "
            "document in it.",
        )
    for name, place in (("tables", inputs.store), ("report", report)):
        if place:
            console.print(Text(f"  {name}  {public_location(place)}"), soft_wrap=True, highlight=False)


def _heading(console: Console, text: str, style: str = "bold") -> None:
    console.print()
    console.print(Text(plain(text), style=style))


def _line(console: Console, text: str) -> None:
    for line in Text(plain(text)).wrap(console, console.width - 2):
        line.rstrip()
        console.print(Text("  ") + line, highlight=False)


def _table(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], most: int = MOST_ROWS
) -> None:
    """Print rows of plain text; a heading that begins with > is of numbers."""
    if not rows:
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", show_edge=False
    )
    for heading in headings:
        numeric = heading.startswith(">")
        table.add_column(
            heading.lstrip(">"), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
        )
    for row in rows[:most]:
        table.add_row(*(Text(plain(cell)) for cell in row))
    if len(rows) > most:
        table.add_row(Text(f"{len(rows) - most} more"), *[Text("")] * (len(headings) - 1))
    console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)
