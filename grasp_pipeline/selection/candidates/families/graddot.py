"""GradDot: the gradient inner product with the queries."""

from __future__ import annotations

from grasp_pipeline.arrays import Floats
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
from grasp_pipeline.selection.candidates.family import DIRECTION, Family


class GradDot(Family):
    """The chunks of highest alignment per token."""

    name = "graddot"
    description = "Highest gradient inner product with the queries."
    source = "arXiv 2002.08484"
    ranks_by = DIRECTION
    comparison = 5
    linear = LinearScore("gradient", 0.0, 0.0)

    def values(self, context: SelectionContext) -> Floats:
        """Return the alignment per token, (n,)."""
        return context.alignment
