"""Does the order hold? The same finalists retrained on scale models of several sizes and at the whole budget.

    python -m benchmarks.downstream.ladder --config config/ladder.yaml

Every retraining makes the same passes over what it is given; a scale model is given a share of the clusters of near
duplicates, drawn anew with every training seed. What is picked on the smallest, as the demo picks, is compared with the
best finalist at the whole budget. Runs are kept below `$GRASP_STORE/laboratory/ladder`: a run that was stopped goes on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.downstream.settings import LadderSettings, load_ladder_settings
from benchmarks.fidelity import laboratory
from benchmarks.launch import parser_of, run_apart
from benchmarks.published import ROOT, Figure, results_folder, save
from grasp_pipeline.arrays import Floats
from grasp_pipeline.progress import Listener, duration, silent
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from benchmarks.downstream.prepared_pool import PreparedPool
    from benchmarks.downstream.target_study import Plan, TargetStudy

VERSION = "1"
"""Part of a finished case's file name; raised when what a case holds changes."""

WHOLE = 1.0
MARGIN = 0.01
"""Nats per token within which what is picked counts as the best."""

DSIR, NATS = "dsir", "nats per token"


@dataclass(frozen=True)
class Ladder:
    """One case: share of the clusters -> study of the same finalists; `WHOLE` is the whole budget."""

    rungs: Mapping[float, TargetStudy]

    @property
    def whole(self) -> TargetStudy:
        """The study at the whole budget."""
        return self.rungs[WHOLE]

    def calibration(self, share: float, runs: int = 1) -> Floats:
        """Return (c,) losses on the calibration documents by one run, as a certificate's pick sees them, or by more."""
        from benchmarks.downstream.shipping import target_loss

        study = self.rungs[share]
        return target_loss(study, study.losses[:, :runs].mean(axis=1), study.fold >= 0)

    def lost(self, share: float, runs: int = 1) -> float:
        """Return by how much the pick of a size is worse than the best finalist, sealed, at the whole budget.

        The best is the luckiest in part, so this is overstated.
        """
        truth = self.sealed().mean(axis=1)
        return float(truth[int(np.argmin(self.calibration(share, runs)))] - truth.min())

    def lost_cross_fitted(self, share: float, runs: int = 1) -> float:
        """Return the same without the luck of seeds: the best by the other seeds is valued by each; may be below 0."""
        each, pick = self.sealed(), int(np.argmin(self.calibration(share, runs)))
        found = []
        for seed in range(each.shape[1]):
            best = int(np.argmin(np.delete(each, seed, axis=1).mean(axis=1)))
            found.append(each[pick, seed] - each[best, seed])
        return float(np.mean(found))

    def agreement(self, share: float) -> float:
        """Return the rank correlation of a size's losses with those of the whole budget, both on sealed documents."""
        from grasp_pipeline.calibration.rank import spearman

        return float(spearman(self.sealed(share).mean(axis=1), self.sealed().mean(axis=1)))

    def sealed(self, share: float = WHOLE) -> Floats:
        """Return (c, S) losses on the sealed documents."""
        from benchmarks.downstream.shipping import sealed, target_loss

        study = self.rungs[share]
        return target_loss(study, study.losses[:, 1:], sealed(study))


