"""Retraining with results kept: what was measured before under the same conditions is never measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline import tables
from grasp_pipeline.names import MEAN, Split
from grasp_pipeline.progress import Progress
from grasp_pipeline.seeds import digest
from resources.notes import UtilitiesNote

if TYPE_CHECKING:
    import polars as pl

    from assets.data import StoredHeldOut, StoredPool
    from assets.step import Step
    from grasp_pipeline.proxy.retrain import Job, Outcome
    from grasp_pipeline.selection.certification.evidence import Evidence
    from resources.compute import Compute
    from resources.delta.commits import Commit, Provenance
    from resources.models import LoadedProxy, LoadedTokenizer

COMMIT_EVERY = 64
"""Retrainings per commit: a killed run loses at most these."""


def evidence(
    frame: pl.DataFrame, runs: dict[str, list[Job]], weights: dict[str, float] | None = None
) -> Evidence:
    """Return rows of `document_losses` as the certificate's evidence: arm -> (runs, documents).

    weights: of the tasks in the target, where they differ.
    """
    from grasp_pipeline.selection.certification.evidence import Evidence

    columns = ["task", "document", "fold", "n_tokens"]
    documents = frame.select(columns).unique().sort(columns)
    by_run = {key: part.sort(columns) for key, part in frame.group_by("subset_id", "seed")}
    losses = {}
    for arm, jobs in runs.items():
        parts = [by_run[job.subset_id, job.seed] for job in jobs]
        losses[arm] = np.stack([(part["loss_sum"] / part["n_tokens"]).to_numpy() for part in parts])
    return Evidence(
        losses,
        documents["n_tokens"].to_numpy().astype(np.float64),
        documents["fold"].to_numpy(),
        documents["task"].to_numpy().astype(np.str_),
        weights or {},
    )


@dataclass(frozen=True)
class Bench:
    """Everything a retraining needs besides the subset and the seed."""

    corpus: StoredPool
    tokenizer: LoadedTokenizer
    proxy: LoadedProxy
    held_out: StoredHeldOut
    compute: Compute

    @property
    def recipe(self) -> str:
        """Digest of all that a result depends on: recipe, initial weights, tokenizer and held-out documents."""
        return digest(
            self.proxy.recipe.digest(),
            self.proxy.checkpoint_id,
            self.tokenizer.tokenizer_id,
            self.tokenizer.chunk_tokens,
            self.held_out.digest,
        )

    def subset_id(self, membership: NDArray[np.bool_]) -> str:
        """Return the digest of a subset's chunk ids."""
        return digest(self.corpus.ids(membership))

    def job(self, subset_id: str, membership: NDArray[np.bool_], seed: int) -> Job:
        """Return one retraining."""
        from grasp_pipeline.proxy.retrain import Job

        return Job(subset_id, np.flatnonzero(membership).astype(np.int64), seed)

    def run(self, jobs: Sequence[Job], step: Step, what: str) -> list[Outcome]:
        """Retrain and measure, with progress."""
        from grasp_pipeline.proxy.packing import TextStream
        from grasp_pipeline.proxy.retrain import retrain

        objective = self.proxy.objective
        progress = Progress(what, len(jobs), "models", step.say)
        return list(
            retrain(
                objective,
                objective.parameters(),
                TextStream(self.corpus.text, self.tokenizer.encoder.bos),
                jobs,
                self.proxy.recipe,
                (self.held_out.rows, self.held_out.sizes),
                self.compute.stacked_models,
                self.compute.prepare(),
                progress.advance,
            )
        )

    def utilities(self, outcomes: Sequence[Outcome], split: Split) -> pl.DataFrame:
        """Return rows of `subset_utilities`: per task, and the mean over tasks."""
        import polars as pl

        task = self.held_out.frame["task"].to_numpy()
        tokens = self.held_out.frame["n_tokens"].to_numpy()
        rows = []
        for outcome in outcomes:
            per_task = {
                name: -float(outcome.chunk_losses[task == name].sum() / tokens[task == name].sum())
                for name in self.held_out.tasks
            }
            per_task[MEAN] = float(np.mean(list(per_task.values())))
            rows += [
                {
                    "subset_id": outcome.subset_id,
                    "task": name,
                    "seed": outcome.seed,
                    "split": split,
                    "utility": value,
                    "tokens": self.proxy.recipe.tokens,
                    "checkpoint_id": self.proxy.checkpoint_id,
                    "recipe": self.recipe,
                    "seconds": outcome.seconds,
                }
                for name, value in per_task.items()
            ]
        return pl.DataFrame(rows, schema=tables.SUBSET_UTILITIES.schema)

    def document_losses(self, outcomes: Sequence[Outcome], split: Split) -> pl.DataFrame:
        """Return rows of `document_losses`: summed loss and tokens per held-out document."""
        import polars as pl

        columns = ["task", "document", "fold"]
        frames = [
            self.held_out.frame.select(*columns, "n_tokens")
            .with_columns(loss_sum=pl.Series(outcome.chunk_losses))
            .group_by(columns, maintain_order=True)
            .agg(pl.col("loss_sum").sum(), pl.col("n_tokens").sum())
            .with_columns(
                subset_id=pl.lit(outcome.subset_id),
                seed=pl.lit(outcome.seed),
                split=pl.lit(split),
                recipe=pl.lit(self.recipe),
            )
            for outcome in outcomes
        ]
        return pl.concat(frames) if frames else tables.DOCUMENT_LOSSES.empty()

    def measure_utilities(
        self, step: Step, provenance: Provenance, split: Split, jobs: Sequence[Job], what: str
    ) -> tuple[Commit | None, int]:
        """Measure the jobs that `subset_utilities` does not hold yet under the same recipe.

        Returns:
            The last commit of the split (None when there is none) and the number of models retrained.
        """
        import polars as pl

        partition = {"split": split}
        commit = step.tables.latest(tables.SUBSET_UTILITIES, partition)
        known: set[tuple[str, int]] = set()
        if commit is not None:
            frame = step.tables.read(tables.SUBSET_UTILITIES, commit.version, partition)
            same = (
                frame.filter(pl.col("recipe") == self.recipe).select("subset_id", "seed").unique().collect()
            )
            known = set(same.iter_rows())
        todo = [job for job in jobs if (job.subset_id, job.seed) not in known]
        for start in range(0, len(todo), COMMIT_EVERY):
            outcomes = self.run(todo[start : start + COMMIT_EVERY], step, what)
            commit = step.tables.upsert(
                tables.SUBSET_UTILITIES,
                self.utilities(outcomes, split),
                provenance,
                partition,
                UtilitiesNote(
                    models=len(outcomes), seconds=sum(outcome.seconds for outcome in outcomes)
                ).to_json(),
            )
        return commit, len(todo)

    def measure_documents(
        self, step: Step, provenance: Provenance, split: Split, jobs: Sequence[Job], what: str
    ) -> tuple[pl.DataFrame, int]:
        """Measure the jobs that `document_losses` does not hold yet; returns the rows of all jobs.

        Returns:
            Rows of `document_losses` for the jobs, and the number of models retrained.
        """
        import polars as pl

        partition = {"split": split}
        wanted = pl.DataFrame(
            [(job.subset_id, job.seed) for job in jobs],
            schema={"subset_id": pl.String, "seed": pl.Int64},
            orient="row",
        )

        def held() -> pl.DataFrame:
            commit = step.tables.latest(tables.DOCUMENT_LOSSES, partition)
            if commit is None:
                return tables.DOCUMENT_LOSSES.empty()
            frame = step.tables.read(tables.DOCUMENT_LOSSES, commit.version, partition)
            return (
                frame.filter(pl.col("recipe") == self.recipe)
                .collect()
                .join(wanted, on=["subset_id", "seed"], how="semi")
            )

        known = set(held().select("subset_id", "seed").unique().iter_rows())
        todo = [job for job in jobs if (job.subset_id, job.seed) not in known]
        if todo:
            outcomes = self.run(todo, step, what)
            step.tables.upsert(
                tables.DOCUMENT_LOSSES, self.document_losses(outcomes, split), provenance, partition
            )
        return held(), len(todo)
