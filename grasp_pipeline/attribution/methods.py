"""Every rival of the surrogate, in its strongest form: what is tuned is tuned on the same calibration subsets.

Additive methods are given in the sum and the mean form. What reads sketches is tuned over every kind that the
surrogate has, n-gram features included, and over its damping; the kind that was taken goes with the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.block_influence import BlockInfluence
from grasp_pipeline.attribution.damped_influence import DampedInfluence
from grasp_pipeline.attribution.datamodel import MaskDatamodel, SourceDatamodel
from grasp_pipeline.attribution.distinct_documents import DistinctDocuments
from grasp_pipeline.attribution.grad_dot import GradDot
from grasp_pipeline.attribution.grouped import Grouped
from grasp_pipeline.attribution.log_distinct import fit_log_distinct
from grasp_pipeline.attribution.log_term import fit_log_size
from grasp_pipeline.attribution.loss_only import LossOnly
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.partition import kmeans_groups, random_groups
from grasp_pipeline.attribution.protocol import Attributor, Membership
from grasp_pipeline.attribution.quadratic_only import quadratic_from_means
from grasp_pipeline.attribution.random_score import RandomScore
from grasp_pipeline.attribution.second_order import second_order_from_means
from grasp_pipeline.attribution.surrogate import SubsetMeans, subset_means
from grasp_pipeline.attribution.tracin import TracIn
from grasp_pipeline.attribution.trak import Trak, trak_gram
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.corpus.pool import LabCorpus
from grasp_pipeline.names import Form
from grasp_pipeline.sketch.views import Layers, View, join_views, query_moments

Method = tuple[str, str]
Candidate = tuple[str, Attributor]
"""The sketch kind that a method reads, empty where it reads none, and the method."""

FORMS: tuple[Form, ...] = ("mean", "sum")
DAMPINGS: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Dampings tried where a method's damping is tuned, in units of the mean eigenvalue of its second moment."""

GROUP_DAMPINGS: tuple[float, ...] = (0.1, 1.0, 3.0, 30.0)

STEPS: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Steps tried for second-order group influence, in units of <r, M mu> / mu' M H M mu at the whole pool."""

KMEANS_GROUPS: tuple[int, ...] = (64, 256)
RANDOM_GROUPS = 64


@dataclass(frozen=True)
class Material:
    """What rivals may look at.

    Attributes:
        corpus: the pool.
        views: sketches by kind that methods are tuned over; the first is of the final checkpoint alone.
        checkpoints: by kind, views at several checkpoints of the reference training, for TracIn, in order.
        layers: by kind, views by layers, for LoGRA.
        representations: (n, h) mean final hidden states, for GGDA.
        calibration: (m, n) subsets whose utilities (m, T) are known.
    """

    corpus: LabCorpus
    views: Mapping[str, View]
    checkpoints: Mapping[str, Sequence[View]]
    layers: Mapping[str, Layers]
    representations: NDArray[np.float32]
    calibration: Bools
    utilities: Floats
    _means: dict[bytes, SubsetMeans] = field(default_factory=dict, repr=False)

    @property
    def n_tokens(self) -> NDArray[np.int64]:
        """Tokens per example, (n,)."""
        return self.corpus.n_tokens

    @property
    def view(self) -> View:
        """The view of the final checkpoint."""
        return next(iter(self.views.values()))

    @cached_property
    def seconds(self) -> Mapping[str, Floats]:
        """Second moment of every view, (d, d)."""
        return {kind: second_moment(view.sketches, self.n_tokens) for kind, view in self.views.items()}

    @cached_property
    def influence(self) -> Sequence[tuple[str, DampedInfluence]]:
        """Damped influence with every view and damping."""
        return [
            (
                kind,
                DampedInfluence(view.sketches, self.n_tokens, view.targets, rho, second=self.seconds[kind]),
            )
            for kind, view in self.views.items()
            for rho in DAMPINGS
        ]

    def means(self, view: View, membership: Membership) -> SubsetMeans:
        """Return the mean sketches of subsets (m, n), read once per view."""
        key = bytes(str(id(view)), "ascii") + np.asarray(membership).tobytes()
        if key not in self._means:
            self._means[key] = subset_means(view.sketches, self.n_tokens, membership)
        return self._means[key]

    def tuned_forms(self, candidates: Iterable[tuple[str, AdditiveScores]]) -> dict[str, Candidate]:
        """Return for each form the candidate, taken in that form, of highest rank correlation in calibration."""
        tried = list(candidates)
        return {form: self.tuned(in_form(tried, form)) for form in FORMS}

    def tuned(self, candidates: Iterable[Candidate]) -> Candidate:
        """Return the candidate of highest task-level rank correlation on the calibration subsets."""
        tried = list(candidates)
        scores = [
            float(task_level_spearman(each.predict(self.calibration)[None], self.utilities)[0])
            for _, each in tried
        ]
        return tried[int(np.argmax(scores))]


