"""A prepared pool and a target. Every finalist is retrained and measured, whatever the judge thought of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.downstream.candidates import LAMBDA, further_candidates
from benchmarks.downstream.prepared_pool import PreparedPool
from benchmarks.downstream.settings import GroundSettings, PoolSettings
from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.errors import InputError
from grasp_pipeline.evaluation.archive import damaged, load_archive, save_archive
from grasp_pipeline.names import ArmRole
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.proxy.retrain import Job
from grasp_pipeline.proxy.runs import MeasuredRuns, job_of
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.families.random import Random
from grasp_pipeline.selection.candidates.family import TWICE
from grasp_pipeline.selection.candidates.finalists import build_finalists, shortlist
from grasp_pipeline.selection.certification.cross_fit import DRAW_SEED, PICK_SEED
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets

SEALED_SEED = 300
"""First training seed of the runs that the truth is taken from."""

PRODUCT, FURTHER = "product", "further"

WITH_CONDITIONAL = "judge with conditional"


@dataclass(frozen=True)
class TargetStudy:
    """Everything measured for one target on one prepared pool.

    Attributes:
        name: CORPUS/SEED/TARGET; target: the task or the mean.
        arms, roles, groups: c names, roles and `PRODUCT` or `FURTHER`, of all finalists.
        membership: (c, n).
        scores: name -> (c,) evidence before any retraining: judge, conditional, own.
        losses: (c, 1 + S, D) mean loss per document, nats per token; runs: of `PICK_SEED` and of the S sealed seeds.
        draws: (R, 1 + S, D) of the contest's random draws: of the draw's own seed, and of the sealed seeds.
        fresh_draws: (R', D) of further random draws, one run each.
        multiples: multiple of the tokens -> (R'', S', D) of random.
        fold, document_tokens, document_task: (D,) as in `PreparedPool`.
    """

    name: str
    target: str
    arms: tuple[str, ...]
    roles: tuple[ArmRole, ...]
    groups: tuple[str, ...]
    membership: Bools
    scores: dict[str, Floats]
    losses: Floats
    draws: Floats
    fresh_draws: Floats
    multiples: dict[int, Floats]
    fold: NDArray[np.int64]
    document_tokens: Floats
    document_task: NDArray[np.str_]

    @property
    def optimised(self) -> Bools:
        """(c,) arms that follow a score: not the full corpus and not random ones."""
        return ranked(self.arms)

    def save(self, path: Path) -> None:
        """Write to one .npz file, atomically."""
        words = {
            "name": self.name,
            "target": self.target,
            "arms": self.arms,
            "roles": self.roles,
            "groups": self.groups,
            "scores": list(self.scores),
            "multiples": list(self.multiples),
            "document_task": self.document_task.tolist(),
        }
        arrays = {
            "membership": self.membership,
            "scores": np.stack(list(self.scores.values())),
            "losses": self.losses.astype(np.float32),
            "draws": self.draws.astype(np.float32),
            "fresh_draws": self.fresh_draws.astype(np.float32),
            "fold": self.fold,
            "document_tokens": self.document_tokens,
        }
        arrays |= {f"multiple {k}": values.astype(np.float32) for k, values in self.multiples.items()}
        save_archive(path, words, arrays)

    @classmethod
    def load(cls, path: Path) -> TargetStudy:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read.
        """
        words, arrays = load_archive(path, "case")
        try:
            multiples = {int(k): arrays.pop(f"multiple {k}").astype(np.float64) for k in words["multiples"]}
            scores = dict(zip(words["scores"], arrays.pop("scores"), strict=True))
            wide = {name: arrays.pop(name).astype(np.float64) for name in ("losses", "draws", "fresh_draws")}
            return cls(
                name=words["name"],
                target=words["target"],
                arms=tuple(words["arms"]),
                roles=tuple(words["roles"]),
                groups=tuple(words["groups"]),
                scores=scores,
                multiples=multiples,
                document_task=np.asarray(words["document_task"], dtype=np.str_),
                **wide,
                **arrays,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, "case", error) from error


def ranked(arms: Sequence[str]) -> Bools:
    """Return (c,) which arms follow a score; the judge standardises over these."""
    return np.array(
        [arm not in ("full", "random-deduplicated", f"random-deduplicated{TWICE}") for arm in arms]
    )


@dataclass(frozen=True)
class Plan:
    """A study before its retrainings: the finalists, their groups, and the evidence before any retraining.

    context: what the finalists were built from.
    """

    target: str
    context: SelectionContext
    finalists: list[Candidate]
    groups: list[str]
    scores: dict[str, Floats]

    @property
    def membership(self) -> Bools:
        """(c, n)."""
        return np.stack([finalist.membership for finalist in self.finalists])


def plan_study(prepared: PreparedPool, target: str, settings: PoolSettings, size: GroundSettings) -> Plan:
    """Build the finalists of a target and judge them; where the size has a shortlist, the others are left out."""
    context = prepared.context(target)
    selected = Configuration("selected", "output", settings.rho, settings.lam, "mean")
    product = build_finalists(context, selected, settings.gap, settings.max_passes)
    seen = {np.packbits(finalist.membership).tobytes() for finalist in product}
    further: list[Candidate] = []
    for finalist in further_candidates(context, settings.gap, settings.max_passes) if size.extended else []:
        key = np.packbits(finalist.membership).tobytes()
        if key not in seen:
            seen.add(key)
            further.append(finalist)
    finalists = [*product, *further]
    groups = [PRODUCT] * len(product) + [FURTHER] * len(further)
    scores = evidence_of(prepared, context, finalists)
    if size.shortlist:
        kept = np.flatnonzero(shortlist(finalists, scores["judge"], size.shortlist))
        finalists, groups = [finalists[i] for i in kept], [groups[i] for i in kept]
        scores = {name: values[kept] for name, values in scores.items()}
    return Plan(target, context, finalists, groups, scores)


def evidence_of(
    prepared: PreparedPool, context: SelectionContext, finalists: Sequence[Candidate]
) -> dict[str, Floats]:
    """Return name -> (c,): the judge, with and without conditional losses, those, and the surrogate at the queries."""
    judged = prepared.judge(context, finalists)
    membership = np.stack([finalist.membership for finalist in finalists])
    means = subset_means(context.blocks, context.n_tokens, membership)
    own = predict_from_means(means, context.target.weights @ context.targets, None, LAMBDA)[:, 0]
    assert judged.conditional is not None, "given above"
    return {
        "judge": judged.likelihood,
        WITH_CONDITIONAL: judged.score,
        "own": own,
        "conditional": judged.conditional,
    }


def random_members(prepared: PreparedPool, size: GroundSettings) -> tuple[list[Bools], list[Bools]]:
    """Return the memberships of the contest's random draws, and of those that the truth is taken from."""
    feasible = FeasibleSets.of(prepared.corpus, prepared.budget).feasible_set()
    every = [Random().draw(feasible, draw).membership for draw in range(size.random_draws + size.fresh_draws)]
    return every[: size.random_draws], every[size.random_draws :]


def wanted_runs(prepared: PreparedPool, plans: Sequence[Plan], size: GroundSettings) -> list[Job]:
    """Return the runs that the studies of a pool need, multiples of the tokens aside."""
    draws, fresh = random_members(prepared, size)
    sealed = [SEALED_SEED + s for s in range(size.sealed_seeds)]
    runs = [(row, seed) for seed in (PICK_SEED, *sealed) for plan in plans for row in plan.membership]
    runs += [(row, DRAW_SEED + number) for number, row in enumerate(draws)]
    runs += [(row, seed) for seed in sealed for row in draws]
    runs += [(row, DRAW_SEED + len(draws) + number) for number, row in enumerate(fresh)]
    return [job_of(prepared.corpus, row, seed) for row, seed in runs]


def multiple_members(prepared: PreparedPool, multiple: int, draws: int) -> list[Bools]:
    """Return random draws of `multiple` budgets, or of the whole pool where it has no more."""
    tokens = prepared.corpus.n_tokens
    feasible = FeasibleSets.plain(tokens, min(multiple * prepared.budget, int(tokens.sum()))).feasible_set()
    return [Random().draw(feasible, draw, seed=multiple).membership for draw in range(draws)]


MULTIPLE_DRAWS, MULTIPLE_SEEDS = 2, 2


def multiple_runs(prepared: PreparedPool, multiple: int) -> list[Job]:
    """Return the runs of random at a multiple of the tokens."""
    return [
        job_of(prepared.corpus, row, SEALED_SEED + s)
        for row in multiple_members(prepared, multiple, MULTIPLE_DRAWS)
        for s in range(MULTIPLE_SEEDS)
    ]


def finish_study(
    prepared: PreparedPool,
    name: str,
    plan: Plan,
    size: GroundSettings,
    runs: MeasuredRuns,
    longer: dict[int, MeasuredRuns],
) -> TargetStudy:
    """Gather the losses of a study whose runs were made."""
    sealed = [SEALED_SEED + s for s in range(size.sealed_seeds)]
    draws, fresh = random_members(prepared, size)
    membership = plan.membership

    def of(row: Bools, *seeds: int) -> Floats:
        return np.stack([runs.values[job_of(prepared.corpus, row, seed).run] for seed in seeds])

    losses = [of(row, PICK_SEED, *sealed) for row in membership]
    drawn = [of(row, DRAW_SEED + number, *sealed) for number, row in enumerate(draws)]
    further = [of(row, DRAW_SEED + len(draws) + number)[0] for number, row in enumerate(fresh)]
    multiples = {
        multiple: np.stack([book.values[job.run] for job in multiple_runs(prepared, multiple)]).reshape(
            MULTIPLE_DRAWS, MULTIPLE_SEEDS, -1
        )
        for multiple, book in longer.items()
    }
    return TargetStudy(
        name,
        plan.target,
        tuple(finalist.name for finalist in plan.finalists),
        tuple(finalist.role for finalist in plan.finalists),
        tuple(plan.groups),
        membership,
        plan.scores,
        np.array(losses),
        np.array(drawn),
        np.array(further),
        multiples,
        prepared.fold,
        prepared.document_tokens,
        prepared.document_task,
    )


def make_runs(
    prepared: PreparedPool,
    plans: Sequence[Plan],
    size: GroundSettings,
    runs: MeasuredRuns,
    name: str,
    listener: Listener = silent,
) -> None:
    """State the cost and retrain what is missing for all studies of a pool."""
    jobs = wanted_runs(prepared, plans, size)
    todo = len(runs.missing(jobs))
    listener(
        f"{name}: {sum(len(plan.finalists) for plan in plans)} finalists for {len(plans)} targets; {todo} retrainings "
        f"ahead of {runs.trainer.recipe.tokens:,} tokens each, {len(runs.values)} made before"
    )
    runs.make(jobs, name, listener)


def study_names(study: TargetStudy, group: str | None = None) -> list[int]:
    """Return the indices of a study's finalists: of one group, or all.

    Raises:
        InputError: there are none.
    """
    found = [i for i, each in enumerate(study.groups) if group in (None, each)]
    if not found:
        raise InputError(f"case {study.name} has no finalists of group {group!r}; run it again")
    return found
