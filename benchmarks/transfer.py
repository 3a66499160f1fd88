"""Transfer: does what the small proxy chose hold on a larger one and on another architecture?

    python -m benchmarks.transfer --config config/fidelity.yaml

It reads finished cells of `benchmarks.fidelity`: the first preset, the first seed, every corpus. Some of their
evaluation subsets are retrained on `transfer_preset` (figures `size_*`) and on the second preset (`arch_*`), each
transfer in a process of its own. Utilities and finished transfers are kept below `$GRASP_STORE/laboratory/TRANSFER`: a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fidelity import cell_digest, cell_file, laboratory
from benchmarks.laboratory.settings import LaboratorySettings, load_settings
from benchmarks.launch import parser_of, run_apart
from benchmarks.published import ROOT, Figure, Origin, origin, results_folder, save
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.progress import duration
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from benchmarks.laboratory.transfer import TransferFigure

VERSION = "2"
"""Part of a finished transfer's file name; raised when what a transfer computes changes."""

SIZE, ARCHITECTURE = "size", "arch"


@dataclass(frozen=True)
class Transfer:
    """kind: `size` or `arch`. small, large: presets; the subsets are those of the small one's cell."""

    kind: str
    corpus: str
    small: str
    large: str
    seed: int

    @property
    def name(self) -> str:
        """CORPUS/SMALL-to-LARGE/SEED."""
        return f"{self.corpus}/{self.small}-to-{self.large}/{self.seed}"

    @property
    def cell(self) -> str:
        """Name of the small proxy's cell."""
        return f"{self.corpus}/{self.small}/{self.seed}"


def transfers(settings: LaboratorySettings) -> list[Transfer]:
    """Return all transfers, the slow ones to the larger proxy first."""
    first, *others = settings.presets
    targets = [(SIZE, settings.transfer_preset), *((ARCHITECTURE, preset) for preset in others[:1])]
    return [
        Transfer(kind, corpus, first, preset, settings.seeds[0])
        for kind, preset in targets
        for corpus in settings.corpora
    ]


def transfer_file(settings: LaboratorySettings, transfer: Transfer) -> Path:
    """Return where a finished transfer lies."""
    given = (
        settings.transfer_subsets,
        settings.transfer_preset,
        settings.transfer_learning_rate,
        settings.corpora[transfer.name.partition("/")[0]],
    )
    return (
        laboratory() / transfer.name / f"transfer-{VERSION}-{digest(cell_digest(settings), *given)[:12]}.npz"
    )


