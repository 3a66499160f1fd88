"""LoGRA influence: damped inverse second moments layer by layer, summed over layers (arXiv 2405.13954).

    s_it = w_i sum_l r_tl' (C_l + rho tr(C_l)/d_l I)^-1 phi_il

A layer's inverse keeps its own scale, unlike that of `metric_matrix`, since it weighs the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project
from grasp_pipeline.attribution.methods.inputs import DAMPINGS, FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.metric import second_moment
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form


class BlockInfluence(AdditiveScores):
    """LoGRA influence from sketches (n, d), token counts (n,) and task directions targets (T, d).

    blocks: the columns of each layer; together they cover the d columns once and in order.
    rho: damping above 0 in units of a layer's mean eigenvalue; the default is that of the authors' LogIX.
    second: C (d, d) where it is already known, with C_l on its diagonal.

    Raises:
        ConfigError: rho is not above 0, or too small for a layer's matrix to be inverted.
        InputError: shapes disagree, the blocks do not cover the columns, or a layer's sketches are all zero.
    """

    def __init__(
        self,
        sketches: SketchBlocks | NDArray[np.floating[Any]],
        n_tokens: ArrayLike,
        targets: ArrayLike,
        blocks: Sequence[slice],
        rho: float = 0.1,
        form: Form = "mean",
        second: ArrayLike | None = None,
    ) -> None:
        if not rho > 0:
            raise ConfigError(f"rho is {rho}; influence needs a damping above 0")
        rows, tokens = as_blocks(sketches), np.asarray(n_tokens, dtype=np.float64)
        columns = [np.arange(rows.d)[block] for block in blocks]
        if not all(map(len, columns)) or np.concatenate([[], *columns]).tolist() != list(range(rows.d)):
            raise InputError(
                f"blocks {list(blocks)} do not cover the {rows.d} columns of the sketches; give one slice for "
                "each layer, in order and without gaps"
            )
        c = np.asarray(second_moment(rows, tokens) if second is None else second, dtype=np.float64)
        r = np.atleast_2d(np.asarray(targets, dtype=np.float64))
        if c.shape != (rows.d, rows.d) or r.shape[1] != rows.d:
            raise InputError(
                f"a second moment {c.shape} and targets {r.shape} do not go with sketches of width {rows.d}"
            )
        directions = np.empty(r.shape)
        for number, block in enumerate(blocks):
            directions[:, block] = _damped_solve(c[block, block], rho, r[:, block], number)
        super().__init__(tokens[:, None] * project(rows, directions.T), tokens, form)


def _damped_solve(
    c: NDArray[np.float64], rho: float, r: NDArray[np.float64], block: int
) -> NDArray[np.float64]:
    """Return r (C + rho tr(C)/d I)^-1: (T, d) for r (T, d) and C (d, d)."""
    if not np.isfinite(c).all() or not np.trace(c) > 0:
        raise InputError(f"the sketches of block {block} are zero or not finite; leave this layer out")
    try:
        factor = cho_factor(c + rho * np.trace(c) / len(c) * np.eye(len(c)), lower=True)
    except LinAlgError as error:
        raise ConfigError(
            f"the second moment of block {block} cannot be inverted with rho {rho}; give a larger one"
        ) from error
    return cho_solve(factor, r.T).T


@baseline(
    "LoGRA influence",
    FORMS,
    "s_it = w_i sum_l r_tl' (C_l + rho tr(C_l)/d_l I)^-1 phi_il",
    "arXiv 2405.13954",
    needs=("layers",),
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    tokens = inputs.n_tokens
    return inputs.tuned_forms(
        (kind, BlockInfluence(view.sketches, tokens, view.targets, slices, rho, second=second))
        for kind, (view, slices) in inputs.layers.items()
        for second in [second_moment(view.sketches, tokens)]
        for rho in DAMPINGS
    )
