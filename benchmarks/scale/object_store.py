"""Many writers at one table in an object store: how many commits are lost."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.published import Figure
from benchmarks.scale.s3_server import s3_server

WRITERS, PROCESSES = 64, 4


def figures(scratch: Path, only: Sequence[str] = (), rounds: int = 3, times: int = 10) -> Iterator[Figure]:
    """Measure; as in `front_end.figures`, of which it takes `only`."""
    for name, one_partition in (
        ("writers_lost_commits", False),
        ("writers_lost_commits_one_partition", True),
    ):
        if not only or name in only:
            yield writers_lost_commits(one_partition=one_partition)


def writers_lost_commits(
    writers: int = WRITERS, processes: int = PROCESSES, one_partition: bool = False
) -> Figure:
    """Let writers replace a partition each, or all the same one, at once; count rows and commits not there after.

    Of one partition the rows of the last commit stand.
    """
    from grasp_pipeline import tables
    from resources.delta.tables import DeltaTables

    with s3_server("lake") as bucket:
        root, table = f"{bucket}/store", tables.REJECTED_DOCUMENTS
        begun = time.monotonic()
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            parts = [range(writers)[number::processes] for number in range(processes)]
            asked = [one_partition] * processes
            told = [run for done in pool.map(write_rows, [root] * processes, parts, asked) for run in done]
        seconds = time.monotonic() - begun
        delta = DeltaTables(root)
        commits = delta.commits(table)
        stored = set(delta.read(table, commits[0].version).select("doc_id").collect()["doc_id"])
        logged = {commit.metadata["run_id"] for commit in commits}
    wanted = {f"row {number}" for number in range(writers)}
    standing = {commits[0].metadata["run_id"]} if one_partition else wanted
    lost = len((wanted - logged) | (standing - stored))
    note = (
        f"{writers} writers in {processes} processes, {'all the same' if one_partition else 'each a'} partition of one "
        "table, which the first creates, in an "
        f"S3-compatible store (moto on loopback, requests one by one); {len(set(told))} were told that they had "
        f"committed, {len(commits)} commits in the log, {seconds:.0f} s"
    )
    name = f"scale.writers_lost_commits{'_one_partition' if one_partition else ''}"
    return Figure(name, float(lost), "commits", "0", note=note)


def write_rows(root: str, numbers: Sequence[int], one_partition: bool = False) -> list[str]:
    """Write a row for every number, by writers in threads that know nothing of each other; returns whose were.

    The row is a partition of its own, or the whole of the one partition.

    Raises:
        RuntimeError: one of them gave up.
    """
    import polars as pl

    from grasp_pipeline.tables import REJECTED_DOCUMENTS
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables

    made: list[str] = []

    def write(number: int) -> None:
        name = f"row {number}"
        frame = pl.select(
            pl.lit(name).alias(column) if dtype == pl.String else pl.lit(0, dtype).alias(column)
            for column, dtype in REJECTED_DOCUMENTS.schema.items()
        )
        shard = "shared" if one_partition else name
        frame = frame.with_columns(shard=pl.lit(shard))
        DeltaTables(root).write(
            REJECTED_DOCUMENTS, frame, Provenance(name, "writer", "1", ""), {"shard": shard}
        )
        made.append(name)

    threads = [threading.Thread(target=write, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(made) < len(numbers):
        raise RuntimeError(f"{len(numbers) - len(made)} of {len(numbers)} writers gave up")
    return made
