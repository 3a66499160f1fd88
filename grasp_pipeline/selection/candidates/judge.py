"""The judge J: ranks optimised corpora by evidence that their optimiser did not see.

    J = z(L) + z(F_early) / 2 + z(F_final) / 2                  without C
    J = z(C) + z(L) / 2 + z(F_early) / 4 + z(F_final) / 4

L is the conditional log-coverage of judge texts (`attribution.log_coverage`); F_early the surrogate at an early
checkpoint; F_final that at the final one; both F with r from judge documents, M = I, lambda = 0.7; C a corpus's mean
conditional loss reduction by judge texts (see `proxy.conditional`). z is standardised over the optimised candidates.
The weights with C were chosen on one corpus and measured on another (`benchmarks/README.md`, downstream).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means
from grasp_pipeline.corpus.events import count_events

LAMBDA = 0.7

SMOOTHING = 0.009
"""rho of L (chosen on one cell, `docs/fidelity.md`)."""


def judge_coverage(chunks: TokenLists, query: TokenLists) -> LogCoverage:
    """Return L of judge texts over a pool of chunks."""
    counts = count_events(chunks, query, np.zeros(query.n, dtype=np.int64), 1)
    return LogCoverage(counts, SMOOTHING, "conditional")


@dataclass(frozen=True)
class View:
    """Sketches at one checkpoint and the mean sketch (d,) of the judge documents there.

    rows: (k,) places in the pool of the chunks that are sketched, where they are a sample; None: all.
    """

    blocks: SketchBlocks
    target: Floats
    rows: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Judgement:
    """score: (c,) J; likelihood (nats per token), early, final, conditional (nats per token): (c,) parts before z."""

    score: Floats
    likelihood: Floats
    early: Floats
    final: Floats
    conditional: Floats | None = None


def judge(
    membership: NDArray[np.bool_],
    n_tokens: ArrayLike,
    likelihood: LogCoverage,
    early: View,
    final: View,
    optimised: NDArray[np.bool_] | None = None,
    conditional: Floats | None = None,
) -> Judgement:
    """Judge c candidates given as (c, n) memberships; optimised: (c,) the candidates that z is taken over.

    conditional: (n,) loss reduction of every chunk by judge texts, where it was measured.

    Raises:
        InputError: shapes disagree or a candidate is empty.
    """
    parts, every = [likelihood.predict(membership)[:, 0]], np.asarray(n_tokens)
    for view in (early, final):
        rows = slice(None) if view.rows is None else view.rows
        means = subset_means(view.blocks, every[rows], membership[:, rows])
        parts.append(predict_from_means(means, view.target, None, LAMBDA)[:, 0])
    gained = None if conditional is None else mean_over_tokens(membership, n_tokens, conditional)
    return combine(*parts, optimised=optimised, conditional=gained)


def mean_over_tokens(membership: NDArray[np.bool_], n_tokens: ArrayLike, values: Floats) -> Floats:
    """Return the token-weighted mean of values (n,) over each of c memberships (c, n): (c,)."""
    tokens = np.asarray(n_tokens, dtype=np.float64)
    return np.array([tokens[kept] @ values[kept] / tokens[kept].sum() for kept in membership])


def combine(
    likelihood: Floats,
    early: Floats,
    final: Floats,
    optimised: NDArray[np.bool_] | None,
    conditional: Floats | None = None,
) -> Judgement:
    """Return the judgement from its parts, each (c,)."""
    parts = [(1.0, likelihood), (0.5, early), (0.5, final)]
    if conditional is not None:
        parts = [(1.0, conditional), *((weight / 2, part) for weight, part in parts)]
    score = sum(weight * standardise(part, optimised) for weight, part in parts)
    return Judgement(np.asarray(score), likelihood, early, final, conditional)


def standardise(values: Floats, reference: NDArray[np.bool_] | None = None) -> Floats:
    """Return (values - mean) / sd, with mean and population sd over the reference, by default all.

    Where the reference is constant up to rounding, the values tell nothing and are 0 everywhere.
    """
    centre, spread = centre_and_spread(values, reference)
    return (values - centre) / spread if spread else np.zeros_like(values)


def centre_and_spread(values: Floats, reference: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Return the mean and population sd that `standardise` takes; the sd is 0 where the reference is constant."""
    sample = values if reference is None or not reference.any() else values[reference]
    centre, spread = float(sample.mean()), float(sample.std())
    return centre, spread if spread > 1e-9 * np.abs(sample).max(initial=0.0) else 0.0
