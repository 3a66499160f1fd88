"""Nearest neighbour by cosine: exact for corpora up to `EXACT_ROWS`, above that through a graph of neighbours.

The exact search holds a batch of queries and one tile of candidates. The graph (HNSW; Malkov & Yashunin 2018,
arXiv 1603.09320; library usearch) holds every candidate in half precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, gather, tiles

if TYPE_CHECKING:
    from usearch.index import Index

EXACT_ROWS = 250_000
"""Largest corpus, in chunks, that is searched exactly.

At d = 256 and 50,000 candidates an exact query, a query of the graph and an addition to it cost about the same; exact
queries grow with the candidates, the others hardly. With a quarter of the chunks kept and all others asking the two
searches take equally long near 250,000 chunks, some minutes on one core; at ten times as many the exact one takes about
a hundred times as long.
"""

_CONNECTIVITY, _EXPANSION = 16, 128
"""Neighbours of a graph node, and nodes looked at when one is added or searched for: the library's usual values for
cosine, with twice its width of search."""


def nearest_kept(
    blocks: SketchBlocks,
    queries: NDArray[np.integer[Any]],
    candidates: NDArray[np.bool_],
    batch_rows: int = 8192,
    exact_rows: int = EXACT_ROWS,
) -> tuple[NDArray[np.int64], Floats]:
    """Return `nearest_by_cosine` for a corpus of at most `exact_rows` chunks, else `nearest_by_graph`."""
    if blocks.n <= exact_rows:
        return nearest_by_cosine(blocks, queries, candidates, batch_rows)
    return nearest_by_graph(blocks, queries, candidates)


def nearest_by_graph(
    blocks: SketchBlocks, queries: NDArray[np.integer[Any]], candidates: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Floats]:
    """Return nearly what `nearest_by_cosine` does, in two passes; a query may get a candidate almost as near.

    queries: (k,) ascending row numbers; candidates: (n,). The cosines, within 0.002, are those of the rows returned.
    Memory: 2 d + about 200 bytes per candidate. Candidates are added one by one in order of their rows and with the
    library's fixed seed, so neither threads nor block sizes change the result.
    """
    rows = np.full(len(queries), -1, dtype=np.int64)
    cosines = np.full(len(queries), np.nan)
    if not candidates.any():
        return rows, cosines
    graph = neighbour_graph(blocks.d)
    for start, tile in tiles(blocks):
        (used,) = np.nonzero(candidates[start : start + len(tile)] & tile.any(axis=1))
        if used.size:
            graph.add(start + used, _unit(tile[used]), threads=1)
    # A sketch of zeros has no direction: its cosine is 0 with all, and the first candidate is as near as any.
    rows[:], cosines[:] = candidates.argmax(), 0.0
    if len(graph) == 0:
        return rows, cosines
    for start, tile in tiles(blocks):
        low, high = np.searchsorted(queries, (start, start + len(tile)))
        asked = tile[queries[low:high] - start]
        (used,) = np.nonzero(asked.any(axis=1))
        if used.size == 0:
            continue
        found = graph.search(_unit(asked[used]), 1, threads=1)
        rows[low + used] = np.asarray(found.keys, dtype=np.int64).reshape(-1)
        cosines[low + used] = np.clip(
            1.0 - np.asarray(found.distances, dtype=np.float64).reshape(-1), -1.0, 1.0
        )
    return rows, cosines


def neighbour_graph(d: int) -> Index:
    """Return an empty graph for rows of d numbers, searched by cosine; add with one thread for the same graph again."""
    from usearch.index import Index

    return Index(
        ndim=d,
        metric="cos",
        dtype="f16",
        connectivity=_CONNECTIVITY,
        expansion_add=_EXPANSION,
        expansion_search=_EXPANSION,
    )


def nearest_by_cosine(
    blocks: SketchBlocks,
    queries: NDArray[np.integer[Any]],
    candidates: NDArray[np.bool_],
    batch_rows: int = 8192,
) -> tuple[NDArray[np.int64], Floats]:
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
) -> tuple[NDArray[np.int64], Floats]:
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
