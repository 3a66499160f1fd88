"""Cells to figures: rank correlations per stratum with intervals, paired gains, ceilings, and the choice's regret.

A figure over several cells is the mean over cells. Its interval is the bootstrap interval of
`grasp_pipeline.calibration.intervals`, which covers means over cells: subsets are drawn again within every cell,
stratum by stratum, the same ones for all methods, and the draws are averaged over cells. Cells themselves are not
drawn: the interval says how sure the figure is for these corpora, proxies and seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.methods.registry import Method
from grasp_pipeline.calibration.ceiling import seed_reliability
from grasp_pipeline.calibration.intervals import bootstrap_interval, strata_groups, widened
from grasp_pipeline.calibration.lcb import choose_configuration
from grasp_pipeline.calibration.rank import bootstrap_task_spearman, task_level_spearman
from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.errors import InputError
from grasp_pipeline.evaluation.experiment import SELECTED, CellResult
from grasp_pipeline.seeds import generator

ALL = "all"
OWN_TARGET = "task_optimised, own task"
"""Finalists of one task ranked by that task alone, mean over the optimised tasks: the hardest comparison."""

OWN = (
    "surrogate",
    "judge",
    "log-coverage",
    "quadratic events",
    "retrained",
)
"""Names that begin so are ours or ceilings; every other method is a rival."""

NOT_BASELINES = ("second-order group influence", "quadratic only")
"""Rivals that are not additive: interaction-aware, or a control of our own."""

TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Row:
    """One method in one stratum over all cells.

    Attributes:
        value, low, high: mean task-level rank correlation and its 95% interval.
        gain, gain_low, gain_high: of the selected surrogate over this method, in the same resamples.
        least, most: over cells. ceiling: mean noise ceiling. subsets: over all cells.
        kinds: sketch kinds that it read, with the number of cells where these differ; empty: none.
    """

    method: str
    form: str
    stratum: str
    value: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    least: float
    most: float
    ceiling: float
    cells: int
    subsets: int
    kinds: str = ""

    @property
    def key(self) -> Method:
        """(method, form)."""
        return self.method, self.form

    @property
    def ours(self) -> bool:
        """Whether it is the surrogate, the judge or a ceiling of ours."""
        return self.method.startswith(OWN)

    @property
    def by_kind(self) -> bool:
        """Whether it is a rival that was given one sketch kind alone, beside the one that is tuned over all."""
        return not self.ours and self.method.endswith(" sketch")

    @property
    def additive_baseline(self) -> bool:
        """Whether it is a rival that values a subset as a sum or mean over its examples."""
        return not self.ours and not self.by_kind and self.method not in NOT_BASELINES


def strata_of(cells: Sequence[CellResult]) -> list[str]:
    """Return the strata of all cells, `all` first and the finalists by their own task last."""
    names = dict.fromkeys(stratum for cell in cells for stratum in cell.strata)
    return [ALL, *names, *([OWN_TARGET] if OPTIMISED in names else [])]


@dataclass(frozen=True)
class Sample:
    """Rank correlations of K methods in one stratum.

    observed: (cells, K); drawn: (B, K) resampled means over cells; ceiling: mean noise ceiling; subsets: of all cells;
    kinds: K names of the sketch kinds read.
    """

    keys: tuple[Method, ...]
    observed: Floats
    drawn: Floats
    ceiling: float
    subsets: int
    kinds: tuple[str, ...]

    def interval(self, value: float, draws: Floats, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval of a figure from its (B,) draws."""
        low, high = bootstrap_interval(value, draws, confidence)
        return float(low), float(high)

    def column(self, key: Method) -> tuple[float, Floats]:
        """Return a method's mean over cells and its (B,) draws."""
        k = self.keys.index(key)
        return float(self.observed[:, k].mean()), self.drawn[:, k]

    def lost(self, whole: Method, reduced: Method) -> tuple[float, float, float]:
        """Return how much lower one method's correlation is than another's, with its 95% interval, paired."""
        (value, drawn), (other, others) = self.column(whole), self.column(reduced)
        return value - other, *self.interval(value - other, drawn - others)


def sample(
    cells: Sequence[CellResult], stratum: str, resamples: int, seed_name: str, by_kind: bool = True
) -> Sample:
    """Return the correlations of every method that all cells have; by_kind: also of rivals with one sketch kind.

    Raises:
        InputError: there are no cells, or one has no subset of the stratum.
    """
    if not cells:
        raise InputError("there are no finished cells to summarise; run the laboratory first")
    for cell in cells:
        if stratum != ALL and stratum not in strata_of([cell]):
            raise InputError(
                f"cell {cell.name} has no subsets of the stratum {stratum}; summarise cells of one protocol together"
            )
    shared = [
        key
        for key in cells[0].predictions
        if all(key in cell.predictions for cell in cells)
        and (by_kind or key[0].startswith(OWN) or not key[0].endswith(" sketch"))
    ]
    observed, drawn, ceilings, count = [], [], [], 0
    for cell in cells:
        parts = list(_parts(cell, stratum))
        values = np.stack([cell.predictions[key] for key in shared])
        rng = generator(seed_name, cell.name, stratum)
        observed.append(np.mean([_correlations(values, cell, part) for part in parts], axis=0))
        drawn.append(np.mean([_resampled(values, cell, part, resamples, rng) for part in parts], axis=0))
        ceilings.append(np.mean([_ceiling(cell, part) for part in parts]))
        count += sum(len(rows) for rows, _ in parts)
    return Sample(
        tuple(shared),
        np.stack(observed),
        np.mean(drawn, axis=0),
        float(np.mean(ceilings)),
        count,
        tuple(kinds_read([cell.kinds.get(key, "") for cell in cells]) for key in shared),
    )


