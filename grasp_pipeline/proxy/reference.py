"""The reference training: two checkpoints of one run, at its start and at its end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.names import CheckpointRole
from grasp_pipeline.proxy.batch_filter import BatchFilter
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.proxy.packing import packed_rows
from grasp_pipeline.proxy.training import Recipe, stack, train_stacked, unstack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Checkpoint:
    """One saved state of the reference training; losses in nats per token, validation on query documents."""

    role: CheckpointRole
    folder: Path
    sha256: str
    tokens_seen: int
    train_loss: float | None
    validation_loss: float
    seconds: float


def file_digest(path: Path) -> str:
    """Return the sha-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(model: PreTrainedModel, parameters: Parameters, folder: Path) -> str:
    """Write config.json and model.safetensors with the given parameters; returns the weights' sha-256."""
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            state[name].copy_(value)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True)
    return file_digest(folder / "model.safetensors")


def train_reference(
    model: PreTrainedModel,
    pool: TokenLists,
    members: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    bos: int,
    validation: tuple[Tensor, Tensor],
    folder: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float], None] | None = None,
    batch_filter: BatchFilter | None = None,
) -> list[Checkpoint]:
    """Train the proxy on a sample of the whole corpus and save its initial and its final state.

    Args:
        model: the proxy at its initial weights; left at its final ones.
        pool: all chunks.
        members: chunks to train on.
        recipe: optimiser, schedule and token budget.
        seed: seed of the order.
        bos: id that starts each chunk.
        validation: rows (N, L + 1) and sizes (N,) of held-out chunks.
        folder: parent folder of the checkpoints.
        device: where to train.
        progress: told (tokens done, train loss) after every step.
        batch_filter: leaves rows out of updates, as in `train_stacked`.

    Returns:
        Checkpoints in the order initial, reference.

    Raises:
        TrainingError: the loss is not finite.
    """
    objective = CausalLM(model)
    initial = {name: p.clone() for name, p in objective.parameters().items()}
    rows = torch.from_numpy(
        packed_rows(pool, members, recipe.rows, recipe.chunk_tokens, bos, "reference", seed)
    )
    per_step = recipe.batch_sequences * recipe.chunk_tokens
    kept: dict[CheckpointRole, tuple[Parameters, int, float | None, float]] = {
        "initial": (initial, 0, None, 0.0)
    }
    begun = time.perf_counter()
    window: list[float] = []

    def watch(step: int, losses: Tensor, weights: Parameters) -> None:
        window.append(float(losses[0]))
        smooth = float(np.mean(window[-20:]))
        if step == recipe.steps - 1:
            state = {name: p[0].detach().cpu().clone() for name, p in weights.items()}
            kept["reference"] = (state, (step + 1) * per_step, smooth, time.perf_counter() - begun)
        if progress is not None:
            progress((step + 1) * per_step, smooth)

    train_stacked(
        objective, initial, [rows], recipe, ["the reference proxy"], device, watch, batch_filter=batch_filter
    )
    total = int(validation[1].sum())
    checkpoints = []
    for role, (state, tokens, train_loss, seconds) in kept.items():
        stacked = stack(state, 1, device)
        loss = float(stacked_chunk_losses(objective, stacked, *validation).sum()) / total
        target = folder / role
        sha = save(model, unstack({k: v.cpu() for k, v in stacked.items()}, 0), target)
        checkpoints.append(Checkpoint(role, target, sha, tokens, train_loss, loss, seconds))
    return checkpoints


def shape_json(folder: Path) -> str:
    """Return a checkpoint's config.json as compact JSON."""
    return json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True)
