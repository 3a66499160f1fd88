"""TracIn, w_i sum_c eta_c <r_ct, phi_ic> over checkpoints c (Pruthi et al. 2020, arXiv 2002.08484).

TracInCP: checkpoints stand for the visits to an example during training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project
from grasp_pipeline.attribution.methods.grad_dot import grad_dots
from grasp_pipeline.attribution.methods.inputs import FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form
from grasp_pipeline.sketch.views import join_views


class TracIn(AdditiveScores):
    """Scores w_i sum_c eta_c <r_ct, phi_ic>.

    checkpoints: for each, sketches (n, d) and task directions targets (T, d) of that checkpoint; d may differ.
    rates: eta_c, the learning rate at each checkpoint, 0 or more. n_tokens: (n,).

    Raises:
        ConfigError: no checkpoint, not one rate for each, or a negative rate.
        InputError: checkpoints disagree in chunks or tasks.
    """

    def __init__(
        self,
        checkpoints: Sequence[tuple[SketchBlocks | NDArray[np.floating[Any]], ArrayLike]],
        rates: Sequence[float],
        n_tokens: ArrayLike,
        form: Form = "mean",
    ) -> None:
        if not checkpoints or len(checkpoints) != len(rates) or not all(rate >= 0 for rate in rates):
            raise ConfigError(
                f"{len(checkpoints)} checkpoints with rates {list(rates)}; give at least one checkpoint and for "
                "each a learning rate of 0 or more"
            )
        views = [as_blocks(sketches) for sketches, _ in checkpoints]
        directions = [np.atleast_2d(np.asarray(targets, dtype=np.float64)) for _, targets in checkpoints]
        shapes = {(view.n, len(rows)) for view, rows in zip(views, directions, strict=True)}
        if len(shapes) != 1:
            raise InputError(
                f"checkpoints have (chunks, tasks) {sorted(shapes)}; give the same chunks and tasks for all"
            )
        tokens = np.asarray(n_tokens, dtype=np.float64)
        total = np.zeros(shapes.pop())
        for view, rows, rate in zip(views, directions, rates, strict=True):
            total += rate * project(view, rows.T)
        super().__init__(tokens[:, None] * total, tokens, form)


@baseline(
    "TracIn", FORMS, "s_it = w_i sum_c eta_c <r_ct, phi_ic>", "arXiv 2002.08484", needs=("checkpoints",)
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    """Over checkpoints as they are and each at mean squared norm 1."""
    dots, tried = grad_dots(inputs), list[tuple[str, AdditiveScores]]()
    for kind, checkpoints in inputs.checkpoints.items():
        for views in (checkpoints, [join_views(checkpoints, inputs.n_tokens)]):
            pairs = [(view.sketches, view.targets) for view in views]
            tried.append((kind, TracIn(pairs, [1.0] * len(pairs), inputs.n_tokens)))
        # A kind that holds these checkpoints and more, such as n-grams, is a sum over its parts too.
        tried += [dot for dot in dots if dot[0].startswith(f"{kind}+")]
    return inputs.tuned_forms(tried)
