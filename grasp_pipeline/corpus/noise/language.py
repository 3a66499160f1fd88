"""Noise rule `language`: identification with py3langid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import Field

from grasp_pipeline.corpus.noise.rule import Rejection, Rule
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.section import Section

_CHARACTERS = 1_000  # enough to be sure of a language, and a bound on the time per document


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class LanguageSettings(Section):
    """What `language` keeps."""

    languages: list[str] = Field(
        default=[],
        description="ISO 639-1 codes to keep, identified with py3langid; empty keeps all languages.",
    )


@dataclass(frozen=True)
class Language(Rule):
    """Probability that the text is in one of the languages to keep; below one half it is rejected.

    Judged by 1,000 characters from the middle of the text, so that a foreign header does not decide.
    """

    languages: frozenset[str] = frozenset()
    name = "language"
    measures = "probability of the languages kept"
    meaning = "Not in a language that is kept."
    Settings = LanguageSettings
    rejects_below = True
    fixed = False

    @classmethod
    def of(cls, settings: LanguageSettings) -> Language | None:
        """Return the rule that keeps the languages, or None where all are kept; errors as in `keeping`."""
        return cls.keeping(settings.languages) if settings.languages else None

    @classmethod
    def keeping(cls, languages: Sequence[str]) -> Language:
        """Return the rule that keeps languages.

        Raises:
            ConfigError: a code is not one that py3langid knows.
        """
        known = set(_identifier().labels)
        unknown = sorted(set(languages) - known)
        if unknown:
            raise ConfigError(
                f"languages names {', '.join(map(repr, unknown))}, which py3langid does not identify; "
                f"use ISO 639-1 codes out of {', '.join(sorted(known))}."
            )
        return cls(0.5, frozenset(languages))

    def measure(self, text: str) -> float:
        return float(
            sum(probability for language, probability in self._rank(text) if language in self.languages)
        )

    def check(self, text: str) -> Rejection | None:
        rejection = super().check(text)
        if rejection is None:
            return None
        best = self._rank(text)[0][0]
        return Rejection(rejection.reason, rejection.value, f"identified as {best}; {rejection.detail}")

    @staticmethod
    def _rank(text: str) -> list[tuple[str, float]]:
        start = max(0, (len(text) - _CHARACTERS) // 2)
        return _identifier().rank(text[start : start + _CHARACTERS])
