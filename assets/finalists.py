"""Candidate corpora between the tables and the core: what they are built from, their rows, and their memberships."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.data import (
    load_losses,
    load_sketches,
    load_task_vectors,
    pack_membership,
    per_chunk,
)
from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.config import ConstraintsConfig
from grasp_pipeline.errors import StoreError
from grasp_pipeline.memberships import NamedMemberships
from grasp_pipeline.names import RANDOM, Split, SubsetSplit
from resources.notes import FinalistsNote

if TYPE_CHECKING:
    import polars as pl

    from assets.data import StoredPool
    from assets.step import Step
    from grasp_pipeline.proxy.training import Recipe
    from grasp_pipeline.selection.candidates.candidate import Candidate, CandidateSpec
    from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
    from grasp_pipeline.selection.candidates.learned import Learned
    from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
    from grasp_pipeline.selection.explanation.residual_filter import FeatureView
    from grasp_pipeline.selection.target import Target


def task_names(step: Step) -> list[str]:
    """Return the tasks' names, sorted; every task has query chunks."""
    queries = step.read(tables.TASKS, {"split": "query"})
    return queries.select("task").unique().collect()["task"].sort().to_list()


def load_target(step: Step, protocol: dict[str, Any]) -> Target:
    """Return what a row of `candidates` selects for."""
    import json

    from grasp_pipeline.selection.target import Target

    return Target.of(protocol["target"], task_names(step), json.loads(protocol["task_weights"]))


def make_feasible_sets(
    corpus: StoredPool, budget: int, constraints: ConstraintsConfig, trust_share: float
) -> FeasibleSets:
    """Return what an arm of the corpus may hold.

    Raises:
        ConfigError: a constraint names what is not in the corpus, or the constraints cannot be met together.
    """
    from grasp_pipeline.selection.constraints.build import build_constraints
    from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
    from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets

    @cache
    def listed(ids: tuple[str, ...]) -> tuple[NDArray[np.bool_], set[str]]:
        return corpus.listed(ids)

    def constrain(
        tokens: NDArray[np.integer[Any]], allowed: NDArray[np.bool_], keep: NDArray[np.bool_] | None
    ) -> ConstraintSet:
        return build_constraints(
            constraints,
            budget,
            tokens,
            listed=listed,
            documents=corpus.document,
            sources=corpus.source,
            source_names=corpus.sources,
            clusters=corpus.cluster,
            positions=corpus.position,
            allowed=allowed,
            keep=keep,
        )

    return FeasibleSets.of(corpus, budget, constrain if constraints.asked() else None, trust_share)


def load_recipe(step: Step) -> Recipe:
    """Pin and load the recipe of a retraining."""
    import json

    from grasp_pipeline.proxy.training import Recipe

    row = step.read(tables.PROXY_CHECKPOINTS).filter(role="initial").collect().row(0, named=True)
    return Recipe(**json.loads(row["recipe"]))


