"""Control: the surrogate without its alignment term, - ||mu_S||_M^2 / 2.

It knows the corpus but not the task. A surrogate that ranks no better has learned redundancy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.methods.inputs import DAMPINGS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.metric import Metric, metric_matrix
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.attribution.surrogate import SubsetMeans, squared_norms
from grasp_pipeline.names import Form


def quadratic_from_means(subsets: SubsetMeans, tasks: int, metric: Metric) -> Floats:
    """Return (m, tasks) - ||mu_S||_M^2 / 2 from means already read."""
    return np.repeat(-squared_norms(subsets, metric)[:, None] / 2, tasks, axis=1)


@dataclass(frozen=True)
class _Read:
    """The same from the means that the inputs remember."""

    inputs: BaselineInputs
    kind: str
    metric: Metric

    def predict(self, membership: Membership) -> Floats:
        return quadratic_from_means(self.inputs.means(self.kind, membership), self.inputs.tasks, self.metric)


@baseline("quadratic only", ("mean",), "- ||mu_S||_M^2 / 2", "control: the surrogate without alignment")
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    def candidates() -> Iterator[Candidate]:
        for kind, second in inputs.seconds.items():
            for rho in (0.0, *DAMPINGS):
                yield kind, _Read(inputs, kind, None if rho == 0 else metric_matrix(second, rho))

    return {"mean": inputs.tuned(candidates())}
