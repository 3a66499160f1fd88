"""The chunks whose perplexity is nearest to the middle of the corpus.

Of the perplexity filters of Marion et al. (arXiv 2309.04564) the middle of the distribution pruned best.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.selection.candidates.context import SelectionContext, last_taken
from grasp_pipeline.selection.candidates.family import Choice, Family
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter


class MiddlePerplexity(Family):
    """A perplexity filter that keeps the middle."""

    name = "middle-perplexity"
    description = "Perplexity at the reference proxy nearest to the corpus's median."
    source = "arXiv 2309.04564"
    ranks_by = "nearness_to_median_loss"
    comparison = 8
    follows_tasks = False

    def values(self, context: SelectionContext) -> Floats:
        """Return the nearness to the median, (n,)."""
        return context.once(self.name, lambda: nearness_to_median(context.losses, context.n_tokens))

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        """Return the band of losses that the chunks nearest to the median span."""
        values = self.values(context)
        least = last_taken(values, context.n_tokens, choice.kept, choice.allowed)
        band = context.losses[choice.allowed & (values >= least)]
        return ChunkFilter("loss", loss_centre=float(band.min() + band.max()) / 2)


def nearness_to_median(losses: Floats, n_tokens: NDArray[Any]) -> Floats:
    """Return (n,) minus the distance from one half of a chunk's place in the corpus's tokens, in order of loss (n,)."""
    order = np.argsort(losses, kind="stable")
    place = np.empty(len(n_tokens))
    place[order] = (np.cumsum(n_tokens[order]) - n_tokens[order] / 2) / n_tokens.sum()
    return -np.abs(place - 0.5)
