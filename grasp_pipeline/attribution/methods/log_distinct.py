"""Additive attribution plus the log number of distinct documents: z(f_t(S)) + weight * z(log D(S)).

The simplest correction of an additive method for duplicates; see `log_term` for z.
"""

from __future__ import annotations

from grasp_pipeline.attribution.log_term import fit_log_term
from grasp_pipeline.attribution.methods.damped_influence import influences
from grasp_pipeline.attribution.methods.distinct_documents import DistinctDocuments
from grasp_pipeline.attribution.methods.inputs import FORMS, BaselineInputs, Candidate, in_form
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.names import Form


@baseline(
    "additive + log(distinct)",
    FORMS,
    "z(f_t(S)) + weight z(log D(S))",
    "control for duplicates",
    by_kind=True,
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    """Damped influence, its damping and the weight fitted together."""
    distinct = DistinctDocuments(inputs.cluster, 1).predict
    return {
        form: inputs.tuned(
            (kind, fit_log_term(each, distinct, inputs.calibration, inputs.utilities))
            for kind, each in in_form(influences(inputs), form)
        )
        for form in FORMS
    }
