"""The interactive views: places that the page's script draws into, and the data that it draws."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from grasp_pipeline.report.explore import chart_data
from grasp_pipeline.report.formats import visible
from grasp_pipeline.report.inputs import ReportInputs
from grasp_pipeline.report.markup import Html, element

_UNSAFE = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)
"""What could end a script element or a line in it, as JSON writes it otherwise."""


@cache
def script() -> str:
    """Return the script that draws the views."""
    return resources.files("grasp_pipeline.report").joinpath("explore.js").read_text(encoding="utf-8")


def policy(forms: str = "none") -> str:
    """Return the page's content security policy: this one script, no other, and nothing from anywhere.

    forms: where the page's forms may lead, a keyword such as self.
    """
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        f"base-uri 'none'; form-action '{forms}'"
    )


def explore(inputs: ReportInputs) -> list[Html]:
    """Return the places of the charts."""
    return [
        element(
            "p",
            "Point at a mark to read it. Everything is drawn by a script inside this page; nothing is fetched.",
            class_="note",
        ),
        element("div", id="explore-views"),
    ]


def texts(inputs: ReportInputs) -> list[Html]:
    """Return the place of the browser of texts."""
    if not inputs.samples:
        return [element("p", "No texts were sampled: report.texts is off, or there are none.", class_="note")]
    return [
        element(
            "p",
            "A seeded sample of every source and reason, the same for the same tables. Beside a dropped text stands "
            "the kept one most like it; what they share, four words or more in a row, is marked.",
            class_="note",
        ),
        element("div", id="texts-controls", class_="controls"),
        Html('<p id="texts-found" class="note" role="status"></p>'),
        element("div", id="texts-list"),
        Html('<button id="texts-more" type="button" hidden>Show more</button>'),
    ]


def embedded(inputs: ReportInputs) -> Html:
    """Return the data of the views and the script, each in an element of its own."""
    data = _shown(chart_data(inputs) | {"samples": inputs.samples})
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)
    return Html(
        f'<script type="application/json" id="explore-data">{written}</script><script>{script()}</script>'
    )


def _shown(value: Any) -> Any:
    """Return JSON values with texts made visible, character for character, and without numbers that JSON lacks."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _shown(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(inside) for inside in value]
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        return float(f"{value:.6g}")
    return value
