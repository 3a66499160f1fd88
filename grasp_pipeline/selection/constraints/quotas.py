"""The exact linear maximum under quotas by sorting: budget, floor and cap per source, maximum per cluster.

    maximise sum_u x_u g_u   over 0 <= x_u <= tokens_u,  sum_u x_u = budget,
    floor_s <= sum_{u in s} x_u <= cap_s,   sum_{u in c} x_u <= room_c

The sets {u}, clusters and sources are nested where every cluster lies within one source. The maximum is then greedy
(a linear function over a polymatroid with lower bounds; Federgruen & Groenevelt 1986, Operations Research 34): in
order of gain, a cluster takes until it is full, a source first takes its floor and then at most its cap, and the
budget takes the best of what the sources offer beyond their floors. `priced` solves what is not nested.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class Quotas:
    """Units (chunks or whole documents) that may be kept or not, and the room that the must-keep units leave.

    tokens: (m,) float64 above 0; budget: tokens to spend in all.
    source: (m,) codes in 0..S-1; floor, cap: (S,) tokens, 0 and infinity where there is none.
    cluster: (m,) codes in 0..K-1 of the clusters that hold more than they may keep, -1 for all other units;
    room: (K,) what each may keep, in units where `counted` (K,) and in tokens elsewhere.
    """

    tokens: Floats
    budget: float
    source: Ints
    floor: Floats
    cap: Floats
    cluster: Ints
    room: Floats
    counted: Bools

    @cached_property
    def size(self) -> Floats:
        """(m,) what a unit takes of its cluster's room: 1 where units are counted, else its tokens."""
        if not len(self.room):
            return self.tokens
        return np.where((self.cluster >= 0) & self.counted[self.cluster], 1.0, self.tokens)

    @cached_property
    def crossing(self) -> Bools:
        """(K,) clusters with units of more than one source."""
        low, high = np.full(len(self.room), len(self.floor)), np.full(len(self.room), -1)
        (members,) = np.nonzero(self.cluster >= 0)
        np.minimum.at(low, self.cluster[members], self.source[members])
        np.maximum.at(high, self.cluster[members], self.source[members])
        return high > low

    @cached_property
    def priced(self) -> Bools:
        """(m,) units whose cluster breaks the nesting: it crosses sources, or counts units of unequal tokens."""
        if not len(self.room):
            return np.zeros(len(self.tokens), dtype=np.bool_)
        return (self.cluster >= 0) & (self.crossing | self.counted)[self.cluster]

    @property
    def bounded(self) -> bool:
        """Whether any source has a floor or a cap."""
        return bool(self.floor.any() or np.isfinite(self.cap).any())


def descending_order(gains: NDArray[np.floating[Any]]) -> Ints:
    """Return (m,) positions by gain, highest first, ties in order of position."""
    return np.argsort(-gains, kind="stable")


def grouped(order: Ints, codes: Ints) -> Ints:
    """Return `order` sorted by codes[order], stably."""
    keys = codes[order]
    if len(keys) and keys.max() < 65_536:
        keys = keys.astype(np.uint16)  # numpy sorts 16 bits by radix
    return order[np.argsort(keys, kind="stable")]


def totals(codes: Ints, values: Floats, n: int) -> Floats:
    """Return (n,) float64 sums of the values by code."""
    return np.asarray(np.bincount(codes, values, n), dtype=np.float64)


def taken_before(codes: Ints, sizes: Floats) -> Floats:
    """Return (k,) the sum of the sizes ahead of each position among equal codes, which must be adjacent."""
    ahead = np.cumsum(sizes) - sizes
    first = np.concatenate([[True], codes[1:] != codes[:-1]])[: len(codes)]
    return ahead - ahead[np.maximum.accumulate(np.where(first, np.arange(len(codes)), 0))]


def offered(quotas: Quotas, order: Ints) -> Floats:
    """Return (m,) tokens that the clusters let through when they fill their room in the given order of all units."""
    amount = quotas.tokens.copy()
    if len(quotas.room):
        members = order[quotas.cluster[order] >= 0]
        members = grouped(members, quotas.cluster)
        code, size = quotas.cluster[members], quotas.size[members]
        share = np.clip((quotas.room[code] - taken_before(code, size)) / size, 0.0, 1.0)
        amount[members] *= share
    return amount


def spend(quotas: Quotas, order: Ints, amount: Floats) -> Floats:
    """Return (m,) tokens taken of the offered `amount` (m,) in the given order: floors first, caps kept."""
    left, forced, optional = quotas.budget, np.zeros(0), amount
    if quotas.bounded:
        by_source = grouped(order, quotas.source)
        code, offer = quotas.source[by_source], amount[by_source]
        before = taken_before(code, offer)
        forced, optional = np.zeros(len(amount)), np.zeros(len(amount))
        forced[by_source] = np.clip(quotas.floor[code] - before, 0.0, offer)
        optional[by_source] = np.clip(quotas.cap[code] - before, 0.0, offer) - forced[by_source]
        left = left - forced.sum()
    offer = optional[order]
    taken = np.zeros(len(amount))
    taken[order] = np.clip(left - (np.cumsum(offer) - offer), 0.0, offer)
    return taken + forced if quotas.bounded else taken


def nested_vertex(quotas: Quotas, gains: NDArray[np.floating[Any]]) -> Floats:
    """Return (m,) tokens of every unit at the maximum, for quotas with no `priced` unit.

    Two or three sorts; at most one unit per binding constraint is taken in part. The quotas must be feasible.
    """
    order = descending_order(gains)
    return spend(quotas, order, offered(quotas, order))
