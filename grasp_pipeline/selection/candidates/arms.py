"""Arms: candidate corpora, each filling a feasible set by one simple rule or by the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.attribution.metric import Metric
from grasp_pipeline.errors import InputError
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.candidates.dsir import dsir_resample
from grasp_pipeline.selection.constraints.feasible_sets import random_keys
from grasp_pipeline.selection.solver.budget import TokenBudget, descending
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet
from grasp_pipeline.selection.solver.optimiser import Selection, optimise
from grasp_pipeline.selection.solver.stream import optimise_stream

Role = Literal["candidate", "simple", "random", "full"]
"""`candidate`: optimised, for the judge; `simple`: a baseline; `random`: a draw; `full`: do not prune."""

STREAMED_ROWS = 1 << 18
"""Chunks up to which the optimiser may read the sketches as often as it likes."""


@dataclass(frozen=True)
class Arm:
    """A candidate corpus: membership (n,) bool, n_tokens its tokens, each chunk counted once.

    score: (n,) worth per token that the arm ranked by, and threshold: the score of its last chunk; None for
    draws. selection: the optimiser's result, for arms that it built. repeats: times that every chunk is to be
    trained on, which is how often it counts against the budget.
    """

    name: str
    family: str
    role: Role
    membership: NDArray[np.bool_]
    n_tokens: int
    description: str
    score: Floats | None = None
    threshold: float | None = None
    selection: Selection | None = None
    repeats: int = 1

    @property
    def n_chunks(self) -> int:
        """Number of chunks in the arm."""
        return int(self.membership.sum())

    @property
    def q(self) -> Floats | None:
        """Residual direction (d,) of an optimised arm."""
        return self.selection.q if self.selection else None

    @property
    def tau(self) -> float | None:
        """Threshold on <q, phi> of an optimised arm."""
        return self.selection.tau if self.selection else None

    @property
    def surrogate_value(self) -> float | None:
        """F of an optimised arm's membership."""
        return self.selection.objective if self.selection else None

    @property
    def relative_gap(self) -> float | None:
        """Duality gap of an optimised arm, rounding included."""
        return self.selection.relative_gap if self.selection else None

    @property
    def passes(self) -> int | None:
        """Passes of an optimised arm."""
        return self.selection.passes if self.selection else None


def full_arm(n_tokens: ArrayLike) -> Arm:
    """Return the whole corpus of chunks with n_tokens (n,): the answer `do not prune`."""
    tokens = np.asarray(n_tokens)
    everything = np.ones(len(tokens), dtype=np.bool_)
    return Arm("full", "full", "full", everything, int(tokens.sum()), "Every chunk of the clean corpus.")


def random_arm(feasible: FeasibleSet, draw: int, seed: int = 0) -> Arm:
    """Return one of several independent uniform draws of units; draw and seed name it."""
    keys = random_keys(feasible, "random_arm", seed, draw)
    return _filled(
        f"random-{draw}", "random", feasible, keys, "Drawn uniformly.", role="random", scored=False
    )


def dedup_random_arm(feasible: FeasibleSet, seed: int = 0) -> Arm:
    """Return a uniform draw from a feasible set without near duplicates."""
    return _filled(
        "random-deduplicated",
        "random-deduplicated",
        feasible,
        random_keys(feasible, "dedup_random_arm", seed),
        "Drawn uniformly from one document per near-duplicate cluster.",
        scored=False,
    )


def top_k_arm(family: str, score: ArrayLike, feasible: FeasibleSet, description: str, name: str = "") -> Arm:
    """Return the units of highest score (n,) per token, for example GradDot's scores over token counts."""
    return _filled(name or family, family, feasible, _checked(score, feasible, "scores"), description)


def middle_perplexity_arm(losses: ArrayLike, feasible: FeasibleSet) -> Arm:
    """Return the units whose perplexity is nearest to the middle of the corpus (see `nearness_to_median`).

    Of the perplexity filters of Marion et al. (arXiv 2309.04564) the middle of the distribution pruned best.
    """
    nearness = nearness_to_median(_checked(losses, feasible, "losses"), feasible.n_tokens)
    text = "Perplexity at the reference proxy nearest to the corpus's median."
    return top_k_arm("middle-perplexity", nearness, feasible, text)


def nearness_to_median(losses: Floats, n_tokens: NDArray[Any]) -> Floats:
    """Return (n,) minus the distance from one half of a chunk's place in the corpus's tokens, in order of loss (n,)."""
    order = np.argsort(losses, kind="stable")
    place = np.empty(len(n_tokens))
    place[order] = (np.cumsum(n_tokens[order]) - n_tokens[order] / 2) / n_tokens.sum()
    return -np.abs(place - 0.5)


