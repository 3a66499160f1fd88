"""The fidelity protocol on images: digits and Fashion-MNIST, three seeds each.

    python -m benchmarks.vision

Utilities are kept in `subset_utilities` below `$GRASP_STORE/laboratory/vision-DATASET-SEED` and finished cells beside
them: a run that was stopped goes on where it was. Fashion-MNIST is left out, and said to be, where its folder is not.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.fidelity import VERSION as LABORATORY
from benchmarks.fidelity import laboratory
from benchmarks.laboratory.summary import ALL, Row, Sample, rows_of, sample, strata_of, strongest_forms
from benchmarks.published import Figure, origin, results_folder, save
from grasp_pipeline.attribution.methods.registry import Method
from grasp_pipeline.config import VisionConfigSection
from grasp_pipeline.corpus.images import FASHION_MNIST
from grasp_pipeline.evaluation.experiment import SELECTED, CellResult
from grasp_pipeline.evaluation.vision import BOTH, SOFT

COMMAND = "make benchmark-vision"
VERSION = "3"
"""Part of a finished cell's file name; raised when what a cell computes changes."""

SEEDS = (0, 1, 2)
DATA_SETS = {
    "digits": VisionConfigSection(data_set="digits"),
    "fashion_mnist": VisionConfigSection(data_set="fashion_mnist", folder=str(FASHION_MNIST), pool=2000),
}
"""Everything but the pool's size is the default: digits holds no more images."""

POOLED = "pooled"
RESAMPLES = 4000

ATTRIBUTION = ("GradDot", "TracIn", "TRAK", "damped influence", "LoGRA", "GGDA")
"""Beginnings of the names of additive methods that read gradients and are fitted to no utility."""