def in_form(
    candidates: Iterable[tuple[str, AdditiveScores]], form: Form
) -> Iterator[tuple[str, AdditiveScores]]:
    """Yield the candidates in one form."""
    for kind, each in candidates:
        yield kind, AdditiveScores(each.scores(), each.n_tokens, form)


@dataclass(frozen=True)
class Prediction:
    """values: (m, T) of a method for m subsets. kind: of the sketches that it was tuned to; empty: it reads none."""

    values: Floats
    kind: str


def rival_predictions(material: Material, membership: Bools) -> dict[Method, Prediction]:
    """Return the predictions of every rival for (m, n) subsets, by (method, form)."""
    return _predict(material, membership, RIVALS)


def predictions_by_kind(material: Material, membership: Bools) -> dict[Method, Prediction]:
    """Return what rivals predict that may read one sketch kind alone, as "METHOD, KIND sketch", for every kind."""
    found: dict[Method, Prediction] = {}
    for kind, view in material.views.items():
        alone = replace(material, views={kind: view}, checkpoints={}, layers={})
        for (name, form), prediction in _predict(alone, membership, READERS).items():
            if prediction.kind:
                found[f"{name}, {kind} sketch", form] = prediction
    return found


def _predict(
    material: Material,
    membership: Bools,
    builders: Iterable[Builder],
) -> dict[Method, Prediction]:
    return {
        method: Prediction(attributor.predict(membership), kind)
        for build in builders
        for method, (kind, attributor) in build(material).items()
    }


def controls(material: Material) -> dict[Method, Candidate]:
    """Return what knows nothing of the task's gradients: random, loss alone, distinct documents, ||mu|| alone."""
    corpus, tasks = material.corpus, len(material.corpus.tasks)
    found: dict[Method, Candidate] = {
        ("distinct documents", "sum"): ("", DistinctDocuments(corpus.cluster, tasks)),
        ("quadratic only", "mean"): material.tuned(
            (kind, _Quadratic(material, view, None if rho == 0 else metric_matrix(second, rho), tasks))
            for (kind, view), second in zip(material.views.items(), material.seconds.values(), strict=True)
            for rho in (0.0, *DAMPINGS)
        ),
    }
    for form in FORMS:
        found["random", form] = "", RandomScore(corpus.n_tokens, tasks, form=form)
        found["loss only", form] = material.tuned(
            ("", LossOnly(material.view.losses, corpus.n_tokens, tasks, sign, form)) for sign in (-1, 1)
        )
    return found


def gradient_products(material: Material) -> dict[Method, Candidate]:
    """Return GradDot, and TracIn over checkpoints as they are and each at mean squared norm 1."""
    tokens = material.n_tokens
    dots = [(kind, GradDot(view.sketches, tokens, view.targets)) for kind, view in material.views.items()]
    found = _by_form("GradDot", material.tuned_forms(dots))
    tried: list[tuple[str, AdditiveScores]] = []
    for kind, checkpoints in material.checkpoints.items():
        for views in (checkpoints, [join_views(checkpoints, tokens)]):
            pairs = [(view.sketches, view.targets) for view in views]
            tried.append((kind, TracIn(pairs, [1.0] * len(pairs), tokens)))
        # A kind that holds these checkpoints and more, such as n-grams, is a sum over its parts too.
        tried += [dot for dot in dots if dot[0].startswith(f"{kind}+")]
    return found | (_by_form("TracIn", material.tuned_forms(tried)) if tried else {})


def influences(material: Material) -> dict[Method, Candidate]:
    """Return TRAK, damped influence and LoGRA."""
    tokens = material.n_tokens
    grams = {kind: trak_gram(view.sketches, view.losses) for kind, view in material.views.items()}

    def trak(kind: str, rho: float) -> tuple[str, Trak]:
        view, gram = material.views[kind], grams[kind]
        damping = rho * float(np.trace(gram)) / len(gram)
        return kind, Trak(view.sketches, tokens, view.targets, view.losses, damping, gram=gram)

    first = next(iter(material.views))
    found = _by_form("TRAK, default damping", material.tuned_forms([trak(first, 0.0)]))
    tuned = (trak(kind, rho) for kind in material.views for rho in DAMPINGS)
    found |= _by_form("TRAK, tuned damping", material.tuned_forms(tuned))
    found |= _by_form("damped influence", material.tuned_forms(material.influence))
    if material.layers:
        tried = (
            (kind, BlockInfluence(view.sketches, tokens, view.targets, slices, rho, second=second))
            for kind, (view, slices) in material.layers.items()
            for second in [second_moment(view.sketches, tokens)]
            for rho in DAMPINGS
        )
        found |= _by_form("LoGRA influence", material.tuned_forms(tried))
    return found


