"""Candidates that the product's finalists lack, built and measured to learn which of them should join.

blend of two: without the conditional losses. surrogate-blend: the surrogate with the blended score as one more linear
term, so that it is diverse as well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import ArrayBlocks, SketchBlocks, StackedBlocks, project
from grasp_pipeline.selection.candidates.arms import surrogate_arm, top_k_arm
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
from grasp_pipeline.selection.candidates.finalists import Finalist
from grasp_pipeline.selection.candidates.judge import standardise

LAMBDA = 0.7

STRENGTHS = (0.5, 1.0)
"""Weights of the blended score beside the surrogate, in standard deviations of its linear term over chunks."""


def further_candidates(context: SelectionContext, gap: float, max_passes: int) -> list[Finalist]:
    """Return candidates beside those of `build_finalists`, all of role `candidate`."""
    two = np.mean(
        [standardise(score) for score in (context.influence, context.dsir / context.n_tokens)], axis=0
    )
    feasible = context.feasible_sets.feasible_set()
    arm = top_k_arm("blend", two, feasible, "Without conditional losses.", "blend-influence-dsir")
    found = [Finalist(replace(arm, role="candidate"), None)]
    if context.feasible_sets.offers("hard"):
        arm = top_k_arm(
            "blend", context.blend, context.feasible_sets.feasible_set("hard"), "Hard.", "blend-deduplicated"
        )
        found.append(Finalist(replace(arm, role="candidate"), None, "hard"))
    for strength, repeats in ((STRENGTHS[0], 1), (STRENGTHS[1], 1), (STRENGTHS[1], 2)):
        blocks, target = scored_view(context, context.blend, strength)
        arm = surrogate_arm(
            f"surrogate-blend-{strength:g}" + "-twice" * (repeats - 1),
            "surrogate-blend",
            blocks,
            context.feasible_sets.feasible_set(copies=repeats),
            target,
            "The surrogate with the blended score.",
            lam=LAMBDA,
            repeats=repeats,
            gap=gap,
            max_passes=max_passes,
        )
        found.append(Finalist(arm, None))
    return found


def scored_view(context: SelectionContext, score: Floats, strength: float) -> tuple[SketchBlocks, Floats]:
    """Return both views and a standardised score as a term linear in the mean: F + strength s <score>_S.

    s is the standard deviation over chunks of the views' own linear term. The score is one more feature, of which the
    target asks for so much that its quadratic term is negligible.
    """
    linear = LinearScore("gradient+ngrams", 0.0, LAMBDA)
    blocks, target = context.view(linear)[0], context.direction(linear)
    spread = float(project(blocks, target).std())
    tiny = 1e-3
    column = (tiny * standardise(score)).astype(np.float32)[:, None]
    return StackedBlocks([(blocks, 1.0), (ArrayBlocks(column), 1.0)]), np.append(
        target, strength * spread / tiny
    )
