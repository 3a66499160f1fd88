"""Blend: the mean of three standardised scores whose errors are made apart, by gradients, n-grams and losses."""

from __future__ import annotations

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.families.conditional import Conditional
from grasp_pipeline.selection.candidates.families.dsir import Dsir, log_ratios
from grasp_pipeline.selection.candidates.families.influence import (
    INFLUENCE_RHO,
    Influence,
    influence_direction,
)
from grasp_pipeline.selection.candidates.family import Choice, Family
from grasp_pipeline.selection.candidates.judge import centre_and_spread, standardise
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter


class Blend(Family):
    """The chunks of highest mean of standardised influence, n-gram importance per token and conditional loss."""

    name = "blend"
    description = "Highest mean of standardised influence, n-gram importance and conditional loss."
    role = "candidate"
    ranks_by = "blend"

    def values(self, context: SelectionContext) -> Floats:
        """Return the mean of the standardised parts, (n,)."""
        return context.once(
            self.name, lambda: np.mean([standardise(part) for part in blended(context)], axis=0)
        )

    def candidate(self, context: SelectionContext, copies: int = 1) -> Candidate | None:
        """Return the candidate, where conditional losses were measured."""
        return None if context.conditional is None else super().candidate(context, copies)

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        """Return the mean as a direction, an n-gram table and a weight of the loss reduction."""
        moments = [centre_and_spread(part) for part in blended(context)]
        weights = [1 / (len(moments) * spread) if spread else 0.0 for _, spread in moments]
        return ChunkFilter(
            "blend",
            offset=-sum(weight * centre for weight, (centre, _) in zip(weights, moments, strict=True)),
            q=(weights[0] * influence_direction(context)).astype(np.float32),
            rho=INFLUENCE_RHO,
            ngrams=(weights[1] * log_ratios(context)).astype(np.float32),
            per_token=True,
            reduction_weight=weights[2],
        )


def blended(context: SelectionContext) -> tuple[Floats, Floats, Floats]:
    """Return the parts: influence, DSIR weight per token and conditional loss reduction, each (n,)."""
    ngrams = Dsir().values(context) / context.n_tokens
    return Influence().values(context), ngrams, Conditional().values(context)
