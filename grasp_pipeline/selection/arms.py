"""Arms: candidate corpora at one token budget, each built by one simple rule or by the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.blocks import Float64, SketchBlocks
from grasp_pipeline.attribution.metric import Metric
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.budget import check_budget, descending, fill_whole
from grasp_pipeline.selection.dsir import dsir_resample
from grasp_pipeline.selection.optimiser import Selection, optimise

Role = Literal["candidate", "simple", "random", "full"]
"""`candidate`: optimised, for the judge; `simple`: a baseline; `random`: a draw; `full`: do not prune."""


@dataclass(frozen=True)
class Arm:
    """A candidate corpus: membership (n,) bool, n_tokens its tokens.

    score: (n,) worth per token that the arm ranked by, and threshold: the score of its last chunk; None for
    draws. selection: the optimiser's result, for arms that it built.
    """

    name: str
    family: str
    role: Role
    membership: NDArray[np.bool_]
    n_tokens: int
    description: str
    score: Float64 | None = None
    threshold: float | None = None
    selection: Selection | None = None

    @property
    def n_chunks(self) -> int:
        """Number of chunks in the arm."""
        return int(self.membership.sum())

    @property
    def q(self) -> Float64 | None:
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


def random_arm(n_tokens: ArrayLike, budget: int, draw: int, seed: int = 0) -> Arm:
    """Return one of several independent uniform draws of chunks; draw and seed name it."""
    tokens = check_budget(n_tokens, budget)
    order = generator("random_arm", seed, draw).permutation(len(tokens))
    return _arm(
        f"random-{draw}",
        "random",
        "random",
        fill_whole(order, tokens, budget),
        tokens,
        "Chunks drawn uniformly.",
    )


def dedup_random_arm(n_tokens: ArrayLike, budget: int, survivors: NDArray[np.bool_], seed: int = 0) -> Arm:
    """Return a uniform draw among survivors (n,): chunks of one document per near-duplicate cluster."""
    tokens = check_budget(n_tokens, budget, survivors)
    order = generator("dedup_random_arm", seed).permutation(len(tokens))
    return _arm(
        "random-deduplicated",
        "random-deduplicated",
        "simple",
        fill_whole(order, tokens, budget),
        tokens,
        "Chunks drawn uniformly from one document per near-duplicate cluster.",
    )


def top_k_arm(
    family: str,
    score: ArrayLike,
    n_tokens: ArrayLike,
    budget: int,
    description: str,
    allowed: NDArray[np.bool_] | None = None,
    name: str = "",
) -> Arm:
    """Return the chunks of highest score per token (n,), for example GradDot's scores over token counts."""
    tokens = check_budget(n_tokens, budget, allowed)
    worth = _checked(score, len(tokens), "scores")
    membership = fill_whole(descending(worth), tokens, budget)
    threshold = float(worth[membership].min())
    return _arm(
        name or family, family, "simple", membership, tokens, description, score=worth, threshold=threshold
    )


def middle_perplexity_arm(losses: ArrayLike, n_tokens: ArrayLike, budget: int) -> Arm:
    """Return the chunks whose perplexity is nearest to the middle of the corpus.

    Nearness is by rank: the distance of a chunk's place in the corpus's tokens, in order of mean token loss (n,) at the
    reference proxy, from one half. Of the perplexity filters of Marion et al. (arXiv 2309.04564) the middle of the
    distribution pruned best.
    """
    tokens = check_budget(n_tokens, budget)
    values = _checked(losses, len(tokens), "losses")
    order = np.argsort(values, kind="stable")
    place = np.empty(len(tokens))
    place[order] = (np.cumsum(tokens[order]) - tokens[order] / 2) / tokens.sum()
    text = "Perplexity at the reference proxy nearest to the corpus's median."
    return top_k_arm("middle-perplexity", -np.abs(place - 0.5), n_tokens, budget, text)


def dsir_arm(
    scores: ArrayLike,
    n_tokens: ArrayLike,
    budget: int,
    allowed: NDArray[np.bool_] | None = None,
    seed: int = 0,
    name: str = "dsir",
) -> Arm:
    """Return a DSIR resample without replacement from log importance weights (n,) (see `dsir_scores`)."""
    tokens = check_budget(n_tokens, budget, allowed)
    weights = _checked(scores, len(tokens), "importance weights")
    membership = dsir_resample(weights, tokens, budget, seed, allowed=allowed)
    return _arm(
        name,
        "dsir",
        "simple",
        membership,
        tokens,
        "Resampled by hashed n-gram importance weights (DSIR, arXiv 2302.03169).",
    )


def group_arm(
    labels: NDArray[np.integer[Any]],
    alignment: ArrayLike,
    n_tokens: ArrayLike,
    budget: int,
    allowed: NDArray[np.bool_] | None = None,
    seed: int = 0,
    name: str = "ggda",
) -> Arm:
    """Return the best groups of chunks, GGDA's top-k (arXiv 2410.09940); the last group is drawn from.

    labels: (n,) group of every chunk (see `group_chunks`); alignment: (n,) <r, phi_i>_M. A group is worth its
    token-weighted mean alignment.
    """
    tokens = check_budget(n_tokens, budget, allowed)
    value = _checked(alignment, len(tokens), "alignments")
    size = np.bincount(labels, tokens)
    worth = (np.bincount(labels, tokens * value) / np.maximum(size, 1))[labels]
    luck = generator("group_arm", seed).random(len(tokens))
    membership = fill_whole(descending(worth, -labels, luck), tokens, budget)
    return _arm(
        name,
        "ggda",
        "simple",
        membership,
        tokens,
        f"Best of {len(np.unique(labels))} groups of similar chunks by attribution (GGDA, arXiv 2410.09940).",
        score=worth,
        threshold=float(worth[membership].min()),
    )


def surrogate_arm(
    name: str,
    family: str,
    blocks: SketchBlocks,
    n_tokens: ArrayLike,
    target: ArrayLike,
    budget: int,
    description: str,
    *,
    metric: Metric = None,
    lam: float = 0.7,
    allowed: NDArray[np.bool_] | None = None,
    gap: float = 1e-3,
    max_passes: int = 200,
) -> Arm:
    """Return the corpus that maximises the surrogate (see `optimise`).

    For n-grams beside gradients give the blocks and target of `stack_views`; for hard near-de-duplication
    give the survivors as `allowed`.
    """
    found = optimise(
        blocks,
        n_tokens,
        target,
        budget,
        metric=metric,
        lam=lam,
        allowed=allowed,
        gap=gap,
        max_passes=max_passes,
    )
    return Arm(
        name,
        family,
        "candidate",
        found.membership,
        found.n_tokens,
        description,
        score=found.marginal,
        threshold=found.tau,
        selection=found,
    )


def _checked(values: ArrayLike, n: int, what: str) -> Float64:
    """Return values as (n,) float64; raises InputError for another shape or values that are not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise InputError(f"{what} of shape {array.shape} must be finite, one for each of {n} chunks")
    return array


def _arm(
    name: str,
    family: str,
    role: Role,
    membership: NDArray[np.bool_],
    tokens: Float64,
    description: str,
    score: Float64 | None = None,
    threshold: float | None = None,
) -> Arm:
    return Arm(name, family, role, membership, int(tokens[membership].sum()), description, score, threshold)
