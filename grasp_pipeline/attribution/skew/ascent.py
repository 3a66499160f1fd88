"""Attribution by unlearning: what else a model forgets when it forgets a query (MUCS, Serrà et al., arXiv 2605.17938).

1. Mirrored ascent (`mirrored_ascent`): from the trained weights go on with

       L_train - w min(L_query, L_null)

   until L_query reaches a share of L_null, the query's loss under the untrained model: the query is forgotten, no more
   than it was once unknown, and the rest is held.
2. Noise-consistent skew (`skew`): a training example is worth mean over noise of (L_u - L_t) / (L_u + L_t + 1e-3), its
   losses under the unlearned and the trained model on the same draws of noise.

The noise of the image form, `denoiser`, is a diffusion model's; that of the text form, `text`, is a dropout mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import ConfigError, TrainingError
from grasp_pipeline.proxy.objective import Parameters

EPSILON = 1e-3
"""Added to the sum of both losses."""

Loss = Callable[[Parameters, int], Tensor]
"""A scalar loss at some weights, on the draw of a step."""


@dataclass(frozen=True)
class Ascent:
    """How a query is unlearned.

    Attributes:
        steps: most steps. rate: learning rate of Adam.
        weight: w, of the query's loss. stop: share of L_null at which it is forgotten.
        bounded: whether the query's loss counts up to L_null only. mirrored: whether the training loss is held.
    """

    steps: int = 200
    rate: float = 1e-3
    weight: float = 0.2
    stop: float = 0.95
    bounded: bool = True
    mirrored: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rate <= 0 or self.weight <= 0 or not 0 < self.stop <= 1:
            raise ConfigError(
                f"an ascent of {self.steps} steps, rate {self.rate}, weight {self.weight} and stop {self.stop}; give "
                "at least one step, a rate and a weight above 0, and a stop above 0 and at most 1"
            )


@dataclass(frozen=True)
class Unlearned:
    """parameters: after the ascent. steps: that it took. query_loss: at the end, mean of the last ten steps."""

    parameters: Parameters
    steps: int
    query_loss: float


def mirrored_ascent(train: Loss, query: Loss, trained: Parameters, null: float, ascent: Ascent) -> Unlearned:
    """Return the weights at which the query is forgotten.

    train, query: losses of the training data and of the query, each on the draw of a step. trained: where to start.
    null: L_null, the query's loss under the untrained model.

    Raises:
        TrainingError: a loss is not finite.
    """
    weights = {name: p.detach().clone().requires_grad_() for name, p in trained.items()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=ascent.rate)
    seen: list[float] = []
    for step in range(ascent.steps):
        asked = query(weights, step)
        seen.append(float(asked.detach()))
        if not np.isfinite(seen[-1]):
            raise TrainingError(
                f"the query's loss is not finite at step {step} of its ascent; lower the rate"
            )
        if np.mean(seen[-10:]) >= ascent.stop * null:
            break
        loss = -ascent.weight * (asked.clamp(max=null) if ascent.bounded else asked)
        if ascent.mirrored:
            loss = loss + train(weights, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Unlearned({name: p.detach() for name, p in weights.items()}, len(seen), float(np.mean(seen[-10:])))


def skew(unlearned: NDArray[np.floating[Any]], trained: NDArray[np.floating[Any]]) -> Floats:
    """Return scores (n,) from losses (R, n) of n examples on the same R draws of noise, under both models."""
    above, below = (np.asarray(each, dtype=np.float64) for each in (unlearned, trained))
    return ((above - below) / (above + below + EPSILON)).mean(axis=0)
