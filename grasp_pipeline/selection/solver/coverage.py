"""Budgeted log-coverage: the corpus that maximises a concave function of the rates of events.

    maximise F(w) = sum_x W_x log( mu_x(w) + f_x )    over the feasible weights,   mu(w) = sum_i w_i c_i / B

c_i (E,) are a chunk's event counts, W >= 0 and f > 0. On whole chunks F is monotone submodular in the counts, so a
greedy fill is within 1 - 1/e - eps of the best (threshold greedy; Badanidiyuru and Vondrak, SODA 2014) and in practice
within a few hundredths; on weights F is concave, so Frank-Wolfe from the greedy corpus bounds from above what any
corpus could reach (Jaggi, ICML 2013). Constraints beside the budget are a `FeasibleSet`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Bools, Floats, Ints
from grasp_pipeline.corpus.events import column_sums, row_sums, shape_of
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.solver.budget import descending, fill_whole
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet
from grasp_pipeline.selection.solver.optimiser import Selection

STEP = 0.005
"""eps: by how much the greedy threshold falls from sweep to sweep."""

BLOCK, BLOCK_MOST = 64, 1 << 14
"""Fewest and most units whose gains are computed together."""

FINE = 1e-3
"""Share of the units taken so far up to which a block is taken at the gains that it began with."""

ROUNDS = 4
"""Most greedy fills under constraints beside the budget; each leaves out what the one before had to give up."""

_SEARCH = 30
"""Halvings of a step of Frank-Wolfe: enough for a step to a millionth."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """The objective: events (n, E) counts of chunks, weights W (E,), floor f (E,).

    Raises:
        InputError: shapes disagree, a weight is negative or a floor not above 0.
    """

    events: csr_array
    weights: Floats
    floor: Floats

    def __post_init__(self) -> None:
        width = self.weights.shape
        if self.floor.shape != width or shape_of(self.events)[1:] != width:
            raise InputError(
                f"events of {shape_of(self.events)[1:]}, weights of shape {width} and floors of shape "
                f"{self.floor.shape} do not belong together"
            )
        if not (self.weights >= 0).all() or not (self.floor > 0).all():
            raise InputError("event weights must be 0 or more, and floors above 0")

    def value(self, mu: Floats) -> float:
        """Return F at rates mu (E,)."""
        return float(self.weights @ np.log(mu + self.floor))

    def slope(self, mu: Floats) -> Floats:
        """Return dF/dmu at rates mu, (E,): what one more event per token is worth."""
        return self.weights / (mu + self.floor)

    def counted(self, kept: NDArray[np.bool_ | np.floating]) -> Floats:
        """Return the events (E,) of chunks kept with weights (n,)."""
        return column_sums(self.events, kept)


def cover(
    objective: Coverage,
    n_tokens: NDArray[np.integer],
    feasible: FeasibleSet,
    *,
    gap: float = 1e-3,
    max_passes: int = 100,
) -> Selection:
    """Select chunks that maximise F within a feasible set.

    n_tokens: (n,) tokens of every chunk, counted once; the feasible set may count them several times, and rates are of
    its choosable chunks. gap: relative gap at which the upper bound is good enough; max_passes: most steps that are
    spent on it. Deterministic: ties go to the earlier chunk.

    Of the result, `q` is the slope at the selection, (E,): the value of one more event; `marginal` is (n,) the value of
    one more token of a chunk; `passes` counts the reads of all chunks beside the greedy fill's.

    Raises:
        ConfigError: no chunk fits the budget.
    """
    tokens = np.asarray(feasible.n_tokens, dtype=np.float64)
    once = np.asarray(n_tokens, dtype=np.float64)
    open_ = tokens > 0
    copies = float((tokens[open_] / once[open_]).max(initial=1.0))
    budget = feasible.budget / copies
    membership = _fill(objective, once, open_, feasible, budget)
    size = float(once[membership].sum())
    mu = objective.counted(membership) / size
    value, slope = objective.value(mu), objective.slope(mu)
    even = objective.value(objective.counted(open_) / once[open_].sum())
    per_token = _per_token(row_sums(objective.events, slope), once)
    found = _bound(objective, once, feasible, budget, membership, even, gap, max_passes)
    scale = max(found.value - even, 1e-3 * abs(even), 1e-12)
    choosable = np.flatnonzero(open_)
    whole = fill_whole(choosable[descending(per_token[choosable])], tokens, feasible.budget)
    return Selection(
        weights=found.weights,
        membership=membership,
        objective=value,
        fractional_objective=found.value,
        upper_bound=found.upper,
        relative_gap=max(0.0, (found.upper - value) / scale),
        fractional_gap=max(0.0, (found.upper - found.value) / scale),
        passes=found.passes,
        n_tokens=int(tokens[membership].sum()),
        q=slope,
        tau=float(per_token[whole].min()),
        marginal=per_token,
    )


def _fill(objective: Coverage, once: Floats, open_: Bools, feasible: FeasibleSet, budget: float) -> Bools:
    """Return the best of a few greedy fills that meet the constraints, each without what they made the last give up."""
    best, best_value = None, -np.inf
    banned = ~open_
    forced = feasible.forced
    for _ in range(ROUNDS):
        order = greedy(objective, once, banned, budget, feasible.unit, forced)
        place = np.zeros(len(once), dtype=np.float32 if len(once) < 1 << 24 else np.float64)
        place[order] = np.arange(len(order), 0, -1)
        if forced is not None:
            place[forced] = len(order) + 1
        taken = place > 0
        mu = objective.counted(taken) / max(float(once[taken].sum()), 1.0)
        rest = _per_token(row_sums(objective.events, objective.slope(mu)), once)
        membership = feasible.round(place, rest)
        value = objective.value(objective.counted(membership) / once[membership].sum())
        if value > best_value:
            best, best_value = membership, value
        given_up = taken & ~membership
        if not given_up.any():
            break
        banned = banned | given_up
    assert best is not None, "the first round gives one"
    return best


def greedy(
    objective: Coverage,
    n_tokens: Floats,
    banned: Bools,
    budget: float,
    unit: NDArray[np.integer] | None = None,
    start: Bools | None = None,
) -> Ints:
    """Return chunks in the order in which threshold greedy takes them, until no other fits the budget.

    A unit is taken when its gain per token reaches the threshold, which falls from the best gain by `STEP` a sweep;
    gains only fall as others are taken, so units whose last known gain is below it are not looked at. Gains of a block
    are computed together: one by one again after the first that is taken, unless the block is below `FINE` of what is
    taken already.

    n_tokens: (n,) float; banned: (n,) chunks that are never taken; budget: tokens; unit: (n,) codes of chunks that are
    taken as one; start: (n,) chunks that are taken before all others, and are not in the order.
    """
    rows, size, closed = _units(objective.events, n_tokens, banned, unit)
    counts = np.zeros(len(objective.floor))
    room, before = budget, 0
    if start is not None:
        counts, room = objective.counted(start), budget - float(n_tokens[start].sum())
        started = start if unit is None else np.bincount(unit, start, len(size)) > 0
        closed, before = closed | started, int(started.sum())
    base = budget * objective.floor
    weights = objective.weights
    data, indices, pointers = rows.data, rows.indices, rows.indptr

    def cells_of(block: Ints) -> tuple[Ints, Ints]:
        """Return places of the units' counts, and how many each has."""
        low = pointers[block].astype(np.int64)
        lengths = pointers[block + 1] - low
        ends = np.cumsum(lengths)
        return np.repeat(low - ends + lengths, lengths) + np.arange(ends[-1]), lengths

    def gains(block: Ints) -> Floats:
        """Return the gain per token of units."""
        cells, lengths = cells_of(block)
        column = indices[cells]
        gained = weights[column] * np.log1p(data[cells] / (counts[column] + base[column]))
        return np.bincount(np.repeat(np.arange(len(block)), lengths), gained, len(block)) / size[block]

    known = np.full(len(size), -np.inf)
    possible = np.flatnonzero(~closed & (size <= room))
    for begin in range(0, len(possible), BLOCK_MOST):
        part = possible[begin : begin + BLOCK_MOST]
        known[part] = gains(part)
    del possible
    largest = float(size.max(initial=0.0))
    taken: list[Ints] = []
    count = before
    threshold = float(known.max(initial=0.0))
    while True:
        if room < largest:
            known[size > room] = -np.inf
        best = float(known.max(initial=-np.inf))
        if best == -np.inf:
            break
        threshold = min(threshold, best) * (1 - STEP) if best > 0 else 0.0
        sweep = np.flatnonzero(known >= threshold)
        sweep = sweep[np.argsort(-known[sweep], kind="stable")]
        begin = 0
        while begin < len(sweep):
            fine = int(FINE * count)
            block = sweep[begin : begin + min(max(BLOCK, fine), BLOCK_MOST)]
            begin += len(block)
            fresh = gains(block)
            known[block] = fresh
            good = np.flatnonzero(fresh >= threshold)
            if fine >= BLOCK:
                spent = np.cumsum(size[block[good]])
                if spent.size and spent[-1] <= room:
                    chosen = block[good]
                    cells, _ = cells_of(chosen)
                    counts += np.bincount(indices[cells], data[cells], len(counts))
                    room -= float(spent[-1])
                    taken.append(chosen)
                    count += len(chosen)
                    known[chosen] = -np.inf
                    continue
            stale = False
            for i in block[good]:
                if size[i] > room:
                    continue
                low, high = pointers[i], pointers[i + 1]
                column, own = indices[low:high], data[low:high]
                if stale:
                    known[i] = weights[column] @ np.log1p(own / (counts[column] + base[column])) / size[i]
                    if known[i] < threshold:
                        continue
                counts[column] += own
                room -= size[i]
                taken.append(np.array([i]))
                count += 1
                known[i] = -np.inf
                stale = True
        if threshold == 0.0:
            break
    order = np.concatenate([*taken, np.zeros(0, dtype=np.int64)])
    if unit is None:
        return order
    place = np.full(len(size), len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    chunks = np.argsort(place[unit], kind="stable")
    return chunks[place[unit][chunks] < len(order)]


def _units(
    events: csr_array, n_tokens: Floats, banned: Bools, unit: NDArray[np.integer] | None
) -> tuple[csr_array, Floats, Bools]:
    """Return event counts, tokens and whether it is banned of every unit."""
    if unit is None:
        return events, n_tokens, banned
    count = int(unit.max()) + 1
    n = len(n_tokens)
    join = csr_array((np.ones(n, dtype=np.float32), (unit, np.arange(n))), shape=(count, n))
    sizes = np.bincount(unit, n_tokens, count).astype(np.float64)
    return csr_array(join @ events), sizes, np.bincount(unit, banned, count) > 0


@dataclass(frozen=True, eq=False)
class _Bound:
    """weights: (n,) the best ones found, with their F; upper: no feasible weights have a higher F; passes made."""

    weights: Floats
    value: float
    upper: float
    passes: int


def _bound(
    objective: Coverage,
    once: Floats,
    feasible: FeasibleSet,
    budget: float,
    start: Bools,
    even: float,
    gap: float,
    max_passes: int,
) -> _Bound:
    """Return what Frank-Wolfe finds from a corpus: better weights, and how much better any could be."""
    weights = start.astype(np.float64)
    mu = objective.counted(weights) / budget
    value, upper = objective.value(mu), np.inf
    passes = 0
    while passes < max_passes:
        passes += 1
        slope = objective.slope(mu)
        vertex = np.asarray(
            feasible.vertex(_per_token(row_sums(objective.events, slope), once)), dtype=np.float64
        )
        towards = objective.counted(vertex) / budget - mu
        upper = min(upper, value + float(slope @ towards))
        if upper - value <= gap * max(value - even, 0.0):
            break
        step = _line_search(objective, mu, towards)
        weights += step * (vertex - weights)
        mu = mu + step * towards
        value = objective.value(mu)
    return _Bound(weights, value, max(upper, value), passes)


def _line_search(objective: Coverage, mu: Floats, towards: Floats) -> float:
    """Return the step in [0, 1] at which F along `towards` is highest: the root of its falling slope."""
    low, high = 0.0, 1.0
    if float(objective.slope(mu + towards) @ towards) >= 0:
        return 1.0
    for _ in range(_SEARCH):
        middle = (low + high) / 2
        if float(objective.slope(mu + middle * towards) @ towards) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _per_token(values: Floats, n_tokens: Floats) -> Floats:
    return np.divide(values, n_tokens, out=np.zeros(len(values)), where=n_tokens > 0)
