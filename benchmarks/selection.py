"""Selection at corpus scale: gap, time, memory and growth on ten million stored sketches, and of log-coverage on the
counts of as many chunks; exactness on small problems; the residual filter on new shards.

    python -m benchmarks.selection [--only NAME ...] [--rows 1000000]

The sketches are written once, to a table `gradient_sketches` below `$GRASP_STORE/benchmark-selection`; a smaller run
reads its first shards. Every measurement at scale is a process of its own. Fewer rows than the default are printed, not
stored.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks import selection_coverage, selection_filter
from benchmarks.published import ROOT, Figure, results_folder, save, update
from benchmarks.read_ahead import ReadAhead
from benchmarks.sketch_bergson import peak_mib
from grasp_pipeline.arrays import Float32s
from grasp_pipeline.attribution.blocks import project_single
from grasp_pipeline.seeds import digest, generator
from grasp_pipeline.tables import GRADIENT_SKETCHES

COMMAND = "make benchmark-selection"
ROWS, SHARD_ROWS, PIECE_ROWS = 10_000_000, 200_000, 50_000
D, KIND = 256, "output"
LAM, SHARE, GAP = 0.7, 0.2, 5e-5
"""lambda; share of the tokens to keep; relative gap to stop at, half the goal: rounding takes a part."""

CLUSTERS, TARGET_CLUSTERS, QUERIES = 2000, 12, 256
POOL, COPIES = 5000, 0.2
"""Texts that the corpus repeats, and the share of chunks that are exact copies of one of them."""

REACHABLE = 0.25
"""Factor on the target that brings it into the reach of the corpus: marginal values vanish at the optimum."""


def store() -> Path:
    """Return the folder of the benchmark's table."""
    return curated() / "benchmark-selection"


def curated() -> Path:
    """Return the store that the pipeline writes to."""
    return Path(os.environ.get("GRASP_STORE", "store")).resolve()


class World:
    """Clusters of unequal size on an uneven spectrum."""

    def __init__(self) -> None:
        draw = generator("benchmark selection")
        spectrum = 1 / np.sqrt(1 + np.arange(D))
        self.spectrum = (spectrum / np.sqrt(np.mean(spectrum**2))).astype(np.float32)
        self.centres = 0.5 * draw.standard_normal((CLUSTERS, D), dtype=np.float32)
        self.sizes = draw.dirichlet(np.full(CLUSTERS, 0.5))
        self.pool = self.draw(draw, draw.choice(CLUSTERS, POOL, p=self.sizes))

    def draw(self, draw: np.random.Generator, labels: NDArray[np.int64]) -> Float32s:
        """Return a sketch (len(labels), D) of a chunk in each cluster."""
        noise = draw.standard_normal((len(labels), D), dtype=np.float32)
        return (self.centres[labels] + noise) * self.spectrum

    def chunks(self, draw: np.random.Generator, count: int) -> tuple[Float32s, NDArray[np.int64]]:
        """Return sketches (count, D), a share of them copies from the pool, and tokens (count,)."""
        sketches = self.draw(draw, draw.choice(CLUSTERS, count, p=self.sizes))
        copies = np.flatnonzero(draw.random(count) < COPIES)
        sketches[copies] = self.pool[draw.integers(0, POOL, len(copies))]
        full = draw.random(count) < 0.7
        return sketches, np.where(full, 128, draw.integers(8, 128, count))

    def target(self, *seed: int) -> Float32s:
        """Return the mean sketch (D,) of query chunks from a few clusters."""
        draw = generator("benchmark selection target", *seed)
        wanted = draw.choice(CLUSTERS, TARGET_CLUSTERS, replace=False)
        return self.draw(draw, draw.choice(wanted, QUERIES)).mean(axis=0)

    def frames(self, shard: str) -> Iterator[pl.DataFrame]:
        """Yield a shard's rows of `gradient_sketches`."""
        from grasp_pipeline.sketch.storage import encode

        draw = generator("benchmark selection", shard)
        for start in range(0, SHARD_ROWS, PIECE_ROWS):
            sketches, tokens = self.chunks(draw, PIECE_ROWS)
            ids = [digest(shard, row) for row in range(start, start + PIECE_ROWS)]
            yield pl.DataFrame(
                {
                    "sketch_kind": pl.Series([KIND]).new_from_index(0, PIECE_ROWS),
                    "chunk_id": ids,
                    "sketch": encode(sketches, 1.0, ids),
                    "d": np.full(PIECE_ROWS, D),
                    "scale": np.ones(PIECE_ROWS),
                    "loss": np.zeros(PIECE_ROWS),
                    "norm": np.linalg.norm(sketches, axis=1).astype(np.float64),
                    "n_tokens": tokens,
                    "shard": pl.Series([shard]).new_from_index(0, PIECE_ROWS),
                }
            )


