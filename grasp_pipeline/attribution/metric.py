"""The metric M of the surrogate: the identity, or the damped inverse second moment of the sketches.

<a, b>_M = a' M b. With M the inverse of C, <r, phi> becomes the influence of a chunk (Koh & Liang 2017,
arXiv 1703.04730; damping as in Grosse et al. 2023, arXiv 2308.03296). C is the raw, uncentred second moment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, tiles
from grasp_pipeline.errors import ConfigError, InputError

Metric = NDArray[np.float64] | None
"""(d, d) symmetric positive definite; None is the identity."""


def second_moment(
    sketches: SketchBlocks | NDArray[np.floating[Any]], weights: ArrayLike | None = None
) -> Floats:
    """Return C = sum_i w_i phi_i phi_i' / sum_i w_i: (d, d) float64; weights (n,), by default equal.

    One pass; products are float32 within a tile, sums over tiles float64.

    Raises:
        InputError: the weights are negative, add up to nothing or do not match the sketches.
    """
    blocks = as_blocks(sketches)
    share = np.ones(blocks.n) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (blocks.n,) or not share.sum() > 0 or share.min() < 0:
        raise InputError(
            f"weights of shape {share.shape} cannot weight {blocks.n} sketches; give one, >= 0, for each"
        )
    root = np.sqrt(share / share.mean()).astype(np.float32)
    total = np.zeros((blocks.d, blocks.d))
    for start, tile in tiles(blocks):
        rows = tile * root[start : start + len(tile), None]
        total += rows.T @ rows
    return total / blocks.n


def metric_matrix(second: ArrayLike, rho: float) -> Floats:
    """Return M (d, d): the identity for rho = 0, else proportional to (C + rho tr(C)/d I)^-1.

    The factor makes tr(M C) = tr(C): the mean squared sketch norm, and so the unit of the surrogate, is the
    same for every rho. It is common to both terms of the surrogate and changes neither ranks nor optima.

    Raises:
        ConfigError: rho is negative, or so small that the damped matrix cannot be inverted.
        InputError: C is not a finite square matrix of positive trace.
    """
    c = np.asarray(second, dtype=np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not np.isfinite(c).all() or not np.trace(c) > 0:
        raise InputError(f"the second moment of shape {c.shape} must be square, finite and of positive trace")
    if rho < 0:
        raise ConfigError(f"rho is {rho}; give 0 for the identity or a damping above 0")
    d = len(c)
    identity = np.eye(d)
    if rho == 0:
        return identity
    try:
        inverse = cho_solve(cho_factor(c + rho * np.trace(c) / d * identity, lower=True), identity)
    except LinAlgError as error:
        raise ConfigError(
            f"the second moment cannot be inverted with rho {rho}; give a larger one"
        ) from error
    inverse = (inverse + inverse.T) / 2
    return inverse * (np.trace(c) / np.sum(inverse * c))


def apply_metric(metric: Metric, vectors: ArrayLike) -> Floats:
    """Return M v for the rows of (k, d), or for one vector (d,)."""
    rows = np.asarray(vectors, dtype=np.float64)
    return rows if metric is None else rows @ metric
