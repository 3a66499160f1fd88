"""A datamodel on how many tokens, or which share of them, a subset takes from each source; no sketch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.datamodel import PENALTIES, RidgeDatamodel
from grasp_pipeline.attribution.methods.inputs import FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.attribution.surrogate import check_form
from grasp_pipeline.errors import InputError
from grasp_pipeline.memberships import sums_over
from grasp_pipeline.names import Form


class SourceDatamodel(RidgeDatamodel):
    """Ridge on the tokens of a subset from each source: their counts (form sum) or shares (form mean).

    sources: (n,) sortable labels. n_tokens: (n,). membership: (m, n). utilities: (m, T).

    Raises:
        InputError: labels and tokens disagree, or a subset is without tokens in the mean form.
    """

    def __init__(
        self,
        sources: NDArray[Any],
        n_tokens: ArrayLike,
        membership: Membership,
        utilities: ArrayLike,
        form: Form = "mean",
        penalties: Sequence[float] = PENALTIES,
    ) -> None:
        check_form(0.0, form)
        tokens = np.asarray(n_tokens, dtype=np.float64)
        if np.ndim(sources) != 1 or np.shape(sources) != tokens.shape:
            raise InputError(
                f"sources {np.shape(sources)} and token counts {tokens.shape}; give one of each per chunk"
            )
        names, codes = np.unique(sources, return_inverse=True)
        columns = (codes[:, None] == np.arange(len(names))) * tokens[:, None]

        def features(subsets: Membership) -> Floats:
            counts = sums_over(subsets, columns)
            if form == "sum":
                return counts
            sizes = counts.sum(axis=1)
            if not (sizes > 0).all():
                raise InputError(f"subset {int(np.argmin(sizes > 0))} holds no tokens and so has no shares")
            return counts / sizes[:, None]

        super().__init__(features, membership, utilities, penalties)


@baseline(
    "datamodel on source counts", FORMS, "a_t + b_t' x_S, x_S tokens by source, ridge", "arXiv 2202.00622"
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return {
        form: (
            "",
            SourceDatamodel(inputs.source, inputs.n_tokens, inputs.calibration, inputs.utilities, form),
        )
        for form in FORMS
    }
