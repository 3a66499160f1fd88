"""What a store survives: faults, hostile input, writers side by side, many recurations, a rerun of nothing.

python -m benchmarks.reliability [--only faults ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import demo
from benchmarks.published import ROOT, Figure, results_folder, update
from grasp_pipeline.errors import GraspError

COMMAND = "make benchmark-reliability"
TESTS = ROOT / "tests"
FIRST, LAST = 10, 10
"""Recurations at the beginning and at the end that are compared."""


def pytest(*arguments: str, **environment: str) -> None:
    """Run tests in a process of their own; failures are told there and counted by what the tests record."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    subprocess.run(
        command, cwd=ROOT, env=os.environ | {"HYPOTHESIS_PROFILE": "ci"} | environment, check=False
    )


def script(name: str, *arguments: str) -> str:
    """Run a script of tests/reliability; returns what it printed.

    Raises:
        GraspError: it failed.
    """
    path = os.pathsep.join(map(str, (ROOT, TESTS, TESTS / "assets")))
    done = subprocess.run(
        [sys.executable, str(TESTS / "reliability" / name), *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GraspError(f"{name} failed; its error is above")
    return done.stdout


def faults(scratch: Path) -> list[Figure]:
    """Inject every fault of tests/faults."""
    path = scratch / "faults.jsonl"
    path.touch()
    pytest("tests/faults", "-m", "faults", GRASP_FAULT_RECORD=str(path))
    told = [json.loads(line) for line in path.read_text().splitlines()]
    injected = {each["name"] for each in told if each["event"] == "injected"}
    survived = {each["name"]: each for each in told if each["event"] == "survived"}
    stages = len({each["step"] for each in told})
    return [
        Figure(
            "reliability.faults_injected", len(injected), "faults", "at least 25", note=f"at {stages} steps"
        ),
        Figure("reliability.faults_survived", len(survived), "faults", "all"),
        Figure(
            "reliability.faults_rows_lost",
            sum(each["rows_lost"] for each in told if each["event"] == "counted"),
            "rows",
            "0",
            note="lost, or there without belonging there, right after the fault",
        ),
    ]


def fuzz(scratch: Path) -> list[Figure]:
    """Generate the cases of tests/fuzz."""
    path = scratch / "fuzz.json"
    pytest("tests/fuzz", "-m", "slow", GRASP_FUZZ_RECORD=str(path))
    told = json.loads(path.read_text())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in told["cases"].items())
    return [
        Figure("reliability.fuzz_cases", sum(told["cases"].values()), "cases", "at least 10,000", note=kinds),
        Figure("reliability.fuzz_escapes", told["escapes"], "cases", "0"),
    ]


def writers(scratch: Path) -> list[Figure]:
    """Let eight processes write partitions of their own for two minutes."""
    told = json.loads(script("writers.py", str(scratch / "writers"), "8", "120"))
    return [
        Figure(
            "reliability.writers_lost_commits",
            told["lost"],
            "commits",
            "0",
            note=f"of {told['commits']:,} by 8 processes in 120 s",
        ),
        Figure("reliability.writers_commits_per_second", told["per_second"], "commits/s"),
    ]


def recurations(scratch: Path) -> list[Figure]:
    """Recurate a toy corpus 200 times in one process; what was done stays below data/recurations."""
    count, folder = int(os.environ.get("GRASP_RECURATIONS", "200")), ROOT / "data" / "recurations"
    script("recurations.py", str(folder), str(count))
    rows = [json.loads(line) for line in (folder / "recurations.jsonl").read_text().splitlines()]
    seconds = np.array([row["seconds"] for row in rows])
    mine = [row for row in rows if row["pid"] == rows[-1]["pid"]]
    memory = np.array([row["rss_mb"] for row in mine])
    grown = {
        name: float(
            np.median([row[name] for row in mine[-LAST:]]) - np.median([row[name] for row in mine[:FIRST]])
        )
        for name in ("objects", "heap_used_mb", "heap_free_mb")
    }
    spent = np.diff([row["cpu_seconds"] for row in mine])
    return [
        Figure("reliability.recurations", len(rows), "recurations", "200"),
        Figure(
            "reliability.recurations_slower",
            float(np.median(seconds[-LAST:]) / np.median(seconds[:FIRST])),
            "ratio of medians",
            "at most 1.2",
            note=f"last {LAST} to first {FIRST}; {np.median(seconds[:FIRST]):.3g} s each at first",
        ),
        Figure(
            "reliability.recurations_slower_processor",
            float(np.median(spent[-LAST:]) / np.median(spent[:FIRST])),
            "ratio of medians",
            "at most 1.2",
            note=f"the same in seconds of the processor, which other work on the machine changes less; "
            f"{np.median(spent[:FIRST]):.3g} s each at first",
        ),
        Figure(
            "reliability.recurations_memory",
            float(np.median(memory[-LAST:]) - np.median(memory[:FIRST])),
            "MiB",
            "flat",
            note=f"held at the end and at the start of one process, {len(mine)} recurations; "
            f"{np.median(memory[:FIRST]):.0f} MiB at first; glibc's heap: {grown['heap_used_mb']:+.0f} MiB in use, "
            f"{grown['heap_free_mb']:+.0f} MiB free in it; {grown['objects']:+,.0f} Python objects",
        ),
        Figure(
            "reliability.recurations_log_entries",
            rows[-1]["log_entries"],
            "files",
            note=f"of the longest log; {rows[-1]['checkpoints']} checkpoints",
        ),
        Figure("reliability.recurations_logs", rows[-1]["logs_mb"], "MiB", note="all logs of the store"),
    ]


def unchanged(scratch: Path) -> list[Figure]:
    """Curate the bundled corpus, and again with nothing changed."""
    home, store = scratch / "home", scratch / "store"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / ".dagster_home" / "dagster.yaml").read_text())
    demo.run(store, home)
    before = sum(demo.versions(store).values())
    _, seconds = demo.run(store, home)
    after = sum(demo.versions(store).values())
    return [
        Figure(
            "reliability.unchanged_seconds", seconds, "s", "under 20", note="whole process, bundled corpus"
        ),
        Figure("reliability.unchanged_commits", after - before, "commits", "0"),
    ]


GROUPS = {each.__name__: each for each in (faults, fuzz, writers, recurations, unchanged)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write results/reliability.json and its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(GROUPS), help="may be repeated")
    options = parser.parse_args(arguments)
    results_folder()
    for name in options.only or GROUPS:
        with tempfile.TemporaryDirectory() as scratch:
            figures = GROUPS[name](Path(scratch))
        for figure in figures:
            print(f"{figure.figure}: {figure.value:.4g} {figure.unit} {figure.note}", flush=True)
        update("reliability", COMMAND, figures)


if __name__ == "__main__":
    main()
