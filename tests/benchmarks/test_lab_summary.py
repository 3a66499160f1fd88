"""Summaries over made-up cells against loops over cells, strata, methods, tasks and resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, rankdata

import benchmarks.laboratory.summary as laboratory_summary
from benchmarks.laboratory.summary import (
    ALL,
    OWN_TARGET,
    TAILS,
    Row,
    choice_regret,
    rows_of,
    sample,
    strata_of,
    strongest_forms,
)
from grasp_pipeline.calibration.ceiling import seed_reliability
from grasp_pipeline.calibration.grid import build_grid
from grasp_pipeline.calibration.intervals import strata_groups
from grasp_pipeline.calibration.lcb import Choice, choose_configuration
from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.errors import InputError
from grasp_pipeline.evaluation.experiment import SELECTED, CellResult
from grasp_pipeline.seeds import generator

TASKS = ("code", "french", "news")
PERFECT = ("datamodel on the mask", "sum")
SIGMA = {
    SELECTED: 0.6,
    ("GradDot", "mean"): 1.0,
    ("GradDot", "sum"): 2.0,
    ("TRAK, tuned damping", "mean"): 3.0,
    ("TRAK, tuned damping", "sum"): 1.2,
    ("judge", "mean"): 1.5,
    ("second-order group influence", "mean"): 0.8,
    PERFECT: 0.0,
}
"""Methods, and how much noise each adds to the measured utilities."""

CALIBRATION = ("uniform",) * 5 + ("tilted",) * 9 + (OPTIMISED,) * 3
RESAMPLES = 15


def made_up(name: str, random: dict[str, int], finalists: dict[int, int]) -> CellResult:
    """Return a cell of given numbers of random subsets by stratum and of finalists by task."""
    rng = generator("made-up cell", name)
    strata = tuple(s for s, count in random.items() for _ in range(count)) + (OPTIMISED,) * sum(
        finalists.values()
    )
    target = np.array(
        [-1] * sum(random.values()) + [t for t, count in finalists.items() for _ in range(count)]
    )
    m = len(strata)
    utilities = rng.normal(size=(m, len(TASKS), 1)) + 0.3 * rng.normal(size=(m, len(TASKS), 2))
    measured = utilities.mean(axis=2)
    predictions = {key: measured + sigma * rng.normal(size=measured.shape) for key, sigma in SIGMA.items()}
    predictions["GradDot", "mean"] = predictions["GradDot", "mean"].round()
    configurations = tuple(build_grid(["full"], (0.0, 1.0), (0.0, 0.7)))
    calibration = rng.normal(size=(len(CALIBRATION), len(TASKS)))
    noise = 0.5 + np.arange(len(configurations))[::-1, None, None] / 4
    return CellResult(
        name=name,
        tasks=TASKS,
        strata=strata,
        target=target,
        utilities=utilities,
        predictions=predictions,
        kinds=dict.fromkeys(predictions, "full"),
        configurations=configurations,
        grid_calibration=calibration + noise * rng.normal(size=(len(configurations), *calibration.shape)),
        grid_evaluation=measured + noise * rng.normal(size=(len(configurations), *measured.shape)),
        calibration_strata=CALIBRATION,
        calibration=calibration,
        chosen=1,
        reason="made up",
        membership=rng.random((m, 50)) < 0.4,
        contaminated=3,
        seconds={},
    )


def method_rows(
    cells: Sequence[CellResult], strata: Iterable[str], resamples: int, seed_name: str
) -> list[Row]:
    """Return a row per stratum and method that every cell has."""
    return [
        row for stratum in strata for row in rows_of(sample(cells, stratum, resamples, seed_name), stratum)
    ]


@pytest.fixture(scope="module")
def cells() -> list[CellResult]:
    return [
        made_up("a/tiny/0", {"uniform": 9, "fixed_size": 6, "tilted": 8}, {0: 7, 2: 8}),
        made_up("b/tiny/0", {"uniform": 12, "fixed_size": 5, "tilted": 7}, {1: 9, 2: 6}),
    ]


@pytest.fixture(scope="module")
def rows(cells: list[CellResult]) -> list[Row]:
    return method_rows(cells, strata_of(cells), RESAMPLES, "test")


def slow_spearman(x: Sequence[float], y: Sequence[float]) -> float:
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def slow_parts(cell: CellResult, stratum: str) -> list[tuple[list[int], list[int]]]:
    """Return (subsets, tasks they are ranked by)."""
    every = range(len(cell.strata))
    if stratum == OWN_TARGET:
        return [
            ([i for i in every if cell.target[i] == task], [task])
            for task in range(len(TASKS))
            if task in cell.target
        ]
    return [([i for i in every if stratum in (ALL, cell.strata[i])], list(range(len(TASKS))))]


def slow_value(cell: CellResult, predicted: np.ndarray, parts: list[tuple[list[int], list[int]]]) -> float:
    """Return the mean over parts of the mean over tasks."""
    per_part = []
    for subsets, tasks in parts:
        each = []
        for t in tasks:
            truth = [sum(cell.utilities[i, t]) / cell.utilities.shape[2] for i in subsets]
            each.append(slow_spearman([predicted[i, t] for i in subsets], truth))
        per_part.append(sum(each) / len(each))
    return sum(per_part) / len(per_part)


@dataclass(frozen=True)
class Slow:
    """per_cell: value by cell; draws: (B,) means over cells."""

    per_cell: list[float]
    draws: np.ndarray


def slow_method(cells: Sequence[CellResult], key: tuple[str, str], stratum: str) -> Slow:
    """One method alone, resample by resample, each a list of subsets drawn with replacement."""
    values, draws = [], np.zeros(RESAMPLES)
    for cell in cells:
        parts = slow_parts(cell, stratum)
        values.append(slow_value(cell, cell.predictions[key], parts))
        rng = generator("test", cell.name, stratum)
        for subsets, tasks in parts:
            designs = [(cell.strata[i], int(cell.target[i])) for i in subsets]
            groups = [[subsets[i] for i in group] for group in strata_groups(designs, len(subsets))]
            which = [rng.integers(len(group), size=(RESAMPLES, len(group))) for group in groups]
            mine = np.array(
                [
                    slow_value(
                        cell,
                        cell.predictions[key],
                        [([g[i] for g, w in zip(groups, which, strict=True) for i in w[b]], tasks)],
                    )
                    for b in range(RESAMPLES)
                ]
            )
            wide = np.sqrt(len(subsets) / (len(subsets) - len(groups)))
            draws += (mine.mean() + wide * (mine - mine.mean())) / len(parts) / len(cells)
    return Slow(values, draws)


def slow_interval(value: float, draws: np.ndarray, limit: float = 1) -> tuple[float, float]:
    reach = norm.ppf(0.975) * draws.std()
    corrected = 2 * value - draws.mean()
    return max(-limit, corrected - reach), min(limit, corrected + reach)


def test_strata_are_named_all_first_and_the_finalists_by_their_own_task_last(
    cells: list[CellResult],
) -> None:
    assert strata_of(cells) == [ALL, "uniform", "fixed_size", "tilted", OPTIMISED, OWN_TARGET]
    random = made_up("c/tiny/0", {"tilted": 4}, {})
    assert strata_of([random]) == [ALL, "tilted"]
    assert strata_of([random, cells[0]]) == [ALL, "tilted", "uniform", "fixed_size", OPTIMISED, OWN_TARGET]


def test_there_is_a_row_per_stratum_and_shared_method(cells: list[CellResult], rows: list[Row]) -> None:
    assert [(row.stratum, row.key) for row in rows] == [
        (stratum, key) for stratum in strata_of(cells) for key in SIGMA
    ]
    alone = replace(
        cells[0], predictions=cells[0].predictions | {("LoGRA influence", "sum"): np.ones((38, 3))}
    )
    fewer = {key: cells[1].predictions[key] for key in reversed(SIGMA) if key != ("judge", "mean")}
    found = method_rows([alone, replace(cells[1], predictions=fewer)], [ALL], RESAMPLES, "test")
    assert [row.key for row in found] == [key for key in SIGMA if key != ("judge", "mean")]
    assert found == [row for row in rows if row.stratum == ALL and row.method != "judge"]


def test_rows_are_those_of_loops_over_cells_tasks_and_resamples(
    cells: list[CellResult], rows: list[Row]
) -> None:
    for stratum in strata_of(cells):
        slow = {key: slow_method(cells, key, stratum) for key in SIGMA}
        ours = slow[SELECTED]
        ceilings = [
            np.mean(
                [
                    seed_reliability(cell.utilities[np.ix_(subsets, tasks)]).noise_ceiling
                    for subsets, tasks in slow_parts(cell, stratum)
                ]
            )
            for cell in cells
        ]
        for row in [row for row in rows if row.stratum == stratum]:
            mine = slow[row.key]
            gains = ours.draws - mine.draws
            value, gain = np.mean(mine.per_cell), np.mean(ours.per_cell) - np.mean(mine.per_cell)
            low, high = slow_interval(float(value), mine.draws)
            gain_low, gain_high = slow_interval(float(gain), gains, 2)
            expected = {
                "value": value,
                "low": low,
                "high": high,
                "gain": gain,
                "gain_low": gain_low,
                "gain_high": gain_high,
                "least": min(mine.per_cell),
                "most": max(mine.per_cell),
                "ceiling": np.mean(ceilings),
                "cells": 2,
                "subsets": sum(len(part[0]) for cell in cells for part in slow_parts(cell, stratum)),
            }
            found = {name: getattr(row, name) for name in expected}
            assert found == pytest.approx(expected, abs=1e-9), f"{row.key} in {stratum}"


def test_a_perfect_method_has_value_1_and_the_surrogate_gains_nothing_over_it(rows: list[Row]) -> None:
    perfect = [row for row in rows if row.key == PERFECT]
    assert len(perfect) == 6
    for row in perfect:
        assert (row.value, row.low, row.high, row.least, row.most) == pytest.approx((1, 1, 1, 1, 1))
        assert row.gain_low <= row.gain <= 0
        assert row.value >= max(other.value for other in rows if other.stratum == row.stratum)


def test_the_surrogate_gains_exactly_nothing_over_itself(rows: list[Row]) -> None:
    mine = [row for row in rows if row.key == SELECTED]
    assert len(mine) == 6
    for row in mine:
        assert (row.gain, row.gain_low, row.gain_high) == (0, 0, 0)
        assert row.low < row.high


def test_intervals_contain_the_value_and_cells_surround_it(cells: list[CellResult]) -> None:
    found = method_rows(cells, strata_of(cells), 1000, "test")
    for row in found:
        assert row.low - 1e-12 <= row.value <= row.high + 1e-12, (row.key, row.stratum)
        assert row.gain_low - 1e-12 <= row.gain <= row.gain_high + 1e-12, (row.key, row.stratum)
        assert row.least <= row.value <= row.most
        assert 0 < row.ceiling <= 1
    worst = next(row for row in found if row.key == ("TRAK, tuned damping", "mean") and row.stratum == ALL)
    assert worst.gain_low > 0, "a method of five times the noise is worse beyond doubt"
    whole, small = (
        next(r for r in found if r.key == SELECTED and r.stratum == s) for s in (ALL, "fixed_size")
    )
    assert whole.high - whole.low < small.high - small.low


def test_gains_are_paired(cells: list[CellResult]) -> None:
    """A method that all but equals the surrogate has a far narrower gain than its own interval is wide."""
    twins = []
    for cell in cells:
        noise = generator("twin", cell.name).normal(size=cell.predictions[SELECTED].shape)
        twin = cell.predictions[SELECTED] + 0.01 * noise
        twins.append(replace(cell, predictions=cell.predictions | {("twin", "mean"): twin}))
    row = next(row for row in method_rows(twins, [ALL], 400, "test") if row.method == "twin")
    assert row.gain_high - row.gain_low < 0.2 * (row.high - row.low)


def test_finalists_are_ranked_by_their_own_task_alone(cells: list[CellResult]) -> None:
    """Perfect within every task's finalists by that task; upside down between the tasks and on every other one."""
    blind = []
    for cell in cells:
        measured = cell.utilities.mean(axis=2)
        own = -measured - 100.0 * np.arange(len(measured))[:, None] * np.sign(measured)
        for i, task in enumerate(cell.target.tolist()):
            if task >= 0:
                own[i, task] = measured[i, task] ** 3 - 50.0 * task
        blind.append(replace(cell, predictions=cell.predictions | {("own", "mean"): own}))
    found = {
        row.stratum: row for row in method_rows(blind, strata_of(blind), 100, "test") if row.method == "own"
    }
    assert (found[OWN_TARGET].value, found[OWN_TARGET].low) == pytest.approx((1, 1))
    assert found[OPTIMISED].value < 0.8
    assert found[OWN_TARGET].subsets == found[OPTIMISED].subsets == 30
    assert found[ALL].value < 0.5


