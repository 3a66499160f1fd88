"""The report: one self-contained HTML page, without scripts or anything from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grasp_pipeline.report.formats import count, share
from grasp_pipeline.report.inputs import ReportInputs, task_label
from grasp_pipeline.report.markup import Html, element, named
from grasp_pipeline.report.sections.certificates import certificates
from grasp_pipeline.report.sections.decision import decision
from grasp_pipeline.report.sections.evaluation import evaluation, fidelity
from grasp_pipeline.report.sections.lineage import lineage
from grasp_pipeline.report.sections.reading import reading
from grasp_pipeline.report.sections.tokens import tokens
from grasp_pipeline.report.stylesheet import STYLESHEET


def render(inputs: ReportInputs) -> str:
    """Return the report as an HTML document; equal inputs give equal text."""
    sections: list[tuple[str, str, Callable[[ReportInputs], Sequence[Html]]]] = [
        ("decision", "What was decided and why", decision),
        ("certificates", "Certificates", certificates),
        ("fidelity", "How well the surrogate ranks", fidelity),
        ("evaluation", "Sealed evaluation losses", evaluation),
        ("tokens", "Where the tokens went", tokens),
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
                "p", "Target: ", named(task_label(inputs.target)), f". Run {inputs.run_id}.", class_="lead"
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
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>Corpus selection report</title><style>{STYLESHEET}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _verdict(inputs: ReportInputs) -> Html:
    head = inputs.headline
    if head is None:
        title, words = "No certificate", "Nothing can be said yet of a pruned corpus against a random one."
    else:
        title, words = ("Certified" if inputs.certified else "Not certified"), head["statement"]
    kept, whole = inputs.kept_tokens, inputs.tokens
    if kept:
        tokens = f"Kept {count(kept)} of {count(whole)} tokens ({share(kept, whole)})"
        if head is not None and not inputs.certified:
            tokens += ", published without a certificate because the run allowed it"
        tokens += "."
    else:
        tokens = f"Nothing was published of {count(whole)} tokens."
    failing = [task_label(task) for task in inputs.failing_tasks]
    return element(
        "section",
        element("strong", title),
        element("p", words, class_="words"),
        *(
            [element("p", "Not certified against random on ", named(", ".join(failing)), ".")]
            if failing
            else []
        ),
        element("p", tokens),
        class_="verdict certified" if inputs.certified else "verdict",
        aria_label="Verdict",
    )


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
