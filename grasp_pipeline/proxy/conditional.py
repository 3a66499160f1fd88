"""Conditional losses: what a short fine-tuning on wanted texts does to the loss of every chunk.

    C_i = loss_i(reference) - loss_i(reference fine-tuned on wanted texts)      nats per token

CoLoR-Filter (Brandfonbrener et al. 2024, arXiv 2406.10670); with the wanted texts as the conditional data it is the
neural form of Moore and Lewis (2010). Errors of C, of gradients and of n-grams are made apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.proxy.objective import Objective, Parameters
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
