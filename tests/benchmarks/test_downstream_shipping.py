"""What ships and how it fares, on made-up losses where the answer is known; ranks, regret and coverage likewise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from downstream_toys import made_up_study

from benchmarks.downstream.coverage import repeat_contest
from benchmarks.downstream.ranks import (
    MEASURED,
    cross_fitted_regret,
    finalist_spearman,
    mean_interval,
    picked_from_shortlist,
    shortlist_regret,
    truth_of,
)
from benchmarks.downstream.shipping import (
    interpolate,
    margins,
    paired_bound,
    sealed,
    shipped,
    target_loss,
    token_multiplier,
    without,
)
from benchmarks.downstream.target_study import FURTHER, PRODUCT
from grasp_pipeline.names import RANDOM
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.families import COMPARISON_ARMS
from grasp_pipeline.selection.certification.cross_fit import BEST_SIMPLE, Entrants, Runs, cross_fit
from grasp_pipeline.selection.certification.evidence import Evidence


def test_the_best_measured_finalist_ships_and_beats_every_arm() -> None:
    study = made_up_study(noise=0.002)
    ship = shipped(study, 4)
    assert study.arms[ship] == "surrogate-0"
    found = {margin.arm: margin for margin in margins(study, ship)}
    assert list(found) == [RANDOM, *COMPARISON_ARMS]
    assert found[RANDOM].margin == pytest.approx(0.2, abs=0.01)
    assert found["dsir"].margin == pytest.approx(0.1, abs=0.01)
    assert all(0 < margin.lower < margin.margin for margin in found.values())


def test_other_methods_may_repeat_their_text_too() -> None:
    """A repeated arm of ours is compared with theirs repeated, so what repeats bring is not counted as ours."""
    study = made_up_study(noise=0.002)
    arms = tuple("dsir-twice" if arm == "surrogate-1" else arm for arm in study.arms)
    repeated = replace(study, arms=arms)
    found = {margin.arm: margin.margin for margin in margins(repeated, shipped(repeated, 4))}
    assert min(found, key=lambda arm: found[arm]) == "dsir-twice"
    assert found["dsir-twice"] == pytest.approx(0.02, abs=0.01)
    assert min(value for arm, value in found.items() if arm != "dsir-twice") == pytest.approx(0.1, abs=0.01)


def test_an_arm_has_no_margin_over_itself() -> None:
    study = made_up_study(candidate=0.3, noise=0.002)
    ship = shipped(study, 4)
    own = next(margin for margin in margins(study, ship) if margin.arm == study.arms[ship])
    assert study.arms[ship] in COMPARISON_ARMS
    assert own.margin == own.lower == 0


def test_only_the_asked_group_enters() -> None:
    study = made_up_study(candidate=-0.2, noise=0.002)
    lucky = without(study, ["surrogate-0", "surrogate-1", "surrogate-2"])
    assert lucky.arms[shipped(lucky, 4)] == "blend-twice"
    assert lucky.arms[shipped(lucky, 4, PRODUCT)] in COMPARISON_ARMS
    assert lucky.groups.count(FURTHER) == 1


def test_the_pick_reads_no_sealed_document_and_the_margin_no_calibration_document() -> None:
    study = made_up_study(noise=0.002)
    before = [m.margin for m in margins(study, shipped(study, 4))]
    study.losses[:, :, sealed(study)] += generator("spoilt").standard_normal((len(study.arms), 1, 1))
    assert study.arms[shipped(study, 4)] == "surrogate-0"
    other = made_up_study(noise=0.002)
    other.losses[:, 1:, ~sealed(other)] += 9
    assert [m.margin for m in margins(other, shipped(other, 4))] == before


def test_the_paired_bound_covers() -> None:
    """The bound on a known difference holds in about 95% of made-up cases, and on average lies below it."""
    bounds = []
    for seed in range(200):
        study = made_up_study(seed, noise=0.05, documents=30, target="a")
        difference = study.losses[2, 1:] - study.losses[-4, 1:]
        bounds.append(paired_bound(study, difference, sealed(study))[1])
    held = np.mean(np.array(bounds) <= 0.1)
    assert 0.92 <= held <= 1.0
    assert np.mean(bounds) > -0.05


def test_tokens_random_needs_are_interpolated_and_never_extrapolated() -> None:
    assert interpolate([1, 2, 4], [4.0, 3.0, 2.0], 2.5).value == pytest.approx(2 * 2**0.5)
    assert interpolate([1, 2, 4], [4.0, 3.0, 2.0], 4.5).value == 1
    assert interpolate([1, 2, 4], [4.0, 3.0, 2.0], 2.0) == interpolate([1, 2, 4], [4.0, 3.5, 2.0], 2.0)
    beyond = interpolate([1, 2, 4], [4.0, 3.0, 2.0], 1.0)
    assert (beyond.value, beyond.beyond) == (4, True)
    study = made_up_study(noise=0.001)
    assert token_multiplier(study, shipped(study, 4)).value == pytest.approx(2 ** (1 + 1 / 3), rel=0.05)


def test_target_losses_weigh_tokens_within_a_task_and_tasks_alike() -> None:
    study = made_up_study(target="mean")
    alone = {
        task: target_loss(made_up_study(target=task), study.losses, sealed(study)) for task in ("a", "b")
    }
    np.testing.assert_allclose(
        target_loss(study, study.losses, sealed(study)), (alone["a"] + alone["b"]) / 2, atol=1e-12
    )
    mine = sealed(study) & (study.document_task == "a")
    slow = np.average(study.losses[0, 0, mine], weights=study.document_tokens[mine])
    assert alone["a"][0, 0] == pytest.approx(slow)


def test_ranks_and_regret_of_known_scores() -> None:
    study = made_up_study(noise=0.0005)
    assert finalist_spearman(study, "judge") > 0.7
    assert finalist_spearman(study, "own") < -0.7
    assert finalist_spearman(study, MEASURED) > 0.7  # six simple arms are alike
    assert shortlist_regret(study, 4) == pytest.approx(0, abs=0.002)
    assert shortlist_regret(study, 4, "own") == pytest.approx(0.1, abs=0.01)
    mean, low, high = mean_interval([0.1, 0.2, 0.3], generator("interval"))
    assert mean == pytest.approx(0.2)
    assert 0.1 <= low < mean < high <= 0.3


def test_the_luck_of_the_best_is_in_the_plain_regret_and_not_in_the_cross_fitted_one() -> None:
    plain, fitted, real = [], [], []
    for seed in range(60):
        study, quiet = made_up_study(seed, noise=0.8), made_up_study(seed, noise=0.0)
        value = truth_of(quiet)
        plain.append(shortlist_regret(study, 4))
        fitted.append(cross_fitted_regret(study, 4))
        real.append(value[study.optimised].max() - value[picked_from_shortlist(study, 4)])
    assert np.mean(plain) > np.mean(real) + 0.02
    assert np.mean(fitted) <= np.mean(real) + 0.01
    assert np.mean(plain) > np.mean(fitted)


def test_the_contest_asks_for_one_run_each_then_for_refits_then_for_fresh_runs() -> None:
    study = made_up_study(noise=0.001)
    asked: list[Runs] = []

    def measure(runs: Runs) -> Evidence:
        asked.append({arm: list(each) for arm, each in runs.items()})
        used = ~sealed(study)
        levels = {"good": 2.0, "refit": 1.0, "full": 3.0, RANDOM: 3.5}
        losses = {
            arm: np.stack([np.full(used.sum(), levels[arm] + 0.01 * i) for i in range(len(each))])
            for arm, each in runs.items()
        }
        return Evidence(losses, study.document_tokens[used], study.fold[used], study.document_task[used])

    entrants = Entrants(["full", "good"], ["full", "good"], ["full"], ["random-0", "random-1", "random-2"])
    contest = cross_fit(entrants, measure, "mean", ["mean", "a"], 100, refit=lambda _: {"refit": 0})
    assert [sum(map(len, runs.values())) for runs in asked] == [5, 6, 10]
    assert contest.picks.by_fold == ("refit", "good")
    assert [(name, found.task) for name, found in contest.certificates] == [
        (name, task) for task in ("mean", "a") for name in (RANDOM, BEST_SIMPLE, "full")
    ]
    assert len({seed for each in asked[-1].values() for _, seed in each}) == 6


def test_repeated_contests_cover_a_known_improvement() -> None:
    repeats = [
        repeat_contest(made_up_study(seed, noise=0.03, name=f"coverage/toy/{seed}"), number, 2, 4, 20, 100)
        for seed in range(30)
        for number in range(2)
    ]
    assert np.mean([repeat.covered for repeat in repeats]) >= 0.85
    assert np.mean([repeat.truth for repeat in repeats]) == pytest.approx(0.19, abs=0.02)
    assert {repeat.retrains for repeat in repeats} <= {
        len(COMPARISON_ARMS) + 2 + 4 + fresh for fresh in (2, 4)
    }
    assert len({repeat.lower for repeat in repeats}) == len(repeats)
    first = made_up_study(0, noise=0.03, name="coverage/toy/0")
    assert repeat_contest(first, 0, 2, 4, 20, 100) == repeats[0]
