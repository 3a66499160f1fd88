"""The judge J: ranks candidate corpora by evidence that their optimiser did not see, texts of judge documents.

    J = L              or, where conditional losses were measured,    J = z(L) + z(C)

L is the conditional log-coverage of the judge documents (`attribution.log_coverage`); C a corpus's mean loss reduction
by them (`proxy.conditional`). z is standardised over the optimised candidates. Why nothing else is heard:
`docs/selection.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.corpus.events import count_events
from grasp_pipeline.memberships import Membership

SMOOTHING = 0.009
"""rho of L (chosen on one cell, `docs/fidelity.md`)."""


def judge_coverage(chunks: TokenLists, query: TokenLists) -> LogCoverage:
    """Return L of judge texts over a pool of chunks."""
    counts = count_events(chunks, query, np.zeros(query.n, dtype=np.int64), 1)
    return LogCoverage(counts, SMOOTHING, "conditional")


@dataclass(frozen=True)
class Judgement:
    """score: (c,) J; likelihood, conditional: (c,) its parts before z, in nats per token."""

    score: Floats
    likelihood: Floats
    conditional: Floats | None = None


def judge(
    membership: Membership,
    n_tokens: ArrayLike,
    likelihood: LogCoverage,
    optimised: NDArray[np.bool_] | None = None,
    conditional: Floats | None = None,
) -> Judgement:
    """Judge c candidates given as (c, n) memberships; optimised: (c,) the candidates that z is taken over.

    conditional: (n,) loss reduction of every chunk by judge texts, where it was measured.

    Raises:
        InputError: shapes disagree or a candidate is empty.
    """
    covered = likelihood.predict(membership)[:, 0]
    if conditional is None:
        return Judgement(covered, covered)
    gained = mean_over_tokens(membership, n_tokens, conditional)
    return Judgement(standardise(covered, optimised) + standardise(gained, optimised), covered, gained)


def mean_over_tokens(membership: Membership, n_tokens: ArrayLike, values: Floats) -> Floats:
    """Return the token-weighted mean of values (n,) over each of c memberships (c, n): (c,)."""
    tokens = np.asarray(n_tokens, dtype=np.float64)
    return np.array([tokens[kept] @ values[kept] / tokens[kept].sum() for kept in membership])


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
