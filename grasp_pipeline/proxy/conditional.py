"""Conditional losses: what a short fine-tuning on wanted texts does to the loss of every chunk.

    C_i = loss_i(reference) - loss_i(reference fine-tuned on wanted texts)      nats per token

CoLoR-Filter (Brandfonbrener et al. 2024, arXiv 2406.10670); with the wanted texts as the conditional data it is the
neural form of Moore and Lewis (2010). Errors of C, of gradients and of n-grams are made apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.objective import Objective, Parameters, pad_chunks
from grasp_pipeline.proxy.packing import TextStream
from grasp_pipeline.proxy.training import Recipe, train_stacked

TUNING_STEPS, TUNING_SHARE = 60, 0.25
"""Steps of the fine-tuning, and its peak learning rate over that of the recipe."""


def fine_tune(
    objective: Objective,
    reference: Parameters,
    texts: Mapping[str, TokenLists],
    recipe: Recipe,
    bos: int,
    device: torch.device | str = "cpu",
) -> Parameters:
    """Return the reference fine-tuned on each of K texts: stacked parameters (K, ...), in the order of the texts.

    texts: name, which seeds the order, -> chunks; recipe: of a retraining, from which `TUNING_STEPS` and `TUNING_SHARE`
    make the fine-tuning; bos: id that starts each chunk.
    """
    short = replace(recipe, steps=TUNING_STEPS, learning_rate=TUNING_SHARE * recipe.learning_rate)
    rows = [
        torch.from_numpy(
            TextStream(pool, bos).rows(np.arange(pool.n), short.rows, short.chunk_tokens, "conditional", name)
        )
        for name, pool in texts.items()
    ]
    names = [f"the reference fine-tuned on {name} texts" for name in texts]
    return train_stacked(objective, reference, rows, short, names, device)


@dataclass(frozen=True)
class LossScorer:
    """Makes, in a worker, the function that scores chunks by K models.

    Attributes:
        objective: the model family.
        weights: stacked parameters (K, ...).
        bos: id that starts each chunk.
        chunk_tokens: L, of the longest chunk.
        batch_rows: chunks of one forward pass.
        device: where to compute.
    """

    objective: Objective
    weights: Parameters
    bos: int
    chunk_tokens: int
    batch_rows: int
    device: torch.device | str = "cpu"

    def __call__(self) -> Callable[[TokenLists], Floats]:
        """Return the function of n chunks that gives their losses, (K, n) in nats per token."""
        weights = {name: p.to(self.device) for name, p in self.weights.items()}

        def losses(chunks: TokenLists) -> Floats:
            lists = [chunks.tokens[start:end].tolist() for start, end in pairwise(chunks.offsets.tolist())]
            rows, sizes = pad_chunks(lists, self.bos, self.chunk_tokens)
            return (
                stacked_chunk_losses(self.objective, weights, rows, sizes, self.batch_rows) / sizes
            ).numpy()

        return losses
