"""What a family of arms ranks by, where that is not one direction: a name and a value per chunk."""

from __future__ import annotations

from dataclasses import dataclass

from grasp_pipeline.arrays import Floats
from grasp_pipeline.selection.candidates.arms import group_worth, nearness_to_median
from grasp_pipeline.selection.candidates.context import SelectionContext


@dataclass(frozen=True, eq=False)
class Ranking:
    """name: as in `drop_reasons.score`; values: (n,) score of every chunk, higher is better."""

    name: str
    values: Floats


def ranking(context: SelectionContext, family: str) -> Ranking | None:
    """Return what a family ranks by; None for those that rank by one direction, keep everything or draw."""
    if family == "dsir":
        return Ranking("ngram_importance", context.dsir)
    if family == "conditional":
        return Ranking("loss_reduction", context.conditional)
    if family == "blend":
        return Ranking("blend", context.blend)
    if family == "ggda":
        return Ranking("group_alignment", group_worth(context.groups, context.alignment, context.n_tokens))
    if family == "lowest-loss":
        return Ranking("minus_loss", -context.losses)
    if family == "middle-perplexity":
        return Ranking("nearness_to_median_loss", nearness_to_median(context.losses, context.n_tokens))
    return None
