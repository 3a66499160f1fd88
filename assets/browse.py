"""A local page over the whole store: search, the report's views, one document's way, a query box, two curations.

    python -m assets.browse --port 8321

It reads the tables as a curation read them, writes nothing, and answers on 127.0.0.1 alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from grasp_pipeline import tables
from grasp_pipeline.errors import ConfigError, GraspError, InputError
from grasp_pipeline.report.formats import brief
from grasp_pipeline.report.markup import Column, Html, element, named, table

if TYPE_CHECKING:
    import polars as pl
    from starlette.applications import Starlette
    from starlette.requests import Request

    from assets.id_index import IdIndex, Indexes
    from grasp_pipeline.lineage.curation import Curation
    from resources.delta.tables import DeltaTables

MOST_ROWS = 50
"""Rows of an answer."""

MOST_SEARCHED = 200_000
"""Documents whose text a search reads; the answer says when there are more."""

PREVIEW = 300
"""Characters of a text in an answer."""

OUTCOMES = {
    "kept": tables.PRUNED_CORPUS,
    "dropped": tables.DROP_REASONS,
    "rejected": tables.REJECTED_DOCUMENTS,
}


def find_rows(
    curation: Curation,
    outcome: str,
    source: str = "",
    reason: str = "",
    identity: str = "",
    most: int = MOST_ROWS,
    index: IdIndex | None = None,
) -> pl.DataFrame:
    """Return rows of what was kept, dropped or rejected; the columns that are read are those that are asked for.

    Args:
        curation: whose versions are read.
        outcome: kept, dropped or rejected.
        source, reason: exactly; empty: any.
        identity: beginning of a chunk's or document's id; empty: any.
        most: rows; which of more is not said.
        index: of the outcome's ids; without it an id is looked for among all.

    Raises:
        InputError: there is no such outcome.
    """
    import polars as pl

    if outcome not in OUTCOMES:
        raise InputError(f"there is no outcome {outcome!r}; choose among {', '.join(OUTCOMES)}")
    frame = curation.read(OUTCOMES[outcome])
    if source:
        frame = frame.filter(pl.col("source") == source)
    if reason and outcome != "kept":
        frame = frame.filter(pl.col("reason") == reason)
    if identity:
        if index is not None:
            frame = frame.filter(pl.col("shard").is_in(index.shards_of(identity)))
        frame = frame.filter(pl.col(id_column(outcome)).str.starts_with(identity))
    return frame.head(most).collect(engine="streaming")


def id_column(outcome: str) -> str:
    """Return the column that an outcome's rows are looked up by."""
    return "doc_id" if outcome == "rejected" else "chunk_id"


def find_texts(
    curation: Curation, words: str, most: int = MOST_ROWS, searched: int = MOST_SEARCHED
) -> tuple[pl.DataFrame, bool]:
    """Return documents whose text holds some words as they stand, and whether all documents were looked at.

    Args:
        curation: whose versions are read.
        words: looked for as they stand, large and small letters told apart.
        most: documents returned.
        searched: documents whose text is read at most, in the order in which they are stored.

    Returns:
        doc_id, source, origin and passage, and whether no more than `searched` documents exist.
    """
    import polars as pl

    documents = curation.read(tables.DOCUMENTS)
    count = documents.select(pl.len()).collect(engine="streaming").item()
    at = pl.col("text").str.find(words, literal=True)
    around = (at.cast(pl.Int64) - PREVIEW).clip(0)  # bytes before it: at least as many as characters
    found = (
        documents.head(searched)
        .filter(pl.col("text").str.contains(words, literal=True))
        .head(most)
        .select("doc_id", "source", "origin", passage=pl.col("text").str.slice(around, 2 * PREVIEW))
        .collect(engine="streaming")
    )
    return found, count <= searched


def queried(curation: Curation) -> list[str]:
    """Return the tables that a query may read: those of the curation but for what holds sealed rows or documents."""
    sealed = tables.BY_SPLIT | {tables.TASK_DOCUMENTS.name}
    return sorted(name for name in curation.versions if name in tables.ALL and name not in sealed)


