"""Budgeted selection: the corpus that maximises the surrogate at a token budget met exactly.

    maximise F(w) = <r, mu_w>_M - (lambda / 2) ||mu_w||_M^2    over 0 <= w <= 1,  sum_i w_i n_i = B,
    mu_w = sum_i w_i n_i phi_i / B

F is concave in mu and mu is linear in w, so the Frank-Wolfe method applies (Jaggi 2013; the fully corrective
variant, Lacoste-Julien & Jaggi 2015, arXiv 1511.05932, which for this objective is Wolfe's 1976 nearest-point
method). A pass:

1. q = M (r - lambda mu) and the marginal value g_i = <q, phi_i> of a token of every chunk: one read of all;
2. the best vertex, the fractional knapsack that fills the budget by g, and its mean: a read of changed rows;
3. the gap <q, mu_vertex - mu>, an upper bound on what is missing to the optimum;
4. the best point in the hull of the vertices kept so far, a problem of a few dozen variables.

Away or pairwise steps on single chunks would need n weights per step; the hull of vertices needs k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cholesky

from grasp_pipeline.attribution.blocks import Float64, SketchBlocks, as_blocks, project, weighted_sum
from grasp_pipeline.attribution.metric import Metric, apply_metric
from grasp_pipeline.attribution.surrogate import check_form
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.budget import check_budget, descending, fill_exactly, fill_whole
from grasp_pipeline.selection.rounding import herd
from grasp_pipeline.selection.simplex import nearest_in_hull

_FLOOR = 1e-3
"""Least scale of the relative gap, as a share of the size of F's two terms."""


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
    tau: marginal value at which the budget is spent: up to rounding, membership is marginal >= tau.
    """

    weights: Float64
    membership: NDArray[np.bool_]
    objective: float
    fractional_objective: float
    upper_bound: float
    relative_gap: float
    fractional_gap: float
    passes: int
    n_tokens: int
    q: Float64
    tau: float
    marginal: Float64


class _Objective:
    """F and its gradient for d-vectors, float64."""

    def __init__(self, target: Float64, metric: Metric, lam: float) -> None:
        self.target, self.metric, self.lam = target, metric, lam
        self._root: Float64 | None = None

    def gradient(self, mean: Float64) -> Float64:
        return apply_metric(self.metric, self.target - self.lam * mean)

    def value(self, mean: Float64) -> float:
        return float(apply_metric(self.metric, self.target - self.lam / 2 * mean) @ mean)

    def size(self, mean: Float64) -> float:
        linear = float(apply_metric(self.metric, self.target) @ mean)
        return abs(linear) + abs(linear - self.value(mean))

    def residual(self, mean: Float64) -> Float64:
        """Return root' (mean - r / lambda), whose squared norm is (const - F) 2 / lambda."""
        shifted = mean - self.target / self.lam
        if self.metric is None:
            return shifted
        if self._root is None:
            try:
                self._root = cholesky(self.metric, lower=True)
            except LinAlgError as error:
                raise ConfigError("the metric is not positive definite; raise its damping rho") from error
        return shifted @ self._root


class _Vertex:
    """Knapsack weights held in one byte per chunk: those taken whole, and the few taken in part."""

    def __init__(self, weights: Float64) -> None:
        self.whole = weights == 1.0
        self.part = np.nonzero((weights > 0) & ~self.whole)[0]
        self.value = weights[self.part]


class _Hull:
    """Vertices kept so far, with their means and residuals, and the share of each in the present point."""

    def __init__(self, vertex: Float64, mean: Float64, residual: Float64) -> None:
        self.vertices, self.means, self.residuals = [_Vertex(vertex)], [mean], [residual]
        self.shares = np.ones(1)

    def add(self, vertex: Float64, mean: Float64, residual: Float64) -> bool:
        """Move to the best point of the hull with one more vertex; return whether it improved."""
        residuals = [*self.residuals, residual]
        try:
            shares = nearest_in_hull(np.array(residuals))
        except RuntimeError:
            return False
        before = np.linalg.norm(self.shares @ np.array(self.residuals))
        if not np.linalg.norm(shares @ np.array(residuals)) < before:
            return False
        used = np.nonzero(shares)[0]
        vertices, means = [*self.vertices, _Vertex(vertex)], [*self.means, mean]
        self.vertices, self.means = [vertices[j] for j in used], [means[j] for j in used]
        self.residuals, self.shares = [residuals[j] for j in used], shares[used]
        return True

    def mean(self) -> Float64:
        return self.shares @ np.array(self.means)

    def weights(self) -> Float64:
        total = np.zeros(len(self.vertices[0].whole))
        for share, vertex in zip(self.shares, self.vertices, strict=True):
            total[vertex.whole] += share
            total[vertex.part] += share * vertex.value
        return np.clip(total, 0.0, 1.0)


