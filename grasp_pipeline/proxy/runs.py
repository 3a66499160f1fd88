"""Measured runs: subsets really retrained, several seeds each, and never twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.corpus.pool import ChunkPool, HeldOut, TaskPool
from grasp_pipeline.engine import Engine, SerialEngine
from grasp_pipeline.progress import Listener, Progress, silent
from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.proxy.packing import ExampleStream
from grasp_pipeline.proxy.retrain import Job, Outcome, Run, retrain
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.proxy.work import core_seconds
from grasp_pipeline.seeds import digest, generator

KEEP_EVERY = 64
"""Retrainings kept at a time: a killed run loses at most these."""


class RunStore(Protocol):
    """Where measured runs are kept: in memory, in files (`ArchiveStore`) or in a table (`DeltaRuns`).

    What is kept of a run are k values: utilities of tasks, or losses of documents.
    """

    def known(self, recipe: str) -> Mapping[Run, Floats]:
        """Return the (k,) values of every run measured under a recipe."""
        ...

    def keep(self, recipe: str, values: Mapping[Run, Floats], seconds: Mapping[Run, float]) -> None:
        """Keep the (k,) values of some runs; seconds: what each took."""
        ...


class MemoryStore:
    """Keeps runs as long as the process lives."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[Run, Floats]] = {}

    def known(self, recipe: str) -> Mapping[Run, Floats]:
        """Return what was kept under a recipe."""
        return dict(self._kept.get(recipe, {}))

    def keep(self, recipe: str, values: Mapping[Run, Floats], seconds: Mapping[Run, float]) -> None:
        """Keep the values of some runs."""
        self._kept.setdefault(recipe, {}).update(values)


def _serial(_: float) -> Engine:
    return SerialEngine()


@dataclass(frozen=True)
class Trainer:
    """How subsets are retrained.

    model: digest of the proxy's architecture and initial weights; stacked_models: models trained together; engine:
    told about how many seconds of one core the retrainings take, returns what they go through.
    """

    objective: Objective
    initial: Parameters
    recipe: Recipe
    model: str
    stacked_models: int = 16
    device: torch.device | str = "cpu"
    engine: Callable[[float], Engine] = _serial

    def recipe_id(self, corpus: TaskPool) -> str:
        """Return the digest of all that a utility depends on besides the subset and the seed."""
        return digest(self.recipe.digest(), self.model, corpus.digest)


@dataclass(frozen=True)
class MeasuredRuns:
    """The runs of one pool under one recipe: those that a store holds, and those that are made when asked for.

    Attributes:
        trainer: proxy and recipe.
        stream: the pool as training rows.
        held_out: examples that every run is measured on.
        recipe: digest of all that a run depends on besides the subset and the seed.
        of: what is kept of an outcome, (k,).
        store: what was measured before under the same recipe is taken from it.
        values: of every run known.
    """

    trainer: Trainer
    stream: ExampleStream
    held_out: HeldOut
    recipe: str
    of: Callable[[Outcome], Floats]
    store: RunStore
    values: dict[Run, Floats] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", dict(self.store.known(self.recipe)))

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that were not made, each once."""
        return [job for run, job in {job.run: job for job in jobs}.items() if run not in self.values]

    def make(self, jobs: Sequence[Job], what: str, listener: Listener = silent) -> int:
        """Retrain what is missing, keep it piece by piece, and return the number of models retrained.

        what: the work in words, for progress.

        Raises:
            TrainingError: a loss is not finite.
            ConfigError: a subset is empty.
            EngineError: a worker died, or ran out of memory; what was kept before stays.
        """
        trainer, todo = self.trainer, self.missing(jobs)
        progress = Progress(what, len(todo), "models", listener)
        made: list[Outcome] = []
        seconds = core_seconds(trainer.initial, len(todo) * trainer.recipe.tokens)
        with trainer.engine(seconds) as engine:
            for outcome in retrain(
                trainer.objective,
                trainer.initial,
                self.stream,
                todo,
                trainer.recipe,
                (self.held_out.rows, self.held_out.sizes),
                trainer.stacked_models,
                trainer.device,
                progress.advance,
                engine=engine,
            ):
                made.append(outcome)
                if len(made) == KEEP_EVERY:
                    self._keep(made)
                    made = []
        if made:
            self._keep(made)
        return len(todo)

    def _keep(self, made: Sequence[Outcome]) -> None:
        """Put what retrainings gave into the store."""
        values = {outcome.run: self.of(outcome) for outcome in made}
        self.store.keep(self.recipe, values, {outcome.run: outcome.seconds for outcome in made})
        self.values.update(values)


def job_of(pool: ChunkPool, membership: Bools, seed: int, cluster_share: float = 1.0) -> Job:
    """Return the retraining of a subset (n,) of a pool.

    cluster_share: below 1, the retraining is of a scale model. The training seed draws this share of the pool's
    clusters of near duplicates, the same for every subset, and of the subset what lies in them is trained on:
    redundancy within clusters and passes over the data stay as they are at full size.
    """
    members = membership
    if cluster_share < 1:
        drawn = generator("scale model", seed).random(int(pool.cluster.max()) + 1) < cluster_share
        members = membership & drawn[pool.cluster]
    return Job(pool.subset_id(membership), np.flatnonzero(members), seed)


def measure(
    trainer: Trainer,
    corpus: TaskPool,
    membership: Bools,
    seeds: Sequence[int],
    store: RunStore,
    what: str,
    listener: Listener = silent,
    queries: bool = False,
) -> Floats:
    """Return minus the held-out loss of every subset, task and seed: (m, T, S), nats per token.

    Args:
        trainer: proxy and recipe.
        corpus: pool and tasks.
        membership: (m, n) subsets.
        seeds: S training seeds.
        store: of the runs measured before.
        what, listener: as in `MeasuredRuns.make`.
        queries: also measure the same models on the tasks' query examples: (m, 2 T, S), those last.

    Raises:
        TrainingError: a loss is not finite.
        ConfigError: a subset is empty.
    """
    tasks, recipe, held = len(corpus.tasks), trainer.recipe_id(corpus), corpus.evaluation
    if queries:
        tasks, recipe, held = 2 * tasks, digest(recipe, "queries"), held.join(corpus.query, tasks)

    def utilities(outcome: Outcome) -> Floats:
        return -held.task_means(outcome.chunk_losses / held.n_tokens, tasks)

    runs = MeasuredRuns(trainer, corpus.stream, held, recipe, utilities, store)
    jobs = [[job_of(corpus, row, seed) for seed in seeds] for row in membership]
    runs.make([each[s] for s in range(len(seeds)) for each in jobs], what, listener)
    return np.stack([[runs.values[job.run] for job in each] for each in jobs]).transpose(0, 2, 1)
