"""Attribution by unlearning: which chunks does a model forget with a query? (Wang et al. 2024, arXiv 2406.09408).

    theta' = theta + eta g_q ,   g_q = gradient of the query's mean token loss,   eta = RISE / ||g_q||^2
    effect of chunk i = (loss_i(theta') - loss_i(theta)) per token

One ascent step that would raise the query's loss by `RISE` nats if the loss were linear. The paper takes the step in
the inverse Fisher metric; here it is a plain one. Exact effects cost a forward pass of every chunk per query, which is
what `distilled` saves.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.head import token_losses
from grasp_pipeline.proxy.objective import Objective, Parameters

RISE = 0.1
"""Nats per token by which the step raises the query's loss, to first order."""

BATCH_ROWS = 64


class Unlearning:
    """Effects of unlearning a query on chunks: rows (n, L + 1) and sizes (n,) as from `pad_chunks`."""

    def __init__(self, objective: Objective, parameters: Parameters, rows: Tensor, sizes: Tensor) -> None:
        self.objective, self.parameters, self.rows, self.sizes = objective, parameters, rows, sizes
        self.before = self._losses(parameters, np.arange(len(rows)))

    def effects(self, row: Tensor, size: int, members: np.ndarray | None = None) -> Floats:
        """Return the effects on all chunks, or some (k,) row numbers: nats per token, higher is more responsible.

        row: (L' + 1,) the query's token ids, BOS first. size: how many of them are its targets, at least 1.

        Raises:
            TrainingError: the query's gradient, or a loss after the step, is not finite.
        """
        which = np.arange(len(self.rows)) if members is None else members
        weights = ascended(self.objective, self.parameters, row, size)
        after = self._losses(weights, which)
        if not np.isfinite(after).all():
            raise TrainingError("a loss after the ascent step is not finite; lower unlearning.RISE")
        return after - self.before[which]

    def _losses(self, weights: Parameters, which: np.ndarray) -> Floats:
        chosen = torch.from_numpy(which)
        stacked = {name: p.unsqueeze(0) for name, p in weights.items()}
        sums = stacked_chunk_losses(
            self.objective, stacked, self.rows[chosen], self.sizes[chosen], BATCH_ROWS
        )
        return sums[0].numpy() / self.sizes[chosen].numpy()


def ascended(objective: Objective, parameters: Parameters, row: Tensor, size: int) -> Parameters:
    """Return theta' of one ascent step on a query; arguments and errors as in `Unlearning.effects`."""
    free = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        hidden = objective.hidden(free, row[None, :size])
        losses = token_losses(hidden[0], objective.output_weight(free), row[1 : size + 1])
        gradients = torch.autograd.grad(losses.mean(), list(free.values()))
    squared = sum(float(g.double().square().sum()) for g in gradients)
    if not 0 < squared < float("inf"):
        raise TrainingError(f"the squared gradient norm of the query is {squared}; give another text")
    step = RISE / squared
    return {name: (p + step * g).detach() for (name, p), g in zip(free.items(), gradients, strict=True)}