def kinds_read(kinds: Sequence[str]) -> str:
    """Return the kinds of all cells in words, the most frequent first: "ngrams" or "ngrams x3, output"."""
    counts = Counter(kind for kind in kinds if kind)
    if len(counts) < 2:
        return "".join(counts)
    return ", ".join(f"{kind} x{count}" if count > 1 else kind for kind, count in counts.most_common())


Part = tuple[NDArray[np.int64], list[int]]
"""Some subsets of a cell and the tasks they are ranked by."""


def _parts(cell: CellResult, stratum: str) -> Iterable[Part]:
    every = list(range(len(cell.tasks)))
    if stratum == OWN_TARGET:
        for task in sorted(set(cell.target[cell.target >= 0].tolist())):
            yield np.flatnonzero(cell.target == task), [task]
        return
    labels = np.asarray(cell.strata)
    yield np.flatnonzero((labels == stratum) | (stratum == ALL)), every


def _correlations(values: Floats, cell: CellResult, part: Part) -> Floats:
    rows, tasks = part
    return task_level_spearman(values[:, rows][:, :, tasks], cell.utilities[rows][:, tasks].mean(axis=2))


def _resampled(
    values: Floats, cell: CellResult, part: Part, resamples: int, rng: np.random.Generator
) -> Floats:
    rows, tasks = part
    truth = cell.utilities[rows][:, tasks].mean(axis=2)
    designs = [(cell.strata[row], int(cell.target[row])) for row in rows]
    groups = strata_groups(designs, len(rows))
    drawn = bootstrap_task_spearman(values[:, rows][:, :, tasks], truth, resamples, rng, groups)
    return widened(drawn, groups)


def _ceiling(cell: CellResult, part: Part) -> float:
    rows, tasks = part
    return seed_reliability(cell.utilities[rows][:, tasks]).noise_ceiling


def rows_of(found: Sample, stratum: str) -> list[Row]:
    """Return a stratum's rows."""
    reference = found.keys.index(SELECTED)
    mean = found.observed.mean(axis=0)
    low, high = bootstrap_interval(mean, found.drawn, limit=1)
    gain = mean[reference] - mean
    gain_low, gain_high = bootstrap_interval(gain, found.drawn[:, [reference]] - found.drawn, limit=2)
    return [
        Row(
            *key,
            stratum,
            float(mean[k]),
            float(low[k]),
            float(high[k]),
            float(gain[k]),
            float(gain_low[k]),
            float(gain_high[k]),
            float(found.observed[:, k].min()),
            float(found.observed[:, k].max()),
            found.ceiling,
            len(found.observed),
            found.subsets,
            found.kinds[k],
        )
        for k, key in enumerate(found.keys)
    ]


def strongest_forms(rows: Sequence[Row], stratum: str) -> list[Row]:
    """Return each method's better form in a stratum, judged with hindsight in the method's favour; best first."""
    best: dict[str, Row] = {}
    for row in rows:
        if row.stratum == stratum and (row.method not in best or row.value > best[row.method].value):
            best[row.method] = row
    return sorted(best.values(), key=lambda row: -row.value)


@dataclass(frozen=True)
class Regret:
    """What choosing with few calibration subsets costs against the grid's best in hindsight; in rank correlation.

    mean over draws and cells, its 2.5% and 97.5% quantiles over cells' means; adopted: share of choices with lambda
    above 0.
    """

    subsets: int
    mean: float
    low: float
    high: float
    adopted: float


def choice_regret(
    cells: Sequence[CellResult], subsets: int, draws: int, confidence: float, seed_name: str
) -> Regret:
    """Choose the configuration from random calibration subsets, drawn evenly from the strata, again and again.

    Args:
        cells: finished cells.
        subsets: calibration subsets per choice.
        draws: choices per cell.
        confidence: of the choice.
        seed_name: names the draws.
    """
    per_cell, adopted = [], []
    for cell in cells:
        truth = task_level_spearman(cell.grid_evaluation, cell.utilities.mean(axis=2))
        regrets = []
        for draw in range(draws):
            rows = _stratified(
                cell.calibration_strata, subsets, generator(seed_name, cell.name, subsets, draw)
            )
            choice = choose_configuration(
                cell.configurations,
                cell.grid_calibration[:, rows],
                cell.calibration[rows],
                [0.0] * len(cell.configurations),
                confidence,
                1,
                f"{seed_name}/{draw}",
                [cell.calibration_strata[row] for row in rows],
            )
            regrets.append(float(truth.max() - truth[choice.chosen]))
            adopted.append(cell.configurations[choice.chosen].lam > 0)
        per_cell.append(np.mean(regrets))
    low, high = np.quantile(per_cell, TAILS)
    return Regret(subsets, float(np.mean(per_cell)), float(low), float(high), float(np.mean(adopted)))


def _stratified(strata: Sequence[str], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `count` rows, the strata in turn, random within each."""
    labels = np.asarray(strata)
    queues = [
        rng.permutation(np.flatnonzero(labels == stratum)).tolist() for stratum in dict.fromkeys(strata)
    ]
    rows: list[int] = []
    while len(rows) < min(count, len(labels)):
        for queue in queues:
            if queue and len(rows) < count:
                rows.append(queue.pop())
    return np.sort(np.asarray(rows, dtype=np.int64))
