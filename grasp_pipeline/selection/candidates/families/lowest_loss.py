"""The chunks that the reference proxy finds easiest."""

from __future__ import annotations

from grasp_pipeline.arrays import Floats
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import Choice, Family
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter


class LowestLoss(Family):
    """A perplexity filter that keeps the low end."""

    name = "lowest-loss"
    description = "Lowest loss at the reference proxy."
    ranks_by = "minus_loss"
    comparison = 7
    follows_tasks = False

    def values(self, context: SelectionContext) -> Floats:
        """Return minus the loss, (n,) nats per token."""
        return -context.losses

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        """Return a band of losses around 0."""
        return ChunkFilter("loss", loss_centre=0.0)
