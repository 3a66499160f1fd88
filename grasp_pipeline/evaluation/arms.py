"""The sealed evaluation of final arms: losses per task, and the gain over a baseline with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t as student

from grasp_pipeline.names import MEAN
from grasp_pipeline.selection.certification.evidence import Evidence, Part


def arm_rows(
    evidence: Evidence, baseline: str, tokens: int, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Return the rows of `tables.EVALUATION_LOSSES`.

    The loss of an arm on a task is the token-weighted mean over documents, averaged over the seeds; on `mean` it is
    the mean over tasks. The gain over the baseline pairs run s of both; its two-sided interval is Student's over
    the S paired differences, so it counts seeds and random draws, not the choice of documents.

    Args:
        evidence: losses of every arm, run s of each with the same training seed.
        baseline: the arm that gains are measured against.
        tokens: training tokens of every arm.
        confidence: of the interval.
    """
    names = [*np.unique(evidence.task).tolist(), MEAN]
    rows = []
    for task in names:
        parts = evidence.parts(task)

        def loss(arm: str, parts: list[Part] = parts) -> np.ndarray:
            values, tokens = evidence.runs(arm), evidence.n_tokens
            means = [share * (values[:, task] @ tokens[task]) / tokens[task].sum() for task, share in parts]
            return np.sum(means, axis=0)

        base = loss(baseline)
        for arm in evidence.losses:
            each = loss(arm)
            seeds = len(each)
            gain = base - each
            spread = float(gain.std(ddof=1)) / seeds**0.5
            half = float(student.ppf(0.5 + confidence / 2, seeds - 1)) * spread
            rows.append(
                {
                    "arm": arm,
                    "task": task,
                    "loss": float(each.mean()),
                    "seed_sd": float(each.std(ddof=1)),
                    "gain": float(gain.mean()),
                    "gain_low": float(gain.mean()) - half,
                    "gain_high": float(gain.mean()) + half,
                    "seeds": seeds,
                    "tokens": tokens,
                }
            )
    return rows