def dsir_arm(scores: ArrayLike, feasible: FeasibleSet, seed: int = 0, name: str = "dsir") -> Arm:
    """Return a DSIR resample without replacement from log importance weights (n,) (see `dsir_scores`)."""
    membership = dsir_resample(_checked(scores, feasible, "importance weights"), feasible, seed)
    text = "Resampled by hashed n-gram importance weights (DSIR, arXiv 2302.03169)."
    return Arm(name, "dsir", "simple", membership, _tokens(feasible, membership), text)


def group_arm(
    labels: NDArray[np.integer[Any]],
    alignment: ArrayLike,
    feasible: FeasibleSet,
    seed: int = 0,
    name: str = "ggda",
) -> Arm:
    """Return the best groups of chunks, GGDA's top-k (arXiv 2410.09940); the last group is drawn from.

    labels: (n,) group of every chunk (see `group_chunks`); alignment: (n,) <r, phi_i>_M. A group is worth its
    token-weighted mean alignment.
    """
    worth = group_worth(labels, _checked(alignment, feasible, "alignments"), feasible.n_tokens)
    keys = random_keys(feasible, "group_arm", seed)
    place = np.empty(len(worth))
    place[descending(worth, -labels, keys)] = -np.arange(len(worth), dtype=np.float64)
    text = (
        f"Best of {len(np.unique(labels))} groups of similar chunks by attribution (GGDA, arXiv 2410.09940)."
    )
    membership = feasible.round(place, np.zeros(len(worth)))
    threshold = float(worth[membership].min())
    return Arm(name, "ggda", "simple", membership, _tokens(feasible, membership), text, worth, threshold)


def group_worth(labels: NDArray[np.integer[Any]], value: Floats, n_tokens: NDArray[Any]) -> Floats:
    """Return (n,) the token-weighted mean value (n,) of every chunk's group (n,)."""
    size = np.bincount(labels, n_tokens)
    return (np.bincount(labels, n_tokens * value) / np.maximum(size, 1))[labels]


def surrogate_arm(
    name: str,
    family: str,
    blocks: SketchBlocks,
    feasible: FeasibleSet,
    target: ArrayLike,
    description: str,
    *,
    metric: Metric = None,
    lam: float = 0.7,
    repeats: int = 1,
    gap: float = 1e-3,
    max_passes: int = 200,
    listener: Listener = silent,
) -> Arm:
    """Return the corpus that maximises the surrogate (see `maximise`).

    For n-grams beside gradients give the blocks and target of `stack_views`; repeats: of the feasible set's
    chunks, which counts them as often.
    """
    found = maximise(
        blocks, feasible, target, metric=metric, lam=lam, gap=gap, max_passes=max_passes, listener=listener
    )
    return selected_arm(name, family, feasible, found, description, repeats)


def selected_arm(
    name: str, family: str, feasible: FeasibleSet, found: Selection, description: str, repeats: int = 1
) -> Arm:
    """Return the arm of an optimiser's result in a feasible set."""
    return Arm(
        name,
        family,
        "candidate",
        found.membership,
        _tokens(feasible, found.membership) // repeats,
        description,
        score=found.marginal,
        threshold=found.tau,
        selection=found,
        repeats=repeats,
    )


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

    Constraints beside the budget are the business of `optimise` alone.
    """
    budget = int(feasible.budget)
    given = {"metric": metric, "lam": lam, "gap": gap, "max_passes": max_passes, "listener": listener}
    if not isinstance(feasible, TokenBudget):
        return optimise(blocks, feasible.n_tokens, target, budget, feasible=feasible, **given)
    if blocks.n > STREAMED_ROWS:
        return optimise_stream(blocks, feasible.n_tokens, target, budget, **given)
    return optimise(blocks, feasible.n_tokens, target, budget, **given)


def _checked(values: ArrayLike, feasible: FeasibleSet, what: str) -> Floats:
    """Return values as (n,) float64; raises InputError for another shape or values that are not finite."""
    array, n = np.asarray(values, dtype=np.float64), len(feasible.n_tokens)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise InputError(f"{what} of shape {array.shape} must be finite, one for each of {n} chunks")
    return array


def _tokens(feasible: FeasibleSet, membership: NDArray[np.bool_]) -> int:
    return int(feasible.n_tokens[membership].sum())


def _filled(
    name: str,
    family: str,
    feasible: FeasibleSet,
    worth: Floats,
    description: str,
    role: Role = "simple",
    scored: bool = True,
) -> Arm:
    """Return the arm that fills a feasible set by worth (n,), which is its score unless it is random."""
    membership = feasible.round(worth, np.zeros(len(worth)))
    score, threshold = (worth, float(worth[membership].min())) if scored else (None, None)
    return Arm(name, family, role, membership, _tokens(feasible, membership), description, score, threshold)
