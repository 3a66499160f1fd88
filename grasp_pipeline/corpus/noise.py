"""Noise rules: each measures one property of one text and rejects it beyond a limit, with the value."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.words import SYMBOL, character_kinds, code_points, hash_ngrams, hash_words

_NGRAM_WORDS = 5
_LONG_BYTES = 1_000


@dataclass(frozen=True)
class Rejection:
    """Why a text is left out: the rule's name, the measured value, and a sentence without any of the text."""

    reason: str
    value: float
    detail: str


@dataclass(frozen=True)
class Rule(ABC):
    """One noise rule.

    Attributes:
        limit: largest value that is kept; the smallest where `rejects_below`.
        name: the reason that a rejection gives.
        measures: the value in words.
        rejects_below: whether values below the limit are rejected, not those above.
    """

    limit: float
    name: ClassVar[str]
    measures: ClassVar[str]
    rejects_below: ClassVar[bool] = False

    @abstractmethod
    def measure(self, text: str) -> float:
        """Return the value that is compared with the limit."""

    def check(self, text: str) -> Rejection | None:
        """Return why the rule rejects the text, or None."""
        value = self.measure(text)
        if not (value < self.limit if self.rejects_below else value > self.limit):
            return None
        side = "below" if self.rejects_below else "above"
        return Rejection(self.name, value, f"{self.measures} {value:.4g} is {side} {self.limit:g}")


class TooShort(Rule):
    """Characters."""

    name = "too_short"
    measures = "number of characters"
    rejects_below = True

    def measure(self, text: str) -> float:
        return float(len(text))


class SymbolRatio(Rule):
    """Share of the characters that are neither letters, combining marks, digits nor white space."""

    name = "symbol_ratio"
    measures = "share of symbols"

    def measure(self, text: str) -> float:
        return float((character_kinds()[code_points(text)] == SYMBOL).mean()) if text else 0.0


class Repetition(Rule):
    """Share of the text that repeats itself, after Rae et al. 2021 ("Gopher"), table A1.

    The larger of two shares: characters in lines that occurred before, of the characters in all lines; and
    characters in words covered by a word 5-gram that occurred before, of the characters in all words.
    """

    name = "repetition"
    measures = "share of repeated text"

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


def compression_ratio(text: str) -> float:
    """Return zlib size over text size in bytes; 1 for the empty text."""
    data = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(data)) / len(data) if data else 1.0


class LowCompressionRatio(Rule):
    """zlib size over size: low when the text says the same again and again."""

    name = "low_compression_ratio"
    measures = "compression ratio"
    rejects_below = True

    def measure(self, text: str) -> float:
        return compression_ratio(text)


class HighCompressionRatio(Rule):
    """zlib size over size of texts above 1,000 bytes: high for random or encoded data.

    Shorter texts measure 0: zlib has too little to work on, and real ones look random to it.
    """

    name = "high_compression_ratio"
    measures = "compression ratio"

    def measure(self, text: str) -> float:
        return compression_ratio(text) if len(text.encode("utf-8", "surrogatepass")) > _LONG_BYTES else 0.0


def noise_rules(config: CleaningConfig) -> tuple[Rule, ...]:
    """Return the rules that a configuration asks for, cheap ones first.

    Raises:
        ConfigError: a language code is unknown.
    """
    rules: list[Rule] = []
    if config.noise_rules:
        rules = [
            TooShort(config.min_characters),
            SymbolRatio(config.max_symbol_ratio),
            LowCompressionRatio(config.min_compression_ratio),
            HighCompressionRatio(config.max_compression_ratio),
            Repetition(config.max_repetition),
        ]
    if config.languages:
        from grasp_pipeline.corpus.language import Language

        rules.append(Language.keeping(config.languages))
    return tuple(rules)


def first_rejection(text: str, rules: Iterable[Rule]) -> Rejection | None:
    """Return the first rule's rejection of a text, or None when all keep it."""
    return next(filter(None, (rule.check(text) for rule in rules)), None)
