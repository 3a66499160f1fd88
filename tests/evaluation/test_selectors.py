"""Task-optimised finalists spend the budget on their task; the judge is that of the pipeline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lab_toys import TASKS, toy_subsets
from toys import LENGTH

from grasp_pipeline.attribution.surrogate import Surrogate
from grasp_pipeline.calibration.strata import OPTIMISED, budget_of
from grasp_pipeline.calibration.subsets import Subsets
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.evaluation.experiment import Views
from grasp_pipeline.evaluation.selectors import LAMBDAS, judge_predictions, optimised_subsets
from grasp_pipeline.selection.candidates import judge

ASKED = [0, 2]
GRADIENT_SELECTORS, TEXT_SELECTORS = 8, 3


@pytest.fixture(scope="module")
def finalists(corpus: TaskPool, views: Views) -> Subsets:
    return optimised_subsets(corpus, views.design, ASKED)


@pytest.fixture(scope="module")
def without_text(corpus: TaskPool) -> TaskPool:
    return replace(corpus, chunks=None)


def test_finalists_spend_the_budget_within_one_chunk(corpus: TaskPool, finalists: Subsets) -> None:
    tokens, budget = finalists.membership @ corpus.n_tokens, budget_of(corpus)
    assert (tokens <= budget).all()
    assert (tokens > budget - LENGTH).all()


def test_finalists_name_the_task_they_were_built_for(finalists: Subsets) -> None:
    assert set(finalists.strata) == {OPTIMISED}
    assert list(dict.fromkeys(finalists.target.tolist())) == ASKED
    per_task = [int((finalists.target == task).sum()) for task in ASKED]
    assert all(5 < count <= GRADIENT_SELECTORS + TEXT_SELECTORS for count in per_task), per_task
    assert len(np.unique(finalists.membership, axis=0)) == finalists.m, "equal ones once"


def test_a_tasks_finalists_do_not_depend_on_the_other_tasks(
    corpus: TaskPool, views: Views, finalists: Subsets
) -> None:
    for task in ASKED:
        alone = optimised_subsets(corpus, views.design, [task])
        np.testing.assert_array_equal(alone.membership, finalists.membership[finalists.target == task])
        assert set(alone.target.tolist()) == {task}


def test_finalists_are_better_for_their_own_task(corpus: TaskPool, views: Views, finalists: Subsets) -> None:
    """By the score they optimise: no uniform draw of the budget's size comes near the best of them."""
    view = views.design
    draws = toy_subsets(corpus, 8, "draws")[:8]
    for task in ASKED:
        method = Surrogate(view.sketches, corpus.n_tokens, view.targets, None, LAMBDAS[0])
        mine = method.predict(finalists.membership[finalists.target == task])[:, task]
        others = [t for t in ASKED if t != task]
        theirs = method.predict(finalists.membership[np.isin(finalists.target, others)])[:, task]
        assert mine.max() > theirs.max()
        assert mine.max() > method.predict(draws)[:, task].max()


def test_the_best_by_graddot_is_among_them(corpus: TaskPool, views: Views, finalists: Subsets) -> None:
    for task in ASKED:
        order = np.argsort(-(views.design.sketches @ views.design.targets[task]), kind="stable")
        fits = np.cumsum(corpus.n_tokens[order]) <= budget_of(corpus)
        top = np.zeros(corpus.n, dtype=bool)
        top[order[fits]] = True
        mine = finalists.membership[finalists.target == task]
        assert (mine == top).all(axis=1).sum() == 1


def test_one_finalist_takes_one_document_of_every_cluster(corpus: TaskPool, finalists: Subsets) -> None:
    first: dict[int, int] = {}
    for document, cluster in zip(corpus.document.tolist(), corpus.cluster.tolist(), strict=True):
        first.setdefault(cluster, document)
    copies = np.array([first[c] != d for d, c in zip(corpus.document, corpus.cluster, strict=True)])
    assert copies.any()
    for task in ASKED:
        mine = finalists.membership[finalists.target == task]
        assert (~mine[:, copies].any(axis=1)).any()


def test_pools_that_are_not_text_have_no_text_selectors_and_no_judge(
    corpus: TaskPool, without_text: TaskPool, views: Views, finalists: Subsets
) -> None:
    fewer = optimised_subsets(without_text, views.design, ASKED)
    known = {row.tobytes() for row in finalists.membership}
    assert {row.tobytes() for row in fewer.membership} < known
    assert 0 < finalists.m - fewer.m <= TEXT_SELECTORS * len(ASKED)
    assert judge_predictions(without_text, fewer.membership) is None


def test_the_judge_is_that_of_the_pipeline(corpus: TaskPool, finalists: Subsets) -> None:
    """J from judge examples alone, against `grasp_pipeline.selection.candidates.judge` task by task."""
    assert corpus.chunks is not None
    found = judge_predictions(corpus, finalists.membership)
    assert found is not None
    assert found.shape == (finalists.m, len(TASKS))
    for task, query in enumerate(corpus.judges):
        expected = judge.judge(
            finalists.membership, corpus.n_tokens, judge.judge_coverage(corpus.chunks, query)
        )
        np.testing.assert_array_equal(found[:, task], expected.score)


def test_the_judge_does_not_see_the_queries(corpus: TaskPool, finalists: Subsets) -> None:
    unaware = replace(corpus, query=corpus.judge)
    found = judge_predictions(unaware, finalists.membership)
    np.testing.assert_array_equal(found, judge_predictions(corpus, finalists.membership))
    deaf = replace(corpus, judge=corpus.query)
    assert not np.array_equal(found, judge_predictions(deaf, finalists.membership))
