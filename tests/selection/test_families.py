"""A family of candidates is one class: registered, it is built, ranked, explained and filtered like every other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_finalists import SELECTED, ingredients

from grasp_pipeline.arrays import Floats
from grasp_pipeline.corpus.ngrams import ngram_sums
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
from grasp_pipeline.selection.candidates.families import COMPARED, FAMILIES, OUTLYING
from grasp_pipeline.selection.candidates.family import DIRECTION, NOTHING, Choice, Family, check_family
from grasp_pipeline.selection.candidates.finalists import build_finalists, shortlist
from grasp_pipeline.selection.explanation.chunk_filter import (
    AGREEMENT_FLOOR,
    ChunkFilter,
    ChunkInputs,
    agreement,
)
from grasp_pipeline.selection.explanation.reasons import drop_reasons

WEIGHTS = np.cos(np.arange(512.0))


class Toy(Family):
    """Chunks of most n-grams from some buckets."""

    name = "toy"
    description = "Most n-grams of the toy's buckets."
    role = "candidate"
    ranks_by = "toy_ngrams"

    def values(self, context: SelectionContext) -> Floats:
        return ngram_sums(context.chunks, WEIGHTS)

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        return ChunkFilter("ngram_table", ngrams=WEIGHTS.astype(np.float32))


def test_a_toy_family_is_built_ranked_explained_and_filtered() -> None:
    context = ingredients()
    before = [one.name for one in build_finalists(context, SELECTED, 1e-3, 200)]
    with FAMILIES.joined(Toy()):
        finalists = {one.name: one for one in build_finalists(context, SELECTED, 1e-3, 200)}
        assert [name for name in finalists if name not in ("toy", "toy-twice")] == before
        toy, twin = finalists["toy"], finalists["toy-twice"]
        assert (twin.family, twin.repeats) == ("toy", 2)
        assert twin.description == "Most n-grams of the toy's buckets, every chunk twice."
        score = np.array([float(name == "toy") for name in finalists])
        assert dict(zip(finalists, shortlist(list(finalists.values()), score, 1), strict=True))["toy"]

        family = FAMILIES[toy.family]
        choice = Choice(toy.membership, context.feasible_sets.allowed(toy.dedup))
        ranked = family.ranking(context, choice)
        assert ranked is not None
        values = ranked.values
        assert values[~toy.membership].max() <= values[toy.membership].min()
        reasons = drop_reasons(
            toy.membership,
            values,
            context.n_tokens,
            context.feasible_sets.budget,
            context.blocks,
            score_name=ranked.name,
        )
        assert set(reasons.score.tolist()) == {"toy_ngrams"}

        kept = family.filter(context, choice)
        assert kept is not None
        assert agreement(kept, ChunkInputs(context.chunks), toy.membership) >= AGREEMENT_FLOOR
    assert "toy" not in FAMILIES.names


def made(**attributes: Any) -> Family:
    """Return a family with other attributes than the toy's; None takes one away."""
    given = {"name": "odd", "description": "Odd.", "role": "candidate", **attributes}
    return type("Odd", (Family,), {name: value for name, value in given.items() if value is not None})()


def values(self: Family, context: SelectionContext) -> Floats:
    return context.losses


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"values": values}, "does not say what it ranks by"),
        ({"ranks_by": "losses"}, "ranks by losses, and has no `values`"),
        ({"ranks_by": NOTHING}, "a score that it does not declare"),
        ({"ranks_by": NOTHING, "role": "simple", "values": values}, "a score that it does not declare"),
        (
            {"ranks_by": "losses", "values": values, "linear": LinearScore("gradient", 0.0, 0.0)},
            "linear score",
        ),
    ],
)
def test_a_family_that_could_not_be_explained_does_not_register(
    attributes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=f"the family 'odd' .*{fault}"), FAMILIES.joined(made(**attributes)):
        pass
    assert "odd" not in FAMILIES.names


def test_a_candidate_that_ranks_otherwise_than_its_family_is_refused() -> None:
    def further(self: Family, context: SelectionContext, search: Any) -> Any:
        yield self.filling(context)

    odd = made(ranks_by=DIRECTION, values=values, candidate=lambda *_: None, further=further)
    with FAMILIES.joined(odd), pytest.raises(ConfigError, match="odd and its family 'odd' rank by different"):
        build_finalists(ingredients(), SELECTED, 1e-3, 200)


def test_names_are_unique_and_wrong_ones_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="two of family of candidates 'dsir'"):
        FAMILIES.add(FAMILIES["dsir"])
    with pytest.raises(ConfigError, match="no family of candidates 'graddott'; did you mean 'graddot'"):
        FAMILIES["graddott"]


def test_every_family_says_what_it_is_and_other_methods_name_their_paper() -> None:
    for family in FAMILIES:
        check_family(family)
        assert family.description
    assert set(COMPARED) >= {
        name for family in FAMILIES if family.source for name in (family.name, f"{family.name}-twice")
    }
    assert set(OUTLYING) >= {"full", "random-deduplicated-twice", "lowest-loss", "middle-perplexity-twice"}
    assert not {"dsir", "conditional", "ggda", "graddot", "influence", "blend"} & set(OUTLYING)
