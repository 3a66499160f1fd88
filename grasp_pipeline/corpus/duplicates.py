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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.corpus.text_batch import SHINGLE_WORDS, TextBatch, batches
from grasp_pipeline.corpus.words import Hashes, Integers, hash_ngrams, hash_text, mix

PERMUTATIONS = 128
RECALL = 0.995
SEED = 20260606
_SETS = 1_024
_ESTIMATE_MARGIN = 0.2  # over four standard deviations of a 128-slot estimate, at any similarity


@dataclass(frozen=True)
class Clusters:
    """Near-duplicate clusters of n documents.

    Attributes:
        survivor: (n,) index of the survivor of each document's cluster; its own index for survivors.
        similarity: (n,) exact Jaccard similarity with that survivor, 1 for survivors.
    """

    survivor: Integers
    similarity: NDArray[np.float64]


def near_duplicate_clusters(texts: Sequence[str], threshold: float) -> Clusters:
    """Cluster documents around survivors; everything in memory.

    Args:
        texts: normalised documents in order of arrival.
        threshold: smallest Jaccard similarity, in (0, 1], of a member with its survivor.
    """
    parts = [minhash_digests(TextBatch(texts[start:stop])) for start, stop in batches(texts)]
    digests = np.concatenate([np.empty((0, PERMUTATIONS), dtype=np.uint32), *parts])
    keys = band_keys(digests, *bands_for(threshold))
    pairs = Pairs(lambda index: texts[index], lambda index: digests[index], threshold)
    return cluster_documents(keys, np.ones(len(texts), dtype=bool), pairs)


def cluster_documents(bands: Iterable[Hashes], taking_part: NDArray[np.bool_], pairs: Pairs) -> Clusters:
    """Cluster documents around survivors by the keys of their bands; one band's keys are held at a time.

    Memory: 32 bytes a document, and some 40 for each band of a document whose key another one has too.

    Args:
        bands: (n,) keys of every document in order of arrival, for one band after the other.
        taking_part: (n,) which documents are compared; the others are their own survivors.
        pairs: the similarities.
    """
    n = len(taking_part)
    survivor, similarity = np.arange(n), np.ones(n)
    members, codes, first_of_band = [], [], 0
    for keys in bands:
        taking = np.flatnonzero(taking_part)
        order = np.argsort(keys[taking], kind="stable")
        ranked = keys[taking][order]
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(taking) else order
        sizes = np.diff(np.append(starts, len(ranked)))
        code = np.repeat(np.arange(len(starts)), sizes)
        shared = np.repeat(sizes > 1, sizes)
        members.append(taking[order[shared]])
        codes.append(np.unique(code[shared], return_inverse=True)[1] + first_of_band)
        first_of_band += int(np.count_nonzero(sizes > 1))
    if not first_of_band:
        return Clusters(survivor, similarity)
    member, code = np.concatenate(members), np.concatenate(codes)
    del members, codes
    order = np.argsort(member, kind="stable")
    member, code = member[order], code[order]
    # The survivors of a bucket are a chain from the last to the first: head of the bucket, link from each to the one
    # before it.
    heads, holder, link = (
        np.full(first_of_band, -1),
        np.empty(len(code), dtype=np.int64),
        np.empty(len(code), int),
    )
    stops = np.append(np.flatnonzero(np.diff(member)) + 1, len(member))
    start = 0
    for stop in stops.tolist():
        index = int(member[start])
        proposed: set[int] = set()
        for place in heads[code[start:stop]].tolist():
            while place >= 0:
                proposed.add(int(holder[place]))
                place = int(link[place])
        for other in pairs.plausible(index, sorted(proposed)):
            value = pairs.similarity(other, index)
            if value >= pairs.threshold:
                survivor[index], similarity[index] = other, value
                break
        else:
            holder[start:stop] = index
            link[start:stop] = heads[code[start:stop]]
            heads[code[start:stop]] = np.arange(start, stop)
        start = stop
    return Clusters(survivor, similarity)


def shingles(batch: TextBatch) -> tuple[Hashes, Integers]:
    """Return the shingles of every document, one after the other, and their offsets (n + 1,)."""
    words = batch.words
    counts = np.diff(words.offsets)
    parts = []
    for index, (start, count) in enumerate(zip(words.offsets[:-1].tolist(), counts.tolist(), strict=True)):
        if count >= SHINGLE_WORDS:
            parts.append(batch.windows[start : start + count - SHINGLE_WORDS + 1])
        elif count:
            parts.append(hash_ngrams(words.hashes[start : start + count], count))
        else:
            parts.append(np.array([hash_text(batch.texts[index])], dtype=np.uint64))
    sizes = [len(part) for part in parts]
    flat = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
    return flat, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def minhash_digests(batch: TextBatch) -> NDArray[np.uint32]:
    """Return the MinHash digests of documents, (n, PERMUTATIONS); each depends on its own document alone."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    hashes, offsets = shingles(batch)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), num_perm=PERMUTATIONS, seed=SEED
    )
    return np.asarray(digests.to_rows(), dtype=np.uint32).reshape(-1, PERMUTATIONS)


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, rows per band): the longest bands that propose a pair at the threshold with RECALL."""
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def band_keys(digests: NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    """Return one hash per band and document, (bands, n); equal where all slots of the same band are equal."""
    keys = np.tile(mix(np.arange(bands, dtype=np.uint64))[:, None], (1, len(digests)))
    for column in range(rows):
        keys = mix(keys ^ digests[:, column : bands * rows : rows].T.astype(np.uint64))
    return keys


class Pairs:
    """Similarities of proposed pairs; keeps the shingle sets of documents that were compared last.

    Args:
        text: gives the text of a document.
        digest: gives its MinHash digest, (PERMUTATIONS,).
        threshold: smallest similarity of a member with its survivor.
    """

    def __init__(
        self, text: Callable[[int], str], digest: Callable[[int], NDArray[np.uint32]], threshold: float
    ) -> None:
        self._text, self._digest, self.threshold = text, digest, threshold
        self._set = lru_cache(_SETS)(self._made)

    def plausible(self, index: int, others: list[int]) -> list[int]:
        """Return those whose estimated similarity is not far below the threshold."""
        if not others:
            return []
        agreement = (np.stack([self._digest(other) for other in others]) == self._digest(index)).mean(axis=1)
        close = agreement >= self.threshold - _ESTIMATE_MARGIN
        return [other for other, keep in zip(others, close.tolist(), strict=True) if keep]

    def similarity(self, one: int, other: int) -> float:
        """Return the exact Jaccard similarity of two documents."""
        left, right = self._set(one), self._set(other)
        shared = len(np.intersect1d(left, right, assume_unique=True))
        return shared / (len(left) + len(right) - shared)

    def _made(self, index: int) -> Hashes:
        return np.unique(shingles(TextBatch([self._text(index)]))[0])


def repeat_groups(clusters: NDArray[Any], positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return (n,) labels equal for chunks at one position of near-duplicate documents.

    clusters: (n,) near-duplicate cluster of a chunk's document; positions: (n,) place of the chunk in its
    document.
    """
    codes = np.unique(clusters, return_inverse=True)[1].ravel().astype(np.int64)
    return codes * (int(positions.max(initial=0)) + 1) + positions.astype(np.int64)
