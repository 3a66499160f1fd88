"""The surrogate's maximisers: several lambda, n-grams beside gradients, and levers of near duplicates and repeats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.selection.candidates.candidate import Candidate, CandidateSpec, maximise, tokens_of
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
from grasp_pipeline.selection.candidates.family import DIRECTION, TWICE, Family, Search
from grasp_pipeline.selection.solver.max_min import maximise_worst

LAMBDAS = (0.4, 0.7, 1.0)

NGRAM_WEIGHTS = (0.5, 1.0, 2.0)
"""Weights of the n-grams' F beside the gradients', each in units of its mean squared token norm."""

_LEFT = {
    "none": "",
    "soft": ", at most ceil(sqrt(k)) of k near-duplicate documents",
    "hard": ", one document per near-duplicate cluster",
}


class Surrogate(Family):
    """Optimised corpora; each has a linear score of its own."""

    name = "surrogate"
    description = "Maximiser of the surrogate"
    role = "candidate"
    ranks_by = DIRECTION

    def candidate(self, context: SelectionContext, copies: int = 1) -> Candidate | None:
        """Return None: no maximiser comes before the others."""
        return None

    def further(self, context: SelectionContext, search: Search) -> Iterator[Candidate]:
        """Yield the maximisers."""
        for spec in specs(context, search.selected):
            yield optimised(context, spec, search.gap, search.max_passes)


def specs(context: SelectionContext, selected: Configuration) -> list[CandidateSpec]:
    """Return the optimised candidates to build."""
    both = LinearScore("gradient+ngrams", 0.0, 0.7)
    made = [CandidateSpec(f"surrogate-{lam:g}", LinearScore("gradient", 0.0, lam)) for lam in LAMBDAS]
    made += [CandidateSpec(f"surrogate-ngrams-{w:g}", replace(both, ngram_weight=w)) for w in NGRAM_WEIGHTS]
    if selected.form == "mean" and selected.lam > 0 and selected.rho > 0:
        linear = LinearScore("gradient", selected.rho, selected.lam)
        made.append(CandidateSpec("surrogate-selected", linear))
    for name, linear in (
        ("surrogate-0.7", LinearScore("gradient", 0.0, 0.7)),
        ("surrogate-ngrams-1", both),
    ):
        if context.feasible_sets.offers("soft"):
            made.append(CandidateSpec(f"{name}-softly-deduplicated", linear, "soft"))
        if context.feasible_sets.offers("hard"):
            made.append(CandidateSpec(f"{name}-deduplicated", linear, "hard"))
        if context.repeatable:
            made.append(CandidateSpec(f"{name}{TWICE}", linear, repeats=2))
    return made


def optimised(context: SelectionContext, spec: CandidateSpec, gap: float, max_passes: int) -> Candidate:
    """Build a candidate; for the target `worst` the one whose worst task gains most."""
    feasible = context.feasible_sets.feasible_set(spec.dedup, spec.repeats, trusted=True)
    linear, metric = spec.linear, context.metric(spec.linear.rho)
    blocks, targets = context.view(linear)
    options = {"metric": metric, "lam": linear.lam, "gap": gap, "max_passes": max_passes}
    text = _describe(spec)
    if not context.target.worst or linear.target is not None:
        found = maximise(blocks, feasible, context.direction(linear), **options)
    else:
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
        linear, text = replace(linear, target=direction), f"{text} The worst task counts."
    return Candidate(
        spec.name,
        Surrogate.name,
        Surrogate.role,
        found.membership,
        tokens_of(found.membership, feasible, spec.repeats),
        text,
        linear,
        spec.dedup,
        spec.repeats,
        found,
    )


def _describe(spec: CandidateSpec) -> str:
    linear = spec.linear
    metric = "M = I" if linear.rho == 0 else f"M damped by rho {linear.rho:g}"
    beside = ""
    if linear.features == "gradient+ngrams":
        beside = f", n-gram features of weight {linear.ngram_weight:g} beside the gradients"
    often = ", every chunk twice" if spec.repeats > 1 else ""
    return f"{Surrogate.description}, {metric}, lambda {linear.lam:g}{beside}{_LEFT[spec.dedup]}{often}."
