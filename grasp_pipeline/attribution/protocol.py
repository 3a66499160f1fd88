"""What every attribution method offers: predicted utilities of subsets and, if additive, scores of chunks."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.memberships import Membership

__all__ = ["AdditiveAttributor", "Attributor", "Membership"]

"""(m, n): m subsets over n chunks; 0/1, or the share of every chunk that is in."""


@runtime_checkable
class Attributor(Protocol):
    """Predicts the utility of training on a subset. Only the order of the predictions has a meaning."""

    def predict(self, membership: Membership) -> NDArray[np.float64]:
        """Return (m, T) predicted utilities of m subsets, given as (m, n) memberships, on T tasks."""
        ...


@runtime_checkable
class AdditiveAttributor(Attributor, Protocol):
    """An attributor whose value of a subset is a sum, or a token-weighted mean, of values of its chunks."""

    def scores(self) -> NDArray[np.float64]:
        """Return (n, T) worth of all tokens of a chunk. Divide by the tokens to rank for a budget."""
        ...