def run_query(curation: Curation, sql: str, most: int = MOST_ROWS) -> pl.DataFrame:
    """Return the first rows of a SQL query over the tables of a curation, by their names.

    Raises:
        InputError: the query cannot be answered; the message says why.
    """
    import polars as pl

    known = {name: curation.read(tables.ALL[name]) for name in queried(curation)}
    try:
        with pl.SQLContext(known, eager=False) as context:
            return context.execute(sql).head(most).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise InputError(f"the query cannot be answered: {error}") from error


def shown(frame: pl.DataFrame, caption: str) -> Html:
    """Return a frame as a table of the page; ids lead to the document, binary columns are told by their size."""
    numeric = [dtype.is_numeric() for dtype in frame.dtypes]
    columns = [Column(name, numeric=number) for name, number in zip(frame.columns, numeric, strict=True)]
    rows = [
        [_linked(name, value) for name, value in zip(frame.columns, row, strict=True)]
        for row in frame.iter_rows()
    ]
    return table(caption, columns, rows) if rows else element("p", "Nothing was found.")


def _linked(name: str, value: object) -> object:
    """Return a value as a cell of the page; an id leads to what became of it."""
    from urllib.parse import quote

    short = brief(value)
    if short is not None:
        return short
    if name in ("doc_id", "chunk_id", "nearest_kept", "duplicate_of"):
        return element("a", str(value)[:40], href=f"/explain?id={quote(str(value))}")
    text = str(value)
    return named(text if len(text) <= 2 * PREVIEW else f"{text[: 2 * PREVIEW]}…")


def _control(label: str, name: str, values: Mapping[str, str], kind: str = "", wide: bool = False) -> Html:
    size = {"size": "60"} if wide else {}
    entry = Html(
        element(
            "input", id=name, name=name, value=values.get(name, ""), type=kind or "search", **size
        ).removesuffix("</input>")
    )
    return element("span", element("label", label, for_=name), entry, class_="control")


def _select(label: str, name: str, options: Sequence[str], values: Mapping[str, str]) -> Html:
    chosen = values.get(name, "")
    entries = [
        element("option", one or "any", value=one, **({"selected": ""} if one == chosen else {}))
        for one in options
    ]
    return element(
        "span",
        element("label", label, for_=name),
        element("select", *entries, id=name, name=name),
        class_="control",
    )


def _form(action: str, button: str, *controls: Html) -> Html:
    return element(
        "form", *controls, element("button", button, type="submit"), action=action, class_="controls"
    )


def page(title: str, *parts: Html) -> str:
    """Return a page of the app."""
    from grasp_pipeline.report.stylesheet import STYLESHEET

    links = (
        ("/", "Search"),
        ("/views", "Views"),
        ("/query", "Query"),
        ("/compare", "Compare"),
        ("/taught", "Taught"),
        ("/report", "Report"),
    )
    body = element(
        "main",
        element(
            "nav",
            element("ul", *(element("li", element("a", name, href=to)) for to, name in links)),
            aria_label="Pages",
        ),
        element("h1", title),
        *parts,
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{element('span', title).removeprefix('<span>').removesuffix('</span>')}</title>"
        f"<style>{STYLESHEET}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def make_app(
    delta: DeltaTables, indexes: Indexes | None = None, seconds: Callable[[str], pl.DataFrame] | None = None
) -> Starlette:
    """Return the app over a store; it answers only where it is called by a name of this machine.

    Args:
        delta: the store's tables.
        indexes: of the ids of the curation that is asked for most; None: an id is looked for among all.
        seconds: tells stage and seconds of a run by its id; None: the views do without.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route

    def answering(build: Callable[[Mapping[str, str]], str]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            try:
                return HTMLResponse(build(request.query_params), headers=headers())
            except GraspError as error:
                told = page("That cannot be answered", element("p", str(error), role="alert"))
                return HTMLResponse(told, status_code=400, headers=headers())

        return answer

    views = Views(delta, seconds)
    pages = {
        "/": lambda asked: search_page(delta, asked, indexes),
        "/views": views.page,
        "/explain": lambda asked: explain_page(delta, asked),
        "/query": lambda asked: query_page(delta, asked),
        "/compare": lambda asked: compare_page(delta, asked),
        "/taught": lambda asked: taught_page(delta, asked),
    }
    routes = [Route(path, answering(build)) for path, build in pages.items()]

    def report(request: Request) -> Response:
        from pathlib import Path

        path = Path(delta.root, "report", "report.html")
        if not path.is_file():
            return HTMLResponse(page("No report", element("p", "Run the job curate, which writes it.")), 404)
        return HTMLResponse(path.read_text(encoding="utf-8"))

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "testserver"])
    return Starlette(routes=[*routes, Route("/report", report)], middleware=[hosts])


def headers() -> dict[str, str]:
    """Return what every page is sent with: the one script that may run is that of the report's views."""
    from grasp_pipeline.report.sections.explore import policy

    return {
        "Content-Security-Policy": f"{policy(forms='self')}; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
    }


