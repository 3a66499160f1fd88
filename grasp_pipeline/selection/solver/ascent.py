"""Fully corrective Frank-Wolfe for the surrogate, over any set that can name its best vertex.

    maximise F(mu) = <r, mu>_M - (lambda / 2) ||mu||_M^2    over the means mu of feasible weights

F is concave in mu and mu is linear in the weights (Jaggi 2013; the fully corrective variant, Lacoste-Julien & Jaggi
2015, arXiv 1511.05932, which for this objective is Wolfe's 1976 nearest-point method). A step:

1. q = M (r - lambda mu) and the vertex that is best for the marginal values <q, phi_i>, with its mean;
2. the gap <q, mu_vertex - mu>, an upper bound on what is missing to the optimum;
3. the best point in the hull of the vertices kept so far, a problem of a few dozen variables.

Away or pairwise steps on single chunks would need n weights per step; the hull of vertices needs k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, project, weighted_sum
from grasp_pipeline.attribution.metric import Metric, apply_metric
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.progress import Listener
from grasp_pipeline.selection.solver.simplex import nearest_in_hull

_FLOOR = 1e-3
"""Least scale of the relative gap, as a share of the size of F's two terms."""


class Objective:
    """F and its gradient for d-vectors, float64. even: (d,) mean of the corpus, the point that gains count from."""

    def __init__(self, target: Floats, metric: Metric, lam: float, even: Floats) -> None:
        self.target, self.metric, self.lam = target, metric, lam
        self.base = self.value(even)
        self._root: Floats | None = None

    def gradient(self, mean: Floats) -> Floats:
        """Return M (r - lambda mu)."""
        return apply_metric(self.metric, self.target - self.lam * mean)

    def value(self, mean: Floats) -> float:
        """Return F."""
        return float(apply_metric(self.metric, self.target - self.lam / 2 * mean) @ mean)

    def scale(self, mean: Floats) -> float:
        """Return what gaps are relative to: the gain over the even mean, or a thousandth of F's two terms."""
        value, linear = self.value(mean), float(apply_metric(self.metric, self.target) @ mean)
        size = abs(linear) + abs(linear - value)
        return max(value - self.base, _FLOOR * size, np.finfo(np.float64).tiny)

    def residual(self, mean: Floats) -> Floats:
        """Return root' (mean - r / lambda), whose squared norm is (const - F) 2 / lambda; the mean for lambda 0."""
        if self.lam == 0:
            return mean
        shifted = mean - self.target / self.lam
        if self.metric is None:
            return shifted
        if self._root is None:
            try:
                self._root = cholesky(self.metric, lower=True)
            except LinAlgError as error:
                raise ConfigError("the metric is not positive definite; raise its damping rho") from error
        return shifted @ self._root


class Vertex:
    """Weights of a vertex held in one byte per chunk: those taken whole, and the few taken in part.

    q: (d,) direction that it is best in.
    """

    def __init__(self, weights: NDArray[np.floating[Any]], q: Floats) -> None:
        self.q, self.whole = q, weights == 1.0
        self.part = np.nonzero((weights > 0) & ~self.whole)[0]
        self.value = weights[self.part]


class Hull:
    """Points kept so far, with their means and residuals, and the share of each in the present point."""

    def __init__(self, vertex: Vertex, mean: Floats, residual: Floats) -> None:
        self.vertices, self.means, self.residuals = [vertex], [mean], [residual]
        self.shares = np.ones(1)

    def add(self, vertex: Vertex, mean: Floats, residual: Floats) -> bool:
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
        vertices, means = [*self.vertices, vertex], [*self.means, mean]
        self.vertices, self.means = [vertices[j] for j in used], [means[j] for j in used]
        self.residuals, self.shares = [residuals[j] for j in used], shares[used]
        return True

    def mean(self) -> Floats:
        """Return the mean (d,) of the present point."""
        return self.shares @ np.array(self.means)

    def weights(self) -> Floats:
        """Return the weights (n,) of the present point."""
        total = np.zeros(len(self.vertices[0].whole))
        for share, vertex in zip(self.shares, self.vertices, strict=True):
            total[vertex.whole] += share
            total[vertex.part] += share * vertex.value
        return np.clip(total, 0.0, 1.0)


class Oracle(Protocol):
    """What names the best vertex in a direction. weights: (n,) of the last one; mean: (d,) of it."""

    weights: NDArray[np.floating[Any]]
    mean: Floats

    def turn(self, q: Floats) -> None:
        """Set weights and mean to those of the vertex of highest <q, mean>."""
        ...


class CorpusOracle:
    """The best vertex of a corpus: one read of all rows, and one of those that changed for its mean.

    vertex: gains (n,) to weights (n,); budget: what means divide by. gains: (n,) <q, phi_i> of the last direction.
    """

    def __init__(
        self,
        blocks: SketchBlocks,
        tokens: Floats,
        vertex: Callable[[Floats], NDArray[np.floating[Any]]],
        budget: float,
    ) -> None:
        self.blocks, self.tokens, self.budget, self._vertex = blocks, tokens, budget, vertex
        self.gains = np.zeros(blocks.n)
        self.weights: NDArray[np.floating[Any]] = np.zeros(blocks.n)
        self.mean = np.zeros(blocks.d)

    def turn(self, q: Floats) -> None:
        """Set gains, weights and mean for the direction q (d,)."""
        self.gains = project(self.blocks, q)
        best = self._vertex(self.gains)
        self.mean = self.mean + weighted_sum(self.blocks, (best - self.weights) * self.tokens) / self.budget
        self.weights = best


@dataclass(frozen=True)
class Ascent:
    """Where an ascent ended: F's value at the mean (d,) of the hull's point, q (d,) there, and what may be missing."""

    hull: Hull
    mean: Floats
    q: Floats
    value: float
    missing: float
    scale: float
    passes: int


def ascend(
    objective: Objective,
    oracle: Oracle,
    start: Floats,
    gap: float,
    max_passes: int,
    listener: Listener,
    hull: Hull | None = None,
) -> Ascent:
    """Maximise F from a point with mean start (d,) until the relative gap is met or nothing improves.

    hull: the point itself where it is feasible; without one the first vertex is the first point. After it the oracle
    stands at the last direction.
    """
    mean, passes = start, 0
    while True:
        q = objective.gradient(mean)
        oracle.turn(q)
        passes += 1
        missing = max(0.0, float(q @ (oracle.mean - mean)))
        value, scale = objective.value(mean), objective.scale(mean)
        listener(f"optimiser: pass {passes}, objective {value:.6g}, relative gap {missing / scale:.2e}")
        if hull is None:
            hull = Hull(Vertex(oracle.weights, q), oracle.mean, objective.residual(oracle.mean))
            mean = oracle.mean
            if objective.lam > 0:
                continue
            missing, value, scale = 0.0, objective.value(mean), objective.scale(mean)
            break
        if missing <= gap * scale or passes >= max_passes:
            break
        if not hull.add(Vertex(oracle.weights, q), oracle.mean, objective.residual(oracle.mean)):
            break
        mean = hull.mean()
    return Ascent(hull, mean, q, value, missing, scale, passes)