def shards(rows: int) -> list[str]:
    """Return the names of the shards that hold a number of rows."""
    return [f"shard-{number:04d}" for number in range(rows // SHARD_ROWS)]


def generate(rows: int) -> None:
    """Write the shards that are not there yet."""
    from grasp_pipeline.sketch.storage import group_rows
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables

    tables = DeltaTables(str(store()))
    provenance = Provenance("benchmark", "benchmark_selection", "1", digest(D, CLUSTERS, POOL, COPIES))
    there = {commit.partition["shard"] for commit in tables.commits(GRADIENT_SKETCHES) if commit.partition}
    missing = [shard for shard in shards(rows) if shard not in there]
    world = World() if missing else None
    for shard in missing:
        assert world is not None
        partition = {"sketch_kind": KIND, "shard": shard}
        tables.write_stream(
            GRADIENT_SKETCHES,
            world.frames(shard),
            provenance,
            partition,
            lambda: {"rows": SHARD_ROWS},
            group_rows(D),
        )
        print(f"wrote {shard}", flush=True)


class Stored:
    """The first rows of the benchmark's table as blocks of float16."""

    def __init__(self, rows: int) -> None:
        from deltalake import DeltaTable

        from resources.delta.files import data_files

        self.delta = DeltaTable(f"{store()}/{GRADIENT_SKETCHES.name}")
        wanted = set(shards(rows))
        files = [file for file in data_files(self.delta) if file.partition["shard"] in wanted]
        self.files = sorted(files, key=lambda file: file.partition["shard"])
        self.n, self.d = sum(file.n_rows for file in self.files), D

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float16]]]:
        from grasp_pipeline.sketch.storage import view_half

        start = 0
        for column in self._batches("sketch"):
            yield start, view_half(column, D)
            start += len(column)

    def n_tokens(self) -> Float32s:
        """Return tokens (n,) of the chunks."""
        return np.concatenate([column.to_numpy().astype(np.float32) for column in self._batches("n_tokens")])

    def _batches(self, column: str) -> Iterator[Any]:
        from grasp_pipeline.sketch.storage import group_rows
        from resources.delta.files import file_batches

        for file in self.files:
            for batch in file_batches(self.delta, file, [column], group_rows(D)):
                yield batch.column(0)


def select(rows: int, factor: float) -> dict[str, float]:
    """Optimise over stored rows for the target times a factor; returns what was reached, with the peak memory."""
    from grasp_pipeline.selection.solver.stream import optimise_stream

    begun = time.monotonic()
    stored = Stored(rows)
    tokens = stored.n_tokens()
    budget = int(SHARE * tokens.sum(dtype=np.float64))

    def say(message: str) -> None:
        if not message.startswith("in memory"):
            print(f"{time.monotonic() - begun:6.1f} s {message}", flush=True)

    target = factor * World().target()
    found = optimise_stream(ReadAhead(stored), tokens, target, budget, lam=LAM, gap=GAP, listener=say)
    return {
        "rows": stored.n,
        "gap": found.relative_gap,
        "fractional_gap": found.fractional_gap,
        "seconds": time.monotonic() - begun,
        "gib": peak_mib() / 1024,
        "passes": found.passes,
        "fractional": int(np.count_nonzero((found.weights > 0) & (found.weights < 1))),
        "unspent": budget - found.n_tokens,
        "objective": found.objective,
    }


def pass_speed(rows: int) -> dict[str, float]:
    """Time one pass over stored rows and plain mat-vecs on the same float16 values in memory, in turns."""
    import torch

    stored = Stored(rows)
    q = World().target()
    values = np.concatenate([block for _, block in stored])
    tensor, direction = torch.from_numpy(values), torch.from_numpy(q)

    def by_torch() -> None:
        torch.mv(tensor.float(), direction)

    def by_torch_in_pieces() -> None:
        for start in range(0, rows, 1 << 16):
            torch.mv(tensor[start : start + (1 << 16)].float(), direction)

    def by_numpy() -> NDArray[np.float32]:
        return values.astype(np.float32) @ q

    ways: dict[str, Callable[[], object]] = {
        "pass": lambda: project_single(ReadAhead(stored), q),
        "torch": by_torch,
        "torch in pieces": by_torch_in_pieces,
        "numpy": by_numpy,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - begun)
    seconds = {name: float(np.median(times)) for name, times in taken.items()}
    plain = np.min([times for name, times in taken.items() if name != "pass"], axis=0)
    ratios = np.sort(plain / np.array(taken["pass"]))
    return {"ratio": float(np.median(ratios)), "low": ratios[0], "high": ratios[-1], **seconds}


def small_errors(_: int) -> list[Figure]:
    """Measure the worst relative error of F at the fractional optimum against an exact solver."""
    from benchmarks.small_selection import CONSTRAINTS, worst_errors

    errors = worst_errors(trials=25)
    parts = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    tried = f"16 chunks, 25 problems each of {len(CONSTRAINTS)} kinds: {parts}"
    return [Figure("selection.small_error", max(errors.values()), "relative", "at most 0.0001", note=tried)]


