"""The exact linear maximum where clusters cross sources or count units of unequal tokens.

Given a price per token of every source, clusters decide alone: each fills its room by worth (gain minus price), and
everything outside such clusters is a sorted list cut at the price. The prices come from a small linear program over
the answers so far, whose dual asks for new answers until none is better: Dantzig & Wolfe 1960, Operations Research 8.
The program has a row per source, and one column per answer and block; HiGHS solves it. It ends at the exact optimum:
the last prices prove that no answer is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.constraints.quotas import (
    Quotas,
    descending_order,
    grouped,
    nested_vertex,
    offered,
    taken_before,
    totals,
)

_TOLERANCE = 1e-9
"""Stop when the answers at the last prices could add less than this share of budget times the largest gain."""
_BLOCKS = 16
"""Most blocks of clusters; clusters of the same sources share a block, the rest are folded together."""
_START_QUANTILES = 9


class _Lists:
    """What is sold by a sorted list per source: units outside the priced clusters."""

    def __init__(self, quotas: Quotas, gains: Floats) -> None:
        order = descending_order(gains)
        order = order[~quotas.priced[order]]
        self.order = grouped(order, quotas.source)
        amount = offered(quotas, order)[self.order]
        self.amount, self.gain = amount, gains[self.order]
        ends = np.searchsorted(quotas.source[self.order], np.arange(len(quotas.floor) + 1))
        self.parts = [slice(low, high) for low, high in pairwise(ends)]
        self.spent = [np.concatenate([[0.0], np.cumsum(amount[part])]) for part in self.parts]
        self.worth = [
            np.concatenate([[0.0], np.cumsum(amount[part] * self.gain[part])]) for part in self.parts
        ]

    def at_price(self, source: int, price: float) -> float:
        """Return the tokens of a source with a gain above the price."""
        part = self.gain[self.parts[source]]
        return float(self.spent[source][np.searchsorted(-part, -price, side="left")])

    def value(self, source: int, tokens: float) -> float:
        """Return the most that some tokens of a source are worth."""
        return float(np.interp(tokens, self.spent[source], self.worth[source]))

    def take(self, source: int, tokens: float, into: Floats) -> None:
        """Write the best `tokens` tokens of a source into amounts (m,)."""
        part = self.parts[source]
        into[self.order[part]] = np.clip(tokens - self.spent[source][:-1], 0.0, self.amount[part])


class _Clusters:
    """What the priced clusters answer to prices, in blocks of clusters with the same sources."""

    def __init__(self, quotas: Quotas, gains: Floats) -> None:
        (self.units,) = np.nonzero(quotas.priced)
        self.tokens, self.gain = quotas.tokens[self.units], gains[self.units]
        self.source, self.cluster = quotas.source[self.units], quotas.cluster[self.units]
        self.size, self.room, self.counted = quotas.size[self.units], quotas.room, quotas.counted
        self.n_sources = len(quotas.floor)
        self.block = _blocks(self.cluster, self.source, len(quotas.room))
        self.n_blocks = int(self.block.max(initial=-1)) + 1

    def at_prices(self, prices: Floats) -> Floats:
        """Return (units,) tokens: every cluster's best answer to prices (S,) per token."""
        worth = self.gain - prices[self.source]
        key = np.where(self.counted[self.cluster], worth * self.tokens, worth)
        (wanted,) = np.nonzero(key > 0)
        order = wanted[np.lexsort((-key[wanted], self.cluster[wanted]))]
        code, size = self.cluster[order], self.size[order]
        answer = np.zeros(len(self.units))
        answer[order] = self.tokens[order] * np.clip(
            (self.room[code] - taken_before(code, size)) / size, 0.0, 1.0
        )
        return answer

    def totals(self, answer: Floats) -> tuple[Floats, Floats]:
        """Return tokens (blocks, S) and value (blocks,) of an answer."""
        cell = self.block * self.n_sources + self.source
        tokens = totals(cell, answer, self.n_blocks * self.n_sources)
        value = totals(self.block, answer * self.gain, self.n_blocks)
        return tokens.reshape(self.n_blocks, self.n_sources), value


