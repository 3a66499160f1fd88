"""Every rival of the surrogate, in its strongest form: what is tuned is tuned on the same calibration subsets.

Additive methods are given in the sum and the mean form. Gradient methods are tuned over the same sketches that the
surrogate has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.block_influence import BlockInfluence
from grasp_pipeline.attribution.damped_influence import DampedInfluence
from grasp_pipeline.attribution.datamodel import MaskDatamodel, SourceDatamodel
from grasp_pipeline.attribution.distinct_documents import DistinctDocuments
from grasp_pipeline.attribution.grad_dot import GradDot
from grasp_pipeline.attribution.grouped import Grouped
from grasp_pipeline.attribution.log_distinct import fit_log_distinct
from grasp_pipeline.attribution.loss_only import LossOnly
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.partition import kmeans_groups, random_groups
from grasp_pipeline.attribution.protocol import Attributor, Form, Membership
from grasp_pipeline.attribution.quadratic_only import quadratic_from_means
from grasp_pipeline.attribution.random_score import RandomScore
from grasp_pipeline.attribution.second_order import second_order_from_means
from grasp_pipeline.attribution.surrogate import SubsetMeans, subset_means
from grasp_pipeline.attribution.tracin import TracIn
from grasp_pipeline.attribution.trak import Trak, trak_gram
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.laboratory.corpus import LabCorpus
from grasp_pipeline.laboratory.views import View, query_moments

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Method = tuple[str, str]
A = TypeVar("A", bound=Attributor)

FORMS: tuple[Form, ...] = ("mean", "sum")
DAMPINGS: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Dampings tried where a method's damping is tuned, in units of the mean eigenvalue of its second moment."""

GROUP_DAMPINGS: tuple[float, ...] = (0.1, 1.0, 3.0)

STEPS: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Steps tried for second-order group influence, in units of <r, M mu> / mu' M H M mu at the whole pool."""

KMEANS_GROUPS: tuple[int, ...] = (64, 256)
RANDOM_GROUPS = 64


@dataclass(frozen=True)
class Material:
    """What rivals may look at.

    Attributes:
        corpus: the pool.
        views: sketches that gradient methods are tuned over; the first is of the final checkpoint alone.
        checkpoints: views at several checkpoints of the reference training, for TracIn, in order.
        layers: a view by layers and the slice of each layer, for LoGRA.
        representations: (n, h) mean final hidden states, for GGDA.
        calibration: (m, n) subsets whose utilities (m, T) are known.
    """

    corpus: LabCorpus
    views: Sequence[View]
    checkpoints: Sequence[View]
    layers: tuple[View, Sequence[slice]] | None
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
        return self.views[0]

    @cached_property
    def seconds(self) -> Sequence[Floats]:
        """Second moment of every view, (d, d)."""
        return [second_moment(view.sketches, self.n_tokens) for view in self.views]

    @cached_property
    def influence(self) -> Mapping[str, AdditiveScores]:
        """Damped influence by form, view and damping tuned."""
        return self.tuned_forms(
            DampedInfluence(view.sketches, self.n_tokens, view.targets, rho, second=second)
            for view, second in zip(self.views, self.seconds, strict=True)
            for rho in DAMPINGS
        )

    def means(self, view: View, membership: Membership) -> SubsetMeans:
        """Return the mean sketches of subsets (m, n), read once per view."""
        key = bytes(str(id(view)), "ascii") + np.asarray(membership).tobytes()
        if key not in self._means:
            self._means[key] = subset_means(view.sketches, self.n_tokens, membership)
        return self._means[key]

    def tuned_forms(self, candidates: Iterable[AdditiveScores]) -> Mapping[str, AdditiveScores]:
        """Return for each form the candidate, taken in that form, of highest rank correlation in calibration."""
        tried = list(candidates)
        return {
            form: self.tuned(AdditiveScores(each.scores(), each.n_tokens, form) for each in tried)
            for form in FORMS
        }

    def tuned(self, candidates: Iterable[A]) -> A:
        """Return the candidate of highest task-level rank correlation on the calibration subsets."""
        tried = list(candidates)
        scores = [
            float(task_level_spearman(a.predict(self.calibration)[None], self.utilities)[0]) for a in tried
        ]
        return tried[int(np.argmax(scores))]


def rival_predictions(material: Material, membership: Bools) -> dict[Method, Floats]:
    """Return the (m, T) predictions of every rival for (m, n) subsets, by (method, form)."""
    predictions: dict[Method, Floats] = {}
    for build in RIVALS:
        for method, attributor in build(material).items():
            predictions[method] = attributor.predict(membership)
    return predictions


