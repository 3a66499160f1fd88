"""Every baseline in every form it has: complete, finite, reproducible, tuned on the calibration subsets alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from lab_toys import TASKS, toy_subsets
from second_order import SecondOrderGroup

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.log_term import WEIGHTS
from grasp_pipeline.attribution.methods import registry
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.methods.grad_dot import GradDot
from grasp_pipeline.attribution.methods.inputs import DAMPINGS, FORMS, GROUP_DAMPINGS, BaselineInputs
from grasp_pipeline.attribution.methods.random_score import RandomScore
from grasp_pipeline.attribution.methods.registry import (
    Method,
    Prediction,
    baseline,
    baseline_predictions,
    baselines,
    predictions_by_kind,
)
from grasp_pipeline.attribution.methods.second_order import STEPS
from grasp_pipeline.attribution.methods.trak import Trak, trak_gram
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.experiment import Views, baseline_inputs
from grasp_pipeline.evaluation.proxies import TWO_CHECKPOINTS
from grasp_pipeline.memberships import Memberships
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.views import View, join_views, query_moments

BOTH = {
    "random",
    "loss only",
    "GradDot",
    "TracIn",
    "TRAK, default damping",
    "TRAK, tuned damping",
    "TRAK, k-means groups",
    "damped influence",
    "LoGRA influence",
    "GGDA, random groups",
    "GGDA, k-means on sketches",
    "GGDA, k-means on representations",
    "datamodel on source counts",
    "additive + log(distinct)",
    "second-order group influence",
}
BASELINES = {(name, form) for name in BOTH for form in FORMS} | {
    ("distinct documents", "sum"),
    ("quadratic only", "mean"),
    ("datamodel on the mask", "sum"),
    ("additive + log(size)", "mean"),
    ("AirRep", "mean"),
}
UNTUNED = ("random", "TRAK, default damping")
TUNED_OVER_VIEWS = (
    "quadratic only",
    "GradDot",
    "TracIn",
    "TRAK, tuned damping",
    "TRAK, k-means groups",
    "damped influence",
    "GGDA, random groups",
    "GGDA, k-means on sketches",
    "GGDA, k-means on representations",
    "second-order group influence",
)
WITHOUT_VIEWS = (
    "AirRep",
    "random",
    "LoGRA influence",
    "distinct documents",
    "datamodel on the mask",
    "datamodel on source counts",
)


def inputs_of(corpus: TaskPool, views: Views) -> BaselineInputs:
    calibration = toy_subsets(corpus, 5, "calibration")
    alignment = views.exact.sketches @ views.exact.targets.T  # type: ignore[union-attr]
    noise = generator("utilities").standard_normal((len(calibration), len(TASKS)))
    utilities = calibration @ (corpus.n_tokens[:, None] * alignment)
    return baseline_inputs(
        corpus,
        views,
        calibration,
        utilities + 0.3 * utilities.std() * noise,
    )


@pytest.fixture(scope="module")
def inputs(corpus: TaskPool, views: Views) -> BaselineInputs:
    return inputs_of(corpus, views)


@pytest.fixture(scope="module")
def membership(corpus: TaskPool) -> np.ndarray:
    return toy_subsets(corpus, 4, "evaluation")


@pytest.fixture(scope="module")
def found(inputs: BaselineInputs, membership: np.ndarray) -> dict[Method, np.ndarray]:
    return values_of(baseline_predictions(inputs, membership))


def values_of(found: Mapping[Method, Prediction]) -> dict[Method, np.ndarray]:
    return {method: each.values for method, each in found.items()}


def quality(values: np.ndarray, inputs: BaselineInputs) -> float:
    return float(task_level_spearman(values[None], inputs.utilities)[0])


def test_every_baseline_is_there_in_the_forms_it_has(found: dict[Method, np.ndarray]) -> None:
    assert set(found) == BASELINES


def test_packed_subsets_are_predicted_as_booleans_are(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    packed = replace(inputs, calibration=Memberships.of(inputs.calibration, inputs.n))
    again = values_of(baseline_predictions(packed, Memberships.of(membership, inputs.n)))
    assert again.keys() == found.keys()
    for method, values in found.items():
        assert np.allclose(values, again[method], rtol=1e-9, atol=1e-12), method


def test_predictions_are_finite_numbers_that_tell_subsets_apart(
    found: dict[Method, np.ndarray], membership: np.ndarray
) -> None:
    for method, values in found.items():
        assert values.shape == (len(membership), len(TASKS)), method
        assert np.isfinite(values).all(), method
        assert (np.ptp(values, axis=0) > 0).all(), method
    names = list(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if {one[0], other[0]} == {"GradDot", "TracIn"}:
                continue  # on checkpoints side by side they are the same sum
            assert not np.array_equal(found[one], found[other]), f"{one} and {other} predict the same"


def test_controls_know_no_task(found: dict[Method, np.ndarray]) -> None:
    for method in (
        ("loss only", "sum"),
        ("loss only", "mean"),
        ("distinct documents", "sum"),
        ("quadratic only", "mean"),
    ):
        np.testing.assert_array_equal(found[method], found[method][:, :1].repeat(len(TASKS), axis=1))
    assert not np.allclose(found["random", "sum"][:, 0], found["random", "sum"][:, 1])


def test_equal_inputs_give_equal_predictions(
    corpus: TaskPool, views: Views, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    again = values_of(baseline_predictions(inputs_of(corpus, views), membership))
    for method, values in found.items():
        np.testing.assert_array_equal(again[method], values, err_msg=str(method))


def test_a_prediction_does_not_depend_on_the_other_subsets(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    """So nothing can be tuned on the evaluation subsets."""
    few = [7, 0, 3]
    for method, values in values_of(baseline_predictions(inputs, membership[few])).items():
        scale = np.abs(found[method]).max()
        np.testing.assert_allclose(values, found[method][few], atol=1e-5 * scale, err_msg=str(method))


def test_forms_differ_only_in_the_division_by_tokens(
    corpus: TaskPool, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    tokens = (membership @ corpus.n_tokens)[:, None]
    for name in UNTUNED:
        np.testing.assert_allclose(found[name, "mean"] * tokens, found[name, "sum"], rtol=1e-9, err_msg=name)


def test_untuned_methods_are_their_formulas(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    """Loops over subsets and examples."""
    alike = as_they_are(inputs)
    ((early, final),) = alike.checkpoints.values()
    only = values_of(baseline_predictions(alike, membership))
    tracin, documents = np.zeros((2, len(membership), len(TASKS)))
    for s, members in enumerate(membership):
        documents[s] = len({int(inputs.cluster[i]) for i in np.flatnonzero(members)})
        for i in np.flatnonzero(members):
            last = [inputs.n_tokens[i] * float(final.sketches[i] @ r) for r in final.targets]
            first = [inputs.n_tokens[i] * float(early.sketches[i] @ r) for r in early.targets]
            tracin[s] += np.add(first, last)
    for method, slow in (("TracIn", tracin), ("distinct documents", documents)):
        np.testing.assert_allclose(only[method, "sum"], slow, atol=1e-4 * np.abs(slow).max(), err_msg=method)


def candidates(inputs: BaselineInputs, form: Form) -> dict[str, list[AdditiveScores]]:
    """What three tuned methods choose among, built without the laboratory."""
    tokens = inputs.n_tokens
    found: dict[str, list[AdditiveScores]] = {
        "GradDot": [],
        "damped influence": [],
        "TRAK, tuned damping": [],
    }
    for view in inputs.views.values():
        phi, r = view.sketches, view.targets
        unit = np.trace(trak_gram(phi, view.losses)) / phi.shape[1]
        found["GradDot"] += [GradDot(phi, tokens, r, form)]
        found["damped influence"] += [DampedInfluence(phi, tokens, r, rho, form) for rho in DAMPINGS]
        found["TRAK, tuned damping"] += [
            Trak(phi, tokens, r, view.losses, rho * unit, form) for rho in DAMPINGS
        ]
    return found


def as_they_are(inputs: BaselineInputs) -> BaselineInputs:
    """The same with two checkpoints of mean squared norm 1, which joining them does not change."""
    kind = "full" + TWO_CHECKPOINTS
    pair = [join_views([view], inputs.n_tokens) for view in inputs.checkpoints[kind]]
    return replace(inputs, views={"full": first_view(inputs)}, checkpoints={kind: pair})


def test_predictions_of_one_kind_are_those_of_a_rival_that_has_no_other(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    by_kind = predictions_by_kind(inputs, membership)
    for kind, view in inputs.views.items():
        alone = baseline_predictions(
            replace(inputs, views={kind: view}, checkpoints={}, layers={}), membership
        )
        for name in ("GradDot", "TRAK, tuned damping", "damped influence", "second-order group influence"):
            for form in FORMS:
                got = by_kind[f"{name}, {kind} sketch", form]
                assert got.kind == kind
                np.testing.assert_array_equal(got.values, alone[name, form].values)
    tuned = baseline_predictions(inputs, membership)
    for name in ("damped influence", "additive + log(distinct)"):
        kind = tuned[name, "sum"].kind
        np.testing.assert_array_equal(by_kind[f"{name}, {kind} sketch", "sum"].values, found[name, "sum"])


def test_the_mean_form_with_log_size_is_the_best_of_its_kinds_dampings_and_weights(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    tokens, tried = inputs.n_tokens, []
    for view, rho, weight in product(inputs.views.values(), DAMPINGS, WEIGHTS):
        mean = DampedInfluence(view.sketches, tokens, view.targets, rho, "mean")
        value, log = mean.predict(inputs.calibration), np.log(inputs.calibration @ tokens)

        def predict(subsets: np.ndarray, mean=mean, value=value, log=log, weight=weight) -> np.ndarray:
            size = (np.log(subsets @ tokens) - log.mean()) / log.std()
            return (mean.predict(subsets) - value.mean(0)) / value.std(0) + weight * size[:, None]

        tried.append(predict)
    scores = [quality(each(inputs.calibration), inputs) for each in tried]
    best = tried[int(np.argmax(scores))](membership)
    np.testing.assert_allclose(found["additive + log(size)", "mean"], best, atol=1e-6 * np.abs(best).max())


@pytest.mark.parametrize("form", FORMS)
def test_views_and_dampings_are_those_that_are_best_on_the_calibration_subsets(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray], form: Form
) -> None:
    for name, tried in candidates(inputs, form).items():
        scores = [quality(each.predict(inputs.calibration), inputs) for each in tried]
        best = tried[int(np.argmax(scores))].predict(membership)
        np.testing.assert_allclose(found[name, form], best, atol=1e-6 * np.abs(best).max(), err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_second_order_influence_is_the_best_of_its_dampings_and_steps(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray], form: Form
) -> None:
    tried = []
    for view, rho in product(inputs.views.values(), GROUP_DAMPINGS):
        moments = query_moments(view.queries, inputs.query_tokens, inputs.query_task, len(TASKS))
        whole = inputs.n_tokens @ view.sketches.astype(np.float64) / inputs.n_tokens.sum()
        step = metric_matrix(second_moment(view.sketches, inputs.n_tokens), rho) @ whole
        bend = np.mean([step @ moment @ step for moment in moments])
        unit = np.mean([abs(r @ step) for r in view.targets]) / bend
        tried += [
            SecondOrderGroup(view.sketches, inputs.n_tokens, view.targets, moments, rho, unit * eta, form)
            for eta in STEPS
        ]
    scores = [quality(each.predict(inputs.calibration), inputs) for each in tried]
    best = tried[int(np.argmax(scores))].predict(membership)
    np.testing.assert_allclose(
        found["second-order group influence", form], best, atol=1e-4 * np.abs(best).max()
    )


@pytest.mark.parametrize("kind", ["full", "ngrams", "output+early+ngrams"])
def test_more_views_never_cost_a_tuned_method_anything_in_calibration(
    inputs: BaselineInputs, kind: str
) -> None:
    """Rivals may look at each view alone; what does not look at them stays the same."""
    assert first_view(inputs) is inputs.views["full"]
    alone = replace(inputs, views={"full": first_view(inputs), kind: inputs.views[kind]})
    every = values_of(baseline_predictions(inputs, inputs.calibration))
    less = values_of(baseline_predictions(alone, inputs.calibration))
    assert set(less) == set(every)
    for method, values in every.items():
        if method[0] in TUNED_OVER_VIEWS:
            assert quality(values, inputs) >= quality(less[method], inputs) - 1e-9, method
        elif method[0] in WITHOUT_VIEWS:
            np.testing.assert_array_equal(values, less[method], err_msg=str(method))


def test_a_better_view_is_taken(inputs: BaselineInputs, corpus: TaskPool) -> None:
    """A view of the answers themselves among noise is found by every method that is tuned over views."""
    answers = first_view(inputs)
    noise = replace(
        answers,
        sketches=generator("noise").standard_normal(answers.sketches.shape).astype(np.float32),
        targets=generator("noise", "targets").standard_normal(answers.targets.shape),
    )
    utilities = (inputs.calibration * corpus.n_tokens) @ (answers.sketches @ answers.targets.T)
    hidden = replace(inputs, views={"noise": noise, "answers": answers}, utilities=utilities)
    plain = replace(inputs, views={"answers": answers}, utilities=utilities)
    chosen = baseline_predictions(hidden, inputs.calibration)
    expected = values_of(baseline_predictions(plain, inputs.calibration))
    found = values_of(chosen)
    for name in ("GradDot", "damped influence"):
        np.testing.assert_array_equal(found[name, "sum"], expected[name, "sum"], err_msg=name)
        assert chosen[name, "sum"].kind == "answers"
    assert task_level_spearman(found["GradDot", "sum"][None], utilities)[0] > 0.999


def first_view(inputs: BaselineInputs) -> View:
    view = next(iter(inputs.views.values()))
    assert isinstance(view, View)
    return view


class Constant:
    """Predicts given values whatever it is asked."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def predict(self, membership: Membership) -> np.ndarray:
        return self.values


