"""What the words mean."""

from __future__ import annotations

from grasp_pipeline.report.glossary import TERMS
from grasp_pipeline.report.inputs import ReportInputs
from grasp_pipeline.report.markup import Html, element


def reading(_: ReportInputs) -> list[Html]:
    """Return the definitions of the terms."""
    terms = [part for term, text in TERMS.items() for part in (element("dt", term), element("dd", text))]
    return [element("dl", *terms, class_="terms")]
