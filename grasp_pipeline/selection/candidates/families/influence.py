"""Damped influence: the gradient inner product with the queries in the metric of the damped second moment."""

from __future__ import annotations

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import project
from grasp_pipeline.attribution.metric import apply_metric
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
from grasp_pipeline.selection.candidates.family import DIRECTION, Family

INFLUENCE_RHO = 1.0
"""Damping, in units of the mean eigenvalue of the second moment."""


class Influence(Family):
    """The chunks of highest influence per token."""

    name = "influence"
    description = f"Highest damped influence per token (rho {INFLUENCE_RHO:g})."
    source = "arXiv 1703.04730"
    ranks_by = DIRECTION
    comparison = 4
    linear = LinearScore("gradient", INFLUENCE_RHO, 0.0)

    def values(self, context: SelectionContext) -> Floats:
        """Return damped influence per token, (n,)."""
        return context.once(self.name, lambda: project(context.blocks, influence_direction(context)))


def influence_direction(context: SelectionContext) -> Floats:
    """Return M r (d,) of the target's tasks."""
    return apply_metric(context.metric(INFLUENCE_RHO), context.target.weights @ context.targets)
