"""The residual filter on new shards against optimising all shards again, on generated and on stored sketches.

Five parts of a corpus are optimised, the filter decides on a sixth, so on 20% more chunks, and the optimum over all
six at the same share of the tokens is the judge. Agreement is in kept tokens of the new part: those that both keep over
those of the one that keeps more (`kept_agreement`).

- Generated: the chunks of the scale benchmark, drawn anew with every seed, and so is the target.
- Stored: the `output` sketches that `make demo` leaves, every task's mean query sketch as the target. The sixth is
  drawn by document. Beside it, every shard in turn is the new one: shards are of different sources, so that the new one
  may be unlike all others.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.filter_agreement import FilterAgreement, filter_agreement
from benchmarks.published import Figure
from grasp_pipeline.arrays import Float32s
from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.seeds import generator
from grasp_pipeline.tables import GRADIENT_SKETCHES, TASK_SKETCHES

OLD_ROWS, NEW_ROWS = 50_000, 10_000
SEEDS, STORED_SEEDS = 5, 3
LAM, OTHERS = 0.7, (0.0, 0.4, 1.0)
SHARE, GAP = 0.2, 1e-4
PARTS = 6
KIND = "output"
GOAL = "at least 0.95"


def figures(world: World, store: Path) -> list[Figure]:
    """Return all figures; those of stored sketches only where the store has some."""
    found = [generated_figure(world, lam) for lam in (LAM, *OTHERS)]
    corpus = load(store)
    return found if corpus is None else [*found, *stored_figures(corpus)]


class World(Protocol):
    """Where generated chunks come from; see `benchmarks.selection.World`."""

    def chunks(self, draw: np.random.Generator, count: int) -> tuple[Float32s, NDArray[np.int64]]:
        """Return sketches (count, d) and tokens (count,)."""
        ...

    def target(self, *seed: int) -> Float32s:
        """Return a mean query sketch (d,)."""
        ...


def generated(
    world: World, seed: int, lam: float, old_rows: int = OLD_ROWS, new_rows: int = NEW_ROWS
) -> FilterAgreement:
    """Return the agreement on generated chunks."""
    draw = generator("benchmark selection filter", seed)
    sketches, tokens = world.chunks(draw, old_rows + new_rows)
    old, new = ArrayBlocks(sketches[:old_rows]), ArrayBlocks(sketches[old_rows:])
    return filter_agreement(
        old, new, tokens[:old_rows], tokens[old_rows:], world.target(seed), SHARE, lam=lam, gap=GAP
    )


def generated_figure(world: World, lam: float) -> Figure:
    """Return the agreement for one lambda, with the lowest and the highest seed."""
    found = [generated(world, seed, lam) for seed in range(SEEDS)]
    name = "selection.filter_agreement" + ("" if lam == LAM else f"[lambda {lam:g}]")
    what = f"{OLD_ROWS:,} generated chunks and {NEW_ROWS:,} new, {SHARE:.0%} of the tokens kept, lambda {lam:g}; "
    return _figure(name, found, what + f"median, lowest and highest of seeds 0 to {SEEDS - 1}")


@dataclass(frozen=True)
class Corpus:
    """Stored sketches (n, d) with tokens, documents and shards (n,), and a target (d,) per task."""

    sketches: NDArray[np.float32]
    n_tokens: NDArray[np.int64]
    documents: NDArray[np.str_]
    shards: NDArray[np.str_]
    targets: dict[str, NDArray[np.float32]]

    def agreements(self, new: NDArray[np.bool_]) -> list[FilterAgreement]:
        """Return the agreement of every task where some chunks (n,) are the new ones."""
        old = ~new
        return [
            filter_agreement(
                ArrayBlocks(self.sketches[old]),
                ArrayBlocks(self.sketches[new]),
                self.n_tokens[old],
                self.n_tokens[new],
                target,
                SHARE,
                lam=LAM,
                gap=GAP,
            )
            for target in self.targets.values()
        ]

    def drawn(self, seed: int) -> NDArray[np.bool_]:
        """Return which chunks (n,) belong to a sixth of the documents."""
        names, document = np.unique(self.documents, return_inverse=True)
        return (generator("benchmark selection stored", seed).permutation(len(names)) % PARTS == 0)[document]


def load(store: Path) -> Corpus | None:
    """Return the current sketches of a store; None, said in the terminal, where it has none."""
    from grasp_pipeline.sketch.storage import decode, decode_vector
    from resources.delta.tables import DeltaTables

    delta = DeltaTables(str(store))
    if delta.latest(GRADIENT_SKETCHES) is None or delta.latest(TASK_SKETCHES) is None:
        print(
            f"The store {store} holds no sketches, so the filter was not tried on them; `make demo` leaves some."
        )
        return None

    sketches, tasks = (
        delta.read(table, delta.pin(table).version).filter(pl.col("sketch_kind") == KIND)
        for table in (GRADIENT_SKETCHES, TASK_SKETCHES)
    )
    rows = sketches.sort("shard", "chunk_id").collect()
    means = tasks.filter(pl.col("split") == "query").sort("task").collect()
    return Corpus(
        decode(rows["sketch"], rows["d"][0], rows["scale"][0]),
        rows["n_tokens"].to_numpy(),
        rows["chunk_id"].str.split("-").list.first().to_numpy().astype(np.str_),
        rows["shard"].to_numpy().astype(np.str_),
        dict(zip(means["task"], map(decode_vector, means["sketch"]), strict=True)),
    )


def stored_figures(corpus: Corpus) -> list[Figure]:
    """Return the agreement over tasks where a sixth of the documents, and where a shard, is new."""
    what = f"{len(corpus.sketches):,} chunks of the store, lambda {LAM:g}, {SHARE:.0%} of the tokens kept, "
    what += f"{len(corpus.targets)} tasks"
    drawn = [each for seed in range(STORED_SEEDS) for each in corpus.agreements(corpus.drawn(seed))]
    shards = np.unique(corpus.shards)
    whole = [each for shard in shards for each in corpus.agreements(corpus.shards == shard)]
    return [
        _figure(
            "selection.filter_agreement_corpus",
            drawn,
            f"a sixth of the documents is new, seeds 0 to {STORED_SEEDS - 1}; {what}",
        ),
        _figure(
            "selection.filter_agreement_new_sources",
            whole,
            f"each of {len(shards)} shards is new; {what}",
            goal="",
        ),
    ]


def _figure(name: str, found: Sequence[FilterAgreement], note: str, goal: str = GOAL) -> Figure:
    values = [each.arrivals for each in found]
    grown, decisions = (
        statistics.median(getattr(each, field) for each in found) for field in ("grown", "decisions")
    )
    note += f"; kept tokens of old and new together {grown:.3f}, decisions on the new {decisions:.3f}"
    return Figure(name, statistics.median(values), "of kept tokens", goal, min(values), max(values), note)
