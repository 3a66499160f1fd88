"""Additive attribution plus the log number of tokens: z(f_t(S)) + weight * z(log tokens(S)).

What a mean form cannot tell; see `log_term` for z.
"""

from __future__ import annotations

import numpy as np

from grasp_pipeline.attribution.log_term import fit_log_term
from grasp_pipeline.attribution.methods.damped_influence import influences
from grasp_pipeline.attribution.methods.inputs import BaselineInputs, Candidate, in_form
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.names import Form


@baseline(
    "additive + log(size)", ("mean",), "z(f_t(S)) + weight z(log tokens(S))", "control for size", by_kind=True
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    """Damped influence in its mean form, its damping and the weight fitted together."""
    tokens = inputs.n_tokens.astype(np.float64)
    tried = [
        (
            kind,
            fit_log_term(each, lambda membership: membership @ tokens, inputs.calibration, inputs.utilities),
        )
        for kind, each in in_form(influences(inputs), "mean")
    ]
    return {"mean": inputs.tuned(tried)}
