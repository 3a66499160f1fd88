"""The corpora that one cross-fit retrains, and those that it refits on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.names import RANDOM

if TYPE_CHECKING:
    from assets.data import StoredPool
    from assets.finalists import Arms
    from assets.retraining import Bench
    from grasp_pipeline.memberships import NamedMemberships
    from grasp_pipeline.proxy.runs import MeasuredRuns
    from grasp_pipeline.selection.candidates.candidate import Candidate
    from grasp_pipeline.selection.certification.cross_fit import Runs
    from grasp_pipeline.selection.certification.evidence import Evidence
    from grasp_pipeline.selection.target import Target


@dataclass
class Contestants:
    """The corpora of one cross-fit: what is retrained of them, and what was refitted on the way.

    losses: of every run so far. members: by arm, (n,); refitted ones join. refits: those, in the order made. retrained:
    models so far.
    """

    bench: Bench
    losses: MeasuredRuns
    arms: Arms
    target: Target
    kind: str
    members: NamedMemberships
    refits: list[Candidate] = field(default_factory=list)
    retrained: int = 0

    def measure(self, runs: Runs) -> Evidence:
        """Return the losses of runs; what was not measured before is retrained and kept."""
        from assets.retraining import evidence

        jobs = {
            name: [self.bench.job(self.members[arm], seed) for arm, seed in each]
            for name, each in runs.items()
        }
        every = [job for each in jobs.values() for job in each]
        self.retrained += self.losses.make(every, "retraining finalists", self.bench.step.say)
        return evidence(self.losses, self.bench.documents, jobs, self.target.shares())

    def refit(self, measured: Evidence) -> dict[str, int]:
        """Make the corpora of the refit, which take part from now on; returns the fold that each has seen."""
        made = refit_corpora(self.bench.step, self.bench.corpus, self.arms, measured, self.target, self.kind)
        self.refits += made.values()
        self.members.update((entry.name, entry.membership) for entry in made.values())
        return {entry.name: fold for fold, entry in made.items()}


def refit_corpora(
    step: Step, corpus: StoredPool, arms: Arms, measured: Evidence, target: Target, kind: str
) -> dict[int, Candidate]:
    """Return by fold the corpus of the on-policy refit (see `selection.refit`)."""
    from assets.finalists import load_selection_context, make_feasible_sets
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.selection.candidates.refit import refit_finalists

    draws = [row["arm"] for row in arms.frame.iter_rows(named=True) if row["role"] == RANDOM]
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    budget = Budget.of(protocol).resolve(corpus.total, corpus.documents)
    feasible_sets = make_feasible_sets(corpus, budget, arms.constraints, arms.settings.trust_share)
    return refit_finalists(
        load_selection_context(step, corpus, kind, target, feasible_sets),
        arms.refit_specs(),
        arms.memberships(arm for arm in measured.losses if arm != RANDOM),
        map(arms.membership, draws),
        measured,
        target.name,
        arms.settings.optimiser_gap,
        arms.settings.max_passes,
        step.say,
    )