def measured(what: str, rows: int, factor: float = 1.0) -> dict[str, float]:
    """Return a measurement made in a process of its own, with the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.selection", "--rows", str(rows), "--measure", what]
        command += ["--factor", str(factor), "--out", str(path)]
        begun = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.monotonic() - begun
        return json.loads(path.read_text()) | {"process_seconds": seconds}


def growth(rows: int) -> list[Figure]:
    """Select from all rows and from a tenth of them."""
    few = tenth(rows)
    smaller, larger = measured("select", few), measured("select", rows)
    size = f"{rows // 1_000_000}m"
    note = (
        f"{larger['passes']:.0f} times scored, {larger['fractional']:,.0f} chunks fractional before rounding, "
        f"{larger['unspent']:,.0f} tokens of the budget unspent"
    )
    return [
        Figure(f"selection.gap_{size}", larger["gap"], "relative", "at most 0.0001", note=note),
        Figure(
            f"selection.seconds_{size}", larger["process_seconds"], "s", "at most 600", note="whole process"
        ),
        Figure(f"selection.rss_gib_{size}", larger["gib"], "GiB", "at most 2", note="peak of the process"),
        Figure(
            "selection.time_growth",
            larger["process_seconds"] / smaller["process_seconds"],
            "ratio",
            "at most 11",
            note=f"{few:,} rows: {smaller['process_seconds']:.1f} s",
        ),
        Figure(
            "selection.rss_growth",
            larger["gib"] / smaller["gib"],
            "ratio",
            "at most 1.2",
            note=f"{few:,} rows: {smaller['gib']:.2f} GiB; {rows:,} rows: "
            f"{(larger['gib'] - smaller['gib']) * 2**30 / (rows - few):.0f} bytes more per further row",
        ),
    ]


def passes(rows: int) -> list[Figure]:
    """Time a pass over a tenth of the rows."""
    few = tenth(rows)
    speed = measured("pass", few)
    times = ", ".join(f"{name} {speed[name]:.2f} s" for name in ("pass", "torch", "torch in pieces", "numpy"))
    return [
        Figure(
            "selection.pass_speed_ratio",
            speed["ratio"],
            "ratio",
            "at least 0.5",
            speed["low"],
            speed["high"],
            f"of stored rows over the fastest plain mat-vec in memory; {few:,} rows, medians: {times}",
        )
    ]


def reachable(rows: int) -> list[Figure]:
    """Select from a tenth of the rows for a target that the corpus can meet."""
    few = tenth(rows)
    reached = measured("select", few, REACHABLE)
    return [
        Figure(
            "selection.gap_reachable_target",
            reached["gap"],
            "relative",
            note=f"{few:,} rows; all marginal values vanish; {reached['passes']:.0f} times scored, "
            f"{reached['process_seconds']:.1f} s",
        )
    ]


def filtered(_: int) -> list[Figure]:
    """Compare the residual filter on new shards with optimising again."""
    return selection_filter.figures(World(), curated())


def covered(rows: int) -> list[Figure]:
    """Maximise log-coverage over all rows and over a tenth of them."""
    return selection_coverage.figures(rows, measured("coverage", tenth(rows)), measured("coverage", rows))


def tenth(rows: int) -> int:
    """Return about a tenth of the rows, in whole shards."""
    return max(SHARD_ROWS, rows // 10 // SHARD_ROWS * SHARD_ROWS)


MEASURES: dict[str, Callable[[int, float], dict[str, float]]] = {
    "select": select,
    "pass": lambda rows, _: pass_speed(rows),
    "coverage": lambda rows, _: selection_coverage.cover_rows(rows),
}
"""What is measured in a process of its own, given the rows and a factor on the target."""

PARTS: dict[str, tuple[Callable[[int], list[Figure]], bool]] = {
    "growth": (growth, True),
    "pass": (passes, True),
    "small": (small_errors, False),
    "reachable": (reachable, True),
    "filter": (filtered, False),
    "coverage": (covered, False),
}
"""Name of a part -> what measures it, given the rows, and whether it reads the benchmark's table."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and, at full size, store; a part replaces its own figures alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"a multiple of {SHARD_ROWS:,}")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="parts to measure; all by default")
    parser.add_argument("--measure", choices=["generate", *MEASURES], help=argparse.SUPPRESS)
    parser.add_argument("--factor", type=float, default=1.0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.rows <= 0 or given.rows % SHARD_ROWS:
        parser.error(f"--rows is {given.rows}; give a multiple of {SHARD_ROWS:,}")
    if given.measure == "generate":
        generate(given.rows)
    elif given.measure:
        given.out.write_text(json.dumps(MEASURES[given.measure](given.rows, given.factor)))
    else:
        if given.rows == ROWS:
            results_folder()
        parts = [PARTS[name] for name in given.only or PARTS]
        if any(reads for _, reads in parts):
            generate(given.rows)
        figures = [figure for part, _ in parts for figure in part(given.rows)]
        for figure in figures:
            print(f"{figure.figure} {figure.value:.4g} {figure.unit} ({figure.goal}) {figure.note}")
        if given.rows == ROWS:
            store_figures = update if given.only else save
            print(f"wrote {store_figures('selection', COMMAND, figures)}")


if __name__ == "__main__":
    main()
