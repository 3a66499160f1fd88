"""Independent uniform draws: what every certificate is measured against."""

from __future__ import annotations

import numpy as np

from grasp_pipeline.selection.candidates.candidate import Candidate, tokens_of
from grasp_pipeline.selection.candidates.family import NOTHING, Family
from grasp_pipeline.selection.constraints.feasible_sets import random_keys
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet


class Random(Family):
    """Uniform draws of units; how many is a setting, so `draw` makes them and not `candidate`."""

    name = "random"
    description = "Drawn uniformly."
    role = "random"
    ranks_by = NOTHING

    def draw(self, feasible: FeasibleSet, number: int, seed: int = 0) -> Candidate:
        """Return one of several independent draws; number and seed name it."""
        keys = random_keys(feasible, "random_arm", seed, number)
        membership = feasible.round(keys, np.zeros(len(keys)))
        tokens = tokens_of(membership, feasible)
        return Candidate(f"{self.name}-{number}", self.name, self.role, membership, tokens, self.description)
