"""Additive attribution from scores of chunks: a subset is worth its chunks' sum or mean per token.

sum: f_t(S) = sum_S s_it        mean: f_t(S) = sum_S s_it / sum_S w_i
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.attribution.surrogate import check_form
from grasp_pipeline.errors import InputError
from grasp_pipeline.memberships import sums_over
from grasp_pipeline.names import Form


class AdditiveScores:
    """Given scores (n, T), worth of all tokens of a chunk on each task, and token counts n_tokens (n,).

    Raises:
        InputError: shapes disagree.
    """

    def __init__(self, scores: ArrayLike, n_tokens: ArrayLike, form: Form = "mean") -> None:
        check_form(0.0, form)
        self._scores = np.asarray(scores, dtype=np.float64)
        self.n_tokens = np.asarray(n_tokens, dtype=np.float64)
        self.form: Form = form
        if self._scores.ndim != 2 or self.n_tokens.shape != (len(self._scores),):
            raise InputError(
                f"scores {self._scores.shape} and token counts {self.n_tokens.shape} disagree in shape"
            )

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) for (m, n) memberships; InputError for a subset without tokens in the mean form."""
        total = sums_over(membership, self._scores)
        if self.form == "sum":
            return total
        sizes = sums_over(membership, self.n_tokens)
        if not (sizes > 0).all():
            raise InputError(f"subset {int(np.argmin(sizes > 0))} holds no tokens and so has no mean")
        return total / sizes[:, None]

    def scores(self) -> Floats:
        """Return (n, T) scores."""
        return self._scores
