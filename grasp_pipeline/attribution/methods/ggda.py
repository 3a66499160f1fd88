"""GGDA: damped influence of groups of chunks, at random, by k-means of sketches and of representations.

Ley et al., arXiv 2410.09940; groups as `grasp_pipeline.attribution.grouped` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.attribution.grouped import Grouped, Groups, group_means
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.methods.inputs import (
    FORMS,
    GROUP_DAMPINGS,
    BaselineInputs,
    Candidate,
    Sketched,
)
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.partition import group_count, kmeans_groups, random_groups
from grasp_pipeline.names import Form

KMEANS_GROUPS: tuple[int, ...] = (64, 256)
DIMENSION = 256
"""Directions that features are projected to before a rival's groups are sought: as tight groups as without."""

RANDOM_GROUPS = 64
EQUATION, SOURCE = "s_it = S_gt w_i / sum_g w, S_g damped influence of group g", "arXiv 2410.09940"


@baseline("GGDA, random groups", FORMS, EQUATION, SOURCE, by_kind=True)
def _build_random(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return _grouped(inputs, lambda _: [random_groups(inputs.n, min(RANDOM_GROUPS, inputs.n))])


@baseline("GGDA, k-means on sketches", FORMS, EQUATION, SOURCE, by_kind=True)
def _build_sketches(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return _grouped(inputs, lambda view: sketch_groups(inputs, view))


@baseline(
    "GGDA, k-means on representations", FORMS, EQUATION, SOURCE, needs=("representations",), by_kind=True
)
def _build_representations(inputs: BaselineInputs) -> dict[Form, Candidate]:
    hidden = inputs.representations
    assert hidden is not None, "asked for in needs"
    partition = [kmeans_groups(hidden, count, dimension=DIMENSION) for count in group_counts(inputs.n)]
    return _grouped(inputs, lambda _: partition)


def sketch_groups(inputs: BaselineInputs, view: Sketched) -> list[Ints]:
    """Return the k-means groups of a view's sketches by direction, for every number of groups that is tuned over."""
    return [
        kmeans_groups(view.sketches, count, normalise=True, dimension=DIMENSION)
        for count in group_counts(inputs.n)
    ]


def group_counts(n: int) -> list[int]:
    """Return numbers of groups of n chunks to tune over: of eight chunks on average, and the finest of two."""
    few, many = KMEANS_GROUPS
    return sorted({group_count(n, few), min(many, max(1, n // 2))})


def _grouped(
    inputs: BaselineInputs, partitions: Callable[[Sketched], Iterable[Ints]]
) -> dict[Form, Candidate]:
    return inputs.tuned_forms(
        (kind, Grouped(_influence(view.targets, rho), groups))
        for kind, view in inputs.views.items()
        for labels in partitions(view)
        for groups in [group_means(view.sketches, inputs.n_tokens, labels)]
        for rho in GROUP_DAMPINGS
    )


def _influence(targets: Floats, rho: float) -> Callable[[Groups], DampedInfluence]:
    return lambda groups: DampedInfluence(groups.sketches, groups.sizes, targets, rho)
