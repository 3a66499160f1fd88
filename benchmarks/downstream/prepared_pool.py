"""A pool prepared for contests: three tasks with documents split for every purpose, and sketches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from benchmarks.downstream.settings import GroundSettings, PoolSettings
from benchmarks.laboratory.text import build_text_corpus
from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.archive import ArchiveStore
from grasp_pipeline.evaluation.proxies import EARLY_FRACTION, text_trainer
from grasp_pipeline.names import MEAN
from grasp_pipeline.proxy.conditional import fine_tune
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.proxy.packing import TextStream
from grasp_pipeline.proxy.retrain import Outcome
from grasp_pipeline.proxy.runs import MeasuredRuns, Trainer
from grasp_pipeline.seeds import digest, generator
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.finalists import judge_finalists
from grasp_pipeline.selection.candidates.judge import Judgement
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
from grasp_pipeline.selection.target import Target
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.views import View, compress, take_view, train_checkpoints

SEALED = -1


@dataclass(frozen=True)
class PreparedPool:
    """What one pool and one seed offer to the contests of all targets.

    Attributes:
        corpus: the pool; its `evaluation` has one example per held-out document.
        fold: (D,) 0 or 1 for calibration documents, `SEALED` for those that are never used for picking.
        view: output sketches of the pool.
        objective, reference: the proxy and its trained parameters.
        trainer: how subsets are retrained.
        budget: tokens to keep.
    """

    corpus: TaskPool
    fold: NDArray[np.int64]
    view: View
    objective: CausalLM
    reference: Parameters
    trainer: Trainer
    budget: int

    @property
    def targets(self) -> tuple[str, ...]:
        """The single tasks and their mean."""
        return (*self.corpus.tasks, MEAN)

    @property
    def document_tokens(self) -> Floats:
        """Tokens per held-out document, (D,)."""
        return self.corpus.evaluation.n_tokens.astype(np.float64)

    @property
    def document_task(self) -> NDArray[np.str_]:
        """Task per held-out document, (D,)."""
        return np.asarray(self.corpus.tasks)[self.corpus.evaluation.task]

    def context(self, target: str) -> SelectionContext:
        """Return what the arms of a target are built from: query documents alone."""
        wanted, queries = Target.of(target, self.corpus.tasks), self.corpus.queries
        return SelectionContext.of(
            self.corpus,
            FeasibleSets.of(self.corpus, self.budget),
            wanted,
            ArrayBlocks(self.view.sketches),
            self.view.targets,
            queries,
            self.view.losses.astype(np.float64),
            self.conditional(wanted.texts(queries)[0], "query"),
            self.trainer.recipe.tokens,
        )

    def runs(self, folder: Path, trainer: Trainer | None = None) -> MeasuredRuns:
        """Return runs of the pool that keep their mean loss per held-out document, nats per token, below a folder."""
        held, trainer = self.corpus.evaluation, trainer or self.trainer
        recipe = digest(trainer.recipe_id(self.corpus), held.rows.tolist())

        def losses(outcome: Outcome) -> Floats:
            return (outcome.chunk_losses / held.n_tokens).astype(np.float32).astype(np.float64)

        store = ArchiveStore(folder, len(held.rows))
        return MeasuredRuns(trainer, self.corpus.stream, held, recipe, losses, store)

    def conditional(self, wanted: TokenLists, name: str) -> Floats:
        """Return (n,) how much fine-tuning the reference on wanted chunks lowers each chunk's loss, nats per token."""
        stream, corpus = self.corpus.stream, self.corpus
        assert isinstance(stream, TextStream), "a text corpus"
        texts = {name: wanted}
        weights = fine_tune(self.objective, self.reference, texts, self.trainer.recipe, stream.bos)
        (after,) = stacked_chunk_losses(self.objective, weights, corpus.rows, corpus.sizes)
        return self.view.losses.astype(np.float64) - (after / corpus.sizes).numpy()

    def judge(self, context: SelectionContext, finalists: Sequence[Candidate]) -> Judgement:
        """Judge the finalists of a context: judge documents alone."""
        judges = self.corpus.judges
        gained = self.conditional(context.target.texts(judges)[0], "judge")
        return judge_finalists(context, finalists, judges, gained)