def groups(material: Material) -> dict[Method, Candidate]:
    """Return GGDA: influence of groups, at random, by k-means of sketches and of representations."""
    tokens, n = material.n_tokens, material.corpus.n
    hidden = [kmeans_groups(material.representations, min(g, n)) for g in KMEANS_GROUPS]
    found: dict[Method, Candidate] = {}
    tried: dict[str, list[tuple[str, AdditiveScores]]] = {}
    for kind, view in material.views.items():
        partitions = {
            "GGDA, random groups": [random_groups(n, min(RANDOM_GROUPS, n))],
            "GGDA, k-means on sketches": [
                kmeans_groups(view.sketches, min(g, n), normalise=True) for g in KMEANS_GROUPS
            ],
            "GGDA, k-means on representations": hidden,
        }
        for name, partition in partitions.items():
            tried.setdefault(name, []).extend(
                (kind, Grouped(_group_influence(view.targets, rho), view.sketches, tokens, labels))
                for labels in partition
                for rho in GROUP_DAMPINGS
            )
    for name, candidates in tried.items():
        found |= _by_form(name, material.tuned_forms(candidates))
    return found


def _group_influence(targets: Floats, rho: float) -> Callable[[NDArray[np.float32], Floats], DampedInfluence]:
    def build(sketches: NDArray[np.float32], tokens: Floats) -> DampedInfluence:
        return DampedInfluence(sketches, tokens, targets, rho)

    return build


def _by_form(name: str, found: Mapping[str, Candidate]) -> dict[Method, Candidate]:
    return {(name, form): candidate for form, candidate in found.items()}


def datamodels(material: Material) -> dict[Method, Candidate]:
    """Return what is fitted on the calibration utilities without sketches."""
    corpus, subsets, utilities = material.corpus, material.calibration, material.utilities
    found: dict[Method, Candidate] = {
        ("datamodel on the mask", "sum"): ("", MaskDatamodel(subsets, utilities))
    }
    for form in FORMS:
        found["datamodel on source counts", form] = (
            "",
            SourceDatamodel(corpus.source, corpus.n_tokens, subsets, utilities, form),
        )
    return found


def with_log_terms(material: Material) -> dict[Method, Candidate]:
    """Return influence plus w log(distinct documents), and its mean form plus w log(size); all are fitted together."""
    corpus, subsets, utilities = material.corpus, material.calibration, material.utilities
    found: dict[Method, Candidate] = {}
    for form in FORMS:
        tried = [
            (kind, fit_log_distinct(each, corpus.cluster, subsets, utilities))
            for kind, each in in_form(material.influence, form)
        ]
        found["additive + log(distinct)", form] = material.tuned(tried)
    sized = [
        (kind, fit_log_size(each, corpus.n_tokens, subsets, utilities))
        for kind, each in in_form(material.influence, "mean")
    ]
    found["additive + log(size)", "mean"] = material.tuned(sized)
    return found


def second_order(material: Material) -> dict[Method, Candidate]:
    """Return second-order group influence, damping and step tuned."""
    corpus = material.corpus
    candidates: dict[Form, list[Candidate]] = {form: [] for form in FORMS}
    for kind, view in material.views.items():
        if not len(view.queries):
            continue
        moments = query_moments(view, corpus.query, len(corpus.tasks))
        whole = subset_means(view.sketches, material.n_tokens, np.ones((1, corpus.n)))
        for rho in GROUP_DAMPINGS:
            metric = metric_matrix(material.seconds[kind], rho)
            step = metric @ whole.means[0]
            bend = float(np.einsum("i,tij,j->t", step, moments, step).mean())
            unit = float(np.abs(view.targets @ step).mean()) / bend
            for form in FORMS:
                candidates[form] += [
                    (kind, _SecondOrder(material, view, moments, metric, unit * eta, form)) for eta in STEPS
                ]
    name = "second-order group influence"
    return {(name, form): material.tuned(tried) for form, tried in candidates.items()}


Builder = Callable[[Material], dict[Method, Candidate]]

READERS: tuple[Builder, ...] = (gradient_products, influences, groups, with_log_terms, second_order)
"""What reads sketches of the pool and the tasks."""

RIVALS: tuple[Builder, ...] = (controls, datamodels, *READERS)


@dataclass(frozen=True)
class _Quadratic:
    material: Material
    view: View
    metric: Floats | None
    tasks: int

    def predict(self, membership: Membership) -> Floats:
        return quadratic_from_means(self.material.means(self.view, membership), self.tasks, self.metric)


@dataclass(frozen=True)
class _SecondOrder:
    material: Material
    view: View
    moments: Floats
    metric: Floats
    eta: float
    form: Form

    def predict(self, membership: Membership) -> Floats:
        return second_order_from_means(
            self.material.means(self.view, membership),
            self.view.targets,
            self.moments,
            self.metric,
            self.eta,
            float(self.material.n_tokens.sum()),
            self.form,
        )
