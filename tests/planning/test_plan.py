"""The cost model: a line through two measured runs, followed to the whole corpus."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.graph import curated
from assets.stages import STAGES
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.planning.costs import COSTS, WORK, Amounts, Line, fit
from grasp_pipeline.planning.plan import Model, Pilot, plan_json, refuse_small_disk, totals

SMALL = Amounts(
    text_bytes=1e5,
    documents=100,
    tokens=2e4,
    chunks=200,
    task_bytes=1e4,
    held_out={"calibration": 1_000, "evaluation": 800},
    kinds=1,
    reference_tokens=4_000,
    retrain_tokens=1_000,
    finalist_tokens=1_000,
    calibration_runs=16,
    evaluation_runs=16,
    finalist_runs=20,
    arm_runs=8,
    subsets=16,
    tokenizer_bytes=1e5,
    conditional=True,
)
LARGE = replace(
    SMALL,
    text_bytes=4e5,
    documents=400,
    tokens=8e4,
    chunks=800,
    task_bytes=2e4,
    reference_tokens=16_000,
    retrain_tokens=4_000,
    finalist_tokens=4_000,
    tokenizer_bytes=4e5,
)
WHOLE = replace(LARGE, text_bytes=4e8, documents=4e5, tokens=8e7, chunks=8e5, calibration_runs=48, subsets=40)
LOADING = 0.5
CURATED = [name for name, stage in STAGES.items() if not curated().isdisjoint(stage.writes)]

amounts = st.floats(0, 1e12)


def pilot(of: Amounts, line: Line) -> Pilot:
    """Return a run in which every stage cost what a line says."""
    seconds = {stage: line.at(WORK[COSTS[stage].seconds](of)) for stage in CURATED}
    disk = {stage: line.at(WORK[COSTS[stage].disk](of)) for stage in CURATED}
    return Pilot(of, seconds, disk, dict.fromkeys(CURATED, 1e9), dict.fromkeys(CURATED, 1e7))


@pytest.fixture
def model() -> Model:
    line = Line(2.0, 1e-3)
    small = pilot(SMALL, line)
    cold = replace(small, seconds={stage: used + LOADING for stage, used in small.seconds.items()})
    return Model.of(cold, small, pilot(LARGE, line), 3e8)


def test_every_stage_has_a_cost_that_grows_with_something_known() -> None:
    assert set(COSTS) == set(STAGES)
    assert {name for cost in COSTS.values() for name in (cost.seconds, cost.disk)} <= set(WORK)


@given(base=st.floats(0, 1e4), rate=st.floats(0, 1.0), work=st.floats(1, 1e6), times=st.floats(1.5, 8))
def test_a_line_is_found_again(base: float, rate: float, work: float, times: float) -> None:
    found = fit((work, base + rate * work), (times * work, base + rate * times * work))
    assert found.at(50 * work) == pytest.approx(base + rate * 50 * work, rel=1e-6, abs=1e-6)


@given(st.tuples(amounts, amounts), st.tuples(amounts, amounts), amounts)
def test_no_cost_is_negative(small: tuple[float, float], large: tuple[float, float], work: float) -> None:
    found = fit(small, large)
    assert found.base >= 0
    assert found.rate >= 0
    assert found.at(work) >= 0


def test_the_same_work_twice_says_nothing_of_a_rate() -> None:
    assert fit((5.0, 1.0), (5.0, 3.0)) == Line(2.0, 0.0)


def test_a_plan_follows_the_lines(model: Model) -> None:
    rows = {row.stage: row for row in model.plan(WHOLE, 1)}
    assert list(rows) == CURATED
    assert rows["documents"].seconds == pytest.approx(LOADING + 2 + 1e-3 * 4e8)
    assert rows["sketchers"].seconds == pytest.approx(LOADING + 2)
    steps = 48 * (3 * 4_000 + 1_000)
    assert rows["subset_utilities"].seconds == pytest.approx(LOADING + 2 + 1e-3 * steps)
    assert rows["subset_utilities"].retrainings == 48
    assert totals(list(rows.values()))["retrainings"] == 48 + 20 + 16 + 8
    assert rows["finalists"].memory == pytest.approx(1e9 + 460 * (8e5 - 800))


def test_workers_share_what_goes_through_the_engine_and_is_large(model: Model) -> None:
    one, four = ({row.stage: row for row in model.plan(WHOLE, number)} for number in (1, 4))
    for stage in CURATED:
        core = one[stage].seconds - LOADING
        shared = COSTS[stage].engine and core >= 30
        assert four[stage].seconds == pytest.approx(LOADING + core / (4 if shared else 1))
        assert four[stage].memory - one[stage].memory == pytest.approx(4 * 3.1e8 if shared else 0)
        assert four[stage].disk == one[stage].disk
    assert {stage for stage in CURATED if four[stage].seconds < one[stage].seconds} >= {
        "documents",
        "gradient_sketches",
        "subset_utilities",
    }


def test_a_disk_that_is_too_small_is_refused(model: Model) -> None:
    rows = model.plan(WHOLE, 1)
    needed = totals(rows)["disk"]
    refuse_small_disk(rows, needed + 1, "store")
    with pytest.raises(ConfigError, match=r"needs about .* GB on disk and store has .*GRASP_STORE"):
        refuse_small_disk(rows, needed - 1, "store")


def test_a_plan_as_json_adds_up(model: Model) -> None:
    told = plan_json(model.plan(WHOLE, 2), 2)
    assert told["workers"] == 2
    assert told["total"]["seconds"] == pytest.approx(sum(row["seconds"] for row in told["stages"]))
