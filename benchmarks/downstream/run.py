"""What ships against every comparison arm, on sealed documents; the coverage of certificates; the judge's ranks.

    python -m benchmarks.downstream --config config/downstream.yaml

Losses of every run are kept below `$GRASP_STORE/laboratory/downstream`: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.downstream.files import KINDS, case_files, contest_files, ground_names, size_of
from benchmarks.downstream.settings import (
    DownstreamSettings,
    load_downstream_settings,
)
from benchmarks.launch import parser_of, run_apart
from benchmarks.published import ROOT, results_folder
from grasp_pipeline.progress import duration


def run_ground(settings: DownstreamSettings, name: str) -> None:
    """Run all cases of one ground in this process."""
    import polars as pl
    import torch

    from benchmarks.downstream.coverage import hold_repeats, save_repeats
    from benchmarks.downstream.prepared_pool import prepare_pool
    from benchmarks.downstream.target_study import (
        PRODUCT,
        finish_study,
        make_runs,
        multiple_runs,
        plan_study,
    )

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    kind, corpus, seed = name.split("/")
    size = size_of(settings, kind)

    def say(message: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)

    begun = time.monotonic()
    documents = pl.read_parquet(ROOT / settings.corpora[corpus])
    prepared = prepare_pool(corpus, documents, settings, size, int(seed))
    plans = [plan_study(prepared, target, settings, size) for target in prepared.targets]
    say(f"{name}: pool, sketches and finalists after {duration(time.monotonic() - begun)}")
    files = case_files(settings, name)
    folder = next(iter(files.values())).parent
    runs = prepared.runs(folder)
    make_runs(prepared, plans, size, runs, name, say)
    longer = {1: runs} if size.multiples else {}
    for multiple in size.multiples:
        trainer = replace(prepared.trainer, recipe=settings.recipe(size, multiple))
        longer[multiple] = prepared.runs(folder, trainer)
    for multiple, book in longer.items():
        book.make(multiple_runs(prepared, multiple), f"{name}: random at {multiple} times the tokens", say)
    studies = [finish_study(prepared, f"{name}/{plan.target}", plan, size, runs, longer) for plan in plans]
    for study in studies:
        study.save(files[study.target])
    if contests := contest_files(settings, name):
        held = hold_repeats(prepared, plans, studies, runs, settings, size, PRODUCT, say)
        for study, repeats in zip(studies, held, strict=True):
            save_repeats(contests[study.target], repeats)
    say(f"{name}: finished after {duration(time.monotonic() - begun)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every ground, or one, and write results and tables."""
    parser = parser_of(__doc__, "downstream.yaml", "ground", "KIND/CORPUS/SEED")
    parser.add_argument(
        "--only", choices=KINDS, help="grounds of this kind alone; other figures stay as they are"
    )
    options = parser.parse_args(arguments)
    settings = load_downstream_settings(options.config)
    if options.ground:
        run_ground(settings, options.ground)
        return
    results_folder()
    kinds = KINDS if options.only is None else (options.only,)
    names = [name for name in ground_names(settings) if name.split("/")[0] in kinds]
    waiting = [
        name
        for name in names
        if not all(
            path.exists() for files in (case_files, contest_files) for path in files(settings, name).values()
        )
    ]
    print(f"{len(names)} grounds, {len(names) - len(waiting)} finished before", flush=True)
    module = [sys.executable, "-m", "benchmarks.downstream", "--config", str(options.config.resolve())]
    run_apart({name: [*module, "--ground", name] for name in waiting}, options.jobs)
    from benchmarks.downstream.figures import publish

    command = "make benchmark-downstream"
    if options.only is not None:
        command = f"python -m benchmarks.downstream --only {options.only}"
    print(f"wrote {publish(settings, command, options.only)}")
