"""One cell of the laboratory: one pool, one proxy, one seed of the whole protocol, from subsets to predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.attribution.methods.inputs import BaselineInputs
from grasp_pipeline.attribution.methods.registry import Method, baseline_predictions, predictions_by_kind
from grasp_pipeline.attribution.task_metric import Geometry, TaskMetricSurrogate
from grasp_pipeline.calibration.grid_predictions import Grid
from grasp_pipeline.calibration.lcb import Configuration, choose_configuration
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.calibration.strata import OPTIMISED, draw_subsets
from grasp_pipeline.calibration.subsets import Subsets, join
from grasp_pipeline.corpus.events import EventCounts, count_events
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.archive import damaged, load_archive, save_archive
from grasp_pipeline.evaluation.selectors import judge_predictions, optimised_subsets
from grasp_pipeline.names import EVENTS
from grasp_pipeline.progress import Listener, duration, silent
from grasp_pipeline.proxy.runs import RunStore, Trainer, measure
from grasp_pipeline.sketch.views import Layers, View

SELECTED: Method = ("surrogate", "mean")
"""The surrogate with the configuration that the calibration subsets chose, over all sketch kinds."""

EXACT = "exact"
EXACT_METRICS: tuple[float, ...] = (1.0, 3.0, 10.0)
"""Dampings tried for the exact gradients, in units of the mean of their eigenvalues that are not 0."""

SECOND_SEED = "second seed"

RETRAINED: Method = ("retrained, scored on the query", "mean")
"""No prediction: the measured models themselves, by their loss on the query examples that the surrogate reads."""


@dataclass(frozen=True)
class Protocol:
    """How many subsets a cell retrains.

    Attributes:
        calibration, evaluation: subsets per stratum; `task_optimised` in evaluation: optimised tasks, each with one
            finalist per selector.
        calibration_seeds, evaluation_seeds: training seeds per subset.
        confidence, resamples: of the choice of the configuration.
        candidates: sketch kinds that the choice is made among, or None: all. The other kinds choose apart, each for
            itself, and are compared.
        metrics, lambdas: dampings rho and penalties lambda of the grid.
        joint, conditional: smoothings of log-coverage in the grid, where examples are text.
        queries: also measure the retrained models on the query examples, as `RETRAINED`.
    """

    calibration: Mapping[str, int] = field(
        default_factory=lambda: {"uniform": 8, "fixed_size": 8, "tilted": 16, OPTIMISED: 16}
    )
    evaluation: Mapping[str, int] = field(
        default_factory=lambda: {"uniform": 24, "fixed_size": 24, "tilted": 36, OPTIMISED: 4}
    )
    calibration_seeds: int = 1
    evaluation_seeds: int = 2
    confidence: float = 0.95
    resamples: int = 2000
    candidates: tuple[str, ...] | None = ("output", "ngrams", "output+early+ngrams")
    metrics: tuple[float, ...] = (30.0,)
    lambdas: tuple[float, ...] = (0.0, 0.5, 1.0)
    joint: tuple[float, ...] = (0.6, 3.0, 30.0)
    conditional: tuple[float, ...] = (0.012,)
    queries: bool = False

    def measured(self, tasks: Sequence[str]) -> list[str]:
        """Return the names of what a run keeps, in order: tasks, and then their queries."""
        return [*tasks, *(f"{task}, query" for task in tasks if self.queries)]


@dataclass(frozen=True)
class Views:
    """What a cell sees of its pool.

    Attributes:
        kinds: the surrogate's views, by sketch kind. second_seed: some of them with another projection seed.
        design: the view that subsets are designed with.
        rivals: the views that rivals are tuned over, by kind: all that the surrogate has, `full` first.
        checkpoints: by kind, the views at every checkpoint as they are. layers: by kind, views by layers; empty: none.
        exact: the exact gradients, or None.
        representations: (n, h). query_representations: (Q, h), of the tasks' query examples.
        seconds: what each view cost, by the name of its kind.
    """

    kinds: Mapping[str, View]
    second_seed: Mapping[str, View]
    design: View
    rivals: Mapping[str, View]
    checkpoints: Mapping[str, Sequence[View]]
    layers: Mapping[str, Layers]
    exact: View | None
    representations: NDArray[np.float32]
    seconds: Mapping[str, float]
    query_representations: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), dtype=np.float32)
    )


@dataclass(frozen=True)
class CellResult:
    """What a cell measured; everything that tables and figures are made from.

    Attributes:
        name: corpus, proxy and seed. tasks: T names.
        strata, target: m_e evaluation subsets: their stratum, and the task they were optimised for or -1.
        utilities: (m_e, T, S) measured. predictions: (method, form) -> (m_e, T). kinds: (method, form) -> the kind of
            the sketches that it reads; empty: none.
        configurations: the K candidates. grid_calibration: (K, m_c, T); grid_evaluation: (K, m_e, T).
        calibration_strata: m_c names. calibration: (m_c, T) measured.
        chosen: number of the chosen configuration. reason: the choice in words.
        membership: (m_e, n) evaluation subsets.
        contaminated: documents left out of the pool since they hold text of a held-out one.
        seconds: of the cell's stages.
        origin: which code measured it, as the benchmark names it.
    """

    name: str
    tasks: tuple[str, ...]
    strata: tuple[str, ...]
    target: NDArray[np.int64]
    utilities: Floats
    predictions: Mapping[Method, Floats]
    kinds: Mapping[Method, str]
    configurations: tuple[Configuration, ...]
    grid_calibration: Floats
    grid_evaluation: Floats
    calibration_strata: tuple[str, ...]
    calibration: Floats
    chosen: int
    reason: str
    membership: NDArray[np.bool_]
    contaminated: int
    seconds: Mapping[str, float]
    origin: Mapping[str, str] = field(default_factory=lambda: {"what": "cell", "commit": "", "sources": ""})

    def save(self, path: Path) -> None:
        """Write the cell to one .npz file, atomically."""
        words = {
            "name": self.name,
            "tasks": self.tasks,
            "strata": self.strata,
            "methods": list(self.predictions),
            "kinds": [self.kinds[method] for method in self.predictions],
            "configurations": [asdict(c) for c in self.configurations],
            "calibration_strata": self.calibration_strata,
            "chosen": self.chosen,
            "reason": self.reason,
            "contaminated": self.contaminated,
            "seconds": dict(self.seconds),
            "origin": dict(self.origin),
        }
        arrays = {
            "target": self.target,
            "utilities": self.utilities,
            "predictions": np.stack(list(self.predictions.values())),
            "grid_calibration": self.grid_calibration,
            "grid_evaluation": self.grid_evaluation,
            "calibration": self.calibration,
            "membership": self.membership,
        }
        save_archive(path, words, arrays)

    @classmethod
    def load(cls, path: Path) -> CellResult:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read.
        """
        words, arrays = load_archive(path, "cell")
        try:
            methods = [(name, form) for name, form in words["methods"]]
            return cls(
                name=words["name"],
                tasks=tuple(words["tasks"]),
                strata=tuple(words["strata"]),
                predictions=dict(zip(methods, arrays.pop("predictions"), strict=True)),
                kinds=dict(zip(methods, words["kinds"], strict=True)),
                configurations=tuple(Configuration(**each) for each in words["configurations"]),
                calibration_strata=tuple(words["calibration_strata"]),
                chosen=words["chosen"],
                reason=words["reason"],
                contaminated=words["contaminated"],
                seconds=words["seconds"],
                origin=words.get("origin", {"what": "cell", "commit": "", "sources": ""}),
                **arrays,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, "cell", error) from error


