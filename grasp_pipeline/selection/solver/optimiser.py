"""Budgeted selection: the corpus that maximises the surrogate at a token budget met exactly.

    maximise F(w) = <r, mu_w>_M - (lambda / 2) ||mu_w||_M^2    over 0 <= w <= 1,  sum_i w_i n_i = B,
    mu_w = sum_i w_i n_i phi_i / B

`ascent` has the method: each pass is one read of all sketches for the marginal value of every chunk, and one of the
rows that the fractional knapsack, the best vertex for these values, has changed. `stream` does the same for corpora
whose sketches should be read a few times only. Constraints beside the budget are a `FeasibleSet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, weighted_sum
from grasp_pipeline.attribution.metric import Metric
from grasp_pipeline.attribution.surrogate import check_form
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.solver.ascent import CorpusOracle, Objective, ascend
from grasp_pipeline.selection.solver.budget import TokenBudget, check_budget, descending, fill_whole
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet
from grasp_pipeline.selection.solver.rounding import herd


@dataclass(frozen=True)
class Selection:
    """An optimised corpus.

    weights: (n,) in [0, 1], the fractional optimum; membership: (n,) bool, rounded, within the budget.
    objective: F of the rounded membership (its own mean); fractional_objective: F of the weights;
    upper_bound: no weights at this budget have a higher F.
    relative_gap: (upper_bound - objective) / scale, rounding included; fractional_gap: the same before
        rounding. scale is the gain F(weights) - F(all chunks equally), so 0.001 means: a thousandth of the
        gain over a random draw may be missing. It is at least 0.001 (|<r, mu>| + lambda/2 ||mu||^2).
    passes: times that all chunks were scored. n_tokens: tokens of the membership.
    q: (d,) residual direction M (r - lambda mu);
    marginal: (n,) <q, phi_i>, the value of one more token of chunk i;
    tau: marginal value at which the budget is spent: up to rounding, membership is marginal >= tau. Under
        constraints beside the budget it is the value at which the budget would be spent without them.
    weights and marginal are float64, from `optimise_stream` float32.
    """

    weights: NDArray[Any]
    membership: NDArray[np.bool_]
    objective: float
    fractional_objective: float
    upper_bound: float
    relative_gap: float
    fractional_gap: float
    passes: int
    n_tokens: int
    q: Floats
    tau: float
    marginal: NDArray[Any]


def optimise(
    sketches: SketchBlocks | NDArray[np.floating[Any]],
    n_tokens: ArrayLike,
    target: ArrayLike,
    budget: int,
    *,
    metric: Metric = None,
    lam: float = 0.7,
    allowed: NDArray[np.bool_] | None = None,
    feasible: FeasibleSet | None = None,
    gap: float = 1e-3,
    max_passes: int = 200,
    listener: Listener = silent,
) -> Selection:
    """Select chunks for a task direction r = target (d,) within a budget in tokens.

    sketches: (n, d) descent directions; n_tokens: (n,); metric: M (d, d) or None for the identity; lam:
    lambda; allowed: (n,) chunks that may be chosen; feasible: constraints beside the budget, made for the
    same n_tokens and budget; gap: relative duality gap to stop at; max_passes: most passes (with lambda
    above 0 there are two at least).
    Starts from the best vertex for the mean of the allowed corpus. Deterministic: ties go to the earlier
    chunk.

    Raises:
        ConfigError: the budget cannot be met, lambda is negative, the metric is not positive definite, or
            the feasible set has another budget or comes with `allowed`.
        InputError: shapes disagree or values are not finite.
    """
    blocks = as_blocks(sketches)
    tokens = check_budget(n_tokens, budget, allowed)
    r = check_problem(blocks, tokens, target, metric, lam)
    if feasible is not None:
        _check_feasible(feasible, len(tokens), budget, allowed)
        tokens = np.asarray(feasible.n_tokens, dtype=np.float64)
    region: FeasibleSet = feasible or TokenBudget(tokens, budget)
    even = check_even(weighted_sum(blocks, tokens) / tokens.sum())
    objective = Objective(r, metric, lam, even)
    oracle = CorpusOracle(blocks, tokens, region.vertex, budget)
    found = ascend(objective, oracle, even, gap, max_passes, listener)

    weights, marginal = found.hull.weights(), oracle.gains
    choosable = np.nonzero(tokens)[0]
    by_value = choosable[descending(marginal[choosable])]
    whole = fill_whole(by_value, tokens, budget)
    tau = float(marginal[whole].min())
    if feasible is None:
        herded = herd(blocks, tokens, budget, weights, marginal - tau, metric, lam)
        value = marginal[choosable]
        by_herd = choosable[descending(herded[choosable], weights[choosable], value)]
        rounded = [whole, fill_whole(by_herd, tokens, budget)]
    else:
        # At the optimum a fractional chunk is worth what its constraints charge: nothing in excess.
        herded = herd(blocks, tokens, budget, weights, np.zeros(blocks.n), metric, lam)
        rounded = [feasible.round(weights, marginal), feasible.round(herded.astype(np.float64), marginal)]
    membership, value = _best(blocks, tokens, rounded, objective)
    upper = found.value + found.missing
    return Selection(
        weights=weights,
        membership=membership,
        objective=value,
        fractional_objective=found.value,
        upper_bound=upper,
        relative_gap=max(0.0, (upper - value) / found.scale),
        fractional_gap=found.missing / found.scale,
        passes=found.passes,
        n_tokens=int(tokens[membership].sum()),
        q=found.q,
        tau=tau,
        marginal=marginal,
    )


def check_problem(
    blocks: SketchBlocks, tokens: NDArray[Any], target: ArrayLike, metric: Metric, lam: float
) -> Floats:
    """Return the target as (d,) float64 where it, the sketches, the tokens (n,) and the metric belong together.

    Raises:
        ConfigError: lambda is negative.
        InputError: shapes disagree or the target is not finite.
    """
    check_form(lam, "mean")
    r = np.asarray(target, dtype=np.float64)
    if len(tokens) != blocks.n or r.shape != (blocks.d,) or not np.isfinite(r).all():
        raise InputError(
            f"{blocks.n} sketches of {blocks.d} values, {len(tokens)} token counts and a target of shape "
            f"{r.shape} do not belong together, or the target is not finite"
        )
    if metric is not None and metric.shape != (blocks.d, blocks.d):
        raise InputError(f"the metric has shape {metric.shape}; expected ({blocks.d}, {blocks.d})")
    return r


def check_even(even: Floats) -> Floats:
    """Return the mean sketch of the corpus (d,).

    Raises:
        InputError: it is not finite.
    """
    if not np.isfinite(even).all():
        raise InputError("the mean sketch of the corpus is not finite; compute the sketches again")
    return even


def _check_feasible(feasible: FeasibleSet, n: int, budget: int, allowed: NDArray[np.bool_] | None) -> None:
    if len(feasible.n_tokens) != n or feasible.budget != budget:
        raise ConfigError(
            f"the constraints are for {len(feasible.n_tokens)} chunks and {feasible.budget:,} tokens, the "
            f"selection for {n} and {budget:,}; build them from the same corpus and budget"
        )
    if allowed is not None:
        raise ConfigError("chunks that may not be chosen belong in the constraints; leave `allowed` out")


def _best(
    blocks: SketchBlocks, tokens: Floats, memberships: list[NDArray[np.bool_]], objective: Objective
) -> tuple[NDArray[np.bool_], float]:
    """Return the membership of highest F, the earlier one of equals, with its F."""
    values = []
    for membership in memberships:
        kept = tokens * membership
        values.append(objective.value(weighted_sum(blocks, kept) / kept.sum()))
    best = int(np.argmax(values))
    return memberships[best], values[best]
