"""Every rival in every form it has: complete, finite, reproducible, tuned on the calibration subsets alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from lab_toys import TASKS, toy_subsets

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.damped_influence import DampedInfluence
from grasp_pipeline.attribution.grad_dot import GradDot
from grasp_pipeline.attribution.log_term import WEIGHTS
from grasp_pipeline.attribution.methods import (
    DAMPINGS,
    FORMS,
    GROUP_DAMPINGS,
    STEPS,
    Material,
    Method,
    Prediction,
    predictions_by_kind,
    rival_predictions,
)
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.attribution.random_score import RandomScore
from grasp_pipeline.attribution.second_order import SecondOrderGroup
from grasp_pipeline.attribution.trak import Trak, trak_gram
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.corpus.pool import LabCorpus
from grasp_pipeline.evaluation.experiment import Views
from grasp_pipeline.evaluation.proxies import TWO_CHECKPOINTS
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.views import join_views, query_moments

BOTH = {
    "random",
    "loss only",
    "GradDot",
    "TracIn",
    "TRAK, default damping",
    "TRAK, tuned damping",
    "damped influence",
    "LoGRA influence",
    "GGDA, random groups",
    "GGDA, k-means on sketches",
    "GGDA, k-means on representations",
    "datamodel on source counts",
    "additive + log(distinct)",
    "second-order group influence",
}
RIVALS = {(name, form) for name in BOTH for form in FORMS} | {
    ("distinct documents", "sum"),
    ("quadratic only", "mean"),
    ("datamodel on the mask", "sum"),
    ("additive + log(size)", "mean"),
}
UNTUNED = ("random", "TRAK, default damping")
TUNED_OVER_VIEWS = (
    "quadratic only",
    "GradDot",
    "TracIn",
    "TRAK, tuned damping",
    "damped influence",
    "GGDA, random groups",
    "GGDA, k-means on sketches",
    "GGDA, k-means on representations",
    "second-order group influence",
)
WITHOUT_VIEWS = (
    "random",
    "LoGRA influence",
    "distinct documents",
    "datamodel on the mask",
    "datamodel on source counts",
)


def material_of(corpus: LabCorpus, views: Views) -> Material:
    calibration = toy_subsets(corpus, 5, "calibration")
    alignment = views.exact.sketches @ views.exact.targets.T  # type: ignore[union-attr]
    noise = generator("utilities").standard_normal((len(calibration), len(TASKS)))
    utilities = calibration @ (corpus.n_tokens[:, None] * alignment)
    return Material(
        corpus,
        views.rivals,
        views.checkpoints,
        views.layers,
        views.representations,
        calibration,
        utilities + 0.3 * utilities.std() * noise,
    )


@pytest.fixture(scope="module")
def material(corpus: LabCorpus, views: Views) -> Material:
    return material_of(corpus, views)


@pytest.fixture(scope="module")
def membership(corpus: LabCorpus) -> np.ndarray:
    return toy_subsets(corpus, 4, "evaluation")


@pytest.fixture(scope="module")
def found(material: Material, membership: np.ndarray) -> dict[Method, np.ndarray]:
    return values_of(rival_predictions(material, membership))


def values_of(found: Mapping[Method, Prediction]) -> dict[Method, np.ndarray]:
    return {method: each.values for method, each in found.items()}


def quality(values: np.ndarray, material: Material) -> float:
    return float(task_level_spearman(values[None], material.utilities)[0])


def test_every_rival_is_there_in_the_forms_it_has(found: dict[Method, np.ndarray]) -> None:
    assert set(found) == RIVALS


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


def test_equal_material_gives_equal_predictions(
    corpus: LabCorpus, views: Views, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    again = values_of(rival_predictions(material_of(corpus, views), membership))
    for method, values in found.items():
        np.testing.assert_array_equal(again[method], values, err_msg=str(method))


def test_a_prediction_does_not_depend_on_the_other_subsets(
    material: Material, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    """So nothing can be tuned on the evaluation subsets."""
    few = [7, 0, 3]
    for method, values in values_of(rival_predictions(material, membership[few])).items():
        scale = np.abs(found[method]).max()
        np.testing.assert_allclose(values, found[method][few], atol=1e-5 * scale, err_msg=str(method))


def test_forms_differ_only_in_the_division_by_tokens(
    corpus: LabCorpus, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    tokens = (membership @ corpus.n_tokens)[:, None]
    for name in UNTUNED:
        np.testing.assert_allclose(found[name, "mean"] * tokens, found[name, "sum"], rtol=1e-9, err_msg=name)


def test_untuned_methods_are_their_formulas(
    material: Material, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    """Loops over subsets and examples."""
    corpus = material.corpus
    alike = as_they_are(material)
    ((early, final),) = alike.checkpoints.values()
    only = values_of(rival_predictions(alike, membership))
    tracin, documents = np.zeros((2, len(membership), len(TASKS)))
    for s, members in enumerate(membership):
        documents[s] = len({int(corpus.cluster[i]) for i in np.flatnonzero(members)})
        for i in np.flatnonzero(members):
            last = [corpus.n_tokens[i] * float(final.sketches[i] @ r) for r in final.targets]
            first = [corpus.n_tokens[i] * float(early.sketches[i] @ r) for r in early.targets]
            tracin[s] += np.add(first, last)
    for method, slow in (("TracIn", tracin), ("distinct documents", documents)):
        np.testing.assert_allclose(only[method, "sum"], slow, atol=1e-4 * np.abs(slow).max(), err_msg=method)


def candidates(material: Material, form: Form) -> dict[str, list[AdditiveScores]]:
    """What three tuned methods choose among, built without the laboratory."""
    tokens = material.n_tokens
    found: dict[str, list[AdditiveScores]] = {
        "GradDot": [],
        "damped influence": [],
        "TRAK, tuned damping": [],
    }
    for view in material.views.values():
        phi, r = view.sketches, view.targets
        unit = np.trace(trak_gram(phi, view.losses)) / phi.shape[1]
        found["GradDot"] += [GradDot(phi, tokens, r, form)]
        found["damped influence"] += [DampedInfluence(phi, tokens, r, rho, form) for rho in DAMPINGS]
        found["TRAK, tuned damping"] += [
            Trak(phi, tokens, r, view.losses, rho * unit, form) for rho in DAMPINGS
        ]
    return found


def as_they_are(material: Material) -> Material:
    """The same with two checkpoints of mean squared norm 1, which joining them does not change."""
    kind = "full" + TWO_CHECKPOINTS
    pair = [join_views([view], material.n_tokens) for view in material.checkpoints[kind]]
    return replace(material, views={"full": material.view}, checkpoints={kind: pair})


def test_predictions_of_one_kind_are_those_of_a_rival_that_has_no_other(
    material: Material, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    by_kind = predictions_by_kind(material, membership)
    for kind, view in material.views.items():
        alone = rival_predictions(
            replace(material, views={kind: view}, checkpoints={}, layers={}), membership
        )
        for name in ("GradDot", "TRAK, tuned damping", "damped influence", "second-order group influence"):
            for form in FORMS:
                got = by_kind[f"{name}, {kind} sketch", form]
                assert got.kind == kind
                np.testing.assert_array_equal(got.values, alone[name, form].values)
    tuned = rival_predictions(material, membership)
    for name in ("damped influence", "additive + log(distinct)"):
        kind = tuned[name, "sum"].kind
        np.testing.assert_array_equal(by_kind[f"{name}, {kind} sketch", "sum"].values, found[name, "sum"])


def test_the_mean_form_with_log_size_is_the_best_of_its_kinds_dampings_and_weights(
    material: Material, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    tokens, tried = material.n_tokens, []
    for view, rho, weight in product(material.views.values(), DAMPINGS, WEIGHTS):
        mean = DampedInfluence(view.sketches, tokens, view.targets, rho, "mean")
        value, log = mean.predict(material.calibration), np.log(material.calibration @ tokens)

        def predict(subsets: np.ndarray, mean=mean, value=value, log=log, weight=weight) -> np.ndarray:
            size = (np.log(subsets @ tokens) - log.mean()) / log.std()
            return (mean.predict(subsets) - value.mean(0)) / value.std(0) + weight * size[:, None]

        tried.append(predict)
    scores = [quality(each(material.calibration), material) for each in tried]
    best = tried[int(np.argmax(scores))](membership)
    np.testing.assert_allclose(found["additive + log(size)", "mean"], best, atol=1e-6 * np.abs(best).max())


@pytest.mark.parametrize("form", FORMS)
def test_views_and_dampings_are_those_that_are_best_on_the_calibration_subsets(
    material: Material, membership: np.ndarray, found: dict[Method, np.ndarray], form: Form
) -> None:
    for name, tried in candidates(material, form).items():
        scores = [quality(each.predict(material.calibration), material) for each in tried]
        best = tried[int(np.argmax(scores))].predict(membership)
        np.testing.assert_allclose(found[name, form], best, atol=1e-6 * np.abs(best).max(), err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_second_order_influence_is_the_best_of_its_dampings_and_steps(
    material: Material, membership: np.ndarray, found: dict[Method, np.ndarray], form: Form
) -> None:
    corpus, tried = material.corpus, []
    for view, rho in product(material.views.values(), GROUP_DAMPINGS):
        moments = query_moments(view, corpus.query, len(TASKS))
        whole = corpus.n_tokens @ view.sketches.astype(np.float64) / corpus.n_tokens.sum()
        step = metric_matrix(second_moment(view.sketches, corpus.n_tokens), rho) @ whole
        bend = np.mean([step @ moment @ step for moment in moments])
        unit = np.mean([abs(r @ step) for r in view.targets]) / bend
        tried += [
            SecondOrderGroup(view.sketches, corpus.n_tokens, view.targets, moments, rho, unit * eta, form)
            for eta in STEPS
        ]
    scores = [quality(each.predict(material.calibration), material) for each in tried]
    best = tried[int(np.argmax(scores))].predict(membership)
    np.testing.assert_allclose(
        found["second-order group influence", form], best, atol=1e-4 * np.abs(best).max()
    )


@pytest.mark.parametrize("kind", ["full", "ngrams", "output+early+ngrams"])
def test_more_views_never_cost_a_tuned_method_anything_in_calibration(material: Material, kind: str) -> None:
    """Rivals may look at each view alone; what does not look at them stays the same."""
    assert material.view is material.views["full"]
    alone = replace(material, views={"full": material.view, kind: material.views[kind]})
    every = values_of(rival_predictions(material, material.calibration))
    less = values_of(rival_predictions(alone, material.calibration))
    assert set(less) == set(every)
    for method, values in every.items():
        if method[0] in TUNED_OVER_VIEWS:
            assert quality(values, material) >= quality(less[method], material) - 1e-9, method
        elif method[0] in WITHOUT_VIEWS:
            np.testing.assert_array_equal(values, less[method], err_msg=str(method))


def test_a_better_view_is_taken(material: Material, corpus: LabCorpus) -> None:
    """A view of the answers themselves among noise is found by every method that is tuned over views."""
    answers = material.view
    noise = replace(
        answers,
        sketches=generator("noise").standard_normal(answers.sketches.shape).astype(np.float32),
        targets=generator("noise", "targets").standard_normal(answers.targets.shape),
    )
    utilities = (material.calibration * corpus.n_tokens) @ (answers.sketches @ answers.targets.T)
    hidden = replace(material, views={"noise": noise, "answers": answers}, utilities=utilities)
    plain = replace(material, views={"answers": answers}, utilities=utilities)
    chosen = rival_predictions(hidden, material.calibration)
    expected = values_of(rival_predictions(plain, material.calibration))
    found = values_of(chosen)
    for name in ("GradDot", "damped influence"):
        np.testing.assert_array_equal(found[name, "sum"], expected[name, "sum"], err_msg=name)
        assert chosen[name, "sum"].kind == "answers"
    assert task_level_spearman(found["GradDot", "sum"][None], utilities)[0] > 0.999


class Constant:
    """Predicts given values whatever it is asked."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def predict(self, membership: Membership) -> np.ndarray:
        return self.values


