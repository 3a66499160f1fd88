"""From an order of preference to whole units within every quota."""

from __future__ import annotations

import numpy as np

from grasp_pipeline.arrays import Bools, Floats, Ints
from grasp_pipeline.selection.constraints.quotas import Quotas, grouped, taken_before

_SLIP = 1e-6
"""Tokens by which a quota that is a share of the budget may look smaller than it is."""


class _Basket:
    """Whole units taken so far, and what is left of every quota."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.taken = np.zeros(len(quotas.tokens), dtype=np.bool_)
        self.budget, self.cap, self.room = quotas.budget, quotas.cap.copy(), quotas.room.copy()
        self.floor = quotas.floor.copy()

    def fitting(self, order: Ints, cap: Floats) -> Ints:
        """Return the units of `order` not yet taken that fit, each taken alone."""
        q, order = self.quotas, order[~self.taken[order]]
        order = order[q.tokens[order] <= min(self.budget, cap.max()) + _SLIP]
        order = order[q.tokens[order] <= cap[q.source[order]] + _SLIP]
        if len(self.room):
            code = q.cluster[order]
            order = order[(code < 0) | (q.size[order] <= self.room[code] + _SLIP)]
        return order

    def first_run(self, order: Ints, cap: Floats) -> Ints:
        """Return the units up to the first of every cluster, of every source and of all that no longer fits."""
        q = self.quotas
        if len(self.room):
            inside = grouped(order[q.cluster[order] >= 0], q.cluster)
            code, size = q.cluster[inside], q.size[inside]
            over = inside[taken_before(code, size) + size > self.room[code] + _SLIP]
            order = _without(order, over, len(q.tokens))
        if np.isfinite(cap).any():
            inside = grouped(order, q.source)
            code, size = q.source[inside], q.tokens[inside]
            over = inside[taken_before(code, size) + size > cap[code] + _SLIP]
            order = _without(order, over, len(q.tokens))
        return order[np.cumsum(q.tokens[order]) <= self.budget + _SLIP]

    def take(self, units: Ints) -> None:
        q = self.quotas
        self.taken[units] = True
        spent = np.bincount(q.source[units], q.tokens[units], len(self.cap))
        self.budget -= float(spent.sum())
        self.cap -= spent
        self.floor -= spent
        if len(self.room):
            inside = units[q.cluster[units] >= 0]
            self.room -= np.bincount(q.cluster[inside], q.size[inside], len(self.room))

    def fill(self, order: Ints, to_floor: bool = False) -> None:
        """Take units in order until none fits any more; `to_floor`: no source beyond its floor."""
        while True:
            cap = np.minimum(self.cap, self.floor) if to_floor else self.cap
            order = self.fitting(order, cap)
            if not len(order):
                return
            self.take(self.first_run(order, cap))

    def cover_floors(self, order: Ints) -> bool:
        """Take the first units of every source until its floor is met, if all of it fits; return whether it did."""
        q = self.quotas
        order = grouped(self.first_run(self.fitting(order, self.cap), self.cap), q.source)
        code = q.source[order]
        order = order[taken_before(code, q.tokens[order]) < self.floor[code] - _SLIP]
        if q.tokens[order].sum() > self.budget + _SLIP:
            return False
        self.take(order)
        return True

    def close_floors(self, order: Ints) -> None:
        """Take for every source still below its floor the shortest unit that closes the gap, if one fits."""
        for source in np.nonzero(self.floor > _SLIP)[0]:
            order_here = self.fitting(order[self.quotas.source[order] == source], self.cap)
            tokens = self.quotas.tokens[order_here]
            closing = order_here[tokens >= self.floor[source] - _SLIP]
            if len(closing):
                self.take(closing[[np.argmin(self.quotas.tokens[closing])]])


def _without(order: Ints, over: Ints, n: int) -> Ints:
    if not len(over):
        return order
    stays = np.ones(n, dtype=np.bool_)
    stays[over] = False
    return order[stays[order]]


def fill_quotas(quotas: Quotas, order: Ints) -> Bools:
    """Return (m,) units taken whole, best first by `order` (m,), until no other unit fits.

    Budget, caps and clusters are never passed. Floors are served first; one may be missed by less than a unit where
    whole units do not add up, or by more where they do not fit their clusters' room.
    """
    basket = _Basket(quotas)
    if quotas.floor.any():
        wanted = order[quotas.floor[quotas.source[order]] > 0]
        basket.cover_floors(wanted)
        basket.fill(wanted, to_floor=True)
        basket.close_floors(wanted)
    basket.fill(order)
    return basket.taken
