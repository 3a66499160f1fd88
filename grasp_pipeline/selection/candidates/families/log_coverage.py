"""Log-coverage's maximisers: corpora that teach the queries' events, each the more the less it is taught already.

F(S) = sum_t W_t sum_q w_tq log( mu_S(a, b) + rho p(a) p(b) )          see `attribution.log_coverage`
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.corpus.events import EventTable, previous_token, row_sums
from grasp_pipeline.names import Dedup
from grasp_pipeline.selection.candidates.candidate import Candidate, tokens_of
from grasp_pipeline.selection.candidates.context import SelectionContext, last_taken
from grasp_pipeline.selection.candidates.family import TWICE, Choice, Family, Ranking, Search
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter
from grasp_pipeline.selection.solver.coverage import Coverage, cover, greedy
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet
from grasp_pipeline.selection.solver.optimiser import Selection

SMOOTHINGS = (0.6, 3.0, 30.0)
"""rho of the candidates. The fewer tokens a training sees, the larger the rho that it wants."""

LARGEST = SMOOTHINGS[-1]

MIDDLE = 3.0
"""rho of the candidates with other levers, and of the family's values."""

WORST_ROUNDS = 12
"""Corpora tried for the worst task; each weighs the tasks more that gained less in those before."""

_PULL = 4.0
"""How strongly: the log of the weights moves by this times the shortfall, in units of the mean gain."""


class LogCoverageFamily(Family):
    """Optimised corpora with a few smoothings, without near duplicates, and with half as much text twice."""

    name = "log-coverage"
    description = "Maximiser of the log-coverage of the queries' bigrams, rho {:g}{}."
    role = "candidate"
    ranks_by = "event_coverage"

    def values(self, context: SelectionContext) -> Floats:
        """Return what a token of every chunk is worth beside the whole corpus, (n,)."""
        return _worth(context, MIDDLE, context.events.pool_rate)

    def candidate(self, context: SelectionContext, copies: int = 1) -> Candidate | None:
        """Return None: no maximiser comes before the others."""
        return None

    def further(self, context: SelectionContext, search: Search) -> Iterator[Candidate]:
        """Yield the maximisers."""
        for rho in SMOOTHINGS:
            yield self._built(context, search, f"{self.name}-{rho:g}", rho, "")
        if context.feasible_sets.offers("hard"):
            name, left = f"{self.name}-{MIDDLE:g}-deduplicated", ", one document per near-duplicate cluster"
            yield self._built(context, search, name, MIDDLE, left, "hard")
        if len(context.counted) > 1 and not context.target.worst:
            yield self._joined(context, MIDDLE)
        if context.repeatable:
            for rho in (MIDDLE, LARGEST):
                name = f"{self.name}-{rho:g}{TWICE}"
                yield self._built(context, search, name, rho, ", every chunk twice", copies=2)

    def ranking(self, context: SelectionContext, choice: Choice) -> Ranking:
        """Return the worth of chunks beside the whole corpus, and beside what is kept."""
        rho = choice.smoothing or MIDDLE
        mu = context.events.rates(choice.kept[None])[0][0]
        marginal = _worth(context, rho, mu)
        tau = last_taken(marginal, context.n_tokens, choice.kept, choice.allowed)
        by_task = np.zeros((context.chunks.n, len(context.target.tasks)))
        by_task[:, context.counted] = _by_task(context, rho, mu)
        return Ranking(self.ranks_by, _worth(context, rho, context.events.pool_rate), marginal, tau, by_task)

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter | None:
        """Return the values of events beside what is kept, as a table: tokens alone decide.

        None where contexts come from a model: a table has none.
        """
        if context.contexts != (previous_token,):
            return None
        mu = context.events.rates(choice.kept[None])[0][0]
        worth = objective(context, choice.smoothing or MIDDLE).slope(mu)
        return ChunkFilter("event_table", events=EventTable(context.events.keys, worth.astype(np.float32)))

    def _joined(self, context: SelectionContext, rho: float) -> Candidate:
        """Build the corpus in which every task has its share, by weight, of what is best for it alone."""
        feasible = context.feasible_sets.feasible_set(trusted=True)
        tokens = context.n_tokens.astype(np.float64)
        closed = np.asarray(feasible.n_tokens) == 0
        weights = context.target.weights[context.counted]
        spent = np.full(len(tokens), np.inf)
        for task, weight in enumerate(weights):
            alone = objective(context, rho, np.eye(len(weights))[task])
            order = greedy(alone, tokens, closed, feasible.budget, feasible.unit, feasible.forced)
            spent[order] = np.minimum(spent[order], np.cumsum(tokens[order]) / weight)
        first = np.where(np.isfinite(spent), -spent, -np.finfo(np.float64).max)
        membership = feasible.round(first, _worth(context, rho, context.events.pool_rate))
        return Candidate(
            f"{self.name}-{rho:g}-joined",
            self.name,
            self.role,
            membership,
            tokens_of(membership, feasible),
            self.description.format(rho, ", for every task alone, joined by their weights"),
            smoothing=rho,
        )

    def _built(
        self,
        context: SelectionContext,
        search: Search,
        name: str,
        rho: float,
        how: str,
        dedup: Dedup = "none",
        copies: int = 1,
    ) -> Candidate:
        feasible = context.feasible_sets.feasible_set(dedup, copies, trusted=True)
        solve = _worst if context.target.worst else _mean
        found = solve(context, rho, feasible, search)
        text = self.description.format(rho, how)
        return Candidate(
            name,
            self.name,
            self.role,
            found.membership,
            tokens_of(found.membership, feasible, copies),
            f"{text} The worst task counts." if context.target.worst else text,
            dedup=dedup,
            repeats=copies,
            selection=found,
            smoothing=rho,
        )


