"""What more query documents would bring: how much worse log-coverage ranks with half and a quarter of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.memberships import Membership
from grasp_pipeline.seeds import generator

SPLITS = 8
"""Draws of a half and a quarter of every task's documents; the correlations are means over them."""

FEWEST = 4
"""Documents that every task must have for a quarter to be one."""

HELPS = 0.005
"""Loss of rank correlation by halving the documents from which on doubling them would likely help."""


@dataclass(frozen=True)
class QueryShares:
    """Task-level rank correlation with all, half and a quarter of the query documents, on the same subsets."""

    all: float
    half: float
    quarter: float

    @property
    def sentence(self) -> str:
        """What they say of more documents."""
        helps = self.all - self.half >= HELPS
        return (
            f"With a quarter of the query documents the ranking of log-coverage correlates {self.quarter:.3f} with "
            f"what was measured, with half {self.half:.3f}, with all {self.all:.3f}: more query documents would "
            f"{'likely help' if helps else 'hardly help'}."
        )


def query_shares(
    surrogate: LogCoverage,
    by_document: csr_array,
    task: Ints,
    membership: Membership,
    utilities: Floats,
    *seed: str | int,
) -> QueryShares | None:
    """Return how well the surrogate ranks subsets with fewer query documents; None where a task has too few.

    by_document: (D, E) events of every query document; task: (D,) in [0, T); membership: (m, n) subsets; utilities:
    (m, T) measured. Documents without events do not count. Draws are named by `seed`.
    """
    tasks = utilities.shape[1]
    told = np.diff(by_document.indptr) > 0
    documents = [np.flatnonzero(told & (task == t)) for t in range(tasks)]
    if min(len(each) for each in documents) < FEWEST:
        return None
    draw = generator("query documents", *seed)
    drawn = [[draw.permutation(each) for each in documents] for _ in range(SPLITS)]
    kept = [documents]
    for parts in (2, 4):
        kept += [[each[: len(each) // parts] for each in split] for split in drawn]
    weights = np.concatenate([_weights(by_document, each) for each in kept])
    predicted = replace(surrogate, counts=replace(surrogate.counts, weights=weights)).predict(membership)
    found = task_level_spearman(predicted.reshape(len(membership), -1, tasks).swapaxes(0, 1), utilities)
    return QueryShares(
        float(found[0]), float(found[1 : 1 + SPLITS].mean()), float(found[1 + SPLITS :].mean())
    )


def _weights(by_document: csr_array, kept: list[Ints]) -> Floats:
    """Return (T, E) shares of events in some documents of every task."""
    counts = np.stack([np.asarray(by_document[each].sum(axis=0)).ravel() for each in kept])
    return counts / counts.sum(axis=1, keepdims=True)
