"""Noise rule `too_short`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from grasp_pipeline.corpus.noise.rule import Rule
from grasp_pipeline.corpus.text_batch import TextBatch
from grasp_pipeline.section import Section


class TooShortSettings(Section):
    """Limit of `too_short`."""

    min_characters: int = Field(default=50, ge=0, description="Shorter documents are rejected (`too_short`).")


class TooShort(Rule):
    """Characters."""

    name = "too_short"
    measures = "number of characters"
    meaning = "Fewer characters than the limit."
    Settings = TooShortSettings
    rejects_below = True

    def measure(self, text: str) -> float:
        return float(len(text))

    def suspects(self, batch: TextBatch) -> NDArray[np.bool_]:
        return batch.characters < self.limit
