"""Similarity in a space trained on measured utilities (AirRep, arXiv 2505.18513), see `attribution.methods.airrep`.

    value = sum over the target's tasks of weight_t sum over queries of share_q Enc(x_q)' Enc(z)

Without attention, so that a chunk has a value of its own. Where the calibration subsets show no gain of training, the
space is that of the encoder itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.methods.airrep import Encoder, Task
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import Family


class AirRepFamily(Family):
    """The chunks most similar to the target's texts in the trained space."""

    name = "airrep"
    description = (
        "Most similar to the target in a space trained on measured utilities (AirRep, arXiv 2505.18513)."
    )
    source = "arXiv 2505.18513"
    role = "candidate"
    ranks_by = "trained_similarity"

    def values(self, context: SelectionContext) -> Floats:
        """Return the similarity of every chunk, (n,)."""
        if context.learned.similarity is None:
            raise InputError("no similarity was trained; set finalists.airrep to proxy or sentences")
        return context.learned.similarity

    def candidate(self, context: SelectionContext, copies: int = 1) -> Candidate | None:
        """Return the candidate, where the similarity was asked for."""
        return None if context.learned.similarity is None else super().candidate(context, copies)


def similarity(encoder: Encoder, task: Task, weights: Floats) -> Floats:
    """Return (n,) of every chunk to the target; weights: (T,) of the tasks."""
    asked: NDArray[np.float64] = (weights @ task.shares) @ encoder(task.queries).astype(np.float64)
    return encoder(task.chunks).astype(np.float64) @ asked
