"""The kept text and tokens in order of document, in blocks: memory does not grow with the corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from grasp_pipeline.errors import StoreError

SPANS: dict[str, pl.DataType | type[pl.DataType]] = {
    "doc_id": pl.String,
    "part": pl.Int64,
    "source": pl.String,
    "origin": pl.String,
    "text": pl.String,
    "n_tokens": pl.Int64,
    "repeats": pl.Int64,
    "curation": pl.Int64,
}
"""Columns of a span. part: 0, 1... within the document; origin: the document's file and row; n_tokens: of its kept
chunks, without BOS; repeats: times that the span is to be trained on; curation: number of the result, 0 for one that
was published before results were numbered."""

OF_PRUNED = ("repeats", "curation")
"""Those that `pruned_corpus` tells."""

LINEAGE = tuple(name for name in SPANS if name != "text")
"""Columns that go with a sequence of token ids."""

BLOCK_BYTES = 64 * 2**20
MAX_BLOCKS = 512
"""Text per block, and most blocks: one file per block is open while a table is dealt out."""

_ROWS_AT_ONCE = 2048
_CHUNK_COLUMNS = ("chunk_id", "doc_id", "position", "start", "end", "n_tokens")


@dataclass(frozen=True)
class KeptCorpus:
    """The tables that the kept text comes from, each read lazily at its pinned version.

    pruned: rows of `tables.PRUNED_CORPUS`; chunks: of `tables.TOKENIZED_SHARDS`; documents: of `tables.DOCUMENTS`.
    """

    pruned: pl.LazyFrame
    chunks: pl.LazyFrame
    documents: pl.LazyFrame


def span_blocks(
    corpus: KeptCorpus, scratch: Path, tokens: bool, block_bytes: int = BLOCK_BYTES
) -> Iterator[pl.DataFrame]:
    """Yield the kept spans of all documents, sorted by doc_id and part, a block of documents at a time.

    A document id is a digest, so its first 16 bits cut the corpus into blocks of about equal size: one pass over each
    table deals its rows out to a file per block, then block after block is joined and sorted in memory.

    Args:
        corpus: the tables.
        scratch: an existing folder on a disk with room for the documents' text; what is put there is removed.
        tokens: whether to add the column `input_ids`, list of int32: the token ids of the span's chunks.
        block_bytes: bytes of document text per block, about; blocks are larger where there would be over 512.

    Yields:
        Frames of the columns `SPANS` and `whole`. The rows do not depend on `block_bytes`.

    Raises:
        StoreError: a kept chunk or its document is missing from the tables.
    """
    n_bytes = corpus.documents.select(pl.col("n_bytes").sum()).collect(engine="streaming").item()
    count = min(max(1, -(-n_bytes // block_bytes)), MAX_BLOCKS)
    columns = [*_CHUNK_COLUMNS, "input_ids"] if tokens else _CHUNK_COLUMNS
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".blocks-") as name:
        folder = Path(name)
        _deal_out(corpus.pruned, ("chunk_id", "doc_id", "repeats", "curation"), folder / "pruned", count)
        _deal_out(corpus.chunks, columns, folder / "chunks", count)
        _deal_out(corpus.documents, ("doc_id", "source", "origin", "text"), folder / "documents", count)
        for number in range(count):
            paths = [folder / table / f"{number}.arrow" for table in ("pruned", "chunks", "documents")]
            spans = kept_spans(*(pl.read_ipc(path) for path in paths))
            for path in paths:
                path.unlink()
            if spans.height:
                yield spans


def kept_spans(pruned: pl.DataFrame, chunks: pl.DataFrame, documents: pl.DataFrame) -> pl.DataFrame:
    """Return the kept text of some documents: one row per run of neighbouring kept chunks with equal repeats.

    Args:
        pruned: chunk_id, doc_id, repeats and curation of the kept chunks.
        chunks: columns of `tables.TOKENIZED_SHARDS`, `input_ids` optional.
        documents: doc_id, source, origin and text.

    Returns:
        The columns `SPANS`, `whole` (whether the span is its document's whole text), and `input_ids` where the chunks
        have it, sorted by doc_id and part.

    Raises:
        StoreError: a kept chunk or its document is missing.
    """
    kept = chunks.join(pruned.select("chunk_id", *OF_PRUNED), on="chunk_id").sort("doc_id", "position")
    _check_complete(pruned, kept, "chunk_id", "tokenized_shards")
    _check_complete(kept, documents, "doc_id", "documents")
    gap = (pl.col("position") != pl.col("position").shift(1).over("doc_id") + 1).fill_null(value=True)
    gap |= pl.col("repeats").ne_missing(pl.col("repeats").shift(1).over("doc_id"))
    totals = [
        pl.col("start").min(),
        pl.col("end").max(),
        pl.col("n_tokens").sum(),
        pl.col(*OF_PRUNED).first(),
    ]
    ids = ["input_ids"] if "input_ids" in chunks.columns else []
    return (
        kept.with_columns(part=gap.cast(pl.Int64).cum_sum().over("doc_id") - 1)
        .group_by("doc_id", "part")
        .agg(*totals, *(pl.col(name).explode() for name in ids))
        .join(documents.select("doc_id", "source", "origin", "text"), on="doc_id")
        .with_columns(
            text=pl.col("text").str.slice(pl.col("start"), pl.col("end") - pl.col("start")),
            whole=(pl.col("start") == 0) & (pl.col("end") == pl.col("text").str.len_chars()),
        )
        .with_columns(pl.col("curation").fill_null(0))
        .select(*(pl.col(name).cast(kind) for name, kind in SPANS.items()), "whole", *ids)
        .sort("doc_id", "part")
    )


def without_fragments(spans: pl.DataFrame, min_tokens: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split the spans of some documents into those to write and the fragments to leave out.

    Args:
        spans: all spans of the documents, from `kept_spans`.
        min_tokens: fewest tokens of a span that is not a whole document.

    Returns:
        The spans to write, their parts numbered anew, and the fragments.
    """
    fragment = (pl.col("n_tokens") < min_tokens) & ~pl.col("whole")
    written = spans.filter(~fragment).with_columns(part=pl.int_range(pl.len()).over("doc_id"))
    return written, spans.filter(fragment)


def arrow_schema(columns: Sequence[str]) -> pa.Schema:
    """Return some of the columns `SPANS` as an Arrow schema."""
    return pl.DataFrame(schema={name: SPANS[name] for name in columns}).to_arrow().schema


def _deal_out(frame: pl.LazyFrame, columns: Sequence[str], folder: Path, count: int) -> None:
    """Write the rows of a table to `folder/NUMBER.arrow` by the block of their document."""
    folder.mkdir()
    block = pl.col("doc_id").str.slice(0, 4).str.to_integer(base=16) * count // 2**16
    rows = frame.select(*columns)
    schema = rows.collect_schema().to_frame().to_arrow().schema
    # Without maintain_order polars reads ahead of a slow writer without a limit.
    batches = rows.with_columns(block=block).collect_batches(
        chunk_size=_ROWS_AT_ONCE, maintain_order=True, engine="streaming"
    )
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack:
        files = [
            stack.enter_context(pa.ipc.new_file(str(folder / f"{number}.arrow"), schema, options=options))
            for number in range(count)
        ]
        for batch in batches:
            for (number,), part in batch.partition_by("block", as_dict=True, include_key=False).items():
                files[number].write_table(part.to_arrow())


def _check_complete(wanted: pl.DataFrame, held: pl.DataFrame, key: str, table: str) -> None:
    missing = wanted.join(held.select(key), on=key, how="anti")
    if missing.height:
        raise StoreError(
            f"the table {table} does not hold the {key} {missing[key][0]} of the pruned corpus ({missing.height} are "
            "missing); the tables are of different runs: materialize finalists again, then export"
        )
