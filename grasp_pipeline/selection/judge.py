"""The judge J: ranks optimised corpora by evidence that their optimiser did not see (findings B3).

    J = z(L) + z(F_early) / 2 + z(F_final) / 2

L is the bigram likelihood of query texts; F_early the surrogate at an early checkpoint; F_final that at the
final one; both F with r from judge documents, M = I, lambda = 0.7. z is standardised over the optimised
candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.blocks import Float64, SketchBlocks
from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means
from grasp_pipeline.selection.bigram_likelihood import BigramLikelihood

LAMBDA = 0.7


@dataclass(frozen=True)
class View:
    """Sketches at one checkpoint, (n, d), and the mean sketch (d,) of the judge documents there."""

    blocks: SketchBlocks
    target: Float64


@dataclass(frozen=True)
class Judgement:
    """score: (c,) J; likelihood (nats per token), early, final: (c,) the parts before z."""

    score: Float64
    likelihood: Float64
    early: Float64
    final: Float64


def judge(
    membership: NDArray[np.bool_],
    n_tokens: ArrayLike,
    likelihood: BigramLikelihood,
    early: View,
    final: View,
    optimised: NDArray[np.bool_] | None = None,
) -> Judgement:
    """Judge c candidates given as (c, n) memberships; optimised: (c,) the candidates that z is taken over.

    Raises:
        InputError: shapes disagree or a candidate is empty.
    """
    parts = [likelihood.scores(membership)]
    for view in (early, final):
        means = subset_means(view.blocks, n_tokens, membership)
        parts.append(predict_from_means(means, view.target, None, LAMBDA)[:, 0])
    return combine(*parts, optimised=optimised)


def combine(
    likelihood: Float64, early: Float64, final: Float64, optimised: NDArray[np.bool_] | None
) -> Judgement:
    """Return the judgement from its three parts, each (c,)."""
    score = sum(
        weight * standardise(part, optimised)
        for weight, part in ((1.0, likelihood), (0.5, early), (0.5, final))
    )
    return Judgement(np.asarray(score), likelihood, early, final)


def standardise(values: Float64, reference: NDArray[np.bool_] | None = None) -> Float64:
    """Return (values - mean) / sd, with mean and population sd over the reference, by default all.

    Where the reference is constant up to rounding, the values tell nothing and are 0 everywhere.
    """
    sample = values if reference is None or not reference.any() else values[reference]
    centre, spread = sample.mean(), sample.std()
    if spread <= 1e-9 * np.abs(sample).max(initial=0.0):
        return np.zeros_like(values)
    return (values - centre) / spread
