"""A toy cell from subsets to predictions: nothing of the evaluation before the choice; saved and read back whole."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_toys import TASKS, CountingStore

from grasp_pipeline.attribution.methods.registry import baseline_predictions, predictions_by_kind
from grasp_pipeline.calibration.grid_predictions import Grid
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.calibration.strata import OPTIMISED, draw_subsets
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.evaluation.experiment import (
    EXACT,
    EXACT_METRICS,
    RETRAINED,
    SELECTED,
    CellResult,
    Protocol,
    Views,
    baseline_inputs,
    evaluation_subsets,
    query_events,
    run_cell,
)
from grasp_pipeline.names import EVENTS
from grasp_pipeline.proxy.retrain import Run
from grasp_pipeline.proxy.runs import MemoryStore, Trainer, measure

PROTOCOL = Protocol(
    calibration={"uniform": 3, "fixed_size": 3, "tilted": 4, OPTIMISED: 3},
    evaluation={"uniform": 3, "fixed_size": 2, "tilted": 3, OPTIMISED: 2},
    calibration_seeds=1,
    evaluation_seeds=2,
    confidence=0.8,
    resamples=200,
    candidates=None,
)
Events = list[tuple[str, tuple[Run, ...]]]


class Toy:
    """A finished toy cell, its store, and what happened in which order: store calls and messages."""

    def __init__(self, corpus: TaskPool, trainer: Trainer, views: Views) -> None:
        self.corpus, self.trainer, self.views = corpus, trainer, views
        self.events: Events = []
        self.store = CountingStore(self.events)
        self.result = self.run(corpus)

    def run(self, corpus: TaskPool, protocol: Protocol = PROTOCOL, **views: Any) -> CellResult:
        return run_cell(
            "toy/tiny/0",
            corpus,
            self.trainer,
            replace(self.views, **views),
            protocol,
            self.store,
            "toy/0",
            lambda message: self.events.append((message, ())),
        )


@pytest.fixture(scope="module")
def toy(corpus: TaskPool, trainer: Trainer, views: Views) -> Toy:
    return Toy(corpus, trainer, views)


def ids(corpus: TaskPool, membership: np.ndarray) -> set[str]:
    return {corpus.subset_id(row) for row in membership}


def same(one: CellResult, other: CellResult, without: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the fields that differ."""
    differing = []
    for name in {field.name for field in fields(CellResult)} - {"predictions", *without}:
        a, b = getattr(one, name), getattr(other, name)
        equal = np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b
        differing += [] if equal else [name]
    equal = list(one.predictions) == list(other.predictions) and all(
        np.array_equal(one.predictions[method], other.predictions[method]) for method in one.predictions
    )
    return differing + ([] if equal else ["predictions"])


def test_the_parts_of_a_cell_belong_together(toy: Toy) -> None:
    result, corpus = toy.result, toy.corpus
    m, k, tasks = len(result.strata), len(result.configurations), len(TASKS)
    assert result.tasks == TASKS
    assert result.membership.shape == (m, corpus.n)
    assert result.utilities.shape == (m, tasks, 2)
    assert result.calibration.shape == (13, tasks)
    assert len(result.calibration_strata) == 13
    assert result.grid_calibration.shape == (k, 13, tasks)
    assert result.grid_evaluation.shape == (k, m, tasks)
    assert {values.shape for values in result.predictions.values()} == {(m, tasks)}
    assert all(np.isfinite(values).all() for values in result.predictions.values())
    assert result.strata[:8] == ("uniform",) * 3 + ("fixed_size",) * 2 + ("tilted",) * 3
    assert set(result.strata[8:]) == {OPTIMISED}
    assert result.target[:8].tolist() == [-1] * 8
    assert set(result.target[8:].tolist()) == {0, 2}, "optimised tasks are spread over the tasks"
    assert {"calibration retraining", "evaluation retraining", "view full"} <= set(result.seconds)
    assert len(np.unique(result.membership, axis=0)) == m


def test_utilities_and_predictions_are_those_of_the_parts(toy: Toy) -> None:
    """Against the design, the measurement and the grid called by hand."""
    result, corpus, views = toy.result, toy.corpus, toy.views
    scores = views.design.sketches @ views.design.targets.T
    calibration = draw_subsets(corpus, scores, PROTOCOL.calibration, "toy/0/calibration")
    assert calibration.strata == result.calibration_strata
    measured = measure(toy.trainer, corpus, calibration.membership, (0,), MemoryStore(), "again")
    np.testing.assert_allclose(result.calibration, measured[:, :, 0], rtol=0, atol=1e-5)
    utilities = measure(toy.trainer, corpus, result.membership[:2], (0, 1), MemoryStore(), "again")
    np.testing.assert_allclose(result.utilities[:2], utilities, rtol=0, atol=1e-5)
    events = query_events(corpus)
    grid = Grid.of(
        views.kinds,
        corpus.n_tokens,
        PROTOCOL.metrics,
        PROTOCOL.lambdas,
        events,
        PROTOCOL.joint,
        PROTOCOL.conditional,
    )
    assert grid.configurations == result.configurations
    np.testing.assert_array_equal(grid.predict(calibration.membership), result.grid_calibration)
    np.testing.assert_array_equal(grid.predict(result.membership), result.grid_evaluation)
    np.testing.assert_array_equal(result.predictions[SELECTED], result.grid_evaluation[result.chosen])