def test_tuned_picks_the_best_on_calibration_and_the_first_of_equals(inputs: BaselineInputs) -> None:
    noise = generator("tuned").standard_normal(inputs.utilities.shape) * inputs.utilities.std()
    constants = [Constant(inputs.utilities + scale * noise) for scale in (9.0, 1.0, 0.0, 0.0, 3.0)]
    tried = [(f"kind {number}", each) for number, each in enumerate(constants)]
    assert inputs.tuned(iter(tried)) is tried[2]
    assert inputs.tuned(reversed(tried)) is tried[3]
    assert inputs.tuned([("", Constant(-inputs.utilities)), tried[0]]) is tried[0]


def test_each_form_is_tuned_by_itself(inputs: BaselineInputs) -> None:
    def three() -> Iterable[tuple[str, AdditiveScores]]:
        return (("", RandomScore(inputs.n_tokens, len(TASKS), seed)) for seed in range(8))

    chosen = inputs.tuned_forms(three())
    assert set(chosen) == set(FORMS)
    for form in FORMS:
        forms = [AdditiveScores(each.scores(), each.n_tokens, form) for _, each in three()]
        scores = [quality(each.predict(inputs.calibration), inputs) for each in forms]
        taken = chosen[form][1]
        assert isinstance(taken, AdditiveScores)
        assert taken.form == form
        np.testing.assert_array_equal(taken.scores(), forms[int(np.argmax(scores))].scores())


