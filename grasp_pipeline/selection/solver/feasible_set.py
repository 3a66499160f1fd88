"""What may be chosen: the seam between the optimiser and the constraints people have."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Floats


class FeasibleSet(Protocol):
    """The feasible keep weights: a closed convex set within 0 <= w <= 1 and sum_i w_i n_i = budget.

    The optimiser needs no more of it than its best vertex in a direction, and whole chunks at the end.
    """

    @property
    def n_tokens(self) -> Floats:
        """(n,) tokens of every chunk."""
        ...

    @property
    def unit(self) -> NDArray[np.integer[Any]] | None:
        """(n,) codes of what is kept or dropped as one; None where every chunk is."""
        ...

    @property
    def forced(self) -> Bools | None:
        """(n,) chunks that every feasible point keeps; None where there are none."""
        ...

    @property
    def budget(self) -> float:
        """Tokens that every feasible point spends."""
        ...

    def vertex(self, gains: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return the feasible weights (n,) that maximise sum_i w_i n_i gains_i; ties go to the earlier chunk."""
        ...

    def round(
        self, weights: NDArray[np.floating[Any]], gains: NDArray[np.floating[Any]]
    ) -> NDArray[np.bool_]:
        """Return a feasible membership (n,) within the budget, near the weights; gains (n,) break ties."""
        ...
