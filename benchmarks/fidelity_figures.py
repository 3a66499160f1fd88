"""Finished cells of the fidelity laboratory to result files, tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.record import RESULTS, ROOT, Figure, replace_between, save
from grasp_pipeline.calibration.rank import spearman, task_level_spearman
from grasp_pipeline.laboratory.cell import SELECTED, CellResult
from grasp_pipeline.laboratory.design import OPTIMISED
from grasp_pipeline.laboratory.figures import (
    Bar,
    Kind,
    Line,
    Panel,
    StratumRow,
    bars,
    lambda_profile,
    predicted_measured,
    stratum_grid,
)
from grasp_pipeline.laboratory.summary import (
    ALL,
    OWN_TARGET,
    Row,
    Sample,
    choice_regret,
    rows_of,
    sample,
    strata_of,
    strongest_forms,
)

RESAMPLES = 1000
REGRET_DRAWS = 2
SECOND_SEED = ("surrogate, second sketch seed", "mean")
EXACT = ("surrogate, exact gradients", "mean")
PICTURES = ROOT / "docs" / "figures"
DOCUMENT = ROOT / "docs" / "fidelity.md"
MAIN = ROOT / "README.md"
DEFAULT = "fidelity"
"""Name of the default matrix, whose tables and pictures the documents show."""

SHOWN = (
    "surrogate",
    "additive + log(distinct)",
    "GGDA, k-means on sketches",
    "damped influence",
    "TRAK, tuned damping",
    "TRAK, default damping",
    "GradDot",
    "second-order group influence",
    "datamodel on source counts",
)
"""Methods of the README's table."""


def publish(cells: Sequence[CellResult], name: str, command: str) -> Path:
    """Write `results/NAME.json` and, for the default matrix, its tables and pictures; returns the file.

    Args:
        cells: finished cells.
        name: of the result file.
        command: that made it.
    """
    strata = strata_of(cells)
    samples = {stratum: sample(cells, stratum, RESAMPLES, "fidelity") for stratum in strata}
    rows = [row for stratum in strata for row in rows_of(samples[stratum], stratum)]
    found = figures(cells, samples, rows)
    path = save(name, command, found)
    table = RESULTS / "methods" / f"{name}.json"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(json.dumps([{**asdict(row), "command": command} for row in rows], indent=1) + "\n")
    if name == DEFAULT:
        body = methods_table(rows, strata)
        DOCUMENT.write_text(replace_between(DOCUMENT.read_text(), f"{name}-methods", body))
        MAIN.write_text(replace_between(MAIN.read_text(), name, short_table(rows)))
        draw(cells, rows, strata, PICTURES, name)
    return path


