"""The finalists: which candidate corpora enter, and which of them are worth a retraining.

Ranking arbitrary subsets well is not choosing the best one, so the last step is finite as well. Optimised corpora,
simple arms and the full corpus enter; those that follow a score are judged by evidence that no optimiser has seen
(`judge`), and the best are retrained together with the simple arms that every certificate is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.candidates.arms import (
    Arm,
    dedup_random_arm,
    dsir_arm,
    full_arm,
    group_arm,
    maximise,
    middle_perplexity_arm,
    selected_arm,
    surrogate_arm,
    top_k_arm,
)
from grasp_pipeline.selection.candidates.context import INFLUENCE_RHO, LinearScore, SelectionContext
from grasp_pipeline.selection.constraints.feasible_sets import Dedup
from grasp_pipeline.selection.solver.max_min import maximise_worst

COMPARISON_ARMS = (
    "full",
    "random-deduplicated",
    "dsir",
    "influence",
    "graddot",
    "ggda",
    "lowest-loss",
    "middle-perplexity",
)
"""Comparison arms: retrained whatever the judge says, each a row of the certificates. A limit on retrainings leaves out
the last ones first."""

TWICE = "-twice"
"""End of the name of an arm whose every chunk is trained on twice: half as much text for the same budget."""

TWINS = tuple(f"{arm}{TWICE}" for arm in COMPARISON_ARMS if arm != "full")
"""What the comparison arms are with half as much text twice. A lever that candidates may pull is theirs as well: as
many of these are retrained as candidates are, the best-judged ones."""

COMPARED = (*COMPARISON_ARMS, *TWINS, "conditional", f"conditional{TWICE}")
"""Every arm that is another method's, for comparisons at equal rules: with and without repeats."""

NGRAM_WEIGHTS = (0.5, 1.0, 2.0)
"""Weights of the n-grams' F beside the gradients', each in units of its mean squared token norm."""


@dataclass(frozen=True)
class Finalist:
    """An arm, the linear score behind it (None for draws, groups, resamples), how far near duplicates are left out."""

    arm: Arm
    linear: LinearScore | None
    dedup: Dedup = "none"


@dataclass(frozen=True)
class Plan:
    """An optimised arm to build: its name, linear score, feasible set, and how often each chunk counts."""

    name: str
    linear: LinearScore
    dedup: Dedup = "none"
    repeats: int = 1


def build_finalists(
    context: SelectionContext,
    selected: Configuration,
    gap: float,
    max_passes: int,
    listener: Listener = silent,
) -> list[Finalist]:
    """Build all arms but the random draws; arms with equal memberships appear once, under the first name.

    Args:
        given: what the arms are built from.
        selected: the configuration chosen on the calibration subsets.
        gap: relative duality gap at which the optimiser stops.
        max_passes: most optimiser passes per arm.
        listener: told every arm that was optimised.

    Raises:
        ConfigError: the budget or the constraints cannot be met.
    """
    entries = [*simple_finalists(context), *scored_finalists(context)]
    for plan in plans(context, selected):
        entries.append(optimised(context, plan, gap, max_passes))
        arm = entries[-1].arm
        listener(f"{arm.name}: {arm.n_chunks:,} chunks, relative gap {arm.relative_gap:.1e}")
    return _distinct(entries)


def simple_finalists(context: SelectionContext) -> list[Finalist]:
    """Build the arms of simple rules, `full` first; where chunks may count twice, each but `full` with its twin."""
    alignment = context.alignment
    said = f"Highest damped influence per token (rho {INFLUENCE_RHO:g})."
    graddot = "Highest gradient inner product with the queries."
    lowest = "Lowest loss at the reference proxy."
    entries = [Finalist(full_arm(context.n_tokens), None)]
    for copies in _copies(context):
        feasible, strictest = (
            context.feasible_sets.feasible_set(copies=copies),
            context.feasible_sets.strictest(copies),
        )
        made = [
            Finalist(
                top_k_arm("influence", context.influence, feasible, said),
                LinearScore("gradient", INFLUENCE_RHO, 0.0),
            ),
            Finalist(top_k_arm("graddot", alignment, feasible, graddot), LinearScore("gradient", 0.0, 0.0)),
            Finalist(top_k_arm("lowest-loss", -context.losses, feasible, lowest), None),
            Finalist(middle_perplexity_arm(context.losses, feasible), None),
            Finalist(dsir_arm(context.dsir, feasible), None),
            Finalist(group_arm(context.groups, alignment, feasible), None),
            Finalist(
                dedup_random_arm(context.feasible_sets.feasible_set(strictest, copies)), None, strictest
            ),
        ]
        entries += [_counted(entry, copies) for entry in made]
    if context.feasible_sets.offers("hard"):
        arm = dsir_arm(context.dsir, context.feasible_sets.feasible_set("hard"), name="dsir-deduplicated")
        entries.append(Finalist(arm, None, "hard"))
    return entries


def scored_finalists(context: SelectionContext) -> list[Finalist]:
    """Build the candidates that follow scores which are not linear in the features, once and with every chunk twice."""
    conditional = "Loss lowered most by fine-tuning on the queries (CoLoR-Filter, arXiv 2406.10670)."
    blend = "Highest mean of standardised influence, n-gram importance and conditional loss."
    entries = []
    for copies in _copies(context):
        feasible = context.feasible_sets.feasible_set(copies=copies, trusted=True)
        made = [
            top_k_arm("conditional", context.conditional, feasible, conditional),
            top_k_arm("blend", context.blend, feasible, blend),
        ]
        entries += [_counted(Finalist(replace(arm, role="candidate"), None), copies) for arm in made]
    return entries


