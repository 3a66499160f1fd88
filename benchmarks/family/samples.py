"""Means over repetitions with their intervals, and the area under a ROC curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, t

from benchmarks.published import Figure


def mean_figure(name: str, values: ArrayLike, unit: str, goal: str = "", note: str = "") -> Figure:
    """Return the mean of values (k,), one per seed, with its 95% interval by Student's t."""
    found = np.asarray(values, dtype=np.float64)
    mean, low, high = float(found.mean()), None, None
    if len(found) > 1:
        half = float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
        low, high = round(mean - half, 5), round(mean + half, 5)
    return Figure(name, round(mean, 5), unit, goal, low, high, note)


def share_above(wanted: ArrayLike, others: ArrayLike) -> float:
    """Return the AUC: how often one of the wanted values (a,) is above one of the others (b,), ties counting half."""
    first, second = np.asarray(wanted), np.asarray(others)
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))