def _blocks(cluster: Ints, source: Ints, n_clusters: int) -> Ints:
    """Return (units,) block codes: clusters with units of the same sources together, folded to `_BLOCKS`."""
    if not len(cluster):
        return cluster
    n_sources = int(source.max()) + 1
    cells = np.unique(cluster * n_sources + source)
    marks = generator("quota blocks").random(n_sources)
    pattern = np.bincount(cells // n_sources, marks[cells % n_sources], n_clusters)
    return (np.unique(pattern[cluster], return_inverse=True)[1] % _BLOCKS).astype(np.int64)


@dataclass(frozen=True)
class _Column:
    """One block's answer: tokens (S,) by source, value, and the number of the clusters' answer (lists: None)."""

    block: int
    tokens: Floats
    value: float
    answer: int | None


class _Master:
    """The linear program over the answers so far. Tokens are in units of the budget, to keep it well scaled."""

    def __init__(self, quotas: Quotas, n_blocks: int) -> None:
        self.unit, self.n_blocks = quotas.budget, n_blocks
        self.floors = np.nonzero(quotas.floor > 0)[0]
        self.caps = np.nonzero(np.isfinite(quotas.cap))[0]
        self.limits = np.concatenate([-quotas.floor[self.floors], quotas.cap[self.caps]]) / self.unit
        self.columns: list[_Column] = []

    def add(self, column: _Column) -> None:
        self.columns.append(column)

    def solve(self) -> tuple[Floats, Floats, Floats]:
        """Return the share of every column, prices (S,) per token and the worth (blocks,) of each block."""
        tokens = np.array([column.tokens for column in self.columns]).T / self.unit
        value = np.array([column.value for column in self.columns]) / self.unit
        convex = np.zeros((self.n_blocks, len(self.columns)))
        convex[[column.block for column in self.columns], np.arange(len(self.columns))] = 1.0
        uneven = np.vstack([-tokens[self.floors], tokens[self.caps]])
        found = linprog(
            -value,
            A_ub=uneven if len(self.limits) else None,
            b_ub=self.limits if len(self.limits) else None,
            A_eq=np.vstack([convex, tokens.sum(axis=0)]),
            b_eq=np.append(np.ones(self.n_blocks), 1.0),
            method="highs-ds",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if found.x is None:
            raise RuntimeError(f"HiGHS did not solve the program of the quotas: {found.message}")
        prices = np.full(len(tokens), -found.eqlin.marginals[-1])
        if len(self.limits):
            below, above = np.split(found.ineqlin.marginals, [len(self.floors)])
            prices[self.floors] += below
            prices[self.caps] -= above
        return found.x, prices, -found.eqlin.marginals[:-1]


def priced_vertex(quotas: Quotas, gains: NDArray[np.floating[Any]], start: Floats) -> Floats:
    """Return (m,) tokens of every unit at the maximum, for any feasible quotas.

    start: (m,) tokens of some feasible point. Exact to 1e-9 of budget times the largest gain. Quotas without
    `priced` units go to `nested_vertex`.
    """
    if not quotas.priced.any():
        return nested_vertex(quotas, gains)
    exact = np.asarray(gains, dtype=np.float64)
    scale = float(np.abs(exact).max())
    if scale == 0 or quotas.budget <= 0:
        return start.copy()
    exact = exact / scale
    lists, clusters = _Lists(quotas, exact), _Clusters(quotas, exact)
    n_sources = len(quotas.floor)
    master = _Master(quotas, n_sources + clusters.n_blocks)
    answers = [start[clusters.units]]
    listed = totals(quotas.source, np.where(quotas.priced, 0.0, start), n_sources)
    for column in _columns(lists, clusters, listed, answers[-1], 0):
        master.add(column)
    for price in np.quantile(exact, np.linspace(0, 1, _START_QUANTILES)):
        for column in _ask(lists, clusters, np.full(n_sources, price), answers):
            master.add(column)
    while True:
        shares, prices, worth = master.solve()
        least = worth + _TOLERANCE / master.n_blocks
        asked = _ask(lists, clusters, prices, answers)
        better = [c for c in asked if (c.value - c.tokens @ prices) / master.unit > least[c.block]]
        if not better:
            return _assemble(quotas, lists, clusters, master.columns, answers, shares)
        for column in better:
            master.add(column)


def _ask(lists: _Lists, clusters: _Clusters, prices: Floats, answers: list[Floats]) -> list[_Column]:
    """Return every block's answer to prices (S,), the clusters' also appended to `answers`."""
    answers.append(clusters.at_prices(prices))
    listed = np.array([lists.at_price(source, price) for source, price in enumerate(prices)])
    return _columns(lists, clusters, listed, answers[-1], len(answers) - 1)


def _columns(
    lists: _Lists, clusters: _Clusters, listed: Floats, answer: Floats, number: int
) -> list[_Column]:
    """Return the columns of tokens (S,) bought from the lists and of a clusters' answer."""
    columns = []
    for source, tokens in enumerate(listed):
        spent = np.zeros(len(listed))
        spent[source] = tokens
        columns.append(_Column(source, spent, lists.value(source, tokens), None))
    for block, (spent, value) in enumerate(zip(*clusters.totals(answer), strict=True), start=len(listed)):
        columns.append(_Column(block, spent, float(value), number))
    return columns


def _assemble(
    quotas: Quotas,
    lists: _Lists,
    clusters: _Clusters,
    columns: list[_Column],
    answers: list[Floats],
    shares: Floats,
) -> Floats:
    """Return (m,) tokens: the lists cut at their total by source, the clusters' answers mixed by share."""
    amounts, mixed = np.zeros(len(quotas.tokens)), np.zeros(len(clusters.units))
    cut = np.zeros(len(quotas.floor))
    for share, column in zip(shares, columns, strict=True):
        if share <= 0:
            continue
        if column.answer is None:
            cut += share * column.tokens
        else:
            own = clusters.block == column.block - len(cut)
            mixed[own] += share * answers[column.answer][own]
    for source, tokens in enumerate(cut):
        lists.take(source, tokens, amounts)
    amounts[clusters.units] = np.minimum(mixed, clusters.tokens)
    return amounts
