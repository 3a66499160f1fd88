"""Control: the surrogate without its alignment term, - ||mu_S||_M^2 / 2.

It knows the corpus but not the task. A surrogate that ranks no better has learned redundancy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks
from grasp_pipeline.attribution.metric import Metric
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.attribution.surrogate import SubsetMeans, squared_norms, subset_means


class QuadraticOnly:
    """- ||mu_S||_M^2 / 2, the same for each of `tasks` tasks; the mean form."""

    def __init__(
        self,
        sketches: SketchBlocks | NDArray[np.floating[Any]],
        n_tokens: ArrayLike,
        tasks: int,
        metric: Metric = None,
    ) -> None:
        self.blocks, self.n_tokens = as_blocks(sketches), np.asarray(n_tokens, dtype=np.float64)
        self.tasks, self.metric = tasks, metric

    def predict(self, membership: Membership) -> Floats:
        """Return (m, tasks) for (m, n) memberships, in one pass over the sketches."""
        return quadratic_from_means(
            subset_means(self.blocks, self.n_tokens, membership), self.tasks, self.metric
        )


def quadratic_from_means(subsets: SubsetMeans, tasks: int, metric: Metric) -> Floats:
    """Return (m, tasks) - ||mu_S||_M^2 / 2 from means already read."""
    return np.repeat(-squared_norms(subsets, metric)[:, None] / 2, tasks, axis=1)
