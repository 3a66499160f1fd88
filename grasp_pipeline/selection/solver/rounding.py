"""From fractional weights to whole chunks without losing the optimum.

Where a task's mean can be reached, many weights are fractional and all marginal values nearly equal: a
threshold then tells nothing. Deciding chunk by chunk, each decision weighing the error that the earlier ones
left, keeps the error of the mean at the size of a few chunks (herding, Welling 2009; sigma-delta
quantisation).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.attribution.blocks import SketchBlocks, tiles
from grasp_pipeline.attribution.metric import Metric, apply_metric


def herd(
    blocks: SketchBlocks,
    tokens: NDArray[np.floating[Any]],
    budget: int,
    weights: NDArray[np.floating[Any]],
    excess: NDArray[np.floating[Any]],
    metric: Metric,
    lam: float,
) -> NDArray[np.bool_]:
    """Return a membership (n,) close to weights (n,) in its mean sketch and in tokens; whole weights stay.

    tokens: (n,); excess: (n,) marginal value minus tau. With e = sum_j (x_j - w_j) n_j phi_j over the chunks
    decided so far and t the same for tokens, x_i in {0, 1} minimises

        - excess_i n_i x_i / B + lambda / (2 B^2) (||e||_M^2 + s^2 t^2) :

    what F loses, with tokens priced at tau, plus a term that keeps the tokens near the budget (s is the root
    mean square sketch norm in a tile). One pass; only rows of fractional chunks are used. The result may miss
    the budget by a few chunks either way.
    """
    membership = weights == 1.0
    error, surplus = np.zeros(blocks.d), 0.0
    for start, tile in tiles(blocks):
        part = weights[start : start + len(tile)]
        (used,) = np.nonzero((part > 0) & (part < 1))
        if used.size == 0:
            continue
        rows = tile[used].astype(np.float64)
        images = apply_metric(metric, rows)
        squares = np.einsum("ij,ij->i", rows, images)
        spread = float(squares.mean())
        for k, i in enumerate(used + start):
            share, count = weights[i], tokens[i]
            drift = error @ images[k] + spread * surplus
            own = (0.5 - share) * count * (squares[k] + spread)
            take = lam * (drift + own) < excess[i] * budget
            membership[i] = take
            error += (take - share) * count * rows[k]
            surplus += (take - share) * count
    return membership
