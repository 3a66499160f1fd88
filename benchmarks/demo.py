"""The demo measured: seconds per stage, memory, a second run, the code location, and what the evidence says.

python -m benchmarks.demo
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from benchmarks.published import ROOT, Figure, published_here, replace_between, results_folder, save
from grasp_pipeline.progress import duration

CONFIG = "config/demo.yaml"


def run(store: Path, home: Path) -> tuple[dict, float]:
    """Run the job `curate` in a process of its own; returns its figures and the seconds of the whole process."""
    figures = home / "figures.json"
    env = os.environ | {"GRASP_STORE": str(store), "DAGSTER_HOME": str(home), "COLUMNS": "100"}
    begun = time.monotonic()
    command = [sys.executable, "-m", "assets.run", "curate", "--config", CONFIG, "--figures", str(figures)]
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    return json.loads(figures.read_text()), time.monotonic() - begun


def versions(store: Path) -> dict[str, int]:
    """Return the number of commits of every table."""
    return {path.parent.name: len(list(path.glob("*.json"))) for path in sorted(store.glob("*/_delta_log"))}


def load_seconds() -> float:
    """Return the seconds to load the code location, the best of five."""
    code = "import time; t = time.perf_counter(); import grasp_pipeline.definitions; print(time.perf_counter() - t)"
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for _ in range(5)
    ]
    return min(float(done.stdout) for done in runs)


def evidence(store: Path) -> list[Figure]:
    """Return what the sealed evaluation and the certificate say."""
    figures = []
    fidelity = pl.read_delta(f"{store}/fidelity").filter(
        pl.col("task") == "mean_over_tasks", pl.col("stratum") == "all"
    )
    for row in fidelity.sort("rank_correlation", descending=True).iter_rows(named=True):
        figures.append(
            Figure(
                f"demo.spearman[{row['method']}, {row['form']}]",
                row["rank_correlation"],
                "rank correlation",
                low=row["ci_low"],
                high=row["ci_high"],
                note=f"{row['n_subsets']} sealed subsets, noise ceiling {row['noise_ceiling']:.3f}",
            )
        )
    losses = pl.read_delta(f"{store}/evaluation_losses").filter(pl.col("task") == "mean").sort("loss")
    for row in losses.iter_rows(named=True):
        gained = row["arm"] != "random"
        figures.append(
            Figure(
                f"demo.evaluation_loss[{row['arm']}]",
                row["loss"],
                "nats per token",
                note=f"{row['seeds']} seeds, {row['tokens']:,} tokens each"
                + (
                    f"; gain over random {row['gain']:.3f} [{row['gain_low']:.3f}, {row['gain_high']:.3f}]"
                    if gained
                    else ""
                ),
            )
        )
    for row in pl.read_delta(f"{store}/certificates").filter(pl.col("task") == "mean").iter_rows(named=True):
        figures.append(
            Figure(
                f"demo.certificate[{row['baseline']}]",
                row["improvement"],
                "nats per token",
                goal="lower bound above 0" if row["baseline"] == "random" else "",
                low=row["lower_bound"],
                note=f"{row['arm']}, one-sided {row['confidence']:.0%}",
            )
        )
    return figures


def duration_sentence(rows: Sequence[dict]) -> str:
    """Return what the README says of the demo's time, from the rows of its result file."""
    row = next(row for row in rows if row["figure"] == "demo.seconds")
    return (
        f"When it was measured last, the run took {duration(row['value'])} after the installation ({row['machine']}).\n"
        "Where other work shares the cores it takes longer, easily twice as long."
    )


def main() -> None:
    """Measure, print and store."""
    results_folder()
    with tempfile.TemporaryDirectory() as scratch:
        store, home = Path(scratch) / "store", Path(scratch) / "home"
        home.mkdir()
        (home / "dagster.yaml").write_text((ROOT / ".dagster_home" / "dagster.yaml").read_text())
        first, whole = run(store, home)
        commits = versions(store)
        _, again = run(store, home)
        added = sum(versions(store).values()) - sum(commits.values())
        figures = [
            Figure("demo.seconds", whole, "s", "at most 480", note="whole process, after set-up"),
            Figure("demo.peak_gib", first["peak_gib"], "GiB", "at most 3"),
            Figure("demo.second_run_seconds", again, "s", "under 30", note="nothing changed"),
            Figure("demo.second_run_commits", added, "commits", "0"),
            Figure("demo.load_seconds", load_seconds(), "s", "under 2.5", note="code location, best of 5"),
        ]
        figures += [Figure(f"demo.stage[{name}]", seconds, "s") for name, seconds in first["stages"].items()]
        figures += evidence(store)
        path = save("demo", "make benchmark-demo", figures)
    print(f"wrote {path}")
    if published_here(path):
        page = ROOT / "README.md"
        said = duration_sentence(json.loads(path.read_text()))
        page.write_text(replace_between(page.read_text(), "demo", said))


if __name__ == "__main__":
    main()
