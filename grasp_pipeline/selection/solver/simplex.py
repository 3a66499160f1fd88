"""The point of a convex hull nearest to the origin: the small problem inside every fully corrective step."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from grasp_pipeline.arrays import Floats


def nearest_in_hull(points: Floats) -> Floats:
    """Return (k,) weights a >= 0, sum a = 1, that minimise ||sum_j a_j points_j||; points: (k, d).

    Solved as non-negative least squares (Lawson & Hanson 1974) of ||P' a||^2 + s^2 (1' a - 1)^2 with the
    scale s of the points: at its minimum a / sum(a) satisfies the conditions of the problem on the simplex
    exactly, whatever s, because the penalty's gradient is the same for every weight. A QR factorisation first
    reduces d + 1 rows to k.

    Raises:
        RuntimeError: the active set did not settle (points equal up to rounding).
    """
    scale = np.sqrt(np.mean(np.sum(points**2, axis=1)))
    if scale == 0:
        return np.full(len(points), 1 / len(points))
    rows = np.vstack([points.T / scale, np.ones(len(points))])
    aim = np.zeros(len(rows))
    aim[-1] = 1.0
    q, r = np.linalg.qr(rows)
    weights, _ = nnls(r, q.T @ aim, maxiter=30 * len(points) + 100)
    return weights / weights.sum()
