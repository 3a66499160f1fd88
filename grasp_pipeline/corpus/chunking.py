"""Documents to chunks of at most L tokens that tile the text without gaps.

A document is cut after every L tokens. What is left at its end may be a token or two: too little to judge, and a
fragment where it is kept alone. So a rest of fewer than `SHORTEST_TAIL` L tokens shares the tokens of the chunk before
it evenly: there are as many chunks as without, none above L, and none short unless its document is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import polars as pl

from grasp_pipeline.corpus.tokenizer import TextEncoder
from grasp_pipeline.tables import TASKS, TOKENIZED_SHARDS

SHORTEST_TAIL = 0.25
"""Tokens over L that a document's last chunk needs to stay as it is cut, where there is one before it."""


def chunk_starts(n_tokens: int, chunk_tokens: int) -> list[int]:
    """Return where the chunks of a document of n tokens begin, for at most L tokens per chunk."""
    starts = list(range(0, n_tokens, chunk_tokens))
    tail = n_tokens - starts[-1] if starts else 0
    if len(starts) > 1 and tail < SHORTEST_TAIL * chunk_tokens:
        starts[-1] -= (chunk_tokens - tail) // 2
    return starts


def chunk_id(doc_id: str, position: int) -> str:
    """Return a chunk's id: 96 bits of the document's digest (and its copy's number), and the position."""
    head, _, copy = doc_id.partition(":")
    return f"{head[:24]}{':' + copy if copy else ''}-{position}"


def document_blocks(frames: Iterable[pl.DataFrame], block_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of some frames in order, cut anew: a block ends with the document that reaches `block_bytes`."""
    held: list[pl.DataFrame] = []
    size = 0
    for frame in frames:
        start = 0
        for row, n_bytes in enumerate(frame["n_bytes"].to_list()):
            size += n_bytes
            if size >= block_bytes:
                yield pl.concat([*held, frame.slice(start, row + 1 - start)])
                held, size, start = [], 0, row + 1
        if start < frame.height:
            held.append(frame.slice(start))
    if held:
        yield pl.concat(held)


def chunk_documents(
    documents: pl.DataFrame,
    encoder: TextEncoder,
    chunk_tokens: int,
    on_tokens: Callable[[int], None] | None = None,
    batch_bytes: int = 200_000,
) -> pl.DataFrame:
    """Tokenize documents and cut them into chunks.

    Args:
        documents: columns of `tables.DOCUMENTS`.
        encoder: the tokenizer.
        chunk_tokens: L, most tokens per chunk; a document's last chunk may be shorter, and the one before it where
            they share a short rest.
        on_tokens: told the tokens finished, for progress.
        batch_bytes: text encoded at once, unless one document has more; a tokenizer holds some 100 bytes for each.

    Returns:
        Rows of `tables.TOKENIZED_SHARDS`, sorted by chunk_id. `start` and `end` are character offsets; the spans of
        a document's chunks join to its whole text.
    """
    columns: dict[str, list] = {name: [] for name in TOKENIZED_SHARDS.schema}
    for piece in document_blocks([documents.sort("doc_id")], batch_bytes):
        texts = piece["text"].to_list()
        done = 0
        rows = zip(
            piece["doc_id"], piece["source"], piece["shard"], texts, encoder.encode(texts), strict=True
        )
        for doc_id, source, shard, text, (ids, starts) in rows:
            cuts = [*chunk_starts(len(ids), chunk_tokens), len(ids)]
            for position, (first, after) in enumerate(pairwise(cuts)):
                tokens = ids[first:after]
                columns["chunk_id"].append(chunk_id(doc_id, position))
                columns["doc_id"].append(doc_id)
                columns["position"].append(position)
                columns["input_ids"].append(np.asarray(tokens, dtype=np.int32))
                columns["n_tokens"].append(len(tokens))
                columns["start"].append(starts[first] if position else 0)
                columns["end"].append(starts[after] if after < len(ids) else len(text))
                columns["source"].append(source)
                columns["shard"].append(shard)
            done += len(ids)
        if on_tokens is not None:
            on_tokens(done)
    frame = pl.DataFrame(columns, schema=TOKENIZED_SHARDS.schema)
    return TOKENIZED_SHARDS.conform(frame.sort("chunk_id"))


def chunk_tasks(
    task_documents: pl.DataFrame, encoder: TextEncoder, chunk_tokens: int, max_chunks_per_document: int
) -> pl.DataFrame:
    """Tokenize held-out documents, at most `max_chunks_per_document` chunks of each; rows of `tables.TASKS`."""
    columns: dict[str, list] = {name: [] for name in TASKS.schema}
    ordered = task_documents.sort("task", "split", "document")
    encoded = encoder.encode(ordered["text"].to_list())
    for row, (ids, _) in zip(ordered.drop("text").iter_rows(named=True), encoded, strict=True):
        for position in range(min(max_chunks_per_document, -(-len(ids) // chunk_tokens))):
            tokens = ids[position * chunk_tokens : (position + 1) * chunk_tokens]
            for name in ("task", "split", "fold", "document"):
                columns[name].append(row[name])
            columns["chunk_id"].append(f"{row['document']}-{position}")
            columns["input_ids"].append(np.asarray(tokens, dtype=np.int32))
            columns["n_tokens"].append(len(tokens))
    return TASKS.conform(pl.DataFrame(columns, schema=TASKS.schema))
