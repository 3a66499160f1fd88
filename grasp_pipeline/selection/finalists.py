"""The finalists: which candidate corpora enter, and which of them are worth a retraining.

Ranking arbitrary subsets well is not choosing the best one, so the last step is finite as well. Optimised corpora,
simple arms and the full corpus enter; those that follow a score are judged by evidence that no optimiser has seen
(`judge`), and the best are retrained together with the simple arms that every certificate is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.attribution.blocks import ArrayBlocks, Float64, SketchBlocks, project
from grasp_pipeline.attribution.metric import Metric, apply_metric, metric_matrix, second_moment
from grasp_pipeline.attribution.surrogate import subset_means
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.selection.arms import (
    Arm,
    dedup_random_arm,
    dsir_arm,
    full_arm,
    group_arm,
    middle_perplexity_arm,
    surrogate_arm,
    top_k_arm,
)
from grasp_pipeline.selection.budget import descending, fill_whole
from grasp_pipeline.selection.dsir import dsir_scores
from grasp_pipeline.selection.groups import group_chunks
from grasp_pipeline.selection.ngram_features import NgramFeatures
from grasp_pipeline.selection.ngrams import Chunks
from grasp_pipeline.selection.views import stack_views

Features = Literal["gradient", "gradient+ngrams"]

ALWAYS = (
    "influence",
    "graddot",
    "ggda",
    "dsir",
    "lowest-loss",
    "middle-perplexity",
    "random-deduplicated",
    "full",
)
"""Comparison arms: retrained whatever the judge says, each a row of the certificates."""

INFLUENCE_RHO = 1.0
"""Damping of the influence arm, in units of the mean eigenvalue of the second moment."""

GROUPS = 256
"""Groups of the GGDA arm."""


@dataclass(frozen=True)
class Rule:
    """What a linear arm ranks by: <M (r - lambda mu), features>; the metric's damping rho (0: M = I)."""

    features: Features
    rho: float
    lam: float


@dataclass(frozen=True)
class Finalist:
    """An arm, the rule behind it (None for draws, groups and resamples), and whether near duplicates were left out."""

    arm: Arm
    rule: Rule | None
    deduplicated: bool = False


@dataclass(frozen=True)
class Ingredients:
    """What the arms are built from.

    Attributes:
        blocks: sketches (n, d) of the chosen kind.
        target: (d,) mean query sketch of the target task.
        chunks: token ids of the n chunks.
        queries: token ids of the target's query chunks.
        query_share: (q,) weights of the query chunks in the target, as in `target`'s mean; they sum to 1.
        survivors: (n,) chunks of the surviving document of each near-duplicate cluster.
        losses: (n,) mean token loss of each chunk at the reference proxy, nats.
        budget: tokens to keep.
    """

    blocks: SketchBlocks
    target: Float64
    chunks: Chunks
    queries: Chunks
    query_share: Float64
    survivors: NDArray[np.bool_]
    losses: Float64
    budget: int

    @cached_property
    def n_tokens(self) -> NDArray[np.int64]:
        """Tokens per chunk, (n,)."""
        return self.chunks.lengths()

    @cached_property
    def second(self) -> Float64:
        """Second moment of the gradient sketches, (d, d)."""
        return second_moment(self.blocks, self.n_tokens)

    @cached_property
    def deduplicable(self) -> bool:
        """Whether there are near duplicates to leave out, and enough tokens without them."""
        return bool((~self.survivors).any()) and int(self.n_tokens[self.survivors].sum()) >= self.budget

    @cached_property
    def dsir(self) -> Float64:
        """DSIR's log importance weights, (n,)."""
        return dsir_scores(self.chunks, self.queries)

    @cached_property
    def _both(self) -> tuple[SketchBlocks, Float64]:
        features = NgramFeatures.fit(self.chunks)
        target = self.query_share @ features.transform(self.queries).astype(np.float64)
        ngrams = ArrayBlocks(features.transform(self.chunks))
        return stack_views([(self.blocks, self.target), (ngrams, target)], self.n_tokens)

    def view(self, features: Features) -> tuple[SketchBlocks, Float64]:
        """Return the features (n, d) of a rule and the target (d,) in them."""
        return (self.blocks, self.target) if features == "gradient" else self._both

    def metric(self, rho: float) -> Metric:
        """Return M for the gradient sketches; None is the identity."""
        return None if rho == 0 else metric_matrix(self.second, rho)