def figures(cells: Sequence[CellResult], samples: dict[str, Sample], rows: Sequence[Row]) -> list[Figure]:
    """Return the laboratory's figures; goals are those that it set out to reach."""
    by = {(row.key, row.stratum): row for row in rows}
    chosen = by[SELECTED, ALL]
    size = f"{chosen.cells} cells, {chosen.subsets} subsets, 95% over subsets"
    out = [_spearman("fidelity.spearman_all", chosen, "at least 0.95", size)]
    for stratum in samples:
        if stratum in (ALL, OWN_TARGET):
            continue
        name = "optimised_all_tasks" if stratum == OPTIMISED else stratum
        row = by[SELECTED, stratum]
        out.append(_spearman(f"fidelity.spearman_{name}", row, "", f"ceiling {row.ceiling:.3f}"))
    if OWN_TARGET in samples:
        own = by[SELECTED, OWN_TARGET]
        note = f"finalists ranked by the task they were made for; ceiling {own.ceiling:.3f}"
        out.append(_spearman("fidelity.spearman_optimised", own, "at least 0.8", note))
        judged = by.get((("judge", "mean"), OWN_TARGET))
        if judged is not None:
            out.append(_spearman("fidelity.judge_optimised", judged, "", "the judge of the finalists"))
    for form in ("sum", "mean"):
        out.append(
            _ratio(samples[ALL], ("TRAK, default damping", form), f"fidelity.ratio_trak_default_{form}")
        )
    best = max(("sum", "mean"), key=lambda form: by[("TRAK, default damping", form), ALL].value)
    out.append(
        _ratio(
            samples[ALL], ("TRAK, default damping", best), "fidelity.ratio_trak_default", "at least 2", best
        )
    )
    for stratum in (ALL, "tilted", "uniform"):
        if stratum in samples:
            out += _paired(samples[stratum], rows, stratum)
    if "uniform" in samples:
        row = by[SELECTED, "uniform"]
        out.append(
            Figure(
                "fidelity.uniform_share_of_ceiling",
                row.value / row.ceiling,
                "share",
                "at least 0.9",
                row.low / row.ceiling,
                row.high / row.ceiling,
                f"ceiling {row.ceiling:.3f}",
            )
        )
    for ending, name in (("", ""), ("+early", "_two_checkpoints")):
        pair = [(f"surrogate, {kind}{ending} sketch", "mean") for kind in ("output", "full")]
        if all(key in samples[ALL].keys for key in pair):
            goal = "" if name else "at least 0.97"
            out.append(_quotient(samples[ALL], pair[0], pair[1], f"fidelity.output_sketch_share{name}", goal))
    counts = min(len(cell.calibration_strata) for cell in cells)
    for subsets in (24, 48):
        if subsets <= counts:
            regret = choice_regret(cells, subsets, REGRET_DRAWS, 0.95, "regret")
            goal = "at most 0.01" if subsets == 24 else ""
            note = f"{regret.adopted:.0%} of choices have lambda above 0; interval over cells"
            out.append(
                Figure(
                    f"fidelity.lcb_regret_{subsets}",
                    regret.mean,
                    "rank correlation",
                    goal,
                    regret.low,
                    regret.high,
                    note,
                )
            )
    out.append(Figure("fidelity.ceiling_all", chosen.ceiling, "rank correlation", note="seed reliability"))
    if (EXACT, ALL) in by:
        out.append(
            _spearman("fidelity.spearman_exact_gradients", by[EXACT, ALL], "", "no sketch, one checkpoint")
        )
    if (SECOND_SEED, ALL) in by:
        out.append(_spearman("fidelity.spearman_second_seed", by[SECOND_SEED, ALL], "", "same configuration"))
        agreement = np.mean(
            [spearman(cell.predictions[SELECTED].T, cell.predictions[SECOND_SEED].T).mean() for cell in cells]
        )
        out.append(
            Figure(
                "fidelity.sketch_seed_agreement", float(agreement), "rank correlation", note="of predictions"
            )
        )
    return out


def _spearman(name: str, row: Row, goal: str, note: str) -> Figure:
    return Figure(name, row.value, "rank correlation", goal, row.low, row.high, note)


def _ratio(found: Sample, rival: tuple[str, str], name: str, goal: str = "", form: str = "") -> Figure:
    note = f"strongest form: {form}" if form else ""
    return _quotient(found, SELECTED, rival, name, goal, note)


def _quotient(
    found: Sample, above: tuple[str, str], below: tuple[str, str], name: str, goal: str, note: str = ""
) -> Figure:
    (value, drawn), (other, others) = found.column(above), found.column(below)
    low, high = found.interval(drawn / others)
    return Figure(name, value / other, "ratio", goal, low, high, note)


def _paired(found: Sample, rows: Sequence[Row], stratum: str) -> list[Figure]:
    """Return the least paired gain over all rivals, each in its strongest form, alone and for all at once."""
    rivals = [row for row in strongest_forms(rows, stratum) if not row.ours]
    closest = min(rivals, key=lambda row: row.gain_low)
    _, own = found.column(SELECTED)
    tail = 0.025 / len(rivals)
    together = {row.method: float(np.quantile(own - found.column(row.key)[1], tail)) for row in rivals}
    worst = min(together, key=lambda method: together[method])
    beaten = sum(row.gain_low > 0 for row in rivals)
    goal = "above 0" if stratum in (ALL, "tilted") else ""
    return [
        Figure(
            f"fidelity.min_paired_low_{stratum}",
            closest.gain_low,
            "rank correlation",
            goal,
            note=f"{closest.method}, {closest.form} form (gain {closest.gain:+.3f}); above 0 for {beaten} of "
            f"{len(rivals)} rivals, each bound on its own",
        ),
        Figure(
            f"fidelity.min_paired_low_{stratum}_together",
            together[worst],
            "rank correlation",
            note=f"{worst}; Bonferroni over {len(rivals)} rivals",
        ),
    ]


