"""The coverage of certificates: the whole contest again and again, with other documents, seeds and draws each time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.laboratory.downstream.case import Case
from grasp_pipeline.laboratory.downstream.ground import split_documents
from grasp_pipeline.laboratory.downstream.shipping import evidence, shortlisted, target_loss
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.certificate import RANDOM, Evidence
from grasp_pipeline.selection.contest import (
    DRAW_SEED,
    FRESH_SEED,
    PICK_SEED,
    Field,
    Runs,
    hold_contest,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Repeat:
    """One contest and its truth.

    Attributes:
        case: name. arm: what ships. retrains: runs that the contest used.
        improvement, lower: of the certificate against random, nats per token.
        truth: improvement of the shipped arm over random on the sealed documents, by runs that the contest did not see.
    """

    case: str
    arm: str
    retrains: int
    improvement: float
    lower: float
    truth: float

    @property
    def covered(self) -> bool:
        """Whether the bound holds."""
        return self.lower <= self.truth


def repeat_contest(
    case: Case, number: int, size: int, draws: int, calibration: int, tokens: int, group: str | None = None
) -> Repeat:
    """Hold one contest on a case's measured runs.

    Every repeat draws which documents are for calibration and their folds, which seed picks and which certifies, and
    which random draws take part; the truth is taken from all other documents, seeds and draws.

    Args:
        case: the case, with at least 3 runs of every finalist.
        number: of the repeat; it names the draws.
        size: of the shortlist.
        draws: random draws in the contest.
        calibration: calibration documents per task.
        tokens: training tokens of a run.
        group: finalists that enter; all by default.
    """
    name = ("downstream coverage", case.name, number)
    codes = np.unique(case.document_task, return_inverse=True)[1].ravel()
    fold = split_documents(codes, calibration, *name)
    sealed = fold < 0
    order = generator(*name, "seeds").permutation(case.losses.shape[1])
    pool = np.concatenate([case.draws[:, 0], case.fresh_draws])
    drawn = generator(*name, "draws").permutation(len(pool))
    entered = shortlisted(case, size, group)
    run_of = {PICK_SEED: order[0], FRESH_SEED: order[1]}
    made: set[tuple[str, int]] = set()

    def measure(runs: Runs) -> Evidence:
        made.update(run for each in runs.values() for run in each)
        losses = {
            arm: case.losses[case.arms.index(arm)][[run_of[seed] for _, seed in each]]
            for arm, each in runs.items()
            if arm != RANDOM
        }
        losses[RANDOM] = pool[[drawn[seed - DRAW_SEED] for _, seed in runs[RANDOM]]]
        return evidence(case, losses, fold)

    names = [case.arms[i] for i in entered]
    simple = [case.arms[i] for i in entered if case.roles[i] in ("simple", "full")]
    field = Field(names, names, simple, [f"{RANDOM}-{number}" for number in range(draws)])
    contest = hold_contest(field, measure, case.target, [case.target], tokens)
    found = dict(contest.certificates)[RANDOM]
    ship = case.losses[case.arms.index(found.arm)][order[2:]]
    truth = target_loss(case, pool[drawn[draws:]], sealed).mean() - target_loss(case, ship, sealed).mean()
    return Repeat(case.name, found.arm, len(made), found.improvement, found.lower_bound, float(truth))
