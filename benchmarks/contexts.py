"""Contexts of log-coverage and its view in gradients, measured: how well each ranks subsets that were really retrained.

    python -m benchmarks.contexts

Cells of the laboratory at two thirds of its size, of seeds that nothing was chosen on; every setting below was fixed
before. Runs are kept below `$GRASP_STORE/laboratory/contexts`: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import laboratory
from benchmarks.laboratory.settings import LaboratorySettings
from benchmarks.published import ROOT, Figure, results_folder, save
from grasp_pipeline.arrays import Floats

if TYPE_CHECKING:
    from grasp_pipeline.corpus.pool import TaskPool
    from grasp_pipeline.proxy.objective import CausalLM, Parameters

SEEDS = (31, 32)
SETTINGS = LaboratorySettings(
    corpora={"bundled": "data/corpus/*.parquet"},
    presets=["tiny"],
    seeds=list(SEEDS),
    chunks=480,
    tasks=6,
    steps=240,
)
SUBSETS = {"uniform": 12, "fixed_size": 12, "tilted": 24}
"""Subsets per stratum, each with one training seed."""

PREVIOUS = "previous token"
BOTH = "previous token and 64 clusters"
CONTEXTS = (PREVIOUS, "16 clusters", "64 clusters", BOTH)
SMOOTHINGS = {"joint": 0.6, "conditional": 0.012}
GRADIENT = "natural gradient, {} checkpoint"
BESIDE = "mean of both, standardised: previous token, conditional, and "
RESAMPLES = 2000


@dataclass(frozen=True)
class Cell:
    """utilities: (m, T) measured; predictions: by name, (m, T); groups: rows of each stratum; seconds: by name."""

    utilities: Floats
    predictions: Mapping[str, Floats]
    groups: Sequence[np.ndarray]
    seconds: Mapping[str, float]


def run_cell(seed: int) -> Cell:
    """Retrain the subsets of one seed and let every context and gradient predict."""
    import polars as pl

    from benchmarks.laboratory.text import build_text_corpus
    from grasp_pipeline.calibration.intervals import strata_groups
    from grasp_pipeline.calibration.strata import draw_subsets
    from grasp_pipeline.evaluation.archive import ArchiveStore
    from grasp_pipeline.evaluation.proxies import EARLY_FRACTION, text_trainer
    from grasp_pipeline.proxy.runs import measure
    from grasp_pipeline.sketch.views import ngram_view, train_checkpoints

    def say(message: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} seed {seed}: {message}", flush=True)

    documents = pl.read_parquet(ROOT / SETTINGS.corpora["bundled"])
    corpus = build_text_corpus("bundled", documents, SETTINGS.text_plan(), seed)
    objective, trainer = text_trainer("tiny", corpus, SETTINGS.recipe(), seed, SETTINGS.stacked_models)
    design = ngram_view(corpus, 1024)
    assert design is not None, "a corpus of text"
    subsets = draw_subsets(corpus, design.sketches @ design.targets.T, SUBSETS, f"contexts/{seed}")
    store = ArchiveStore(laboratory() / "contexts" / str(seed), len(corpus.tasks))
    utilities = measure(trainer, corpus, subsets.membership, [0], store, "subsets", say).mean(axis=2)
    whole = np.arange(corpus.n)
    recipe = SETTINGS.recipe(SETTINGS.reference_factor)
    checkpoints = train_checkpoints(
        objective, trainer.initial, corpus.stream, whole, recipe, EARLY_FRACTION, seed
    )
    found, seconds = predictions(corpus, objective, checkpoints, subsets.membership)
    return Cell(utilities, found, strata_groups(subsets.strata, len(utilities)), seconds)


def predictions(
    corpus: TaskPool, objective: CausalLM, checkpoints: Mapping[str, Parameters], membership: np.ndarray
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return what every context and gradient predicts of (m, n) subsets, (m, T), and the seconds of each."""
    from grasp_pipeline.arrays import TokenLists
    from grasp_pipeline.attribution.log_coverage import LogCoverage
    from grasp_pipeline.attribution.natural_gradient import NaturalGradientCoverage
    from grasp_pipeline.corpus.events import Contexts, count_joined, previous_token
    from grasp_pipeline.proxy.token_states import StateClusters, TokenStates

    queries = TokenLists.join(corpus.queries)
    task = np.repeat(np.arange(len(corpus.queries)), [query.n for query in corpus.queries])
    bos, length = int(corpus.rows[0, 0]), SETTINGS.chunk_tokens
    states = {name: TokenStates(objective, checkpoints[name], bos, length) for name in ("early", "reference")}
    found: dict[str, Floats] = {}
    seconds: dict[str, float] = {}

    def clusters(count: int) -> StateClusters:
        return StateClusters.fit(states["reference"], corpus.text, count)

    for name in CONTEXTS:
        begun = time.process_time()
        kinds: list[Contexts] = [previous_token] if "previous" in name else []
        if "clusters" in name:
            kinds.append(clusters(16 if "16" in name else 64))
        counts = count_joined(corpus.text, queries, task, len(corpus.tasks), kinds)
        found[f"{name}, joint"] = LogCoverage(counts, SMOOTHINGS["joint"]).predict(membership)
        found[f"{name}, conditional"] = LogCoverage(counts, SMOOTHINGS["conditional"], "conditional").predict(
            membership
        )
        seconds[name] = time.process_time() - begun
    for stage, of in (("early", states["early"]), ("final", states["reference"])):
        begun, name = time.process_time(), GRADIENT.format(stage)
        made = NaturalGradientCoverage(corpus.text, queries, task, len(corpus.tasks), of.passes)
        found[name] = made.predict(membership)
        seconds[name] = time.process_time() - begun
    events = standard(found[f"{PREVIOUS}, conditional"])
    for stage in ("early", "final"):
        name = GRADIENT.format(stage)
        found[BESIDE + name] = events + standard(found[name])
    found[BESIDE + "64 clusters"] = events + standard(found["64 clusters, conditional"])
    return found, seconds


