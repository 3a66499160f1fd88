"""The pool of the learned members: the bundled corpus, cut small, its proxy, and what a text's teachers need of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.laboratory.text import TextPlan, build_text_corpus
from benchmarks.published import ROOT
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.evaluation.proxies import text_trainer
from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.proxy.runs import Trainer
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.views import train_checkpoints

SEED = 0
RESAMPLES = 2000


def recipe(plan: TextPlan, steps: int) -> Recipe:
    """Return the recipe of a short training."""
    return Recipe(steps, 2, plan.chunk_tokens, 4.5e-3, 0.1, 0.01, 1.0)


@dataclass(frozen=True)
class LearnedPool:
    """A pool of the bundled corpus with its tasks, a tiny proxy, and that proxy trained on the whole pool."""

    corpus: TaskPool
    objective: CausalLM
    trainer: Trainer
    reference: Parameters

    @classmethod
    def make(cls, plan: TextPlan, steps: int) -> LearnedPool:
        """Draw the pool and train the reference for twice as many steps as a retraining takes."""
        documents = pl.read_parquet(ROOT / "data" / "corpus" / "*.parquet")
        corpus = build_text_corpus("bundled", documents, plan, SEED)
        objective, trainer = text_trainer("tiny", corpus, recipe(plan, steps), SEED, 32)
        kept = train_checkpoints(
            objective,
            trainer.initial,
            corpus.stream,
            np.arange(corpus.n),
            recipe(plan, 2 * steps),
            1 / 3,
            SEED,
        )
        return cls(corpus, objective, trainer, kept["reference"])

    def states(self, held: HeldOut) -> NDArray[np.float32]:
        """Return the mean hidden states of held-out examples, (N, H)."""
        return representations(self.objective, self.reference, held.rows, held.sizes)

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """Mean hidden states of the pool, (n, H)."""
        return representations(self.objective, self.reference, self.corpus.rows, self.corpus.sizes)


def cpu_seconds(work: Callable[[int], object], count: int) -> float:
    """Return seconds of processor time per call of `work` with 0 to count - 1, after one call to warm up."""
    work(0)
    begun = time.process_time()
    for number in range(count):
        work(number)
    return (time.process_time() - begun) / count


def interval(values: NDArray[np.floating], name: str) -> tuple[float, float, float]:
    """Return the mean over units (k,) and the 95% interval of its bootstrap over them."""
    draws = generator("family", name).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)
