"""Candidates that the product's finalists lack, built and measured to learn which of them should join.

blend of two: without the conditional losses. surrogate-blend: the surrogate with the blended score as one more linear
term, so that it is diverse as well.
"""

from __future__ import annotations

import numpy as np

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.blocks import ArrayBlocks, SketchBlocks, StackedBlocks, project
from grasp_pipeline.names import Dedup
from grasp_pipeline.selection.candidates.candidate import Candidate, maximise, top_k
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
from grasp_pipeline.selection.candidates.families.blend import Blend, blended
from grasp_pipeline.selection.candidates.family import TWICE
from grasp_pipeline.selection.candidates.judge import standardise
from grasp_pipeline.selection.solver.optimiser import Selection

LAMBDA = 0.7

STRENGTHS = (0.5, 1.0)
"""Weights of the blended score beside the surrogate, in standard deviations of its linear term over chunks."""


def further_candidates(context: SelectionContext, gap: float, max_passes: int) -> list[Candidate]:
    """Return candidates beside those of `build_finalists`, all of role `candidate`."""
    influence, ngrams, _ = blended(context)
    two, blend = (
        np.mean([standardise(score) for score in (influence, ngrams)], axis=0),
        Blend().values(context),
    )

    def made(
        name: str,
        membership: Bools,
        selection: Selection | None = None,
        dedup: Dedup = "none",
        repeats: int = 1,
    ) -> Candidate:
        tokens = int(context.n_tokens[membership].sum())
        return Candidate(
            name,
            "blend" if selection is None else "surrogate-blend",
            "candidate",
            membership,
            tokens,
            "",
            dedup=dedup,
            repeats=repeats,
            selection=selection,
        )

    found = [made("blend-influence-dsir", top_k(two, context.feasible_sets.feasible_set()))]
    if context.feasible_sets.offers("hard"):
        kept = top_k(blend, context.feasible_sets.feasible_set("hard"))
        found.append(made("blend-deduplicated", kept, dedup="hard"))
    for strength, repeats in ((STRENGTHS[0], 1), (STRENGTHS[1], 1), (STRENGTHS[1], 2)):
        blocks, target = scored_view(context, blend, strength)
        feasible = context.feasible_sets.feasible_set(copies=repeats)
        best = maximise(blocks, feasible, target, lam=LAMBDA, gap=gap, max_passes=max_passes)
        name = f"surrogate-blend-{strength:g}" + TWICE * (repeats - 1)
        found.append(made(name, best.membership, best, repeats=repeats))
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
