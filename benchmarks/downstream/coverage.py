"""The coverage of certificates: the whole contest again and again, with other documents, seeds and draws each time.

The contest is the product's: the shortlist, the on-policy refit, fresh runs of the picks. A refit is another corpus in
every contest, so its runs cannot be made ahead: contests say which they lack (`Waiting`), and all are made together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.downstream.prepared_pool import PreparedPool, split_documents
from benchmarks.downstream.settings import DownstreamSettings, GroundSettings
from benchmarks.downstream.shipping import evidence, shortlisted, target_loss
from benchmarks.downstream.target_study import SEALED_SEED, Plan, TargetStudy, random_members
from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.evaluation.archive import damaged, load_archive, save_archive
from grasp_pipeline.names import RANDOM
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.proxy.retrain import Job
from grasp_pipeline.proxy.runs import MeasuredRuns, job_of
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.refit import refit_finalists, spec_of
from grasp_pipeline.selection.certification.certificate import FRESH
from grasp_pipeline.selection.certification.cross_fit import (
    DRAW_SEED,
    FRESH_SEED,
    PICK_SEED,
    Entrants,
    Runs,
    cross_fit,
)
from grasp_pipeline.selection.certification.evidence import Evidence


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


Refit = Callable[[Evidence, Sequence[int]], Mapping[int, Candidate]]
"""(evidence of one run each, places of the random draws that take part) -> fold -> refitted corpus."""

FurtherRuns = Callable[[Bools, Sequence[int]], Floats]
"""(membership (n,), places of runs among a finalist's) -> (runs, D) losses of a corpus that is no finalist."""


class Waiting(Exception):
    """A contest lacks runs."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(f"{len(jobs)} runs are still to be made")
        self.jobs = jobs


def repeat_contest(
    study: TargetStudy,
    number: int,
    size: int,
    draws: int,
    calibration: int,
    tokens: int,
    group: str | None = None,
    refit: Refit | None = None,
    further: FurtherRuns | None = None,
) -> Repeat:
    """Hold one contest on a study's measured runs.

    Every repeat draws which documents are for calibration and their folds, which seeds pick and which certify, and
    which random draws take part; the truth is taken from all other documents, seeds and draws.

    Args:
        study: the study, with at least 2 + `FRESH` runs of every finalist.
        number: of the repeat; it names the draws.
        size: of the shortlist.
        draws: random draws in the contest.
        calibration: calibration documents per task.
        tokens: training tokens of a run.
        group: finalists that enter; all by default.
        refit: makes corpora from the first evidence; None for a contest without. further: their runs.

    Raises:
        Waiting: `further` lacks runs.
    """
    name = ("downstream coverage", study.name, number)
    codes = np.unique(study.document_task, return_inverse=True)[1].ravel()
    fold = split_documents(codes, calibration, *name)
    sealed = fold < 0
    order = generator(*name, "seeds").permutation(study.losses.shape[1])
    pool = np.concatenate([study.draws[:, 0], study.fresh_draws])
    drawn = generator(*name, "draws").permutation(len(pool))
    entered = shortlisted(study, size, group)
    run_of = {PICK_SEED: order[0]} | {FRESH_SEED + k: order[1 + k] for k in range(FRESH)}
    contest = _Contest(study, fold, run_of, pool[drawn], drawn[:draws].tolist(), refit, further)
    names = [study.arms[i] for i in entered]
    simple = [study.arms[i] for i in entered if study.roles[i] in ("simple", "full")]
    entrants = Entrants(names, names, simple, [f"{RANDOM}-{number}" for number in range(draws)])
    result = cross_fit(entrants, contest.measure, study.target, [study.target], tokens, refit=contest.refit)
    found = dict(result.certificates)[RANDOM]
    ship = contest.losses(found.arm, order[1 + FRESH :].tolist())
    truth = target_loss(study, pool[drawn[draws:]], sealed).mean() - target_loss(study, ship, sealed).mean()
    return Repeat(
        study.name, found.arm, len(contest.made), found.improvement, found.lower_bound, float(truth)
    )


@dataclass
class _Contest:
    """What one contest asks for, answered from a study's measured runs.

    fold: (D,). run_of: training seed -> place among a finalist's runs. pool: losses of the random draws in the order
    drawn; places: of those that take part. make, further: as `repeat_contest` has them. made: runs asked for so far.
    refitted: memberships (n,) of what was refitted on the way.
    """

    study: TargetStudy
    fold: NDArray[np.int64]
    run_of: Mapping[int, int]
    pool: Floats
    places: Sequence[int]
    make: Refit | None
    further: FurtherRuns | None
    made: set[tuple[str, int]] = field(default_factory=set)
    refitted: dict[str, Bools] = field(default_factory=dict)

    def losses(self, arm: str, runs: Sequence[int]) -> Floats:
        """Return the losses (runs, D) of an arm."""
        if arm not in self.refitted:
            return self.study.losses[self.study.arms.index(arm)][list(runs)]
        assert self.further is not None, "asked for with refit"
        return self.further(self.refitted[arm], runs)

    def measure(self, runs: Runs) -> Evidence:
        """Return the evidence of runs."""
        self.made.update(run for each in runs.values() for run in each)
        losses = {
            arm: self.losses(arm, [self.run_of[seed] for _, seed in each])
            for arm, each in runs.items()
            if arm != RANDOM
        }
        losses[RANDOM] = self.pool[[seed - DRAW_SEED for _, seed in runs[RANDOM]]]
        return evidence(self.study, losses, self.fold)

    def refit(self, measured: Evidence) -> dict[str, int]:
        """Make the refitted corpora, which take part from now on; returns the fold that each has seen."""
        found = {} if self.make is None else self.make(measured, self.places)
        self.refitted.update((entry.name, entry.membership) for entry in found.values())
        return {entry.name: fold for fold, entry in found.items()}


class Refitting:
    """The product's refit in the contests of one study, and the runs of what it makes.

    Args:
        prepared, plan, runs: of the study.
        settings: of the benchmark; size: of the pool.
    """

    def __init__(
        self,
        prepared: PreparedPool,
        plan: Plan,
        runs: MeasuredRuns,
        settings: DownstreamSettings,
        size: GroundSettings,
    ) -> None:
        self._given, self._runs, self._settings = plan.context, runs, settings
        self._pool = prepared.corpus
        made = (spec_of(each.name, each.linear, each.dedup, each.repeats) for each in plan.finalists)
        self._specs = {found.name: found for found in made if found}
        self._members = {each.name: each.membership for each in plan.finalists}
        draws, fresh = random_members(prepared, size)
        self._draws = [*draws, *fresh]
        self._seeds = [PICK_SEED, *(SEALED_SEED + s for s in range(size.sealed_seeds))]
        self._target = plan.target
        self._made: dict[int, dict[int, Candidate]] = {}

    def of(self, number: int) -> Refit:
        """Return the refit of one contest, which is made once however often the contest is tried."""

        def corpora(measured: Evidence, drawn: Sequence[int]) -> dict[int, Candidate]:
            if number not in self._made:
                self._made[number] = refit_finalists(
                    self._given,
                    self._specs,
                    self._members,
                    [self._draws[k] for k in drawn],
                    measured,
                    self._target,
                    self._settings.gap,
                    self._settings.max_passes,
                )
            return self._made[number]

        return corpora

    def losses(self, membership: Bools, runs: Sequence[int]) -> Floats:
        """Return the losses (runs, D) of a refitted corpus.

        Raises:
            Waiting: some were not made yet.
        """
        jobs = [job_of(self._pool, membership, self._seeds[run]) for run in runs]
        if self._runs.missing(jobs):
            raise Waiting(jobs)
        return np.stack([self._runs.values[job.run] for job in jobs])


def hold_repeats(
    prepared: PreparedPool,
    plans: Sequence[Plan],
    studies: Sequence[TargetStudy],
    runs: MeasuredRuns,
    settings: DownstreamSettings,
    size: GroundSettings,
    group: str | None,
    listener: Listener = silent,
) -> list[list[Repeat]]:
    """Return the repeated contests of every study of a pool; their runs are made together, round by round."""
    tokens = settings.recipe(size).tokens
    refits = [Refitting(prepared, plan, runs, settings, size) for plan in plans]
    waiting = [
        (study, number) for study in range(len(studies)) for number in range(settings.coverage_repeats)
    ]
    found: dict[tuple[int, int], Repeat] = {}
    while waiting:
        lacked: list[Job] = []
        for study, number in waiting:
            try:
                found[study, number] = repeat_contest(
                    studies[study],
                    number,
                    size.shortlist or len(studies[study].arms),
                    size.random_draws,
                    size.calibration_documents,
                    tokens,
                    group,
                    refits[study].of(number),
                    refits[study].losses,
                )
            except Waiting as lacks:
                lacked += lacks.jobs
        waiting = [key for key in waiting if key not in found]
        runs.make(lacked, f"{prepared.corpus.name}: runs of refitted corpora", listener)
    return [
        [found[study, number] for number in range(settings.coverage_repeats)] for study in range(len(studies))
    ]


def save_repeats(path: Path, repeats: Sequence[Repeat]) -> None:
    """Write repeated contests to one .npz file, atomically."""
    save_archive(path, {"repeats": [asdict(repeat) for repeat in repeats]}, {})


def load_repeats(path: Path) -> list[Repeat]:
    """Read what `save_repeats` wrote.

    Raises:
        InputError: the file cannot be read.
    """
    words, _ = load_archive(path, "batch of contests")
    try:
        return [
            Repeat(**{field.name: row[field.name] for field in fields(Repeat)}) for row in words["repeats"]
        ]
    except (KeyError, TypeError) as error:
        raise damaged(path, "batch of contests", error) from error
