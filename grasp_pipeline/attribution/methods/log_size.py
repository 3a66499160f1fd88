"""Additive attribution plus the log number of tokens: z(f_t(S)) + weight * z(log tokens(S)).

What a mean form cannot tell; see `log_term` for z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.attribution.log_term import WEIGHTS, AdditiveLogTerm, fit_weight
from grasp_pipeline.attribution.methods.damped_influence import influences
from grasp_pipeline.attribution.methods.inputs import BaselineInputs, Candidate, in_form
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.protocol import Attributor, Membership
from grasp_pipeline.names import Form


class AdditiveLogSize(AdditiveLogTerm):
    """z(additive) + weight * z(log tokens); n_tokens: (n,). Other arguments and errors as in `AdditiveLogTerm`."""

    def __init__(
        self, additive: Attributor, n_tokens: ArrayLike, weight: float, calibration: Membership
    ) -> None:
        tokens = np.asarray(n_tokens, dtype=np.float64)
        super().__init__(additive, lambda membership: membership @ tokens, weight, calibration)


def fit_log_size(
    additive: Attributor,
    n_tokens: ArrayLike,
    calibration: Membership,
    utilities: ArrayLike,
    weights: Sequence[float] = WEIGHTS,
) -> AdditiveLogSize:
    """Return the method with the weight that `fit_weight` finds; errors as there."""
    method = AdditiveLogSize(additive, n_tokens, 0.0, calibration)
    return fit_weight(method, calibration, utilities, weights)


@baseline(
    "additive + log(size)", ("mean",), "z(f_t(S)) + weight z(log tokens(S))", "control for size", by_kind=True
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    """Damped influence in its mean form, its damping and the weight fitted together."""
    tried = [
        (kind, fit_log_size(each, inputs.n_tokens, inputs.calibration, inputs.utilities))
        for kind, each in in_form(influences(inputs), "mean")
    ]
    return {"mean": inputs.tuned(tried)}
