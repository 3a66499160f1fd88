"""Processes that write partitions of their own as fast as they can: `python writers.py FOLDER WRITERS SECONDS`."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path

import polars as pl

from grasp_pipeline import tables
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables

TABLE = tables.REJECTED_DOCUMENTS
MADE = Provenance("run", "documents", "1", "")


def rows(shard: str, round_: int) -> pl.DataFrame:
    """Return three rows of a shard that tell the round."""
    told = {
        "doc_id": [f"{shard}-{number}" for number in range(3)],
        "stage": "noise",
        "reason": "too_short",
        "detail": f"round {round_}",
        "source": "s",
        "shard": shard,
        "origin": "o",
    }
    return pl.concat([TABLE.empty(), pl.DataFrame(told)], how="diagonal")


def write_on(folder: str, shard: str, until: float, told: str) -> None:
    """Write a shard over and over until a time; leaves how many commits there were."""
    delta, commits = DeltaTables(folder), 0
    while not commits or time.time() < until:
        delta.write(TABLE, rows(shard, commits), MADE, {"shard": shard})
        commits += 1
    Path(told).write_text(str(commits))


def measure(folder: Path, writers: int, seconds: float) -> dict[str, float]:
    """Let writers write side by side; returns commits made, those of them that are lost, rows, and commits a second."""
    delta = DeltaTables(str(folder / "store"))
    delta.create(TABLE, MADE)
    context = multiprocessing.get_context("spawn")
    shards = [f"shard-{number:04d}" for number in range(writers)]
    until = time.time() + seconds
    running = [
        context.Process(target=write_on, args=(delta.root, shard, until, str(folder / shard)))
        for shard in shards
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    failed = sum(process.exitcode != 0 for process in running)
    made = {shard: int((folder / shard).read_text()) for shard in shards if (folder / shard).exists()}
    commits = delta.commits(TABLE)
    logged = {shard: sum(c.partition == {"shard": shard} for c in commits) for shard in shards}
    newest = delta.read(TABLE, commits[0].version).collect()
    last = dict(newest.group_by("shard").agg(pl.col("detail").unique().first()).iter_rows())
    lost = sum(made[shard] - logged[shard] for shard in made)
    lost += sum(last.get(shard) != f"round {made[shard] - 1}" for shard in made)
    return {
        "commits": sum(made.values()),
        "lost": lost + failed,
        "rows": newest.height,
        "per_second": sum(made.values()) / seconds,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
