"""The filter of every family decides like the arm it comes from, chunk by chunk, from what a new chunk has too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_finalists import SELECTED, ingredients

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.blocks import ArrayBlocks, gather
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.candidates.context import SelectionContext, linear_view
from grasp_pipeline.selection.candidates.families import FAMILIES
from grasp_pipeline.selection.candidates.families.dsir import dsir_scores
from grasp_pipeline.selection.candidates.family import Choice
from grasp_pipeline.selection.candidates.finalists import build_finalists
from grasp_pipeline.selection.explanation.chunk_filter import (
    AGREEMENT_FLOOR,
    ChunkFilter,
    ChunkInputs,
    agreement,
    direction_filter,
)
from grasp_pipeline.selection.explanation.residual_filter import kept_agreement

GIVEN = ingredients()
ENTRIES = {entry.name: entry for entry in build_finalists(GIVEN, SELECTED, 1e-3, 200)}
EVERYTHING = np.ones(GIVEN.chunks.n, dtype=bool)
SCORED = ("dsir", "conditional", "blend", "lowest-loss", "middle-perplexity")


def inputs_of(context: SelectionContext) -> ChunkInputs:
    return ChunkInputs(context.chunks, context.blocks, context.losses, context.conditional)


def one_by_one(context: SelectionContext, found: ChunkFilter) -> np.ndarray:
    """Values of chunks that come alone, as new ones do."""
    sketches = gather(context.blocks, np.arange(context.chunks.n))
    rows = [
        context.chunks.tokens[a:b]
        for a, b in zip(context.chunks.offsets, context.chunks.offsets[1:], strict=False)
    ]
    return np.concatenate(
        [
            found.values(
                ChunkInputs(
                    TokenLists.of([rows[i]]),
                    ArrayBlocks(sketches[i : i + 1]),
                    context.losses[i : i + 1],
                    context.conditional[i : i + 1],
                )
            )
            for i in range(context.chunks.n)
        ]
    )


@pytest.mark.parametrize("name", [*SCORED, "conditional-twice", "blend-twice", "full"])
def test_the_filter_keeps_what_the_arm_keeps(name: str) -> None:
    entry = ENTRIES[name]
    kept, allowed = entry.membership, GIVEN.feasible_sets.allowed(entry.dedup)
    found = FAMILIES[entry.family].filter(GIVEN, Choice(kept, allowed, entry.smoothing))
    assert found is not None
    decided = one_by_one(GIVEN, found) >= found.tau - 1e-6
    least = 0.7 if name == "dsir" else AGREEMENT_FLOOR  # a resampling has luck, and copies tie
    assert kept_agreement(decided, kept, GIVEN.n_tokens) >= least
    assert agreement(found, inputs_of(GIVEN), kept) >= least


@pytest.mark.parametrize("name", [name for name in SCORED if name != "middle-perplexity"])
def test_a_value_is_the_score_that_the_family_ranks_by(name: str) -> None:
    entry = ENTRIES[name]
    choice = Choice(entry.membership, EVERYTHING, entry.smoothing)
    found = FAMILIES[entry.family].filter(GIVEN, choice)
    ranked = FAMILIES[entry.family].ranking(GIVEN, choice)
    assert found is not None
    assert ranked is not None
    np.testing.assert_allclose(one_by_one(GIVEN, found), ranked.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.family == "log-coverage"])
def test_a_coverage_filter_gives_the_value_beside_what_is_kept(name: str) -> None:
    entry = ENTRIES[name]
    choice = Choice(entry.membership, EVERYTHING, entry.smoothing)
    found, ranked = (
        FAMILIES[entry.family].filter(GIVEN, choice),
        FAMILIES[entry.family].ranking(GIVEN, choice),
    )
    assert found is not None
    assert ranked is not None
    assert ranked.marginal is not None
    assert ranked.by_task is not None
    assert not found.reads_proxy
    np.testing.assert_allclose(one_by_one(GIVEN, found), ranked.marginal, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ranked.by_task @ GIVEN.target.weights, ranked.marginal, rtol=1e-9)
    assert found.tau == pytest.approx(ranked.tau, rel=1e-4)
    if (
        entry.smoothing == 3 and entry.repeats == 1
    ):  # a few chunks saturate their own events where rho is small
        assert agreement(found, inputs_of(GIVEN), entry.membership) >= 0.7


def test_dsir_is_a_table_that_asks_for_tokens_alone() -> None:
    entry = ENTRIES["dsir"]
    found = FAMILIES["dsir"].filter(GIVEN, Choice(entry.membership, EVERYTHING))
    assert found is not None
    assert found.q is None
    assert not found.reads_proxy
    fresh = TokenLists.of([[3, 5, 3], [150, 7], [12]])
    wanted = dsir_scores(GIVEN.chunks, GIVEN.queries)
    np.testing.assert_allclose(found.values(ChunkInputs(GIVEN.chunks)), wanted, atol=1e-3)
    assert np.isfinite(found.values(ChunkInputs(fresh))).all()


def test_a_band_of_losses_decides_like_nearness_to_the_median() -> None:
    entry = ENTRIES["middle-perplexity"]
    found = FAMILIES["middle-perplexity"].filter(GIVEN, Choice(entry.membership, EVERYTHING))
    assert found is not None
    decided = found.apply(inputs_of(GIVEN))
    inside = GIVEN.losses[decided]
    outside = GIVEN.losses[~decided]
    assert not ((outside > inside.min()) & (outside < inside.max())).any()
    assert not found.apply(replace(inputs_of(GIVEN), loss=GIVEN.losses + 100)).any()


def test_a_linear_arm_is_its_direction() -> None:
    entry = ENTRIES["surrogate-0.7"]
    assert entry.linear is not None
    view = linear_view(GIVEN, entry.linear, entry.membership, np.ones(GIVEN.chunks.n, dtype=bool))
    found = direction_filter(view.q, view.tau, entry.linear.rho)
    np.testing.assert_allclose(found.values(inputs_of(GIVEN)), view.marginal, rtol=1e-4, atol=1e-5)
    assert agreement(found, inputs_of(GIVEN), entry.membership) >= AGREEMENT_FLOOR


@pytest.mark.parametrize("family", ["ggda", "random", "random-deduplicated"])
def test_a_draw_and_groups_have_no_score_for_a_single_chunk(family: str) -> None:
    assert FAMILIES[family].filter(GIVEN, Choice(EVERYTHING, EVERYTHING)) is None


def test_a_missing_part_is_named() -> None:
    chunks = TokenLists.of([[1, 2]])
    for found, what in (
        (ChunkFilter("direction", q=np.ones(3, dtype=np.float32)), "features"),
        (ChunkFilter("loss", loss_centre=2.0), "band of losses"),
        (ChunkFilter("conditional", reduction_weight=1.0), "loss reductions"),
    ):
        with pytest.raises(InputError, match=what):
            found.values(ChunkInputs(chunks))
