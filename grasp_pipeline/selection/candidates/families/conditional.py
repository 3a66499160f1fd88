"""Conditional loss reduction: what fine-tuning on the queries makes easier (CoLoR-Filter, arXiv 2406.10670)."""

from __future__ import annotations

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import Choice, Family
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter


class Conditional(Family):
    """The chunks whose loss falls most (see `proxy.conditional`)."""

    name = "conditional"
    description = "Loss lowered most by fine-tuning on the queries (CoLoR-Filter, arXiv 2406.10670)."
    source = "arXiv 2406.10670"
    role = "candidate"
    ranks_by = "loss_reduction"

    def values(self, context: SelectionContext) -> Floats:
        """Return the loss reduction, (n,) nats per token."""
        if context.conditional is None:
            raise InputError("conditional losses were not measured; set conditional_losses.enabled")
        return context.conditional

    def candidate(self, context: SelectionContext, copies: int = 1) -> Candidate | None:
        """Return the candidate, where the losses were measured."""
        return None if context.conditional is None else super().candidate(context, copies)

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        """Return the loss reduction itself."""
        return ChunkFilter("conditional", reduction_weight=1.0)
