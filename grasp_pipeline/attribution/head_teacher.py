"""A convex head as the teacher of a distilled index (`attribution.distilled`): which rows taught it what it says.

    effect of row i on query x = s ( x' theta - x' theta_{-i} ),  s = +1 where the head says 1, else -1

theta_{-i} by rescaled influence, the Newton step of each row alone (arXiv 2506.06656); of a group of rows, theta
without all of them, by the Newton step of the set (arXiv 2512.12572). See `convex.influence` for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.convex.influence import HeadInfluence
from grasp_pipeline.errors import InputError


def head_effects(
    influence: HeadInfluence, queries: ArrayLike, groups: NDArray[np.integer[Any]] | None = None
) -> Floats:
    """Return (q, n): by how much each row supports what the head says of queries (q, d), in margin; higher is more.

    groups: (n,) a code from 0 for every row; then the columns are the groups, (q, G), each removed whole.

    Raises:
        InputError: the queries have another width, or there is not one code of 0 or more for every row.
    """
    head, x = influence.head, np.asarray(queries, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != head.features.shape[1]:
        raise InputError(
            f"queries of shape {x.shape} for a head of {head.features.shape[1]} features; give (q, d)"
        )
    says = np.where(x @ head.theta > 0, 1.0, -1.0)[:, None]
    if groups is None:
        return -says * influence.rescaled(x)
    if groups.shape != head.labels.shape or (len(groups) and groups.min() < 0):
        raise InputError(
            f"groups of shape {groups.shape} for {len(head.labels)} rows; give a code of each from 0"
        )
    steps = [
        influence.step("Newton step", np.flatnonzero(groups == code)) for code in range(groups.max() + 1)
    ]
    return -says * (x @ np.stack(steps, axis=1))
