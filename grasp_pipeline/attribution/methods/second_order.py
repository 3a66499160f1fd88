"""Second-order group influence: pairs of chunks interact through the Hessian of the target (arXiv 2605.15675).

    F_t(S) = eta <r_t, u_S> - (eta^2 / 2) u_S' H_t u_S ,   u_S = sum_S w_i M phi_i / W

A Taylor expansion of task t's utility at the proxy, along the step eta u_S. M is the inverse Hessian of training,
here the damped inverse second moment of the sketches as scaled by `metric_matrix`. H_t is the Hessian of the task's
loss, here the second moment of its query sketches (Gauss-Newton). W is the number of tokens of the subset (form
mean) or of the corpus (form sum). With H_t = M^-1 for all tasks this is eta times the surrogate of lambda = eta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.methods.inputs import (
    FORMS,
    GROUP_DAMPINGS,
    BaselineInputs,
    Candidate,
)
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.metric import Metric, apply_metric, metric_matrix
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.attribution.surrogate import SubsetMeans, check_form, subset_means
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form
from grasp_pipeline.sketch.views import query_moments


def second_order_from_means(
    subsets: SubsetMeans,
    targets: ArrayLike,
    target_moments: ArrayLike,
    metric: Metric,
    eta: float,
    corpus_tokens: float,
    form: Form = "mean",
) -> Floats:
    """Return F_t(S): (m, T) from means already read, so that a grid of (rho, eta) needs one pass.

    targets: (T, d). target_moments: (T, d, d). corpus_tokens: of the whole corpus; the form mean ignores it.

    Raises:
        ConfigError: eta is not above 0, corpus_tokens is not in the sum form, or form is unknown.
        InputError: shapes disagree.
    """
    check_form(0.0, form)
    if not eta > 0:
        raise ConfigError(f"eta is {eta}; give a step above 0")
    r = np.atleast_2d(np.asarray(targets, dtype=np.float64))
    hessians = np.asarray(target_moments, dtype=np.float64)
    if hessians.shape != (*r.shape, r.shape[1]):
        raise InputError(
            f"target moments have shape {hessians.shape}; give one (d, d) for each of targets {r.shape}"
        )
    if subsets.means.shape[1] != r.shape[1]:
        raise InputError(f"means {subsets.means.shape} and targets {r.shape} disagree in width")
    steps = eta * apply_metric(metric, subsets.means)
    if form == "sum":
        if not corpus_tokens > 0:
            raise ConfigError(
                f"corpus_tokens is {corpus_tokens}; the sum form needs the corpus's size in tokens"
            )
        steps = steps * (subsets.tokens / corpus_tokens)[:, None]
    curved = np.stack([np.einsum("md,md->m", steps @ h, steps) for h in hessians], axis=1)
    return steps @ r.T - curved / 2


STEPS: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Steps tried for second-order group influence, in units of <r, M mu> / mu' M H M mu at the whole pool."""


@dataclass(frozen=True)
class _Read:
    """`second_order_from_means` of the means that the inputs remember."""

    inputs: BaselineInputs
    kind: str
    moments: Floats
    metric: Floats
    eta: float
    form: Form

    def predict(self, membership: Membership) -> Floats:
        return second_order_from_means(
            self.inputs.means(self.kind, membership),
            self.inputs.views[self.kind].targets,
            self.moments,
            self.metric,
            self.eta,
            float(self.inputs.n_tokens.sum()),
            self.form,
        )


@baseline(
    "second-order group influence",
    FORMS,
    "F_t(S) = eta <r_t, u_S> - (eta^2 / 2) u_S' H_t u_S",
    "arXiv 2605.15675",
    needs=("query_tokens", "query_task"),
    by_kind=True,
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    assert inputs.query_tokens is not None, "asked for in needs"
    assert inputs.query_task is not None, "asked for in needs"
    candidates: dict[Form, list[Candidate]] = {form: [] for form in FORMS}
    for kind, view in inputs.views.items():
        if not len(view.queries):
            continue
        moments = query_moments(view.queries, inputs.query_tokens, inputs.query_task, inputs.tasks)
        whole = subset_means(view.sketches, inputs.n_tokens, np.ones((1, inputs.n)))
        for rho in GROUP_DAMPINGS:
            metric = metric_matrix(inputs.seconds[kind], rho)
            step = metric @ whole.means[0]
            bend = float(np.einsum("i,tij,j->t", step, moments, step).mean())
            unit = float(np.abs(view.targets @ step).mean()) / bend
            for form in FORMS:
                candidates[form] += [
                    (kind, _Read(inputs, kind, moments, metric, unit * eta, form)) for eta in STEPS
                ]
    return {form: inputs.tuned(tried) for form, tried in candidates.items() if tried}
