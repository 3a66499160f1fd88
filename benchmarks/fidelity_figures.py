"""Finished cells of the fidelity laboratory to result files, tables and pictures.

    python -m benchmarks.fidelity_figures

draws the picture of the controls again from the headline's stored rows, without its cells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.fidelity_tables import (
    BY_KIND,
    HEADLINE,
    controls,
    load_rows,
    methods_file,
    rivals_of,
    write_tables,
)
from benchmarks.laboratory.figures import (
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
from benchmarks.laboratory.summary import (
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
from benchmarks.published import ROOT, Figure, published_here, save, stamp
from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.rank import spearman, task_level_spearman
from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.evaluation.experiment import RETRAINED, SELECTED, CellResult

ONCE = ("one run, scored on the query", "mean")
RESAMPLES = 1000
REGRET_DRAWS = 12
SECOND_SEED = ("surrogate, second sketch seed", "mean")
EXACT = ("surrogate, exact gradients", "mean")
PICTURES = ROOT / "docs" / "figures"


def publish(cells: Sequence[CellResult], name: str, command: str, asked: Sequence[Floats] = ()) -> Path:
    """Write `results/NAME.json`, the tables made from it and, for the headline's cells, pictures; returns the file.

    Args:
        cells: finished cells.
        name: of the result file.
        command: that made it.
        asked: for every cell, what its models reached on the query documents: (m, T, S); none: not known.
    """
    strata = strata_of(cells)
    samples = {stratum: sample(cells, stratum, RESAMPLES, "fidelity", stratum == ALL) for stratum in strata}
    rows = [row for stratum in strata for row in rows_of(samples[stratum], stratum)]
    measured = [dict(cell.origin) for cell in cells]
    made = figures(cells, samples, rows) + beside_another_run(cells, asked)
    path = save(name, command, made, measured)
    table = methods_file(name, path.parent)
    table.parent.mkdir(parents=True, exist_ok=True)
    origin = stamp(name, command, measured)
    table.write_text(json.dumps([asdict(row) | origin for row in rows], indent=1) + "\n")
    if published_here(path):
        write_tables([name])
        if name == HEADLINE:
            draw(cells, [row for row in rows if not row.by_kind], strata, PICTURES, "fidelity")
    return path


def figures(cells: Sequence[CellResult], samples: dict[str, Sample], rows: Sequence[Row]) -> list[Figure]:
    """Return the laboratory's figures; goals are those that it set out to reach."""
    by = {(row.key, row.stratum): row for row in rows}
    chosen = by[SELECTED, ALL]
    size = f"{chosen.cells} cells, {chosen.subsets} subsets, 95% over subsets; sketch {chosen.kinds}"
    out = [_spearman("fidelity.spearman_all", chosen, "at least 0.955", size)]
    for stratum in samples:
        if stratum in (ALL, OWN_TARGET):
            continue
        name = "optimised_all_tasks" if stratum == OPTIMISED else stratum
        row = by[SELECTED, stratum]
        out.append(
            _spearman(f"fidelity.spearman_{name}", row, "", f"sketch {row.kinds}; ceiling {row.ceiling:.3f}")
        )
    if OWN_TARGET in samples:
        own = by[SELECTED, OWN_TARGET]
        note = f"finalists ranked by the task they were made for; ceiling {own.ceiling:.3f}"
        out.append(_spearman("fidelity.spearman_optimised", own, "at least 0.94", note))
        out += _beside_retrained(samples[OWN_TARGET], "own_task")
        judged = by.get((("judge", "mean"), OWN_TARGET))
        if judged is not None:
            out.append(_spearman("fidelity.judge_optimised", judged, "", "the judge of the finalists"))
    out += _beside_retrained(samples[ALL], "all")
    for form, goal in (("sum", ""), ("mean", "at least 1.9")):
        rival = ("TRAK, default damping", form)
        out.append(_ratio(samples[ALL], rival, f"fidelity.ratio_trak_default_{form}", goal))
        out.append(
            Figure(
                f"fidelity.ratio_trak_ceiling_{form}",
                samples[ALL].ceiling / by[rival, ALL].value,
                "ratio",
                note="what a perfect prediction would have: the noise ceiling over the same rival",
            )
        )
    best = max(("sum", "mean"), key=lambda form: by[("TRAK, default damping", form), ALL].value)
    out.append(
        _ratio(samples[ALL], ("TRAK, default damping", best), "fidelity.ratio_trak_default", "reported", best)
    )
    for stratum in samples:
        out += _paired(samples[stratum], rows, stratum)
    out += _same_sketch(samples[ALL], rows)
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
    for subsets in (24, 36, 48):
        if subsets <= counts:
            regret = choice_regret(cells, subsets, REGRET_DRAWS, 0.95, "regret")
            goal = "at most 0.005" if subsets == 24 else ""
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


