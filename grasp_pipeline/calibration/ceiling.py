"""How reliable measured utilities are, and so how large a rank correlation with them can get.

A subset retrained with two seeds gives two utilities. How well the seeds agree over subsets bounds how well
any prediction, even a perfect one, can agree with their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.rank import finite, spearman
from grasp_pipeline.errors import ConfigError


@dataclass(frozen=True)
class SeedReliability:
    """Agreement of training seeds over subsets.

    Attributes:
        per_task: (T,) reliability of the mean over S seeds, in [0, 1]: the share of its variance over subsets
            that is the subsets' and not the seeds'.
        mean: its mean over tasks.
        ceiling_per_task: (T,) sqrt(reliability): the correlation a perfect predictor reaches with the
            measured mean.
        noise_ceiling: mean over tasks of the ceilings: the largest task-level rank correlation to expect.
    """

    per_task: Floats
    mean: float
    ceiling_per_task: Floats
    noise_ceiling: float


def seed_reliability(utilities: ArrayLike) -> SeedReliability:
    """Return the Spearman-Brown reliability of the mean utility over seeds, and the noise ceiling.

    r = mean over pairs of seeds of Spearman's rho over subsets; reliability = S r / (1 + (S - 1) r) (Spearman
    1910, Brown 1910), 0 where r is negative. By the correction for attenuation a predictor of the noise-free
    utility correlates sqrt(reliability) with the measured mean. Both hold exactly for Pearson's correlation
    and seeds with independent errors; for ranks they are a close approximation, and with few subsets an
    estimate: a measured correlation somewhat above its ceiling is no contradiction.

    Args:
        utilities: (m, T, S) utility of m subsets on T tasks with S training seeds, minus nats per token.

    Raises:
        ConfigError: fewer than two seeds, two subsets or one task.
        ValueError: a value is not finite.
    """
    values = finite("utilities", utilities)
    if values.ndim != 3:
        raise ValueError(f"utilities have shape {values.shape}; expected (subsets, tasks, seeds).")
    m, n_tasks, n_seeds = values.shape
    if n_seeds < 2 or m < 2 or n_tasks < 1:
        raise ConfigError(
            f"The noise ceiling needs 2 subsets, 1 task and 2 training seeds per subset; there are {m}, "
            f"{n_tasks} and {n_seeds}. Raise `seeds` of the subsets."
        )
    first, second = np.triu_indices(n_seeds, k=1)
    by_seed = np.moveaxis(values, 0, -1)
    agreement = spearman(by_seed[:, first], by_seed[:, second]).mean(axis=-1).clip(min=0)
    reliability = n_seeds * agreement / (1 + (n_seeds - 1) * agreement)
    ceiling = np.sqrt(reliability)
    return SeedReliability(reliability, float(reliability.mean()), ceiling, float(ceiling.mean()))
