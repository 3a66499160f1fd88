"""The subsets of a cell: sizes of the strata, distinct draws by name alone, errors, and the union of parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import LENGTH

from grasp_pipeline.calibration.strata import (
    LARGE,
    OPTIMISED,
    OPTIMISED_SHARE,
    SMALL,
    budget_of,
    draw_subsets,
)
from grasp_pipeline.calibration.subsets import Subsets, join
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator

COUNTS = {"uniform": 8, "fixed_size": 8, "tilted": 8, OPTIMISED: 8}


@pytest.fixture(scope="module")
def scores(corpus: TaskPool) -> np.ndarray:
    return generator("scores").standard_normal((corpus.n, len(corpus.tasks)))


@pytest.fixture(scope="module")
def subsets(corpus: TaskPool, scores: np.ndarray) -> Subsets:
    return draw_subsets(corpus, scores, COUNTS, "calibration")


def test_every_stratum_has_its_share_of_the_tokens(corpus: TaskPool, subsets: Subsets) -> None:
    """A subset never exceeds its target, and less than one chunk is missing from it."""
    assert subsets.m == sum(COUNTS.values()) == len(subsets.membership)
    assert subsets.strata == tuple(name for name, count in COUNTS.items() for _ in range(count))
    assert (subsets.target == -1).all()
    total = int(corpus.n_tokens.sum())
    tokens = subsets.membership @ corpus.n_tokens
    shares = {
        "uniform": LARGE,
        "tilted": LARGE,
        "fixed_size": (SMALL, SMALL),
        OPTIMISED: (OPTIMISED_SHARE,) * 2,
    }
    for stratum, (low, high) in shares.items():
        mine = tokens[[name == stratum for name in subsets.strata]]
        assert (mine > low * total - LENGTH - 1).all()
        assert (mine <= high * total + 1).all()
        assert (np.ptp(mine) > 0.05 * total) == (low < high), "sizes are drawn where there is a range"
    assert budget_of(corpus) == round(OPTIMISED_SHARE * total)


def test_draws_are_distinct(subsets: Subsets) -> None:
    assert len(np.unique(subsets.membership, axis=0)) == subsets.m


def test_a_draw_depends_on_its_name_and_number_alone(
    corpus: TaskPool, scores: np.ndarray, subsets: Subsets
) -> None:
    np.testing.assert_array_equal(
        draw_subsets(corpus, scores, COUNTS, "calibration").membership, subsets.membership
    )
    fewer = draw_subsets(corpus, scores, {OPTIMISED: 3, "tilted": 2}, "calibration")
    where = [24, 25, 26, 16, 17]
    np.testing.assert_array_equal(fewer.membership, subsets.membership[where])
    others = draw_subsets(corpus, scores, COUNTS, "evaluation").membership
    assert not (others[:, None] == subsets.membership).all(axis=2).any()


def test_draws_towards_a_task_score_higher(corpus: TaskPool, scores: np.ndarray, subsets: Subsets) -> None:
    """Task-optimised draws take the tasks in turn, from the second one on; other draws do not read the scores."""
    means = (subsets.membership * corpus.n_tokens) @ scores / (subsets.membership @ corpus.n_tokens)[:, None]
    optimised = [i for i, name in enumerate(subsets.strata) if name == OPTIMISED]
    tasks = [(number + 1) % len(corpus.tasks) for number in range(len(optimised))]
    assert (means[optimised, tasks] > 0.1).mean() > 0.7
    blind = draw_subsets(corpus, np.zeros_like(scores), COUNTS, "calibration").membership
    same = (blind == subsets.membership).all(axis=1)
    assert same.tolist() == [name != OPTIMISED for name in subsets.strata]


def test_tilted_draws_differ_in_sources_and_copies(corpus: TaskPool, scores: np.ndarray) -> None:
    """Source-tilted draws (even numbers) spread the sources' shares more than uniform ones."""

    def spread(stratum: str, step: int) -> float:
        members = draw_subsets(corpus, scores, {stratum: 40}, "tilt").membership[::step]
        shares = np.stack([members[:, corpus.source == s].sum(axis=1) for s in range(4)]) / members.sum(
            axis=1
        )
        return float(shares.std(axis=1).mean())

    assert spread("tilted", 2) > 2 * spread("uniform", 1)


def test_unknown_strata_are_named(corpus: TaskPool, scores: np.ndarray) -> None:
    with pytest.raises(
        ConfigError, match=r"Unknown strata source_tilted, uniforn; choose among uniform, fixed_size"
    ):
        draw_subsets(corpus, scores, {"uniforn": 1, "source_tilted": 1, "uniform": 1}, "any")


def test_a_pool_too_small_for_its_smallest_subsets_says_what_to_raise(
    corpus: TaskPool, scores: np.ndarray
) -> None:
    small = replace(corpus, n_tokens=np.where(np.arange(corpus.n) == 0, 100, corpus.n_tokens))
    with pytest.raises(
        ConfigError, match=r"a tenth of the pool's \d+ tokens is below one chunk; raise .*chunks"
    ):
        draw_subsets(small, scores, COUNTS, "any")


@pytest.mark.parametrize("counts", [{}, {"uniform": 0}])
def test_no_subsets_asked_for_gives_none(
    corpus: TaskPool, scores: np.ndarray, counts: dict[str, int]
) -> None:
    """An evaluation of finalists alone asks for no random subset."""
    none = draw_subsets(corpus, scores, counts, "any")
    assert none.m == 0
    assert none.membership.shape == (0, corpus.n)


def test_join_keeps_the_first_of_equal_subsets_and_the_order(subsets: Subsets) -> None:
    renamed = Subsets((OPTIMISED,) * 3, subsets.membership[[4, 0, 9]], np.array([2, 2, 1]))
    fresh = Subsets((OPTIMISED,), ~subsets.membership[:1], np.array([1]))
    some = Subsets(("uniform",) * 3, subsets.membership[[5, 4, 3]], np.full(3, -1))
    joined = join([some, renamed, fresh, fresh])
    expected = np.concatenate([subsets.membership[[5, 4, 3, 0, 9]], fresh.membership])
    np.testing.assert_array_equal(joined.membership, expected)
    assert joined.strata == ("uniform",) * 3 + (OPTIMISED,) * 3
    assert joined.target.tolist() == [-1, -1, -1, 2, 1, 1]


def test_join_tells_subsets_apart_by_their_last_member() -> None:
    membership = np.zeros((2, 9), dtype=bool)
    membership[:, 0] = membership[1, 8] = True
    assert join([Subsets(("uniform",) * 2, membership, np.array([-1, -1]))]).m == 2
