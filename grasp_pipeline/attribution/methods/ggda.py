"""GGDA: damped influence of groups of chunks, at random, by k-means of sketches and of representations.

Ley et al., arXiv 2410.09940; groups as `grasp_pipeline.attribution.grouped` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.attribution.grouped import Grouped
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
EXACT_VALUES = 1 << 24
"""Values of a feature matrix up to which a rival's groups are found without shortcuts."""

RANDOM_GROUPS = 64
EQUATION, SOURCE = "s_it = S_gt w_i / sum_g w, S_g damped influence of group g", "arXiv 2410.09940"


@baseline("GGDA, random groups", FORMS, EQUATION, SOURCE, by_kind=True)
def _build_random(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return _grouped(inputs, lambda _: [random_groups(inputs.n, min(RANDOM_GROUPS, inputs.n))])


@baseline("GGDA, k-means on sketches", FORMS, EQUATION, SOURCE, by_kind=True)
def _build_sketches(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return _grouped(
        inputs,
        lambda view: [
            kmeans_groups(view.sketches, count, normalise=True, exact_values=EXACT_VALUES)
            for count in _counts(inputs)
        ],
    )


@baseline(
    "GGDA, k-means on representations", FORMS, EQUATION, SOURCE, needs=("representations",), by_kind=True
)
def _build_representations(inputs: BaselineInputs) -> dict[Form, Candidate]:
    hidden = inputs.representations
    assert hidden is not None, "asked for in needs"
    partition = [kmeans_groups(hidden, count, exact_values=EXACT_VALUES) for count in _counts(inputs)]
    return _grouped(inputs, lambda _: partition)


def _counts(inputs: BaselineInputs) -> list[int]:
    """Return numbers of groups to tune over: of eight chunks on average, and the finest of two."""
    few, many = KMEANS_GROUPS
    return sorted({group_count(inputs.n, few), min(many, max(1, inputs.n // 2))})


def _grouped(
    inputs: BaselineInputs, partitions: Callable[[Sketched], Iterable[Ints]]
) -> dict[Form, Candidate]:
    return inputs.tuned_forms(
        (kind, Grouped(_influence(view.targets, rho), view.sketches, inputs.n_tokens, labels))
        for kind, view in inputs.views.items()
        for labels in partitions(view)
        for rho in GROUP_DAMPINGS
    )


def _influence(targets: Floats, rho: float) -> Callable[[NDArray[np.float32], Floats], DampedInfluence]:
    def build(sketches: NDArray[np.float32], tokens: Floats) -> DampedInfluence:
        return DampedInfluence(sketches, tokens, targets, rho)

    return build
