"""Groups of similar chunks for grouped attribution (GGDA, Ley et al. 2024, arXiv 2410.09940)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Bools, Floats, Ints
from grasp_pipeline.attribution.partition import group_count, kmeans_groups
from grasp_pipeline.selection.candidates.candidate import checked
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import Family
from grasp_pipeline.selection.constraints.feasible_sets import random_keys
from grasp_pipeline.selection.solver.budget import descending
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet

GROUPS = 256
"""Most groups; a corpus of fewer than eight chunks for each has fewer."""


class Ggda(Family):
    """The best groups of chunks, GGDA's top-k; a group is worth its token-weighted mean alignment."""

    name = "ggda"
    description = "Best of {} groups of similar chunks by attribution (GGDA, arXiv 2410.09940)."
    source = "arXiv 2410.09940"
    ranks_by = "group_alignment"
    comparison = 6

    def values(self, context: SelectionContext) -> Floats:
        """Return the worth of every chunk's group, (n,)."""
        return group_worth(groups(context), context.alignment, context.n_tokens)

    def choose(self, context: SelectionContext, feasible: FeasibleSet) -> Bools:
        """Return the best groups."""
        return best_groups(groups(context), context.alignment, feasible)

    def describe(self, context: SelectionContext) -> str:
        """Return the description with the number of groups."""
        return self.description.format(len(np.unique(groups(context))))


def groups(context: SelectionContext) -> Ints:
    """Return the group of every chunk, (n,)."""
    count = group_count(context.chunks.n, GROUPS)
    return context.once("ggda groups", lambda: kmeans_groups(context.blocks, count, "ggda"))


def best_groups(
    labels: NDArray[np.integer[Any]], alignment: ArrayLike, feasible: FeasibleSet, seed: int = 0
) -> Bools:
    """Return the best groups that fill a feasible set; the last group is drawn from.

    labels: (n,) group of every chunk (see `kmeans_groups`); alignment: (n,) <r, phi_i>_M.
    """
    worth = group_worth(labels, checked(alignment, feasible), feasible.n_tokens)
    keys = random_keys(feasible, "group_arm", seed)
    place = np.empty(len(worth))
    place[descending(worth, -labels, keys)] = -np.arange(len(worth), dtype=np.float64)
    return feasible.round(place, np.zeros(len(worth)))


def group_worth(labels: NDArray[np.integer[Any]], value: Floats, n_tokens: NDArray[Any]) -> Floats:
    """Return (n,) the token-weighted mean value (n,) of every chunk's group (n,)."""
    size = np.bincount(labels, n_tokens)
    return (np.bincount(labels, n_tokens * value) / np.maximum(size, 1))[labels]
