"""Second-order group influence straight from sketches: a slow twin of the baseline, which remembers its means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.attribution.methods.second_order import second_order_from_means
from grasp_pipeline.attribution.metric import Metric, metric_matrix, second_moment
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.attribution.surrogate import subset_means
from grasp_pipeline.names import Form


@dataclass
class SecondOrderGroup:
    """sketches (n, d), n_tokens (n,), targets (T, d), target_moments (T, d, d); rho: damping; eta: step."""

    sketches: SketchBlocks | NDArray[Any]
    n_tokens: NDArray[Any]
    targets: NDArray[Any]
    target_moments: NDArray[Any]
    rho: float
    eta: float
    form: Form = "mean"

    @property
    def metric(self) -> Metric:
        return metric_matrix(second_moment(self.sketches, self.n_tokens), self.rho)

    def predict(self, membership: Membership) -> Floats:
        means = subset_means(self.sketches, self.n_tokens, membership)
        whole = float(np.sum(self.n_tokens))
        return second_order_from_means(
            means, self.targets, self.target_moments, self.metric, self.eta, whole, self.form
        )