def load_conditional(
    step: Step, corpus: StoredPool, split: Split, before: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Pin and load by how much fine-tuning on a split's texts lowers each chunk's loss, nats per token: (n,).

    None where conditional losses were not asked for.

    before: (n,) loss at the reference, from `load_losses`.

    Raises:
        StoreError: a chunk is not in the table.
    """
    read = step.pin(tables.CONDITIONAL_LOSSES)
    if step.tables.count(tables.CONDITIONAL_LOSSES, read.version) == 0:
        return None
    found, have = per_chunk(step, corpus, read, split)
    if not have.all():
        raise StoreError(
            f"{int((~have).sum())} chunks have no conditional loss; materialize conditional_losses"
        )
    return before - found


def load_texts(step: Step, split: Split, tasks: Sequence[str]) -> list[TokenLists]:
    """Pin and load the chunks of a split of `tasks`, of each of some tasks."""
    frame = step.read(tables.TASKS, {"split": split}).collect().sort("task", "chunk_id")
    return [TokenLists.of_column(frame.filter(task=task)["input_ids"]) for task in tasks]


def load_selection_context(
    step: Step,
    corpus: StoredPool,
    kind: str,
    target: Target,
    feasible_sets: FeasibleSets,
    training_tokens: int = 0,
    learned: Learned | None = None,
) -> SelectionContext:
    """Pin and load what the arms are built from.

    training_tokens: of their retraining, 0 for the recipe's; learned: from `assets.learned`.
    """
    from grasp_pipeline.selection.candidates.context import SelectionContext

    losses = load_losses(step, corpus, kind)
    return SelectionContext.of(
        corpus,
        feasible_sets,
        target,
        load_sketches(step, corpus, kind),
        target.rows(*load_task_vectors(step, kind, "query")),
        load_texts(step, "query", target.tasks),
        losses,
        load_conditional(step, corpus, "query", losses),
        training_tokens or load_recipe(step).tokens,
        learned,
    )


def task_directions(
    step: Step, selection: SelectionContext, linear: LinearScore, making: FeatureView, kind: str
) -> tuple[list[str], NDArray[np.float64]]:
    """Return the tasks' names and M r_t of each as a column (d, T), in the features of a linear score."""
    from grasp_pipeline.attribution.metric import apply_metric

    names, vectors = load_task_vectors(step, kind, "query")
    tasks = list(selection.target.tasks)
    queries = load_texts(step, "query", tasks)
    means = [making.mean(vectors[names.index(task)], pool) for task, pool in zip(tasks, queries, strict=True)]
    return tasks, apply_metric(selection.metric(linear.rho), np.stack(means)).T


def finalist_frames(
    corpus: StoredPool,
    entries: Sequence[Candidate],
    scores: Sequence[float | None],
    listed: Sequence[bool],
    constraints: ConstraintsConfig,
    split: SubsetSplit,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows of `finalists` and, with their memberships, of `subsets`; equal memberships are one subset."""
    import polars as pl

    asked = constraints.model_dump_json()
    rows, subsets = [], {}
    for entry, score, on in zip(entries, scores, listed, strict=True):
        linear = entry.linear
        subset_id = corpus.subset_id(entry.membership)
        rows.append(
            {
                "arm": entry.name,
                "family": entry.family,
                "subset_id": subset_id,
                "role": entry.role,
                "features": linear.features if linear else None,
                "rho": linear.rho if linear else entry.smoothing,
                "lam": linear.lam if linear else None,
                "ngram_weight": linear.ngram_weight if linear else None,
                "direction": linear.target.astype("<f8").tobytes()
                if linear and linear.target is not None
                else None,
                "near_duplicates": entry.dedup,
                "repeats": entry.repeats,
                "constraints": asked,
                # The full corpus meets no constraint beside the budget, nor the budget.
                "pickable": entry.role != RANDOM and (entry.role != "full" or not constraints.asked()),
                "judge_score": score,
                "shortlisted": on,
                "surrogate_value": entry.surrogate_value,
                "relative_gap": entry.relative_gap,
                "passes": entry.passes,
                "n_chunks": entry.n_chunks,
                "n_tokens": entry.n_tokens,
                "description": entry.description,
            }
        )
        subsets[subset_id] = {
            "subset_id": subset_id,
            "split": split,
            "stratum": entry.family,
            "n_chunks": entry.n_chunks,
            "n_tokens": entry.n_tokens,
            "seed": 0,
            "pool_version": corpus.version,
            "membership": pack_membership(entry.membership),
        }
    return (
        pl.DataFrame(rows, schema=tables.FINALISTS.schema),
        pl.DataFrame(list(subsets.values()), schema=tables.SUBSETS.schema),
    )


@dataclass(frozen=True)
class Arms:
    """The finalists with their memberships.

    frame: rows of `tables.FINALISTS`; settings: what the finalists asset was asked for. Memberships stay packed.
    """

    frame: pl.DataFrame
    settings: FinalistsNote
    _memberships: NamedMemberships

    def row(self, arm: str) -> dict[str, Any]:
        """Return one arm's row."""
        return next(row for row in self.frame.iter_rows(named=True) if row["arm"] == arm)

    def linear(self, arm: str) -> LinearScore | None:
        """Return what a linear arm ranks by; None for the others."""
        from grasp_pipeline.selection.candidates.context import LinearScore

        row = self.row(arm)
        if row["features"] is None:
            return None
        direction = None if row["direction"] is None else np.frombuffer(row["direction"], "<f8")
        return LinearScore(row["features"], row["rho"], row["lam"], row["ngram_weight"], direction)

    def refit_specs(self) -> dict[str, CandidateSpec]:
        """Return the specs of the arms that an on-policy refit may start from."""
        from grasp_pipeline.selection.candidates.refit import spec_of

        rows = ((row, self.linear(row["arm"])) for row in self.frame.iter_rows(named=True))
        specs = (spec_of(row["arm"], linear, row["near_duplicates"], row["repeats"]) for row, linear in rows)
        return {spec.name: spec for spec in specs if spec}

    def memberships(self, arms: Iterable[str]) -> NamedMemberships:
        """Return the memberships of some arms, packed."""
        found = NamedMemberships(self._memberships.n)
        for arm in arms:
            found[arm] = self.membership(arm)
        return found

    def subset_id(self, arm: str) -> str:
        """Return the arm's subset id."""
        return self.row(arm)["subset_id"]

    def membership(self, arm: str) -> NDArray[np.bool_]:
        """Return the arm's membership (n,)."""
        return self._memberships[self.subset_id(arm)]

    @property
    def constraints(self) -> ConstraintsConfig:
        """What every arm but `full` meets."""
        return ConstraintsConfig.model_validate_json(self.frame["constraints"][0])

    def nearest_linear(self, kept: NDArray[np.bool_], n_tokens: NDArray[np.int64]) -> str:
        """Return the arm that ranks by one direction and keeps most of the same tokens as a corpus (n,).

        Refitted ones, which nobody judged, are left out: their direction is no longer that of the tasks.
        """
        from grasp_pipeline.selection.explanation.residual_filter import kept_agreement

        linear = [
            row["arm"]
            for row in self.frame.iter_rows(named=True)
            if row["features"] and row["judge_score"] is not None
        ]
        return max(linear, key=lambda arm: kept_agreement(self.membership(arm), kept, n_tokens))


def load_finalists(step: Step, corpus: StoredPool, refitted: bool = True) -> Arms:
    """Pin and load the finalists and their subsets; refitted: with those that `certificates` added."""
    import polars as pl

    frames, subsets = [step.read(tables.FINALISTS).collect()], []
    splits = ["finalist"]
    if refitted:
        frames.append(step.read(tables.REFITTED_FINALISTS).collect())
        splits += ["refit"] if frames[-1].height else []
    for split in splits:
        subsets.append(step.read(tables.SUBSETS, {"split": split}).collect())
    commit = step.tables.latest(tables.FINALISTS)
    assert commit is not None, "read above"
    every = pl.concat(subsets)
    if every["pool_version"].unique().to_list() != [corpus.version]:
        raise StoreError("the finalists belong to another version of the corpus; materialize finalists again")
    memberships = NamedMemberships(corpus.n, dict(every.select("subset_id", "membership").iter_rows()))
    return Arms(pl.concat(frames), FinalistsNote.of(commit), memberships)
