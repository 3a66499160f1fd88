"""Why was this chunk dropped? One reason, one margin and, where it helps, the kept chunk that stands for it.

Tried in this order for every chunk that is not kept:

- `duplicate`: hard de-duplication excluded it and a chunk of its near-duplicate cluster was kept;
- `low_alignment`: its score is below the threshold at which the best scores alone would spend the budget;
- `redundant`: its score is above that, but its marginal value beside what is kept is below tau;
- `duplicate` again, with no kept chunk to name: good enough on both counts, but excluded;
- `quota`: good enough on both counts, but the budget was spent (rounding, or ties).

A random draw judges nobody: its chunks are `duplicate` where excluded, else `quota`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.blocks import Float64, SketchBlocks
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.budget import check_budget, descending, fill_whole
from grasp_pipeline.selection.nearest import nearest_by_cosine, nearest_in_group

REASONS = ("low_alignment", "redundant", "quota", "duplicate")


@dataclass(frozen=True)
class DropReasons:
    """Reasons of the k chunks that were not kept, ascending by chunk.

    chunk: (k,) row numbers; reason: (k,) names from REASONS; alignment: (k,) score per token.
    margin: (k,) by how much the chunk misses (negative) or passes (positive) the test that `reason` names:
        alignment - threshold for low_alignment, marginal value - tau for redundant and quota; NaN for
        duplicate and for a random draw.
    nearest_kept: (k,) row of the kept chunk most like it, for redundant and duplicate, else -1;
    similarity: (k,) cosine of the two sketches, else NaN.
    """

    chunk: NDArray[np.int64]
    reason: NDArray[np.str_]
    margin: Float64
    alignment: Float64
    nearest_kept: NDArray[np.int64]
    similarity: Float64


def drop_reasons(
    kept: NDArray[np.bool_],
    alignment: ArrayLike,
    n_tokens: ArrayLike,
    budget: int,
    blocks: SketchBlocks,
    *,
    marginal: ArrayLike | None = None,
    tau: float | None = None,
    clusters: NDArray[Any] | None = None,
    allowed: NDArray[np.bool_] | None = None,
    random_draw: bool = False,
    batch_rows: int = 8192,
) -> DropReasons:
    """Explain every chunk outside `kept` (n,).

    alignment: (n,) <r, phi_i>_M, or the score that a top-k arm ranked by; marginal (n,) and tau: those of an
    optimised arm; without them no chunk is `redundant`, and margins of `quota` are taken from the alignment.
    clusters: (n,) near-duplicate cluster of each chunk's document; allowed: (n,) what hard de-duplication
    left.

    Raises:
        InputError: shapes disagree, or only one of marginal and tau is given.
        ConfigError: the budget cannot be met.
    """
    tokens = check_budget(n_tokens, budget, allowed)
    score = np.asarray(alignment, dtype=np.float64)
    if kept.shape != tokens.shape or score.shape != tokens.shape or blocks.n != len(tokens):
        raise InputError(
            f"kept {kept.shape}, alignment {score.shape}, token counts {tokens.shape} and {blocks.n} "
            "sketches disagree"
        )
    if (marginal is None) != (tau is None):
        raise InputError("marginal values and tau belong together; give both or neither")

    chunk = np.nonzero(~kept)[0]
    reason = np.full(len(chunk), "quota", dtype=f"<U{max(map(len, REASONS))}")
    margin = np.full(len(chunk), np.nan)
    nearest = np.full(len(chunk), -1, dtype=np.int64)
    similarity = np.full(len(chunk), np.nan)

    excluded = np.zeros(len(chunk), dtype=np.bool_) if allowed is None else ~allowed[chunk]
    duplicate = excluded & random_draw
    if clusters is not None:
        represented = excluded & np.isin(clusters[chunk], clusters[kept])
        nearest[represented], similarity[represented] = nearest_in_group(
            blocks, chunk[represented], kept, clusters, batch_rows
        )
        duplicate |= represented

    if not random_draw:
        threshold = float(score[fill_whole(descending(score), tokens, budget)].min())
        lacking = score[chunk] - threshold
        value = lacking
        if marginal is not None and tau is not None:
            value = np.asarray(marginal, dtype=np.float64)[chunk] - tau
        low = ~duplicate & (lacking < 0)
        redundant = ~duplicate & ~low & (value < 0)
        reason[low], reason[redundant] = "low_alignment", "redundant"
        nearest[redundant], similarity[redundant] = nearest_by_cosine(
            blocks, chunk[redundant], kept, batch_rows
        )
        duplicate |= excluded & ~low & ~redundant
        margin = np.where(low, lacking, np.where(duplicate, np.nan, value))
    reason[duplicate] = "duplicate"
    return DropReasons(chunk, reason, margin, score[chunk], nearest, similarity)
