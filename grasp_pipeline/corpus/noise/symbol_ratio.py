"""Noise rule `symbol_ratio`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from grasp_pipeline.corpus.noise.rule import Rule
from grasp_pipeline.corpus.text_batch import TextBatch
from grasp_pipeline.corpus.words import SYMBOL, character_kinds, code_points
from grasp_pipeline.section import Section


class SymbolRatioSettings(Section):
    """Limit of `symbol_ratio`."""

    max_symbol_ratio: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Largest share of characters that are neither letters, digits nor space.",
    )


class SymbolRatio(Rule):
    """Share of the characters that are neither letters, combining marks, digits nor white space."""

    name = "symbol_ratio"
    measures = "share of symbols"
    meaning = "Too large a share of symbols."
    Settings = SymbolRatioSettings

    def measure(self, text: str) -> float:
        return float((character_kinds()[code_points(text)] == SYMBOL).mean()) if text else 0.0

    def suspects(self, batch: TextBatch) -> NDArray[np.bool_]:
        return batch.symbols > self.limit * batch.characters - 1
