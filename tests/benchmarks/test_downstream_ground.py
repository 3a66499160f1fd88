"""A toy ground from documents to cases: splits apart, every run kept and made once, cases read back whole."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from downstream_toys import DOCUMENTS, TARGETS, toy_pool, toy_settings

from benchmarks.downstream.candidates import scored_view
from benchmarks.downstream.coverage import hold_repeats, load_repeats, save_repeats
from benchmarks.downstream.prepared_pool import SEALED, PreparedPool, prepare_pool, restrict, split_documents
from benchmarks.downstream.target_study import (
    FURTHER,
    PRODUCT,
    Plan,
    TargetStudy,
    finish_study,
    make_runs,
    multiple_runs,
    plan_study,
)
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import MEAN
from grasp_pipeline.proxy.runs import MemoryStore, job_of, measure
from grasp_pipeline.selection.candidates.families import COMPARISON_ARMS, FAMILIES, TWINS
from grasp_pipeline.selection.candidates.refit import REFIT
from grasp_pipeline.selection.certification.cross_fit import PICK_SEED

SETTINGS = toy_settings()
SIZE = SETTINGS.main


@pytest.fixture(scope="module")
def prepared() -> PreparedPool:
    return toy_pool()


@pytest.fixture(scope="module")
def plans(prepared: PreparedPool) -> list[Plan]:
    return [plan_study(prepared, target, SETTINGS, SIZE) for target in (TARGETS[0], MEAN)]


def test_documents_are_split_by_purpose_and_none_serves_two(prepared: PreparedPool) -> None:
    corpus = prepared.corpus
    assert corpus.tasks == tuple(TARGETS)
    assert prepared.targets == (*TARGETS, MEAN)
    purposes = [set(held.document.tolist()) for held in (corpus.query, corpus.judge, corpus.evaluation)]
    held = [{tuple(row.tolist()) for row in part.rows} for part in (corpus.query, corpus.evaluation)]
    assert all(purposes)
    assert not held[0] & held[1]
    assert len(np.unique(corpus.evaluation.document)) == len(corpus.evaluation.document)
    for code in range(len(TARGETS)):
        mine = prepared.fold[corpus.evaluation.task == code]
        assert [int((mine == fold).sum()) for fold in (0, 1, SEALED)] == [4, 4, 6]


def test_a_split_depends_on_its_name_and_refuses_too_few_documents() -> None:
    task = np.repeat(np.arange(2), 20)
    first, second = split_documents(task, 8, "a"), split_documents(task, 8, "b")
    assert np.array_equal(first, split_documents(task, 8, "a"))
    assert not np.array_equal(first, second)
    with pytest.raises(ConfigError, match="raise sealed_documents"):
        split_documents(task, 19, "a")


def test_targets_are_sources_that_hold_documents_out(prepared: PreparedPool) -> None:
    with pytest.raises(ConfigError, match="target 'nowhere'"):
        restrict(prepared.corpus, ["nowhere"])
    wrong = toy_settings(targets={"toy": ["nowhere"]})
    with pytest.raises(ConfigError, match="nowhere"):
        prepare_pool("toy", DOCUMENTS, wrong, wrong.main, 0)


def test_every_comparison_arm_and_further_candidates_take_part(
    prepared: PreparedPool, plans: list[Plan]
) -> None:
    for plan in plans:
        names = [finalist.name for finalist in plan.finalists]
        assert len(set(names)) == len(names)
        assert set(COMPARISON_ARMS) - {"random-deduplicated"} <= set(names)
        assert {"conditional", "blend", "surrogate-blend-1-twice"} <= set(names)
        assert set(plan.groups) == {PRODUCT, FURTHER}
        assert len(np.unique(np.packbits(plan.membership, axis=1), axis=0)) == len(names)
        assert all(values.shape == (len(names),) for values in plan.scores.values())
        for finalist in plan.finalists:
            if finalist.name != "full":
                spent = finalist.repeats * int(prepared.corpus.n_tokens[finalist.membership].sum())
                assert prepared.budget - 32 < spent <= prepared.budget, finalist.name


def test_a_shortlist_keeps_the_comparison_arms_and_the_best_judged(
    prepared: PreparedPool, plans: list[Plan]
) -> None:
    size = SIZE.model_copy(update={"shortlist": 2})
    short, whole = plan_study(prepared, MEAN, SETTINGS, size), plans[1]
    names = [finalist.name for finalist in short.finalists]
    every = [finalist.name for finalist in whole.finalists]
    judged = dict(zip(every, whole.scores["judge"], strict=True))
    best = sorted(judged, key=lambda name: -judged[name])
    assert set([name for name in best if name not in (*COMPARISON_ARMS, *TWINS)][:2]) <= set(names)
    assert set([name for name in best if name in TWINS][:2]) == set(names) & set(TWINS)
    assert len(set(names) - set(COMPARISON_ARMS)) <= 5
    assert set(COMPARISON_ARMS) & set(every) <= set(names)


def test_a_score_beside_the_views_adds_its_mean_to_the_surrogate(prepared: PreparedPool) -> None:
    given = prepared.context(MEAN)
    score = np.linspace(-1, 1, prepared.corpus.n)
    blocks, target = scored_view(given, score, 2.0)
    plain, direction = scored_view(given, score, 0.0)
    dense = np.concatenate([part for _, part in blocks]).astype(np.float64)
    without = np.concatenate([part for _, part in plain]).astype(np.float64) @ direction
    gained = dense @ target - without
    assert np.corrcoef(gained, score)[0, 1] > 0.9999
    assert gained.std() == pytest.approx(2.0 * without.std(), rel=1e-3)
    assert np.abs(dense[:, -1]).max() < 0.01


def test_the_conditional_arm_prefers_chunks_like_the_query(prepared: PreparedPool) -> None:
    target = TARGETS[0]
    arm = FAMILIES["conditional"].candidate(prepared.context(target))
    assert arm is not None
    sources = sorted(set(DOCUMENTS["source"].to_list()))
    mine = prepared.corpus.source == sources.index(target)
    assert arm.membership[mine].mean() > 1.5 * arm.membership.mean()


def test_runs_are_made_once_and_kept(prepared: PreparedPool, plans: list[Plan], tmp_path: Path) -> None:
    said: list[str] = []
    runs = prepared.runs(tmp_path)
    make_runs(prepared, plans, SIZE, runs, "toy", said.append)
    assert f"{len(runs.values)} retrainings ahead" in said[0]
    again = prepared.runs(tmp_path)
    make_runs(prepared, plans, SIZE, again, "toy", said.append)
    assert "; 0 retrainings ahead" in said[-1]
    assert len(again.values) == len(runs.values)
    row = plans[0].membership[3]
    slow = measure(prepared.trainer, prepared.corpus, row[None], [PICK_SEED], MemoryStore(), "twin")[0, :, 0]
    fast = prepared.corpus.evaluation.task_means(
        again.values[job_of(prepared.corpus, row, PICK_SEED).run], len(TARGETS)
    )
    np.testing.assert_allclose(fast, -slow, atol=1e-5)

    again.make(multiple_runs(prepared, 2), "toy")
    study = finish_study(prepared, "main/toy/0/x", plans[0], SIZE, again, {2: again})
    assert study.losses.shape == (len(study.arms), 1 + SIZE.sealed_seeds, len(prepared.fold))
    assert study.draws.shape == (SIZE.random_draws, 1 + SIZE.sealed_seeds, len(prepared.fold))
    assert np.isfinite(study.losses).all()
    assert study.arms[0] == "full"
    path = tmp_path / "case.npz"
    study.save(path)
    read = TargetStudy.load(path)
    for field in fields(TargetStudy):
        one, other = getattr(study, field.name), getattr(read, field.name)
        if isinstance(one, dict):
            assert list(one) == list(other)
            one, other = np.array(list(one.values())), np.array(list(other.values()))
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=field.name)


def test_contests_are_held_as_the_product_holds_them(prepared: PreparedPool, tmp_path: Path) -> None:
    """Shortlist, refit and fresh runs; what refits lack is made in rounds, once, and a second time nothing is."""
    size = SETTINGS.coverage
    plan = plan_study(prepared, MEAN, SETTINGS, size)
    runs = prepared.runs(tmp_path)
    make_runs(prepared, [plan], size, runs, "toy")
    study = finish_study(prepared, "coverage/toy/0/mean", plan, size, runs, {})
    before = len(runs.values)
    settings = toy_settings(coverage_repeats=6)
    (repeats,) = hold_repeats(prepared, [plan], [study], runs, settings, size, PRODUCT)
    assert len(runs.values) > before, "no refit was retrained"
    again = prepared.runs(tmp_path)
    assert hold_repeats(prepared, [plan], [study], again, settings, size, PRODUCT) == [repeats]
    assert len(again.values) == len(runs.values)
    beside = size.random_draws + len(plan.finalists)
    assert {repeat.retrains - beside for repeat in repeats} <= {2, 3, 4, 5, 6}
    assert any(repeat.retrains - beside in (3, 5, 6) or repeat.arm.startswith(REFIT) for repeat in repeats)
    assert all(np.isfinite([repeat.truth, repeat.lower]).all() for repeat in repeats)
    save_repeats(tmp_path / "contests.npz", repeats)
    assert load_repeats(tmp_path / "contests.npz") == repeats
    (tmp_path / "contests.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="batch of contests"):
        load_repeats(tmp_path / "contests.npz")


def test_a_damaged_batch_is_named(prepared: PreparedPool, tmp_path: Path) -> None:
    runs = prepared.runs(tmp_path)
    runs.make([job_of(prepared.corpus, np.ones(prepared.corpus.n, dtype=bool), 0)], "toy")
    path = next(tmp_path.rglob("*.npz"))
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=path.name):
        prepared.runs(tmp_path)
