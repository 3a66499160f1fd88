"""Designs of retrained subsets: token targets, distinctness, and what each stratum varies."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.calibration.designs import PROPORTIONS, Design, design_subsets, fill
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.errors import ConfigError


def corpus(seed: int = 0, n: int = 600, tasks: int = 3, sources: int = 5) -> dict[str, Any]:
    """Chunks of unequal length in documents of one to eight chunks, a third of the documents in clusters."""
    rng = np.random.default_rng(seed)
    document = np.repeat(np.arange(n), rng.integers(1, 9, size=n))[:n]
    cluster_of = np.where(rng.random(n) < 0.33, rng.integers(0, 10, size=n), 100 + np.arange(n))
    return {
        "n_tokens": rng.integers(1, 129, size=n),
        "source": rng.integers(0, sources, size=n)[document],
        "document": document,
        "cluster": cluster_of[document],
        "task_scores": rng.normal(size=(n, tasks)),
    }


def designs_of(
    n_tokens: Any, source: Any, document: Any, cluster: Any, task_scores: Any, **asked: Any
) -> list[Design]:
    pool = ChunkPool(n_tokens=n_tokens, source=source, document=document, cluster=cluster)
    return design_subsets(pool, task_scores, **asked)


def tokens(pool: dict[str, Any], design: Design) -> int:
    return int(pool["n_tokens"][design.membership].sum())


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=30).flatmap(
        lambda lengths: st.tuples(st.just(lengths), st.permutations(range(len(lengths))), st.integers(0, 200))
    )
)
def test_fill_equals_one_chunk_at_a_time(case: tuple[list[int], list[int], int]) -> None:
    lengths, order, target = case
    taken, room = set(), target
    for i in order:
        if lengths[i] <= room:
            taken.add(i)
            room -= lengths[i]
    assert set(np.flatnonzero(fill(order, np.array(lengths), target))) == taken


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000), st.integers(30, 400), st.integers(1, 4), st.integers(1, 30), st.floats(0.05, 0.9)
)
def test_every_subset_is_distinct_and_fills_its_target(
    seed: int, n: int, tasks: int, count: int, share: float
) -> None:
    pool = corpus(seed, n, tasks)
    budget = max(2 * int(pool["n_tokens"].max()), int(share * pool["n_tokens"].sum()))
    if budget > 0.95 * pool["n_tokens"].sum():
        return
    designs = designs_of(**pool, budget_tokens=budget, count=count, seed_name=f"s{seed}")
    assert len(designs) == count
    assert len({d.membership.tobytes() for d in designs}) == count
    for design in designs:
        assert design.membership.shape == (n,)
        assert design.membership.dtype == bool
        smallest_left = pool["n_tokens"][~design.membership].min()
        short_of = [target - tokens(pool, design) for target in (budget, budget // 2)]
        assert any(0 <= room < smallest_left for room in short_of)
        if design.stratum == "uniform_small":
            assert 0 <= short_of[1] < smallest_left
        elif design.stratum != "source_tilted":
            assert 0 <= short_of[0] < smallest_left


def test_strata_come_in_the_declared_proportions() -> None:
    designs = designs_of(**corpus(), budget_tokens=8000, count=40, seed_name="p")
    counts = {name: sum(d.stratum == name for d in designs) for name in PROPORTIONS}
    assert counts == {name: round(40 * share) for name, share in PROPORTIONS.items()}
    assert sum(PROPORTIONS.values()) == pytest.approx(1)
    only = designs_of(**corpus(), budget_tokens=8000, count=5, seed_name="p", proportions={"uniform": 1})
    assert [d.stratum for d in only] == ["uniform"] * 5


def test_names_decide_the_draws_and_calibration_never_meets_evaluation() -> None:
    pool = corpus()
    first, again, other = (
        designs_of(**pool, budget_tokens=8000, count=60, seed_name=name)
        for name in ("calibration/0", "calibration/0", "evaluation/0")
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.membership, b.membership)
        assert (a.stratum, a.seed) == (b.stratum, b.seed)
    assert not {d.membership.tobytes() for d in first} & {d.membership.tobytes() for d in other}


def test_source_tilted_subsets_differ_in_their_sources() -> None:
    pool = corpus(n=3000)

    def spread(stratum: str) -> float:
        designs = designs_of(**pool, budget_tokens=20_000, count=20, seed_name="t", proportions={stratum: 1})
        shares = [
            np.bincount(pool["source"][d.membership], pool["n_tokens"][d.membership], 5) / tokens(pool, d)
            for d in designs
        ]
        return float(np.std(shares, axis=0).mean())

    assert spread("source_tilted") > 4 * spread("uniform")


def test_redundancy_tilted_subsets_hold_whole_documents_and_fewer_of_them() -> None:
    pool = corpus(n=3000)

    def of(stratum: str) -> list[np.ndarray]:
        designs = designs_of(**pool, budget_tokens=20_000, count=10, seed_name="r", proportions={stratum: 1})
        return [d.membership for d in designs]

    uniform, tilted = of("uniform"), of("redundancy_tilted")
    chunks_of = np.bincount(pool["document"])

    def documents(membership: np.ndarray) -> int:
        return len(np.unique(pool["document"][membership]))

    def cut(membership: np.ndarray) -> int:
        kept = np.bincount(pool["document"][membership], minlength=len(chunks_of))
        return int(((kept > 0) & (kept < chunks_of)).sum())

    def clustered(membership: np.ndarray) -> float:
        return float((pool["cluster"][membership] < 100).mean())

    assert max(map(documents, tilted)) < 0.8 * min(map(documents, uniform))
    assert max(map(cut, tilted)) <= 12
    assert min(map(clustered, tilted[::2])) > max(map(clustered, uniform)) + 0.1


def test_task_optimised_subsets_rise_above_random_by_varying_amounts() -> None:
    pool = corpus(n=3000, tasks=2)
    designs = designs_of(
        **pool, budget_tokens=20_000, count=12, seed_name="o", proportions={"task_optimised": 1}
    )
    scores = np.array([pool["task_scores"][d.membership].mean(axis=0) for d in designs])
    first = int(scores[0].argmax())
    aligned = scores[np.arange(12), (np.arange(12) + first) % 2]
    assert (aligned > 0.05).all()
    assert aligned.std() > 0.1
    assert aligned[0] == aligned.max()
    top = fill(np.argsort(-pool["task_scores"][:, first]), pool["n_tokens"], 20_000)
    assert 0.8 < (top & designs[0].membership).sum() / top.sum() < 1


def test_one_source_one_document_and_equal_scores_still_give_distinct_subsets() -> None:
    n = 60
    zeros = np.zeros(n, dtype=int)
    flat = {"n_tokens": np.full(n, 10), "source": zeros, "document": zeros, "cluster": zeros}
    shares = {"uniform": 1, "source_tilted": 1, "task_optimised": 1}
    designs = designs_of(
        **flat,
        task_scores=np.zeros((n, 1)),
        budget_tokens=200,
        count=10,
        seed_name="flat",
        proportions=shares,
    )
    assert len(designs) == 10


def test_impossible_requests_are_refused() -> None:
    pool = corpus()
    total, largest = int(pool["n_tokens"].sum()), int(pool["n_tokens"].max())
    with pytest.raises(ConfigError, match=f"at least {2 * largest}"):
        designs_of(**pool, budget_tokens=2 * largest - 1, count=5, seed_name="e")
    with pytest.raises(ConfigError, match="exceeds the corpus"):
        designs_of(**pool, budget_tokens=total + 1, count=5, seed_name="e")
    with pytest.raises(ConfigError, match="distinct subsets"):
        designs_of(**pool, budget_tokens=total, count=20, seed_name="e")
    with pytest.raises(ConfigError, match="Unknown strata odd"):
        designs_of(**pool, budget_tokens=8000, count=5, seed_name="e", proportions={"odd": 1})
    with pytest.raises(ConfigError, match="at least one subset"):
        designs_of(**pool, budget_tokens=8000, count=0, seed_name="e")
    scores = pool["task_scores"].copy()
    scores[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"task_scores\[3, 0\] is nan"):
        designs_of(**{**pool, "task_scores": scores}, budget_tokens=8000, count=5, seed_name="e")
    with pytest.raises(ValueError, match="cluster has shape"):
        designs_of(**{**pool, "cluster": np.zeros(3)}, budget_tokens=8000, count=5, seed_name="e")
    with pytest.raises(ValueError, match="0 tokens"):
        designs_of(**{**pool, "n_tokens": np.zeros(600)}, budget_tokens=8000, count=5, seed_name="e")
