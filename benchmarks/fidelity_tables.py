"""The tables of the fidelity laboratory in the README and in docs/fidelity.md, from `results/methods/NAME.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.laboratory.summary import ALL, Row, strongest_forms
from benchmarks.published import RESULTS, ROOT, age, replace_between, source_line
from grasp_pipeline.evaluation.experiment import SELECTED

HEADLINE = "fidelity-fresh"
"""Cells of a seed that nothing was chosen on: what the README and the first tables of the document show."""

MATRIX = "fidelity"
DOCUMENT = ROOT / "docs" / "fidelity.md"
MAIN = ROOT / "README.md"

CONTROLS = {
    "surrogate": "the chosen configuration",
    "quadratic events, metric: own": "the task's own",
    "quadratic events, metric: mean": "the mean over tasks",
    "quadratic events, metric: pool": "the pool's chi-square",
    "quadratic events, metric: identity": "the identity",
    "quadratic events, metric: other": "another task's",
    "log-coverage, additive limit": "none: the additive limit",
}
"""Methods of the control table -> whose metric prices their penalty; all but the first have the same alignment."""

BY_KIND = (
    "damped influence",
    "TRAK, tuned damping",
    "GGDA, k-means on sketches",
    "additive + log(distinct)",
    "additive + log(size)",
    "second-order group influence",
)
"""Rivals of the table by sketch kind."""


def methods_file(name: str, results: Path | None = None) -> Path:
    """Return where every method's row of a result lies, below the folder of published results by default."""
    return (results or RESULTS) / "methods" / f"{name}.json"


def load_rows(name: str) -> tuple[list[Row], list[dict]]:
    """Return the rows of a result, and as they are stored."""
    stored = json.loads(methods_file(name).read_text())
    known = {field.name for field in fields(Row)}
    return [Row(**{key: value for key, value in row.items() if key in known}) for row in stored], stored


def write_tables(names: Iterable[str] = (HEADLINE, MATRIX)) -> None:
    """Write the tables of some results into the pages that show them."""
    for name in names:
        if not methods_file(name).exists():
            continue
        rows, stored = load_rows(name)
        for page, marker, body in tables(name, rows):
            text = "\n\n".join([heading(name, stored), body])
            page.write_text(replace_between(page.read_text(), marker, text))


def tables(name: str, rows: Sequence[Row]) -> list[tuple[Path, str, str]]:
    """Return (page, marker, table) of a result."""
    if name == MATRIX:
        return [
            (DOCUMENT, f"{name}-methods", methods_table(rows)),
            (DOCUMENT, f"{name}-controls", controls_table(rows)),
        ]
    if name != HEADLINE:
        return []
    return [
        (MAIN, name, strata_table(rows)),
        (DOCUMENT, f"{name}-methods", methods_table(rows)),
        (DOCUMENT, f"{name}-controls", controls_table(rows)),
        (DOCUMENT, f"{name}-gains", gains_table(rows)),
        (DOCUMENT, f"{name}-kinds", kinds_table(rows)),
    ]


def heading(name: str, stored: Sequence[dict]) -> str:
    """Return where a result comes from, and what has changed since, in words."""
    with_source = [
        row | {"machine": row.get("machine", ""), "commit": row.get("commit", "")} for row in stored
    ]
    if not with_source[0]["commit"]:
        figures = json.loads((RESULTS / f"{name}.json").read_text())
        with_source = [row | {key: figures[0][key] for key in ("machine", "commit")} for row in with_source]
    old = age(name, with_source)
    first = stored[0]
    size = f"{first['cells']} cells, {first['subsets']} subsets."
    return " ".join(part for part in (source_line(with_source), size, old) if part)


def strata_of_rows(rows: Sequence[Row]) -> list[str]:
    """Return the strata in their order."""
    return list(dict.fromkeys(row.stratum for row in rows))


def rivals_of(rows: Sequence[Row], stratum: str) -> list[Row]:
    """Return each rival's stronger form in a stratum, best first."""
    return [row for row in strongest_forms(rows, stratum) if not row.ours and not row.by_kind]


