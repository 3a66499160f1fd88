"""Subsets to retrain: who is in each, and the stratum it was drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grasp_pipeline.arrays import Bools, Ints


@dataclass(frozen=True)
class Subsets:
    """strata: m names; membership: (m, n). target: for optimised subsets the task's code, else -1: (m,)."""

    strata: tuple[str, ...]
    membership: Bools
    target: Ints

    @property
    def m(self) -> int:
        """Number of subsets."""
        return len(self.strata)


def join(parts: Sequence[Subsets]) -> Subsets:
    """Return all parts' subsets, those with equal members once."""
    strata = [name for part in parts for name in part.strata]
    membership = np.concatenate([part.membership for part in parts])
    target = np.concatenate([part.target for part in parts])
    _, first = np.unique(np.packbits(membership, axis=1), axis=0, return_index=True)
    kept = np.sort(first)
    return Subsets(tuple(strata[i] for i in kept), membership[kept], target[kept])
