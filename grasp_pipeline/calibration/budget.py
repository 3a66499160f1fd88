"""The token budget, given as a count of tokens or documents, or as a share of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grasp_pipeline.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """What is to be kept: of `tokens`, `documents` and `fraction` the first that is above 0."""

    tokens: int = 0
    documents: int = 0
    fraction: float = 0.0

    @classmethod
    def of(cls, protocol: Mapping[str, Any]) -> Budget:
        """Return the budget of a row of `candidates`."""
        return cls(protocol["budget_tokens"], protocol["budget_documents"], protocol["budget_fraction"])

    def resolve(self, tokens: int, documents: int) -> int:
        """Return the budget in tokens for a corpus of so many tokens and documents.

        A number of documents stands for as many tokens as that many hold on average.

        Raises:
            ConfigError: the budget is 0 or larger than the corpus.
        """
        if not self.tokens and self.documents > documents:
            raise ConfigError(
                f"the budget of {self.documents:,} documents is above the corpus's {documents:,}; lower "
                "candidates.budget_documents"
            )
        budget = self.tokens or (
            self.documents * tokens // documents if self.documents else int(self.fraction * tokens)
        )
        if budget <= 0:
            raise ConfigError(
                f"the budget is {budget} tokens of a corpus of {tokens:,}; raise candidates.budget_fraction or "
                "candidates.budget_tokens"
            )
        if budget > tokens:
            raise ConfigError(
                f"the budget of {budget:,} tokens is above the corpus's {tokens:,}; lower candidates.budget_tokens"
            )
        return budget