def optimise(
    sketches: SketchBlocks | NDArray[np.floating[Any]],
    n_tokens: ArrayLike,
    target: ArrayLike,
    budget: int,
    *,
    metric: Metric = None,
    lam: float = 0.7,
    allowed: NDArray[np.bool_] | None = None,
    gap: float = 1e-3,
    max_passes: int = 200,
    listener: Listener = silent,
) -> Selection:
    """Select chunks for a task direction r = target (d,) within a budget in tokens.

    sketches: (n, d) descent directions; n_tokens: (n,); metric: M (d, d) or None for the identity; lam:
    lambda; allowed: (n,) chunks that may be chosen; gap: relative duality gap to stop at; max_passes: most
    passes (with lambda above 0 there are two at least).
    Starts from the best vertex for the mean of the allowed corpus. Deterministic: ties go to the earlier
    chunk.

    Raises:
        ConfigError: the budget cannot be met, lambda is negative, or the metric is not positive definite.
        InputError: shapes disagree or values are not finite.
    """
    check_form(lam, "mean")
    blocks = as_blocks(sketches)
    tokens = check_budget(n_tokens, budget, allowed)
    r = np.asarray(target, dtype=np.float64)
    if len(tokens) != blocks.n or r.shape != (blocks.d,) or not np.isfinite(r).all():
        raise InputError(
            f"{blocks.n} sketches of {blocks.d} values, {len(tokens)} token counts and a target of shape "
            f"{r.shape} do not belong together, or the target is not finite"
        )
    if metric is not None and metric.shape != (blocks.d, blocks.d):
        raise InputError(f"the metric has shape {metric.shape}; expected ({blocks.d}, {blocks.d})")
    objective = _Objective(r, metric, lam)
    choosable = np.nonzero(tokens)[0]

    even = weighted_sum(blocks, tokens) / tokens.sum()
    if not np.isfinite(even).all():
        raise InputError("the mean sketch of the corpus is not finite; compute the sketches again")
    base = objective.value(even)

    hull: _Hull | None = None
    mean, vertex, vertex_mean = even, np.zeros(blocks.n), np.zeros(blocks.d)
    passes = 0
    while True:
        q = objective.gradient(mean)
        marginal = project(blocks, q)
        passes += 1
        order = choosable[descending(marginal[choosable])]
        best = fill_exactly(order, tokens, budget)
        vertex_mean = vertex_mean + weighted_sum(blocks, (best - vertex) * tokens) / budget
        vertex = best
        missing = max(0.0, float(q @ (vertex_mean - mean)))
        value = objective.value(mean)
        scale = max(value - base, _FLOOR * objective.size(mean), np.finfo(np.float64).tiny)
        listener(f"optimiser: pass {passes}, objective {value:.6g}, relative gap {missing / scale:.2e}")
        if hull is None:
            hull = _Hull(vertex, vertex_mean, objective.residual(vertex_mean) if lam > 0 else vertex_mean)
            mean = vertex_mean
            if lam > 0:
                continue
            missing, value = 0.0, objective.value(mean)
            scale = max(value - base, _FLOOR * objective.size(mean), np.finfo(np.float64).tiny)
            break
        if missing <= gap * scale or passes >= max_passes:
            break
        if not hull.add(vertex, vertex_mean, objective.residual(vertex_mean)):
            break
        mean = hull.mean()

    weights = hull.weights()
    tau = float(marginal[fill_whole(order, tokens, budget)].min())
    membership, rounded = _round(blocks, tokens, budget, choosable, weights, marginal, tau, objective)
    upper = value + missing
    return Selection(
        weights=weights,
        membership=membership,
        objective=rounded,
        fractional_objective=value,
        upper_bound=upper,
        relative_gap=max(0.0, (upper - rounded) / scale),
        fractional_gap=missing / scale,
        passes=passes,
        n_tokens=int(tokens[membership].sum()),
        q=q,
        tau=tau,
        marginal=marginal,
    )


def _round(
    blocks: SketchBlocks,
    tokens: Float64,
    budget: int,
    choosable: NDArray[np.int64],
    weights: Float64,
    marginal: Float64,
    tau: float,
    objective: _Objective,
) -> tuple[NDArray[np.bool_], float]:
    """Return the better of two roundings, by marginal value alone and herded, with its objective."""
    herded = herd(blocks, tokens, budget, weights, marginal - tau, objective.metric, objective.lam)
    value = marginal[choosable]
    orders = [descending(value), descending(herded[choosable], weights[choosable], value)]
    rounded = [fill_whole(choosable[order], tokens, budget) for order in orders]
    values = []
    for membership in rounded:
        kept = tokens * membership
        values.append(objective.value(weighted_sum(blocks, kept) / kept.sum()))
    best = int(np.argmax(values))
    return rounded[best], values[best]
