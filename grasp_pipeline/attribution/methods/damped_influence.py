"""Damped influence in sketch space: w_i r_t' (C + rho tr(C)/d I)^-1 phi_i.

Influence functions (Koh & Liang 2017, arXiv 1703.04730) with the Gauss-Newton matrix replaced by the second
moment of the projected gradients, as in LoGRA (arXiv 2405.13954). Scaled as `metric_matrix` does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project
from grasp_pipeline.attribution.methods.inputs import DAMPINGS, FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import Form


class DampedInfluence(AdditiveScores):
    """Scores w_i <r_t, phi_i>_M from sketches (n, d), token counts (n,) and task directions targets (T, d).

    rho: damping above 0, in units of the mean eigenvalue of C; second: C (d, d) where it is already known.

    Raises:
        ConfigError: rho is not above 0.
    """

    def __init__(
        self,
        sketches: SketchBlocks | NDArray[np.floating[Any]],
        n_tokens: ArrayLike,
        targets: ArrayLike,
        rho: float,
        form: Form = "mean",
        second: ArrayLike | None = None,
    ) -> None:
        if not rho > 0:
            raise ConfigError(
                f"rho is {rho}; influence needs a damping above 0 (GradDot is the identity metric)"
            )
        blocks, tokens = as_blocks(sketches), np.asarray(n_tokens, dtype=np.float64)
        metric = metric_matrix(second_moment(blocks, tokens) if second is None else second, rho)
        directions = np.atleast_2d(np.asarray(targets, dtype=np.float64)) @ metric
        super().__init__(tokens[:, None] * project(blocks, directions.T), tokens, form)


@baseline(
    "damped influence",
    FORMS,
    "s_it = w_i r_t' (C + rho tr(C)/d I)^-1 phi_i",
    "arXiv 1703.04730, 2405.13954",
    by_kind=True,
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return inputs.tuned_forms(influences(inputs))


def influences(inputs: BaselineInputs) -> list[tuple[str, DampedInfluence]]:
    """Return damped influence with every view and damping, made once."""
    return inputs.remember(
        "damped influence",
        lambda: [
            (
                kind,
                DampedInfluence(
                    view.sketches, inputs.n_tokens, view.targets, rho, second=inputs.seconds[kind]
                ),
            )
            for kind, view in inputs.views.items()
            for rho in DAMPINGS
        ],
    )
