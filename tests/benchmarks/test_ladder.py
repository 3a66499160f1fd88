"""The ladder: what a pick on a small size loses at the whole budget, and a toy pool climbed once and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from downstream_toys import DOCUMENTS, TARGETS, made_up_study, toy_pool, toy_settings

from benchmarks.downstream.ladder import (
    WHOLE,
    Ladder,
    climb,
    entered,
    figures,
    ground_names,
    load_ladders,
    run_ground,
)
from benchmarks.downstream.settings import LadderSettings
from benchmarks.downstream.shipping import sealed, target_loss
from benchmarks.downstream.target_study import Plan, plan_study
from benchmarks.published import Figure
from grasp_pipeline.selection.candidates.families import COMPARED


def made_up(worse_at_small: float = 0.0) -> Ladder:
    """Return a case whose truly best arm looks worse, by this many nats, on the smaller size."""
    whole = made_up_study(noise=1e-4)
    best = whole.arms.index("surrogate-0")
    losses = whole.losses.copy()
    losses[best] += worse_at_small
    return Ladder({0.1: replace(whole, losses=losses), WHOLE: whole})


def test_an_order_that_holds_loses_nothing() -> None:
    ladder = made_up()
    assert ladder.lost(0.1) == pytest.approx(0, abs=1e-12)
    assert ladder.agreement(0.1) == pytest.approx(1)
    assert abs(ladder.lost_cross_fitted(0.1)) < 1e-3


def test_a_pick_that_misses_the_best_loses_what_lies_between() -> None:
    ladder = made_up(0.5)
    pick = int(np.argmin(ladder.calibration(0.1)))
    assert ladder.whole.arms[pick] == "surrogate-1"
    truth = target_loss(ladder.whole, ladder.whole.losses[:, 1:], sealed(ladder.whole)).mean(axis=1)
    assert ladder.lost(0.1) == pytest.approx(truth[pick] - truth.min())
    assert ladder.lost(0.1) == pytest.approx(0.02, abs=2e-3)
    assert ladder.lost(WHOLE) == pytest.approx(0, abs=1e-12)
    assert ladder.agreement(0.1) < 1


def test_several_runs_pick_by_their_mean() -> None:
    """The first run of the scale model is unlucky; the mean of all its runs finds the best."""
    ladder = made_up(0.5)
    study = ladder.rungs[0.1]
    runs = study.losses.shape[1]
    losses = np.repeat(ladder.whole.losses[:, :1], runs, axis=1).copy()
    losses[:, 0] = study.losses[:, 0]
    unlucky = Ladder({0.1: replace(study, losses=losses), WHOLE: ladder.whole})
    slow = np.mean([target_loss(study, losses[:, run], study.fold >= 0) for run in range(runs)], axis=0)
    np.testing.assert_allclose(unlucky.calibration(0.1, runs), slow)
    assert unlucky.lost(0.1) > 0.01
    assert unlucky.lost(0.1, runs) == pytest.approx(
        float(unlucky.sealed().mean(axis=1)[int(slow.argmin())] - unlucky.sealed().mean(axis=1).min())
    )
    named = f"downstream.order_kept[picked by {runs} runs at 0.1 of the clusters]"
    assert named in {each.figure for each in figures([unlucky])}


def test_figures_count_cases_and_bound_the_gains() -> None:
    by_name = {each.figure: each for each in figures([made_up(), made_up(0.5)])}
    kept = by_name["downstream.order_kept"]
    assert isinstance(kept, Figure)
    assert kept.value == 0.5
    assert "1 of 2 cases" in kept.note
    assert by_name["downstream.order_kept[picked at 1 of the clusters]"].value == 1
    gain = by_name["downstream.gain_over_dsir"]
    assert gain.value == pytest.approx(0.1, abs=5e-3)
    assert "2 of 2 cases" in gain.note


def settings() -> LadderSettings:
    """Return a ladder over the toy pool."""
    toy = toy_settings().model_dump(exclude={"coverage", "coverage_repeats"})
    toy["main"] |= {"steps": 40, "extended": False, "multiples": []}
    return LadderSettings.model_validate(toy | {"shares": [0.5], "arms": 5})


def test_a_toy_pool_is_climbed_once(tmp_path: Path) -> None:
    given, prepared = settings(), toy_pool()
    plan = plan_study(prepared, prepared.targets[0], given, given.main)
    kept = entered(plan, given.arms)
    names = [plan.finalists[i].name for i in kept]
    assert len(names) == 5
    assert {"dsir", "dsir-twice"} & set(names)
    assert any(name not in COMPARED for name in names)
    plan = Plan(
        plan.target,
        plan.context,
        [plan.finalists[i] for i in kept],
        [plan.groups[i] for i in kept],
        {name: values[kept] for name, values in plan.scores.items()},
    )
    first = climb(prepared, plan, given, tmp_path, "toy/0")
    assert set(first.rungs) == {0.5, WHOLE}
    assert first.whole.losses.shape[:2] == (5, 1 + given.main.sealed_seeds)
    assert not np.allclose(first.rungs[0.5].losses, first.whole.losses)
    files = sorted(tmp_path.rglob("*.npz"))
    again = climb(prepared, plan, given, tmp_path, "toy/0")
    assert sorted(tmp_path.rglob("*.npz")) == files
    np.testing.assert_array_equal(again.whole.losses, first.whole.losses)


def test_bad_rungs_are_refused() -> None:
    whole = settings().model_dump()
    with pytest.raises(ValueError, match="between 0 and 1"):
        LadderSettings.model_validate(whole | {"shares": [1.0]})
    with pytest.raises(ValueError, match="fewer than 10 steps"):
        LadderSettings.model_validate(whole | {"shares": [0.1]})


def test_a_pool_is_run_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRASP_STORE", str(tmp_path / "store"))
    file = tmp_path / "toy.parquet"
    DOCUMENTS.write_parquet(file)
    given = settings().model_copy(update={"corpora": {"toy": str(file)}, "targets": {"toy": TARGETS[:1]}})
    assert ground_names(given) == ["toy/0"]
    run_ground(given, "toy/0")
    ladders = load_ladders(given)
    assert [ladder.whole.target for ladder in ladders] == [TARGETS[0], "mean"]
    assert {"downstream.order_kept", "downstream.gain_over_dsir"} <= {row.figure for row in figures(ladders)}
    files = sorted(tmp_path.rglob("*.npz"))
    run_ground(given, "toy/0")
    assert sorted(tmp_path.rglob("*.npz")) == files
