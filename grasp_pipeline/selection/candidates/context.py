"""What candidates are built from, and the scores that rank by one direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.blocks import ArrayBlocks, SketchBlocks, project
from grasp_pipeline.attribution.metric import Metric, apply_metric, metric_matrix, second_moment
from grasp_pipeline.attribution.surrogate import subset_means
from grasp_pipeline.corpus.events import Contexts, EventCounts, count_joined, previous_token
from grasp_pipeline.corpus.ngram_features import NgramFeatures
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.candidates.learned import Learned
from grasp_pipeline.selection.candidates.views import stack_views
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
from grasp_pipeline.selection.solver.budget import descending, fill_whole
from grasp_pipeline.selection.target import Target

Computed = TypeVar("Computed")

Features = Literal["gradient", "gradient+ngrams"]


@dataclass(frozen=True, eq=False)
class LinearScore:
    """What a linear candidate ranks by: <M (r - lambda mu), features>.

    rho: damping of the metric M, 0 for the identity; ngram_weight: of the n-grams' F beside the gradients'; target: r
    (d,) in the features, None for the direction of the target's tasks.
    """

    features: Features
    rho: float
    lam: float
    ngram_weight: float = 1.0
    target: Floats | None = None


@dataclass(frozen=True, eq=False)
class SelectionContext:
    """What the candidates are built from.

    Attributes:
        blocks: sketches (n, d) of the chosen kind.
        target: what is selected for, over T tasks.
        targets: (T, d) mean query sketch of every task.
        chunks: token ids of the n chunks.
        queries: token ids of q query chunks of the tasks that count.
        query_task: (q,) their tasks, as places in `target.tasks`.
        losses: (n,) mean token loss of each chunk at the reference proxy, nats.
        conditional: (n,) by how much fine-tuning on the queries lowers it (see `proxy.conditional`), nats; None where
            that was not measured.
        feasible_sets: what an arm may hold.
        training_tokens: of a retraining. Chunks that count twice are offered where these reach the budget: a shorter
            training would never see a repeat, and measure nothing of it.
        learned: what was read or trained beside the tables.
        contexts: of log-coverage's events, side by side as in `count_joined`: `previous_token`, clusters of the proxy's
            states (`proxy.token_states`), or both.
    """

    blocks: SketchBlocks
    target: Target
    targets: Floats
    chunks: TokenLists
    queries: TokenLists
    query_task: NDArray[np.integer]
    losses: Floats
    conditional: Floats | None
    feasible_sets: FeasibleSets
    training_tokens: int
    learned: Learned = field(default_factory=Learned)
    contexts: tuple[Contexts, ...] = (previous_token,)
    _stacked: dict[float, tuple[SketchBlocks, Floats]] = field(default_factory=dict, init=False, repr=False)
    _once: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        pool: ChunkPool,
        feasible_sets: FeasibleSets,
        target: Target,
        blocks: SketchBlocks,
        targets: Floats,
        queries: Sequence[TokenLists],
        losses: Floats,
        conditional: Floats | None,
        training_tokens: int,
        learned: Learned | None = None,
        contexts: tuple[Contexts, ...] = (previous_token,),
    ) -> SelectionContext:
        """Return the context of a pool of text; queries: of each of the T tasks, whether it counts or not."""
        texts, task = target.texts(queries)
        made_of = (blocks, target, targets, pool.text, texts, task)
        given = (losses, conditional, feasible_sets, training_tokens, learned or Learned(), contexts)
        return cls(*made_of, *given)

    def once(self, name: str, compute: Callable[[], Computed]) -> Computed:
        """Return what a family computes from this, computed once; name: unique to it."""
        if name not in self._once:
            self._once[name] = compute()
        return self._once[name]

    @cached_property
    def n_tokens(self) -> NDArray[np.int64]:
        """Tokens per chunk, (n,)."""
        return self.chunks.lengths

    @cached_property
    def second(self) -> Floats:
        """Second moment of the gradient sketches, (d, d)."""
        return second_moment(self.blocks, self.n_tokens)

    @cached_property
    def alignment(self) -> Floats:
        """GradDot's score per token, (n,)."""
        return project(self.blocks, self.target.weights @ self.targets)

    @cached_property
    def query_share(self) -> Floats:
        """Share of every query chunk in its task's tokens, (T, q)."""
        lengths = self.queries.lengths.astype(np.float64)
        member = self.query_task == np.arange(len(self.target.tasks))[:, None]
        tokens = member * lengths
        return tokens / np.maximum(tokens.sum(axis=1, keepdims=True), 1.0)

    @cached_property
    def counted(self) -> NDArray[np.int64]:
        """Places of the tasks that count, (T',)."""
        return np.flatnonzero(self.target.weights > 0)

    @cached_property
    def events(self) -> EventCounts:
        """Counts of the queries' events; its tasks are those that count."""
        place = np.searchsorted(self.counted, self.query_task)
        return count_joined(self.chunks, self.queries, place, len(self.counted), self.contexts)

    @cached_property
    def ngrams(self) -> NgramFeatures:
        """N-gram features fitted on the corpus."""
        return NgramFeatures.fit(self.chunks)

    @cached_property
    def _ngram_view(self) -> tuple[SketchBlocks, Floats]:
        targets = self.query_share @ self.ngrams.transform(self.queries).astype(np.float64)
        return ArrayBlocks(self.ngrams.transform(self.chunks)), targets

    def view(self, linear: LinearScore) -> tuple[SketchBlocks, Floats]:
        """Return the features (n, d) of a linear score and every task's direction (T, d) in them."""
        if linear.features == "gradient":
            return self.blocks, self.targets
        if linear.ngram_weight not in self._stacked:
            self._stacked[linear.ngram_weight] = stack_views(
                [(self.blocks, self.targets), self._ngram_view],
                self.n_tokens,
                [1.0, linear.ngram_weight],
            )
        return self._stacked[linear.ngram_weight]

    def direction(self, linear: LinearScore) -> Floats:
        """Return r (d,) of a linear score."""
        return self.target.weights @ self.view(linear)[1] if linear.target is None else linear.target

    @cached_property
    def repeatable(self) -> bool:
        """Whether chunks may count twice: a retraining sees the whole budget, and the constraints can be met so."""
        if self.training_tokens < self.feasible_sets.budget:
            return False
        try:
            self.feasible_sets.feasible_set(copies=2)
        except ConfigError:
            return False
        return True

    def metric(self, rho: float) -> Metric:
        """Return M for the gradient sketches; None is the identity."""
        return None if rho == 0 else metric_matrix(self.second, rho)


