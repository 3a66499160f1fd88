"""Why was this chunk dropped, and what is it good for? One reason, one margin, and the kept chunk most like it.

Tried in this order for every chunk that is not kept:

- `quota`: a named constraint excluded it, whatever it is worth (a list of what to drop);
- `duplicate`: hard de-duplication excluded it and a chunk of its near-duplicate cluster was kept;
- `low_alignment`: its score is below the threshold at which the best scores alone would spend the budget;
- `redundant`: its score is above that, but its marginal value beside what is kept is below tau;
- `duplicate` again, with no kept chunk to name: good enough on both counts, but excluded;
- `quota`: good enough on both counts, but a named constraint (a cap of its source, a full cluster) or else the token
  budget (rounding, or ties) left no room.

A random draw judges nobody: its chunks are `duplicate` where excluded, else `quota`. Documents that cleaning rejected
as noise or duplicates never became chunks; they are in `rejected_documents`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, tiles
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.explanation.nearest import EXACT_ROWS, nearest_in_group, nearest_kept
from grasp_pipeline.selection.solver.budget import check_budget, descending, fill_whole

REASONS = ("low_alignment", "redundant", "quota", "duplicate")

ALIGNMENT, MARGINAL_VALUE, RANDOM_DRAW = "alignment", "marginal_value", "random_draw"
"""Names of scores: of arms that rank by one direction <r, phi>_M, and <q, phi> beside what is kept; of draws, which
have no values."""

TOKEN_BUDGET = "token budget"
"""The quota of a chunk that no other constraint kept out."""


@dataclass(frozen=True)
class DropReasons:
    """Reasons of the k chunks that were not kept, ascending by chunk.

    Attributes:
        chunk: (k,) row numbers.
        reason: (k,) names from REASONS.
        alignment: (k,) score per token.
        score: (k,) name of what value and threshold are of, "" for duplicate.
        value: (k,) the side of the test that `reason` names: the arm's score for low_alignment; the marginal value for
            redundant and quota (the score where there is no marginal value); NaN for duplicate and for a random draw.
        threshold: (k,) its other side: the score at which the budget is spent, or tau.
        quota: (k,) name of the constraint for quota, else "".
        nearest_kept: (k,) row of the kept chunk most like it, for a duplicate with kept copies the nearest of them; -1
            where nothing is kept.
        similarity: (k,) cosine of the two sketches, NaN where nothing is kept.
    """

    chunk: NDArray[np.int64]
    reason: NDArray[np.str_]
    alignment: Floats
    score: NDArray[np.str_]
    value: Floats
    threshold: Floats
    quota: NDArray[np.str_]
    nearest_kept: NDArray[np.int64]
    similarity: Floats

    @property
    def margin(self) -> Floats:
        """(k,) value - threshold: by how much the chunk misses (negative) or passes (positive) the test."""
        return self.value - self.threshold


@dataclass(frozen=True)
class TaskExtremes:
    """The tasks that each of n chunks serves most and least.

    strongest, weakest: (n,) task numbers, the earlier one in a tie; strongest_value, weakest_value: (n,) float32
    <r_t, phi_i>_M of those tasks.
    """

    strongest: NDArray[np.int32]
    strongest_value: NDArray[np.float32]
    weakest: NDArray[np.int32]
    weakest_value: NDArray[np.float32]


def task_extremes(blocks: SketchBlocks, directions: ArrayLike) -> TaskExtremes:
    """Return the tasks of highest and lowest value for every chunk, in one pass that holds T values per row of a tile.

    directions: (d, T) M r_t as columns.

    Raises:
        InputError: there is no task, or the directions have another length than the sketches.
    """
    columns = np.asarray(directions, dtype=np.float32)
    if columns.ndim != 2 or columns.shape[0] != blocks.d or columns.shape[1] == 0:
        raise InputError(
            f"task directions of shape {columns.shape} do not fit sketches of {blocks.d} values; "
            "give one column per task"
        )
    strongest, weakest = (np.empty(blocks.n, dtype=np.int32) for _ in range(2))
    high, low = (np.empty(blocks.n, dtype=np.float32) for _ in range(2))
    for start, tile in tiles(blocks):
        rows = slice(start, start + len(tile))
        values = tile @ columns
        strongest[rows], weakest[rows] = values.argmax(axis=1), values.argmin(axis=1)
        high[rows], low[rows] = values.max(axis=1), values.min(axis=1)
    return TaskExtremes(strongest, high, weakest, low)


def extremes_of(values: Floats) -> TaskExtremes:
    """Return the tasks of highest and lowest value for every chunk; values: (n, T)."""
    strongest, weakest = values.argmax(axis=1), values.argmin(axis=1)
    rows = np.arange(len(values))
    return TaskExtremes(
        strongest.astype(np.int32),
        values[rows, strongest].astype(np.float32),
        weakest.astype(np.int32),
        values[rows, weakest].astype(np.float32),
    )


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
    quotas: NDArray[np.str_] | None = None,
    random_draw: bool = False,
    score_name: str = ALIGNMENT,
    batch_rows: int = 8192,
    exact_rows: int = EXACT_ROWS,
) -> DropReasons:
    """Explain every chunk outside `kept` (n,).

    alignment: (n,) <r, phi_i>_M, or the score that a top-k arm ranked by; marginal (n,) and tau: those of an
    optimised arm; without them no chunk is `redundant`, and margins of `quota` are taken from the alignment.
    clusters: (n,) near-duplicate cluster of each chunk's document; allowed: (n,) what hard de-duplication and lists of
    what to drop left.
    blocks: sketches (n, d), whose cosine says which kept chunk is most like a dropped one.
    score_name: what `alignment` is called where it is not an alignment.
    quotas: (n,) name of the binding constraint that keeps a chunk out (`cap of source web`), "" where none does. A
    chunk that is not allowed and has a name is dropped for that alone.
    batch_rows, exact_rows: of `nearest_kept`.

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

    if quotas is not None and quotas.shape != tokens.shape:
        raise InputError(
            f"quota names of shape {quotas.shape}; give one, or an empty one, for each of {len(tokens)} chunks"
        )

    chunk = np.nonzero(~kept)[0]
    named = np.full(len(chunk), "") if quotas is None else quotas[chunk]
    value, threshold = np.full(len(chunk), np.nan), np.full(len(chunk), np.nan)
    nearest = np.full(len(chunk), -1, dtype=np.int64)
    similarity = np.full(len(chunk), np.nan)

    excluded = np.zeros(len(chunk), dtype=np.bool_) if allowed is None else ~allowed[chunk]
    listed = excluded & (named != "")
    excluded &= ~listed
    duplicate = excluded & random_draw
    if clusters is not None:
        represented = excluded & np.isin(clusters[chunk], clusters[kept])
        nearest[represented], similarity[represented] = nearest_in_group(
            blocks, chunk[represented], kept, clusters, batch_rows
        )
        duplicate |= represented
    low = redundant = np.zeros(len(chunk), dtype=np.bool_)

    if not random_draw:
        limit = float(score[fill_whole(descending(score), tokens, budget)].min())
        worth, least = (
            (score, limit) if marginal is None or tau is None else (np.asarray(marginal, np.float64), tau)
        )
        judged = ~duplicate & ~listed
        low = judged & (score[chunk] < limit)
        redundant = judged & ~low & (worth[chunk] < least)
        duplicate |= excluded & ~low & ~redundant
        value = np.where(duplicate, np.nan, np.where(low, score[chunk], worth[chunk]))
        threshold = np.where(duplicate, np.nan, np.where(low, limit, least))
    reason = np.select([low, redundant, duplicate], REASONS[:2] + REASONS[3:], REASONS[2])
    quota = np.where(reason == "quota", np.where(named != "", named, TOKEN_BUDGET), "")
    judged_by = score_name if marginal is None else np.where(low, score_name, MARGINAL_VALUE)
    judged_by = np.where(duplicate, "", RANDOM_DRAW if random_draw else judged_by)
    alone = nearest < 0
    nearest[alone], similarity[alone] = nearest_kept(blocks, chunk[alone], kept, batch_rows, exact_rows)
    return DropReasons(chunk, reason, score[chunk], judged_by, value, threshold, quota, nearest, similarity)
