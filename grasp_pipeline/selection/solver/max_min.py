"""The corpus whose worst task gains most, in a feasible set: `worst_task` driven by `optimiser`, in whole units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, project, weighted_sum
from grasp_pipeline.attribution.metric import Metric, apply_metric
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.solver.budget import descending, fill_whole
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet
from grasp_pipeline.selection.solver.optimiser import Selection
from grasp_pipeline.selection.solver.worst_task import solve_max_min


def maximise_worst(
    blocks: SketchBlocks,
    feasible: FeasibleSet,
    targets: Floats,
    weights: Floats,
    maximise: Callable[[Floats], Selection],
    *,
    metric: Metric = None,
    lam: float = 0.7,
    gap: float = 1e-3,
    listener: Listener = silent,
) -> tuple[Selection, Floats]:
    """Return the corpus that maximises the least gain over the pool's mean, and the direction (d,) it is best in.

    targets: (T, d) directions of the tasks; weights: (T,) above 0, gains in proportion to them are aimed at; maximise:
    the best Selection of the feasible set for one direction (d,) with this metric and lambda. The values of the
    Selection are least gains, each divided by its task's weight over the mean weight.
    """
    tokens = np.asarray(feasible.n_tokens, dtype=np.float64)

    def mean_of(kept: Floats) -> Floats:
        spent = kept * tokens
        return weighted_sum(blocks, spent) / spent.sum()

    def surrogate(mean: Floats) -> Floats:
        image = apply_metric(metric, mean)
        return targets @ image - lam / 2 * (mean @ image)

    base = surrogate(mean_of(np.ones(len(tokens))))
    found = solve_max_min(
        maximise,
        mean_of,
        targets,
        lam=lam,
        metric=metric,
        weights=weights,
        baselines=base,
        gap=gap,
        listener=listener,
    )
    q = apply_metric(metric, found.target - lam * found.mean)
    marginal = project(blocks, q)
    none = np.zeros(len(tokens))
    rounded = [feasible.round(found.weights, marginal), feasible.round(marginal, none)]
    scale = weights / weights.mean()
    values = [float(((surrogate(mean_of(kept.astype(float))) - base) / scale).min()) for kept in rounded]
    best = int(np.argmax(values))
    missing = found.upper_bound - found.value
    unit = missing / found.relative_gap if found.relative_gap > 0 else max(abs(found.value), 1e-12)
    (choosable,) = np.nonzero(tokens)
    whole = fill_whole(choosable[descending(marginal[choosable])], tokens, feasible.budget)
    selection = Selection(
        weights=found.weights,
        membership=rounded[best],
        objective=values[best],
        fractional_objective=found.value,
        upper_bound=found.upper_bound,
        relative_gap=max(0.0, (found.upper_bound - values[best]) / unit),
        fractional_gap=found.relative_gap,
        passes=found.solves,
        n_tokens=int(tokens[rounded[best]].sum()),
        q=q,
        tau=float(marginal[whole].min()),
        marginal=marginal,
    )
    return selection, found.target
