"""GradDot, w_i <r_t, phi_i>: TracIn at one checkpoint (Pruthi et al. 2020, arXiv 2002.08484)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project
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