def standard(values: Floats) -> Floats:
    """Return predictions (m, T) of mean 0 and standard deviation 1 for every task."""
    return (values - values.mean(axis=0)) / values.std(axis=0)


def figures(cells: Sequence[Cell]) -> list[Figure]:
    """Return every prediction's rank correlation, its gain over events of the previous token, and its cost."""
    from grasp_pipeline.calibration.intervals import bootstrap_interval, widened
    from grasp_pipeline.calibration.rank import bootstrap_task_spearman, task_level_spearman
    from grasp_pipeline.seeds import generator

    names = list(cells[0].predictions)
    values, draws = [], []
    for number, cell in enumerate(cells):
        stacked = np.stack([cell.predictions[name] for name in names])
        values.append(task_level_spearman(stacked, cell.utilities))
        drawn = bootstrap_task_spearman(
            stacked, cell.utilities, RESAMPLES, generator("contexts", number), cell.groups
        )
        draws.append(widened(drawn, cell.groups))
    value, drawn = np.mean(values, axis=0), np.mean(draws, axis=0)
    base = names.index(f"{PREVIOUS}, conditional")
    made = []
    for k, name in enumerate(names):
        low, high = (float(end) for end in bootstrap_interval(value[k], drawn[:, k], limit=1.0))
        note = "; ".join(f"cell {number} {each[k]:.3f}" for number, each in enumerate(values))
        made.append(
            Figure(f"contexts.spearman[{name}]", float(value[k]), "rank correlation", "", low, high, note)
        )
    for k, name in enumerate(names):
        if k != base:
            gain = float(value[k] - value[base])
            low, high = (float(end) for end in bootstrap_interval(gain, drawn[:, k] - drawn[:, base]))
            made.append(
                Figure(
                    f"contexts.gain[{name}]",
                    gain,
                    "rank correlation",
                    "",
                    low,
                    high,
                    "paired, over previous token",
                )
            )
    for name in cells[0].seconds:
        cost = float(np.mean([cell.seconds[name] for cell in cells]))
        made.append(Figure(f"contexts.seconds[{name}]", cost, "s of one core", note="counts and predictions"))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells and write results/contexts.json and its table."""
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    results_folder()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    found = figures([run_cell(seed) for seed in SEEDS])
    for figure in found:
        print(f"{figure.figure}: {figure.value:.3f}", figure.low, figure.high, figure.note)
    print(f"wrote {save('contexts', 'python -m benchmarks.contexts', found)}")


if __name__ == "__main__":
    main()
