"""Near-duplicate clusters: MinHash candidates (rensa), exact Jaccard similarity, the first to arrive
survives.

The similarity of two documents is the Jaccard index |A & B| / |A | B| of their sets of word 5-grams
(`words.py`). A document of fewer than five words has one shingle: all its words, or without words its text.

In order of arrival a document joins the first survivor whose similarity reaches the threshold, else it
survives itself. So every member is really similar to its survivor (connected components chain: on manual
pages they tied documents of similarity 0.2 together), and documents that arrive later change nothing for
earlier ones.

Digests of `PERMUTATIONS` slots only propose pairs; the exact similarity decides. A pair at the threshold is
proposed with probability `RECALL` or more, a pair above it with a higher one (s-curve of banding: Leskovec et
al., "Mining of Massive Datasets", 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.corpus.words import Hashes, Integers, hash_ngrams, hash_text, hash_words, mix
from grasp_pipeline.progress import Listener, Progress, silent

SHINGLE_WORDS = 5
PERMUTATIONS = 128
RECALL = 0.995
SEED = 20260606
_ESTIMATE_MARGIN = 0.2  # over four standard deviations of a 128-slot estimate, at any similarity
_BATCH_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Clusters:
    """Near-duplicate clusters of n documents.

    Attributes:
        survivor: (n,) index of the survivor of each document's cluster; its own index for survivors.
        similarity: (n,) exact Jaccard similarity with that survivor, 1 for survivors.
    """

    survivor: Integers
    similarity: NDArray[np.float64]


def near_duplicate_clusters(texts: Sequence[str], threshold: float, listener: Listener = silent) -> Clusters:
    """Cluster documents around survivors.

    Args:
        texts: normalised documents in order of arrival.
        threshold: smallest Jaccard similarity, in (0, 1], of a member with its survivor.
        listener: told the progress.
    """
    digests = minhash_digests(texts, listener)
    pairs = _Pairs(texts, digests, threshold)
    survivor = np.arange(len(texts))
    similarity = np.ones(len(texts))
    keys = _band_keys(digests, *bands_for(threshold))
    shared = _shared(keys)
    buckets: dict[int, list[int]] = {}  # band key -> survivors that have it
    for index in np.flatnonzero(shared.any(axis=1)).tolist():
        places = keys[index, shared[index]].tolist()
        proposed = {other for place in places for other in buckets.get(place, ())}
        for other in pairs.plausible(index, sorted(proposed)):
            value = pairs.similarity(other, index)
            if value >= threshold:
                survivor[index], similarity[index] = other, value
                break
        else:
            for place in places:
                buckets.setdefault(place, []).append(index)
    return Clusters(survivor, similarity)


def shingles(texts: Sequence[str]) -> tuple[Hashes, Integers]:
    """Return the shingles of every document, one after the other, and their offsets (n + 1,)."""
    words = hash_words(texts)
    windows = hash_ngrams(words.hashes, SHINGLE_WORDS)
    counts = np.diff(words.offsets)
    parts = []
    for index, (start, count) in enumerate(zip(words.offsets[:-1].tolist(), counts.tolist(), strict=True)):
        if count >= SHINGLE_WORDS:
            parts.append(windows[start : start + count - SHINGLE_WORDS + 1])
        elif count:
            parts.append(hash_ngrams(words.hashes[start : start + count], count))
        else:
            parts.append(np.array([hash_text(texts[index])], dtype=np.uint64))
    sizes = [len(part) for part in parts]
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def minhash_digests(texts: Sequence[str], listener: Listener = silent) -> NDArray[np.uint32]:
    """Return the MinHash digests of documents, (n, PERMUTATIONS); each depends on its own document alone."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    progress = Progress("near-duplicates", sum(map(len, texts)), "characters", listener)
    rows = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    for start, stop in _batches(texts):
        hashes, offsets = shingles(texts[start:stop])
        digests = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets.astype(np.uint64), num_perm=PERMUTATIONS, seed=SEED
        )
        rows[start:stop] = digests.to_rows()
        progress.advance(sum(map(len, texts[start:stop])))
    return rows


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, rows per band): the longest bands that propose a pair at the threshold with RECALL."""
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start, characters = 0, 0
    for index, text in enumerate(texts):
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield start, index + 1
            start, characters = index + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _band_keys(digests: NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    """Return one hash per document and band, (n, bands); equal where all slots of the same band are equal."""
    keys = np.tile(mix(np.arange(bands, dtype=np.uint64)), (len(digests), 1))
    for column in range(rows):
        keys = mix(keys ^ digests[:, column : bands * rows : rows].astype(np.uint64))
    return keys


def _shared(keys: Hashes) -> NDArray[np.bool_]:
    """Return which keys another document has too, (n, bands): the others can propose no pair."""
    shared = np.zeros(keys.shape, dtype=bool)
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band])
        equal = keys[order[1:], band] == keys[order[:-1], band]
        shared[order[1:], band] |= equal
        shared[order[:-1], band] |= equal
    return shared


class _Pairs:
    """Similarities of proposed pairs; keeps the shingle sets of proposed documents."""

    def __init__(self, texts: Sequence[str], digests: NDArray[np.uint32], threshold: float) -> None:
        self._texts, self._digests, self._threshold = texts, digests, threshold
        self._sets: dict[int, Hashes] = {}

    def plausible(self, index: int, others: list[int]) -> list[int]:
        """Return those whose estimated similarity is not far below the threshold."""
        agreement = (self._digests[others] == self._digests[index]).mean(axis=1)
        close = agreement >= self._threshold - _ESTIMATE_MARGIN
        return [other for other, keep in zip(others, close.tolist(), strict=True) if keep]

    def similarity(self, one: int, other: int) -> float:
        """Return the exact Jaccard similarity of two documents."""
        left, right = self._set(one), self._set(other)
        shared = len(np.intersect1d(left, right, assume_unique=True))
        return shared / (len(left) + len(right) - shared)

    def _set(self, index: int) -> Hashes:
        if index not in self._sets:
            self._sets[index] = np.unique(shingles([self._texts[index]])[0])
        return self._sets[index]


def repeat_groups(clusters: NDArray[Any], positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return (n,) labels equal for chunks at one position of near-duplicate documents.

    clusters: (n,) near-duplicate cluster of a chunk's document; positions: (n,) place of the chunk in its
    document.
    """
    codes = np.unique(clusters, return_inverse=True)[1].ravel().astype(np.int64)
    return codes * (int(positions.max(initial=0)) + 1) + positions.astype(np.int64)
