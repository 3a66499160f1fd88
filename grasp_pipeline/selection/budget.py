"""The token budget: filling it in a given order, exactly with a fraction or from below with whole chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.attribution.blocks import Float64
from grasp_pipeline.errors import ConfigError, InputError


def check_budget(n_tokens: ArrayLike, budget: int, allowed: NDArray[np.bool_] | None = None) -> Float64:
    """Return n_tokens (n,) as float64, 0 where a chunk is not allowed.

    Raises:
        InputError: counts are negative, not finite, or do not match `allowed`.
        ConfigError: the budget is not above 0, or above the tokens of the allowed chunks.
    """
    tokens = np.asarray(n_tokens, dtype=np.float64)
    if tokens.ndim != 1 or not np.isfinite(tokens).all() or (tokens < 0).any():
        raise InputError("token counts must be one finite number, 0 or more, per chunk")
    if allowed is not None:
        if allowed.shape != tokens.shape:
            raise InputError(
                f"allowed has shape {allowed.shape}; give one value for each of {len(tokens)} chunks"
            )
        tokens = np.where(allowed, tokens, 0.0)
    if not budget > 0:
        raise ConfigError(f"the token budget is {budget}; give at least the tokens of one chunk")
    if budget > tokens.sum():
        raise ConfigError(
            f"the token budget of {budget:,} is above the {tokens.sum():,.0f} tokens to choose from; lower it"
        )
    return tokens


def descending(values: ArrayLike, *ties: ArrayLike) -> NDArray[np.int64]:
    """Return (n,) indices, highest value first; equal values by `ties`, highest first, then by position."""
    keys = [-np.asarray(key, dtype=np.float64) for key in (*ties[::-1], values)]
    return np.lexsort(keys) if len(keys) > 1 else np.argsort(keys[0], kind="stable")


def fill_exactly(order: NDArray[np.integer[Any]], tokens: Float64, budget: int) -> Float64:
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


def fill_whole(order: NDArray[np.integer[Any]], tokens: Float64, budget: int) -> NDArray[np.bool_]:
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