def run_one(settings: LaboratorySettings, transfer: Transfer) -> None:
    """Run one transfer in this process."""
    import polars as pl
    import torch

    from benchmarks.laboratory.text import build_text_corpus
    from benchmarks.laboratory.transfer import choose_rows, run_transfer
    from grasp_pipeline.evaluation.experiment import CellResult
    from grasp_pipeline.evaluation.proxies import take_views, text_trainer
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables
    from resources.runs import DeltaRuns

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    seed, name = transfer.seed, transfer.name

    def say(message: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {message}", flush=True)

    small = CellResult.load(cell_file(settings, transfer.cell))
    documents = pl.read_parquet(ROOT / settings.corpora[transfer.corpus])
    corpus = build_text_corpus(transfer.corpus, documents, settings.text_plan(), seed)
    recipe, reference = settings.recipe(), settings.recipe(settings.reference_factor)
    if transfer.kind == SIZE:
        recipe = replace(recipe, learning_rate=settings.transfer_learning_rate)
        reference = replace(reference, learning_rate=settings.transfer_learning_rate)
    objective, trainer = text_trainer(transfer.large, corpus, recipe, seed, settings.stacked_models)
    views = None
    if transfer.kind == SIZE:
        plan = replace(settings.sketches(), exact=False)
        views = take_views(objective, trainer, corpus, reference, plan, seed, say)
    provenance = Provenance("laboratory", "benchmark_transfer", VERSION, settings.digest())
    delta, tokens = DeltaTables(str(laboratory() / name)), trainer.recipe.tokens
    store = DeltaRuns.laboratory(delta, provenance, "laboratory", corpus.tasks, tokens)
    # Named by corpus and seed, so that both kinds of transfer retrain the same subsets.
    rows = choose_rows(small, settings.transfer_subsets, f"{transfer.corpus}/{seed}")
    result = run_transfer(
        small, corpus, trainer, views, rows, store, name, say, seeds=settings.evaluation_seeds
    )
    result = replace(result, origins=(small.origin, origin("transfer")))
    result.save(transfer_file(settings, transfer))
    say("finished")


def run_all(config: Path, settings: LaboratorySettings, jobs: int) -> None:
    """Run the transfers that are not finished, `jobs` at a time, each in a process of one thread.

    Raises:
        ConfigError: transfers are switched off.
        InputError: a cell is not finished.
        GraspError: a transfer failed; the others go on first.
    """
    if not settings.transfer_subsets:
        raise ConfigError(f"transfer_subsets is 0 in {config}; set it to 48, for example")
    every = transfers(settings)
    waiting = [transfer for transfer in every if not transfer_file(settings, transfer).exists()]
    for transfer in waiting:
        if not cell_file(settings, transfer.cell).exists():
            raise InputError(
                f"cell {transfer.cell} is not finished; run python -m benchmarks.fidelity --config {config}"
            )
    print(f"{len(every)} transfers, {len(every) - len(waiting)} finished before", flush=True)
    module = [sys.executable, "-m", "benchmarks.transfer", "--config", str(config)]
    run_apart({each.name: [*module, "--transfer", each.name] for each in waiting}, jobs)


def figures(settings: LaboratorySettings) -> list[Figure]:
    """Return the figures of all finished transfers, each the mean over corpora.

    An interval is that of the draws' mean over corpora; corpora themselves are not drawn.
    """
    from benchmarks.laboratory.transfer import TransferResult, transfer_rows

    found: list[Figure] = []
    every = transfers(settings)
    for kind in dict.fromkeys(transfer.kind for transfer in every):
        mine = [transfer for transfer in every if transfer.kind == kind]
        loaded = {t.corpus: TransferResult.load(transfer_file(settings, t)) for t in mine}
        subsets = sum(len(result.rows) for result in loaded.values())
        head = f"{mine[0].small} to {mine[0].large}, {subsets} subsets"
        found += over_corpora(
            kind, head, {corpus: transfer_rows(result) for corpus, result in loaded.items()}
        )
    return found


def origins(settings: LaboratorySettings) -> list[Origin]:
    """Return which code measured the cells and the transfers that the figures come from."""
    from benchmarks.laboratory.transfer import TransferResult

    loaded = [TransferResult.load(transfer_file(settings, transfer)) for transfer in transfers(settings)]
    return [dict(each) for result in loaded for each in result.origins]


def over_corpora(kind: str, head: str, rows: Mapping[str, Sequence[TransferFigure]]) -> Iterator[Figure]:
    """Yield every figure as the mean over the corpora that have it; the notes tell each corpus's own value."""
    from benchmarks.laboratory.decisions import mean_estimate

    names = dict.fromkeys(row.name for each in rows.values() for row in each)
    for name in names:
        mine = {corpus: row for corpus, each in rows.items() for row in each if row.name == name}
        estimate = mean_estimate([row.estimate for row in mine.values()])
        low, high = estimate.interval
        notes = [
            f"{corpus} {row.estimate.value:.3f}" + (f" ({row.note})" if row.note else "")
            for corpus, row in mine.items()
        ]
        unit = next(iter(mine.values())).unit
        yield Figure(
            f"transfer.{kind}_{name}",
            estimate.value,
            unit,
            low=low,
            high=high,
            note="; ".join([head, *notes]),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the transfers, or one, print the figures and write the result file."""
    parser = parser_of(__doc__, "fidelity.yaml", "transfer", "CORPUS/SMALL-to-LARGE/SEED")
    options = parser.parse_args(arguments)
    config = options.config.resolve()
    settings = load_settings(config)
    if options.transfer:
        named = {transfer.name: transfer for transfer in transfers(settings)}
        if options.transfer not in named:
            raise ConfigError(f"no transfer is called {options.transfer}; there are {', '.join(named)}")
        run_one(settings, named[options.transfer])
        return
    results_folder()
    begun = time.monotonic()
    run_all(config, settings, options.jobs)
    print(f"all transfers are finished after {duration(time.monotonic() - begun)}", flush=True)
    found = figures(settings)
    for figure in found:
        print(f"{figure.figure}: {figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}] {figure.unit}")
    command = f"python -m benchmarks.transfer --config {options.config}"
    print(f"wrote {save('transfer', command, found, origins(settings))}")


if __name__ == "__main__":
    main()