def controls(material: Material) -> dict[Method, Attributor]:
    """Return what knows nothing of the task's gradients: random, loss alone, distinct documents, ||mu|| alone."""
    corpus, tasks = material.corpus, len(material.corpus.tasks)
    found: dict[Method, Attributor] = {
        ("distinct documents", "sum"): DistinctDocuments(corpus.cluster, tasks),
        ("quadratic only", "mean"): material.tuned(
            _Quadratic(material, view, None if rho == 0 else metric_matrix(second, rho), tasks)
            for view, second in zip(material.views, material.seconds, strict=True)
            for rho in (0.0, *DAMPINGS)
        ),
    }
    for form in FORMS:
        found["random", form] = RandomScore(corpus.n_tokens, tasks, form=form)
        found["loss only", form] = material.tuned(
            LossOnly(material.view.losses, corpus.n_tokens, tasks, sign, form) for sign in (-1, 1)
        )
    return found


def gradient_products(material: Material) -> dict[Method, Attributor]:
    """Return GradDot and TracIn."""
    tokens = material.n_tokens
    found = _by_form(
        "GradDot",
        material.tuned_forms(GradDot(view.sketches, tokens, view.targets) for view in material.views),
    )
    pairs = [(each.sketches, each.targets) for each in material.checkpoints]
    return found | _by_form("TracIn", material.tuned_forms([TracIn(pairs, [1.0] * len(pairs), tokens)]))


def influences(material: Material) -> dict[Method, Attributor]:
    """Return TRAK, damped influence and LoGRA."""
    tokens = material.n_tokens
    grams = [trak_gram(view.sketches, view.losses) for view in material.views]

    def trak(number: int, rho: float) -> Trak:
        view, gram = material.views[number], grams[number]
        damping = rho * float(np.trace(gram)) / len(gram)
        return Trak(view.sketches, tokens, view.targets, view.losses, damping, gram=gram)

    numbers = range(len(material.views))
    found = _by_form("TRAK, default damping", material.tuned_forms([trak(0, 0.0)]))
    tuned = (trak(number, rho) for number in numbers for rho in DAMPINGS)
    found |= _by_form("TRAK, tuned damping", material.tuned_forms(tuned))
    found |= _by_form("damped influence", material.influence)
    if material.layers is not None:
        layered, slices = material.layers
        tried = (BlockInfluence(layered.sketches, tokens, layered.targets, slices, rho) for rho in DAMPINGS)
        found |= _by_form("LoGRA influence", material.tuned_forms(tried))
    return found


def groups(material: Material) -> dict[Method, Attributor]:
    """Return GGDA: influence of groups, at random, by k-means of sketches and of representations."""
    tokens, n = material.n_tokens, material.corpus.n
    hidden = [kmeans_groups(material.representations, min(g, n)) for g in KMEANS_GROUPS]
    found: dict[Method, Attributor] = {}
    tried: dict[str, list[Grouped]] = {}
    for view in material.views:
        partitions = {
            "GGDA, random groups": [random_groups(n, min(RANDOM_GROUPS, n))],
            "GGDA, k-means on sketches": [
                kmeans_groups(view.sketches, min(g, n), normalise=True) for g in KMEANS_GROUPS
            ],
            "GGDA, k-means on representations": hidden,
        }
        for name, partition in partitions.items():
            tried.setdefault(name, []).extend(
                Grouped(_group_influence(view.targets, rho), view.sketches, tokens, labels)
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


def _by_form(name: str, found: Mapping[str, Attributor]) -> dict[Method, Attributor]:
    return {(name, form): attributor for form, attributor in found.items()}


def fitted(material: Material) -> dict[Method, Attributor]:
    """Return what is fitted on the calibration utilities: datamodels, and influence with a bonus for distinctness."""
    corpus, subsets, utilities = material.corpus, material.calibration, material.utilities
    found: dict[Method, Attributor] = {("datamodel on the mask", "sum"): MaskDatamodel(subsets, utilities)}
    for form in FORMS:
        found["datamodel on source counts", form] = SourceDatamodel(
            corpus.source, corpus.n_tokens, subsets, utilities, form
        )
        found["additive + log(distinct)", form] = fit_log_distinct(
            material.influence[form], corpus.cluster, subsets, utilities
        )
    return found


def second_order(material: Material) -> dict[Method, Attributor]:
    """Return second-order group influence, damping and step tuned."""
    corpus = material.corpus
    candidates: dict[Form, list[_SecondOrder]] = {form: [] for form in FORMS}
    for view, second in zip(material.views, material.seconds, strict=True):
        if not len(view.queries):
            continue
        moments = query_moments(view, corpus.query, len(corpus.tasks))
        whole = subset_means(view.sketches, material.n_tokens, np.ones((1, corpus.n)))
        for rho in GROUP_DAMPINGS:
            metric = metric_matrix(second, rho)
            step = metric @ whole.means[0]
            bend = float(np.einsum("i,tij,j->t", step, moments, step).mean())
            unit = float(np.abs(view.targets @ step).mean()) / bend
            for form in FORMS:
                candidates[form] += [
                    _SecondOrder(material, view, moments, metric, unit * eta, form) for eta in STEPS
                ]
    name = "second-order group influence"
    return {(name, form): material.tuned(tried) for form, tried in candidates.items()}


RIVALS: tuple[Callable[[Material], dict[Method, Attributor]], ...] = (
    controls,
    gradient_products,
    influences,
    groups,
    fitted,
    second_order,
)


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