@dataclass(frozen=True)
class LinearView:
    """A linear arm's direction at its membership: features <q, phi> in `blocks`; alignment and marginal (n,)."""

    blocks: SketchBlocks
    q: Floats
    tau: float
    alignment: Floats
    marginal: Floats


def linear_view(
    context: SelectionContext,
    linear: LinearScore,
    membership: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
) -> LinearView:
    """Return q = M (r - lambda mu_S), the threshold tau, and every chunk's alignment and marginal value at S.

    tau is the marginal value of the last chunk taken when the allowed chunks (n,) fill the subset's tokens in order of
    marginal value; up to rounding and constraints beside the budget S is the set above it.
    """
    blocks, target, metric = (
        context.view(linear)[0],
        context.direction(linear),
        context.metric(linear.rho),
    )
    mean = subset_means(blocks, context.n_tokens, membership[None]).means[0]
    q = apply_metric(metric, target - linear.lam * mean)
    alignment = project(blocks, apply_metric(metric, target))
    marginal = project(blocks, q)
    return LinearView(
        blocks, q, last_taken(marginal, context.n_tokens, membership, allowed), alignment, marginal
    )


def last_taken(
    values: Floats,
    n_tokens: NDArray[np.integer],
    membership: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
) -> float:
    """Return the value of the last chunk taken when the allowed chunks (n,) fill a subset's tokens, best first.

    values, n_tokens: (n,) per chunk; membership: (n,) the subset.
    """
    order = descending(np.where(allowed, values, -np.inf))[: int(allowed.sum())]
    taken = fill_whole(order, n_tokens.astype(np.float64), int(n_tokens[membership].sum()))
    return float(values[taken].min())
