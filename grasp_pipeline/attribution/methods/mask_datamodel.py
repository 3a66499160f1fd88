"""The linear datamodel: ridge on which chunks a subset holds; no sketch (arXiv 2202.00622)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.datamodel import PENALTIES, RidgeDatamodel
from grasp_pipeline.attribution.methods.inputs import BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.names import Form


class MaskDatamodel(RidgeDatamodel):
    """The linear datamodel: ridge on the membership of each of n chunks; membership (m, n), utilities (m, T)."""

    def __init__(
        self, membership: Membership, utilities: ArrayLike, penalties: Sequence[float] = PENALTIES
    ) -> None:
        super().__init__(
            lambda subsets: np.asarray(subsets, dtype=np.float64), membership, utilities, penalties
        )

    def scores(self) -> Floats:
        """Return (n, T) coefficients, the worth of each chunk; predictions are their sums plus a constant."""
        return self.coefficients


@baseline("datamodel on the mask", ("sum",), "a_t + b_t' 1_S, ridge", "arXiv 2202.00622")
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return {"sum": ("", MaskDatamodel(inputs.calibration, inputs.utilities))}
