"""The report: one self-contained HTML page with one script of its own, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grasp_pipeline.report import answer
from grasp_pipeline.report.blocks import numeric, pairs
from grasp_pipeline.report.formats import count, number, share
from grasp_pipeline.report.inputs import ReportInputs, task_label
from grasp_pipeline.report.markup import Column, Html, element, named, table
from grasp_pipeline.report.sections.certificates import certificates
from grasp_pipeline.report.sections.decision import decision
from grasp_pipeline.report.sections.evaluation import evaluation, fidelity
from grasp_pipeline.report.sections.explore import embedded, explore, policy, texts
from grasp_pipeline.report.sections.lineage import lineage
from grasp_pipeline.report.sections.outliers import outliers
from grasp_pipeline.report.sections.reading import reading
from grasp_pipeline.report.sections.tokens import tokens
from grasp_pipeline.report.stylesheet import STYLESHEET


def render(inputs: ReportInputs) -> str:
    """Return the report as an HTML document; equal inputs give equal text."""
    sections: list[tuple[str, str, Callable[[ReportInputs], Sequence[Html]]]] = [
        ("decision", "What was decided and why", decision),
        ("explore", "Explore", explore),
        ("texts", "Kept, dropped and rejected texts", texts),
        ("certificates", "Certificates", certificates),
        ("fidelity", "How well the surrogate ranks", fidelity),
        ("evaluation", "Sealed evaluation losses", evaluation),
        ("tokens", "Where the tokens went", tokens),
        ("outliers", "Texts that decide alone", outliers),
        ("lineage", "Lineage", lineage),
        ("reading", "How to read this", reading),
    ]
    links = [element("li", element("a", title, href=f"#{name}")) for name, title, _ in sections]
    body = element(
        "main",
        element(
            "header",
            element("h1", "Corpus selection report"),
            element(
                "p",
                "Target: ",
                named(task_label(inputs.target)),
                f". {'' if inputs.curation is None else f'Curation {inputs.curation}. '}Run {inputs.run_id}.",
                class_="lead",
            ),
            element("nav", element("ul", *links), aria_label="Sections"),
        ),
        _verdict(inputs),
        _facts(inputs),
        *(
            element(
                "section",
                element("h2", title, id=f"{name}-title"),
                *build(inputs),
                id=name,
                aria_labelledby=f"{name}-title",
            )
            for name, title, build in sections
        ),
    )
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>Corpus selection report</title><style>{STYLESHEET}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}{embedded(inputs)}</body></html>\n'


def _verdict(inputs: ReportInputs) -> Html:
    failing = [task_label(task) for task in inputs.failing_tasks]
    shipped = ": ".join(part for part in (inputs.picked, answer.how_built(inputs)) if part)
    return element(
        "section",
        element("strong", answer.verdict(inputs).capitalize()),
        element("p", answer.headline(inputs), class_="words"),
        *(
            [element("p", "Not certified against random on ", named(", ".join(failing)), ".")]
            if failing
            else []
        ),
        *_tasks(inputs),
        pairs(
            (
                "What shipped",
                shipped if inputs.kept_tokens else f"Nothing; picked was {shipped or 'nothing'}.",
            ),
            ("Why", " ".join(answer.why_plainly(inputs)) or "Nothing was compared yet."),
            ("Measured with", " ".join([f"{answer.scale(inputs)}.", answer.scale_warning(inputs)])),
            ("Cost", answer.cost(inputs)),
            ("When", answer.when(inputs)),
        ),
        class_="verdict certified" if inputs.certified else "verdict",
        aria_label="Verdict",
    )


def _tasks(inputs: ReportInputs) -> list[Html]:
    """Return a row for each task that something was certified on or not; none without a certificate."""
    rows = [
        [
            named(task_label(row["task"])),
            number(row["improvement"], signed=True),
            number(row["lower_bound"], signed=True),
            "yes" if row["certified"] else element("strong", "NOT CERTIFIED"),
        ]
        for row in answer.task_rows(inputs)
    ]
    columns = [Column("Task"), *numeric("Better than random text by", "At least"), Column("Certified")]
    return [table("Nats per token, by task", columns, rows)] if rows else []


def _facts(inputs: ReportInputs) -> Html:
    facts = [
        ("Documents read", count(inputs.documents_read), ""),
        (
            "Rejected before tokenization",
            count(inputs.documents_rejected),
            f"{share(inputs.documents_rejected, inputs.documents_read)} of the documents",
        ),
        ("Tokens in the clean corpus", count(inputs.tokens), f"in {count(inputs.documents_kept)} documents"),
        (
            "Tokens kept",
            count(inputs.kept_tokens),
            f"{share(inputs.kept_tokens, inputs.tokens)}; budget {count(inputs.budget_tokens)}",
        ),
    ]
    return element(
        "dl",
        *(
            element(
                "div", element("dt", name), element("dd", value, *([element("small", more)] if more else []))
            )
            for name, value, more in facts
        ),
        class_="facts",
    )
