"""The output layer and its cross-entropy for stacked models, without keeping more than one block of logits alive.

Loss of model k: sum over its N positions of w_n * (logsumexp(E h_n) - (E h_n)[y_n]). Forward already forms the
gradients (softmax - onehot), as one (N, V) block per model in a buffer that is used again; backward only scales.
Keeping the logits of all models, and letting autograd copy them, costs more than the matrix products themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StackedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor, buffer: Tensor
    ) -> Tensor:
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.empty_like(weight)
        losses = hidden.new_empty(hidden.shape[0])
        for k in range(hidden.shape[0]):
            torch.mm(hidden[k], weight[k].t(), out=buffer)
            torch.softmax(buffer, dim=1, out=buffer)
            labels = targets[k].unsqueeze(1)
            tokens = token_weights[k].unsqueeze(1)
            probability = buffer.gather(1, labels)
            # A probability that underflows to 0 would make the loss infinite: the smallest normal float bounds it.
            tiny = torch.finfo(buffer.dtype).tiny
            losses[k] = -(probability.clamp_min(tiny).log() * tokens).sum()
            buffer.scatter_add_(1, labels, torch.full_like(probability, -1.0))
            torch.mm(buffer, weight[k], out=d_hidden[k])
            d_hidden[k].mul_(tokens)
            torch.mm(buffer.t(), hidden[k] * tokens, out=d_weight[k])
        ctx.save_for_backward(d_hidden, d_weight)
        return losses

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        d_hidden, d_weight = ctx.saved_tensors
        scale = grad_outputs[0].view(-1, 1, 1)
        return d_hidden * scale, d_weight * scale, None, None, None


def stacked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor, buffer: Tensor | None = None
) -> Tensor:
    """Return the weighted cross-entropy of K stacked models, differentiable in `hidden` and `weight`.

    Args:
        hidden: (K, N, H).
        weight: (K, V, H).
        targets: (K, N) int64.
        token_weights: (K, N), for example 1/N each for a mean.
        buffer: (N, V) scratch, same dtype as hidden; allocated when None.

    Returns:
        (K,) losses.
    """
    if buffer is None:
        buffer = hidden.new_empty(hidden.shape[1], weight.shape[1])
    return _StackedCrossEntropy.apply(hidden, weight, targets, token_weights, buffer)  # type: ignore[no-any-return]


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropies (N,) in nats of one model: hidden (N, H), weight (V, H), targets (N,)."""
    return torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")