def prepare_pool(
    name: str, documents: pl.DataFrame, settings: PoolSettings, size: GroundSettings, seed: int
) -> PreparedPool:
    """Draw the pool, train the reference on it and sketch it.

    Args:
        name: of the corpus; its targets are `settings.targets[name]`.
        documents: columns source and text.
        settings: of the benchmark.
        size: of this kind of pool.
        seed: of the pool, the splits, the proxy and the sketches.

    Raises:
        ConfigError: a target is not among the corpus's largest sources.
        InputError: a source has too few documents.
    """
    whole = build_text_corpus(name, documents, settings.text_plan(size), seed)
    corpus = restrict(whole, settings.targets[name])
    objective, trainer = text_trainer(
        settings.preset, corpus, settings.recipe(size), seed, settings.stacked_models
    )
    found = train_checkpoints(
        objective,
        trainer.initial,
        corpus.stream,
        np.arange(corpus.n),
        settings.recipe(size, settings.reference_factor),
        EARLY_FRACTION,
        seed,
    )
    side = settings.sketch_side
    view = compress(take_view(OutputSketcher(objective, found["reference"], side, side, seed), corpus))
    fold = split_documents(corpus.evaluation.task, size.calibration_documents, name, seed)
    budget = round(settings.budget_fraction * corpus.total)
    return PreparedPool(corpus, fold, view, objective, found["reference"], trainer, budget)


def split_documents(task: NDArray[np.int64], calibration: int, *name: str | int) -> NDArray[np.int64]:
    """Return per document its calibration fold (0 or 1) or `SEALED`: `calibration` documents of every task.

    Raises:
        ConfigError: a task has too few documents.
    """
    fold = np.full(len(task), SEALED, dtype=np.int64)
    for code in np.unique(task):
        mine = np.flatnonzero(task == code)
        if len(mine) < calibration + 2:
            raise ConfigError(
                f"a task has {len(mine)} held-out documents; {calibration} calibration_documents leave fewer "
                "than 2 sealed ones: raise sealed_documents"
            )
        chosen = generator("downstream documents", *name, int(code)).permutation(mine)[:calibration]
        fold[chosen] = np.arange(calibration) % 2
    return fold


def restrict(corpus: TaskPool, tasks: list[str]) -> TaskPool:
    """Return the corpus with some of its tasks, and one evaluation example per document.

    Raises:
        ConfigError: a task is not one of the corpus's.
    """
    missing = sorted(set(tasks) - set(corpus.tasks))
    if missing:
        raise ConfigError(
            f"target {missing[0]!r} of {corpus.name} is not among its tasks {', '.join(corpus.tasks)}; "
            "name some of them, or raise tasks"
        )
    codes = [corpus.tasks.index(name) for name in sorted(tasks)]
    first = np.zeros(len(corpus.evaluation.document), dtype=np.bool_)
    first[np.unique(corpus.evaluation.document, return_index=True)[1]] = True
    return replace(
        corpus,
        tasks=tuple(sorted(tasks)),
        query=_only(corpus.query, codes, None),
        judge=_only(corpus.judge, codes, None),
        evaluation=_only(corpus.evaluation, codes, first),
    )


def _only(held: HeldOut, codes: list[int], also: NDArray[np.bool_] | None) -> HeldOut:
    kept = np.isin(held.task, codes)
    if also is not None:
        kept &= also
    rows = torch.from_numpy(np.flatnonzero(kept))
    return HeldOut(
        held.rows[rows], held.sizes[rows], np.searchsorted(codes, held.task[kept]), held.document[kept]
    )