def run_cell(
    name: str,
    corpus: TaskPool,
    trainer: Trainer,
    views: Views,
    protocol: Protocol,
    store: RunStore,
    seed_name: str,
    listener: Listener = silent,
    coverages: Mapping[str, Sequence[LogCoverage]] | None = None,
) -> CellResult:
    """Design the subsets, retrain them, choose the configuration, and let every method predict.

    The configuration is chosen before the evaluation subsets are retrained.

    Args:
        name: of the cell.
        corpus: the pool.
        trainer: the proxy and its recipe.
        views: sketches of the pool.
        protocol: numbers of subsets.
        store: keeps utilities between runs.
        seed_name: names the draws of the random subsets: cells of one corpus and seed share them.
        listener: told the progress.
        coverages: name -> forms of log-coverage; the one that ranks the calibration subsets best predicts by that name.
    """
    clock = _Clock(listener)
    tokens, tasks = corpus.n_tokens, len(corpus.tasks)
    scores = views.design.sketches @ views.design.targets.T
    calibration = draw_subsets(corpus, scores, protocol.calibration, f"{seed_name}/calibration")
    candidates = protocol.candidates or tuple(views.kinds)
    events = query_events(corpus)
    grid = Grid.of(
        _views_of(views.kinds, candidates),
        tokens,
        protocol.metrics,
        protocol.lambdas,
        events,
        protocol.joint,
        protocol.conditional,
    )
    measured = measure(
        trainer,
        corpus,
        calibration.membership,
        range(protocol.calibration_seeds),
        store,
        f"{name}: calibration subsets",
        listener,
        protocol.queries,
    ).mean(axis=2)[:, :tasks]
    clock.stage("calibration retraining")
    on_calibration = grid.predict(calibration.membership)
    cost = [views.seconds.get(c.sketch_kind, 0.0) for c in grid.configurations]
    choose = partial(
        choose_configuration,
        utilities=measured,
        confidence=protocol.confidence,
        resamples=protocol.resamples,
        seed_name=seed_name,
        strata=calibration.strata,
    )
    choice = choose(grid.configurations, on_calibration, cost_seconds=cost)
    listener(f"{name}: {choice.reason}")
    clock.stage("choice")

    evaluation = evaluation_subsets(corpus, views, protocol, seed_name)
    utilities = measure(
        trainer,
        corpus,
        evaluation.membership,
        range(protocol.evaluation_seeds),
        store,
        f"{name}: evaluation subsets",
        listener,
        protocol.queries,
    )
    utilities, on_queries = np.split(utilities, [tasks], axis=1)
    clock.stage("evaluation retraining")
    on_evaluation = grid.predict(evaluation.membership)
    inputs = baseline_inputs(corpus, views, calibration.membership, measured)
    picked = grid.configurations[choice.chosen]
    predictions: dict[Method, Floats] = {SELECTED: on_evaluation[choice.chosen]}
    kinds: dict[Method, str] = {SELECTED: picked.sketch_kind}
    for kind, view in views.kinds.items():
        own = Grid.of({kind: view}, tokens, protocol.metrics, protocol.lambdas)
        alone = choose(
            own.configurations,
            own.predict(calibration.membership),
            cost_seconds=[0.0] * len(own.configurations),
        )
        only = replace(own, configurations=(own.configurations[alone.chosen],))
        predictions[f"surrogate, {kind} sketch", "mean"] = only.predict(evaluation.membership)[0]
        kinds[f"surrogate, {kind} sketch", "mean"] = kind
    if events is not None:
        coverage = controls(events, evaluation.membership)
        predictions |= coverage
        kinds |= dict.fromkeys(coverage, EVENTS)
    for method, tried in (coverages or {}).items():
        ranked = task_level_spearman(np.stack([c.predict(calibration.membership) for c in tried]), measured)
        predictions[method, "mean"] = tried[int(np.argmax(ranked))].predict(evaluation.membership)
        kinds[method, "mean"] = EVENTS
    hindsight = task_level_spearman(on_evaluation, utilities.mean(axis=2))
    best = int(np.argmax(hindsight))
    predictions["surrogate, best in hindsight", "mean"] = on_evaluation[best]
    kinds["surrogate, best in hindsight", "mean"] = grid.configurations[best].sketch_kind
    ceilings = _ceilings(views, picked, protocol, tokens, calibration, measured, evaluation)
    predictions |= ceilings
    kinds |= {method: EXACT if "exact" in method[0] else picked.sketch_kind for method in ceilings}
    judged = judge_predictions(corpus, evaluation.membership)
    if judged is not None:
        predictions["judge", "mean"] = judged
        kinds["judge", "mean"] = EVENTS
    if protocol.queries:
        predictions[RETRAINED], kinds[RETRAINED] = on_queries.mean(axis=2), ""
    compared = baseline_predictions(inputs, evaluation.membership)
    compared |= predictions_by_kind(inputs, evaluation.membership)
    predictions |= {method: each.values for method, each in compared.items()}
    kinds |= {method: each.kind for method, each in compared.items()}
    clock.stage("predictions")
    if any(values.shape != (evaluation.m, tasks) for values in predictions.values()):
        raise AssertionError("a method predicts the wrong shape")
    return CellResult(
        name,
        corpus.tasks,
        evaluation.strata,
        evaluation.target,
        utilities,
        predictions,
        kinds,
        grid.configurations,
        on_calibration,
        on_evaluation,
        calibration.strata,
        measured,
        choice.chosen,
        choice.reason,
        evaluation.membership,
        corpus.contaminated,
        clock.seconds | {f"view {kind}": cost for kind, cost in views.seconds.items()},
    )


