"""Token n-grams of many chunks as flat arrays, and their hashes.

N-grams never cross the border of a chunk. Work goes chunk range by chunk range, so memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Ints, TokenLists
from grasp_pipeline.errors import InputError

RANGE_TOKENS = 1_000_000
RANGE_CHUNKS = 8_192
"""Most tokens (unless one chunk has more) and chunks worked on at once."""


def ranges(chunks: TokenLists) -> Iterator[tuple[int, TokenLists]]:
    """Yield (first chunk, chunks of the range) for consecutive ranges of bounded size.

    Raises:
        InputError: a token id is negative.
    """
    start = 0
    while start < chunks.n:
        limit = chunks.offsets[start] + RANGE_TOKENS
        fitting = int(np.searchsorted(chunks.offsets, limit, side="right")) - 1
        end = min(max(start + 1, fitting), start + RANGE_CHUNKS)
        low, high = chunks.offsets[start], chunks.offsets[end]
        tokens = chunks.tokens[low:high]
        if len(tokens) and tokens.min() < 0:
            raise InputError("token ids must be 0 or more")
        yield start, TokenLists(tokens, chunks.offsets[start : end + 1] - low)
        start = end


def unigrams(chunks: TokenLists) -> tuple[Ints, Ints]:
    """Return (token, chunk) of every position."""
    return chunks.tokens.astype(np.int64), np.repeat(np.arange(chunks.n), chunks.lengths)


def bigrams(chunks: TokenLists) -> tuple[Ints, Ints, Ints]:
    """Return (first token, second token, chunk) of every pair of neighbours within a chunk."""
    tokens, chunk = unigrams(chunks)
    inside = chunk[1:] == chunk[:-1]
    return tokens[:-1][inside], tokens[1:][inside], chunk[1:][inside]


def hashed(chunks: TokenLists) -> tuple[NDArray[np.uint64], Ints]:
    """Return (hash, chunk) of every unigram and bigram."""
    token, chunk = unigrams(chunks)
    first, second, pair_chunk = bigrams(chunks)
    hashes = np.concatenate([hash_unigrams(token), hash_bigrams(first, second)])
    return hashes, np.concatenate([chunk, pair_chunk])


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


def ngram_sums(chunks: TokenLists, table: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return (n,) the sum of a table's weights over every chunk's unigrams and bigrams; table: (buckets,)."""
    total = np.zeros(chunks.n)
    for start, part in ranges(chunks):
        hashes, chunk = hashed(part)
        weights = table[bucket(hashes, len(table))]
        total[start : start + part.n] = np.bincount(chunk, weights, minlength=part.n)
    return total


def _mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit keys by the bijection that ends SplitMix64 (Steele, Lea & Flood 2014)."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