def _curation(delta: DeltaTables, asked: Mapping[str, str], name: str = "curation") -> Curation:
    from grasp_pipeline.__main__ import curation_rows
    from grasp_pipeline.lineage.curation import find_curation

    said = asked.get(name, "").strip()
    if said and not said.isdigit():
        raise ConfigError(f"{said!r} is not the number of a curation; give one such as 1")
    return find_curation(curation_rows(delta), int(said) if said else None, delta)


def _indexes(delta: DeltaTables) -> Indexes | None:
    """Begin to index the newest curation; None where there is none yet, which the pages say."""
    from assets.id_index import Indexes

    try:
        return Indexes(
            _curation(delta, {}), {name: (each, id_column(name)) for name, each in OUTCOMES.items()}
        )
    except GraspError:
        return None


def search_page(delta: DeltaTables, asked: Mapping[str, str], indexes: Indexes | None = None) -> str:
    """Return the search by source, reason, id or words, and its answer."""
    curation, begun = _curation(delta, asked), time.perf_counter()
    outcome, words = asked.get("outcome", "dropped"), asked.get("words", "")
    parts: list[Html] = [
        element("p", str(curation.row["statement"]), class_="lead"),
        _form(
            "/",
            "Search",
            _select("Outcome", "outcome", list(OUTCOMES), {"outcome": outcome}),
            _control("Source", "source", asked),
            _control("Reason", "reason", asked),
            _control("Id begins with", "id", asked),
            _control("Words in a document", "words", asked),
            _control("Curation", "curation", asked),
        ),
        _form(
            "/explain",
            "Explain",
            _control("Id of a document or chunk, or FILE#ROW", "id_or_origin", asked, wide=True),
        ),
    ]
    if words:
        found, whole = find_texts(curation, words)
        caption = f"Documents that hold {words!r}"
        if not whole:
            caption += f", among the first {MOST_SEARCHED:,}; the query box searches all, in minutes"
    else:
        source, reason, identity = (asked.get(name, "").strip() for name in ("source", "reason", "id"))
        index = None if indexes is None else indexes.of(curation, outcome)
        found = find_rows(curation, outcome, source, reason, identity, index=index)
        caption = f"What was {outcome}"
    caption += f" (at most {MOST_ROWS} rows, {time.perf_counter() - begun:.2f} s)"
    return page(f"Curation {curation.number}", *parts, shown(found, caption))


class Views:
    """The page with the report's interactive views, of any curation; what it counted is kept until a job adds to it."""

    def __init__(self, delta: DeltaTables, seconds: Callable[[str], pl.DataFrame] | None) -> None:
        self._delta, self._seconds = delta, seconds
        self._made: dict[tuple[int, int | None], str] = {}

    def page(self, asked: Mapping[str, str]) -> str:
        """Return the page of the curation that is asked for."""
        from assets.provenance import measured_on
        from grasp_pipeline.evaluation.fidelity import TEXT

        curation = _curation(self._delta, asked)
        sealed = measured_on(self._delta, tables.FIDELITY, curation, {"corpus": TEXT})
        key = curation.number, None if sealed is None else sealed.version
        if key not in self._made:
            self._made[key] = views_page(self._delta, curation, self._seconds)
        return self._made[key]