@pytest.mark.parametrize("spoil", ["predictions", "utilities"])
def test_what_finalists_are_worth_for_other_tasks_does_not_count(cells: list[CellResult], spoil: str) -> None:
    def other(cell: CellResult) -> CellResult:
        foreign = cell.target[:, None] != np.arange(len(TASKS))
        noise = generator("foreign", cell.name).normal(size=foreign.shape)
        if spoil == "utilities":
            return replace(cell, utilities=np.where(foreign[:, :, None], noise[:, :, None], cell.utilities))
        spoiled = {key: np.where(foreign, noise, values) for key, values in cell.predictions.items()}
        return replace(cell, predictions=spoiled)

    before = method_rows(cells, [OWN_TARGET, OPTIMISED], RESAMPLES, "test")
    after = method_rows([other(cell) for cell in cells], [OWN_TARGET, OPTIMISED], RESAMPLES, "test")
    for one, two in zip(before, after, strict=True):
        if one.stratum == OWN_TARGET:
            one_ceiling, two_ceiling = replace(one, ceiling=0), replace(two, ceiling=0)
            assert one_ceiling == two_ceiling
            assert one.ceiling == two.ceiling
    changed = [
        one.value != two.value for one, two in zip(before, after, strict=True) if one.stratum == OPTIMISED
    ]
    assert any(changed)