def test_tuned_picks_the_best_on_calibration_and_the_first_of_equals(material: Material) -> None:
    noise = generator("tuned").standard_normal(material.utilities.shape) * material.utilities.std()
    constants = [Constant(material.utilities + scale * noise) for scale in (9.0, 1.0, 0.0, 0.0, 3.0)]
    tried = [(f"kind {number}", each) for number, each in enumerate(constants)]
    assert material.tuned(iter(tried)) is tried[2]
    assert material.tuned(reversed(tried)) is tried[3]
    assert material.tuned([("", Constant(-material.utilities)), tried[0]]) is tried[0]


def test_each_form_is_tuned_by_itself(material: Material) -> None:
    def three() -> Iterable[tuple[str, AdditiveScores]]:
        return (("", RandomScore(material.n_tokens, len(TASKS), seed)) for seed in range(8))

    chosen = material.tuned_forms(three())
    assert set(chosen) == set(FORMS)
    for form in FORMS:
        forms = [AdditiveScores(each.scores(), each.n_tokens, form) for _, each in three()]
        scores = [quality(each.predict(material.calibration), material) for each in forms]
        taken = chosen[form][1]
        assert isinstance(taken, AdditiveScores)
        assert taken.form == form
        np.testing.assert_array_equal(taken.scores(), forms[int(np.argmax(scores))].scores())


def test_without_a_view_by_layers_there_is_no_logra(
    material: Material, membership: np.ndarray, found: dict[Method, np.ndarray]
) -> None:
    without = values_of(rival_predictions(replace(material, layers={}), membership))
    assert set(without) == RIVALS - {("LoGRA influence", form) for form in FORMS}
    for method, values in without.items():
        np.testing.assert_array_equal(values, found[method], err_msg=str(method))


def test_means_of_other_subsets_are_not_mixed_up(material: Material) -> None:
    one, other = material.calibration[:4], material.calibration[4:8]
    view, another = list(material.views.values())[:2]
    first = material.means(view, one)
    assert material.means(view, one.copy()) is first
    assert not np.allclose(material.means(view, other).means, first.means)
    assert not np.allclose(material.means(view, one[::-1]).means, first.means)
    assert material.means(another, one).means.shape == (4, another.sketches.shape[1])