def test_rivals_are_tuned_over_the_rival_views(toy: Toy) -> None:
    result, corpus, views = toy.result, toy.corpus, toy.views
    scores = views.design.sketches @ views.design.targets.T
    calibration = draw_subsets(corpus, scores, PROTOCOL.calibration, "toy/0/calibration")
    inputs = baseline_inputs(corpus, views, calibration.membership, result.calibration)
    found = baseline_predictions(inputs, result.membership)
    found |= predictions_by_kind(inputs, result.membership)
    for method, each in found.items():
        np.testing.assert_array_equal(result.predictions[method], each.values, err_msg=str(method))
        assert result.kinds[method] == each.kind


def test_the_retrained_models_are_scored_on_the_query_where_asked(toy: Toy) -> None:
    """A row that is no prediction: what the measured models lose on the query; utilities stay what they are."""
    apart = copy(toy)
    apart.events = []
    apart.store = CountingStore(apart.events)
    asked = apart.run(toy.corpus, replace(PROTOCOL, queries=True))
    np.testing.assert_allclose(asked.utilities, toy.result.utilities, rtol=0, atol=1e-5)
    np.testing.assert_allclose(asked.calibration, toy.result.calibration, rtol=0, atol=1e-5)
    assert RETRAINED not in toy.result.predictions
    other = replace(toy.corpus, evaluation=toy.corpus.query)
    slow = measure(toy.trainer, other, asked.membership, (0, 1), MemoryStore(), "again").mean(axis=2)
    np.testing.assert_allclose(asked.predictions[RETRAINED], slow, rtol=0, atol=1e-5)
    names = replace(PROTOCOL, queries=True).measured(toy.corpus.tasks)
    assert len(set(names)) == 2 * len(toy.corpus.tasks)


def test_the_protocol_names_dampings_and_penalties(toy: Toy) -> None:
    given = replace(PROTOCOL, metrics=(0.0, 2.5), lambdas=(0.0, 0.3), joint=(0.7,), conditional=(0.02, 0.05))
    other = toy.run(toy.corpus, given)
    sketched = [c for c in other.configurations if c.sketch_kind != EVENTS]
    assert {c.rho for c in sketched} == {0.0, 2.5}
    assert {c.lam for c in sketched} == {0.0, 0.3}
    assert {c.sketch_kind for c in sketched} == set(toy.views.kinds)
    assert len(sketched) == len(toy.views.kinds) * 2 * 3
    covered = [(c.form, c.rho) for c in other.configurations if c.sketch_kind == EVENTS]
    assert covered == [("joint", 0.7), ("conditional", 0.02), ("conditional", 0.05)]
    np.testing.assert_array_equal(other.utilities, toy.result.utilities)
    exact = toy.views.exact
    assert exact is not None
    ceiling = Grid.of({EXACT: exact}, toy.corpus.n_tokens, EXACT_METRICS, given.lambdas)
    mine = other.predictions["surrogate, exact gradients", "mean"]
    assert any(np.array_equal(mine, values) for values in ceiling.predict(other.membership))


def test_candidates_compete_and_the_other_kinds_are_compared(toy: Toy) -> None:
    first, *others = toy.views.kinds
    few = toy.run(toy.corpus, replace(PROTOCOL, candidates=(first,)))
    assert {c.sketch_kind for c in few.configurations} == {first, EVENTS}
    for kind in (first, *others):
        mine = few.predictions[f"surrogate, {kind} sketch", "mean"]
        np.testing.assert_array_equal(mine, toy.result.predictions[f"surrogate, {kind} sketch", "mean"])
    np.testing.assert_array_equal(
        few.predictions[SELECTED], few.predictions[f"surrogate, {first} sketch", "mean"]
    )
    with pytest.raises(ConfigError, match="candidate kind 'fulll' is not among the views"):
        toy.run(toy.corpus, replace(PROTOCOL, candidates=("fulll",)))


def test_every_surrogate_is_there(toy: Toy) -> None:
    result = toy.result
    named = {name for name, form in result.predictions if form == "mean"}
    assert {f"surrogate, {kind} sketch" for kind in toy.views.kinds} <= named
    assert {
        "surrogate",
        "surrogate, best in hindsight",
        "surrogate, second sketch seed",
        "surrogate, exact gradients",
        "judge",
        "random",
        "damped influence",
    } <= named
    for kind in toy.views.kinds:
        own = [k for k, c in enumerate(result.configurations) if c.sketch_kind == kind]
        mine = result.predictions[f"surrogate, {kind} sketch", "mean"]
        assert any(np.array_equal(mine, result.grid_evaluation[k]) for k in own)
    measured = result.utilities.mean(axis=2)
    hindsight = task_level_spearman(
        result.predictions["surrogate, best in hindsight", "mean"][None], measured
    )
    assert hindsight[0] == task_level_spearman(result.grid_evaluation, measured).max()
    other = result.predictions["surrogate, second sketch seed", "mean"]
    assert not np.allclose(other, result.predictions[SELECTED], rtol=1e-3)


