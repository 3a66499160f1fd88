"""GradDot, w_i <r_t, phi_i>: TracIn at one checkpoint (Pruthi et al. 2020, arXiv 2002.08484)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project
from grasp_pipeline.attribution.methods.inputs import FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.names import Form


class GradDot(AdditiveScores):
    """Scores w_i <r_t, phi_i> from sketches (n, d), token counts (n,) and task directions targets (T, d)."""

    def __init__(
        self,
        sketches: SketchBlocks | NDArray[np.floating[Any]],
        n_tokens: ArrayLike,
        targets: ArrayLike,
        form: Form = "mean",
    ) -> None:
        directions = np.atleast_2d(np.asarray(targets, dtype=np.float64))
        tokens = np.asarray(n_tokens, dtype=np.float64)
        super().__init__(tokens[:, None] * project(as_blocks(sketches), directions.T), tokens, form)


@baseline("GradDot", FORMS, "s_it = w_i <r_t, phi_i>", "arXiv 2002.08484, one checkpoint", by_kind=True)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return inputs.tuned_forms(grad_dots(inputs))


def grad_dots(inputs: BaselineInputs) -> list[tuple[str, GradDot]]:
    """Return GradDot with every view."""
    return [
        (kind, GradDot(view.sketches, inputs.n_tokens, view.targets)) for kind, view in inputs.views.items()
    ]
