"""Measured utilities of subsets: really retrained, several seeds each, and never twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.progress import Listener, Progress, silent
from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.proxy.retrain import Job, Outcome, retrain
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import digest

Run = tuple[str, int]
"""(subset_id, training seed)."""

KEEP_EVERY = 96
"""Retrainings kept at a time: a killed run loses at most these."""


class RunStore(Protocol):
    """Where measured utilities are kept between runs."""

    def known(self, recipe: str) -> Mapping[Run, Floats]:
        """Return the (T,) utilities of every run measured under a recipe."""
        ...

    def keep(self, recipe: str, tasks: Sequence[str], utilities: Mapping[Run, Floats], tokens: int) -> None:
        """Keep the (T,) utilities of some runs."""
        ...


class MemoryStore:
    """Keeps utilities as long as the process lives."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[Run, Floats]] = {}

    def known(self, recipe: str) -> Mapping[Run, Floats]:
        """Return what was kept under a recipe."""
        return dict(self._kept.get(recipe, {}))

    def keep(self, recipe: str, tasks: Sequence[str], utilities: Mapping[Run, Floats], tokens: int) -> None:
        """Keep the utilities of some runs."""
        self._kept.setdefault(recipe, {}).update(utilities)


@dataclass(frozen=True)
class Trainer:
    """How subsets are retrained in a cell.

    model: digest of the proxy's architecture and initial weights; stacked_models: models trained together.
    """

    objective: Objective
    initial: Parameters
    recipe: Recipe
    model: str
    stacked_models: int = 16
    device: str = "cpu"

    def recipe_id(self, corpus: TaskPool) -> str:
        """Return the digest of all that a utility depends on besides the subset and the seed."""
        return digest(self.recipe.digest(), self.model, corpus.digest)

    def retrain(self, corpus: TaskPool, jobs: Sequence[Job], advance: Callable[[int], None]) -> list[Outcome]:
        """Return what the jobs lose on the evaluation examples; errors as in `grasp_pipeline.proxy.retrain`."""
        held = corpus.evaluation
        return list(
            retrain(
                self.objective,
                self.initial,
                corpus.stream,
                jobs,
                self.recipe,
                (held.rows, held.sizes),
                self.stacked_models,
                self.device,
                advance,
            )
        )


def subset_id(corpus: TaskPool, membership: NDArray[np.bool_]) -> str:
    """Return a digest of the pool and the subset's members."""
    return digest(corpus.digest, np.flatnonzero(membership).tolist())


def measure(
    trainer: Trainer,
    corpus: TaskPool,
    membership: NDArray[np.bool_],
    seeds: Sequence[int],
    store: RunStore,
    what: str,
    listener: Listener = silent,
    after: Callable[[], None] | None = None,
) -> Floats:
    """Return minus the held-out loss of every subset, task and seed: (m, T, S), nats per token.

    Args:
        trainer: proxy and recipe.
        corpus: pool and tasks.
        membership: (m, n) subsets.
        seeds: S training seeds.
        store: what was measured before under the same recipe is taken from it; the rest is retrained and kept.
        what: the work in words, for progress.
        listener: told the progress.
        after: called after each time that utilities were kept.

    Raises:
        TrainingError: a loss is not finite.
        ConfigError: a subset is empty.
    """
    recipe = trainer.recipe_id(corpus)
    ids = [subset_id(corpus, row) for row in membership]
    known = dict(store.known(recipe))
    todo = [
        Job(name, np.flatnonzero(row), seed)
        for seed in seeds
        for name, row in dict(zip(ids, membership, strict=True)).items()
        if (name, seed) not in known
    ]
    progress = Progress(what, len(todo), "models", listener)
    for start in range(0, len(todo), KEEP_EVERY):
        outcomes = trainer.retrain(corpus, todo[start : start + KEEP_EVERY], progress.advance)
        fresh = {(outcome.subset_id, outcome.seed): _utilities(outcome, corpus) for outcome in outcomes}
        store.keep(recipe, corpus.tasks, fresh, trainer.recipe.tokens)
        known |= fresh
        if after is not None:
            after()
    return np.stack([[known[name, seed] for seed in seeds] for name in ids]).transpose(0, 2, 1)


def _utilities(outcome: Outcome, corpus: TaskPool) -> Floats:
    held = corpus.evaluation
    return -held.task_means(outcome.chunk_losses / held.n_tokens, len(corpus.tasks))