def test_evaluation_subsets_are_not_measured_before_the_choice(toy: Toy) -> None:
    words = [what for what, _ in toy.events]
    choice = next(i for i, what in enumerate(words) if toy.result.reason in what)
    before = {subset for _, runs in toy.events[:choice] for subset, _ in runs}
    after = {subset for _, runs in toy.events[choice:] for subset, _ in runs}
    evaluation = ids(toy.corpus, toy.result.membership)
    assert len(before) == len(toy.result.calibration_strata)
    assert not before & evaluation
    assert after == evaluation


def test_every_run_is_retrained_once(toy: Toy) -> None:
    kept = [run for what, runs in toy.events if what == "keep" for run in runs]
    assert len(kept) == len(set(kept)) == 13 + 2 * len(toy.result.strata)


def test_a_cell_that_is_started_again_measures_nothing_and_is_the_same(toy: Toy) -> None:
    before = len(toy.store.kept)
    again = toy.run(toy.corpus)
    assert len(toy.store.kept) == before
    assert same(again, toy.result, without=("seconds",)) == []


def test_the_choice_knows_the_calibration_subsets_alone(toy: Toy) -> None:
    """Other evaluation subsets leave it as it is."""
    other = toy.run(toy.corpus, replace(PROTOCOL, evaluation={"uniform": 2, OPTIMISED: 1}))
    assert (other.chosen, other.reason) == (toy.result.chosen, toy.result.reason)
    np.testing.assert_array_equal(other.grid_calibration, toy.result.grid_calibration)
    both = (other.membership[:, None] == toy.result.membership).all(axis=2)
    for i, k in np.argwhere(both):
        for method, values in other.predictions.items():
            if "hindsight" not in method[0] and method[0] != "judge":  # the judge's z is over its subsets
                np.testing.assert_allclose(values[i], toy.result.predictions[method][k], rtol=1e-4, atol=1e-5)
    assert both.sum() >= 2


def test_pools_that_are_not_text_and_views_that_are_not_taken(toy: Toy) -> None:
    images = replace(toy.corpus, chunks=None)
    less = toy.run(images, layers={}, exact=None, second_seed={})
    gone = {name for name, _ in toy.result.predictions} - {name for name, _ in less.predictions}
    events = {"log-coverage, additive limit"}
    events |= {f"quadratic events, metric: {each}" for each in ("own", "mean", "other", "pool", "identity")}
    assert gone - events == {
        "judge",
        "LoGRA influence",
        "surrogate, exact gradients",
        "surrogate, second sketch seed",
    }
    assert events <= gone
    assert EVENTS not in {c.sketch_kind for c in less.configurations}


def test_evaluation_on_finalists_alone_or_random_draws_alone(toy: Toy) -> None:
    random = evaluation_subsets(toy.corpus, toy.views, replace(PROTOCOL, evaluation={"uniform": 2}), "toy/0")
    assert random.strata == ("uniform", "uniform")
    finalists = evaluation_subsets(
        toy.corpus, toy.views, replace(PROTOCOL, evaluation={OPTIMISED: 99}), "toy/0"
    )
    assert set(finalists.target.tolist()) == {0, 1, 2}


def test_a_saved_cell_is_read_back_whole(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cell-1-abc.npz"
    toy.result.save(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing unfinished is left"
    read = CellResult.load(path)
    assert same(read, toy.result) == []
    assert type(read.tasks) is type(read.strata) is type(read.calibration_strata) is tuple
    read.save(path)
    assert same(CellResult.load(path), toy.result) == []


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 4, len(content) // 2):
        content[i] ^= 0x5A
    path.write_bytes(bytes(content))


def without_words(path: Path) -> None:
    np.savez(path, target=np.arange(3))


def another_version(path: Path) -> None:
    np.savez(path, words=np.array('{"name": "toy", "methods": []}'), predictions=np.empty((0, 1)))


def another_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.arange(3))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("not a cell"),
        lambda path: path.write_bytes(b""),
        Path.unlink,
        truncated,
        damaged,
        without_words,
        another_version,
        another_array,
    ],
    ids=[
        "text",
        "empty",
        "missing",
        "truncated",
        "damaged",
        "without words",
        "another version",
        "another array",
    ],
)
def test_a_file_that_is_no_cell_says_what_to_do(
    toy: Toy, tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    path = tmp_path / "cell.npz"
    toy.result.save(path)
    spoil(path)
    with pytest.raises(
        InputError, match=r"cell\.npz is no cell of the laboratory .*delete it and run the cell again"
    ):
        CellResult.load(path)
