"""The residual filter: a fitted selection as one direction and one threshold.

At the optimum a token of chunk i is worth <q, phi_i> with q = M (r - lambda mu*). A new document is kept
where its sketch has <q, phi> >= tau: d floats score unseen shards with one dot product and no new
optimisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.blocks import Float64, SketchBlocks, as_blocks, project
from grasp_pipeline.errors import InputError


@dataclass(frozen=True)
class ResidualFilter:
    """q: (d,) float32 residual direction; tau: threshold on <q, phi>, in units of q times a sketch."""

    q: NDArray[np.float32]
    tau: float

    @classmethod
    def of(cls, q: ArrayLike, tau: float) -> ResidualFilter:
        """Return the filter of an optimised selection's q and tau.

        Raises:
            InputError: q is not a finite vector or tau is not finite.
        """
        direction = np.asarray(q, dtype=np.float32)
        if direction.ndim != 1 or not np.isfinite(direction).all() or not np.isfinite(tau):
            raise InputError("a residual filter needs one finite direction and a finite threshold")
        return cls(direction, float(tau))

    def values(self, sketches: SketchBlocks | NDArray[np.floating[Any]]) -> Float64:
        """Return (n,) <q, phi_i> in one pass.

        Raises:
            InputError: the sketches have another dimension than q.
        """
        blocks = as_blocks(sketches)
        if blocks.d != len(self.q):
            raise InputError(f"the filter's direction has {len(self.q)} values and the sketches {blocks.d}")
        return project(blocks, self.q)

    def apply(self, sketches: SketchBlocks | NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Return (n,) whether each sketch is kept."""
        return self.values(sketches) >= self.tau


def token_agreement(first: NDArray[np.bool_], second: NDArray[np.bool_], n_tokens: ArrayLike) -> float:
    """Return the share of tokens, in [0, 1], on which two memberships (n,) decide alike."""
    tokens = np.asarray(n_tokens, dtype=np.float64)
    return float(tokens @ (first == second) / tokens.sum())
