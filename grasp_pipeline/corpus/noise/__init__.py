"""The noise rules. A new one is a file here and a place in `RULES`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import Field

from grasp_pipeline.corpus.noise.compression_ratio import HighCompressionRatio, LowCompressionRatio
from grasp_pipeline.corpus.noise.language import Language
from grasp_pipeline.corpus.noise.repetition import Repetition
from grasp_pipeline.corpus.noise.rule import Rejection, Rule
from grasp_pipeline.corpus.noise.symbol_ratio import SymbolRatio
from grasp_pipeline.corpus.noise.too_short import TooShort
from grasp_pipeline.corpus.text_batch import TextBatch
from grasp_pipeline.registry import Registry
from grasp_pipeline.section import Section, all_of, part_of

RULES: Registry[type[Rule]] = Registry(
    "noise rule",
    (TooShort, SymbolRatio, LowCompressionRatio, HighCompressionRatio, Repetition, Language),
)
"""Every rule, cheap ones first: a text is rejected by the first that rejects it."""


class _Switch(Section):
    noise_rules: bool = Field(
        default=True, description="Apply the fixed noise rules (length, symbols, repetition...)."
    )


class NoiseConfig(all_of(rule.Settings for rule in RULES), _Switch):
    """Which noise rules apply, and their limits."""


def noise_rules(config: NoiseConfig) -> tuple[Rule, ...]:
    """Return the rules that a configuration asks for, in order.

    Raises:
        ConfigError: a language code is unknown.
    """
    asked = (each for each in RULES if config.noise_rules or not each.fixed)
    return tuple(filter(None, (each.of(part_of(config, each.Settings)) for each in asked)))


def first_rejection(text: str, rules: Iterable[Rule]) -> Rejection | None:
    """Return the first rule's rejection of a text, or None when all keep it."""
    return next(filter(None, (rule.check(text) for rule in rules)), None)


def rejections(batch: TextBatch, rules: Sequence[Rule]) -> dict[int, Rejection]:
    """Return the first rule's rejection of every text of a batch that is rejected: as `first_rejection` has it."""
    suspected = np.zeros(len(batch.texts), dtype=bool)
    for rule in rules:
        suspected |= rule.suspects(batch)
    found = {
        index: first_rejection(batch.texts[index], rules) for index in np.flatnonzero(suspected).tolist()
    }
    return {index: rejection for index, rejection in found.items() if rejection is not None}