def test_without_a_view_by_layers_there_is_no_logra(
    inputs: BaselineInputs, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    without = values_of(baseline_predictions(replace(inputs, layers={}), membership))
    assert set(without) == BASELINES - {("LoGRA influence", form) for form in FORMS}
    for method, values in without.items():
        np.testing.assert_array_equal(values, found[method], err_msg=str(method))


def test_means_of_other_subsets_are_not_mixed_up(inputs: BaselineInputs) -> None:
    one, other = inputs.calibration[:4], inputs.calibration[4:8]
    kind, another = list(inputs.views)[:2]
    first = inputs.means(kind, one)
    assert inputs.means(kind, one.copy()) is first
    assert not np.allclose(inputs.means(kind, other).means, first.means)
    assert not np.allclose(inputs.means(kind, one[::-1]).means, first.means)
    assert inputs.means(another, one).means.shape == (4, inputs.views[another].sketches.shape[1])


def test_every_baseline_says_what_it_is_and_gives_the_forms_that_it_says(
    found: dict[Method, np.ndarray],
) -> None:
    assert {(each.name, form) for each in baselines().values() for form in each.forms} == set(found)
    for each in baselines().values():
        assert each.equation
        assert each.source


def test_one_more_baseline_is_one_registered_builder(inputs: BaselineInputs, membership: np.ndarray) -> None:
    known = dict(baselines())

    @baseline("toy: tokens", ("sum",), "sum_S w_i", "this test")
    def build(given: BaselineInputs) -> dict[Form, tuple[str, AdditiveScores]]:
        return {
            "sum": (
                "",
                AdditiveScores(np.repeat(given.n_tokens[:, None], given.tasks, 1), given.n_tokens, "sum"),
            )
        }

    try:
        found = baseline_predictions(inputs, membership)
        values = found["toy: tokens", "sum"].values
        np.testing.assert_array_equal(values[:, 0], membership @ inputs.n_tokens)
        assert set(values_of(found)) == BASELINES | {("toy: tokens", "sum")}
        with pytest.raises(ConfigError, match=r"two baselines are called 'toy: tokens'; rename one of them"):
            baseline("toy: tokens", ("sum",), "", "")(build)
    finally:
        del registry._BASELINES["toy: tokens"]
    assert baselines() == known


def test_a_baseline_without_its_inputs_is_left_out_and_says_what_it_lacks(inputs: BaselineInputs) -> None:
    bare = BaselineInputs(
        inputs.n_tokens,
        inputs.source,
        inputs.cluster,
        inputs.tasks,
        inputs.views,
        inputs.calibration,
        inputs.utilities,
    )
    lacking: dict[str, list[str]] = {
        name: lacks for name, each in baselines().items() if (lacks := each.lacks(bare))
    }
    assert lacking == {
        "AirRep": ["representations", "query_representations", "query_shares"],
        "TracIn": ["checkpoints"],
        "LoGRA influence": ["layers"],
        "GGDA, k-means on representations": ["representations"],
        "second-order group influence": ["query_tokens", "query_task"],
    }
    assert not any(each.lacks(inputs) for each in baselines().values())
