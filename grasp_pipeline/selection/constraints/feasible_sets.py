"""Feasible sets: what a candidate corpus may hold. Every arm fills one.

A feasible set is the budget with everything that is asked for beside it: the constraints of the configuration, how far
near duplicates are left out, how often a kept chunk counts, and the random sample that a trust region keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import Dedup
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
from grasp_pipeline.selection.solver.budget import TokenBudget, check_budget
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet

Constrain = Callable[[NDArray[np.integer[Any]], Bools, Bools | None], ConstraintSet]
"""Tokens (n,), chunks that may be chosen (n,) and chunks to keep (n,) or None -> the constraint set."""


@dataclass(frozen=True, eq=False)
class FeasibleSets:
    """The feasible sets of one corpus and budget.

    Attributes:
        n_tokens: (n,) tokens per chunk.
        budget: tokens to keep.
        survivors: (n,) chunks of the document that stays of each near-duplicate cluster.
        documents, clusters: (n,) codes of a chunk's document and of that document's cluster.
        constrain: makes the constraint set where constraints are asked for, else None.
        trust_share: share of the budget for a random sample in the feasible sets of optimised arms.
    """

    n_tokens: NDArray[np.integer[Any]]
    budget: int
    survivors: Bools
    documents: NDArray[np.integer[Any]]
    clusters: NDArray[np.integer[Any]]
    constrain: Constrain | None = None
    trust_share: float = 0.0
    _made: dict[tuple[Dedup, int, bool], FeasibleSet] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls, pool: ChunkPool, budget: int, constrain: Constrain | None = None, trust_share: float = 0.0
    ) -> FeasibleSets:
        """Return the feasible sets of a pool."""
        return cls(pool.n_tokens, budget, pool.survivor, pool.document, pool.cluster, constrain, trust_share)

    @classmethod
    def plain(
        cls, n_tokens: NDArray[np.integer[Any]], budget: int, survivors: Bools | None = None
    ) -> FeasibleSets:
        """Return feasible sets of the budget alone, each chunk a document of its own."""
        own = np.arange(len(n_tokens))
        return cls(n_tokens, budget, np.ones(len(own), bool) if survivors is None else survivors, own, own)

    def allowed(self, dedup: Dedup) -> Bools:
        """Return the chunks (n,) that a degree of near-de-duplication leaves."""
        if dedup == "none":
            return np.ones(len(self.n_tokens), dtype=np.bool_)
        return self.survivors if dedup == "hard" else self._soft

    def offers(self, dedup: Dedup, copies: int = 1) -> bool:
        """Return whether the degree leaves out anything more than milder ones, and leaves enough for the budget.

        copies: times that a kept chunk counts.
        """
        mask, milder = self.allowed(dedup), self.allowed("soft" if dedup == "hard" else "none")
        if dedup != "none" and np.array_equal(mask, milder):
            return False
        try:
            self.feasible_set(dedup, copies)
        except ConfigError:
            return False
        return True

    def strictest(self, copies: int = 1) -> Dedup:
        """Return the strictest degree that leaves enough for the budget."""
        return "hard" if self.offers("hard", copies) else "soft" if self.offers("soft", copies) else "none"

    def feasible_set(self, dedup: Dedup = "none", copies: int = 1, trusted: bool = False) -> FeasibleSet:
        """Return a feasible set; copies: times that a kept chunk counts; trusted: with the trust region's sample.

        Raises:
            ConfigError: the budget or the constraints cannot be met.
        """
        key = (dedup, copies, trusted and self.trust_share > 0)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, dedup: Dedup, copies: int, trusted: bool) -> FeasibleSet:
        tokens, allowed = self.n_tokens * copies, self.allowed(dedup)
        keep = self._sample(copies) if trusted else None
        if self.constrain is not None:
            return self.constrain(tokens, allowed, keep)
        if keep is not None:
            return ConstraintSet(tokens, self.budget, keep=keep, drop=~(allowed | keep))
        return TokenBudget(check_budget(tokens, self.budget, allowed), self.budget)

    def _sample(self, copies: int) -> Bools:
        """Return a random sample (n,) of whole units without near duplicates, the trust region's share of the budget.

        It is part of a random corpus that meets every constraint.
        """
        feasible = self.feasible_set(self.strictest(), copies)
        keys = random_keys(feasible, "trust region")
        drawn = np.flatnonzero(feasible.round(keys, np.zeros(len(keys))))
        drawn = drawn[np.argsort(-keys[drawn], kind="stable")]
        spent = np.cumsum(self.n_tokens[drawn] * copies)
        sample = np.zeros(len(keys), dtype=np.bool_)
        sample[drawn[spent <= self.trust_share * self.budget]] = True
        return sample

    @cached_property
    def _soft(self) -> Bools:
        """The first ceil(sqrt(k)) documents of every cluster of k, the survivor before the others."""
        count = int(self.documents.max(initial=0)) + 1
        cluster, survives = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_)
        cluster[self.documents], survives[self.documents] = self.clusters, self.survivors
        used = np.unique(self.documents)
        order = used[np.lexsort((used, ~survives[used], cluster[used]))]
        sizes = np.bincount(cluster[used])
        first = np.concatenate([[0], np.cumsum(sizes)])
        place = np.zeros(count, dtype=np.int64)
        place[order] = np.arange(len(order)) - first[cluster[order]]
        stays = place < np.ceil(np.sqrt(sizes[cluster]))
        return stays[self.documents]


def random_keys(feasible: FeasibleSet, *name: str | int) -> NDArray[np.float64]:
    """Return (n,) random keys in [0, 1) for a draw without replacement, equal for chunks that are kept as one."""
    n = len(feasible.n_tokens)
    units = np.arange(n) if feasible.unit is None else feasible.unit
    return generator(*name).random(int(units.max(initial=0)) + 1)[units]
