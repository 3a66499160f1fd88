"""Random constraint problems, and the same constraints written out row by row for a general solver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, linprog

from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet

Array = NDArray[Any]
KINDS = (
    "floors",
    "caps",
    "cluster_units",
    "cluster_tokens",
    "crossing",
    "keep",
    "drop",
    "documents",
    "shares",
)


@dataclass
class Problem:
    """Chunks with sources, clusters and documents, and what is asked of them."""

    tokens: Array
    budget: int
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> ConstraintSet:
        return ConstraintSet(self.tokens, self.budget, **self.options)

    def program(self) -> dict[str, Any]:
        """Return the constraints on the weights as linprog's arguments, one row per demand."""
        o, t, n = self.options, self.tokens.astype(float), len(self.tokens)
        unit = o.get("documents", np.arange(n))
        whole = np.bincount(unit, t)[unit]
        low, high = np.zeros(n), np.ones(n)
        rows, limits = [], []

        def tokens_of(amount: float) -> float:
            return amount if amount > 1 else amount * self.budget

        keep, drop = (
            np.isin(unit, unit[o[k]]) if k in o else np.zeros(n, dtype=bool) for k in ("keep", "drop")
        )
        longest = np.full(n, float(self.budget))
        for code, name in enumerate(o.get("source_names", ())):
            mine = o["sources"] == code
            if name in o.get("floors", {}):
                rows.append(-t * mine)
                limits.append(-tokens_of(o["floors"][name]))
            if name in o.get("caps", {}):
                rows.append(t * mine)
                limits.append(tokens_of(o["caps"][name]))
                longest[mine] = np.minimum(longest[mine], limits[-1])
        for cluster in np.unique(o["clusters"]) if "clusters" in o else ():
            mine = o["clusters"] == cluster
            if o.get("cluster_units") is not None:
                # A document's weight is shared by its chunks: count it at its first chunk.
                first = np.zeros(n, dtype=bool)
                first[np.unique(unit, return_index=True)[1]] = True
                rows.append(1.0 * (mine & first))
                limits.append(o["cluster_units"])
            if o.get("cluster_tokens") is not None:
                rows.append(t * mine)
                limits.append(o["cluster_tokens"])
                longest[mine] = np.minimum(longest[mine], limits[-1])
        high[drop | ((whole > longest) & ~keep)] = 0
        low[keep] = 1
        equal, totals = [t], [float(self.budget)]
        for chunk in range(1, n):
            (mates,) = np.nonzero(unit[:chunk] == unit[chunk])
            if len(mates):
                equal.append(np.eye(n)[chunk] - np.eye(n)[mates[0]])
                totals.append(0.0)
        return {
            "A_ub": np.array(rows) if rows else None,
            "b_ub": np.array(limits) if rows else None,
            "A_eq": np.array(equal),
            "b_eq": np.array(totals),
            "bounds": np.column_stack([low, high]),
        }

    def best(self, gains: Array) -> OptimizeResult:
        return linprog(-gains * self.tokens, **self.program(), method="highs")


def random_problem(seed: int, kinds: set[str], n: int = 14, spare: float = 0.5) -> Problem:
    """Return a problem with the named kinds of constraint; `spare` near 1 makes it feasible nearly always."""
    draw = generator("constraints", seed, *sorted(kinds), n)
    documents = np.sort(draw.integers(0, max(2, n // 2), n)) if "documents" in kinds else np.arange(n)
    documents = np.unique(documents, return_inverse=True)[1]
    units = int(documents.max()) + 1
    tokens = draw.choice([4, 8, 8, 8, 5, 3, 7], n)
    source = draw.integers(0, 3, units)
    cluster = draw.integers(0, max(2, units // 3), units)
    if "crossing" not in kinds:
        cluster = cluster * 3 + source
    budget = int(tokens.sum() * draw.uniform(0.15, 0.7))
    options: dict[str, Any] = {}
    if "documents" in kinds:
        options["documents"] = documents
    held = np.bincount(source[documents], tokens, 3)
    if kinds & {"floors", "caps"}:
        options |= {"sources": source[documents], "source_names": ["web", "books", "code"]}
    fair = held / held.sum() * budget
    divide = budget if "shares" in kinds else 1

    def amount(value: float) -> float:
        return min(value / divide, 1.0) if divide > 1 else float(max(2, int(value)))

    if "floors" in kinds:
        options["floors"] = {
            "web": amount(fair[0] * draw.uniform(0, 2 - spare)),
            "code": amount(fair[2] * draw.uniform(0, 2 - spare)),
        }
    if "caps" in kinds:
        options["caps"] = {
            "web": amount(fair[0] * draw.uniform(spare, 3)),
            "books": amount(fair[1] * draw.uniform(spare, 3)),
        }
    if kinds & {"cluster_units", "cluster_tokens"}:
        options["clusters"] = cluster[documents]
        if "cluster_units" in kinds:
            options["cluster_units"] = int(draw.integers(1, 4))
        else:
            options["cluster_tokens"] = int(draw.integers(8, 30))
    for kind in ("keep", "drop"):
        if kind in kinds:
            options[kind] = draw.random(n) < 0.12
    if {"keep", "drop"} <= kinds:
        marked = np.bincount(documents, options["keep"]) > 0
        options["drop"] &= ~marked[documents]
    return Problem(tokens, budget, options)


def violations(made: ConstraintSet, membership: Array) -> list[str]:
    """Return a sentence for every demand that a membership (n,) does not meet."""
    d, kept = made._spec, made._mean(membership.astype(np.float64)) > 0
    told: list[str] = []
    spent, slip = d.by_source(kept), 1e-6
    if spent.sum() > made.budget + slip:
        told.append(f"{spent.sum():,.0f} tokens are kept of a budget of {made.budget:,}")
    for name, have, low, high in zip(
        d.names, spent, d.floor.tokens(made.budget), d.cap.tokens(made.budget), strict=True
    ):
        if have < low - slip:
            told.append(f"{name} keeps {have:,.0f} tokens, below its floor of {low:,.0f}")
        if have > high + slip:
            told.append(f"{name} keeps {have:,.0f} tokens, above its cap of {high:,.0f}")
    if d.cluster is not None:
        for limit, size in ((d.cluster_units, None), (d.cluster_tokens, d.tokens[kept])):
            if limit is not None and (over := (np.bincount(d.cluster[kept], size) > limit).sum()):
                told.append(f"{over:,} clusters keep more than {limit:,}")
    if (wrong := int((d.keep & ~kept).sum())) or (d.drop & kept).any():
        told.append(f"{wrong} must-keep {d.unit}s are dropped, {(d.drop & kept).sum()} must-drop kept")
    if made._unit is not None and (made._expand_all(kept.astype(np.float64)) != membership).any():
        told.append("documents are kept in part")
    return told
