"""Documents of any number to chunks in order of their ids, in bounded memory: blocks are tokenized apart, an external
sort joins them.

The ids begin with digits of a digest, so ranges of them are of even size: every block leaves its rows range by range in
one scratch file, and a range, read from all blocks, is small enough to be sorted in memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

import polars as pl

from grasp_pipeline.corpus.chunking import chunk_documents, document_blocks
from grasp_pipeline.corpus.tokenizer import TextEncoder
from grasp_pipeline.engine import Engine

BLOCK_BYTES = 4_000_000
"""Text tokenized at once."""

RANGE_BYTES = 8_000_000
"""Text of the documents whose chunks are sorted at once."""


@dataclass(frozen=True)
class Tokenize:
    """Cuts the documents of a block into chunks; travels to workers and depends on nothing but what it says.

    Attributes:
        definition: the tokenizer in JSON.
        bos, vocab_size: as `TextEncoder` has them.
        chunk_tokens: L, most tokens per chunk.
    """

    definition: str
    bos: int
    vocab_size: int
    chunk_tokens: int

    @classmethod
    def of(cls, encoder: TextEncoder, chunk_tokens: int) -> Tokenize:
        """Return the function for a tokenizer in memory."""
        return cls(encoder.backend.to_str(), encoder.bos, encoder.vocab_size, chunk_tokens)

    def __call__(self, documents: pl.DataFrame) -> pl.DataFrame:
        """Return rows of `tables.TOKENIZED_SHARDS`; documents: columns of `tables.DOCUMENTS`."""
        encoder = _encoder(self.definition, self.bos, self.vocab_size)
        return chunk_documents(documents, encoder, self.chunk_tokens)


@lru_cache(maxsize=1)
def _encoder(definition: str, bos: int, vocab_size: int) -> TextEncoder:
    from tokenizers import Tokenizer

    return TextEncoder(Tokenizer.from_str(definition), bos, vocab_size)


class SortedRanges:
    """An external sort of rows by a column of text that begins with hexadecimal digits of a digest.

    Args:
        file: an empty file to write to and to read from.
        key: the column; its values are distinct.
        ranges: of it, equal shares of what digests there may be; one is held in memory at a time.
    """

    def __init__(self, file: IO[bytes], key: str, ranges: int) -> None:
        self._file, self._key = file, key
        self._bounds = pl.Series(
            [f"{place * 2**32 // ranges:08x}" for place in range(1, ranges)], dtype=pl.String
        )
        self._parts: list[list[tuple[int, int]]] = [[] for _ in range(ranges)]
        self._end = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows in any order."""
        frame = frame.sort(self._key)
        cuts = [0, *frame[self._key].search_sorted(self._bounds, side="left"), frame.height]
        for place, parts in enumerate(self._parts):
            rows = frame.slice(cuts[place], cuts[place + 1] - cuts[place])
            if rows.is_empty():
                continue
            held = io.BytesIO()
            rows.write_ipc(held)
            size = self._file.write(held.getbuffer())
            parts.append((self._end, size))
            self._end += size

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield all rows in order of the key, a range at a time."""
        self._file.flush()
        for parts in self._parts:
            if parts:
                pieces = [pl.read_ipc(self._read(start, size)) for start, size in parts]
                yield pl.concat(pieces).sort(self._key)

    def _read(self, start: int, size: int) -> io.BytesIO:
        self._file.seek(start)
        return io.BytesIO(self._file.read(size))


def chunk_stream(
    documents: Iterable[pl.DataFrame],
    tokenize: Callable[[pl.DataFrame], pl.DataFrame],
    known: Iterable[pl.DataFrame],
    scratch: IO[bytes],
    n_bytes: int,
    engine: Engine,
    on_tokens: Callable[[int], None] | None = None,
    block_bytes: int = BLOCK_BYTES,
    range_bytes: int = RANGE_BYTES,
) -> Iterator[pl.DataFrame]:
    """Tokenize documents block by block and yield all chunks sorted by chunk_id, as `chunk_documents` has them.

    Memory: some blocks of documents, and the chunks of about `range_bytes` of text.

    Args:
        documents: columns of `tables.DOCUMENTS`, in pieces.
        tokenize: of one block; see `Tokenize`.
        known: chunks of further documents that need not be made again, in pieces.
        scratch: an empty file.
        n_bytes: of text of all documents, the known ones too.
        engine: runs the blocks.
        on_tokens: told the tokens finished, for progress.
        block_bytes: text of a block.
        range_bytes: text whose chunks are sorted at once.
    """
    ranges = SortedRanges(scratch, "chunk_id", max(1, -(-n_bytes // range_bytes)))
    for frame in known:
        ranges.add(frame)
    for frame in engine.map_blocks(tokenize, document_blocks(documents, block_bytes)):
        ranges.add(frame)
        if on_tokens is not None:
            on_tokens(int(frame["n_tokens"].sum()))
    yield from ranges.frames()
