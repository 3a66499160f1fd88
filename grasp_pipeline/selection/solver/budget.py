"""The token budget: filling it in a given order, exactly with a fraction or from below with whole chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import Float
from grasp_pipeline.errors import ConfigError, InputError


def check_budget(n_tokens: ArrayLike, budget: int, allowed: NDArray[np.bool_] | None = None) -> Floats:
    """Return n_tokens (n,) as float64, 0 where a chunk is not allowed (see `check_budget_as`)."""
    return check_budget_as(np.float64, n_tokens, budget, allowed)


def check_budget_as(
    kind: type[Float], n_tokens: ArrayLike, budget: int, allowed: NDArray[np.bool_] | None = None
) -> NDArray[Float]:
    """Return n_tokens (n,) as floats of a kind, 0 where a chunk is not allowed.

    Raises:
        InputError: counts are negative, not finite, or do not match `allowed`.
        ConfigError: the budget is not above 0, or above the tokens of the allowed chunks.
    """
    tokens = np.asarray(n_tokens, dtype=kind)
    if tokens.ndim != 1 or not np.isfinite(tokens).all() or (tokens < 0).any():
        raise InputError("token counts must be one finite number, 0 or more, per chunk")
    if allowed is not None:
        if allowed.shape != tokens.shape:
            raise InputError(
                f"allowed has shape {allowed.shape}; give one value for each of {len(tokens)} chunks"
            )
        tokens = np.where(allowed, tokens, kind(0))
    if not budget > 0:
        raise ConfigError(f"the token budget is {budget}; give at least the tokens of one chunk")
    total = tokens.sum(dtype=np.float64)
    if budget > total:
        raise ConfigError(
            f"the token budget of {budget:,} is above the {total:,.0f} tokens to choose from; lower it"
        )
    return tokens


def descending(values: ArrayLike, *ties: ArrayLike) -> NDArray[np.int64]:
    """Return (n,) indices, highest value first; equal values by `ties`, highest first, then by position."""
    keys = [-np.asarray(key, dtype=np.float64) for key in (*ties[::-1], values)]
    return np.lexsort(keys) if len(keys) > 1 else np.argsort(keys[0], kind="stable")


class TokenBudget:
    """The polytope of the budget alone: 0 <= w <= 1, sum_i w_i n_i = budget (see `FeasibleSet`).

    n_tokens: (n,) float64 as `check_budget` returns it.
    """

    unit = None
    forced = None

    def __init__(self, n_tokens: Floats, budget: float) -> None:
        self.n_tokens, self.budget = n_tokens, budget
        self._choosable = np.nonzero(n_tokens)[0]

    def vertex(self, gains: NDArray[np.floating[Any]]) -> Floats:
        """Return weights (n,): the fractional knapsack, by gain."""
        return fill_exactly(self._order(gains), self.n_tokens, self.budget)

    def round(
        self, weights: NDArray[np.floating[Any]], gains: NDArray[np.floating[Any]]
    ) -> NDArray[np.bool_]:
        """Return the membership (n,) that fills the budget by weight, equal weights by gain."""
        return fill_whole(self._order(weights, gains), self.n_tokens, self.budget)

    def _order(self, *keys: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        return self._choosable[descending(*(key[self._choosable] for key in keys))]


def fill_exactly(order: NDArray[np.integer[Any]], tokens: Floats, budget: float) -> Floats:
    """Return weights (n,) in [0, 1] that spend the budget to the token in the given order of chunks.

    This maximises sum_i w_i n_i g_i over 0 <= w <= 1, sum_i w_i n_i = budget when the order is by g
    descending: the fractional knapsack. At most one weight is neither 0 nor 1.
    """
    spent = np.cumsum(tokens[order])
    whole = int(np.searchsorted(spent, budget, side="right"))
    weights = np.zeros(len(tokens))
    weights[order[:whole]] = 1.0
    if whole < len(order):
        before = spent[whole - 1] if whole else 0.0
        weights[order[whole]] = (budget - before) / tokens[order[whole]]
    return weights


def fill_whole(order: NDArray[np.integer[Any]], tokens: Floats, budget: float) -> NDArray[np.bool_]:
    """Return the membership (n,) of the longest run of `order` within the budget.

    The tokens left over are fewer than those of the next chunk in the order. Chunks without tokens stay out,
    and so do chunks ahead of the run that are each longer than the whole budget.

    Raises:
        ConfigError: every chunk is longer than the budget.
    """
    order = order[(tokens[order] > 0) & (tokens[order] <= budget)]
    if order.size == 0:
        raise ConfigError(f"the token budget of {budget:,} is below the shortest chunk; raise it")
    membership = np.zeros(len(tokens), dtype=np.bool_)
    membership[order[: int(np.searchsorted(np.cumsum(tokens[order]), budget, side="right"))]] = True
    return membership


@dataclass(frozen=True)
class Run:
    """The longest run of chunks, best first, within a limit.

    taken: (n,) bool; edge: the next chunk in the order, None when all are taken; spent: size of the run.
    """

    taken: NDArray[np.bool_]
    edge: int | None
    spent: float


_SLICE = 1 << 18
"""Rows looked at together, so that a run needs memory for its membership alone."""


def longest_run(
    values: NDArray[np.float32], limit: float, sizes: NDArray[np.floating[Any]] | None = None
) -> Run:
    """Return the longest run by value, highest first, whose sizes add up to at most limit.

    values: (n,) float32, -inf allowed; sizes: (n,), by default 1 each. Equal values go by position. The same
    run as by sorting, found by two histograms of the values' bits in three reads of them.
    """
    slices = [slice(start, start + _SLICE) for start in range(0, len(values), _SLICE)]
    spent, prefix = 0.0, 0
    for shift in (16, 0):
        tally = np.zeros(1 << 16)
        for part in slices:
            key = _sortable(values[part])
            within = slice(None) if shift else key >> 16 == prefix
            weights = None if sizes is None else sizes[part][within]
            tally += np.bincount(key[within] >> shift & 0xFFFF, weights, 1 << 16)
        reached = spent + np.cumsum(tally[::-1])
        place = int(np.searchsorted(reached, limit, side="right"))
        if place == len(reached):
            return Run(np.ones(len(values), dtype=np.bool_), None, float(reached[-1]))
        spent = float(reached[place - 1]) if place else spent
        prefix = prefix << 16 | (0xFFFF - place)

    taken, edge = np.empty(len(values), dtype=np.bool_), None
    for part in slices:
        key = _sortable(values[part])
        taken[part] = key > prefix
        if edge is None:
            ties = np.flatnonzero(key == prefix) + part.start
            reached = spent + np.cumsum(
                np.ones(len(ties)) if sizes is None else sizes[ties], dtype=np.float64
            )
            within = int(np.searchsorted(reached, limit, side="right"))
            taken[ties[:within]] = True
            spent = float(reached[within - 1]) if within else spent
            edge = int(ties[within]) if within < len(ties) else None
    return Run(taken, edge, spent)


def _sortable(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return keys of 32 bits in the order of the values; both zeros are equal."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.int64)
