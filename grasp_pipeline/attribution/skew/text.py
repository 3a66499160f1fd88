"""The text form: the shared noise is a dropout mask on the hidden states that the output layer reads."""

from __future__ import annotations

import torch
from torch import Tensor

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.skew.ascent import Ascent, Unlearned, mirrored_ascent, skew
from grasp_pipeline.proxy.head import token_losses
from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.seeds import generator, seed_for

DROPOUT = 0.1
"""Share of the hidden units that a mask sets to zero; the others grow by as much."""


def masked_losses(
    objective: Objective, parameters: Parameters, rows: Tensor, sizes: Tensor, mask: Tensor
) -> Tensor:
    """Return the mean token losses (B,) of rows (B, L + 1) with the hidden units times a mask (H,)."""
    hidden = objective.hidden(parameters, rows[:, :-1]) * mask
    valid = torch.arange(hidden.shape[1]).unsqueeze(0) < sizes.unsqueeze(1)
    each = token_losses(hidden.flatten(0, 1), objective.output_weight(parameters), rows[:, 1:].flatten())
    return (each.view(valid.shape) * valid).sum(1) / sizes


def dropout_mask(units: int, *name: str | int) -> Tensor:
    """Return a named mask (units,)."""
    source = torch.Generator().manual_seed(seed_for("dropout mask", *name))
    return (torch.rand(units, generator=source) >= DROPOUT) / (1 - DROPOUT)


def text_skew(
    objective: Objective,
    trained: Parameters,
    untrained: Parameters,
    pool: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    ascent: Ascent,
    draws: int = 8,
    batch: int = 16,
) -> tuple[Floats, Unlearned]:
    """Return the scores (n,) of n chunks for a query, and the unlearned model.

    pool, query: rows (n, L + 1) and sizes (n,) as `pad_chunks` lays them out. draws: dropout masks of the skew.

    Raises:
        TrainingError: a loss is not finite.
    """
    units = objective.output_weight(trained).shape[1]
    with torch.no_grad():
        null = float(masked_losses(objective, untrained, *query, torch.ones(units)).mean())

    def train(weights: Parameters, step: int) -> Tensor:
        chosen = torch.from_numpy(generator("skew batch", step).permutation(len(pool[0]))[:batch])
        mask = dropout_mask(units, "train", step)
        return masked_losses(objective, weights, pool[0][chosen], pool[1][chosen], mask).mean()

    def asked(weights: Parameters, step: int) -> Tensor:
        return masked_losses(objective, weights, *query, dropout_mask(units, "query", step)).mean()

    unlearned = mirrored_ascent(train, asked, trained, null, ascent)
    both = [
        _shared(objective, weights, pool, units, draws, 4 * batch)
        for weights in (unlearned.parameters, trained)
    ]
    return skew(*both), unlearned


@torch.no_grad()
def _shared(
    objective: Objective, weights: Parameters, pool: tuple[Tensor, Tensor], units: int, draws: int, batch: int
) -> Floats:
    """Return losses (R, n) on R shared masks."""
    rows, sizes = pool
    found = [
        torch.cat(
            [
                masked_losses(objective, weights, rows[i : i + batch], sizes[i : i + batch], mask)
                for i in range(0, len(rows), batch)
            ]
        )
        for mask in (dropout_mask(units, "skew", index) for index in range(draws))
    ]
    return torch.stack(found).double().numpy()
