"""Retraining on many subsets from one shared initialisation, and the held-out loss of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.proxy.packing import ExampleStream
from grasp_pipeline.proxy.training import Recipe, train_stacked

Run = tuple[str, int]
"""(subset_id, training seed)."""


@dataclass(frozen=True)
class Job:
    """One retraining: the subset's chunks (indices into the pool), its id and the training seed."""

    subset_id: str
    members: NDArray[np.int64]
    seed: int

    @property
    def run(self) -> Run:
        """What names it."""
        return self.subset_id, self.seed


@dataclass(frozen=True)
class Outcome:
    """What one retraining gave: summed loss per held-out chunk (N,) in nats, and its share of the seconds."""

    subset_id: str
    seed: int
    chunk_losses: NDArray[np.float64]
    seconds: float

    @property
    def run(self) -> Run:
        """What names it."""
        return self.subset_id, self.seed


def retrain(
    objective: Objective,
    initial: Parameters,
    stream: ExampleStream,
    jobs: Sequence[Job],
    recipe: Recipe,
    held_out: tuple[Tensor, Tensor],
    stacked_models: int,
    device: torch.device | str = "cpu",
    on_done: Callable[[int], None] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Outcome]:
    """Retrain every job and measure it, `stacked_models` at a time; yields outcomes in the order of the jobs.

    The draw of a job's batches is named by its subset and seed alone, so neither the order of the jobs nor the
    group size changes a result beyond floating-point rounding.

    Args:
        objective: the model family.
        initial: the shared initial parameters.
        stream: all chunks, as training rows.
        jobs: what to retrain.
        recipe: optimiser, schedule and token budget.
        held_out: rows (N, L + 1) and sizes (N,) of the chunks to measure.
        stacked_models: models trained together.
        device: where to train.
        on_done: told the number of models finished, for progress.
        dtype: as in `train_stacked`; losses are measured in the type of `initial`.

    Raises:
        TrainingError: a loss is not finite.
        ConfigError: a subset is empty.
    """
    rows_held, sizes_held = held_out
    for start in range(0, len(jobs), stacked_models):
        group = jobs[start : start + stacked_models]
        begun = time.perf_counter()
        rows = [
            torch.from_numpy(
                stream.rows(j.members, recipe.rows, recipe.chunk_tokens, "retrain", j.subset_id, j.seed)
            )
            for j in group
        ]
        names = [f"subset {j.subset_id[:12]} (seed {j.seed})" for j in group]
        weights = train_stacked(objective, initial, rows, recipe, names, device, dtype=dtype)
        losses = stacked_chunk_losses(objective, weights, rows_held, sizes_held).numpy()
        seconds = (time.perf_counter() - begun) / len(group)
        for job, row in zip(group, losses, strict=True):
            yield Outcome(job.subset_id, job.seed, row, seconds)
        if on_done is not None:
            on_done(len(group))
