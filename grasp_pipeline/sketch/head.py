"""The output layer's cross-entropy and its error p - e_y, block by block, without autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_LOGITS = 2**24
_FEWEST_TOKENS, _MOST_TOKENS = 64, 1024


class Errors(NamedTuple):
    """The output layer at some tokens: which ones, p - e_y (n, V), and their cross-entropies (n,) in nats."""

    tokens: slice
    error: Tensor
    losses: Tensor


def block_tokens(vocabulary: int) -> int:
    """Return how many tokens' logits are held at once: enough for full speed, 64 MB of float32 where that will do."""
    return min(_MOST_TOKENS, max(_FEWEST_TOKENS, _LOGITS // vocabulary))


def error_blocks(
    states: Tensor, weight: Tensor, labels: Tensor, tokens: int, errors: Tensor | None = None
) -> Iterator[Errors]:
    """Yield the errors of the output layer block by block, in order.

    Args:
        states: (N, H) hidden states.
        weight: (V, H), in the same dtype.
        labels: (N,) int64 ids of the tokens to predict.
        tokens: most tokens per block.
        errors: (N, V) to keep all of them; None: a block is overwritten by the next one.
    """
    count = len(states)
    block = states.new_empty(min(tokens, count), len(weight)) if errors is None else errors
    for start in range(0, count, tokens):
        part = slice(start, min(start + tokens, count))
        error = block[: part.stop - start] if errors is None else errors[part]
        torch.mm(states[part], weight.t(), out=error)
        label = labels[part].unsqueeze(1)
        picked, highest = error.gather(1, label), error.amax(1, keepdim=True)
        torch.softmax(error, dim=1, out=error)
        # logsumexp = max z - log max p; max p is at least 1 / V, so the loss is finite where p_y underflows.
        losses = highest - error.amax(1, keepdim=True).log() - picked
        error.scatter_add_(1, label, torch.full_like(picked, -1.0))
        yield Errors(part, error, losses.squeeze(1))


def token_weights(sizes: Tensor, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weights (B, length) of tokens in their chunk's mean loss: 1 / size, and 0 for padding."""
    size = sizes.unsqueeze(1)
    return (torch.arange(length, device=sizes.device) < size).to(dtype) / size
