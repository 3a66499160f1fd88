"""Budgeted selection from a few reads: the problem of `optimiser` for corpora that are streamed from disk.

Near the optimum only chunks whose marginal value lies near the threshold are undecided. So:

1. one read for the mean of the corpus and a seeded sample of rows, on which the problem is solved in memory, and one
   to weigh every chunk by the directions and thresholds of the sample's solution;
2. a read for the marginal value <q, phi_i> of every chunk at the present point. They give the value of the best vertex
   and so the gap: at most this is missing, over the whole corpus;
3. a read for the sum of the chunks clearly above the threshold, and for the sketches of those around it, which are
   held in memory. The problem is solved over the weights of the held and one more: the share to which all others keep
   their present weights rather than being in or out. Then 2 again.

The set of 3 holds the best vertex and the present point, so a round gains at least what a Frank-Wolfe step with exact
line search does; where all chunks that the optimum leaves undecided are held, it ends at the optimum. Memory: the held
sketches, in float32, and about 20 bytes per chunk of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Bools, Float32s, Floats
from grasp_pipeline.attribution.blocks import (
    ArrayBlocks,
    SketchBlocks,
    as_blocks,
    project,
    project_single,
    sum_and_gather,
    tiles,
    weighted_sum,
)
from grasp_pipeline.attribution.metric import Metric
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.solver.ascent import Ascent, CorpusOracle, Hull, Objective, Vertex, ascend
from grasp_pipeline.selection.solver.budget import (
    Run,
    TokenBudget,
    check_budget_as,
    descending,
    fill_exactly,
    longest_run,
)
from grasp_pipeline.selection.solver.optimiser import Selection, check_even, check_problem
from grasp_pipeline.selection.solver.rounding import herd

HELD_ROWS = 1 << 18
"""Sketches held in memory by default: 256 MiB at 256 dimensions."""

_INNER_PASSES = 200
_INNER_SHARE = 0.25
"""The part of the gap that is left to the problem in memory."""

_WHOLE = 1e-6
"""Weights nearer to 0 or 1 than this are so by float32 rounding."""

_NEVER = np.float32(-np.inf)
"""Worth of a chunk that may not be chosen."""


def optimise_stream(
    sketches: SketchBlocks | NDArray[np.floating[Any]],
    n_tokens: ArrayLike,
    target: ArrayLike,
    budget: int,
    *,
    metric: Metric = None,
    lam: float = 0.7,
    allowed: Bools | None = None,
    gap: float = 1e-4,
    max_passes: int = 20,
    held_rows: int = HELD_ROWS,
    listener: Listener = silent,
) -> Selection:
    """Select chunks for a task direction r = target (d,) within a budget in tokens, reading the sketches a few times.

    Arguments, results and errors are those of `optimise`; gap and the budget alone are promised, not the same chunks.
    held_rows: most sketches held in memory, many times d. Every read is in order; results do not depend on the blocks'
    size.
    """
    if held_rows < 2:
        raise ConfigError(f"held_rows is {held_rows}; hold 2 sketches or more, better a hundred thousand")
    blocks = as_blocks(sketches)
    tokens = check_budget_as(np.float32, n_tokens, budget, allowed)
    r = check_problem(blocks, tokens, target, metric, lam)
    sample = _sample(tokens, held_rows)
    total, held = sum_and_gather(blocks, tokens, sample)
    even = check_even(total / tokens.sum(dtype=np.float64))
    problem = _Problem(
        blocks, tokens, budget, Objective(r, metric, lam, even), gap, held_rows, sample, listener
    )
    point, q = problem.even_point(even), problem.objective.gradient(even)
    sampled = lam > 0 and len(sample) < np.count_nonzero(tokens)
    found = problem.solve_sample(held, even) if sampled else None
    del held
    if found is not None:
        point, q = problem.spread(found, even), found.q
    return problem.solve(point, q, max_passes)


@dataclass
class _Point:
    """Feasible weights (n,) and their mean (d,)."""

    weights: Float32s
    mean: Floats


@dataclass(frozen=True)
class _SampleSolution:
    """What the k vertices of a sample's solution take: chunks that gain the threshold (k,) in the direction (d, k).

    shares: of the vertices, (k,); q: residual direction at the solution (d,).
    """

    directions: Float32s
    thresholds: Float32s
    shares: Float32s
    q: Floats

    @classmethod
    def of(cls, found: Ascent, held: Float32s) -> _SampleSolution:
        """Return the solution found for the sample (m, d)."""
        directions = np.array([vertex.q for vertex in found.hull.vertices], dtype=np.float32).T
        taken = np.array([vertex.whole for vertex in found.hull.vertices]).T
        thresholds = np.where(taken, held @ directions, np.float32(np.inf)).min(axis=0)
        return cls(directions, thresholds, found.hull.shares.astype(np.float32), found.q)


@dataclass
class _Problem:
    """One corpus, budget and objective."""

    blocks: SketchBlocks
    tokens: Float32s
    budget: int
    objective: Objective
    gap: float
    held_rows: int
    sample: NDArray[np.int64]
    listener: Listener

    def even_point(self, even: Floats) -> _Point:
        """Return the point that keeps the same share of every chunk."""
        share = self.budget / self.tokens.sum(dtype=np.float64)
        return _Point(np.where(self.tokens > 0, np.float32(share), np.float32(0)), even)

    def solve_sample(self, held: Float32s, even: Floats) -> _SampleSolution:
        """Return the solution for the sample (m, d) at the same share of its tokens."""
        tokens = self.tokens[self.sample].astype(np.float64)
        budget = self.budget * (tokens.sum() / self.tokens.sum(dtype=np.float64))
        blocks, mine = ArrayBlocks(held), self.objective
        mean = weighted_sum(blocks, tokens) / tokens.sum()
        objective = Objective(mine.target, mine.metric, mine.lam, mean)
        oracle = CorpusOracle(blocks, tokens, TokenBudget(tokens, budget).vertex, budget)
        return _SampleSolution.of(
            ascend(objective, oracle, even, self.gap, _INNER_PASSES, self._indented), held
        )

    def spread(self, found: _SampleSolution, even: Floats) -> _Point:
        """Return the point of a sample's solution for the corpus: what its vertices' thresholds take, in their shares.

        The tokens then miss the budget by chance; the point is drawn towards nothing or everything to meet it.
        """
        weights, kept, spent = np.zeros(self.blocks.n, dtype=np.float32), np.zeros(self.blocks.d), 0.0
        for start, tile in tiles(self.blocks):
            rows = slice(start, start + len(tile))
            taken = tile @ found.directions >= found.thresholds
            weights[rows] = (taken @ found.shares) * (self.tokens[rows] > 0)
            part = weights[rows] * self.tokens[rows]
            kept += part @ tile
            spent += float(part.sum(dtype=np.float64))
        total = self.tokens.sum(dtype=np.float64)
        if spent >= self.budget:
            weights *= np.float32(self.budget / spent)
            return _Point(weights, kept / spent)
        lacking = (total - self.budget) / (total - spent)
        for start in range(0, len(weights), HELD_ROWS):
            rows = slice(start, start + HELD_ROWS)
            weights[rows] += (self.tokens[rows] > 0) * (1 - weights[rows]) * np.float32(1 - lacking)
        return _Point(weights, (total * even - lacking * (total * even - kept)) / self.budget)

    def solve(self, point: _Point, q: Floats, max_passes: int) -> Selection:
        """Repeat rounds from a point, the first in a given direction (d,), then round to whole chunks."""
        passes, stalled = 0, False
        while True:
            marginal = project_single(self.blocks, q)
            passes += 1
            worth = np.where(self.tokens > 0, marginal, _NEVER)
            best = longest_run(worth, self.budget, self.tokens)
            value, scale = self.objective.value(point.mean), self.objective.scale(point.mean)
            missing = self._missing(best, marginal, point.weights)
            if passes > 1:
                self.listener(
                    f"optimiser: pass {passes}, objective {value:.6g}, relative gap {missing / scale:.2e}"
                )
                if missing <= self.gap * scale or passes >= max_passes or stalled:
                    break
            sure, rows = self._bracket(worth, best)
            del marginal, worth, best
            found = self._solve_held(sure, rows, point)
            _move(point.weights, sure, rows, found.hull.weights())
            point.mean, stalled = found.mean, found.value <= value
            q = self.objective.gradient(point.mean)
        weights = point.weights
        upper = value + missing
        whole = self._whole(worth, self.budget)
        if not whole.any():
            raise ConfigError(f"the token budget of {self.budget:,} is below the shortest chunk; raise it")
        tau = float(worth[whole].min())
        membership, rounded = self._round(weights, worth, whole, tau)
        return Selection(
            weights=weights,
            membership=membership,
            objective=rounded,
            fractional_objective=value,
            upper_bound=upper,
            relative_gap=max(0.0, (upper - rounded) / scale),
            fractional_gap=missing / scale,
            passes=passes,
            n_tokens=int(self.tokens[membership].sum(dtype=np.float64)),
            q=q,
            tau=tau,
            marginal=marginal,
        )

    def _missing(self, best: Run, marginal: Float32s, weights: Float32s) -> float:
        """Return <q, mean of the best vertex - mean of the weights>, the vertex being a run and its edge in part.

        Counted from the threshold g of the run, because both spend the budget: sum_i n_i |v_i - w_i| |g_i - g| / B. No
        term is negative, so nothing is lost to cancellation where the vertex and the weights nearly agree.
        """
        edge = marginal[self.tokens > 0].min() if best.edge is None else marginal[best.edge]
        missing = 0.0
        for start in range(0, len(marginal), HELD_ROWS):
            part = slice(start, start + HELD_ROWS)
            moved = np.abs(best.taken[part] - weights[part]) * self.tokens[part]
            missing += float(moved.astype(np.float64) @ np.abs(marginal[part] - edge).astype(np.float64))
        return missing / self.budget

    def _bracket(self, worth: Float32s, best: Run) -> tuple[Bools, NDArray[np.int64]]:
        """Return which chunks (n,) are surely kept, and the ascending rows around the edge of a run, to be held."""
        choosable = int(np.count_nonzero(worth > _NEVER))
        edge = int(np.count_nonzero(best.taken))
        first = max(0, min(edge - self.held_rows // 2, choosable - self.held_rows))
        sure = longest_run(worth, first).taken
        held = longest_run(worth, min(first + self.held_rows, choosable)).taken & ~sure
        return sure, np.flatnonzero(held)

    def _solve_held(self, sure: Bools, rows: NDArray[np.int64], point: _Point) -> Ascent:
        """Solve over the held rows, the others being in or out, or as they are at the point."""
        total, held = sum_and_gather(self.blocks, self.tokens, rows, sure)
        tokens, present = self.tokens[rows].astype(np.float64), point.weights[rows]
        own = tokens * present
        oracle = _HeldOracle(held, tokens, self.budget)
        oracle.fix(total / self.budget, self.budget - self.tokens[sure].sum(dtype=np.float64))
        oracle.fix(point.mean - weighted_sum(oracle.blocks, own) / self.budget, float(own.sum()))
        start = None
        if self.objective.lam > 0:
            vertex = Vertex(np.append(present, 1.0), np.zeros(self.blocks.d))
            start = Hull(vertex, point.mean, self.objective.residual(point.mean))
        gap = self.gap * _INNER_SHARE
        return ascend(self.objective, oracle, point.mean, gap, _INNER_PASSES, self._indented, start)

    def _indented(self, message: str) -> None:
        self.listener(f"in memory: {message}")

    def _whole(self, worth: Float32s, limit: float) -> Bools:
        """Return which chunks (n,) whole fill a limit in tokens by worth; those longer than the limit stay out."""
        fitting = np.where(self.tokens <= limit, worth, _NEVER)
        return longest_run(fitting, limit, self.tokens).taken & (fitting > _NEVER)

    def _round(self, weights: Float32s, worth: Float32s, by_value: Bools, tau: float) -> tuple[Bools, float]:
        """Return the better of two roundings, by marginal value alone and herded, with its objective."""
        metric, lam = self.objective.metric, self.objective.lam
        herded = herd(self.blocks, self.tokens, self.budget, weights, worth - np.float32(tau), metric, lam)
        kept = self._whole(np.where(herded, worth, _NEVER), self.budget)
        left = self.budget - self.tokens[kept].sum(dtype=np.float64)
        kept |= self._whole(np.where(kept, _NEVER, worth), left)
        values = [self.objective.value(mean) for mean in self._means(by_value, kept)]
        choice = int(np.argmax(values))
        return (by_value, kept)[choice], values[choice]

    def _means(self, *memberships: Bools) -> Floats:
        """Return the mean sketch of each membership (n,) from one read: (k, d)."""
        total, spent = np.zeros((len(memberships), self.blocks.d)), np.zeros((len(memberships), 1))
        for start, tile in tiles(self.blocks):
            rows = slice(start, start + len(tile))
            kept = np.stack([membership[rows] for membership in memberships]) * self.tokens[rows]
            total += kept @ tile
            spent += kept.sum(axis=1, keepdims=True, dtype=np.float64)
        return total / spent


class _HeldOracle:
    """The best vertex of the held rows (h, d), with either of two fixed parts of the corpus.

    weights: (h + 1,), the last one 1 where the fixed part is the second.
    """

    def __init__(self, held: Float32s, tokens: Floats, budget: float) -> None:
        self.blocks, self.tokens, self.budget = ArrayBlocks(held), tokens, budget
        self.weights: NDArray[np.floating[Any]] = np.zeros(len(tokens) + 1)
        self.mean = np.zeros(self.blocks.d)
        self._own = np.zeros(self.blocks.d)
        self._fixed: list[Floats] = []
        self._left: list[float] = []

    def fix(self, fixed: Floats, left: float) -> None:
        """Add a fixed part: its part of the mean (d,), and the tokens that it leaves to the held rows."""
        self._fixed.append(fixed)
        self._left.append(left)

    def turn(self, q: Floats) -> None:
        """Set weights and mean for the direction q (d,)."""
        gains = project(self.blocks, q)
        order = descending(gains)
        fills = [fill_exactly(order, self.tokens, left) for left in self._left]
        values = [
            q @ fixed + fill * self.tokens @ gains / self.budget
            for fixed, fill in zip(self._fixed, fills, strict=True)
        ]
        which = int(np.argmax(values))
        change = (fills[which] - self.weights[:-1]) * self.tokens
        self._own = self._own + weighted_sum(self.blocks, change) / self.budget
        self.mean = self._fixed[which] + self._own
        self.weights = np.append(fills[which], float(which))


def _sample(tokens: Float32s, held_rows: int) -> NDArray[np.int64]:
    """Return ascending rows of a seeded sample of chunks with tokens, all of them where that many can be held."""
    n, choosable = len(tokens), int(np.count_nonzero(tokens))
    if choosable <= held_rows:
        return np.flatnonzero(tokens)
    keys = generator("optimiser sample", n).random(n, dtype=np.float32)
    keys[tokens == 0] = _NEVER
    return np.flatnonzero(longest_run(keys, held_rows).taken)


def _move(weights: Float32s, sure: Bools, rows: NDArray[np.int64], found: Floats) -> None:
    """Set the corpus's weights (n,) to a point of a `_HeldOracle` (h + 1,)."""
    old = np.float32(found[-1])
    weights *= old
    weights[sure] += 1 - old
    weights[rows] = found[:-1]
    weights[weights < _WHOLE] = 0
    weights[weights > 1 - _WHOLE] = 1
