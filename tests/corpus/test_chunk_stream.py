"""Chunks of a stream of documents are those of all documents at once, whatever the pieces, ranges and order."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import WORDS, toy_texts

from grasp_pipeline.corpus.chunk_stream import SortedRanges, Tokenize, chunk_stream
from grasp_pipeline.corpus.chunking import chunk_documents, document_blocks
from grasp_pipeline.corpus.normalize import document_id
from grasp_pipeline.corpus.tokenizer import first_documents, sample_texts, train_bpe
from grasp_pipeline.engine import SerialEngine
from grasp_pipeline.tables import DOCUMENTS, TOKENIZED_SHARDS

TEXTS = [text for source in WORDS for text in toy_texts(source, 8)]
ENCODER = train_bpe([text for source in WORDS for text in toy_texts(source, 20)], 300)


def documents_of(texts: list[str]) -> pl.DataFrame:
    """Every text once, and the second copies of those that come twice."""
    seen: dict[str, int] = {}
    rows = []
    for text in texts:
        digest = document_id(text)
        copy = seen[digest] = seen.get(digest, 0) + 1
        doc_id = digest if copy == 1 else f"{digest}:{copy}"
        rows.append((doc_id, text, "s", "shard-0000", len(text.encode()), "f#0", digest, copy == 1))
    return DOCUMENTS.conform(pl.DataFrame(rows, schema=DOCUMENTS.schema, orient="row"))


def pieces(frame: pl.DataFrame, cuts: list[int]) -> list[pl.DataFrame]:
    ends = [0, *sorted(min(cut, frame.height) for cut in cuts), frame.height]
    return [frame.slice(a, b - a) for a, b in pairwise(ends)]


class _Threads(SerialEngine):
    """Blocks are finished in any order."""

    def map_blocks(self, function, blocks):
        with ThreadPoolExecutor(3) as workers:
            yield from workers.map(function, blocks)


@given(
    st.lists(st.sampled_from([*TEXTS, "a", "é 😀"]), min_size=1, max_size=16),
    st.lists(st.integers(0, 16), max_size=4),
    st.sampled_from([1, 90, 10**6]),
    st.sampled_from([1, 40, 10**6]),
    st.integers(0, 16),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_blocks_ranges_workers_and_what_is_known_change_nothing(
    texts, cuts, block_bytes, range_bytes, known, draw
) -> None:
    documents = documents_of(texts)
    whole = chunk_documents(documents, ENCODER, 16)
    order = list(range(documents.height))
    draw.shuffle(order)
    shuffled = documents[order]
    old, new = shuffled.head(known), shuffled.slice(known)
    with tempfile.TemporaryFile() as scratch:
        made = chunk_stream(
            pieces(new, cuts),
            Tokenize.of(ENCODER, 16),
            pieces(chunk_documents(old, ENCODER, 16)[::-1], cuts),
            scratch,
            int(documents["n_bytes"].sum()),
            _Threads(),
            block_bytes=block_bytes,
            range_bytes=range_bytes,
        )
        frames = list(made)
    assert pl.concat(frames).equals(whole)
    assert all(frame.schema == TOKENIZED_SHARDS.schema for frame in frames)
    if range_bytes == 1 and documents["cluster"].n_unique() > 8:
        assert len(frames) > 1


def test_blocks_end_with_the_document_that_fills_them() -> None:
    documents = documents_of(["aa", "bbb", "c", "dddd", "e"])
    blocks = [frame["n_bytes"].to_list() for frame in document_blocks(pieces(documents, [1, 4]), 4)]
    assert blocks == [[2, 3], [1, 4], [1]]
    assert list(document_blocks([], 4)) == []


def test_ranges_join_to_all_rows_in_order() -> None:
    ids = sorted(document_id(str(number))[:24] + "-0" for number in range(200))
    frame = pl.DataFrame({"chunk_id": ids, "n": range(200)}).sample(fraction=1, shuffle=True, seed=1)
    with tempfile.TemporaryFile() as file:
        ranges = SortedRanges(file, "chunk_id", 7)
        for part in frame.iter_slices(31):
            ranges.add(part)
        parts = list(ranges.frames())
    assert len(parts) == 7
    assert max(part.height for part in parts) < 60
    assert pl.concat(parts).equals(frame.sort("chunk_id"))


def test_the_first_documents_are_those_that_the_sample_takes() -> None:
    documents = documents_of([*TEXTS, TEXTS[0], TEXTS[1]])
    for size in (1, 500, 3_000, 10**9):
        few = first_documents(documents.lazy(), size)
        assert sample_texts(few, size) == sample_texts(documents, size)
        assert few.height <= len(sample_texts(documents, size)) + 2
