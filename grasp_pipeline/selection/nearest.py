"""Exact nearest neighbour by cosine, with memory for a batch of queries and one tile of candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.attribution.blocks import Float64, SketchBlocks, gather, tiles


def nearest_by_cosine(
    blocks: SketchBlocks,
    queries: NDArray[np.integer[Any]],
    candidates: NDArray[np.bool_],
    batch_rows: int = 8192,
) -> tuple[NDArray[np.int64], Float64]:
    """Return, for every query row, the candidate of highest cosine, (k,) row numbers, and that cosine, (k,).

    queries: (k,) ascending row numbers, not candidates themselves; candidates: (n,). A sketch of norm zero
    has cosine 0 with all others. Ties go to the earlier row; without candidates rows are -1 and cosines NaN.
    One pass over the sketches per `batch_rows` queries, products in float32.
    """
    rows = np.full(len(queries), -1, dtype=np.int64)
    cosines = np.full(len(queries), np.nan)
    if not candidates.any():
        return rows, cosines
    for begin in range(0, len(queries), batch_rows):
        batch = slice(begin, begin + batch_rows)
        wanted = _unit(gather(blocks, queries[batch]))
        best = np.full(len(wanted), -np.inf, dtype=np.float32)
        best_row = np.full(len(wanted), -1, dtype=np.int64)
        for start, tile in tiles(blocks):
            (used,) = np.nonzero(candidates[start : start + len(tile)])
            if used.size == 0:
                continue
            similarity = wanted @ _unit(tile[used]).T
            place = similarity.argmax(axis=1)
            value = similarity[np.arange(len(wanted)), place]
            better = value > best
            best[better] = value[better]
            best_row[better] = start + used[place[better]]
        rows[batch], cosines[batch] = best_row, np.clip(best, -1.0, 1.0)
    return rows, cosines


def nearest_in_group(
    blocks: SketchBlocks,
    queries: NDArray[np.integer[Any]],
    candidates: NDArray[np.bool_],
    groups: NDArray[Any],
    batch_rows: int = 8192,
) -> tuple[NDArray[np.int64], Float64]:
    """Return what `nearest_by_cosine` does, each query's candidates limited to its own group; groups: (n,).

    Reads the sketches once per `batch_rows` queries; memory also holds the candidates of those queries'
    groups.
    """
    rows = np.full(len(queries), -1, dtype=np.int64)
    cosines = np.full(len(queries), np.nan)
    codes = np.unique(groups, return_inverse=True)[1].ravel()
    by_group = np.argsort(codes[queries], kind="stable")
    for begin in range(0, len(queries), batch_rows):
        batch = np.sort(by_group[begin : begin + batch_rows])
        wanted = _unit(gather(blocks, queries[batch]))
        (pool,) = np.nonzero(candidates & np.isin(codes, codes[queries[batch]]))
        offered = _unit(gather(blocks, pool))
        pool_by_group = np.argsort(codes[pool], kind="stable")
        sorted_codes = codes[pool][pool_by_group]
        for code in np.unique(codes[queries[batch]]):
            low, high = np.searchsorted(sorted_codes, (code, code + 1))
            if low == high:
                continue
            (asked,) = np.nonzero(codes[queries[batch]] == code)
            mine = pool_by_group[low:high]
            similarity = wanted[asked] @ offered[mine].T
            place = similarity.argmax(axis=1)
            rows[batch[asked]] = pool[mine[place]]
            cosines[batch[asked]] = np.clip(similarity[np.arange(len(asked)), place], -1.0, 1.0)
    return rows, cosines


def _unit(sketches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows divided by their norms; zero rows stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", sketches, sketches, dtype=np.float64))
    return (sketches / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
