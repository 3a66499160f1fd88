"""Losses per held-out document of retrained subsets, kept as archives: a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.evaluation.archive import damaged, load_archive, save_archive
from grasp_pipeline.progress import Listener, Progress, silent
from grasp_pipeline.proxy.retrain import Job
from grasp_pipeline.proxy.runs import Run, Trainer, subset_id
from grasp_pipeline.seeds import digest

KEEP_EVERY = 32
"""Retrainings per archive: a killed run loses at most these."""


class Ledger:
    """Mean loss per document of every run made so far, one folder per recipe, pool and held-out documents.

    Args:
        folder: where the archives lie; None keeps them in memory.
        trainer: proxy and recipe.
        corpus: pool; its evaluation examples are the held-out documents, one example each.
    """

    def __init__(self, folder: Path | None, trainer: Trainer, corpus: TaskPool) -> None:
        self.trainer, self.corpus = trainer, corpus
        held = corpus.evaluation
        recipe = digest(trainer.recipe_id(corpus), held.rows.tolist())
        self._folder = None if folder is None else folder / recipe[:16]
        self._known: dict[Run, NDArray[np.float32]] = {}
        for path in sorted(self._folder.glob("*.npz")) if self._folder and self._folder.exists() else []:
            words, arrays = load_archive(path, "batch of losses")
            losses = arrays["losses"]
            if losses.shape != (len(words["runs"]), len(held.rows)):
                raise damaged(path, "batch of losses", f"losses of shape {losses.shape}")
            self._known |= {
                (name, seed): row for (name, seed), row in zip(words["runs"], losses, strict=True)
            }

    @property
    def made(self) -> int:
        """Runs known."""
        return len(self._known)

    def missing(self, wanted: Sequence[tuple[Bools, int]]) -> list[Job]:
        """Return the jobs of the (membership (n,), training seed) pairs that were not made, each once."""
        jobs: dict[Run, Job] = {}
        for membership, seed in wanted:
            name = subset_id(self.corpus, membership)
            if (name, seed) not in self._known:
                jobs[name, seed] = Job(name, np.flatnonzero(membership), seed)
        return list(jobs.values())

    def make(self, wanted: Sequence[tuple[Bools, int]], what: str, listener: Listener = silent) -> None:
        """Retrain what is missing.

        Raises:
            TrainingError: a loss is not finite.
            ConfigError: a subset is empty.
        """
        todo = self.missing(wanted)
        held = self.corpus.evaluation
        progress = Progress(what, len(todo), "models", listener, every=20.0)
        for start in range(0, len(todo), KEEP_EVERY):
            outcomes = self.trainer.retrain(self.corpus, todo[start : start + KEEP_EVERY], progress.advance)
            runs = [(outcome.subset_id, outcome.seed) for outcome in outcomes]
            losses = np.stack([outcome.chunk_losses / held.n_tokens for outcome in outcomes])
            kept = losses.astype(np.float32)
            if self._folder is not None:
                save_archive(self._folder / f"{digest(runs)[:16]}.npz", {"runs": runs}, {"losses": kept})
            self._known |= dict(zip(runs, kept, strict=True))

    def losses(self, membership: Bools, seed: int) -> Floats:
        """Return (documents,) mean losses of a run that was made, nats per token."""
        return self._known[subset_id(self.corpus, membership), seed].astype(np.float64)