def query_events(corpus: TaskPool) -> EventCounts | None:
    """Return counts of the tasks' query events in a pool; None where examples are not text."""
    if corpus.chunks is None:
        return None
    task = np.repeat(np.arange(len(corpus.queries)), [query.n for query in corpus.queries])
    return count_events(corpus.chunks, TokenLists.join(corpus.queries), task, len(corpus.queries))


def controls(events: EventCounts, membership: NDArray[np.bool_]) -> dict[Method, Floats]:
    """Return log-coverage's truncations for (m, n) subsets: additive, and quadratic in one geometry after another."""
    found: dict[Method, Floats] = {
        ("log-coverage, additive limit", "mean"): LogCoverage(events, inf).predict(membership)
    }
    for geometry in get_args(Geometry):
        made = TaskMetricSurrogate(events, geometry=geometry)
        found[f"quadratic events, metric: {geometry}", "mean"] = made.predict(membership)
    return found


def baseline_inputs(
    corpus: TaskPool, views: Views, calibration: NDArray[np.bool_], utilities: Floats
) -> BaselineInputs:
    """Return what baselines may look at, with calibration subsets (m, n) and their utilities (m, T)."""
    return BaselineInputs(
        n_tokens=corpus.n_tokens,
        source=corpus.source,
        cluster=corpus.cluster,
        tasks=len(corpus.tasks),
        views=views.rivals,
        calibration=calibration,
        utilities=utilities,
        checkpoints=views.checkpoints,
        layers=views.layers,
        representations=views.representations,
        query_representations=views.query_representations,
        query_shares=corpus.query.shares(len(corpus.tasks)),
        query_tokens=corpus.query.n_tokens,
        query_task=corpus.query.task,
    )


