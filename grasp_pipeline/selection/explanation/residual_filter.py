"""The residual filter of an arm that ranks by one direction; `chunk_filter` has those of the other arms.

At the optimum a token of chunk i is worth <q, phi_i> with q = M (r - lambda mu*). A new document is kept
where its sketch has <q, phi> >= tau: d floats score unseen shards with one dot product and no new
optimisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.blocks import (
    ArrayBlocks,
    SketchBlocks,
    StackedBlocks,
    as_blocks,
    project,
)
from grasp_pipeline.corpus.ngram_features import NgramFeatures
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

    def values(self, sketches: SketchBlocks | NDArray[np.floating[Any]]) -> Floats:
        """Return (n,) <q, phi_i> in one pass.

        Raises:
            InputError: the sketches have another dimension than q.
        """
        blocks = as_blocks(sketches)
        self.check(blocks)
        return project(blocks, self.q)

    def check(self, sketches: SketchBlocks) -> None:
        """Raise InputError where the sketches have another dimension than q."""
        if sketches.d != len(self.q):
            raise InputError(f"the filter's direction has {len(self.q)} values and the sketches {sketches.d}")

    def apply(self, sketches: SketchBlocks | NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Return (n,) whether each sketch is kept."""
        return self.values(sketches) >= self.tau


@dataclass(frozen=True)
class FeatureView:
    """How the features that a rule is linear in are made of a chunk's gradient sketch and its token ids.

    factors: of the sketch and, with n-grams, of the n-gram features after it; ngrams: fitted n-gram features or None.
    """

    factors: tuple[float, ...] = (1.0,)
    ngrams: NgramFeatures | None = None

    @classmethod
    def of(cls, fitted: SketchBlocks, ngrams: Callable[[], NgramFeatures]) -> FeatureView:
        """Return the view behind features of the corpus: its sketches alone, or `stack_views` with n-grams second.

        ngrams: gives the fitted n-gram features, where there are any.
        """
        if not isinstance(fitted, StackedBlocks):
            return cls()
        return cls(tuple(factor for _, factor in fitted.views), ngrams())

    def features(self, sketches: SketchBlocks, chunks: TokenLists) -> SketchBlocks:
        """Return the features of chunks, in the fit or not, with their sketches at the scale of the fit."""
        views = [(sketches, self.factors[0])]
        if self.ngrams is not None:
            views.append((ArrayBlocks(self.ngrams.transform(chunks)), self.factors[1]))
        return StackedBlocks(views)

    def mean(self, sketch: ArrayLike, chunks: TokenLists) -> Floats:
        """Return the token-weighted mean feature of chunks whose token-weighted mean sketch is given, (d,)."""
        parts = [np.asarray(sketch, dtype=np.float64) * self.factors[0]]
        if self.ngrams is not None:
            share = chunks.lengths / chunks.lengths.sum()
            parts.append(share @ self.ngrams.transform(chunks).astype(np.float64) * self.factors[1])
        return np.concatenate(parts)


def token_agreement(first: NDArray[np.bool_], second: NDArray[np.bool_], n_tokens: ArrayLike) -> float:
    """Return the share of tokens, in [0, 1], on which two memberships (n,) decide alike."""
    tokens = np.asarray(n_tokens, dtype=np.float64)
    return float(tokens @ (first == second) / tokens.sum())


def kept_agreement(first: NDArray[np.bool_], second: NDArray[np.bool_], n_tokens: ArrayLike) -> float:
    """Return the tokens that two memberships (n,) both keep over those of the one that keeps more, in [0, 1].

    Stricter than `token_agreement`: what both drop does not count, and keeping everything is no agreement. 1 where
    neither keeps anything.
    """
    tokens = np.asarray(n_tokens, dtype=np.float64)
    more = max(tokens @ first, tokens @ second)
    return float(tokens @ (first & second) / more) if more else 1.0
