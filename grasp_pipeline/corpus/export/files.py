"""Text as files: Parquet, JSON lines and a Hugging Face `datasets` folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from grasp_pipeline.corpus.export.spans import SPANS, arrow_schema

Write = Callable[[pl.DataFrame], None]
"""Takes the next block of spans."""

_ROW_GROUP = 8192


@dataclass
class Counts:
    """Rows and tokens that a file holds."""

    rows: int = 0
    tokens: int = 0

    def add(self, spans: pl.DataFrame) -> None:
        """Count a frame of spans."""
        self.rows += spans.height
        self.tokens += int(spans["n_tokens"].sum())


@dataclass
class Ledger:
    """What was written: rows and tokens per file (path relative to the export), documents per source; fragments not."""

    files: defaultdict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    total: Counts = field(default_factory=Counts)
    left_out: Counts = field(default_factory=Counts)
    documents: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, spans: pl.DataFrame) -> None:
        """Count a block of spans; every document with kept text has exactly one part 0."""
        self.total.add(spans)
        for source, count in spans.filter(part=0).group_by("source").len().iter_rows():
            self.documents[source] += count


@contextmanager
def parquet_file(folder: Path, ledger: Ledger) -> Iterator[Write]:
    """Write `corpus.parquet`, zstd."""
    name = "corpus.parquet"
    with _parquet(folder / name) as file:

        def write(spans: pl.DataFrame) -> None:
            file.write_table(spans.select(*SPANS).to_arrow(), row_group_size=_ROW_GROUP)
            ledger.files[name].add(spans)

        yield write


@contextmanager
def jsonl_file(folder: Path, ledger: Ledger) -> Iterator[Write]:
    """Write `corpus.jsonl.zst`, one object per span."""
    import zstandard

    name = "corpus.jsonl.zst"
    with zstandard.open(folder / name, "wb") as file:

        def write(spans: pl.DataFrame) -> None:
            for piece in spans.select(*SPANS).iter_slices(4096):
                file.write(piece.write_ndjson().encode())
            ledger.files[name].add(spans)

        yield write


@contextmanager
def huggingface_folder(folder: Path, ledger: Ledger, shard_tokens: int) -> Iterator[Write]:
    """Write `huggingface/data/train-NUMBER-of-COUNT.parquet`; the card beside them names the split.

    A file ends with the span that brings the tokens so far to a multiple of `shard_tokens` or beyond it.
    """
    data = folder / "huggingface" / "data"
    data.mkdir(parents=True)
    shards: list[Counts] = []
    shard = -1
    file: pq.ParquetWriter | None = None

    def write(spans: pl.DataFrame) -> None:
        nonlocal shard, file
        before = sum(counts.tokens for counts in shards)
        number = (before + spans["n_tokens"].cum_sum() - spans["n_tokens"]) // shard_tokens
        for piece in spans.with_columns(shard=number).partition_by("shard", maintain_order=True):
            if file is None or piece["shard"][0] != shard:
                if file is not None:
                    file.close()
                file, shard = _parquet(data / f"{len(shards)}.parquet"), piece["shard"][0]
                shards.append(Counts())
            file.write_table(piece.select(*SPANS).to_arrow(), row_group_size=_ROW_GROUP)
            shards[-1].add(piece)

    try:
        yield write
    finally:
        if file is not None:
            file.close()
    for index, counts in enumerate(shards):
        name = f"train-{index:05d}-of-{len(shards):05d}.parquet"
        (data / f"{index}.parquet").rename(data / name)
        ledger.files[f"huggingface/data/{name}"] = counts


def _parquet(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, arrow_schema(list(SPANS)), compression="zstd")
