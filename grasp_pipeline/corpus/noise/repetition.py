"""Noise rule `repetition`."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from grasp_pipeline.corpus.noise.rule import Rule
from grasp_pipeline.corpus.words import hash_ngrams, hash_words
from grasp_pipeline.section import Section

_NGRAM_WORDS = 5


class RepetitionSettings(Section):
    """Limit of `repetition`."""

    max_repetition: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Largest share of characters in repeated lines or repeated word 5-grams.",
    )


class Repetition(Rule):
    """Share of the text that repeats itself, after Rae et al. 2021 ("Gopher"), table A1.

    The larger of two shares: characters in lines that occurred before, of the characters in all lines; and
    characters in words covered by a word 5-gram that occurred before, of the characters in all words.
    """

    name = "repetition"
    measures = "share of repeated text"
    meaning = "Too large a share of repeated lines or word 5-grams."
    Settings = RepetitionSettings

    def measure(self, text: str) -> float:
        return max(self.lines(text), self.ngrams(text))

    @staticmethod
    def lines(text: str) -> float:
        """Return the share of characters in repeated lines, blank lines aside."""
        seen: set[str] = set()
        repeated = total = 0
        for line in filter(None, map(str.strip, text.split("\n"))):
            total += len(line)
            if line in seen:
                repeated += len(line)
            seen.add(line)
        return repeated / total if total else 0.0

    @staticmethod
    def ngrams(text: str) -> float:
        """Return the share of word characters covered by repeated word 5-grams."""
        words = hash_words([text])
        windows = hash_ngrams(words.hashes, _NGRAM_WORDS)
        repeated = np.ones(len(windows), dtype=bool)
        repeated[np.unique(windows, return_index=True)[1]] = False
        if not repeated.any():
            return 0.0
        covered = np.zeros(len(words.hashes), dtype=bool)
        for place in range(_NGRAM_WORDS):
            covered[place : place + len(windows)] |= repeated
        return float(words.lengths[covered].sum() / words.lengths.sum())