def views_page(
    delta: DeltaTables, curation: Curation, seconds: Callable[[str], pl.DataFrame] | None = None
) -> str:
    """Return the report's interactive views of a curation."""
    from assets.reporting import report_inputs
    from grasp_pipeline.report.sections.explore import embedded, explore

    run = str(curation.row["run_id"])
    inputs = report_inputs(delta, None if seconds is None else seconds(run), curation=curation)
    missing = []
    if inputs.timings.is_empty():
        missing.append(f"Cost per stage: run {run} is not in the history of DAGSTER_HOME.")
    if inputs.predictions.filter(split="sealed").is_empty():
        missing.append("Sealed subsets: none are stored for this curation; the job fidelity measures them.")
    return page(
        f"Views of curation {curation.number}",
        element("p", str(curation.row["statement"]), class_="lead"),
        _form("/views", "Show", _control("Curation", "curation", {"curation": str(curation.number)})),
        element("h2", "The views of the report"),
        *explore(inputs),
        *(element("p", f"Not shown. {sentence}", class_="note") for sentence in missing),
        embedded(inputs),
    )


def explain_page(delta: DeltaTables, asked: Mapping[str, str]) -> str:
    """Return what became of a document at every stage."""
    from grasp_pipeline.lineage.explain import explain, explanation_text

    wanted = (asked.get("id") or asked.get("id_or_origin") or "").strip()
    told = explanation_text(explain(_curation(delta, asked), wanted))
    return page("What became of it", *(element("p", line) for line in told.splitlines()))


def query_page(delta: DeltaTables, asked: Mapping[str, str]) -> str:
    """Return the query box and its answer."""
    curation, sql = _curation(delta, asked), asked.get("sql", "")
    known = ", ".join(queried(curation))
    box = element("textarea", sql, id="sql", name="sql", rows="4", cols="80")
    form = _form("/query", "Run", element("span", element("label", "SQL", for_="sql"), box, class_="control"))
    parts = [element("p", f"Tables: {known}. The first {MOST_ROWS} rows are shown.", class_="note"), form]
    if sql.strip():
        begun = time.perf_counter()
        found = run_query(curation, sql)
        parts.append(shown(found, f"Answer ({time.perf_counter() - begun:.2f} s)"))
    return page("Query", *parts)


def compare_page(delta: DeltaTables, asked: Mapping[str, str]) -> str:
    """Return the form for two curations, or the page that compares them."""
    from grasp_pipeline.__main__ import sealed_losses
    from grasp_pipeline.lineage.compare import compare
    from grasp_pipeline.lineage.page import comparison_page

    if asked.get("before") and asked.get("after"):
        before, after = _curation(delta, asked, "before"), _curation(delta, asked, "after")
        losses = {each.number: sealed_losses(delta, each) for each in (before, after)}
        return comparison_page(compare(before, after, losses))
    form = _form(
        "/compare", "Compare", *(_control(name.capitalize(), name, asked) for name in ("before", "after"))
    )
    return page("Compare two curations", element("p", "Give their numbers.", class_="note"), form)


def taught_page(delta: DeltaTables, asked: Mapping[str, str]) -> str:
    """Return the form for a sentence, and the kept chunks that taught it."""
    from assets.taught import taught_parts
    from resources.store import DeltaStore

    store, curation = DeltaStore(root=delta.root), _curation(delta, asked)
    return page("Which kept chunks taught this?", *taught_parts(store, curation, asked, _form, _control))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the store of `GRASP_STORE` until it is interrupted; returns the exit status."""
    import uvicorn

    from assets.reporting import run_seconds
    from assets.run import this_instance
    from assets.ui import port_number, taken
    from resources.store import DeltaStore

    parser = argparse.ArgumentParser(prog="python -m assets.browse", description=__doc__)
    parser.add_argument("--port", type=port_number, default=8321, help="port of 127.0.0.1")
    port = parser.parse_args(arguments).port
    if (told := taken(port, "browse")) is not None:
        print(f"Error: {told}", file=sys.stderr)
        return 1
    try:
        delta = DeltaStore(root=os.environ.get("GRASP_STORE", "store")).tables
        instance = this_instance()
        app = make_app(delta, _indexes(delta), lambda run: run_seconds(instance, run))
    except GraspError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"Browse the store at http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