def cell_of(settings: VisionConfigSection) -> CellResult:
    """Return a cell, from its file or by running it."""
    from grasp_pipeline.evaluation.vision import prepare, run_vision
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables
    from resources.runs import DeltaRuns

    name = f"vision-{settings.data_set}-{settings.seed}"
    folder = laboratory() / name
    path = folder / f"cell-{LABORATORY}.{VERSION}-{settings.digest()[:12]}.npz"
    if path.exists():
        return CellResult.load(path)

    def say(message: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {message}", flush=True)

    provenance = Provenance("laboratory", "benchmark_vision", VERSION, settings.digest())
    lab = prepare(settings)
    delta, tokens = DeltaTables(str(folder)), lab.trainer.recipe.tokens
    store = DeltaRuns.laboratory(delta, provenance, "laboratory", lab.corpus.tasks, tokens)
    cell = run_vision(lab, store, say)
    cell = replace(cell, origin=origin("vision"))
    cell.save(path)
    return cell


def ratio(found: Sample, rival: Method, own: Method = SELECTED) -> tuple[float, float, float]:
    """Return a method's mean correlation over cells divided by a rival's, with its 95% interval."""
    (value, drawn), (other, others) = found.column(own), found.column(rival)
    return value / other, *found.interval(value / other, drawn / others)


def comparison(cells: Sequence[CellResult], found: Sample, scope: str) -> list[Figure]:
    """Return the surrogate against the strongest baselines, judged with hindsight in their favour, over some cells."""
    best = strongest_forms(rows_of(found, ALL), ALL)
    by_name = {row.method: row for row in best if not row.by_kind}
    additive = next(row for row in best if row.additive_baseline)
    own = next(row for row in best if row.key == SELECTED)
    rivals = {
        "additive": (additive, "at least 1.5"),
        "additive_attribution": (
            next(row for row in best if row.method.startswith(ATTRIBUTION) and not row.by_kind),
            "",
        ),
        "trak_default": (by_name["TRAK, default damping"], ""),
        "graddot": (by_name["GradDot"], ""),
    }
    ending = "" if scope == POOLED else f"[{scope}]"
    figures = []
    for name, (row, goal) in rivals.items():
        note = f"surrogate on {own.kinds} over {_named(row)}, {row.value:.3f}; {scope}, {row.cells} cells"
        value, low, high = ratio(found, row.key)
        figures.append(Figure(f"vision.ratio_{name}{ending}", value, "ratio", goal, low, high, note))
    unit, note = (
        "rank correlation",
        f"surrogate on {own.kinds} over {_named(additive)}; {scope}, {additive.subsets} subsets",
    )
    tried = {
        "log_coverage_joint": "log-coverage of clusters, joint",
        "log_coverage_conditional": "log-coverage of clusters, conditional",
        "log_coverage_soft": SOFT,
        "log_coverage_and_surrogate": BOTH,
    }
    for name, method in tried.items():
        value, low, high = ratio(found, additive.key, by_name[method].key)
        said = f"{method} over {_named(additive)}, {additive.value:.3f}; {scope}"
        figures.append(Figure(f"vision.ratio_{name}{ending}", value, "ratio", "", low, high, said))
    most = found.ceiling / additive.value
    said = f"noise ceiling over {_named(additive)}: what a perfect predictor would have; {scope}"
    figures.append(Figure(f"vision.ratio_ceiling{ending}", most, "ratio", note=said))
    gain, low, high = additive.gain, additive.gain_low, additive.gain_high
    adopted = sum(cell.configurations[cell.chosen].lam > 0 for cell in cells) / len(cells)
    return [
        *figures,
        Figure(f"vision.paired_low{ending}", low, unit, "above 0", note=f"of 95%, {note}"),
        Figure(f"vision.paired_gain{ending}", gain, unit, "", low, high, note),
        Figure(f"vision.adopted{ending}", adopted, "share of cells", note="lambda above 0 was chosen"),
        Figure(f"vision.noise_ceiling{ending}", found.ceiling, unit, note=scope),
    ]


def method_figures(pooled: Mapping[str, Sample], single: Mapping[str, Sample]) -> list[Figure]:
    """Return every method in its better form over all subsets, and the surrogate by stratum.

    Args:
        pooled: stratum -> over all cells.
        single: data set -> over its cells, all strata.
    """
    figures = []
    for row in strongest_forms(rows_of(pooled[ALL], ALL), ALL):
        if row.by_kind:
            continue
        note = ", ".join(f"{name} {found.column(row.key)[0]:.3f}" for name, found in single.items())
        note += f"; {row.kinds}" if row.kinds else ""
        figures.append(_spearman(f"{row.method}, {row.form}", row, note))
    for stratum in [name for name in pooled if name != ALL]:
        rows = rows_of(pooled[stratum], stratum)
        best = next(row for row in strongest_forms(rows, stratum) if row.additive_baseline)
        gain = f"gain {best.gain:+.3f} [{best.gain_low:+.3f}, {best.gain_high:+.3f}]"
        note = f"best additive there: {_named(best)}, {best.value:.3f}, {gain}; ceiling {best.ceiling:.3f}"
        figures.append(_spearman(f"surrogate on {stratum}", next(r for r in rows if r.key == SELECTED), note))
    return figures


def _named(row: Row) -> str:
    return f"{row.method}, {row.form}" + (f" ({row.kinds})" if row.kinds else "")


def _spearman(name: str, row: Row, note: str) -> Figure:
    return Figure(f"vision.spearman[{name}]", row.value, "rank correlation", "", row.low, row.high, note)


def figures_of(cells: Mapping[str, Sequence[CellResult]]) -> list[Figure]:
    """Return all figures from the cells of each data set."""
    every = [cell for part in cells.values() for cell in part]
    pooled = {stratum: sample(every, stratum, RESAMPLES, "vision") for stratum in strata_of(every)}
    single = {name: sample(part, ALL, RESAMPLES, "vision") for name, part in cells.items()}
    figures = comparison(every, pooled[ALL], POOLED)
    for name, part in cells.items():
        figures += comparison(part, single[name], name)
    return figures + method_figures(pooled, single)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are not finished and write results/vision.json and its table."""
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    results_folder()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cells: dict[str, list[CellResult]] = {}
    for name, settings in DATA_SETS.items():
        if name == "fashion_mnist" and not Path(settings.folder).is_dir():
            print(f"{name} is left out: there is no folder {settings.folder} (package dataset-fashion-mnist)")
            continue
        cells[name] = [cell_of(settings.model_copy(update={"seed": seed})) for seed in SEEDS]
    measured = [dict(cell.origin) for part in cells.values() for cell in part]
    print(f"wrote {save('vision', COMMAND, figures_of(cells), measured)}")


if __name__ == "__main__":
    main()
