"""Control: the number of distinct documents (near-duplicate clusters) in a subset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.methods.inputs import BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.names import Form


class DistinctDocuments:
    """|{cluster_i : i in S}|, the same for each of `tasks` tasks; clusters: (n,) sortable labels."""

    def __init__(self, clusters: NDArray[Any], tasks: int) -> None:
        labels, codes = np.unique(clusters, return_inverse=True)
        n = len(codes)
        self._indicator = csr_array(
            (np.ones(n, dtype=np.float32), codes.ravel(), np.arange(n + 1)), shape=(n, len(labels))
        )
        self.tasks = tasks

    def predict(self, membership: Membership) -> Floats:
        """Return (m, tasks) counts for (m, n) memberships; any share above 0 counts a chunk as in."""
        counts = [
            np.count_nonzero(np.asarray(self._indicator.T @ (row > 0).astype(np.float32)))
            for row in membership
        ]
        return np.repeat(np.asarray(counts, dtype=np.float64)[:, None], self.tasks, axis=1)


@baseline("distinct documents", ("sum",), "|{cluster_i : i in S}|", "control")
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return {"sum": ("", DistinctDocuments(inputs.cluster, inputs.tasks))}
