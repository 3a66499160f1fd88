"""The smallest relaxation under which constraints can be met together.

One small linear program (HiGHS) has a variable for what every source gives, one for every unit of a cluster that
crosses sources, and slacks in tokens by which demands are relaxed. The least total slack is 0 where the demands agree;
else its dual names the demands in conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.selection.constraints.quotas import offered, totals
from grasp_pipeline.selection.constraints.spec import ConstraintSpec

BUDGET, FLOORS, CAPS, KEEP, DROP = "budget", "floors", "caps", "must_keep", "must_drop"
KINDS = (BUDGET, FLOORS, CAPS, KEEP, DROP)


@dataclass(frozen=True)
class Relaxed:
    """The least relaxation: tokens in all, by kind (1,) or (S,), and the point and prices that belong to it."""

    total: float
    slack: dict[str, Floats]
    listed: Floats
    crossing: Floats
    budget_price: float
    floor_price: Floats
    cap_price: Floats
    need: Floats


class Program:
    """The relaxation program of some demands. Tokens are in units of the budget, to keep it well scaled.

    With `split`, the room of clusters that cross sources is dealt out beforehand, to sources with floors first and to
    those with caps last: a much smaller program, whose points are feasible, but it may have none where others are.
    """

    def __init__(self, spec: ConstraintSpec, split: bool = False) -> None:
        self.spec, self.quotas = spec, spec.quotas()
        quotas, s, unit = self.quotas, len(spec.names), spec.budget
        crossing = np.append(quotas.crossing & (not split), False)  # -1, the code of no cluster, is the last
        (self.units,) = np.nonzero(crossing[quotas.cluster])
        urgent = np.where(np.isfinite(quotas.cap), 0, 1) + 2 * (quotas.floor > 0)
        self.order = np.lexsort((-quotas.tokens, -urgent[quotas.source]))
        self.offer = offered(quotas, self.order)
        self.offer[self.units] = 0.0
        self.reach = totals(quotas.source, self.offer, s)
        self.kept, self.dropped = (
            spec.by_source(spec.keep),
            spec.by_source(spec.drop & ~spec.too_long),
        )

        # Columns: lists (S), weights of crossing units (x), budget up and down, floors, caps, must_keep, must_drop.
        x = len(self.units)
        width = s + x + 2 + 4 * s
        code, place = quotas.source[self.units], s + np.arange(x)
        own, budget_at = np.arange(s), s + x
        floor_at, cap_at, keep_at, drop_at = (budget_at + 2 + s * k + own for k in range(4))
        parts = [(own, own, 1.0), (code, place, quotas.tokens[self.units] / unit)]
        parts += [(own, keep_at, -1.0), (own, drop_at, 1.0)]
        gives = _matrix(parts, s, width)
        low, high = spec.floor, spec.cap
        floors = _matrix(
            [(own, budget_at, low.share), (own, budget_at + 1, -low.share), (own, floor_at, -1.0)], s, width
        )
        caps = _matrix(
            [(own, budget_at, -high.share), (own, budget_at + 1, high.share), (own, cap_at, -1.0)], s, width
        )
        (self.capped,) = np.nonzero(np.isfinite(high.fixed))
        used, cluster = np.unique(quotas.cluster[self.units], return_inverse=True)
        feasible_sets = _matrix([(cluster, place, quotas.size[self.units])], len(used), width)
        self.rows = csr_array(vstack([floors - gives, csr_array(gives + caps)[self.capped], feasible_sets]))
        kept = self.kept / unit
        self.limits = np.concatenate(
            [
                kept - low.tokens(unit) / unit,
                (high.tokens(unit) / unit - kept)[self.capped],
                quotas.room[used],
            ]
        )
        self.total_row = np.asarray(gives.sum(axis=0)).ravel()
        self.total_row[[budget_at, budget_at + 1]] = [-1.0, 1.0]
        self.total = 1.0 - float(kept.sum())

    def least(self) -> Relaxed:
        """Return the least relaxation of all kinds together."""
        found = self.solve(KINDS)
        assert found is not None, "everything may be relaxed"
        return found

    def solve(self, kinds: Iterable[str]) -> Relaxed | None:
        """Return the least relaxation that uses some kinds only, or None where they do not suffice."""
        s, x, unit = len(self.reach), len(self.units), self.spec.budget
        kinds = set(kinds)
        most = {
            BUDGET: np.full(2, np.inf),
            FLOORS: np.full(s, np.inf),
            CAPS: np.full(s, np.inf),
            KEEP: self.kept / unit,
            DROP: self.dropped / unit,
        }
        upper = [self.reach / unit, np.ones(x)]
        upper += [most[kind] if kind in kinds else np.zeros(len(most[kind])) for kind in KINDS]
        top = np.concatenate(upper)
        cost = np.concatenate([np.zeros(s + x), np.ones(len(top) - s - x)])
        found = linprog(
            cost,
            A_ub=self.rows,
            b_ub=self.limits,
            A_eq=self.total_row[None],
            b_eq=[self.total],
            bounds=np.column_stack([np.zeros(len(top)), top]),
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if found.status == 2:
            return None
        if found.x is None:
            raise RuntimeError(f"HiGHS did not solve the program of the constraints: {found.message}")
        ends = np.cumsum([len(part) for part in upper])
        parts = np.split(found.x * unit, ends[:-1])
        cap_price = np.zeros(s)
        cap_price[self.capped] = found.ineqlin.marginals[s : s + len(self.capped)]
        floor_price, budget_price = found.ineqlin.marginals[:s], float(found.eqlin.marginals[0])
        return Relaxed(
            total=float(found.fun) * unit,
            slack=dict(zip(KINDS, parts[2:], strict=True)),
            listed=parts[0],
            crossing=parts[1] / unit,
            budget_price=budget_price,
            floor_price=floor_price,
            cap_price=cap_price,
            need=budget_price + cap_price - floor_price,
        )


def _matrix(parts: Sequence[tuple[Ints, Ints | int, Floats | float]], height: int, width: int) -> csr_array:
    """Return a sparse matrix from (rows, columns, values)."""
    spread = [np.broadcast_arrays(*part) for part in parts]
    rows, columns, values = (np.concatenate([part[k] for part in spread]) for k in range(3))
    return csr_array((values.astype(np.float64), (rows, columns)), shape=(height, width))
