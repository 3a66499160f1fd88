"""Candidate corpora, what one is to be built from, and the two ways of filling a feasible set: by a score, by F."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.attribution.metric import Metric
from grasp_pipeline.errors import InputError
from grasp_pipeline.names import ArmRole, Dedup
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.candidates.context import LinearScore
from grasp_pipeline.selection.solver.budget import TokenBudget
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet
from grasp_pipeline.selection.solver.optimiser import Selection, optimise
from grasp_pipeline.selection.solver.stream import optimise_stream

STREAMED_ROWS = 1 << 18
"""Chunks up to which the optimiser may read the sketches as often as it likes."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate corpus: membership (n,) bool, n_tokens its tokens, each chunk counted once.

    linear: the linear score that it ranks by, None for others; dedup: how far near duplicates are left out; repeats:
    times that every chunk is to be trained on, which is how often it counts against the budget; selection: the
    optimiser's result, where it built the candidate; smoothing: rho of log-coverage.
    """

    name: str
    family: str
    role: ArmRole
    membership: Bools
    n_tokens: int
    description: str
    linear: LinearScore | None = None
    dedup: Dedup = "none"
    repeats: int = 1
    selection: Selection | None = None
    smoothing: float | None = None

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return int(self.membership.sum())

    @property
    def surrogate_value(self) -> float | None:
        """F of an optimised candidate's membership."""
        return self.selection.objective if self.selection else None

    @property
    def relative_gap(self) -> float | None:
        """Duality gap of an optimised candidate, rounding included."""
        return self.selection.relative_gap if self.selection else None

    @property
    def passes(self) -> int | None:
        """Passes of an optimised candidate."""
        return self.selection.passes if self.selection else None


@dataclass(frozen=True, eq=False)
class CandidateSpec:
    """An optimised candidate to build: its name, linear score, feasible set, and how often each chunk counts."""

    name: str
    linear: LinearScore
    dedup: Dedup = "none"
    repeats: int = 1


def tokens_of(membership: Bools, feasible: FeasibleSet, copies: int = 1) -> int:
    """Return the tokens of a membership (n,) in a feasible set where chunks count `copies` times, each counted once."""
    return int(feasible.n_tokens[membership].sum()) // copies


def checked(score: ArrayLike, feasible: FeasibleSet) -> Floats:
    """Return scores as (n,) float64.

    Raises:
        InputError: they have another shape than a feasible set's chunks, or are not finite.
    """
    values, n = np.asarray(score, dtype=np.float64), len(feasible.n_tokens)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise InputError(f"scores of shape {values.shape} must be finite, one for each of {n} chunks")
    return values


def top_k(score: ArrayLike, feasible: FeasibleSet) -> Bools:
    """Return the units of highest score (n,) per token that fill a feasible set; errors as in `checked`."""
    values = checked(score, feasible)
    return feasible.round(values, np.zeros(len(values)))


def maximise(
    blocks: SketchBlocks,
    feasible: FeasibleSet,
    target: ArrayLike,
    *,
    metric: Metric = None,
    lam: float = 0.7,
    gap: float = 1e-3,
    max_passes: int = 200,
    listener: Listener = silent,
) -> Selection:
    """Maximise the surrogate in a feasible set: by `optimise`, above `STREAMED_ROWS` rows by `optimise_stream`.

    For n-grams beside gradients give the blocks and target of `stack_views`. Constraints beside the budget are the
    business of `optimise` alone.
    """
    budget = int(feasible.budget)
    given = {"metric": metric, "lam": lam, "gap": gap, "max_passes": max_passes, "listener": listener}
    if not isinstance(feasible, TokenBudget):
        return optimise(blocks, feasible.n_tokens, target, budget, feasible=feasible, **given)
    if blocks.n > STREAMED_ROWS:
        return optimise_stream(blocks, feasible.n_tokens, target, budget, **given)
    return optimise(blocks, feasible.n_tokens, target, budget, **given)