def test_draws_go_by_name(cells: list[CellResult], rows: list[Row]) -> None:
    assert method_rows(cells, strata_of(cells), RESAMPLES, "test") == rows
    one = method_rows(cells, ["tilted"], RESAMPLES, "test")
    assert one == [row for row in rows if row.stratum == "tilted"], "strata do not depend on each other"
    others = method_rows(cells, [ALL], RESAMPLES, "another")
    for row, other in zip([row for row in rows if row.stratum == ALL], others, strict=True):
        assert row.value == other.value
        assert (row.low != other.low) == (row.key != PERFECT)


def test_a_sample_gives_values_draws_and_intervals(cells: list[CellResult], rows: list[Row]) -> None:
    found = sample(cells, "tilted", RESAMPLES, "test")
    assert found.keys == tuple(SIGMA)
    assert found.observed.shape == (2, len(SIGMA))
    assert found.drawn.shape == (RESAMPLES, len(SIGMA))
    for row in [row for row in rows if row.stratum == "tilted"]:
        value, draws = found.column(row.key)
        low, high = found.interval(value, draws)
        assert (value, max(low, -1), min(high, 1)) == (row.value, row.low, row.high)


def test_what_one_method_loses_against_another_is_paired(cells: list[CellResult]) -> None:
    found = sample(cells, ALL, RESAMPLES, "test")
    whole, reduced = ("GradDot", "mean"), ("TRAK, tuned damping", "mean")
    value, low, high = found.lost(whole, reduced)
    places = [found.keys.index(key) for key in (whole, reduced)]
    assert value == pytest.approx(np.subtract(*(found.observed[:, k].mean() for k in places)))
    drawn = [draw[places[0]] - draw[places[1]] for draw in found.drawn]
    assert (low, high) == pytest.approx(slow_interval(value, np.array(drawn), 2))
    assert found.lost(whole, whole) == (0, 0, 0)


