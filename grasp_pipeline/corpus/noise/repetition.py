"""Noise rule `repetition`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from grasp_pipeline.corpus.noise.rule import Rule
from grasp_pipeline.corpus.text_batch import SHINGLE_WORDS, TextBatch, repeated_share
from grasp_pipeline.corpus.words import hash_ngrams, hash_words
from grasp_pipeline.section import Section


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

    def suspects(self, batch: TextBatch) -> NDArray[np.bool_]:
        lines = np.fromiter(map(self.lines, batch.texts), dtype=np.float64, count=len(batch.texts))
        return np.maximum(lines, batch.repeated(self.limit)) > self.limit

    @staticmethod
    def lines(text: str) -> float:
        """Return the share of characters in repeated lines, blank lines aside."""
        lines = list(map(str.strip, text.split("\n")))
        total = sum(map(len, lines))
        return (total - sum(map(len, set(lines)))) / total if total else 0.0

    @staticmethod
    def ngrams(text: str) -> float:
        """Return the share of word characters covered by repeated word 5-grams."""
        words = hash_words([text])
        return repeated_share(hash_ngrams(words.hashes, SHINGLE_WORDS), words.lengths)
