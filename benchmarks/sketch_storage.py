"""What sketches cost on disk and in memory: bytes per chunk, peak memory as the corpus grows, speed of reading."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from assets.sections import SketchRun
from benchmarks.published import Figure
from benchmarks.sketch_bergson import folder_bytes
from benchmarks.sketch_runs import run
from benchmarks.sketch_speed import in_turns, over_rounds
from benchmarks.sketch_store import MADE, SHARD, draw_chunks, make_store, write_inputs
from grasp_pipeline import tables
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.storage import GROUP_ROWS
from resources.delta.tables import DeltaTables
from resources.sketches import SketchReader

KIND = "output"
PRESET, VOCABULARY, CHUNK_TOKENS = "tiny", 257, 16
"""Of the growing corpus: a small model and short chunks, at the default dimensions."""


def growth(few: int, many: int, threads: int, rounds: int) -> list[Figure]:
    """Return the peak memory of the asset over many chunks of one shard over that of few."""
    peaks: dict[int, list[float]] = {few: [], many: []}
    with tempfile.TemporaryDirectory(prefix="grasp-sketch-") as scratch:
        for count in peaks:
            inputs = Path(scratch) / str(count)
            write_inputs(inputs, PRESET, VOCABULARY, draw_chunks(count, CHUNK_TOKENS, VOCABULARY))
            make_store(inputs, inputs / f"store-{KIND}", KIND, SketchRun(kinds=[KIND]))
        for _ in range(rounds):
            for count, found in peaks.items():
                found.append(run(KIND, Path(scratch) / str(count), threads, count, sys.executable).mib)
    ratios = [a / b for a, b in zip(peaks[many], peaks[few], strict=True)]
    note = (
        f"`{KIND}` into one shard; {many:,} chunks {statistics.median(peaks[many]):,.0f} MiB, {few:,} chunks "
    )
    note += f"{statistics.median(peaks[few]):,.0f} MiB"
    return [over_rounds("sketch.rss_growth", ratios, "x", "at most 1.1", note)]


def groups(count: int, d: int) -> Iterator[pl.DataFrame]:
    """Yield rows of `gradient_sketches` with random values, group by group."""
    source = generator("sketch benchmark", "reading", count, d)
    for start in range(0, count, GROUP_ROWS):
        size = min(GROUP_ROWS, count - start)
        half = source.standard_normal((size, d), dtype=np.float32).astype("<f2")
        frame = pl.DataFrame(
            {
                "chunk_id": [f"{number:024x}-0" for number in range(start, start + size)],
                "sketch": pl.Series([row.tobytes() for row in half], dtype=pl.Binary),
                "loss": source.random(size),
                "norm": source.random(size),
            }
        )
        named = frame.with_columns(
            sketch_kind=pl.lit(KIND),
            shard=pl.lit(SHARD),
            d=pl.lit(d),
            scale=pl.lit(1.0),
            n_tokens=pl.lit(256),
        )
        yield tables.GRADIENT_SKETCHES.conform(named)


def reading(count: int, d: int, rounds: int) -> list[Figure]:
    """Return the speed of reading stored sketches over that of numpy reading the same values, from the cache.

    numpy reads blocks of as many rows into memory that it has just freed; beside it, everything into one array.
    """
    with tempfile.TemporaryDirectory(prefix="grasp-sketch-") as scratch:
        delta_tables, raw = DeltaTables(f"{scratch}/store"), Path(scratch) / "values.bin"
        partition = {"sketch_kind": KIND, "shard": SHARD}
        with raw.open("wb") as file:

            def copied() -> Iterator[pl.DataFrame]:
                for frame in groups(count, d):
                    file.write(b"".join(frame["sketch"].to_list()))
                    yield frame

            commit = delta_tables.write_stream(
                tables.GRADIENT_SKETCHES, copied(), MADE, partition, dict, GROUP_ROWS
            )
        reader = SketchReader(delta_tables, commit.version, KIND)

        def delta() -> int:
            return sum(len(block.sketches) for block in reader.blocks())

        def numpy() -> int:
            read = 0
            with raw.open("rb") as file:
                while len(block := np.fromfile(file, "<f2", GROUP_ROWS * d)):
                    read += len(block) // d
            return read

        def whole() -> int:
            return len(np.fromfile(raw, "<f2")) // d

        if delta() != count or numpy() != count:
            raise ValueError(f"{delta()} and {numpy()} of {count} sketches were read")
        calls: dict[str, Callable[[], object]] = {"delta": delta, "numpy": numpy, "one array": whole}
        found = in_turns(calls, rounds, "cpu")
        stored = folder_bytes(Path(scratch) / "store" / "gradient_sketches", "*.parquet")
    ratios, of_whole = (
        [b / a for a, b in zip(found["delta"], found[way], strict=True)] for way in ("numpy", "one array")
    )
    rates = [2 * d * count / each / 2**30 for each in found["delta"]]
    note = f"{count:,} sketches of {d} values, ids too; {stored / count:.0f} bytes each in the table"
    return [
        over_rounds(
            "sketch.read_over_numpy", ratios, "of the speed", "at least 0.5", f"both in blocks; {note}"
        ),
        over_rounds(
            "sketch.read_over_numpy[one array]",
            of_whole,
            "of the speed",
            note="numpy reads all into one array",
        ),
        over_rounds("sketch.read_rate", rates, "GiB/s", note="float16 values, from the page cache"),
    ]