def build_finalists(
    given: Ingredients, selected: Configuration, gap: float, max_passes: int
) -> list[Finalist]:
    """Build all arms but the random draws; arms with equal memberships appear once, under the first name.

    Args:
        given: what the arms are built from.
        selected: the configuration chosen on the calibration subsets.
        gap: relative duality gap at which the optimiser stops.
        max_passes: most optimiser passes per arm.

    Raises:
        ConfigError: the budget cannot be met.
    """
    n_tokens, budget = given.n_tokens, given.budget
    alignment = project(given.blocks, given.target)
    influence = project(given.blocks, apply_metric(given.metric(INFLUENCE_RHO), given.target))
    groups = group_chunks(given.blocks, min(GROUPS, max(1, given.chunks.n // 8)), "ggda")
    everyone = np.ones_like(given.survivors)
    survivors = given.survivors if given.deduplicable else everyone
    finalists = [
        Finalist(full_arm(n_tokens), None),
        Finalist(
            top_k_arm(
                "influence",
                influence,
                n_tokens,
                budget,
                f"Highest damped influence per token (rho {INFLUENCE_RHO:g}).",
            ),
            Rule("gradient", INFLUENCE_RHO, 0.0),
        ),
        Finalist(
            top_k_arm(
                "graddot", alignment, n_tokens, budget, "Highest gradient inner product with the queries."
            ),
            Rule("gradient", 0.0, 0.0),
        ),
        Finalist(
            top_k_arm("lowest-loss", -given.losses, n_tokens, budget, "Lowest loss at the reference proxy."),
            None,
        ),
        Finalist(middle_perplexity_arm(given.losses, n_tokens, budget), None),
        Finalist(dsir_arm(given.dsir, n_tokens, budget), None),
        Finalist(group_arm(groups, alignment, n_tokens, budget), None),
        Finalist(dedup_random_arm(n_tokens, budget, survivors), None, True),
    ]
    plans: list[tuple[str, Rule, bool]] = [
        (f"surrogate-{lam:g}", Rule("gradient", 0.0, lam), False) for lam in (0.4, 0.7, 1.0)
    ]
    plans.append(("surrogate-ngrams-0.7", Rule("gradient+ngrams", 0.0, 0.7), False))
    if selected.lam > 0 and selected.rho > 0:
        plans.append(("surrogate-selected", Rule("gradient", selected.rho, selected.lam), False))
    if given.deduplicable:
        plans.append(("surrogate-0.7-deduplicated", Rule("gradient", 0.0, 0.7), True))
        plans.append(("surrogate-ngrams-0.7-deduplicated", Rule("gradient+ngrams", 0.0, 0.7), True))
        deduplicated = dsir_arm(given.dsir, n_tokens, budget, allowed=survivors, name="dsir-deduplicated")
        finalists.append(Finalist(deduplicated, None, True))
    for name, rule, hard in plans:
        blocks, target = given.view(rule.features)
        arm = surrogate_arm(
            name,
            "surrogate",
            blocks,
            n_tokens,
            target,
            budget,
            _describe(rule, hard),
            metric=given.metric(rule.rho),
            lam=rule.lam,
            allowed=survivors if hard else None,
            gap=gap,
            max_passes=max_passes,
        )
        finalists.append(Finalist(arm, rule, hard))
    return _distinct(finalists)


def _describe(rule: Rule, hard: bool) -> str:
    metric = "M = I" if rule.rho == 0 else f"M damped by rho {rule.rho:g}"
    beside = ", n-gram features beside the gradients" if rule.features == "gradient+ngrams" else ""
    only = ", one document per near-duplicate cluster" if hard else ""
    return f"Maximiser of the surrogate, {metric}, lambda {rule.lam:g}{beside}{only}."


def shortlist(finalists: Sequence[Finalist], score: Float64, size: int) -> list[bool]:
    """Return which finalists are retrained: the `size` best-judged ones, the best-judged surrogate, and `ALWAYS`.

    Args:
        finalists: c candidates.
        score: (c,) the judge's score.
        size: how many by score.
    """
    arms = [finalist.arm for finalist in finalists]
    order = sorted(range(len(arms)), key=lambda i: (-score[i], arms[i].name))
    by_score = [i for i in order if arms[i].name not in ALWAYS][:size]
    surrogates = [i for i in order if arms[i].role == "candidate"][:1]
    chosen = {*by_score, *surrogates}
    return [i in chosen or arm.name in ALWAYS for i, arm in enumerate(arms)]


@dataclass(frozen=True)
class LinearView:
    """A linear arm's direction at its membership: features <q, phi> in `blocks`; alignment and marginal (n,)."""

    blocks: SketchBlocks
    q: Float64
    tau: float
    alignment: Float64
    marginal: Float64


def linear_view(
    given: Ingredients, rule: Rule, membership: NDArray[np.bool_], deduplicated: bool
) -> LinearView:
    """Return q = M (r - lambda mu_S), the threshold tau, and every chunk's alignment and marginal value at S.

    tau is the marginal value of the last chunk taken when the allowed chunks fill the subset's tokens in order of
    marginal value; up to rounding S is the set above it.
    """
    blocks, target = given.view(rule.features)
    metric = given.metric(rule.rho)
    mean = subset_means(blocks, given.n_tokens, membership[None]).means[0]
    q = apply_metric(metric, target - rule.lam * mean)
    alignment = project(blocks, apply_metric(metric, target))
    marginal = project(blocks, q)
    allowed = given.survivors if deduplicated and given.deduplicable else np.ones_like(membership)
    order = descending(np.where(allowed, marginal, -np.inf))
    taken = fill_whole(
        order[: int(allowed.sum())], given.n_tokens.astype(np.float64), int(given.n_tokens[membership].sum())
    )
    return LinearView(blocks, q, float(marginal[taken].min()), alignment, marginal)


def _distinct(finalists: Sequence[Finalist]) -> list[Finalist]:
    seen: set[bytes] = set()
    kept = []
    for finalist in finalists:
        key = np.packbits(finalist.arm.membership).tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(finalist)
    return kept
