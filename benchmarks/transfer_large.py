"""A larger proxy: log-coverage against DSIR and random at several passes over the budget, on millions of tokens.

    python -m benchmarks.transfer_large --config config/transfer-large.yaml

The corpora are chosen without any model, so nothing of the proxy is in them. Every arm is retrained with every seed;
what is measured is kept run by run below `$GRASP_STORE/laboratory/transfer-large`: a run that was stopped goes on with
the arm and seed that it was at. On a GPU where there is one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from benchmarks.downstream.settings import PoolSettings, with_targets
from benchmarks.fidelity import laboratory
from benchmarks.laboratory.settings import read_settings
from benchmarks.launch import parser_of, run_apart
from benchmarks.published import ROOT, Figure, origin, results_folder, save
from grasp_pipeline.progress import duration
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from benchmarks.downstream.target_study import TargetStudy
    from grasp_pipeline.arrays import Bools
    from grasp_pipeline.corpus.pool import TaskPool
    from grasp_pipeline.proxy.runs import MeasuredRuns, Trainer

VERSION = "1"
"""Part of the folder of the runs; raised when what a run measures changes."""

OURS, DSIR, RANDOM = "log-coverage", "dsir", "random"
ARMS = (OURS, DSIR, RANDOM)


class LargeSettings(PoolSettings):
    """A larger proxy on one corpus; sizes are those of `main`, whose seeds train."""

    chunks_per_document: int = Field(default=64, ge=1, description="Most chunks taken of one document.")
    smoothing: float = Field(default=3.0, gt=0, description="rho of log-coverage.")
    pool_seed: int = Field(default=50, ge=0, description="Seed of the pool and its splits.")


def load_large_settings(path: Path) -> LargeSettings:
    """Read settings from a YAML file; errors as in `load_downstream_settings`."""
    return with_targets(path, read_settings(path, LargeSettings, "larger proxy"))


def draw_pool(settings: LargeSettings, corpus: str) -> TaskPool:
    """Return the pool of a corpus with its tasks."""
    import polars as pl

    from benchmarks.downstream.prepared_pool import restrict
    from benchmarks.laboratory.text import build_text_corpus

    plan = replace(settings.text_plan(settings.main), chunks_per_document=settings.chunks_per_document)
    documents = pl.read_parquet(ROOT / settings.corpora[corpus])
    whole = build_text_corpus(corpus, documents, plan, settings.pool_seed)
    return restrict(whole, settings.targets[corpus])


def choose(settings: LargeSettings, pool: TaskPool, seed: int) -> dict[str, Bools]:
    """Return arm -> membership (n,): the mean of the tasks is the target; luck is drawn anew for every seed."""
    from grasp_pipeline.arrays import TokenLists
    from grasp_pipeline.attribution.log_coverage import LogCoverage
    from grasp_pipeline.corpus.events import count_events
    from grasp_pipeline.selection.candidates.families.dsir import dsir_resample, dsir_scores
    from grasp_pipeline.selection.candidates.families.random import Random
    from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
    from grasp_pipeline.selection.solver.coverage import Coverage, cover

    budget = round(settings.budget_fraction * pool.total)
    feasible = FeasibleSets.of(pool, budget).feasible_set()
    queries = TokenLists.join(pool.queries)
    task = np.repeat(np.arange(len(pool.queries)), [query.n for query in pool.queries])
    counts = count_events(pool.text, queries, task, len(pool.tasks))
    floor = LogCoverage(counts, settings.smoothing).floor
    objective = Coverage(counts.events, counts.weights.mean(axis=0), floor)
    return {
        OURS: cover(
            objective, pool.n_tokens, feasible, gap=settings.gap, max_passes=settings.max_passes
        ).membership,
        DSIR: dsir_resample(dsir_scores(pool.text, queries), feasible, seed),
        RANDOM: Random().draw(feasible, seed).membership,
    }


def runs_of(settings: LargeSettings, pool: TaskPool, corpus: str) -> tuple[MeasuredRuns, Trainer]:
    """Return the runs that are kept of a pool, with the mean loss of every held-out document."""
    import torch

    from grasp_pipeline.evaluation.archive import ArchiveStore
    from grasp_pipeline.evaluation.proxies import text_trainer
    from grasp_pipeline.proxy.retrain import Outcome
    from grasp_pipeline.proxy.runs import MeasuredRuns

    recipe = settings.recipe(settings.main)
    _, trainer = text_trainer(settings.preset, pool, recipe, settings.pool_seed, 1)
    trainer = replace(trainer, device="cuda" if torch.cuda.is_available() else "cpu")
    held = pool.evaluation

    def losses(outcome: Outcome) -> np.ndarray:
        return (outcome.chunk_losses / held.n_tokens).astype(np.float64)

    store = ArchiveStore(laboratory() / "transfer-large" / corpus / VERSION, len(held.rows))
    recipe_id = digest(trainer.recipe_id(pool), held.rows.tolist())
    return MeasuredRuns(trainer, pool.stream, held, recipe_id, losses, store), trainer


def run_seed(settings: LargeSettings, name: str) -> None:
    """Retrain every arm with one seed, one after the other; each is kept before the next begins."""
    import torch

    from grasp_pipeline.proxy.runs import job_of

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    corpus, seed = name.split("/")

    def say(message: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {message}", flush=True)

    begun = time.monotonic()
    pool = draw_pool(settings, corpus)
    runs, trainer = runs_of(settings, pool, corpus)
    parameters = sum(p.numel() for p in trainer.initial.values())
    say(f"{pool.total:,} tokens, {parameters:,} parameters, {trainer.recipe.tokens:,} tokens a run")
    arms = choose(settings, pool, int(seed))
    say(f"the corpora are chosen after {duration(time.monotonic() - begun)}")
    for arm in ARMS:
        made = runs.make([job_of(pool, arms[arm], int(seed))], f"retraining on {arm}", say)
        say(f"{arm} is {'measured' if made else 'known'} after {duration(time.monotonic() - begun)}")
    save_seed(settings, name, pool, runs, arms)


def save_seed(
    settings: LargeSettings, name: str, pool: TaskPool, runs: MeasuredRuns, arms: Mapping[str, Bools]
) -> None:
    """Write what one seed measured into one file: everything that figures are made from."""
    from grasp_pipeline.evaluation.archive import save_archive
    from grasp_pipeline.proxy.runs import job_of

    seed = int(name.partition("/")[2])
    held, trainer = pool.evaluation, runs.trainer
    budget = int(pool.n_tokens[arms[OURS]].sum())
    words = {
        "arms": list(ARMS),
        "tasks": list(pool.tasks),
        "document_task": [pool.tasks[code] for code in held.task],
        "pool_tokens": pool.total,
        "budget": budget,
        "training_tokens": trainer.recipe.tokens,
        "parameters": sum(p.numel() for p in trainer.initial.values()),
        "vocabulary": pool.vocabulary,
        "origin": origin("transfer-large"),
    }
    arrays = {
        "losses": np.stack([runs.values[job_of(pool, arms[arm], seed).run] for arm in ARMS]),
        "document_tokens": held.n_tokens.astype(np.float64),
    }
    save_archive(seed_file(settings, name), words, arrays)


def seed_names(settings: LargeSettings) -> list[str]:
    """Return CORPUS/SEED of every part."""
    return [f"{corpus}/{seed}" for corpus in settings.corpora for seed in settings.main.seeds]


def seed_file(settings: LargeSettings, name: str) -> Path:
    """Return where a finished seed lies."""
    corpus, seed = name.split("/")
    shared = settings.model_dump(exclude={"corpora", "targets", "main"})
    size = settings.main.model_copy(update={"seeds": [0]}).model_dump()
    key = digest(VERSION, shared, size, settings.corpora[corpus], settings.targets[corpus])[:12]
    return laboratory() / "transfer-large" / corpus / f"seed-{seed}-{key}.npz"


def figures(parts: Sequence[tuple[dict, dict[str, np.ndarray]]]) -> list[Figure]:
    """Return the gains of log-coverage over DSIR and over random from the files of one corpus's seeds.

    A bound is one-sided, 95%, over documents and paired seeds.
    """
    from benchmarks.downstream.shipping import paired_bound

    words = parts[0][0]
    study = study_of(parts)
    every = np.ones(len(study.document_tokens), dtype=np.bool_)
    arms: list[str] = words["arms"]
    passes = words["training_tokens"] / words["budget"]
    note = (
        f"{words['parameters']:,} parameters, vocabulary {words['vocabulary']:,}, corpus of {words['pool_tokens']:,} "
        f"tokens, {words['training_tokens']:,} trained on ({passes:.1f} passes over the budget), {len(parts)} seeds, "
        f"mean of {', '.join(words['tasks'])}"
    )
    rows = []
    for rival, goal in ((DSIR, "bound above 0"), (RANDOM, "")):
        difference = study.losses[arms.index(rival)] - study.losses[arms.index(OURS)]
        value, low = paired_bound(study, difference, every)
        rows.append(
            Figure(
                f"transfer.gain_over_{rival}",
                value,
                "nats per token",
                goal,
                low,
                note=f"log-coverage; {note}",
            )
        )
    return rows


def study_of(parts: Sequence[tuple[dict, dict[str, np.ndarray]]]) -> TargetStudy:
    """Return the seeds as one study, which is how bounds are taken."""
    from benchmarks.downstream.target_study import PRODUCT, TargetStudy
    from grasp_pipeline.names import MEAN

    words, arrays = parts[0]
    losses = np.stack([each["losses"] for _, each in parts], axis=1).astype(np.float64)
    arms, documents = words["arms"], losses.shape[2]
    return TargetStudy(
        "transfer-large",
        MEAN,
        tuple(arms),
        tuple("candidate" if arm == OURS else "simple" for arm in arms),
        (PRODUCT,) * len(arms),
        np.zeros((len(arms), 1), dtype=np.bool_),
        {},
        losses,
        np.empty((0, 1, documents)),
        np.empty((0, documents)),
        {},
        np.full(documents, -1),
        arrays["document_tokens"],
        np.asarray(words["document_task"]),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the seeds that are not finished, or one, and write results/transfer-large.json and its table."""
    from grasp_pipeline.evaluation.archive import load_archive

    parser = parser_of(__doc__, "transfer-large.yaml", "part", "CORPUS/SEED")
    options = parser.parse_args(arguments)
    settings = load_large_settings(options.config)
    if options.part:
        run_seed(settings, options.part)
        return
    results_folder()
    names = seed_names(settings)
    waiting = [name for name in names if not seed_file(settings, name).exists()]
    print(f"{len(names)} seeds, {len(names) - len(waiting)} finished before", flush=True)
    module = [sys.executable, "-m", "benchmarks.transfer_large", "--config", str(options.config.resolve())]
    run_apart({name: [*module, "--part", name] for name in waiting}, options.jobs)
    parts = [load_archive(seed_file(settings, name), "seed") for name in names]
    found = figures(parts)
    for figure in found:
        print(f"{figure.figure}: {figure.value:.4f}, bound {figure.low:.4f}; {figure.note}")
    command = f"python -m benchmarks.transfer_large --config {options.config}"
    print(f"wrote {save('transfer-large', command, found, [words['origin'] for words, _ in parts])}")


if __name__ == "__main__":
    main()
