"""The whole corpus: the answer `do not prune`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import NOTHING, Choice, Family
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter


class Full(Family):
    """Every chunk, whatever the budget and the constraints."""

    name = "full"
    description = "Every chunk of the clean corpus."
    role = "full"
    ranks_by = NOTHING
    comparison = 1
    follows_tasks = False

    def candidate(self, context: SelectionContext, copies: int = 1) -> Candidate | None:
        """Return the corpus, once."""
        return full_corpus(context.n_tokens) if copies == 1 else None

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        """Return a filter that keeps everything."""
        return ChunkFilter("everything")


def full_corpus(n_tokens: ArrayLike) -> Candidate:
    """Return the whole corpus of chunks with n_tokens (n,)."""
    tokens = np.asarray(n_tokens)
    everything = np.ones(len(tokens), dtype=np.bool_)
    return Candidate(Full.name, Full.name, Full.role, everything, int(tokens.sum()), Full.description)