def strata_table(rows: Sequence[Row]) -> str:
    """Return one line per stratum: the selected surrogate against the rival that is strongest there."""
    lines = [
        "| subsets | surrogate | strongest rival there | its correlation | gain of the surrogate | noise ceiling |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for stratum in strata_of_rows(rows):
        own = next(row for row in rows if row.stratum == stratum and row.key == SELECTED)
        rival = rivals_of(rows, stratum)[0]
        lines.append(
            f"| {stratum} | {_interval(own)} | {rival.method}, {_how(rival)} | {rival.value:.3f} | {_gain(rival)} | "
            f"{own.ceiling:.3f} |"
        )
    own = next(row for row in rows if row.key == SELECTED)
    note = f"The surrogate's sketch, chosen cell by cell: {own.kinds}."
    return "\n".join([*lines, *(["", note] if own.kinds else [])])


def methods_table(rows: Sequence[Row]) -> str:
    """Return methods by their correlation over all strata, each number in the form that is stronger there."""
    strata = strata_of_rows(rows)
    best = {stratum: {row.method: row for row in strongest_forms(rows, stratum)} for stratum in strata}
    head = ["method", *strata, "sketch"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(strata)}---|"]
    for row in strongest_forms(rows, ALL):
        if row.by_kind:
            continue
        name = f"**{row.method}**" if row.key == SELECTED else row.method
        shown = [best[stratum][row.method] for stratum in strata]
        cells = [
            f"{_interval(each) if each.stratum == ALL else f'{each.value:.3f}'} {each.form}" for each in shown
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {row.kinds} |")
    ceilings = [f"{best[stratum][SELECTED[0]].ceiling:.3f}" for stratum in strata]
    lines.append(f"| noise ceiling | {' | '.join(ceilings)} | |")
    return "\n".join(lines)


def gains_table(rows: Sequence[Row]) -> str:
    """Return the surrogate's paired gain over every rival in every stratum, each against the form stronger there."""
    strata = strata_of_rows(rows)
    best = {stratum: {row.method: row for row in rivals_of(rows, stratum)} for stratum in strata}
    lines = [f"| rival | {' | '.join(strata)} |", f"|---|{'---:|' * len(strata)}"]
    for rival in rivals_of(rows, ALL):
        shown = [best[stratum][rival.method] for stratum in strata]
        lines.append(f"| {rival.method} | {' | '.join(f'{_gain(each)} {each.form}' for each in shown)} |")
    counts = []
    for stratum in strata:
        each = best[stratum].values()
        above, below = sum(row.gain_low > 0 for row in each), sum(row.gain_high < 0 for row in each)
        counts.append(f"{above} / {len(each) - above - below} / {below}")
    lines.append(f"| beyond doubt ahead / undecided / behind | {' | '.join(counts)} |")
    return "\n".join(lines)


def controls(rows: Sequence[Row], stratum: str = ALL) -> dict[str, Row]:
    """Return whose metric -> the row of a stratum, in the order of `CONTROLS`."""
    mine = {row.method: row for row in rows if row.stratum == stratum and row.form == "mean"}
    return {said: mine[method] for method, said in CONTROLS.items() if method in mine}


def controls_table(rows: Sequence[Row]) -> str:
    """Return the quadratic form by whose metric its penalty has, in every stratum."""
    strata = strata_of_rows(rows)
    lines = [f"| metric of the penalty | {' | '.join(strata)} |", f"|---|{'---:|' * len(strata)}"]
    for said in controls(rows):
        cells = [_interval(controls(rows, stratum)[said]) for stratum in strata]
        lines.append(f"| {said} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kinds_table(rows: Sequence[Row]) -> str:
    """Return the surrogate and its strongest rivals on the same sketches, over all strata, by sketch kind."""
    best = {row.method: row for row in strongest_forms(rows, ALL)}
    kinds = [
        method.removeprefix("surrogate, ").removesuffix(" sketch")
        for method in best
        if method.startswith("surrogate, ") and method.endswith(" sketch")
    ]
    lines = [f"| sketch | surrogate | {' | '.join(BY_KIND)} |", f"|---|---:|{'---:|' * len(BY_KIND)}"]
    for kind in kinds:
        named = [best.get(f"{method}, {kind} sketch") for method in BY_KIND]
        cells = ["" if row is None else f"{row.value:.3f} {row.form}" for row in named]
        own = best[f"surrogate, {kind} sketch"]
        lines.append(f"| {kind} | {_interval(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(row: Row) -> str:
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"


def _gain(row: Row) -> str:
    return f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"


def _how(row: Row) -> str:
    return f"{row.form} form" + (f" ({row.kinds})" if row.kinds else "")
