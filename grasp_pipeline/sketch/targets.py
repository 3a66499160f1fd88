"""A task's direction: the token-weighted mean sketch of its documents, and how well it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.names import MEAN, Split


@dataclass(frozen=True)
class TaskMean:
    """Mean sketch of one task and split.

    vector: (d,) float32; n_tokens and n_chunks that it averages; signal_to_noise: squared norm of the mean over the
    expected squared norm of its sampling error.
    """

    task: str
    split: Split
    vector: NDArray[np.float32]
    n_tokens: int
    n_chunks: int
    signal_to_noise: float


def weighted_mean(
    sketches: NDArray[np.float32], n_tokens: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """Return r = sum w_i phi_i / sum w_i over (n, d) sketches, (d,) float64, and its signal-to-noise ratio.

    The error's expected square is sum w_i^2 |phi_i - r|^2 / (sum w_i)^2 * n / (n - 1), the linearised variance of a
    ratio estimator; a single chunk gives a ratio of 0.
    """
    weights = n_tokens / n_tokens.sum()
    mean = weights @ sketches.astype(np.float64)
    if len(sketches) < 2:
        return mean, 0.0
    squares = np.square(sketches - mean).sum(1)
    noise = float(np.square(weights) @ squares) * len(sketches) / (len(sketches) - 1)
    return mean, float(mean @ mean) / noise if noise > 0 else float("inf")


def task_means(
    sketches: NDArray[np.float32], n_tokens: NDArray[np.int64], tasks: Sequence[str], splits: Sequence[Split]
) -> list[TaskMean]:
    """Return the mean sketch of every (task, split), and of the task `mean` for every split.

    Args:
        sketches: (n, d) float32.
        n_tokens: (n,) tokens per chunk.
        tasks: n task names.
        splits: n split names.
    """
    names, groups = np.array(tasks), np.array(splits)
    means: list[TaskMean] = []
    for split in sorted(set(splits)):
        parts = []
        for task in sorted(set(tasks)):
            chosen = (names == task) & (groups == split)
            if not chosen.any():
                continue
            mean, ratio = weighted_mean(sketches[chosen], n_tokens[chosen])
            parts.append(
                TaskMean(
                    task,
                    split,
                    mean.astype(np.float32),
                    int(n_tokens[chosen].sum()),
                    int(chosen.sum()),
                    ratio,
                )
            )
        vector: NDArray[np.float64] = (
            np.stack([part.vector for part in parts]).astype(np.float64).mean(axis=0)
        )
        noise = sum(float(p.vector @ p.vector) / p.signal_to_noise for p in parts if p.signal_to_noise > 0)
        means += parts
        means.append(
            TaskMean(
                MEAN,
                split,
                vector.astype(np.float32),
                sum(part.n_tokens for part in parts),
                sum(part.n_chunks for part in parts),
                float(vector @ vector) * len(parts) ** 2 / noise if noise > 0 else 0.0,
            )
        )
    return means