def test_no_cells_say_what_to_do() -> None:
    for ask in (
        lambda: method_rows([], strata_of([]), RESAMPLES, "test"),
        lambda: sample([], ALL, RESAMPLES, "test"),
    ):
        with pytest.raises(InputError, match=r"no finished cells to summarise; run the laboratory first"):
            ask()


def test_the_stronger_form_of_every_method_counts(rows: list[Row]) -> None:
    for stratum in (ALL, "fixed_size", OWN_TARGET):
        mine = [row for row in rows if row.stratum == stratum]
        best = strongest_forms(rows, stratum)
        assert {row.method for row in best} == {row.method for row in mine}
        assert len(best) == len({row.method for row in best}) == len(SIGMA) - 2
        for row in best:
            assert row.value == max(other.value for other in mine if other.method == row.method)
            assert row in mine
        assert [row.value for row in best] == sorted((row.value for row in best), reverse=True)
    forms = {row.method: row.form for row in strongest_forms(rows, ALL)}
    assert (forms["GradDot"], forms["TRAK, tuned damping"]) == ("mean", "sum"), "those with less noise"
    assert strongest_forms(rows, "no such stratum") == []


def test_the_first_of_two_equal_forms_counts(rows: list[Row]) -> None:
    mean = next(row for row in rows if row.key == ("GradDot", "mean") and row.stratum == ALL)
    both = [replace(mean, form="sum"), mean]
    assert strongest_forms(both, ALL) == both[:1]
    assert strongest_forms(both[::-1], ALL) == [mean]


