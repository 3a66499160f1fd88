"""Training of several models at once: weights stacked along a first axis, one batched step for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.proxy.batch_filter import BatchFilter
from grasp_pipeline.proxy.head import StackedCrossEntropy
from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.seeds import digest


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: everything that a result depends on besides data, seed and initial weights."""

    steps: int
    batch_sequences: int
    chunk_tokens: int
    learning_rate: float
    warmup_fraction: float
    weight_decay: float
    clip_norm: float

    @classmethod
    def from_config(cls, config: ProxyConfig, chunk_tokens: int, tokens: int) -> Recipe:
        """Build the recipe that spends `tokens` training tokens, rounded up to whole steps."""
        return cls(
            steps=math.ceil(tokens / (config.batch_sequences * chunk_tokens)),
            batch_sequences=config.batch_sequences,
            chunk_tokens=chunk_tokens,
            learning_rate=config.learning_rate,
            warmup_fraction=config.warmup_fraction,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
        )

    def spending(self, tokens: int) -> Recipe:
        """Return the recipe with another length in training tokens, rounded up to whole steps."""
        return replace(self, steps=math.ceil(tokens / (self.batch_sequences * self.chunk_tokens)))

    @property
    def rows(self) -> int:
        """Packed rows used."""
        return self.steps * self.batch_sequences

    @property
    def tokens(self) -> int:
        """Training tokens (targets)."""
        return self.rows * self.chunk_tokens

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine to a tenth of the peak."""
        warmup = max(1, round(self.warmup_fraction * self.steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    def digest(self) -> str:
        """Return a digest of all fields."""
        return digest(self.__dict__)


def stack(parameters: Parameters, copies: int, device: torch.device | str = "cpu") -> Parameters:
    """Stack `copies` equal copies of every parameter along a new first axis."""
    return {
        name: p.to(device).unsqueeze(0).repeat(copies, *[1] * p.dim()).contiguous()
        for name, p in parameters.items()
    }


def stack_models(models: Sequence[Parameters], device: torch.device | str = "cpu") -> Parameters:
    """Stack the parameters of several models along a new first axis."""
    return {name: torch.stack([model[name].to(device) for model in models]) for name in models[0]}


def unstack(parameters: Parameters, index: int) -> Parameters:
    """Return one model's parameters out of stacked ones."""
    return {name: p[index].detach() for name, p in parameters.items()}


def train_stacked(
    objective: Objective,
    initial: Parameters,
    rows: Sequence[Tensor],
    recipe: Recipe,
    names: Sequence[str],
    device: torch.device | str = "cpu",
    on_step: Callable[[int, Tensor, Parameters], None] | None = None,
    dtype: torch.dtype = torch.float32,
    batch_filter: BatchFilter | None = None,
) -> Parameters:
    """Train K models from the same initial weights, each on its own rows, with AdamW.

    Every model has its own gradient norm clipping; AdamW works element by element, so stacked training equals
    training one model at a time up to floating-point rounding.

    Args:
        objective: the model family.
        initial: parameters of one model.
        rows: K tensors (recipe.rows, L + 1) of token ids.
        recipe: optimiser and schedule.
        names: K names for error messages.
        device: where to train.
        on_step: called after each step with (step, losses (K,), stacked parameters).
        dtype: bfloat16 autocasts the blocks, for CUDA; the output layer, the loss, weights, gradients and AdamW
            stay in the type of `initial`. float32 casts nothing. It changes results beyond rounding.
        batch_filter: says before each update which rows of the batch count; None: all of them do.

    Returns:
        Stacked parameters, first axis K, detached.

    Raises:
        TrainingError: a model's loss is not finite; the message names it and the step.
    """
    models = len(rows)
    weights = stack(initial, models, device)
    for p in weights.values():
        p.requires_grad_(True)
    matrices = [p for name, p in weights.items() if initial[name].dim() >= 2]
    vectors = [p for name, p in weights.items() if initial[name].dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True
    )
    data = torch.stack([torch.as_tensor(r) for r in rows]).to(device)
    per_step = recipe.batch_sequences
    positions = per_step * recipe.chunk_tokens
    even = token_weights = torch.full((models, positions), 1.0 / positions, device=device)
    cross_entropy = StackedCrossEntropy(objective.output_weight(weights), positions)
    cast = nullcontext() if dtype == torch.float32 else torch.autocast(torch.device(device).type, dtype)
    for step in range(recipe.steps):
        batch = data[:, step * per_step : (step + 1) * per_step]
        if batch_filter is not None:
            keep = batch_filter.keep(objective, weights, batch, step).to(device)
            rows_kept = keep.sum(1, keepdim=True)
            token_weights = even * (keep * per_step / rows_kept).repeat_interleave(recipe.chunk_tokens, dim=1)
        with cast:
            hidden = objective.stacked_hidden(weights, batch[:, :, :-1]).reshape(models, positions, -1)
        output = objective.output_weight(weights)
        hidden = hidden.to(output.dtype)
        targets = batch[:, :, 1:].reshape(models, positions)
        losses, d_hidden = cross_entropy(hidden, output, targets, token_weights)
        output.grad = cross_entropy.d_weight
        hidden.backward(d_hidden)  # adds to the output weight's gradient where it is the input embedding too
        _clip(weights, recipe.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0 or step == recipe.steps - 1:
            _check_finite(losses, names, step, recipe)
        if on_step is not None:
            on_step(step, losses, weights)
    return {name: p.detach() for name, p in weights.items()}


@torch.no_grad()
def _clip(weights: Parameters, largest: float) -> None:
    grads = [p.grad for p in weights.values() if p.grad is not None]
    norms = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads]), dim=0
    )
    factor = (largest / (norms + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))


def _check_finite(losses: Tensor, names: Sequence[str], step: int, recipe: Recipe) -> None:
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    if bad:
        raise TrainingError(
            f"the training loss of {names[bad[0]]} is not finite at step {step} of {recipe.steps}; "
            f"lower proxy_checkpoints.learning_rate, now {recipe.learning_rate:g} (of images: "
            "vision_fidelity.learning_rate)"
        )
