"""Some texts that several rules measure together: what the rules share is computed once."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.corpus.words import (
    SYMBOL,
    Hashes,
    Integers,
    Words,
    character_kinds,
    code_points,
    hash_ngrams,
    hash_words,
)

SHINGLE_WORDS = 5
"""Words of the n-grams by which repetition and near duplicates are judged."""

_BATCH_CHARACTERS = 500_000


def compression_ratio(text: str) -> float:
    """Return zlib size over text size in bytes; 1 for the empty text."""
    data = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(data)) / len(data) if data else 1.0


class TextBatch:
    """Texts and what is measured of them, each measure at the first question and of its own text alone."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    @cached_property
    def characters(self) -> Integers:
        """(n,) characters of each text."""
        return np.fromiter(map(len, self.texts), dtype=np.int64, count=len(self.texts))

    @cached_property
    def n_bytes(self) -> Integers:
        """(n,) bytes of each text in UTF-8."""
        sizes = (
            len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in self.texts
        )
        return np.fromiter(sizes, dtype=np.int64, count=len(self.texts))

    @cached_property
    def symbols(self) -> Integers:
        """(n,) characters of each text that are neither letters, marks, digits nor white space."""
        is_symbol = character_kinds()[code_points("\n".join(self.texts))] == SYMBOL
        ends = np.cumsum(self.characters + 1) - 1  # the separators between the texts are no symbols
        before = np.concatenate([[0], np.cumsum(is_symbol, dtype=np.int64)])
        return before[ends] - before[ends - self.characters]

    @cached_property
    def compression(self) -> NDArray[np.float64]:
        """(n,) zlib size over size in bytes."""
        return np.fromiter(map(compression_ratio, self.texts), dtype=np.float64, count=len(self.texts))

    @cached_property
    def words(self) -> Words:
        """The words of the texts, one text after the other."""
        return hash_words(self.texts)

    @cached_property
    def windows(self) -> Hashes:
        """Hashes of all windows of SHINGLE_WORDS words; those at the end of a text reach beyond it."""
        return hash_ngrams(self.words.hashes, SHINGLE_WORDS)

    def repeated(self, beyond: float) -> NDArray[np.float64]:
        """Return (n,) the share of word characters that repeated windows cover; 0 where it cannot be above `beyond`."""
        shares = np.zeros(len(self.texts))
        for index, (start, stop) in enumerate(pairwise(self.words.offsets.tolist())):
            lengths = self.words.lengths[start:stop]
            windows = self.windows[start : max(start, stop - SHINGLE_WORDS + 1)]
            ranked = np.sort(windows)
            covered = SHINGLE_WORDS * int(np.count_nonzero(ranked[1:] == ranked[:-1]))
            if 0 < covered < len(lengths):  # no more than this many words, and those the longest
                most = int(np.partition(lengths, -covered)[-covered:].sum())
                covered = 0 if most <= beyond * int(lengths.sum()) - 1 else covered
            if covered:
                shares[index] = repeated_share(windows, lengths)
        return shares


def repeated_share(windows: Hashes, lengths: Integers) -> float:
    """Return the share of a text's word characters in windows that occurred before.

    windows: (n_words - SHINGLE_WORDS + 1,) hashes; lengths: (n_words,) characters of the words.
    """
    repeated = np.ones(len(windows), dtype=bool)
    repeated[np.unique(windows, return_index=True)[1]] = False
    if not repeated.any():
        return 0.0
    covered = np.zeros(len(lengths), dtype=bool)
    for place in range(SHINGLE_WORDS):
        covered[place : place + len(windows)] |= repeated
    return float(lengths[covered].sum() / lengths.sum())


def batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of texts of some 500,000 characters that tile the sequence."""
    start, characters = 0, 0
    for index, text in enumerate(texts):
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield start, index + 1
            start, characters = index + 1, 0
    if start < len(texts):
        yield start, len(texts)
