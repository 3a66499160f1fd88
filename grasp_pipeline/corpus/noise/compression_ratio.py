"""Noise rules `low_compression_ratio` and `high_compression_ratio`: two sides of one measure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from grasp_pipeline.corpus.noise.rule import Rule
from grasp_pipeline.corpus.text_batch import TextBatch, compression_ratio
from grasp_pipeline.section import Section

_LONG_BYTES = 1_000


class LowCompressionSettings(Section):
    """Limit of `low_compression_ratio`."""

    min_compression_ratio: float = Field(
        default=0.08,
        ge=0,
        lt=1,
        description="Smallest zlib size over text size: lower means the text repeats itself.",
    )


class LowCompressionRatio(Rule):
    """zlib size over size: low when the text says the same again and again."""

    name = "low_compression_ratio"
    measures = "compression ratio"
    meaning = "Compresses too well: the text repeats itself."
    Settings = LowCompressionSettings
    rejects_below = True

    def measure(self, text: str) -> float:
        return compression_ratio(text)

    def suspects(self, batch: TextBatch) -> NDArray[np.bool_]:
        return batch.compression < self.limit


class HighCompressionSettings(Section):
    """Limit of `high_compression_ratio`."""

    max_compression_ratio: float = Field(
        default=0.95,
        gt=0,
        description="Largest zlib size over text size for texts above 1,000 bytes: higher means "
        "random bytes or encoded data.",
    )


class HighCompressionRatio(Rule):
    """zlib size over size of texts above 1,000 bytes: high for random or encoded data.

    Shorter texts measure 0: zlib has too little to work on, and real ones look random to it.
    """

    name = "high_compression_ratio"
    measures = "compression ratio"
    meaning = "Hardly compresses: random or encoded data."
    Settings = HighCompressionSettings

    def measure(self, text: str) -> float:
        return compression_ratio(text) if len(text.encode("utf-8", "surrogatepass")) > _LONG_BYTES else 0.0

    def suspects(self, batch: TextBatch) -> NDArray[np.bool_]:
        return (batch.compression > self.limit) & (batch.n_bytes > _LONG_BYTES)