def entered(plan: Plan, most: int) -> list[int]:
    """Return the places of the finalists that are retrained: DSIR once and twice, the best-judged others of other
    methods, a quarter of all, and the best-judged optimised ones.
    """
    from grasp_pipeline.selection.candidates.families import COMPARED
    from grasp_pipeline.selection.candidates.family import TWICE

    names = [finalist.name for finalist in plan.finalists]
    order = sorted(range(len(names)), key=lambda i: (-plan.scores["judge"][i], names[i]))
    always = [i for i in order if names[i] in (DSIR, f"{DSIR}{TWICE}")]
    theirs = [i for i in order if names[i] in COMPARED and i not in always and names[i] != "full"]
    ours = [i for i in order if names[i] not in COMPARED]
    chosen = [*always, *theirs[: max(1, most // 4)]]
    return sorted([*chosen, *ours[: max(1, most - len(chosen))]])


def climb(
    prepared: PreparedPool,
    plan: Plan,
    settings: LadderSettings,
    folder: Path,
    name: str,
    listener: Listener = silent,
) -> Ladder:
    """Retrain what is missing of a target's finalists, size by size; kept below a folder."""
    from benchmarks.downstream.target_study import SEALED_SEED, TargetStudy
    from grasp_pipeline.proxy.runs import job_of
    from grasp_pipeline.selection.certification.cross_fit import PICK_SEED

    seeds = [PICK_SEED, *(SEALED_SEED + s for s in range(settings.main.sealed_seeds))]
    rungs: dict[float, TargetStudy] = {}
    for share in (*sorted(settings.shares), WHOLE):
        recipe = settings.recipe(settings.main)
        trainer = replace(prepared.trainer, recipe=replace(recipe, steps=round(share * recipe.steps)))
        # The share decides what a run is trained on, as the recipe does.
        runs = prepared.runs(folder / f"share-{share:g}", trainer)
        jobs = [[job_of(prepared.corpus, row, seed, share) for seed in seeds] for row in plan.membership]
        runs.make([job for row in jobs for job in row], f"{name}: {share:g} of the clusters", listener)
        documents = len(prepared.document_tokens)
        seeds_losses = np.array([[runs.values[job.run] for job in row] for row in jobs])
        rungs[share] = TargetStudy(
            f"{name}/{plan.target}",
            plan.target,
            tuple(finalist.name for finalist in plan.finalists),
            tuple(finalist.role for finalist in plan.finalists),
            tuple(plan.groups),
            plan.membership,
            plan.scores,
            seeds_losses,
            np.empty((0, len(seeds), documents)),
            np.empty((0, documents)),
            {},
            prepared.fold,
            prepared.document_tokens,
            prepared.document_task,
        )
    return Ladder(rungs)


def run_ground(settings: LadderSettings, ground: str) -> None:
    """Run all targets of one corpus and seed in this process."""
    import polars as pl
    import torch

    from benchmarks.downstream.prepared_pool import prepare_pool
    from benchmarks.downstream.target_study import plan_study

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    corpus, seed = ground.split("/")

    def say(message: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)

    begun = time.monotonic()
    files = case_files(settings, ground)
    prepared = prepare_pool(
        corpus, pl.read_parquet(ROOT / settings.corpora[corpus]), settings, settings.main, int(seed)
    )
    for target in prepared.targets:
        if all(path.exists() for path in files[target].values()):
            continue
        plan = plan_study(prepared, target, settings, settings.main)
        kept = entered(plan, settings.arms)
        plan = replace(
            plan,
            finalists=[plan.finalists[i] for i in kept],
            groups=[plan.groups[i] for i in kept],
            scores={name: values[kept] for name, values in plan.scores.items()},
        )
        say(f"{ground}: {target}: {', '.join(finalist.name for finalist in plan.finalists)}")
        folder = laboratory() / "ladder" / ground
        ladder = climb(prepared, plan, settings, folder, f"ladder/{ground}", say)
        for share, study in ladder.rungs.items():
            study.save(files[target][share])
        say(f"{ground}: {target} finished after {duration(time.monotonic() - begun)}")


def case_files(settings: LadderSettings, ground: str) -> dict[str, dict[float, Path]]:
    """Return target -> share -> where the finished study lies."""
    from grasp_pipeline.names import MEAN

    corpus = ground.partition("/")[0]
    shared = settings.model_dump(exclude={"corpora", "targets", "shares", "main"})
    size = settings.main.model_copy(update={"seeds": [0]}).model_dump()
    key = digest(VERSION, shared, size, settings.corpora[corpus], settings.targets[corpus])[:12]
    folder = laboratory() / "ladder" / ground
    return {
        target: {
            share: folder / f"{target}-{share:g}-{key}.npz" for share in (*sorted(settings.shares), WHOLE)
        }
        for target in (*sorted(settings.targets[corpus]), MEAN)
    }


def ground_names(settings: LadderSettings) -> list[str]:
    """Return CORPUS/SEED of every pool."""
    return [f"{corpus}/{seed}" for seed in settings.main.seeds for corpus in settings.corpora]


def load_ladders(settings: LadderSettings) -> list[Ladder]:
    """Return the finished cases.

    Raises:
        InputError: one cannot be read, or is missing.
    """
    from benchmarks.downstream.target_study import TargetStudy

    return [
        Ladder({share: TargetStudy.load(path) for share, path in rungs.items()})
        for ground in ground_names(settings)
        for rungs in case_files(settings, ground).values()
    ]


def figures(ladders: Sequence[Ladder]) -> list[Figure]:
    """Return how often the order holds, size by size, and what the pick of the whole budget gains there."""
    from benchmarks.downstream.figures import short
    from benchmarks.downstream.ranks import mean_interval
    from grasp_pipeline.seeds import generator

    shares = sorted(ladders[0].rungs)
    smallest, cases = shares[0], len(ladders)
    rng = generator("ladder figures")
    arms = np.mean([len(ladder.whole.arms) for ladder in ladders])
    made = []
    # All runs of a scale model may pick; those of the whole budget but the first say what is best.
    every = ladders[0].whole.losses.shape[1]
    for share, runs in [(share, 1) for share in shares] + [(share, every) for share in shares[:-1]]:
        lost = [ladder.lost(share, runs) for ladder in ladders]
        fitted = [ladder.lost_cross_fitted(share, runs) for ladder in ladders]
        by = "" if runs == 1 else f" by {runs} runs"
        end = "" if (share, runs) == (smallest, 1) else f"[picked{by} at {share:g} of the clusters]"
        note = (
            f"{sum(each <= MARGIN for each in lost)} of {cases} cases; picked{by or ' by one run'} at {share:g} of the "
            f"clusters of near duplicates among {arms:.0f} finalists; lost on average {np.mean(lost):.3f}, at most "
            f"{max(lost):.3f} nats; without the luck of seeds within {MARGIN} in "
            f"{sum(each <= MARGIN for each in fitted)}, {np.mean(fitted):.3f} on average"
        )
        goal = "" if end else "at least 7 of 8"
        made.append(
            Figure(
                f"downstream.order_kept{end}", float(np.mean([x <= MARGIN for x in lost])), "share of cases", goal,
                note=note,
            )
        )  # fmt: skip
    for share in shares[:-1]:
        value, low, high = mean_interval([ladder.agreement(share) for ladder in ladders], rng)
        made.append(
            Figure(
                f"downstream.order_spearman[{share:g} of the clusters]", value, "rank correlation", "", low, high,
                "of the finalists' sealed losses with those at the whole budget; mean over cases",
            )
        )  # fmt: skip
    made += gain_figures(ladders)
    for ladder in ladders:
        told = ", ".join(
            f"{share:g}: {ladder.whole.arms[int(np.argmin(ladder.calibration(share)))]}" for share in shares
        )
        made.append(
            Figure(
                f"downstream.order_lost[{short(ladder.whole.name)}/{ladder.whole.name.split('/')[2]}]",
                ladder.lost(smallest), NATS, "", note=f"picked at {told}",
            )
        )  # fmt: skip
    return made


def gain_figures(ladders: Sequence[Ladder]) -> list[Figure]:
    """Return the gain, sealed, of what is picked at the whole budget over DSIR and over the best of other methods."""
    from benchmarks.downstream.ranks import mean_interval
    from benchmarks.downstream.shipping import Margin, margin_over
    from grasp_pipeline.seeds import generator
    from grasp_pipeline.selection.candidates.families import COMPARED
    from grasp_pipeline.selection.candidates.family import TWICE

    found: dict[str, list[Margin]] = {"gain_over_dsir": [], "gain_over_best_simple": []}
    for ladder in ladders:
        ship = int(np.argmin(ladder.calibration(WHOLE)))
        arms = [arm for arm in ladder.whole.arms if arm in COMPARED]
        over = {arm: margin_over(ladder.whole, ship, arm) for arm in arms}
        theirs = [over[arm] for arm in (DSIR, f"{DSIR}{TWICE}") if arm in over]
        found["gain_over_dsir"].append(min(theirs, key=lambda margin: margin.margin))
        found["gain_over_best_simple"].append(min(over.values(), key=lambda margin: margin.margin))
    rng = generator("ladder gains")
    rows = []
    for name, margins in found.items():
        value, low, high = mean_interval([margin.margin for margin in margins], rng)
        least = min(margins, key=lambda margin: margin.lower)
        rows.append(
            Figure(
                f"downstream.{name}", value, NATS, "at least 0.05, every bound above 0", low, high,
                f"whole budget, equal rules, the better with text once or half of it twice; bound above 0 in "
                f"{sum(margin.lower > 0 for margin in margins)} of {len(margins)} cases, the lowest {least.lower:.3f} "
                f"({least.case}); interval over cases",
            )
        )  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every pool, or one, and write results/ladder.json and its table."""
    parser = parser_of(__doc__, "ladder.yaml", "ground", "CORPUS/SEED")
    options = parser.parse_args(arguments)
    settings = load_ladder_settings(options.config)
    if options.ground:
        run_ground(settings, options.ground)
        return
    results_folder()
    names = ground_names(settings)
    waiting = [
        name
        for name in names
        if not all(path.exists() for rungs in case_files(settings, name).values() for path in rungs.values())
    ]
    print(f"{len(names)} pools, {len(names) - len(waiting)} finished before", flush=True)
    module = [sys.executable, "-m", "benchmarks.downstream.ladder", "--config", str(options.config.resolve())]
    run_apart({name: [*module, "--ground", name] for name in waiting}, options.jobs)
    found = figures(load_ladders(settings))
    command = "python -m benchmarks.downstream.ladder"
    for figure in found:
        print(f"{figure.figure}: {figure.value:.3f} {figure.note}")
    print(f"wrote {save('ladder', command, found)}")


if __name__ == "__main__":
    main()
