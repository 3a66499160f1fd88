"""Constraints that cannot be met together: who is named, and that the relaxation told is enough and the smallest."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from constraint_toys import KINDS, Problem, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet

TOKENS = np.full(20, 100)
SOURCES = np.arange(20) // 10
NAMED: dict[str, Any] = {"sources": SOURCES, "source_names": ["a", "b"]}
SECOND = np.arange(20) >= 15


@pytest.mark.parametrize(
    ("budget", "options", "told"),
    [
        (
            900,
            NAMED | {"floors": {"a": 700, "b": 500}},
            [
                "the budget of 900 tokens and the floors of source a (700 tokens) and source b (500 tokens)",
                "miss by 300 tokens",
                "raise the budget to 1,200 tokens; or lower the floor",
                "(300 in all)",
            ],
        ),
        (
            900,
            NAMED | {"caps": {"a": 300, "b": 400}},
            [
                "the caps of source a (300 tokens) and source b (400 tokens)",
                "lower the budget to 700 tokens",
                "(200 in all)",
            ],
        ),
        (
            900,
            NAMED | {"floors": {"a": 800}, "caps": {"a": 600}},
            [
                "the floor of source a (800",
                "the cap of source a (600",
                "lower the floor of source a to 600",
                "raise the cap of source a to 800",
            ],
        ),
        (
            1500,
            NAMED | {"floors": {"a": 1200}},
            ["source a 1,000", "lower the floor of source a to 1,000 tokens (200 in all)"],
        ),
        (
            400,
            {"keep": SECOND},
            [
                "the budget of 400 tokens and must_keep (500 tokens)",
                "raise the budget to 500",
                "take at least 100 tokens out of must_keep",
            ],
        ),
        (
            900,
            NAMED | {"keep": SECOND, "caps": {"b": 300}},
            [
                "must_keep (500",
                "raise the cap of source b to 500",
                "take at least 200 tokens out of must_keep (source b 200)",
            ],
        ),
        (
            1800,
            {"drop": SECOND},
            ["must_drop (500", "lower the budget to 1,500", "take at least 300 tokens out of must_drop"],
        ),
        (
            900,
            {"clusters": np.arange(20) // 4, "cluster_units": 1},
            [
                "the cluster maximum of 1 chunk",
                "at most can be kept: the corpus 500",
                "lower the budget to 500",
                "raise the cluster maximum to 2 chunks",
            ],
        ),
        (
            900,
            {"clusters": np.arange(20) // 4, "cluster_tokens": 150},
            ["lower the budget to 750", "raise the cluster maximum to 180 tokens"],
        ),
        (
            1100,
            NAMED | {"clusters": np.arange(20) % 10, "cluster_units": 1},
            ["lower the budget to 1,000", "raise the cluster maximum to 2"],
        ),
        (
            450,
            {"documents": np.arange(20) // 5},
            ["so never kept whole: 4 documents of 2,000 tokens", "works: raise the budget to 500 tokens"],
        ),
    ],
)
def test_the_conflict_is_named_with_a_way_out(budget: int, options: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        ConstraintSet(TOKENS, budget, **options)
    for part in told:
        assert part in str(refused.value)


def amounts(text: str, word: str) -> dict[str, float]:
    found = re.search(rf"{word}s? of (.*?) tokens \(", text)
    return (
        {n: float(v.replace(",", "")) for n, v in re.findall(r"source (\w+) to ([\d,]+)", found[1])}
        if found
        else {}
    )


def relaxed(problem: Problem, way: str) -> Problem | None:
    """Return the problem with a way out applied, or None where it does not name the units to change."""
    options = dict(problem.options)
    if "must_" in way or "give up" in way:
        return None
    if budget := re.search(r"the budget to ([\d,]+)", way):
        problem = replace(problem, budget=int(budget[1].replace(",", "")))
    if floors := amounts(way, "lower the floor"):
        options["floors"] = options["floors"] | floors
    if caps := amounts(way, "raise the cap"):
        options["caps"] = options["caps"] | caps
    if most := re.search(r"the cluster maximum to ([\d,]+)", way):
        options["cluster_units" if "cluster_units" in options else "cluster_tokens"] = int(most[1])
    return replace(problem, options=options)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 100_000),
    st.sets(st.sampled_from([kind for kind in KINDS if kind != "shares"])).map(
        lambda kinds: kinds - {"cluster_tokens"} if "cluster_units" in kinds else kinds
    ),
)
def test_every_way_out_works_and_none_is_larger_than_needed(seed: int, kinds: set[str]) -> None:
    problem = random_problem(seed, kinds, 16, spare=0.2)
    try:
        problem.build()
    except ConfigError as refused:
        text = str(refused)
    else:
        return
    if "smallest change" not in text:
        return
    ways = text.split("smallest change that works: ")[1].split("; or ")
    for way in ways:
        changed = relaxed(problem, way)
        if changed is None:
            continue
        changed.build()
        if (
            not kinds & {"documents", "caps"}
            and " and " not in way
            and (budget := re.search(r"(raise|lower) the budget to ([\d,]+)", way))
        ):
            closer = changed.budget + (-1 if budget[1] == "raise" else 1)
            with pytest.raises(ConfigError):
                replace(problem, budget=closer).build()


def test_lists_that_contradict_each_other() -> None:
    keep = np.arange(20) < 3
    with pytest.raises(ConfigError, match="3 chunks are in must_keep and in must_drop"):
        ConstraintSet(TOKENS, 900, keep=keep, drop=keep)
    with pytest.raises(
        ConfigError, match=r"1 near-duplicate clusters .* raise the maximum to 3, or take 1 chunks"
    ):
        ConstraintSet(TOKENS, 900, keep=keep, clusters=np.arange(20) // 4, cluster_units=2)
    with pytest.raises(ConfigError, match="did you mean 'books'"):
        ConstraintSet(TOKENS, 900, sources=SOURCES, source_names=["books", "web"], floors={"book": 0.2})
    with pytest.raises(ConfigError, match="give tokens or a share"):
        ConstraintSet(TOKENS, 900, **NAMED, caps={"a": -1.0})
    with pytest.raises(ConfigError, match="give one of them"):
        ConstraintSet(TOKENS, 900, clusters=np.arange(20), cluster_units=1, cluster_tokens=5)
