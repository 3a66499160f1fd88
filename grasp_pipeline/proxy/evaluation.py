"""Held-out losses per chunk of stacked models."""

from __future__ import annotations

import torch
from torch import Tensor

from grasp_pipeline.proxy.head import token_losses
from grasp_pipeline.proxy.objective import Objective, Parameters


@torch.no_grad()
def stacked_chunk_losses(
    objective: Objective,
    weights: Parameters,
    rows: Tensor,
    sizes: Tensor,
    batch_rows: int = 8,
) -> Tensor:
    """Return the summed token loss of every chunk under every model.

    Args:
        objective: the model family.
        weights: stacked parameters, first axis K.
        rows: (N, L + 1) token ids from `pad_chunks`.
        sizes: (N,) tokens per chunk.
        batch_rows: rows per forward pass.

    Returns:
        (K, N) float64, nats summed over each chunk's tokens.
    """
    output = objective.output_weight(weights)
    models = output.shape[0]
    device = output.device
    order = torch.argsort(sizes, descending=True, stable=True)
    losses = torch.zeros(models, len(rows), dtype=torch.float64)
    for start in range(0, len(rows), batch_rows):
        chosen = order[start : start + batch_rows]
        longest = int(sizes[chosen].max())
        batch = rows[chosen, : longest + 1].to(device)
        hidden = objective.stacked_hidden(weights, batch[:, :-1])
        targets = batch[:, 1:]
        valid = torch.arange(longest, device=device).unsqueeze(0) < sizes[chosen].to(device).unsqueeze(1)
        for k in range(models):
            each = token_losses(hidden[k][valid], output[k], targets[valid])
            per_row = torch.zeros(len(chosen), dtype=torch.float64, device=device)
            row_of = torch.arange(len(chosen), device=device).unsqueeze(1).expand_as(valid)[valid]
            per_row.index_add_(0, row_of, each.double())
            losses[k, chosen] = per_row.cpu()
    return losses
