"""The constraints' configuration: bounds with a way out, ids and names of a corpus."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constraint_toys import violations
from pydantic import Field, ValidationError

from grasp_pipeline.arrays import Bools
from grasp_pipeline.config import ConstraintsConfig
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.section import Section, all_of
from grasp_pipeline.selection.constraints.build import build_constraints
from grasp_pipeline.selection.constraints.kinds import CONSTRAINTS
from grasp_pipeline.selection.constraints.kinds.constraint import Chunks, Constraint, Demands
from grasp_pipeline.selection.constraints.kinds.listed_ids import listed_chunks

CHUNKS, DOCUMENTS = np.array(["c0", "c1", "c2", "c3", "c4", "c5"]), np.array(["x", "x", "y", "z", "z", "v"])


def listed(ids: tuple[str, ...]) -> tuple[Bools, set[str]]:
    return np.isin(CHUNKS, ids) | np.isin(DOCUMENTS, ids), set(ids) - {*CHUNKS.tolist(), *DOCUMENTS.tolist()}


CORPUS: dict[str, Any] = {
    "listed": listed,
    "documents": np.unique(DOCUMENTS, return_inverse=True)[1],
    "sources": np.array([1, 1, 1, 0, 0, 0]),
    "source_names": ["books", "web"],
    "clusters": np.array(["x", "x", "x", "z", "z", "v"]),
    "positions": np.array([0, 0, 0, 0, 0, 0]),
}
TOKENS = np.full(6, 10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source_floors": {"a": -1}}, "source_floors.a is -1"),
        ({"source_caps": {"a": float("nan")}}, "source_caps.a is nan"),
        (
            {"source_floors": {"a": 0.5}, "source_caps": {"a": 0.4}},
            "lower the floor to 0.4 or raise the cap to 0.5",
        ),
        ({"source_floors": {"a": 0.7, "b": 0.5}}, "sum to 1.2; lower them by 0.2 in all"),
        ({"cluster_max_units": 1, "cluster_max_tokens": 9}, "set one of them to 0"),
        ({"must_keep": ["k"], "must_drop": ["k"]}, "both hold k"),
        ({"unit": "word"}, "document"),
    ],
)
def test_bounds(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConstraintsConfig.model_validate(values)


def test_every_field_is_described_and_the_default_asks_for_nothing() -> None:
    assert all(field.description for field in ConstraintsConfig.model_fields.values())
    plain = build_constraints(ConstraintsConfig(), 30, TOKENS, **CORPUS)
    np.testing.assert_array_equal(plain.vertex(np.arange(6.0)), [0, 0, 0, 1, 1, 1])


def test_a_corpus_with_all_of_it() -> None:
    config = ConstraintsConfig(
        source_floors={"web": 0.5},
        source_caps={"books": 20},
        cluster_max_units=1,
        must_keep=["c0"],
        must_drop=["v"],
    )
    with pytest.raises(ConfigError, match="the cluster maximum of 1 chunk"):
        build_constraints(config, 40, TOKENS, **CORPUS)
    made = build_constraints(config, 20, TOKENS, **CORPUS)
    np.testing.assert_array_equal(made.vertex(np.arange(6.0)), [1, 0, 0, 0, 1, 0])
    allowed = np.arange(6) != 4
    made = build_constraints(config, 20, TOKENS, **CORPUS, allowed=allowed)
    np.testing.assert_array_equal(made.vertex(np.arange(6.0)), [1, 0, 0, 1, 0, 0])


def test_a_cluster_maximum_counts_the_chunks_at_one_place() -> None:
    corpus = CORPUS | {"positions": np.array([0, 1, 0, 0, 1, 0])}
    made = build_constraints(ConstraintsConfig(cluster_max_units=1), 30, TOKENS, **corpus)
    # Chunks 0 and 2 are copies, at place 0 of cluster x; 1 is alone at its place.
    np.testing.assert_array_equal(made.vertex(np.array([9.0, 8, 7, 1, 2, 3])), [1, 1, 0, 0, 0, 1])


def test_chunks_to_keep_and_allowed_chunks_give_way_to_the_lists() -> None:
    config = ConstraintsConfig(must_keep=["c0"], must_drop=["c1"])
    only, keep = np.array([0, 0, 1, 1, 1, 1], bool), np.array([0, 1, 0, 0, 0, 1], bool)
    made = build_constraints(config, 30, TOKENS, **CORPUS, allowed=only, keep=keep)
    np.testing.assert_array_equal(made.vertex(np.arange(6.0)), [1, 0, 0, 0, 1, 1])


def test_documents_as_unit() -> None:
    config = ConstraintsConfig(unit="document")
    made = build_constraints(config, 30, TOKENS, **CORPUS)
    np.testing.assert_array_equal(made.vertex(np.array([0.0, 4, 3, 0, 0, 5])), [0.5, 0.5, 1, 0, 0, 1])


def test_ids() -> None:
    chunks = Chunks(TOKENS, **CORPUS)
    assert listed_chunks(["z", "c0"], chunks, "must_keep").tolist() == [1, 0, 0, 1, 1, 0]
    assert not listed_chunks([], chunks, "must_keep").any()
    with pytest.raises(ConfigError, match=r"must_drop holds 1 ids .* such as q; correct or remove"):
        listed_chunks(["q", "z"], chunks, "must_drop")


def test_every_constraint_says_what_it_asks() -> None:
    assert CONSTRAINTS.names == ("whole_documents", "source_quotas", "cluster_maximum", "listed_ids")
    assert all(each.equation and each.__doc__ for each in CONSTRAINTS)
    fields = [field for each in CONSTRAINTS for field in each.Settings.model_fields]
    assert list(ConstraintsConfig.model_fields) == fields


class FirstChunkSettings(Section):
    first_chunks: int = Field(default=0, description="Chunks kept from the beginning of a document; 0: all.")


class FirstChunks(Constraint):
    """The beginning of every document alone."""

    name = "first_chunks"
    equation = "w_i = 0 for chunks i beyond the first of a document"
    Settings = FirstChunkSettings

    def ask(self, settings: FirstChunkSettings, chunks: Chunks, demands: Demands) -> None:
        if settings.first_chunks:
            demands.drop[self.name] = chunks.positions >= settings.first_chunks


def test_a_toy_constraint_brings_its_setting_and_is_named_where_it_binds() -> None:
    class Config(ConstraintsConfig, all_of([FirstChunkSettings])): ...

    corpus = CORPUS | {"positions": np.array([0, 1, 0, 0, 1, 0])}
    gains = np.array([1.0, 9, 2, 3, 8, 4])
    with CONSTRAINTS.joined(FirstChunks()):
        assert not Config().asked()
        np.testing.assert_array_equal(
            build_constraints(Config(), 20, TOKENS, **corpus).vertex(gains), [0, 1, 0, 0, 1, 0]
        )
        asked = Config.model_validate({"first_chunks": 1, "must_drop": ["v"]})
        assert asked.asked()
        made = build_constraints(asked, 20, TOKENS, **corpus)
        kept = made.round(np.zeros(6), gains)
        np.testing.assert_array_equal(kept, [0, 0, 1, 1, 0, 0])
        assert violations(made, kept) == []
        assert made.binding(kept).tolist() == ["", "first_chunks", "", "", "first_chunks", "must_drop"]
        with pytest.raises(ConfigError, match="2 chunks are in must_keep and in first_chunks"):
            build_constraints(asked.model_copy(update={"must_keep": ["x", "z"]}), 20, TOKENS, **corpus)
        with pytest.raises(ConfigError, match=r"must_drop and first_chunks \(30 tokens\)"):
            build_constraints(asked, 50, TOKENS, **corpus)