def _copies(context: SelectionContext) -> tuple[int, ...]:
    return (1, 2) if context.repeatable else (1,)


def _counted(entry: Finalist, copies: int) -> Finalist:
    """Return a finalist from a feasible set of `copies`: named and described so, its tokens counted once."""
    if copies == 1:
        return entry
    arm = entry.arm
    twin = replace(
        arm,
        name=f"{arm.name}{TWICE}",
        description=f"{arm.description.rstrip('.')}, every chunk twice.",
        n_tokens=arm.n_tokens // copies,
        repeats=copies,
    )
    return replace(entry, arm=twin)


def plans(context: SelectionContext, selected: Configuration) -> list[Plan]:
    """Return the optimised arms to build."""
    both = LinearScore("gradient+ngrams", 0.0, 0.7)
    made = [Plan(f"surrogate-{lam:g}", LinearScore("gradient", 0.0, lam)) for lam in (0.4, 0.7, 1.0)]
    made += [Plan(f"surrogate-ngrams-{w:g}", replace(both, ngram_weight=w)) for w in NGRAM_WEIGHTS]
    if selected.lam > 0 and selected.rho > 0:
        made.append(Plan("surrogate-selected", LinearScore("gradient", selected.rho, selected.lam)))
    for name, linear in (
        ("surrogate-0.7", LinearScore("gradient", 0.0, 0.7)),
        ("surrogate-ngrams-1", both),
    ):
        if context.feasible_sets.offers("soft"):
            made.append(Plan(f"{name}-softly-deduplicated", linear, "soft"))
        if context.feasible_sets.offers("hard"):
            made.append(Plan(f"{name}-deduplicated", linear, "hard"))
        if context.repeatable:
            made.append(Plan(f"{name}{TWICE}", linear, repeats=2))
    return made


def optimised(context: SelectionContext, plan: Plan, gap: float, max_passes: int) -> Finalist:
    """Build the arm of a plan; for the target `worst` the one whose worst task gains most."""
    feasible = context.feasible_sets.feasible_set(plan.dedup, plan.repeats, trusted=True)
    linear, metric = plan.linear, context.metric(plan.linear.rho)
    blocks, targets = context.view(linear)
    options = {"metric": metric, "lam": linear.lam, "gap": gap, "max_passes": max_passes}
    if not context.target.worst or linear.target is not None:
        arm = surrogate_arm(
            plan.name,
            "surrogate",
            blocks,
            feasible,
            context.direction(linear),
            _describe(plan),
            repeats=plan.repeats,
            **options,
        )
        return Finalist(arm, linear, plan.dedup)
    counts = context.target.weights > 0
    found, direction = maximise_worst(
        blocks,
        feasible,
        targets[counts],
        context.target.weights[counts],
        partial(maximise, blocks, feasible, **options),
        metric=metric,
        lam=linear.lam,
        gap=gap,
    )
    arm = selected_arm(
        plan.name, "surrogate", feasible, found, _describe(plan) + " The worst task counts.", plan.repeats
    )
    return Finalist(arm, replace(linear, target=direction), plan.dedup)


_LEFT = {
    "none": "",
    "soft": ", at most ceil(sqrt(k)) of k near-duplicate documents",
    "hard": ", one document per near-duplicate cluster",
}


def _describe(plan: Plan) -> str:
    linear = plan.linear
    metric = "M = I" if linear.rho == 0 else f"M damped by rho {linear.rho:g}"
    beside = ""
    if linear.features == "gradient+ngrams":
        beside = f", n-gram features of weight {linear.ngram_weight:g} beside the gradients"
    often = ", every chunk twice" if plan.repeats > 1 else ""
    return f"Maximiser of the surrogate, {metric}, lambda {linear.lam:g}{beside}{_LEFT[plan.dedup]}{often}."


def shortlist(finalists: Sequence[Finalist], score: Floats, size: int, most: int | None = None) -> list[bool]:
    """Return which finalists are retrained.

    The `size` best-judged ones, the best-judged surrogate, as many of `TWINS`, the best-judged, and `ALWAYS`.

    Args:
        finalists: c candidates.
        score: (c,) the judge's score.
        size: how many by score.
        most: how many in all, None for no limit; comparison arms go first, the last of `ALWAYS` before the others, then
            the worst-judged of `TWINS`, then the worst-judged.

    Raises:
        ConfigError: the limit is below 1.
    """
    if most is not None and most < 1:
        raise ConfigError(
            "finalists.max_retrainings leaves no room for a finalist beside the random draws and the fresh runs; raise "
            f"it by {1 - most}, or lower finalists.random_draws"
        )
    arms = [finalist.arm for finalist in finalists]
    order = sorted(range(len(arms)), key=lambda i: (-score[i], arms[i].name))
    surrogates = [i for i in order if arms[i].role == "candidate"][:1]
    by_score = [i for i in order if arms[i].name not in (*COMPARISON_ARMS, *TWINS)][:size]
    twins = [i for i in order if arms[i].name in TWINS][:size]
    place = {arm.name: i for i, arm in enumerate(arms)}
    always = [place[name] for name in COMPARISON_ARMS if name in place]
    wanted = dict.fromkeys([*surrogates, *by_score, *twins, *always])
    chosen = set(list(wanted)[:most])
    return [i in chosen for i in range(len(arms))]


def _distinct(finalists: Sequence[Finalist]) -> list[Finalist]:
    seen: set[bytes] = set()
    kept = []
    for finalist in finalists:
        key = np.packbits(finalist.arm.membership).tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(finalist)
    return kept
