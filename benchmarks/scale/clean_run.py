"""Cleans every n-th document of a corpus in memory and in one thread; prints MB and seconds of processor time as JSON.

Run as a file, so that `PYTHONPATH` says whose `grasp_pipeline` cleans, that of an earlier commit for example:

    python benchmarks/scale/clean_run.py CORPUS TASKS N
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import polars as pl

from grasp_pipeline.config import CleaningConfig, TasksConfig
from grasp_pipeline.corpus.cleaning import clean_documents
from grasp_pipeline.corpus.manifest import PLACED_SCHEMA
from grasp_pipeline.corpus.tasks import read_tasks


def rows(corpus: Path, every: int) -> pl.DataFrame:
    """Return every n-th document of each file as `manifest.PLACED_SCHEMA` has it, a block a file."""
    frames = [
        pl.read_parquet(path)
        .gather_every(every)
        .select(
            arrival=pl.lit(arrival),
            uri=pl.lit(path.name),
            shard=pl.lit("shard-0000"),
            founding=pl.lit(True),
            row=pl.int_range(pl.len()),
            text="text",
            user_id=pl.lit(None),
            source="source",
            n_bytes=pl.col("text").str.len_bytes(),
            fault=pl.lit(None),
            fault_detail=pl.lit(None),
        )
        .cast(PLACED_SCHEMA)
        for arrival, path in enumerate(sorted(corpus.glob("*.parquet")))
    ]
    return pl.concat(frames)


def main() -> None:
    """Clean, after a few documents to load libraries and tables of characters."""
    raw = rows(Path(sys.argv[1]), int(sys.argv[3]))
    tasks = read_tasks(TasksConfig(paths=[f"{sys.argv[2]}/*.parquet"]), None).documents
    clean_documents(raw.gather_every(100), CleaningConfig(), tasks)
    begun = time.process_time()
    cleaned = clean_documents(raw, CleaningConfig(), tasks)
    seconds = time.process_time() - begun
    kept = [cleaned.documents.height, cleaned.rejected.height]
    print(json.dumps({"megabytes": int(raw["n_bytes"].sum()) / 1e6, "seconds": seconds, "kept": kept}))


if __name__ == "__main__":
    main()
