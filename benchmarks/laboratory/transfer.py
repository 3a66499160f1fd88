"""Transfer: does what a small proxy chose hold on another one, larger or of another architecture?

Some of a cell's evaluation subsets are retrained on another proxy too. Compared are the two proxies' utilities, the
configuration that the small one chose, and the pruned corpora (finalists) that it would have picked. The statistic
beside the rank correlation is decision accuracy: the share of pairs of subsets that both proxies order the same way,
as in DataDecide (arXiv 2504.11393).

Every figure has a two-sided 95% interval over `RESAMPLES` bootstrap draws of the subsets, stratum by stratum: that of
`grasp_pipeline.calibration.intervals`, or the draws' quantiles for ranks and for regret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.laboratory.decisions import (
    Estimate,
    bootstrap_decision_accuracy,
    decision_accuracy,
    mean_estimate,
    pairs,
    seed_noise,
)
from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.calibration.ceiling import seed_reliability
from grasp_pipeline.calibration.grid_predictions import Grid
from grasp_pipeline.calibration.intervals import strata_groups, widened
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.calibration.rank import bootstrap_task_spearman, task_level_spearman
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.archive import damaged, load_archive, save_archive
from grasp_pipeline.evaluation.experiment import SELECTED, CellResult, Views, query_events
from grasp_pipeline.names import EVENTS
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.proxy.runs import RunStore, Trainer, measure
from grasp_pipeline.seeds import generator

RESAMPLES = 2000

OPTIMISED_TASKS = 2
"""Tasks whose finalists are all retrained on the other proxy."""

UNNAMED: Mapping[str, str] = {"what": "transfer", "commit": "", "sources": ""}
"""Origin of a result that does not say which code measured it."""

UNIFORM = "uniform"
CORRELATION, SHARE, NATS, RANK = "rank correlation", "share of pairs", "nats per token", "rank"


@dataclass(frozen=True)
class TransferResult:
    """What was measured on two proxies; every figure is made from it.

    Attributes:
        name: of the transfer. source: the small proxy's cell. tasks: T names.
        rows: (r,) numbers of the subsets among the cell's evaluation subsets.
        strata, target: of these subsets, as in `CellResult`.
        small: (r, T, S) utilities on the small proxy. large: (r, T, S') on the other.
        selected: (r, T) predictions of the configuration chosen on the small proxy, with its own sketches.
        configurations: the grid's K; chosen: number of the chosen one.
        grid: (K, r, T) predictions with sketches of the other proxy; K = 0 where it was not sketched.
        origins: which code measured the small proxy's cell and the other one, as the benchmarks name it.
    """

    name: str
    source: str
    tasks: tuple[str, ...]
    rows: Ints
    strata: tuple[str, ...]
    target: Ints
    small: Floats
    large: Floats
    selected: Floats
    configurations: tuple[Configuration, ...]
    chosen: int
    grid: Floats
    origins: tuple[Mapping[str, str], ...] = (UNNAMED,)

    def save(self, path: Path) -> None:
        """Write the result to one .npz file, atomically."""
        words = {
            "name": self.name,
            "source": self.source,
            "tasks": self.tasks,
            "strata": self.strata,
            "configurations": [asdict(c) for c in self.configurations],
            "chosen": self.chosen,
            "origins": [dict(each) for each in self.origins],
        }
        arrays = {
            "rows": self.rows,
            "target": self.target,
            "small": self.small,
            "large": self.large,
            "selected": self.selected,
            "grid": self.grid,
        }
        save_archive(path, words, arrays)

    @property
    def groups(self) -> list[Ints]:
        """Rows of the subsets that are resampled apart."""
        return strata_groups(self.designs, len(self.rows))

    @property
    def designs(self) -> list[tuple[str, int]]:
        """How each subset was designed: its stratum and the task that it was optimised for."""
        return list(zip(self.strata, self.target.tolist(), strict=True))

    @classmethod
    def load(cls, path: Path) -> TransferResult:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read.
        """
        words, arrays = load_archive(path, "transfer")
        try:
            return cls(
                name=words["name"],
                source=words["source"],
                tasks=tuple(words["tasks"]),
                strata=tuple(words["strata"]),
                configurations=tuple(Configuration(**each) for each in words["configurations"]),
                chosen=words["chosen"],
                origins=tuple(words.get("origins", [UNNAMED])),
                **arrays,
            )
        except (KeyError, TypeError) as error:
            raise damaged(path, "transfer", error) from error


def choose_rows(result: CellResult, count: int, seed_name: str) -> Ints:
    """Choose evaluation subsets for the transfer.

    All finalists of `OPTIMISED_TASKS` tasks, drawn at random; the rest spread evenly over the other strata, at random
    within each. Where a stratum has too few, the others give more.

    Returns:
        Sorted numbers of at most `count` evaluation subsets; fewer where there are no more.

    Raises:
        ConfigError: the finalists leave no room for a subset of every other stratum.
    """
    rng = generator(seed_name, "transfer rows")
    targets = np.unique(result.target[result.target >= 0])
    tasks = rng.permutation(targets)[:OPTIMISED_TASKS]
    finalists = np.flatnonzero(np.isin(result.target, tasks))
    labels = np.array(result.strata)
    others = sorted(set(labels[result.target < 0].tolist()))
    if count < len(finalists) + len(others):
        raise ConfigError(
            f"{count} subsets do not hold the {len(finalists)} finalists of {len(tasks)} tasks and one subset of "
            f"each other stratum; raise transfer_subsets to {len(finalists) + len(others)} or more"
        )
    queues = [
        rng.permutation(np.flatnonzero((labels == name) & (result.target < 0))).tolist() for name in others
    ]
    turns = [row for turn in range(len(labels)) for queue in queues for row in queue[turn : turn + 1]]
    chosen = np.array(turns[: count - len(finalists)], dtype=np.int64)
    return np.sort(np.concatenate([finalists, chosen]))


def run_transfer(
    small: CellResult,
    corpus: TaskPool,
    large_trainer: Trainer,
    large_views: Views | None,
    rows: NDArray[np.integer],
    store: RunStore,
    name: str,
    listener: Listener = silent,
    seeds: int = 2,
) -> TransferResult:
    """Retrain some of a cell's evaluation subsets on another proxy.

    A training seed names the order of the data, whatever the proxy. So the other proxy gets seeds that the small one
    did not use: that both saw the same order must not make them agree. A stopped run loses one seed at most.

    Args:
        small: the finished cell of the small proxy.
        corpus: its pool.
        large_trainer: the other proxy and its recipe.
        large_views: sketches of the pool at the other proxy; None: do not predict there.
        rows: (r,) numbers of evaluation subsets, such as from `choose_rows`.
        store: keeps utilities between runs.
        name: of the transfer.
        listener: told the progress.
        seeds: training seeds per subset on the other proxy.

    Raises:
        ConfigError: the cell is of another pool, the subsets are unknown or repeated, seeds is below 1, or a sketch
            kind of the cell's grid is missing on the other proxy.
        TrainingError: a loss is not finite.
    """
    if small.tasks != corpus.tasks or small.membership.shape[1] != corpus.n:
        raise ConfigError(f"cell {small.name} is of another pool than {corpus.name}; run the cell again")
    chosen = np.asarray(rows, dtype=np.int64)
    known = len(small.strata)
    if (
        not len(chosen)
        or len(np.unique(chosen)) < len(chosen)
        or not ((chosen >= 0) & (chosen < known)).all()
    ):
        raise ConfigError(f"rows must be distinct numbers of evaluation subsets, from 0 to {known - 1}")
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; retrain every subset with at least 1")
    kinds = {} if large_views is None else large_views.kinds
    events = query_events(corpus)
    seen = {*kinds, EVENTS} if events is not None else set(kinds)
    missing = sorted({c.sketch_kind for c in small.configurations} - seen)
    if large_views is not None and missing:
        raise ConfigError(
            f"the other proxy has no sketches of kind {', '.join(missing)}; sketch it with them"
        )
    membership = small.membership[chosen]
    used = small.utilities.shape[2]
    utilities = [
        measure(large_trainer, corpus, membership, [seed], store, f"{name}: seed {seed}", listener)
        for seed in range(used, used + seeds)
    ]
    if large_views is None:
        grid = np.empty((0, len(chosen), len(small.tasks)))
    else:
        grid = Grid(small.configurations, kinds, corpus.n_tokens, events).predict(membership)
    return TransferResult(
        name=name,
        source=small.name,
        tasks=small.tasks,
        rows=chosen,
        strata=tuple(small.strata[i] for i in chosen),
        target=small.target[chosen],
        small=small.utilities[chosen],
        large=np.concatenate(utilities, axis=2),
        selected=small.predictions[SELECTED][chosen],
        configurations=small.configurations,
        chosen=small.chosen,
        grid=grid,
    )


@dataclass(frozen=True)
class TransferFigure:
    """One figure of a transfer; note: what it needs to be read, in words."""

    name: str
    estimate: Estimate
    unit: str
    note: str = ""


def transfer_rows(result: TransferResult, resamples: int = RESAMPLES) -> list[TransferFigure]:
    """Return the figures of a transfer.

    spearman, decision_accuracy: agreement of the proxies' utilities; `_clear`: pairs beyond the small proxy's seed
        noise; `_within`: pairs of one stratum, where the size of the subsets decides less.
    selected_on_small, selected_on_large, selected_loss: the small proxy's surrogate, with its own sketches, against the
        utilities of either, and the difference.
    configuration_on_large, configuration_regret: the same configuration with sketches of the other proxy, and what the
        best of the grid has over it there, in hindsight and anew in every resample. Only where it was sketched.
    pruned_gain_*, pruned_rank_large: the finalist of a task that the small proxy's measured utility ranks best, and
        (`_by_surrogate`) the one its surrogate does: improvement over the mean uniform subset, and rank among the
        task's finalists; means over the optimised tasks. A gain on the small proxy, picked by its measured utility, is
        optimistic: the same seeds picked it. Draws take other uniform subsets, and noise of the seeds from a normal
        distribution with the pooled standard deviation (none with one seed). Only where there are finalists and
        uniform subsets.

    Args:
        result: of `run_transfer`.
        resamples: B.

    Raises:
        ConfigError: the small proxy was trained with one seed, from which noise cannot be told.
    """
    return [*_agreement(result, resamples), *_configuration(result, resamples), *_pruned(result, resamples)]


def _agreement(result: TransferResult, resamples: int) -> Iterator[TransferFigure]:
    small, large = result.small.mean(axis=2), result.large.mean(axis=2)
    noise = seed_noise(result.small)
    ceiling = "one seed on the other proxy: no noise ceiling"
    if result.large.shape[2] > 1:
        limits = [seed_reliability(values).ceiling_per_task for values in (result.small, result.large)]
        ceiling = f"noise ceiling {float(np.mean(limits[0] * limits[1])):.3f}"
    yield TransferFigure("spearman", _spearman(small, large, result, resamples), CORRELATION, ceiling)

    def accuracy(noise: Floats | None = None, groups: Sequence[str] | None = None) -> Estimate:
        return bootstrap_decision_accuracy(
            small, large, resamples, result.name, noise, groups, result.designs
        )

    again = float(np.mean(decision_accuracy(result.small[:, :, 0], result.small[:, :, 1])))
    note = f"the small proxy with one seed against itself with another: {again:.3f}"
    yield TransferFigure("decision_accuracy", accuracy(), SHARE, note)
    _, counted = pairs(small, large, noise, None)
    m = len(small)
    if counted.any():
        share = counted.sum() / (len(counted) * m * (m - 1))
        yield TransferFigure("decision_accuracy_clear", accuracy(noise), SHARE, f"{share:.0%} of the pairs")
    _, counted = pairs(small, large, None, result.strata)
    if counted.any():
        share = counted.sum() / (len(counted) * m * (m - 1))
        within = accuracy(groups=result.strata)
        yield TransferFigure("decision_accuracy_within", within, SHARE, f"{share:.0%} of the pairs")


def _configuration(result: TransferResult, resamples: int) -> Iterator[TransferFigure]:
    small, large = result.small.mean(axis=2), result.large.mean(axis=2)
    on_small = _spearman(result.selected, small, result, resamples)
    on_large = _spearman(result.selected, large, result, resamples)
    picked = str(result.configurations[result.chosen])
    yield TransferFigure("selected_on_small", on_small, CORRELATION, picked)
    yield TransferFigure("selected_on_large", on_large, CORRELATION, picked)
    loss = Estimate(on_small.value - on_large.value, on_small.draws - on_large.draws, limit=2)
    yield TransferFigure("selected_loss", loss, CORRELATION)
    if not len(result.grid):
        return
    observed = task_level_spearman(result.grid, large)
    drawn = _drawn(result.grid, large, result, resamples)
    own = Estimate(float(observed[result.chosen]), drawn[:, result.chosen], limit=1)
    regret = Estimate(float(observed.max()) - own.value, drawn.max(axis=1) - own.draws, bounded=True)
    best = str(result.configurations[int(np.argmax(observed))])
    yield TransferFigure("configuration_on_large", own, CORRELATION, picked)
    yield TransferFigure("configuration_regret", regret, CORRELATION, f"best in hindsight: {best}")


def _pruned(result: TransferResult, resamples: int) -> Iterator[TransferFigure]:
    uniform = np.flatnonzero(np.array(result.strata) == UNIFORM)
    targets = np.unique(result.target[result.target >= 0]).tolist()
    if not len(uniform) or not targets:
        return
    finalists = {task: np.flatnonzero(result.target == task) for task in targets}
    measured = result.small.mean(axis=2)
    for ending, score in (("", measured), ("_by_surrogate", result.selected)):
        picks = {task: int(rows[np.argmax(score[rows, task])]) for task, rows in finalists.items()}
        for proxy, utilities in (("small", result.small), ("large", result.large)):
            values, noise = utilities.mean(axis=2), _noise_or_zero(utilities)
            gains = []
            for task, pick in picks.items():
                rng = generator(result.name, "transfer", "gain", proxy, task)
                counts = rng.multinomial(len(uniform), np.full(len(uniform), 1 / len(uniform)), resamples)
                seeds = rng.normal(0, noise[task], resamples)
                drawn = values[pick, task] + seeds - counts @ values[uniform, task] / len(uniform)
                gains.append(Estimate(float(values[pick, task] - values[uniform, task].mean()), drawn))
            note = ", ".join(
                f"{result.tasks[t]} {gain.value:.3f}" for t, gain in zip(picks, gains, strict=True)
            )
            yield TransferFigure(f"pruned_gain_{proxy}{ending}", mean_estimate(gains), NATS, note)
        values, noise = result.large.mean(axis=2), _noise_or_zero(result.large)
        ranks = []
        for task, pick in picks.items():
            rows = finalists[task]
            rng = generator(result.name, "transfer", "rank", task)
            seeds = rng.normal(0, noise[task], (resamples, len(rows)))
            position = int(np.flatnonzero(rows == pick)[0])
            ranks.append(
                Estimate(
                    float(_rank(values[rows, task][None], position)[0]),
                    _rank(values[rows, task] + seeds, position),
                    bounded=True,
                )
            )
        note = ", ".join(
            f"{result.tasks[t]} {rank.value:g} of {len(finalists[t])}"
            for t, rank in zip(picks, ranks, strict=True)
        )
        yield TransferFigure(f"pruned_rank_large{ending}", mean_estimate(ranks), RANK, note)


def _noise_or_zero(utilities: Floats) -> Floats:
    """Return the seed noise (T,), zero where one seed does not tell it."""
    return seed_noise(utilities) if utilities.shape[2] > 1 else np.zeros(utilities.shape[1])


def _rank(values: Floats, position: int) -> Floats:
    """Return the rank of one column in each row of (B, F), 1 for the highest, ties averaged: (B,)."""
    own = values[:, [position]]
    return 0.5 + (values > own).sum(axis=1) + (values == own).sum(axis=1) / 2


def _spearman(predictions: Floats, utilities: Floats, result: TransferResult, resamples: int) -> Estimate:
    """Return the task-level rank correlation; all of one transfer are drawn with the same resamples."""
    drawn = _drawn(predictions[None], utilities, result, resamples)
    return Estimate(float(task_level_spearman(predictions[None], utilities)[0]), drawn[:, 0], limit=1)


def _drawn(predictions: Floats, utilities: Floats, result: TransferResult, resamples: int) -> Floats:
    rng = generator(result.name, "transfer", "spearman")
    return widened(
        bootstrap_task_spearman(predictions, utilities, resamples, rng, result.groups), result.groups
    )