def _beside_retrained(found: Sample, stratum: str) -> list[Figure]:
    """Return what the measured models themselves reach by the query, and the surrogate's share of it.

    The models are those whose utilities are predicted, with their seeds' luck in them: no prediction has that.
    """
    if RETRAINED not in found.keys:
        return []
    value, drawn = found.column(RETRAINED)
    low, high = found.interval(value, drawn)
    reached = Figure(
        f"fidelity.spearman_retrained_{stratum}",
        value,
        "rank correlation",
        low=low,
        high=high,
        note="no prediction: the measured models themselves, by their loss on the query documents",
    )
    share = _quotient(found, SELECTED, RETRAINED, f"fidelity.share_of_retrained_{stratum}", "")
    return [reached, share]


def beside_another_run(cells: Sequence[CellResult], asked: Sequence[Floats]) -> list[Figure]:
    """Return how well one run of a subset, by its loss on the query, ranks what another run is worth, and the
    surrogate's share of that: here no luck is shared.

    asked: as in `publish`. The first training seed is asked, the second is predicted, by the surrogate too.
    """
    if not asked:
        return []
    # `sample` wants two seeds for a ceiling, which is not used here.
    halves = [
        replace(
            cell,
            utilities=cell.utilities[:, :, [1, 1]],
            predictions={SELECTED: cell.predictions[SELECTED], ONCE: queries[:, :, 0]},
            kinds={SELECTED: cell.kinds[SELECTED], ONCE: ""},
        )
        for cell, queries in zip(cells, asked, strict=True)
    ]
    out: list[Figure] = []
    wanted = {ALL: ("all", "at least 0.97"), OWN_TARGET: ("own_task", "at least 1")}
    for stratum in (each for each in strata_of(cells) if each in wanted):
        found = sample(halves, stratum, RESAMPLES, "another run")
        name, goal = wanted[stratum]
        for key, what in ((ONCE, "one_run"), (SELECTED, "surrogate")):
            value, drawn = found.column(key)
            low, high = found.interval(value, drawn)
            out.append(
                Figure(
                    f"fidelity.spearman_another_run_{name}[{what}]",
                    value,
                    "rank correlation",
                    low=low,
                    high=high,
                    note="with utilities of the second training seed alone",
                )
            )
        out.append(
            _quotient(
                found,
                SELECTED,
                ONCE,
                f"fidelity.share_of_another_run_{name}",
                goal,
                "over a model retrained with the first training seed and scored on the query documents",
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
    low, high = found.interval(value / other, drawn / others)
    return Figure(name, value / other, "ratio", goal, low, high, note)


def _paired(found: Sample, rows: Sequence[Row], stratum: str) -> list[Figure]:
    """Return the paired gain over the rival that is strongest in a stratum, and the least of all rivals' bounds.

    Each rival in the form that is stronger there; the bounds alone and for all rivals at once.
    """
    rivals = rivals_of(rows, stratum)
    name, unit = stratum.replace("task_optimised, own task", "own_task"), "rank correlation"
    strongest, closest = rivals[0], min(rivals, key=lambda row: row.gain_low)
    value, own = found.column(SELECTED)
    together = {}
    for row in rivals:
        other, draws = found.column(row.key)
        together[row.method] = found.interval(value - other, own - draws, 1 - 0.05 / len(rivals))[0]
    worst = min(together, key=lambda method: together[method])
    above, below = sum(row.gain_low > 0 for row in rivals), sum(row.gain_high < 0 for row in rivals)
    goal = "" if stratum in ("uniform", OWN_TARGET) else "above 0"
    return [
        Figure(
            f"fidelity.gain_{name}",
            strongest.gain,
            unit,
            goal,
            strongest.gain_low,
            strongest.gain_high,
            f"over {_named(strongest)}, the strongest there; of {len(rivals)} rivals ahead of {above} and behind "
            f"{below} beyond doubt",
        ),
        Figure(
            f"fidelity.min_paired_low_{name}",
            closest.gain_low,
            unit,
            goal,
            note=f"{_named(closest)} (gain {closest.gain:+.3f}); above 0 for {above} of {len(rivals)} rivals, each "
            "bound on its own",
        ),
        Figure(
            f"fidelity.min_paired_low_{name}_together",
            together[worst],
            unit,
            note=f"{worst}; Bonferroni over {len(rivals)} rivals",
        ),
    ]


def _same_sketch(found: Sample, rows: Sequence[Row]) -> list[Figure]:
    """Return, for every sketch kind, the surrogate's gain over the strongest rival that reads the same sketches."""
    out = []
    best = {row.method: row for row in strongest_forms(rows, ALL)}
    for method in best:
        kind = method.removeprefix("surrogate, ").removesuffix(" sketch")
        rivals = [best[f"{name}, {kind} sketch"] for name in BY_KIND if f"{name}, {kind} sketch" in best]
        if method != f"surrogate, {kind} sketch" or not rivals:
            continue
        strongest = max(rivals, key=lambda row: row.value)
        value, low, high = found.lost((method, "mean"), strongest.key)
        note = f"{method}, over {strongest.method}, {strongest.form} form"
        out.append(
            Figure(f"fidelity.gain_same_sketch[{kind}]", value, "rank correlation", "", low, high, note)
        )
    return out


def _named(row: Row) -> str:
    return f"{row.method}, {row.form} form" + (f" ({row.kinds})" if row.kinds else "")


def draw(
    cells: Sequence[CellResult], rows: Sequence[Row], strata: Sequence[str], folder: Path, name: str
) -> None:
    """Draw the five pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_controls(rows, folder / f"{name}-controls.png")
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
    # Only the quadratic form has a lambda, and what was chosen may be of another form: its best kind is drawn.
    quadratic = [k for k, c in enumerate(configurations) if c.form == "mean"]
    kind = configurations[max(quadratic, key=lambda k: truth[k])].sketch_kind
    profile = [(configurations[k], truth[k]) for k in quadratic if configurations[k].sketch_kind == kind]
    lines = []
    for rho in sorted({c.rho for c, _ in profile}):
        mine = [(c.lam, value) for c, value in profile if c.rho == rho]
        lines.append(Line(f"{kind}, rho {rho:g}", [lam for lam, _ in mine], [value for _, value in mine]))
    lambda_profile(lines, folder / f"{name}-lambda.png")


def draw_controls(rows: Sequence[Row], path: Path) -> None:
    """Draw what the quadratic form loses when its penalty has another metric than the task's own."""
    every = controls(rows)
    first = next(iter(every.values()))
    drawn = [
        Bar(said, row.value, row.low, row.high, "ours" if row.key == SELECTED else "control")
        for said, row in every.items()
    ]
    title = f"Whose metric prices the penalty: rank correlation, all strata, {first.cells} cells"
    bars(drawn, path, title, (first.ceiling, first.ceiling))


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
        if row.method in ("second-order group influence", "additive + log(distinct)", "additive + log(size)")
        else "additive"
    )


if __name__ == "__main__":
    draw_controls(load_rows(HEADLINE)[0], PICTURES / "fidelity-controls.png")
