"""The grid's predictions against its slow twin: a surrogate built for every configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lab_toys import TASKS, toy_subsets, toy_view

from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.surrogate import Surrogate
from grasp_pipeline.calibration.grid_predictions import Grid
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.errors import InputError
from grasp_pipeline.sketch.views import View, compress, join_views

METRICS, LAMBDAS = (0.0, 0.3, 3.0), (0.0, 0.7, 2.0)


@pytest.fixture(scope="module")
def two(corpus: TaskPool) -> dict[str, View]:
    return {"output": toy_view(corpus.n, 5, "output"), "full": toy_view(corpus.n, 9, "full")}


@pytest.fixture(scope="module")
def membership(corpus: TaskPool) -> np.ndarray:
    return toy_subsets(corpus, 3, "grid")


def one_by_one(grid: Grid, membership: np.ndarray) -> np.ndarray:
    values = []
    for c in grid.configurations:
        view = grid.views[c.sketch_kind]
        damping = c.rho * view.sketches.shape[1] / view.dimension
        metric = metric_matrix(second_moment(view.sketches, grid.n_tokens), damping)
        method = Surrogate(view.sketches, grid.n_tokens, view.targets, metric, c.lam, c.form)  # type: ignore[arg-type]
        values.append(method.predict(membership))
    return np.stack(values)


def where(grid: Grid, kind: str) -> list[int]:
    return [k for k, c in enumerate(grid.configurations) if c.sketch_kind == kind]


def test_predictions_are_those_of_a_surrogate_per_configuration(
    corpus: TaskPool, two: dict[str, View], membership: np.ndarray
) -> None:
    grid = Grid.of(two, corpus.n_tokens, METRICS, LAMBDAS)
    found = grid.predict(membership)
    assert found.shape == (len(grid.configurations), len(membership), len(TASKS)) == (24, 9, 3)
    np.testing.assert_allclose(found, one_by_one(grid, membership), rtol=1e-9, atol=1e-9)
    assert len(np.unique(found.reshape(len(found), -1), axis=0)) == len(found), "no two are alike"


def test_the_order_of_configurations_is_kept_over_several_views(
    corpus: TaskPool, two: dict[str, View], membership: np.ndarray
) -> None:
    whole = Grid.of(two, corpus.n_tokens, METRICS, LAMBDAS)
    order = np.random.default_rng(0).permutation(len(whole.configurations))
    mixed = Grid(tuple(whole.configurations[i] for i in order), dict(reversed(two.items())), corpus.n_tokens)
    np.testing.assert_array_equal(mixed.predict(membership), whole.predict(membership)[order])
    few = Grid(mixed.configurations[:5], two, corpus.n_tokens)
    np.testing.assert_array_equal(few.predict(membership), mixed.predict(membership)[:5])
    for kind in two:
        assert [mixed.configurations[k].sketch_kind for k in where(mixed, kind)] == [kind] * 12
    assert sorted(where(mixed, "output") + where(mixed, "full")) == list(range(24))


def test_a_view_alone_predicts_what_it_does_in_company(
    corpus: TaskPool, two: dict[str, View], membership: np.ndarray
) -> None:
    both = Grid.of(two, corpus.n_tokens, METRICS, LAMBDAS)
    for kind, view in two.items():
        alone = Grid.of({kind: view}, corpus.n_tokens, METRICS, LAMBDAS)
        assert [both.configurations[k] for k in where(both, kind)] == list(alone.configurations)
        np.testing.assert_array_equal(both.predict(membership)[where(both, kind)], alone.predict(membership))


@pytest.mark.parametrize("joined", [False, True])
def test_a_compressed_view_predicts_what_the_whole_one_does(
    corpus: TaskPool, membership: np.ndarray, joined: bool
) -> None:
    """Every configuration does. Dampings are in units of the sketcher's dimensions, however few are left."""
    whole = toy_view(corpus.n, 150)
    if joined:
        whole = join_views([whole, toy_view(corpus.n, 30, "early")], corpus.n_tokens)
    narrow = compress(whole)
    assert narrow.sketches.shape[1] == corpus.n + len(TASKS) < whole.sketches.shape[1]
    slow = Grid.of({"full": whole}, corpus.n_tokens, METRICS, LAMBDAS)
    found = Grid.of({"full": narrow}, corpus.n_tokens, METRICS, LAMBDAS).predict(membership)
    for configuration, fast, expected in zip(
        slow.configurations, found, slow.predict(membership), strict=True
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(fast, expected, rtol=0, atol=2e-5 * scale, err_msg=str(configuration))
    np.testing.assert_allclose(
        slow.predict(membership), one_by_one(slow, membership), rtol=1e-9, atol=1e-9, err_msg="the slow twin"
    )
    other = Grid.of(
        {"full": replace(narrow, dimension=narrow.sketches.shape[1])}, corpus.n_tokens, METRICS, LAMBDAS
    )
    damped = [k for k, c in enumerate(slow.configurations) if c.rho > 0]
    apart = np.abs(other.predict(membership) - found).max(axis=(1, 2)) / np.abs(found).max(axis=(1, 2))
    assert (apart[damped] > 1e-3).all(), "in units of the dimensions left it is another damping"


def test_a_configuration_without_its_view_is_not_passed_over(
    corpus: TaskPool, two: dict[str, View], membership: np.ndarray
) -> None:
    """One prediction per configuration or an error: fewer would be read under the wrong names."""
    whole = Grid.of(two, corpus.n_tokens, METRICS, LAMBDAS)
    blind = Grid(whole.configurations, {"full": two["full"]}, corpus.n_tokens)
    with pytest.raises(InputError, match="no view of the sketch kind 'output'; take it, or leave it out"):
        blind.predict(membership)
