"""A uniform draw without near duplicates: what cleaning alone brings."""

from __future__ import annotations

import numpy as np

from grasp_pipeline.arrays import Bools
from grasp_pipeline.names import Dedup
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import NOTHING, Family
from grasp_pipeline.selection.constraints.feasible_sets import random_keys
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet


class RandomDeduplicated(Family):
    """A uniform draw from the feasible set that leaves out near duplicates furthest."""

    name = "random-deduplicated"
    description = "Drawn uniformly from one document per near-duplicate cluster."
    ranks_by = NOTHING
    comparison = 2
    follows_tasks = False

    def dedup(self, context: SelectionContext, copies: int) -> Dedup:
        """Return the strictest degree that leaves enough for the budget."""
        return context.feasible_sets.strictest(copies)

    def choose(self, context: SelectionContext, feasible: FeasibleSet) -> Bools:
        """Return the draw."""
        return drawn(feasible)


def drawn(feasible: FeasibleSet, seed: int = 0) -> Bools:
    """Return a uniform draw of units (n,)."""
    keys = random_keys(feasible, "dedup_random_arm", seed)
    return feasible.round(keys, np.zeros(len(keys)))
