"""The output layer and its cross-entropy for stacked models, without keeping more than one block of logits alive.

Loss of model k: sum over its N positions of w_n * (logsumexp(E h_n) - (E h_n)[y_n]). Logits become the gradients
(softmax - onehot) in place, one (N, V) block per model in a buffer that is used again. Keeping the logits of all
models, and letting autograd copy them, costs more than the matrix products themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor


class StackedCrossEntropy:
    """The weighted cross-entropy of K stacked models and its gradients, with the scratch memory that they need."""

    def __init__(self, weight: Tensor, positions: int) -> None:
        """Take the output weights (K, V, H), for their shape, and N."""
        size, width = weight.shape[1:]
        self.d_weight = torch.empty_like(weight, requires_grad=False)
        """The last gradient of the sum of all losses in the weights (K, V, H); written over by the next."""
        self._block = self.d_weight.new_empty(positions, size)
        self._turned = self.d_weight.new_empty(width, size)
        self._minus = self.d_weight.new_full((positions, 1), -1.0)

    @torch.no_grad()
    def __call__(
        self, hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return losses and the gradient of their sum in `hidden`; that in `weight` is then in `d_weight`.

        Args:
            hidden: (K, N, H).
            weight: (K, V, H).
            targets: (K, N) int64.
            token_weights: (K, N), for example 1/N each for a mean.

        Returns:
            Losses (K,) and a gradient (K, N, H).
        """
        block = self._block
        labels = targets.unsqueeze(2)
        weighted = hidden * token_weights.unsqueeze(2)
        d_hidden = torch.empty_like(hidden)
        probability = hidden.new_empty(*targets.shape, 1)
        for k in range(len(hidden)):
            torch.mm(hidden[k], weight[k].t(), out=block)
            torch.softmax(block, dim=1, out=block)
            torch.gather(block, 1, labels[k], out=probability[k])
            block.scatter_add_(1, labels[k], self._minus)
            torch.mm(block, weight[k], out=d_hidden[k])
            # The product into (H, V) and the copy take less time than the one into (V, H).
            torch.mm(weighted[k].t(), block, out=self._turned)
            self.d_weight[k].copy_(self._turned.t())
        # A probability that underflows to 0 would make the loss infinite: the smallest normal float bounds it.
        tiny = torch.finfo(block.dtype).tiny
        losses = -(probability.squeeze(2).clamp_min(tiny).log() * token_weights).sum(1)
        return losses, d_hidden.mul_(token_weights.unsqueeze(2))


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropies (N,) in nats of one model: hidden (N, H), weight (V, H), targets (N,)."""
    return torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")
