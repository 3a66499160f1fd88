"""Retraining with results kept: what was measured before under the same conditions is never measured again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline import tables
from grasp_pipeline.names import MEAN, Split
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    import polars as pl

    from assets.data import StoredHeldOut, StoredPool
    from assets.step import Step
    from grasp_pipeline.proxy.retrain import Job, Outcome
    from grasp_pipeline.proxy.runs import MeasuredRuns
    from grasp_pipeline.selection.certification.evidence import Evidence
    from resources.compute import Compute
    from resources.delta.commits import Provenance
    from resources.models import LoadedProxy, LoadedTokenizer


def evidence(
    measured: MeasuredRuns,
    documents: pl.DataFrame,
    runs: Mapping[str, Sequence[Job]],
    weights: dict[str, float] | None = None,
) -> Evidence:
    """Return measured losses of `documents` as the certificate's evidence: arm -> (runs, documents).

    weights: of the tasks in the target, where they differ.
    """
    from grasp_pipeline.selection.certification.evidence import Evidence

    tokens = documents["n_tokens"].to_numpy().astype(np.float64)
    return Evidence(
        {arm: np.stack([measured.values[job.run] for job in jobs]) / tokens for arm, jobs in runs.items()},
        tokens,
        documents["fold"].to_numpy(),
        documents["task"].to_numpy().astype(np.str_),
        weights or {},
    )


@dataclass(frozen=True)
class Bench:
    """Everything a retraining needs besides the subset and the seed; what it gives is kept in a split of the tables."""

    step: Step
    provenance: Provenance
    split: Split
    corpus: StoredPool
    tokenizer: LoadedTokenizer
    proxy: LoadedProxy
    held_out: StoredHeldOut
    compute: Compute
    cluster_share: float = 1.0
    """Of the clusters that retrainings see; see `job_of`."""

    @cached_property
    def documents(self) -> pl.DataFrame:
        """task, document, fold and n_tokens of the held-out documents (D rows)."""
        return self.held_out.per_document(self.held_out.n_tokens).drop("value")

    def utilities(self) -> MeasuredRuns:
        """Return the runs of `subset_utilities`: minus the token loss of every task, and its mean over tasks."""
        import polars as pl

        held, proxy = self.held_out, self.proxy
        mine = [held.task == task for task in range(len(held.tasks))]

        def per_task(outcome: Outcome) -> NDArray[np.float64]:
            found = [-float(outcome.chunk_losses[m].sum() / held.n_tokens[m].sum()) for m in mine]
            return np.array([*found, np.mean(found)])

        rows = {
            "task": [*held.tasks, MEAN],
            "tokens": proxy.recipe.tokens,
            "checkpoint_id": proxy.checkpoint_id,
        }
        return self._runs(tables.SUBSET_UTILITIES, pl.DataFrame(rows), per_task)

    def document_losses(self) -> MeasuredRuns:
        """Return the runs of `document_losses`: the summed loss of every held-out document."""

        def per_document(outcome: Outcome) -> NDArray[np.float64]:
            return self.held_out.per_document(outcome.chunk_losses)["value"].to_numpy()

        return self._runs(tables.DOCUMENT_LOSSES, self.documents, per_document)

    def job(self, membership: NDArray[np.bool_], seed: int) -> Job:
        """Return the retraining of a subset (n,)."""
        from grasp_pipeline.proxy.runs import job_of

        return job_of(self.corpus, membership, seed, self.cluster_share)

    def _runs(
        self, table: tables.Table, rows: pl.DataFrame, of: Callable[[Outcome], NDArray[np.float64]]
    ) -> MeasuredRuns:
        from grasp_pipeline.proxy.packing import TextStream
        from grasp_pipeline.proxy.runs import MeasuredRuns, Trainer
        from resources.runs import DeltaRuns

        proxy, tokenizer, held = self.proxy, self.tokenizer, self.held_out
        made_with = (
            proxy.recipe.digest(),
            proxy.checkpoint_id,
            tokenizer.tokenizer_id,
            tokenizer.chunk_tokens,
            *(("scale model", self.cluster_share) if self.cluster_share < 1 else ()),
        )
        trainer = Trainer(
            proxy.objective,
            proxy.objective.parameters(),
            proxy.recipe,
            proxy.checkpoint_id,
            self.compute.stacked_models,
            self.compute.worker_devices()[0],
            self.compute.map_engine,
        )
        store = DeltaRuns(self.step.tables, self.provenance, table, self.split, rows)
        stream = TextStream(self.corpus.text, tokenizer.encoder.bos)
        return MeasuredRuns(trainer, stream, held, digest(*made_with, held.digest), of, store)
