"""Retraining on many subsets from one shared initialisation, and the held-out loss of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.engine import Engine, SerialEngine
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


class Group(NamedTuple):
    """Jobs that are trained together: what names them, and the training rows of each, (rows, L + 1) int32."""

    runs: list[Run]
    rows: list[NDArray[np.int32]]


@dataclass(frozen=True)
class GroupTrainer:
    """What a worker retrains a group of jobs by: everything but the jobs; see `retrain` for the fields."""

    objective: Objective
    initial: Parameters
    recipe: Recipe
    held_out: tuple[Tensor, Tensor]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def __call__(self, group: Group) -> list[Outcome]:
        """Train the group's models together and measure each on the held-out chunks."""
        begun = time.perf_counter()
        rows = [torch.from_numpy(each.astype(np.int64)) for each in group.rows]
        names = [f"subset {subset_id[:12]} (seed {seed})" for subset_id, seed in group.runs]
        weights = train_stacked(
            self.objective, self.initial, rows, self.recipe, names, self.device, dtype=self.dtype
        )
        losses = stacked_chunk_losses(self.objective, weights, *self.held_out).numpy()
        seconds = (time.perf_counter() - begun) / len(group.runs)
        return [Outcome(*run, row, seconds) for run, row in zip(group.runs, losses, strict=True)]


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
    engine: Engine | None = None,
) -> Iterator[Outcome]:
    """Retrain every job and measure it, `stacked_models` at a time; yields outcomes in the order of the jobs.

    The draw of a job's batches is named by its subset and seed alone, so neither the order of the jobs nor the
    group size changes a result beyond floating-point rounding. Groups are cut from the jobs alone: the number of
    workers changes nothing.

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
        engine: what the groups go through; None for one after the other in this process.

    Raises:
        TrainingError: a loss is not finite.
        ConfigError: a subset is empty.
        EngineError: a worker died, or ran out of memory.
    """

    def groups() -> Iterator[Group]:
        for start in range(0, len(jobs), stacked_models):
            group = jobs[start : start + stacked_models]
            rows = [
                stream.rows(
                    j.members, recipe.rows, recipe.chunk_tokens, "retrain", j.subset_id, j.seed
                ).astype(np.int32)
                for j in group
            ]
            yield Group([j.run for j in group], rows)

    trainer = GroupTrainer(objective, initial, recipe, held_out, device, dtype)
    for outcomes in (engine or SerialEngine()).map_blocks(trainer, groups()):
        yield from outcomes
        if on_done is not None:
            on_done(len(outcomes))