def evaluation_subsets(corpus: TaskPool, views: Views, protocol: Protocol, seed_name: str) -> Subsets:
    """Return the evaluation subsets: random draws, and finalists for the first tasks by number."""
    random = {stratum: count for stratum, count in protocol.evaluation.items() if stratum != OPTIMISED}
    scores = views.design.sketches @ views.design.targets.T
    parts = [draw_subsets(corpus, scores, random, f"{seed_name}/evaluation")]
    optimised = min(protocol.evaluation.get(OPTIMISED, 0), len(corpus.tasks))
    if optimised:
        chosen = np.linspace(0, len(corpus.tasks) - 1, optimised).round().astype(int)
        parts.append(optimised_subsets(corpus, views.design, sorted(set(chosen.tolist()))))
    return join(parts)


def _views_of(views: Mapping[str, View], kinds: Sequence[str]) -> dict[str, View]:
    missing = sorted(set(kinds) - set(views))
    if missing:
        raise ConfigError(
            f"the candidate kind {missing[0]!r} is not among the views {', '.join(views)}; name one of them"
        )
    return {kind: views[kind] for kind in kinds}


def _ceilings(
    views: Views,
    picked: Configuration,
    protocol: Protocol,
    tokens: NDArray[np.int64],
    calibration: Subsets,
    utilities: Floats,
    evaluation: Subsets,
) -> dict[Method, Floats]:
    """Return the chosen configuration with another projection, and the surrogate without any sketch.

    The exact surrogate's damping and lambda are the best on the calibration subsets.
    """
    found: dict[Method, Floats] = {}
    if picked.sketch_kind in views.second_seed:
        other = Grid((picked,), {picked.sketch_kind: views.second_seed[picked.sketch_kind]}, tokens)
        found["surrogate, second sketch seed", "mean"] = other.predict(evaluation.membership)[0]
    if views.exact is not None:
        grid = Grid.of({EXACT: views.exact}, tokens, EXACT_METRICS, protocol.lambdas)
        best = int(np.argmax(task_level_spearman(grid.predict(calibration.membership), utilities)))
        alone = replace(grid, configurations=(grid.configurations[best],))
        found["surrogate, exact gradients", "mean"] = alone.predict(evaluation.membership)[0]
    return found


class _Clock:
    """Seconds of stages, told as they end."""

    def __init__(self, listener: Listener) -> None:
        self.seconds: dict[str, float] = {}
        self._listener, self._last = listener, time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._listener(f"  {name} took {duration(now - self._last)}")
        self._last = now
