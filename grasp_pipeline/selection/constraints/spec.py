"""What was asked of a selection, over units, and the quotas that it leaves for the units still open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grasp_pipeline.arrays import Bools, Floats, Ints
from grasp_pipeline.selection.constraints.quotas import Quotas, totals

_TOLERANCE = 1e-9
"""Share by which a unit may pass a bound that is a share of the budget: rounding."""


@dataclass(frozen=True)
class Bound:
    """A floor or cap of every source: `fixed` (S,) tokens plus `share` (S,) of the budget."""

    fixed: Floats
    share: Floats

    def tokens(self, budget: float) -> Floats:
        """Return (S,) tokens at a budget."""
        return self.fixed + self.share * budget


@dataclass(frozen=True)
class ConstraintSpec:
    """What was asked for, over m units (chunks or whole documents).

    unit: its name in messages; tokens: (m,) float64; budget: tokens; source: (m,) codes, names: (S,);
    floor, cap: per source, cap infinite where there is none; cluster: (m,) codes from 0, or None;
    cluster_units, cluster_tokens: what a cluster may keep, None for no limit; keep: (m,) bool; dropped_by: (m,) bool
    by what drops them.
    """

    unit: str
    tokens: Floats
    budget: int
    source: Ints
    names: Sequence[str]
    floor: Bound
    cap: Bound
    cluster: Ints | None
    cluster_units: int | None
    cluster_tokens: int | None
    keep: Bools
    dropped_by: Mapping[str, Bools]

    @cached_property
    def drop(self) -> Bools:
        """(m,) units that must be dropped."""
        return np.logical_or.reduce(list(self.dropped_by.values()))

    @property
    def dropping(self) -> str:
        """What drops units, in words."""
        return " and ".join(name for name, dropped in self.dropped_by.items() if dropped.any())

    @property
    def too_long(self) -> Bools:
        """(m,) units that can never be kept whole: longer than the budget, their source's cap or a cluster's room."""
        most = np.minimum(self.budget, self.cap.tokens(self.budget))[self.source]
        if self.cluster is not None and self.cluster_tokens is not None:
            most = np.minimum(most, self.cluster_tokens)
        return self.tokens > most * (1 + _TOLERANCE)

    @property
    def open(self) -> Bools:
        """(m,) units that may be kept or not."""
        return ~self.keep & ~self.drop & (self.tokens > 0) & ~self.too_long

    def by_source(self, which: Bools) -> Floats:
        """Return (S,) tokens of some units (m,)."""
        return totals(self.source[which], self.tokens[which], len(self.names))

    def quotas(self) -> Quotas:
        """Return the open units and what the must-keep units leave of every quota."""
        (units,) = np.nonzero(self.open)
        kept = self.by_source(self.keep)
        cluster, room, counted = self._clusters(units)
        return Quotas(
            tokens=self.tokens[units],
            budget=self.budget - float(kept.sum()),
            source=self.source[units],
            floor=np.maximum(self.floor.tokens(self.budget) - kept, 0.0),
            cap=self.cap.tokens(self.budget) - kept,
            cluster=cluster,
            room=room,
            counted=counted,
        )

    def _clusters(self, units: Ints) -> tuple[Ints, Floats, Bools]:
        """Return codes (len(units),), room and `counted` of the clusters that hold more than they may keep."""
        if self.cluster is None or (self.cluster_units is None and self.cluster_tokens is None):
            return np.full(len(units), -1), np.zeros(0), np.zeros(0, dtype=np.bool_)
        count = int(self.cluster.max(initial=-1)) + 1
        code, tokens = self.cluster[units], self.tokens[units]
        if self.cluster_units is not None:
            most, sizes = self.cluster_units, np.ones(len(self.tokens))
        else:
            most, sizes = self.cluster_tokens or 0, self.tokens
        room = most - totals(self.cluster[self.keep], sizes[self.keep], count)
        limited = totals(code, sizes[units], count) > room
        counted = np.zeros(count, dtype=np.bool_)
        if self.cluster_units is not None:
            # A count of equal units is a number of tokens, which sorts.
            longest, shortest = np.zeros(count), np.full(count, np.inf)
            np.maximum.at(longest, code, tokens)
            np.minimum.at(shortest, code, tokens)
            counted = longest > shortest
            room = np.where(counted, room, room * longest)
        renamed = np.where(limited, np.cumsum(limited) - 1, -1)
        return renamed[code], room[limited], counted[limited]
