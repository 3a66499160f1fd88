"""Log-coverage at corpus scale: time, memory and gap of the greedy fill and its bound on the counts of many chunks."""

from __future__ import annotations

import time

import numpy as np
from scipy.sparse import csr_array

from benchmarks.published import Figure
from benchmarks.sketch_bergson import peak_mib
from grasp_pipeline.arrays import Floats
from grasp_pipeline.corpus.events import column_sums
from grasp_pipeline.seeds import generator

EVENTS, TOPICS, WANTED = 50_000, 500, 12
"""Events that the queries ask for; topics of the chunks; topics that the queries are of."""

DRAWN, OWN = (20, 40), 0.5
"""Fewest and most events of a chunk, and the share of them that is of its topic."""

RHO, SHARE, GAP = 0.6, 0.2, 3e-4
"""Smoothing, the smallest of the candidates; share of the tokens to keep; relative gap at which the bound may stop."""

PIECE = 20_000
_STRIDE = 7_919
"""Prime that scatters the events of a topic."""


def counted(rows: int) -> csr_array:
    """Return counts (rows, EVENTS): ranks by Zipf's law, half of them common, half scattered by the chunk's topic."""
    indices = np.empty(rows * DRAWN[1], dtype=np.int32)
    data = np.empty(rows * DRAWN[1], dtype=np.uint8)
    pointers = np.zeros(rows + 1, dtype=np.int32)
    filled = 0
    for start in range(0, rows, PIECE):
        draw = generator("benchmark log-coverage", start)
        count = min(PIECE, rows - start)
        lengths = draw.integers(DRAWN[0], DRAWN[1] + 1, count)
        topic = np.repeat(draw.integers(0, TOPICS, count), lengths)
        ranks = np.exp(draw.random(len(topic)) * np.log(EVENTS + 1)).astype(np.int64) - 1
        ranks = np.where(draw.random(len(topic)) < OWN, _scattered(ranks, topic), ranks)
        ones = np.ones(len(ranks), dtype=np.uint8)
        before = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        piece = csr_array((ones, ranks.astype(np.int32), before), shape=(count, EVENTS))
        piece.sum_duplicates()
        end = filled + piece.nnz
        indices[filled:end], data[filled:end] = piece.indices, piece.data
        pointers[start + 1 : start + count + 1] = filled + piece.indptr[1:]
        filled = end
    return csr_array((data[:filled], indices[:filled], pointers), shape=(rows, EVENTS))


def asked() -> Floats:
    """Return the shares (EVENTS,) of the queries' events: those of a few topics."""
    ranks = np.arange(EVENTS)
    law = np.log((ranks + 2) / (ranks + 1)) / np.log(EVENTS + 1)
    topics = generator("benchmark log-coverage queries").choice(TOPICS, WANTED, replace=False)
    weights = (1 - OWN) * law
    for topic in topics:
        np.add.at(weights, _scattered(ranks, np.full(EVENTS, topic)), OWN / WANTED * law)
    return weights


def cover_rows(rows: int) -> dict[str, float]:
    """Maximise log-coverage over so many chunks; returns what was reached, with the peak memory of the process."""
    from grasp_pipeline.selection.solver.budget import TokenBudget, check_budget
    from grasp_pipeline.selection.solver.coverage import Coverage, cover

    events = counted(rows)
    draw = generator("benchmark log-coverage tokens")
    tokens = np.where(draw.random(rows) < 0.7, 128, draw.integers(64, 128, rows)).astype(np.int32)
    rate = column_sums(events, np.ones(rows)) / tokens.sum()
    objective = Coverage(events, asked(), RHO * (rate + 1e-9))
    budget = int(SHARE * tokens.sum())
    begun, worked = time.monotonic(), time.process_time()
    found = cover(objective, tokens, TokenBudget(check_budget(tokens, budget), budget), gap=GAP)
    return {
        "gap": found.relative_gap,
        "fractional_gap": found.fractional_gap,
        "seconds": time.monotonic() - begun,
        "processor_seconds": time.process_time() - worked,
        "gib": peak_mib() / 1024,
        "passes": found.passes,
        "counts": events.nnz,
    }


def figures(rows: int, smaller: dict[str, float], larger: dict[str, float]) -> list[Figure]:
    """Return the figures of all rows, with those of a tenth of them as notes."""
    size = f"{rows // 1_000_000}m"
    few = "a tenth of the rows: {:.2g} {}"
    what = f"{larger['counts'] / 1e6:.0f} million counts of {EVENTS:,} synthetic events"
    return [
        Figure(
            f"selection.log_coverage_gap_{size}",
            larger["gap"],
            "relative",
            "at most 0.001",
            note=f"fractional {larger['fractional_gap']:.2g} after {larger['passes']:.0f} passes; "
            + few.format(smaller["gap"], "gap"),
        ),
        Figure(
            f"selection.log_coverage_seconds_{size}",
            larger["seconds"],
            "s",
            "at most 600",
            note=f"{larger['processor_seconds']:.0f} s of the processor; {what}; "
            f"{few.format(smaller['seconds'], 's')}; of the whole process {larger['process_seconds']:.0f} "
            "s, the synthesis of the counts among them",
        ),
        Figure(
            f"selection.log_coverage_rss_gib_{size}",
            larger["gib"],
            "GiB",
            "at most 3",
            note=f"peak of the process; {few.format(smaller['gib'], 'GiB')}",
        ),
    ]


def _scattered(ranks: np.ndarray, topic: np.ndarray) -> np.ndarray:
    """Return the events of ranks within topics."""
    return (ranks * _STRIDE + topic * (EVENTS // TOPICS) * 31) % EVENTS
