"""The contest of the finalists: retrain, refit, pick on one fold, certify on the other; the same wherever it runs.

How a run is made (and kept) is the caller's: the contest says which runs it needs, and what follows from their losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grasp_pipeline.names import RANDOM
from grasp_pipeline.selection.candidates.families import COMPARED
from grasp_pipeline.selection.certification.certificate import (
    FRESH,
    Certificate,
    Picks,
    Run,
    certify,
    plan_picks,
)
from grasp_pipeline.selection.certification.evidence import Evidence

BEST_SIMPLE = "best simple arm"

PICKS = 2
"""Most corpora that are run afresh for a certificate: the pick of each fold."""

REFITS = 2
"""Corpora of the on-policy refit: one from the losses of each fold."""

PICK_SEED, FRESH_SEED, DRAW_SEED = 100, 101, 200
"""Training seeds of the runs that pick, of the first fresh run that certifies, and of the first random draw."""

Runs = Mapping[str, Sequence[Run]]
"""Arm -> its runs in order, each (arm retrained, training seed); `RANDOM` holds one run of every draw."""


@dataclass(frozen=True)
class Entrants:
    """Who takes part.

    Attributes:
        compared: arms that are retrained and certified against, random draws aside.
        pickable: those of them that may be published. simple: those of these that no optimiser made.
        draws: names of the random draws.
    """

    compared: Sequence[str]
    pickable: Sequence[str]
    simple: Sequence[str]
    draws: Sequence[str]


@dataclass(frozen=True)
class CrossFitResult:
    """The picks among the finalists, and (name of the baseline, certificate) of every comparison, target first."""

    picks: Picks
    certificates: tuple[tuple[str, Certificate], ...]


def cross_fit(
    entrants: Entrants,
    measure: Callable[[Runs], Evidence],
    target: str,
    tasks: Sequence[str],
    tokens: int,
    confidence: float = 0.95,
    refit: Callable[[Evidence], Mapping[str, int]] | None = None,
    fresh: int = FRESH,
) -> CrossFitResult:
    """Retrain the field, pick and certify.

    Args:
        field: who takes part.
        measure: returns the evidence of the runs asked for. It is called with one run of every arm, again where arms
            were refitted, and at last with the fresh runs of the picks besides.
        target: what the corpus is for: a task, the mean or the worst task.
        tasks: tasks that the pick is certified on, in this order.
        tokens: training tokens of a run.
        confidence: one-sided, of the bounds.
        refit: from the first evidence makes arms that `measure` knows from then on; returns the one fold whose losses
            each was built with.
        fresh: freshly seeded runs per pick, 2 or more.

    Raises:
        ConfigError: nothing is pickable, or there are fewer than two draws.
    """
    runs = {arm: [(arm, PICK_SEED)] for arm in entrants.compared}
    runs[RANDOM] = [(arm, DRAW_SEED + number) for number, arm in enumerate(entrants.draws)]
    evidence = measure(runs)
    fitted_on = {} if refit is None else refit(evidence)
    if fitted_on:
        runs |= {arm: [(arm, PICK_SEED)] for arm in fitted_on}
        evidence = measure(runs)
    picks = plan_picks(evidence, [*entrants.pickable, *fitted_on], target, fresh, fitted_on)
    for arm, number in picks.missing:
        runs[arm].append((arm, FRESH_SEED + number - 1))
    return certify_entrants(entrants, measure(runs), picks, tasks, tokens, confidence)


def certify_entrants(
    entrants: Entrants,
    evidence: Evidence,
    picks: Picks,
    tasks: Sequence[str],
    tokens: int,
    confidence: float = 0.95,
) -> CrossFitResult:
    """Certify picks against random, the best simple arm and every comparison arm, on some tasks."""
    against: list[tuple[str | Picks, str, str]] = [(RANDOM, RANDOM, RANDOM)]
    if entrants.simple:
        best = plan_picks(evidence, entrants.simple, picks.target, fresh=0)
        said = f"the {BEST_SIMPLE} ({' or '.join(dict.fromkeys(best.by_fold))})"
        against.append((best, BEST_SIMPLE, said))
    against += [(arm, arm, arm) for arm in COMPARED if arm in entrants.compared and arm not in picks.by_fold]
    certificates = tuple(
        (name, certify(evidence, picks, baseline, tokens, task, RANDOM, confidence, said))
        for task in tasks
        for baseline, name, said in against
    )
    return CrossFitResult(picks, certificates)