def objective(context: SelectionContext, rho: float, task_weights: Floats | None = None) -> Coverage:
    """Return the objective of a smoothing; task_weights: (T',) of the tasks that count, None for the target's."""
    weights = context.target.weights[context.counted] if task_weights is None else task_weights
    floor = LogCoverage(context.events, rho).floor
    return Coverage(context.events.events, weights @ context.events.weights, floor)


def _mean(context: SelectionContext, rho: float, feasible: FeasibleSet, search: Search) -> Selection:
    return cover(
        objective(context, rho), context.n_tokens, feasible, gap=search.gap, max_passes=search.max_passes
    )


def _worst(context: SelectionContext, rho: float, feasible: FeasibleSet, search: Search) -> Selection:
    """Return the corpus whose least gain over the pool, each over its task's weight, is highest of those tried."""
    wanted = context.target.weights[context.counted]
    wanted = wanted / wanted.mean()
    surrogate = LogCoverage(context.events, rho)
    everything = np.ones((1, context.chunks.n), dtype=np.bool_)
    base = surrogate.predict(everything)[0]
    weights = np.full(len(wanted), 1 / len(wanted))
    best: Selection | None = None
    least = -np.inf
    for _ in range(WORST_ROUNDS if len(wanted) > 1 else 1):
        found = cover(
            objective(context, rho, weights),
            context.n_tokens,
            feasible,
            gap=search.gap,
            max_passes=search.max_passes,
        )
        gains = (surrogate.predict(found.membership[None])[0] - base) / wanted
        if gains.min() > least:
            best, least = found, float(gains.min())
        weights = weights * np.exp(-_PULL * (gains - gains.mean()) / max(abs(gains.mean()), 1e-12))
        weights = weights / weights.sum()
    assert best is not None, "at least one is tried"
    return best


def _worth(context: SelectionContext, rho: float, mu: Floats) -> Floats:
    """Return what a token of every chunk is worth at rates mu (E,), (n,)."""
    return row_sums(context.events.events, objective(context, rho).slope(mu)) / context.n_tokens


def _by_task(context: SelectionContext, rho: float, mu: Floats) -> Floats:
    """Return the same for every task that counts, (n, T')."""
    worth = context.events.weights / (mu + LogCoverage(context.events, rho).floor)
    return row_sums(context.events.events, worth.T) / np.maximum(context.n_tokens, 1)[:, None]
