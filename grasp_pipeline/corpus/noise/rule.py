"""A noise rule: it measures one property of one text and rejects it beyond a limit, with the value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.corpus.text_batch import TextBatch
from grasp_pipeline.section import Section


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
        measures: the value in words; meaning: the rejection, for the report.
        Settings: the fields of the run configuration that it depends on, by default its limit alone.
        fixed: whether the switch `noise_rules` is for it; other rules stand by their own settings.
        rejects_below: whether values below the limit are rejected, not those above.
    """

    limit: float
    name: ClassVar[str]
    measures: ClassVar[str]
    meaning: ClassVar[str]
    Settings: ClassVar[type[Section]]
    fixed: ClassVar[bool] = True
    rejects_below: ClassVar[bool] = False

    @classmethod
    def of(cls, settings: Any) -> Rule | None:
        """Return the rule that settings of its class ask for; None where they ask for none."""
        (limit,) = settings.model_dump().values()
        return cls(limit)

    @abstractmethod
    def measure(self, text: str) -> float:
        """Return the value that is compared with the limit."""

    def suspects(self, batch: TextBatch) -> NDArray[np.bool_]:
        """Return (n,) which texts of a batch `check` may reject: all of those that it does, and few others.

        A rule that can tell it from what the batch measures once for all rules need not look at every text.
        """
        return np.ones(len(batch.texts), dtype=bool)

    def check(self, text: str) -> Rejection | None:
        """Return why the rule rejects the text, or None."""
        value = self.measure(text)
        if not (value < self.limit if self.rejects_below else value > self.limit):
            return None
        side = "below" if self.rejects_below else "above"
        return Rejection(self.name, value, f"{self.measures} {value:.4g} is {side} {self.limit:g}")