def methods_table(rows: Sequence[Row], strata: Sequence[str]) -> str:
    """Return a Markdown table: methods in their stronger form over all strata, best first."""
    by = {(row.key, row.stratum): row for row in rows}
    head = ["method", "form", *strata, "gain of the surrogate, all"]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(strata) + 1)}"]
    for best in strongest_forms(rows, ALL):
        cells = []
        for stratum in strata:
            row = by[best.key, stratum]
            interval = f" [{row.low:.3f}, {row.high:.3f}]" if stratum == ALL else ""
            cells.append(f"{row.value:.3f}{interval}")
        gain = (
            "" if best.key == SELECTED else f"{best.gain:+.3f} [{best.gain_low:+.3f}, {best.gain_high:+.3f}]"
        )
        name = f"**{best.method}**" if best.key == SELECTED else best.method
        lines.append(f"| {name} | {best.form} | {' | '.join(cells)} | {gain} |")
    ceilings = [f"{by[SELECTED, stratum].ceiling:.3f}" for stratum in strata]
    lines.append(f"| noise ceiling | | {' | '.join(ceilings)} | |")
    return "\n".join(lines)


def short_table(rows: Sequence[Row]) -> str:
    """Return the README's table: some methods in their strongest form, all strata and tilted."""
    best = {row.method: row for row in strongest_forms(rows, ALL)}
    by = {(row.key, row.stratum): row for row in rows}
    lines = ["| method | all strata | tilted | gain of the surrogate, all strata |", "|---|---:|---:|---:|"]
    for method in sorted(SHOWN, key=lambda name: -best[name].value):
        row = best[method]
        tilted = by[row.key, "tilted"]
        gain = "" if row.key == SELECTED else f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"
        value = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
        lines.append(f"| {method}, {row.form} form | {value} | {tilted.value:.3f} | {gain} |")
    first = best["surrogate"]
    lines.append(f"| noise ceiling | {first.ceiling:.3f} | {by[SELECTED, 'tilted'].ceiling:.3f} | |")
    return "\n".join(lines)


def draw(
    cells: Sequence[CellResult], rows: Sequence[Row], strata: Sequence[str], folder: Path, name: str
) -> None:
    """Draw the four pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    best = strongest_forms(rows, ALL)
    ceiling = best[0].ceiling
    drawn = [Bar(f"{row.method} ({row.form})", row.value, row.low, row.high, _kind(row)) for row in best]
    title = f"Rank correlation with retrained subsets, all strata, {best[0].cells} cells"
    bars(drawn, folder / f"{name}-methods.png", title, (ceiling, ceiling))

    grid = []
    for stratum in strata:
        ranked = strongest_forms(rows, stratum)
        shown = [next(row for row in ranked if row.key == SELECTED)]
        shown.append(next(row for row in ranked if row.additive_baseline))
        shown.append(next(row for row in ranked if row.method == "second-order group influence"))
        grid += [
            StratumRow(stratum, row.method, row.value, row.low, row.high, row.ceiling, _kind(row))
            for row in shown
        ]
    stratum_grid(grid, folder / f"{name}-strata.png")

    panels = []
    for cell in cells[:4]:
        scores = cell.predictions[SELECTED].mean(axis=1)
        measured = cell.utilities.mean(axis=(1, 2))
        panels.append(Panel(cell.name, scores, measured, cell.strata))
    predicted_measured(panels, folder / f"{name}-predicted.png", ranks=True)

    configurations = cells[0].configurations
    truth = np.mean([_grid_correlations(cell) for cell in cells], axis=0)
    kind = configurations[cells[0].chosen].sketch_kind
    lines = []
    for rho in sorted({c.rho for c in configurations}):
        mine = [
            (c.lam, truth[k])
            for k, c in enumerate(configurations)
            if c.sketch_kind == kind and c.rho == rho and c.form == "mean"
        ]
        lines.append(Line(f"{kind}, rho {rho:g}", [lam for lam, _ in mine], [value for _, value in mine]))
    lambda_profile(lines, folder / f"{name}-lambda.png")


def _grid_correlations(cell: CellResult) -> np.ndarray:
    return task_level_spearman(cell.grid_evaluation, cell.utilities.mean(axis=2))


def _kind(row: Row) -> Kind:
    if row.key == SELECTED:
        return "ours"
    if row.method in ("random", "loss only", "distinct documents", "quadratic only"):
        return "control"
    if row.ours:
        return "ceiling"
    return (
        "interaction"
        if row.method in ("second-order group influence", "additive + log(distinct)")
        else "additive"
    )
