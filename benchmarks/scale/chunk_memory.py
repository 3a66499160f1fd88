"""Memory that selection holds of a chunk: the index of all chunks without token ids, and the subsets' memberships.

python -m benchmarks.scale.chunk_memory STORE CHUNKS   # what the benchmark runs in a process of its own; prints JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.published import ROOT, Figure
from grasp_pipeline import tables
from grasp_pipeline.tables import Table

CHUNKS = (100_000, 1_100_000)
PER_DOCUMENT = 4
SHARD_DOCUMENTS = 62_500
SUBSETS = 64
"""Calibration, evaluation and finalist subsets together, as a run with the defaults has them at most."""


def figures(scratch: Path, only: Sequence[str] = (), rounds: int = 3, times: int = 10) -> Iterator[Figure]:
    """Measure; as in `front_end.figures`, of which it takes `scratch` and `only`."""
    if not only or "bytes_per_chunk" in only:
        yield bytes_per_chunk(scratch)


def bytes_per_chunk(scratch: Path, chunks: Sequence[int] = CHUNKS) -> Figure:
    """Index a small and a large synthetic store, each in a new process; return the bytes held of each further chunk."""
    told = []
    for n in chunks:
        store = scratch / f"chunks-{n}"
        make_store(store, n)
        told.append(measure_apart(store, n))
    small, large = told[0], told[-1]

    def further(what: str) -> float:
        return (large[what] - small[what]) / (large["chunks"] - small["chunks"])

    note = (
        f"held by Python and numpy (tracemalloc) of each chunk between {small['chunks']:,} and {large['chunks']:,}, a "
        f"quarter as many documents; {further('subsets'):.1f} of them are {SUBSETS} subsets; at its peak, while the "
        f"index is made, the process holds {further('peak'):.0f} (resident); token ids lie in a file"
    )
    return Figure("scale.bytes_per_chunk", further("held"), "bytes", "at most 60", note=note)


def make_store(folder: Path, chunks: int) -> None:
    """Write documents of four chunks each, every tenth a near duplicate of another, in shards."""
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables

    delta, made = DeltaTables(str(folder)), Provenance("benchmark", "benchmark", "1", "")
    draw, documents = np.random.default_rng(0), chunks // PER_DOCUMENT
    for number, start in enumerate(range(0, documents, SHARD_DOCUMENTS)):
        n = min(SHARD_DOCUMENTS, documents - start)
        shard = {"shard": f"shard-{number:04}"}
        ids = [draw.bytes(32).hex() for _ in range(n)]
        survivor = np.arange(n) % 10 != 1
        frame = pl.DataFrame({"doc_id": ids}).with_columns(
            source=pl.lit(f"source-{number % 20}"),
            cluster=pl.Series([ids[row - (not alone)] for row, alone in enumerate(survivor)]),
            survivor=pl.Series(survivor),
            text=pl.lit(""),
            **{name: pl.lit(value) for name, value in shard.items()},
        )
        delta.write(tables.DOCUMENTS, _filled(tables.DOCUMENTS, frame), made, shard)
        position = np.tile(np.arange(PER_DOCUMENT), n)
        cut = frame.select("doc_id", "source", "shard")[np.repeat(np.arange(n), PER_DOCUMENT)].with_columns(
            position=pl.Series(position),
            chunk_id=pl.format("{}-{}", pl.col("doc_id").str.head(24), pl.Series(position)),
            n_tokens=pl.Series(draw.integers(1, 1024, len(position))),
        )
        delta.write(tables.TOKENIZED_SHARDS, _filled(tables.TOKENIZED_SHARDS, cut), made, shard)


def _filled(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with a table's other columns null."""
    missing = {name: dtype for name, dtype in table.schema.items() if name not in frame.columns}
    return frame.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in missing.items()).select(
        list(table.schema)
    )


def measure_apart(store: Path, chunks: int) -> dict[str, int]:
    """Return what `measure` does in a new process, whose memory nothing else has used."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale.chunk_memory", str(store), str(chunks)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(store: str, chunks: int) -> dict[str, int]:
    """Return the bytes that an index and its subsets hold, those of the subsets alone, and the peak of the process."""
    from assets.chunk_index import index_chunks
    from benchmarks.scale.front_end_run import PeakMemory
    from grasp_pipeline.memberships import Memberships
    from resources.delta.tables import DeltaTables

    delta = DeltaTables(store)
    version, documents = (delta.pin(table).version for table in (tables.TOKENIZED_SHARDS, tables.DOCUMENTS))
    with PeakMemory() as peak, _traced():
        corpus = index_chunks(delta, version, documents)
        index = tracemalloc.get_traced_memory()[0]
        rows = (np.random.default_rng(number).random(corpus.n) < 0.25 for number in range(SUBSETS))
        subsets = Memberships.of(rows, corpus.n)
        held = tracemalloc.get_traced_memory()[0]
    if corpus.n != chunks or len(subsets) != SUBSETS:
        raise ValueError(f"the index has {corpus.n} chunks of {chunks}")
    return {
        "chunks": chunks,
        "documents": corpus.documents,
        "held": held,
        "subsets": held - index,
        "peak": peak.bytes,
    }


@contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()  # it slows all that comes after


if __name__ == "__main__":
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
