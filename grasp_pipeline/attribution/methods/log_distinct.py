"""Additive attribution plus the log number of distinct documents: z(f_t(S)) + weight * z(log D(S)).

The simplest correction of an additive method for duplicates; see `log_term` for z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.log_term import WEIGHTS, AdditiveLogTerm, fit_weight
from grasp_pipeline.attribution.methods.damped_influence import influences
from grasp_pipeline.attribution.methods.distinct_documents import DistinctDocuments
from grasp_pipeline.attribution.methods.inputs import FORMS, BaselineInputs, Candidate, in_form
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.protocol import Attributor, Membership
from grasp_pipeline.names import Form


class AdditiveLogDistinct(AdditiveLogTerm):
    """z(additive) + weight * z(log distinct documents); clusters: (n,) sortable labels of near-duplicates.

    Other arguments and errors as in `AdditiveLogTerm`.
    """

    def __init__(
        self, additive: Attributor, clusters: NDArray[Any], weight: float, calibration: Membership
    ) -> None:
        super().__init__(additive, DistinctDocuments(clusters, 1).predict, weight, calibration)


def fit_log_distinct(
    additive: Attributor,
    clusters: NDArray[Any],
    calibration: Membership,
    utilities: ArrayLike,
    weights: Sequence[float] = WEIGHTS,
) -> AdditiveLogDistinct:
    """Return the method with the weight that `fit_weight` finds; errors as there."""
    return fit_weight(
        AdditiveLogDistinct(additive, clusters, 0.0, calibration), calibration, utilities, weights
    )


@baseline(
    "additive + log(distinct)",
    FORMS,
    "z(f_t(S)) + weight z(log D(S))",
    "control for duplicates",
    by_kind=True,
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    """Damped influence, its damping and the weight fitted together."""
    return {
        form: inputs.tuned(
            (kind, fit_log_distinct(each, inputs.cluster, inputs.calibration, inputs.utilities))
            for kind, each in in_form(influences(inputs), form)
        )
        for form in FORMS
    }
