"""The fidelity laboratory: a matrix of corpora, proxies and seeds; each cell runs in a process of its own.

    python -m benchmarks.fidelity --config config/fidelity.yaml

Utilities are kept in the table `subset_utilities` below `$GRASP_STORE/laboratory/CELL` and finished cells beside them:
a run that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.laboratory.settings import LaboratorySettings, load_settings
from benchmarks.launch import parser_of, run_apart
from benchmarks.published import ROOT, origin, results_folder
from grasp_pipeline.progress import duration
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from grasp_pipeline.arrays import Floats
    from grasp_pipeline.corpus.pool import TaskPool
    from grasp_pipeline.evaluation.experiment import CellResult
    from grasp_pipeline.proxy.objective import CausalLM
    from grasp_pipeline.proxy.runs import RunStore, Trainer

VERSION = "11"
"""Part of a finished cell's file name; raised when what a cell computes changes."""


def laboratory() -> Path:
    """Return the laboratory's folder."""
    return Path(os.environ.get("GRASP_STORE", str(ROOT / "store"))) / "laboratory"


def cell_names(settings: LaboratorySettings) -> list[str]:
    """Return CORPUS/PRESET/SEED of every cell, seeds outermost."""
    return [
        f"{corpus}/{preset}/{seed}"
        for seed in settings.seeds
        for corpus in settings.corpora
        for preset in settings.presets
    ]


def cell_file(settings: LaboratorySettings, name: str) -> Path:
    """Return where a finished cell lies."""
    files = settings.corpora[name.partition("/")[0]]
    return laboratory() / name / f"cell-{VERSION}-{digest(cell_digest(settings), files)[:12]}.npz"


def cell_digest(settings: LaboratorySettings) -> str:
    """Return a digest of what a cell depends on: not of which cells there are."""
    return settings.model_copy(
        update={
            "corpora": {},
            "presets": [],
            "seeds": [],
            "transfer_subsets": 0,
            "transfer_preset": "",
            "transfer_learning_rate": 1.0,
        }
    ).digest()[:12]


@dataclass(frozen=True)
class Prepared:
    """What a cell starts from: its pool, the proxy that is retrained, and where utilities are kept."""

    corpus: TaskPool
    objective: CausalLM
    trainer: Trainer
    store: RunStore


def prepare(settings: LaboratorySettings, name: str) -> Prepared:
    """Draw a cell's pool and proxy, and open its store."""
    import polars as pl

    from benchmarks.laboratory.text import build_text_corpus
    from grasp_pipeline.evaluation.proxies import text_trainer
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables
    from resources.runs import DeltaRuns

    corpus_name, preset, seed = name.split("/")
    documents = pl.read_parquet(ROOT / settings.corpora[corpus_name])
    corpus = build_text_corpus(corpus_name, documents, settings.text_plan(), int(seed))
    objective, trainer = text_trainer(preset, corpus, settings.recipe(), int(seed), settings.stacked_models)
    provenance = Provenance("laboratory", "benchmark_fidelity", VERSION, settings.digest())
    kept = settings.protocol().measured(corpus.tasks)
    delta = DeltaTables(str(laboratory() / name))
    store = DeltaRuns.laboratory(delta, provenance, "laboratory", kept, trainer.recipe.tokens)
    return Prepared(corpus, objective, trainer, store)


def run_one(settings: LaboratorySettings, name: str) -> None:
    """Run one cell in this process."""
    import torch

    from grasp_pipeline.evaluation.experiment import run_cell
    from grasp_pipeline.evaluation.proxies import take_views

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    corpus_name, _, seed_text = name.split("/")
    seed = int(seed_text)

    def say(message: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {message}", flush=True)

    cell = prepare(settings, name)
    views = take_views(
        cell.objective,
        cell.trainer,
        cell.corpus,
        settings.recipe(settings.reference_factor),
        settings.sketches(),
        seed,
        say,
    )
    result = run_cell(
        name, cell.corpus, cell.trainer, views, settings.protocol(), cell.store, f"{corpus_name}/{seed}", say
    )
    replace(result, origin=origin("cell")).save(cell_file(settings, name))
    say("finished")


def on_queries(settings: LaboratorySettings, name: str, cell: CellResult) -> Floats:
    """Return what a finished cell's models reached on the tasks' query documents, from its store: (m, T, S)."""
    from grasp_pipeline.proxy.runs import measure

    made = prepare(settings, name)
    seeds = range(cell.utilities.shape[2])
    both = measure(made.trainer, made.corpus, cell.membership, seeds, made.store, name, print, queries=True)
    return both[:, len(cell.tasks) :]


def run_matrix(config: Path, settings: LaboratorySettings, names: Sequence[str], jobs: int) -> None:
    """Run the cells that are not finished, `jobs` at a time, each in a process of one thread.

    Raises:
        GraspError: a cell failed; the others go on first.
    """
    waiting = [name for name in names if not cell_file(settings, name).exists()]
    print(f"{len(names)} cells, {len(names) - len(waiting)} finished before", flush=True)
    module = [sys.executable, "-m", "benchmarks.fidelity", "--config", str(config)]
    run_apart({name: [*module, "--cell", name] for name in waiting}, jobs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the matrix, or one cell, and write results, tables and figures."""
    parser = parser_of(__doc__, "fidelity.yaml", "cell", "CORPUS/PRESET/SEED")
    parser.add_argument("--name", default="fidelity", help="of the result file")
    options = parser.parse_args(arguments)
    settings = load_settings(options.config)
    if options.cell:
        run_one(settings, options.cell)
        return
    results_folder()
    begun = time.monotonic()
    run_matrix(options.config.resolve(), settings, cell_names(settings), options.jobs)
    print(f"all cells are finished after {duration(time.monotonic() - begun)}", flush=True)
    from benchmarks.fidelity_figures import publish
    from grasp_pipeline.evaluation.experiment import CellResult

    cells = [CellResult.load(cell_file(settings, name)) for name in cell_names(settings)]
    asked = [on_queries(settings, cell.name, cell) for cell in cells]
    path = publish(cells, options.name, f"make benchmark-{options.name}", asked)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