@pytest.mark.parametrize(
    ("method", "ours", "additive"),
    [
        ("surrogate", True, False),
        ("surrogate, second sketch seed", True, False),
        ("judge", True, False),
        ("second-order group influence", False, False),
        ("quadratic only", False, False),
        ("GradDot", False, True),
        ("additive + log(distinct)", False, True),
        ("random", False, True),
    ],
)
def test_methods_are_ours_additive_or_neither(
    rows: list[Row], method: str, ours: bool, additive: bool
) -> None:
    row = replace(rows[0], method=method)
    assert (row.ours, row.additive_baseline) == (ours, additive)


@dataclass(frozen=True)
class Asked:
    """One choice: the calibration subsets it was made from and its outcome."""

    cell: CellResult
    rows: list[int]
    choice: Choice


@pytest.fixture
def asked(cells: list[CellResult], monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Every choice that is made, as it happens; subsets are told by their utilities."""
    made: list[Asked] = []

    def watched(configurations: Any, predictions: Any, utilities: Any, *rest: Any) -> Choice:
        cell = next(cell for cell in cells if utilities[0] in cell.calibration)
        rows = [cell.calibration.tolist().index(each) for each in utilities.tolist()]
        np.testing.assert_array_equal(predictions, cell.grid_calibration[:, rows])
        choice = choose_configuration(configurations, predictions, utilities, *rest)
        made.append(Asked(cell, rows, choice))
        return choice

    monkeypatch.setattr(laboratory_summary, "choose_configuration", watched)
    return made


def test_regret_is_that_of_loops_over_cells_and_choices(cells: list[CellResult], asked: list[Asked]) -> None:
    regret = choice_regret(cells, 8, 5, 0.8, "test")
    assert [each.cell.name for each in asked] == ["a/tiny/0"] * 5 + ["b/tiny/0"] * 5
    per_cell: dict[str, list[float]] = {cell.name: [] for cell in cells}
    for each in asked:
        cell = each.cell
        truth = [slow_value(cell, grid, slow_parts(cell, ALL)) for grid in cell.grid_evaluation]
        per_cell[cell.name].append(max(truth) - truth[each.choice.chosen])
    means = [np.mean(values) for values in per_cell.values()]
    assert regret.subsets == 8
    assert regret.mean == pytest.approx(np.mean(means), abs=1e-9)
    assert (regret.low, regret.high) == pytest.approx(tuple(np.quantile(means, TAILS)), abs=1e-9)
    assert regret.low <= regret.mean <= regret.high
    assert regret.mean > 0
    lams = [each.choice.configurations[each.choice.chosen].lam for each in asked]
    assert regret.adopted == pytest.approx(sum(lam > 0 for lam in lams) / len(lams))


@pytest.mark.parametrize("subsets", [3, 8, 9, 12, 16])
def test_choices_are_made_from_an_even_share_of_the_strata(
    cells: list[CellResult], asked: list[Asked], subsets: int
) -> None:
    """As even as the numbers of subsets allow: 5 uniform, 9 tilted, 3 towards a task."""
    choice_regret(cells, subsets, 6, 0.8, "test")
    held = {stratum: CALIBRATION.count(stratum) for stratum in CALIBRATION}
    even = dict.fromkeys(held, 0)
    while sum(even.values()) < subsets:
        for stratum in held:
            if even[stratum] < held[stratum] and sum(even.values()) < subsets:
                even[stratum] += 1
    for each in asked:
        assert each.rows == sorted(set(each.rows))
        assert {s: [CALIBRATION[i] for i in each.rows].count(s) for s in held} == even
    assert len({(each.cell.name, *each.rows) for each in asked}) > 6, "they are drawn anew"


def test_more_subsets_than_there_are_are_all_there_are(cells: list[CellResult], asked: list[Asked]) -> None:
    regret = choice_regret(cells, 99, 2, 0.8, "test")
    assert all(each.rows == list(range(len(CALIBRATION))) for each in asked)
    assert regret.subsets == 99


def alike(cell: CellResult) -> CellResult:
    """Every configuration predicts what the first one does."""
    return replace(
        cell,
        grid_calibration=np.broadcast_to(cell.grid_calibration[:1], cell.grid_calibration.shape),
        grid_evaluation=np.broadcast_to(cell.grid_evaluation[:1], cell.grid_evaluation.shape),
    )


def penalised(cell: CellResult) -> CellResult:
    """Configurations with a penalty know the truth, the others its opposite."""
    sign = np.array([1.0 if c.lam > 0 else -1.0 for c in cell.configurations])[:, None, None]
    return replace(
        cell,
        grid_calibration=sign * cell.calibration,
        grid_evaluation=sign * cell.utilities.mean(axis=2),
    )


@pytest.mark.parametrize(("change", "adopted"), [(alike, 0.0), (penalised, 1.0)])
def test_there_is_no_regret_where_all_predict_the_same_or_the_best_is_plain(
    cells: list[CellResult], change: Callable[[CellResult], CellResult], adopted: float
) -> None:
    regret = choice_regret([change(cell) for cell in cells], 10, 3, 0.8, "test")
    assert (regret.mean, regret.low, regret.high) == (0, 0, 0)
    assert regret.adopted == adopted


def test_the_price_of_a_calibration_that_misleads_is_the_whole_difference(cells: list[CellResult]) -> None:
    """What is right on the calibration subsets is wrong on the evaluation subsets."""
    misled = [replace(penalised(cell), grid_evaluation=-penalised(cell).grid_evaluation) for cell in cells]
    regret = choice_regret(misled, 10, 3, 0.8, "test")
    assert (regret.mean, regret.low, regret.high) == pytest.approx((2, 2, 2))


def test_choices_go_by_name(cells: list[CellResult]) -> None:
    assert choice_regret(cells, 8, 4, 0.8, "test") == choice_regret(cells, 8, 4, 0.8, "test")
    both = choice_regret(cells, 8, 4, 0.8, "test")
    each = [choice_regret([cell], 8, 4, 0.8, "test") for cell in cells]
    assert both.mean == pytest.approx(np.mean([one.mean for one in each]))
    assert all(one.low == one.mean == one.high for one in each)


def test_cells_of_different_protocols_are_not_mixed(cells: list[CellResult]) -> None:
    other = replace(cells[0], name="other/tiny/0", strata=("uniform",) * len(cells[0].strata))
    missing = next(stratum for stratum in cells[0].strata if stratum != "uniform")
    with pytest.raises(InputError, match=f"cell other/tiny/0 has no subsets of the stratum {missing}"):
        sample([*cells, other], missing, 10, "test")
    assert sample([*cells, other], "all", 10, "test").subsets == sum(len(c.strata) for c in [*cells, other])
