"""Candidates that the product's finalists lack, built and measured to learn which of them should join.

conditional: loss reduction of a chunk by fine-tuning the reference on the query documents, CoLoR-Filter (Brandfonbrener
et al. 2024, arXiv 2406.10670); with the query as the conditional data it is the neural form of Moore and Lewis (2010).
blend: the mean of several standardised scores per token. Errors of gradients, n-grams and losses are made apart, so
that their mean ranks better than each.
twice: the better half of the budget, trained on twice as often at equal tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from grasp_pipeline.attribution.blocks import ArrayBlocks, SketchBlocks, StackedBlocks, project
from grasp_pipeline.attribution.metric import apply_metric
from grasp_pipeline.laboratory.downstream.ground import Ground
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.packing import TextStream, TokenPool
from grasp_pipeline.proxy.training import stack, train_stacked
from grasp_pipeline.selection.arms import dsir_arm, surrogate_arm, top_k_arm
from grasp_pipeline.selection.finalists import INFLUENCE_RHO, Finalist
from grasp_pipeline.selection.ingredients import Ingredients, Rule
from grasp_pipeline.selection.judge import standardise
from grasp_pipeline.selection.ngrams import Chunks
from grasp_pipeline.selection.rooms import Dedup

Floats = NDArray[np.float64]

LAMBDA = 0.7

STRENGTHS = (0.5, 1.0)
"""Weights of a blended score beside the surrogate, in standard deviations of its linear term over chunks."""

TUNING_STEPS, TUNING_SHARE = 60, 0.25
"""Steps of the fine-tuning on the query, and its peak learning rate over that of a retraining."""


def conditional_scores(ground: Ground, wanted: Chunks) -> Floats:
    """Return (n,) how much fine-tuning the reference on wanted chunks lowers each chunk's loss, nats per token."""
    trainer, stream = ground.trainer, ground.corpus.stream
    assert isinstance(stream, TextStream), "a text corpus"
    recipe = replace(
        trainer.recipe, steps=TUNING_STEPS, learning_rate=TUNING_SHARE * trainer.recipe.learning_rate
    )
    texts = TextStream(TokenPool(wanted.tokens, wanted.offsets), stream.bos)
    rows = texts.rows(np.arange(wanted.n), recipe.rows, recipe.chunk_tokens, "conditional", trainer.model)
    tuned = train_stacked(
        ground.objective, ground.reference, [torch.from_numpy(rows)], recipe, ["the fine-tuned reference"]
    )
    prior = stack(ground.reference, 1)
    held = ground.corpus.rows, ground.corpus.sizes
    before, after = (stacked_chunk_losses(ground.objective, w, *held)[0].numpy() for w in (prior, tuned))
    return (before - after) / ground.corpus.n_tokens


def token_scores(ground: Ground, given: Ingredients) -> dict[str, Floats]:
    """Return name -> (n,) scores per token, higher is better: influence, dsir and conditional."""
    target = given.target.weights @ given.targets
    return {
        "influence": project(given.blocks, apply_metric(given.metric(INFLUENCE_RHO), target)),
        "dsir": given.dsir / given.n_tokens,
        "conditional": conditional_scores(ground, given.queries),
    }


def blended(scores: Mapping[str, Floats], names: tuple[str, ...]) -> Floats:
    """Return (n,) the mean of some standardised scores."""
    return np.mean([standardise(scores[name]) for name in names], axis=0)


def further_candidates(ground: Ground, given: Ingredients, gap: float, max_passes: int) -> list[Finalist]:
    """Return candidates beside those of `build_finalists`, all of role `candidate`."""
    scores = token_scores(ground, given)
    every = blended(scores, ("influence", "dsir", "conditional"))
    found: list[Finalist] = []

    def top(name: str, score: Floats, dedup: Dedup = "none", copies: int = 1) -> None:
        arm = top_k_arm(name.partition("-")[0], score, given.rooms.room(dedup, copies), name, name)
        found.append(Finalist(replace(arm, role="candidate", repeats=copies), None, dedup))

    def surrogate(name: str, strength: float, copies: int = 1) -> None:
        blocks, target = scored_view(given, every, strength)
        room = given.rooms.room(copies=copies)
        arm = surrogate_arm(
            name, "blend", blocks, room, target, name,
            lam=LAMBDA, gap=gap, max_passes=max_passes, repeats=copies,
        )  # fmt: skip
        found.append(Finalist(arm, None))

    top("conditional", scores["conditional"])
    top("conditional-twice", scores["conditional"], copies=2)
    resampled = dsir_arm(given.dsir, given.rooms.room(copies=2), name="dsir-twice")
    found.append(Finalist(replace(resampled, role="candidate", repeats=2), None))
    top("blend-influence-dsir", blended(scores, ("influence", "dsir")))
    top("blend-all", every)
    top("blend-all-twice", every, copies=2)
    if given.rooms.offers("hard"):
        top("blend-all-deduplicated", every, "hard")
    for strength in STRENGTHS:
        surrogate(f"surrogate-blend-{strength:g}", strength)
    surrogate(f"surrogate-blend-{STRENGTHS[-1]:g}-twice", STRENGTHS[-1], 2)
    return found


def scored_view(given: Ingredients, score: Floats, strength: float) -> tuple[SketchBlocks, Floats]:
    """Return both views and a standardised score as a term linear in the mean: F + strength s <score>_S.

    s is the standard deviation over chunks of the views' own linear term. The score is one more feature, of which the
    target asks for so much that its quadratic term is negligible.
    """
    rule = Rule("gradient+ngrams", 0.0, LAMBDA)
    blocks, target = given.view(rule)[0], given.direction(rule)
    spread = float(project(blocks, target).std())
    tiny = 1e-3
    column = (tiny * standardise(score)).astype(np.float32)[:, None]
    return StackedBlocks([(blocks, 1.0), (ArrayBlocks(column), 1.0)]), np.append(
        target, strength * spread / tiny
    )
