"""Token n-grams of many chunks as flat arrays, and their hashes.

N-grams never cross the border of a chunk. Work goes chunk range by chunk range, so memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.errors import InputError

RANGE_TOKENS = 1_000_000
RANGE_CHUNKS = 8_192
"""Most tokens (unless one chunk has more) and chunks worked on at once."""


@dataclass(frozen=True)
class Chunks:
    """Token ids of n chunks: tokens (total,) int32; offsets (n + 1,) int64; chunk i ends at offsets[i + 1].

    Raises:
        InputError: offsets do not run from 0 to the number of tokens in steps of 0 or more, or an id is
        negative.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        steps = np.diff(self.offsets)
        if (
            len(self.offsets) == 0
            or self.offsets[0] != 0
            or self.offsets[-1] != len(self.tokens)
            or (steps < 0).any()
        ):
            raise InputError("chunk offsets must rise from 0 to the number of tokens")
        if len(self.tokens) and self.tokens.min() < 0:
            raise InputError("token ids must be 0 or more")

    @classmethod
    def of(cls, lists: Sequence[Sequence[int] | NDArray[np.integer[Any]]]) -> Chunks:
        """Return the chunks given as one sequence of token ids each."""
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        flat = (
            np.concatenate([np.asarray(ids, dtype=np.int32) for ids in lists])
            if lists
            else np.empty(0, np.int32)
        )
        return cls(flat, offsets)

    @property
    def n(self) -> int:
        """Number of chunks."""
        return len(self.offsets) - 1

    def lengths(self) -> NDArray[np.int64]:
        """Return (n,) tokens per chunk."""
        return np.diff(self.offsets)

    def ranges(self) -> Iterator[tuple[int, Chunks]]:
        """Yield (first chunk, chunks of the range) for consecutive ranges of bounded size."""
        start = 0
        while start < self.n:
            limit = self.offsets[start] + RANGE_TOKENS
            fitting = int(np.searchsorted(self.offsets, limit, side="right")) - 1
            end = min(max(start + 1, fitting), start + RANGE_CHUNKS)
            low, high = self.offsets[start], self.offsets[end]
            yield start, Chunks(self.tokens[low:high], self.offsets[start : end + 1] - low)
            start = end

    def unigrams(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (token, chunk) of every position."""
        return self.tokens.astype(np.int64), np.repeat(np.arange(self.n), self.lengths())

    def bigrams(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return (first token, second token, chunk) of every pair of neighbours within a chunk."""
        tokens, chunk = self.unigrams()
        inside = chunk[1:] == chunk[:-1]
        return tokens[:-1][inside], tokens[1:][inside], chunk[1:][inside]

    def hashed(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return (hash, chunk) of every unigram and bigram."""
        token, chunk = self.unigrams()
        first, second, pair_chunk = self.bigrams()
        return np.concatenate([hash_unigrams(token), hash_bigrams(first, second)]), np.concatenate(
            [chunk, pair_chunk]
        )


def hash_unigrams(token: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64-bit hashes of tokens."""
    return _mix(token.astype(np.uint64) + np.uint64(1))


def hash_bigrams(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64-bit hashes of pairs of tokens."""
    return _mix(
        ((first.astype(np.uint64) + np.uint64(1)) << np.uint64(32))
        | (second.astype(np.uint64) + np.uint64(1))
    )


def bucket(hashes: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """Return the bucket in [0, buckets) of every hash; the lowest bit is left to a sign."""
    return ((hashes >> np.uint64(1)) % np.uint64(buckets)).astype(np.int64)


def ngram_sums(chunks: Chunks, table: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return (n,) the sum of a table's weights over every chunk's unigrams and bigrams; table: (buckets,)."""
    total = np.zeros(chunks.n)
    for start, part in chunks.ranges():
        hashes, chunk = part.hashed()
        weights = table[bucket(hashes, len(table))]
        total[start : start + part.n] = np.bincount(chunk, weights, minlength=part.n)
    return total


def _mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit keys by the bijection that ends SplitMix64 (Steele, Lea & Flood 2014)."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
